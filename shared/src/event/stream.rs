//! Which stream a record belongs to.
//!
//! JSON is recognised by the members of the object, found on the one scan of the record; text by its
//! header and its form. It is recognition, not authentication: whoever can send a record can make it
//! look like any stream.

use crate::json::{Kind, Value};
use crate::record::Stream;

use super::keys::{Key, Slots};
use super::{falco, portainer};

/// The shape of an object.
#[derive(Clone, Copy, Debug)]
pub(super) enum Shape<'t> {
    /// An alert of Falco.
    Falco,
    /// An audit event of Google's Kubernetes engine.
    GoogleAudit(Value<'t>),
    /// An event of `audit.k8s.io`.
    KubeAudit,
    /// Several events in one text.
    List(Value<'t>),
    /// What Portainer writes: its two record types, or the names of an audit envelope.
    Portainer(Stream),
    /// None of these.
    Unknown,
    /// An object that a relay wrapped.
    Wrapped(Value<'t>),
    /// A string that a relay wrapped: the line itself.
    WrappedLine(Value<'t>),
}

/// The shape of an object by its members. `portainer` says that the header names Portainer, so that
/// any of its members is enough.
pub(super) fn shape<'t>(slots: &Slots<'t>, portainer: bool) -> Shape<'t> {
    if is_kube_audit(slots) {
        return Shape::KubeAudit;
    }
    if is_falco(slots) {
        return Shape::Falco;
    }
    if let Some(stream) = portainer::stream_of(slots, portainer) {
        return Shape::Portainer(stream);
    }
    if let Some(items) = slots.get(Key::Items).filter(|items| items.kind() == Kind::Array) {
        let list = slots.str(Key::Kind).is_some_and(|kind| kind == "EventList");
        let first = items.children().next().map(Slots::of);
        if list || first.is_some_and(|first| is_kube_audit(&first)) {
            return Shape::List(items);
        }
    }
    if let Some(payload) = slots.get(Key::ProtoPayload)
        && payload.str_at(&["serviceName"]).is_some_and(|name| name == "k8s.io")
    {
        return Shape::GoogleAudit(payload);
    }
    wrapped(slots)
}

/// What a relay wrapped: the line as a string, or the event as an object of its own.
fn wrapped<'t>(slots: &Slots<'t>) -> Shape<'t> {
    // Azure's diagnostic records carry the line in `properties.log`.
    let azure = slots.get(Key::Properties).and_then(|inner| inner.get("log"));
    let keys = [Key::LogProcessed, Key::Log, Key::Message, Key::Event, Key::Data, Key::Payload];
    let values = || keys.iter().filter_map(|key| slots.get(*key)).chain(azure);
    // Filebeat's `log` is an object about the file, beside the line in `message`.
    let about_file =
        |value: &Value<'_>| value.get("file").is_some() || value.get("offset").is_some();
    for value in values().filter(|value| !about_file(value)) {
        match value.kind() {
            Kind::Object => return Shape::Wrapped(value),
            Kind::String => return Shape::WrappedLine(value),
            _ => {}
        }
    }
    Shape::Unknown
}

/// An event of `audit.k8s.io`; the items of an `EventList` do not name their API version, and some
/// relays drop members that they hold for useless.
fn is_kube_audit(slots: &Slots<'_>) -> bool {
    let known = slots.count(&[
        Key::AuditId,
        Key::ObjectRef,
        Key::RequestUri,
        Key::ResponseStatus,
        Key::Stage,
        Key::Verb,
    ]);
    let api = slots.str(Key::ApiVersion).is_some_and(|api| api.starts_with("audit.k8s.io/"));
    let asked = slots.has(Key::Verb) || slots.has(Key::RequestUri);
    (api && known >= 1) || known >= 4 || (known >= 3 && asked && slots.has(Key::AuditId))
}

fn is_falco(slots: &Slots<'_>) -> bool {
    let named = slots.str(Key::Rule).is_some() && slots.str(Key::Priority).is_some();
    if named {
        return slots.has(Key::Output) || slots.has(Key::OutputFields) || slots.has(Key::Time);
    }
    // A relay's cut takes rule and priority, which stand behind the fields in the alphabet.
    slots.has(Key::Hostname)
        && slots.str(Key::Output).is_some_and(|output| falco::text(output.as_bytes()).is_some())
}

/// What the header of a record says about where it comes from.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Sender {
    pub(super) falco: bool,
    pub(super) portainer: bool,
}

impl Sender {
    /// Looks at the names in the syslog header of a record.
    pub(super) fn of(raw: &[u8]) -> Self {
        let Some(names) = names(raw) else { return Self::default() };
        Self {
            falco: is_name(names[1], b"falco"),
            portainer: names.iter().any(|name| is_name(name, b"portainer")),
        }
    }
}

/// The stream of a message of Portainer in a shape that is not known: it is about authentication if
/// its first bytes say so.
pub(super) fn portainer_text(text: &[u8]) -> Stream {
    let window = &text[..text.len().min(TEXT_WINDOW_BYTES)];
    let says = |word: &[u8]| window.windows(word.len()).any(|at| at.eq_ignore_ascii_case(word));
    if portainer::method_and_url(&String::from_utf8_lossy(window)).is_none()
        && AUTH_WORDS.iter().any(|word| says(word))
    {
        Stream::PortainerAuth
    } else {
        Stream::PortainerActivity
    }
}

/// The hostname and the application's name in a syslog header of either RFC.
fn names(raw: &[u8]) -> Option<[&[u8]; 2]> {
    let window = &raw[..raw.len().min(HEADER_WINDOW_BYTES)];
    if window.first() != Some(&b'<') {
        return None;
    }
    let close = window.iter().take(PRIORITY_BYTES_MAX).position(|&byte| byte == b'>')?;
    let mut words = window[close + 1..].split(|&byte| byte == b' ').filter(|word| !word.is_empty());
    let first = words.next()?;
    if first.len() <= 3 && first.iter().all(u8::is_ascii_digit) {
        words.next()?;
    } else if first.first().is_some_and(u8::is_ascii_alphabetic) {
        // Month, day and time; a time by RFC 3339 is one word.
        words.next()?;
        words.next()?;
    }
    Some([words.next()?, words.next()?])
}

/// Whether a header's name is `wanted`, alone or followed by `[PID]`, `:`, or after a path.
fn is_name(name: &[u8], wanted: &[u8]) -> bool {
    let end = name.iter().position(|byte| b"[:".contains(byte)).unwrap_or(name.len());
    let name = &name[..end];
    let base = memchr::memrchr(b'/', name).map_or(name, |at| &name[at + 1..]);
    base.eq_ignore_ascii_case(wanted)
}

const AUTH_WORDS: [&[u8]; 6] =
    [b"auth", b"login", b"logged in", b"logout", b"logged out", b"password"];

/// `<` and up to five bytes of whatever should be a priority, such as rsyslog's `invld`, and `>`.
const PRIORITY_BYTES_MAX: usize = 8;

/// A header's names stand in its first bytes: priority, version, time, and a hostname of 255.
const HEADER_WINDOW_BYTES: usize = 400;

/// How much of an unknown message from Portainer is searched for words about authentication.
const TEXT_WINDOW_BYTES: usize = 512;

#[cfg(test)]
mod tests {
    use super::super::recognise;
    use super::*;

    const KUBE: &str = r#"{"kind":"Event","apiVersion":"audit.k8s.io/v1","level":"Metadata","auditID":"a","stage":"ResponseComplete","requestURI":"/api","verb":"get","requestObject":{"rule":1,"priority":2,"output":3}}"#;
    const FALCO: &str = r#"{"hostname":"n","output":"o","output_fields":{},"priority":"Notice","rule":"r","source":"syscall","time":"t"}"#;
    const AUTH: &str = r#"{"id":1,"timestamp":1700000000,"username":"a","type":1,"origin":"192.0.2.1","context":1}"#;
    const ACTIVITY: &str = r#"{"id":1,"timestamp":1700000000,"username":"a","context":"local","action":"POST /stacks","payload":null}"#;

    #[test]
    fn a_stream_is_recognised_bare_and_behind_every_header() {
        for (body, stream) in [
            (KUBE, Stream::KubeAudit),
            (FALCO, Stream::Falco),
            (AUTH, Stream::PortainerAuth),
            (ACTIVITY, Stream::PortainerActivity),
        ] {
            for header in [
                "",
                "<13>1 2026-11-23T16:00:00Z h app - - - ",
                "<13>Nov 23 16:00:00 h app[1]: ",
                "<13>1 2026-11-23T16:00:00Z h a - - - \u{feff}",
            ] {
                assert_eq!(recognise(format!("{header}{body}").as_bytes()), stream, "{header}");
            }
        }
    }

    #[test]
    fn a_header_that_says_portainer_or_falco_is_enough() {
        for (raw, stream) in [
            (
                "<134>1 2026-11-23T16:00:00Z portainer portainer 1 auth - {\"id\":1}",
                Stream::PortainerAuth,
            ),
            ("<134>1 - h /opt/portainer 1 - - user login failed", Stream::PortainerAuth),
            ("<134>Nov 23 16:00:00 h portainer[1]: POST /stacks", Stream::PortainerActivity),
            ("<134> 2026-11-23T16:00:00Z portainer x[1]: m", Stream::PortainerActivity),
            (
                r#"<134>1 - portainer p - - - {"Username":"a","AuthenticationMethod":"LDAP","Action":"x"}"#,
                Stream::PortainerAuth,
            ),
            (
                r#"<134>1 - portainer p - - - {"Username":"a","ResourceType":"stack","Action":"x"}"#,
                Stream::PortainerActivity,
            ),
            ("<12>Nov 23 16:00:00 h falco: 16:00:00.1: Notice A shell", Stream::Falco),
            ("<13>1 - h app - - - portainer falco", Stream::Other),
            ("<12>1 - h falco - - - Falco initialized with configuration file", Stream::Other),
        ] {
            assert_eq!(recognise(raw.as_bytes()), stream, "{raw}");
        }
    }

    #[test]
    fn words_inside_strings_are_no_keys() {
        for raw in [
            r#"{"message":"\"auditID\": \"audit.k8s.io/v1\" \"rule\" \"priority\" \"output\""}"#,
            r#"{"username":"\"timestamp\"\"context\"\"action\""}"#,
            r#"{"apiVersion":"audit.k8s.io/v1","kind":"Policy"}"#,
            "{",
            "",
            "<",
            "<13>",
            "<13> ",
        ] {
            assert_eq!(recognise(raw.as_bytes()), Stream::Other, "{raw}");
        }
    }
}
