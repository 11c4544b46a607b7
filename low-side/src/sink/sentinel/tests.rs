use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Value, json};
use shared::record::Stream;

use super::config::Streams;
use super::*;
use crate::http::{HttpConfig, Url};
use crate::sink::script::{
    Request, Script, deliver, holds_poison, messages, poison_stops_nothing, secret,
};

const RULE: &str = "dcr-00000000000000000000000000000000";

fn config(dir: &Path, script: &Script) -> SentinelConfig {
    let stream = |name: &str| format!("Custom-{name}_CL");
    SentinelConfig {
        http: script.config.clone(),
        authority: script.config.clone(),
        tenant: "contoso".to_owned(),
        client_id: "app".to_owned(),
        client_secret_file: secret(dir, "secret", "s+cret\n"),
        scope: "https://monitor.azure.com/.default".to_owned(),
        rule: RULE.to_owned(),
        streams: Streams {
            falco: stream("FalcoAlert"),
            kubernetes: stream("KubeAudit"),
            other: stream("PenstockOther"),
            portainer: stream("PortainerAudit"),
        },
        arm: None,
        body_bytes: 900_000,
        gzip: false,
    }
}

type Said = (u16, String, String);

fn say(status: u16, body: impl Into<String>) -> Said {
    (status, String::new(), body.into())
}

fn failure(status: u16, code: &str) -> Said {
    say(status, json!({ "error": { "code": code, "message": "no" } }).to_string())
}

/// Gives tokens `t1`, `t2`, ...; everything else is the test's.
fn service(mut answer: impl FnMut(&Request) -> Said + Send + 'static) -> Script {
    let mut tokens = 0;
    Script::start(move |request| {
        if request.head.starts_with("post /contoso/oauth2/v2.0/token ") {
            tokens += 1;
            let given = json!({ "token_type": "Bearer", "expires_in": 3599, "access_token": format!("t{tokens}") });
            return say(200, given.to_string());
        }
        answer(request)
    })
}

fn is_rows(request: &Request) -> bool {
    request.head.starts_with("post /datacollectionrules/")
}

/// What a body holds, by the number in `mN.`; nothing for a marked record.
fn numbers(request: &Request) -> Vec<usize> {
    let rows: Vec<Value> = serde_json::from_slice(&request.body).unwrap();
    let raw = rows.iter().map(|row| row["RawEvent"].as_str().unwrap());
    raw.filter_map(|raw| raw[1..].trim_end_matches('.').parse().ok()).collect()
}

fn bodies(script: &Script) -> Vec<Vec<usize>> {
    script.asked().iter().filter(|request| is_rows(request)).map(numbers).collect()
}

fn sink(config: SentinelConfig) -> SentinelSink {
    SentinelSink::new("sentinel", config, Bell::default())
}

#[test]
fn rows_go_to_the_stream_of_their_kind_in_bodies_that_fit() {
    let script = service(|_| say(204, ""));
    let dir = tempfile::tempdir().unwrap();
    let mut config = config(dir.path(), &script);
    config.body_bytes = 1_000;
    let mut sink = sink(config);
    let mut records = messages(5);
    records[1].0 = Stream::PortainerActivity;
    records[3].0 = Stream::PortainerAuth;
    assert_eq!(deliver(&mut sink, dir.path(), &records).unwrap(), Confirmed::default());
    let asked = script.asked();
    let token = asked[0].text();
    assert_eq!(
        token,
        "grant_type=client_credentials&client_id=app&client_secret=s%2Bcret&scope=https%3A%2F%2Fmonitor.azure.com%2F.default"
    );
    let rows: Vec<&Request> = asked.iter().filter(|request| is_rows(request)).collect();
    for (request, stream) in rows.iter().zip(["penstockother", "portaineraudit", "penstockother"]) {
        let path = format!(
            "post /datacollectionrules/{RULE}/streams/custom-{stream}_cl?api-version=2023-01-01 "
        );
        assert!(request.head.starts_with(&path), "{}", request.head);
        assert!(request.head.contains("authorization: bearer t1\r\n"), "{}", request.head);
        assert!(request.head.contains("content-type: application/json\r\n"));
        assert!(request.head.contains("x-ms-client-request-id: "));
        assert!(request.body.len() <= 1_000);
    }
    assert_eq!(bodies(&script), [vec![1, 3], vec![2, 4], vec![5]]);
    // The token is used again.
    deliver(&mut sink, dir.path(), &messages(1)).unwrap();
    assert_eq!(script.asked_at("/token").len(), 1);
}

#[test]
fn what_is_too_long_or_wrong_is_halved_until_the_row_stands_alone() {
    for status in [400, 413] {
        let script = service(move |request| {
            let numbers = numbers(request);
            if numbers.contains(&3) { failure(status, "InvalidRequest") } else { say(204, "") }
        });
        let dir = tempfile::tempdir().unwrap();
        let confirmed =
            deliver(&mut sink(config(dir.path(), &script)), dir.path(), &messages(5)).unwrap();
        let rejected: Vec<(u64, &str)> =
            confirmed.rejected.iter().map(|one| (one.sequence, &one.reason[..4])).collect();
        assert_eq!(rejected, [(3, &*format!("{status}:"))]);
        let sent: Vec<usize> =
            bodies(&script).into_iter().filter(|body| !body.contains(&3)).flatten().collect();
        assert_eq!(sent, [1, 2, 4, 5]);
    }
}

#[test]
fn what_is_said_about_the_rule_or_about_every_row_makes_no_dead_letters() {
    for (code, requests) in [("InvalidStream", 1), ("InvalidRequest", 44)] {
        let script = service(move |_| failure(400, code));
        let dir = tempfile::tempdir().unwrap();
        let error = deliver(&mut sink(config(dir.path(), &script)), dir.path(), &messages(1_000));
        let error = error.unwrap_err().to_string();
        assert!(error.contains(code), "{error}");
        assert!(bodies(&script).len() <= requests, "{}", bodies(&script).len());
    }
}

#[test]
fn poison_in_a_row_stops_nothing_that_is_behind_it() {
    let dir = tempfile::tempdir().unwrap();
    poison_stops_nothing(|all| {
        let script = service(move |request| {
            if all || holds_poison(request) { failure(400, "InvalidRequest") } else { say(204, "") }
        });
        sink(config(dir.path(), &script))
    });
}

#[test]
fn every_other_answer_leaves_the_batch() {
    for status in [200, 202, 302, 403, 404, 408, 409, 415, 429, 500, 502, 503, 504] {
        let script = service(move |_| (status, "retry-after: 7\r\n".to_owned(), "{}".to_owned()));
        let dir = tempfile::tempdir().unwrap();
        let error =
            deliver(&mut sink(config(dir.path(), &script)), dir.path(), &messages(2)).unwrap_err();
        assert!(matches!(error, SinkError::Answer { status: found, .. } if found == status));
        assert_eq!(error.retry_after(), Some(Duration::from_secs(7)));
        assert_eq!(bodies(&script), [vec![1, 2]], "{status}");
    }
}

#[test]
fn a_401_is_answered_with_a_new_token_once() {
    let script = service(|request| {
        let good = request.head.contains("bearer t2\r\n");
        if good { say(204, "") } else { failure(401, "InvalidToken") }
    });
    let dir = tempfile::tempdir().unwrap();
    let mut first = sink(config(dir.path(), &script));
    deliver(&mut first, dir.path(), &messages(2)).unwrap();
    assert_eq!(bodies(&script).len(), 2);

    let script = service(|_| failure(401, "InvalidToken"));
    let mut second = sink(config(dir.path(), &script));
    deliver(&mut second, dir.path(), &messages(2)).unwrap_err();
    assert_eq!((bodies(&script).len(), script.asked_at("/token").len()), (2, 2));
}

#[test]
fn a_refused_secret_is_said_in_the_words_of_the_authority_and_read_again() {
    let good = Arc::new(Mutex::new("new"));
    let known = Arc::clone(&good);
    let script = Script::start(move |request| {
        if is_rows(request) {
            return say(204, "");
        }
        if request.text().contains(&format!("client_secret={}&", known.lock().unwrap())) {
            return say(
                200,
                "{\"token_type\":\"Bearer\",\"expires_in\":10,\"access_token\":\"t\"}",
            );
        }
        let why = "AADSTS7000215: Invalid client secret provided.\r\nTrace ID: 1";
        say(401, json!({ "error": "invalid_client", "error_description": why }).to_string())
    });
    let dir = tempfile::tempdir().unwrap();
    let mut sink = sink(config(dir.path(), &script));
    let error = deliver(&mut sink, dir.path(), &messages(1)).unwrap_err().to_string();
    assert!(
        error.ends_with(
            "401: no token: invalid_client: AADSTS7000215: Invalid client secret provided."
        ),
        "{error}"
    );
    secret(dir.path(), "secret", "new");
    deliver(&mut sink, dir.path(), &messages(1)).unwrap();
}

#[test]
fn the_rest_of_a_batch_waits_where_the_service_is_busy() {
    let mut rows = 0;
    let script = service(move |_| {
        rows += 1;
        if rows == 2 { (429, "retry-after: 0\r\n".to_owned(), String::new()) } else { say(204, "") }
    });
    let dir = tempfile::tempdir().unwrap();
    let mut config = config(dir.path(), &script);
    config.body_bytes = 1;
    deliver(&mut sink(config), dir.path(), &messages(2)).unwrap();
    assert_eq!(bodies(&script), [vec![1], vec![2], vec![2]]);
}

/// A rule that declares these columns for the stream of other records.
fn rule(columns: &[(&str, &str)]) -> String {
    let columns: Vec<Value> =
        columns.iter().map(|(name, kind)| json!({ "name": name, "type": kind })).collect();
    let streams = json!({ "Custom-PenstockOther_CL": { "columns": columns } });
    json!({ "properties": { "immutableId": RULE, "streamDeclarations": streams } }).to_string()
}

#[test]
fn nothing_is_sent_to_a_rule_that_lacks_a_column() {
    let other = Table::ALL[TABLES - 1];
    let all: Vec<(&str, &str)> =
        other.columns().map(|column| (column.name, column.kind.as_str())).collect();
    let declared = Arc::new(Mutex::new(rule(&all[1..])));
    let said = Arc::clone(&declared);
    let script = service(move |request| {
        if is_rows(request) { say(204, "") } else { say(200, said.lock().unwrap().clone()) }
    });
    let dir = tempfile::tempdir().unwrap();
    let mut config = config(dir.path(), &script);
    let url = Url { base: "/subscriptions/s/rule".to_owned(), ..script.config.url.clone() };
    let arm = HttpConfig { url, ..script.config.clone() };
    config.arm = Some((arm, "https://management.azure.com/.default".to_owned()));
    let mut sink = sink(config);
    let mut attempt =
        || deliver(&mut sink, dir.path(), &messages(1)).map_err(|err| err.to_string());
    assert!(attempt().unwrap_err().ends_with(
        "dropped unseen: TimeGenerated; deploy the template again (penstock-low setup says how)"
    ));
    *declared.lock().unwrap() = rule(&all).replace("\"long\"", "\"string\"");
    assert!(attempt().unwrap_err().contains("Seq (string instead of long), CutFrom (string"));
    *declared.lock().unwrap() = rule(&all).replace("Custom-PenstockOther", "Custom-Another");
    assert!(attempt().unwrap_err().contains("has no stream Custom-PenstockOther_CL"));
    *declared.lock().unwrap() = rule(&all).replace(RULE, "dcr-1");
    assert!(attempt().unwrap_err().contains("the rule at arm-url is dcr-1"));
    assert_eq!(bodies(&script), Vec::<Vec<usize>>::new());
    *declared.lock().unwrap() = rule(&all).replace("\"datetime\"", "\"DateTime\"");
    attempt().unwrap();
    let asked = script.asked_at("/subscriptions/s/rule?api-version=2023-03-11").len();
    assert_eq!(asked, 5);
    attempt().unwrap();
    assert_eq!(script.asked_at("/subscriptions/").len(), asked);
}
