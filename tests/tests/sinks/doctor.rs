//! The doctor of the low side before each kind of SIEM: what is right is said to be right, and each fault is
//! told apart from the others and named with its sink and what to do. And a test record, seen where it arrived.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use tests::agents::Site;
use tests::crossing::Crossing;
use tests::examined::{Said, doctor};
use tests::peers::bulk::{BulkServer, Engine};
use tests::peers::bulk_proxy::{BulkProxy, Fault};
use tests::peers::dce::{CLIENT, Dce, RULE, TENANT};
use tests::peers::loki::Loki;
use tests::peers::{Authority, HttpServer, Reply};
use tests::sandbox::{Sandbox, free_address};
use tests::wait::PATIENCE;

/// A low side with one sink, an authority that it believes, and one that it does not.
struct Clinic {
    low: Site,
    authority: Authority,
    stranger: Authority,
    sandbox: Sandbox,
}

impl Clinic {
    fn new(name: &str) -> Self {
        let sandbox = Sandbox::new(name);
        let low = Site::low(&sandbox, "soc");
        let authority = Authority::new(&sandbox.dir("ca"));
        let stranger = Authority::new(&sandbox.dir("stranger"));
        Self { low, authority, stranger, sandbox }
    }

    /// A file with a credential, as the agent wants it.
    fn secret(&self, text: &str) -> String {
        let path = self.sandbox.join("secret");
        fs::write(&path, text).expect("a secret can be written");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("its mode");
        path.display().to_string()
    }

    /// What the doctor says of a sink of this kind, which is called siem.
    fn look(&self, kind: &str, url: &str, ca: &Path, more: &str) -> Said {
        self.low.configure(&format!(
            "[[sink]]\nname = \"siem\"\ntype = \"{kind}\"\nurl = \"{url}\"\nca-file = \"{}\"\ntimeout = \"5s\"\n{more}",
            ca.display()
        ));
        let said = doctor(&self.low, &[]);
        let named =
            said.about(SECTION, "reached").into_iter().chain(said.about(SECTION, "credential"));
        assert!(named.into_iter().all(|finding| finding["at"] == "siem"), "{:#}", said.report);
        said
    }

    /// What is said of any sink that can't be reached, or not safely.
    fn look_at_the_way(&self, kind: &str, url: &str, more: &str) {
        let nowhere = format!("https://{}", free_address());
        let said = self.look(kind, &nowhere, self.authority.ca(), more);
        said.expect(SECTION, "reached", "fail", "nc -vz 127.0.0.1");
        said.expect(SECTION, "reached", "fail", "a firewall between");
        let said = self.look(kind, url, self.stranger.ca(), more);
        said.expect(SECTION, "reached", "fail", "openssl s_client -connect 127.0.0.1");
        said.expect(SECTION, "reached", "fail", "ca-file with that authority");
    }
}

const SECTION: &str = "sink siem";

#[test]
fn elasticsearch_and_opensearch_are_asked_for_their_credential_rights_and_template() {
    for (kind, engine) in [("elasticsearch", Engine::Noida), ("opensearch", Engine::Osmem)] {
        let clinic = Clinic::new(&format!("doctor-{kind}"));
        let server = BulkServer::start(engine, clinic.sandbox.path());
        let certificate = clinic.authority.server("siem");
        let proxy = BulkProxy::start(free_address(), Some(&certificate), server.address);
        proxy.state().authorizations = ["Basic cGVuc3RvY2s6cmlnaHQ=".to_owned()].into();
        let file = clinic.secret("right\n");
        let access = format!("username = \"penstock\"\npassword-file = \"{file}\"\n");
        let look = |more: &str| {
            clinic.look(kind, &proxy.url(), clinic.authority.ca(), &format!("{access}{more}"))
        };

        // Nothing was set up there yet.
        let said = look("");
        said.expect(SECTION, "reached", "ok", &proxy.url());
        said.expect(SECTION, "credential", "ok", "lets us in");
        said.expect(SECTION, "template", "warn", "penstock-low setup siem");
        clinic.low.run(["setup", "siem"]).success();
        let said = look("");
        said.expect(SECTION, "template", "ok", "penstock");
        // Other indices need another one.
        look("index-prefix = \"other-\"\n").expect(SECTION, "template", "warn", "other-penstock");
        // Whether documents may be added can be asked of one of them.
        if engine == Engine::Noida {
            said.expect(SECTION, "permission", "ok", "may add documents");
            proxy.state().lacking = ["create_doc".to_owned()].into();
            let said = look("");
            said.expect(SECTION, "permission", "fail", "create_doc for ");
            said.expect(SECTION, "permission", "fail", "penstock-low setup siem --print");
            proxy.state().lacking = ["auto_configure".to_owned()].into();
            look("").expect(SECTION, "permission", "warn", "auto_configure");
        }

        clinic.secret("wrong\n");
        let said = look("");
        said.expect(SECTION, "reached", "ok", "");
        said.expect(SECTION, "credential", "fail", "does not let us in (401)");
        said.expect(SECTION, "credential", "fail", "the credential in the file");
        clinic.look_at_the_way(kind, &proxy.url(), &access);
        // The doctor hands over nothing.
        let state = proxy.state();
        assert_eq!((state.items, state.bulks), (0, 0));
    }
}

#[test]
fn a_cluster_that_is_up_and_takes_nothing_and_a_url_of_something_else_are_told() {
    let clinic = Clinic::new("doctor-other");
    let certificate = clinic.authority.server("siem");
    let at = || ([127, 0, 0, 1], 0).into();
    let busy = HttpServer::start_at(at(), Some(&certificate), |_| Reply::status(503, "no shard"));
    let other = HttpServer::start_at(at(), Some(&certificate), |_| Reply::status(404, "<h1>nginx"));
    for kind in ["elasticsearch", "loki"] {
        let said = clinic.look(kind, &busy.url(), clinic.authority.ca(), "");
        said.expect(SECTION, "credential", "warn", "answers 503: no shard");
        let said = clinic.look(kind, &other.url(), clinic.authority.ca(), "");
        said.expect(SECTION, "credential", "fail", "url in this section");
    }
}

#[test]
fn loki_is_asked_for_its_tenant_and_credential() {
    let clinic = Clinic::new("doctor-loki");
    let loki = Loki::start_with("soc", Some(&clinic.authority.server("loki")));
    loki.state().authorization = Some("Basic c29jOnJpZ2h0".to_owned());
    let file = clinic.secret("Basic c29jOnJpZ2h0\n");
    let access = format!("authorization-file = \"{file}\"\n");
    let look = |more: &str| {
        clinic.look("loki", &loki.url(), clinic.authority.ca(), &format!("{access}{more}"))
    };
    let said = look("tenant = \"soc\"\n");
    said.expect(SECTION, "reached", "ok", &loki.url());
    said.expect(SECTION, "credential", "ok", "lets us in");
    let said = look("");
    said.expect(SECTION, "credential", "fail", "no org id");
    said.expect(SECTION, "credential", "fail", "`tenant` in this section");
    look("tenant = \"noc\"\n").expect(SECTION, "credential", "fail", "is the tenant \\\"noc\\\"");
    clinic.secret("Basic c29jOndyb25n\n");
    let said = look("tenant = \"soc\"\n");
    said.expect(SECTION, "credential", "fail", "does not let us in (401)");
    said.expect(SECTION, "credential", "fail", "the credential in the file");
    clinic.look_at_the_way("loki", &loki.url(), &format!("{access}tenant = \"soc\"\n"));
    assert_eq!(loki.state().pushes, 0);
}

#[test]
fn sentinel_is_asked_for_a_token_its_streams_and_its_columns() {
    let clinic = Clinic::new("doctor-sentinel");
    let template = include_str!("../../../packaging/siem/sentinel/azuredeploy.json");
    let services = Dce::start(&clinic.authority.server("dce"), template, "right");
    let file = clinic.secret("right\n");
    let access = |rule: &str, authority: &str| {
        format!(
            "authority-url = \"{authority}\"\ntenant = \"{TENANT}\"\nclient-id = \"{CLIENT}\"\nclient-secret-file = \"{file}\"\ndcr = \"{rule}\"\n"
        )
    };
    let url = services.url();
    let arm = format!("arm-url = \"{}\"\n", services.rule_url());
    let look = |more: &str| {
        let more = format!("{}{more}", access(RULE, &url));
        clinic.look("sentinel", &url, clinic.authority.ca(), &more)
    };
    let said = look(&arm);
    said.expect(SECTION, "reached", "ok", &url);
    said.expect(SECTION, "credential", "ok", "lets us in");
    said.expect(SECTION, "rule", "ok", "every column");
    look("").expect(SECTION, "rule", "skipped", "arm-url");

    // A right that is missing, a rule and a stream that are not there, a column that was taken away.
    services.state().may_send = false;
    let said = look(&arm);
    said.expect(SECTION, "credential", "fail", "does not let us in (403)");
    said.expect(SECTION, "credential", "fail", "Monitoring Metrics Publisher");
    services.state().may_send = true;
    let other = format!("{}2", &RULE[..RULE.len() - 1]);
    let said = clinic.look("sentinel", &url, clinic.authority.ca(), &access(&other, &url));
    said.expect(
        SECTION,
        "stream",
        "fail",
        &format!("answers 404 for stream Custom-PortainerAudit_CL of rule {other}"),
    );
    let stream = "Custom-PortainerAudit_CL";
    let declared = services.state().declared.remove(stream).expect("a stream");
    let said = look(&arm);
    said.expect(SECTION, "stream", "fail", "InvalidStream");
    said.expect(SECTION, "stream", "fail", "penstock-low setup siem --print");
    said.expect(SECTION, "rule", "fail", "the rule has no stream Custom-PortainerAudit_CL");
    let mut lacking = declared.clone();
    lacking.remove("RecordId").expect("a column");
    services.state().declared.insert(stream.to_owned(), lacking);
    look(&arm).expect(SECTION, "rule", "fail", "unseen: RecordId; deploy the template again");
    services.state().declared.insert(stream.to_owned(), declared);

    clinic.secret("wrong\n");
    let said = look(&arm);
    said.expect(SECTION, "credential", "fail", "AADSTS7000215");
    said.expect(SECTION, "credential", "fail", "client-secret-file");
    assert!(said.about(SECTION, "reached").is_empty(), "nothing but the authority was asked");
    clinic.secret("right\n");
    // The endpoint alone is away; then the authority.
    clinic.look_at_the_way("sentinel", &url, &access(RULE, &url));
    let nowhere = format!("https://{}", free_address());
    let said = clinic.look("sentinel", &url, clinic.authority.ca(), &access(RULE, &nowhere));
    said.expect(SECTION, "reached", "fail", &format!("{nowhere} is not reached"));
    // The doctor hands over nothing.
    assert!(services.state().rows.values().all(Vec::is_empty));
}

/// A test record goes through both sides to an Elasticsearch and a Loki, and is seen when it can be found there.
#[test]
fn a_test_record_is_seen_to_arrive_in_elasticsearch_and_loki() {
    let crossing = Crossing::new("doctor-await");
    let (high, low) = (&crossing.pair.high, &crossing.pair.low);
    let server = BulkServer::start(Engine::Noida, crossing.sandbox.path());
    let proxy = BulkProxy::start(free_address(), None, server.address);
    let loki = Loki::start("soc");
    crossing.configure(100);
    let quick = "timeout = \"5s\"\nretry-min = \"20ms\"\nretry-max = \"100ms\"\n";
    low.configure(&format!(
        "{}[[sink]]\nname = \"siem\"\ntype = \"elasticsearch\"\nurl = \"{}\"\n{quick}\
         [[sink]]\nname = \"loki\"\ntype = \"loki\"\nurl = \"{}\"\ntenant = \"soc\"\n{quick}",
        Crossing::quick_inbox(),
        proxy.url(),
        loki.url()
    ));
    low.run(["setup", "siem"]).success();
    // Loki does not take anything for now.
    loki.state().always = Some(tests::peers::loki::Fault::Status(503));
    let agents = [high.start(), low.start()];
    let sent = high.json(["doctor", "--send-test", "--json"]);
    let marker = sent["marker"].as_str().unwrap();
    let awaited = |timeout: &str| {
        let done = low.run(["doctor", "--await-test", marker, "--timeout", timeout, "--json"]);
        let arrived: serde_json::Value =
            serde_json::from_str(&done.stdout).unwrap_or_else(|err| panic!("{err}: {done:?}"));
        (done.code, arrived)
    };
    let at = |arrived: &serde_json::Value, name: &str| {
        let sinks = arrived["sinks"].as_array().unwrap();
        sinks.iter().find(|sink| sink["name"] == name).unwrap().clone()
    };
    let (code, arrived) = awaited("10s");
    assert_ne!(code, Some(0), "{arrived}");
    assert_eq!(at(&arrived, "siem")["outcome"], "delivered", "{arrived}");
    assert_eq!(at(&arrived, "siem")["found"], true, "{arrived}");
    assert_eq!(at(&arrived, "loki")["outcome"], "waiting", "{arrived}");

    loki.state().always = None;
    let (code, arrived) = awaited("60s");
    assert_eq!(code, Some(0), "{arrived}");
    let id = arrived["record-id"].as_str().unwrap();
    for name in ["siem", "loki"] {
        let sink = at(&arrived, name);
        assert_eq!(
            (&sink["outcome"], &sink["found"]),
            (&"delivered".into(), &true.into()),
            "{sink}"
        );
        let delivered = sink["delivered-within-ms"].as_u64().unwrap();
        let found = sink["found-within-ms"].as_u64().unwrap();
        assert!(found > 0 && delivered > 0 && found < PATIENCE.as_millis() as u64 * 2, "{sink}");
    }
    let documents = server.documents("*");
    assert!(
        documents.iter().any(|hit| hit["_id"] == id && hit.to_string().contains(marker)),
        "{documents:?}"
    );
    assert!(loki.lines().iter().any(|(_, line)| line.contains(id) && line.contains(marker)));
    // For people: when it could be found, for each.
    let said = low.run(["doctor", "--await-test", marker, "--timeout", "60s"]).success();
    assert_eq!(said.matches("can be found there, ").count(), 2, "{said}");

    // One whose document the cluster loses is not said to be there.
    proxy.state().always = Some(Fault::Items(201));
    let sent = high.json(["doctor", "--send-test", "--json"]);
    let lost = sent["marker"].as_str().unwrap();
    let done = low.run(["doctor", "--await-test", lost, "--timeout", "10s"]);
    assert_ne!(done.code, Some(0), "{done:?}");
    assert!(done.stdout.contains("can NOT be found there"), "{done:?}");
    for agent in agents {
        assert!(agent.stop(PATIENCE).success());
    }
}
