//! What is remembered of a Portainer record: a second, and a hash of who did what.
//!
//! A record that came by syslog and the same record from the REST interface must have the same hash,
//! though syslog may write it as the published record, in the richer audit envelope, or as
//! `key=value`, and name or spell fields in another way. So the hash is made of few things, brought
//! into one form: the kind, the user, and either what a login came to and from where, or method, URL
//! and environment. Left out are the id (nobody has seen whether syslog sends one), the payload (it may
//! be encoded in another way), the way of logging in, and which Portainer it was: syslog does not say.
//! Two Portainers that send to one agent can so stand in for each other where the same user does the
//! same thing at the same time.

use std::borrow::Cow;

use sha2::{Digest, Sha256};
use shared::clock::Nanos;
use shared::event::{Body, envelope};
use shared::json::{Kind, Tape, Value};
use shared::record::Stream;

use crate::buffer::Sighting;

use super::SIGHTINGS_KEPT;

/// The sighting of a record, if it is one of Portainer's that REST would give, too. Costs nothing for
/// other streams.
pub fn sighting(raw: &[u8], stream: Stream, received: Nanos) -> Option<Sighting> {
    if !is_ours(stream) {
        return None;
    }
    let mut tape = Tape::default();
    sighting_in(&Body::of(raw, &mut tape), stream, received)
}

/// As [`sighting`], for a record whose body was found and scanned before.
pub fn sighting_in(body: &Body<'_>, stream: Stream, received: Nanos) -> Option<Sighting> {
    if !is_ours(stream) {
        return None;
    }
    let found = match &body.json {
        Some(json) => Fields::of_json(*json).identify(),
        None => Fields::of_pairs(&String::from_utf8_lossy(body.bytes())).identify(),
    }?;
    let second = found.second.unwrap_or_else(|| {
        let envelope = envelope(body.raw, received);
        envelope.time.or(envelope.time_if_utc).unwrap_or(received).as_secs()
    });
    // What is older than anything that is asked for is of no use, and what claims to come from the
    // future would be kept until then.
    let age = received.as_secs().saturating_sub(second);
    let kept = -FUTURE_SECS_MAX..=SIGHTINGS_KEPT.as_secs().cast_signed();
    kept.contains(&age).then_some(Sighting { second, hash: found.hash })
}

/// The sighting of a record as REST gives it, or what it lacks.
pub(super) fn sighting_of_item(item: Value<'_>) -> Result<Sighting, &'static str> {
    if item.kind() != Kind::Object {
        return Err("it is no object");
    }
    let found = Fields::of_json(item).identify().ok_or("it names neither an action nor a login")?;
    let second = found.second.ok_or("it has no timestamp")?;
    Ok(Sighting { second, hash: found.hash })
}

fn is_ours(stream: Stream) -> bool {
    matches!(stream, Stream::PortainerActivity | Stream::PortainerAuth)
}

/// A clock may be so far ahead of ours and its records still be remembered.
const FUTURE_SECS_MAX: i64 = 2 * 24 * 3600;

struct Identified {
    second: Option<i64>,
    hash: u64,
}

/// The fields of a record, whatever they are called.
#[derive(Default)]
struct Fields<'a> {
    action: Option<Cow<'a, str>>,
    context: Option<Cow<'a, str>>,
    kind: Option<Cow<'a, str>>,
    method: Option<Cow<'a, str>>,
    origin: Option<Cow<'a, str>>,
    result: Option<Cow<'a, str>>,
    time: Option<Cow<'a, str>>,
    url: Option<Cow<'a, str>>,
    username: Option<Cow<'a, str>>,
}

impl<'a> Fields<'a> {
    fn of_json(json: Value<'a>) -> Self {
        let mut fields = Self::default();
        for member in json.children() {
            if let Some(text) = member.as_text() {
                fields.put(&member.key(), || text);
            }
        }
        fields
    }

    /// `key=value key="some words"`; an HTTP method takes the word behind it along.
    fn of_pairs(text: &str) -> Fields<'static> {
        let mut fields = Fields::default();
        let mut rest = text;
        while let Some((before, after)) = rest.split_once('=') {
            let key = before.rsplit(|c: char| c.is_whitespace() || c == ',').next().unwrap_or("");
            let (value, behind) = pair_value(after);
            fields.put(key, || Cow::Owned(value));
            rest = behind;
        }
        fields
    }

    /// The first of several spellings wins.
    fn put(&mut self, key: &str, value: impl FnOnce() -> Cow<'a, str>) {
        let slot = match plain_key(key).as_str() {
            "action" => &mut self.action,
            "context" | "environment" | "environmentname" | "endpointname" => &mut self.context,
            "eventtype" | "type" => &mut self.kind,
            "httpmethod" | "method" | "requestmethod" => &mut self.method,
            "clientip" | "origin" | "remoteaddr" | "remoteaddress" | "sourceaddress"
            | "sourceip" | "srcip" => &mut self.origin,
            "outcome" | "result" | "status" => &mut self.result,
            "eventtime" | "time" | "timestamp" => &mut self.time,
            "path" | "requesturi" | "uri" | "url" => &mut self.url,
            "user" | "username" => &mut self.username,
            _ => return,
        };
        if slot.is_none() {
            *slot = Some(value());
        }
    }

    fn identify(&self) -> Option<Identified> {
        let second = self.time.as_deref().and_then(second_of);
        let username = self.username.as_deref().unwrap_or("");
        let hash = if let Some((method, url)) = self.request() {
            let context = self.context.as_deref().unwrap_or(PORTAINER_ITSELF);
            hash_of(&["activity", username, &method, &url, context])
        } else if let Some(login) = self.login() {
            let origin = self.origin.as_deref().map(plain_address).unwrap_or_default();
            hash_of(&["auth", username, login, &origin])
        } else if let Some(action) = &self.action {
            // Some other word for what was done: it is at least the same word on both ways.
            let context = self.context.as_deref().unwrap_or(PORTAINER_ITSELF);
            hash_of(&["activity", username, action, "", context])
        } else {
            return None;
        };
        Some(Identified { second, hash })
    }

    /// Method and URL, in one form: without scheme, host, `/api`, and any token.
    fn request(&self) -> Option<(String, String)> {
        let (method, url) = match (&self.action, &self.method, &self.url) {
            (Some(action), ..) if is_request(action) => action.split_once(' ')?,
            (_, Some(method), Some(url)) if is_method(method) => (method.as_ref(), url.as_ref()),
            _ => return None,
        };
        Some((method.to_ascii_uppercase(), plain_url(url.trim())))
    }

    /// What a login came to.
    fn login(&self) -> Option<&'static str> {
        match self.kind.as_deref() {
            Some("1") => return Some("success"),
            Some("2") => return Some("failure"),
            Some("3") => return Some("logout"),
            _ => {}
        }
        let mut words = String::new();
        for part in [&self.kind, &self.action, &self.result].into_iter().flatten() {
            words.push_str(&part.to_ascii_lowercase());
            words.push(' ');
        }
        let says = |list: &[&str]| list.iter().any(|word| words.contains(word));
        let about = says(&["auth", "login", "logon", "log in", "logout", "logoff", "log out"]);
        match () {
            () if !about => None,
            () if says(&["logout", "logoff", "log out"]) => Some("logout"),
            () if says(&["fail", "denied", "invalid", "error", "unauth"]) => Some("failure"),
            () => Some("success"),
        }
    }
}

/// The value behind `=`, and what stands behind it.
fn pair_value(text: &str) -> (String, &str) {
    if let Some(quoted) = text.strip_prefix('"') {
        let mut value = String::new();
        let mut chars = quoted.char_indices();
        while let Some((at, c)) = chars.next() {
            match c {
                '"' => return (value, &quoted[at + 1..]),
                '\\' => value.extend(chars.next().map(|(_, escaped)| escaped)),
                _ => value.push(c),
            }
        }
        return (value, "");
    }
    let word_end = |text: &str| text.find(char::is_whitespace).unwrap_or(text.len());
    let mut end = word_end(text);
    if is_method(&text[..end])
        && let Some(next) = text[end..].strip_prefix(' ')
        && (next.starts_with('/') || next.starts_with("http"))
    {
        end += 1 + word_end(next);
    }
    (text[..end].trim_end_matches(',').to_owned(), &text[end..])
}

/// A key without regard to case and to what stands between its words.
fn plain_key(key: &str) -> String {
    key.bytes()
        .filter(u8::is_ascii_alphanumeric)
        .take(KEY_BYTES_MAX)
        .map(|byte| char::from(byte.to_ascii_lowercase()))
        .collect()
}

/// No key that is looked for is longer.
const KEY_BYTES_MAX: usize = 32;

fn is_request(action: &str) -> bool {
    action.split_once(' ').is_some_and(|(method, url)| is_method(method) && !url.trim().is_empty())
}

fn is_method(word: &str) -> bool {
    METHODS.iter().any(|method| word.eq_ignore_ascii_case(method))
}

const METHODS: [&str; 7] = ["DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT"];

fn plain_url(url: &str) -> String {
    let path = match url.split_once("://") {
        Some((_, rest)) => rest.find('/').map_or("/", |at| &rest[at..]),
        None => url,
    };
    let path = match path.strip_prefix("/api") {
        Some(rest) if rest.starts_with('/') => rest,
        _ => path,
    };
    let Some((path, query)) = path.split_once('?') else { return path.to_owned() };
    let mut plain = path.to_owned();
    let kept = query.split('&').filter(|part| !part.starts_with("token="));
    for (part, between) in kept.zip(std::iter::once('?').chain(std::iter::repeat('&'))) {
        plain.push(between);
        plain.push_str(part);
    }
    plain
}

/// An address without port and brackets.
fn plain_address(address: &str) -> String {
    let address = address.trim();
    if let Ok(socket) = address.parse::<std::net::SocketAddr>() {
        return socket.ip().to_canonical().to_string();
    }
    let bare = address.trim_start_matches('[').trim_end_matches(']');
    match bare.parse::<std::net::IpAddr>() {
        Ok(ip) => ip.to_canonical().to_string(),
        Err(_) => bare.to_owned(),
    }
}

/// Seconds since 1970, from a number of seconds, or a smaller unit, or a time of RFC 3339.
fn second_of(text: &str) -> Option<i64> {
    let text = text.trim();
    if let Ok(number) = text.parse::<i64>() {
        // Portainer writes seconds; by its size a number can be told from smaller units until 5138.
        return Some(match number {
            ..=0 => return None,
            1..100_000_000_000 => number,
            100_000_000_000..100_000_000_000_000 => number / 1_000,
            100_000_000_000_000..100_000_000_000_000_000 => number / 1_000_000,
            _ => number / 1_000_000_000,
        });
    }
    if let Ok(time) = text.parse::<jiff::Timestamp>() {
        return Some(time.as_second());
    }
    // A number with a fraction.
    let (whole, fraction) = text.split_once('.')?;
    let digits = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
    (digits(whole) && digits(fraction)).then(|| whole.parse().ok())?
}

/// The first 8 bytes of a SHA-256 over the parts, each behind its length.
fn hash_of(parts: &[&str]) -> u64 {
    let mut digest = Sha256::new();
    for part in parts {
        digest.update((part.len() as u64).to_le_bytes());
        digest.update(part.as_bytes());
    }
    let digest = digest.finalize();
    let mut first = [0; 8];
    first.copy_from_slice(&digest[..8]);
    u64::from_le_bytes(first)
}

/// What Portainer writes as context of an activity that concerns no environment.
const PORTAINER_ITSELF: &str = "Portainer";

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Nanos = Nanos(1_700_000_100_000_000_000);

    fn of(raw: &str, stream: Stream) -> Option<Sighting> {
        sighting(raw.as_bytes(), stream, NOW)
    }

    #[test]
    fn a_login_is_the_same_in_every_shape() {
        let rest = r#"{"id":1,"timestamp":1700000000,"username":"alice","type":2,"origin":"192.0.2.7","context":1}"#;
        let expected = of(rest, Stream::PortainerAuth);
        assert_eq!(expected.map(|s| s.second), Some(1_700_000_000));
        for raw in [
            r#"<134>1 2023-11-14T22:13:21Z portainer /portainer 1 portainer - {"id":0,"timestamp":1700000000,"username":"alice","type":2,"origin":"192.0.2.7","context":1}"#,
            r#"<134>1 - portainer portainer 1 - - {"Timestamp":"2023-11-14T22:13:20Z","Username":"alice","UserID":4,"AuthenticationMethod":"Internal","SourceIP":"192.0.2.7:50312","Action":"login","Result":"failure"}"#,
            r#"<134>1 2023-11-14T22:13:20Z portainer portainer 1 - - username=alice action="login failed" source_ip=192.0.2.7"#,
        ] {
            assert_eq!(of(raw, Stream::PortainerAuth), expected, "{raw}");
        }
        for other in [
            rest.replace("alice", "bob"),
            rest.replace("\"type\":2", "\"type\":1"),
            rest.replace("192.0.2.7", "192.0.2.8"),
        ] {
            assert_ne!(of(&other, Stream::PortainerAuth), expected, "{other}");
        }
    }

    #[test]
    fn an_activity_is_the_same_in_every_shape() {
        let rest = r#"{"id":1,"timestamp":1700000000,"username":"al\"ice","context":"local","action":"POST http://unixsocket/containers/create?name=nginx","payload":"e30="}"#;
        let expected = of(rest, Stream::PortainerActivity);
        assert!(expected.is_some());
        for raw in [
            r#"<134>Nov 14 22:13:20 portainer portainer[1]: {"id":9,"timestamp":1700000000,"username":"al\"ice","context":"local","action":"POST http://unixsocket/containers/create?name=nginx","payload":null}"#,
            r#"<134>1 - portainer p - - - {"Time":1700000000000,"Username":"al\"ice","Environment":"local","Method":"POST","URL":"/api/containers/create?name=nginx","Result":"success"}"#,
            r#"<134>1 2023-11-14T22:13:20Z portainer p - - - username="al\"ice" action=POST /containers/create?name=nginx environment=local"#,
        ] {
            assert_eq!(of(raw, Stream::PortainerActivity), expected, "{raw}");
        }
        let other = rest.replace("\"local\"", "\"swarm\"");
        assert_ne!(of(&other, Stream::PortainerActivity), expected);
    }

    #[test]
    fn tokens_do_not_matter() {
        let with = r#"{"timestamp":1700000000,"username":"a","context":"local","action":"GET /websocket/exec?token=eyJ.x.y&id=3"}"#;
        let without = with.replace("token=eyJ.x.y&", "");
        assert_eq!(of(with, Stream::PortainerActivity), of(&without, Stream::PortainerActivity));
    }

    #[test]
    fn what_is_no_record_of_portainer_leaves_no_sighting() {
        let rest = r#"{"timestamp":1700000000,"username":"a","type":1,"origin":"::1","context":1}"#;
        assert_eq!(of(rest, Stream::Other), None);
        for raw in ["", "{", "[]", "{}", "words", "{\"username\":\"a\"}", "==\"", "a=\"\\"] {
            assert_eq!(of(raw, Stream::PortainerAuth), None, "{raw}");
        }
        let far = rest.replace("1700000000", "99999999999");
        assert_eq!(of(&far, Stream::PortainerAuth), None, "from the future");
        let old = rest.replace("1700000000", "1600000000");
        assert_eq!(of(&old, Stream::PortainerAuth), None, "older than anything asked for");
    }

    #[test]
    fn without_a_time_in_the_body_the_header_or_the_clock_says_when() {
        let body = r#"{"username":"a","type":1,"origin":"::1","context":1}"#;
        let with_header = format!("<134>1 2023-11-14T22:13:20Z portainer p - - - {body}");
        let found = of(&with_header, Stream::PortainerAuth).unwrap();
        assert_eq!(found.second, 1_700_000_000);
        assert_eq!(of(body, Stream::PortainerAuth).unwrap().second, NOW.as_secs());
    }
}
