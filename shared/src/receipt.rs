//! Receipts: what arrived on the low side, signed by it, carried back by a person.
//!
//! A receipt is one file: JSON in one form, and behind it the armored SSHSIG over it in the namespace
//! `penstock-receipt@v1`. Nothing depends on one: it tells the high side earlier what it would keep
//! anyway, and asks for what is missing. A resend request, as a link's receiver writes it, asks for the
//! same without a signature.
//!
//! Receipts cross towards the more secret side, so they are small, hold nothing but numbers, names of
//! a fixed form and digests, and everything that is not in their one form is refused.

use serde::{Deserialize, Serialize};

use crate::bundle::BundleDigest;
use crate::clock::Nanos;
use crate::keys::{
    SignedBy, SigningKey, StatementKind, StatementProblem, StatementSigners, split_signed,
};
use crate::record::{Epoch, Lane, OriginId};

/// No receipt and no request is longer: some 5,000 ranges.
pub const RECEIPT_BYTES_MAX: u64 = 1 << 20;
/// More chains than this make no sense for one low side.
pub const CHAINS_MAX: usize = 1_000;
/// More ranges, of what came and of what is missing, are not listed in one receipt.
pub const RANGES_MAX: usize = 2_000;
/// More sinks than this make no sense.
const SINKS_MAX: usize = 64;
/// Refused files that a receipt lists; it counts them all.
pub const QUARANTINED_MAX: usize = 100;
/// The longest name of a sink or reason code.
const NAME_BYTES_MAX: usize = 128;

/// What is wrong with a receipt.
#[derive(Debug, thiserror::Error)]
pub enum ReceiptError {
    /// It is not in the one form that receipts have.
    #[error("is no receipt and no resend request: {0}")]
    Form(String),
    /// It has no signature.
    #[error(
        "carries no signature\n  try: the file as penstock-low receipt wrote it; a resend request is taken with --unsigned"
    )]
    Unsigned,
    /// Its signature is not believed.
    #[error("is not believed: {0}\n  try: penstock-high pair with the text of penstock-low public")]
    Signature(#[from] StatementProblem),
}

/// A range of bundle numbers in a chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MissingRange {
    /// Who sealed them.
    pub origin: OriginId,
    /// In which life of its buffer.
    pub epoch: Epoch,
    /// In which lane.
    pub lane: Lane,
    /// The first that is missing.
    pub first: u64,
    /// The last.
    pub last: u64,
}

/// Bundles that were admitted without a hole between them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AdmittedRange {
    /// The first.
    pub first: u64,
    /// The last.
    pub last: u64,
    /// The digest of the last.
    pub digest: BundleDigest,
}

/// What a sink has taken of a chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SinkMark {
    /// The sink.
    pub sink: String,
    /// Every sequence number up to this one was delivered, or did not need to be.
    pub through: u64,
    /// How many records it took.
    pub records: u64,
}

/// What arrived of one chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChainReceipt {
    /// Who sealed it.
    pub origin: OriginId,
    /// In which life of its buffer.
    pub epoch: Epoch,
    /// In which lane.
    pub lane: Lane,
    /// The bundles, in order.
    pub admitted: Vec<AdmittedRange>,
    /// Records in them.
    pub records: u64,
    /// The highest sequence number.
    pub last_sequence: u64,
    /// What the sinks have taken.
    pub sinks: Vec<SinkMark>,
}

/// A file that was refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QuarantinedFile {
    /// The SHA-256 of its content.
    pub sha256: BundleDigest,
    /// Why.
    pub code: String,
}

/// A receipt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Receipt {
    /// The low side's name.
    pub name: String,
    /// Its number: each is higher than the one before.
    pub number: u64,
    /// When it was written.
    pub time: Nanos,
    /// What arrived.
    pub chains: Vec<ChainReceipt>,
    /// What is missing.
    pub missing: Vec<MissingRange>,
    /// How many files were refused.
    pub quarantined: u64,
    /// The last of them.
    pub quarantined_files: Vec<QuarantinedFile>,
}

/// What a person brought.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Brought {
    /// A receipt that is believed, and whose it is.
    Receipt(Box<Receipt>, SignedBy),
    /// An unsigned request to send something again.
    Request(Vec<MissingRange>),
}

impl Brought {
    /// Reads a receipt that must be believed, or a resend request.
    pub fn read(file: &[u8], signers: &StatementSigners, now: Nanos) -> Result<Self, ReceiptError> {
        if file.len() as u64 > RECEIPT_BYTES_MAX {
            return Err(ReceiptError::Form("it is too long".to_owned()));
        }
        // The signature before anything in the text is looked at.
        if let Some((text, signature)) = split_signed(file) {
            let by = signers.verify(StatementKind::Receipt, text, signature, now)?;
            return Ok(Self::Receipt(Box::new(Receipt::parse(text)?), by));
        }
        let request: Result<RawRequest, _> = serde_json::from_slice(file);
        match request {
            Ok(request) => request.checked().map(Self::Request),
            Err(_) if Receipt::parse(file).is_ok() => Err(ReceiptError::Unsigned),
            Err(err) => Err(ReceiptError::Form(err.to_string())),
        }
    }

    /// What is asked for.
    pub fn missing(&self) -> &[MissingRange] {
        match self {
            Self::Receipt(receipt, _) => &receipt.missing,
            Self::Request(missing) => missing,
        }
    }
}

/// The text of a resend request for bundles of one origin.
pub fn resend_request(origin: &OriginId, missing: &[MissingRange]) -> String {
    let request = RawRequest {
        version: 1,
        origin: origin.to_string(),
        missing: missing
            .iter()
            .filter(|range| range.origin == *origin)
            .take(RANGES_MAX)
            .map(|range| RawMissing { origin: None, ..RawMissing::of(range) })
            .collect(),
    };
    serde_json::to_string_pretty(&request).unwrap_or_default() + "\n"
}

impl Receipt {
    /// The text that is signed.
    pub fn encode(&self) -> String {
        serde_json::to_string_pretty(&RawReceipt::of(self)).unwrap_or_default() + "\n"
    }

    /// The file: the text, and behind it the signature.
    pub fn sign(&self, key: &SigningKey) -> Result<String, ssh_key::Error> {
        let text = self.encode();
        let signature = key.sign_statement(StatementKind::Receipt, text.as_bytes())?;
        Ok(text + &signature)
    }

    fn parse(text: &[u8]) -> Result<Self, ReceiptError> {
        let raw: RawReceipt =
            serde_json::from_slice(text).map_err(|err| ReceiptError::Form(err.to_string()))?;
        let receipt = raw.checked()?;
        if receipt.encode().as_bytes() == text {
            Ok(receipt)
        } else {
            Err(form("it is not written as receipts are"))
        }
    }
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct RawReceipt {
    #[serde(rename = "penstock-receipt")]
    version: u32,
    name: String,
    number: u64,
    time: String,
    chains: Vec<RawChain>,
    missing: Vec<RawMissing>,
    quarantined: u64,
    quarantined_files: Vec<RawQuarantined>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct RawChain {
    origin: String,
    epoch: u64,
    lane: String,
    admitted: Vec<RawRange>,
    records: u64,
    last_sequence: u64,
    sinks: Vec<RawSink>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawRange {
    first: u64,
    last: u64,
    digest: String,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawSink {
    sink: String,
    through: u64,
    records: u64,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawQuarantined {
    sha256: String,
    code: String,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawMissing {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    origin: Option<String>,
    epoch: u64,
    lane: String,
    first: u64,
    last: u64,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawRequest {
    #[serde(rename = "penstock-resend")]
    version: u32,
    origin: String,
    missing: Vec<RawMissing>,
}

fn form(problem: &str) -> ReceiptError {
    ReceiptError::Form(problem.to_owned())
}

fn origin(text: &str) -> Result<OriginId, ReceiptError> {
    text.parse().map_err(|_| form("it holds an origin that is not allowed"))
}

fn lane(text: &str) -> Result<Lane, ReceiptError> {
    text.parse().map_err(|_| form("it holds a lane that there is not"))
}

fn digest(text: &str) -> Result<BundleDigest, ReceiptError> {
    text.parse().map_err(form)
}

/// Numbers begin with 1 and fit a database's integer.
fn ordered(first: u64, last: u64) -> Result<(), ReceiptError> {
    let fits = first >= 1 && first <= last && i64::try_from(last).is_ok();
    if fits { Ok(()) } else { Err(form("it holds a range that makes no sense")) }
}

fn at_most(count: usize, max: usize) -> Result<(), ReceiptError> {
    if count <= max { Ok(()) } else { Err(form("it lists more than a receipt may")) }
}

fn plain(text: String) -> Result<String, ReceiptError> {
    let plain = text.len() <= NAME_BYTES_MAX && text.bytes().all(|b| (b' '..=b'~').contains(&b));
    if plain { Ok(text) } else { Err(form("it holds a name that is not allowed")) }
}

impl RawMissing {
    fn of(range: &MissingRange) -> Self {
        Self {
            origin: Some(range.origin.to_string()),
            epoch: range.epoch.0,
            lane: range.lane.as_str().to_owned(),
            first: range.first,
            last: range.last,
        }
    }

    fn checked(self, default: Option<&OriginId>) -> Result<MissingRange, ReceiptError> {
        ordered(self.first, self.last)?;
        let named = self.origin.as_deref().map(origin).transpose()?;
        Ok(MissingRange {
            origin: named
                .or_else(|| default.cloned())
                .ok_or_else(|| form("something is missing of no origin"))?,
            epoch: Epoch(self.epoch),
            lane: lane(&self.lane)?,
            first: self.first,
            last: self.last,
        })
    }
}

impl RawRequest {
    fn checked(self) -> Result<Vec<MissingRange>, ReceiptError> {
        if self.version != 1 {
            return Err(form("its version is not known here"));
        }
        at_most(self.missing.len(), RANGES_MAX)?;
        let of = origin(&self.origin)?;
        self.missing.into_iter().map(|range| range.checked(Some(&of))).collect()
    }
}

impl RawReceipt {
    fn of(receipt: &Receipt) -> Self {
        let chain = |chain: &ChainReceipt| RawChain {
            origin: chain.origin.to_string(),
            epoch: chain.epoch.0,
            lane: chain.lane.as_str().to_owned(),
            admitted: chain
                .admitted
                .iter()
                .map(|range| RawRange {
                    first: range.first,
                    last: range.last,
                    digest: range.digest.to_string(),
                })
                .collect(),
            records: chain.records,
            last_sequence: chain.last_sequence,
            sinks: chain
                .sinks
                .iter()
                .map(|mark| RawSink {
                    sink: mark.sink.clone(),
                    through: mark.through,
                    records: mark.records,
                })
                .collect(),
        };
        Self {
            version: 1,
            name: receipt.name.clone(),
            number: receipt.number,
            time: receipt.time.to_string(),
            chains: receipt.chains.iter().map(chain).collect(),
            missing: receipt.missing.iter().map(RawMissing::of).collect(),
            quarantined: receipt.quarantined,
            quarantined_files: receipt
                .quarantined_files
                .iter()
                .map(|file| RawQuarantined {
                    sha256: file.sha256.to_string(),
                    code: file.code.clone(),
                })
                .collect(),
        }
    }

    fn checked(self) -> Result<Receipt, ReceiptError> {
        if self.version != 1 {
            return Err(form("its version is not known here"));
        }
        at_most(self.chains.len(), CHAINS_MAX)?;
        at_most(self.missing.len(), RANGES_MAX)?;
        at_most(self.chains.iter().map(|chain| chain.admitted.len()).sum(), RANGES_MAX)?;
        at_most(self.quarantined_files.len(), QUARANTINED_MAX)?;
        let sink = |raw: RawSink| {
            Ok(SinkMark { sink: plain(raw.sink)?, through: raw.through, records: raw.records })
        };
        let chain = |raw: RawChain| {
            at_most(raw.sinks.len(), SINKS_MAX)?;
            let mut admitted: Vec<AdmittedRange> = Vec::with_capacity(raw.admitted.len());
            for range in raw.admitted {
                ordered(range.first, range.last)?;
                if admitted.last().is_some_and(|before| range.first <= before.last) {
                    return Err(form("its ranges are not in order"));
                }
                let digest = digest(&range.digest)?;
                admitted.push(AdmittedRange { first: range.first, last: range.last, digest });
            }
            Ok(ChainReceipt {
                origin: origin(&raw.origin)?,
                epoch: Epoch(raw.epoch),
                lane: lane(&raw.lane)?,
                admitted,
                records: raw.records,
                last_sequence: raw.last_sequence,
                sinks: raw.sinks.into_iter().map(sink).collect::<Result<_, ReceiptError>>()?,
            })
        };
        let refused = |raw: RawQuarantined| {
            Ok(QuarantinedFile { sha256: digest(&raw.sha256)?, code: plain(raw.code)? })
        };
        Ok(Receipt {
            name: origin(&self.name)?.to_string(),
            number: self.number,
            time: self.time.parse().map_err(|_| form("its time is none"))?,
            chains: self.chains.into_iter().map(chain).collect::<Result<_, ReceiptError>>()?,
            missing: self
                .missing
                .into_iter()
                .map(|range| range.checked(None))
                .collect::<Result<_, _>>()?,
            quarantined: self.quarantined,
            quarantined_files: self
                .quarantined_files
                .into_iter()
                .map(refused)
                .collect::<Result<_, ReceiptError>>()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keys::{PublicHalf, PublicKey, Side, receipt_key};

    fn range(first: u64, last: u64) -> MissingRange {
        let origin = "plant-7".parse().unwrap();
        MissingRange { origin, epoch: Epoch(2), lane: Lane::Flash, first, last }
    }

    fn receipt() -> Receipt {
        let admitted = |first, last| AdmittedRange { first, last, digest: BundleDigest::of(b"x") };
        Receipt {
            name: "soc-1".to_owned(),
            number: 7,
            time: Nanos(1),
            chains: vec![ChainReceipt {
                origin: "plant-7".parse().unwrap(),
                epoch: Epoch(2),
                lane: Lane::Flash,
                admitted: vec![admitted(1, 3), admitted(6, 6)],
                records: 40,
                last_sequence: 44,
                sinks: vec![SinkMark { sink: "siem".to_owned(), through: 40, records: 38 }],
            }],
            missing: vec![range(4, 5)],
            quarantined: 1,
            quarantined_files: vec![QuarantinedFile {
                sha256: BundleDigest::of(b"y"),
                code: "container".to_owned(),
            }],
        }
    }

    fn signers() -> (tempfile::TempDir, SigningKey, StatementSigners) {
        let dir = tempfile::tempdir().unwrap();
        let (key, _) = receipt_key(dir.path()).unwrap();
        let half = PublicHalf {
            side: Side::Low,
            name: "soc-1".to_owned(),
            key: PublicKey::X25519(age::x25519::Identity::generate().to_public()),
            signer: Some(Box::new(key.public_key())),
        };
        StatementSigners::add(dir.path(), &half).unwrap();
        let signers = StatementSigners::load(dir.path()).unwrap();
        (dir, key, signers)
    }

    #[test]
    fn a_receipt_reads_back_where_its_signature_is_believed() {
        let (_dir, key, signers) = signers();
        let file = receipt().sign(&key).unwrap();
        let read = |file: &[u8]| Brought::read(file, &signers, Nanos(0));
        match read(file.as_bytes()).unwrap() {
            Brought::Receipt(read, by) => {
                assert_eq!((*read, by.name.as_str()), (receipt(), "soc-1"));
            }
            Brought::Request(_) => panic!("it is a receipt"),
        }
        assert!(matches!(read(receipt().encode().as_bytes()), Err(ReceiptError::Unsigned)));
        // Every changed byte is refused, in text and signature alike.
        for at in (0..file.len()).step_by(7) {
            let mut changed = file.clone().into_bytes();
            changed[at] ^= 1;
            assert!(read(&changed).is_err(), "byte {at}");
        }
        let nobody = StatementSigners::default();
        assert!(Brought::read(file.as_bytes(), &nobody, Nanos(0)).is_err());
    }

    #[test]
    fn a_request_reads_back_and_is_told_from_a_receipt() {
        let nobody = StatementSigners::default();
        let text = resend_request(&"plant-7".parse().unwrap(), &[range(4, 5), range(9, 9)]);
        let read = Brought::read(text.as_bytes(), &nobody, Nanos(0)).unwrap();
        assert_eq!(read, Brought::Request(vec![range(4, 5), range(9, 9)]));
    }

    #[test]
    fn what_makes_no_sense_is_refused_although_it_is_signed() {
        let (_dir, key, signers) = signers();
        let refused = |change: &dyn Fn(&mut Receipt)| {
            let mut changed = receipt();
            change(&mut changed);
            let file = changed.sign(&key).unwrap();
            Brought::read(file.as_bytes(), &signers, Nanos(0)).is_err()
        };
        assert!(!refused(&|_| {}));
        assert!(refused(&|receipt| receipt.missing[0].first = 0));
        assert!(refused(&|receipt| receipt.missing[0].last = 3));
        assert!(refused(&|receipt| receipt.missing[0].last = u64::MAX));
        assert!(refused(&|receipt| receipt.missing = vec![range(1, 1); RANGES_MAX + 1]));
        assert!(refused(&|receipt| receipt.chains[0].admitted.reverse()));
        assert!(refused(&|receipt| receipt.name = "../x".to_owned()));
        assert!(refused(&|receipt| receipt.chains[0].sinks[0].sink = "a\u{1b}[2J".to_owned()));
        let resigned = |text: String| {
            let signature = key.sign_statement(StatementKind::Receipt, text.as_bytes()).unwrap();
            Brought::read((text + &signature).as_bytes(), &signers, Nanos(0)).is_err()
        };
        assert!(!resigned(receipt().encode()));
        assert!(resigned(receipt().encode().replace("\"number\"", "\"more\": 1, \"number\"")));
        assert!(resigned(receipt().encode().replace("  ", " ")));
        assert!(resigned(receipt().encode().replace("receipt\": 1", "receipt\": 2")));
    }

    #[test]
    fn hostile_files_are_refused_at_once() {
        let nobody = StatementSigners::default();
        let deep = "[".repeat(200_000);
        let long = "x".repeat(usize::try_from(RECEIPT_BYTES_MAX).unwrap() + 1);
        for text in
            ["", "{}", "null", "[]", deep.as_str(), long.as_str(), "{\"penstock-resend\":1}"]
        {
            assert!(Brought::read(text.as_bytes(), &nobody, Nanos(0)).is_err());
        }
    }
}
