//! IBM `QRadar`'s Log Event Extended Format, version 2.0:
//! <https://www.ibm.com/docs/en/dsm?topic=leef-overview>.
//!
//! One line, without a line end; pairs are kept apart by `^`, which no relay changes, as some do
//! with tabs. LEEF knows no escapes: the delimiter and whatever breaks a line become blanks, in the
//! header `|` too, and the attribute `changed` names the keys of such values; `cut` names those
//! that were longer than allowed.
//!
//! `devTime` is 13 digits of milliseconds since 1970, which `QRadar` reads without a format and
//! prefers to the time of the syslog header. `cat` and the event id are what a QID is chosen by:
//! both are constants of ours, or a rule's name.
//!
//! The original stands in `raw`, behind all else; where it holds what LEEF can't, in `rawBase64`; where it is
//! too long, `rawOmitted` says so and `rawSha256` is its hash.

use std::fmt::Write as _;
use std::io::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use shared::clock::Nanos;
use shared::event::Privilege;
use shared::record::Stream;

use crate::event::View;

use super::sense::Sense;
use super::{Original, changes, digest, millis, name_of, result, text};

/// Appends an event, without a line end.
pub fn render(out: &mut Vec<u8>, view: &View<'_>) {
    render_within(out, view, usize::MAX);
}

/// The same; where the original would make it longer than so many bytes, it is left out, and said.
pub fn render_within(out: &mut Vec<u8>, view: &View<'_>, bytes_max: usize) {
    let longest = out.len().saturating_add(bytes_max);
    let sense = Sense::of(view);
    let event = &view.event;
    let detail = |name| event.detail(name);
    let mut line = Line { out, first: true, changed: String::new(), cut: String::new() };
    line.header(&sense);
    line.time(view.time());
    line.plain("sev", sense.severity.from_one());
    line.text("cat", category(view));
    if let Some(ip) = sense.client.ip {
        line.plain("src", ip);
    } else {
        line.text_of("srcHost", sense.client.address);
    }
    if let Some(port) = sense.client.port {
        line.plain("srcPort", port);
    }
    line.text_of("usrName", event.actor.name.as_deref());
    line.text_of("accountName", event.actor.id.as_deref());
    line.text_of("realm", event.actor.method.as_deref());
    line.text_of("role", detail("role"));
    line.text_of("resource", event.resource.environment.as_deref());
    line.text_of("url", detail("url").or(detail("uri")));
    line.plain("recordId", view.id);
    line.text("origin", view.chain.origin.as_str());
    line.plain("lane", view.chain.lane);
    line.plain("seq", view.record.sequence);
    line.text("stream", event.stream.as_str());
    line.text_of("eventType", event.kind.as_deref());
    line.text_of("action", Some(event.action.as_ref()));
    line.text_of("result", event.outcome.map(result));
    line.text_of("privileged", event.privileged.map(name_of::<Privilege>).as_deref());
    line.text_of("namespace", event.resource.namespace.as_deref());
    line.text_of("resourceType", event.resource.kind.as_deref());
    line.text_of("resourceId", event.resource.id.as_deref());
    line.text_of("resourceName", event.resource.name.as_deref());
    let target = view.target_user().and_then(|(id, name)| name.or(id));
    line.text_of("targetUser", target.or(event.actor.acting_as.as_deref()));
    line.text_of("sessionId", event.session_id.as_deref());
    line.text_of("requestId", event.request_id.as_deref());
    line.text_of("changes", changes(event).as_deref());
    line.text_of("verb", detail("verb").or(detail("method")));
    line.text_of("responseCode", detail("code"));
    line.text_of("userAgent", detail("user-agent"));
    line.text_of("container", detail("container"));
    line.text_of("pod", detail("pod"));
    line.text_of("image", detail("image"));
    line.text_of("command", detail("command"));
    line.text_of("host", detail("host").or(view.envelope.hostname.as_deref()));
    let message = match event.stream {
        Stream::Other => Some(view.envelope.message.as_ref()),
        _ => detail("message"),
    };
    line.text_of("message", message);
    line.losses();
    // Last: where QRadar cuts a message, it cuts this.
    line.original(view, longest);
}

/// The second half of what a QID is chosen by: the stream, and how it went.
fn category(view: &View<'_>) -> &'static str {
    match (view.event.stream, view.event.outcome) {
        (Stream::Falco, _) => "alert",
        (_, Some(outcome)) => result(outcome),
        (_, None) => "unknown",
    }
}

struct Line<'o> {
    out: &'o mut Vec<u8>,
    first: bool,
    changed: String,
    cut: String,
}

impl Line<'_> {
    /// `LEEF:2.0|VENDOR|PRODUCT|VERSION|EVENT ID|DELIMITER|`
    fn header(&mut self, sense: &Sense<'_>) {
        self.out.extend_from_slice(b"LEEF:2.0");
        for field in [sense.product.vendor, sense.product.name, VERSION, sense.signature] {
            self.out.push(b'|');
            let kept = text::cut(field, HEADER_BYTES_MAX);
            if kept.len() < field.len() {
                self.cut.push_str("eventId ");
            }
            let welcome = text::without(kept, |char| char == '|' || unwelcome(char));
            if welcome != kept {
                self.changed.push_str("eventId ");
            }
            self.out.extend_from_slice(welcome.as_bytes());
        }
        // Writing to memory does not fail.
        let _ = write!(self.out, "|{DELIMITER}|");
    }

    /// Thirteen digits reach from 2001 to 2286; an earlier time is written out, with its format.
    fn time(&mut self, time: Nanos) {
        let millis = millis(time);
        if (1_000_000_000_000..10_000_000_000_000).contains(&millis) {
            self.plain("devTime", millis);
        } else {
            self.plain("devTime", Nanos(time.0 - time.0.rem_euclid(1_000_000)));
            self.text("devTimeFormat", "yyyy-MM-dd'T'HH:mm:ss.SSS'000000Z'");
        }
    }

    fn key(&mut self, key: &str) {
        if !self.first {
            self.out.push(DELIMITER as u8);
        }
        self.first = false;
        self.out.extend_from_slice(key.as_bytes());
        self.out.push(b'=');
    }

    fn plain(&mut self, key: &str, value: impl std::fmt::Display) {
        self.key(key);
        let _ = write!(self.out, "{value}");
    }

    fn text_of(&mut self, key: &str, value: Option<&str>) {
        if let Some(value) = value.filter(|value| !value.is_empty()) {
            self.text(key, value);
        }
    }

    fn text(&mut self, key: &str, value: &str) {
        let most = if LIMITED.contains(&key) { LIMITED_BYTES_MAX } else { VALUE_BYTES_MAX };
        let kept = text::cut(value, most);
        if kept.len() < value.len() {
            let _ = write!(self.cut, "{key} ");
        }
        let welcome = text::without(kept, unwelcome);
        if welcome != kept {
            let _ = write!(self.changed, "{key} ");
        }
        self.key(key);
        self.out.extend_from_slice(welcome.as_bytes());
    }

    fn losses(&mut self) {
        let (cut, changed) = (std::mem::take(&mut self.cut), std::mem::take(&mut self.changed));
        self.text_of("cut", Some(cut.trim_end()));
        self.text_of("changed", Some(changed.trim_end()));
    }

    /// The bytes of the record, where they fit: as they are, or as base64 where this format would change
    /// them; else their SHA-256.
    fn original(&mut self, view: &View<'_>, longest: usize) {
        let before = self.out.len();
        let fits = match Original::of(view, RAW_BYTES_MAX) {
            Original::Text("") => true,
            Original::Text(text) if !text.contains(unwelcome) => {
                self.plain("raw", text);
                true
            }
            Original::Text(_) | Original::NotUtf8(_)
                if view.record.raw.len() <= RAW_BYTES_MAX / 4 * 3 =>
            {
                self.plain("rawBase64", BASE64.encode(view.record.raw));
                true
            }
            _ => false,
        };
        if !fits || self.out.len() > longest {
            self.out.truncate(before);
            self.plain("rawOmitted", "too-large");
            self.plain("rawSha256", digest(view));
        }
    }
}

fn unwelcome(char: char) -> bool {
    char == DELIMITER || text::breaks_line(char)
}

/// What keeps the pairs apart.
const DELIMITER: char = '^';

/// The version of this mapping. That of the product is not known.
const VERSION: &str = "1";

/// The keys that IBM limits to 255 characters.
const LIMITED: [&str; 2] = ["accountName", "usrName"];
const LIMITED_BYTES_MAX: usize = 255;

/// `QRadar` cuts a whole message at 4 KiB unless it is set otherwise: the longest value leaves room
/// for the others.
const VALUE_BYTES_MAX: usize = 2048;

/// Half of what the page of this sink has `QRadar` take.
const RAW_BYTES_MAX: usize = 16 * 1024;

/// The event id is a key of the map of `QRadar`: names of rules are much shorter.
const HEADER_BYTES_MAX: usize = 255;
