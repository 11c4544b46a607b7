//! Which stream a record belongs to, from its bytes alone.
//!
//! This runs once for every record on its way into the buffer, so it is a handful of substring
//! searches and allocates nothing. JSON keys are searched with their quotes: inside a JSON string a
//! quote is escaped, so that a user name or a path can't pretend to be a key.
//!
//! It is recognition, not authentication: whoever can send a record can make it look like any stream.

use std::sync::LazyLock;

use memchr::memmem::Finder;

use crate::record::Stream;

/// The stream that the bytes of a record look like.
pub fn recognise(raw: &[u8]) -> Stream {
    if let Some(at) = memchr::memchr(b'{', raw) {
        let body = &raw[at..];
        if is_kube_audit(body) {
            return Stream::KubeAudit;
        }
        if is_falco(body) {
            return Stream::Falco;
        }
        if let Some(stream) = portainer_record(body) {
            return stream;
        }
    }
    match names(raw) {
        Some(names) if names.iter().any(|name| is_name(name, b"portainer")) => portainer_text(raw),
        Some([_, app]) if is_name(app, b"falco") => Stream::Falco,
        _ => Stream::Other,
    }
}

/// An event of `audit.k8s.io`; the items of an `EventList` do not name their API version.
fn is_kube_audit(body: &[u8]) -> bool {
    has(&KEYS.audit_id, body)
        && (has(&KEYS.audit_api, body)
            || (has(&KEYS.stage, body) && has(&KEYS.request_uri, body) && has(&KEYS.verb, body)))
}

fn is_falco(body: &[u8]) -> bool {
    has(&KEYS.rule, body)
        && has(&KEYS.priority, body)
        && [&KEYS.output, &KEYS.output_fields, &KEYS.time].iter().any(|key| has(key, body))
}

/// Portainer's own two record types, by the keys they always have.
fn portainer_record(body: &[u8]) -> Option<Stream> {
    let ours = has(&KEYS.username, body) && has(&KEYS.timestamp, body) && has(&KEYS.context, body);
    if ours && has(&KEYS.action, body) {
        return Some(Stream::PortainerActivity);
    }
    (ours && has(&KEYS.origin, body) && has(&KEYS.kind, body)).then_some(Stream::PortainerAuth)
}

/// A message whose header says Portainer, in a shape that is not known: it is about authentication
/// if its first bytes say so.
fn portainer_text(raw: &[u8]) -> Stream {
    let window = &raw[..raw.len().min(TEXT_WINDOW_BYTES)];
    let says = |word: &[u8]| window.windows(word.len()).any(|at| at.eq_ignore_ascii_case(word));
    if says(b"\"action\"") && !says(b"\"authenticationmethod\"") {
        Stream::PortainerActivity
    } else if AUTH_WORDS.iter().any(|word| says(word)) {
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

fn has(key: &Finder<'static>, body: &[u8]) -> bool {
    key.find(body).is_some()
}

struct Keys {
    action: Finder<'static>,
    audit_api: Finder<'static>,
    audit_id: Finder<'static>,
    context: Finder<'static>,
    kind: Finder<'static>,
    origin: Finder<'static>,
    output: Finder<'static>,
    output_fields: Finder<'static>,
    priority: Finder<'static>,
    request_uri: Finder<'static>,
    rule: Finder<'static>,
    stage: Finder<'static>,
    time: Finder<'static>,
    timestamp: Finder<'static>,
    username: Finder<'static>,
    verb: Finder<'static>,
}

static KEYS: LazyLock<Keys> = LazyLock::new(|| Keys {
    action: Finder::new("\"action\""),
    audit_api: Finder::new("\"audit.k8s.io/"),
    audit_id: Finder::new("\"auditID\""),
    context: Finder::new("\"context\""),
    kind: Finder::new("\"type\""),
    origin: Finder::new("\"origin\""),
    output: Finder::new("\"output\""),
    output_fields: Finder::new("\"output_fields\""),
    priority: Finder::new("\"priority\""),
    request_uri: Finder::new("\"requestURI\""),
    rule: Finder::new("\"rule\""),
    stage: Finder::new("\"stage\""),
    time: Finder::new("\"time\""),
    timestamp: Finder::new("\"timestamp\""),
    username: Finder::new("\"username\""),
    verb: Finder::new("\"verb\""),
});

const AUTH_WORDS: [&[u8]; 4] = [b"auth", b"login", b"logout", b"password"];

/// `<` and up to five bytes of whatever should be a priority, such as rsyslog's `invld`, and `>`.
const PRIORITY_BYTES_MAX: usize = 8;

/// A header's names stand in its first bytes: priority, version, time, and a hostname of 255.
const HEADER_WINDOW_BYTES: usize = 400;

/// How much of an unknown message from Portainer is searched for words about authentication.
const TEXT_WINDOW_BYTES: usize = 512;

#[cfg(test)]
mod tests {
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
