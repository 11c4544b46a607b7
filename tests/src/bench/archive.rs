//! Peak memory of an agent that archives one large bundle: into `SeaweedFS`, and into a folder.

use std::time::{Duration, Instant};

use super::ingest::MIB;
use super::table::{Row, Sample, Table};
use super::{Options, progress};
use crate::agents::Pair;
use crate::chain::BundleChain;
use crate::peers::stores::{S3Store, WRITER, write_credentials};
use crate::sandbox::Sandbox;
use crate::wait::wait_until;

/// Archives one bundle that does not compress, by agents that have nothing else to do.
pub(super) fn run(options: &Options, table: &mut Table) {
    let mib = options.archive_mib;
    progress(&format!("archiving one bundle of {mib} MiB"));
    let sandbox = Sandbox::new("bench-archive");
    let pair = Pair::new(&sandbox, "bench");
    let media = sandbox.dir("media");
    pair.low.configure("");
    let mut chain = BundleChain::new(&pair.high, "bench");
    let records = chain.noise(mib << 20);
    let (path, _) = chain.seal(&media, &records);
    drop(records);
    let bytes = path.metadata().expect("a bundle").len();
    pair.low.run(["import", &media.display().to_string()]).success();

    let store = S3Store::seaweedfs(&sandbox.dir("store"));
    store.bucket("audit", true);
    let credentials = sandbox.join("credentials");
    write_credentials(&credentials, WRITER);
    let s3 = format!(
        "[[archive]]\nname = \"s3\"\ntype = \"s3\"\nendpoint = \"{}\"\nbucket = \"audit\"\n\
         credentials-file = \"{}\"\nretain = \"1d\"\n",
        store.endpoint(),
        credentials.display()
    );
    let folder = format!(
        "[[archive]]\nname = \"folder\"\ntype = \"directory\"\npath = \"{}\"\n",
        sandbox.dir("folder").display()
    );
    for (what, section) in [("an S3 store", s3), ("a folder", folder)] {
        pair.low.configure(&section);
        let started = Instant::now();
        let agent = pair.low.start();
        let idle = agent.cost().memory_bytes_max as f64 / MIB;
        wait_until(DEADLINE, "the bundle in the archive", || {
            pair.low.status()["archives"][0]["archived"] == 1
        });
        let seconds = started.elapsed().as_secs_f64();
        let cost = agent.cost();
        let subject = format!("penstock-low, archiving a bundle of {mib} MiB into {what}");
        let mut row = Row::new("archive", subject, "MiB");
        let figure = cost.memory_bytes_max as f64 / MIB;
        row.samples.push(Sample { figure, ..Sample::default() });
        row.note = format!(
            "peak; {idle:.1} MiB when it was ready; {:.0} MB/s, {:.1} CPU s",
            bytes as f64 / 1e6 / seconds,
            cost.cpu_secs
        );
        table.rows.push(row);
        drop(agent);
    }
}

const DEADLINE: Duration = Duration::from_mins(10);
