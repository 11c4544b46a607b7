//! The parsed event, by tables.

use proptest::prelude::*;

use super::*;
use crate::event::{Category, Outcome, Privilege, guarded_shapes};

fn event(raw: &str) -> Event<'static> {
    let mut tape = Tape::default();
    understand(&Body::of(raw.as_bytes(), &mut tape), None, &PrivilegeSettings::default())
        .into_owned()
}

const EXEC: &str = r#"{"kind":"Event","apiVersion":"audit.k8s.io/v1","level":"Request","auditID":"a","stage":"ResponseStarted","requestURI":"/api/v1/namespaces/n/pods/p/exec?command=sh","verb":"get","user":{"username":"u","groups":["g"]},"sourceIPs":["192.0.2.1"],"userAgent":"kubectl","objectRef":{"resource":"pods","namespace":"n","name":"p","apiVersion":"v1","subresource":"exec"},"responseStatus":{"metadata":{},"code":101},"requestReceivedTimestamp":"2025-10-12T14:42:41.448711Z","stageTimestamp":"2025-10-12T14:42:41.448711Z","annotations":{"authorization.k8s.io/decision":"allow","authorization.k8s.io/reason":""}}"#;
const ALERT: &str = r#"{"hostname":"n","output":"10:00:00.000000001: Critical A shell","output_fields":{"container.id":"c","k8s.pod.name":"p","k8s.ns.name":"ns","user.name":"root","proc.cmdline":null},"priority":"critical","rule":"Terminal shell in container","source":"syscall","tags":["T1059","mitre_execution"],"time":"2026-04-06T13:23:31.588950000Z"}"#;

fn escaped(text: &str) -> String {
    serde_json::to_string(text).unwrap()
}

#[test]
fn an_event_is_the_same_in_every_wrapping() {
    for (raw, stream, privilege) in [
        (EXEC, Stream::KubeAudit, Privilege::Exec),
        (ALERT, Stream::Falco, Privilege::FalcoCritical),
    ] {
        let wrappings = [
            raw.to_owned(),
            format!("<13>1 2026-11-23T16:00:00Z h app - - - \u{feff}{raw}"),
            format!("2026-11-23T16:00:00.123456789Z stdout F {raw}"),
            format!(
                r#"{{"log":{},"stream":"stdout","time":"2026-11-23T16:00:00Z"}}"#,
                escaped(&format!("{raw}\n"))
            ),
            format!(
                r#"{{"date":1763913600.1,"log":{}}}"#,
                escaped(&format!("2026-11-23T16:00:00.1Z stdout F {raw}"))
            ),
            format!(
                r#"{{"date":1763913600.1,"message":{},"kubernetes":{{"pod_name":"f"}}}}"#,
                escaped(raw)
            ),
            format!(r#"{{"date":1763913600.1,"kubernetes":{{"pod_name":"f"}},{}"#, &raw[1..]),
            format!(r#"{{"date":1,"log_processed":{raw}}}"#),
            format!(r"[{raw}]"),
            format!(
                r#"{{"date":1,"log":{}}}"#,
                escaped(&format!(r#"{{"log":{},"stream":"stderr"}}"#, escaped(raw)))
            ),
        ];
        let plain = event(raw);
        assert_eq!((plain.stream, plain.privileged), (stream, Some(privilege)));
        for wrapped in wrappings {
            let found = event(&wrapped);
            assert_eq!(found, plain, "{wrapped}");
        }
    }
    let pascal = EXEC
        .replace("\"auditID\"", "\"AuditID\"")
        .replace("\"requestURI\"", "\"RequestURI\"")
        .replace("\"verb\"", "\"Verb\"")
        .replace("\"objectRef\"", "\"ObjectRef\"")
        .replace("\"resource\"", "\"Resource\"")
        .replace("\"subresource\"", "\"Subresource\"")
        .replace("\"stage\"", "\"Stage\"");
    assert_eq!(event(&pascal), event(EXEC));
}

#[test]
fn what_a_relay_cut_is_known_as_far_as_it_goes() {
    let reference = EXEC.find("\"responseStatus\"").unwrap();
    let uri = EXEC.find(",\"verb\"").unwrap();
    let cut = event(&EXEC[..reference]);
    assert_eq!((cut.stream, cut.privileged), (Stream::KubeAudit, Some(Privilege::Exec)));
    assert_eq!(cut.detail("cut"), Some("true"));
    // The path alone says what it was about.
    let cut = event(&format!("<13>1 - h a - - - {}", &EXEC[..uri + 2]));
    assert_eq!((cut.stream, cut.privileged), (Stream::KubeAudit, Some(Privilege::Exec)));
    let cut = event(&EXEC[..EXEC.find("\"requestURI\"").unwrap()]);
    assert_eq!(cut.stream, Stream::KubeAudit);
    assert_eq!(cut.category, Classified::Not { unclassified: Unclassified::Cut });
    // Rule and priority stand behind the fields.
    let cut = event(&ALERT[..ALERT.find("\"priority\"").unwrap()]);
    assert_eq!((cut.stream, cut.privileged), (Stream::Falco, Some(Privilege::FalcoCritical)));
    let line = format!(r#"{{"log":{}"#, escaped(EXEC));
    let cut = event(&line[..line.len() - 300]);
    assert_eq!((cut.stream, cut.privileged), (Stream::KubeAudit, Some(Privilege::Exec)));
}

#[test]
fn a_list_of_events_is_as_urgent_as_its_most_urgent() {
    let read = r#"{"level":"Metadata","auditID":"b","stage":"ResponseComplete","requestURI":"/healthz","verb":"get","user":{"username":"u"}}"#;
    let list = format!(
        r#"{{"kind":"EventList","apiVersion":"audit.k8s.io/v1","metadata":{{}},"items":[{read},{EXEC}]}}"#
    );
    assert_eq!(event(&list).privileged, Some(Privilege::Exec));
}

fn kube(verb: &str, reference: &str, rest: &str) -> Event<'static> {
    event(&format!(
        r#"{{"kind":"Event","apiVersion":"audit.k8s.io/v1","auditID":"a","stage":"RequestReceived","verb":"{verb}","requestURI":"/x","user":{{"username":"u"}},"objectRef":{{{reference}}}{rest}}}"#
    ))
}

#[test]
fn kubernetes_privileges() {
    let rbac = r#""apiGroup":"rbac.authorization.k8s.io","resource":"#;
    let body = |role: &str| {
        format!(r#","requestObject":{{"roleRef":{{"kind":"ClusterRole","name":"{role}"}}}}"#)
    };
    for (verb, reference, rest, privilege) in [
        (
            "create",
            r#""resource":"pods","subresource":"exec""#.to_owned(),
            String::new(),
            Some(Privilege::Exec),
        ),
        (
            "get",
            r#""resource":"pods","subresource":"attach""#.to_owned(),
            String::new(),
            Some(Privilege::Exec),
        ),
        (
            "patch",
            r#""resource":"pods","subresource":"ephemeralcontainers""#.to_owned(),
            String::new(),
            Some(Privilege::Exec),
        ),
        ("get", r#""resource":"pods","subresource":"log""#.to_owned(), String::new(), None),
        (
            "create",
            r#""resource":"pods","name":"node-debugger-n1-x7k2p""#.to_owned(),
            String::new(),
            Some(Privilege::Exec),
        ),
        (
            "get",
            r#""resource":"pods","name":"node-debugger-n1-x7k2p""#.to_owned(),
            String::new(),
            None,
        ),
        (
            "delete",
            r#""resource":"secrets""#.to_owned(),
            String::new(),
            Some(Privilege::SecretDeletion),
        ),
        (
            "deletecollection",
            r#""resource":"secrets""#.to_owned(),
            String::new(),
            Some(Privilege::SecretDeletion),
        ),
        ("list", r#""resource":"secrets""#.to_owned(), String::new(), None),
        (
            "update",
            r#""resource":"configmaps","name":"audit-policy""#.to_owned(),
            String::new(),
            Some(Privilege::AuditSettings),
        ),
        ("get", r#""resource":"configmaps","name":"audit-policy""#.to_owned(), String::new(), None),
        (
            "create",
            format!(r#"{rbac}"clusterrolebindings""#),
            body("cluster-admin"),
            Some(Privilege::ClusterAdmin),
        ),
        ("create", format!(r#"{rbac}"clusterrolebindings""#), body("view"), None),
        (
            "create",
            format!(r#"{rbac}"rolebindings""#),
            body("cluster-admin"),
            Some(Privilege::ClusterAdmin),
        ),
        (
            "create",
            format!(r#"{rbac}"clusterrolebindings""#),
            String::new(),
            Some(Privilege::ClusterAdmin),
        ),
        (
            "create",
            format!(r#"{rbac}"clusterrolebindings","name":"system:x""#),
            String::new(),
            None,
        ),
        ("create", format!(r#"{rbac}"rolebindings","name":"x""#), String::new(), None),
        ("delete", format!(r#"{rbac}"clusterrolebindings","name":"x""#), String::new(), None),
        (
            "list",
            r#""resource":"pods""#.to_owned(),
            r#","impersonatedUser":{"username":"bob","groups":["system:masters"]}"#.to_owned(),
            Some(Privilege::ClusterAdmin),
        ),
        (
            "list",
            r#""resource":"pods""#.to_owned(),
            r#","impersonatedUser":{"username":"bob","groups":["dev"]}"#.to_owned(),
            None,
        ),
    ] {
        let found = kube(verb, &reference, &rest);
        assert_eq!(found.privileged, privilege, "{verb} {reference} {rest}");
        assert!(found.category.category().is_some());
        if found.is_guarded() {
            assert!(guarded_shapes().any(|shape| shape.matches(&found)), "{found:?}");
        }
    }
    let denied = kube(
        "create",
        r#""resource":"pods""#,
        r#","responseStatus":{"code":403,"message":"admission webhook \"x\" denied the request"}"#,
    );
    assert_eq!(
        (denied.category.category(), denied.outcome),
        (Some(Category::Policy), Some(Outcome::Denied))
    );
}

fn base64(text: &str) -> String {
    use ::base64::Engine as _;
    ::base64::prelude::BASE64_STANDARD.encode(text)
}

#[test]
fn portainer_activities_and_their_payloads() {
    for (action, payload, wanted, category, privilege) in [
        ("PUT /stacks/3?endpointId=1", "", "stack.update", Category::Deployment, None),
        (
            "POST /users",
            r#"{"username":"x","role":1}"#,
            "user.create",
            Category::IdentityAndAccess,
            Some(Privilege::AdministratorGrant),
        ),
        (
            "POST /users",
            r#"{"Username":"x","Role":2}"#,
            "user.create",
            Category::IdentityAndAccess,
            None,
        ),
        (
            "PUT /users/3",
            r#"{"role":1}"#,
            "role.assign",
            Category::IdentityAndAccess,
            Some(Privilege::AdministratorGrant),
        ),
        (
            "PUT /users/3",
            r#"{"theme":{"color":"dark"}}"#,
            "user.update",
            Category::IdentityAndAccess,
            None,
        ),
        (
            "PUT /users/3",
            "{\"role\":",
            "user.update",
            Category::IdentityAndAccess,
            Some(Privilege::AdministratorGrant),
        ),
        (
            "PUT /endpoints/2",
            r#"{"UserAccessPolicies":{"4":{"RoleId":1}}}"#,
            "role.assign",
            Category::IdentityAndAccess,
            Some(Privilege::AdministratorGrant),
        ),
        (
            "PUT /endpoints/2",
            r#"{"TeamAccessPolicies":{"4":{"RoleId":3}}}"#,
            "role.assign",
            Category::IdentityAndAccess,
            None,
        ),
        (
            "PUT /endpoints/2",
            r#"{"Name":"x"}"#,
            "environment.update",
            Category::Configuration,
            None,
        ),
        ("PUT /settings", r#"{"LogoURL":""}"#, "settings.update", Category::Configuration, None),
        (
            "PUT /settings",
            r#"{"SyslogSettings":{"Enabled":false}}"#,
            "settings.update",
            Category::Configuration,
            Some(Privilege::AuditSettings),
        ),
        (
            "PUT /settings",
            r#"{"AuthenticationMethod":3}"#,
            "settings.authentication.update",
            Category::IdentityAndAccess,
            None,
        ),
        (
            "POST /backup",
            r#"{"password":"[REDACTED]"}"#,
            "backup.create",
            Category::Administrative,
            Some(Privilege::Backup),
        ),
        (
            "DELETE /kubernetes/1/namespaces/n/secrets/s",
            "",
            "secret.delete",
            Category::Configuration,
            Some(Privilege::SecretDeletion),
        ),
        (
            "POST /endpoints/1/kubernetes/apis/rbac.authorization.k8s.io/v1/clusterrolebindings",
            r#"{"roleRef":{"name":"cluster-admin"}}"#,
            "clusterrolebinding.create",
            Category::IdentityAndAccess,
            Some(Privilege::ClusterAdmin),
        ),
        (
            "POST /endpoints/1/kubernetes/apis/rbac.authorization.k8s.io/v1/clusterrolebindings",
            r#"{"roleRef":{"name":"view"}}"#,
            "clusterrolebinding.create",
            Category::IdentityAndAccess,
            None,
        ),
        (
            "GET /websocket/node-shell?endpointId=1&token=t",
            "",
            "node.shell",
            Category::Deployment,
            Some(Privilege::Exec),
        ),
    ] {
        let payload =
            if payload.is_empty() { "null".to_owned() } else { format!("\"{}\"", base64(payload)) };
        let found = event(&format!(
            r#"{{"id":1,"timestamp":1700000000,"username":"alice","context":"local","action":"{action}","payload":{payload}}}"#
        ));
        assert_eq!(found.stream, Stream::PortainerActivity, "{action}");
        assert_eq!(
            (found.action.as_ref(), found.category.category()),
            (wanted, Some(category)),
            "{action} {payload}"
        );
        assert_eq!(found.privileged, privilege, "{action} {payload}");
        assert_eq!(found.resource.environment.as_deref(), Some("local"));
        if found.is_guarded() {
            assert!(guarded_shapes().any(|shape| shape.matches(&found)), "{found:?}");
        }
    }
}

#[test]
fn portainer_logins_in_every_shape() {
    for (raw, action, outcome, privilege) in [
        (
            r#"{"id":1,"timestamp":1700000000,"username":"admin","type":1,"origin":"192.0.2.1","context":1}"#,
            "session.login",
            Some(Outcome::Success),
            Some(Privilege::BreakGlass),
        ),
        (
            r#"{"id":1,"timestamp":1700000000,"username":"bob","type":2,"origin":"192.0.2.1","context":2}"#,
            "session.login",
            Some(Outcome::Failure),
            None,
        ),
        (
            r#"{"id":1,"timestamp":1700000000,"username":"bob","type":3,"origin":"192.0.2.1","context":1}"#,
            "session.logout",
            Some(Outcome::Success),
            None,
        ),
        (
            r#"{"Timestamp":"2026-01-01T00:00:00Z","EventType":"Authentication","Username":"bob","UserID":"1","AuthenticationMethod":"local","SourceIP":"192.0.2.1","Action":"login","Result":"success","SessionID":"s"}"#,
            "session.login",
            Some(Outcome::Success),
            Some(Privilege::BreakGlass),
        ),
        (
            r#"{"event_type":"auth.login","username":"bob","user_id":7,"source_ip":"192.0.2.1","action":"login","result":"failure"}"#,
            "session.login",
            Some(Outcome::Failure),
            None,
        ),
        (
            r"<134>1 - portainer portainer - - - time=2026-01-01T00:00:00Z username=bob action=login result=failure source_ip=192.0.2.1",
            "session.login",
            Some(Outcome::Failure),
            None,
        ),
        (
            "<134>1 - portainer portainer - - - user \"admin\" logged in successfully",
            "session.login",
            None,
            Some(Privilege::BreakGlass),
        ),
    ] {
        let found = event(raw);
        assert_eq!(found.stream, Stream::PortainerAuth, "{raw}");
        assert_eq!(found.category, Classified::As { category: Category::Authentication }, "{raw}");
        assert_eq!((found.action.as_ref(), found.privileged), (action, privilege), "{raw}");
        assert!(outcome.is_none() || found.outcome == outcome, "{raw}: {:?}", found.outcome);
    }
}

#[test]
fn portainer_envelopes_in_every_spelling() {
    for (raw, action, category, privilege) in [
        (
            r#"{"Username":"bob","UserID":"4","ResourceType":"stack","ResourceID":"3","Action":"update","Result":"success","Environment":"prod"}"#,
            "stack.update",
            Category::Deployment,
            None,
        ),
        (
            r#"{"userName":"bob","resourceType":"container","resourceId":"3","action":"exec","result":"success","environment":"prod"}"#,
            "container.exec",
            Category::Deployment,
            Some(Privilege::Exec),
        ),
        (
            r#"{"user_name":"bob","resource_type":"role","action":"update","result":"success","after":"{\"role\":\"Administrator\"}"}"#,
            "role.update",
            Category::IdentityAndAccess,
            Some(Privilege::AdministratorGrant),
        ),
        (
            r#"{"user_name":"bob","resource_type":"role","action":"update","result":"success","after":"viewer"}"#,
            "role.update",
            Category::IdentityAndAccess,
            None,
        ),
        (
            r#"{"Username":"bob","ResourceType":"Secret","Action":"delete","Namespace":"prod","Result":"success"}"#,
            "secret.delete",
            Category::Configuration,
            Some(Privilege::SecretDeletion),
        ),
        (
            r#"{"Username":"bob","EventType":"backup","Action":"restore","Result":"success"}"#,
            "backup.restore",
            Category::Administrative,
            Some(Privilege::Backup),
        ),
        (
            r#"{"Username":"bob","ResourceType":"settings","ResourceName":"syslog","Action":"update","Result":"success"}"#,
            "settings.update",
            Category::Configuration,
            Some(Privilege::AuditSettings),
        ),
        (
            r"<134>1 - portainer p - - - username=bob resource_type=registry action=update result=success",
            "registry.update",
            Category::Configuration,
            None,
        ),
        (
            r"<134>Nov 23 16:00:00 h portainer[1]: user bob DELETE /teams/3 done",
            "team.delete",
            Category::IdentityAndAccess,
            None,
        ),
    ] {
        let found = event(raw);
        assert_eq!(found.stream, Stream::PortainerActivity, "{raw}");
        assert_eq!(
            (found.action.as_ref(), found.category.category()),
            (action, Some(category)),
            "{raw}"
        );
        assert_eq!(found.privileged, privilege, "{raw}");
    }
}

#[test]
fn a_hint_makes_no_event_of_noise() {
    for (raw, hint, stream) in [
        ("I1012 14:42:41.000000       1 server.go:1] starting", Stream::KubeAudit, Stream::Other),
        ("2026-04-03T10:41:53+0000: Falco version: 0.43.0", Stream::Falco, Stream::Other),
        (ALERT, Stream::Falco, Stream::Falco),
        ("{\"kind\":0}", Stream::KubeAudit, Stream::KubeAudit),
        ("something happened", Stream::PortainerActivity, Stream::PortainerActivity),
        (EXEC, Stream::Other, Stream::Other),
    ] {
        let mut tape = Tape::default();
        let body = Body::of(raw.as_bytes(), &mut tape);
        let found = understand(&body, Some(hint), &PrivilegeSettings::default());
        assert_eq!(found.stream, stream, "{raw}");
    }
}

proptest! {
    #[test]
    fn no_bytes_panic(
        start in prop_oneof![
            Just(""), Just("<13>1 - portainer a - - - "), Just("{\"log\":\""), Just("10:00:00.1: Notice "),
            Just("{\"username\":\"a\",\"timestamp\":1,\"context\":\"c\",\"action\":\"PUT /settings\",\"payload\":\""),
            Just("{\"auditID\":1,\"verb\":\"get\",\"stage\":2,\"requestURI\":\"/api"),
        ],
        tail in proptest::collection::vec(
            prop_oneof![any::<u8>(), Just(b'{'), Just(b'"'), Just(b':'), Just(b'\\'), Just(b'='), Just(b'/'), Just(b'}')],
            0..120,
        ),
    ) {
        let raw = [start.as_bytes(), &tail].concat();
        let mut tape = Tape::default();
        let body = Body::of(&raw, &mut tape);
        for hint in Stream::ALL.into_iter().map(Some).chain([None]) {
            let found = understand(&body, hint, &PrivilegeSettings::default());
            prop_assert!(serde_json::to_string(&found).is_ok());
        }
        super::super::fields(&body);
    }

    #[test]
    fn no_cut_panics_and_the_stream_stays(at in 60_usize..700) {
        let cut = &EXEC[..at.min(EXEC.len() - 1)];
        let mut tape = Tape::default();
        let found = understand(&Body::of(cut.as_bytes(), &mut tape), Some(Stream::KubeAudit), &PrivilegeSettings::default());
        prop_assert_eq!(found.stream, Stream::KubeAudit);
    }
}
