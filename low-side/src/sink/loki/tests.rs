use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::Value;
use shared::record::{Epoch, Lane, RecordId, Sequence, Stream};

use super::*;
use crate::sink::config::SinkKind;
use crate::sink::script::{
    Request, Script, deliver, messages, poison_stops_nothing, secret, section,
};

fn sink(script: &Script) -> LokiSink {
    let config = LokiConfig {
        http: script.config.clone(),
        tenant: Some("soc".to_owned()),
        authorization_file: None,
        batch_labels: 24,
        line_bytes: 262_144,
        body_bytes: 1 << 20,
        gzip: false,
    };
    LokiSink::new(config, Bell::default())
}

/// The entries of a push: labels, time, what the record was.
fn entries(request: &Request) -> Vec<(Value, i64, String)> {
    let push: Value = serde_json::from_str(&request.text()).unwrap();
    let mut entries = Vec::new();
    for stream in push["streams"].as_array().unwrap() {
        for value in stream["values"].as_array().unwrap() {
            let line: Value = serde_json::from_str(value[1].as_str().unwrap()).unwrap();
            let time = value[0].as_str().unwrap().parse().unwrap();
            entries.push((
                stream["stream"].clone(),
                time,
                line["raw"].as_str().unwrap().to_owned(),
            ));
        }
    }
    entries
}

fn raws(request: &Request) -> Vec<String> {
    entries(request).into_iter().map(|(_, _, raw)| raw).collect()
}

fn say(status: u16, text: &str) -> (u16, String, String) {
    (status, String::new(), text.to_owned())
}

fn rejected(confirmed: &Confirmed) -> Vec<u64> {
    let mut sequences: Vec<u64> = confirmed.rejected.iter().map(|one| one.sequence).collect();
    sequences.sort_unstable();
    sequences
}

#[test]
fn each_stream_is_one_in_loki_oldest_first() {
    let script = Script::start(|_| say(204, ""));
    let dir = tempfile::tempdir().unwrap();
    // Received at 2026-11-23T21:10:19Z.
    let at = |time: &str| format!("<34>1 2026-11-23T{time}Z host app - - - so\n");
    let records = [
        (Stream::Other, at("21:00:00")),
        (Stream::Falco, at("21:10:00")),
        (Stream::Other, at("20:50:00")),
        (Stream::Other, at("20:00:00")),
        (Stream::Other, at("22:00:00")),
    ];
    deliver(&mut sink(&script), dir.path(), &records).unwrap();
    let asked = script.asked();
    assert_eq!(asked.len(), 1);
    assert!(
        asked[0].head.starts_with("post /loki/api/v1/push ")
            && asked[0].head.contains("x-scope-orgid: soc\r\n")
    );
    let found = entries(&asked[0]);
    let other: Vec<&(Value, i64, String)> =
        found.iter().filter(|(labels, ..)| labels["stream"] == "other").collect();
    let order: Vec<&str> = other.iter().map(|(_, _, raw)| &raw[17..25]).collect();
    // The two whose time is not believed stand where they were received.
    assert_eq!(order, ["20:50:00", "21:00:00", "20:00:00", "22:00:00"]);
    assert_eq!(
        other[0].0.to_string(),
        r#"{"batch":"b0001","job":"penstock","lane":"flash","origin":"plant-7","stream":"other"}"#
    );
}

#[test]
fn what_is_refused_for_good_is_found_and_the_rest_is_not_sent_again_and_again() {
    let script = Script::start(|request| {
        if raws(request).contains(&"m7.".to_owned()) {
            return say(400, "entry for stream '{}' has timestamp too new: 2027-01-01T00:00:00Z");
        }
        say(204, "")
    });
    let dir = tempfile::tempdir().unwrap();
    let confirmed = deliver(&mut sink(&script), dir.path(), &messages(1_000)).unwrap();
    assert_eq!(rejected(&confirmed), [7]);
    assert!(confirmed.rejected[0].reason.starts_with("400: entry for stream"));
    assert!(script.asked().len() < 30, "{}", script.asked().len());
}

#[test]
fn a_backlog_that_is_too_old_is_not_asked_about_entry_by_entry() {
    let script = Script::start(|_| {
        say(
            400,
            "entry for stream '{}' has timestamp too old: x, oldest acceptable timestamp is: 2026-12-01T00:00:00Z",
        )
    });
    let dir = tempfile::tempdir().unwrap();
    let confirmed = deliver(&mut sink(&script), dir.path(), &messages(500)).unwrap();
    assert_eq!((confirmed.rejected.len(), script.asked().len()), (500, 1));
}

#[test]
fn a_loki_that_refuses_everything_is_no_records_fault() {
    for (status, text) in
        [(400, "error parsing labels"), (401, ""), (404, ""), (429, ""), (500, ""), (302, "")]
    {
        for count in [1, 200] {
            let script = Script::start(move |_| say(status, text));
            let dir = tempfile::tempdir().unwrap();
            let error = deliver(&mut sink(&script), dir.path(), &messages(count)).unwrap_err();
            assert!(matches!(error, SinkError::Answer { status: s, .. } if s == status), "{error}");
            assert!(script.asked().len() <= 65);
        }
    }
    // An entry among others that are taken.
    let script = Script::start(|request| {
        if raws(request).contains(&"m7.".to_owned()) { say(400, "so") } else { say(204, "") }
    });
    let dir = tempfile::tempdir().unwrap();
    let confirmed = deliver(&mut sink(&script), dir.path(), &messages(50)).unwrap();
    assert_eq!(rejected(&confirmed), [7]);
}

#[test]
fn poison_in_a_row_stops_nothing_that_is_behind_it() {
    poison_stops_nothing(|all| {
        let script = Script::start(move |request| {
            let poison = |raw: &String| (1..=20).any(|number| *raw == format!("m{number}."));
            if all || raws(request).iter().any(poison) { say(400, "so") } else { say(204, "") }
        });
        sink(&script)
    });
}

#[test]
fn a_rate_limit_makes_it_wait_and_repeats_nothing() {
    let pushes = AtomicUsize::new(0);
    let script = Script::start(move |_| match pushes.fetch_add(1, Ordering::SeqCst) {
        1 => (429, "retry-after: 1\r\n".to_owned(), "rate limit".to_owned()),
        _ => say(204, ""),
    });
    let dir = tempfile::tempdir().unwrap();
    let mut sink = sink(&script);
    sink.config.body_bytes = 1000;
    deliver(&mut sink, dir.path(), &messages(20)).unwrap();
    let asked = script.asked();
    let mut taken: Vec<String> = asked
        .iter()
        .enumerate()
        .filter(|(at, _)| *at != 1)
        .flat_map(|(_, one)| raws(one))
        .collect();
    let all = taken.len();
    taken.sort();
    taken.dedup();
    assert_eq!((all, taken.len()), (20, 20));
}

#[test]
fn a_push_above_the_burst_goes_in_smaller_ones() {
    let script = Script::start(|request| {
        if raws(request).len() > 3 { say(429, "limit exceeded") } else { say(204, "") }
    });
    let dir = tempfile::tempdir().unwrap();
    deliver(&mut sink(&script), dir.path(), &messages(5)).unwrap();
    let pushes: Vec<usize> = script.asked().iter().map(|one| raws(one).len()).collect();
    assert_eq!(pushes, [5, 3, 2]);
}

#[test]
fn a_line_that_is_too_long_is_named_and_not_cut() {
    let script =
        Script::start(|request| if raws(request).len() > 2 { say(413, "") } else { say(204, "") });
    let dir = tempfile::tempdir().unwrap();
    let mut records = messages(5);
    records[2].1 = "x".repeat(262_144);
    let confirmed = deliver(&mut sink(&script), dir.path(), &records).unwrap();
    assert_eq!(rejected(&confirmed), [3]);
    assert!(confirmed.rejected[0].reason.contains("longer than 262144 bytes"));
    let mut sent: Vec<String> =
        script.asked().iter().filter(|one| raws(one).len() <= 2).flat_map(raws).collect();
    sent.sort();
    assert_eq!(sent, ["m1.", "m2.", "m4.", "m5."]);
}

#[test]
fn a_record_of_the_last_hour_is_searched() {
    let dir = tempfile::tempdir().unwrap();
    let id = RecordId::new(&"plant-7".parse().unwrap(), Epoch(1), Lane::Flash, Sequence(1));
    for (status, text, found) in [
        (
            200,
            r#"{"status":"success","data":{"resultType":"streams","result":[{"x":1}]}}"#,
            Some(true),
        ),
        (200, r#"{"status":"success","data":{"resultType":"streams","result":[]}}"#, Some(false)),
        (403, "", None),
    ] {
        let script = Script::start(move |_| say(status, text));
        let mut config = sink(&script).config;
        config.authorization_file = Some(secret(dir.path(), "secret", "Bearer t"));
        assert_eq!(find(&config, &Bell::default(), &id).unwrap(), found);
        let head = script.asked().pop().unwrap().head;
        assert!(
            head.contains(&format!("%22{id}%22")) && head.contains("authorization: bearer t"),
            "{head}"
        );
        assert!(setup(&config).contains("max_line_size: 262144"));
    }
}

#[test]
fn what_can_be_set_is_checked() {
    let config = |more: &str| {
        section(&format!("name = \"x\"\ntype = \"loki\"\nurl = \"https://h\"\n{more}"))
    };
    let SinkKind::Loki(taken) = config("tenant = \"soc\"").unwrap().kind else { panic!("a Loki") };
    assert_eq!((taken.batch_labels, taken.line_bytes), (24, 262_144));
    for (more, named) in [
        ("tenant = \"a|b\"", "tenant"),
        ("batch-labels = 0", "batch-labels"),
        ("batch-labels = 1001", "batch-labels"),
        ("authorization-file = \"x\"", "authorization-file"),
        ("line-bytes = \"0B\"", "line-bytes"),
    ] {
        let problem = config(more).unwrap_err();
        assert!(problem.contains(named), "{more}: {problem}");
    }
}
