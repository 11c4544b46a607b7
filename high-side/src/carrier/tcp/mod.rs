//! A diode's TCP proxy, or whatever passes only syslog: bundles as a stream of frames for which no
//! answer comes.
//!
//! A bundle counts as handed over when the last byte of its last pass was handed on by this machine's
//! kernel: the next machine's kernel has acknowledged it (TCP), or it left (UDP). That promises that
//! nothing is lost on this machine and on the way to the next one. It does not promise that the proxy,
//! the diode or the low side took it: nobody can say so without a way back. Against that there are the
//! passes, the retention in the outbox, and the low side's receipts.

mod connection;
mod schedule;

use std::collections::HashMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

use serde_json::json;
use shared::bundle::{BundleDigest, BundleName};
use shared::stream::syslog::{Separation, frame_bytes_max, wrap};
use shared::stream::{PIECE_BYTES_MAX, PieceOf, StreamKey, hello, overhead, piece};

use super::pace::Pace;
use super::{Carriage, Carrier};
use crate::config::{Around, TcpSettings};
use crate::outbox::{Waiting, open_regular, sha256_of};
use crate::sealer::SealerError;
use connection::{TICK, Took, Wire};
use schedule::{Next, Rules, Schedule};

/// Sends bundles as frames.
pub(super) struct TcpCarrier {
    settings: TcpSettings,
}

impl TcpCarrier {
    pub(super) fn new(settings: TcpSettings) -> Self {
        Self { settings }
    }
}

impl Carrier for TcpCarrier {
    fn run(&mut self, carriage: &mut Carriage) -> Result<(), SealerError> {
        let key = match StreamKey::load(&self.settings.key_file) {
            Ok(key) => key,
            Err(err) => {
                carriage.trouble(&err.to_string());
                carriage.rest(KEY_RETRY);
                return Ok(());
            }
        };
        let rules = Rules {
            repeats: self.settings.repeats,
            interval: self.settings.repeat_interval,
            rewind: self.settings.rewind_bytes,
            window: WINDOW,
        };
        let mut sending = Sending {
            settings: &self.settings,
            key,
            schedule: Schedule::new(rules),
            bundles: HashMap::new(),
            pace: Pace::new(self.settings.rate),
            wire: None,
            retry: Retry::default(),
            looked: None,
            asked: None,
            checked: None,
            counts: Counts::default(),
        };
        while !carriage.is_stopping() {
            sending.step(carriage)?;
        }
        if let Some(wire) = sending.wire.take() {
            wire.close();
        }
        Ok(())
    }
}

/// What is wrong with what it needs.
pub(super) fn check(settings: &TcpSettings) -> Vec<String> {
    StreamKey::load(&settings.key_file).err().map(|err| err.to_string()).into_iter().collect()
}

/// One life of the carrier.
struct Sending<'a> {
    settings: &'a TcpSettings,
    key: StreamKey,
    schedule: Schedule,
    bundles: HashMap<BundleDigest, Bundle>,
    pace: Pace,
    wire: Option<Wire>,
    retry: Retry,
    /// When the queue was looked at last.
    looked: Option<Instant>,
    /// When the kernel was asked last what it has handed on.
    asked: Option<Instant>,
    /// When it was seen last that the peer is there.
    checked: Option<Instant>,
    counts: Counts,
}

struct Bundle {
    waiting: Waiting,
    name: BundleName,
    file: File,
}

#[derive(Default)]
struct Counts {
    connections: u64,
    broken: u64,
    frames: u64,
    wire_bytes: u64,
}

/// When a connection is tried again.
#[derive(Default)]
struct Retry {
    at: Option<Instant>,
    wait: Duration,
}

impl Retry {
    fn failed(&mut self, now: Instant) {
        self.wait = (self.wait * 2).clamp(RETRY_MIN, RETRY_MAX);
        self.at = Some(now + self.wait);
    }
}

impl Sending<'_> {
    /// One piece at most, one wait at most.
    fn step(&mut self, carriage: &mut Carriage) -> Result<(), SealerError> {
        let now = Instant::now();
        if self.looked.is_none_or(|looked| now - looked >= LOOK_INTERVAL) {
            self.looked = Some(now);
            self.look(carriage)?;
        }
        self.confirm(carriage, now, false)?;
        match self.schedule.next(now) {
            Next::Send { bundle, offset, first } => {
                if first && !self.is_sound(carriage, &bundle)? {
                    return Ok(());
                }
                let long = |wire: &Wire| {
                    self.settings.connection_bytes_max.is_some_and(|max| wire.written >= max)
                };
                if self.wire.as_ref().is_some_and(long) {
                    return self.close(carriage, now);
                }
                if self.open_wire(carriage, now) {
                    self.send(carriage, &bundle, offset)?;
                }
            }
            Next::Nothing if self.schedule.is_pass_written() => {
                // The last bytes are on their way; soon the kernel says so.
                carriage.rest(CONFIRM_PAUSE);
                self.confirm(carriage, Instant::now(), true)?;
                self.expect_progress(carriage);
            }
            Next::Nothing | Next::At(_) => self.idle(carriage, now)?,
        }
        Ok(())
    }

    /// Takes up what waits.
    fn look(&mut self, carriage: &mut Carriage) -> Result<(), SealerError> {
        for waiting in carriage.next(WINDOW as u32)? {
            let Ok(name) = waiting.name.parse::<BundleName>() else {
                // Nothing that a sealer of ours wrote has another name.
                carriage.damaged(&waiting)?;
                continue;
            };
            if !self.schedule.offer(waiting.sha256, waiting.lane, waiting.bytes) {
                continue;
            }
            let path = carriage.outbox().dir().join(&waiting.name);
            match open_regular(&path) {
                Ok(file) => {
                    self.bundles.insert(waiting.sha256, Bundle { waiting, name, file });
                }
                Err(err) => {
                    self.schedule.remove(&waiting.sha256);
                    return Err(SealerError::io(&path)(err));
                }
            }
        }
        self.tell(carriage);
        Ok(())
    }

    /// Whether the file is what was sealed. A pass of a file that was changed would be in vain.
    fn is_sound(
        &mut self,
        carriage: &mut Carriage,
        digest: &BundleDigest,
    ) -> Result<bool, SealerError> {
        let Some(bundle) = self.bundles.get(digest) else {
            self.schedule.remove(digest);
            return Ok(false);
        };
        let path = carriage.outbox().dir().join(&bundle.waiting.name);
        let file = open_regular(&path).map_err(SealerError::io(&path));
        let sound = match file {
            // It was taken from the outbox by somebody, which counts as handed over.
            Err(_) if !path.exists() => false,
            Err(err) => return Err(err),
            Ok(file) => {
                let sound =
                    sha256_of(file, &mut |_| {}).map_err(SealerError::io(&path))? == *digest;
                if !sound {
                    carriage.damaged(&bundle.waiting)?;
                }
                sound
            }
        };
        if !sound {
            self.schedule.remove(digest);
            self.bundles.remove(digest);
        }
        Ok(sound)
    }

    fn open_wire(&mut self, carriage: &Carriage, now: Instant) -> bool {
        if let Some(wire) = &self.wire {
            if self.checked.is_some_and(|checked| now - checked < ASK_INTERVAL) {
                return true;
            }
            self.checked = Some(now);
            if !wire.is_closed_by_peer() {
                return true;
            }
            let problem = format!("{} closed the connection", self.settings.address);
            self.break_off(carriage, &problem);
            return false;
        }
        if let Some(at) = self.retry.at.filter(|at| *at > now) {
            carriage.rest((at - now).min(TICK));
            return false;
        }
        let address = &self.settings.address;
        let opened =
            if self.is_datagrams() { Wire::datagrams(address) } else { Wire::connect(address) };
        match opened {
            Ok(wire) => {
                self.wire = Some(wire);
                self.counts.connections += 1;
                let mut frame = Vec::new();
                hello(&self.key, &mut frame);
                self.put(carriage, &frame)
            }
            Err(err) => {
                self.retry.failed(now);
                carriage.trouble(&format!(
                    "can't connect to {address}: {err}\n  try: whether the diode's proxy listens there"
                ));
                false
            }
        }
    }

    fn is_datagrams(&self) -> bool {
        matches!(self.settings.around, Around::Syslog { separation: Separation::Datagram, .. })
    }

    /// Sends one piece.
    fn send(
        &mut self,
        carriage: &mut Carriage,
        digest: &BundleDigest,
        offset: u64,
    ) -> Result<(), SealerError> {
        let Some(bundle) = self.bundles.get(digest) else {
            self.schedule.remove(digest);
            return Ok(());
        };
        let piece_bytes = match self.settings.around {
            Around::Nothing => PIECE_BYTES_MAX,
            Around::Syslog { message_bytes_max, .. } => frame_bytes_max(message_bytes_max)
                .saturating_sub(overhead(bundle.waiting.name.len()))
                .clamp(1, PIECE_BYTES_MAX),
        };
        let left = bundle.waiting.bytes.saturating_sub(offset);
        let mut bytes = vec![0; left.min(piece_bytes as u64) as usize];
        let path = carriage.outbox().dir().join(&bundle.waiting.name);
        bundle.file.read_exact_at(&mut bytes, offset).map_err(SealerError::io(&path))?;
        let of = PieceOf {
            bundle: *digest,
            name: bundle.name.clone(),
            total: bundle.waiting.bytes,
            offset,
        };
        let mut frame = Vec::new();
        piece(&self.key, &of, &bytes, &mut frame);
        if self.put(carriage, &frame)
            && let Some(wire) = &self.wire
        {
            self.counts.frames += 1;
            self.schedule.sent(digest, bytes.len() as u64, wire.written);
        }
        Ok(())
    }

    /// Writes a frame as a whole; false where the connection broke or the agent stops.
    fn put(&mut self, carriage: &Carriage, frame: &[u8]) -> bool {
        let mut message = Vec::new();
        let bytes = match self.settings.around {
            Around::Nothing => frame,
            Around::Syslog { separation, .. } => {
                wrap(frame, separation, &mut message);
                &message
            }
        };
        let mut at = 0;
        while at < bytes.len() {
            let wait = self.pace.wait(Instant::now());
            if !wait.is_zero() {
                carriage.rest(wait.min(TICK));
            }
            if carriage.is_stopping() {
                return false;
            }
            if !self.pace.wait(Instant::now()).is_zero() {
                continue;
            }
            // A datagram is a message and goes as a whole.
            let most = if self.is_datagrams() { bytes.len() } else { WRITE_BYTES_MAX };
            let end = (at + most).min(bytes.len());
            let Some(wire) = &mut self.wire else { return false };
            match wire.write(&bytes[at..end]) {
                Ok(Took::Bytes(count)) => {
                    at += count;
                    self.counts.wire_bytes += count as u64;
                    self.pace.spend(count as u64, Instant::now());
                }
                Err(err) => {
                    let address = self.settings.address.clone();
                    self.break_off(carriage, &format!("the connection to {address} broke: {err}"));
                    return false;
                }
            }
            self.expect_progress(carriage);
        }
        true
    }

    /// A peer that takes nothing for long is given up.
    fn expect_progress(&mut self, carriage: &Carriage) {
        let Some(wire) = &self.wire else { return };
        if wire.moved.elapsed() >= self.settings.stall_timeout {
            let problem = format!(
                "{} takes no bytes for {} s\n  try: whether the diode's proxy and the link behind it run",
                self.settings.address,
                self.settings.stall_timeout.as_secs()
            );
            self.break_off(carriage, &problem);
        }
    }

    fn break_off(&mut self, carriage: &Carriage, problem: &str) {
        self.wire = None;
        self.schedule.broken();
        self.counts.broken += 1;
        self.retry.failed(Instant::now());
        carriage.trouble(problem);
    }

    /// Asks the kernel what it has handed on, and notes which bundles are done.
    fn confirm(
        &mut self,
        carriage: &mut Carriage,
        now: Instant,
        at_once: bool,
    ) -> Result<(), SealerError> {
        let due = self.asked.is_none_or(|asked| now - asked >= ASK_INTERVAL);
        if !self.schedule.is_unconfirmed() || !(due || at_once) {
            return Ok(());
        }
        self.asked = Some(now);
        let Some(wire) = &self.wire else { return Ok(()) };
        match wire.handed_on() {
            Some(place) => self.done(carriage, place, now),
            // A kernel that does not say: then a close in order does.
            None if self.schedule.is_pass_written() && at_once => self.close(carriage, now),
            None => Ok(()),
        }
    }

    /// Closes the connection in order; what was written is confirmed if the peer closes too.
    fn close(&mut self, carriage: &mut Carriage, now: Instant) -> Result<(), SealerError> {
        let Some(wire) = self.wire.take() else { return Ok(()) };
        let (written, handed_on) = (wire.written, wire.handed_on());
        let closed = wire.close();
        let place = if closed { Some(written) } else { handed_on };
        let done = place.map_or(Ok(()), |place| self.done(carriage, place, now));
        if closed {
            self.schedule.reopened();
        } else {
            self.schedule.broken();
        }
        done
    }

    fn done(
        &mut self,
        carriage: &mut Carriage,
        place: u64,
        now: Instant,
    ) -> Result<(), SealerError> {
        for digest in self.schedule.confirmed(place, now) {
            if let Some(bundle) = self.bundles.remove(&digest) {
                carriage.handed_over(&bundle.waiting)?;
            }
            self.schedule.remove(&digest);
            self.retry = Retry::default();
            self.looked = None;
        }
        Ok(())
    }

    /// Nothing to send. Some proxies hand on what they have only when the connection ends.
    fn idle(&mut self, carriage: &mut Carriage, now: Instant) -> Result<(), SealerError> {
        if let Some(wire) = &self.wire
            && wire.moved.elapsed() >= self.settings.idle_close
        {
            self.close(carriage, now)?;
        }
        if self.bundles.is_empty() {
            carriage.fine();
        }
        carriage.wait(TICK);
        self.looked = None;
        Ok(())
    }

    fn tell(&self, carriage: &Carriage) {
        carriage.counters().set_details(json!({
            "link": self.key.name(),
            "connected": self.wire.is_some(),
            "connections": self.counts.connections,
            "broken-connections": self.counts.broken,
            "frames": self.counts.frames,
            "wire-bytes": self.counts.wire_bytes,
            "bundles-on-their-way": self.bundles.len(),
        }));
    }
}

/// Bundles that are looked after at one time: as many files are open.
const WINDOW: usize = 64;
/// How often the queue is looked at while a large bundle goes: an urgent one waits no longer.
const LOOK_INTERVAL: Duration = Duration::from_millis(200);
/// How often the kernel is asked what it has handed on: that reads a table of all connections.
const ASK_INTERVAL: Duration = Duration::from_millis(250);
const CONFIRM_PAUSE: Duration = Duration::from_millis(5);
/// What is written at once, so that a rate holds within a frame, too.
const WRITE_BYTES_MAX: usize = 16 * 1024;
const RETRY_MIN: Duration = Duration::from_millis(250);
const RETRY_MAX: Duration = Duration::from_secs(15);
/// How soon a key that can't be read is looked for again.
const KEY_RETRY: Duration = Duration::from_secs(5);
