//! What a start does before anything else: tidies up after a kill, and rebuilds a lost ledger.

use std::path::Path;

use anyhow::Context;
use sd_notify::NotifyState;
use shared::clock::Clock;

use crate::config::GapPolicy;
use crate::import::{Importer, Outcome};
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
        let now = importer.clock.now();
        importer.ledger.raise("ledger-rebuilt", "ledger", &message, now)?;
    }
    let policy = importer.admission;
    if lost {
        // What the store does not hold any more will not come again: nothing waits for it.
        importer.admission.gap = GapPolicy::Pass;
        importer.admission.number_jump_max = u64::MAX;
    }
    orphans.sort_by_cached_key(|name| order(name));
    for name in orphans {
        let _ = sd_notify::notify(&[NotifyState::ExtendTimeoutUsec(EXTEND_MICROS)]);
        match importer.readmit(&name)? {
            Outcome::Quarantined { code, .. } => {
                tracing::error!(file = name, code, "a file of the store is not admitted any more");
            }
            outcome => tracing::info!(file = name, ?outcome, "a file of the store had no row"),
        }
    }
    importer.admission = policy;
    Ok(importer)
}

/// `ORIGIN-EPOCH-LANE-NUMBER-DIGEST.pstk` in the order of admission: older epochs first.
fn order(name: &str) -> (String, u64, String) {
    let mut parts = name.rsplitn(5, '-');
    let (_, rest) = (parts.next(), parts.next().unwrap_or_default().to_owned());
    let lane = parts.next().unwrap_or_default().to_owned();
    let epoch = parts.next().and_then(|epoch| epoch.parse().ok()).unwrap_or(0);
    (parts.next().unwrap_or_default().to_owned(), epoch, lane + &rest)
}
