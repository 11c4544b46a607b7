//! The account of a period: generated = arrived + suppressed + lost + missing.
//!
//! A bundle that lies inside the period is counted from what the ledger knows of it. One that reaches
//! over its begin or end is opened, and its records are counted one by one, so that the account is
//! exact to the record however large the bundles are.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::Path;

use serde::Serialize;
use shared::bundle::{Limits, Refusal, reopen};
use shared::clock::Nanos;
use shared::keys::Identities;
use shared::record::Entry;

use crate::ledger::{BundleInPeriod, Ledger, LedgerError};

/// The period, and whose records.
#[derive(Clone, Copy, Debug)]
pub struct Period<'a> {
    /// Received from this time on,
    pub from: Nanos,
    /// and before this one.
    pub to: Nanos,
    /// Only of this origin.
    pub origin: Option<&'a str>,
}

/// Where every record of a period is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Account {
    /// Begin, RFC 3339.
    pub from: String,
    /// End, RFC 3339.
    pub to: String,
    /// The sum of all that follow.
    pub generated: u64,
    /// In admitted bundles.
    pub arrived: u64,
    /// Suppressed by rules on the high side.
    pub suppressed: u64,
    /// Declared lost by the high side.
    pub lost: u64,
    /// In bundles that have not come.
    pub missing: u64,
    /// By stream: what arrived, and what each rule suppressed.
    pub streams: BTreeMap<String, StreamAccount>,
    /// By reason.
    pub losses: BTreeMap<String, u64>,
    /// Missing bundles, by chain.
    pub missing_bundles: BTreeMap<String, u64>,
    /// What keeps the account from being exact.
    pub remarks: Vec<String>,
}

/// One stream's part.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct StreamAccount {
    /// In admitted bundles.
    pub arrived: u64,
    /// By rule.
    pub suppressed: BTreeMap<String, u64>,
}

/// Makes the account; `identities` open the bundles at the period's edges.
pub fn account(
    ledger: &Ledger,
    store: &Path,
    identities: &Identities,
    limits: &Limits,
    period: Period<'_>,
) -> Result<Account, LedgerError> {
    let Period { from, to, origin } = period;
    let mut account = Account { from: from.to_string(), to: to.to_string(), ..Account::default() };
    ledger.bundles_between(from, to, origin, |bundle| {
        if bundle.oldest >= from && bundle.newest < to {
            for (stream, rule, records) in &bundle.tallies {
                account.add(stream, rule, *records);
            }
            if bundle.tallies.is_empty() {
                account.remarks.push(format!(
                    "{} number {} was admitted before its streams were counted",
                    bundle.chain, bundle.number
                ));
            }
        } else if !bundle.stored {
            account.remarks.push(format!(
                "{0} reaches over the edge of the period and has left the store after its time, so that its part can't be counted; bring it back: penstock-low archive restore {0} DIR, penstock-low import DIR",
                bundle.file
            ));
        } else if let Err(refusal) = count(&mut account, store, &bundle, identities, limits, period)
        {
            account
                .remarks
                .push(format!("{} could not be opened to count its part: {refusal}", bundle.file));
        }
        Ok(())
    })?;
    for loss in ledger.losses_between(from, to, origin)? {
        account.lost += loss.records;
        if loss.reaches_out {
            account.remarks.push(format!(
                "of the losses ({}) some may have happened before or after the period",
                loss.reason
            ));
        }
        account.losses.insert(loss.reason, loss.records);
    }
    for missing in ledger.missing_between(from, to, origin)? {
        account.missing += missing.records;
        *account.missing_bundles.entry(missing.chain.to_string()).or_default() += missing.bundles;
    }
    account.generated = account.arrived + account.suppressed + account.lost + account.missing;
    Ok(account)
}

impl Account {
    fn add(&mut self, stream: &str, rule: &str, records: u64) {
        let of_stream = self.streams.entry(stream.to_owned()).or_default();
        if rule.is_empty() {
            self.arrived += records;
            of_stream.arrived += records;
        } else {
            self.suppressed += records;
            *of_stream.suppressed.entry(rule.to_owned()).or_default() += records;
        }
    }
}

/// Counts the records of one bundle that were received in the period. All or nothing of it counts.
fn count(
    account: &mut Account,
    store: &Path,
    bundle: &BundleInPeriod,
    identities: &Identities,
    limits: &Limits,
    period: Period<'_>,
) -> Result<(), Refusal> {
    let file = File::open(store.join(&bundle.file))?;
    let mut reader = reopen(&file, &bundle.digest, identities, limits)?;
    let mut counted = account.clone();
    while let Some(entry) = reader.next_entry()? {
        let (received, stream, rule) = match entry {
            Entry::Record(record) => (record.received, record.stream, ""),
            Entry::Suppressed(gone) => (gone.received, gone.stream, gone.rule),
        };
        if received >= period.from && received < period.to {
            counted.add(stream.as_str(), rule, 1);
        }
    }
    *account = counted;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use shared::record::Lane;

    use super::*;
    use crate::import::Sidecar;
    use crate::testing::{Chain, START, Site};

    /// The time of the record with this number, as the test's site seals it.
    fn at(sequence: u64) -> Nanos {
        START.plus(Duration::from_nanos(sequence))
    }

    #[test]
    fn every_period_adds_up_to_the_record() {
        let site = Site::new();
        let mut chain = Chain::new(1, Lane::Routine);
        let message = |text: &str| text.as_bytes().to_vec();
        // Records 1 to 3 and 4, 5 suppressed; 6 to 8 missing; 9 and 10 suppressed; 11.
        let first = site.seal_with(&mut chain, &[message("a"), message("b"), message("c")], 2);
        site.seal_with(&mut chain, &[message("d"), message("e"), message("f")], 0);
        let third = site.seal_with(&mut chain, &[], 2);
        let fourth = site.seal_with(&mut chain, &[message("g")], 0);
        let mut importer = site.importer();
        for path in [first, third, fourth] {
            importer.import(&path, Sidecar::Absent, |_| {}).unwrap();
        }
        let sums = importer.ledger.sums().unwrap();
        assert_eq!((sums.records, sums.suppressed), (4, 4));
        let keys = importer.keys.current();
        let of = |from: Nanos, to: Nanos| {
            let period = Period { from, to, origin: None };
            let limits = Limits::default();
            account(&importer.ledger, &site.folders.store, &keys.identities, &limits, period)
                .unwrap()
        };
        let all = of(Nanos(0), Nanos(i64::MAX));
        let parts = |a: &Account| (a.generated, a.arrived, a.suppressed, a.lost, a.missing);
        assert_eq!(parts(&all), (11, 4, 4, 0, 3));
        assert_eq!(all.streams["kube-audit"].suppressed["noise"], 4);
        assert_eq!(all.missing_bundles["plant-7/1/routine"], 1);
        // Edges inside of bundles: these are opened and counted.
        assert_eq!(parts(&of(at(2), at(5))), (3, 2, 1, 0, 0));
        assert_eq!(parts(&of(at(1), at(6))), (8, 3, 2, 0, 3));
        assert_eq!(parts(&of(at(11), at(12))), (1, 1, 0, 0, 0));
        assert_eq!(parts(&of(at(12), at(13))), (0, 0, 0, 0, 0));
        let period = Period { from: at(0), to: at(99), origin: Some("other") };
        let limits = Limits::default();
        let other =
            account(&importer.ledger, &site.folders.store, &keys.identities, &limits, period);
        assert_eq!(other.unwrap().generated, 0);
    }
}
