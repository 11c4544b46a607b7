//! Two sides with bundles that are worth a medium, and folders that stand for media.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpStream};
use std::path::{Path, PathBuf};

use serde_json::Value;
use tests::agents::{Site, bundles_in};
use tests::crossing::{Crossing, received};
use tests::process::Done;
use tests::seed::Seed;
use tests::wait::PATIENCE;

/// The length of one record; of random digits, so that it stays long when it is compressed.
const RECORD_BYTES: usize = 16 * 1024;
const RECORDS_IN_BUNDLE: u64 = 20;

pub(crate) struct Way {
    pub(crate) crossing: Crossing,
}

impl Way {
    pub(crate) fn new(name: &str) -> Self {
        let crossing = Crossing::new(name);
        let seal =
            format!("[seal]\nbundle-records-max = {RECORDS_IN_BUNDLE}\nheartbeat = \"1d\"\n");
        crossing.pair.high.configure(&format!("{seal}{}", crossing.listener()));
        let low = format!("{}{}", Crossing::quick_inbox(), crossing.file_sink());
        crossing.pair.low.configure(&low);
        Self { crossing }
    }

    pub(crate) fn high(&self) -> &Site {
        &self.crossing.pair.high
    }

    pub(crate) fn low(&self) -> &Site {
        &self.crossing.pair.low
    }

    /// Takes in so many long records and seals them; gives how many bundles wait.
    pub(crate) fn fill(&self, records: u64, seed: u64) -> u64 {
        let agent = self.high().start();
        let mut stream = TcpStream::connect(self.crossing.tcp).unwrap();
        let mut random = Seed::new(seed);
        let before = received(&self.high().status());
        for record in 1..=records {
            let mut message = b"<110>1 2026-11-25T03:15:00Z portainer portainer 1 - - ".to_vec();
            while message.len() < RECORD_BYTES {
                message.extend_from_slice(format!("{:016x}", random.next_u64()).as_bytes());
            }
            stream.write_all(format!("{} ", message.len()).as_bytes()).unwrap();
            stream.write_all(&message).unwrap();
            // A bundle ends where a group ends that was committed.
            if record % RECORDS_IN_BUNDLE == 0 {
                self.crossing.wait_committed(before + record);
            }
        }
        // Plain TCP confirms by its close.
        stream.shutdown(Shutdown::Write).unwrap();
        let _ = stream.read(&mut [0]);
        assert!(agent.stop(PATIENCE).success());
        self.high().run(["seal"]).success();
        let ready = self.state_count("ready");
        assert!(ready > 0);
        ready
    }

    /// How many bundles are in a state.
    pub(crate) fn state_count(&self, state: &str) -> u64 {
        self.high().status()["bundles"][state]["count"].as_u64().unwrap()
    }

    /// A folder that stands for a medium.
    pub(crate) fn stick(&self, name: &str) -> PathBuf {
        self.crossing.sandbox.dir(name)
    }

    pub(crate) fn export(&self, arguments: &[&str]) -> Done {
        let words = ["export"].into_iter().chain(arguments.iter().copied());
        self.high().run(words)
    }

    pub(crate) fn import(&self, arguments: &[&str]) -> Done {
        let words = ["import"].into_iter().chain(arguments.iter().copied());
        self.low().run(words)
    }

    /// Imports what must be in order; gives what it printed as JSON.
    pub(crate) fn take_in(&self, arguments: &[&str]) -> Value {
        let words = ["import", "--json"].into_iter().chain(arguments.iter().copied());
        self.low().json(words)
    }

    /// The low side has so many bundles, and misses none.
    pub(crate) fn assert_arrived(&self, bundles: u64) {
        let low = self.low().status();
        assert_eq!(low["admitted"].as_u64(), Some(bundles), "{low}");
        assert_eq!(low["adds-up"], true, "{low}");
        assert_eq!(low["gaps"].as_array().map(Vec::len), Some(0), "{low}");
    }
}

/// The path as a word of a command line.
pub(crate) fn word(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// The names in a folder, sorted.
pub(crate) fn names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).unwrap().flatten();
    let mut names: Vec<String> =
        entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

/// Whatever stands under a bundle's name is that bundle, whole.
pub(crate) fn assert_nothing_half(dir: &Path, low: &Site) {
    for bundle in bundles_in(dir) {
        low.run(["verify", word(&bundle)]).success();
    }
}

/// The record of a folder: its path without extension.
pub(crate) fn record_in(dir: &Path) -> PathBuf {
    let is = |name: &&String| {
        name.starts_with("penstock-transfer-")
            && name.ends_with(".json")
            && !name.contains(".received-")
    };
    let name = names(dir).into_iter().rev().find(|name| is(&name)).expect("a transfer record");
    dir.join(name.trim_end_matches(".json"))
}
