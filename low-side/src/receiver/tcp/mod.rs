//! Bundles as a stream of frames from a diode's TCP proxy, or as syslog messages.
//!
//! The sender gets no answer. Pieces are put together on disk, from any number of connections; what
//! comes twice costs nothing, what is damaged is counted and passed over, and a bundle is delivered
//! when the SHA-256 of the whole is right (`shared::stream`).

mod assembly;
mod connections;
mod listen;

use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::Ordering;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde_json::json;
use shared::clock::{Clock, SystemClock};
use shared::stream::{Decoder, Found, Refused, StreamKey};

use super::config::{Framing, TcpConfig, TcpPeer};
use super::{ReceiveError, Receiver, Reception};
use assembly::{Assembly, Limits, Taken, Whole};

/// Receives frames.
pub(super) struct TcpReceiver {
    config: TcpConfig,
    bundle_bytes_max: u64,
}

impl TcpReceiver {
    pub(super) fn new(config: &TcpConfig, bundle_bytes_max: u64) -> Self {
        Self { config: config.clone(), bundle_bytes_max }
    }
}

impl Receiver for TcpReceiver {
    fn run(&mut self, reception: &Reception) -> Result<(), ReceiveError> {
        let key = StreamKey::load(&self.config.key_file)?;
        let dir = reception.state_folder()?;
        let limits = Limits {
            bundle_bytes_max: self.bundle_bytes_max,
            bytes_max: self.config.partial_bytes_max,
            age_max: self.config.partial_age_max,
        };
        let now = SystemClock.now();
        let assembly = Assembly::open(&dir, limits, now).map_err(ReceiveError::io(&dir))?;
        let intake = Intake {
            reception,
            key,
            framing: self.config.framing,
            state: Mutex::new(State {
                assembly,
                counts: Counts::default(),
                refused: BTreeMap::new(),
                told: None,
                refused_seen: 0,
            }),
        };
        intake.complete()?;
        match &self.config.peer {
            TcpPeer::Listen(bind) => listen::accept(&intake, *bind, &self.config),
            TcpPeer::Connect(address) => connections::connect(&intake, address, &self.config),
            TcpPeer::Datagrams(bind) => listen::datagrams(&intake, *bind),
        }
    }
}

/// What is wrong with what it needs.
pub(super) fn check(config: &TcpConfig) -> Vec<String> {
    StreamKey::load(&config.key_file).err().map(|err| err.to_string()).into_iter().collect()
}

/// Where all connections put what they get.
struct Intake<'a> {
    reception: &'a Reception,
    key: StreamKey,
    framing: Framing,
    state: Mutex<State>,
}

struct State {
    assembly: Assembly,
    counts: Counts,
    /// What was not taken, by stable code.
    refused: BTreeMap<&'static str, u64>,
    /// When the status was told of last, and old pieces looked for.
    told: Option<Instant>,
    /// How many refused bundles were looked at.
    refused_seen: u64,
}

#[derive(Debug, Default)]
struct Counts {
    connections: u64,
    pieces: u64,
    repeated: u64,
    expired: u64,
}

/// Whether a connection may go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    GiveUp,
    GoOn,
}

impl Intake<'_> {
    fn decoder(&self) -> Decoder {
        match self.framing {
            Framing::Frames => Decoder::frames(self.key.clone()),
            Framing::Syslog => Decoder::syslog(self.key.clone()),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Delivers what an earlier life had whole.
    fn complete(&self) -> Result<(), ReceiveError> {
        let mut state = self.state();
        let whole = state.assembly.whole();
        for taken in whole.map_err(|err| self.failed(err))? {
            self.settle(&mut state, taken)?;
        }
        Ok(())
    }

    /// Takes what stands in a decoder.
    fn drain(&self, decoder: &mut Decoder) -> Result<Verdict, ReceiveError> {
        loop {
            match decoder.next() {
                Found::More => return Ok(Verdict::GoOn),
                found => {
                    if self.take(found)? == Verdict::GiveUp {
                        return Ok(Verdict::GiveUp);
                    }
                }
            }
        }
    }

    fn take(&self, found: Found<'_>) -> Result<Verdict, ReceiveError> {
        let mut state = self.state();
        match found {
            Found::Hello | Found::More => {}
            Found::Piece(piece) => {
                let taken = state.assembly.take(&piece, SystemClock.now());
                let taken = taken.map_err(|err| self.failed(err))?;
                state.counts.pieces += 1;
                self.settle(&mut state, taken)?;
            }
            Found::Refused(refused) => {
                let count = match refused {
                    Refused::Noise(bytes) => bytes as u64,
                    _ => 1,
                };
                let counted = state.refused.entry(refused.code()).or_default();
                if *counted == 0 {
                    tracing::warn!(
                        code = refused.code(),
                        "something came over the link that is not taken; from now on it is counted"
                    );
                }
                *counted += count;
                if refused == Refused::OtherLink {
                    self.reception.trouble("frames of another link come in: the keys differ\n  try: the same key-file on both sides");
                }
                if refused == Refused::Hopeless {
                    return Ok(Verdict::GiveUp);
                }
            }
        }
        Ok(Verdict::GoOn)
    }

    fn settle(&self, state: &mut State, taken: Taken) -> Result<(), ReceiveError> {
        match taken {
            Taken::Kept => {}
            Taken::Known => state.counts.repeated += 1,
            Taken::Refused(code) => *state.refused.entry(code).or_default() += 1,
            Taken::Whole(whole) => self.deliver(state, &whole)?,
            Taken::Wrong(name) => {
                self.reception.counters().wrong.fetch_add(1, Ordering::Relaxed);
                tracing::warn!(bundle = %name, "a bundle was whole and is not what was sent; it is thrown away and has to come again");
            }
        }
        Ok(())
    }

    /// Moves a whole bundle into the inbox.
    fn deliver(&self, state: &mut State, whole: &Whole) -> Result<(), ReceiveError> {
        let name = whole.name.to_string();
        self.reception.deliver_from(&whole.path, &name, &whole.bundle)?;
        state.assembly.delivered(&whole.bundle).map_err(|err| self.failed(err))
    }

    /// What is done now and then: old pieces are thrown away, and the status is told.
    fn now_and_then(&self) -> Result<(), ReceiveError> {
        let mut state = self.state();
        if state.told.is_some_and(|told| told.elapsed() < TELL_INTERVAL) {
            return Ok(());
        }
        state.told = Some(Instant::now());
        let mut seen = state.refused_seen;
        for bundle in self.reception.refused_since(&mut seen) {
            state.assembly.refused(&bundle).map_err(|err| self.failed(err))?;
        }
        state.refused_seen = seen;
        let expired = state.assembly.expire(SystemClock.now()).map_err(|err| self.failed(err))?;
        state.counts.expired += expired.len() as u64;
        for bundle in expired {
            tracing::error!(
                bundle = %bundle.name, have = bundle.have, total = bundle.total,
                "the rest of a bundle did not come in time; what came is thrown away, it has to be sent again"
            );
        }
        let (partial, bytes) = state.assembly.sums();
        let unfinished: Vec<_> = state
            .assembly
            .unfinished(UNFINISHED_SHOWN_MAX)
            .iter()
            .map(|bundle| {
                json!({"bundle": bundle.name.to_string(), "have": bundle.have, "total": bundle.total})
            })
            .collect();
        let counts = &state.counts;
        self.reception.counters().set_details(json!({
            "link": self.key.name(),
            "connections": counts.connections,
            "pieces": counts.pieces,
            "repeated-pieces": counts.repeated,
            "refused": state.refused,
            "expired-bundles": counts.expired,
            "unfinished-bundles": partial,
            "unfinished-bytes": bytes,
            "unfinished": unfinished,
        }));
        Ok(())
    }

    fn failed(&self, source: io::Error) -> ReceiveError {
        let path = self.reception.state_folder();
        match path {
            Ok(path) => ReceiveError::Io { path, source },
            Err(err) => err,
        }
    }
}

/// How often the status is told.
const TELL_INTERVAL: Duration = Duration::from_millis(500);
/// How many bundles that are not whole the status names.
const UNFINISHED_SHOWN_MAX: usize = 32;
