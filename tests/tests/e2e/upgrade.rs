//! The state that every released version left: today's programs go on with it. And that of a version
//! which does not exist yet: they leave it alone.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;
use tests::agents::Site;
use tests::crossing::{Crossing, pending, received};
use tests::logs::assert_no_unlisted_errors;
use tests::oracle::find_id;
use tests::process::run;
use tests::wait::{PATIENCE, wait_until};

/// The fixtures of every version that was released.
fn versions() -> Vec<PathBuf> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/upgrade");
    let mut versions: Vec<PathBuf> =
        fs::read_dir(dir).unwrap().flatten().map(|entry| entry.path()).collect();
    versions.sort();
    assert!(!versions.is_empty());
    versions
}

/// Both sides with the state that a version left, as if the package had just been replaced.
fn unpacked(version: &Path, name: &str) -> Crossing {
    let crossing = Crossing::new(name);
    let only_when_told = "[seal]\nflash-budget = \"1h\"\nheartbeat = \"1d\"\n";
    crossing.pair.high.configure(&format!("{only_when_told}{}", crossing.listener()));
    let low = format!("{}{}", Crossing::quick_inbox(), crossing.file_sink());
    crossing.pair.low.configure(&low);
    for (site, file) in [(&crossing.pair.high, "high"), (&crossing.pair.low, "low")] {
        let script = "rm -r keys; zstd -dc \"$1\" | tar -x; sha256sum --quiet -c SHA256SUMS; \
                      chmod -R go-rwx keys state; for d in outbox store; do \
                      if [ -d $d ]; then mv $d state/$d; fi; done";
        let archive = version.join(format!("{file}.tar.zst"));
        let mut command = Command::new("sh");
        command.current_dir(site.dir()).args(["-euc", script, "sh"]).arg(archive);
        run(&mut command).success();
    }
    crossing
}

fn expected(version: &Path) -> Value {
    serde_json::from_slice(&fs::read(version.join("expected.json")).unwrap()).unwrap()
}

fn ids(crossing: &Crossing) -> Vec<u64> {
    let raw = |event: &Value| event["raw"].as_str().unwrap().as_bytes().to_vec();
    let mut ids: Vec<u64> =
        crossing.events().iter().filter_map(|event| find_id(&raw(event)).map(|id| id.0)).collect();
    ids.sort_unstable();
    ids
}

/// Carries everything, and compares the sums.
fn deliver(crossing: &Crossing, expected: &Value, more: u64) {
    let (high, low) = (&crossing.pair.high, &crossing.pair.low);
    let total = expected["received"].as_u64().unwrap() + more;
    let low_agent = low.start();
    high.run(["seal"]).success();
    let medium = crossing.sandbox.dir("medium");
    high.run(["export", "--all", medium.to_str().unwrap()]).success();
    low.run(["import", medium.to_str().unwrap()]).success();
    wait_until(PATIENCE, "all delivered", || {
        let status = low.status();
        status["records"] == total && pending(&status) == 0
    });
    assert!(low_agent.stop(PATIENCE).success());
    // What the old version's sink had taken is not sent again; the rest is, each once.
    let delivered = expected["delivered"].as_u64().unwrap();
    assert_eq!(ids(crossing), (delivered + 1..=total).collect::<Vec<u64>>());
    let status = low.status();
    assert_eq!(status["adds-up"], true, "{status}");
    assert_eq!(status["quarantined"], expected["quarantined"], "{status}");
    assert_eq!(high.status()["adds-up"], true);
    for site in [high, low] {
        site.run(["custody", "verify"]).success();
    }
}

#[test]
fn the_state_of_every_released_version_goes_on() {
    for version in versions() {
        let crossing = unpacked(&version, "upgrade");
        let expected = expected(&version);
        let high = &crossing.pair.high;
        let agent = high.start();
        let before = high.status();
        assert_eq!(received(&before), expected["received"].as_u64().unwrap(), "{before}");
        let total = received(&before);
        crossing.send(total + 1..total + 11);
        crossing.wait_committed(total + 10);
        deliver(&crossing, &expected, 10);
        assert!(agent.stop(PATIENCE).success());
        assert_no_unlisted_errors(&high.log_path(), &[]);
        // The file that the old version's sink had written is not among the fixtures.
        assert_no_unlisted_errors(&crossing.pair.low.log_path(), &["sink-file-changed"]);
    }
}

#[test]
fn the_backups_of_every_released_version_are_restored() {
    for version in versions() {
        let crossing = unpacked(&version, "upgrade-restore");
        let archive = |side: &str| version.join(format!("{side}.tar.zst")).display().to_string();
        let (high, low) = (&crossing.pair.high, &crossing.pair.low);
        for site in [high, low] {
            fs::remove_dir_all(site.state_dir()).unwrap();
            fs::remove_dir_all(site.dir().join("keys")).unwrap();
        }
        low.run(["restore", &archive("low")]).success();
        let restored = high.run(["restore", &archive("high"), "--take-in"]).success();
        assert!(restored.contains("30 record(s) taken in"), "{restored}");
        deliver(&crossing, &expected(&version), 0);
    }
}

/// A version of the database that no program knows yet.
const LATER: i64 = 10_000;

#[test]
fn the_state_of_a_later_version_is_left_alone() {
    let version = versions().pop().unwrap();
    let crossing = unpacked(&version, "downgrade");
    for (site, database) in [(&crossing.pair.high, "buffer.db"), (&crossing.pair.low, "ledger.db")]
    {
        let path = site.state_dir().join(database);
        let conn = rusqlite::Connection::open(&path).unwrap();
        conn.execute_batch("CREATE TABLE of_a_later_version (id INTEGER PRIMARY KEY) STRICT;")
            .unwrap();
        conn.pragma_update(None, "user_version", LATER).unwrap();
        let busy: i64 =
            conn.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get(0)).unwrap();
        assert_eq!(busy, 0);
        conn.close().unwrap();
        let before = fs::read(&path).unwrap();
        let verbs: [&[&str]; 3] =
            [&["run"], &["status"], &["backup", "/dev/null/x", "--without-keys"]];
        for verb in verbs {
            let done = site.run(verb.iter().copied());
            assert_eq!(done.code, Some(1), "{done:?}");
            let said = done.stderr + &fs::read_to_string(site.log_path()).unwrap_or_default();
            assert!(said.contains(&format!("version {LATER}")), "{said}");
            assert!(said.contains("install the"), "{said}");
            assert_eq!(fs::read(&path).unwrap(), before, "{verb:?} wrote to it");
            let aside = fs::read_dir(site.state_dir()).unwrap().flatten();
            let aside = aside.filter(|e| e.file_name().to_string_lossy().starts_with("set-aside"));
            assert_eq!(aside.count(), 0);
        }
    }
}

/// What a site was restored to is what was in the backup, and of the user whose folders these are.
#[test]
fn what_root_restores_belongs_to_the_agents_user() {
    if !nix::unistd::geteuid().is_root() {
        println!("needs root: another user's folders are restored by root");
        return;
    }
    let version = versions().pop().unwrap();
    let crossing = unpacked(&version, "upgrade-owner");
    let archive = |side: &str| version.join(format!("{side}.tar.zst")).display().to_string();
    for (site, side) in [(&crossing.pair.high, "high"), (&crossing.pair.low, "low")] {
        for folder in ["state", "keys"] {
            let folder = site.dir().join(folder);
            fs::remove_dir_all(&folder).unwrap();
            fs::create_dir(&folder).unwrap();
            std::os::unix::fs::chown(&folder, Some(USER), Some(USER)).unwrap();
        }
        site.run(["restore", &archive(side)]).success();
        let found = everything(site);
        assert!(found.len() > 8, "{found:?}");
        for (path, uid, mode) in found {
            assert_eq!(uid, USER, "{}", path.display());
            let open =
                path.extension().is_some_and(|end| end == "log" || end == "pub" || end == "pstk")
                    || path.iter().any(|part| part == "outbox")
                    || ["low_signers", "allowed_signers", "name"]
                        .iter()
                        .any(|name| path.ends_with(name));
            assert!(open || mode.trailing_zeros() >= 6, "{} has mode {mode:o}", path.display());
        }
    }
}

const USER: u32 = 4_711;

fn everything(site: &Site) -> Vec<(PathBuf, u32, u32)> {
    use std::os::unix::fs::MetadataExt;
    let mut found = Vec::new();
    let mut folders = vec![site.dir().join("state"), site.dir().join("keys")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap().flatten() {
            let meta = entry.metadata().unwrap();
            found.push((entry.path(), meta.uid(), meta.mode()));
            if meta.is_dir() {
                folders.push(entry.path());
            }
        }
    }
    found
}
