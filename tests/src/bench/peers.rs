//! The peers' disk queues, with a destination that is down, as far as they are on this machine.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use super::ingest::MIB;
use super::progress;
use super::table::Sample;
use crate::load::{Plan, Target, send};
use crate::peers::{Rsyslog, find};
use crate::process::{Process, disk_bytes};
use crate::sandbox::{Sandbox, free_address};
use crate::wait::{PATIENCE, wait_for};

/// One peer in one configuration.
#[derive(Clone, Debug)]
pub(super) enum Peer {
    /// A Disk queue; with `sync`, every message is synced.
    Rsyslog { sync: bool },
    /// disk-buffer with reliable(yes), from an unpacked package.
    SyslogNg { program: PathBuf },
}

impl Peer {
    /// Those that are here; one that is missing is named on standard error.
    pub(super) fn available(unpacked: &Path) -> Vec<Self> {
        let mut peers = Vec::new();
        if find("rsyslogd").is_some() {
            peers.extend([Self::Rsyslog { sync: false }, Self::Rsyslog { sync: true }]);
        } else {
            progress("rsyslog is not here; it comes with: apt-get install rsyslog");
        }
        let program = unpacked.join("syslog-ng/run");
        if program.is_file() {
            peers.push(Self::SyslogNg { program });
        } else {
            progress("syslog-ng is not here; it comes with: packaging/scripts/bench-peers.sh");
        }
        peers
    }

    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::Rsyslog { sync: false } => "rsyslog Disk queue, not synced",
            Self::Rsyslog { sync: true } => "rsyslog Disk queue, synced",
            Self::SyslogNg { .. } => "syslog-ng reliable(yes), not synced",
        }
    }

    pub(super) fn syncs(&self) -> bool {
        matches!(self, Self::Rsyslog { sync: true })
    }

    /// One round. The time ends when the peer has read everything: nothing more can be asked of a
    /// queue that does not sync.
    pub(super) fn measure(&self, plan: &Plan) -> Sample {
        let Target::Tcp(address) = plan.target else { panic!("peers are measured over TCP") };
        let sandbox = Sandbox::new("bench-peer");
        let spool = sandbox.dir("spool");
        let process = match self {
            Self::Rsyslog { sync } => start_rsyslog(&sandbox, &spool, address, *sync),
            Self::SyslogNg { program } => start_syslog_ng(program, &sandbox, &spool, address),
        };
        let before = process.cost();
        let report = send(plan).expect("the peer can be reached");
        assert_eq!(report.sent, plan.count, "{} broke a connection", self.name());
        let disk = settled_bytes(&spool);
        let cost = process.cost();
        let count = plan.count as f64;
        Sample {
            figure: count / report.seconds,
            cpu_per_million: Some((cost.cpu_secs - before.cpu_secs) * 1e6 / count),
            memory_mib: Some(cost.memory_bytes_max as f64 / MIB),
            disk_per_record: Some(disk as f64 / count),
        }
    }
}

fn start_rsyslog(sandbox: &Sandbox, spool: &Path, address: SocketAddr, sync: bool) -> Process {
    let nowhere = free_address();
    let sync = if sync { "queue.syncQueueFiles=\"on\" queue.checkpointInterval=\"1\"" } else { "" };
    Rsyslog::new(&sandbox.dir("rsyslog"))
        .with(&format!(
            "module(load=\"imtcp\")\n\
             input(type=\"imtcp\" address=\"{}\" port=\"{}\" ruleset=\"out\")\n\
             ruleset(name=\"out\" queue.type=\"Disk\" queue.filename=\"out\" queue.size=\"100000000\" \
             queue.spoolDirectory=\"{}\" queue.maxDiskSpace=\"50g\" {sync}) {{\n\
             action(type=\"omfwd\" target=\"{}\" port=\"{}\" protocol=\"tcp\" \
             action.resumeRetryCount=\"-1\")\n}}",
            address.ip(),
            address.port(),
            spool.display(),
            nowhere.ip(),
            nowhere.port(),
        ))
        .start()
}

fn start_syslog_ng(
    program: &Path,
    sandbox: &Sandbox,
    spool: &Path,
    address: SocketAddr,
) -> Process {
    let nowhere = free_address();
    let config = sandbox.join("syslog-ng.conf");
    let text = format!(
        "@version: 3.38\n\
         options {{ stats-freq(0); }};\n\
         source s {{ syslog(ip(\"{}\") port({}) transport(\"tcp\") max-connections(64)); }};\n\
         destination d {{ syslog(\"{}\" port({}) transport(\"tcp\") disk-buffer(reliable(yes) \
         disk-buf-size(21474836480) dir(\"{}\"))); }};\n\
         log {{ source(s); destination(d); flags(flow-control); }};\n",
        address.ip(),
        address.port(),
        nowhere.ip(),
        nowhere.port(),
        spool.display(),
    );
    fs::write(&config, text).expect("the configuration can be written");
    let mut command = Command::new(program);
    command.args(["--foreground", "--no-caps", "--stderr", "--cfgfile"]).arg(&config);
    command.arg("--persist-file").arg(sandbox.join("persist"));
    command.arg("--pidfile").arg(sandbox.join("pid"));
    command.arg("--control").arg(sandbox.join("control"));
    let mut process = Process::spawn(&mut command, "syslog-ng", sandbox.path());
    wait_for(PATIENCE, "syslog-ng", || {
        assert!(process.ended().is_none(), "syslog-ng ended: {}", process.log());
        std::net::TcpStream::connect(address).ok()
    });
    process
}

/// What lies in a spool once it has stopped growing.
fn settled_bytes(spool: &Path) -> u64 {
    let mut seen = (disk_bytes(spool), Instant::now());
    wait_for(PATIENCE, "spool at rest", || {
        let bytes = disk_bytes(spool);
        if bytes != seen.0 {
            seen = (bytes, Instant::now());
        }
        (seen.1.elapsed() > AT_REST).then_some(bytes)
    })
}

/// Longer than any peer pauses between two writes of its queue.
const AT_REST: Duration = Duration::from_millis(700);
