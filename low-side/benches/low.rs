//! Import time per bundle with few and with many bundles in the ledger, the rate of each mapping, and
//! the file sink's.
//!
//! `cargo bench -p low-side`; prints one table. The folder of the measured files is `$TMPDIR`.

use std::error::Error;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use low_side::admit::Candidate;
use low_side::config::{AdmissionConfig, GapPolicy};
use low_side::event::{View, render_view, with_view};
use low_side::folders::Folders;
use low_side::import::{Importer, KeyRing, Keys, Outcome, Sidecar, Source};
use low_side::ledger::{BundleFacts, ChainName, Ledger};
use low_side::mapping::{cef, cim, ecs, leef, ocsf, sentinel};
use low_side::replay::{HealthBoard, Replayer};
use low_side::sink::config::{BatchLimits, FileConfig, Filter, SinkConfig, SinkKind};
use low_side::sink::dead_letters::DeadLetters;
use low_side::sink::make;
use shared::bell::Bell;
use shared::bundle::{BundleDigest, Limits, Manifest, SealReason, StreamCount, seal};
use shared::clock::{Clock, Nanos, SystemClock};
use shared::event::recognise;
use shared::keys::{
    IDENTITY_FILE, Recipients, ReleasePolicy, SigningKey, Trust, Validity, generate_identity,
    generate_signing_key,
};
use shared::record::{Epoch, Lane, Sequence, SourceTag, Stream, encode, parse};

const POLICY: AdmissionConfig = AdmissionConfig {
    gap: GapPolicy::Pass,
    silence_alarm: Duration::from_hours(1),
    number_jump_max: u64::MAX,
};
/// Bundles that are imported for one figure.
const IMPORTED: u64 = 60;
/// The records of one of them.
const IMPORTED_RECORDS: u64 = 100;
/// Bundles and records of the replay.
const REPLAYED: (u64, u64) = (10, 50_000);
const MESSAGE_BYTES: usize = 750;
/// How long each schema is measured.
const MAPPING_TIME: Duration = Duration::from_secs(2);

struct High {
    signer: SigningKey,
    recipients: Recipients,
    number: u64,
    previous: BundleDigest,
    sequence: u64,
}

type Outcomes<T> = Result<T, Box<dyn Error>>;

fn main() -> Outcomes<()> {
    println!("what                                             figure");
    for (name, rate) in mapping_rates()? {
        println!("understand and map to {name:<19}{rate:>12.0} records/s");
    }
    for known in [10, 100_000] {
        let (mean, worst) = import_cost(known)?;
        println!(
            "import, {known:>7} bundles in the ledger      {mean:>9.2?} mean {worst:>9.2?} worst"
        );
    }
    let (rate, bytes) = replay_rate()?;
    println!(
        "file sink                                {rate:>12.0} records/s, {bytes:.0} MB/s written"
    );
    Ok(())
}

fn import_cost(known: u64) -> Outcomes<(Duration, Duration)> {
    let dir = tempfile::tempdir()?;
    let (mut high, mut importer) = site(dir.path())?;
    // Filled in memory, where a sync costs nothing; then moved to the disk that is measured.
    let memory = tempfile::tempdir_in("/dev/shm")?;
    let mut ledger = Ledger::open(memory.path())?;
    for number in 1..=known {
        let facts = facts(number, high.previous);
        ledger.admit(&facts, &POLICY, memory.path(), Nanos(1), |_| Ok(()))?;
        high.previous = facts.candidate.digest;
        high.sequence = facts.candidate.last_sequence;
    }
    high.number = known;
    drop(ledger);
    let state = importer.folders.state.clone();
    importer.ledger = Ledger::open(memory.path())?;
    for suffix in ["", "-wal", "-shm"] {
        let name = format!("ledger.db{suffix}");
        let _ = std::fs::remove_file(state.join(&name));
        if memory.path().join(&name).exists() && suffix.is_empty() {
            std::fs::copy(memory.path().join(&name), state.join(&name))?;
        }
    }
    importer.ledger = Ledger::open(&state)?;
    let mut bundles = Vec::new();
    for _ in 0..IMPORTED {
        bundles.push(high.seal(dir.path(), IMPORTED_RECORDS)?);
    }
    let (mut total, mut worst) = (Duration::ZERO, Duration::ZERO);
    for path in bundles {
        let started = Instant::now();
        let outcome = importer.import(&path, Sidecar::Absent, |_| {})?;
        let took = started.elapsed();
        assert!(matches!(outcome, Outcome::Admitted { .. }), "{outcome:?}");
        total += took;
        worst = worst.max(took);
    }
    Ok((total / u32::try_from(IMPORTED)?, worst))
}

/// How fast one thread makes events of each schema from records of the golden samples.
fn mapping_rates() -> Outcomes<Vec<(&'static str, f64)>> {
    type Render = fn(&mut Vec<u8>, &View<'_>);
    let renders: [(&str, Render); 7] = [
        ("native", render_view),
        ("ecs", ecs::render),
        ("hec", |out, view| cim::hec_envelope(out, view, "portainer_audit")),
        ("cef", cef::render),
        ("leef", leef::render),
        ("ocsf", ocsf::render),
        ("sentinel", sentinel::row),
    ];
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/mapping/golden/samples.txt");
    let samples = std::fs::read_to_string(path)?;
    let source = SourceTag::new("syslog-tls", "10.0.0.1:40112", None);
    let mut records = Vec::new();
    let lines = samples.lines().filter(|line| !line.is_empty() && !line.starts_with(['#', '=']));
    for (sequence, raw) in (1..).zip(lines) {
        let mut bytes = Vec::new();
        let stream = recognise(raw.as_bytes());
        encode(&mut bytes, Sequence(sequence), Nanos(1), stream, &source, None, raw.as_bytes());
        records.push(bytes);
    }
    let chain = ChainName { origin: "plant-7".parse()?, epoch: Epoch(1), lane: Lane::Routine };
    let mut rates = Vec::new();
    for (name, render) in renders {
        let mut out = Vec::new();
        let started = Instant::now();
        let mut made = 0_u32;
        while started.elapsed() < MAPPING_TIME {
            for bytes in &records {
                out.clear();
                with_view(&chain, &parse(bytes, 1 << 20)?.0, |view| render(&mut out, view));
                std::hint::black_box(&out);
                made += 1;
            }
        }
        rates.push((name, f64::from(made) / started.elapsed().as_secs_f64()));
    }
    Ok(rates)
}

fn replay_rate() -> Outcomes<(f64, f64)> {
    let dir = tempfile::tempdir()?;
    let (mut high, mut importer) = site(dir.path())?;
    let (bundles, records) = REPLAYED;
    for _ in 0..bundles {
        let path = high.seal(dir.path(), records)?;
        importer.import(&path, Sidecar::Absent, |_| {})?;
    }
    let folders = importer.folders.clone();
    let mut ledger = Ledger::open(&folders.state)?;
    let id = ledger.sink("bench")?;
    let config = SinkConfig {
        name: "bench".to_owned(),
        batch: BatchLimits { records: 20_000, bytes: 32 << 20, interval: Duration::from_secs(1) },
        retry: (Duration::from_secs(1), Duration::from_secs(1)),
        lag_alarm: Duration::from_mins(15),
        records_per_second: 0,
        dead_letter_bytes: 1 << 30,
        filter: Filter::default(),
        kind: SinkKind::File(FileConfig {
            dir: dir.path().join("sink"),
            schema: low_side::mapping::Schema::Native,
            rotate_bytes: 256 << 20,
            rotate_age: Duration::from_hours(24),
            line_bytes_max: None,
        }),
    };
    let bell = Bell::default();
    let replayer = Replayer {
        name: config.name.clone(),
        id,
        sink: make(&config, id, SystemClock, bell.clone()),
        batch: config.batch,
        retry: config.retry,
        records_per_second: 0,
        dead_letter_bytes: 1 << 30,
        filter: Filter::default(),
        dead_letters: DeadLetters::of(&folders.state, "bench"),
        ledger,
        store: folders.store.clone(),
        keys: importer.keys.clone(),
        limits: Limits::default(),
        clock: SystemClock,
        bell: bell.clone(),
        health: HealthBoard::default(),
    };
    let health = replayer.health.clone();
    let started = Instant::now();
    let running = std::thread::spawn(move || replayer.run());
    while health.read().delivered < bundles * records {
        if health.read().state == "failing" {
            return Err(format!("{:?}", health.read()).into());
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    let took = started.elapsed().as_secs_f64();
    bell.stop();
    running.join().map_err(|_| "the replayer panicked")?;
    let mut bytes = 0;
    for entry in std::fs::read_dir(dir.path().join("sink"))? {
        bytes += entry?.metadata()?.len();
    }
    Ok(((bundles * records) as f64 / took, bytes as f64 / 1e6 / took))
}

fn site(dir: &Path) -> Outcomes<(High, Importer<SystemClock>)> {
    let keys = dir.join("keys");
    std::fs::create_dir(&keys)?;
    let signer = generate_signing_key(&dir.join("signing.key"))?;
    let half = generate_identity(&keys.join(IDENTITY_FILE), "low", false)?;
    Trust::add(&keys, &signer.public_half("plant-7"), Validity::default())?;
    let folders = Folders::of(&dir.join("state"));
    folders.create()?;
    let recipients = Recipients::new(vec![half]).map_err(|problem| format!("{problem:?}"))?;
    let high = High { signer, recipients, number: 0, previous: BundleDigest::ZERO, sequence: 0 };
    let importer = Importer {
        ledger: Ledger::open(&folders.state)?,
        folders,
        keys: KeyRing::new(Keys::load(&keys, &ReleasePolicy::default())?),
        limits: Limits::default(),
        admission: POLICY,
        clock: SystemClock,
        source: Source::Command("a benchmark"),
        log: None,
        rebuilding: false,
        word: None,
    };
    Ok((high, importer))
}

fn facts(number: u64, previous: BundleDigest) -> BundleFacts {
    BundleFacts {
        chain: ChainName {
            origin: "plant-7".parse().expect("a name"),
            epoch: Epoch(1),
            lane: Lane::Routine,
        },
        candidate: Candidate {
            epoch: Epoch(1),
            number,
            digest: BundleDigest::of(&number.to_le_bytes()),
            previous,
            first_sequence: (number - 1) * IMPORTED_RECORDS + 1,
            last_sequence: number * IMPORTED_RECORDS,
        },
        records: IMPORTED_RECORDS,
        streams: Vec::new(),
        suppressed: Vec::new(),
        received: None,
        lost_in_range: 0,
        losses: Vec::new(),
        chain_before: BundleDigest::ZERO,
        chain_head: BundleDigest::ZERO,
        sealed: Nanos(1),
        signer: "SHA256:x".to_owned(),
        file_bytes: 1,
        arrival: None,
        restores: false,
        before: None,
    }
}

impl High {
    fn seal(&mut self, dir: &Path, records: u64) -> Outcomes<PathBuf> {
        let source = SourceTag::new("syslog", "10.0.0.1:6514", None);
        let now = SystemClock.now();
        let first = self.sequence + 1;
        let mut encoded = Vec::new();
        let mut raw = Vec::new();
        let mut bytes = 0;
        for _ in 0..records {
            self.sequence += 1;
            message(&mut raw, self.sequence);
            bytes += raw.len() as u64;
            encode(
                &mut encoded,
                Sequence(self.sequence),
                now,
                Stream::PortainerActivity,
                &source,
                None,
                &raw,
            );
        }
        self.number += 1;
        let manifest = Manifest {
            origin: "plant-7".parse()?,
            epoch: Epoch(1),
            lane: Lane::Routine,
            number: self.number,
            previous: self.previous,
            agent: "bench/1".to_owned(),
            sealed_at: now,
            reason: SealReason::Count,
            records,
            first_sequence: Sequence(first),
            last_sequence: Sequence(self.sequence),
            records_bytes: encoded.len() as u64,
            oldest: Some(now),
            newest: Some(now),
            chain_before: BundleDigest::ZERO,
            chain_head: BundleDigest::ZERO,
            streams: vec![StreamCount { stream: Stream::PortainerActivity, records, bytes }],
            suppressed: Vec::new(),
            losses: Vec::new(),
        };
        let path = dir.join(format!("{:010}.pstk", self.number));
        let file = File::create_new(&path)?;
        let sealed = seal(&manifest, &self.signer, &self.recipients, 3, &file, |out| {
            out.write_all(&encoded)
        })?;
        self.previous = sealed.digest;
        Ok(path)
    }
}

/// An RFC 5424 line that is as hard to compress as real ones.
fn message(out: &mut Vec<u8>, sequence: u64) {
    let mut state = sequence.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    out.clear();
    out.extend_from_slice(
        format!(
            "<134>1 2026-11-23T21:10:19.{:06}Z edge-{} portainer 1 - - ",
            sequence % 1_000_000,
            sequence % 50
        )
        .as_bytes(),
    );
    out.extend_from_slice(
        format!(
            "{{\"id\":{sequence},\"username\":\"user{}\",\"action\":\"POST /api/",
            sequence % 99
        )
        .as_bytes(),
    );
    while out.len() < MESSAGE_BYTES - 2 {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        let words: [&[u8]; 8] = [
            b"stacks/",
            b"endpoints/",
            b"docker/",
            b"containers/",
            b"exec ",
            b"users ",
            b"settings ",
            b"x",
        ];
        out.extend_from_slice(words[(state >> 60) as usize & 7]);
        out.extend_from_slice(format!("{:x}", state >> 48).as_bytes());
    }
    out.extend_from_slice(b"\"}");
}
