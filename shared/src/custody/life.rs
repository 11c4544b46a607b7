//! One bundle's life, and a period's entries.

use std::collections::BTreeSet;
use std::io::{self, Write};
use std::str::FromStr;

use super::{CustodyFolder, Entry};
use crate::clock::Nanos;
use crate::record::{Epoch, Lane, OriginId};

/// More entries of one bundle are not shown; a carousel may note many passes.
const SHOWN_MAX: usize = 10_000;
/// The shortest beginning of a digest that stands for one.
const DIGITS_MIN: usize = 6;

/// Which bundle is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// The beginning of a bundle's digest or of a file's SHA-256.
    Digest(String),
    /// A file name.
    File(String),
    /// A number in a lane, in any epoch and of any origin where these are left out.
    Number(Option<OriginId>, Option<Epoch>, Lane, u64),
}

impl FromStr for Wanted {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const PROBLEM: &str = "name a bundle as LANE/NUMBER, EPOCH/LANE/NUMBER, ORIGIN/EPOCH/LANE/NUMBER, by its file's name, or by at least 6 digits of its digest";
        let mut parts = text.rsplit('/');
        if text.contains('/') {
            let number = parts.next().and_then(|number| number.parse().ok()).ok_or(PROBLEM)?;
            let lane = parts.next().and_then(|lane| lane.parse().ok()).ok_or(PROBLEM)?;
            let epoch = parts.next().map(str::parse).transpose().map_err(|_| PROBLEM)?.map(Epoch);
            let origin = parts.next().map(str::parse).transpose().map_err(|_| PROBLEM)?;
            return match parts.next() {
                None => Ok(Self::Number(origin, epoch, lane, number)),
                Some(_) => Err(PROBLEM),
            };
        }
        let hex = text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        match text.len() {
            0 => Err(PROBLEM),
            DIGITS_MIN..=64 if hex => Ok(Self::Digest(text.to_owned())),
            _ => Ok(Self::File(text.to_owned())),
        }
    }
}

impl Wanted {
    /// Whether it is one of these digests, of which only the beginning may be known, this file or this
    /// place in a chain.
    pub fn is_one(
        &self,
        digests: impl IntoIterator<Item = String>,
        file: Option<&str>,
        place: Option<(&OriginId, Epoch, Lane, u64)>,
    ) -> bool {
        match self {
            Self::Digest(digits) => digests
                .into_iter()
                .any(|digest| digest.starts_with(digits) || digits.starts_with(&digest)),
            Self::File(name) => file == Some(name),
            Self::Number(origin, epoch, lane, number) => place.is_some_and(|place| {
                (place.2, place.3) == (*lane, *number)
                    && origin.as_ref().is_none_or(|origin| origin == place.0)
                    && epoch.is_none_or(|epoch| epoch == place.1)
            }),
        }
    }

    fn is(&self, entry: &Entry) -> bool {
        let (bundle, file) = (entry.event.bundle.as_ref(), entry.event.file.as_ref());
        let digests = bundle.and_then(|bundle| bundle.digest).into_iter();
        self.is_one(
            digests.chain(file.map(|file| file.sha256)).map(|digest| digest.to_string()),
            file.map(|file| file.name.as_str()),
            bundle.map(|bundle| (&bundle.origin, bundle.epoch, bundle.lane, bundle.number)),
        )
    }
}

/// The entries about one bundle.
#[derive(Debug, Default)]
pub struct Life {
    /// They, in order.
    pub entries: Vec<Entry>,
    /// How many there are, shown or not.
    pub found: u64,
}

/// Collects what the log says about a bundle, also where an entry knows it under another name. Does
/// not verify the log.
pub fn life_of(folder: &CustodyFolder, wanted: &Wanted) -> io::Result<Life> {
    let key = |entry: &Entry| {
        let bundle = entry.event.bundle.as_ref()?;
        Some((bundle.origin.clone(), bundle.epoch, bundle.lane, bundle.number))
    };
    let sha256 = |entry: &Entry| entry.event.file.as_ref().map(|file| *file.sha256.as_bytes());
    let (mut bundles, mut files) = (BTreeSet::new(), BTreeSet::new());
    each_entry(folder, |entry, _| {
        if wanted.is(entry) && bundles.len() + files.len() < SHOWN_MAX {
            bundles.extend(key(entry));
            files.extend(sha256(entry));
        }
        Ok(())
    })?;
    let mut life = Life::default();
    each_entry(folder, |entry, _| {
        let named = key(entry).is_some_and(|key| bundles.contains(&key));
        let unnamed = || {
            entry.event.bundle.is_none() && sha256(entry).is_some_and(|hash| files.contains(&hash))
        };
        if named || unnamed() {
            life.found += 1;
            if life.entries.len() < SHOWN_MAX {
                life.entries.push(entry.clone());
            }
        }
        Ok(())
    })?;
    Ok(life)
}

/// Writes the lines of a period, byte for byte and without holes, on to the first checkpoint behind
/// it: what was taken out can be verified by itself. Gives the first entry's number and the last's.
pub fn export(
    folder: &CustodyFolder,
    from: Nanos,
    to: Nanos,
    out: &mut impl Write,
) -> io::Result<Option<(u64, u64)>> {
    let mut range: Option<(u64, u64)> = None;
    let mut ended = false;
    each_entry(folder, |entry, line| {
        let at = entry.event.at;
        if ended || (range.is_none() && at < from) {
            return Ok(());
        }
        if range.is_none() && at >= to {
            ended = true;
            return Ok(());
        }
        out.write_all(line)?;
        let first = range.map_or(entry.number, |(first, _)| first);
        range = Some((first, entry.number));
        ended = at >= to && entry.checkpoint.is_some();
        Ok(())
    })?;
    Ok(range)
}

fn each_entry(
    folder: &CustodyFolder,
    mut each: impl FnMut(&Entry, &[u8]) -> io::Result<()>,
) -> io::Result<()> {
    folder.for_each_line(|_, line| match Entry::parse(line) {
        Ok(entry) => each(&entry, line),
        // `custody verify` names it.
        Err(_) => Ok(()),
    })
}
