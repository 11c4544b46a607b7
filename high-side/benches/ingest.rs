//! Measures the buffer alone: records of 750 bytes from four threads, every commit synced.
//!
//! `cargo bench -p high-side --bench ingest [-- FOLDER]`; the folder decides which disk is measured.

use std::fmt::Write as _;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use high_side::buffer::{
    Buffer, BufferError, BufferSettings, Fate, Incoming, IncomingMessage, Intake, PlanLimits,
    SealedFile, Store,
};
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike;
use shared::bundle::{BundleDigest, SealReason};
use shared::clock::{Clock, SystemClock};
use shared::record::{Lane, SourceTag, Stream};

const RECORD_BYTES: usize = 750;
const PRODUCERS: u64 = 4;
/// As much as one read of a busy socket gives.
const BATCH_RECORDS: u64 = 85;

type Failure = Box<dyn std::error::Error + Send + Sync>;

fn main() -> Result<(), Failure> {
    let dir = std::env::args().skip(1).find(|arg| !arg.starts_with('-'));
    let dir = dir.unwrap_or_else(|| std::env::temp_dir().to_string_lossy().into_owned());
    println!(
        "{:<22} {:>10} {:>9} {:>9} {:>8} {:>8} {:>8} {:>8} {:>8}",
        "run", "records/s", "CPU s/M", "of this", "B/rec", "p50 ms", "p99 ms", "max ms", "RSS MiB"
    );
    println!("{:<22} {:>10} {:>9} {:>9}", "", "", "all", "buffer");
    for (name, records, rate, sealing) in [
        ("5,000/s", 25_000, Some(5_000), false),
        ("200,000/s", 1_000_000, Some(200_000), false),
        ("200,000/s, draining", 1_000_000, Some(200_000), true),
        ("flood", 3_000_000, None, false),
        ("flood, draining", 3_000_000, None, true),
    ] {
        let folder = Path::new(&dir).join(format!("penstock-bench-{}", std::process::id()));
        let result = run(&folder, name, records, rate, sealing);
        std::fs::remove_dir_all(&folder)?;
        result?;
    }
    Ok(())
}

fn run(
    dir: &Path,
    name: &str,
    records: u64,
    rate: Option<u64>,
    draining: bool,
) -> Result<(), Failure> {
    let settings = BufferSettings::new(dir);
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let (mut buffer, _) = Buffer::open(settings, &"bench".parse()?, Arc::clone(&clock))?;
    let (intake, writer) = buffer.start_writer()?;
    let cpu_before = cpu(UsageWho::RUSAGE_SELF)?;
    let begun = Instant::now();
    let producers: Vec<_> = (0..PRODUCERS)
        .map(|producer| {
            let intake = intake.clone();
            std::thread::spawn(move || produce(producer, &intake, records / PRODUCERS, rate))
        })
        .collect();
    drop(intake);
    let mut drained = 0;
    if draining {
        drained = drain(&mut buffer.store()?, || writer.is_finished())?;
    }
    let mut producing = Duration::ZERO;
    for producer in producers {
        producing += producer.join().map_err(|_| "a producer panicked")??;
    }
    let stats = writer.join()?;
    let took = begun.elapsed();
    let spent = cpu(UsageWho::RUSAGE_SELF)?.saturating_sub(cpu_before);
    let rss = getrusage(UsageWho::RUSAGE_SELF)?.max_rss() / 1024;
    let gauges = buffer.gauges();
    let millis = |share| gauges.latency(share).as_secs_f64() * 1e3;
    let per_million = |cpu: Duration| cpu.as_secs_f64() * 1e6 / stats.records as f64;
    let disk = std::fs::metadata(dir.join("buffer.db"))?.len();
    println!(
        "{name:<22} {:>10.0} {:>9.2} {:>9.2} {:>8.0} {:>8.2} {:>8.2} {:>8.2} {rss:>8}",
        stats.records as f64 / took.as_secs_f64(),
        per_million(spent),
        per_million(spent.saturating_sub(producing)),
        disk as f64 / stats.records as f64,
        millis(0.5),
        millis(0.99),
        millis(1.0),
    );
    read_back(&buffer, stats.records - drained, clock.as_ref())
}

/// Plans, reads and seals bundles of 64 MiB until the writer has ended, as the sealer does.
/// Returns the records that went.
fn drain(store: &mut Store, ended: impl Fn() -> bool) -> Result<u64, Failure> {
    let limits = PlanLimits { records_max: u64::MAX, plain_bytes_max: 64 << 20 };
    let mut records = 0;
    while !ended() {
        if store.waiting(Lane::Routine)?.plain_bytes < limits.plain_bytes_max {
            std::thread::sleep(Duration::from_millis(20));
            continue;
        }
        let reason = SealReason::Size;
        let planned = store.plan_bundle(Lane::Routine, limits, reason, SystemClock.now())?;
        let planned = planned.ok_or("nothing to plan")?;
        store.read_blocks::<BufferError>(&planned, |_| Ok(()))?;
        records += planned.bundle().records;
        let (digest, sha256) = (BundleDigest::ZERO, [0; 32]);
        store.mark_sealed(planned, SealedFile { digest, name: String::new(), bytes: 0, sha256 })?;
    }
    Ok(records)
}

/// Plans one bundle of everything and reads it, as the sealer does.
fn read_back(buffer: &Buffer, records: u64, clock: &dyn Clock) -> Result<(), Failure> {
    let mut store = buffer.store()?;
    let limits = PlanLimits { records_max: u64::MAX, plain_bytes_max: u64::MAX };
    let begun = Instant::now();
    let planned = store
        .plan_bundle(Lane::Routine, limits, SealReason::Requested, clock.now())?
        .ok_or("nothing to plan")?;
    let planning = begun.elapsed();
    let mut bytes = 0;
    store.read_blocks::<BufferError>(&planned, |plain| {
        bytes += plain.len();
        Ok(())
    })?;
    let reading = begun.elapsed().saturating_sub(planning);
    assert_eq!(planned.bundle().records, records, "every record is there");
    let rate = |took: Duration| bytes as f64 / 1e6 / took.as_secs_f64();
    println!("  plan {:.0} MB/s, read {:.0} MB/s of plain bytes", rate(planning), rate(reading));
    Ok(())
}

/// Submits batches and returns the CPU time that this thread took for making them.
fn produce(
    producer: u64,
    intake: &Intake,
    records: u64,
    rate: Option<u64>,
) -> Result<Duration, Failure> {
    let source = Arc::new(SourceTag::new("bench", &format!("192.0.2.1:{producer}"), None));
    let begun = Instant::now();
    let per_batch =
        rate.map_or(BATCH_RECORDS, |rate| (rate / PRODUCERS / 500).clamp(1, BATCH_RECORDS));
    let texts: Vec<Vec<u8>> = (0..512).map(|n| text(producer << 32 | n)).collect();
    let mut made = 0;
    while made < records {
        if let Some(rate) = rate {
            let due = Duration::from_secs_f64((made * PRODUCERS) as f64 / rate as f64);
            std::thread::sleep(due.saturating_sub(begun.elapsed()));
        }
        let count = per_batch.min(records - made);
        let mut data = Vec::with_capacity(RECORD_BYTES * count as usize);
        let mut messages = Vec::with_capacity(count as usize);
        let received = SystemClock.now();
        for n in made..made + count {
            let start = data.len();
            data.extend_from_slice(&texts[n as usize % texts.len()]);
            // Every record is unique.
            data[start..start + 10].copy_from_slice(format!("{n:010}").as_bytes());
            let stream = Stream::KubeAudit;
            messages.push(IncomingMessage {
                lane: Lane::Routine,
                end: data.len(),
                received,
                stream,
                cut_from: None,
                fate: Fate::Kept,
            });
        }
        made += count;
        let source = Arc::clone(&source);
        intake.submit_blocking(Incoming {
            source,
            data,
            messages,
            mark: None,
            sightings: Vec::new(),
            committed: None,
        })?;
    }
    cpu(UsageWho::RUSAGE_THREAD)
}

/// An audit event in JSON: known words, and hexadecimal digits that do not compress.
fn text(seed: u64) -> Vec<u8> {
    const WORDS: [&str; 16] = [
        "create",
        "delete",
        "namespaces",
        "secrets",
        "pods",
        "exec",
        "default",
        "kube-system",
        "system:serviceaccount",
        "allow",
        "RequestResponse",
        "portainer",
        "endpoint",
        "admin",
        "authorization.k8s.io/decision",
        "deployments",
    ];
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    let mut text = format!("{:010} {{\"kind\":\"Event\",\"auditID\":\"{:016x}\"", 0, next());
    while text.len() < RECORD_BYTES - 40 {
        let (key, value) = (next() as usize % 16, next() as usize % 16);
        let _ = write!(text, ",\"{}\":\"{}-{:06x}\"", WORDS[key], WORDS[value], next() & 0xFF_FFFF);
    }
    text.push('}');
    let mut bytes = text.into_bytes();
    bytes.resize(RECORD_BYTES, b' ');
    bytes
}

fn cpu(who: UsageWho) -> Result<Duration, Failure> {
    let usage = getrusage(who)?;
    let micros = usage.user_time().num_microseconds() + usage.system_time().num_microseconds();
    Ok(Duration::from_micros(micros.try_into()?))
}
