//! The exit codes of both programs, and that a failure says what to try.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use tests::agents::{Site, bundles_in};
use tests::crossing::Crossing;
use tests::wait::PATIENCE;

fn expect(site: &Site, words: &[&str], code: i32, says: &str) {
    let done = site.run(words.iter().copied());
    assert_eq!(done.code, Some(code), "{words:?}: {done:?}");
    assert!(done.stderr.contains(says), "{words:?} does not say {says:?}: {}", done.stderr);
    assert!(!done.stderr.contains("panicked"), "{words:?}: {}", done.stderr);
}

#[test]
fn every_failure_has_its_exit_code() {
    let crossing = Crossing::new("codes");
    let (high, low) = (&crossing.pair.high, &crossing.pair.low);
    high.configure(&crossing.listener());
    low.configure(&crossing.file_sink());
    let agent = high.start();
    crossing.send(1..11);
    assert!(agent.stop(PATIENCE).success());
    let medium = crossing.sandbox.dir("medium");
    let path = |name: &str| crossing.sandbox.join(name).to_str().unwrap().to_owned();
    let medium_path = path("medium");

    for (words, code, says) in [
        (&["check-config"][..], 0, "in order"),
        (&["status"], 0, ""),
        (&["status", "--json"], 0, ""),
        (&["check-buffer"], 0, ""),
        (&["seal"], 0, ""),
        (&["seal", "--lane", "fast"], 64, "lane"),
        (&["seal", "--now"], 64, "--now"),
        (&["nonsense"], 64, "nonsense"),
        (&[], 64, "Usage"),
        (&["export"], 64, "DEST"),
        (&["export", &path("nowhere")], 74, "nowhere"),
        (&["export", &medium_path], 0, ""),
        (&["pair", &path("nowhere")], 78, "nowhere"),
        (&["init", "--origin", "No Such Name"], 64, ""),
        (&["--help"], 0, ""),
        (&["completions", "bash"], 0, ""),
        (&["--config", &path("nowhere.toml"), "status"], 78, "nowhere.toml"),
    ] {
        // The site gives --config already, which can be given once.
        if words.first() == Some(&"--config") {
            let mut other = std::process::Command::new(tests::agents::program("penstock-high"));
            let done = tests::process::run(other.args(words));
            assert_eq!(done.code, Some(code), "{done:?}");
            assert!(done.stderr.contains(says), "{done:?}");
        } else {
            expect(high, words, code, says);
        }
    }

    let bundle = bundles_in(&medium).remove(0);
    let good = bundle.to_str().unwrap();
    let mut bytes = fs::read(&bundle).unwrap();
    bytes.truncate(bytes.len() / 2);
    fs::write(crossing.sandbox.join("half.pstk"), bytes).unwrap();
    fs::write(crossing.sandbox.join("empty.pstk"), "").unwrap();
    for (words, code, says) in [
        (&["check-config"][..], 0, "in order"),
        (&["check", "file"], 0, "read back"),
        (&["inspect", good], 0, ""),
        (&["verify", good], 0, ""),
        (&["verify", &path("half.pstk")], 65, "container-malformed"),
        (&["verify", &path("nowhere")], 74, "nowhere"),
        (&["verify", &medium_path], 65, "medium"),
        (&["inspect", &path("empty.pstk")], 65, "container-malformed"),
        (&["import", &path("half.pstk")], 65, "container-malformed"),
        (&["import", &path("nowhere")], 74, "nowhere"),
        // A regular file whose first byte gives EIO.
        (&["import", "/proc/self/mem"], 74, "can't be read"),
        (&["import"], 64, "PATHS"),
        (&["import", good], 0, ""),
        (&["import", good], 0, ""),
        (&["import", &path("half.pstk"), good], 65, "container-malformed"),
        (&["gaps"], 0, ""),
        (&["gaps", "--pass", "99"], 1, "99"),
        (&["alarms"], 0, ""),
        (&["acknowledge", "99"], 1, "99"),
        (&["quarantine", "show", "ffff"], 1, "ffff"),
        (&["quarantine", "retry", "--all"], 65, ""),
        (&["quarantine"], 64, ""),
        (&["status", "--jsno"], 64, "--jsno"),
        (&["pair", &path("half.pstk")], 78, "half.pstk"),
    ] {
        expect(low, words, code, says);
    }
}

#[test]
fn a_wrong_configuration_is_78_and_every_problem_is_named_at_once() {
    let crossing = Crossing::new("config");
    let (high, low) = (&crossing.pair.high, &crossing.pair.low);
    high.configure("[[listener]]\nname = \"a b\"\nprotocol = \"tpc\"\nbind = \"nowhere\"\n[seal]\nlatency-budget = \"1ms\"\n");
    for verb in ["check-config", "run", "status"] {
        let done = high.run([verb]);
        assert_eq!(done.code, Some(78), "{verb}: {done:?}");
        for problem in ["name", "protocol", "bind", "latency-budget"] {
            assert!(done.stderr.contains(problem), "{verb}: no {problem} in {}", done.stderr);
        }
    }
    low.configure("settle = \"2s\"\n[[sink]]\nname = \"x y\"\ntype = \"file\"\npath = \"relative\"\n[admission]\nnumber-jump-max = 0\n");
    for verb in ["check-config", "run", "status"] {
        let done = low.run([verb]);
        assert_eq!(done.code, Some(78), "{verb}: {done:?}");
        for problem in ["name", "path", "number-jump-max"] {
            assert!(done.stderr.contains(problem), "{verb}: no {problem} in {}", done.stderr);
        }
    }
    low.configure("setle = \"2s\"\n");
    expect(low, &["check-config"], 78, "setle");

    // A key that others may read is no key.
    high.configure("");
    low.configure("");
    for (site, key) in [(high, "signing.key"), (low, "identity.key")] {
        let key_path = site.dir().join("keys").join(key);
        fs::set_permissions(&key_path, fs::Permissions::from_mode(0o644)).unwrap();
        expect(site, &["check-config"], 78, key);
        expect(site, &["run"], 78, key);
        fs::set_permissions(&key_path, fs::Permissions::from_mode(0o600)).unwrap();
        expect(site, &["check-config"], 0, "in order");
    }
}

#[test]
fn a_second_agent_is_refused_and_the_first_goes_on() {
    let crossing = Crossing::new("second");
    crossing.configure(100);
    for site in [&crossing.pair.high, &crossing.pair.low] {
        let agent = site.start();
        let second = site.run(["run"]);
        assert_eq!(second.code, Some(1), "{second:?}");
        assert!(second.stderr.contains("lock") || second.stderr.contains("another"), "{second:?}");
        assert!(agent.stop(PATIENCE).success());
    }
}

#[test]
fn a_file_sink_that_can_not_be_written_is_found_and_one_without_ids_is_warned_of() {
    let crossing = Crossing::new("codes-check");
    let low = &crossing.pair.low;
    low.configure(&crossing.file_sink());
    expect(low, &["check", "file"], 0, "synced and read back");
    // The agent makes the folder, as its own.
    assert!(!crossing.sink_dir().exists());
    for path in ["/proc/penstock-nope", crossing.sandbox.join("taken").to_str().unwrap()] {
        fs::write(crossing.sandbox.join("taken"), "").unwrap();
        low.configure(&format!(
            "[[sink]]\nname = \"file\"\ntype = \"file\"\npath = \"{path}/in\"\n"
        ));
        expect(low, &["check", "file"], 74, path);
    }
    for (transport, warned) in [("tcp", true), ("relp", false)] {
        low.configure(&format!(
            "[[sink]]\nname = \"siem\"\ntype = \"syslog\"\ntransport = \"{transport}\"\naddress = \"siem:514\"\nbody = \"original\"\n"
        ));
        let done = low.run(["check-config"]);
        assert_eq!(done.code, Some(0), "{done:?}");
        assert_eq!(done.stderr.contains("without the record's id"), warned, "{done:?}");
    }
}
