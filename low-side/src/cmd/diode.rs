//! `diode`: what came over links, what is under way, what is missing, and a request for what will
//! not come by itself.

use std::fmt::Write as _;
use std::path::Path;

use serde_json::json;
use shared::bundle::FILE_EXTENSION;
use shared::durable;
use shared::exit;

use super::{Failure, put, put_json};
use crate::config::Config;
use crate::ledger::Ledger;
use crate::ranges::RangeSet;
use crate::receiver::config::ReceiverKind;
use crate::receiver::diode::reports;
use crate::receiver::report::{LaneReport, LinkReport};

/// Ranges in a resend request; the rest is asked for by the next one.
const RESEND_RANGES_MAX: usize = 2_000;

pub(super) fn diode(config: &Config, as_json: bool, resend: Option<&Path>) -> Result<(), Failure> {
    let names: Vec<String> = config
        .receivers
        .iter()
        .filter(|receiver| matches!(receiver.kind, ReceiverKind::UdpDiode(_)))
        .map(|receiver| receiver.name.clone())
        .collect();
    if names.is_empty() {
        let text = "no link is configured\n  try: a section [[receiver]] with type = \"udp-diode\"";
        return Err(Failure::new(exit::CONFIG, text));
    }
    let mut links = reports(&config.state_dir, &names)
        .map_err(|err| Failure::new(exit::IO, format!("{}: {err}", config.state_dir.display())))?;
    admitted_otherwise(config, &mut links)?;
    if let Some(path) = resend {
        return request(path, &links);
    }
    if as_json { put_json(&links) } else { put(&text(&names, &links)) }
}

/// What was admitted is not missing, whatever it came by: another link, or a medium.
fn admitted_otherwise(config: &Config, links: &mut [LinkReport]) -> Result<(), Failure> {
    let Ok(ledger) = Ledger::open_existing(&config.state_dir) else { return Ok(()) };
    let is_inbox_empty = std::fs::read_dir(&config.inbox.path).is_ok_and(|entries| {
        let is_bundle = |path: &Path| path.extension().is_some_and(|ext| ext == FILE_EXTENSION);
        !entries.flatten().any(|entry| is_bundle(&entry.path()))
    });
    for link in links {
        let Some(origin) = link.origin.clone() else { continue };
        for lane in &mut link.lanes {
            let missing = ledger.missing_numbers(&origin, lane.epoch, &lane.lane)?;
            let missing = missing.unwrap_or_else(|| {
                let mut all = RangeSet::default();
                all.insert(1, u64::MAX);
                all
            });
            let keep = |ranges: &mut Vec<(u64, u64)>, count: &mut u64| {
                let before: u64 = sum(ranges);
                *ranges = missing.common(ranges);
                let gone = before - sum(ranges);
                *count -= gone.min(*count);
                gone
            };
            let mut gone = keep(&mut lane.never_seen, &mut lane.counts.never_seen);
            gone += keep(&mut lane.expired, &mut lane.counts.expired);
            lane.counts.complete += gone;
            // What came whole, waits nowhere and was not admitted was refused: it has to come again.
            if is_inbox_empty {
                let refused = missing.common(&lane.complete);
                lane.complete = missing.outside(&lane.complete);
                lane.counts.complete -= sum(&refused).min(lane.counts.complete);
                for (first, last) in refused {
                    let still = lane.oldest_sending.max(first);
                    if first < still {
                        let end = last.min(still - 1);
                        lane.expired.push((first, end));
                        lane.counts.expired += end - first + 1;
                    }
                    if still <= last {
                        lane.never_seen.push((still, last));
                        lane.counts.never_seen += last - still + 1;
                    }
                }
            }
        }
    }
    Ok(())
}

fn sum(ranges: &[(u64, u64)]) -> u64 {
    ranges.iter().map(|(first, last)| last - first + 1).sum()
}

/// Writes a request that a person can carry to the high side.
fn request(path: &Path, links: &[LinkReport]) -> Result<(), Failure> {
    let mut origins: Vec<&String> = links.iter().filter_map(|link| link.origin.as_ref()).collect();
    origins.sort();
    origins.dedup();
    let origin = match origins[..] {
        [one] => one,
        [] => {
            let text = "no catalogue has come yet, so that nothing is known to be missing\n  try: penstock-low diode";
            return Err(Failure::new(exit::FAILED, text));
        }
        _ => {
            let text = "the links carry bundles of several origins\n  try: penstock-low diode --json, and a request for each";
            return Err(Failure::new(exit::FAILED, text));
        }
    };
    let mut asked = std::collections::BTreeMap::<(String, u64), RangeSet>::new();
    for lane in links.iter().flat_map(|link| &link.lanes) {
        let ranges = asked.entry((lane.lane.clone(), lane.epoch)).or_default();
        lane.expired.iter().for_each(|(first, last)| ranges.insert(*first, *last));
    }
    // What another link brought, or still sends, need not be sent once more.
    let ranges = |((lane, epoch), ranges): (&(String, u64), &RangeSet)| -> Vec<serde_json::Value> {
        let of = |other: &&LaneReport| other.lane == *lane && other.epoch == *epoch;
        let mut there = RangeSet::default();
        for other in links.iter().flat_map(|link| &link.lanes).filter(of) {
            let coming = &other.never_seen;
            other
                .complete
                .iter()
                .chain(coming)
                .for_each(|(first, last)| there.insert(*first, *last));
        }
        let wanted: Vec<(u64, u64)> = ranges.iter().collect();
        let row = |(first, last): (u64, u64)| json!({"epoch": epoch, "lane": lane, "first": first, "last": last});
        there.outside(&wanted).into_iter().map(row).collect()
    };
    let missing: Vec<serde_json::Value> =
        asked.iter().flat_map(ranges).take(RESEND_RANGES_MAX).collect();
    let count = missing.len();
    let request = json!({"penstock-resend": 1, "origin": origin, "missing": missing});
    let text =
        serde_json::to_string_pretty(&request).map_err(|err| Failure::new(exit::FAILED, err))?;
    durable::write(path, (text + "\n").as_bytes(), 0o644)
        .map_err(|err| Failure::new(exit::IO, format!("{}: {err}", path.display())))?;
    tell!("{} asks for {count} range(s)", path.display());
    if count > 0 {
        tell!("  next: carry it to the high side");
    }
    Ok(())
}

fn text(names: &[String], links: &[LinkReport]) -> String {
    let mut out = String::new();
    for name in names {
        let Some(link) = links.iter().find(|link| link.receiver == *name) else {
            let _ = writeln!(out, "{name}: nothing is known yet; the agent has not run with it");
            continue;
        };
        let of = |counter: &str| link.counters.get(counter).copied().unwrap_or(0);
        let origin = link.origin.as_deref().unwrap_or("nobody yet");
        let _ = writeln!(out, "{name}: link {} from {origin}, as of {}", link.link, link.time);
        let catalogue = match link.catalogue.age_ms {
            Some(age) => format!("came {}.{} s before", age / 1000, age % 1000 / 100),
            None => "has not come".to_owned(),
        };
        let _ = writeln!(out, "  catalogue  {catalogue}");
        let _ = writeln!(
            out,
            "  datagrams  {} came, {} were lost (at most {} in one stretch), {} forged, {} foreign, {} dropped by the socket",
            of("datagrams"),
            of("datagrams-lost"),
            of("longest-burst"),
            of("datagrams-forged"),
            of("datagrams-foreign"),
            of("socket-drops"),
        );
        if !link.trouble.is_empty() {
            let _ = writeln!(out, "  trouble    {}", link.trouble);
        }
        for lane in &link.lanes {
            let counts = lane.counts;
            let _ = writeln!(
                out,
                "  {} of epoch {}: {} to {}: {} complete, {} partial, {} never seen, {} expired",
                lane.lane,
                lane.epoch,
                lane.first,
                lane.last,
                counts.complete,
                counts.partial,
                counts.never_seen,
                counts.expired
            );
            for partial in &lane.partial {
                let expired = if partial.expired { ", expired" } else { "" };
                let _ = writeln!(
                    out,
                    "    {}: {} of {} blocks are whole, {} shards are missing{expired}",
                    partial.number, partial.blocks_whole, partial.blocks, partial.shards_missing
                );
            }
            for (what, ranges) in [("never seen", &lane.never_seen), ("expired", &lane.expired)] {
                if !ranges.is_empty() {
                    let _ = writeln!(out, "    {what}: {}", listed(ranges));
                }
            }
        }
    }
    out
}

fn listed(ranges: &[(u64, u64)]) -> String {
    const SHOWN_MAX: usize = 20;
    let one = |(first, last): &(u64, u64)| {
        if first == last { first.to_string() } else { format!("{first}-{last}") }
    };
    let mut text: Vec<String> = ranges.iter().take(SHOWN_MAX).map(one).collect();
    if ranges.len() > SHOWN_MAX {
        text.push("...".to_owned());
    }
    text.join(", ")
}
