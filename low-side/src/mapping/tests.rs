//! What holds for every mapping, whatever is mapped.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use proptest::prelude::*;
use serde_json::Value;
use shared::record::Stream;

use super::samples::{every, golden, golden_dir, viewed, viewed_as};
use super::*;

type Render = fn(&mut Vec<u8>, &View<'_>);

const JSON: [(&str, Render); 5] = [
    ("cim", cim::render),
    ("ecs", ecs::render),
    ("hec", |out, view| cim::hec_envelope(out, view, "portainer_audit")),
    ("ocsf", ocsf::render),
    ("sentinel", sentinel::row),
];
const LINES: [(&str, Render); 2] = [("cef", cef::render), ("leef", leef::render)];

fn check(raw: &[u8], stream: Stream) {
    viewed(raw, stream, |view| {
        for (name, render) in JSON {
            let mut out = Vec::new();
            render(&mut out, view);
            let parsed: Result<Value, _> = serde_json::from_slice(&out);
            assert!(parsed.is_ok_and(|value| value.is_object()), "{name}: {out:?}");
            assert!(!out.contains(&b'\n') && !out.contains(&b'\r'), "{name}");
            let mut again = Vec::new();
            render(&mut again, view);
            assert_eq!(out, again);
        }
        for schema in Schema::ALL {
            let mut out = Vec::new();
            schema.render(&mut out, view);
            assert_eq!(schema.chain_of(&out).as_ref(), Some(view.chain), "{}", schema.as_str());
        }
        for (name, render) in LINES {
            let mut out = Vec::new();
            render(&mut out, view);
            let line = std::str::from_utf8(&out).unwrap();
            assert!(!line.contains(text::breaks_line), "{name}: {line}");
        }
    });
}

#[test]
fn every_sample_is_one_well_formed_text_in_every_schema() {
    let all = every();
    for (raw, stream) in all {
        check(raw, *stream);
    }
    eprintln!("{} samples", all.len());
    // For the validators of packaging/scripts/check-mappings.sh.
    let Some(dir) = std::env::var_os("PENSTOCK_RENDER_DIR").map(std::path::PathBuf::from) else {
        return;
    };
    for (name, render) in JSON.into_iter().chain(LINES) {
        let mut out = Vec::new();
        for (raw, stream) in all {
            viewed(raw, *stream, |view| render(&mut out, view));
            out.push(b'\n');
        }
        let end = if LINES.iter().any(|(line, _)| *line == name) { "txt" } else { "jsonl" };
        std::fs::write(dir.join(format!("{name}.{end}")), out).unwrap();
    }
}

proptest! {
    #[test]
    fn any_bytes_are_one_well_formed_text(raw in prop::collection::vec(any::<u8>(), 0..400), at in 0usize..5) {
        check(&raw, Stream::ALL[at]);
    }

    #[test]
    fn any_text_in_a_field_is_one_well_formed_text(texts in prop::collection::vec(".{0,80}", 6)) {
        let raw = serde_json::json!({
            "Username": texts[0], "UserID": texts[1], "SourceIP": texts[2], "Action": texts[3],
            "ResourceType": texts[4], "ResourceID": texts[5], "Environment": texts[0],
            "EventType": texts[1], "Result": texts[2], "Before": texts[3], "Severity": texts[4],
        });
        check(raw.to_string().as_bytes(), Stream::PortainerActivity);
    }
}

/// Byte for byte; `PENSTOCK_BLESS=1 cargo test -p low-side --lib golden` writes the files anew.
#[test]
fn the_golden_files_are_what_the_samples_give() {
    let bless = std::env::var_os("PENSTOCK_BLESS").is_some();
    let files = JSON.into_iter().map(|(name, render)| (format!("{name}.jsonl"), render));
    let lines = LINES.into_iter().map(|(name, render)| (format!("{name}.txt"), render));
    for (name, render) in files.chain(lines) {
        let mut out = Vec::new();
        for (number, (_, raw)) in (1..).zip(golden()) {
            let stream = shared::event::recognise(&raw);
            viewed_as(number, &raw, stream, |view| render(&mut out, view));
            out.push(b'\n');
        }
        let path = golden_dir().join(&name);
        if bless {
            std::fs::write(&path, &out).unwrap();
        }
        let wanted = std::fs::read(&path).unwrap_or_default();
        let (ours, theirs) = (String::from_utf8(out).unwrap(), String::from_utf8(wanted).unwrap());
        for (ours, theirs) in ours.lines().zip(theirs.lines()) {
            assert_eq!(ours, theirs, "{name}: PENSTOCK_BLESS=1 writes it anew");
        }
        assert_eq!(ours.len(), theirs.len(), "{name}");
    }
}

fn leaves(value: &Value, path: &str, out: &mut std::collections::BTreeSet<String>) {
    match value {
        Value::Object(members) => {
            for (name, value) in members {
                let dot = if path.is_empty() { "" } else { "." };
                leaves(value, &format!("{path}{dot}{name}"), out);
            }
        }
        Value::Array(items) => items.iter().for_each(|item| leaves(item, path, out)),
        _ => {
            out.insert(path.to_owned());
        }
    }
}

fn json_of(render: Render, raw: &[u8], stream: Stream) -> Value {
    let mut out = Vec::new();
    viewed(raw, stream, |view| render(&mut out, view));
    serde_json::from_slice(&out).unwrap()
}

/// A strict index refuses a document for a field that it does not know.
#[test]
fn the_index_template_knows_every_field_of_every_document() {
    let template: Value =
        serde_json::from_str(&ecs::index_template(&["a-*", "b\"-*"], &[("index.codec", "x")]))
            .unwrap();
    assert_eq!(template["index_patterns"][1], "b\"-*");
    let mappings = &template["template"]["mappings"];
    assert_eq!(mappings["dynamic"], "strict");
    let original = &mappings["properties"]["event"]["properties"]["original"];
    assert_eq!((&original["index"], &original["doc_values"]), (&Value::from(false), &false.into()));
    let mut seen = std::collections::BTreeSet::new();
    for (raw, stream) in every() {
        let document = json_of(ecs::render, raw, *stream);
        leaves(&document, "", &mut seen);
        let types = &document["event"]["type"];
        for kind in types.as_array().into_iter().flatten() {
            let categories = document["event"]["category"].as_array().unwrap();
            let expected = |category: &Value| {
                let row = ECS_EXPECTED.iter().find(|(name, _)| category == name).unwrap();
                row.1.iter().any(|expected| kind == expected)
            };
            assert!(categories.iter().any(expected), "{categories:?} {types:?}");
        }
    }
    for path in &seen {
        let field = ecs::FIELDS.iter().find(|field| field.path == path);
        assert!(field.is_some(), "{path} is not in the template");
        let mapped = path.split('.').fold(mappings, |at, name| &at["properties"][name]);
        assert!(mapped["type"].is_string(), "{path}");
    }
    assert!(ecs::FIELDS.is_sorted_by_key(|field| field.path));
}

/// The pairs of <https://www.elastic.co/docs/reference/ecs/ecs-allowed-values-event-category>, of
/// the categories that are used.
const ECS_EXPECTED: [(&str, &[&str]); 6] = [
    (
        "api",
        &[
            "access", "admin", "allowed", "change", "creation", "deletion", "denied", "end",
            "info", "start", "user",
        ],
    ),
    ("authentication", &["start", "end", "info"]),
    ("configuration", &["access", "change", "creation", "deletion", "info"]),
    ("iam", &["admin", "change", "creation", "deletion", "group", "info", "user"]),
    ("intrusion_detection", &["allowed", "denied", "info"]),
    ("process", &["access", "change", "end", "info", "start"]),
];

#[test]
fn rows_have_only_columns_of_their_table() {
    let reserved =
        ["_ResourceId", "id", "_SubscriptionId", "TenantId", "Type", "UniqueId", "Title"];
    for table in sentinel::Table::ALL {
        assert!(table.name.ends_with("_CL") && table.stream == format!("Custom-{}", table.name));
        let mut names = std::collections::HashSet::new();
        for column in table.columns() {
            let name = column.name;
            assert!(names.insert(name.to_ascii_lowercase()), "{name} twice");
            assert!(
                name.len() <= 45 && name.starts_with(|first: char| first.is_ascii_alphabetic())
            );
            assert!(name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_'));
            assert!(!reserved.iter().any(|taken| taken.eq_ignore_ascii_case(name)), "{name}");
        }
    }
    for (raw, stream) in every() {
        let (row, table) = viewed(raw, *stream, |view| {
            let mut out = Vec::new();
            sentinel::row(&mut out, view);
            (out, sentinel::Table::of(view))
        });
        assert!(row.len() <= sentinel::ROW_BYTES_MAX);
        let row: Value = serde_json::from_slice(&row).unwrap();
        for (name, value) in row.as_object().unwrap() {
            let column = table.columns().find(|column| column.name == name);
            let fits = match column.unwrap_or_else(|| panic!("{name} is no column")).kind {
                sentinel::ColumnType::Boolean => value.is_boolean(),
                sentinel::ColumnType::Dynamic => value.is_array(),
                sentinel::ColumnType::Int | sentinel::ColumnType::Long => value.is_i64(),
                sentinel::ColumnType::Datetime | sentinel::ColumnType::String => value.is_string(),
            };
            assert!(fits, "{name}: {value}");
            assert!(value.as_str().is_none_or(|text| text.len() <= 64_000), "{name}");
        }
        assert!(row["TimeGenerated"].is_string() && row["RecordId"].is_string());
    }
}

#[test]
fn a_row_of_escapes_still_fits_into_a_call() {
    let text = "\u{1}".repeat(8000);
    let groups: Vec<_> = (0..200).map(|number| format!("{number}{text}")).collect();
    let raw = serde_json::json!({
        "kind": "Event", "apiVersion": "audit.k8s.io/v1", "verb": "get", "auditID": text,
        "stage": "ResponseComplete", "requestURI": text, "user": {"username": text, "groups": groups},
        "objectRef": {"resource": "pods", "name": text, "namespace": text},
    });
    let raw = raw.to_string();
    let row = viewed(raw.as_bytes(), Stream::KubeAudit, |view| {
        let mut out = Vec::new();
        sentinel::row(&mut out, view);
        out
    });
    assert!(row.len() <= sentinel::ROW_BYTES_MAX, "{}", row.len());
    let row: Value = serde_json::from_slice(&row).unwrap();
    assert_eq!(row["RawOmitted"], "too-large");
}

/// What the models require; a script beside compares it with the models themselves.
#[test]
fn events_of_a_cim_model_have_its_required_fields() {
    let of = |name: &str| -> &'static [&'static str] {
        match name {
            "Alerts" => &[
                "app",
                "description",
                "dest",
                "id",
                "severity",
                "signature",
                "signature_id",
                "src",
                "type",
                "user",
            ],
            "Authentication" => &["action", "app", "dest", "src", "user"],
            "Change" => &[
                "action",
                "change_type",
                "command",
                "dest",
                "dvc",
                "object",
                "object_attrs",
                "object_category",
                "object_id",
                "src",
                "status",
                "user",
                "vendor_product",
            ],
            other => panic!("{other}"),
        }
    };
    let render: Render = |out, view| cim::hec_envelope(out, view, "");
    for (raw, stream) in every() {
        let event = json_of(render, raw, *stream);
        assert!(event["host"].as_str().is_some_and(|host| !host.is_empty()));
        assert!(event.get("index").is_none());
        let indexed = event["fields"].as_object().unwrap();
        assert!(indexed.values().all(Value::is_string));
        assert_eq!(indexed["record_id"].as_str().unwrap().len(), 40);
        let body = &event["event"];
        // A name in both would have two values at search time.
        assert!(indexed.keys().all(|name| body.get(name).is_none()), "{event}");
        for name in body["cim_model"].as_str().map(of).into_iter().flatten() {
            assert!(body[name].as_str().is_some_and(|text| !text.is_empty()), "{name}: {body}");
        }
    }
}

#[test]
fn times_go_through_no_float() {
    let raw = br#"{"id":1,"timestamp":1795449600123456789,"username":"a","action":"POST /stacks","context":"e"}"#;
    let mut out = Vec::new();
    viewed(raw, Stream::PortainerActivity, |view| cim::hec_envelope(&mut out, view, "i"));
    assert!(out.starts_with(b"{\"time\":1795449600.123456789,"));
}

#[test]
fn types_of_ocsf_follow_from_class_and_activity() {
    for (raw, stream) in every() {
        let event = json_of(ocsf::render, raw, *stream);
        let class = event["class_uid"].as_u64().unwrap();
        let activity = event["activity_id"].as_u64().unwrap();
        assert_eq!(event["type_uid"], class * 100 + activity);
        assert_eq!(event["category_uid"], class / 1000);
        let row = ocsf::Class::ALL.into_iter().find(|row| u64::from(row.uid) == class).unwrap();
        assert_eq!(event["class_name"], row.name);
        let (_, caption) =
            row.activities.iter().find(|(number, _)| u64::from(*number) == activity).unwrap();
        assert_eq!(event["type_name"], format!("{}: {caption}", row.name));
    }
}

/// A reader of CEF: the fields of the header, and the pairs.
pub(super) fn read_cef(line: &str) -> (Vec<String>, Vec<(String, String)>) {
    let mut header = vec![String::new()];
    let mut chars = line.chars();
    while header.len() < 8 {
        match chars.next().unwrap() {
            '\\' => header.last_mut().unwrap().push(chars.next().unwrap()),
            '|' => header.push(String::new()),
            char => header.last_mut().unwrap().push(char),
        }
    }
    header.pop();
    let mut pairs: Vec<(String, String)> = Vec::new();
    let mut word = String::new();
    while let Some(char) = chars.next() {
        match char {
            '\\' => word.push(match chars.next().unwrap() {
                'n' => '\n',
                'r' => '\r',
                char => char,
            }),
            '=' => {
                let at = word.rfind(' ').map_or(0, |at| at + 1);
                let key = word.split_off(at);
                if let Some((_, value)) = pairs.last_mut() {
                    word.pop();
                    *value = std::mem::take(&mut word);
                }
                word.clear();
                pairs.push((key, String::new()));
            }
            char => word.push(char),
        }
    }
    if let Some((_, value)) = pairs.last_mut() {
        *value = word;
    }
    (header, pairs)
}

#[test]
fn cef_keeps_to_the_lengths_and_is_read_back() {
    for (raw, stream) in every() {
        viewed(raw, *stream, |view| {
            let mut out = Vec::new();
            cef::render(&mut out, view);
            let line = String::from_utf8(out).unwrap();
            let (header, pairs) = read_cef(&line);
            assert_eq!(header[0], "CEF:0");
            assert!(header[6].parse::<u8>().unwrap() <= 10);
            let value = |key: &str| {
                pairs.iter().find(|(name, _)| name == key).map(|(_, value)| value.as_str())
            };
            let mut names: Vec<_> = pairs.iter().map(|(name, _)| name).collect();
            names.sort_unstable();
            assert!(names.windows(2).all(|pair| pair[0] != pair[1]), "{line}");
            for (key, value) in &pairs {
                assert!(key.bytes().all(|byte| byte.is_ascii_alphanumeric()), "{key}: {line}");
                let most = match key.as_str() {
                    "externalId" => 40,
                    "act" | "outcome" => 63,
                    "dvchost" => 100,
                    "deviceExternalId" => 255,
                    "rawEvent" => 4000,
                    key if key.starts_with("cs") && key.len() == 3 => 4000,
                    _ => 1023,
                };
                assert!(value.chars().count() <= most, "{key}");
            }
            let lost = value("flexString2").unwrap_or_default();
            let original = value("rawEvent").map(|text| {
                if lost.contains("rawEvent:base64") {
                    BASE64.decode(text).unwrap()
                } else {
                    text.as_bytes().to_vec()
                }
            });
            if raw.len() > 4000 || original.is_none() && !raw.is_empty() {
                let note = format!("rawEvent:too-large rawEvent-sha256:{}", digest(view));
                assert!(original.is_none() && lost.ends_with(&note), "{line}");
            } else {
                assert_eq!(original.unwrap_or_default(), *raw, "{line}");
            }
            assert_eq!(value("externalId").unwrap().len(), 40);
            value("rt").unwrap().parse::<i64>().unwrap();
            if let Some(src) = value("src") {
                src.parse::<std::net::Ipv4Addr>().unwrap();
            }
            let user = view.event.actor.name.as_deref().filter(|user| !user.is_empty());
            let plain = |user: &&str| user.len() <= 1023 && !user.contains(char::is_control);
            if let Some(user) = user.filter(plain) {
                assert_eq!(value("suser"), Some(user));
            }
        });
    }
}

#[test]
fn leef_is_read_back_and_says_what_it_changed() {
    for (raw, stream) in every() {
        let mut out = Vec::new();
        viewed(raw, *stream, |view| leef::render(&mut out, view));
        let line = String::from_utf8(out).unwrap();
        let fields: Vec<_> = line.splitn(7, '|').collect();
        assert_eq!((fields[0], fields[5]), ("LEEF:2.0", "^"));
        let pairs: Vec<_> =
            fields[6].split('^').map(|pair| pair.split_once('=').unwrap()).collect();
        let value = |key| pairs.iter().find(|(name, _)| *name == key).map(|(_, value)| *value);
        let time = value("devTime").unwrap();
        assert!(time.len() == 13 || value("devTimeFormat").is_some(), "{line}");
        assert!((1..=10).contains(&value("sev").unwrap().parse::<u8>().unwrap()));
        assert!(value("usrName").is_none_or(|name| name.len() <= 255));
        assert_eq!(value("recordId").unwrap().len(), 40);
        let whole = value("raw").map(|text| text.as_bytes().to_vec());
        let original =
            whole.or_else(|| value("rawBase64").map(|text| BASE64.decode(text).unwrap()));
        if value("rawOmitted") == Some("too-large") {
            assert!(raw.len() > 16 * 1024 / 4 * 3 && original.is_none(), "{line}");
            assert_eq!(value("rawSha256").unwrap().len(), 64);
        } else {
            assert_eq!(original.unwrap_or_default(), *raw, "{line}");
        }
    }
    let raw =
        br#"{"Username":"a^b|c","Action":"stack.update","ResourceType":"x\ty","Result":"ok"}"#;
    let mut out = Vec::new();
    viewed(raw, Stream::PortainerActivity, |view| leef::render(&mut out, view));
    let line = String::from_utf8(out).unwrap();
    assert!(line.contains("^usrName=a b|c^"));
    assert!(line.contains("^changed=usrName resourceType^rawBase64="), "{line}");
}

#[test]
fn an_original_makes_no_line_longer_than_it_may_be() {
    for (raw, stream) in every() {
        viewed(raw, *stream, |view| {
            let within = |render: fn(&mut Vec<u8>, &View<'_>, usize), room: usize| {
                let mut out = Vec::new();
                render(&mut out, view, room);
                String::from_utf8(out).unwrap()
            };
            for (render, named) in [
                (cef::render_within as fn(&mut Vec<u8>, &View<'_>, usize), "rawEvent:too-large"),
                (leef::render_within, "^rawOmitted=too-large^rawSha256="),
            ] {
                let (whole, without) = (within(render, usize::MAX), within(render, 0));
                let omits = raw.is_empty() || without.contains(named);
                assert!(omits, "{without}");
                let room = whole.len() + 100;
                assert_eq!(within(render, room), whole);
                // Whatever the room, it is the one or the other.
                let tight = within(render, whole.len() - 1);
                assert!(tight == without || tight.len() < whole.len(), "{tight}");
            }
        });
    }
}

#[test]
fn an_original_that_is_no_text_or_too_large_is_named() {
    let document = json_of(ecs::render, b"\xff", Stream::Other);
    assert_eq!(document["penstock"]["original"]["omitted"], "not-utf8");
    assert_eq!(document["penstock"]["original"]["base64"], "/w==");
    assert!(document["event"].get("original").is_none());
    let document = json_of(ecs::render, &vec![b'x'; (1 << 20) + 1], Stream::Other);
    assert_eq!(document["penstock"]["original"]["omitted"], "too-large");
    assert_eq!(document["event"]["hash"].as_str().unwrap().len(), 64);
}

/// Of a long first state the second is not lost, and each side that was cut says so.
#[test]
fn both_sides_of_a_change_are_there_however_long_one_is() {
    let record = |before: &str, after: &str| {
        serde_json::json!({
            "Username": "a", "Action": "stack.update", "ResourceType": "stack", "ResourceID": "4",
            "Result": "success", "Before": before, "After": after,
        })
        .to_string()
    };
    let long = |end: &str| format!("{}{end}", "x".repeat(20_000));
    for (before, after, ends) in [
        (long("B"), "short".to_owned(), " [cut from 20001 bytes] -> short"),
        ("short".to_owned(), long("A"), " [cut from 20001 bytes]"),
        (long("B"), long("A"), " [cut from 20001 bytes]"),
    ] {
        let raw = record(&before, &after);
        let of = |render| json_of(render, raw.as_bytes(), Stream::PortainerActivity);
        let (ocsf, cim) = (of(ocsf::render), of(cim::render));
        for text in [&ocsf["unmapped"]["changes"], &cim["object_attrs"]] {
            let text = text.as_str().unwrap();
            let (left, right) = text.split_once(" -> ").unwrap();
            assert!(text.ends_with(ends) && text.len() <= 8191, "{}", text.len());
            for (side, whole) in [(left, &before), (right, &after)] {
                assert!(side == whole || side.ends_with(" [cut from 20001 bytes]"));
                assert!(side == whole || side.len() > 4_000, "{}", side.len());
            }
        }
    }
}

/// Splunk reads fields out of the first 5,000 bytes of an event's JSON. Whoever asks can make a request
/// long: what rules select by, and what counts records, must not stand behind that.
#[test]
fn what_splunk_searches_by_stands_before_what_can_be_made_long() {
    let long = "x".repeat(9_000);
    let raw = serde_json::json!({
        "kind": "Event", "apiVersion": "audit.k8s.io/v1", "level": "Request", "verb": "create",
        "auditID": "a-1", "stage": "ResponseStarted", "userAgent": long,
        "requestURI": format!("/api/v1/namespaces/production/pods/shop-1/exec?command={long}"),
        "user": {"username": "mallory", "groups": [long]}, "sourceIPs": ["10.0.0.1"],
        "objectRef": {"resource": "pods", "namespace": "production", "name": "shop-1", "subresource": "exec"},
        "responseStatus": {"code": 101}, "annotations": {"authorization.k8s.io/reason": long},
        "requestReceivedTimestamp": "2026-11-23T21:10:18.000001Z",
        "stageTimestamp": "2026-11-23T21:10:18.000002Z",
    });
    let mut out = Vec::new();
    let raw = raw.to_string();
    viewed(raw.as_bytes(), Stream::KubeAudit, |view| cim::hec_envelope(&mut out, view, ""));
    let text = String::from_utf8(out).unwrap();
    let (_, event) = text.split_once("\"event\":{").unwrap();
    for name in [
        "origin",
        "epoch",
        "lane",
        "seq",
        "stream",
        "category",
        "privileged",
        "operation",
        "result",
        "request_id",
        "user",
        "src_ip",
        "namespace",
        "resource_type",
        "resource_name",
        "signature",
    ] {
        let at = event.find(&format!("\"{name}\":")).unwrap_or_else(|| panic!("{name}"));
        assert!(at < 2_000, "{name} stands at {at}");
    }
}
