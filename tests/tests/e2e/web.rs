//! Senders that post over HTTP, and the certificates that they show.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use tests::agents::Site;
use tests::crossing::Crossing;
use tests::logs::assert_no_unlisted_errors;
use tests::peers::web::{curl, post, post_as_api_server};
use tests::peers::{Certificate, openssl_send, peer};
use tests::process::{Process, run};
use tests::sandbox::free_address;
use tests::seed::Seed;
use tests::wait::{PATIENCE, wait_until};

use super::incoming::{finish, listener, start};

/// A batch of an API server.
fn event_list(events: &[String]) -> Vec<u8> {
    format!(
        "{{\"kind\":\"EventList\",\"apiVersion\":\"audit.k8s.io/v1\",\"metadata\":{{}},\"items\":[{}]}}\n",
        events.join(",")
    )
    .into_bytes()
}

fn event(id: &str) -> String {
    format!(
        "{{\"level\":\"Metadata\",\"auditID\":\"{id}\",\"stage\":\"ResponseComplete\",\"requestURI\":\"/api?a=\\u003cb\\u003e\",\"verb\":\"get\"}}"
    )
}

/// Makes certificates with `mint`; gives the folder.
fn mint(site: &Site, dir: &Path, arguments: &[&str]) {
    let dir = dir.display().to_string();
    let arguments = ["mint", "--dir", &dir].into_iter().chain(arguments.iter().copied());
    site.run(arguments).success();
}

fn minted(dir: &Path, name: &str) -> Certificate {
    Certificate { cert: dir.join(format!("{name}.pem")), key: dir.join(format!("{name}.key")) }
}

fn tls_keys(dir: &Path) -> String {
    format!(
        "certificate = {:?}\nkey = {:?}\nclient-auth = \"required\"\nclient-ca = {:?}\n",
        dir.join("server.pem").display().to_string(),
        dir.join("server.key").display().to_string(),
        dir.join("ca.pem").display().to_string()
    )
}

#[test]
fn curl_posts_over_mutual_tls_with_certificates_that_mint_made() {
    let crossing = Crossing::new("web-tls");
    let high = &crossing.pair.high;
    let dir = crossing.sandbox.join("tls");
    mint(
        high,
        &dir,
        &["--server-name", "localhost", "--server-name", "127.0.0.1", "--client", "kube-apiserver"],
    );
    mint(high, &dir, &["--client", "portainer"]);
    for (name, purpose) in [
        ("server", "sslserver"),
        ("client-kube-apiserver", "sslclient"),
        ("client-portainer", "sslclient"),
    ] {
        let mut verify = peer("openssl");
        verify
            .args(["verify", "-x509_strict", "-purpose", purpose, "-CAfile"])
            .arg(dir.join("ca.pem"));
        run(verify.arg(minted(&dir, name).cert)).success();
    }
    let (hook, syslog) = (free_address(), free_address());
    let listeners = listener("hook", "kube-webhook", hook, &tls_keys(&dir))
        + &listener("syslog", "tls", syslog, &tls_keys(&dir));
    let agents = start(&crossing, &listeners);

    let ca = dir.join("ca.pem");
    let (client, other) = (minted(&dir, "client-kube-apiserver"), minted(&dir, "client-portainer"));
    let url = format!("https://{hook}/audit?timeout=30s");
    let events: Vec<String> = (0..400).map(|at| event(&format!("curl-{at}"))).collect();
    let body = event_list(&events);
    let (status, said) = curl(&url, Some((&ca, Some(&client))), &[], &body);
    assert_eq!(status, 200, "{said}");
    let chunked = ["--header", "Transfer-Encoding: chunked", "--header", "Expect: 100-continue"];
    let (status, said) = curl(&url, Some((&ca, Some(&client))), &chunked, &body);
    assert_eq!(status, 200, "{said}");
    let (status, said) = curl(&url, Some((&ca, None)), &[], &body);
    assert_eq!(status, 0, "without a certificate: {said}");
    let (status, _) = curl(&format!("http://{hook}/"), None, &[], &body);
    assert_eq!(status, 0, "without TLS");
    openssl_send(syslog, &ca, Some(&other), b"<34>1 - - portainer - - - one\n").success();

    let arrived = finish(&crossing, agents, 801);
    let of =
        |name: &'static str| arrived.events.values().filter(move |event| event["listener"] == name);
    for (event, sent) in of("hook").zip(events.iter().chain(&events)) {
        assert_eq!(event["raw"].as_str(), Some(sent.as_str()));
        assert_eq!(event["stream"], "kube-audit");
        assert!(event["tls-subject"].as_str().unwrap().contains("CN=kube-apiserver"), "{event}");
    }
    let subject = of("syslog").next().unwrap()["tls-subject"].as_str().unwrap().to_owned();
    assert!(subject.contains("CN=portainer"), "{subject}");
}

/// The listeners of a test that kills the agent.
struct Doors {
    hook: SocketAddr,
    falco: SocketAddr,
}

#[test]
fn what_was_answered_with_200_outlives_any_kill() {
    let crossing = Crossing::new("web-kill");
    let doors = Doors { hook: free_address(), falco: free_address() };
    let listeners = listener("hook", "kube-webhook", doors.hook, "")
        + &listener("falco", "falco-http", doors.falco, "");
    let [first, low] = start(&crossing, &listeners);
    let mut high = Some(first);
    let mut seed = Seed::new(7);

    let (batches, alerts) = thread::scope(|scope| {
        let high = &mut high;
        let doors = &doors;
        let servers: Vec<_> = (0..SERVERS)
            .map(|server| scope.spawn(move || be_api_server(server, doors.hook)))
            .collect();
        let falco = scope.spawn(move || be_falco(doors.falco));
        for _ in 0..KILLS {
            let (pause, begun) = (Duration::from_millis(20 + seed.below(150)), Instant::now());
            wait_until(PATIENCE, "the moment to kill", || begun.elapsed() >= pause);
            if let Some(agent) = high.take() {
                agent.kill();
            }
            *high = Some(crossing.pair.high.start());
        }
        let batches: Vec<_> =
            servers.into_iter().flat_map(|server| server.join().unwrap()).collect();
        (batches, falco.join().unwrap())
    });
    crossing.wait_drained();
    let found = delivered(&crossing, [high.unwrap(), low]);

    let (mut answered, mut retried) = (0, 0);
    for batch in &batches {
        for event in &batch.events {
            let times = found.get(event.as_str()).copied().unwrap_or(0);
            assert!(times >= 1 || !batch.answered, "{event} was answered with 200 and is lost");
            assert!(
                times <= batch.tries,
                "{event} was sent {} times, and is there {times} times",
                batch.tries
            );
        }
        answered += u64::from(batch.answered);
        retried += u64::from(batch.tries > 1);
    }
    for (alert, was_answered) in &alerts {
        let times = found.get(alert.as_str()).copied().unwrap_or(0);
        assert!(
            times == 1 || (times == 0 && !was_answered),
            "{alert}: {times} times, {was_answered}"
        );
    }
    let heard = alerts.iter().filter(|(_, answered)| *answered).count();
    println!(
        "{} batches: {answered} answered, {retried} sent more than once; {} alerts: {heard} answered; {KILLS} kills",
        batches.len(),
        alerts.len()
    );
    assert!(answered > 0 && heard > 0);
}

struct Sent {
    events: Vec<String>,
    tries: u32,
    answered: bool,
}

fn be_api_server(server: u64, address: SocketAddr) -> Vec<Sent> {
    let batch = |at: u64| {
        let events: Vec<_> = (0..25).map(|item| event(&format!("{server}-{at}-{item}"))).collect();
        let body = event_list(&events);
        let (tries, answered) = post_as_api_server(address, "/", &body, Duration::from_millis(100));
        Sent { events, tries, answered }
    };
    (0..BATCHES).map(batch).collect()
}

/// Falco looks at nothing and tries nothing twice.
fn be_falco(address: SocketAddr) -> Vec<(String, bool)> {
    let url = format!("http://{address}/");
    let alert = |at: u64| {
        let alert = format!(
            "{{\"hostname\":\"n\",\"output\":\"x\",\"priority\":\"Notice\",\"rule\":\"r {at}\",\"time\":\"2026-04-06T13:23:31.588950000Z\"}}"
        );
        let (status, _) =
            curl(&url, None, &["--header", "Content-Type: application/json"], alert.as_bytes());
        (alert, status == 200)
    };
    (0..ALERTS).map(alert).collect()
}

/// How often each raw record was delivered, after both agents were stopped and found in order.
fn delivered(crossing: &Crossing, agents: [Process; 2]) -> BTreeMap<String, u32> {
    for agent in agents {
        assert!(agent.stop(PATIENCE).success());
    }
    for site in [&crossing.pair.high, &crossing.pair.low] {
        assert_eq!(site.status()["adds-up"], true, "{}", site.status());
        assert_no_unlisted_errors(&site.log_path(), &[]);
    }
    let mut found = BTreeMap::new();
    for event in crossing.events() {
        *found.entry(event["raw"].as_str().unwrap_or_default().to_owned()).or_default() += 1;
    }
    found
}

#[test]
fn status_and_metrics_count_requests_and_setup_prints_what_works() {
    let crossing = Crossing::new("web-status");
    let hook = free_address();
    let agents = start(&crossing, &listener("hook", "kube-webhook", hook, "path = \"/audit\"\n"));
    let high = &crossing.pair.high;
    // The URL is taken from the settings that are printed for the other side.
    let printed = high
        .run([
            "setup",
            "kubernetes",
            "--listener",
            "hook",
            "--host",
            "127.0.0.1",
            "--part",
            "kubeconfig",
        ])
        .success();
    let url = printed.lines().find_map(|line| line.trim().strip_prefix("server: ")).unwrap();
    let (status, said) = curl(url, None, &[], &event_list(&[event("a")]));
    assert_eq!(status, 200, "{said}");
    assert_eq!(post(hook, "/elsewhere", b"{}", PATIENCE).unwrap().status, 404);
    assert_eq!(curl(url, None, &[], b"no json").0, 400);
    wait_until(PATIENCE, "the counts in the status", || {
        let status = high.status();
        let counters = &status["live"]["listeners"][0]["counters"];
        counters["requests"] == 3 && counters["requests-bad"] == 2
    });
    assert!(high.run(["status"]).success().contains("3 HTTP requests, 2 refused for good"));
    let metrics = std::fs::read_to_string(high.state_dir().join("metrics.prom")).unwrap();
    assert!(
        metrics.contains("penstock_high_listener_requests_bad_total{listener=\"hook\"} 2"),
        "{metrics}"
    );
    let arrived = finish(&crossing, agents, 2);
    let raw: Vec<_> = arrived.events.values().map(|event| event["raw"].clone()).collect();
    assert_eq!(raw, [event("a").into(), serde_json::Value::from("no json")]);
}

const SERVERS: u64 = 3;
const BATCHES: u64 = 250;
const ALERTS: u64 = 150;
const KILLS: u64 = 20;
