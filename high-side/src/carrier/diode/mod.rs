//! A link over which nothing comes back (shared/DIODE.md): bundles as datagrams with recovery shards,
//! paced, urgent ones first, each in several passes, and a signed catalogue of what there is.
//!
//! ```text
//! queue ──> streams (one pass of one bundle each) ──due──> train ──paced──> socket
//! carousel ─┘                                     catalogue ─┘
//! ```
//!
//! - A bundle counts as handed over when its first pass is on the wire, and the file was what was sealed.
//! - A restart begins a pass anew. Passes are counted in the database, so that the next one sends
//!   recovery shards that were not sent before.

mod catalogue;
mod link;
mod pacer;
mod stream;
#[cfg(test)]
mod tests;
pub mod trial;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde_json::json;
use shared::clock::{Clock, SystemClock};
use shared::diode::{BlockEncoder, LinkKey, OVERHEAD_BYTES, Redundancy};
use shared::keys::{SIGNING_KEY_FILE, SigningKey};
use shared::record::Lane;

use self::catalogue::Pages;
use self::link::{Link, packet_overhead};
use self::stream::{Shape, Step, Stream};
use super::{Carriage, Carrier};
use crate::config::DiodeSettings;
use crate::outbox::Waiting;
use crate::sealer::SealerError;

/// Sends over one link.
pub(super) struct DiodeCarrier {
    settings: DiodeSettings,
}

/// How often the queue is looked at while there is something to send: an urgent bundle waits no longer.
const LOOK_INTERVAL: Duration = Duration::from_millis(20);
/// How often it is looked what is due on the carousel.
const AGAIN_INTERVAL: Duration = Duration::from_millis(250);
/// How long there is nothing to do at most.
const IDLE: Duration = Duration::from_millis(100);
/// Bundles of one lane under way at once: small ones are spread in time, side by side.
const STREAMS_MAX: usize = 48;
/// Recovery shards in memory, for all of them.
const MEMORY_BYTES_MAX: u64 = 96 << 20;
/// Of what was sent, the part that the catalogue may take, in percent; one page in any case.
const CATALOGUE_PERCENT: u64 = 1;
/// The most pages at once.
const PAGES_MAX: usize = 32;

/// What the sender takes bundles from, and tells how they go.
trait Supply {
    /// The first bundles that were not sent yet, urgent ones first.
    fn fresh(&mut self, count: u32) -> Result<Vec<Waiting>, SealerError>;
    /// Bundles that are due to be sent once more, and how often they were sent; `waits` says, from the
    /// second pass on, how long after one pass the next is due.
    fn again(&mut self, waits: &[Duration]) -> Result<Vec<(Waiting, u64)>, SealerError>;
    /// Where a bundle's file is.
    fn path(&self, waiting: &Waiting) -> PathBuf;
    /// A pass, counted from 0, is on the wire.
    fn sent(&mut self, waiting: &Waiting, pass: u32) -> Result<(), SealerError>;
    /// The file is not what was sealed.
    fn damaged(&mut self, waiting: &Waiting) -> Result<(), SealerError>;
    /// Pages of the catalogue.
    fn pages(&mut self, count: usize) -> Result<Vec<Vec<u8>>, SealerError>;
    /// How it goes.
    fn tell(&mut self, told: serde_json::Value, trouble: Option<&str>);
    /// Waits for something new, the stop, or the time to pass.
    fn wait(&mut self, time: Duration);
    /// Whether to end.
    fn is_stopping(&self) -> bool;
}

/// What a sender was told.
#[derive(Clone, Debug)]
struct Plan {
    shape: Shape,
    /// From the second pass on, how long after one pass the next is due.
    waits: Vec<Duration>,
    catalogue_interval: Duration,
}

impl DiodeCarrier {
    pub(super) fn new(settings: DiodeSettings) -> Self {
        Self { settings }
    }
}

impl Carrier for DiodeCarrier {
    fn run(&mut self, carriage: &mut Carriage) -> Result<(), SealerError> {
        let settings = &self.settings;
        let failed = |path: PathBuf| {
            move |err: shared::diode::LinkKeyError| {
                SealerError::io(&path)(std::io::Error::new(std::io::ErrorKind::InvalidInput, err))
            }
        };
        let key = LinkKey::load(&settings.link_key_file)
            .map_err(failed(settings.link_key_file.clone()))?;
        let signing = SigningKey::load(&carriage.keys_dir().join(SIGNING_KEY_FILE))?;
        let plan = plan(settings);
        let now = Instant::now();
        let run = u64::try_from(SystemClock.now().0).unwrap_or(0);
        let at = PathBuf::from(format!("udp {}", settings.to));
        let rate = settings.bit_rate.0;
        let link = Link::open(settings.to, settings.bind, &key, rate, run, now)
            .map_err(SealerError::io(&at))?;
        let interval_ms =
            u32::try_from(settings.catalogue_interval.as_millis()).unwrap_or(u32::MAX);
        let (name, lanes) = (carriage.name().to_owned(), carriage.lanes().to_vec());
        let payload = usize::from(plan.shape.payload_bytes);
        let passes = settings.passes_in_all();
        let pages = Pages::new(&name, &lanes, passes, interval_ms, payload);
        let supply = Outgoing { carriage, pages, signing };
        Sender::new(plan, link, supply).run()
    }
}

/// The plan that settings come to.
fn plan(settings: &DiodeSettings) -> Plan {
    let overhead = packet_overhead(settings.to);
    let payload = usize::from(settings.mtu).saturating_sub(overhead + OVERHEAD_BYTES);
    Plan {
        shape: Shape {
            payload_bytes: u16::try_from(payload & !1).unwrap_or(u16::MAX - 1),
            redundancy: Redundancy { percent: settings.redundancy },
            outage: settings.outage,
            bits_per_sec: settings.bit_rate.0,
            packet_overhead: overhead,
        },
        waits: settings.waits(),
        catalogue_interval: settings.catalogue_interval,
    }
}

/// The queue, the carousel and the catalogue of the agent.
struct Outgoing<'a> {
    carriage: &'a mut Carriage,
    pages: Pages,
    signing: SigningKey,
}

/// Bundles of the carousel looked at at once, of each pass.
const AGAIN_MAX: u32 = 2 * STREAMS_MAX as u32;

impl Supply for Outgoing<'_> {
    fn fresh(&mut self, count: u32) -> Result<Vec<Waiting>, SealerError> {
        self.carriage.next(count)
    }

    fn again(&mut self, waits: &[Duration]) -> Result<Vec<(Waiting, u64)>, SealerError> {
        let found = self.carriage.on_carousel(waits, AGAIN_MAX)?;
        Ok(found.into_iter().map(|(waiting, done)| (waiting, done.passes)).collect())
    }

    fn path(&self, waiting: &Waiting) -> PathBuf {
        self.carriage.outbox().dir().join(&waiting.name)
    }

    fn sent(&mut self, waiting: &Waiting, pass: u32) -> Result<(), SealerError> {
        if pass == 0 {
            self.carriage.handed_over(waiting)
        } else {
            self.carriage.passed(waiting, u64::from(pass) + 1)
        }
    }

    fn damaged(&mut self, waiting: &Waiting) -> Result<(), SealerError> {
        self.carriage.damaged(waiting)
    }

    fn pages(&mut self, count: usize) -> Result<Vec<Vec<u8>>, SealerError> {
        let store = self.carriage.store();
        Ok(self.pages.make(store, store.origin(), &self.signing, count, SystemClock.now())?)
    }

    fn tell(&mut self, told: serde_json::Value, trouble: Option<&str>) {
        self.carriage.counters().set_details(told);
        self.carriage.trouble(trouble.unwrap_or_default());
    }

    fn wait(&mut self, time: Duration) {
        self.carriage.wait(time);
    }

    fn is_stopping(&self) -> bool {
        self.carriage.is_stopping()
    }
}

/// Sends what a supply gives.
struct Sender<S> {
    plan: Plan,
    link: Link,
    supply: S,
    encoder: BlockEncoder,
    streams: Vec<Stream>,
    /// What could be begun, as last seen: pass and bundle.
    queue: Vec<(u32, Waiting)>,
    looked: Option<Instant>,
    /// What is due on the carousel, as last seen: passes made and bundle.
    again: Vec<(u32, Waiting)>,
    looked_again: Option<Instant>,
    catalogue_due: Instant,
    /// What the link had carried at the last catalogue.
    catalogued_bytes: u64,
    told: Option<Instant>,
}

impl<S: Supply> Sender<S> {
    fn new(plan: Plan, link: Link, supply: S) -> Self {
        Self {
            plan,
            link,
            supply,
            encoder: BlockEncoder::default(),
            streams: Vec::new(),
            queue: Vec::new(),
            looked: None,
            again: Vec::new(),
            looked_again: None,
            catalogue_due: Instant::now(),
            catalogued_bytes: 0,
            told: None,
        }
    }

    /// Sends until told to stop.
    fn run(mut self) -> Result<(), SealerError> {
        while !self.supply.is_stopping() {
            let now = Instant::now();
            if self.looked.is_none_or(|last| now.duration_since(last) >= LOOK_INTERVAL) {
                self.look()?;
            }
            if now >= self.catalogue_due {
                self.send_catalogue()?;
            }
            self.tell(now);
            self.begin_urgent()?;
            if let Some(at) = self.due_stream(now) {
                self.step(at)?;
            } else if !self.begin_next()? {
                let supply = &self.supply;
                self.link.flush(&|| supply.is_stopping());
                let until = self.next_due(now);
                self.supply.wait(until.saturating_duration_since(Instant::now()));
            }
        }
        let supply = &self.supply;
        self.link.flush(&|| supply.is_stopping());
        Ok(())
    }

    /// The stream that sends next: urgent ones first, then in the order they began.
    fn due_stream(&self, now: Instant) -> Option<usize> {
        let due = |stream: &Stream| stream.due().is_none_or(|due| due <= now);
        let of = |lane: Lane| {
            self.streams.iter().position(|stream| stream.waiting.lane == lane && due(stream))
        };
        Lane::ALL.into_iter().find_map(of)
    }

    fn next_due(&self, now: Instant) -> Instant {
        let dues = self.streams.iter().filter_map(Stream::due);
        dues.chain([self.catalogue_due, now + IDLE]).min().unwrap_or(now + IDLE)
    }

    fn step(&mut self, at: usize) -> Result<(), SealerError> {
        let supply = &self.supply;
        let stream = &mut self.streams[at];
        let path = supply.path(&stream.waiting);
        let stopping = || supply.is_stopping();
        match stream.step(&mut self.link, &mut self.encoder, &stopping, Instant::now()) {
            Ok(Step::More) => Ok(()),
            Ok(Step::Done) => {
                self.link.flush(&stopping);
                let stream = self.streams.remove(at);
                if self.supply.is_stopping() {
                    // What was given up at the stop was not sent: the next start begins this pass anew.
                    return Ok(());
                }
                self.looked = None;
                self.supply.sent(&stream.waiting, stream.pass)
            }
            Ok(Step::Damaged) => {
                let stream = self.streams.remove(at);
                self.supply.damaged(&stream.waiting)
            }
            // It became shorter under our hands.
            Err(err) if err.kind() == std::io::ErrorKind::UnexpectedEof => {
                let stream = self.streams.remove(at);
                self.supply.damaged(&stream.waiting)
            }
            Err(err) => {
                self.streams.remove(at);
                Err(SealerError::io(&path)(err))
            }
        }
    }

    /// Looks for what could be begun: what was not sent yet, then what is due on the carousel.
    fn look(&mut self) -> Result<(), SealerError> {
        self.looked = Some(Instant::now());
        self.queue.clear();
        let active = |streams: &[Stream], waiting: &Waiting| {
            streams.iter().any(|stream| stream.waiting.name == waiting.name)
        };
        for waiting in self.supply.fresh(2 * STREAMS_MAX as u32)? {
            if !active(&self.streams, &waiting) {
                self.queue.push((0, waiting));
            }
        }
        if self.looked_again.is_none_or(|last| last.elapsed() >= AGAIN_INTERVAL) {
            self.looked_again = Some(Instant::now());
            let again = self.supply.again(&self.plan.waits)?.into_iter();
            let counted = |(waiting, passes)| (u32::try_from(passes).unwrap_or(u32::MAX), waiting);
            self.again = again.map(counted).collect();
        }
        for (passes, waiting) in &self.again {
            if !active(&self.streams, waiting) {
                self.queue.push((*passes, waiting.clone()));
            }
        }
        Ok(())
    }

    /// Urgent bundles begin at once, whatever else is under way.
    fn begin_urgent(&mut self) -> Result<(), SealerError> {
        while let Some(at) = self.queue.iter().position(|(_, next)| next.lane == Lane::Flash) {
            let urgent = |stream: &&Stream| stream.waiting.lane == Lane::Flash;
            if self.streams.iter().filter(urgent).count() >= STREAMS_MAX {
                break;
            }
            self.begin(at)?;
        }
        Ok(())
    }

    /// The link has time to spare: begins the next bundle, if there is one and room for it.
    fn begin_next(&mut self) -> Result<bool, SealerError> {
        let held: u64 = self.streams.iter().map(Stream::memory_bytes).sum();
        let room = self.streams.is_empty()
            || (self.streams.len() < STREAMS_MAX && held < MEMORY_BYTES_MAX);
        if self.queue.is_empty() || !room {
            return Ok(false);
        }
        self.begin(0)?;
        Ok(true)
    }

    fn begin(&mut self, at: usize) -> Result<(), SealerError> {
        let (pass, waiting) = self.queue.remove(at);
        self.again.retain(|(_, other)| other.name != waiting.name);
        let path = self.supply.path(&waiting);
        // A file that was changed must not be sent three times.
        match Stream::open(&path, waiting, pass, &self.plan.shape, pass > 0) {
            Ok(Some(stream)) => self.streams.push(stream),
            // Something else took it away; the queue will say so.
            Ok(None) => {}
            Err(err) => return Err(SealerError::io(&path)(err)),
        }
        Ok(())
    }

    fn send_catalogue(&mut self) -> Result<(), SealerError> {
        self.catalogue_due = Instant::now() + self.plan.catalogue_interval;
        let sent = self.link.counters.bytes - self.catalogued_bytes;
        self.catalogued_bytes = self.link.counters.bytes;
        let page = u64::from(self.plan.shape.payload_bytes).max(1);
        let count = (sent * CATALOGUE_PERCENT / 100 / page) as usize;
        let pages = self.supply.pages(count.clamp(1, PAGES_MAX))?;
        let supply = &self.supply;
        for page in pages {
            self.link.push_page(&page, &|| supply.is_stopping());
        }
        Ok(())
    }

    fn tell(&mut self, now: Instant) {
        const INTERVAL: Duration = Duration::from_secs(1);
        if self.told.is_some_and(|last| now.duration_since(last) < INTERVAL) {
            return;
        }
        self.told = Some(now);
        let counters = self.link.counters;
        let told = json!({
            "datagrams": counters.datagrams,
            "bytes": counters.bytes,
            "send-failures": counters.failures,
            "given-up": counters.given_up,
            "under-way": self.streams.len(),
        });
        self.supply.tell(told, self.link.trouble.as_deref());
    }
}

/// Everything that is wrong with what a link needs, for `check-config`.
pub(super) fn check(settings: &DiodeSettings) -> Vec<String> {
    LinkKey::load(&settings.link_key_file).err().map(|err| err.to_string()).into_iter().collect()
}
