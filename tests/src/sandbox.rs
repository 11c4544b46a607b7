//! A place of its own for each test: a temporary folder and free ports.

use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU16, Ordering};

use tempfile::TempDir;

/// A temporary folder, deleted on drop unless the test failed or `PENSTOCK_KEEP` is set.
#[derive(Debug)]
pub struct Sandbox(Option<TempDir>);

impl Sandbox {
    /// A fresh folder whose name begins with `name`.
    pub fn new(name: &str) -> Self {
        let dir = tempfile::Builder::new().prefix(&format!("penstock-{name}-")).tempdir();
        Self(Some(dir.expect("a temporary folder can be made")))
    }

    /// A fresh folder in another place than usual.
    pub fn within(dir: &Path, name: &str) -> Self {
        let dir = tempfile::Builder::new().prefix(&format!("penstock-{name}-")).tempdir_in(dir);
        Self(Some(dir.expect("a folder can be made in the place")))
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        self.0.as_ref().map(TempDir::path).expect("held until drop")
    }

    /// The path of an entry of the folder, which need not exist.
    pub fn join(&self, entry: impl AsRef<Path>) -> PathBuf {
        self.path().join(entry)
    }

    /// A folder inside, made if it is absent.
    pub fn dir(&self, name: &str) -> PathBuf {
        let dir = self.join(name);
        std::fs::create_dir_all(&dir).expect("a folder can be made in the sandbox");
        dir
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        let keep = std::thread::panicking() || std::env::var_os("PENSTOCK_KEEP").is_some();
        if let (true, Some(dir)) = (keep, self.0.take()) {
            eprintln!("kept for a look: {}", dir.keep().display());
        }
    }
}

/// An address of this machine that was free for TCP and UDP a moment ago.
///
/// The ports lie below the range from which the kernel gives ports to outgoing connections, and
/// each process begins elsewhere, so that tests that run side by side do not meet.
pub fn free_address() -> SocketAddr {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let offset = (std::process::id().wrapping_mul(97) % u32::from(PORT_COUNT)) as u16;
    for _ in 0..PORT_COUNT {
        let step = NEXT.fetch_add(1, Ordering::Relaxed);
        let port = PORT_FIRST + offset.wrapping_add(step) % PORT_COUNT;
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        if TcpListener::bind(address).is_ok() && UdpSocket::bind(address).is_ok() {
            return address;
        }
    }
    panic!("no free port from {PORT_FIRST} to {}", PORT_FIRST + PORT_COUNT);
}

const PORT_FIRST: u16 = 20_000;
const PORT_COUNT: u16 = 12_000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn free_addresses_differ() {
        assert_ne!(free_address(), free_address());
    }

    #[test]
    fn a_sandbox_goes_away() {
        let sandbox = Sandbox::new("gone");
        let path = sandbox.dir("inner");
        drop(sandbox);
        assert!(!path.exists() || std::env::var_os("PENSTOCK_KEEP").is_some());
    }
}
