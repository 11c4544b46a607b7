//! Receivers tell what they fail of in the status; what lasts, and what was thrown away, is an alarm.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use shared::clock::Nanos;

use crate::ledger::{Ledger, LedgerError};
use crate::receiver::ReceiverCounters;
use crate::receiver::config::ReceiverConfig;

/// What is known of each receiver from one look to the next.
#[derive(Debug, Default)]
pub(super) struct ReceiverWatch {
    /// Since when it is in trouble.
    troubles: BTreeMap<String, Nanos>,
    /// How many bundles it had thrown away.
    wrong: BTreeMap<String, u64>,
}

impl ReceiverWatch {
    /// Looks at all of them.
    pub(super) fn look(
        &mut self,
        receivers: &[(ReceiverConfig, Arc<ReceiverCounters>)],
        ledger: &mut Ledger,
        now: Nanos,
    ) -> Result<(), LedgerError> {
        for (settings, counters) in receivers {
            self.look_at(&settings.name, counters, ledger, now)?;
        }
        Ok(())
    }

    fn look_at(
        &mut self,
        name: &str,
        counters: &ReceiverCounters,
        ledger: &mut Ledger,
        now: Nanos,
    ) -> Result<(), LedgerError> {
        let trouble = counters.trouble();
        if trouble.is_empty() {
            self.troubles.remove(name);
            ledger.close_alarm(TROUBLE, name, now)?;
        } else {
            let since = *self.troubles.entry(name.to_owned()).or_insert(now);
            if now.since(since) >= TROUBLE_LASTS {
                let message = format!("receiver {name}: {trouble}");
                ledger.raise_lasting(TROUBLE, name, &message, (since, TROUBLE_AGAIN), now)?;
            }
        }
        let wrong = counters.wrong.load(Ordering::Relaxed);
        let before = self.wrong.insert(name.to_owned(), wrong).unwrap_or(0);
        if wrong > before {
            let message = format!(
                "receiver {name}: {} bundle(s) came whole and were not what was sent; nothing of them was taken in",
                wrong - before
            );
            ledger.raise(WRONG, name, &message, now)?;
        }
        Ok(())
    }
}

/// A receiver has failed for a while: no catalogue comes, a folder is gone, a disk is full.
const TROUBLE: &str = "receiver-trouble";
/// A receiver threw away what it put together.
const WRONG: &str = "receiver-wrong";
/// A receiver that starts, or a sender that is restarted, is in trouble for some seconds.
const TROUBLE_LASTS: Duration = Duration::from_secs(30);
/// Trouble that was acknowledged and lasts is told again after so long.
const TROUBLE_AGAIN: Duration = Duration::from_hours(1);

#[cfg(test)]
mod tests {
    use shared::bell::Bell;

    use super::*;
    use crate::receiver::Reception;

    #[test]
    fn trouble_that_was_acknowledged_and_lasts_is_told_again() {
        let dir = tempfile::tempdir().unwrap();
        let mut ledger = Ledger::open(dir.path()).unwrap();
        let reception = Reception::new("link", dir.path(), dir.path(), Bell::default());
        reception.trouble("the folder is gone");
        let mut watch = ReceiverWatch::default();
        let mut look = |secs: u64| {
            let now = Nanos(0).plus(Duration::from_secs(secs));
            watch.look_at("link", reception.counters(), &mut ledger, now).unwrap();
            let told = ledger.alarms().unwrap().len();
            ledger.acknowledge(None, now).unwrap();
            told
        };
        let told: Vec<usize> = [100, 129, 130, 131, 3_730, 3_731, 3_732].map(&mut look).to_vec();
        assert_eq!(told, [0, 0, 1, 0, 0, 1, 0]);
    }

    #[test]
    fn what_was_thrown_away_is_told_each_time() {
        let dir = tempfile::tempdir().unwrap();
        let mut ledger = Ledger::open(dir.path()).unwrap();
        let counters = ReceiverCounters::default();
        let mut watch = ReceiverWatch::default();
        watch.look_at("link", &counters, &mut ledger, Nanos(1)).unwrap();
        assert!(ledger.alarms().unwrap().is_empty());
        for time in [2, 3] {
            counters.wrong.fetch_add(2, Ordering::Relaxed);
            watch.look_at("link", &counters, &mut ledger, Nanos(time)).unwrap();
            let alarms = ledger.alarms().unwrap();
            assert_eq!(alarms[0].code, "receiver-wrong");
            assert!(alarms[0].message.contains(" 2 bundle(s)"), "{}", alarms[0].message);
            ledger.acknowledge(None, Nanos(time)).unwrap();
            watch.look_at("link", &counters, &mut ledger, Nanos(time)).unwrap();
            assert!(ledger.alarms().unwrap().is_empty(), "told once for each");
        }
    }
}
