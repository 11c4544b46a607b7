//! `status`: what waits, how old it is, and sums that add up.

use serde_json::{Value, json};
use shared::clock::{Clock, Nanos, SystemClock};
use shared::record::{Lane, Stream};

use super::Failure;
use crate::agent::{Live, places, read_live, troubles};
use crate::buffer::{BundleState, LaneTotals, Store, is_agent_running};
use crate::config::Config;
use crate::reconcile::{Report, State};

pub(super) fn status(config: &Config, as_json: bool) -> Result<(), Failure> {
    let store = Store::open(&config.state_dir)?;
    let now = SystemClock.now();
    let live = read_live(&config.state_dir, now);
    let mut status = gather(config, &store, live.as_ref(), now)?;
    let troubles = troubles(config, &store, &status, &places(config), now)?;
    page::judge(&mut status, troubles);
    if as_json {
        say!("{status}");
    } else {
        print(&status);
    }
    Ok(())
}

/// Everything that `status` and the page show.
pub(crate) fn gather(
    config: &Config,
    store: &Store,
    live: Option<&Live>,
    now: Nanos,
) -> Result<Value, Failure> {
    let mut lanes = Vec::new();
    for totals in store.totals()? {
        lanes.push(lane(config, store, &totals, now)?);
    }
    let adds_up = lanes.iter().all(|lane| lane["adds-up"] == true);
    let mut bundles = serde_json::Map::new();
    for state in BundleState::ALL.into_iter().filter(|state| *state != BundleState::Deleted) {
        let (count, bytes) = store.bundles_sum(state)?;
        bundles.insert(state.as_str().to_owned(), json!({ "count": count, "bytes": bytes }));
    }
    let alarms: Vec<Value> = store
        .alarms(false)?
        .iter()
        .map(|alarm| {
            json!({
                "id": alarm.id,
                "raised": alarm.raised.to_string(),
                "kind": alarm.kind,
                "message": alarm.message,
            })
        })
        .collect();
    let receipts: Vec<Value> = store
        .receipts()?
        .iter()
        .map(|receipt| {
            json!({
                "name": receipt.name,
                "number": receipt.number,
                "time": receipt.time.to_string(),
                "taken": receipt.taken.to_string(),
            })
        })
        .collect();
    let mut portainers = Vec::new();
    for api in &config.portainer_apis {
        let state = State::load(store, &api.name)?;
        portainers.push(json!({
            "name": api.name,
            "url": api.url.to_string(),
            "last-success": state.asked_ns.map(|time| Nanos(time).to_string()),
            "last": state.last,
        }));
    }
    Ok(json!({
        "origin": store.origin(),
        "epoch": store.epoch(),
        "agent": if is_agent_running(&config.state_dir) { "running" } else { "stopped" },
        "lanes": lanes,
        "adds-up": adds_up,
        "bundles": bundles,
        "buffer": {
            "used-bytes": store.used_bytes()?,
            "quota-bytes": config.buffer.quota.0,
        },
        "outbox": config.outbox.path.display().to_string(),
        "outbox-waiting-bytes-max": config.outbox.waiting_bytes_max,
        "portainer-apis": portainers,
        "receipts": receipts,
        "confirmed-by-receipts": store.confirmed_count()?,
        "alarms": alarms,
        "live": live.map(|live| &live.0),
    }))
}

fn lane(config: &Config, store: &Store, totals: &LaneTotals, now: Nanos) -> Result<Value, Failure> {
    let lane: Lane = totals.lane;
    let waiting = store.waiting(lane)?;
    let policy = config.seal_policy(lane);
    // The oldest record that has not been handed over, wherever it is.
    let mut oldest = waiting.oldest;
    for state in BundleState::ON_ITS_WAY {
        oldest = oldest.into_iter().chain(store.oldest_in(lane, state)?).min();
    }
    let streams: serde_json::Map<String, Value> = Stream::ALL
        .into_iter()
        .filter(|stream| totals.received.of(*stream).records > 0)
        .map(|stream| (stream.as_str().to_owned(), stream_sums(totals, stream)))
        .collect();
    let suppressed: u64 = totals.suppressed().suppressed().map(|(_, _, c)| c.records).sum();
    Ok(json!({
        "lane": lane,
        "received": totals.received.sum().records,
        "buffered": totals.buffered.kept.sum().records,
        "sealed": totals.sealed.kept.sum().records,
        "suppressed": suppressed,
        "lost": totals.lost.sum().records,
        "lost-before-receipt": totals.lost_before,
        "adds-up": totals.adds_up(),
        "last-durable-sequence": waiting.last_sequence,
        "waiting-records": waiting.records,
        "oldest-received": oldest.map(|time| time.to_string()),
        "oldest-age-secs": oldest.map(|time| now.since(time).as_secs_f64()),
        "latency-budget-secs": policy.latency_budget.as_secs_f64(),
        "budget-left-secs": oldest.map(|time| policy.budget_left(time, now).as_secs_f64()),
        "streams": streams,
    }))
}

/// The sums of one stream: received = buffered + sealed + suppressed by each rule + lost.
fn stream_sums(totals: &LaneTotals, stream: Stream) -> Value {
    let rules: serde_json::Map<String, Value> = totals
        .suppressed()
        .suppressed()
        .filter(|(_, of, _)| *of == stream)
        .map(|(rule, _, count)| (rule.to_owned(), json!(count.records)))
        .collect();
    json!({
        "received": totals.received.of(stream).records,
        "buffered": totals.buffered.kept.of(stream).records,
        "sealed": totals.sealed.kept.of(stream).records,
        "suppressed": rules,
        "lost": totals.lost.of(stream).records,
    })
}

fn print(status: &Value) {
    let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), ToOwned::to_owned);
    say!(
        "origin {}, epoch {}, agent {}",
        text(&status["origin"]),
        status["epoch"],
        text(&status["agent"])
    );
    if let Some(writer) = status["live"].get("writer") {
        say!(
            "buffer {}, {} records committed since the start, commit p99 {:.1} ms, waited {:.0} s",
            text(&writer["state"]),
            writer["committed-records"],
            writer["commit-latency-ms-p99"].as_f64().unwrap_or_default(),
            writer["waited-secs"].as_f64().unwrap_or_default()
        );
    }
    if let Some(confinement) = status["live"]["confinement"].as_str() {
        say!("hardening   {confinement}");
    }
    say!();
    say!(
        "{:<8} {:>12} = {:>10} + {:>12} + {:>10} + {:>6}   {:>10}  {:>11}  {:>11}",
        "lane",
        "received",
        "buffered",
        "sealed",
        "suppressed",
        "lost",
        "last seq",
        "oldest",
        "budget left"
    );
    for lane in status["lanes"].as_array().into_iter().flatten() {
        let secs = |value: &Value| value.as_f64().map_or("-".to_owned(), humantime_secs);
        say!(
            "{:<8} {:>12} {} {:>10} + {:>12} + {:>10} + {:>6}   {:>10}  {:>11}  {:>11}",
            text(&lane["lane"]),
            text(&lane["received"]),
            if lane["adds-up"] == true { "=" } else { "!" },
            text(&lane["buffered"]),
            text(&lane["sealed"]),
            text(&lane["suppressed"]),
            text(&lane["lost"]),
            text(&lane["last-durable-sequence"]),
            secs(&lane["oldest-age-secs"]),
            secs(&lane["budget-left-secs"]),
        );
        if lane["lost-before-receipt"] != 0 {
            say!(
                "         {} lost before they could be received, declared",
                lane["lost-before-receipt"]
            );
        }
    }
    for lane in status["lanes"].as_array().into_iter().flatten() {
        for (stream, sums) in lane["streams"].as_object().into_iter().flatten() {
            for (rule, records) in sums["suppressed"].as_object().into_iter().flatten() {
                say!(
                    "suppressed in {} of {stream} by {rule}: {}",
                    text(&lane["lane"]),
                    text(records)
                );
            }
        }
    }
    say!();
    for (state, bundles) in status["bundles"].as_object().into_iter().flatten() {
        say!(
            "bundles {:<16} {:>8}  {:>14} bytes",
            state,
            text(&bundles["count"]),
            text(&bundles["bytes"])
        );
    }
    for listener in status["live"]["listeners"].as_array().into_iter().flatten() {
        let counters = &listener["counters"];
        say!(
            "listener {} on {}: {} messages, {} connections open, {} refused, {} cut, {} datagrams lost",
            text(&listener["name"]),
            text(&listener["address"]),
            counters["messages"],
            counters["connections-open"],
            counters["connections-refused"],
            counters["truncated"],
            counters["datagrams-lost"]
        );
        if counters["requests"].as_u64() > Some(0) {
            say!(
                "         {} HTTP requests, {} refused for good, {} told to come again",
                counters["requests"],
                counters["requests-bad"],
                counters["requests-deferred"]
            );
        }
    }
    for set in status["live"]["files"].as_array().into_iter().flatten() {
        let (counters, files) = (&set["counters"], &set["files"]);
        say!(
            "files {}: {} messages from {} files, {} cut, {} bytes behind, {} unreadable, {} gone unread",
            text(&set["name"]),
            counters["messages"],
            files["files"],
            counters["truncated"],
            files["backlog-bytes"],
            files["unreadable"],
            files["unread-gone"]
        );
        if let Some(oldest) = files["oldest-unread"].as_str() {
            let secs = files["oldest-unread-secs"].as_f64().unwrap_or_default();
            say!("         longest unread: {oldest}, for {}", humantime_secs(secs));
        }
    }
    print_portainers(status);
    for receipt in status["receipts"].as_array().into_iter().flatten() {
        let text = |field: &str| receipt[field].as_str().unwrap_or_default();
        say!(
            "receipt {} of {} was taken in {}; {} bundle(s) of this epoch are known to have arrived",
            receipt["number"],
            text("name"),
            text("taken"),
            status["confirmed-by-receipts"]
        );
    }
    for alarm in status["alarms"].as_array().into_iter().flatten() {
        say!(
            "ALARM {} {} {}: {}",
            alarm["id"],
            text(&alarm["raised"]),
            text(&alarm["kind"]),
            text(&alarm["message"])
        );
    }
    for trouble in status["troubles"].as_array().into_iter().flatten() {
        say!("TROUBLE {}", text(&trouble["what"]));
    }
    say!("{}", text(&status["verdict"]["words"]));
    if status["adds-up"] != true {
        say!("the sums do NOT add up: run penstock-high check-buffer");
    }
}

/// How reconciliation goes: what the running agent says, and the last run that came to its end.
fn print_portainers(status: &Value) {
    for portainer in status["portainer-apis"].as_array().into_iter().flatten() {
        let name = portainer["name"].as_str().unwrap_or_default();
        let success = portainer["last-success"].as_str();
        if let Ok(last) = serde_json::from_value::<Report>(portainer["last"].clone()) {
            say!("reconciled {}, {}", success.unwrap_or_default(), last.summary());
            last.notes.iter().for_each(|note| say!("         {note}"));
        } else {
            say!("reconciled never: {name} was not asked yet");
        }
        let sections = status["live"]["portainer-apis"].as_array();
        let mut sections = sections.into_iter().flatten();
        let Some(live) = sections.find(|section| section["name"] == name) else { continue };
        if live["running"] == true {
            say!("         {name} is being asked, up to {}", live["last"]["through"]);
        }
    }
}

/// Seconds as people say them.
fn humantime_secs(secs: f64) -> String {
    let whole = std::time::Duration::try_from_secs_f64(secs).unwrap_or_default().as_secs();
    match whole {
        0..60 => format!("{secs:.1} s"),
        60..3600 => format!("{} min {} s", whole / 60, whole % 60),
        3600..172_800 => format!("{} h {} min", whole / 3600, whole % 3600 / 60),
        _ => format!("{} d", whole / 86_400),
    }
}
