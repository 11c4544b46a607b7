//! The section `[release]`: how many officers have to have released a bundle before it is believed.

use serde::Deserialize;
use shared::bundle::RELEASES_MAX;
use shared::config::Problems;
use shared::keys::{OfficerState, ReleasePolicy, ReleaseRule, TrustedOfficer};
use shared::record::{Lane, OriginId};

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "kebab-case", deny_unknown_fields)]
pub(crate) struct RawRelease {
    required: usize,
    rule: Vec<RawRule>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct RawRule {
    origin: Option<OriginId>,
    lane: Option<Lane>,
    required: usize,
    #[serde(default)]
    officers: Vec<String>,
}

pub(crate) fn check(raw: RawRelease, problems: &mut Problems) -> ReleasePolicy {
    let limit = |key: &str, required: usize, problems: &mut Problems| {
        problems.check(
            required <= RELEASES_MAX,
            key,
            "is 0 to 8: a bundle carries no more signatures",
        );
    };
    limit("release.required", raw.required, problems);
    let mut rules = Vec::new();
    for (position, rule) in raw.rule.into_iter().enumerate() {
        let key = format!("release.rule[{position}]");
        limit(&format!("{key}.required"), rule.required, problems);
        let few = !rule.officers.is_empty() && rule.officers.len() < rule.required;
        problems.check(!few, &format!("{key}.officers"), "names fewer officers than are required");
        problems.check(
            rule.origin.is_some() || rule.lane.is_some(),
            &key,
            "names an origin, a lane or both; for all bundles set release.required",
        );
        rules.push(ReleaseRule {
            origin: rule.origin,
            lane: rule.lane,
            required: rule.required,
            officers: rule.officers,
        });
    }
    ReleasePolicy { required: raw.required, rules }
}

/// What can't be met with the officers that are believed: such bundles would all be refused.
pub(crate) fn unmet(policy: &ReleasePolicy, officers: &[TrustedOfficer]) -> Vec<String> {
    let count = |takes: &dyn Fn(&str) -> bool| {
        let believed = officers.iter().filter(|officer| officer.state == OfficerState::Believed);
        let mut names: Vec<&str> =
            believed.map(|officer| officer.name.as_str()).filter(|name| takes(name)).collect();
        names.sort_unstable();
        names.dedup();
        names.len()
    };
    let mut problems = Vec::new();
    let mut expect = |key: &str, required: usize, known: usize| {
        if known < required {
            problems.push(format!(
                "{key}: {required} officer(s) are demanded and {known} believed: every such bundle is refused\n    try: penstock-low officer add OFFICER.pub"
            ));
        }
    };
    expect("release.required", policy.required, count(&|_| true));
    for (position, rule) in policy.rules.iter().enumerate() {
        let known = count(&|name| {
            rule.officers.is_empty() || rule.officers.iter().any(|officer| officer == name)
        });
        expect(&format!("release.rule[{position}].required"), rule.required, known);
    }
    problems
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_demand_that_nobody_can_meet_is_named() {
        let officer = |name: &str, state| TrustedOfficer {
            name: name.to_owned(),
            key: format!("SHA256:{name}"),
            state,
        };
        let officers = [
            officer("alice", OfficerState::Believed),
            officer("alice", OfficerState::Believed),
            officer("bob", OfficerState::Revoked),
        ];
        let text = "required = 1\n[[rule]]\norigin = \"plant-7\"\nrequired = 2\n\
                    [[rule]]\nlane = \"flash\"\nrequired = 1\nofficers = [\"bob\"]\n";
        let mut problems = Problems::default();
        let policy = check(toml::from_str(text).unwrap(), &mut problems);
        problems.into_result(std::path::Path::new("low.toml")).unwrap();
        let unmet = unmet(&policy, &officers);
        assert_eq!(unmet.len(), 2, "{unmet:?}");
        assert!(unmet[0].contains("rule[0]") && unmet[1].contains("rule[1]"), "{unmet:?}");
    }

    #[test]
    fn mistakes_are_named() {
        let text = "required = 9\n[[rule]]\nrequired = 2\nofficers = [\"alice\"]\n";
        let mut problems = Problems::default();
        check(toml::from_str(text).unwrap(), &mut problems);
        let message = problems.into_result(std::path::Path::new("low.toml")).unwrap_err();
        let message = message.to_string();
        for key in ["release.required", "release.rule[0].officers", "release.rule[0]: names an"] {
            assert!(message.contains(key), "{key} in {message}");
        }
        assert!(toml::from_str::<RawRelease>("[[rule]]\norigin = \"X Y\"\nrequired = 1").is_err());
    }
}
