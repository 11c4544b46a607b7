//! What no rule may suppress, as shapes that a rule can be compared with before it is put to use.

use crate::record::Stream;

use super::view::{Access, Category, Event, Outcome, Privilege};
use super::{falco, kubernetes, portainer};

/// One kind of event that is guarded, in whole or in part. What is `None` or empty may be anything.
#[derive(Clone, Copy, Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each is a condition of its own, as in a rule")]
pub struct Shape {
    /// The stream.
    pub stream: Stream,
    /// The category.
    pub category: Option<Category>,
    /// The action; it may end in `*`.
    pub action: Option<&'static str>,
    /// The kind of resource.
    pub kind: Option<&'static str>,
    /// The part of the resource.
    pub part: Option<&'static str>,
    /// The API group, or the end of one.
    pub group: Option<&'static str>,
    /// Whether the kind of resource is in no table: see [`is_known_kind`](super::is_known_kind).
    pub unknown_kind: bool,
    /// The verbs of the Kubernetes API; none for any.
    pub verbs: &'static [&'static str],
    /// The severities of Falco; none for any.
    pub severities: &'static [&'static str],
    /// Whether something is changed.
    pub access: Option<Access>,
    /// How it went.
    pub outcome: Option<Outcome>,
    /// Words of which one stands in the name; none for any name.
    pub name_words: &'static [&'static str],
    /// Whether its actor is a break-glass account of the site.
    pub by_break_glass: bool,
    /// Whether its actor acts as somebody else.
    pub acts_as_another: bool,
    /// The privilege that the events of this shape have.
    pub privilege: Option<Privilege>,
    /// Whether every event of this shape is guarded. Where it is `false`, only some are, by what else
    /// they say beyond these fields, and the guard decides at run time.
    pub certain: bool,
    /// Why, where the rest does not say it.
    pub note: &'static str,
}

impl Shape {
    /// The shape of everything in a stream.
    pub(super) const fn of(stream: Stream) -> Self {
        Self {
            stream,
            category: None,
            action: None,
            kind: None,
            part: None,
            group: None,
            unknown_kind: false,
            verbs: &[],
            severities: &[],
            access: None,
            outcome: None,
            name_words: &[],
            by_break_glass: false,
            acts_as_another: false,
            privilege: None,
            certain: true,
            note: "",
        }
    }

    /// Whether an event has this shape.
    pub fn matches(&self, event: &Event<'_>) -> bool {
        let resource = &event.resource;
        self.stream == event.stream
            && self.category.is_none_or(|category| event.category.category() == Some(category))
            && self.action.is_none_or(|pattern| fits(pattern, &event.action))
            && self.kind.is_none_or(|kind| resource.kind.as_deref() == Some(kind))
            && self.part.is_none_or(|part| resource.part.as_deref() == Some(part))
            && self.group.is_none_or(|end| {
                resource.group.as_deref().and_then(|group| group.strip_suffix(end)).is_some()
            })
            && (self.verbs.is_empty()
                || event.detail("verb").is_some_and(|verb| self.verbs.contains(&verb)))
            && (self.severities.is_empty()
                || event.severity.as_deref().is_some_and(|severity| {
                    self.severities.iter().any(|name| name.eq_ignore_ascii_case(severity))
                }))
            && self.access.is_none_or(|access| event.access == access)
            && self.outcome.is_none_or(|outcome| event.outcome == Some(outcome))
            && (!self.acts_as_another || event.actor.acting_as.is_some())
    }
}

fn fits(pattern: &str, action: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some(begin) => action.starts_with(begin),
        None => action == pattern,
    }
}

/// Whether a resource of the Kubernetes API is in the tables.
pub fn is_known_kind(kind: &str) -> bool {
    kubernetes::resource(kind).is_some()
}

/// Every guarded shape, read from the tables by which events are understood.
pub fn guarded_shapes() -> impl Iterator<Item = Shape> {
    kubernetes::shapes().chain(falco::shapes()).chain(portainer::shapes())
}
