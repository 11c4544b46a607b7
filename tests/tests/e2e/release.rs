//! Reviewed release: nothing leaves before officers have read what is inside and signed.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;
use tests::agents::{Site, bundles_in, program};
use tests::crossing::{Crossing, assert_sound, assert_unaltered};
use tests::peers::peer;
use tests::process::{Done, run};
use tests::sandbox::Sandbox;
use tests::wait::{PATIENCE, wait_until};

const RECORDS: u64 = 60;
const IN_BUNDLE: u64 = 20;

/// An officer's folder of keys, made as an officer makes it.
fn officer(sandbox: &Sandbox, name: &str) -> PathBuf {
    let dir = sandbox.join(format!("officer-{name}"));
    let mut command = Command::new(program("penstock-high"));
    command.args(["officer", "init", "--name", name, "--dir"]).arg(&dir);
    let line = run(&mut command).success();
    assert_eq!(line, fs::read_to_string(dir.join("officer.pub")).unwrap());
    dir
}

fn text(path: &Path) -> &str {
    path.to_str().expect("the sandbox has a plain path")
}

fn add(site: &Site, officer: &Path) {
    site.run(["officer", "add", text(&officer.join("officer.pub"))]).success();
}

/// A high side that demands two officers, and a low side that does too.
struct Reviewed {
    crossing: Crossing,
    officers: Vec<PathBuf>,
}

impl Reviewed {
    fn new(name: &str) -> Self {
        let crossing = Crossing::new(name);
        let officers: Vec<_> =
            ["alice", "bob", "carol"].map(|name| officer(&crossing.sandbox, name)).into();
        let reviewed = Self { crossing, officers };
        reviewed.configure("reviewed", 2, 2);
        for officer in &reviewed.officers {
            add(reviewed.high(), officer);
            add(reviewed.low(), officer);
        }
        reviewed
    }

    fn configure(&self, mode: &str, required: usize, demanded: usize) {
        let crossing = &self.crossing;
        let seal = Crossing::seal_soon(IN_BUNDLE);
        self.high().configure(&format!(
            "{seal}[release]\nmode = \"{mode}\"\nrequired = {required}\n{}{}",
            crossing.listener(),
            crossing.handoff()
        ));
        self.low().configure(&format!(
            "{}[release]\nrequired = {demanded}\n{}",
            Crossing::quick_inbox(),
            crossing.file_sink()
        ));
    }

    fn high(&self) -> &Site {
        &self.crossing.pair.high
    }

    fn low(&self) -> &Site {
        &self.crossing.pair.low
    }

    /// Sends all records, in groups: a bundle ends where a group ends that was committed.
    fn fill(&self) {
        for first in (1..=RECORDS).step_by(IN_BUNDLE as usize) {
            self.crossing.send(first..first + IN_BUNDLE);
            self.crossing.wait_committed(first + IN_BUNDLE - 1);
        }
    }

    /// Fills the buffer and seals, without an agent running afterwards.
    fn seal(&self) {
        let agent = self.high().start();
        self.fill();
        wait_until(PATIENCE, "all records sealed", || {
            let status = self.high().status();
            tests::crossing::buffered(&status) == 0 && count(&status, "planned") == 0
        });
        assert!(agent.stop(PATIENCE).success());
    }

    fn waiting(&self) -> Vec<String> {
        let waiting = self.high().json(["review", "--json"]);
        let list = waiting["waiting"].as_array().unwrap().iter();
        list.map(|bundle| bundle["file"].as_str().unwrap().to_owned()).collect()
    }

    fn release(&self, bundle: &str, officer: usize) -> Done {
        self.high().run(["release", bundle, "--key", text(&self.officers[officer]), "--yes"])
    }
}

fn count(status: &Value, state: &str) -> u64 {
    status["bundles"][state]["count"].as_u64().unwrap()
}

#[test]
fn two_of_three_officers_let_a_bundle_leave_and_nothing_leaves_before() {
    let site = Reviewed::new("release");
    let (high, low) = (site.high(), site.low());
    for of in [high, low] {
        of.run(["check-config"]).success();
    }
    let agents = [high.start(), low.start()];
    site.fill();
    wait_until(PATIENCE, "all bundles waiting", || {
        let status = high.status();
        tests::crossing::buffered(&status) == 0
            && ["planned", "sealed"].iter().all(|state| count(&status, state) == 0)
    });
    let waiting = site.waiting();
    assert!(waiting.len() >= 3, "{waiting:?}");
    let outbox = || bundles_in(&high.outbox()).len() + bundles_in(&low.inbox()).len();
    let medium = site.crossing.sandbox.dir("medium");
    high.run(["export", text(&medium), "--all"]).success();
    assert_eq!((outbox(), bundles_in(&medium).len()), (0, 0), "nothing may be where it is taken");

    // Nobody reads a summary without an officer's key, and nobody else can release.
    let stranger = officer(&site.crossing.sandbox, "mallory");
    let first = waiting[0].as_str();
    let done = high.run(["review", first, "--key", text(&stranger)]);
    assert!(done.code == Some(1) && done.stderr.contains("can't decrypt"), "{done:?}");
    let done = high.run(["release", first, "--key", text(&stranger), "--yes"]);
    assert!(done.code == Some(1) && done.stderr.contains("no officer here"), "{done:?}");
    // One who becomes an officer now can't decrypt what was sealed before, and so can't release it.
    add(high, &stranger);
    let done = high.run(["release", first, "--key", text(&stranger), "--yes"]);
    assert!(done.code == Some(1) && done.stderr.contains("can't decrypt"), "{done:?}");
    high.run(["officer", "remove", "mallory"]).success();

    // Every summary is read, and what it counts is what was sent.
    let key = text(&site.officers[0]);
    let read = high.json(["review", "--all", "--key", key, "--json"]);
    let records: u64 =
        read["summaries"].as_array().unwrap().iter().map(|s| s["records"].as_u64().unwrap()).sum();
    assert_eq!(records, RECORDS);
    let shown = high.run(["review", first, "--key", key]).success();
    assert!(shown.contains("records drawn at random") && shown.contains("evt-"), "{shown}");
    // Without --yes nothing is released.
    let done = high.run(["release", first, "--key", key]);
    assert!(done.code == Some(64) && done.stderr.contains("--yes"), "{done:?}");

    for bundle in &waiting {
        site.release(bundle, 0).success();
        // The same officer twice is one officer.
        let again = site.release(bundle, 0).success();
        assert!(again.contains("waits for more"), "{again}");
    }
    assert_eq!((outbox(), site.waiting().len()), (0, waiting.len()));
    for (at, bundle) in waiting.iter().enumerate() {
        let said = site.release(bundle, 1 + at % 2).success();
        assert!(said.contains("may leave now"), "{said}");
    }
    assert_eq!(site.crossing.wait_drained(), RECORDS);
    assert_unaltered(&assert_sound(&site.crossing.events()));
    wait_until(PATIENCE, "the agent to tell", || {
        let log = fs::read_to_string(high.log_path()).unwrap();
        log.matches("an officer released a bundle").count() == 2 * waiting.len()
    });
    let log = fs::read_to_string(low.log_path()).unwrap();
    assert!(log.contains("alice, bob") && log.contains("alice, carol"), "{log}");
    for agent in agents {
        assert!(agent.stop(PATIENCE).success());
    }
    let review = high.outbox().join(".review");
    assert_eq!(fs::read_dir(review).unwrap().count(), 0, "nothing is left where bundles wait");
    let known = high.json(["bundles", "--json"]);
    assert_eq!(known["bundles"][0]["releases"][0]["officer"], "alice");
}

#[test]
fn the_agent_alone_releases_nothing_and_revoked_officers_do_not_count() {
    let site = Reviewed::new("release-alone");
    let (high, low) = (site.high(), site.low());
    site.seal();
    let waiting = site.waiting();
    // Somebody with all that the agent has takes a bundle from where it waits.
    let taken = site.crossing.sandbox.join("taken.pstk");
    fs::copy(high.outbox().join(".review").join(&waiting[0]), &taken).unwrap();
    let verify = |file: &Path| low.run(["verify", text(file)]);
    let refused = |done: Done| assert!(done.stderr.contains("release-missing"), "{done:?}");
    refused(verify(&taken));
    // It switches the review off and seals anew: still no officer has signed.
    site.configure("automatic", 1, 2);
    let agent = high.start();
    site.crossing.send(RECORDS + 1..RECORDS + 21);
    wait_until(PATIENCE, "a bundle on its way", || !bundles_in(&low.inbox()).is_empty());
    assert!(agent.stop(PATIENCE).success());
    refused(verify(&bundles_in(&low.inbox())[0]));
    // It makes an officer of its own.
    let own = officer(&site.crossing.sandbox, "agent");
    add(high, &own);
    site.configure("reviewed", 1, 2);
    let done = high.run(["release", &waiting[0], "--key", text(&own), "--yes"]);
    assert!(done.stderr.contains("can't decrypt"), "{done:?}");
    // A key that seals can't become an officer's, on neither side.
    for (of, name) in [(high, "release-high"), (low, "release-low")] {
        let fake = site.crossing.sandbox.dir(name);
        let signing = high.dir().join("keys/signing.key");
        let half = forge_half("eve", &signing, &own);
        fs::write(fake.join("eve.pub"), half).unwrap();
        let done = of.run(["officer", "add", text(&fake.join("eve.pub"))]);
        assert_eq!(done.code, Some(78), "{done:?}");
        assert!(done.stderr.contains("who seals must not release"), "{done:?}");
    }

    // One real officer is enough for this high side now, but not for the low side.
    site.release(&waiting[0], 0).success();
    let released = high.outbox().join(&waiting[0]);
    refused(verify(&released));
    site.configure("reviewed", 1, 1);
    let verified = low.json(["verify", text(&released), "--json"]);
    assert_eq!(verified["releases"][0]["officer"], "alice", "{verified}");
    low.run(["officer", "revoke", "alice"]).success();
    refused(verify(&released));
    let listed = low.run(["officer", "list"]).success();
    assert!(listed.contains("revoked"), "{listed}");
    // A low side that demands nothing takes both.
    site.configure("reviewed", 1, 0);
    verify(&released).success();
    verify(&taken).success();
    // An officer who was removed does not count on the high side either.
    high.run(["officer", "remove", "bob"]).success();
    let done = site.release(&waiting[1], 1);
    assert!(done.stderr.contains("no officer here"), "{done:?}");
}

/// The public half of an officer who has another's signing key: made by hand, fingerprint and all.
fn forge_half(name: &str, signing: &Path, officer: &Path) -> String {
    use sha2::{Digest, Sha256};
    let key = run(Command::new("ssh-keygen").args(["-y", "-f"]).arg(signing)).success();
    let line = fs::read_to_string(officer.join("officer.pub")).unwrap();
    let recipient = line.split_whitespace().nth(4).unwrap();
    let begin = format!("penstock-officer-1 {name} {} {recipient}", key.trim());
    let groups: Vec<String> = Sha256::digest(&begin)
        .chunks_exact(4)
        .map(|part| u64::from(u32::from_be_bytes(part.try_into().unwrap())))
        .map(|value| format!("{:05}", (value * 100_000) >> 32))
        .collect();
    format!("{begin} {}\n", groups.join("-"))
}

#[test]
fn officers_who_work_elsewhere_exchange_files_and_may_refuse() {
    let site = Reviewed::new("release-files");
    let high = site.high();
    site.seal();
    let waiting = site.waiting();
    let desk = site.crossing.sandbox.dir("desk");
    high.run(["review", "--export", text(&desk)]).success();
    // The officers' machines have no configuration.
    let elsewhere = |words: &[&str]| run(Command::new(program("penstock-high")).args(words));
    let at_desk = |verb: &str, officer: usize, more: &[&str]| {
        let key = text(&site.officers[officer]);
        elsewhere(&[&[verb, "--from", text(&desk), "--all", "--key", key], more].concat())
    };
    at_desk("review", 0, &[]).success();
    for officer in [0, 2] {
        let files = at_desk("release", officer, &["--yes"]).success();
        let files: Vec<&str> = files.lines().collect();
        assert_eq!(files.len(), waiting.len());
        // One that was changed on its way is not taken in.
        let honest = fs::read_to_string(files[0]).unwrap();
        fs::write(files[0], honest.replacen("summary ", "summary 0", 1)).unwrap();
        assert_eq!(high.run(["release", "--signature", files[0]]).code, Some(1));
        fs::write(files[0], honest).unwrap();
        // The last bundle gets one release only.
        let some = &files[..files.len() - 1];
        high.run([&["release", "--signature"], some].concat()).success();
    }
    assert_eq!(site.waiting(), waiting[waiting.len() - 1..]);
    assert_eq!(bundles_in(&high.outbox()).len(), waiting.len() - 1);

    let last = waiting.last().unwrap().as_str();
    let key = text(&site.officers[1]);
    let reason = "names a person \u{1b}[31m";
    high.run(["release", last, "--refuse", "--reason", reason, "--key", key, "--yes"]).success();
    assert!(site.waiting().is_empty());
    let status = high.status();
    assert_eq!(count(&status, "refused"), 1);
    assert_eq!(status["alarms"][0]["kind"], "release-refused");
    let alarm = status["alarms"][0]["message"].as_str().unwrap();
    assert!(alarm.starts_with("bob refused") && !alarm.contains('\u{1b}'), "{alarm}");
    let done = site.release(last, 0);
    assert!(done.code == Some(1) && done.stderr.contains("no bundle that waits"), "{done:?}");
    assert_eq!(high.status()["adds-up"], true);
    // Whoever asks the officer reads the reason, and the low side closes its gap.
    assert!(alarm.contains("names a person"), "{alarm}");
    high.run(["acknowledge"]).success();
    let (low, _agents) = (site.low(), [high.start(), site.low().start()]);
    site.crossing.send(RECORDS + 1..RECORDS + 21);
    wait_until(PATIENCE, "another bundle", || !site.waiting().is_empty());
    for officer in [0, 2] {
        site.release(&site.waiting()[0], officer).success();
    }
    let mut gap = Value::Null;
    wait_until(PATIENCE, "the gap", || {
        gap = low.json(["gaps", "--json"])[0]["id"].clone();
        !gap.is_null()
    });
    low.run(["gaps", "--pass", &gap.to_string()]).success();
    wait_until(PATIENCE, "what is behind it", || {
        let status = low.status();
        status["records"].as_u64() > Some(20) && tests::crossing::pending(&status) == 0
    });
    assert_eq!(high.status()["alarms"], Value::Array(vec![]));
}

#[test]
fn what_waits_too_long_raises_one_alarm_and_too_few_officers_keep_it_in_the_buffer() {
    let site = Reviewed::new("release-overdue");
    let high = site.high();
    high.run(["officer", "remove", "carol"]).success();
    high.run(["officer", "remove", "bob"]).success();
    let done = high.run(["check-config"]);
    assert!(done.code == Some(78) && done.stderr.contains("release.required"), "{done:?}");
    let agent = high.start();
    site.crossing.send(1..RECORDS + 1);
    site.crossing.wait_committed(RECORDS);
    wait_until(PATIENCE, "the sealer to say why", || {
        let trouble = high.status()["live"]["sealer-trouble"].as_str().unwrap_or("").to_owned();
        trouble.contains("officer(s) are known")
    });
    assert_eq!(tests::crossing::buffered(&high.status()), RECORDS);
    add(high, &site.officers[1]);
    agent.signal(nix::sys::signal::Signal::SIGHUP);
    wait_until(PATIENCE, "bundles to wait", || tests::crossing::buffered(&high.status()) == 0);
    assert!(agent.stop(PATIENCE).success());
    // A start looks at once for what is overdue.
    let agent = high.start();
    wait_until(PATIENCE, "an alarm", || {
        let status = high.status();
        let alarms = status["alarms"].as_array().unwrap().iter();
        alarms.filter(|alarm| alarm["kind"] == "release-overdue").count() == 1
    });
    // The officers are called.
    let _low = site.low().start();
    for bundle in site.waiting() {
        for officer in [0, 1] {
            site.release(&bundle, officer).success();
        }
    }
    assert_eq!(site.crossing.wait_drained(), RECORDS);
    high.run(["acknowledge"]).success();
    assert!(agent.stop(PATIENCE).success());
    assert!(high.start().stop(PATIENCE).success());
    assert_eq!(alarm(high, "release-overdue"), None);
}

/// What the page says of bundles that waited when the buffer was lost, to its end: officers read their
/// summaries with stock tools, and an administrator of the low side takes them in.
#[test]
fn what_waited_for_officers_when_the_buffer_was_lost_can_not_be_released_and_is_brought_by_hand() {
    let site = Reviewed::new("release-stranded");
    let (high, low) = (site.high(), site.low());
    site.seal();
    let waiting = site.waiting();
    assert!(waiting.len() >= 3, "{waiting:?}");
    for officer in [0, 1] {
        site.release(&waiting[0], officer).success();
    }
    let [agent, _low] = [high.start(), low.start()];
    let delivered = || low.status()["sinks"][0]["delivered"].as_u64().unwrap_or(0);
    wait_until(PATIENCE, "the first bundle", || delivered() > 0);
    let crossed = delivered();
    agent.kill();
    for name in ["buffer.db", "buffer.db-wal", "buffer.db-shm"] {
        let _ = fs::remove_file(high.state_dir().join(name));
    }
    let agent = high.start();
    let mut told = Value::Null;
    wait_until(PATIENCE, "the alarm", || {
        told = alarm(high, "release-stranded").unwrap_or_default();
        !told.is_null()
    });
    let stranded = &waiting[1..];
    let named = told["message"].as_str().unwrap();
    assert!(stranded.iter().all(|name| named.contains(name)), "{named}");
    // Nobody can release them: what counts the officers is gone.
    let done = site.release(&stranded[0], 0);
    assert!(done.code == Some(1) && done.stderr.contains("no bundle that waits"), "{done:?}");

    // The high side goes on in a new epoch. The low side can't know what the old one had still to send.
    site.crossing.send(RECORDS + 1..RECORDS + 21);
    wait_until(PATIENCE, "a bundle of the new epoch", || !site.waiting().is_empty());
    for officer in [0, 1] {
        site.release(&site.waiting()[0], officer).success();
    }
    wait_until(PATIENCE, "the new epoch", || delivered() > crossed);
    assert_eq!(low.json(["gaps", "--json"]), Value::Array(vec![]));

    let review = high.outbox().join(".review");
    let mut records = 0;
    let emergency = site.crossing.sandbox.join("emergency.toml");
    let config = fs::read_to_string(low.config()).unwrap();
    fs::write(&emergency, config.replacen("required = 2", "required = 0", 1)).unwrap();
    for name in stranded {
        let mut age = peer("age");
        age.arg("-d").arg("-i").arg(site.officers[0].join("officer.age"));
        let summary = run(age.arg(review.join(format!("{name}.summary")))).success();
        let summary: Value = serde_json::from_str(&summary).unwrap();
        records += summary["records"].as_u64().unwrap();

        let refused = low.run(["import", text(&review.join(name))]);
        assert!(
            refused.code == Some(65) && refused.stderr.contains("release-missing"),
            "{refused:?}"
        );
        let mut import = Command::new(program("penstock-low"));
        import.arg("--config").arg(&emergency).arg("import").arg(review.join(name));
        run(&mut import).success();
        fs::remove_file(review.join(name)).unwrap();
        fs::remove_file(review.join(format!("{name}.summary"))).unwrap();
    }
    assert_eq!(crossed + records, RECORDS);
    wait_until(PATIENCE, "what was brought", || delivered() == RECORDS + 20);
    high.run(["acknowledge", &told["id"].to_string()]).success();
    assert!(agent.stop(PATIENCE).success());
    let _agent = high.start();
    let told_again = alarm(high, "release-stranded");
    assert!(told_again.is_none(), "{told_again:?}");
    let arrived = assert_sound(&site.crossing.events());
    assert_unaltered(&arrived);
    assert_eq!(arrived.ids.len() as u64, RECORDS + 20);
}

fn alarm(site: &Site, kind: &str) -> Option<Value> {
    let status = site.status();
    status["alarms"].as_array()?.iter().find(|alarm| alarm["kind"] == kind).cloned()
}
