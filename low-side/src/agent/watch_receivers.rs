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
    /// Since when it is in trouble, and whether that was told.
    troubles: BTreeMap<String, (Nanos, bool)>,
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
            let (since, told) = self.troubles.entry(name.to_owned()).or_insert((now, false));
            if !*told && now.since(*since) >= TROUBLE_LASTS {
                *told = true;
                let message = format!("receiver {name}: {trouble}");
                ledger.raise_once(TROUBLE, name, &message, now)?;
            }
        }
        let wrong = counters.wrong.load(Ordering::Relaxed);
        let before = self.wrong.insert(name.to_owned(), wrong).unwrap_or(0);
        if wrong > before {
            let message = format!(
                "receiver {name}: {} bundle(s) came whole and were not what was sent; nothing of them was taken in",
                wrong - before
            );
            ledger.raise_once(WRONG, name, &message, now)?;
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

#[cfg(test)]
mod tests {
    use super::*;

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
