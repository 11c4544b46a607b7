//! `ArcSight`'s Common Event Format: the CEF implementation standard, document version 27, and its
//! dictionary of extension keys with their lengths:
//! <https://www.microfocus.com/documentation/arcsight/arcsight-smartconnectors-25.1/cef-implementation-standard/>.
//!
//! One line, without a line end. In the header `\` and `|` are escaped, in values `\`, `=` and line
//! ends; other control characters become blanks. `src` takes IPv4 only, so that an IPv6 address
//! stands in `c6a2` with its label. A value longer than its key may be is cut between characters.
//! Each of these losses is named in `flexString2`: `msg:cut cs5:changed`.
//!
//! The original stands in `rawEvent`. Where its bytes can't stand there as they are, they are base64
//! (`rawEvent:base64` in `flexString2`); where it is longer than the key may be, `flexString2` says
//! `rawEvent:too-large` and its SHA-256.

use std::fmt::Write as _;
use std::io::Write as _;
use std::net::IpAddr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
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
    header(out, view, &sense);
    let mut line = Extension { out, first: true, lost: String::new() };
    let detail = |name| event.detail(name);
    line.plain("rt", millis(view.time()));
    line.plain("externalId", view.id);
    line.text("cat", event.stream.as_str());
    line.text_of("act", Some(event.action.as_ref()));
    line.text_of("outcome", event.outcome.map(result));
    match sense.client.ip {
        Some(IpAddr::V4(ip)) => line.plain("src", ip),
        Some(IpAddr::V6(ip)) => {
            line.plain("c6a2", ip);
            line.text("c6a2Label", "Source IPv6 Address");
        }
        None => line.text_of("shost", sense.client.address),
    }
    if let Some(port) = sense.client.port {
        line.plain("spt", port);
    }
    line.text_of("suser", event.actor.name.as_deref());
    line.text_of("suid", event.actor.id.as_deref());
    line.text_of("spriv", detail("role"));
    match view.target_user() {
        Some((id, name)) => {
            line.text_of("duser", name);
            line.text_of("duid", id);
        }
        None => line.text_of("duser", event.actor.acting_as.as_deref()),
    }
    let host = detail("host").or(view.envelope.hostname.as_deref());
    line.text_of("dvchost", host);
    line.text("deviceExternalId", view.chain.origin.as_str());
    line.labelled("cs1", "authenticationMethod", event.actor.method.as_deref());
    line.labelled("cs2", "environment", event.resource.environment.as_deref());
    line.labelled("cs3", "namespace", event.resource.namespace.as_deref());
    line.labelled("cs4", "resourceType", event.resource.kind.as_deref());
    let resource = event.resource.id.as_deref().or(event.resource.name.as_deref());
    line.labelled("cs5", "resource", resource);
    match event.session_id.as_deref() {
        Some(session) => line.labelled("cs6", "session", Some(session)),
        None => line.labelled("cs6", "request", event.request_id.as_deref()),
    }
    line.plain("cn1", view.record.sequence);
    line.text("cn1Label", "seq");
    line.text_of("requestMethod", detail("method").or(detail("verb")));
    line.text_of("request", detail("url").or(detail("uri")));
    line.text_of("requestClientApplication", detail("user-agent"));
    line.text_of("fname", detail("file"));
    line.text_of("sproc", detail("command").or(detail("process")));
    line.text_of("reason", detail("decision-reason").or(detail("policy-violation")));
    line.labelled("flexString1", "eventType", event.kind.as_deref());
    let message = if event.stream == Stream::Other {
        Some(view.envelope.message.as_ref().into())
    } else {
        detail("message").map(Into::into).or_else(|| changes(event))
    };
    line.text_of("msg", message.as_deref());
    // The dictionary has no key for it; others are allowed beside its own.
    line.text_of("penstockPrivileged", event.privileged.map(name_of::<Privilege>).as_deref());
    line.original(view, longest);
    line.finish();
}

/// `CEF:0|VENDOR|PRODUCT|VERSION|CLASS|NAME|SEVERITY|`
fn header(out: &mut Vec<u8>, view: &View<'_>, sense: &Sense<'_>) {
    let action = Some(view.event.action.as_ref()).filter(|action| !action.is_empty());
    let name = match view.event.stream {
        Stream::Falco => sense.signature,
        _ => action.unwrap_or(sense.signature),
    };
    out.extend_from_slice(b"CEF:0");
    let fields = [
        (sense.product.vendor, 63),
        (sense.product.name, 63),
        (VERSION, 31),
        (sense.signature, 1023),
        (name, 512),
    ];
    for (field, bytes_max) in fields {
        out.push(b'|');
        let field = text::without(text::cut(field, bytes_max), text::breaks_line);
        for byte in field.bytes() {
            if matches!(byte, b'\\' | b'|') {
                out.push(b'\\');
            }
            out.push(byte);
        }
    }
    // Writing to memory does not fail.
    let _ = write!(out, "|{}|", sense.severity.number());
}

/// The pairs behind the header.
struct Extension<'o> {
    out: &'o mut Vec<u8>,
    first: bool,
    /// What was cut or changed, by key.
    lost: String,
}

impl Extension<'_> {
    fn key(&mut self, key: &str) {
        if !self.first {
            self.out.push(b' ');
        }
        self.first = false;
        self.out.extend_from_slice(key.as_bytes());
        self.out.push(b'=');
    }

    /// A value that needs no escape: a number, an address, an id.
    fn plain(&mut self, key: &str, value: impl std::fmt::Display) {
        self.key(key);
        let _ = write!(self.out, "{value}");
    }

    fn text_of(&mut self, key: &str, value: Option<&str>) {
        if let Some(value) = value.filter(|value| !value.is_empty()) {
            self.text(key, value);
        }
    }

    fn labelled(&mut self, key: &str, label: &str, value: Option<&str>) {
        if let Some(value) = value.filter(|value| !value.is_empty()) {
            self.text(key, value);
            self.key(key);
            self.out.pop();
            let _ = write!(self.out, "Label={label}");
        }
    }

    fn text(&mut self, key: &str, value: &str) {
        self.key(key);
        let kept = text::cut(value, bytes_max(key));
        if kept.len() < value.len() {
            let _ = write!(self.lost, "{key}:cut ");
        }
        let mut changed = false;
        for char in kept.chars() {
            match char {
                '\\' => self.out.extend_from_slice(b"\\\\"),
                '=' => self.out.extend_from_slice(b"\\="),
                '\n' => self.out.extend_from_slice(b"\\n"),
                '\r' => self.out.extend_from_slice(b"\\r"),
                char if text::breaks_line(char) => {
                    self.out.push(b' ');
                    changed = true;
                }
                char => {
                    let mut bytes = [0; 4];
                    self.out.extend_from_slice(char.encode_utf8(&mut bytes).as_bytes());
                }
            }
        }
        if changed {
            let _ = write!(self.lost, "{key}:changed ");
        }
    }

    /// The bytes of the record, where they fit: as they are, or as base64 where this format would change
    /// them; else their SHA-256.
    fn original(&mut self, view: &View<'_>, longest: usize) {
        let before = self.out.len();
        let changed = |char| text::breaks_line(char) && !matches!(char, '\n' | '\r');
        let note = match Original::of(view, RAW_BYTES_MAX) {
            // Blanks at an end are lost on readers.
            Original::Text(text) if !text.contains(changed) && text.trim_matches(' ') == text => {
                self.text_of(RAW, Some(text));
                ""
            }
            Original::Text(_) | Original::NotUtf8(_)
                if view.record.raw.len() <= RAW_BYTES_MAX / 4 * 3 =>
            {
                self.text(RAW, &BASE64.encode(view.record.raw));
                "rawEvent:base64 "
            }
            _ => TOO_LARGE,
        };
        let notes = self.lost.len() + note.len() + NOTES_BYTES;
        if note == TOO_LARGE || self.out.len() + notes > longest {
            self.out.truncate(before);
            let _ = write!(self.lost, "{TOO_LARGE}rawEvent-sha256:{} ", digest(view));
        } else {
            self.lost.push_str(note);
        }
    }

    fn finish(mut self) {
        let lost = std::mem::take(&mut self.lost);
        if !lost.is_empty() {
            self.text("flexString2", lost.trim_end());
            self.text("flexString2Label", "lost");
        }
    }
}

/// The most bytes of a key's value; the standard counts characters, which are never more.
fn bytes_max(key: &str) -> usize {
    let known = LENGTHS.iter().find(|(name, _)| *name == key);
    known.map_or(1023, |(_, length)| *length)
}

/// The lengths that are not 1023, by the dictionary.
const LENGTHS: [(&str, usize); 13] = [
    ("act", 63),
    ("cs1", 4000),
    ("cs2", 4000),
    ("cs3", 4000),
    ("cs4", 4000),
    ("cs5", 4000),
    ("cs6", 4000),
    ("deviceExternalId", 255),
    ("dvchost", 100),
    ("externalId", 40),
    ("outcome", 63),
    ("rawEvent", RAW_BYTES_MAX),
    ("requestContext", 2048),
];

/// The key of the original.
const RAW: &str = "rawEvent";
/// What the dictionary allows it.
const RAW_BYTES_MAX: usize = 4000;
const TOO_LARGE: &str = "rawEvent:too-large ";
/// `flexString2` and its label.
const NOTES_BYTES: usize = 40;

/// The version of this mapping. That of the product is not known.
pub const VERSION: &str = "1";
