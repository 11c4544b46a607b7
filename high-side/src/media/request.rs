//! A request to send bundles again: what the low side misses, carried back by a person.
//!
//! It comes from the less secret side and is looked at accordingly: small, strict in what it needs, and
//! nothing in it is a path or a name. Sending a sealed bundle again tells nobody anything new, so a
//! request need not be signed; one whose signature is wrong is refused all the same.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::{Value, json};
use shared::clock::Nanos;
use shared::keys::{KeyError, StatementKind, StatementSigners, split_signed};
use shared::record::Lane;

use crate::buffer::{BufferError, Bundle, BundleState, Store};
use crate::config::Config;

/// No request is longer: it holds 100,000 ranges.
const REQUEST_BYTES_MAX: u64 = 8 << 20;
/// More ranges than this are a mistake.
const RANGES_MAX: usize = 100_000;

/// What is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    ranges: Vec<Range>,
    /// Who signed it, if somebody did.
    pub signed_by: Option<String>,
}

/// Bundles `first` to `last` of a lane of an epoch.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
struct Range {
    /// A receipt speaks of several high sides.
    #[serde(default)]
    origin: Option<String>,
    epoch: u64,
    lane: Lane,
    first: u64,
    last: u64,
}

/// Only what is needed: a receipt says much more.
#[derive(Deserialize)]
struct Raw {
    #[serde(default, rename = "penstock-resend", alias = "penstock-receipt")]
    version: Option<u64>,
    #[serde(default)]
    origin: Option<String>,
    missing: Vec<Range>,
}

/// Why a request is not followed.
#[derive(Debug, thiserror::Error)]
pub enum RequestError {
    /// It can't be read.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// It is no request.
    #[error(
        "{path}: is no request: {problem}\n  try: the file that penstock-low wrote, as it is; or {{\"penstock-resend\": 1, \"origin\": ..., \"missing\": [{{\"epoch\": ..., \"lane\": \"flash\", \"first\": 1, \"last\": 2}}]}}"
    )]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// It is for another high side.
    #[error("{path}: asks {asked} for bundles, and this is {ours}")]
    OtherOrigin {
        /// The file.
        path: PathBuf,
        /// Whom it asks.
        asked: String,
        /// Who we are.
        ours: String,
    },
    /// It is signed, and the signature is not believed.
    #[error(
        "{path}: {problem}\n  try: penstock-high pair LOW.pub, after comparing the fingerprint; or have the file carried again"
    )]
    Signature {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// The list of those who are believed.
    #[error(transparent)]
    Keys(#[from] KeyError),
}

/// What was asked for and can't be sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unsendable {
    epoch: u64,
    lane: Lane,
    first: u64,
    last: u64,
    why: String,
}

impl Unsendable {
    /// A bundle whose file somebody took away.
    pub fn file_gone(epoch: u64, lane: Lane, number: u64) -> Self {
        let why = "its file is gone from the outbox".to_owned();
        Self { epoch, lane, first: number, last: number, why }
    }

    /// For people.
    pub fn to_text(&self) -> String {
        let Self { epoch, lane, first, last, why } = self;
        let numbers = if first == last {
            format!("bundle {first}")
        } else {
            format!("bundles {first} to {last}")
        };
        format!("{numbers} of lane {lane}, epoch {epoch}: {why}")
    }

    /// For programs.
    pub fn to_json(&self) -> Value {
        let Self { epoch, lane, first, last, why } = self;
        json!({"epoch": epoch, "lane": lane, "first": first, "last": last, "why": why})
    }
}

impl Request {
    /// Reads a request, or a receipt, which says what is missing in the same words.
    pub fn load(path: &Path, config: &Config, now: Nanos) -> Result<Self, RequestError> {
        let failed = |source| RequestError::Io { path: path.to_owned(), source };
        let malformed =
            |problem: String| RequestError::Malformed { path: path.to_owned(), problem };
        let mut bytes = Vec::new();
        let file = File::open(path).map_err(failed)?;
        file.take(REQUEST_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(failed)?;
        if bytes.len() as u64 > REQUEST_BYTES_MAX {
            return Err(malformed(format!("it is longer than {REQUEST_BYTES_MAX} bytes")));
        }
        let mut signed_by = None;
        let text = match split_signed(&bytes) {
            Some((text, armored)) => {
                let signers = StatementSigners::load(&config.keys_dir)?;
                let verified = signers.verify(StatementKind::Receipt, text, armored, now);
                let signer = verified.map_err(|problem| RequestError::Signature {
                    path: path.to_owned(),
                    problem: problem.to_string(),
                })?;
                signed_by = Some(signer.name);
                text
            }
            None => &bytes,
        };
        let raw: Raw = serde_json::from_slice(text).map_err(|err| malformed(err.to_string()))?;
        if raw.version != Some(1) {
            return Err(malformed("it is of a version that is not known here".to_owned()));
        }
        let ours = config.origin.as_str();
        if let Some(asked) = raw.origin.as_deref().filter(|asked| *asked != ours) {
            let (asked, ours) = (asked.escape_debug().to_string(), ours.to_owned());
            return Err(RequestError::OtherOrigin { path: path.to_owned(), asked, ours });
        }
        if raw.missing.iter().any(|range| range.origin.is_none() && raw.origin.is_none()) {
            return Err(malformed("something is missing of no origin".to_owned()));
        }
        if raw.missing.len() > RANGES_MAX {
            return Err(malformed(format!("it has more than {RANGES_MAX} ranges")));
        }
        if raw.missing.iter().any(|range| range.first == 0 || range.first > range.last) {
            return Err(malformed("a range begins at 0 or ends before it begins".to_owned()));
        }
        let mut ranges = raw.missing;
        ranges.retain(|range| range.origin.as_deref().is_none_or(|origin| origin == ours));
        Ok(Self { ranges, signed_by })
    }

    /// The bundles that are asked for and still here, and those that can't be sent, with the reason.
    /// The numbers of a range are never counted through: it may claim any.
    pub fn select(&self, store: &Store) -> Result<(Vec<Bundle>, Vec<Unsendable>), BufferError> {
        let known: BTreeMap<(Lane, u64), Bundle> =
            store.bundles(None)?.into_iter().map(|b| ((b.lane, b.number), b)).collect();
        let (mut here, mut gone) = (BTreeMap::new(), Vec::new());
        for Range { epoch, lane, first, last, .. } in &self.ranges {
            let (epoch, lane) = (*epoch, *lane);
            let mut no = |first, last, why: String| {
                gone.push(Unsendable { epoch, lane, first, last, why });
            };
            if epoch != store.epoch().0 {
                no(
                    *first,
                    *last,
                    format!(
                        "of another epoch than {}\n    try: its files may still lie in the folder earlier-epochs of the outbox; copy them by hand",
                        store.epoch()
                    ),
                );
                continue;
            }
            let mut next = *first;
            for ((_, number), bundle) in known.range((lane, *first)..=(lane, *last)) {
                if *number > next {
                    no(next, number - 1, NOT_KNOWN.to_owned());
                }
                next = number.saturating_add(1);
                match why_not(bundle, store)? {
                    Some(why) => no(*number, *number, why),
                    None => {
                        here.insert((lane, *number), bundle.clone());
                    }
                }
            }
            if next <= *last {
                let newest = known.range((lane, 0)..=(lane, u64::MAX)).next_back();
                let newest = newest.map_or(0, |((_, number), _)| *number);
                let why = if next > newest { "never sealed" } else { NOT_KNOWN };
                no(next, *last, why.to_owned());
            }
        }
        Ok((here.into_values().collect(), gone))
    }
}

/// Why a bundle that is known can't be sent, if it can't.
fn why_not(bundle: &Bundle, store: &Store) -> Result<Option<String>, BufferError> {
    Ok(match bundle.state {
        BundleState::Ready | BundleState::HandedOver => None,
        BundleState::Deleted => {
            let when = bundle.deleted.map(|time| format!(" at {time}")).unwrap_or_default();
            Some(format!("deleted{when}, as [outbox] retain says"))
        }
        BundleState::Refused => {
            let review = store.review(bundle.lane, bundle.number)?;
            let by = review.and_then(|review| review.refused).map(|refused| refused.officer);
            Some(format!("refused by {}: it never leaves", by.as_deref().unwrap_or("an officer")))
        }
        BundleState::AwaitingRelease | BundleState::Released => {
            Some("it still waits for officers".to_owned())
        }
        BundleState::Planned | BundleState::Sealed => Some("it is still being sealed".to_owned()),
    })
}

const NOT_KNOWN: &str = "deleted so long ago that it is known no more";
