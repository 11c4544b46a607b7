//! `bundles`, `check-buffer` and `acknowledge`: what the buffer's database knows.

use serde_json::{Value, json};
use shared::clock::{Clock, SystemClock};

use super::Failure;
use crate::buffer::{Bundle, Store};
use crate::config::Config;

pub(super) fn bundles(config: &Config, as_json: bool) -> Result<(), Failure> {
    let store = Store::open(&config.state_dir)?;
    let bundles = store.bundles(None)?;
    if as_json {
        let mut list = Vec::new();
        for bundle in &bundles {
            let mut value = to_json(bundle);
            add_review(&mut value, &store, bundle)?;
            value["confirmed-by-receipt"] = json!(store.confirmed_by(bundle.lane, bundle.number)?);
            list.push(value);
        }
        say!("{}", json!({ "bundles": list }));
    } else {
        print(&bundles);
    }
    Ok(())
}

/// Who released a bundle, or refused it.
fn add_review(value: &mut Value, store: &Store, bundle: &Bundle) -> Result<(), Failure> {
    let Some(review) = store.review(bundle.lane, bundle.number)? else { return Ok(()) };
    let releases = store.releases(bundle.lane, bundle.number)?;
    let releases: Vec<Value> = releases
        .iter()
        .map(|release| {
            json!({
                "officer": release.officer,
                "key": release.key,
                "time": release.released.to_string(),
            })
        })
        .collect();
    value["releases"] = json!(releases);
    value["refused"] = json!(review.refused.map(|refused| {
        json!({
            "officer": refused.officer,
            "time": refused.at.to_string(),
            "reason": refused.reason,
        })
    }));
    Ok(())
}

/// Prints one line for each bundle.
pub(super) fn print(bundles: &[Bundle]) {
    say!(
        "{:<8} {:>8} {:<16} {:>10} {:>23} {:>12} file",
        "lane",
        "number",
        "state",
        "records",
        "sequences",
        "bytes"
    );
    for bundle in bundles {
        let range = if bundle.records == 0 && bundle.last_sequence < bundle.first_sequence {
            "-".to_owned()
        } else {
            format!("{}-{}", bundle.first_sequence, bundle.last_sequence)
        };
        let (bytes, name) = match &bundle.file {
            Some(file) => (file.bytes.to_string(), file.name.as_str()),
            None => ("-".to_owned(), "-"),
        };
        say!(
            "{:<8} {:>8} {:<16} {:>10} {:>23} {:>12} {}",
            bundle.lane.as_str(),
            bundle.number,
            bundle.state.as_str(),
            bundle.records,
            range,
            bytes,
            name
        );
    }
}

/// A bundle as JSON.
pub(super) fn to_json(bundle: &Bundle) -> Value {
    json!({
        "lane": bundle.lane,
        "number": bundle.number,
        "state": bundle.state.as_str(),
        "reason": bundle.reason.as_str(),
        "planned": bundle.planned.to_string(),
        "first-sequence": bundle.first_sequence,
        "last-sequence": bundle.last_sequence,
        "records": bundle.records,
        "plain-bytes": bundle.plain_bytes,
        "oldest": bundle.oldest.map(|time| time.to_string()),
        "digest": bundle.file.as_ref().map(|file| file.digest.to_string()),
        "file": bundle.file.as_ref().map(|file| &file.name),
        "file-bytes": bundle.file.as_ref().map(|file| file.bytes),
        "handed-over": bundle.handed_over.as_ref().map(|(time, _)| time.to_string()),
        "handed-over-by": bundle.handed_over.as_ref().map(|(_, by)| by),
    })
}

pub(super) fn check_buffer(config: &Config, as_json: bool) -> Result<(), Failure> {
    let store = Store::open(&config.state_dir)?;
    let mut verified = 0;
    let damaged = store.verify(|records| verified = records)?;
    if as_json {
        let list: Vec<Value> = damaged
            .iter()
            .map(|range| json!({ "lane": range.lane, "first": range.first, "last": range.last }))
            .collect();
        say!("{}", json!({ "verified-records": verified, "damaged": list }));
    } else {
        say!("{verified} records verified");
        for range in &damaged {
            say!("damaged: lane {}, sequences {} to {}", range.lane, range.first, range.last);
        }
    }
    if damaged.is_empty() {
        return Ok(());
    }
    Err(Failure::new(format!(
        "{} damaged range(s); the next bundle declares them lost\n  try: look at the disk's health (smartctl), and plan its replacement",
        damaged.len()
    )))
}

pub(super) fn acknowledge(config: &Config, alarm: Option<u64>) -> Result<(), Failure> {
    let store = Store::open(&config.state_dir)?;
    let alarm = alarm.map(|id| i64::try_from(id).unwrap_or(i64::MAX));
    let count = store.acknowledge(alarm, SystemClock.now())?;
    say!("{count} alarm(s) acknowledged");
    Ok(())
}
