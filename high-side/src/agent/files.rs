//! The sets of files: started from their marks, with a way to raise alarms, and joined.

use shared::clock::{Clock, SystemClock};
use tokio::time::{Instant, timeout_at};

use crate::buffer::{AlarmKind, Buffer, Writer};
use crate::cmd::Failure;
use crate::config::Config;
use crate::ingest::Surroundings;
use crate::tail::{self, Alarm, RunningFiles};

/// Starts to read every set from where its marks say.
pub(super) fn start(
    config: &Config,
    buffer: &Buffer,
    surroundings: &Surroundings,
) -> Result<Vec<RunningFiles>, Failure> {
    let mut running = Vec::new();
    for settings in &config.files {
        let store = buffer.store()?;
        let marks = store.marks(&tail::mark_prefix(&settings.name))?;
        let alarm: Alarm = Box::new(move |message| {
            let now = SystemClock.now();
            // The log has it in any case.
            if let Err(err) = store.raise_alarm(AlarmKind::FileUnread, message, now) {
                tracing::error!(%err, message, "an alarm can't be kept");
            }
        });
        let files = tail::spawn(settings.clone(), &marks, alarm, surroundings);
        running.push(files.map_err(Failure::new)?);
    }
    Ok(running)
}

/// Waits until a set has handed over what it read; gives up what the buffer does not take in time.
pub(super) async fn join(
    files: RunningFiles,
    deadline: Instant,
    writer: &Writer,
) -> Result<(), Failure> {
    match timeout_at(deadline, files.task).await {
        Ok(Ok(Ok(()))) => Ok(()),
        Ok(Ok(Err(err))) => Err(Failure::new(err)),
        Ok(Err(_)) => Err(Failure::new(format!("files {:?}: their reader panicked", files.name))),
        Err(_) => {
            tracing::warn!(files = %files.name, "did not stop in time; what it holds is given up and read again");
            writer.give_up();
            Ok(())
        }
    }
}
