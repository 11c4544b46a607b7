//! What a start does before anything else: tidies up after a kill, and rebuilds a lost ledger.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use anyhow::Context;
use sd_notify::NotifyState;
use shared::clock::Clock;

use crate::admitted_before::AdmittedBefore;
use crate::config::GapPolicy;
use crate::import::{ImportError, Importer, Outcome};
use crate::replay::chain_text;
use crate::retention::{self, Journal};
use crate::staging;

/// How much longer systemd waits for READY after each bundle that is verified again, in µs.
const EXTEND_MICROS: u32 = 120_000_000;
const NOT_ADMITTED: &str = "store-not-admitted";

/// Cleans the staging folder, and admits what stands in the store without a row.
///
/// After a plain kill that is at most one file. After the ledger was lost it is the whole store: its
/// bundles are verified and admitted again, and every sink gets their records again, with the same
/// ids. That is said in an alarm, since a SIEM that can't drop known ids will count them twice.
pub(super) fn recover<C: Clock>(
    mut importer: Importer<C>,
    created: bool,
    set_aside: Option<&Path>,
) -> anyhow::Result<Importer<C>> {
    let removed =
        staging::clean(&importer.folders.staging).context("cleaning the staging folder")?;
    if removed > 0 {
        tracing::info!(removed, "copies of an interrupted import were removed");
    }
    shared::durable::remove_partials(&importer.folders.quarantine)?;
    let (mut orphans, mut known) = (Vec::new(), 0);
    for entry in std::fs::read_dir(&importer.folders.store)? {
        // Names in the store are ours, and plain.
        if let Ok(name) = entry?.file_name().into_string() {
            if !importer.ledger.knows_file(&name)? {
                orphans.push(name);
            } else if let Some((digest, bytes)) = importer.ledger.removed_file(&name)? {
                // The process ended before it could be removed.
                let store = &importer.folders.store;
                match retention::unlink(store, &name, &digest, bytes, &importer.limits) {
                    Ok(true) => {}
                    Ok(false) => tracing::warn!(
                        file = name,
                        "it has the name of a bundle that left the store, and is another file: it stays"
                    ),
                    // No reason not to start; the next start tries again.
                    Err(error) => {
                        tracing::error!(file = name, %error, "a file that left the store can't be removed");
                    }
                }
            } else {
                known += 1;
            }
        }
    }
    let new = created && !orphans.is_empty() || set_aside.is_some();
    if new || created && importer.ledger.custody_folder().segments().is_ok_and(|s| !s.is_empty()) {
        importer.ledger.begin_rebuilding(new)?;
    }
    // Also where a start that began with it was killed.
    let lost = importer.ledger.is_rebuilding()?;
    let policy = importer.admission;
    if lost {
        // What the store does not hold any more will not come again: nothing waits for it.
        importer.admission.gap = GapPolicy::Pass;
        importer.admission.number_jump_max = u64::MAX;
    }
    // After a plain kill there is one at most, and it came just now.
    importer.rebuilding = lost || orphans.len() > 1;
    if let Some(log) = &mut importer.log {
        log.will_ask(orphans.iter().cloned());
    }
    orphans.sort_by_cached_key(|name| order(name));
    let (found, mut taken) = (orphans.len(), Taken::default());
    for name in orphans {
        let _ = sd_notify::notify(&[NotifyState::ExtendTimeoutUsec(EXTEND_MICROS)]);
        let outcome = importer.readmit(&name);
        taken.add(&name, outcome);
    }
    importer.admission = policy;
    adopt_removed(&mut importer)?;
    if lost {
        let what = match set_aside {
            Some(path) => format!("the ledger was damaged and stands now at {}", path.display()),
            None => "the ledger was gone".to_owned(),
        };
        let (logged, unknown) = importer.ledger.admitted_anew()?;
        let again = if taken.admitted > 0 {
            format!(
                " ({logged} at the time that the signed custody log has, {unknown} at a time that nothing has), \
                 and EVERY SINK GETS THEIR RECORDS AGAIN, with the same ids"
            )
        } else {
            String::new()
        };
        let message = format!(
            "{what}; of {found} files of the store {} are admitted anew{again}{}; counts, alarms and gaps begin anew",
            taken.admitted,
            taken.refused_text()
        );
        raise(&mut importer, "ledger-rebuilt", "ledger", &message);
        importer.ledger.end_rebuilding()?;
    }
    let uncovered = importer.log.as_ref().and_then(AdmittedBefore::uncovered);
    // The agent's inbox does not ask it: a stranger's file must not cost a walk.
    importer.log = None;
    importer.rebuilding = false;
    let left = if found == 0 {
        note_counts(&mut importer, known, 0)?;
        0
    } else {
        note_store(&mut importer)?
    };
    if let Some(example) = &taken.example {
        let uncovered = uncovered.map_or(String::new(), |text| format!("; {text}"));
        let message = format!(
            "{left} files of the store could not be admitted and stay there until the next start{}; {example}{uncovered}",
            codes_text(&taken.left)
        );
        raise(&mut importer, NOT_ADMITTED, "store", &message);
    }
    Ok(importer)
}

/// What became of files of the store that had no row.
#[derive(Default)]
struct Taken {
    admitted: u64,
    /// Those that stay in the store, by code.
    left: BTreeMap<String, u64>,
    /// Those that stand in the quarantine now, by code.
    quarantined: BTreeMap<String, u64>,
    /// One that stays, and why.
    example: Option<String>,
}

impl Taken {
    fn add(&mut self, name: &str, outcome: Result<Outcome, ImportError>) {
        let (code, why) = match outcome {
            Ok(Outcome::Quarantined { code, .. }) => {
                tracing::error!(file = name, code, "a file of the store is not admitted any more");
                *self.quarantined.entry(code.to_owned()).or_default() += 1;
                return;
            }
            Ok(Outcome::Ignored { code, message }) => (code, format!("{code}: {message}")),
            Ok(outcome) => {
                tracing::info!(file = name, ?outcome, "a file of the store had no row");
                self.admitted += u64::from(matches!(outcome, Outcome::Admitted { .. }));
                return;
            }
            Err(error) => ("failed", chain_text(&error)),
        };
        tracing::error!(file = name, why, "a file of the store could not be admitted");
        *self.left.entry(code.to_owned()).or_default() += 1;
        self.example.get_or_insert_with(|| format!("{name}: {why}"));
    }

    fn refused_text(&self) -> String {
        let mut text = String::new();
        for (codes, what) in [
            (&self.left, "are NOT admitted and stay in the store"),
            (&self.quarantined, "stand in the quarantine now"),
        ] {
            let count: u64 = codes.values().sum();
            if count > 0 {
                let _ = write!(text, "; {count} {what}{}", codes_text(codes));
            }
        }
        text
    }
}

/// ` (2 signer-revoked, 1 io)`; nothing where there is none.
fn codes_text(codes: &BTreeMap<String, u64>) -> String {
    let words: Vec<String> = codes.iter().map(|(code, count)| format!("{count} {code}")).collect();
    if words.is_empty() { String::new() } else { format!(" ({})", words.join(", ")) }
}

/// Notes what the store lacks and what it holds besides; gives how many files were not admitted. Where all
/// were, the alarm that said otherwise is over.
pub(crate) fn note_store<C: Clock>(importer: &mut Importer<C>) -> anyhow::Result<u64> {
    let (mut known, mut left) = (0, 0);
    for entry in std::fs::read_dir(&importer.folders.store)? {
        if let Ok(name) = entry?.file_name().into_string() {
            if !importer.ledger.knows_file(&name)? {
                left += 1;
            } else if importer.ledger.removed_file(&name)?.is_none() {
                known += 1;
            }
        }
    }
    note_counts(importer, known, left)?;
    Ok(left)
}

/// `known` files of the store have a row that says so, and `left` have none.
fn note_counts<C: Clock>(importer: &mut Importer<C>, known: u64, left: u64) -> anyhow::Result<()> {
    let sum = importer.ledger.store_sum()?;
    let absent = if known < sum.bundles + sum.absent {
        // Only then is every row asked after its file.
        importer.ledger.absent_files(&importer.folders.store)?
    } else {
        (0, 0)
    };
    importer.ledger.note_store(absent, left)?;
    if left == 0 {
        let now = importer.clock.now();
        if let Err(error) = importer.ledger.close_alarm(NOT_ADMITTED, "store", now) {
            tracing::error!(error = chain_text(&error), "an alarm can't be closed");
        }
    }
    Ok(())
}

/// A ledger that is new, or was restored, learns from the journal what has left the store: it came, it is not missing, and it
/// is not admitted once more.
fn adopt_removed<C: Clock>(importer: &mut Importer<C>) -> anyhow::Result<()> {
    let mut damaged = 0;
    let store = importer.folders.store.clone();
    let now = importer.clock.now();
    let rows = Journal::of(&importer.folders.state).read(&mut damaged)?;
    let in_store = |file: &str| store.join(file).symlink_metadata().is_ok();
    let adopted = importer.ledger.adopt_removed(rows, in_store, now)?;
    if adopted > 0 {
        let message = format!(
            "the ledger is new or restored; {adopted} bundles that had left the store are known again from its journal, and no sink gets them again"
        );
        raise(importer, "ledger-rebuilt", "journal", &message);
    }
    if damaged > 0 {
        let message = format!(
            "{damaged} lines of removed.jsonl are damaged: the bundles they name count as missing"
        );
        raise(importer, "store-journal-damaged", "store", &message);
    }
    Ok(())
}

/// An alarm is no reason not to start: where the ledger can't take it, the log has it.
fn raise<C: Clock>(importer: &mut Importer<C>, code: &str, subject: &str, message: &str) {
    let now = importer.clock.now();
    if let Err(error) = importer.ledger.raise(code, subject, message, now) {
        tracing::error!(code, message, error = chain_text(&error), "an alarm can't be kept");
    }
}

/// `ORIGIN-EPOCH-LANE-NUMBER-DIGEST.pstk` in the order of admission: older epochs first.
fn order(name: &str) -> (String, u64, String) {
    let mut parts = name.rsplitn(5, '-');
    let (_, rest) = (parts.next(), parts.next().unwrap_or_default().to_owned());
    let lane = parts.next().unwrap_or_default().to_owned();
    let epoch = parts.next().and_then(|epoch| epoch.parse().ok()).unwrap_or(0);
    (parts.next().unwrap_or_default().to_owned(), epoch, lane + &rest)
}

#[cfg(test)]
mod tests {
    use shared::bundle::BundleDigest;
    use shared::clock::Nanos;
    use shared::keys::{Identities, Trust};
    use shared::record::Lane;

    use super::*;
    use crate::import::{KeyRing, Keys};
    use crate::testing::{Chain, Site, names};

    #[test]
    fn what_can_t_be_admitted_again_stays_and_does_not_hinder_the_start() {
        let site = Site::new();
        let path = site.seal(&mut Chain::new(1, Lane::Routine), &["one"]);
        std::fs::copy(&path, site.folders.store.join("unknown.pstk")).unwrap();
        std::fs::write(site.folders.store.join("broken.pstk"), b"no bundle").unwrap();
        // The reason of the broken one can't be written, as on a full disk.
        let digest = BundleDigest::of(b"no bundle").to_string();
        let in_the_way = site.folders.quarantine.join(format!("{digest}.reason.json"));
        std::fs::create_dir(&in_the_way).unwrap();
        let mut importer = site.importer();
        let trusted = importer.keys.clone();
        let identities = Identities::load_dir(&site.dir.path().join("keys")).unwrap();
        importer.keys = KeyRing::new(Keys { trust: Trust::default(), identities });
        let mut importer = recover(importer, true, None).unwrap();
        assert_eq!(names(&site.folders.store), ["broken.pstk", "unknown.pstk"]);
        let alarm = |importer: &Importer<_>| {
            let alarms = importer.ledger.alarms().unwrap();
            alarms.into_iter().find(|alarm| alarm.code == "store-not-admitted").unwrap()
        };
        let raised = alarm(&importer);
        assert!(raised.message.starts_with("2 files of the store"), "{}", raised.message);
        assert_eq!(raised.closed, None);

        std::fs::remove_dir(in_the_way).unwrap();
        importer.keys = trusted;
        let importer = recover(importer, false, None).unwrap();
        assert!(alarm(&importer).closed.is_some());
        assert_eq!(names(&site.folders.store).len(), 1);
        assert!(importer.ledger.knows_file(&names(&site.folders.store)[0]).unwrap());
    }
    /// The low side's own key signs the custody log, as the agent does when it ends.
    fn end_of_run(importer: &mut Importer<shared::clock::FakeClock>, keys: &Path) {
        let key = || Ok((crate::site::identity(keys), crate::site::signing_key(keys)?));
        let now = importer.clock.now();
        importer.ledger.sign_custody(key, None, now).unwrap();
        importer.ledger.settle_custody(false, now).unwrap();
    }

    fn lose_ledger(site: &Site) {
        for suffix in ["", "-wal", "-shm"] {
            let _ = std::fs::remove_file(site.folders.state.join(format!("ledger.db{suffix}")));
        }
    }

    fn message(importer: &Importer<shared::clock::FakeClock>, code: &str) -> Option<String> {
        let alarms = importer.ledger.alarms().unwrap();
        let found = alarms.into_iter().find(|alarm| alarm.code == code && alarm.closed.is_none());
        found.map(|alarm| alarm.message)
    }

    const DAY: std::time::Duration = std::time::Duration::from_hours(24);

    #[test]
    fn what_was_admitted_is_taken_by_the_signed_log_when_its_key_is_revoked_or_past() {
        for limit in ["valid-before", "revoked", "removed"] {
            let site = Site::new();
            let keys = site.dir.path().join("keys");
            let mut chain = Chain::new(1, Lane::Routine);
            let paths: Vec<_> = (0..3).map(|_| site.seal(&mut chain, &["one", "two"])).collect();
            let mut importer = site.importer();
            for path in &paths[..2] {
                importer.import(path, crate::import::Sidecar::Absent, |_| {}).unwrap();
            }
            end_of_run(&mut importer, &keys);
            drop(importer);
            site.limit_signer(limit);
            lose_ledger(&site);
            site.clock.advance(DAY * 30);
            // A file of the same key that never was admitted is no better for standing in the store.
            std::fs::copy(&paths[2], site.folders.store.join("forged.pstk")).unwrap();
            let mut importer = recover(site.importer(), true, None).unwrap();
            let sums = importer.ledger.sums().unwrap();
            assert_eq!((sums.admitted, sums.store.not_admitted), (2, 1), "{limit}");
            let rebuilt = message(&importer, "ledger-rebuilt").unwrap();
            assert!(
                rebuilt.contains("of 3 files of the store 2 are admitted anew (2 at the time"),
                "{rebuilt}"
            );
            assert!(rebuilt.contains("1 are NOT admitted and stay"), "{rebuilt}");
            assert!(message(&importer, "store-not-admitted").unwrap().contains("forged.pstk"));
            // Nothing came now: no clock is judged, no silence ended, and the admissions are those of the log.
            let heard = importer.ledger.last_heard().unwrap();
            assert_eq!(heard, [("plant-7".to_owned(), crate::testing::START)]);
            let now = importer.clock.now();
            assert_eq!(importer.ledger.clocks(DAY * 7, now).unwrap(), []);
            let budgets = crate::latency::Budgets::default();
            let waits = importer.ledger.waits(Nanos(0), now, &budgets).unwrap();
            assert_eq!((waits[0].bundles, waits[0].bundles_over), (2, 0));
            // Brought by hand, a duplicate of the log mends the store; the forged one is refused.
            importer.source = crate::import::Source::Command("import");
            std::fs::remove_file(site.folders.store.join(&names(&site.folders.store)[1])).unwrap();
            let outcome = |importer: &mut Importer<_>, at: usize| {
                importer.import(&paths[at], crate::import::Sidecar::Absent, |_| {}).unwrap()
            };
            assert!(matches!(outcome(&mut importer, 0), Outcome::Duplicate { .. }));
            assert!(matches!(outcome(&mut importer, 2), Outcome::Quarantined { .. }));
        }
    }

    #[test]
    fn a_log_that_nobody_signed_or_somebody_changed_vouches_for_nothing() {
        for change in ["unsigned", "changed", "another key"] {
            let site = Site::new();
            let keys = site.dir.path().join("keys");
            let path = site.seal(&mut Chain::new(1, Lane::Routine), &["one"]);
            let mut importer = site.importer();
            importer.import(&path, crate::import::Sidecar::Absent, |_| {}).unwrap();
            if change == "unsigned" {
                importer.ledger.settle_custody(false, importer.clock.now()).unwrap();
            } else {
                end_of_run(&mut importer, &keys);
            }
            let log = importer.ledger.custody_folder().segments().unwrap().remove(0).1;
            drop(importer);
            match change {
                "changed" => {
                    let text = std::fs::read_to_string(&log).unwrap();
                    std::fs::write(&log, text.replacen("by a test", "by b test", 1)).unwrap();
                }
                "another key" => std::fs::remove_file(keys.join("receipt.key")).unwrap(),
                _ => {}
            }
            site.limit_signer("revoked");
            lose_ledger(&site);
            let mut importer = recover(site.importer(), true, None).unwrap();
            let sums = importer.ledger.sums().unwrap();
            assert_eq!((sums.admitted, sums.store.not_admitted), (0, 1), "{change}");
            let left = message(&importer, "store-not-admitted").unwrap();
            assert!(left.contains("1 signer-revoked"), "{left}");
            assert!(left.contains("checkpoints that hold cover the custody log up to"), "{left}");
        }
    }

    #[test]
    fn an_operator_s_word_takes_what_was_sealed_in_time_and_nothing_of_a_revoked_key() {
        for (limit, word, taken) in [
            ("valid-before", true, true),
            ("valid-before", false, false),
            ("begins-later", true, false),
            ("revoked", true, false),
            ("removed", true, false),
        ] {
            let site = Site::new();
            let path = site.seal(&mut Chain::new(1, Lane::Routine), &["one"]);
            site.limit_signer(limit);
            site.clock.advance(DAY * 30);
            let mut importer = site.importer();
            importer.source = crate::import::Source::Command("import");
            importer.word = word.then(|| "the archive of 2025".to_owned());
            let outcome = importer.import(&path, crate::import::Sidecar::Absent, |_| {}).unwrap();
            assert_eq!(matches!(outcome, Outcome::Admitted { .. }), taken, "{limit}: {outcome:?}");
            if taken {
                importer.ledger.settle_custody(false, importer.clock.now()).unwrap();
                let log = importer.ledger.custody_folder().segments().unwrap().remove(0).1;
                let log = std::fs::read_to_string(log).unwrap();
                assert!(log.contains("by the word of an operator: the archive of 2025"), "{log}");
                // Nothing knows when it was admitted first: it counts for nothing.
                let now = importer.clock.now();
                let budgets = crate::latency::Budgets::default();
                assert_eq!(importer.ledger.waits(Nanos(0), now, &budgets).unwrap(), []);
                assert_eq!(importer.ledger.clocks(DAY * 7, now).unwrap(), []);
                assert_eq!(importer.ledger.not_seen(Nanos(0), now).unwrap().unknown, 1);
                assert_eq!(importer.ledger.last_heard().unwrap()[0].1, crate::testing::START);
            }
        }
    }

    #[test]
    fn a_rebuilt_ledger_knows_what_had_left_the_store() {
        use crate::ledger::{Delivery, Ledger};
        let site = Site::new();
        let mut chain = Chain::new(1, Lane::Routine);
        let paths: Vec<_> = (0..4).map(|_| site.seal(&mut chain, &["one", "two"])).collect();
        let mut importer = site.importer();
        for path in &paths {
            importer.import(path, crate::import::Sidecar::Absent, |_| {}).unwrap();
        }
        // The first two leave; the file of the second could not be removed before the end.
        let second = names(&site.folders.store)[1].clone();
        let mut leaving =
            importer.ledger.stored_behind((shared::clock::Nanos(0), 0, 0), 2).unwrap();
        let sink = importer.ledger.sink("siem").unwrap();
        let delivery = Delivery::of(leaving[0].chain, (1, 8), 8);
        let (took, now) = (std::collections::HashMap::new(), importer.clock.now());
        importer.ledger.deliver(sink, &[delivery], None, &took, now).unwrap();
        let leaving: Vec<_> =
            leaving.drain(..).map(|one| (one.clone(), one.sha256.unwrap())).collect();
        let journal = Journal::of(&site.folders.state);
        let gone = importer
            .ledger
            .remove_from_store(&leaving, &[sink], "a test", now, |rows| journal.append(rows))
            .unwrap();
        assert_eq!(gone.len(), 2);
        importer
            .ledger
            .unlink_removed(&gone[..1], |file| std::fs::remove_file(site.folders.store.join(file)))
            .unwrap();
        assert_eq!(names(&site.folders.store).len(), 3);
        let before = importer.ledger.sums().unwrap();
        let mut importer = recover(importer, false, None).unwrap();
        assert!(!names(&site.folders.store).contains(&second), "the start removes what is left");
        assert_eq!(importer.ledger.sums().unwrap(), before);

        // The ledger is lost, and a line of the journal is damaged.
        drop(importer);
        let mut lines = std::fs::read(journal.path()).unwrap();
        lines.extend_from_slice(b"0123456789abcdef {}\n");
        std::fs::write(journal.path(), lines).unwrap();
        for suffix in ["", "-wal", "-shm"] {
            let _ = std::fs::remove_file(site.folders.state.join(format!("ledger.db{suffix}")));
        }
        let mut importer = recover(site.importer(), true, None).unwrap();
        assert_eq!(importer.ledger.gaps().unwrap(), []);
        let after = importer.ledger.sums().unwrap();
        assert_eq!((after.admitted, after.records), (before.admitted, before.records));
        assert_eq!((after.store.bundles, after.store.removed), (2, 2));
        assert_eq!(after.chains[0].missing, 0);
        let alarms = importer.ledger.alarms().unwrap();
        assert!(
            alarms.iter().any(|alarm| alarm.code == "ledger-rebuilt" && alarm.subject == "journal")
        );
        let damaged = alarms.iter().find(|alarm| alarm.code == "store-journal-damaged").unwrap();
        assert!(damaged.message.starts_with("1 lines of"), "{}", damaged.message);
        assert!(alarms.iter().all(|alarm| alarm.code != "gap" || alarm.closed.is_some()));
        // No sink gets them again, nothing admits them again, and a next start changes nothing.
        let sink = importer.ledger.sink("siem").unwrap();
        let sums = importer.ledger.sums().unwrap();
        assert_eq!((sums.sinks[0].removed, sums.sinks[0].pending), (4, 4));
        let state = importer.ledger.pending_chains(sink).unwrap().remove(0);
        let taken = importer.ledger.delivered(sink, state.id).unwrap();
        assert_eq!(importer.ledger.next_bundle(&state, &taken).unwrap().unwrap().0.number(), 3);
        importer.source = crate::import::Source::Inbox(crate::import::Arrivals::default());
        let outcome = importer.import(&paths[0], crate::import::Sidecar::Absent, |_| {}).unwrap();
        assert!(matches!(outcome, Outcome::Duplicate { .. }), "{outcome:?}");
        let sums = importer.ledger.sums().unwrap();
        let mut importer = recover(importer, false, None).unwrap();
        assert_eq!(importer.ledger.sums().unwrap(), sums);
        drop(Ledger::open(&site.folders.state).unwrap());
    }
}
