//! The body of a request by a Kubernetes API server: an `EventList` of `audit.k8s.io`, whose items
//! are the records.

use std::ops::Range;

use super::spans::{Elements, Unexpected, Walk};

/// Where the events stand in a body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Events {
    /// The array of items begins at this byte. It was walked through once, without a fault.
    List(usize),
    /// The body is one event.
    One(Range<usize>),
}

/// Why a body holds no events.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum NoEvents {
    /// It is no JSON, or not whole.
    #[error("the body is not JSON: {0}")]
    Json(#[from] Unexpected),
    /// It is JSON about something else.
    #[error("the body is neither an EventList nor an Event of audit.k8s.io")]
    Other,
}

impl Events {
    /// Finds the events. Keys are compared without case, as Go does.
    pub(super) fn find(body: &[u8]) -> Result<Self, NoEvents> {
        let mut walk = Walk::new(body, 0);
        walk.peek();
        let start = walk.at();
        let (mut items, mut kind, mut version, mut has_id) = (None, None, None, false);
        walk.members(|key, value| {
            let is = |name: &str| key.eq_ignore_ascii_case(name.as_bytes());
            if is("items") {
                items = Some(value);
            } else if is("kind") {
                kind = Some(value);
            } else if is("apiVersion") {
                version = Some(value);
            } else {
                has_id |= is("auditID");
            }
        })?;
        let end = walk.at();
        if walk.peek().is_some() {
            return Err(Unexpected(walk.at()).into());
        }
        let says = |value: &Option<Range<usize>>, wanted: &[u8]| {
            value.as_ref().is_none_or(|range| body[range.clone()].starts_with(wanted))
        };
        if !says(&version, b"\"audit.k8s.io/") {
            return Err(NoEvents::Other);
        }
        if let Some(items) = items.filter(|range| body[range.start] == b'[')
            && says(&kind, b"\"EventList\"")
        {
            let mut elements = Elements::of(body, items.start);
            if let Some(fault) = elements.find_map(Result::err) {
                return Err(fault.into());
            }
            return Ok(Self::List(items.start));
        }
        if has_id && says(&kind, b"\"Event\"") {
            return Ok(Self::One(start..end));
        }
        // A list without events has no items, or null.
        match kind {
            Some(_) if says(&kind, b"\"EventList\"") => Ok(Self::One(0..0)),
            _ => Err(NoEvents::Other),
        }
    }

    /// Where each event stands.
    pub(super) fn spans<'t>(&self, body: &'t [u8]) -> impl Iterator<Item = Range<usize>> + use<'t> {
        let (list, one) = match self {
            Self::List(at) => (Some(Elements::of(body, *at)), None),
            Self::One(range) => (None, Some(range.clone()).filter(|range| !range.is_empty())),
        };
        list.into_iter().flatten().map_while(Result::ok).chain(one)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cut(body: &str) -> Result<Vec<&str>, NoEvents> {
        let events = Events::find(body.as_bytes())?;
        Ok(events.spans(body.as_bytes()).map(|span| &body[span]).collect())
    }

    #[test]
    fn items_are_cut_as_they_stand() {
        let body = "{\"kind\":\"EventList\",\"apiVersion\":\"audit.k8s.io/v1\",\"metadata\":{},\
                    \"items\":[{\"level\":\"Metadata\", \"a\":\"\\u003c]\"},\n {\"b\":[1,2]} ]}\n";
        let items = ["{\"level\":\"Metadata\", \"a\":\"\\u003c]\"}", "{\"b\":[1,2]}"];
        assert_eq!(cut(body).unwrap(), items);
        // Go compares keys without case, and senders in Go were seen to use it.
        let pascal = body.replace("kind", "Kind").replace("items", "Items");
        assert_eq!(cut(&pascal).unwrap(), items);
        // The list may say nothing of itself.
        assert_eq!(cut("{\"items\":[{},null]}").unwrap(), ["{}", "null"]);
    }

    #[test]
    fn a_single_event_and_an_empty_list() {
        let event = "{\"kind\":\"Event\",\"apiVersion\":\"audit.k8s.io/v1\",\"auditID\":\"x\"}";
        assert_eq!(cut(&format!("\n {event} ")).unwrap(), [event]);
        assert_eq!(cut("{\"auditID\":\"x\",\"verb\":\"get\"}").unwrap().len(), 1);
        for items in ["", ",\"items\":null", ",\"items\":[]"] {
            let body = format!("{{\"kind\":\"EventList\"{items}}}");
            assert!(cut(&body).unwrap().is_empty(), "{body}");
        }
    }

    #[test]
    fn what_is_no_list_of_events_is_told_apart() {
        for body in [
            "{}",
            "{\"kind\":\"PodList\",\"apiVersion\":\"v1\",\"items\":[{}]}",
            "{\"kind\":\"PodList\",\"items\":[{}]}",
            "{\"kind\":\"Event\",\"apiVersion\":\"v1\",\"auditID\":\"x\"}",
        ] {
            assert_eq!(cut(body), Err(NoEvents::Other), "{body}");
        }
        for body in ["", "[]", "hello", "{\"items\":[{}", "{\"items\":[{} {}]}", "{\"items\":[]} x"]
        {
            assert!(matches!(cut(body), Err(NoEvents::Json(_))), "{body}");
        }
    }
}
