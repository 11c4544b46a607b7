use std::sync::{Arc, Mutex};

use serde_json::{Value, json};
use shared::record::{Epoch, Lane, Sequence, Stream};

use super::config::Dialect;
use super::*;
use crate::sink::script::{Request, Script, deliver, messages, secret};

fn config(script: &Script, dialect: Dialect) -> ElasticConfig {
    ElasticConfig {
        dialect,
        http: script.config.clone(),
        access: Access::None,
        index_prefix: String::new(),
        body_bytes: 1 << 20,
        gzip: false,
    }
}

fn sink(script: &Script) -> ElasticSink {
    let mut sink = ElasticSink::new(config(script, Dialect::Elasticsearch), Bell::default());
    sink.pauses = (Duration::from_millis(1), Duration::from_millis(4));
    sink
}

/// The documents of a bulk, by what they originally were.
fn originals(request: &Request) -> Vec<String> {
    let text = request.text();
    assert!(text.ends_with('\n'));
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let pairs = lines.chunks(2).map(|pair| {
        // A marked record is of this month.
        let marked = pair[1]["penstock"]["origin"] == "penstock-check";
        let index = pair[0]["create"]["_index"].as_str().unwrap();
        assert!(marked || index.ends_with("-2026.11"), "{index}");
        assert_eq!(pair[0]["create"]["_id"], pair[1]["event"]["id"]);
        pair[1]["event"]["original"].as_str().unwrap().to_owned()
    });
    pairs.collect()
}

/// Answers each document as `status` says.
fn per_item(
    mut status: impl FnMut(&str) -> (u16, &'static str),
) -> impl FnMut(&Request) -> (u16, String, String) {
    move |request| {
        let items: Vec<Value> = originals(request)
            .iter()
            .map(|original| match status(original) {
                (201, _) => json!({"create": {"status": 201}}),
                (code, kind) => {
                    json!({"create": {"status": code, "error": {"type": kind, "reason": "so"}}})
                }
            })
            .collect();
        (200, String::new(), json!({"errors": true, "items": items}).to_string())
    }
}

fn whole(status: u16) -> (u16, String, String) {
    (status, String::new(), "no".to_owned())
}

#[test]
fn what_is_there_counts_and_what_is_refused_for_good_is_named() {
    let script = Script::start(per_item(|original| match original {
        "m2." => (409, "version_conflict_engine_exception"),
        "m3." => (400, "document_parsing_exception"),
        _ => (201, ""),
    }));
    let dir = tempfile::tempdir().unwrap();
    let confirmed = deliver(&mut sink(&script), dir.path(), &messages(4)).unwrap();
    assert_eq!(confirmed.rejected.len(), 1);
    assert_eq!(confirmed.rejected[0].sequence, 3);
    assert_eq!(confirmed.rejected[0].reason, "400: document_parsing_exception: so");
    let asked = script.asked();
    assert_eq!(asked.len(), 1);
    assert!(asked[0].head.starts_with("post /_bulk?filter_path=errors,items."));
    assert!(asked[0].head.contains("application/x-ndjson"));
}

#[test]
fn items_that_are_not_taken_now_are_sent_again_alone() {
    let mut seen = std::collections::HashMap::new();
    let script = Script::start(per_item(move |original| {
        let times = seen.entry(original.to_owned()).or_insert(0);
        *times += 1;
        match (original, *times) {
            ("m2." | "m4.", 1) => (429, "es_rejected_execution_exception"),
            ("m4.", 2) => (503, "unavailable_shards_exception"),
            _ => (201, ""),
        }
    }));
    let dir = tempfile::tempdir().unwrap();
    deliver(&mut sink(&script), dir.path(), &messages(5)).unwrap();
    let asked: Vec<Vec<String>> = script.asked().iter().map(originals).collect();
    assert_eq!(asked[1..], [vec!["m2.", "m4."], vec!["m4."]]);
}

#[test]
fn a_cluster_that_stays_busy_fails_the_batch() {
    let script = Script::start(per_item(|_| (429, "es_rejected_execution_exception")));
    let dir = tempfile::tempdir().unwrap();
    let error = deliver(&mut sink(&script), dir.path(), &messages(2)).unwrap_err();
    assert!(matches!(error, SinkError::Answer { status: 429, .. }), "{error}");
    assert_eq!(script.asked().len(), TRIES_MAX as usize);
}

#[test]
fn what_is_not_the_fault_of_a_record_makes_the_batch_wait() {
    for (status, kind) in [
        (403, "security_exception"),
        (403, "cluster_block_exception"),
        (404, "index_not_found_exception"),
        (400, "index_closed_exception"),
    ] {
        let script = Script::start(per_item(move |_| (status, kind)));
        let dir = tempfile::tempdir().unwrap();
        let error = deliver(&mut sink(&script), dir.path(), &messages(3)).unwrap_err();
        assert!(error.to_string().contains(kind), "{error}");
    }
    for status in [302, 401, 403, 404, 429, 500, 503] {
        let script = Script::start(move |_| whole(status));
        let dir = tempfile::tempdir().unwrap();
        let error = deliver(&mut sink(&script), dir.path(), &messages(3)).unwrap_err();
        assert!(matches!(error, SinkError::Answer { status: s, .. } if s == status), "{error}");
        assert_eq!(script.asked().len(), 1);
    }
}

const CLOSED: &str = "index [x-2026.10] blocked by: [FORBIDDEN/8/index write (api)];";
const FULL_DISK: &str =
    "index [x-2026.11] blocked by: [FORBIDDEN/12/index read-only / allow delete (api)];";

/// Answers each document by its index and what it originally was: 201, or 403 for this reason.
fn blocking(
    mut reason: impl FnMut(&str, &str) -> Option<&'static str>,
) -> impl FnMut(&Request) -> (u16, String, String) {
    move |request| {
        let text = request.text();
        let lines: Vec<Value> =
            text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let items: Vec<Value> = lines
            .chunks(2)
            .map(|pair| {
                let index = pair[0]["create"]["_index"].as_str().unwrap();
                let original = pair[1]["event"]["original"].as_str().unwrap();
                match reason(index, original) {
                    None => json!({"create": {"status": 201}}),
                    Some(reason) => json!({"create": {"status": 403,
                        "error": {"type": "cluster_block_exception", "reason": reason}}}),
                }
            })
            .collect();
        (200, String::new(), json!({"errors": true, "items": items}).to_string())
    }
}

fn sequences(confirmed: &Confirmed) -> Vec<u64> {
    confirmed.rejected.iter().map(|one| one.sequence).collect()
}

#[test]
fn a_month_that_is_closed_to_writers_holds_nothing_else_up() {
    let script =
        Script::start(blocking(|_, original| original.starts_with("m1").then_some(CLOSED)));
    let dir = tempfile::tempdir().unwrap();
    let mut sink = sink(&script);
    let confirmed = deliver(&mut sink, dir.path(), &messages(40)).unwrap();
    assert_eq!(sequences(&confirmed), std::iter::once(1).chain(10..20).collect::<Vec<_>>());
    assert!(confirmed.rejected[0].reason.contains("FORBIDDEN/8"), "{confirmed:?}");
    assert_eq!(script.asked().len(), 1);
    // A batch of which all goes to that month: the one that runs takes the marked record.
    let confirmed = deliver(&mut sink, dir.path(), &messages(1)).unwrap();
    assert_eq!(sequences(&confirmed), [1]);
    assert!(originals(&script.asked()[2])[0].contains("nothing happened"));
}

#[test]
fn where_every_index_is_closed_the_records_wait() {
    for reason in [CLOSED, FULL_DISK] {
        let script = Script::start(blocking(move |_, _| Some(reason)));
        let dir = tempfile::tempdir().unwrap();
        let mut sink = sink(&script);
        for _ in 0..3 {
            let error = deliver(&mut sink, dir.path(), &messages(300)).unwrap_err();
            assert!(error.to_string().contains("FORBIDDEN"), "{error}");
        }
        assert!(script.asked().len() <= 6);
    }
    // One kind is closed altogether, and the other is not: it stops alone.
    let script =
        Script::start(blocking(|index, _| index.starts_with("kube-audit").then_some(CLOSED)));
    let dir = tempfile::tempdir().unwrap();
    let mut sink = sink(&script);
    deliver(&mut sink, dir.path(), &messages(3)).unwrap();
    let kube: Vec<_> = (1..=30).map(|at| (Stream::KubeAudit, format!("m{at}."))).collect();
    let confirmed = deliver(&mut sink, dir.path(), &kube).unwrap();
    assert_eq!(confirmed.rejected.len(), 30);
    let before = script.asked().len();
    // Before anything was ever taken nobody can know.
    let mut new = self::sink(&script);
    assert!(deliver(&mut new, dir.path(), &kube).is_err());
    assert_eq!(script.asked().len(), before + 2);
}

#[test]
fn what_was_settled_is_not_sent_again_when_its_batch_is() {
    let full = Arc::new(Mutex::new(true));
    let disk = Arc::clone(&full);
    let mut items = blocking(move |_, original| match original {
        "m2." => Some(CLOSED),
        "m3." | "m7." if *disk.lock().unwrap() => Some(FULL_DISK),
        _ => None,
    });
    let script = Script::start(move |request| items(request));
    let dir = tempfile::tempdir().unwrap();
    let mut sink = sink(&script);
    for _ in 0..2 {
        let error = deliver(&mut sink, dir.path(), &messages(9)).unwrap_err();
        assert!(error.to_string().contains("FORBIDDEN/12"), "{error}");
    }
    *full.lock().unwrap() = false;
    let confirmed = deliver(&mut sink, dir.path(), &messages(9)).unwrap();
    assert_eq!(sequences(&confirmed), [2]);
    let asked: Vec<Vec<String>> = script.asked().iter().map(originals).collect();
    assert_eq!(asked[0].len(), 9);
    assert_eq!(asked[1..], [vec!["m3.", "m7."], vec!["m3.", "m7."]]);
}

#[test]
fn poison_in_a_row_stops_nothing_and_a_wrong_template_fills_no_dead_letters() {
    let parsing = "document_parsing_exception";
    let dir = tempfile::tempdir().unwrap();
    let script = Script::start(per_item(move |original| match original {
        "m21." | "m22." => (201, ""),
        marked if marked.contains("nothing happened") => (201, ""),
        _ => (400, parsing),
    }));
    let mut config = config(&script, Dialect::Elasticsearch);
    // A bulk for each document.
    config.body_bytes = 1;
    let mut single = ElasticSink::new(config, Bell::default());
    let confirmed = deliver(&mut single, dir.path(), &messages(22)).unwrap();
    assert_eq!(sequences(&confirmed), (1..=20).collect::<Vec<_>>());
    // The first one twice, and a marked one between.
    assert_eq!(script.asked().len(), 24);
    let confirmed = deliver(&mut sink(&script), dir.path(), &messages(20)).unwrap();
    assert_eq!(confirmed.rejected.len(), 20);

    let script = Script::start(per_item(move |_| (400, parsing)));
    for count in [1, 500] {
        let error = deliver(&mut sink(&script), dir.path(), &messages(count)).unwrap_err();
        assert!(error.to_string().contains("marked record as well"), "{error}");
    }
}

#[test]
fn an_answer_with_too_few_items_is_none() {
    let script = Script::start(|_| {
        (
            200,
            String::new(),
            json!({"errors": false, "items": [{"create": {"status": 201}}]}).to_string(),
        )
    });
    let dir = tempfile::tempdir().unwrap();
    let error = deliver(&mut sink(&script), dir.path(), &messages(2)).unwrap_err().to_string();
    assert!(error.contains("1 items of 2"), "{error}");
    let script = Script::start(|_| (200, String::new(), "<html>a proxy</html>".to_owned()));
    assert!(deliver(&mut sink(&script), dir.path(), &messages(2)).is_err());
}

#[test]
fn a_bulk_that_is_too_large_is_halved() {
    let mut items = per_item(|_| (201, ""));
    let script = Script::start(move |request| match originals(request).as_slice() {
        many if many.len() > 2 => whole(413),
        all if all.contains(&"m4.".to_owned()) => whole(413),
        _ => items(request),
    });
    let dir = tempfile::tempdir().unwrap();
    let confirmed = deliver(&mut sink(&script), dir.path(), &messages(6)).unwrap();
    let rejected: Vec<u64> = confirmed.rejected.iter().map(|one| one.sequence).collect();
    assert_eq!(rejected, [4]);
}

#[test]
fn a_bulk_that_is_refused_whole_is_halved_but_only_where_something_is_taken() {
    let mut items = per_item(|_| (201, ""));
    let script = Script::start(move |request| match originals(request) {
        all if all.contains(&"m7.".to_owned()) => whole(400),
        _ => items(request),
    });
    let dir = tempfile::tempdir().unwrap();
    let confirmed = deliver(&mut sink(&script), dir.path(), &messages(1_000)).unwrap();
    let rejected: Vec<u64> = confirmed.rejected.iter().map(|one| one.sequence).collect();
    assert_eq!(rejected, [7]);
    // A record alone, and a cluster that refuses everything: that is no record's fault.
    for count in [1, 3, 1_000] {
        let script = Script::start(|_| whole(400));
        let dir = tempfile::tempdir().unwrap();
        let error = deliver(&mut sink(&script), dir.path(), &messages(count)).unwrap_err();
        assert!(matches!(error, SinkError::Answer { status: 400, .. }), "{error}");
        assert!(script.asked().len() <= 48, "{}", script.asked().len());
    }
}

#[test]
fn a_large_batch_goes_in_bodies_of_the_size_that_is_set() {
    let script = Script::start(per_item(|_| (201, "")));
    let mut config = config(&script, Dialect::OpenSearch);
    config.body_bytes = 4_000;
    let mut sink = ElasticSink::new(config, Bell::default());
    let dir = tempfile::tempdir().unwrap();
    deliver(&mut sink, dir.path(), &messages(40)).unwrap();
    let asked = script.asked();
    let documents: usize = asked.iter().map(|request| originals(request).len()).sum();
    assert_eq!(documents, 40);
    assert!(asked.len() > 2 && asked.iter().all(|request| request.body.len() < 8_000));
}

#[test]
fn who_we_are_is_read_again_for_each_request() {
    let dir = tempfile::tempdir().unwrap();
    let script = Script::start(per_item(|_| (201, "")));
    let path = secret(dir.path(), "secret", "id:key\n");
    let token = || Access::Token(path.clone());
    for (access, text, header) in [
        (Access::ApiKey(path.clone()), "id:key", "authorization: apikey awq6a2v5"),
        (Access::ApiKey(path.clone()), "aWQ6a2V5", "authorization: apikey awq6a2v5"),
        (Access::Basic("id".to_owned(), path.clone()), "key", "authorization: basic awq6a2v5"),
        (token(), "t1", "authorization: bearer t1"),
        (token(), "t2", "authorization: bearer t2"),
    ] {
        secret(dir.path(), "secret", text);
        let mut sink = sink(&script);
        sink.config.access = access;
        deliver(&mut sink, dir.path(), &messages(1)).unwrap();
        let head = script.asked().pop().unwrap().head;
        assert!(head.contains(&format!("{header}\r\n")), "{head}");
    }
    // Nothing is sent without it.
    let mut sink = sink(&script);
    sink.config.access = Access::Token(dir.path().join("gone"));
    let before = script.asked().len();
    assert!(deliver(&mut sink, dir.path(), &messages(1)).is_err());
    assert_eq!(script.asked().len(), before);
}

#[test]
fn setup_says_what_it_would_do_and_does_it() {
    for dialect in [Dialect::Elasticsearch, Dialect::OpenSearch] {
        let known = Arc::new(Mutex::new(false));
        let there = Arc::clone(&known);
        let script = Script::start(move |request| {
            let is_get = request.head.starts_with("get ");
            if request.head.starts_with("get /soc-portainer") {
                return (200, String::new(), "{}".to_owned());
            }
            let mut there = there.lock().unwrap();
            if is_get && *there {
                let text =
                    json!({"_id": "penstock", "_seq_no": 7, "_primary_term": 2, "policy": {}});
                return (200, String::new(), text.to_string());
            }
            *there |= request.head.starts_with("put /_plugins/_ism/");
            (if is_get { 404 } else { 200 }, String::new(), "{}".to_owned())
        });
        let mut config = config(&script, dialect);
        config.index_prefix = "soc-".to_owned();
        let mut printed = String::new();
        setup(&config, &Bell::default(), false, &mut printed).unwrap();
        assert!(script.asked().is_empty());
        for part in [
            "PUT /_index_template/soc-penstock",
            "\"soc-portainer-audit-*\"",
            "\"strict\"",
            "PUT /_ingest/pipeline/soc-penstock",
            "\"index.final_pipeline\": \"soc-penstock\"",
            "\"30d\"",
            "\"120d\"",
        ] {
            assert!(printed.contains(part), "{part}: {printed}");
        }
        assert!(!printed.contains("rollover\":"), "{printed}");
        let named = match dialect {
            Dialect::Elasticsearch => {
                ["PUT /_ilm/policy/soc-penstock", "\"create_doc\"", "readonly"]
            }
            Dialect::OpenSearch => {
                ["PUT /_plugins/_ism/policies/soc-penstock", "roles/soc-penstock", "read_only"]
            }
        };
        for part in named {
            assert!(printed.contains(part), "{part}: {printed}");
        }
        for round in 0..2 {
            setup(&config, &Bell::default(), true, &mut String::new()).unwrap();
            let puts: Vec<String> = script
                .asked()
                .iter()
                .map(|asked| asked.head.lines().next().unwrap().to_owned())
                .filter(|line| line.starts_with("put "))
                .collect();
            assert_eq!(puts.len(), 3 * (round + 1));
            assert!(puts[3 * round].starts_with("put /_ingest/pipeline/"), "{puts:?}");
            let says_version = puts[3 * round + 1].contains("if_seq_no=7&if_primary_term=2");
            assert_eq!(says_version, round == 1 && dialect == Dialect::OpenSearch, "{puts:?}");
        }
    }
}

#[test]
fn a_record_is_searched_in_every_index() {
    let id = RecordIdOf::one();
    for (status, body, found) in [
        (200, r#"{"hits":{"total":{"value":1,"relation":"eq"}}}"#, Some(true)),
        (200, r#"{"hits":{"total":{"value":0,"relation":"eq"}}}"#, Some(false)),
        (403, "{}", None),
    ] {
        let script = Script::start(move |_| (status, String::new(), body.to_owned()));
        let config = config(&script, Dialect::Elasticsearch);
        assert_eq!(find(&config, &Bell::default(), &id).unwrap(), found);
        let asked = script.asked().pop().unwrap();
        assert!(asked.head.starts_with(
            "post /portainer-audit-*,kube-audit-*,falco-alert-*,penstock-other-*/_search"
        ));
        assert!(asked.text().contains(&id.to_string()));
    }
    let script = Script::start(|_| whole(500));
    assert!(find(&config(&script, Dialect::Elasticsearch), &Bell::default(), &id).is_err());
}

#[test]
fn a_replay_is_warned_of_months_that_are_closed_to_writers() {
    let time = |text: &str| text.parse().unwrap();
    let period = (time("2026-08-10T00:00:00Z"), time("2026-08-12T00:00:00Z"));
    let now = time("2026-12-25T00:00:00Z");
    let settings = |closed: &[&str]| -> String {
        let one =
            |name: &&str| ((*name).to_owned(), json!({"settings": {"index.blocks.write": "true"}}));
        let mut found: serde_json::Map<String, Value> = closed.iter().map(one).collect();
        found.insert(
            "kube-audit-2026.08".to_owned(),
            json!({"settings": {"index.blocks.write": "false"}}),
        );
        Value::Object(found).to_string()
    };
    for (status, body, said) in [
        (
            200,
            settings(&["kube-audit-2026.07", "falco-alert-2026.01"]),
            Some("kube-audit-2026.07 is closed"),
        ),
        (200, settings(&["a-2026.07", "a-2026.08"]), Some("a-2026.07 and 1 more of this period")),
        (200, settings(&["a-2026.06", "a-2026.09"]), None),
        (200, "{}".to_owned(), None),
        (403, "no".to_owned(), Some("before 2026.08 are closed")),
        (200, "<html>".to_owned(), Some("could not be asked")),
    ] {
        let script = Script::start(move |_| (status, String::new(), body.clone()));
        let config = config(&script, Dialect::Elasticsearch);
        let warning = warning(&config, &Bell::default(), period, now);
        let found = warning.as_deref().unwrap_or_default();
        assert!(found.contains(said.unwrap_or_default()), "{said:?}: {found}");
        assert_eq!(warning.is_some(), said.is_some(), "{found}");
    }
    // What is young enough is not warned of where nothing can be known.
    let script = Script::start(|_| whole(403));
    let period = (time("2026-10-10T00:00:00Z"), now);
    assert_eq!(warning(&config(&script, Dialect::OpenSearch), &Bell::default(), period, now), None);
}

struct RecordIdOf;

impl RecordIdOf {
    fn one() -> shared::record::RecordId {
        shared::record::RecordId::new(
            &"plant-7".parse().unwrap(),
            Epoch(1),
            Lane::Flash,
            Sequence(1),
        )
    }
}

#[test]
fn streams_go_to_their_indices() {
    let script = Script::start(per_item(|_| (201, "")));
    let dir = tempfile::tempdir().unwrap();
    let all: Vec<(Stream, String)> =
        Stream::ALL.into_iter().map(|stream| (stream, format!("of {stream}"))).collect();
    deliver(&mut sink(&script), dir.path(), &all).unwrap();
    let text = script.asked().pop().unwrap().text();
    for family in super::index::FAMILIES {
        assert!(text.contains(&format!("\"_index\":\"{family}-2026.11\"")), "{family}: {text}");
    }
}
