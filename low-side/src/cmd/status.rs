//! `status`, `gaps`, `alarms` and `acknowledge`: what the ledger knows.

use std::fmt::Write as _;

use serde_json::Value;
use shared::clock::{Clock, SystemClock};
use shared::exit;

use super::{Failure, put, put_json};
use crate::config::Config;
use crate::folders::Folders;
use crate::ledger::{Alarm, Ledger, PassGaps};
use crate::metrics::places;
use crate::status::{Status, live};
use crate::trouble::troubles;

pub(super) fn status(config: &Config, as_json: bool) -> Result<(), Failure> {
    let mut ledger = Ledger::open_existing(&config.state_dir)?;
    let live = live(&Folders::of(&config.state_dir));
    let now = SystemClock.now();
    let status = Status::gather(&mut ledger, &config.latency, now, live)?;
    let troubles = troubles(&status, config, &places(config), now);
    let mut judged = serde_json::to_value(&status).unwrap_or_default();
    page::judge(&mut judged, troubles);
    if as_json { put_json(&judged) } else { put(&text(&status, &judged, config)) }
}

fn text(status: &Status, judged: &Value, config: &Config) -> String {
    let mut out = String::new();
    let sums = &status.sums;
    let agent = status.agent.as_ref();
    let running = match agent.and_then(|agent| agent["pid"].as_u64()) {
        Some(pid) => format!("running, process {pid}"),
        None => "not running".to_owned(),
    };
    let _ = writeln!(out, "agent        {running}");
    if let Some(confinement) = agent.and_then(|agent| agent["confinement"].as_str()) {
        let _ = writeln!(out, "hardening    {confinement}");
    }
    let age = status
        .last_bundle_age_secs
        .map_or("never".to_owned(), |secs| format!("{} ago", shared::config::Span::secs(secs)));
    let _ = writeln!(out, "last bundle  {age}");
    let _ = writeln!(
        out,
        "bundles      {} received = {} admitted + {} duplicate + {} quarantined",
        sums.received, sums.admitted, sums.duplicate, sums.quarantined
    );
    if sums.held > 0 {
        let _ = writeln!(out, "             {} of the admitted wait for a gap", sums.held);
    }
    let ignored = agent.and_then(|agent| agent["inbox-ignored"].as_u64()).unwrap_or(0);
    if ignored > 0 {
        let _ = writeln!(out, "inbox        {ignored} entries are no bundles and stay there");
    }
    for (code, count) in &status.quarantine_codes {
        let _ = writeln!(out, "             quarantined: {count} {code}");
    }
    let _ = writeln!(out, "records      {} admitted", sums.records);
    for sum in &sums.streams {
        let _ = writeln!(out, "             {} of {}", sum.records, sum.stream);
    }
    for sum in &sums.suppressed_by {
        let _ = writeln!(
            out,
            "             {} of {} suppressed by rule {}",
            sum.records, sum.stream, sum.rule
        );
    }
    for loss in &sums.losses {
        let _ = writeln!(out, "             {} declared lost: {}", loss.records, loss.reason);
    }
    let store = &sums.store;
    let bytes = shared::config::ByteSize(store.bytes);
    let since =
        store.oldest.as_deref().map_or(String::new(), |at| format!(", the oldest since {at}"));
    let _ = writeln!(out, "store        {} bundles, {bytes}{since}", store.bundles);
    if store.removed > 0 {
        let _ = writeln!(out, "             {} have left it after their time", store.removed);
    }
    if store.absent > 0 {
        let bytes = shared::config::ByteSize(store.absent_bytes);
        let _ = writeln!(
            out,
            "             {} of the ledger ARE NOT THERE, {bytes}\n             try: penstock-high export --all on the high side, or penstock-low archive restore; then import them",
            store.absent
        );
    }
    if store.not_admitted > 0 {
        let _ = writeln!(
            out,
            "             {} files besides ARE NOT ADMITTED\n             try: penstock-low alarms; the alarm store-not-admitted says why",
            store.not_admitted
        );
    }
    for sum in &sums.archives {
        let health = agent.map(|agent| &agent["archives"][&sum.name]);
        let state = health.and_then(|health| health["state"].as_str()).unwrap_or("not running");
        let order = if sum.before { "before the sinks" } else { "beside the sinks" };
        let _ = writeln!(
            out,
            "archive      {}: {} bundles archived, {} wait, {order}, {state}",
            sum.name, sum.archived, sum.waiting
        );
        if let Some(error) = health.and_then(|health| health["error"].as_str()) {
            let _ = writeln!(out, "             {error}");
        }
        let known = config.archives.iter().find(|known| known.name == sum.name);
        if known.is_some_and(|known| known.retain.is_none()) {
            let _ = writeln!(out, "             no lock: root can remove what it keeps");
        }
    }
    for sink in &sums.sinks {
        let health = agent.map(|agent| &agent["sinks"][&sink.name]);
        let configured = config.sinks.iter().any(|known| known.name == sink.name);
        let state = match health.and_then(|health| health["state"].as_str()) {
            Some(state) => state,
            None if configured => "not running",
            None => "not in the configuration",
        };
        let mut also = String::new();
        for (what, records) in [
            ("filtered", sink.filtered),
            ("rejected for good", sink.rejected),
            ("no longer in the store", sink.removed),
        ] {
            if records > 0 {
                let _ = write!(also, " + {records} {what}");
            }
        }
        let again =
            if sink.again > 0 { format!(" + {} once more", sink.again) } else { String::new() };
        let _ = writeln!(
            out,
            "sink         {}: {}{again} = {} delivered{also} + {} pending, {state}",
            sink.name, sums.records, sink.delivered, sink.pending
        );
        if sink.rejected > 0 {
            let _ = writeln!(out, "             try: penstock-low dead-letters {}", sink.name);
        }
        if let Some(error) = health.and_then(|health| health["error"].as_str()) {
            let _ = writeln!(out, "             {error}");
        }
    }
    for chain in &sums.chains {
        let _ = writeln!(
            out,
            "chain        {}: {} bundles, {} records, last sequence {}, {} bundles missing",
            chain.chain, chain.bundles, chain.records, chain.last_sequence, chain.missing
        );
    }
    for sum in &status.latency {
        let over = match sum.over_budget {
            0 => String::new(),
            over => format!(", {over} OVER THE BUDGET"),
        };
        let span = |millis| shared::config::Span(std::time::Duration::from_millis(millis));
        let _ = writeln!(
            out,
            "latency      {} {} {}, {}: p50 {} p99 {} max {}{over}",
            sum.sink,
            sum.lane,
            sum.stream,
            sum.hop,
            span(sum.p50_ms),
            span(sum.p99_ms),
            span(sum.max_ms)
        );
    }
    for clock in &status.clocks {
        let _ = writeln!(out, "clocks       {}", clock.text());
    }
    for gap in &status.gaps {
        let passed = if gap.passed.is_some() { "passed" } else { "holds" };
        let _ = writeln!(
            out,
            "gap          {}: bundles {} to {}, {passed}",
            gap.chain, gap.first, gap.last
        );
    }
    let listed = status.gaps.len() as u64;
    let more = (status.gaps_holding + status.gaps_passed).saturating_sub(listed);
    if more > 0 {
        let _ = writeln!(
            out,
            "             and {more} older ones\n             try: penstock-low gaps"
        );
    }
    for alarm in &status.alarms {
        let _ = writeln!(out, "ALARM        {}", alarm_text(alarm));
    }
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    for trouble in judged["troubles"].as_array().into_iter().flatten() {
        let _ = writeln!(out, "TROUBLE      {}", text(&trouble["what"]));
    }
    let _ = writeln!(out, "{}", text(&judged["verdict"]["words"]));
    out
}

fn alarm_text(alarm: &Alarm) -> String {
    let times = if alarm.count > 1 { format!(" ({} times)", alarm.count) } else { String::new() };
    let closed = if alarm.closed.is_some() { " [over]" } else { "" };
    format!("{} {} {}: {}{times}{closed}", alarm.id, alarm.last, alarm.code, alarm.message)
}

pub(super) fn gaps(config: &Config, pass: Option<i64>, as_json: bool) -> Result<(), Failure> {
    let mut ledger = Ledger::open_existing(&config.state_dir)?;
    if let Some(id) = pass
        && ledger.pass_gaps(PassGaps::One(id), SystemClock.now())? == 0
    {
        let text = format!("no gap {id} holds anything\n  try: penstock-low gaps");
        return Err(Failure::new(exit::FAILED, text));
    }
    super::custody::settle(&mut ledger);
    let gaps = ledger.gaps()?;
    if as_json {
        return put_json(&gaps);
    }
    let mut out = String::new();
    for gap in &gaps {
        let passed = match &gap.passed {
            Some(time) => format!("passed {time}"),
            None => "holds what is behind it".to_owned(),
        };
        let _ = writeln!(
            out,
            "{}  {}  bundles {} to {}  noticed {}  {passed}",
            gap.id, gap.chain, gap.first, gap.last, gap.noticed
        );
    }
    if gaps.is_empty() {
        tell!("no bundle is missing");
    }
    put(&out)
}

pub(super) fn alarms(config: &Config, as_json: bool) -> Result<(), Failure> {
    let alarms = Ledger::open_existing(&config.state_dir)?.alarms()?;
    if as_json {
        return put_json(&alarms);
    }
    if alarms.is_empty() {
        tell!("there is no alarm");
    }
    put(&alarms.iter().map(|alarm| alarm_text(alarm) + "\n").collect::<String>())
}

pub(super) fn acknowledge(config: &Config, alarm: Option<i64>) -> Result<(), Failure> {
    let count = Ledger::open_existing(&config.state_dir)?.acknowledge(alarm, SystemClock.now())?;
    match (alarm, count) {
        (Some(id), 0) => Err(Failure::new(
            exit::FAILED,
            format!("no alarm {id} is open\n  try: penstock-low alarms"),
        )),
        (_, count) => {
            tell!("{count} alarm(s) acknowledged");
            Ok(())
        }
    }
}
