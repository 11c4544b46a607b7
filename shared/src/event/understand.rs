//! From the body of a record to its parsed event.
//!
//! ```text
//! bytes -> Body (header off, JSON scanned) -> peel (relay's wrapping off, cut JSON closed)
//!       -> shape (whose event is it?) -> falco | kubernetes | portainer -> Event
//! ```
//!
//! It runs for every record on its way in. On the straight way, JSON that is the event itself, it
//! borrows; a line inside a string, and JSON that was cut, are scanned again and owned.

use std::borrow::Cow;

use crate::json::{JsonError, Kind, Tape, Value};
use crate::record::Stream;

use super::body::{Body, without_runtime_prefix};
use super::keys::{Key, Slots};
use super::stream::{Sender, Shape, portainer_text, shape};
use super::view::{Classified, Event, PrivilegeSettings, Unclassified};
use super::{cut, falco, google, kubernetes, portainer};

/// The parsed view of a record. `hint` is its stream where configuration says it; otherwise the
/// stream is recognised. A hint makes no alert or audit event of text that is none: start-up noise on
/// Falco's or the API server's stream is of stream `other`.
///
/// It never fails: what is not understood is said in the event.
pub fn understand<'t>(
    body: &Body<'t>,
    hint: Option<Stream>,
    settings: &PrivilegeSettings,
) -> Event<'t> {
    if hint == Some(Stream::Other) {
        return Event::blank(Stream::Other);
    }
    let reader = Reader { hint, settings, sender: Sender::of(body.raw), raw: body.raw };
    reader.body(body, 0)
}

/// The stream that a scanned record looks like.
pub fn recognise_body(body: &Body<'_>) -> Stream {
    understand(body, None, &PrivilegeSettings { break_glass_names: Vec::new() }).stream
}

/// The stream that the bytes of a record look like.
pub fn recognise(raw: &[u8]) -> Stream {
    recognise_body(&Body::of(raw, &mut Tape::default()))
}

/// What a body holds once every wrapping that is in sight is off.
#[expect(clippy::large_enum_variant, reason = "the large one is the usual one, and never kept")]
pub(super) enum Inner<'t> {
    /// JSON that was cut, closed behind its last complete value.
    Closed(Vec<u8>),
    /// A line that a relay carries in a string.
    Line(Vec<u8>),
    /// Several events.
    List(Value<'t>),
    /// One object.
    Object(Slots<'t>, Shape<'t>),
    /// No JSON.
    Text(&'t [u8]),
}

/// Takes the wrapping off a body.
pub(super) fn peel<'t>(body: &Body<'t>, portainer: bool) -> Inner<'t> {
    let Some(root) = body.json else {
        let closed = body.broken.filter(|broken| *broken == JsonError::EndsEarly);
        return match closed.and_then(|_| cut::repair(body.bytes())) {
            Some(whole) => Inner::Closed(whole),
            None => Inner::Text(without_runtime_prefix(body.bytes())),
        };
    };
    match root.kind() {
        Kind::Array => Inner::List(root),
        Kind::Object => peel_object(root, portainer),
        _ => Inner::Text(body.bytes()),
    }
}

fn peel_object(root: Value<'_>, portainer: bool) -> Inner<'_> {
    let slots = Slots::of(root);
    let mut found = shape(&slots, portainer);
    for _ in 0..WRAPPINGS_MAX {
        match found {
            Shape::WrappedLine(line) => {
                let line = line.as_str().unwrap_or_default();
                return Inner::Line(line.into_owned().into_bytes());
            }
            Shape::Wrapped(inner) => {
                let inner = Slots::of(inner);
                found = shape(&inner, portainer);
                if !matches!(found, Shape::Wrapped(_) | Shape::WrappedLine(_) | Shape::Unknown) {
                    return Inner::Object(inner, found);
                }
            }
            Shape::List(items) => return Inner::List(items),
            Shape::Unknown => break,
            _ => return Inner::Object(slots, found),
        }
    }
    Inner::Object(slots, Shape::Unknown)
}

struct Reader<'s> {
    hint: Option<Stream>,
    settings: &'s PrivilegeSettings,
    sender: Sender,
    /// The whole record: the header of an unknown message may say what it is about.
    raw: &'s [u8],
}

impl Reader<'_> {
    fn body<'t>(&self, body: &Body<'t>, depth: usize) -> Event<'t> {
        match peel(body, self.portainer()) {
            Inner::Object(slots, shape) => self.object(&slots, shape),
            Inner::List(items) => self.list(items),
            Inner::Text(text) => self.text(text),
            Inner::Line(line) => self.again(&line, depth),
            Inner::Closed(whole) => {
                let mut event = self.again(&whole, depth);
                if event.category.category().is_none() && event.stream != Stream::Other {
                    event.category = Classified::Not { unclassified: Unclassified::Cut };
                }
                event.details.push(("cut", Cow::Borrowed("true")));
                event
            }
        }
    }

    /// Whether Portainer's own names are to be believed at once.
    fn portainer(&self) -> bool {
        self.sender.portainer
            || matches!(self.hint, Some(Stream::PortainerActivity | Stream::PortainerAuth))
    }

    /// Reads what stood inside a string.
    fn again(&self, line: &[u8], depth: usize) -> Event<'static> {
        if depth >= WRAPPINGS_MAX {
            return self.unknown(line).into_owned();
        }
        let mut tape = Tape::default();
        self.body(&Body::of(line, &mut tape), depth + 1).into_owned()
    }

    fn object<'t>(&self, slots: &Slots<'t>, shape: Shape<'t>) -> Event<'t> {
        let stream = |found| self.hint.unwrap_or(found);
        match shape {
            Shape::Falco => falco::alert(slots, stream(Stream::Falco)),
            Shape::KubeAudit => kubernetes::event(slots, stream(Stream::KubeAudit)),
            Shape::GoogleAudit(payload) => {
                google::event(slots.object(), payload, stream(Stream::KubeAudit))
            }
            Shape::Portainer(found) => portainer::event(slots, stream(found), self.settings),
            Shape::List(_) | Shape::Unknown | Shape::Wrapped(_) | Shape::WrappedLine(_) => {
                match self.hint {
                    Some(Stream::KubeAudit) if slots.has(Key::User) => {
                        kubernetes::event(slots, Stream::KubeAudit)
                    }
                    Some(hint) => Event::blank(hint),
                    None => self.unknown(slots.object().raw()),
                }
            }
        }
    }

    /// Of several events in one record the one that matters most speaks for all.
    fn list<'t>(&self, items: Value<'t>) -> Event<'t> {
        let mut best: Option<Event<'t>> = None;
        let mut count = 0_usize;
        for item in items.children().filter(|item| item.kind() == Kind::Object) {
            let Inner::Object(slots, shape) = peel_object(item, self.portainer()) else { continue };
            let event = self.object(&slots, shape);
            count += 1;
            let weight = |event: &Event<'_>| {
                (event.privileged.is_some(), event.is_guarded(), event.stream != Stream::Other)
            };
            if best.as_ref().is_none_or(|best| weight(&event) > weight(best)) {
                best = Some(event);
            }
        }
        let mut event = best.unwrap_or_else(|| match self.hint {
            Some(hint) => Event::blank(hint),
            None => self.unknown(items.raw()),
        });
        // One speaks for all of them: what is decided about it must not be decided about the others.
        if count > 1 {
            event.details.push(("items", Cow::Owned(count.to_string())));
        }
        event
    }

    fn text<'t>(&self, text: &'t [u8]) -> Event<'t> {
        let falco = self.sender.falco || self.hint == Some(Stream::Falco);
        if let Some(alert) = falco::text(text).filter(|alert| falco || alert.nanoseconds) {
            return falco::text_alert(&alert, self.hint.unwrap_or(Stream::Falco));
        }
        if self.portainer() {
            let found = portainer_text(self.raw);
            return portainer::text(text, self.hint.unwrap_or(found), self.settings);
        }
        Event::blank(Stream::Other)
    }

    /// Nothing but the header may say where this comes from.
    fn unknown<'t>(&self, text: &'t [u8]) -> Event<'t> {
        if self.portainer() {
            let found = self.hint.unwrap_or_else(|| portainer_text(self.raw));
            return portainer::text(text, found, self.settings);
        }
        Event::blank(self.hint.unwrap_or(Stream::Other))
    }
}

/// How many wrappings are taken off: a container runtime's in a relay's in another relay's.
const WRAPPINGS_MAX: usize = 4;

#[cfg(test)]
mod tests;
