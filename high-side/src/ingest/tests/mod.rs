//! Listeners as their clients meet them: real sockets, and the far end of the intake.

mod forward;
mod http;
mod limits;
mod relp;
mod samples;
mod tls;

use std::io::Write;
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::sync::Arc;
use std::time::{Duration, Instant};

use shared::clock::{FakeClock, Nanos};
use shared::record::Lane;
use tokio::runtime::Runtime;
use tokio::sync::{oneshot, watch};

use crate::buffer::{Intake, IntakeReceiver, RequestKind};

use super::*;

/// A listener, and what the buffer's writer would get from it.
struct Rig {
    runtime: Runtime,
    receiver: IntakeReceiver,
    listener: RunningListener,
    stop: watch::Sender<bool>,
    lost: u64,
    /// Whether what was taken counts as durable. If not, the test says when.
    commits_at_once: bool,
    /// Who waits for what was taken to be durable.
    waiting: Vec<oneshot::Sender<()>>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Got {
    raw: Vec<u8>,
    cut_from: Option<u64>,
    source: String,
    stream: Stream,
}

struct Options {
    limits: Limits,
    in_flight_bytes: u64,
    read_memory_bytes: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self { limits: Limits::default(), in_flight_bytes: 8 << 20, read_memory_bytes: 16 << 20 }
    }
}

impl Rig {
    fn start(protocol: Protocol, options: &Options) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        let (intake, receiver) = Intake::new(options.in_flight_bytes);
        let (stop, shutdown) = watch::channel(false);
        let commits_at_once = matches!(protocol, Protocol::Http(_));
        let surroundings = Surroundings {
            intake,
            guard: Arc::default(),
            clock: Arc::new(FakeClock::at(Nanos(7))),
            memory: ReadMemory::new(options.read_memory_bytes),
            shutdown,
        };
        let settings = ListenerSettings {
            name: "test".to_owned(),
            protocol,
            bind: "127.0.0.1:0".parse().unwrap(),
            lane: Lane::Routine,
            stream: None,
            limits: options.limits,
        };
        let guard = runtime.enter();
        let listener = spawn(settings, &surroundings).unwrap();
        drop(guard);
        Self { runtime, receiver, listener, stop, lost: 0, commits_at_once, waiting: Vec::new() }
    }

    fn address(&self) -> SocketAddr {
        self.listener.address
    }

    fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address()).unwrap()
    }

    /// Sends bytes over a connection of their own, in the background.
    fn send(&self, bytes: Vec<u8>) -> std::thread::JoinHandle<()> {
        let mut stream = self.connect();
        std::thread::spawn(move || stream.write_all(&bytes).unwrap())
    }

    fn udp_client(&self) -> UdpSocket {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.connect(self.address()).unwrap();
        socket
    }

    /// Waits for messages.
    fn take(&mut self, count: usize) -> Vec<Got> {
        let mut out = Vec::new();
        self.drain_while(&mut out, |out, _| out.len() < count);
        assert_eq!(out.len(), count);
        out
    }

    fn drain_while(&mut self, out: &mut Vec<Got>, mut go_on: impl FnMut(&[Got], u64) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while go_on(out, self.lost) {
            assert!(Instant::now() < deadline, "got {} messages and no more", out.len());
            let Ok(request) = self.receiver.recv(Some(Duration::from_millis(20))) else {
                continue;
            };
            match request.kind {
                RequestKind::Batch(batch) => {
                    let mut start = 0;
                    for message in batch.messages {
                        assert_eq!(message.received, Nanos(7));
                        out.push(Got {
                            raw: batch.data[start..message.end].to_vec(),
                            cut_from: message.cut_from,
                            source: batch.source.as_str().to_owned(),
                            stream: message.stream,
                        });
                        start = message.end;
                    }
                    assert_eq!(start, batch.data.len());
                    self.waiting.extend(batch.committed);
                    if self.commits_at_once {
                        self.commit();
                    }
                }
                RequestKind::Loss(loss) => self.lost += loss.count,
                #[allow(unreachable_patterns, reason = "other kinds never come from a listener")]
                _ => {}
            }
        }
    }

    /// Makes durable what was taken: to be called before it is acknowledged.
    fn commit(&mut self) {
        for committed in self.waiting.drain(..) {
            // A connection that is gone waits for nothing.
            let _ = committed.send(());
        }
    }

    fn take_raw(&mut self, count: usize) -> Vec<Vec<u8>> {
        self.take(count).into_iter().map(|got| got.raw).collect()
    }

    /// Waits until the counters are as wanted.
    fn wait_for(&self, wanted: impl Fn(&IngestSnapshot) -> bool) -> IngestSnapshot {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let now = self.listener.counters.snapshot();
            if wanted(&now) {
                return now;
            }
            assert!(Instant::now() < deadline, "{now:?}");
            std::thread::yield_now();
        }
    }

    /// Stops the listener; gives what was left.
    fn stop(self) -> Vec<Vec<u8>> {
        // A listener that was told before may have ended, so that nobody hears it.
        self.stop.send_replace(true);
        self.runtime.block_on(self.listener.task).unwrap().unwrap();
        let mut out = Vec::new();
        while let Ok(request) = self.receiver.recv(Some(Duration::ZERO)) {
            if let RequestKind::Batch(batch) = request.kind {
                let mut start = 0;
                for message in batch.messages {
                    out.push(batch.data[start..message.end].to_vec());
                    start = message.end;
                }
            }
        }
        out
    }
}

/// How long a test waits for what must come.
const PATIENCE: Duration = Duration::from_secs(30);

#[test]
fn an_address_in_use_is_named_with_advice() {
    let rig = Rig::start(Protocol::Tcp, &Options::default());
    let (intake, _receiver) = Intake::new(1 << 20);
    let surroundings = Surroundings {
        intake,
        guard: Arc::default(),
        clock: Arc::new(FakeClock::at(Nanos(7))),
        memory: ReadMemory::new(1 << 20),
        shutdown: rig.stop.subscribe(),
    };
    let settings = ListenerSettings {
        name: "second".to_owned(),
        protocol: Protocol::Tcp,
        bind: rig.address(),
        lane: Lane::Routine,
        stream: None,
        limits: Limits::default(),
    };
    let _guard = rig.runtime.enter();
    let text = spawn(settings, &surroundings).unwrap_err().to_string();
    let address = rig.address().to_string();
    assert!(text.contains("\"second\"") && text.contains(&address), "{text}");
    assert!(text.contains("ss -lnp"), "{text}");
}
