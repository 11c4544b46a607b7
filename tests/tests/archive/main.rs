//! What keeps the bundles themselves: real stores of objects, stores that only pretend, and folders.

mod blobs;
mod crash;
mod folder;
mod lost;
mod retention;
mod s3;

use std::path::{Path, PathBuf};

use serde_json::Value;
use tests::agents::{Site, bundles_in};
use tests::crossing::Crossing;
use tests::wait::{PATIENCE, wait_until};

/// Both sides, with an archive on the low one.
fn configure(crossing: &Crossing, archive: &str) {
    let (seal, listener, handoff) =
        (Crossing::seal_soon(50), crossing.listener(), crossing.handoff());
    crossing.pair.high.configure(&format!("{seal}{listener}{handoff}"));
    let low = format!("{}{}{archive}", Crossing::quick_inbox(), crossing.file_sink());
    crossing.pair.low.configure(&low);
}

/// The first archive in a status.
fn archive_of(low: &Site) -> Value {
    low.status()["archives"][0].clone()
}

/// Waits until the archive holds everything that was admitted; gives how many bundles.
fn wait_archived(low: &Site) -> u64 {
    let mut archived = 0;
    wait_until(PATIENCE, "everything archived", || {
        let status = low.status();
        archived = status["archives"][0]["archived"].as_u64().unwrap_or(0);
        Some(archived) == status["admitted"].as_u64() && archived > 0
    });
    archived
}

/// The bundles in the store of a low side.
fn stored(low: &Site) -> Vec<PathBuf> {
    bundles_in(&low.state_dir().join("store"))
}

/// The alarms that stand.
fn alarms(low: &Site) -> Vec<String> {
    let alarms = low.json(["alarms", "--json"]);
    let open = |alarm: &&Value| alarm["closed"].is_null();
    let code = |alarm: &Value| alarm["code"].as_str().unwrap_or_default().to_owned();
    alarms.as_array().expect("a list").iter().filter(open).map(code).collect()
}

/// The content of a file.
fn read(path: &Path) -> Vec<u8> {
    std::fs::read(path).unwrap_or_else(|err| panic!("{}: {err}", path.display()))
}

/// The content of a text file.
fn read_text(path: &Path) -> String {
    String::from_utf8_lossy(&read(path)).into_owned()
}
