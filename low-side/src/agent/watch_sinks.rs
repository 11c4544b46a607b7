//! A sink that does not get on is an alarm: what could go to it waits there for too long.
//!
//! What a gap or an archive that comes first holds back is not the sink's fault, and has alarms of its own.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use shared::clock::Nanos;
use shared::config::Span;

use crate::ledger::{ChainId, Ledger, LedgerError};
use crate::replay::{HealthBoard, SinkHealth};
use crate::sink::config::SinkConfig;

/// What is known of the sinks from one look to the next.
#[derive(Debug)]
pub(super) struct SinkWatch {
    /// How long something may wait for each sink.
    limits: Vec<(String, Duration)>,
    /// Of each chain that has something for a sink, since when: whatever a gap had held before that.
    waiting: HashMap<(String, ChainId), Nanos>,
    /// Whether it has looked before.
    looked: bool,
}

impl SinkWatch {
    /// Of the sinks of a configuration.
    pub(super) fn of(sinks: &[SinkConfig]) -> Self {
        let limits = sinks.iter().map(|sink| (sink.name.clone(), sink.lag_alarm)).collect();
        Self { limits, waiting: HashMap::new(), looked: false }
    }

    /// Looks at all of them.
    pub(super) fn look(
        &mut self,
        boards: &[(String, HealthBoard)],
        ledger: &mut Ledger,
        now: Nanos,
    ) -> Result<(), LedgerError> {
        if !self.looked {
            self.close_others(ledger, now)?;
        }
        let mut waiting = HashMap::new();
        for (name, most) in &self.limits {
            let begins = match self.looked {
                true => now,
                // What an agent finds at its start goes within a minute, or has waited since it came.
                false if !ledger.alarm_stands(LAG, name)? => {
                    before(now, *most).plus(STARTS.min(*most))
                }
                false => Nanos(0),
            };
            let mut oldest: Option<Nanos> = None;
            for (chain, admitted) in ledger.deliverable(name)? {
                let key = (name.clone(), chain);
                let begun = self.waiting.get(&key).copied().unwrap_or(begins);
                oldest = oldest.into_iter().chain([admitted.max(begun)]).min();
                waiting.insert(key, begun);
            }
            match oldest.filter(|since| now.since(*since) > *most) {
                None => ledger.close_alarm(LAG, name, now)?,
                Some(_) if ledger.alarm_stands(LAG, name)? => {}
                Some(since) => {
                    let board = boards.iter().find(|(known, _)| known == name);
                    let health = board.map(|(_, board)| board.read()).unwrap_or_default();
                    let sums = ledger.sums()?.sinks;
                    let pending =
                        sums.iter().find(|sum| sum.name == *name).map_or(0, |sum| sum.pending);
                    let text = message(name, pending, since, *most, &health, now);
                    ledger.raise_once(LAG, name, &text, now)?;
                }
            }
        }
        self.waiting = waiting;
        self.looked = true;
        Ok(())
    }

    /// For a sink that is not configured any more nothing waits.
    fn close_others(&self, ledger: &mut Ledger, now: Nanos) -> Result<(), LedgerError> {
        let known: BTreeSet<&str> = self.limits.iter().map(|(name, _)| name.as_str()).collect();
        for alarm in ledger.alarms()? {
            if alarm.code == LAG && !known.contains(alarm.subject.as_str()) {
                ledger.close_alarm(LAG, &alarm.subject, now)?;
            }
        }
        Ok(())
    }
}

fn message(
    name: &str,
    pending: u64,
    since: Nanos,
    most: Duration,
    health: &SinkHealth,
    now: Nanos,
) -> String {
    let lasts = Span(Duration::from_secs(now.since(since).as_secs()));
    let why = match (&health.error, health.state) {
        (Some(error), "blocked") => format!("a stored bundle can't be read: {error}"),
        (Some(error), _) => format!("the last try said: {error}"),
        (None, _) => "it takes what it gets, but not as fast as it comes".to_owned(),
    };
    format!(
        "{pending} record(s) wait for the sink {name}, the first since {since} ({lasts}); the limit is {}; {why}\n  try: penstock-low check {name}; nothing is lost meanwhile, and it is tried for ever",
        Span(most)
    )
}

fn before(now: Nanos, span: Duration) -> Nanos {
    Nanos(now.0.saturating_sub(i64::try_from(span.as_nanos()).unwrap_or(i64::MAX)))
}

const LAG: &str = "sink-lag";
/// A sink that works has begun to take what waits by then.
const STARTS: Duration = Duration::from_mins(1);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::import::Sidecar;
    use crate::ledger::Delivery;
    use crate::testing::{Chain, Site};
    use shared::record::Lane;

    const MOST: Duration = Duration::from_mins(15);

    #[test]
    fn a_sink_lags_by_what_it_could_have_had_and_not_by_what_a_gap_holds() {
        let site = Site::new();
        let (mut chain, mut other) = (Chain::new(1, Lane::Routine), Chain::new(1, Lane::Flash));
        let [first, second, third] = ["a", "b", "c"].map(|text| site.seal(&mut chain, &[text]));
        let urgent = site.seal(&mut other, &["d"]);
        let mut importer = site.importer();
        let import = |importer: &mut crate::import::Importer<_>, path: &std::path::Path| {
            importer.import(path, Sidecar::Absent, |_| {}).unwrap();
        };
        let mut ledger = site.ledger();
        let sink = ledger.sink("siem").unwrap();
        let mut watch = SinkWatch {
            limits: vec![("siem".to_owned(), MOST)],
            waiting: HashMap::new(),
            looked: false,
        };
        let board = HealthBoard::default();
        let boards = [("siem".to_owned(), board)];
        let start = shared::clock::Clock::now(&importer.clock);
        let at = |mins: u64| start.plus(Duration::from_mins(mins));
        let look = |watch: &mut SinkWatch, ledger: &mut Ledger, mins: u64| {
            watch.look(&boards, ledger, at(mins)).unwrap();
            let alarms = ledger.alarms().unwrap();
            alarms.into_iter().find(|alarm| alarm.code == "sink-lag" && alarm.closed.is_none())
        };
        let deliver = |ledger: &mut Ledger, lane: Lane, number: u64| {
            let chains = ledger.pending_chains(sink).unwrap();
            let chain = chains.iter().find(|chain| chain.name.lane == lane).unwrap().id;
            let delivery = Delivery::of(chain, (number, number), 1);
            ledger.deliver(sink, &[delivery], None, &HashMap::new(), start).unwrap();
        };

        import(&mut importer, &first);
        import(&mut importer, &third);
        assert!(look(&mut watch, &mut ledger, 0).is_none());
        // The first bundle waits for the sink, the third for the second.
        let told = look(&mut watch, &mut ledger, 16).unwrap();
        let text = &told.message;
        assert!(
            text.contains("2 record(s) wait for the sink siem") && text.contains("16m"),
            "{text}"
        );
        assert!(text.contains("penstock-low check siem"), "{text}");
        deliver(&mut ledger, Lane::Routine, 1);
        assert!(look(&mut watch, &mut ledger, 17).is_none(), "what is left waits for a gap");
        assert!(look(&mut watch, &mut ledger, 2_000).is_none());
        // The gap is filled: from now on the sink has its time, also while another lane keeps it busy.
        import(&mut importer, &second);
        import(&mut importer, &urgent);
        assert!(look(&mut watch, &mut ledger, 2_001).is_none());
        assert!(look(&mut watch, &mut ledger, 2_010).is_none());
        deliver(&mut ledger, Lane::Flash, 1);
        assert!(look(&mut watch, &mut ledger, 2_017).is_some());
        // An agent that is started anew goes by when they came; a sink that is gone lags no more.
        let mut anew = SinkWatch { waiting: HashMap::new(), looked: false, ..watch };
        assert!(look(&mut anew, &mut ledger, 2_018).is_some());
        let mut without = SinkWatch::of(&[]);
        assert!(look(&mut without, &mut ledger, 2_019).is_none());
        // Where nothing was told before it was stopped, it has a minute for what it finds.
        let limits = vec![("siem".to_owned(), MOST)];
        let mut later = SinkWatch { limits, waiting: HashMap::new(), looked: false };
        assert!(look(&mut later, &mut ledger, 3_000).is_none());
        assert!(look(&mut later, &mut ledger, 3_001).is_none());
        assert!(look(&mut later, &mut ledger, 3_002).is_some());
    }

    #[test]
    fn the_message_says_what_the_destination_answered() {
        let health = |state, error: Option<&str>| SinkHealth {
            state,
            error: error.map(ToOwned::to_owned),
            ..SinkHealth::default()
        };
        let text =
            |health: SinkHealth| message("siem", 5, Nanos(0), MOST, &health, Nanos(0).plus(MOST));
        assert!(text(health("failing", Some("503 busy"))).contains("the last try said: 503 busy"));
        assert!(text(health("blocked", Some("x.pstk: no"))).contains("can't be read: x.pstk: no"));
        assert!(text(health("delivering", None)).contains("not as fast"));
    }
}
