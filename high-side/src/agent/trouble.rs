//! What is wrong on the high side now, alarms aside: for the page and for `status`.

use page::{Place, Trouble};
use serde_json::Value;
use shared::clock::Nanos;
use shared::record::Lane;

use super::overdue::{of_lane, patience};
use crate::buffer::{AlarmKind, BufferError, Store};
use crate::config::Config;

/// Everything that is wrong by a status, by the buffer and by the disks.
pub(crate) fn troubles(
    config: &Config,
    store: &Store,
    status: &Value,
    [buffer, outbox]: &[Place; 2],
    now: Nanos,
) -> Result<Vec<Trouble>, BufferError> {
    let mut found = Vec::new();
    found.extend(unready(status, buffer).err().map(Trouble::bad));
    found.extend(outbox.has_room().err().map(Trouble::warn));
    for lane in Lane::ALL {
        found.extend(late(config, store, status, lane, now)?);
    }
    let live = &status["live"];
    let trouble = live["sealer-trouble"].as_str().filter(|text| !text.is_empty());
    found.extend(trouble.map(|text| Trouble::warn(format!("the sealer has trouble: {text}"))));
    for (list, what, told) in [
        ("carriers", "carrier", "/counters/trouble"),
        ("portainer-apis", "Portainer", "/last/error"),
    ] {
        for one in live[list].as_array().into_iter().flatten() {
            let text = one.pointer(told).and_then(Value::as_str).filter(|text| !text.is_empty());
            let name = one["name"].as_str().unwrap_or_default();
            found.extend(text.map(|text| Trouble::warn(format!("{what} {name}: {text}"))));
        }
    }
    for set in live["files"].as_array().into_iter().flatten() {
        let unreadable = set["files"]["unreadable"].as_u64().filter(|files| *files > 0);
        let name = set["name"].as_str().unwrap_or_default();
        let words = |files| Trouble::warn(format!("files {name}: {files} can't be read"));
        found.extend(unreadable.map(words));
    }
    Ok(found)
}

/// Whether the agent does its work, or why it does not.
pub(crate) fn unready(status: &Value, buffer: &Place) -> Result<(), String> {
    if status["agent"] != "running" {
        return Err("the agent does not run".to_owned());
    }
    match status["live"]["writer"]["state"].as_str() {
        None => Err("the agent has not said for a while what it does".to_owned()),
        Some("flowing") => buffer.has_room(),
        Some(state) => Err(format!("the buffer takes nothing: {state}")),
    }
}

/// What has waited in a lane for longer than its budget, wherever it is. An alarm tells that of bundles
/// that are ready, and of those that wait for officers.
fn late(
    config: &Config,
    store: &Store,
    status: &Value,
    lane: Lane,
    now: Nanos,
) -> Result<Option<Trouble>, BufferError> {
    let budget = config.seal_policy(lane).latency_budget;
    let patience = patience(budget);
    let lanes = status["lanes"].as_array();
    let of = lanes.into_iter().flatten().find(|one| one["lane"] == lane.as_str());
    let oldest = of.and_then(|of| of["oldest-received"].as_str()?.parse::<Nanos>().ok());
    // One without records holds none that is old, and is late all the same.
    let bundle = store.late(lane, patience, now)?.map(|late| late.since);
    let Some(since) = oldest.into_iter().chain(bundle).min() else { return Ok(None) };
    let waited = now.since(since);
    if waited <= patience {
        return Ok(None);
    }
    let words = format!(
        "the oldest of lane {lane} has waited for {} and was not handed over within the budget of {}",
        shared::config::Span::secs(waited.as_secs()),
        shared::config::Span(budget)
    );
    for kind in [AlarmKind::HandOverOverdue, AlarmKind::ReleaseOverdue] {
        let last = store.last_alarm(kind, &of_lane(lane))?;
        if last.is_some_and(|last| last.acknowledged.is_some() && last.raised >= since) {
            return Ok(Some(Trouble::warn(format!("acknowledged, and still so: {words}"))));
        }
    }
    Ok(Some(Trouble::bad(words)))
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::Arc;
    use std::time::Duration;

    use page::Level;
    use serde_json::json;
    use shared::clock::SystemClock;

    use super::*;
    use crate::agent::{buffer_settings, places};
    use crate::buffer::Buffer;

    const NOW: Nanos = Nanos(1_800_000_000_000_000_000);

    fn status(change: impl FnOnce(&mut Value)) -> Value {
        let mut status = json!({
            "agent": "running",
            "live": {"writer": {"state": "flowing"}, "sealer-trouble": ""},
            "lanes": [{"lane": "flash", "oldest-received": null}, {"lane": "routine", "oldest-received": null}],
        });
        change(&mut status);
        status
    }

    #[test]
    fn what_is_wrong_is_told_whether_or_not_there_is_an_alarm() {
        let dir = tempfile::tempdir().unwrap();
        let text = format!(
            "origin = \"plant-7\"\nstate-dir = {:?}\n[seal]\nlatency-budget = \"10s\"\n[outbox]\npath = {:?}\n",
            dir.path(),
            dir.path()
        );
        let config = Config::from_text(&text, Path::new("high.toml")).unwrap();
        let settings = buffer_settings(&config);
        let (buffer, _) = Buffer::open(settings, &config.origin, Arc::new(SystemClock)).unwrap();
        let store = buffer.store().unwrap();
        let found = |status: &Value| -> Vec<String> {
            let troubles = troubles(&config, &store, status, &places(&config), NOW).unwrap();
            let bad = |one: &Trouble| if one.level == Level::Bad { "bad: " } else { "" };
            troubles.iter().map(|one| format!("{}{}", bad(one), one.what)).collect()
        };
        assert_eq!(found(&status(|_| {})), [""; 0]);
        let hung = status(|status| status["live"] = Value::Null);
        assert_eq!(found(&hung), ["bad: the agent has not said for a while what it does"]);
        let full = status(|status| status["live"]["writer"]["state"] = json!("disk-full"));
        assert_eq!(found(&full), ["bad: the buffer takes nothing: disk-full"]);
        let failing = status(|status| {
            status["live"]["sealer-trouble"] = json!("no key");
            status["live"]["carriers"] =
                json!([{"name": "link", "counters": {"trouble": "no route"}}]);
        });
        assert_eq!(found(&failing), ["the sealer has trouble: no key", "carrier link: no route"]);

        // A record of the routine lane is 84 s old, and its budget was 10 s.
        let since = Nanos(NOW.0 - 84_000_000_000);
        let late =
            status(|status| status["lanes"][1]["oldest-received"] = json!(since.to_string()));
        let words = "the oldest of lane routine has waited for 1m24s and was not handed over within the budget of 10s";
        assert_eq!(found(&late), [format!("bad: {words}")]);
        let raised = since.plus(Duration::from_secs(11));
        store
            .raise_alarm(AlarmKind::HandOverOverdue, "bundle 1 of lane routine holds", raised)
            .unwrap();
        assert_eq!(found(&late), [format!("bad: {words}")], "nobody knows of it yet");
        store.acknowledge(None, raised).unwrap();
        assert_eq!(found(&late), [format!("acknowledged, and still so: {words}")]);
    }
}
