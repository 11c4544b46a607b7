//! Bundles that were not handed over in time: nobody is there to ask, so the high side says it itself.

use std::time::Duration;

use shared::clock::Nanos;
use shared::record::Lane;

use crate::buffer::{AlarmKind, BufferError, Late, Store, is_due};
use crate::config::Config;

/// Raises an alarm for each lane in which a bundle has used up the whole budget. One alarm stands for all
/// that wait in its lane. Once it was acknowledged there is another one for every further bundle that
/// is late, and for those that are late still after another budget.
pub(super) fn watch(store: &Store, config: &Config, now: Nanos) -> Result<(), BufferError> {
    for lane in Lane::ALL {
        let budget = config.seal_policy(lane).latency_budget;
        let patience = patience(budget);
        let Some(late) = store.late(lane, patience, now)? else { continue };
        let kind = AlarmKind::HandOverOverdue;
        let last = store.last_alarm(kind, &of_lane(lane))?;
        if is_due(last.as_ref(), Some(late.newest.plus(patience)), patience, now) {
            let message = message(lane, &late, budget, &config.carriers_of(lane));
            store.raise_alarm(kind, &message, now)?;
            let number = late.number;
            tracing::warn!(%lane, number, "a bundle was not handed over within its lane's budget");
        }
    }
    Ok(())
}

/// How long a record may wait before a person is told, where the budget is so long.
pub(super) fn patience(budget: Duration) -> Duration {
    budget.max(SHORTEST)
}

/// What every message about a lane holds, and none about another lane does.
pub(super) fn of_lane(lane: Lane) -> String {
    format!(" of lane {lane} ")
}

fn message(lane: Lane, waiting: &Late, budget: Duration, carriers: &[String]) -> String {
    let Late { number, since, bundles, .. } = waiting;
    let budget = shared::config::Span(budget);
    let others = match bundles - 1 {
        0 => String::new(),
        others => format!(", nor were {others} behind it"),
    };
    let who = if carriers.is_empty() {
        "no carrier is configured for it: it waits for `penstock-high export`".to_owned()
    } else {
        format!("see in `penstock-high status` what fails: {}", carriers.join(", "))
    };
    format!(
        "bundle {number}{}holds records since {since} and was not handed over within the budget of {budget}{others}; {who}",
        of_lane(lane)
    )
}

/// A wait that is shorter than this is no news for a person, however short the budget is.
const SHORTEST: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_message_says_what_waits_and_where_to_look() {
        let budget = Duration::from_secs(10);
        let of = |bundles, carriers: &[String]| {
            let late = Late { number: 7, since: Nanos(0), bundles, newest: Nanos(0) };
            message(Lane::Flash, &late, budget, carriers)
        };
        let text = of(1, &["link".to_owned()]);
        assert!(text.starts_with("bundle 7 of lane flash holds") && text.ends_with(": link"));
        let text = of(3, &[]);
        assert!(text.contains("10s, nor were 2 behind it; no carrier"), "{text}");
        assert!(text.contains(&of_lane(Lane::Flash)), "{text}");
    }
}
