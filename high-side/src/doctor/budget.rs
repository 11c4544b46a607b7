//! Whether a lane's latency budget can be kept with what carries its bundles: arithmetic over settings.

use std::time::Duration;

use shared::config::Span;
use shared::doctor::{Finding, Level, grouped};
use shared::record::Lane;

use crate::policy::SealPolicy;

/// What takes bundles of a lane across.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Way {
    /// Somebody with a medium.
    Courier,
    /// A carrier that hands over by itself.
    Link {
        /// Its name.
        name: String,
        /// What it carries of bundles, in bytes a second, where that is set.
        bytes_per_sec: Option<u64>,
    },
}

/// One lane.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Which.
    pub lane: Lane,
    /// Its rules.
    pub policy: SealPolicy,
    /// What carries it.
    pub ways: Vec<Way>,
    /// How often the courier goes, where that is said.
    pub courier_every: Option<Duration>,
    /// Whether officers have to release its bundles.
    pub reviewed: bool,
}

/// Judges a lane.
pub fn judge(plan: &Plan) -> Vec<Finding> {
    let budget = plan.policy.latency_budget;
    let mut findings = Vec::new();
    let links: Vec<_> = plan.ways.iter().filter(|way| **way != Way::Courier).collect();
    if links.is_empty() {
        findings.push(courier(plan));
    }
    findings.extend(links.into_iter().map(|way| link(plan, way)));
    if plan.reviewed && budget < PEOPLE_NEED {
        let what = format!(
            "lane {}: officers have to release each bundle, within a budget of {}",
            plan.lane,
            Span(budget)
        );
        findings.push(
            Finding::new(Level::Fault, "officers", what)
                .remedy(budget_key(plan.lane, "with time for people, as \"4h\""))
                .remedy(
                    "release.flash-mode = \"automatic\", if what is urgent may leave by itself",
                ),
        );
    }
    findings.into_iter().map(|finding| finding.at(plan.lane)).collect()
}

fn courier(plan: &Plan) -> Finding {
    let SealPolicy { latency_budget: budget, transfer_share_percent: share, .. } = plan.policy;
    let seal_age = plan.policy.seal_age(0);
    let lane = plan.lane;
    let Some(every) = plan.courier_every else {
        if budget < PEOPLE_NEED {
            let what = format!(
                "lane {lane}: a budget of {} and nothing but a courier to carry it: it can't be kept",
                Span(budget)
            );
            return Finding::new(Level::Fault, "budget", what)
                .remedy("a [[carrier]] over a diode for this lane")
                .remedy(budget_key(lane, "of the courier's round, as \"24h\""));
        }
        let what = format!(
            "lane {lane}: sealed at the latest {} after reception ({} less {share} % for the transfer); how often the courier goes is not known",
            Span(seal_age),
            Span(budget)
        );
        return Finding::new(Level::Warning, "budget", what).remedy(
            "penstock-high doctor --courier-every 24h (or how often he goes) works it out",
        );
    };
    let worst = seal_age + every;
    let sum = format!(
        "lane {lane}: sealed at the latest {} after reception ({} less {share} % for the transfer), then up to {} until the courier goes: {} of {}",
        Span(seal_age),
        Span(budget),
        Span(every),
        Span(worst),
        Span(budget)
    );
    if worst <= budget {
        return Finding::new(Level::Fine, "budget", sum);
    }
    if every <= budget {
        // What takes the courier's time away from the sealer: the share that leaves it to him.
        let needed = (every.as_secs_f64() / budget.as_secs_f64() * 100.0).ceil();
        let finding = Finding::new(Level::Warning, "budget", sum)
            .remedy("penstock-high seal right before each export: then the round alone counts");
        return if needed <= 95.0 {
            finding.remedy(format!("seal.transfer-share = {needed}"))
        } else {
            finding.remedy(budget_key(lane, &format!("= \"{}\" or more", Span(worst))))
        };
    }
    Finding::new(Level::Fault, "budget", format!("{sum}; the round alone is longer"))
        .remedy("a courier who goes more often, or a [[carrier]] over a diode")
        .remedy(budget_key(lane, &format!("= \"{}\" or more", Span(worst))))
}

fn link(plan: &Plan, way: &Way) -> Finding {
    let SealPolicy { latency_budget: budget, transfer_share_percent: share, .. } = plan.policy;
    let Way::Link { name, bytes_per_sec } = way else { return courier(plan) };
    let lane = plan.lane;
    let for_transfer = budget.saturating_sub(plan.policy.seal_age(0));
    if share == 0 {
        let what = format!(
            "lane {lane}: bundles are sealed when the whole budget of {} is over, and no time is left to carry them",
            Span(budget)
        );
        return Finding::new(Level::Fault, "budget", what).remedy("seal.transfer-share = 50");
    }
    let Some(rate) = bytes_per_sec.filter(|rate| *rate > 0) else {
        let what = format!(
            "lane {lane}: carrier {name} has {} of the budget of {} for a bundle, at the other end's own speed",
            Span(for_transfer),
            Span(budget)
        );
        return Finding::new(Level::Fine, "budget", what);
    };
    // What is urgent is cut within a moment, and small; what is routine may fill a whole bundle.
    let bytes = match lane {
        Lane::Flash => rate.min(plan.policy.plain_bytes_max),
        Lane::Routine => plan.policy.plain_bytes_max,
    };
    let needed = Duration::from_secs(bytes / rate);
    let sum = format!(
        "lane {lane}: the largest bundle ({} bytes before compression) takes carrier {name} {} at {} bytes a second; {} of {} are for it",
        grouped(bytes),
        Span(needed),
        grouped(rate),
        Span(for_transfer),
        Span(budget)
    );
    if lane == Lane::Routine && needed > for_transfer {
        let fitting = (rate.saturating_mul(for_transfer.as_secs()) >> 20).max(1);
        return Finding::new(Level::Fault, "budget", sum)
            .remedy(format!("seal.bundle-bytes-max = \"{fitting}MiB\" or less"))
            .remedy("a faster link, or a longer seal.latency-budget");
    }
    Finding::new(Level::Fine, "budget", sum)
}

fn budget_key(lane: Lane, value: &str) -> String {
    match lane {
        Lane::Flash => format!("seal.flash-budget {value}"),
        Lane::Routine => format!("seal.latency-budget {value}"),
    }
}

/// Nobody comes by, or reads what is to leave, in less.
const PEOPLE_NEED: Duration = Duration::from_hours(1);

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: Duration = Duration::from_hours(24);

    fn plan(lane: Lane, budget: Duration, ways: Vec<Way>, courier: Option<Duration>) -> Plan {
        let policy = SealPolicy {
            latency_budget: budget,
            transfer_share_percent: 50,
            records_max: 1000,
            plain_bytes_max: 256 << 20,
            heartbeat: Duration::from_hours(1),
        };
        Plan { lane, policy, ways, courier_every: courier, reviewed: false }
    }

    fn first(plan: &Plan) -> Finding {
        judge(plan).remove(0)
    }

    fn diode(rate: u64) -> Vec<Way> {
        vec![Way::Link { name: "diode".to_owned(), bytes_per_sec: Some(rate) }]
    }

    #[test]
    fn a_courier_can_not_keep_a_budget_of_seconds() {
        let second = Duration::from_secs(1);
        let finding = first(&plan(Lane::Flash, second, Vec::new(), None));
        assert_eq!(finding.level, Level::Fault, "{finding:?}");
        assert!(finding.remedies[1].starts_with("seal.flash-budget"), "{finding:?}");
        let finding = first(&plan(Lane::Flash, second, diode(1_000_000), None));
        assert_eq!(finding.level, Level::Fine, "{finding:?}");
    }

    #[test]
    fn the_couriers_round_is_counted() {
        let judge = |budget, every| first(&plan(Lane::Routine, budget, vec![Way::Courier], every));
        assert_eq!(judge(DAY, None).level, Level::Warning);
        assert_eq!(judge(DAY, Some(DAY / 4)).level, Level::Fine);
        let tight = judge(DAY, Some(DAY));
        assert_eq!(tight.level, Level::Warning);
        assert!(tight.what.contains("12h") && tight.what.contains("1day12h"), "{tight:?}");
        let late = judge(DAY, Some(DAY * 2));
        assert_eq!(late.level, Level::Fault);
        assert!(late.remedies[1].contains("2days12h"), "{late:?}");
        let share = judge(DAY, Some(DAY * 3 / 4));
        assert!(share.remedies.contains(&"seal.transfer-share = 75".to_owned()), "{share:?}");
    }

    #[test]
    fn a_bundle_that_a_link_carries_too_slowly_is_too_large() {
        let hour = Duration::from_hours(1);
        let finding = first(&plan(Lane::Routine, hour, diode(1_000_000), None));
        assert_eq!(finding.level, Level::Fine, "{finding:?}");
        let finding = first(&plan(Lane::Routine, hour, diode(100_000), None));
        assert_eq!(finding.level, Level::Fault, "{finding:?}");
        assert_eq!(finding.remedies[0], "seal.bundle-bytes-max = \"171MiB\" or less");
    }

    #[test]
    fn people_need_time_to_release() {
        let mut plan = plan(Lane::Flash, Duration::from_secs(1), diode(1_000_000), None);
        plan.reviewed = true;
        assert!(judge(&plan).iter().any(|finding| finding.about == "officers"));
    }
}
