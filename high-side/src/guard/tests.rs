//! Events that must not be taken for noise, nor for less urgent than they are.

use super::*;

fn guard() -> Guard {
    let suppressor = Suppressor::new(default_suppressions());
    Guard { suppressor, ..Guard::default() }
}

fn judged(line: &str) -> (Event<'static>, Judged) {
    let (event, judged, _) = guard().examine(line.as_bytes(), None);
    (event, judged)
}

/// An event that a shipped rule suppresses, with something changed in it.
fn noise(from: &str, to: &str) -> String {
    let text = r#"{"kind":"Event","apiVersion":"audit.k8s.io/v1","level":"Metadata","auditID":"a","stage":"ResponseComplete","requestURI":"/api/v1/namespaces/x/pods/y","verb":"get","user":{"username":"system:node:w1","groups":["system:nodes"]},"objectRef":{"resource":"pods","namespace":"x","name":"y"},"responseStatus":{"metadata":{},"code":200},"stageTimestamp":"2026-11-23T21:10:19.100000Z"}"#;
    let changed = text.replace(from, to);
    assert!(from.is_empty() || changed != text, "{from}");
    changed
}

#[test]
fn what_only_looks_like_noise_is_kept() {
    let suppressed = |line: &str| matches!(judged(line).1.fate, Fate::Suppressed { .. });
    let plain = noise("", "");
    assert!(suppressed(&plain));
    for line in [
        noise("pods/y\"", "pods/y/exec?command=sh\""),
        noise("\"code\":200", "\"code\":\"403\""),
        noise("\"code\":200", "\"status\":\"Failure\",\"reason\":\"Forbidden\""),
        noise("\"objectRef\"", "\"impersonatedUser\":{\"uid\":\"7\"},\"objectRef\""),
        format!("[{plain},{}]", noise("\"verb\":\"get\"", "\"verb\":\"delete\"")),
        format!("{{\"kind\":\"EventList\",\"items\":[{plain},{plain}]}}"),
        noise("/api/v1/namespaces/x/pods/y", "/readyz/../api/v1/secrets").replace(
            "\"objectRef\":{\"resource\":\"pods\",\"namespace\":\"x\",\"name\":\"y\"},",
            "",
        ),
    ] {
        assert!(!suppressed(&line), "{line}");
    }
}

#[test]
fn what_is_urgent_is_seen_through_its_wrapping() {
    let exec = noise("pods/y\"", "pods/y/exec?command=sh\"").replace("system:node:w1", "eve");
    let inner = serde_json::to_string(&exec).unwrap();
    for line in [
        exec.clone(),
        format!("{{\"log\":{{\"file\":{{\"path\":\"/x\"}},\"offset\":1}},\"message\":{inner}}}"),
        format!("2026-01-01T00:00:00.1Z stdout F {exec}"),
        "2026-01-01T00:00:00.1Z stdout F 12:00:00.123456789: Critical Shell (user=root)".to_owned(),
        noise("\"verb\":\"get\"", "\"verb\":\"create\"").replace(
            "\"responseStatus\"",
            "\"requestObject\":{\"spec\":{\"hostPID\":true,\"containers\":[{\"securityContext\":{\"privileged\":true}}]}},\"responseStatus\"",
        ),
    ] {
        let (event, judged) = judged(&line);
        assert!(judged.urgent, "{line}: {event:?}");
    }
}

#[test]
fn a_shell_is_one_by_whatever_way_portainer_names_it() {
    for action in [
        "POST /endpoints/1/docker/containers/ab/exec",
        "POST https://portainer.example:9443/api/endpoints/1/docker/containers/ab/exec",
        "POST /portainer/api/endpoints/1/docker/containers/ab/exec",
        "POST /endpoints/1/docker/v4.0.0/libpod/containers/ab/exec",
        "POST http://unixsocket/containers/ab/exec",
        "POST /containers/ab/exec",
        "POST /exec/0123abcd/start",
        "GET /websocket/exec?endpointId=1&id=ab",
        "GET /websocket/attach?endpointId=1&id=ab",
    ] {
        let line = format!(
            r#"{{"id":7,"timestamp":1795468219,"username":"ann","context":"edge-1","action":"{action}","payload":null}}"#
        );
        let (event, judged) = judged(&line);
        assert_eq!(event.stream, Stream::PortainerActivity, "{action}");
        assert!(judged.urgent, "{action}: {event:?}");
    }
}
