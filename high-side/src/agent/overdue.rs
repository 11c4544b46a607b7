//! Bundles that were not handed over in time: nobody is there to ask, so the high side says it itself.

use std::time::Duration;

use shared::clock::Nanos;
use shared::record::Lane;

use crate::buffer::{AlarmKind, BufferError, Store};
use crate::config::Config;

/// Raises an alarm for each lane whose longest waiting bundle has used up the whole budget. One alarm
/// stands for all that wait in its lane: there is no second one until it is acknowledged, and none
/// for the same bundle after that.
pub(super) fn watch(store: &Store, config: &Config, now: Nanos) -> Result<(), BufferError> {
    for lane in Lane::ALL {
        let budget = config.seal_policy(lane).latency_budget;
        let Some((number, since)) = store.longest_waiting(lane)? else { continue };
        if now.since(since) <= budget.max(SHORTEST) {
            continue;
        }
        let about = format!("bundle {number} of lane {lane} ");
        let of_lane = format!(" of lane {lane} ");
        let kind = AlarmKind::HandOverOverdue;
        let told = store.alarms(true)?.into_iter().any(|alarm| {
            let same_lane = alarm.acknowledged.is_none() && alarm.message.contains(&of_lane);
            alarm.kind == kind.as_str() && (same_lane || alarm.message.starts_with(&about))
        });
        if !told {
            store.raise_alarm(
                kind,
                &message(&about, since, budget, &config.carriers_of(lane)),
                now,
            )?;
            tracing::warn!(%lane, number, "a bundle was not handed over within its lane's budget");
        }
    }
    Ok(())
}

fn message(about: &str, since: Nanos, budget: Duration, carriers: &[String]) -> String {
    let budget = shared::config::Span(budget);
    let who = if carriers.is_empty() {
        "no carrier is configured for it: it waits for `penstock-high export`".to_owned()
    } else {
        format!("see in `penstock-high status` what fails: {}", carriers.join(", "))
    };
    format!(
        "{about}holds records since {since} and was not handed over within the budget of {budget}; {who}"
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
        let text = message("bundle 7 of lane flash ", Nanos(0), budget, &["link".to_owned()]);
        assert!(text.starts_with("bundle 7 of lane flash holds") && text.ends_with(": link"));
        let text = message("bundle 7 of lane flash ", Nanos(0), budget, &[]);
        assert!(text.contains("10s") && text.contains("export"), "{text}");
    }
}
