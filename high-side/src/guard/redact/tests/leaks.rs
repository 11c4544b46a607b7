//! Leaks and damage that were found once.

use super::*;

fn becomes(raw: &str, wanted: &str) {
    assert_eq!(show(&run(&defaults(), raw.as_bytes(), Stream::Other).bytes), wanted, "{raw}");
}

fn stays(raw: &str) {
    becomes(raw, raw);
}

fn hides(raw: &str) {
    let out = show(&run(&defaults(), raw.as_bytes(), Stream::Other).bytes);
    assert!(!out.contains("Zq7Rt9"), "{raw} -> {out}");
}

#[test]
fn what_follows_a_mark_stays() {
    becomes(
        "mysql -h db -u root -papp proddb",
        "mysql -h db -u root -p[redacted:passwords] proddb",
    );
    becomes("curl -uadmin:pw https://vault/x", "curl -uadmin:[redacted:passwords] https://vault/x");
    stays("mysql --no-password proddb");
}

#[test]
fn bodies_in_json_that_was_cut_go() {
    let event = r#"{"kind":"Event","objectRef":{"resource":"secrets","name":"a"},"requestObject":{"data":{"foo":"QUJDZq7Rt9"},"type":"Opaque"#;
    hides(event);
    hides(&event[..event.find(r#""},"type"#).unwrap()]);
    let secret =
        r#"{"kind": "Secret","data": {"foo":"Zq7Rt9","bar":{"x":["Zq7Rt9"]}},"z":"stays"}"#;
    let map = r#"{"apiVersion":"v1","data":{"foo":"Zq7Rt9"},"kind":"ConfigMap"}"#;
    for one in [secret, map] {
        hides(&format!("apply failed: {one} done"));
        hides(&format!("{one}{one}"));
        hides(&format!("{one}\n{one}\n"));
        let nested = serde_json::json!({"message": format!("failed: {one} done")}).to_string();
        hides(&nested);
        hides(&format!("x {nested} y"));
        let twice = serde_json::json!({"message": nested}).to_string();
        hides(&format!("x {twice} y"));
        if one.starts_with(r#"{"kind"#) {
            hides(&twice[..twice.rfind("Zq7Rt9").unwrap() + 6]);
        }
    }
    becomes(
        &format!("failed: {secret} done"),
        r#"failed: {"kind": "Secret","data": {"foo":"[redacted:kubernetes-bodies]","bar":{"x":["[redacted:kubernetes-bodies]"]}},"z":"stays"} done"#,
    );
    stays(r#"failed: {"kind":"Pod","data":{"foo":"bar"}} done"#);
    let raw = br#"{"requestObject":{"data":{"foo":"Zq7Rt9"#;
    let mut tape = Tape::default();
    let body = Body::of(raw, &mut tape);
    let mut scratch = RedactScratch::default();
    let context = Context { stream: Stream::KubeAudit, resource: Some("secrets") };
    defaults().redact(&body, &context, &mut scratch).unwrap();
    assert!(!show(&scratch.out).contains("Zq7Rt9"));
}

#[test]
fn each_event_in_a_list_says_what_it_is_about() {
    let secret =
        r#"{"objectRef":{"resource":"secrets"},"requestObject":{"data":{"foo":"Zq7Rt9"}}}"#;
    let pods = r#"{"objectRef":{"resource":"pods"},"requestObject":{"data":{"foo":"stays"}}}"#;
    hides(&format!(r#"{{"kind":"EventList","items":[{pods},{secret}]}}"#));
    hides(&format!("[{pods},{secret}]"));
    stays(&format!(r#"{{"kind":"EventList","items":[{pods}]}}"#));
}
