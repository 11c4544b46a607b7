//! The receiver that others connect to, or send datagrams to.

use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::Path;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use shared::stream::Datagrams;

use super::connections::{TICK, Table, is_timeout, serve};
use super::{Intake, TcpConfig};
use crate::receiver::ReceiveError;

/// Takes connections until the stop.
pub(super) fn accept(
    intake: &Intake<'_>,
    bind: SocketAddr,
    config: &TcpConfig,
) -> Result<(), ReceiveError> {
    let place = bind.to_string();
    let failed = || ReceiveError::io(Path::new(&place));
    let listener = TcpListener::bind(bind).map_err(failed())?;
    listener.set_nonblocking(true).map_err(failed())?;
    intake.reception.fine();
    let table = Table::new(config.connections_max);
    let failure = Mutex::new(None);
    let started = Instant::now();
    let next = || -> Result<Option<TcpStream>, ReceiveError> {
        loop {
            if intake.reception.is_stopping() {
                return Ok(None);
            }
            // What fails in a connection fails in all: the disk, the inbox.
            if let Some(err) = failure.lock().unwrap_or_else(PoisonError::into_inner).take() {
                return Err(err);
            }
            intake.now_and_then()?;
            if !table.is_crowded() {
                // An error: it ended before it was taken, or there is no descriptor left.
                if let Ok((stream, _)) = listener.accept() {
                    return Ok(Some(stream));
                }
            }
            intake.reception.rest(ACCEPT_PAUSE);
        }
    };
    std::thread::scope(|scope| {
        let mut id = 0;
        let ended = loop {
            let mut stream = match next() {
                Ok(Some(stream)) => stream,
                Ok(None) => break Ok(()),
                Err(err) => break Err(err),
            };
            id += 1;
            let active = Arc::new(AtomicU64::new(started.elapsed().as_millis() as u64));
            if stream.set_nonblocking(false).is_err() || table.add(id, &stream, &active).is_err() {
                continue;
            }
            let (table, failure) = (&table, &failure);
            let body = move || {
                let served = serve(intake, &mut stream, config.idle_timeout, &active, started);
                table.remove(id);
                if let Err(err) = served {
                    failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(err);
                }
            };
            let thread = thread::Builder::new().name("receive-stream".to_owned());
            if let Err(err) = thread.spawn_scoped(scope, body) {
                table.remove(id);
                tracing::warn!(%err, "no thread can be started for a connection");
            }
        };
        // The threads end with their connections.
        table.close_all();
        ended
    })
}

/// Takes datagrams until the stop.
pub(super) fn datagrams(intake: &Intake<'_>, bind: SocketAddr) -> Result<(), ReceiveError> {
    let place = bind.to_string();
    let failed = || ReceiveError::io(Path::new(&place));
    let socket = UdpSocket::bind(bind).map_err(failed())?;
    socket.set_read_timeout(Some(TICK)).map_err(failed())?;
    // Where the kernel allows less, it gives what it allows.
    let _ = nix::sys::socket::setsockopt(
        &socket,
        nix::sys::socket::sockopt::RcvBuf,
        &RECEIVE_BUFFER_BYTES,
    );
    intake.reception.fine();
    let mut datagrams = Datagrams::new(intake.key.clone());
    let mut buffer = vec![0; DATAGRAM_BYTES_MAX];
    while !intake.reception.is_stopping() {
        intake.now_and_then()?;
        match socket.recv(&mut buffer) {
            Ok(count) => {
                intake.take(datagrams.read(&buffer[..count]))?;
            }
            Err(err) if is_timeout(&err) => {}
            Err(err) => return Err(failed()(err)),
        }
    }
    Ok(())
}

/// How long after a connection the next one is looked for: long enough not to keep a core busy.
const ACCEPT_PAUSE: Duration = Duration::from_millis(20);
const DATAGRAM_BYTES_MAX: usize = 65_536;
const RECEIVE_BUFFER_BYTES: usize = 4 * 1024 * 1024;
