//! The programs that Penstock must get on with, as Debian ships them, or npm or `PyPI`.
//!
//! A program that is not there is a failure that names its package, never a test passed over.

mod authority;
pub mod blobs;
pub mod bulk;
pub mod bulk_proxy;
pub mod client;
pub mod dce;
mod fluent;
pub mod hec;
mod http_server;
#[cfg(feature = "kafka")]
pub mod kafka;
pub mod loki;
pub mod pipelines;
mod portainer;
mod rsyslog;
pub mod stores;
mod syslog_ng;
pub mod web;

use std::fs;
use std::io::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::process::{Done, run};

pub use authority::{Authority, Certificate};
pub use fluent::{acknowledged, fluent_logger};
pub use http_server::{Asked, HttpServer, Reply};
pub use portainer::{ADMIN_KEY, Kept, List, Manners, Portainer, USER_KEY};
pub use rsyslog::Rsyslog;
pub use syslog_ng::syslog_ng;

/// Programs and the Debian packages they come in.
pub const PEERS: &[(&str, &str)] = &[
    ("age", "age"),
    ("age-keygen", "age"),
    ("chromium", "chromium"),
    ("gzip", "gzip"),
    ("curl", "curl"),
    ("ip", "iproute2"),
    ("jq", "jq"),
    ("logger", "bsdutils"),
    ("losetup", "mount"),
    ("logrotate", "logrotate"),
    ("nft", "nftables"),
    ("mkfs.exfat", "exfatprogs"),
    ("mkfs.ext4", "e2fsprogs"),
    ("mkfs.vfat", "dosfstools"),
    ("mount", "mount"),
    ("node", "nodejs"),
    ("nsenter", "util-linux"),
    ("openssl", "openssl"),
    ("python3", "python3"),
    ("rsyslogd", "rsyslog"),
    ("systemd-creds", "systemd"),
    ("taskset", "util-linux"),
    ("sh", "dash"),
    ("setfacl", "acl"),
    ("sha256sum", "coreutils"),
    ("ssh-keygen", "openssh-client"),
    ("strace", "strace"),
    ("systemd-analyze", "systemd"),
    ("tar", "tar"),
    ("timeout", "coreutils"),
    ("unshare", "util-linux"),
    ("zstd", "zstd"),
];

/// A command of a peer.
///
/// # Panics
/// When it is not installed.
pub fn peer(name: &str) -> Command {
    Command::new(find(name).unwrap_or_else(|| {
        let package = PEERS.iter().find(|(program, _)| *program == name).map_or(name, |(_, p)| p);
        panic!("{name} is missing; as root: apt-get install --no-install-recommends {package}")
    }))
}

/// Where a program is, if it is installed.
pub fn find(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    // Daemons lie where the path of a plain user does not go.
    let system = ["/usr/sbin", "/sbin"].map(PathBuf::from);
    std::env::split_paths(&path).chain(system).map(|dir| dir.join(name)).find(|path| path.is_file())
}

/// A program of a Debian package that `install-peers.sh` only unpacks, beside those that are installed.
///
/// # Panics
/// When it is not there.
pub fn unpacked(name: &str, program: &str) -> PathBuf {
    let path = unpacked_root(name).join(program);
    assert!(path.is_file(), "{} is missing; run `make peers`, once with a network", path.display());
    path
}

/// Where `install-peers.sh` puts packages of npm, this one among them.
///
/// # Panics
/// When it is not there.
pub fn npm_modules(package: &str) -> PathBuf {
    let modules = unpacked_root("node_modules");
    let installed = modules.join(package).join("package.json");
    assert!(
        installed.is_file(),
        "{} is missing; run `make peers`, once with a network",
        installed.display()
    );
    modules
}

/// Where `install-peers.sh` unpacks it.
fn unpacked_root(name: &str) -> PathBuf {
    let target = std::env::var_os("CARGO_TARGET_DIR").map(PathBuf::from);
    let target = target.unwrap_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../target"));
    target.join("peers").join(name)
}

/// Sends one message with `logger`; `options` choose transport and format.
pub fn logger(address: SocketAddr, options: &[&str], message: &str) -> Done {
    let mut command = peer("logger");
    command.arg("--server").arg(address.ip().to_string());
    command.arg("--port").arg(address.port().to_string());
    run(command.args(options).arg("--").arg(message))
}

/// Writes bytes through `openssl s_client`, which verifies the server; ends when both sides closed.
pub fn openssl_send(
    address: SocketAddr,
    ca: &Path,
    client: Option<&Certificate>,
    bytes: &[u8],
) -> Done {
    let mut command = peer("openssl");
    command.args([
        "s_client",
        "-quiet",
        "-no_ign_eof",
        "-verify_return_error",
        "-servername",
        "localhost",
    ]);
    command.arg("-connect").arg(address.to_string()).arg("-CAfile").arg(ca);
    if let Some(client) = client {
        command.arg("-cert").arg(&client.cert).arg("-key").arg(&client.key);
    }
    run_with_input(&mut command, bytes)
}

/// Runs a command to its end with bytes on its standard input.
pub fn run_with_input(command: &mut Command, bytes: &[u8]) -> Done {
    let child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let mut child = child.unwrap_or_else(|err| panic!("can't start {command:?}: {err}"));
    let input = child.stdin.take();
    let output = std::thread::scope(|scope| {
        // A command that does not want its input closes it; its exit code tells.
        scope.spawn(move || input.map(|mut input| input.write_all(bytes)));
        child.wait_with_output()
    });
    let output = output.unwrap_or_else(|err| panic!("can't wait for {command:?}: {err}"));
    Done {
        code: output.status.code(),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        command: format!("{command:?}"),
    }
}

/// Puts strace in front of a command: `inject` as in `fsync:signal=KILL:when=3`.
///
/// Only the named calls are traced, in all threads; the trace goes to `trace`.
pub fn under_strace(command: &Command, inject: &str, trace: &Path) -> Command {
    let calls = inject.split(':').next().unwrap_or_default();
    let mut wrapped = peer("strace");
    wrapped.args(["-f", "-qq", "-e", &format!("trace={calls}"), "-e", &format!("inject={inject}")]);
    wrapped.arg("-o").arg(trace).arg("--").arg(command.get_program()).args(command.get_args());
    wrapped
}

/// The SHA-256 of a file, by `sha256sum`.
pub fn sha256sum(file: &Path) -> String {
    let line = run(peer("sha256sum").arg(file)).success();
    line.split_whitespace().next().unwrap_or_default().trim_start_matches('\\').to_owned()
}

/// Opens a bundle with nothing of ours: `tar`, `ssh-keygen`, `sha256sum`, `age` and `zstd`. Gives
/// manifest and records.
///
/// # Panics
/// When any of the tools refuses.
pub fn open_by_hand(
    bundle: &Path,
    allowed_signers: &Path,
    identity: &Path,
    work: &Path,
) -> Vec<u8> {
    fs::create_dir_all(work).expect("the working folder can be made");
    run(peer("tar").arg("-xf").arg(bundle).arg("-C").arg(work)).success();
    let header = fs::read(work.join("header")).expect("a header");
    let text = String::from_utf8(header.clone()).expect("a header is text");
    let field = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.unwrap_or_else(|| panic!("the header has no {name}")).to_owned()
    };
    let mut verify = peer("ssh-keygen");
    verify.args(["-Y", "verify", "-n", shared::keys::BUNDLE_NAMESPACE, "-I", &field("origin")]);
    verify.arg("-f").arg(allowed_signers).arg("-s").arg(work.join("header.sig"));
    run_with_input(&mut verify, &header).success();
    let payload = work.join("payload.age");
    assert_eq!(sha256sum(&payload), field("payload-sha256"));
    let compressed = work.join("payload.zst");
    run(peer("age").arg("-d").arg("-i").arg(identity).arg("-o").arg(&compressed).arg(&payload))
        .success();
    let plain = work.join("payload");
    run(peer("zstd").args(["-d", "-q", "-f"]).arg(&compressed).arg("-o").arg(&plain)).success();
    fs::read(&plain).expect("the plaintext can be read")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_peer_is_there() {
        for (name, _) in PEERS {
            let _ = peer(name);
        }
    }

    #[test]
    fn strace_goes_in_front() {
        let mut command = Command::new("true");
        command.arg("x");
        let wrapped = under_strace(&command, "fsync:error=EIO:when=2", Path::new("t"));
        let arguments: Vec<_> =
            wrapped.get_args().map(|a| a.to_string_lossy().into_owned()).collect();
        assert_eq!(
            arguments.join(" "),
            "-f -qq -e trace=fsync -e inject=fsync:error=EIO:when=2 -o t -- true x"
        );
    }
}
