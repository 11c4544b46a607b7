//! syslog-ng, in the foreground, with a configuration that we ship.

use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::Command;

use super::rsyslog::next_hop;
use crate::process::Process;
use crate::wait::{PATIENCE, wait_until};

/// Starts syslog-ng with a file of `packaging/siem/next-hops` and each of these texts replaced; returns when
/// it listens.
///
/// # Panics
/// When it is not unpacked, or ends.
pub fn syslog_ng(
    dir: &Path,
    name: &str,
    replaced: &[(&str, &str)],
    address: SocketAddr,
) -> Process {
    let root = super::unpacked_root("syslog-ng");
    let program = super::unpacked("syslog-ng", "usr/sbin/syslog-ng");
    fs::create_dir_all(dir).expect("the folder can be made");
    let config = dir.join("syslog-ng.conf");
    fs::write(&config, next_hop(name, replaced)).expect("the configuration can be written");
    let libraries = ["usr/lib/syslog-ng", "usr/lib/x86_64-linux-gnu", "lib/x86_64-linux-gnu"]
        .map(|part| root.join(part));
    let mut command = Command::new(program);
    command.env("LD_LIBRARY_PATH", std::env::join_paths(libraries).expect("plain paths"));
    command.args(["-F", "--no-caps", "--stderr", "--module-path"]);
    command.arg(root.join("usr/lib/syslog-ng/3.38")).arg("-f").arg(&config);
    command.arg("--persist-file").arg(dir.join("persist"));
    command.arg("--control").arg(dir.join("control")).arg("--pidfile").arg(dir.join("pid"));
    let mut process = Process::spawn(&mut command, "syslog-ng", dir);
    wait_until(PATIENCE, "syslog-ng", || {
        let ended = process.ended();
        assert!(ended.is_none(), "syslog-ng ended: {}", process.log());
        TcpStream::connect(address).is_ok()
    });
    process
}
