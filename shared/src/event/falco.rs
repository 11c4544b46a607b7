//! Falco's alerts: JSON, and the plain text that it writes by default.

use std::borrow::Cow;

use crate::json::{Kind, Value};
use crate::record::Stream;

use super::keys::{Key, Slots};
use super::kubernetes;
use super::shapes::Shape;
use super::timestamp;
use super::view::{Access, Category, Classified, Event, Privilege};

/// An alert in JSON. Rule and priority may be missing where a relay cut it: the text says the
/// priority too.
pub(super) fn alert<'t>(slots: &Slots<'t>, stream: Stream) -> Event<'t> {
    let mut event = Event::blank(stream);
    let output = slots.str(Key::Output);
    let rule = slots.str(Key::Rule);
    event.severity = slots.text(Key::Priority).or_else(|| match &output {
        Some(Cow::Borrowed(output)) => text(output.as_bytes()).map(|alert| alert.priority.into()),
        Some(Cow::Owned(output)) => {
            text(output.as_bytes()).map(|alert| Cow::Owned(alert.priority.to_owned()))
        }
        None => None,
    });
    event.time = slots.str(Key::Time).and_then(|time| timestamp::instant(&time));
    event.request_id = slots.str(Key::Uuid);
    let source = slots.str(Key::Source);
    let fields = slots.get(Key::OutputFields).filter(|fields| fields.kind() == Kind::Object);
    let mut target = None;
    let mut verb = None;
    event.details.reserve(DETAILS);
    for field in fields.iter().flat_map(Value::children) {
        let name = field.key_bytes();
        let kept = FIELDS.binary_search_by(|(field, _)| (*field).as_bytes().cmp(name)).ok();
        if kept.is_none() && !ROLES.contains(&name) {
            continue;
        }
        let Some(value) = field_text(&field) else { continue };
        match name {
            b"user.name" | b"ka.user.name" | b"ct.user" => event.actor.name = Some(value),
            b"user.uid" => event.actor.id = Some(value),
            b"ka.verb" => verb = Some(value),
            b"ka.target.resource" => target = Some(value),
            b"ka.target.subresource" => event.resource.part = Some(value),
            b"k8s.ns.name" | b"ka.target.namespace" => event.resource.namespace = Some(value),
            b"ka.target.name" => event.resource.name = Some(value),
            b"ct.srcip" | b"ka.sourceips" => event.source_address = Some(value),
            _ => {
                if let Some(at) = kept {
                    event.details.push((FIELDS[at].1, value));
                }
            }
        }
    }
    if event.resource.name.is_none() {
        event.resource.name = event.detail("pod").or(event.detail("container")).map(own);
    }
    event.details.push(("rule", rule.clone().unwrap_or_default()));
    if rule.is_none() {
        event.details.pop();
    }
    event.detail_of("source", source.clone());
    event.detail_of("host", slots.str(Key::Hostname));
    event.detail_of("tags", slots.get(Key::Tags).and_then(tags));
    classify(&mut event, rule.as_deref().or(output.as_deref()), source.as_deref(), target, verb);
    event.kind = rule;
    event.detail_of("message", output);
    event
}

/// A field that says something: Falco writes `null` or `<NA>` for what it does not know.
fn field_text<'t>(value: &Value<'t>) -> Option<Cow<'t, str>> {
    value.as_text().filter(|text| !text.is_empty() && text != "<NA>")
}

fn own(text: &str) -> Cow<'static, str> {
    Cow::Owned(text.to_owned())
}

fn tags(tags: Value<'_>) -> Option<Cow<'_, str>> {
    let mut joined = String::new();
    for tag in tags.children().filter_map(|tag| tag.as_str()) {
        if !joined.is_empty() {
            joined.push(' ');
        }
        joined.push_str(&tag);
    }
    (!joined.is_empty()).then_some(Cow::Owned(joined))
}

/// Category, action and privilege from the rule (or, without it, the text), the source of events,
/// and what the Kubernetes audit plugin says about its target.
fn classify<'t>(
    event: &mut Event<'t>,
    rule: Option<&str>,
    source: Option<&str>,
    target: Option<Cow<'t, str>>,
    verb: Option<Cow<'t, str>>,
) {
    let rule = rule.unwrap_or_default();
    let internal = source == Some("internal") || rule.contains("Falco internal");
    let mut category = if internal { Category::Administrative } else { Category::Runtime };
    event.access = Access::Write;
    event.action = Cow::Borrowed(match () {
        () if internal => "sensor.report",
        () if says(rule, "attach/exec") || says(rule, "exec into") => "container.exec",
        () if says(rule, "shell") => "container.shell",
        () => "alert.raise",
    });
    // The audit plugin's alerts repeat what the API server was asked.
    if let Some(target) = target {
        if let Some(row) = kubernetes::resource(&target) {
            category = row.category;
        }
        if matches!(event.resource.part.as_deref(), Some("exec" | "attach")) {
            event.action = Cow::Borrowed("container.exec");
        } else if let Some(verb) = &verb {
            event.access = kubernetes::access_of(verb);
        }
        event.resource.kind = Some(target);
    } else if event.details.iter().any(|(name, _)| *name == "container" || *name == "container-id")
    {
        event.resource.kind = Some(Cow::Borrowed("container"));
    }
    event.detail_of("verb", verb);
    if source.is_some_and(|source| source.starts_with("okta")) {
        category = Category::Authentication;
    }
    event.category = Classified::As { category };
    let severe = event.severity.as_deref().is_some_and(is_critical);
    event.privileged = severe.then_some(Privilege::FalcoCritical);
}

/// By Falco's names, by those that relays abbreviate, and by syslog's numbers (RFC 5424, 6.2.1).
fn is_critical(priority: &str) -> bool {
    ["critical", "alert", "emergency", "crit", "emerg", "2", "1", "0"]
        .iter()
        .any(|name| priority.eq_ignore_ascii_case(name))
}

/// Whether a text holds a word, in any letter case; the word is in lower case.
fn says(text: &str, word: &str) -> bool {
    text.as_bytes().windows(word.len()).any(|at| at.eq_ignore_ascii_case(word.as_bytes()))
}

/// A plain-text alert: `TIME: Priority message`.
#[derive(Clone, Copy, Debug)]
pub(super) struct TextAlert<'t> {
    /// The time as it is written; without date it is in the local zone of the node.
    time: &'t str,
    pub(super) priority: &'t str,
    message: &'t str,
    /// Whether the time has nine digits of a fraction, as nothing else writes it.
    pub(super) nanoseconds: bool,
}

/// Looks whether a text is an alert. Falco's own messages have no fraction in their time.
pub(super) fn text(bytes: &[u8]) -> Option<TextAlert<'_>> {
    let first = *bytes.first()?;
    if !first.is_ascii_digit() {
        return None;
    }
    // Only the message may hold what is not UTF-8, and of it the part before that is enough.
    let text = match std::str::from_utf8(bytes) {
        Ok(text) => text,
        Err(err) => std::str::from_utf8(&bytes[..err.valid_up_to()]).ok()?,
    };
    let (time, rest) = text.split_once(": ")?;
    let (_, fraction) = time.split_once('.')?;
    let digits = fraction.bytes().take_while(u8::is_ascii_digit).count();
    if digits == 0 || time.len() > TIME_BYTES_MAX || !time.contains(':') {
        return None;
    }
    let (priority, message) = rest.split_once(' ')?;
    let known = PRIORITIES.iter().any(|name| priority.eq_ignore_ascii_case(name));
    known.then_some(TextAlert { time, priority, message, nanoseconds: digits == 9 })
}

/// The event of a plain-text alert. It names no rule: the begin of its message stands for it.
pub(super) fn text_alert<'t>(alert: &TextAlert<'t>, stream: Stream) -> Event<'t> {
    let mut event = Event::blank(stream);
    event.severity = Some(Cow::Borrowed(alert.priority));
    event.time = timestamp::instant(alert.time);
    let end = alert.message.find(['(', '|']).unwrap_or(alert.message.len());
    let head = alert.message[..end].trim_end();
    event.kind = Some(Cow::Borrowed(head)).filter(|head| !head.is_empty());
    let mut fields = Fields { rest: alert.message };
    while let Some((name, value)) = fields.next_field() {
        let value = Some(Cow::Borrowed(value)).filter(|value| !value.is_empty() && value != "<NA>");
        match name {
            "user" | "user_name" => event.actor.name = value,
            "user_uid" | "uid" => event.actor.id = value,
            "k8s.ns" | "k8s_ns" | "k8s_ns_name" | "ns" => event.resource.namespace = value,
            "k8s.pod" | "k8s_pod_name" | "pod" => event.detail_of("pod", value),
            "container" | "container_name" => event.detail_of("container", value),
            "container_id" => event.detail_of("container-id", value),
            "image" | "container_image" | "container_image_repository" => {
                event.detail_of("image", value);
            }
            "command" | "cmdline" => event.detail_of("command", value),
            "process" | "program" => event.detail_of("process", value),
            "file" => event.detail_of("file", value),
            _ => {}
        }
    }
    if event.resource.name.is_none() {
        event.resource.name = event.detail("pod").or(event.detail("container")).map(own);
    }
    classify(&mut event, Some(head), None, None, None);
    event.details.push(("message", Cow::Borrowed(alert.message)));
    event
}

/// `name=value` pairs whose values may hold blanks: a value ends where the next name begins.
struct Fields<'t> {
    rest: &'t str,
}

impl<'t> Fields<'t> {
    fn next_field(&mut self) -> Option<(&'t str, &'t str)> {
        let equals = self.rest.find('=')?;
        let name = name_before(&self.rest[..equals]);
        let after = &self.rest[equals + 1..];
        let end = after.find('=').map_or_else(
            || after.rfind(')').unwrap_or(after.len()),
            |next| after[..next].len() - name_before(&after[..next]).len(),
        );
        self.rest = &after[end..];
        Some((name, after[..end].trim_end_matches([' ', ','])))
    }
}

fn name_before(text: &str) -> &str {
    let start = text.rfind([' ', '(', '|', ',']).map_or(0, |at| at + 1);
    &text[start..]
}

/// What no rule may suppress.
pub(super) fn shapes() -> impl Iterator<Item = Shape> {
    let critical = Shape {
        note: "an alert of priority Critical or above",
        severities: &["Critical", "Alert", "Emergency"],
        privilege: Some(Privilege::FalcoCritical),
        ..Shape::of(Stream::Falco)
    };
    let guarded = Category::ALL.into_iter().filter(|category| category.is_guarded());
    let plugins = guarded.map(|category| Shape {
        category: Some(category),
        note: "an alert from a plugin's source",
        certain: false,
        ..Shape::of(Stream::Falco)
    });
    std::iter::once(critical).chain(plugins)
}

/// The fields that are kept, by name; sorted.
const FIELDS: &[(&str, &str)] = &[
    ("container.id", "container-id"),
    ("container.image.repository", "image"),
    ("container.image.tag", "image-tag"),
    ("container.name", "container"),
    ("evt.type", "syscall"),
    ("fd.name", "file"),
    ("k8s.pod.name", "pod"),
    ("ka.response.code", "code"),
    ("ka.uri", "uri"),
    ("proc.cmdline", "command"),
    ("proc.exepath", "executable"),
    ("proc.name", "process"),
    ("proc.pname", "parent-process"),
];

/// The fields that say who, what and where.
const ROLES: [&[u8]; 12] = [
    b"user.name",
    b"user.uid",
    b"k8s.ns.name",
    b"ka.user.name",
    b"ka.verb",
    b"ka.target.resource",
    b"ka.target.subresource",
    b"ka.target.namespace",
    b"ka.target.name",
    b"ka.sourceips",
    b"ct.user",
    b"ct.srcip",
];

const PRIORITIES: [&str; 9] = [
    "Emergency",
    "Alert",
    "Critical",
    "Error",
    "Warning",
    "Notice",
    "Informational",
    "Info",
    "Debug",
];

/// Room for the details of a usual alert, so that they are allocated once.
const DETAILS: usize = 16;

/// `2016-08-04T16:17:57.881781397+0000`
const TIME_BYTES_MAX: usize = 40;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_sorted() {
        assert!(FIELDS.is_sorted_by_key(|(field, _)| *field));
    }

    #[test]
    fn text_alerts_are_taken_apart_and_what_is_none_is_not() {
        let line = b"18:08:40.584075795: Notice A shell was spawned in a container with an attached \
            terminal (user=root k8s.ns=default k8s.pod=db-1 container=3fc8 cmdline=bash -c ls image=<NA>)";
        let event = text_alert(&text(line).unwrap(), Stream::Falco);
        assert_eq!(event.actor.name.as_deref(), Some("root"));
        assert_eq!(event.resource.namespace.as_deref(), Some("default"));
        assert_eq!((event.detail("pod"), event.detail("container")), (Some("db-1"), Some("3fc8")));
        assert_eq!((event.detail("command"), event.detail("image")), (Some("bash -c ls"), None));
        assert_eq!(event.action, "container.shell");
        assert_eq!((event.time, event.privileged), (None, None));
        let line = b"2016-08-04T16:17:57.881781397+0000: critical An open was seen (command=cat)";
        let event = text_alert(&text(line).unwrap(), Stream::Falco);
        assert!(event.time.is_some());
        assert_eq!(event.privileged, Some(Privilege::FalcoCritical));
        for none in [
            "2026-04-03T10:41:53+0000: Falco version: 0.43.0",
            "2026-04-03T10:41:53+0000: Error opening something",
            "16:31:56.746609046: Errors are many",
            "I0101 12:00:00.000000 1 x.go:1] Notice this",
            "",
        ] {
            assert!(text(none.as_bytes()).is_none(), "{none}");
        }
    }
}
