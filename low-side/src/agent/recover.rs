//! What a start does before anything else: tidies up after a kill, and rebuilds a lost ledger.

use std::path::Path;

use anyhow::Context;
use sd_notify::NotifyState;
use shared::clock::Clock;

use crate::config::GapPolicy;
use crate::import::{Importer, Outcome};
use crate::replay::chain_text;
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
        if let Ok(name) = entry?.file_name().into_string()
            && !importer.ledger.knows_file(&name)?
        {
            orphans.push(name);
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
}
