//! A sender without socket, threads and clock, for seeded runs over many links in little time.
//!
//! It is the same code from a bundle's file to the bytes of each datagram and the order and time in
//! which these are due.

use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use shared::bundle::BundleDigest;
use shared::diode::{BlockEncoder, LinkKey, OVERHEAD_BYTES, Redundancy, RunKey, ShardHeader};
use shared::record::{Epoch, Lane};

use super::link::Wire;
use super::stream::{Shape, Step, Stream};
use crate::outbox::Waiting;

/// A sender of one bundle.
#[derive(Debug)]
pub struct Trial {
    file: PathBuf,
    waiting: Waiting,
    shape: Shape,
    key: LinkKey,
    run: RunKey,
    sequence: u64,
    encoder: BlockEncoder,
}

/// How a trial's link is set, as in the configuration.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Recovery shards of each pass for 100 source shards.
    pub redundancy: u16,
    /// How long the link may be dead at a time.
    pub outage: Duration,
    /// The rate on the wire, in bits a second.
    pub bits_per_sec: u64,
    /// The longest IP packet, in bytes.
    pub mtu: u16,
}

impl Trial {
    /// A sender of this file, which has this digest.
    pub fn new(
        file: &Path,
        sha256: BundleDigest,
        key: LinkKey,
        run: u64,
        settings: Settings,
    ) -> io::Result<Self> {
        let payload = usize::from(settings.mtu).saturating_sub(PACKET_OVERHEAD + OVERHEAD_BYTES);
        Ok(Self {
            file: file.to_owned(),
            waiting: Waiting {
                name: "trial".to_owned(),
                bytes: file.metadata()?.len(),
                sha256,
                epoch: Epoch(1),
                lane: Lane::Routine,
                number: 1,
                bundle: None,
            },
            shape: Shape {
                payload_bytes: u16::try_from(payload & !1).unwrap_or(u16::MAX - 1),
                redundancy: Redundancy { percent: settings.redundancy },
                outage: settings.outage,
                bits_per_sec: settings.bits_per_sec,
                packet_overhead: PACKET_OVERHEAD,
            },
            run: key.of_run(run),
            key,
            sequence: 0,
            encoder: BlockEncoder::default(),
        })
    }

    /// Sends one pass: gives each datagram with the time since the pass began at which it is through.
    pub fn pass(&mut self, pass: u32, each: impl FnMut(Duration, &[u8])) -> io::Result<()> {
        let (waiting, shape) = (self.waiting.clone(), &self.shape);
        let Some(mut stream) = Stream::open(&self.file, waiting, pass, shape, true)? else {
            return Err(io::Error::from(io::ErrorKind::NotFound));
        };
        let begun = Instant::now();
        let mut tape = Tape {
            each,
            key: (self.key.id(), &self.run),
            sequence: &mut self.sequence,
            bits_per_sec: shape.bits_per_sec,
            time: Duration::ZERO,
            datagram: Vec::new(),
        };
        loop {
            // The link is idle until the next step is due.
            if let Some(due) = stream.due() {
                tape.time = tape.time.max(due.saturating_duration_since(begun));
            }
            let now = begun + tape.time;
            match stream.step(&mut tape, &mut self.encoder, &|| false, now)? {
                Step::More => {}
                Step::Done => return Ok(()),
                Step::Damaged => return Err(io::Error::from(io::ErrorKind::InvalidData)),
            }
        }
    }
}

/// Writes each datagram and tells when it is through, at the link's rate.
struct Tape<'a, F> {
    each: F,
    key: (u64, &'a RunKey),
    sequence: &'a mut u64,
    bits_per_sec: u64,
    time: Duration,
    datagram: Vec<u8>,
}

impl<F: FnMut(Duration, &[u8])> Wire for Tape<'_, F> {
    fn push_shard(&mut self, shard: &ShardHeader, payload: &[u8], _: &dyn Fn() -> bool) {
        self.datagram.clear();
        shared::diode::write_shard(&mut self.datagram, self.key, *self.sequence, shard, payload);
        *self.sequence += 1;
        let bits = 8 * (self.datagram.len() + PACKET_OVERHEAD) as u64;
        self.time += Duration::from_nanos(bits * 1_000_000_000 / self.bits_per_sec.max(1));
        (self.each)(self.time, &self.datagram);
    }
}

/// IPv4 and UDP.
const PACKET_OVERHEAD: usize = 28;
