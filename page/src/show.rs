//! What the pages of both sides have.

use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use serde_json::{Value, json};
use shared::clock::{Clock, SystemClock};
use shared::config::ByteSize;
use shared::custody::{CustodyFolder, Wanted, life_json, life_of};
use shared::durable;

use super::advice::advice;

/// A folder, and the room on its file system.
#[derive(Clone, Debug)]
pub struct Place {
    what: &'static str,
    path: PathBuf,
    /// Free and in all, in bytes; nothing where it can't be asked.
    space: Option<(u64, u64)>,
}

impl Place {
    /// Asks for the room now.
    pub fn of(what: &'static str, path: &Path) -> Self {
        Self { what, path: path.to_owned(), space: durable::space(path).ok() }
    }

    /// What it is for.
    pub fn what(&self) -> &'static str {
        self.what
    }

    /// Free and in all, in bytes; nothing where it can't be asked.
    pub fn space(&self) -> Option<(u64, u64)> {
        self.space
    }

    /// Whether there is any room to speak of.
    pub fn has_room(&self) -> Result<(), String> {
        match self.space {
            Some((free, _)) if free < ROOM_MIN.0 => {
                Err(format!("{}: less than {ROOM_MIN} is free", self.path.display()))
            }
            Some(_) => Ok(()),
            None => Err(format!("{} can't be looked at", self.path.display())),
        }
    }
}

/// A status with what the page needs on top: whose it is, of when, the room on its disks, and what the
/// handbook says of each alarm.
pub fn shown(mut status: Value, side: &str, name: &str, places: &[Place]) -> String {
    let disks: Vec<Value> = places
        .iter()
        .filter_map(|place| {
            let (free, total) = place.space?;
            let path = place.path.display().to_string();
            Some(
                json!({"what": place.what, "path": path, "free-bytes": free, "total-bytes": total}),
            )
        })
        .collect();
    let codes: Vec<&str> = status["alarms"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|alarm| alarm["code"].as_str().or_else(|| alarm["kind"].as_str()))
        .collect();
    let known: serde_json::Map<String, Value> = codes
        .iter()
        .filter_map(|code| Some(((*code).to_owned(), ADVICE.get(*code)?.clone())))
        .collect();
    status["side"] = json!(side);
    status["name"] = json!(name);
    status["disk"] = json!(disks);
    status["advice"] = json!(known);
    if status["time"].is_null() {
        status["time"] = json!(SystemClock.now().to_string());
    }
    status.to_string()
}

/// What a custody log says of a bundle, as JSON.
pub fn life(folder: &CustodyFolder, bundle: &str) -> Result<Option<String>, String> {
    let wanted: Wanted = bundle.parse().map_err(|problem: &str| problem.to_owned())?;
    let told = |err: std::io::Error| format!("{}: {err}", folder.dir().display());
    let life = life_of(folder, &wanted).map_err(told)?;
    Ok((life.found > 0).then(|| life_json(&life).to_string()))
}

/// What the handbook says of each alarm, read once.
static ADVICE: LazyLock<Value> =
    LazyLock::new(|| advice(include_str!("../../packaging/doc/handbook.md")));
/// With less than this free an agent is about to stop taking anything.
const ROOM_MIN: ByteSize = ByteSize::mib(64);
