//! `import --drain`: what the inbox does, done once, for a folder that the agent never reads.
//!
//! A unit of its own runs it, without the network and without the sinks' credentials, so that what came from
//! outside is first opened where nothing else can be reached.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use shared::exit;

use super::import::{Summary, bar};
use super::{Failure, importer};
use crate::config::{AfterImport, Config, InboxConfig};
use crate::folders::shown;
use crate::import::Outcome;
use crate::inbox::Inbox;

/// The shortest pause between two looks.
const PAUSE_MIN: Duration = Duration::from_millis(20);
/// Between two looks at most: a copy that stays incomplete is waited for much longer, and what else comes in the
/// meantime must not be.
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// Takes in what stands in the folders and removes it there, until nothing is left but what is no bundle.
/// What is still being copied is waited for, at most `inbox.copy-deadline` after its last change.
pub(super) fn drain(config: &Config, folders: &[PathBuf], as_json: bool) -> Result<(), Failure> {
    for folder in folders {
        if !folder.is_dir() {
            let text = format!(
                "{} is no folder\n  try: without --drain, for single files",
                folder.display()
            );
            return Err(Failure::new(exit::USAGE, text));
        }
        if same(folder, &config.inbox.path) {
            let text = format!(
                "{} is the agent's own inbox\n  try: another folder, of which the agent knows nothing",
                folder.display()
            );
            return Err(Failure::new(exit::USAGE, text));
        }
    }
    let mut importer = importer(config, "import")?;
    importer.log = None;
    let mut summary = Summary::default();
    // No length is known before the end.
    let bar = bar(0);
    for folder in folders {
        let settings = InboxConfig {
            path: folder.clone(),
            after_import: AfterImport::Delete,
            ..config.inbox.clone()
        };
        let mut inbox = Inbox::new(settings, importer.limits.file_bytes_max);
        let unreadable = |err| Failure::new(exit::IO, format!("{}: {err}", folder.display()));
        loop {
            let look = inbox.look(Instant::now()).map_err(unreadable)?;
            if look.ready.is_empty() {
                if let Some(wait) = look.next {
                    std::thread::sleep(wait.clamp(PAUSE_MIN, PAUSE_MAX));
                    continue;
                }
                for (code, name) in &look.ignored {
                    let message = "stays where it is".to_owned();
                    let outcome = Outcome::Ignored { code, message };
                    summary.take(&bar, &shown(inbox.path(name)), Ok(outcome));
                }
                break;
            }
            for ready in look.ready {
                let path = inbox.path(&ready.name);
                let outcome = importer.import(&path, ready.sidecar, |_| {});
                match &outcome {
                    Ok(Outcome::Incomplete) => {
                        inbox.done(&ready.name, &Outcome::Incomplete).map_err(unreadable)?;
                        continue;
                    }
                    // What can't be removed would be found again, and again.
                    Ok(outcome) => inbox.done(&ready.name, outcome).map_err(|err| {
                        let text =
                            format!("{} was taken in, and can't be removed: {err}", shown(&path));
                        Failure::new(exit::IO, text)
                    })?,
                    Err(_) => {}
                }
                let failed = outcome.is_err();
                summary.take(&bar, &shown(&path), outcome);
                if failed {
                    // A fault of this machine: whoever starts this verb starts it again.
                    return summary.finish(importer.ledger.gaps()?.len(), as_json);
                }
            }
        }
    }
    super::custody::settle(&mut importer.ledger);
    summary.finish(importer.ledger.gaps()?.len(), as_json)
}

fn same(a: &Path, b: &Path) -> bool {
    let real = |path: &Path| path.canonicalize().unwrap_or_else(|_| path.to_owned());
    real(a) == real(b)
}
