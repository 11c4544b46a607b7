//! From the waiting room to the outbox: releases are taken in, and what enough officers released is
//! written once more, with their signatures in it. Every step may be repeated.
//!
//! ```text
//! release stored ──> enough? ──> write NAME.partial with it, sync ──> mark released ──> sidecar, rename,
//!                                                                     sync ──> mark ready ──> tidy up
//! ```

use std::collections::{BTreeSet, HashSet};

use shared::bundle::{
    AttachError, BundleDigest, Release, ReleaseSignature, ReleaseStatement, attach_release,
};
use shared::durable;
use shared::keys::{Officers, summary_commitment};
use shared::record::Lane;

use super::ReviewFolder;
use crate::buffer::{AlarmKind, BufferError, Bundle, BundleState, RefusedBy, is_due};
use crate::config::Config;
use crate::sealer::{Publisher, SealerError};

/// Why a release was not taken in.
#[derive(Debug, thiserror::Error)]
pub enum ReleaseError {
    /// The key is no officer's.
    #[error(
        "{key} is the key of no officer here\n  try: penstock-high officer list; an administrator adds one with penstock-high officer add"
    )]
    NotAnOfficer {
        /// The key's fingerprint.
        key: String,
    },
    /// The bundle is in another state.
    #[error("bundle {number} of lane {lane} is {state}: it does not wait for a release")]
    NotWaiting {
        /// The lane.
        lane: Lane,
        /// The bundle's number.
        number: u64,
        /// What it is.
        state: &'static str,
    },
    /// The release is of another bundle.
    #[error("the release names another bundle")]
    OtherBundle,
    /// The release is of another summary.
    #[error(
        "the release names another summary than the one that was made of this bundle\n  try: read it with penstock-high review, and release it anew"
    )]
    OtherSummary,
    /// The buffer, the outbox or a file.
    #[error(transparent)]
    Sealer(#[from] SealerError),
}

impl From<BufferError> for ReleaseError {
    fn from(err: BufferError) -> Self {
        Self::Sealer(err.into())
    }
}

/// What became of a release that was taken in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Released {
    /// The officer.
    pub officer: String,
    /// False if this officer's key had released the bundle before.
    pub new: bool,
    /// The officers who have released it by now.
    pub officers: BTreeSet<String>,
    /// The bundle; ready, if these are enough.
    pub bundle: Bundle,
}

impl Publisher {
    /// The folder of bundles that wait for officers.
    pub fn reviews(&self) -> &ReviewFolder {
        &self.reviews
    }

    /// Takes in an officer's release of a waiting bundle, and lets the bundle go if that makes enough.
    pub fn release(
        &mut self,
        officers: &Officers,
        required: usize,
        bundle: &Bundle,
        statement: &ReleaseStatement,
        signature: &ReleaseSignature,
    ) -> Result<Released, ReleaseError> {
        let _held = self.hold(bundle.lane)?;
        let bundle = self.expect_waiting(bundle)?;
        let review = self.store.review(bundle.lane, bundle.number)?;
        if bundle.file.as_ref().is_none_or(|file| file.digest != statement.bundle) {
            return Err(ReleaseError::OtherBundle);
        }
        let commitment = summary_commitment(statement.summary.as_bytes());
        if review.is_none_or(|review| review.commitment != commitment) {
            return Err(ReleaseError::OtherSummary);
        }
        let Some(officer) = officers.signer(signature) else {
            return Err(ReleaseError::NotAnOfficer { key: signature.fingerprint().to_owned() });
        };
        let officer = officer.name().to_owned();
        let now = self.clock.now();
        let new = self.store.add_release(&bundle, &officer, statement, signature, now)?;
        let (names, ready) = self.complete(&bundle, officers, required)?;
        Ok(Released { officer, new, officers: names, bundle: ready.unwrap_or(bundle) })
    }

    /// Takes in an officer's refusal: the bundle stays here for good, and the low side will see a gap.
    pub fn refuse(
        &mut self,
        bundle: &Bundle,
        officer: &str,
        reason: &str,
    ) -> Result<Bundle, ReleaseError> {
        let _held = self.hold(bundle.lane)?;
        let bundle = self.expect_waiting(bundle)?;
        let at = self.clock.now();
        let refused = RefusedBy { at, officer: officer.to_owned(), reason: reason.to_owned() };
        let bundle = self.store.mark_refused(&bundle, refused)?;
        let message = format!(
            "{officer} refused bundle {} of lane {}: {}; it never leaves, and the low side will miss it",
            bundle.number,
            bundle.lane,
            super::shown(reason)
        );
        self.store.raise_alarm(AlarmKind::ReleaseRefused, &message, at)?;
        Ok(bundle)
    }

    fn expect_waiting(&self, bundle: &Bundle) -> Result<Bundle, ReleaseError> {
        let Bundle { lane, number, .. } = *bundle;
        let found = self.store.bundle(lane, number)?;
        let state = found.as_ref().map_or("unknown", |found| found.state.as_str());
        found
            .filter(|found| found.state == BundleState::AwaitingRelease)
            .ok_or(ReleaseError::NotWaiting { lane, number, state })
    }

    /// The officers who have released a bundle. One who is no officer any more does not count.
    pub fn released_by(
        &self,
        bundle: &Bundle,
        officers: &Officers,
    ) -> Result<BTreeSet<String>, SealerError> {
        Ok(self.believed(bundle, officers)?.0)
    }

    fn believed(
        &self,
        bundle: &Bundle,
        officers: &Officers,
    ) -> Result<(BTreeSet<String>, Option<Release>), SealerError> {
        let Some(file) = &bundle.file else { return Ok((BTreeSet::new(), None)) };
        let (mut names, mut signatures, mut statement) = (BTreeSet::new(), Vec::new(), None);
        for stored in self.store.releases(bundle.lane, bundle.number)? {
            let signed = ReleaseStatement { bundle: file.digest, summary: stored.summary };
            // Verified once more: nothing that was put into the database by hand counts.
            let Ok(signature) = ReleaseSignature::new(&stored.signature, &signed) else { continue };
            let Some(officer) = officers.signer(&signature) else { continue };
            // Of an officer with several keys one signature is enough.
            if names.insert(officer.name().to_owned()) {
                signatures.push(signature);
                statement = Some(signed);
            }
        }
        let release = statement.and_then(|signed| Release::new(signed, signatures).ok());
        Ok((names, release))
    }

    /// Lets a waiting bundle go, if enough officers have released it. The lock is held.
    fn complete(
        &mut self,
        bundle: &Bundle,
        officers: &Officers,
        required: usize,
    ) -> Result<(BTreeSet<String>, Option<Bundle>), SealerError> {
        let (names, release) = self.believed(bundle, officers)?;
        let (Some(release), Some(file)) = (release, &bundle.file) else {
            return Ok((names, None));
        };
        if names.len() < required.max(1) {
            return Ok((names, None));
        }
        let source = self.reviews.open(&file.name)?;
        let partial = self.outbox.partial(self.store.epoch(), bundle.lane, bundle.number);
        let target = durable::create(&partial, 0o640).map_err(SealerError::io(&partial))?;
        let sealed = BundleDigest::from_bytes(file.sha256);
        let written =
            attach_release(&source, &sealed, &release, &target).map_err(|err| match err {
                AttachError::Io(source) => SealerError::io(&partial)(source),
                AttachError::OtherFile => {
                    SealerError::Damaged { path: self.reviews.bundle(&file.name) }
                }
            });
        let written = match written {
            Ok(written) => written,
            Err(err) => {
                // What was written is worthless, and may be what filled the disk.
                let _ = durable::remove(&partial);
                return Err(err);
            }
        };
        let dir = self.outbox.dir();
        durable::sync_dir(dir).map_err(SealerError::io(dir))?;
        let bundle = self.store.mark_released(
            bundle,
            written.file_bytes,
            *written.file_sha256.as_bytes(),
        )?;
        let ready = self.publish(&bundle)?;
        Ok((names, Some(ready.unwrap_or(bundle))))
    }

    /// Completes what a crash interrupted: bundles that enough officers had released, and what is left
    /// over where bundles wait.
    pub fn complete_releases(
        &mut self,
        officers: &Officers,
        required: usize,
    ) -> Result<(), SealerError> {
        let _held = self.hold_all()?;
        for bundle in self.store.bundles(Some(BundleState::Released))? {
            self.publish(&bundle)?;
        }
        let mut failed = Ok(());
        for bundle in self.store.bundles(Some(BundleState::AwaitingRelease))? {
            match self.complete(&bundle, officers, required) {
                Ok(_) => {}
                // One that rotted must not keep the others here.
                Err(err @ SealerError::Damaged { .. }) => failed = Err(err),
                Err(err) => return Err(err),
            }
        }
        self.tidy_up()?;
        failed
    }

    /// All locks are held: no summary stands here for a bundle that is about to be marked as sealed.
    fn tidy_up(&mut self) -> Result<(), SealerError> {
        let (mut waiting, mut gone) = (HashSet::new(), HashSet::new());
        for state in BundleState::ALL {
            let names = match state {
                BundleState::Ready | BundleState::HandedOver | BundleState::Deleted => &mut gone,
                _ => &mut waiting,
            };
            let bundles = self.store.bundles(Some(state))?;
            names.extend(bundles.into_iter().filter_map(|bundle| bundle.file.map(|f| f.name)));
        }
        let mut strangers = self.reviews.clean(&waiting)?;
        for name in strangers.extract_if(.., |name| gone.contains(name)) {
            self.reviews.remove(&name)?;
        }
        if strangers.is_empty() {
            return Ok(());
        }
        let message = format!(
            "{} bundle(s) of an earlier epoch wait for officers and can't be released any more: {}",
            strangers.len(),
            strangers.iter().map(|name| super::shown(name)).collect::<Vec<_>>().join(", ")
        );
        self.raise_once(AlarmKind::ReleaseStranded, &message)
    }

    /// Raises an alarm for each lane in which a bundle has waited for officers longer than the lane's
    /// budget; once it was acknowledged, again for every further one and after every further budget.
    pub fn watch_overdue(&mut self, config: &Config) -> Result<(), SealerError> {
        let now = self.clock.now();
        for lane in Lane::ALL {
            let budget = config.seal_policy(lane).latency_budget;
            let since = |bundle: &Bundle| bundle.oldest.unwrap_or(bundle.planned);
            let waiting = self.store.bundles(Some(BundleState::AwaitingRelease))?;
            let overdue = waiting
                .iter()
                .filter(|bundle| bundle.lane == lane && now.since(since(bundle)) > budget);
            let Some(newest) = overdue.clone().map(since).max() else { continue };
            let last =
                self.store.last_alarm(AlarmKind::ReleaseOverdue, &format!(" of lane {lane} "))?;
            if !is_due(last.as_ref(), Some(newest.plus(budget)), budget, now) {
                continue;
            }
            let message = format!(
                "{} bundle(s) of lane {lane} have waited for officers longer than the lane's budget of {} s",
                overdue.count(),
                budget.as_secs()
            );
            self.store.raise_alarm(AlarmKind::ReleaseOverdue, &message, now)?;
            tracing::warn!(%lane, "bundles wait for officers longer than the budget");
        }
        Ok(())
    }

    fn raise_once(&self, kind: AlarmKind, message: &str) -> Result<(), SealerError> {
        // Acknowledged ones count too: the same thing is not told again.
        let alarms = self.store.alarms(true)?;
        if !alarms.iter().any(|alarm| alarm.kind == kind.as_str() && alarm.message == message) {
            self.store.raise_alarm(kind, message, self.clock.now())?;
        }
        Ok(())
    }
}
