//! A record as the object that the collector takes.

use std::io::Write as _;

use shared::clock::Nanos;
use shared::record::Stream;

use crate::event::{View, render_view};

/// Appends one object. Its keys are those that the collector knows: at one that it does not know, it
/// stops reading, answers that all is well, and drops the rest.
pub(super) fn hec_envelope(out: &mut Vec<u8>, view: &View<'_>, index: &str) {
    let View { id, chain, record, event, .. } = view;
    // Nothing in these needs an escape: names of hex digits, letters, digits, and numbers.
    let _ = write!(
        out,
        "{{\"time\":{},\"host\":\"{}\",\"source\":\"{}\",\"sourcetype\":\"{}\",\"index\":\"{index}\",\
         \"fields\":{{\"record_id\":\"{id}\",\"epoch\":\"{}\",\"lane\":\"{}\",\"seq\":\"{}\",\"privileged\":\"{}\"}},\
         \"event\":",
        Seconds(view.time(), record.received),
        chain.origin,
        record.stream,
        sourcetype(record.stream),
        chain.epoch,
        chain.lane,
        record.sequence,
        event.privileged.is_some(),
    );
    render_view(out, view);
    out.push(b'}');
}

fn sourcetype(stream: Stream) -> &'static str {
    match stream {
        Stream::Falco => "falco:alert",
        Stream::KubeAudit => "kube:audit",
        Stream::Other => "penstock:other",
        Stream::PortainerActivity | Stream::PortainerAuth => "portainer:audit",
    }
}

/// Seconds since 1970 as decimal text: a float has no room for nanoseconds. A time before 1970, which
/// the collector refuses, gives way to the time of receipt.
struct Seconds(Nanos, Nanos);

impl std::fmt::Display for Seconds {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let nanos = if self.0.0 < 0 { self.1.0.max(0) } else { self.0.0 };
        write!(f, "{}.{:09}", nanos / 1_000_000_000, nanos % 1_000_000_000)
    }
}

#[cfg(test)]
mod tests {
    use shared::record::{Epoch, Lane, Sequence, SourceTag, encode, parse};

    use super::*;
    use crate::event::with_view;
    use crate::ledger::ChainName;

    fn object(stream: Stream, received: i64, raw: &[u8]) -> String {
        let chain =
            ChainName { origin: "plant-7".parse().unwrap(), epoch: Epoch(3), lane: Lane::Flash };
        let source = SourceTag::new("udp", "10.0.0.1:99", None);
        let mut bytes = Vec::new();
        encode(&mut bytes, Sequence(7), Nanos(received), stream, &source, None, raw);
        let (record, _) = parse(&bytes, 1 << 20).unwrap();
        let mut out = Vec::new();
        with_view(&chain, &record, |view| hec_envelope(&mut out, view, "portainer_audit"));
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn an_object_has_the_keys_that_the_collector_knows_and_its_fields_are_flat() {
        let text = object(Stream::Other, 1_795_449_600_123_000_007, b"so \"it\" \xff");
        assert!(text.starts_with("{\"time\":1795449600.123000007,\"host\":\"plant-7\""), "{text}");
        let object: serde_json::Value = serde_json::from_str(&text).unwrap();
        let mut keys: Vec<&String> = object.as_object().unwrap().keys().collect();
        keys.sort();
        assert_eq!(keys, ["event", "fields", "host", "index", "source", "sourcetype", "time"]);
        let fields = object["fields"].as_object().unwrap();
        assert!(fields.values().all(serde_json::Value::is_string), "{fields:?}");
        assert_eq!(fields["record_id"], object["event"]["id"]);
        assert_eq!(
            (&object["sourcetype"], &object["source"]),
            (&"penstock:other".into(), &"other".into())
        );
    }

    #[test]
    fn a_time_is_never_before_1970_and_keeps_its_nanoseconds() {
        for (time, received, text) in
            [(1, 0, "0.000000001"), (-1, 2_500_000_000, "2.500000000"), (-1, -1, "0.000000000")]
        {
            assert_eq!(Seconds(Nanos(time), Nanos(received)).to_string(), text);
        }
    }
}
