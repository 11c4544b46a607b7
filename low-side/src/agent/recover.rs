//! What a start does before anything else: tidies up after a kill, and rebuilds a lost ledger.

use std::path::Path;

use anyhow::Context;
use sd_notify::NotifyState;
use shared::clock::Clock;

use crate::config::GapPolicy;
use crate::import::{Importer, Outcome};
use crate::replay::chain_text;
use crate::retention::{self, Journal};
use crate::staging;

/// How much longer systemd waits for READY after each bundle that is verified again, in µs.
const EXTEND_MICROS: u32 = 120_000_000;

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
    let mut orphans = Vec::new();
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
            }
        }
    }
    let lost = created && !orphans.is_empty();
    if lost || set_aside.is_some() {
        let what = match set_aside {
            Some(path) => format!("the ledger was damaged and stands now at {}", path.display()),
            None => "the ledger was gone".to_owned(),
        };
        let message = format!(
            "{what}; {} bundles of the store are admitted anew, and EVERY SINK GETS THEIR RECORDS AGAIN, with the same ids; \
             counts, alarms and gaps begin anew",
            orphans.len()
        );
        raise(&mut importer, "ledger-rebuilt", "ledger", &message);
    }
    let policy = importer.admission;
    if lost {
        // What the store does not hold any more will not come again: nothing waits for it.
        importer.admission.gap = GapPolicy::Pass;
        importer.admission.number_jump_max = u64::MAX;
    }
    orphans.sort_by_cached_key(|name| order(name));
    let (mut left, mut example) = (0_u64, None);
    for name in orphans {
        let _ = sd_notify::notify(&[NotifyState::ExtendTimeoutUsec(EXTEND_MICROS)]);
        let why = match importer.readmit(&name) {
            Ok(Outcome::Quarantined { code, .. }) => {
                tracing::error!(file = name, code, "a file of the store is not admitted any more");
                continue;
            }
            Ok(Outcome::Ignored { code, message }) => format!("{code}: {message}"),
            Ok(outcome) => {
                tracing::info!(file = name, ?outcome, "a file of the store had no row");
                continue;
            }
            Err(error) => chain_text(&error),
        };
        tracing::error!(file = name, why, "a file of the store could not be admitted");
        left += 1;
        example.get_or_insert_with(|| format!("{name}: {why}"));
    }
    importer.admission = policy;
    adopt_removed(&mut importer)?;
    if let Some(example) = example {
        let message = format!(
            "{left} files of the store could not be admitted and stay there until the next start; {example}"
        );
        raise(&mut importer, "store-not-admitted", "store", &message);
        return Ok(importer);
    }
    let now = importer.clock.now();
    if let Err(error) = importer.ledger.close_alarm("store-not-admitted", "store", now) {
        tracing::error!(error = chain_text(&error), "an alarm can't be closed");
    }
    Ok(importer)
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
