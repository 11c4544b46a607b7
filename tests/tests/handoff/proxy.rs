//! A TCP proxy that fails as diodes' proxies do: it leaves bytes out, alters some, and closes
//! connections, and says nothing of it to anybody.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

/// What it does to the bytes, by their place in all that it was given.
#[derive(Clone, Debug, Default)]
pub(crate) struct Faults {
    /// Bytes that are left out.
    pub holes: Vec<Range<u64>>,
    /// Bytes that are inverted.
    pub altered: Vec<u64>,
    /// Where a connection is closed: nothing of it goes on behind.
    pub breaks: Vec<u64>,
}

/// The running proxy.
#[derive(Clone, Debug)]
pub(crate) struct Proxy {
    stop: Arc<AtomicBool>,
    given: Arc<AtomicU64>,
    /// The first bytes that it was given.
    pub kept: Arc<Mutex<Vec<u8>>>,
}

impl Proxy {
    pub(crate) fn start(at: SocketAddr, to: SocketAddr, faults: Faults) -> Self {
        Self::over(TcpListener::bind(at).expect("the proxy's port is free"), to, faults)
    }

    /// Takes over a listener that has the port already.
    pub(crate) fn over(listener: TcpListener, to: SocketAddr, faults: Faults) -> Self {
        listener.set_nonblocking(true).expect("a listener can be polled");
        let proxy = Self { stop: Arc::default(), given: Arc::default(), kept: Arc::default() };
        let running = proxy.clone();
        thread::spawn(move || {
            while !running.stop.load(Ordering::Relaxed) {
                match listener.accept() {
                    Ok((stream, _)) => running.serve(stream, to, &faults),
                    Err(_) => thread::sleep(PAUSE), // ok: between two looks for a connection
                }
            }
        });
        proxy
    }

    pub(crate) fn given(&self) -> u64 {
        self.given.load(Ordering::Relaxed)
    }

    /// One connection after the other, which is enough for one sender.
    fn serve(&self, mut from: TcpStream, to: SocketAddr, faults: &Faults) {
        from.set_nonblocking(false).expect("a connection can block");
        from.set_read_timeout(Some(PAUSE)).expect("a connection can time out");
        // The receiver may be away: then what comes is lost, as behind a diode.
        let mut out = TcpStream::connect(to).ok();
        let mut buffer = vec![0; 8192];
        while !self.stop.load(Ordering::Relaxed) {
            let count = match from.read(&mut buffer) {
                Ok(0) => return,
                Ok(count) => count,
                Err(err) if err.kind() == std::io::ErrorKind::WouldBlock => continue,
                Err(_) => return,
            };
            let start = self.given.fetch_add(count as u64, Ordering::Relaxed);
            let mut kept = self.kept.lock().expect("no panic holds it");
            if kept.len() < KEPT_BYTES {
                kept.extend_from_slice(&buffer[..count]);
            }
            drop(kept);
            let mut passed = Vec::with_capacity(count);
            for (at, byte) in (start..).zip(&buffer[..count]) {
                if faults.breaks.contains(&at) {
                    return;
                }
                if !faults.holes.iter().any(|hole| hole.contains(&at)) {
                    passed.push(if faults.altered.contains(&at) { !byte } else { *byte });
                }
            }
            if out.as_mut().is_some_and(|out| out.write_all(&passed).is_err()) {
                out = None;
            }
        }
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        // The thread holds one of the two.
        if Arc::strong_count(&self.stop) <= 2 {
            self.stop.store(true, Ordering::Relaxed);
        }
    }
}

const PAUSE: Duration = Duration::from_millis(20);
const KEPT_BYTES: usize = 1 << 20;
