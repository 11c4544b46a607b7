//! The two ends of an imagined link: the code of both agents, without sockets.

use std::time::Duration;

use low_side::receiver::trial::Trial;
use sha2::{Digest, Sha256};
use shared::bundle::BundleDigest;
use shared::diode::{
    BlockEncoder, Geometry, LinkKey, LinkStamp, ObjectId, PassPlan, Redundancy, ShardHeader,
    write_shard,
};
use shared::record::Lane;
use tempfile::TempDir;

/// A sender and a receiver of one bundle.
#[derive(Debug)]
pub struct Ends {
    sender: Sender,
    receiver: Receiver,
}

/// What sends.
#[derive(Debug)]
pub struct Sender {
    bundle: Vec<u8>,
    key: LinkKey,
    run: u64,
    sequence: u64,
    together: usize,
}

/// What receives, and the folder that outlives its restarts.
#[derive(Debug)]
pub struct Receiver {
    trial: Trial,
    _dir: TempDir,
}

impl Ends {
    /// Ends for one bundle, of which the sender is set to stand such an outage.
    pub fn new(bundle: &[u8], outage: Duration, run: u64) -> Self {
        let key = LinkKey::new(&[7; 32]);
        let dir = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir());
        let dir = dir.expect("a temporary folder can be made");
        let trial = Trial::open(dir.path(), key.clone(), STATE_BYTES_MAX);
        let trial = trial.expect("the folder can be used");
        let outage_bytes = super::BIT_RATE as f64 / 8.0 * outage.as_secs_f64();
        let together = (outage_bytes / 80_000.0).ceil().max(1.0) as usize;
        let sender = Sender { bundle: bundle.to_vec(), key, run: run | 1, sequence: 0, together };
        Self { sender, receiver: Receiver { trial, _dir: dir } }
    }

    /// Both ends.
    pub fn split(&mut self) -> (&mut Sender, &mut Receiver) {
        (&mut self.sender, &mut self.receiver)
    }

    /// Whether anything was delivered that is not this bundle, or that more than once; or whether
    /// something made the receiver keep room for more than this bundle.
    pub fn delivered_anything_but(&self, bundle: &[u8]) -> bool {
        let delivered = self.receiver.trial.delivered();
        let counted = self.receiver.trial.counted();
        delivered.len() > 1
            || counted.wrong > 0
            || counted.under_way + delivered.len() as u64 > 1
            || (counted.under_way == 0 && counted.state_bytes > 0)
            || delivered.iter().any(|found| {
                found.bytes != bundle
                    || found.sha256 != BundleDigest::from_bytes(Sha256::digest(bundle).into())
            })
    }
}

impl Sender {
    /// Gives every datagram of a pass.
    pub fn pass(&mut self, pass: u32, mut each: impl FnMut(&[u8])) {
        let geometry = Geometry::cut(self.bundle.len() as u64, 1368).expect("a bundle can be cut");
        let object = ObjectId::of(&BundleDigest::from_bytes(Sha256::digest(&self.bundle).into()));
        let redundancy = Redundancy { percent: 15 };
        let mut encoder = BlockEncoder::default();
        let wide = usize::from(geometry.shard_bytes());
        let blocks: Vec<u32> = (0..geometry.blocks()).collect();
        let mut out = Vec::new();
        for group in blocks.chunks(self.together) {
            let mut coded = Vec::new();
            for block in group {
                let plan = PassPlan::new(
                    geometry.source_shards(*block),
                    geometry.recovery_shards(),
                    redundancy,
                    pass,
                );
                let from = geometry.offset(*block, 0) as usize;
                let source = &self.bundle[from..from + geometry.block_bytes(*block)];
                let mut recovery = Vec::new();
                encoder
                    .encode(&geometry, *block, source, &plan, &mut recovery)
                    .expect("a block is coded");
                coded.push((*block, plan, source, recovery));
            }
            let most = coded.iter().map(|(_, plan, ..)| plan.count()).max().unwrap_or(0);
            for at in 0..most {
                for (block, plan, source, recovery) in &coded {
                    if at >= plan.count() {
                        continue;
                    }
                    let shard = plan.shard_at(at);
                    let payload = if at < plan.source_count() {
                        let from = shard as usize * wide;
                        &source[from..(from + wide).min(source.len())]
                    } else {
                        let from = usize::from(at - plan.source_count()) * wide;
                        &recovery[from..from + wide]
                    };
                    let header = ShardHeader {
                        lane: Lane::Routine,
                        object,
                        epoch: 1,
                        number: 1,
                        geometry,
                        block: *block,
                        shard,
                        pass: pass as u16,
                    };
                    out.clear();
                    let stamp = LinkStamp { run: self.run, sequence: self.sequence };
                    self.sequence += 1;
                    write_shard(&mut out, &self.key, stamp, &header, payload);
                    each(&out);
                }
            }
        }
    }
}

impl Receiver {
    /// Takes a datagram.
    pub fn take(&mut self, datagram: &[u8]) {
        self.trial.take(datagram);
    }

    /// Does what is left to do.
    pub fn settle(&mut self) {
        self.trial.settle().expect("the temporary folder can be written to");
    }

    /// Dies and starts again.
    pub fn restart(&mut self) {
        self.trial.restart().expect("the temporary folder can be read");
    }

    /// Whether the bundle is there.
    pub fn has_delivered(&self) -> bool {
        !self.trial.delivered().is_empty()
    }
}

/// More than any bundle of a campaign.
const STATE_BYTES_MAX: u64 = 256 << 20;
