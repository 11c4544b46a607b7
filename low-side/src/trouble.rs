//! What is wrong on the low side now, alarms aside: for the page and for `status`.

use std::time::Duration;

use page::{Place, Trouble};
use serde_json::Value;
use shared::clock::Nanos;
use shared::config::Span;

use crate::config::Config;
use crate::status::Status;

/// Everything that is wrong by a status and by the disks.
pub fn troubles(status: &Status, config: &Config, places: &[Place; 2], now: Nanos) -> Vec<Trouble> {
    let mut found = Vec::new();
    found.extend(unready(status, config, places, now).err().map(Trouble::bad));
    let live = status.agent.as_ref().unwrap_or(&Value::Null);
    // An alarm that stands says the same.
    let told = |subject: &str| {
        let mut alarms = status.alarms.iter();
        alarms.any(|alarm| {
            alarm.code == "silence" && alarm.subject == subject && alarm.closed.is_none()
        })
    };
    for (subject, last) in live["silent"].as_object().into_iter().flatten() {
        if !told(subject) {
            let since = last.as_str().map_or("ever".to_owned(), |last| format!("since {last}"));
            let words =
                format!("acknowledged, and still so: nothing of {subject} has come {since}");
            found.push(Trouble::warn(words));
        }
    }
    let missing: u64 = status.sums.chains.iter().map(|chain| chain.missing).sum();
    if missing > 0 {
        let what = match missing {
            1 => "1 bundle is missing".to_owned(),
            more => format!("{more} bundles are missing"),
        };
        let behind = match status.sums.held {
            0 => "what came behind went on".to_owned(),
            1 => "1 behind waits".to_owned(),
            held => format!("{held} behind wait"),
        };
        found.push(Trouble::warn(format!("{what}; {behind}")));
    }
    let store = &status.sums.store;
    for (count, what) in [
        (store.absent, "bundle(s) of the ledger are not in the store: penstock-low alarms"),
        (store.not_admitted, "file(s) of the store are not in the ledger: penstock-low alarms"),
    ] {
        if count > 0 {
            found.push(Trouble::warn(format!("{count} {what}")));
        }
    }
    for sum in &status.sums.archives {
        let behind = match sum.waiting {
            waiting if sum.before && waiting > 0 => {
                format!("; the records of {waiting} bundle(s) wait behind it")
            }
            _ => String::new(),
        };
        found.extend(failing("archive", &sum.name, &live["archives"][&sum.name], &behind));
    }
    for sum in &status.sums.sinks {
        found.extend(failing("sink", &sum.name, &live["sinks"][&sum.name], ""));
    }
    for receiver in live["receivers"].as_array().into_iter().flatten() {
        let trouble = receiver["counters"]["trouble"].as_str().filter(|text| !text.is_empty());
        let name = receiver["name"].as_str().unwrap_or_default();
        found.extend(trouble.map(|text| Trouble::warn(format!("receiver {name}: {text}"))));
    }
    if let Some(ignored) = live["inbox-ignored"].as_u64().filter(|ignored| *ignored > 0) {
        found.push(Trouble::warn(format!("{ignored} in the inbox are no bundles and stay there")));
    }
    found
}

/// Whether the agent does its work, or why it does not.
pub fn unready(
    status: &Status,
    config: &Config,
    [store, _]: &[Place; 2],
    now: Nanos,
) -> Result<(), String> {
    let Some(live) = &status.agent else { return Err("the agent does not run".to_owned()) };
    // One that speaks for itself has not noted when.
    let told: Option<Nanos> = live["told"].as_str().and_then(|told| told.parse().ok());
    if let Some(silent) = told.map(|told| now.since(told)).filter(|silent| *silent > STALE) {
        let silent = Span::secs(silent.as_secs());
        return Err(format!("the agent has not said for {silent} what it does"));
    }
    let inbox = &config.inbox.path;
    if !inbox.is_dir() {
        return Err(format!("{} is no folder", inbox.display()));
    }
    store.has_room()
}

fn failing(what: &str, name: &str, health: &Value, behind: &str) -> Option<Trouble> {
    let state = health["state"].as_str()?;
    let open = health["circuit"] == "open";
    if !open && state != "failing" && state != "blocked" {
        return None;
    }
    let why = health["error"].as_str().map_or(String::new(), |error| format!(": {error}"));
    Some(Trouble::warn(format!("{what} {name} is {state}{why}{behind}")))
}

/// The agent says once a second how it does. A large ledger on a slow disk may take some.
const STALE: Duration = Duration::from_secs(30);

#[cfg(test)]
mod tests {
    use std::path::Path;

    use page::Level;
    use serde_json::json;

    use super::*;
    use crate::ledger::Ledger;

    const NOW: Nanos = Nanos(1_800_000_000_000_000_000);

    /// What is wrong where the agent says this of itself.
    fn found(agent: Option<Value>, change: impl FnOnce(&mut Status, &mut Ledger)) -> Vec<String> {
        let dir = tempfile::tempdir().unwrap();
        let inbox = tempfile::tempdir().unwrap();
        let text = format!("state-dir = {:?}\n[inbox]\npath = {:?}\n", dir.path(), inbox.path());
        let config = Config::from_text(&text, Path::new("low.toml")).unwrap();
        let mut ledger = Ledger::open(dir.path()).unwrap();
        ledger.sink("siem").unwrap();
        let mut status = Status::gather(&mut ledger, &config.latency, NOW, agent).unwrap();
        change(&mut status, &mut ledger);
        let places = crate::metrics::places(&config);
        let troubles = troubles(&status, &config, &places, NOW);
        let bad = |trouble: &Trouble| if trouble.level == Level::Bad { "bad: " } else { "" };
        troubles.iter().map(|trouble| format!("{}{}", bad(trouble), trouble.what)).collect()
    }

    fn agent(more: &Value) -> Option<Value> {
        let mut agent = json!({"pid": 7, "told": NOW.to_string(), "inbox-ignored": 0});
        agent.as_object_mut()?.extend(more.as_object()?.clone());
        Some(agent)
    }

    #[test]
    fn an_agent_that_does_not_speak_is_no_good_sign() {
        assert_eq!(found(agent(&json!({})), |_, _| {}), [""; 0]);
        assert_eq!(found(None, |_, _| {}), ["bad: the agent does not run"]);
        let old = json!({"told": Nanos(NOW.0 - 31_000_000_000).to_string()});
        assert_eq!(
            found(agent(&old), |_, _| {}),
            ["bad: the agent has not said for 31s what it does"]
        );
    }

    #[test]
    fn silence_that_was_acknowledged_is_told_and_one_that_has_an_alarm_is_not_told_twice() {
        let silent =
            || agent(&json!({"silent": {"plant-7": "2026-11-23T09:00:00Z", "plant-8": null}}));
        let words = |of: &str, since: &str| {
            format!("acknowledged, and still so: nothing of {of} has come {since}")
        };
        let since = "since 2026-11-23T09:00:00Z";
        assert_eq!(found(silent(), |_, _| {}), [words("plant-7", since), words("plant-8", "ever")]);
        let with_alarm = found(silent(), |status, ledger| {
            ledger.raise("silence", "plant-7", "silent", NOW).unwrap();
            status.alarms = ledger.alarms().unwrap();
        });
        assert_eq!(with_alarm, [words("plant-8", "ever")]);
    }

    #[test]
    fn what_fails_and_what_is_missing_is_told_whether_or_not_there_is_an_alarm() {
        let agent = agent(&json!({
            "sinks": {"siem": {"state": "failing", "error": "refused"}},
            "archives": {"worm": {"state": "failing", "error": "no lock"}},
            "receivers": [{"name": "link", "counters": {"trouble": "no catalogue"}},
                {"name": "well", "counters": {"trouble": ""}}],
            "inbox-ignored": 2,
        }));
        let found = found(agent, |status, _| {
            let chain = "plant-7/1/flash".to_owned();
            status.sums.chains.push(crate::ledger::ChainSum {
                chain,
                bundles: 9,
                records: 9,
                last_sequence: 9,
                missing: 3,
                last_admitted: NOW.to_string(),
            });
            status.sums.archives.push(crate::ledger::ArchiveSum {
                name: "worm".to_owned(),
                before: true,
                archived: 0,
                bytes: 0,
                waiting: 7,
                waiting_since: None,
            });
        });
        assert_eq!(
            found,
            [
                "3 bundles are missing; what came behind went on",
                "archive worm is failing: no lock; the records of 7 bundle(s) wait behind it",
                "sink siem is failing: refused",
                "receiver link: no catalogue",
                "2 in the inbox are no bundles and stay there",
            ]
        );
    }
}
