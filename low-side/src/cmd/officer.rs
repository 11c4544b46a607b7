//! `officer`: whose releases count here.

use std::fmt::Write as _;
use std::path::Path;

use serde_json::{Value, json};
use shared::clock::{Clock, SystemClock};
use shared::exit;
use shared::keys::{OfficerHalf, Trust, Validity};

use super::{Failure, put, put_json};
use crate::config::Config;

pub(super) fn add(config: &Config, file: &Path) -> Result<(), Failure> {
    let half = OfficerHalf::load(file)?;
    let new = Trust::add_officer(&config.keys_dir, &half, Validity::default())?;
    let what = if new { "releases count from" } else { "was an officer already:" };
    tell!("{what} {}", half.name());
    tell!("fingerprint {}", half.fingerprint());
    tell!("next: compare it with the officer, and set [release] required in the configuration");
    tell!("a running agent takes it up at: systemctl reload penstock-low (SIGHUP)");
    Ok(())
}

pub(super) fn list(config: &Config, as_json: bool) -> Result<(), Failure> {
    let officers = Trust::load_dir(&config.keys_dir)?.officers(SystemClock.now());
    if as_json {
        let list: Vec<Value> = officers
            .iter()
            .map(|o| json!({"name": o.name, "key": o.key, "state": o.state.as_str()}))
            .collect();
        return put_json(&json!({"officers": list, "required": config.releases.required}));
    }
    let mut lines = String::new();
    for officer in &officers {
        let state = officer.state.as_str();
        let _ = writeln!(lines, "{:<32} {state:<14} {}", officer.name, officer.key);
    }
    put(&lines)
}

pub(super) fn revoke(config: &Config, name: &str) -> Result<(), Failure> {
    match Trust::revoke_officer(&config.keys_dir, name)? {
        None => {
            let text = format!("there is no officer {name:?}\n  try: penstock-low officer list");
            return Err(Failure::new(exit::FAILED, text));
        }
        Some(0) => tell!("{name} was revoked already"),
        Some(count) => {
            tell!("{count} key(s) of {name} revoked; releases by them do not count any more");
        }
    }
    tell!("a running agent takes it up at: systemctl reload penstock-low (SIGHUP)");
    Ok(())
}
