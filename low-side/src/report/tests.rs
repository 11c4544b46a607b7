use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::time::Duration;

use shared::bundle::{Limits, Loss, LossReason};
use shared::clock::Nanos;
use shared::record::{Lane, Stream};

use super::archive::{ArchiveFinding, QuotedRun};
use super::custody::Done;
use super::gather::LatencyBar;
use super::page::{Files, page};
use super::words::counted;
use super::*;
use crate::account::StreamAccount;
use crate::import::{Importer, Sidecar};
use crate::latency::{Budgets, Histogram, Hop};
use crate::ledger::{Delivery, Ledger};
use crate::testing::{Chain, START, Site};

fn messages(count: u64) -> Vec<Vec<u8>> {
    (0..count).map(|number| format!("message {number}").into_bytes()).collect()
}

/// The time of the record with this number, as the test's site seals it.
fn at(sequence: u64) -> Nanos {
    START.plus(Duration::from_nanos(sequence))
}

fn import<C: shared::clock::Clock>(importer: &mut Importer<C>, bundles: &[&PathBuf]) {
    for bundle in bundles {
        importer.import(bundle, Sidecar::Absent, |_| {}).unwrap();
    }
    importer.ledger.settle_custody(true, START).unwrap();
}

fn made() -> Made {
    Made {
        site: "soc-1".to_owned(),
        host: "host".to_owned(),
        program: "penstock-low 0".to_owned(),
        at: START.to_string(),
        by: "alice".to_owned(),
        signed_by: None,
        signature_namespace: super::gather::namespace(),
    }
}

fn report_of(site: &Site, from: Nanos, to: Nanos) -> Report {
    let keys = site.keys().current();
    let budgets = Budgets::default();
    let keys_dir = site.dir.path().join("keys");
    let sources = Sources {
        config_file: &site.dir.path().join("low.toml"),
        state_dir: &site.folders.state,
        keys_dir: &keys_dir,
        keys: &keys,
        limits: &Limits::default(),
        budgets: &budgets,
        archives: &[],
    };
    let mut ledger = Ledger::open_read_only(&site.folders.state).unwrap();
    let now = START.plus(Duration::from_hours(1));
    gather(&mut ledger, &sources, made(), Framework::Soc2, (from, to), now).unwrap()
}

#[test]
fn nothing_missing_is_complete_as_far_as_something_proves_it() {
    let site = Site::new();
    let mut chain = Chain::new(1, Lane::Routine);
    let bundles = [
        site.seal_with(&mut chain, &messages(3), 2),
        site.seal_with(&mut chain, &messages(4), 0),
        site.seal_with(&mut chain, &messages(1), 0),
    ];
    let mut importer = site.importer();
    import(&mut importer, &[&bundles[0], &bundles[1], &bundles[2]]);
    // The tenth record proves the nine before it, and nothing proves what came behind it.
    let report = report_of(&site, START, at(10));
    assert_eq!(report.verdict.text, "complete", "{:?}", report.verdict);
    let account = &report.account;
    assert_eq!((account.generated, account.arrived, account.suppressed), (9, 7, 2));
    let sums = &report.chain_sums;
    assert_eq!((sums.assigned, sums.arrived, sums.suppressed, sums.links), (9, 7, 2, 1));
    assert_eq!((report.stored.verified, report.stored.bundles), (2, 2), "{:?}", report.stored);
    assert!(report.custody.verified);
    assert_eq!(report.custody.tally.actions["admitted"], 3);
    let flow = &report.flow.streams["kube-audit"];
    assert_eq!((flow.arrived.iter().sum::<u64>(), flow.suppressed.iter().sum::<u64>()), (0, 2));

    let report = report_of(&site, at(1), at(11));
    assert!(!report.verdict.complete);
    assert_eq!(report.verdict.reasons.items.len(), 1, "{:?}", report.verdict);
    let text = &report.verdict.text;
    assert!(text.starts_with("INCOMPLETE: nothing proves what plant-7 received"), "{text}");
    // An empty bundle proves that nothing waited when it was sealed; here, at the begin.
    let empty = site.seal_with(&mut chain, &[], 0);
    import(&mut importer, &[&empty]);
    assert!(!report_of(&site, at(1), at(11)).verdict.complete);
    assert!(report_of(&site, at(1), at(10)).verdict.complete);
}

#[test]
fn what_is_missing_lost_and_refused_is_named_and_adds_up() {
    let site = Site::new();
    let mut chain = Chain::new(1, Lane::Routine);
    let loss = Loss {
        reason: LossReason::UdpReceiveQueue,
        listener: "udp".to_owned(),
        count: 7,
        from: at(1),
        to: at(5),
        range: None,
    };
    let first = site.seal_losing(&mut chain, &messages(3), 2, vec![loss]);
    let second = site.seal_with(&mut chain, &messages(3), 0);
    let third = site.seal_with(&mut chain, &messages(2), 0);
    let damaged = site.dir.path().join("damaged.pstk");
    std::fs::write(&damaged, &std::fs::read(&second).unwrap()[..3_000]).unwrap();
    let mut importer = site.importer();
    import(&mut importer, &[&first, &third, &first, &damaged]);
    let report = report_of(&site, START, at(10));
    let account = &report.account;
    let parts = (account.generated, account.arrived, account.suppressed, account.lost);
    assert_eq!((parts, account.missing), ((9 + 7, 4, 2, 7), 3));
    let sums = &report.chain_sums;
    assert_eq!((sums.assigned, sums.arrived, sums.suppressed), (10, 5, 2), "whole bundles");
    assert_eq!((sums.lost, sums.missing, sums.missing_bundles, sums.wrong_chains), (0, 3, 1, 0));
    let gap = &report.gaps.items[0];
    assert_eq!((gap.first, gap.last, gap.records), (2, 2, 3));
    assert_eq!(
        (gap.after.as_deref(), gap.before.clone()),
        (Some(&*at(5).to_string()), Some(at(9).to_string()))
    );
    let loss = &report.losses.items[0];
    assert_eq!((loss.records, loss.numbered, loss.listener.as_str()), (7, 0, "udp"));
    assert_eq!(report.custody.tally.duplicates, 1);
    assert_eq!(report.custody.tally.quarantined["container-malformed"], 1);
    let reasons = report.verdict.reasons.items.join("\n");
    for expected in ["3 records in 1 bundle have not come", "7 records declared lost"] {
        assert!(reasons.contains(expected), "{reasons}");
    }
    assert_eq!(report.verdict.reasons.items.len(), 2, "{reasons}");
    // It comes: the account is whole but for what was lost.
    import(&mut importer, &[&second]);
    let report = report_of(&site, at(1), at(10));
    assert_eq!((report.account.missing, report.gaps.count()), (0, 0));
    assert_eq!(report.verdict.reasons.items.len(), 1, "{:?}", report.verdict);
}

#[test]
fn tampering_with_ledger_store_or_custody_log_is_said() {
    let site = Site::new();
    let mut chain = Chain::new(1, Lane::Routine);
    let bundles = [site.seal(&mut chain, &["a"]), site.seal(&mut chain, &["b"])];
    let more = site.seal(&mut chain, &["c"]);
    let mut importer = site.importer();
    import(&mut importer, &[&bundles[0], &bundles[1], &more]);
    let reasons = || report_of(&site, at(1), at(3)).verdict.reasons.items.join("\n");
    assert_eq!(reasons(), "");
    let conn = rusqlite::Connection::open(site.folders.state.join("ledger.db")).unwrap();
    conn.execute("UPDATE bundle SET records = 3 WHERE number = 2", []).unwrap();
    assert!(reasons().contains("the sequence numbers of 1 chain do not add up"), "{}", reasons());
    conn.execute("UPDATE bundle SET records = 1, previous = digest WHERE number = 2", []).unwrap();
    assert!(reasons().contains("1 link from bundle to bundle"), "{}", reasons());
    conn.execute("UPDATE bundle SET previous = (SELECT digest FROM bundle WHERE number = 1) WHERE number = 2", [])
        .unwrap();
    assert_eq!(reasons(), "");

    let names = crate::testing::names(&site.folders.store);
    let first = site.folders.store.join(&names[0]);
    let kept = std::fs::read(&first).unwrap();
    std::fs::copy(site.folders.store.join(&names[1]), &first).unwrap();
    assert!(reasons().contains("1 stored bundle missing, or not what"), "{}", reasons());
    std::fs::write(&first, kept).unwrap();

    let log = site.folders.state.join("custody/custody-000000000001.log");
    let text = std::fs::read_to_string(&log).unwrap();
    std::fs::write(&log, text.replacen("admitted", "replayed", 1)).unwrap();
    assert!(reasons().contains("the custody log does not verify"), "{}", reasons());
}

#[test]
fn another_epoch_and_a_trusted_side_that_is_silent_are_no_complete_period() {
    let site = Site::new();
    let reasons = |from, to| report_of(&site, from, to).verdict.reasons.items;
    drop(site.ledger());
    assert_eq!(reasons(at(1), at(2)), ["nothing was ever heard of plant-7, which is trusted"]);
    let mut importer = site.importer();
    let (mut old, mut new) = (Chain::new(1, Lane::Routine), Chain::new(2, Lane::Routine));
    import(&mut importer, &[&site.seal(&mut old, &["a"])]);
    let bundles = [site.seal(&mut new, &["a", "b"]), site.seal(&mut new, &["c"])];
    import(&mut importer, &[&bundles[0], &bundles[1]]);
    let found = reasons(START, at(3));
    assert!(found.len() == 1 && found[0].contains("epoch 2 began"), "{found:?}");
    assert!(reasons(at(1), at(3)).is_empty(), "it began before");
    // Taken off the list, it still owes what is left of a period in which it was heard of.
    let list = site.dir.path().join("keys/allowed_signers");
    let kept = std::fs::read(&list).unwrap();
    std::fs::write(&list, "").unwrap();
    assert!(reasons(at(1), at(9)).iter().any(|reason| reason.contains("nothing proves")));
    assert!(reasons(at(5), at(9)).is_empty());
    std::fs::write(&list, kept).unwrap();
    let future = START.plus(Duration::from_hours(2));
    assert!(reasons(at(1), future).iter().any(|reason| reason.contains("is not over")));
}

#[test]
fn delivery_and_latency_are_told() {
    let site = Site::new();
    let mut chain = Chain::new(1, Lane::Flash);
    let bundles = [site.seal_with(&mut chain, &messages(4), 1), site.seal(&mut chain, &["x"])];
    let mut importer = site.importer();
    import(&mut importer, &[&bundles[0], &bundles[1]]);
    let mut ledger = site.ledger();
    let sink = ledger.sink("siem").unwrap();
    ledger.sink("idle").unwrap();
    let mut counts = Histogram::default();
    counts.add(START, START.plus(Duration::from_secs(2)));
    counts.add(START, START.plus(Duration::from_hours(30)));
    let took = HashMap::from([((Lane::Flash, Stream::Other, Hop::Received), counts)]);
    let chain = ledger.pending_chains(sink).unwrap()[0].id;
    let delivery = Delivery::of(chain, (1, 5), 4);
    ledger.deliver(sink, &[delivery], None, &took, START).unwrap();
    let report = report_of(&site, at(1), at(6));
    assert!(report.verdict.complete, "{:?}", report.verdict);
    let taken: BTreeMap<&str, u64> =
        report.not_taken.items.iter().map(|sink| (sink.sink.as_str(), sink.numbers)).collect();
    assert_eq!(taken, BTreeMap::from([("idle", 5), ("siem", 0)]));
    let shown = &report.latency.delivered.items[0];
    assert_eq!((shown.sum.records, shown.sum.over_budget), (2, 1));
    let over: u64 = shown
        .histogram
        .iter()
        .filter(|bar| bar.up_to_ms.is_none_or(|end| end > shown.sum.budget_ms))
        .map(|bar| bar.records)
        .sum();
    assert_eq!(over, 1, "{:?}", shown.histogram);
    assert!(shown.histogram.contains(&LatencyBar { up_to_ms: Some(5_000), records: 1 }));
    let notes = report.verdict.notes.items.join("\n");
    assert!(notes.contains("the sink idle has yet to take 5 sequence numbers"), "{notes}");
    assert!(!notes.contains("refused") && !notes.contains("filter"), "{notes}");
    let text = page(&report, Files { json: "r.json", json_sha256: "00" });
    assert!(text.contains("everything of the period was delivered"), "{text}");
    assert!(text.contains("not all was taken yet"), "{text}");

    // The other sink is refused one record for good, and leaves another out.
    let idle = ledger.sink("idle").unwrap();
    let mut delivery = Delivery::of(chain, (1, 5), 4);
    delivery.filtered.insert(Stream::Other, 1);
    delivery.rejected.insert(2, Stream::Other);
    ledger.deliver(idle, &[delivery], None, &HashMap::new(), START).unwrap();
    let report = report_of(&site, at(1), at(6));
    let of = |name: &str| -> [u64; 4] {
        let part = report.delivery.items.iter().find(|part| part.sink == name).unwrap();
        [part.delivered, part.filtered, part.rejected, part.pending]
    };
    assert_eq!((of("idle"), of("siem")), ([2, 1, 1, 0], [4, 0, 0, 0]));
    let notes = report.verdict.notes.items.join("\n");
    for said in [
        "the sink idle refused 1 record of the period for good",
        "dead-letters/idle.ndjson",
        "penstock-low dead-letters idle names the reason, and with --retry",
        "the filter of the sink idle left out 1 record of the period",
    ] {
        assert!(notes.contains(said), "{said}: {notes}");
    }
    let text = page(&report, Files { json: "r.json", json_sha256: "00" });
    assert_well_formed(&text);
    let state = "everything of the period was dealt with; 1 record REJECTED for good; 1 record filtered out";
    assert!(text.contains(state), "{text}");
    assert!(notes.contains("1 record over the budget of the lane flash"), "{notes}");
}

#[test]
fn a_report_changes_nothing_and_an_older_ledger_is_refused() {
    let site = Site::new();
    let mut chain = Chain::new(1, Lane::Routine);
    let mut importer = site.importer();
    import(&mut importer, &[&site.seal(&mut chain, &["a"])]);
    drop(importer);
    let before = std::fs::read(site.folders.state.join("ledger.db")).unwrap();
    report_of(&site, at(1), at(2));
    assert_eq!(std::fs::read(site.folders.state.join("ledger.db")).unwrap(), before);
    let ledger = Ledger::open_read_only(&site.folders.state).unwrap();
    let mut ledger = ledger;
    assert!(ledger.raise("gap", "subject", "text", START).is_err());
    drop(ledger);
    let conn = rusqlite::Connection::open(site.folders.state.join("ledger.db")).unwrap();
    conn.pragma_update(None, "user_version", 1).unwrap();
    let refused = Ledger::open_read_only(&site.folders.state).unwrap_err();
    assert!(refused.to_string().contains("start the agent once"), "{refused}");
}

const HOSTILE: &str = "<script>alert(\"x\")</script>'&\u{202e}\u{7}";

/// Every element is closed in its order, every attribute quoted, and there is one style and no script.
fn assert_well_formed(page: &str) {
    let mut open: Vec<&str> = Vec::new();
    let body = page.strip_prefix("<!DOCTYPE html>\n").unwrap();
    let mut rest = body;
    while let Some(begin) = rest.find('<') {
        let end = begin + rest[begin..].find('>').expect("a tag ends");
        let tag = &rest[begin + 1..end];
        rest = &rest[end + 1..];
        if let Some(name) = tag.strip_prefix('/') {
            assert_eq!(open.pop(), Some(name), "before {}", &rest[..rest.len().min(80)]);
            continue;
        }
        assert_eq!(tag.matches('"').count() % 2, 0, "{tag}");
        let name = tag.split(' ').next().unwrap();
        assert!(name.bytes().all(|byte| byte.is_ascii_alphanumeric()), "{tag}");
        if !["meta", "br"].contains(&name) {
            open.push(name);
        }
    }
    assert_eq!(open, Vec::<&str>::new());
    assert_eq!((page.matches("<style").count(), page.matches("<script").count()), (1, 0));
    for outside in ["http://", "https://", "src=", "@import", "url(", "href="] {
        assert!(!page.contains(outside), "{outside}");
    }
}

#[test]
fn the_page_is_well_formed_whatever_the_names_are() {
    let site = Site::new();
    let mut chain = Chain::new(1, Lane::Routine);
    let mut importer = site.importer();
    let bundles = [site.seal_with(&mut chain, &messages(2), 1), site.seal(&mut chain, &["z"])];
    import(&mut importer, &[&bundles[0], &bundles[1]]);
    let mut report = report_of(&site, at(1), at(4));
    let text = page(&report, Files { json: "r.json", json_sha256: "00" });
    assert_well_formed(&text);
    assert!(
        text.contains(">complete</h2>") && text.contains("No archive is configured."),
        "{text}"
    );

    let hostile = || HOSTILE.to_owned();
    report.made.site = hostile();
    report.made.by = hostile();
    let suppressed = BTreeMap::from([(hostile(), 1)]);
    report.account.streams.insert(hostile(), StreamAccount { arrived: 1, suppressed });
    report.account.losses.insert(hostile(), 1);
    let flow = report.flow.streams["other"].clone();
    report.flow.streams.insert(hostile(), flow);
    report.custody.tally.people.insert(hostile(), BTreeMap::from([(hostile(), 1)]));
    report.custody.tally.arrivals.insert(hostile(), 1);
    report.custody.tally.quarantined.insert(hostile(), 1);
    let (at, who, action, detail) = (hostile(), hostile(), hostile(), hostile());
    report.custody.tally.media.push(Done { entry: 1, at, who, action, detail });
    report.verdict.complete = false;
    report.verdict.reasons.push(hostile());
    for chain in &mut report.chains.items {
        chain.chain = hostile();
    }
    let run = QuotedRun {
        at: hostile(),
        verdict: hostile(),
        lock: Some(hostile()),
        full: true,
        looked_at: 1,
        findings: 0,
        unanswered: 1,
        gone_after_lock: 1,
        report: hostile(),
        sha256: hostile(),
    };
    report.archives.push(ArchiveProof {
        name: hostile(),
        kind: hostile(),
        place: hostile(),
        lock: hostile(),
        retain_secs: Some(1),
        before: true,
        archived: 1,
        locked_until: Some(hostile()),
        waiting: 0,
        refused: 0,
        neither: 0,
        last_run: Some(run.clone()),
        last_found: Some(run.clone()),
        last_held: Some(run),
        findings: vec![ArchiveFinding { bad: true, text: hostile() }],
    });
    let text = page(&report, Files { json: HOSTILE, json_sha256: HOSTILE });
    assert_well_formed(&text);
    assert!(
        text.contains("&lt;script&gt;alert(&quot;x&quot;)&lt;/script&gt;&#39;&amp;\\u{202e}\\u{7}")
    );
    // Every section that a control names is there.
    for framework in [Framework::Hipaa, Framework::Iso27001, Framework::PciDss, Framework::Soc2] {
        for control in framework.text().controls {
            for section in control.sections {
                assert!(text.contains(&format!("<section id=\"{section}\"")), "{section}");
            }
        }
    }
}

#[test]
fn long_periods_are_drawn_in_parts_that_fit_a_chart() {
    let site = Site::new();
    drop(site.ledger());
    for days in [1, 3, 30, 90, 365, 3_650, 100_000] {
        let report = report_of(&site, Nanos(0), Nanos(0).plus(Duration::from_hours(24 * days)));
        assert!((1..=101).contains(&report.flow.parts), "{days}: {:?}", report.flow);
    }
    assert_eq!(
        [counted(1, "entry"), counted(2_000, "entry"), counted(0, "record")],
        ["1 entry", "2,000 entries", "0 records"]
    );
}
