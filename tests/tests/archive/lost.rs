//! A machine that has lost ledger and store, and asks the archive itself.

use tests::agents::{Site, bundles_in};
use tests::crossing::Crossing;
use tests::process::Done;

use super::{read, stored};

/// Restores all bundles without a ledger, and compares them with the store of the crossing's low side. The
/// section configures the archive. Gives what was said, and the machine; its configuration stands now where
/// the low side's stood.
pub(super) fn restores_without_a_ledger(crossing: &Crossing, section: &str) -> (Done, Site) {
    let state = crossing.sandbox.join("lost-state");
    let lost = crossing.pair.low.clone().with_state_dir(state);
    lost.configure(section);
    let dir = crossing.sandbox.join("lost-restored");
    let shown = dir.display().to_string();
    // A ledger there is none, and asked for it is not.
    let done = lost.run(["archive", "restore", &shown]);
    assert_ne!(done.code, Some(0), "{done:?}");
    let listed = lost.run(["archive", "list", "--without-ledger"]).success();
    let done = lost.run(["archive", "restore", "--without-ledger", &shown]);
    let originals = stored(&crossing.pair.low);
    assert!(!originals.is_empty());
    assert_eq!(listed.lines().count(), originals.len(), "{listed}");
    for path in &originals {
        assert_eq!(read(path), read(&dir.join(path.file_name().expect("a name"))), "{done:?}");
    }
    assert_eq!(bundles_in(&dir).len(), originals.len());
    let left: Vec<_> = std::fs::read_dir(&dir).expect("a folder").collect();
    assert_eq!(left.len(), originals.len(), "{left:?}");

    // A second run finds them there; one alone can be asked for; what has the name of one is not replaced.
    let again = lost.run(["archive", "restore", "--without-ledger", &shown]);
    let there = format!("{} bundle(s) were there already", originals.len());
    assert!(again.stderr.contains(&there), "{again:?}");
    let one = crossing.sandbox.join("lost-one");
    let shown = one.display().to_string();
    lost.run(["archive", "restore", "--without-ledger", "flash/1", &shown]).success();
    let found = bundles_in(&one);
    assert_eq!(found.len(), 1);
    std::fs::write(&found[0], "x").expect("a file of ours");
    let taken = lost.run(["archive", "restore", "--without-ledger", "flash/1", &shown]);
    assert!(taken.stderr.contains("is something else"), "{taken:?}");
    assert_eq!(read(&found[0]), b"x");
    let none = lost.run(["archive", "restore", "--without-ledger", "routine/77", &shown]);
    assert_eq!(none.code, Some(1), "{none:?}");

    // The same keys on a new machine: everything comes back in.
    let imported = lost.json(["import", "--json", &dir.display().to_string()]);
    assert_eq!(imported["admitted"].as_u64(), Some(originals.len() as u64), "{imported}");
    assert_eq!(imported["gaps"], 0, "{imported}");
    (done, lost)
}
