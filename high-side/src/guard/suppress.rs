//! Suppression: what is noise, by rule.
//!
//! A suppressed record keeps its number and is counted under its rule; its bytes do not leave, and are
//! not stored. What is privileged, or about authentication, identity or policy, is never suppressed,
//! whatever the rules say; and a rule that could match such a thing is refused when it is loaded.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::Deserialize;
use shared::event::{
    Access, Category, Event, Outcome, PrivilegeSettings, Shape, guarded_shapes, is_known_kind,
};
use shared::record::{Stream, is_rule_name};

use super::pattern::Patterns;

/// A rule as it is written. Every field that is given must match; within a field one pattern must.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct SuppressRule {
    /// The name under which it counts: 1 to 32 of `a-z 0-9 -`.
    pub name: String,
    /// The streams it looks at: at least one.
    pub streams: Vec<Stream>,
    /// The categories: what is in none of them is not matched.
    pub categories: Vec<Category>,
    /// What was done: `lease.update`.
    pub actions: Patterns,
    /// Only looking, or only changing.
    pub access: Option<RuleAccess>,
    /// Who did it. Nobody who acts as somebody else is ever matched.
    pub actors: Patterns,
    /// The kind of thing.
    pub kinds: Patterns,
    /// The part of it; empty text is the thing itself.
    pub parts: Patterns,
    /// Its API group.
    pub groups: Patterns,
    /// Its namespace.
    pub namespaces: Patterns,
    /// Its name.
    pub names: Patterns,
    /// `success`, `failure`, `denied`, or empty text where the source does not say.
    pub outcomes: Patterns,
    /// The source's severity.
    pub severities: Patterns,
    /// What only one stream has: `verb`, `uri`, `stage`, `rule`, ...
    pub details: BTreeMap<String, Patterns>,
}

/// [`Access`], as it is written in a rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RuleAccess {
    /// Only looking.
    Read,
    /// Only changing.
    Write,
}

impl SuppressRule {
    /// What is wrong with the rule itself.
    pub fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        if !is_rule_name(&self.name) {
            problems.push(format!("the name {:?} is not 1 to 32 of a-z, 0-9 and '-'", self.name));
        }
        if self.streams.is_empty() {
            problems.push("streams is missing: name the streams that the rule looks at".to_owned());
        }
        let fields = [
            &self.actions,
            &self.actors,
            &self.kinds,
            &self.parts,
            &self.groups,
            &self.namespaces,
            &self.names,
            &self.outcomes,
            &self.severities,
        ];
        if fields.iter().all(|field| field.is_empty())
            && self.details.is_empty()
            && self.access.is_none()
            && self.categories.is_empty()
        {
            problems.push("it says nothing but streams, and would suppress all of them".to_owned());
        }
        problems
    }

    /// What the rule could match although it may never be suppressed.
    pub fn guarded<'r>(
        &'r self,
        settings: &'r PrivilegeSettings,
    ) -> impl Iterator<Item = Shape> + 'r {
        guarded_shapes().filter(|shape| self.could_match(shape, settings))
    }

    /// Whether some event of this shape could match: no field of the rule excludes what the shape says.
    fn could_match(&self, shape: &Shape, settings: &PrivilegeSettings) -> bool {
        let text = |patterns: &Patterns, value: Option<&str>| {
            patterns.is_empty() || value.is_none_or(|value| patterns.matches(value))
        };
        let action = |pattern: &str| match pattern.strip_suffix('*') {
            Some(begin) => self.actions.could_match_begin(begin),
            None => self.actions.matches(pattern),
        };
        let any_of = |patterns: Option<&Patterns>, values: &[&str]| {
            values.is_empty()
                || patterns.is_none_or(|p| values.iter().any(|value| p.matches(value)))
        };
        let group_end = |end: &str| {
            self.groups.is_empty() || self.groups.matches(end) || self.groups.could_match_word(end)
        };
        // An event without resource has no kind that a table could lack.
        let only_known = self
            .kinds
            .texts()
            .is_some_and(|texts| texts.iter().all(|text| text.is_empty() || is_known_kind(text)));
        let named = |word: &&str| self.names.is_empty() || self.names.could_match_word(word);
        self.streams.contains(&shape.stream)
            // Rules never match those who act as somebody else.
            && !shape.acts_as_another
            && (self.categories.is_empty()
                || shape.category.is_none_or(|category| self.categories.contains(&category)))
            && (self.actions.is_empty() || shape.action.is_none_or(action))
            && text(&self.kinds, shape.kind)
            && text(&self.parts, shape.part)
            && shape.group.is_none_or(group_end)
            && !(shape.unknown_kind && only_known)
            && any_of(self.details.get("verb"), shape.verbs)
            && any_of((!self.severities.is_empty()).then_some(&self.severities), shape.severities)
            && self.access.is_none_or(|access| shape.access.is_none_or(|a| access == a.into()))
            && text(&self.outcomes, shape.outcome.map(|outcome| outcome_name(Some(outcome))))
            && (shape.name_words.is_empty() || shape.name_words.iter().any(named))
            && (!shape.by_break_glass
                || self.actors.is_empty()
                || settings.break_glass_names.iter().any(|name| self.actors.matches(name)))
    }

    /// Whether the rule matches an event; whether it may is not asked here.
    pub fn matches(&self, event: &Event<'_>) -> bool {
        let text = |text: &Option<std::borrow::Cow<'_, str>>, patterns: &Patterns| {
            patterns.is_empty() || patterns.matches(text.as_deref().unwrap_or_default())
        };
        self.streams.contains(&event.stream)
            && self.access.is_none_or(|access| access == event.access.into())
            && event.actor.acting_as.is_none()
            // A record that holds several events: the rule was asked about one of them.
            && event.detail("items").is_none()
            && (self.categories.is_empty()
                || event.category.category().is_some_and(|c| self.categories.contains(&c)))
            && text(&event.resource.kind, &self.kinds)
            && (self.actions.is_empty() || self.actions.matches(&event.action))
            && text(&event.actor.name, &self.actors)
            && text(&event.resource.part, &self.parts)
            && text(&event.resource.group, &self.groups)
            && text(&event.resource.namespace, &self.namespaces)
            && text(&event.resource.name, &self.names)
            && text(&event.severity, &self.severities)
            && (self.outcomes.is_empty() || self.outcomes.matches(outcome_name(event.outcome)))
            && self
                .details
                .iter()
                .all(|(name, patterns)| patterns.matches(event.detail(name).unwrap_or_default()))
    }
}

impl From<Access> for RuleAccess {
    fn from(access: Access) -> Self {
        match access {
            Access::Read => RuleAccess::Read,
            Access::Write => RuleAccess::Write,
        }
    }
}

fn outcome_name(outcome: Option<Outcome>) -> &'static str {
    match outcome {
        Some(Outcome::Denied) => "denied",
        Some(Outcome::Failure) => "failure",
        Some(Outcome::Success) => "success",
        None => "",
    }
}

/// The rules of a site, in their order: the first that matches counts.
#[derive(Clone, Debug, Default)]
pub struct Suppressor {
    rules: Vec<(Arc<str>, SuppressRule)>,
    by_stream: [Vec<usize>; Stream::ALL.len()],
}

impl Suppressor {
    /// Makes ready to match.
    pub fn new(rules: Vec<SuppressRule>) -> Self {
        let mut by_stream: [Vec<usize>; Stream::ALL.len()] = Default::default();
        for (at, rule) in rules.iter().enumerate() {
            for stream in &rule.streams {
                by_stream[*stream as usize].push(at);
            }
        }
        let rules = rules.into_iter().map(|rule| (rule.name.as_str().into(), rule)).collect();
        Self { rules, by_stream }
    }

    /// The rule that suppresses an event; none where the event is guarded.
    pub fn suppressed_by(&self, event: &Event<'_>) -> Option<&Arc<str>> {
        let candidates = &self.by_stream[event.stream as usize];
        let found =
            candidates.iter().map(|at| &self.rules[*at]).find(|(_, rule)| rule.matches(event));
        // Asked last: most events match no rule.
        found.filter(|_| !event.is_guarded()).map(|(name, _)| name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::guard::default_suppressions;

    fn rule(text: &str) -> SuppressRule {
        toml::from_str(text).unwrap()
    }

    #[test]
    fn no_shipped_rule_could_match_what_is_guarded() {
        let settings = PrivilegeSettings::default();
        for rule in default_suppressions() {
            assert_eq!(rule.problems(), [""; 0], "{}", rule.name);
            let guarded: Vec<Shape> = rule.guarded(&settings).collect();
            assert!(guarded.is_empty(), "{}: {guarded:#?}", rule.name);
        }
    }

    #[test]
    fn a_rule_that_could_match_what_is_guarded_is_found() {
        let settings = PrivilegeSettings::default();
        for text in [
            "streams = [\"portainer-auth\"]\nactors = [\"bot\"]",
            "streams = [\"kube-audit\"]\naccess = \"read\"",
            "streams = [\"kube-audit\"]\nkinds = [\"pods\"]\naccess = \"read\"\nparts = [\"\"]",
            "streams = [\"kube-audit\"]\nkinds = [\"pods\"]\noutcomes = [\"success\"]",
            "streams = [\"kube-audit\"]\nkinds = [\"pods\"]\noutcomes = [\"success\"]\nparts = [\"\"]",
            "streams = [\"kube-audit\"]\nkinds = [\"role*\"]\noutcomes = [\"success\"]\nparts = [\"\"]",
            "streams = [\"kube-audit\"]\nkinds = [\"configmaps\"]\nnames = [\"app-*\"]\noutcomes = [\"success\"]\nparts = [\"\"]",
            "streams = [\"falco\"]\ndetails = { rule = [\"Terminal shell*\"] }",
            "streams = [\"falco\"]\nseverities = [\"Critical\"]\ncategories = [\"runtime\"]",
            "streams = [\"portainer-activity\"]\nactions = [\"stack.*\"]",
            "streams = [\"portainer-activity\"]\nactions = [\"stack.*\"]\ncategories = [\"deployment\"]",
            "streams = [\"portainer-activity\"]\nactions = [\"user.*\"]\nactors = [\"ci\"]",
            "streams = [\"portainer-activity\"]\nactions = [\"container.exec\"]\nactors = [\"ci\"]\ncategories = [\"deployment\"]",
        ] {
            assert!(rule(text).guarded(&settings).next().is_some(), "{text}");
        }
    }

    #[test]
    fn a_rule_that_is_narrow_enough_is_taken() {
        let settings = PrivilegeSettings::default();
        for text in [
            "streams = [\"kube-audit\"]\nkinds = [\"pods\"]\naccess = \"read\"\nparts = [\"\"]\noutcomes = [\"success\", \"\"]",
            "streams = [\"kube-audit\"]\nkinds = [\"pods\"]\nparts = [\"\"]\noutcomes = [\"success\"]\nnames = [\"web-*\", \"!*node-debugger-*\", \"!*node-shell-*\", \"!*nsenter-*\"]",
            "streams = [\"kube-audit\"]\nkinds = [\"events\"]\nparts = [\"\"]\noutcomes = [\"success\"]",
            "streams = [\"falco\"]\nseverities = [\"Debug\"]\ncategories = [\"runtime\"]",
            "streams = [\"portainer-activity\"]\nactions = [\"stack.redeploy\"]\nkinds = [\"stack\"]\nactors = [\"ci\"]\ncategories = [\"deployment\"]",
            "streams = [\"other\"]\naccess = \"write\"",
        ] {
            let found: Vec<Shape> = rule(text).guarded(&settings).collect();
            assert!(found.is_empty(), "{text}: {found:#?}");
        }
    }
}
