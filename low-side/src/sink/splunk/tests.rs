use std::path::Path;

use shared::record::{Epoch, Lane, RecordId, Sequence};

use super::*;
use crate::sink::script::{
    Request, Script, deliver, holds_poison, messages, poison_stops_nothing, secret,
};

fn config(dir: &Path, script: &Script) -> SplunkConfig {
    SplunkConfig {
        http: script.config.clone(),
        token_file: secret(dir, "token", "t0ken\n"),
        index: "portainer_audit".to_owned(),
        ack: true,
        ack_poll: Duration::from_millis(1),
        ack_timeout: Duration::from_millis(300),
        body_bytes: 2 << 20,
        gzip: false,
        repeat_unacknowledged: false,
        search: None,
    }
}

fn is_event(request: &Request) -> bool {
    request.head.starts_with("post /services/collector/event")
}

/// What a body holds, by the number in `mN.`
fn numbers(request: &Request) -> Vec<usize> {
    let text = request.text();
    let parts = text.split("\"raw\":\"m").skip(1);
    parts.map(|rest| rest.split('.').next().unwrap().parse().unwrap()).collect()
}

fn channel(request: &Request) -> String {
    let line = request.head.lines().find(|line| line.starts_with("x-splunk-request-channel"));
    line.unwrap().to_owned()
}

fn answer(status: u16, body: impl Into<String>) -> (u16, String, String) {
    (status, String::new(), body.into())
}

/// Says yes to every question.
fn all_true(request: &Request) -> (u16, String, String) {
    answer(
        200,
        request
            .text()
            .replace('[', "{\"")
            .replace(',', "\":true,\"")
            .replace(']', "\":true}")
            .replace("{\"}", "{}"),
    )
}

fn taken(id: u64) -> (u16, String, String) {
    answer(200, format!("{{\"text\":\"Success\",\"code\":0,\"ackId\":{id}}}"))
}

fn bodies(script: &Script) -> Vec<Vec<usize>> {
    script.asked_at("/event").iter().map(numbers).collect()
}

#[test]
fn bodies_are_cut_acknowledged_once_and_keep_their_channel() {
    let (mut next, mut polls) = (0, 0);
    let script = Script::start(move |request| {
        if is_event(request) {
            next += 1;
            return taken(next - 1);
        }
        polls += 1;
        // The first question is of a new channel. Then each id is true once, one after the other.
        let text = match polls {
            1 => "{\"acks\":{\"0\":false}}",
            2 => "{\"acks\":{\"0\":true,\"1\":false,\"2\":false}}",
            3 => "{\"acks\":{\"1\":false,\"2\":true}}",
            _ => "{\"acks\":{\"1\":true}}",
        };
        answer(200, text)
    });
    let dir = tempfile::tempdir().unwrap();
    let mut config = config(dir.path(), &script);
    config.body_bytes = 1_500;
    let mut sink = SplunkSink::new(config, Bell::default());
    assert_eq!(deliver(&mut sink, dir.path(), &messages(5)).unwrap(), Confirmed::default());
    assert_eq!(bodies(&script), [vec![1, 2], vec![3, 4], vec![5]]);
    let polls: Vec<String> = script.asked_at("/ack").iter().map(Request::text).collect();
    assert_eq!(
        polls,
        ["{\"acks\":[0]}", "{\"acks\":[0,1,2]}", "{\"acks\":[1,2]}", "{\"acks\":[1]}"]
    );
    let asked = script.asked();
    assert!(asked.iter().all(|request| channel(request) == channel(&asked[0])));
    assert!(asked.iter().all(|request| request.head.contains("authorization: splunk t0ken\r\n")));
    assert!(asked.iter().all(|request| request.body.len() <= 2_000));
}

#[test]
fn what_is_not_acknowledged_fails_in_time_and_goes_over_another_channel() {
    let script = Script::start(|request| {
        if is_event(request) { taken(0) } else { answer(200, "{\"acks\":{\"0\":false}}") }
    });
    let dir = tempfile::tempdir().unwrap();
    let mut sink = SplunkSink::new(config(dir.path(), &script), Bell::default());
    let mut channels = BTreeSet::new();
    for _ in 0..2 {
        let error = deliver(&mut sink, dir.path(), &messages(1)).unwrap_err();
        assert!(matches!(error, SinkError::Timeout { .. }), "{error}");
        channels.insert(channel(script.asked().last().unwrap()));
    }
    assert_eq!(channels.len(), 2);
}

#[test]
fn an_ack_id_that_does_not_grow_is_not_believed() {
    let script =
        Script::start(|request| if is_event(request) { taken(4) } else { all_true(request) });
    let dir = tempfile::tempdir().unwrap();
    let mut config = config(dir.path(), &script);
    config.body_bytes = 1;
    let mut sink = SplunkSink::new(config, Bell::default());
    let error = deliver(&mut sink, dir.path(), &messages(2)).unwrap_err().to_string();
    assert!(error.contains("ackId 4"), "{error}");
}

#[test]
fn a_token_without_acknowledgements_is_seen_before_a_record_is_sent() {
    let script = Script::start(|_| answer(400, "{\"text\":\"ACK is disabled\",\"code\":14}"));
    let dir = tempfile::tempdir().unwrap();
    let mut sink = SplunkSink::new(config(dir.path(), &script), Bell::default());
    let error = deliver(&mut sink, dir.path(), &messages(1)).unwrap_err().to_string();
    assert!(error.contains("set ack = false"), "{error}");
    assert_eq!(bodies(&script), Vec::<Vec<usize>>::new());
}

#[test]
fn without_acknowledgements_a_200_is_enough() {
    let script = Script::start(|_| answer(200, "{\"text\":\"Success\",\"code\":0}"));
    let dir = tempfile::tempdir().unwrap();
    let mut config = config(dir.path(), &script);
    config.ack = false;
    let mut sink = SplunkSink::new(config, Bell::default());
    deliver(&mut sink, dir.path(), &messages(3)).unwrap();
    assert_eq!(bodies(&script), [vec![1, 2, 3]]);
    assert_eq!(script.asked().len(), 1);
}

/// Refuses the first bodies so, and takes what follows, and a marked record between them.
fn refusing(status: u16, code: u16, invalid: Option<usize>, until: usize) -> Script {
    let (mut next, mut refused) = (0, 0);
    Script::start(move |request| {
        if !is_event(request) {
            return all_true(request);
        }
        let marked = numbers(request).is_empty() && until < usize::MAX;
        if refused < until && !marked {
            refused += 1;
            let invalid =
                invalid.map(|at| format!(",\"invalid-event-number\":{at}")).unwrap_or_default();
            return answer(status, format!("{{\"text\":\"no\",\"code\":{code}{invalid}}}"));
        }
        next += 1;
        taken(next - 1)
    })
}

#[test]
fn what_a_code_names_goes_to_the_dead_letters_and_what_is_behind_it_is_sent() {
    for (code, invalid, rejected, sent) in [
        (6, 2, 3, vec![vec![4, 5]]),
        // Nothing was taken before: after a marked record it is asked once more.
        (12, 0, 1, vec![vec![], vec![1], vec![2, 3, 4, 5]]),
        (13, 4, 5, vec![]),
        (15, 1, 2, vec![vec![3, 4, 5]]),
        // The object behind the one that is meant.
        (7, 2, 2, vec![vec![3, 4, 5]]),
        (7, 5, 5, vec![]),
    ] {
        let script = refusing(400, code, Some(invalid), if invalid == 0 { 2 } else { 1 });
        let dir = tempfile::tempdir().unwrap();
        let mut sink = SplunkSink::new(config(dir.path(), &script), Bell::default());
        let confirmed = deliver(&mut sink, dir.path(), &messages(5)).unwrap();
        let found: Vec<u64> = confirmed.rejected.iter().map(|one| one.sequence).collect();
        assert_eq!(found, [rejected], "{code}");
        let reason = &confirmed.rejected[0].reason;
        assert!(reason.starts_with(&format!("400: code {code}: no")), "{reason}");
        assert_eq!(bodies(&script)[1..], sent, "{code}");
    }
}

#[test]
fn what_was_taken_without_an_acknowledgement_is_repeated_where_that_is_asked_for() {
    let script = refusing(400, 6, Some(2), 1);
    let dir = tempfile::tempdir().unwrap();
    let mut config = config(dir.path(), &script);
    config.repeat_unacknowledged = true;
    let mut sink = SplunkSink::new(config, Bell::default());
    deliver(&mut sink, dir.path(), &messages(5)).unwrap();
    assert_eq!(bodies(&script)[1..], [vec![1, 2], vec![4, 5]]);
}

#[test]
fn a_body_that_is_too_long_is_halved_and_a_record_that_is_wrong_stands_alone_in_the_end() {
    for (status, code, invalid) in
        [(400, 6, Some(0)), (413, 99, None), (400, 6, None), (400, 6, Some(9))]
    {
        let mut next = 0;
        let script = Script::start(move |request| {
            if !is_event(request) {
                return all_true(request);
            }
            let numbers = numbers(request);
            if numbers.len() > 2 || numbers.contains(&3) {
                let invalid =
                    invalid.map(|at| format!(",\"invalid-event-number\":{at}")).unwrap_or_default();
                return answer(status, format!("{{\"text\":\"no\",\"code\":{code}{invalid}}}"));
            }
            next += 1;
            taken(next - 1)
        });
        let dir = tempfile::tempdir().unwrap();
        let mut sink = SplunkSink::new(config(dir.path(), &script), Bell::default());
        let confirmed = deliver(&mut sink, dir.path(), &messages(5)).unwrap();
        let rejected: Vec<u64> = confirmed.rejected.iter().map(|one| one.sequence).collect();
        assert_eq!(rejected, [3], "{status} {code}");
        let sent = bodies(&script);
        assert!(sent.ends_with(&[vec![4, 5]]), "{sent:?}");
    }
}

#[test]
fn a_collector_that_refuses_every_record_fills_no_dead_letters() {
    for code in [6, 12, 13, 15] {
        let script = refusing(400, code, Some(0), usize::MAX);
        let dir = tempfile::tempdir().unwrap();
        let mut sink = SplunkSink::new(config(dir.path(), &script), Bell::default());
        let error = deliver(&mut sink, dir.path(), &messages(1_000)).unwrap_err().to_string();
        assert!(error.contains(&format!("code {code}:")), "{error}");
        assert!(bodies(&script).len() <= 50, "{}", bodies(&script).len());
    }
}

#[test]
fn poison_in_a_row_stops_nothing_that_is_behind_it() {
    let dir = tempfile::tempdir().unwrap();
    for code in [6, 15] {
        poison_stops_nothing(|all| {
            let mut next = 0;
            let script = Script::start(move |request| {
                if !is_event(request) {
                    return all_true(request);
                }
                if all || holds_poison(request) {
                    // The object at which reading ended.
                    return answer(
                        400,
                        format!("{{\"text\":\"no\",\"code\":{code},\"invalid-event-number\":0}}"),
                    );
                }
                next += 1;
                taken(next - 1)
            });
            SplunkSink::new(config(dir.path(), &script), Bell::default())
        });
    }
}

#[test]
fn every_code_that_says_nothing_about_records_leaves_the_batch() {
    for (code, status, verdict) in codes::CODES {
        if matches!(verdict, Verdict::Taken | Verdict::RecordNamed | Verdict::Data) {
            continue;
        }
        let script = refusing(status, code, Some(0), usize::MAX);
        let dir = tempfile::tempdir().unwrap();
        let mut sink = SplunkSink::new(config(dir.path(), &script), Bell::default());
        let error = deliver(&mut sink, dir.path(), &messages(2)).unwrap_err();
        assert!(error.to_string().contains(&format!("code {code}:")), "{error}");
        assert_eq!(bodies(&script), [vec![1, 2]], "{code}");
    }
}

#[test]
fn a_collector_that_takes_nothing_for_a_while_makes_the_rest_of_a_batch_wait() {
    let mut events = 0;
    let script = Script::start(move |request| {
        if !is_event(request) {
            return all_true(request);
        }
        events += 1;
        match events {
            1 => taken(0),
            2 => answer(503, "{\"text\":\"Server is busy\",\"code\":9,\"invalid-event-number\":0}"),
            3 => answer(429, "{\"text\":\"Queue at capacity\",\"code\":26}"),
            _ => taken(1),
        }
    });
    let dir = tempfile::tempdir().unwrap();
    let mut config = config(dir.path(), &script);
    config.body_bytes = 1;
    let mut sink = SplunkSink::new(config, Bell::default());
    assert_eq!(deliver(&mut sink, dir.path(), &messages(2)).unwrap(), Confirmed::default());
    assert_eq!(bodies(&script), [vec![1], vec![2], vec![2], vec![2]]);
}

#[test]
fn a_rotated_token_is_read_after_a_refusal() {
    let script = Script::start(|request| {
        if !request.head.contains("splunk new") {
            return answer(403, "{\"text\":\"Invalid token\",\"code\":4}");
        }
        if is_event(request) { taken(0) } else { all_true(request) }
    });
    let dir = tempfile::tempdir().unwrap();
    let mut sink = SplunkSink::new(config(dir.path(), &script), Bell::default());
    let error = deliver(&mut sink, dir.path(), &messages(1)).unwrap_err().to_string();
    assert!(error.contains("token-file"), "{error}");
    secret(dir.path(), "token", "new");
    deliver(&mut sink, dir.path(), &messages(1)).unwrap();
}

#[test]
fn questions_that_break_off_are_asked_again() {
    let mut polls = 0;
    let script = Script::start(move |request| {
        if is_event(request) {
            return taken(0);
        }
        polls += 1;
        match polls {
            1 => answer(200, "{\"acks\":{\"0\":false}}"),
            2 | 3 => (0, String::new(), String::new()),
            4 => answer(503, "{\"text\":\"Server is busy\",\"code\":9}"),
            _ => all_true(request),
        }
    });
    let dir = tempfile::tempdir().unwrap();
    let mut sink = SplunkSink::new(config(dir.path(), &script), Bell::default());
    assert_eq!(deliver(&mut sink, dir.path(), &messages(1)).unwrap(), Confirmed::default());
    assert_eq!(bodies(&script), [vec![1]]);
    // The next batch has a channel of its own: the connection is another.
    deliver(&mut sink, dir.path(), &messages(1)).unwrap();
    let channels: BTreeSet<String> = script.asked().iter().map(channel).collect();
    assert_eq!(channels.len(), 2);
}

#[test]
fn a_record_is_looked_for_where_a_search_head_is_configured() {
    let id = RecordId::new(&"plant-7".parse().unwrap(), Epoch(1), Lane::Flash, Sequence(1));
    for (count, found) in [("0", false), ("1", true), ("2", true)] {
        let script = Script::start(move |_| {
            answer(200, format!("{{\"preview\":false,\"results\":[{{\"count\":\"{count}\"}}]}}"))
        });
        let dir = tempfile::tempdir().unwrap();
        let mut config = config(dir.path(), &script);
        let bell = Bell::default();
        assert_eq!(find(&config, &bell, &id).unwrap(), None);
        let authorization_file = secret(dir.path(), "search", "Bearer s3arch");
        config.search =
            Some(config::SearchConfig { http: script.config.clone(), authorization_file });
        assert_eq!(find(&config, &bell, &id).unwrap(), Some(found));
        let asked = script.asked().pop().unwrap();
        assert!(asked.head.starts_with("post /services/search/jobs "), "{}", asked.head);
        assert!(asked.head.contains("authorization: bearer s3arch"), "{}", asked.head);
        assert!(asked.text().contains(&format!("record_id%3D{id}")), "{}", asked.text());
    }
}
