//! Sealing and opening beside the bare libraries and tools, on the same records.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::PathBuf;
use std::process::Command;
use std::time::Instant;

use sha2::{Digest, Sha256};
use shared::bundle::{Limits, open};
use shared::clock::{Clock, SystemClock};
use shared::keys::{
    Identities, PublicHalf, Recipients, Trust, Validity, generate_identity, generate_signing_key,
};

use super::ingest::MIB;
use super::table::{Row, Sample, Table};
use super::{Options, note, progress};
use crate::chain::{BundleChain, COMPRESSION_LEVEL, EncodedRecords};
use crate::peers::{find, peer};
use crate::sandbox::Sandbox;

/// One measurement: does its work once.
type Work<'a> = Box<dyn FnMut() + 'a>;

/// Runs every measurement in turn, round by round; all figures are of plain record bytes.
pub(super) fn run(options: &Options, table: &mut Table) {
    let bench = Bench::new(options.seal_mib << 20);
    let mut chain = bench.chain();
    let mut works: Vec<(&str, &str, Work<'_>)> = vec![
        (
            "seal",
            "zstd, age, SHA-256, signature, sync",
            Box::new(|| {
                chain = bench.chain();
                chain.seal(&bench.out, &bench.records);
            }),
        ),
        ("open", "everything verified, every record parsed", Box::new(|| bench.open())),
        (
            "bare zstd, compressing",
            "library, one thread, written to a file",
            Box::new(|| bench.compress()),
        ),
        ("bare zstd, inflating", "library, one thread", Box::new(|| bench.inflate())),
        ("bare age, encrypting", "library, uncompressed records", Box::new(|| bench.encrypt())),
        ("bare SHA-256", "library, uncompressed records", Box::new(|| bench.hash())),
    ];
    if find("zstd").is_some() && find("age").is_some() {
        works.push(("zstd command", "-3, one thread", Box::new(|| bench.zstd_command())));
        works.push(("age command", "uncompressed records", Box::new(|| bench.age_command())));
        works.push((
            "sha256sum command",
            "uncompressed records",
            Box::new(|| bench.sha256_command()),
        ));
    }
    let mut rows: Vec<Row> = works
        .iter()
        .map(|(subject, note, _)| {
            let mut row = Row::new("seal", *subject, "MB/s");
            (*note).clone_into(&mut row.note);
            row
        })
        .collect();
    for round in 1..=options.rounds {
        for ((_, _, work), row) in works.iter_mut().zip(&mut rows) {
            let started = Instant::now();
            work();
            let seconds = started.elapsed().as_secs_f64();
            let figure = bench.records.bytes.len() as f64 / 1e6 / seconds;
            let sample = Sample { figure, ..Sample::default() };
            note(round, row, sample);
        }
    }
    let bundle = fs::metadata(&bench.bundle).map_or(0, |meta| meta.len());
    rows[0].note = format!(
        "{}; {:.0} MiB of records give {:.0} MiB",
        rows[0].note,
        bench.records.bytes.len() as f64 / MIB,
        bundle as f64 / MIB
    );
    table.rows.extend(rows);
}

/// The records in every shape that a measurement begins with.
struct Bench {
    sandbox: Sandbox,
    keys: PathBuf,
    half: PublicHalf,
    records: EncodedRecords,
    plain: PathBuf,
    compressed: Vec<u8>,
    bundle: PathBuf,
    out: PathBuf,
}

impl Bench {
    fn new(bytes: u64) -> Self {
        progress("making the records of seal and open");
        let sandbox = Sandbox::new("bench-seal");
        let keys = sandbox.dir("keys");
        let signing = generate_signing_key(&keys.join(SIGNING_KEY)).expect("a signing key");
        let half = generate_identity(&keys.join(IDENTITY), "low", false).expect("an identity");
        Trust::add(&keys, &signing.public_half(ORIGIN), Validity::default()).expect("a signer");
        let recipients = Recipients::new(vec![half.clone()]).expect("a recipient");
        let mut chain = BundleChain::with_keys(ORIGIN, signing, recipients);
        let records = chain.records(bytes / RECORD_BYTES);
        let plain = sandbox.join("plain");
        fs::write(&plain, &records.bytes).expect("room for the records");
        let compressed = zstd::encode_all(&records.bytes[..], COMPRESSION_LEVEL).expect("zstd");
        let (bundle, _) = chain.seal(&sandbox.dir("bundle"), &records);
        let out = sandbox.dir("out");
        Self { sandbox, keys, half, records, plain, compressed, bundle, out }
    }

    /// A new chain, so that every round seals the same bundle.
    fn chain(&self) -> BundleChain {
        for path in fs::read_dir(&self.out).into_iter().flatten().flatten() {
            let _ = fs::remove_file(path.path());
        }
        let signing =
            shared::keys::SigningKey::load(&self.keys.join(SIGNING_KEY)).expect("the key");
        let recipients = Recipients::new(vec![self.half.clone()]).expect("a recipient");
        BundleChain::with_keys(ORIGIN, signing, recipients)
    }

    fn open(&self) {
        let trust = Trust::load_dir(&self.keys).expect("the signer");
        let identities = Identities::load(&[self.keys.join(IDENTITY)]).expect("the identity");
        let file = File::open(&self.bundle).expect("the bundle");
        let opened = open(&file, &trust, &identities, &Limits::default(), SystemClock.now());
        let opened = opened.expect("our own bundle is opened");
        assert_eq!(opened.manifest().records, self.records.count);
    }

    fn compress(&self) {
        let file = File::create(self.sandbox.join("out.zst")).expect("a file");
        let mut encoder = zstd::Encoder::new(file, COMPRESSION_LEVEL).expect("zstd");
        encoder.write_all(&self.records.bytes).expect("zstd");
        encoder.finish().and_then(|file| file.sync_all()).expect("zstd");
    }

    fn inflate(&self) {
        let mut decoder = zstd::Decoder::new(&self.compressed[..]).expect("zstd");
        let mut buffer = vec![0; 128 * 1024];
        let mut left = self.records.bytes.len();
        while left > 0 {
            left -= decoder.read(&mut buffer).expect("zstd");
        }
    }

    fn encrypt(&self) {
        let recipient: age::x25519::Recipient =
            self.half.key.to_string().parse().expect("a recipient");
        let recipients = std::iter::once(&recipient as &dyn age::Recipient);
        let encryptor = age::Encryptor::with_recipients(recipients).expect("age");
        let mut writer = encryptor.wrap_output(io::sink()).expect("age");
        writer.write_all(&self.records.bytes).expect("age");
        writer.finish().expect("age");
    }

    fn hash(&self) {
        std::hint::black_box(Sha256::digest(&self.records.bytes));
    }

    fn zstd_command(&self) {
        let mut command = peer("zstd");
        command.args(["-q", "-f", "--single-thread", &format!("-{COMPRESSION_LEVEL}")]);
        succeed(command.arg(&self.plain).arg("-o").arg(self.sandbox.join("out.zst")));
    }

    fn age_command(&self) {
        let mut command = peer("age");
        command.arg("-r").arg(self.half.key.to_string()).arg("-o").arg(self.out.join("out.age"));
        succeed(command.arg(&self.plain));
    }

    fn sha256_command(&self) {
        succeed(peer("sha256sum").arg(&self.plain).stdout(std::process::Stdio::null()));
    }
}

fn succeed(command: &mut Command) {
    let status = command.status().unwrap_or_else(|err| panic!("can't start {command:?}: {err}"));
    assert!(status.success(), "{command:?} ended with {status}");
}

const ORIGIN: &str = "bench";
const SIGNING_KEY: &str = "signing.key";
const IDENTITY: &str = "identity.key";
/// About what one encoded record takes, in bytes.
const RECORD_BYTES: u64 = 830;
