//! Suppression: what is noise, by rule.
//!
//! A suppressed record keeps its number and is counted under its rule; its bytes do not leave, and are
//! not stored. What is privileged, or about authentication, identity or policy, is never suppressed,
//! whatever the rules say; and a rule that could match such a thing is refused when it is loaded.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::Deserialize;
use shared::event::{Access, Event, Outcome};
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
        {
            problems.push("it says nothing but streams, and would suppress all of them".to_owned());
        }
        problems
    }

    /// Whether the rule matches an event; whether it may is not asked here.
    pub fn matches(&self, event: &Event<'_>) -> bool {
        let text = |text: &Option<std::borrow::Cow<'_, str>>, patterns: &Patterns| {
            patterns.is_empty() || patterns.matches(text.as_deref().unwrap_or_default())
        };
        self.streams.contains(&event.stream)
            && self.access.is_none_or(|access| access == event.access.into())
            && event.actor.acting_as.is_none()
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
