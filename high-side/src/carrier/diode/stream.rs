//! One pass of one bundle: its datagrams, and when each is due.
//!
//! Blocks are sent in windows: a step of one block, then one of the next, so that an outage takes a
//! little of each. A window is so wide, or so much stretched in time, that the outage it was sized
//! for takes no more than its recovery shards make good.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::time::{Duration, Instant};

use nix::fcntl::OFlag;
use sha2::{Digest, Sha256};
use shared::bundle::BundleDigest;
use shared::diode::{BlockEncoder, Geometry, ObjectId, PassPlan, Redundancy, ShardHeader};

use super::link::Wire;
use crate::outbox::Waiting;

/// How bundles are cut and spread.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Shape {
    pub(super) payload_bytes: u16,
    pub(super) redundancy: Redundancy,
    pub(super) outage: Duration,
    pub(super) bits_per_sec: u64,
    pub(super) packet_overhead: usize,
}

/// One pass of one bundle.
#[derive(Debug)]
pub(super) struct Stream {
    pub(super) waiting: Waiting,
    pub(super) pass: u32,
    file: File,
    geometry: Geometry,
    object: ObjectId,
    redundancy: Redundancy,
    /// The width of a window, in blocks.
    width: u32,
    span: Duration,
    window: Window,
    /// Of the whole file, where nobody looked at it since the start.
    hash: Option<Sha256>,
    buffer: Vec<u8>,
}

#[derive(Debug, Default)]
struct Window {
    first: u32,
    plans: Vec<PassPlan>,
    /// The recovery shards of the blocks that were encoded.
    recovery: Vec<Vec<u8>>,
    /// Shards of a block in one step.
    unit: u16,
    step: u64,
    steps: u64,
    /// Steps of source shards alone.
    source_steps: u64,
    began: Option<Instant>,
}

/// How a step ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// There is more.
    More,
    /// The pass is complete.
    Done,
    /// The pass is complete, and the file is not what was sealed.
    Damaged,
}

/// Recovery shards held for one window.
const RECOVERY_BYTES_MAX: u64 = 48 << 20;
/// The most shards of a block in one step: a train has several steps.
const UNIT_MAX: u16 = 16;

impl Stream {
    /// Begins a pass; `None` where the file is gone. `looked_at`: its digest was found right before.
    pub(super) fn open(
        path: &Path,
        waiting: Waiting,
        pass: u32,
        shape: &Shape,
        looked_at: bool,
    ) -> io::Result<Option<Self>> {
        let opened = OpenOptions::new()
            .read(true)
            .custom_flags((OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK).bits())
            .open(path);
        let file = match opened {
            Err(err) if err.kind() == io::ErrorKind::NotFound => return Ok(None),
            opened => opened?,
        };
        let geometry =
            Geometry::cut(waiting.bytes, shape.payload_bytes).map_err(io::Error::other)?;
        let (width, span) = spread(&geometry, shape, pass);
        Ok(Some(Self {
            object: ObjectId::of(&waiting.sha256),
            waiting,
            pass,
            file,
            geometry,
            redundancy: shape.redundancy,
            width,
            span,
            window: Window::default(),
            hash: (!looked_at).then(Sha256::new),
            buffer: Vec::new(),
        }))
    }

    /// When its next step is due; `None` where it is at once.
    pub(super) fn due(&self) -> Option<Instant> {
        let window = &self.window;
        let began = window.began?;
        let share = window.step as f64 / window.steps.max(1) as f64;
        Some(began + self.span.mul_f64(share))
    }

    /// Recovery shards in memory, at most.
    pub(super) fn memory_bytes(&self) -> u64 {
        let plan = self.plan(0);
        let wide = u64::from(self.geometry.shard_bytes());
        u64::from(self.width) * u64::from(plan.recovery_count()) * wide
    }

    fn plan(&self, block: u32) -> PassPlan {
        let source = self.geometry.source_shards(block);
        PassPlan::new(source, self.geometry.recovery_shards(), self.redundancy, self.pass)
    }

    /// Puts the next step's datagrams on the link.
    pub(super) fn step(
        &mut self,
        link: &mut impl Wire,
        encoder: &mut BlockEncoder,
        stopping: &dyn Fn() -> bool,
        now: Instant,
    ) -> io::Result<Step> {
        if self.window.began.is_none() {
            self.begin_window(self.window.first, now);
        }
        let blocks = self.window.plans.len() as u64;
        let (round, at) = (self.window.step / blocks, (self.window.step % blocks) as usize);
        // Encoding goes along with the source shards, so that it holds nothing up.
        let pace = (self.window.step + 1) * blocks / self.window.source_steps.max(1);
        let plan = self.window.plans[at];
        let from = (round * u64::from(self.window.unit)).min(u64::from(plan.count())) as u16;
        let to = (from + self.window.unit).min(plan.count());
        let needed = if to > plan.source_count() { at as u64 + 1 } else { 0 };
        while (self.window.recovery.len() as u64) < pace.max(needed).min(blocks) {
            self.encode_next(encoder)?;
        }
        self.send(at, plan, (from, to), link, stopping)?;
        self.window.step += 1;
        if self.window.step < self.window.steps {
            return Ok(Step::More);
        }
        while (self.window.recovery.len() as u64) < blocks {
            self.encode_next(encoder)?;
        }
        let next = self.window.first + blocks as u32;
        if next < self.geometry.blocks() {
            self.begin_window(next, now);
            return Ok(Step::More);
        }
        let Some(hash) = self.hash.take() else { return Ok(Step::Done) };
        let right = BundleDigest::from_bytes(hash.finalize().into()) == self.waiting.sha256;
        Ok(if right { Step::Done } else { Step::Damaged })
    }

    fn begin_window(&mut self, first: u32, now: Instant) {
        let count = self.width.min(self.geometry.blocks() - first);
        let plans: Vec<PassPlan> = (first..first + count).map(|block| self.plan(block)).collect();
        let longest = plans.iter().map(PassPlan::count).max().unwrap_or(1);
        let source = plans.iter().map(PassPlan::source_count).min().unwrap_or(0);
        let unit = (longest / 64).clamp(1, UNIT_MAX);
        let rounds = u64::from(longest.div_ceil(unit));
        self.window = Window {
            first,
            recovery: Vec::with_capacity(plans.len()),
            steps: rounds * plans.len() as u64,
            source_steps: u64::from(source / unit) * plans.len() as u64,
            plans,
            unit,
            step: 0,
            began: Some(now),
        };
    }

    fn encode_next(&mut self, encoder: &mut BlockEncoder) -> io::Result<()> {
        let at = self.window.recovery.len();
        let block = self.window.first + at as u32;
        self.buffer.resize(self.geometry.block_bytes(block), 0);
        self.file.read_exact_at(&mut self.buffer, self.geometry.offset(block, 0))?;
        if let Some(hash) = &mut self.hash {
            hash.update(&self.buffer);
        }
        let plan = self.window.plans[at];
        let wide = usize::from(self.geometry.shard_bytes());
        let mut made = Vec::with_capacity(usize::from(plan.recovery_count()) * wide);
        encoder
            .encode(&self.geometry, block, &self.buffer, &plan, &mut made)
            .map_err(io::Error::other)?;
        self.window.recovery.push(made);
        Ok(())
    }

    fn send(
        &mut self,
        at: usize,
        plan: PassPlan,
        (from, to): (u16, u16),
        link: &mut impl Wire,
        stopping: &dyn Fn() -> bool,
    ) -> io::Result<()> {
        let block = self.window.first + at as u32;
        let wide = usize::from(self.geometry.shard_bytes());
        let mut place = from;
        while place < to {
            let shard = plan.shard_at(place);
            let mut header = ShardHeader {
                lane: self.waiting.lane,
                object: self.object,
                epoch: self.waiting.epoch.0,
                number: self.waiting.number,
                geometry: self.geometry,
                block,
                shard,
                pass: u16::try_from(self.pass).unwrap_or(u16::MAX),
            };
            if place >= plan.source_count() {
                let from = usize::from(place - plan.source_count()) * wide;
                let recovery =
                    self.window.recovery.get(at).and_then(|all| all.get(from..from + wide));
                if let Some(payload) = recovery {
                    link.push_shard(&header, payload, stopping);
                }
                place += 1;
                continue;
            }
            // Source shards that stand together in the file are read together.
            let mut count = 1;
            while place + count < to.min(plan.source_count())
                && plan.shard_at(place + count) == shard + u32::from(count)
            {
                count += 1;
            }
            let begin = self.geometry.offset(block, shard);
            let length = (usize::from(count) * wide).min((self.geometry.length() - begin) as usize);
            self.buffer.resize(length, 0);
            self.file.read_exact_at(&mut self.buffer, begin)?;
            for payload in self.buffer.chunks(wide) {
                link.push_shard(&header, payload, stopping);
                header.shard += 1;
            }
            place += count;
        }
        Ok(())
    }
}

/// The width of a window in blocks, and the least time that one takes.
fn spread(geometry: &Geometry, shape: &Shape, pass: u32) -> (u32, Duration) {
    let source = geometry.source_shards(0);
    let (spare, sent) = shape.redundancy.outage_share(source, geometry.recovery_shards());
    let span = shape.outage.mul_f64(f64::from(sent) / f64::from(spare.max(1)));
    let wide = usize::from(geometry.shard_bytes());
    let packet = wide + shared::diode::OVERHEAD_BYTES + shape.packet_overhead;
    let block_bytes = u64::from(sent) * packet as u64;
    let blocks = geometry.blocks();
    // Equal windows, each at least as long as the span where the bundle is.
    let whole_bits = u128::from(blocks) * u128::from(block_bytes) * 8;
    let span_bits = u128::from(shape.bits_per_sec) * span.as_nanos() / 1_000_000_000;
    let windows = (whole_bits / span_bits.max(1)).clamp(1, u128::from(blocks)) as u32;
    let plan = PassPlan::new(source, geometry.recovery_shards(), shape.redundancy, pass);
    let held = u64::from(plan.recovery_count()) * wide as u64;
    let widest = (RECOVERY_BYTES_MAX / held.max(1)).clamp(1, u64::from(blocks)) as u32;
    (blocks.div_ceil(windows).min(widest), span)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_are_as_wide_as_the_outage_asks_for() {
        let shape = |bits_per_sec| Shape {
            payload_bytes: 1368,
            redundancy: Redundancy { percent: 15 },
            outage: Duration::from_millis(50),
            bits_per_sec,
            packet_overhead: 28,
        };
        let large = Geometry::cut(1 << 30, 1368).unwrap();
        let (width, span) = spread(&large, &shape(2_400_000_000), 0);
        assert!(width > 100 && width < 250, "{width}");
        assert!(span > Duration::from_millis(500) && span < Duration::from_secs(1), "{span:?}");
        let (slow, _) = spread(&large, &shape(100_000_000), 0);
        assert!((4..12).contains(&slow), "{slow}");
        let small = Geometry::cut(20_480, 1368).unwrap();
        let (one, span) = spread(&small, &shape(100_000_000), 0);
        assert!(one == 1 && span < Duration::from_millis(400), "{span:?}");
    }
}
