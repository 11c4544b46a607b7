//! One entry, and its one encoding: a line of JSON with the fields in this order.
//!
//! ```text
//! {"n":7,"at":"2026-...Z","previous":"<SHA-256 of line 6>","who":"agent","action":"sealed",
//!  "bundle":{"origin":..,"epoch":..,"lane":..,"number":..,"digest":..},
//!  "file":{"name":..,"sha256":..,"bytes":..},"detail":".."}
//! ```
//!
//! The hash of an entry is the SHA-256 of its line with the line feed, which `sed -n 7p FILE |
//! sha256sum` prints. What reads back encodes to the same bytes.

use serde::{Deserialize, Serialize};

use super::Checkpoint;
use crate::bundle::BundleDigest;
use crate::clock::Nanos;
use crate::record::{Epoch, Lane, OriginId};

/// No line is longer: an entry has about 500 bytes, a checkpoint about 900.
pub const LINE_BYTES_MAX: usize = 16 * 1024;

/// The longest detail that is kept, in bytes; longer ones are cut, so that every line has an end.
const DETAIL_BYTES_MAX: usize = 2048;

/// What was done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Action {
    /// Low: a bundle was admitted into ledger and store.
    Admitted,
    /// Low: an archive holds a bundle.
    Archived,
    /// Low: it was looked whether an archive keeps what it promised.
    ArchiveVerified,
    /// High: a sealed bundle waits for officers.
    AwaitingRelease,
    /// Either: a backup was made.
    BackedUp,
    /// Either: a signed checkpoint.
    Checkpoint,
    /// Either: the log goes on although its database did not know its end.
    Continued,
    /// Either: a file was deleted.
    Deleted,
    /// Low: a bundle came that had been admitted before.
    Duplicate,
    /// Low: what waits behind a gap is delivered without what is missing.
    GapPassed,
    /// High: a bundle was handed over.
    HandedOver,
    /// Low: a file was refused.
    Quarantined,
    /// High: a bundle stands in the outbox.
    Ready,
    /// High: a receipt says that a bundle arrived.
    ReceiptConfirmed,
    /// Low: a receipt was written. High: a receipt was taken in.
    ReceiptMade,
    /// Low: a file came.
    Received,
    /// High: an officer refused a bundle.
    Refused,
    /// High: officers released a bundle.
    Released,
    /// Either: the log's end was mended.
    Repaired,
    /// Low: a sink has taken all of a bundle.
    Replayed,
    /// High: a bundle is to be sent again.
    Requeued,
    /// Either: a backup was restored.
    Restored,
    /// High: a bundle was sealed.
    Sealed,
    /// High: a bundle was sent again.
    SentAgain,
    /// Either: a medium was written or read, and a record of it made.
    Transfer,
}

impl Action {
    /// Every action.
    pub const ALL: [Action; 25] = [
        Action::Admitted,
        Action::Archived,
        Action::ArchiveVerified,
        Action::AwaitingRelease,
        Action::BackedUp,
        Action::Checkpoint,
        Action::Continued,
        Action::Deleted,
        Action::Duplicate,
        Action::GapPassed,
        Action::HandedOver,
        Action::Quarantined,
        Action::Ready,
        Action::ReceiptConfirmed,
        Action::ReceiptMade,
        Action::Received,
        Action::Refused,
        Action::Released,
        Action::Repaired,
        Action::Replayed,
        Action::Requeued,
        Action::Restored,
        Action::Sealed,
        Action::SentAgain,
        Action::Transfer,
    ];

    /// The action's name.
    pub fn as_str(self) -> &'static str {
        match self {
            Action::Admitted => "admitted",
            Action::Archived => "archived",
            Action::ArchiveVerified => "archive-verified",
            Action::AwaitingRelease => "awaiting-release",
            Action::BackedUp => "backed-up",
            Action::Checkpoint => "checkpoint",
            Action::Continued => "continued",
            Action::Deleted => "deleted",
            Action::Duplicate => "duplicate",
            Action::GapPassed => "gap-passed",
            Action::HandedOver => "handed-over",
            Action::Quarantined => "quarantined",
            Action::Ready => "ready",
            Action::ReceiptConfirmed => "receipt-confirmed",
            Action::ReceiptMade => "receipt-made",
            Action::Received => "received",
            Action::Refused => "refused",
            Action::Released => "released",
            Action::Repaired => "repaired",
            Action::Replayed => "replayed",
            Action::Requeued => "requeued",
            Action::Restored => "restored",
            Action::Sealed => "sealed",
            Action::SentAgain => "sent-again",
            Action::Transfer => "transfer",
        }
    }

    fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|action| action.as_str() == text)
    }
}

/// The bundle that an entry is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CustodyBundle {
    /// Who sealed it.
    pub origin: OriginId,
    /// In which life of its buffer.
    pub epoch: Epoch,
    /// In which lane.
    pub lane: Lane,
    /// Its number.
    pub number: u64,
    /// The digest of its header, once it is known.
    pub digest: Option<BundleDigest>,
}

/// The file that an entry is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CustodyFile {
    /// Its name.
    pub name: String,
    /// The SHA-256 of its content.
    pub sha256: BundleDigest,
    /// Its length.
    pub bytes: u64,
}

/// What is to be noted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CustodyEvent {
    /// When it was done.
    pub at: Nanos,
    /// Who did it.
    pub who: String,
    /// What was done.
    pub action: Action,
    /// To which bundle.
    pub bundle: Option<CustodyBundle>,
    /// To which file.
    pub file: Option<CustodyFile>,
    /// What else there is to say; empty for nothing.
    pub detail: String,
}

impl CustodyEvent {
    /// An event by whoever acts in this process.
    pub fn new(at: Nanos, action: Action) -> Self {
        Self { at, who: super::who(), action, bundle: None, file: None, detail: String::new() }
    }

    /// It is about this bundle.
    #[must_use]
    pub fn bundle(mut self, bundle: CustodyBundle) -> Self {
        self.bundle = Some(bundle);
        self
    }

    /// It is about this file.
    #[must_use]
    pub fn file(mut self, file: CustodyFile) -> Self {
        self.file = Some(file);
        self
    }

    /// It has this to say besides.
    #[must_use]
    pub fn detail(mut self, detail: impl Into<String>) -> Self {
        self.detail = detail.into();
        self
    }
}

/// The end of a log: how many entries it has, and the hash of the last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// The number of the last entry; 0 before the first.
    pub number: u64,
    /// Its hash; zeros before the first.
    pub hash: BundleDigest,
}

impl Head {
    /// Before the first entry.
    pub const BEGIN: Self = Self { number: 0, hash: BundleDigest::ZERO };

    /// The line of the next entry, and the head behind it.
    pub fn append(&self, event: CustodyEvent) -> (String, Self) {
        self.append_with(event, None)
    }

    pub(super) fn append_with(
        &self,
        mut event: CustodyEvent,
        checkpoint: Option<Checkpoint>,
    ) -> (String, Self) {
        event.detail = cut(event.detail);
        if let Some(file) = &mut event.file {
            file.name = cut(std::mem::take(&mut file.name));
        }
        let number = self.number + 1;
        let line = Entry { number, previous: self.hash, event, checkpoint }.encode();
        let hash = BundleDigest::of(line.as_bytes());
        (line, Self { number, hash })
    }
}

/// An entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its number: 1 for the first, without holes.
    pub number: u64,
    /// The hash of the entry before.
    pub previous: BundleDigest,
    /// What it notes.
    pub event: CustodyEvent,
    /// The signed checkpoint, if it is one.
    pub checkpoint: Option<Checkpoint>,
}

/// Why a line is no entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct EntryProblem(pub &'static str);

impl Entry {
    /// The line, with its line feed.
    pub fn encode(&self) -> String {
        let event = &self.event;
        let line = Line {
            n: self.number,
            at: event.at.to_string(),
            previous: self.previous.to_string(),
            who: event.who.clone(),
            action: event.action.as_str().to_owned(),
            bundle: event.bundle.as_ref().map(|bundle| LineBundle {
                origin: bundle.origin.to_string(),
                epoch: bundle.epoch.0,
                lane: bundle.lane.as_str().to_owned(),
                number: bundle.number,
                digest: bundle.digest.map(|digest| digest.to_string()),
            }),
            file: event.file.as_ref().map(|file| LineFile {
                name: file.name.clone(),
                sha256: file.sha256.to_string(),
                bytes: file.bytes,
            }),
            detail: Some(event.detail.clone()).filter(|detail| !detail.is_empty()),
            statement: self.checkpoint.as_ref().map(|checkpoint| checkpoint.statement.clone()),
            signature: self.checkpoint.as_ref().map(|checkpoint| checkpoint.signature.clone()),
        };
        // A plain structure of strings and numbers always has a JSON form.
        serde_json::to_string(&line).unwrap_or_default() + "\n"
    }

    /// Parses a line, with or without its line feed; only the one encoding is accepted.
    pub fn parse(bytes: &[u8]) -> Result<Self, EntryProblem> {
        const NOT_ONE: EntryProblem = EntryProblem("is no entry");
        if bytes.len() > LINE_BYTES_MAX {
            return Err(EntryProblem("is longer than any entry"));
        }
        let bytes = bytes.strip_suffix(b"\n").unwrap_or(bytes);
        let line: Line = serde_json::from_slice(bytes).map_err(|_| NOT_ONE)?;
        let digest = |text: &str| text.parse::<BundleDigest>().map_err(|_| NOT_ONE);
        let bundle = |bundle: LineBundle| {
            Ok(CustodyBundle {
                origin: bundle.origin.parse().map_err(|_| NOT_ONE)?,
                epoch: Epoch(bundle.epoch),
                lane: bundle.lane.parse().map_err(|_| NOT_ONE)?,
                number: bundle.number,
                digest: bundle.digest.as_deref().map(digest).transpose()?,
            })
        };
        let file = |file: LineFile| {
            Ok(CustodyFile { name: file.name, sha256: digest(&file.sha256)?, bytes: file.bytes })
        };
        let checkpoint = match (line.statement, line.signature) {
            (Some(statement), Some(signature)) => Some(Checkpoint { statement, signature }),
            (None, None) => None,
            _ => return Err(NOT_ONE),
        };
        let entry = Self {
            number: line.n,
            previous: digest(&line.previous)?,
            event: CustodyEvent {
                at: line.at.parse().map_err(|_| NOT_ONE)?,
                who: line.who,
                action: Action::parse(&line.action).ok_or(NOT_ONE)?,
                bundle: line.bundle.map(bundle).transpose()?,
                file: line.file.map(file).transpose()?,
                detail: line.detail.unwrap_or_default(),
            },
            checkpoint,
        };
        if (entry.event.action == Action::Checkpoint) != entry.checkpoint.is_some() {
            return Err(NOT_ONE);
        }
        let canonical = entry.encode();
        if canonical.as_bytes().strip_suffix(b"\n") == Some(bytes) {
            Ok(entry)
        } else {
            Err(EntryProblem("is not written as entries are"))
        }
    }
}

fn cut(text: String) -> String {
    let Some((end, _)) = text.char_indices().find(|(at, c)| at + c.len_utf8() > DETAIL_BYTES_MAX)
    else {
        return text;
    };
    format!("{}...", &text[..end])
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    n: u64,
    at: String,
    previous: String,
    who: String,
    action: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    bundle: Option<LineBundle>,
    #[serde(skip_serializing_if = "Option::is_none")]
    file: Option<LineFile>,
    #[serde(skip_serializing_if = "Option::is_none")]
    detail: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    statement: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    signature: Option<String>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct LineBundle {
    origin: String,
    epoch: u64,
    lane: String,
    number: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    digest: Option<String>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct LineFile {
    name: String,
    sha256: String,
    bytes: u64,
}
