//! How many officers have to have released a bundle before the low side believes it.

use crate::record::{Lane, OriginId};

/// The demand of a site: the first rule that fits, and else the default.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReleasePolicy {
    /// How many officers where no rule fits; 0 for none.
    pub required: usize,
    /// Exceptions, in order.
    pub rules: Vec<ReleaseRule>,
}

/// What is demanded of one origin, one lane, or one lane of one origin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReleaseRule {
    /// Bundles of this origin; of any where it is missing.
    pub origin: Option<OriginId>,
    /// Bundles of this lane; of any where it is missing.
    pub lane: Option<Lane>,
    /// How many officers.
    pub required: usize,
    /// Only these officers count; all that are believed where it is empty.
    pub officers: Vec<String>,
}

/// What is demanded of one bundle.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReleaseDemand<'a> {
    /// How many officers.
    pub required: usize,
    officers: &'a [String],
}

impl ReleaseDemand<'_> {
    /// Whether this officer counts.
    pub fn takes(&self, officer: &str) -> bool {
        self.officers.is_empty() || self.officers.iter().any(|name| name == officer)
    }
}

impl ReleasePolicy {
    /// What is demanded of a bundle of this origin and lane.
    pub fn demand(&self, origin: &OriginId, lane: Lane) -> ReleaseDemand<'_> {
        let fits = |rule: &&ReleaseRule| {
            rule.origin.as_ref().is_none_or(|of| of == origin)
                && rule.lane.is_none_or(|of| of == lane)
        };
        match self.rules.iter().find(fits) {
            Some(rule) => ReleaseDemand { required: rule.required, officers: &rule.officers },
            None => ReleaseDemand { required: self.required, officers: &[] },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_rule_that_fits_counts() {
        let rule = |origin: Option<&str>, lane, required, officers: &[&str]| ReleaseRule {
            origin: origin.map(|name| name.parse().unwrap()),
            lane,
            required,
            officers: officers.iter().map(|name| (*name).to_owned()).collect(),
        };
        let policy = ReleasePolicy {
            required: 1,
            rules: vec![
                rule(Some("plant-7"), Some(Lane::Flash), 0, &[]),
                rule(Some("plant-7"), None, 2, &["alice", "bob"]),
                rule(None, Some(Lane::Flash), 3, &[]),
            ],
        };
        for (origin, lane, required, takes_carol) in [
            ("plant-7", Lane::Flash, 0, true),
            ("plant-7", Lane::Routine, 2, false),
            ("plant-8", Lane::Flash, 3, true),
            ("plant-8", Lane::Routine, 1, true),
        ] {
            let origin = origin.parse().unwrap();
            let demand = policy.demand(&origin, lane);
            assert_eq!((demand.required, demand.takes("carol")), (required, takes_carol));
            assert!(demand.takes("alice"));
        }
        let none = ReleasePolicy::default();
        assert_eq!(none.demand(&"plant-7".parse().unwrap(), Lane::Flash).required, 0);
    }
}
