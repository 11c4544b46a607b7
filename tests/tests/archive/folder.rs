//! A folder: a copy, and no promise.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use serde_json::Value;
use tests::agents::{Site, bundles_in};
use tests::crossing::{Crossing, pending};
use tests::process::run;
use tests::wait::{PATIENCE, wait_until};

use super::lost::restores_without_a_ledger;
use super::{archive_of, configure, stored, wait_archived};

/// Lifts the attribute immutable, where root could set it, also at the end of a test that failed.
pub(super) struct Mutable(pub(super) PathBuf);

impl Drop for Mutable {
    fn drop(&mut self) {
        run(std::process::Command::new("chattr").args(["-R", "-f", "-i"]).arg(&self.0));
    }
}

#[test]
fn a_folder_gets_every_bundle_and_says_that_it_is_no_lock() {
    let crossing = Crossing::new("folder");
    let dir = crossing.sandbox.join("archive");
    let section = format!(
        "[[archive]]\nname = \"copy\"\ntype = \"directory\"\npath = \"{}\"\nretry-min = \"50ms\"\nretry-max = \"200ms\"\n",
        dir.display()
    );
    configure(&crossing, &section);
    let mutable = Mutable(dir.clone());
    let low = &crossing.pair.low;
    let agents = [crossing.pair.high.start(), low.start()];
    crossing.send(1..101);
    crossing.wait_committed(100);
    // A disk that is not mounted: its folder is not made, and everything waits.
    wait_until(PATIENCE, "a failure", || {
        let status = low.status();
        status["records"] == 100 && status["agent"]["archives"]["copy"]["state"] == "failing"
    });
    assert_eq!(pending(&low.status()), 100);
    std::fs::create_dir(&dir).unwrap();
    assert_eq!(crossing.wait_drained(), 100);
    let archived = wait_archived(low);
    for agent in agents {
        assert!(agent.stop(PATIENCE).success());
    }
    let copies = {
        let epoch = std::fs::read_dir(dir.join("plant-7")).unwrap().next().unwrap().unwrap();
        bundles_in(&epoch.path().join("flash"))
    };
    assert_eq!(copies.len() as u64, archived);
    for (copy, original) in copies.iter().zip(stored(low)) {
        assert_eq!(std::fs::read(copy).unwrap(), std::fs::read(original).unwrap());
        assert_eq!(copy.metadata().unwrap().permissions().mode() & 0o7777, 0o444);
    }
    let status = low.run(["status"]).success();
    assert!(status.contains("no lock: root can remove"), "{status}");
    let report = low.run(["archive", "verify", "--full"]).success();
    assert!(report.contains("a folder is no lock"), "{report}");

    let (done, _) = restores_without_a_ledger(&crossing, &section);
    assert_eq!(done.code, Some(0), "{done:?}");
    configure(&crossing, &section);

    // Somebody changes a copy, and takes another one away.
    drop(mutable);
    let bytes = std::fs::read(&copies[0]).unwrap();
    std::fs::remove_file(&copies[0]).unwrap();
    std::fs::write(&copies[0], [&bytes[..bytes.len() - 1], b"x"].concat()).unwrap();
    let done = low.run(["archive", "verify", "--full"]);
    assert!(done.code == Some(1) && done.stdout.contains("SHA-256"), "{done:?}");
    std::fs::remove_file(&copies[0]).unwrap();
    let done = low.run(["archive", "verify"]);
    assert!(done.code == Some(1) && done.stdout.contains("gone"), "{done:?}");
}

#[test]
fn a_bundle_that_is_damaged_or_whose_name_is_taken_waits_until_that_is_mended() {
    let crossing = Crossing::new("archive-conflict");
    let dir = crossing.sandbox.join("archive");
    let section = format!(
        "[[archive]]\nname = \"copy\"\ntype = \"directory\"\npath = \"{}\"\nretry-min = \"50ms\"\nretry-max = \"200ms\"\n",
        dir.display()
    );
    configure(&crossing, &section);
    let _mutable = Mutable(dir.clone());
    let (high, low) = (&crossing.pair.high, &crossing.pair.low);
    let agents = [high.start(), low.start()];
    for (first, bundles) in [(1, 1), (11, 2), (21, 3)] {
        crossing.send(first..first + 10);
        wait_until(PATIENCE, "a bundle", || stored(low).len() >= bundles);
    }
    wait_until(PATIENCE, "all of them", || low.status()["records"] == 30);

    // Before anything is archived, the first bundle's file rots, and somebody takes the last one's name.
    let files = stored(low);
    let (rotten, taken) = (&files[0], name(files.last().unwrap()));
    let mut bytes = std::fs::read(rotten).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(rotten, bytes).unwrap();
    let prepared = crossing.sandbox.join("prepared");
    let epoch = high.status()["epoch"].to_string();
    let chain = Path::new("plant-7").join(epoch).join("flash");
    std::fs::create_dir_all(prepared.join(&chain)).unwrap();
    std::fs::write(prepared.join(&chain).join(&taken), "somebody else's").unwrap();
    shared::durable::rename(&prepared, &dir).unwrap();
    let conflict = |name: &str| alarm(low, "archive-conflict", name);
    for name in [&name(rotten), &taken] {
        wait_until(PATIENCE, "the alarm", || {
            conflict(name).is_some_and(|alarm| alarm["closed"].is_null())
        });
    }
    let damaged = || alarm(low, "store-damaged", &name(rotten)).expect("the damage is told");
    assert!(damaged()["closed"].is_null());
    // The others are archived; in this chain the sinks wait.
    wait_until(PATIENCE, "the others", || archive_of(low)["archived"] == files.len() as u64 - 2);
    assert_eq!(pending(&low.status()), 30);

    // The bundle is brought again; the object is looked at, and moved away.
    let medium = crossing.sandbox.dir("medium");
    high.run(["export", "--all", medium.to_str().unwrap()]).success();
    low.run(["import", medium.to_str().unwrap()]).success();
    let stranger = dir.join(&chain).join(&taken);
    assert_eq!(std::fs::read(&stranger).unwrap(), b"somebody else's");
    std::fs::remove_file(&stranger).unwrap();
    assert!(!damaged()["closed"].is_null(), "{}", damaged());
    for name in [&name(rotten), &taken] {
        wait_until(PATIENCE, "its end", || {
            conflict(name).is_some_and(|alarm| !alarm["closed"].is_null())
        });
    }
    assert_eq!(crossing.wait_drained(), 30);
    assert_eq!(wait_archived(low), files.len() as u64);
    for agent in agents {
        assert!(agent.stop(PATIENCE).success());
    }
    low.run(["archive", "verify", "--full"]).success();
}

/// The alarm of this code whose subject ends so, whether it is over or not.
fn alarm(low: &Site, code: &str, subject: &str) -> Option<Value> {
    let alarms = low.json(["alarms", "--json"]);
    let of = |alarm: &&Value| {
        alarm["code"] == code
            && alarm["subject"].as_str().is_some_and(|text| text.ends_with(subject))
    };
    alarms.as_array().expect("a list").iter().find(of).cloned()
}

fn name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}
