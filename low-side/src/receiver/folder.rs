//! A folder that something else puts bundles into: a diode appliance, a share.

use std::ffi::OsStr;
use std::io::{Read, Write};
use std::time::{Duration, Instant};

use sha2::{Digest, Sha256};
use shared::bundle::BundleDigest;
use shared::durable;

use super::config::FolderConfig;
use super::{ReceiveError, Receiver, Reception};
use crate::config::{AfterImport, InboxConfig};
use crate::folders::{open_untrusted, shown};
use crate::import::{Outcome, Sidecar};
use crate::inbox::Inbox;

/// Moves what has stood still into the inbox.
pub(super) struct FolderReceiver {
    folder: Inbox,
}

impl FolderReceiver {
    pub(super) fn new(config: &FolderConfig, bytes_max: u64) -> Self {
        let looks = InboxConfig {
            path: config.path.clone(),
            settle: SETTLE,
            rescan_interval: POLL_INTERVAL,
            copy_deadline: COPY_DEADLINE,
            ignore_suffixes: [".partial", ".part", ".tmp", ".sha256", ".filepart"]
                .map(ToOwned::to_owned)
                .to_vec(),
            after_import: AfterImport::Delete,
        };
        Self { folder: Inbox::new(looks, bytes_max) }
    }

    fn take(
        &self,
        name: &OsStr,
        sidecar: &Sidecar,
        reception: &Reception,
    ) -> Result<Outcome, ReceiveError> {
        let from = self.folder.path(name);
        let Some(mut source) = open_untrusted(&from).map_err(ReceiveError::io(&from))? else {
            let message = "it is no regular file".to_owned();
            return Ok(Outcome::Ignored { code: "not-a-file", message });
        };
        let name = shown(name);
        let partial = reception.partial(&name);
        let mut file = durable::create(&partial, 0o640).map_err(ReceiveError::io(&partial))?;
        let mut hash = Sha256::new();
        let mut buffer = vec![0; COPY_BYTES];
        loop {
            let count = source.read(&mut buffer).map_err(ReceiveError::io(&from))?;
            if count == 0 {
                break;
            }
            hash.update(&buffer[..count]);
            file.write_all(&buffer[..count]).map_err(ReceiveError::io(&partial))?;
        }
        let sha256 = BundleDigest::from_bytes(hash.finalize().into());
        if let Sidecar::Expect(expected) | Sidecar::Insist(Some(expected)) = sidecar
            && *expected != sha256
        {
            durable::remove(&partial).map_err(ReceiveError::io(&partial))?;
            return Ok(Outcome::Incomplete);
        }
        reception.deliver(&name, &file, &sha256)?;
        Ok(Outcome::Duplicate { bundle: name })
    }
}

impl Receiver for FolderReceiver {
    fn run(&mut self, reception: &Reception) -> Result<(), ReceiveError> {
        while !reception.is_stopping() {
            let look = self.folder.look(Instant::now());
            let look = look.map_err(ReceiveError::io(&self.folder.path(OsStr::new(""))))?;
            for ready in &look.ready {
                let outcome = self.take(&ready.name, &ready.sidecar, reception)?;
                let path = self.folder.path(&ready.name);
                self.folder.done(&ready.name, &outcome).map_err(ReceiveError::io(&path))?;
            }
            reception.rest(look.next.unwrap_or(POLL_INTERVAL).min(POLL_INTERVAL));
        }
        Ok(())
    }
}

const SETTLE: Duration = Duration::from_secs(2);
const POLL_INTERVAL: Duration = Duration::from_secs(1);
const COPY_DEADLINE: Duration = Duration::from_mins(10);
const COPY_BYTES: usize = 256 * 1024;
