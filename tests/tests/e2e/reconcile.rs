//! What syslog lost is asked for at Portainer, and taken once. The real one needs a licence; the
//! stand-in says in its own words what it does and from where that is known.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::net::{SocketAddr, UdpSocket};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use nix::sys::signal::Signal;
use serde_json::Value;
use shared::bundle::{Limits, open, reopen};
use shared::clock::{Clock, SystemClock};
use shared::keys::{Identities, Trust};
use shared::record::Stream;
use tests::agents::{Pair, bundles_in};
use tests::crossing::received;
use tests::logs::assert_no_unlisted_errors;
use tests::peers::{ADMIN_KEY, Authority, Certificate, Kept, List, Portainer, USER_KEY};
use tests::process::{Cost, Process};
use tests::sandbox::{Sandbox, free_address};
use tests::wait::{PATIENCE, wait_until};

/// A high side that listens on UDP and asks a Portainer; and a low side's keys to read what it seals.
struct Scene {
    sandbox: Sandbox,
    pair: Pair,
    udp: SocketAddr,
    authority: Authority,
    server: Certificate,
}

/// A record as it crosses.
#[derive(Clone, Debug)]
struct Crossed {
    raw: String,
    stream: Stream,
    listener: String,
    peer: String,
    recovered: bool,
}

impl Scene {
    fn new(name: &str) -> Self {
        let sandbox = Sandbox::new(name);
        let pair = Pair::new(&sandbox, "plant-7");
        let authority = Authority::new(&sandbox.dir("ca"));
        let server = authority.server("portainer");
        Self { sandbox, pair, udp: free_address(), authority, server }
    }

    fn key_file(&self, key: &str) -> PathBuf {
        let path = self.sandbox.join("api.key");
        fs::write(&path, format!("{key}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        path
    }

    /// Configures the high side; `more` goes into the section.
    fn configure(&self, portainer: &Portainer, key: &str, more: &str) {
        let ca = self.authority.ca().display().to_string();
        self.configure_with(portainer, key, &ca, more);
    }

    fn configure_with(&self, portainer: &Portainer, key: &str, ca: &str, more: &str) {
        let url = portainer.url();
        let ca = if url.starts_with("https") { format!("ca = {ca:?}\n") } else { String::new() };
        self.pair.high.configure(&format!(
            "[seal]\nheartbeat = \"1d\"\n\
             [[listener]]\nname = \"udp\"\nprotocol = \"udp\"\nbind = \"{}\"\n\
             [[portainer-api]]\nname = \"asked\"\nurl = \"{url}\"\napi-key-file = {:?}\n{ca}\
             interval = \"1d\"\n{more}",
            self.udp,
            self.key_file(key).display().to_string(),
        ));
    }

    /// Starts the agent and waits for the end of the run with which it begins.
    fn start(&self) -> Process {
        let agent = self.pair.high.start();
        wait_until(PATIENCE, "the first run", || {
            let live = self.live();
            live["runs"].as_u64() >= Some(1) && live["running"] == false
        });
        agent
    }

    fn live(&self) -> Value {
        self.pair.high.status()["live"]["portainer-apis"][0].clone()
    }

    /// Sends messages by UDP and waits until they are durable.
    fn send(&self, messages: impl IntoIterator<Item = String>) {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let before = received(&self.pair.high.status());
        let mut sent = 0;
        for message in messages {
            socket.send_to(message.as_bytes(), self.udp).unwrap();
            sent += 1;
        }
        wait_until(PATIENCE, "all datagrams", || {
            received(&self.pair.high.status()) == before + sent
        });
    }

    /// The one report of a reconciliation that succeeds.
    fn reconcile<'a>(&self, more: impl IntoIterator<Item = &'a str>) -> Value {
        let verb = ["reconcile", "--json"].into_iter().chain(more);
        self.pair.high.json(verb)["portainers"][0].clone()
    }

    /// What a reconciliation says that fails.
    fn refused(&self) -> String {
        let done = self.pair.high.run(["reconcile", "--dry-run"]);
        assert_eq!(done.code, Some(1), "{}{}", done.stdout, done.stderr);
        for key in [ADMIN_KEY, USER_KEY] {
            assert!(!done.stderr.contains(key) && !done.stdout.contains(key), "{}", done.stderr);
        }
        done.stderr
    }

    /// Seals what waits and reads every bundle as a low side would.
    fn crossed(&self) -> Vec<Crossed> {
        self.pair.high.run(["seal"]).success();
        let keys = self.pair.low.dir().join("keys");
        let trust = Trust::load_dir(&keys).unwrap();
        let identities = Identities::load_dir(&keys).unwrap();
        let limits = Limits::default();
        let mut all = Vec::new();
        for path in bundles_in(&self.pair.high.outbox()) {
            let file = File::open(&path).unwrap();
            let verified =
                open(&file, &trust, &identities, &limits, SystemClock.now()).expect("a bundle");
            let mut reader = reopen(&file, &verified.digest(), &identities, &limits).unwrap();
            while let Some(record) = reader.next_record().unwrap() {
                all.push(Crossed {
                    raw: String::from_utf8(record.raw.to_vec()).unwrap(),
                    stream: record.stream,
                    listener: record.listener.decode(),
                    peer: record.peer.decode(),
                    recovered: record.recovered,
                });
            }
        }
        all
    }

    fn alarms(&self, kind: &str) -> usize {
        let status = self.pair.high.status();
        let alarms = status["alarms"].as_array().cloned().unwrap_or_default();
        alarms.iter().filter(|alarm| alarm["kind"] == kind).count()
    }
}

/// So many things happen, of both kinds, some of them twice in one second.
fn life(portainer: &Portainer, count: i64) -> Vec<Kept> {
    (0..count)
        .map(|n| {
            let ago = 600 - n / 3 * 2;
            match n % 4 {
                0 => portainer.happens(List::Auth, ago, &format!("user \"{}\"", n % 5), "1"),
                1 => portainer.happens(List::Auth, ago, "mallory<>", "2"),
                2 => portainer.happens(List::Activity, ago, "alice", "PUT /settings"),
                _ => {
                    let what = format!("POST /stacks?endpointId={}&type=2", n % 3);
                    portainer.happens(List::Activity, ago, "bob", &what)
                }
            }
        })
        .collect()
}

fn count(report: &Value, field: &str) -> u64 {
    report[field].as_u64().unwrap_or_else(|| panic!("no {field}: {report}"))
}

/// Every record of Portainer crossed once: by syslog if it was sent, else exactly as REST gives it.
fn assert_each_once(kept: &[Kept], sent: &[String], crossed: &[Crossed]) {
    let tally = |texts: &mut dyn Iterator<Item = String>| {
        let mut tally: BTreeMap<String, u32> = BTreeMap::new();
        texts.for_each(|text| *tally.entry(text).or_default() += 1);
        tally
    };
    let by_syslog = crossed.iter().filter(|record| !record.recovered);
    assert_eq!(
        tally(&mut by_syslog.map(|record| record.raw.clone())),
        tally(&mut sent.iter().cloned())
    );
    let recovered: Vec<&Crossed> = crossed.iter().filter(|record| record.recovered).collect();
    assert_eq!(recovered.len(), kept.len() - sent.len());
    // Twins can stand in for each other; everything else is exactly what was not sent.
    let twin = |record: &Kept| {
        let Kept { list, user, what, .. } = record;
        format!("{list:?} {user} {what}")
    };
    let of_rest: BTreeMap<String, &Kept> = kept.iter().map(|kept| (kept.rest(), kept)).collect();
    for record in &recovered {
        let kept = of_rest.get(&record.raw);
        let kept = kept.unwrap_or_else(|| panic!("not as REST gives it: {record:?}"));
        let stream = match kept.list {
            List::Auth => Stream::PortainerAuth,
            List::Activity => Stream::PortainerActivity,
        };
        assert_eq!((record.stream, record.listener.as_str()), (stream, "asked"));
        assert!(record.peer.starts_with("127.0.0.1:"), "{record:?}");
    }
    let was_sent =
        |record: &Kept| sent.contains(&record.published()) || sent.contains(&record.envelope());
    assert_eq!(
        tally(&mut recovered.iter().map(|record| twin(of_rest[&record.raw]))),
        tally(&mut kept.iter().filter(|record| !was_sent(record)).map(twin))
    );
}

#[test]
fn what_udp_lost_is_recovered_once_and_marked() {
    let scene = Scene::new("reconcile");
    let portainer = Portainer::start(Some(&scene.server));
    portainer.behave(|manners| manners.page_cap = Some(7));
    scene.configure(&portainer, ADMIN_KEY, "page-size = 20\nsettle = \"5m\"\n");
    let agent = scene.start();
    assert_eq!(received(&scene.pair.high.status()), 0);

    let kept = life(&portainer, 96);
    let sent: Vec<String> = kept
        .iter()
        .enumerate()
        .filter(|(n, _)| n % 2 == n / 8 % 2)
        .map(|(n, record)| if n % 3 == 0 { record.published() } else { record.envelope() })
        .collect();
    scene.send(sent.clone());
    portainer.happens(List::Activity, 1, "carol", "DELETE /users/9");

    let looked = scene.reconcile(["--dry-run", "--since", "1h"]);
    assert_eq!((count(&looked, "missing"), count(&looked, "recovered")), (48, 0), "{looked}");
    let report = scene.reconcile(["--since", "1h"]);
    assert_eq!(count(&report, "asked-auth") + count(&report, "asked-activity"), 96, "{report}");
    assert_eq!((count(&report, "matched"), count(&report, "recovered")), (48, 48), "{report}");
    assert_eq!((count(&report, "too-young"), count(&report, "malformed")), (1, 0), "{report}");

    // Records come in between two pages; nothing of what was there is taken again.
    portainer.behave(|manners| manners.arriving = Some("dave".to_owned()));
    let again = scene.reconcile(["--since", "1h"]);
    assert_eq!((count(&again, "matched"), count(&again, "recovered")), (96, 0), "{again}");
    assert!(portainer.kept().len() > 98);
    assert_eq!(scene.alarms("records-recovered"), 1);
    scene.pair.high.run(["acknowledge"]).success();

    // Both files are written once a second.
    wait_until(PATIENCE, "the live status", || scene.live()["recovered"] == 48);
    assert_eq!(scene.alarms("records-recovered"), 0, "told once");
    wait_until(PATIENCE, "the metrics", || {
        fs::read_to_string(scene.pair.high.state_dir().join("metrics.prom")).is_ok_and(|metrics| {
            metrics
                .contains("penstock_high_reconcile_recovered_records_total{portainer=\"asked\"} 48")
        })
    });
    assert!(agent.stop(PATIENCE).success());
    assert_each_once(&kept, &sent, &scene.crossed());
    assert_no_unlisted_errors(&scene.pair.high.log_path(), &[]);
    let shown = scene.pair.high.run(["status"]).success();
    assert!(shown.contains("asked: asked 96 records, matched 96, recovered 0"), "{shown}");
}

#[test]
fn without_an_agent_the_command_does_it_itself() {
    let scene = Scene::new("reconcile-alone");
    let portainer = Portainer::start(None);
    portainer.behave(|manners| manners.auth_in_object = true);
    scene.configure(&portainer, ADMIN_KEY, "");
    assert!(scene.start().stop(PATIENCE).success());
    let kept = life(&portainer, 40);
    let looked = scene.reconcile(["--dry-run"]);
    assert_eq!((count(&looked, "missing"), count(&looked, "recovered")), (40, 0), "{looked}");
    assert_eq!(received(&scene.pair.high.status()), 0);
    let report = scene.reconcile([]);
    assert_eq!((count(&report, "matched"), count(&report, "recovered")), (0, 40), "{report}");
    let again = scene.reconcile([]);
    assert_eq!((count(&again, "matched"), count(&again, "recovered")), (40, 0), "{again}");
    assert_each_once(&kept, &[], &scene.crossed());
}

#[test]
fn killed_between_insertion_and_mark_nothing_is_taken_twice() {
    let scene = Scene::new("reconcile-kill");
    let portainer = Portainer::start(Some(&scene.server));
    let kept = life(&portainer, 40);
    let auth = kept.iter().filter(|record| record.list == List::Auth).count() as u64;
    // The first list of activities is compared, the second is to be taken: then the logins are in.
    portainer.behave(|manners| manners.stall_at = Some((List::Activity, 2)));
    scene.configure(&portainer, ADMIN_KEY, "");
    let agent = scene.pair.high.start();
    wait_until(PATIENCE, "the run to hang", || portainer.is_stalled());
    wait_until(PATIENCE, "the logins in the buffer", || {
        received(&scene.pair.high.status()) == auth
    });
    agent.kill();
    portainer.behave(|manners| manners.stall_at = None);
    let agent = scene.start();
    assert_eq!(scene.live()["last"]["recovered"], 40 - auth, "{}", scene.live());
    assert_eq!(scene.live()["last"]["matched"], auth, "{}", scene.live());
    let status = scene.pair.high.status();
    let told = status["alarms"][0]["message"].as_str().unwrap_or_default();
    assert!(told.starts_with("40 record(s)"), "what was taken before the crash is told: {status}");
    assert!(agent.stop(PATIENCE).success());
    assert_each_once(&kept, &[], &scene.crossed());
}

#[test]
fn an_agent_killed_during_an_order_is_told_and_the_order_is_gone() {
    let scene = Scene::new("reconcile-order");
    let portainer = Portainer::start(Some(&scene.server));
    scene.configure(&portainer, ADMIN_KEY, "");
    let agent = scene.start();
    life(&portainer, 8);
    portainer.behave(|manners| manners.stall_at = Some((List::Activity, 1)));
    let mut command = scene.pair.high.command(["reconcile", "--since", "1h"]);
    let mut asking = Process::spawn(&mut command, "asking", scene.sandbox.path());
    wait_until(PATIENCE, "the run to hang", || portainer.is_stalled());
    agent.signal(Signal::SIGKILL);
    assert_eq!(asking.wait(PATIENCE).code(), Some(1));
    assert!(asking.log().contains("the agent stopped before"), "{}", asking.log());
    drop(agent);
    portainer.behave(|manners| manners.stall_at = None);
    let agent = scene.start();
    let report = scene.reconcile(["--since", "1h"]);
    assert_eq!(count(&report, "matched") + count(&report, "recovered"), 8, "{report}");
    assert_eq!(received(&scene.pair.high.status()), 8);
    assert!(agent.stop(PATIENCE).success());
}

#[test]
fn whoever_is_not_that_portainer_gets_no_key() {
    let scene = Scene::new("reconcile-trust");
    let strangers = Authority::new(&scene.sandbox.dir("strangers"));
    let portainer = Portainer::start(Some(&scene.server));
    scene.configure(&portainer, ADMIN_KEY, "");
    assert!(scene.start().stop(PATIENCE).success());
    let asked = portainer.requests().len();

    let ca = strangers.ca().display().to_string();
    scene.configure_with(&portainer, ADMIN_KEY, &ca, "");
    let message = scene.refused();
    assert!(message.contains("can't prove who it is") && message.contains("`ca`"), "{message}");
    assert_eq!(portainer.requests().len(), asked, "nothing was asked");

    let elsewhere = Portainer::start(None);
    let to = format!("{}/api/useractivity/authlogs", elsewhere.url());
    portainer.behave(|manners| manners.redirect_to = Some(to.clone()));
    scene.configure(&portainer, ADMIN_KEY, "");
    let message = scene.refused();
    assert!(message.contains("307") && message.contains(&to), "{message}");
    assert_eq!(elsewhere.requests(), [""; 0]);

    // Over the network the key is not sent unencrypted.
    scene.pair.high.configure(&format!(
        "[[portainer-api]]\nname = \"asked\"\nurl = \"http://192.0.2.1:9000\"\napi-key-file = {:?}\n",
        scene.key_file(ADMIN_KEY).display().to_string()
    ));
    let done = scene.pair.high.run(["check-config"]);
    assert!(done.code == Some(78) && done.stderr.contains("plain http"), "{}", done.stderr);
}

#[test]
fn a_refusal_says_what_to_do() {
    let scene = Scene::new("reconcile-refused");
    let portainer = Portainer::start(None);
    scene.configure(&portainer, ADMIN_KEY, "");
    assert!(scene.start().stop(PATIENCE).success());
    for (key, community, status, advice) in [
        (USER_KEY, false, "403", "administrator"),
        ("ptr_nobody", false, "401", "api-key-file"),
        (ADMIN_KEY, true, "404", "Business Edition"),
    ] {
        portainer.behave(|manners| manners.community = community);
        scene.configure(&portainer, key, "");
        let message = scene.refused();
        assert!(message.contains(status) && message.contains(advice), "{message}");
    }
    // Nobody is there at all.
    drop(portainer);
    let message = scene.refused();
    assert!(message.contains("can't reach"), "{message}");
}

#[test]
fn an_answer_without_end_is_not_read_to_its_end() {
    let scene = Scene::new("reconcile-endless");
    let portainer = Portainer::start(None);
    scene.configure(&portainer, ADMIN_KEY, "");
    let agent = scene.start();
    portainer.behave(|manners| manners.endless = true);
    let done = scene.pair.high.run(["reconcile"]);
    assert_eq!(done.code, Some(1), "{}{}", done.stdout, done.stderr);
    assert!(done.stderr.contains("more than 33554432 bytes"), "{}", done.stderr);
    let memory = Cost::of(agent.id()).memory_bytes_max;
    assert!(memory < 256 << 20, "{memory} bytes");
    portainer.behave(|manners| manners.endless = false);
    scene.reconcile([]);
    assert!(agent.stop(PATIENCE).success());
}

#[test]
fn malformed_records_are_named_and_the_others_taken() {
    let scene = Scene::new("reconcile-malformed");
    let portainer = Portainer::start(None);
    portainer.behave(|manners| {
        manners.odd_items =
            vec!["7".to_owned(), "{\"id\":5,\"action\":\"PUT /settings\"}".to_owned()];
    });
    scene.configure(&portainer, ADMIN_KEY, "");
    let kept = life(&portainer, 8);
    let agent = scene.start();
    let last = scene.live()["last"].clone();
    assert_eq!((count(&last, "recovered"), count(&last, "malformed")), (8, 4), "{last}");
    let examples = last["malformed-examples"].to_string();
    assert!(examples.contains("no object") && examples.contains("no timestamp"), "{examples}");
    assert!(agent.stop(PATIENCE).success());
    assert_each_once(&kept, &[], &scene.crossed());
}

#[test]
fn clocks_that_differ_do_not_matter_and_a_long_silence_is_told() {
    let scene = Scene::new("reconcile-clock");
    let portainer = Portainer::start(None);
    portainer.behave(|manners| manners.clock_ahead = 3600);
    scene.configure(&portainer, ADMIN_KEY, "");
    let agent = scene.start();
    let kept = life(&portainer, 20);
    let sent: Vec<String> = kept.iter().skip(10).map(Kept::published).collect();
    scene.send(sent.clone());
    let report = scene.reconcile(["--since", "1h"]);
    assert_eq!((count(&report, "matched"), count(&report, "recovered")), (10, 10), "{report}");
    let ahead = report["clock-ahead-secs"].as_i64().unwrap();
    assert!((3595..=3605).contains(&ahead), "{report}");
    assert!(report["notes"].to_string().contains("clock"), "{report}");
    assert_eq!(scene.alarms("reconcile-overdue"), 0);

    // Eight days later it has deleted what it had, and nobody can say what was lost in the meantime.
    portainer.behave(|manners| manners.clock_ahead += 8 * 24 * 3600);
    let report = scene.reconcile([]);
    assert_eq!(count(&report, "recovered"), 0, "{report}");
    assert!(report["notes"].to_string().contains("7 days"), "{report}");
    assert_eq!(portainer.kept().len(), 0);
    assert_eq!(scene.alarms("reconcile-overdue"), 1);
    scene.reconcile([]);
    assert_eq!(scene.alarms("reconcile-overdue"), 1, "told once");
    assert!(agent.stop(PATIENCE).success());
    assert_each_once(&kept, &sent, &scene.crossed());
}

#[test]
fn a_portainer_that_is_silent_for_long_is_an_alarm() {
    let scene = Scene::new("reconcile-silent");
    let portainer = Portainer::start(None);
    scene.configure(&portainer, ADMIN_KEY, "alarm-after = \"1s\"\n");
    let agent = scene.start();
    drop(portainer);
    wait_until(PATIENCE, "the alarm", || {
        let done = scene.pair.high.run(["reconcile"]);
        assert_eq!(done.code, Some(1), "{}", done.stderr);
        scene.alarms("reconcile-overdue") == 1
    });
    assert_eq!(scene.pair.high.run(["reconcile"]).code, Some(1));
    assert_eq!(scene.alarms("reconcile-overdue"), 1, "told once");
    // The agent writes its report once a second.
    wait_until(PATIENCE, "the trouble in the status", || {
        let shown = scene.pair.high.run(["status"]).success();
        shown.contains("TROUBLE Portainer asked: can't reach")
    });
    assert!(agent.stop(PATIENCE).success());

    // It is there again, and the alarm is acknowledged.
    let portainer = Portainer::start(None);
    scene.configure(&portainer, ADMIN_KEY, "alarm-after = \"1m\"\n");
    let agent = scene.start();
    scene.reconcile([]);
    assert_eq!(scene.alarms("reconcile-overdue"), 1);
    scene.pair.high.run(["acknowledge"]).success();
    scene.reconcile([]);
    assert_eq!(scene.alarms("reconcile-overdue"), 0);
    assert!(agent.stop(PATIENCE).success());
}

#[test]
fn what_came_before_reconciliation_was_set_up_is_not_taken_for_missing() {
    let scene = Scene::new("reconcile-later");
    let portainer = Portainer::start(None);
    let kept = life(&portainer, 12);
    scene.configure(&portainer, ADMIN_KEY, "");
    // The same site before that: syslog alone.
    let with_section = fs::read_to_string(scene.pair.high.config()).unwrap();
    let (before, _) = with_section.split_once("[[portainer-api]]").unwrap();
    fs::write(scene.pair.high.config(), before).unwrap();
    let agent = scene.pair.high.start();
    let sent: Vec<String> = kept.iter().map(Kept::published).collect();
    scene.send(sent.clone());
    assert!(agent.stop(PATIENCE).success());
    let done = scene.pair.high.run(["reconcile"]);
    assert_eq!(done.code, Some(78), "{}", done.stderr);

    fs::write(scene.pair.high.config(), with_section).unwrap();
    let agent = scene.start();
    let report = scene.reconcile(["--since", "7d"]);
    assert_eq!(count(&report, "recovered"), 0, "{report}");
    assert!(report["notes"].to_string().contains("nobody noted"), "{report}");
    assert!(agent.stop(PATIENCE).success());
    assert_each_once(&kept, &sent, &scene.crossed());
}
