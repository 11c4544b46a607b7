//! A folder from which something else takes the bundles: a diode appliance, a share.

use std::time::Duration;

use super::{Carriage, Carrier, writable_folder};
use crate::config::FolderSettings;
use crate::sealer::SealerError;

/// Copies each bundle into a folder: temporary name, sync, read back, sidecar, rename. What has its
/// name is never touched again; whoever takes it may delete, keep or rename it.
pub(super) struct FolderCarrier {
    settings: FolderSettings,
}

impl FolderCarrier {
    pub(super) fn new(settings: FolderSettings) -> Self {
        Self { settings }
    }
}

impl Carrier for FolderCarrier {
    fn run(&mut self, carriage: &mut Carriage) -> Result<(), SealerError> {
        while !carriage.is_stopping() {
            let Some(waiting) = carriage.next(1)?.pop() else {
                carriage.fine();
                carriage.wait(IDLE);
                continue;
            };
            match carriage.outbox().copy(&waiting, &self.settings.path, &mut |_| {}) {
                Ok(()) => carriage.handed_over(&waiting)?,
                Err(SealerError::Damaged { .. }) => carriage.damaged(&waiting)?,
                Err(err) => return Err(err),
            }
        }
        Ok(())
    }
}

/// What is wrong with the folder.
pub(super) fn check(settings: &FolderSettings) -> Vec<String> {
    writable_folder(&settings.path).into_iter().collect()
}

const IDLE: Duration = Duration::from_secs(1);
