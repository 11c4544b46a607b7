//! The export guard, on the whole way: noise is suppressed and accounted for, what is urgent overtakes.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::net::{SocketAddr, TcpStream};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use tests::crossing::{Crossing, received};
use tests::logs::assert_no_unlisted_errors;
use tests::wait::{PATIENCE, wait_until};

/// An event of the Kubernetes API server.
fn kube(id: u64, verb: &str, user: &str, resource: &str, more: &Value) -> String {
    let mut event = json!({
        "kind": "Event", "apiVersion": "audit.k8s.io/v1", "level": "Metadata",
        "auditID": format!("5b4d2c2e-0000-4000-8000-{id:012}"), "stage": "ResponseComplete",
        "requestURI": format!("/apis/x/{resource}/{id}"), "verb": verb,
        "user": {"username": user, "groups": ["system:authenticated"]},
        "sourceIPs": ["10.0.0.9"], "userAgent": "test/1",
        "objectRef": {"resource": resource, "namespace": "shop", "name": "it"},
        "responseStatus": {"metadata": {}, "code": 200},
        "requestReceivedTimestamp": "2026-11-23T21:10:19.000000Z",
        "stageTimestamp": "2026-11-23T21:10:19.100000Z",
    });
    if let (Some(event), Some(more)) = (event.as_object_mut(), more.as_object()) {
        for (key, value) in more {
            match (event.get_mut(key).and_then(Value::as_object_mut), value.as_object()) {
                (Some(inner), Some(fields)) => inner.extend(fields.clone()),
                _ => {
                    event.insert(key.clone(), value.clone());
                }
            }
        }
    }
    event.to_string()
}

fn lease(id: u64) -> String {
    let group = json!({"objectRef": {"apiGroup": "coordination.k8s.io"}});
    kube(id, "update", "system:node:edge-1", "leases", &group)
}

fn exec(id: u64) -> String {
    let part = json!({"objectRef": {"subresource": "exec"}, "responseStatus": {"code": 101}});
    kube(id, "get", "alice", "pods", &part)
}

/// Sends lines over a connection of their own.
fn send_lines(address: SocketAddr, lines: &[String]) {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.write_all((lines.join("\n") + "\n").as_bytes()).unwrap();
}

/// A listener whose records take the routine lane, and quick budgets for both.
fn sections(crossing: &Crossing, more: &str) -> String {
    format!(
        "[seal]\nflash-budget = \"200ms\"\nlatency-budget = \"1s\"\nheartbeat = \"1d\"\n\
         [[listener]]\nname = \"tcp\"\nprotocol = \"tcp\"\nbind = \"{}\"\n{}{more}",
        crossing.tcp,
        crossing.handoff()
    )
}

#[test]
fn noise_is_suppressed_counted_and_what_is_guarded_never() {
    let crossing = Crossing::new("guard-noise");
    let own = "[[suppress]]\nname = \"ci-reads\"\nstreams = [\"kube-audit\"]\naccess = \"read\"\n\
               actors = [\"ci\"]\nkinds = [\"pods\"]\nparts = [\"\"]\noutcomes = [\"success\"]\n";
    crossing.pair.high.configure(&sections(&crossing, own));
    let low = format!("{}{}", Crossing::quick_inbox(), crossing.file_sink());
    crossing.pair.low.configure(&low);
    let agents = [crossing.pair.high.start(), crossing.pair.low.start()];

    let none = json!({});
    let mut lines: Vec<String> = (0..300).map(lease).collect();
    lines.extend((300..340).map(|id| kube(id, "get", "ci", "pods", &none)));
    lines.extend((340..350).map(|id| kube(id, "create", "alice", "pods", &none)));
    // The same lease by somebody else, and reads that are guarded whoever does them.
    let group = json!({"objectRef": {"apiGroup": "coordination.k8s.io"}});
    lines.push(kube(350, "update", "mallory", "leases", &group));
    lines.push(kube(351, "list", "system:node:edge-1", "clusterroles", &none));
    lines.push(kube(352, "watch", "system:node:edge-1", "secrets", &none));
    lines.push(exec(353));
    let impersonated =
        json!({"impersonatedUser": {"username": "system:node:x", "groups": ["system:masters"]}});
    lines.push(kube(354, "get", "ci", "pods", &impersonated));
    let total = lines.len() as u64;
    send_lines(crossing.tcp, &lines);

    wait_until(PATIENCE, "every record durable", || {
        received(&crossing.pair.high.status()) == total
    });
    assert_eq!(crossing.wait_drained(), total);
    let account = crossing.pair.low.json(["account", "--last", "1h", "--json"]);
    assert_eq!(account["generated"], total, "{account}");
    assert_eq!(account["suppressed"], 340, "{account}");
    assert_eq!(account["arrived"], total - 340, "{account}");
    assert_eq!(account["streams"]["kube-audit"]["suppressed"]["kube-leases"], 300, "{account}");
    assert_eq!(account["streams"]["kube-audit"]["suppressed"]["ci-reads"], 40, "{account}");
    assert_eq!(account["remarks"], json!([]), "{account}");

    let high = crossing.pair.high.status();
    assert_eq!(high["adds-up"], true, "{high}");
    let mut received_by_lane = BTreeMap::new();
    for lane in high["lanes"].as_array().unwrap() {
        let parts = ["buffered", "sealed", "suppressed", "lost"].map(|part| lane[part].as_u64());
        let sum: u64 = parts.into_iter().flatten().sum();
        assert_eq!(lane["received"], sum, "{lane}");
        received_by_lane
            .insert(lane["lane"].as_str().unwrap().to_owned(), lane["received"].as_u64().unwrap());
    }
    // Exec and the impersonated read.
    assert_eq!(received_by_lane["flash"], 2, "{high}");
    assert_eq!(received_by_lane["routine"], total - 2, "{high}");

    // Written once a second.
    let metric = "penstock_high_suppressed_records_total{lane=\"routine\",stream=\"kube-audit\",rule=\"kube-leases\"} 300";
    wait_until(PATIENCE, "the metrics", || {
        let file = crossing.pair.high.state_dir().join("metrics.prom");
        fs::read_to_string(file).is_ok_and(|text| text.contains(metric))
    });

    let events = crossing.events();
    assert_eq!(events.len() as u64, total - 340);
    let kept: Vec<&str> = events.iter().filter_map(|event| event["raw"].as_str()).collect();
    for line in &lines[340..] {
        assert!(kept.contains(&line.as_str()), "{line} is missing");
    }
    let urgent: Vec<&Value> = events.iter().filter(|event| event["lane"] == "flash").collect();
    assert_eq!(urgent.len(), 2);
    assert!(urgent.iter().all(|event| !event["event"]["privileged"].is_null()), "{urgent:?}");

    // What `try` says of the same lines is what happened.
    let file = crossing.sandbox.join("lines");
    fs::write(&file, lines.join("\n")).unwrap();
    let path = file.to_str().unwrap();
    let tried = crossing.pair.high.run(["try", path, "--json"]).success();
    let verdicts: Vec<Value> = tried.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    assert_eq!(verdicts.len() as u64, total);
    assert_eq!(verdicts.iter().filter(|v| !v["suppressed"].is_null()).count(), 340);
    assert_eq!(verdicts.iter().filter(|v| v["lane"] == "flash").count(), 2);

    for agent in agents {
        assert!(agent.stop(PATIENCE).success());
    }
    for site in [&crossing.pair.high, &crossing.pair.low] {
        assert_eq!(site.status()["adds-up"], true, "{}", site.status());
        assert_no_unlisted_errors(&site.log_path(), &[]);
    }
}

#[test]
fn what_is_urgent_overtakes_what_waits() {
    let crossing = Crossing::new("guard-flash");
    let sections =
        sections(&crossing, "").replace("latency-budget = \"1s\"", "latency-budget = \"1h\"");
    crossing.pair.high.configure(&sections);
    let low = format!("{}{}", Crossing::quick_inbox(), crossing.file_sink());
    crossing.pair.low.configure(&low);
    let agents = [crossing.pair.high.start(), crossing.pair.low.start()];
    let none = json!({});
    let mut lines: Vec<String> =
        (0..500).map(|id| kube(id, "create", "alice", "pods", &none)).collect();
    lines.push(exec(500));
    send_lines(crossing.tcp, &lines);
    wait_until(PATIENCE, "the urgent one delivered", || crossing.events().len() == 1);
    let event = &crossing.events()[0];
    assert_eq!((&event["lane"], &event["sequence"]), (&json!("flash"), &json!(1)), "{event}");
    assert_eq!(event["event"]["privileged"], "exec", "{event}");
    wait_until(PATIENCE, "the others wait", || received(&crossing.pair.high.status()) == 501);
    assert_eq!(crossing.events().len(), 1);
    for agent in agents {
        assert!(agent.stop(PATIENCE).success());
    }
}

#[test]
fn what_is_secret_does_not_cross_and_the_record_says_so() {
    const SECRET: &str = "Xq7Zt29LmW4kVb81";
    let crossing = Crossing::new("guard-secrets");
    crossing.pair.high.configure(&sections(&crossing, ""));
    let low = format!("{}{}", Crossing::quick_inbox(), crossing.file_sink());
    crossing.pair.low.configure(&low);
    let agents = [crossing.pair.high.start(), crossing.pair.low.start()];

    let none = json!({});
    let payload = STANDARD.encode(
        json!({"Name": "shop", "Env": [{"name": "DB_PASSWORD", "value": SECRET}],
            "StackFileContent": format!("services:\n  db:\n    environment:\n      - MYSQL_ROOT_PASSWORD={SECRET}\n")})
        .to_string(),
    );
    let activity = |action: &str, payload: &Value| {
        let record = json!({"id": 7, "timestamp": 1_795_468_219, "username": "ann", "context": "edge-1",
            "action": action, "payload": payload});
        format!("<110>1 2026-11-23T21:10:19Z portainer portainer 1 useractivity - {record}")
    };
    let manifest =
        json!({"kind": "Secret", "data": {"password": STANDARD.encode(SECRET)}}).to_string();
    let applied = "kubectl.kubernetes.io/last-applied-configuration";
    let lines = [
        activity("POST /stacks?type=2", &json!(payload)),
        activity(&format!("GET /websocket/exec?token={SECRET}&endpointId=1"), &Value::Null),
        kube(
            1,
            "create",
            "ann",
            "secrets",
            &json!({"requestObject": {"kind": "Secret", "stringData": {"pin": SECRET}}}),
        ),
        kube(
            2,
            "patch",
            "ann",
            "deployments",
            &json!({"requestObject": {"metadata": {"annotations": {applied: manifest}}}}),
        ),
        kube(
            3,
            "create",
            "ann",
            "pods",
            &json!({"requestObject": {"spec": {"containers": [{"args": ["--password", SECRET]}]}}}),
        ),
        format!("<13>1 - h app - - [login password=\"{SECRET}\"] somebody came in"),
        format!("<13>1 - h app - - - user=ann password={SECRET} result=ok"),
        format!("<13>1 - h app - - - GET https://ann:{SECRET}@git.example/shop.git failed"),
        format!(
            "<13>1 - h app - - - {{\"headers\":{{\"Authorization\":\"Bearer {SECRET}\"}},\"n\":[{{\"apiKey\":\"{SECRET}\"}}]}}"
        ),
        format!("<13>1 - h app - - - {{\"cut\":true,\"password\":\"{SECRET}"),
        kube(4, "create", "ann", "pods", &none),
    ];
    send_lines(crossing.tcp, &lines);
    let total = lines.len() as u64;
    wait_until(PATIENCE, "every record durable", || {
        received(&crossing.pair.high.status()) == total
    });
    assert_eq!(crossing.wait_drained(), total);
    let events = crossing.events();
    assert_eq!(events.iter().filter(|event| !event["redacted"].is_null()).count(), lines.len() - 1);
    for event in &events {
        let raw = event["raw"].as_str().unwrap();
        let encoded = STANDARD.encode(SECRET);
        assert!(!raw.contains(SECRET) && !raw.contains(encoded.trim_end_matches('=')), "{event}");
        // What was in base64 is still base64, of text without the secret.
        for word in raw.split('"').filter(|word| word.len() > 40) {
            if let Ok(bytes) = STANDARD.decode(word) {
                assert!(!String::from_utf8_lossy(&bytes).contains(SECRET), "{event}");
            }
        }
    }
    let kept = events.iter().find(|event| event["redacted"].is_null()).unwrap();
    assert_eq!(kept["raw"], lines[10]);
    for agent in agents {
        assert!(agent.stop(PATIENCE).success());
    }
}
