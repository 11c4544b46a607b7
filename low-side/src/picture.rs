//! Chains as pictures, of bounded size whatever is missing of them; and the refused files that say they
//! belong there.

use std::collections::HashMap;
use std::path::Path;
use std::time::SystemTime;

use serde::Serialize;

use crate::ledger::{ChainSum, Ledger, LedgerError};
use crate::quarantine::{Quarantine, Reason};

/// One chain, cut into slices of equal length.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Strip {
    /// `ORIGIN/EPOCH/LANE`.
    pub chain: String,
    /// The highest bundle number that is known of; the first is 1.
    pub last: u64,
    /// How many numbers each slice has; the last one may have fewer.
    pub slice: u64,
    /// How many bundles are missing in each slice, up to the last slice that misses any.
    pub missing: Vec<u64>,
    /// What has this number or a higher one, and has come, waits for a gap.
    pub held_from: Option<u64>,
}

impl Strip {
    fn of(chain: &ChainSum) -> Self {
        let last = (chain.bundles + chain.missing).max(1);
        let slice = last.div_ceil(SLICES_MAX);
        Self { chain: chain.chain.clone(), last, slice, missing: Vec::new(), held_from: None }
    }

    /// Counts a gap, from `first` to `last`, into the slices it reaches into.
    fn add(&mut self, first: u64, last: u64, passed: bool) {
        if !passed {
            self.held_from = Some(self.held_from.map_or(first, |from| from.min(first)));
        }
        let (first, last) = (first.max(1), last.min(self.last));
        let mut from = first;
        while from <= last {
            let at = (from - 1) / self.slice;
            let end = last.min((at + 1) * self.slice);
            let at = usize::try_from(at).unwrap_or(0);
            if self.missing.len() <= at {
                self.missing.resize(at + 1, 0);
            }
            self.missing[at] += end - from + 1;
            from = end + 1;
        }
    }
}

/// The chains that were last heard of, the newest first, at most [`STRIPS_MAX`].
pub fn strips(ledger: &Ledger, chains: &[ChainSum]) -> Result<Vec<Strip>, LedgerError> {
    let mut newest: Vec<&ChainSum> = chains.iter().collect();
    newest.sort_by(|a, b| (&b.last_admitted, &a.chain).cmp(&(&a.last_admitted, &b.chain)));
    let mut strips: Vec<Strip> = newest.into_iter().take(STRIPS_MAX).map(Strip::of).collect();
    let known: HashMap<String, usize> =
        strips.iter().enumerate().map(|(at, strip)| (strip.chain.clone(), at)).collect();
    ledger.each_gap(|chain, first, last, passed| {
        if let Some(at) = known.get(chain) {
            strips[*at].add(first, last, passed);
        }
    })?;
    Ok(strips)
}

/// A refused file, as the page shows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Refused {
    /// The SHA-256 of the file.
    pub sha256: String,
    /// Why it was refused.
    pub code: String,
    /// The name it came under, escaped.
    pub name: String,
    /// When it last came, RFC 3339.
    pub last: String,
    /// The chain that its header says it belongs to; not verified.
    pub chain: Option<String>,
    /// The number that its header says it has; not verified.
    pub number: Option<u64>,
}

impl From<Reason> for Refused {
    fn from(reason: Reason) -> Self {
        let claimed =
            reason.claimed_bundle.as_deref().and_then(|said| said.rsplit_once(" number "));
        Self {
            chain: claimed.map(|(chain, _)| chain.to_owned()),
            number: claimed.and_then(|(_, number)| number.parse().ok()),
            sha256: reason.sha256,
            code: reason.code,
            name: reason.name,
            last: reason.last,
        }
    }
}

/// The refused files that came last. The folder is read again only after it has changed.
#[derive(Debug, Default)]
pub struct Quarantined {
    read: Option<SystemTime>,
    newest: Vec<Refused>,
}

impl Quarantined {
    /// The newest first, at most [`REFUSED_MAX`]; of a folder that can't be read, what was read last.
    pub fn newest(&mut self, folder: &Path) -> &[Refused] {
        let changed = std::fs::metadata(folder).and_then(|found| found.modified()).ok();
        if changed.is_none() || changed != self.read {
            match Quarantine::at(folder).list() {
                Ok(mut reasons) => {
                    reasons.sort_by(|a, b| (&b.last, &b.sha256).cmp(&(&a.last, &a.sha256)));
                    reasons.truncate(REFUSED_MAX);
                    self.newest = reasons.into_iter().map(Refused::from).collect();
                    self.read = changed;
                }
                Err(error) => tracing::debug!(%error, "the quarantine can't be listed"),
            }
        }
        &self.newest
    }
}

/// As many slices as can be told apart in a window.
const SLICES_MAX: u64 = 240;
/// A site with more chains than this has old ones among them.
const STRIPS_MAX: usize = 40;
/// The rest is in `penstock-low quarantine list`.
const REFUSED_MAX: usize = 100;

#[cfg(test)]
mod tests {
    use super::*;

    fn chain(bundles: u64, missing: u64) -> ChainSum {
        ChainSum {
            chain: "plant-7/1/flash".to_owned(),
            bundles,
            records: 0,
            last_sequence: 0,
            missing,
            last_admitted: String::new(),
        }
    }

    #[test]
    fn a_short_chain_has_a_slice_for_each_number() {
        let mut strip = Strip::of(&chain(7, 3));
        strip.add(3, 4, true);
        assert_eq!(strip.held_from, None, "passed: nothing waits");
        strip.add(9, 9, false);
        assert_eq!((strip.last, strip.slice, strip.held_from), (10, 1, Some(9)));
        assert_eq!(strip.missing, [0, 0, 1, 1, 0, 0, 0, 0, 1]);
    }

    #[test]
    fn many_gaps_take_no_more_room_than_few_and_show_what_is_missing() {
        // Every twentieth of 200,000 is missing: 10,000 gaps, five in a hundred.
        let mut strip = Strip::of(&chain(190_000, 10_000));
        for at in 1..=10_000 {
            strip.add(at * 20, at * 20, false);
        }
        assert!(strip.missing.len() <= 240, "{}", strip.missing.len());
        assert_eq!(strip.missing.iter().sum::<u64>(), 10_000);
        let most = strip.missing.iter().max().copied().unwrap_or(0);
        assert!(most * 100 <= strip.slice * 6, "{most} of {}", strip.slice);
        assert_eq!(strip.held_from, Some(20));
    }

    #[test]
    fn a_gap_over_several_slices_is_shared_among_them_and_nonsense_is_harmless() {
        let mut strip = Strip::of(&chain(0, 1_000));
        strip.add(1, 1_000, true);
        assert_eq!((strip.slice, strip.missing.len()), (5, 200));
        assert!(strip.missing.iter().all(|missing| *missing == 5));
        let mut strip = Strip::of(&chain(0, 0));
        strip.add(0, u64::MAX, true);
        assert_eq!(strip.missing, [1]);
    }

    #[test]
    fn the_quarantine_is_read_again_after_it_changed() {
        let dir = tempfile::tempdir().unwrap();
        let keep = |at: u8, claimed: Option<&str>| {
            let sha256 = format!("{at:064x}");
            let reason = Reason {
                sha256: sha256.clone(),
                bytes: 1,
                code: "rollback".to_owned(),
                message: String::new(),
                name: format!("{at}.pstk"),
                first: String::new(),
                last: format!("2026-11-{at:02}"),
                claimed_signer: None,
                claimed_bundle: claimed.map(str::to_owned),
            };
            let text = serde_json::to_vec(&reason).unwrap();
            std::fs::write(dir.path().join(format!("{sha256}.reason.json")), text).unwrap();
        };
        let mut quarantined = Quarantined::default();
        assert!(quarantined.newest(dir.path()).is_empty());
        keep(1, Some("plant-7/1/flash number 12"));
        keep(2, Some("no such thing"));
        // The folder may have changed within one tick of the file system's clock.
        quarantined.read = None;
        let newest = quarantined.newest(dir.path());
        assert_eq!((newest[0].name.as_str(), newest[0].number), ("2.pstk", None));
        assert_eq!(
            (newest[1].chain.as_deref(), newest[1].number),
            (Some("plant-7/1/flash"), Some(12))
        );
    }
}
