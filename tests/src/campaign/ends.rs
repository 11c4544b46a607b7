//! The two ends of an imagined link: the code of both agents, without sockets.

use std::time::Duration;

use high_side::carrier::trial::{self as sending, Settings};
use low_side::receiver::trial as receiving;
use sha2::{Digest, Sha256};
use shared::bundle::BundleDigest;
use shared::diode::LinkKey;
use tempfile::TempDir;

/// A sender and a receiver of one bundle.
#[derive(Debug)]
pub struct Ends {
    sender: Sender,
    receiver: Receiver,
}

/// What sends, and the folder with what it sends.
#[derive(Debug)]
pub struct Sender {
    trial: sending::Trial,
    _dir: TempDir,
}

/// What receives, and the folder that outlives its restarts.
#[derive(Debug)]
pub struct Receiver {
    trial: receiving::Trial,
    _dir: TempDir,
}

impl Ends {
    /// Ends for one bundle, of which the sender is set to stand such an outage.
    pub fn new(bundle: &[u8], outage: Duration, run: u64) -> Self {
        let key = LinkKey::new(&[7; 32]);
        let settings =
            Settings { redundancy: 15, outage, bits_per_sec: super::BIT_RATE, mtu: 1500 };
        let dir = folder();
        let file = dir.path().join("bundle");
        std::fs::write(&file, bundle).expect("the temporary folder has room");
        let trial = sending::Trial::new(&file, digest(bundle), key.clone(), run | 1, settings);
        let sender = Sender { trial: trial.expect("the bundle can be sent"), _dir: dir };
        let dir = folder();
        let trial = receiving::Trial::open(dir.path(), key, STATE_BYTES_MAX);
        let receiver = Receiver { trial: trial.expect("the folder can be used"), _dir: dir };
        Self { sender, receiver }
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
        let right =
            |found: &receiving::Delivered| found.bytes == bundle && found.sha256 == digest(bundle);
        counted.wrong > 0
            || counted.under_way + delivered.len() as u64 > 1
            || (counted.under_way == 0 && counted.state_bytes > 0)
            || !delivered.iter().all(right)
    }
}

impl Sender {
    /// Gives every datagram of a pass, with the time since its beginning.
    pub fn pass(&mut self, pass: u32, each: impl FnMut(Duration, &[u8])) {
        self.trial.pass(pass, each).expect("the bundle can be read");
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

fn digest(bundle: &[u8]) -> BundleDigest {
    BundleDigest::from_bytes(Sha256::digest(bundle).into())
}

/// A folder in memory, where there is one.
fn folder() -> TempDir {
    let dir = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir());
    dir.expect("a temporary folder can be made")
}

/// More than any bundle of a campaign.
const STATE_BYTES_MAX: u64 = 256 << 20;
