//! One connection: read, decode, take. And the receiver that connects to a proxy by itself.

use std::io::{self, Read};
use std::net::{Shutdown, TcpStream, ToSocketAddrs};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::{Intake, TcpConfig, Verdict};
use crate::receiver::ReceiveError;

/// Reads a connection to its end. What was cut off at its end is looked through.
pub(super) fn serve(
    intake: &Intake<'_>,
    stream: &mut TcpStream,
    idle_timeout: Duration,
    active: &AtomicU64,
    started: Instant,
) -> Result<(), ReceiveError> {
    intake.state().counts.connections += 1;
    let mut decoder = intake.decoder();
    let mut buffer = vec![0; READ_BYTES];
    let mut last = Instant::now();
    // A peer that can't be read from is told by the reading.
    let _ = stream.set_read_timeout(Some(TICK));
    while !intake.reception.is_stopping() {
        match stream.read(&mut buffer) {
            Ok(0) => break,
            Ok(count) => {
                last = Instant::now();
                active.store(started.elapsed().as_millis() as u64, Ordering::Relaxed);
                decoder.push(&buffer[..count]);
                if intake.drain(&mut decoder)? == Verdict::GiveUp {
                    return Ok(());
                }
            }
            Err(err) if is_timeout(&err) => {
                if last.elapsed() > idle_timeout {
                    break;
                }
            }
            Err(err) if err.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => break,
        }
    }
    decoder.finish();
    intake.drain(&mut decoder).map(|_| ())
}

/// The connections at hand. When there are too many, the one that was silent for longest goes: a
/// proxy that lost its other half keeps a dead connection open for ever.
#[derive(Debug)]
pub(super) struct Table {
    open: Mutex<Vec<Open>>,
    max: usize,
    threads: AtomicUsize,
}

#[derive(Debug)]
struct Open {
    id: u64,
    stream: TcpStream,
    /// When something was read last, in milliseconds since the receiver began.
    active: Arc<AtomicU64>,
}

impl Table {
    pub(super) fn new(max: usize) -> Self {
        Self { open: Mutex::new(Vec::new()), max, threads: AtomicUsize::new(0) }
    }

    pub(super) fn add(
        &self,
        id: u64,
        stream: &TcpStream,
        active: &Arc<AtomicU64>,
    ) -> io::Result<()> {
        let open = Open { id, stream: stream.try_clone()?, active: Arc::clone(active) };
        let mut all = self.lock();
        if all.len() >= self.max {
            let active = |(_, open): &(usize, &Open)| open.active.load(Ordering::Relaxed);
            let silent = all.iter().enumerate().min_by_key(active).map(|(at, _)| at);
            if let Some(at) = silent {
                // Its thread sees the end and goes.
                let _ = all.swap_remove(at).stream.shutdown(Shutdown::Both);
            }
        }
        all.push(open);
        self.threads.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    /// A connection's thread ends.
    pub(super) fn remove(&self, id: u64) {
        self.lock().retain(|open| open.id != id);
        self.threads.fetch_sub(1, Ordering::Relaxed);
    }

    /// Whether the threads of connections that were told to go have yet to do so.
    pub(super) fn is_crowded(&self) -> bool {
        self.threads.load(Ordering::Relaxed) >= 2 * self.max
    }

    pub(super) fn close_all(&self) {
        for open in self.lock().drain(..) {
            let _ = open.stream.shutdown(Shutdown::Both);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Open>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Connects to a proxy that serves what crossed, again and again.
pub(super) fn connect(
    intake: &Intake<'_>,
    address: &str,
    config: &TcpConfig,
) -> Result<(), ReceiveError> {
    let mut wait = RETRY_MIN;
    while !intake.reception.is_stopping() {
        intake.now_and_then()?;
        let started = Instant::now();
        match connect_any(address) {
            Ok(mut stream) => {
                intake.reception.fine();
                let active = AtomicU64::new(0);
                serve_telling(intake, &mut stream, config.idle_timeout, &active, started)?;
                if started.elapsed() > RETRY_MAX {
                    wait = RETRY_MIN;
                }
            }
            Err(err) => {
                intake.reception.trouble(&format!(
                    "can't connect to {address}: {err}\n  try: whether the diode's proxy listens there"
                ));
            }
        }
        intake.reception.rest(wait);
        wait = (wait * 2).min(RETRY_MAX);
    }
    Ok(())
}

/// Serves a connection while the status goes on being told.
fn serve_telling(
    intake: &Intake<'_>,
    stream: &mut TcpStream,
    idle_timeout: Duration,
    active: &AtomicU64,
    started: Instant,
) -> Result<(), ReceiveError> {
    std::thread::scope(|scope| {
        let reading = scope.spawn(|| serve(intake, stream, idle_timeout, active, started));
        let mut told = Ok(());
        while !reading.is_finished() {
            told = told.and(intake.now_and_then());
            intake.reception.rest(TICK);
            if intake.reception.is_stopping() {
                break;
            }
        }
        // A panic of the reader is one of this thread.
        reading.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)).and(told)
    })
}

fn connect_any(address: &str) -> io::Result<TcpStream> {
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for address in address.to_socket_addrs()? {
        match TcpStream::connect_timeout(&address, CONNECT_TIMEOUT) {
            Ok(stream) => return Ok(stream),
            Err(err) => last = err,
        }
    }
    Err(last)
}

pub(super) fn is_timeout(err: &io::Error) -> bool {
    matches!(err.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut)
}

/// How soon a stop is seen.
pub(super) const TICK: Duration = Duration::from_millis(200);
const READ_BYTES: usize = 64 * 1024;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
const RETRY_MIN: Duration = Duration::from_millis(200);
const RETRY_MAX: Duration = Duration::from_secs(10);
