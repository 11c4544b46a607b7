//! A folder: a copy, and no promise.

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use tests::agents::bundles_in;
use tests::crossing::{Crossing, pending};
use tests::process::run;
use tests::wait::{PATIENCE, wait_until};

use super::lost::restores_without_a_ledger;
use super::{configure, stored, wait_archived};

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
