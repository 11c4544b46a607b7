//! Reading a log that lies there into the buffer, until its last record is durable.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;
use std::time::Instant;

use super::ingest::{MIB, SEAL_LATER};
use super::table::{Row, Sample, Table};
use super::{Options, note};
use crate::agents::Pair;
use crate::load::{Framing, Pool};
use crate::process::disk_bytes;
use crate::sandbox::Sandbox;
use crate::wait::{PATIENCE, wait_until};

pub(super) fn run(options: &Options, table: &mut Table) {
    let subject =
        format!("penstock-high, a log of {} MiB, {LINE_BYTES} B a line", options.file_mib);
    let mut bytes = Row::new("files", subject.clone(), "MB/s");
    let mut records = Row::new("files", subject, "records/s");
    "time ends when the last record is synced".clone_into(&mut bytes.note);
    for round in 1..=options.rounds {
        let (sample, per_second) = measure(options.file_mib);
        note(round, &mut bytes, sample);
        note(round, &mut records, Sample { figure: per_second, ..Sample::default() });
    }
    table.rows.extend([bytes, records]);
}

fn measure(mib: u64) -> (Sample, f64) {
    let sandbox = Sandbox::new("bench-files");
    let pair = Pair::new(&sandbox, "bench");
    let log = sandbox.join("audit.log");
    let (count, length) = write_log(&log, mib << 20).expect("a log can be written");
    let path = log.display();
    pair.high.configure(&format!("[[file]]\nname = \"bench\"\npaths = [\"{path}\"]\n{SEAL_LATER}"));
    let begun = Instant::now();
    let agent = pair.high.start();
    let received = || {
        pair.high.status()["lanes"].as_array().map_or(0, |lanes| {
            lanes.iter().filter_map(|lane| lane["received"].as_u64()).sum::<u64>()
        })
    };
    wait_until(PATIENCE, "every record in the buffer", || received() == count);
    let seconds = begun.elapsed().as_secs_f64();
    let cost = agent.cost();
    let sample = Sample {
        figure: length as f64 / 1e6 / seconds,
        cpu_per_million: Some(cost.cpu_secs * 1e6 / count as f64),
        memory_mib: Some(cost.memory_bytes_max as f64 / MIB),
        disk_per_record: Some(disk_bytes(&pair.high.state_dir()) as f64 / count as f64),
    };
    (sample, count as f64 / seconds)
}

fn write_log(path: &Path, least: u64) -> std::io::Result<(u64, u64)> {
    let pool = Pool::new(Framing::None, Some(LINE_BYTES));
    let mut file = BufWriter::new(File::create(path)?);
    let (mut line, mut count, mut length) = (Vec::new(), 0, 0);
    while length < least {
        count += 1;
        line.clear();
        pool.append(count, &mut line);
        line.push(b'\n');
        file.write_all(&line)?;
        length += line.len() as u64;
    }
    file.flush()?;
    Ok((count, length))
}

/// As long as the median event of a Kubernetes audit log.
const LINE_BYTES: usize = 1150;
