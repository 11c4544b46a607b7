//! The page: the report as people read and print it. The JSON beside it says the same, and more exactly.

use std::fmt::Write as _;

use super::ArchiveProof;
use super::chart::{self, Bar, Bars, Share};
use super::frameworks::{Control, section};
use super::gather::{Flow, LatencyHistogram, Report};
use super::html::Html;
use super::listed::Listed;
use super::words::{counted, day, number, short, span};
use crate::ledger::SinkDelivery;

/// What the page says of the files that it was written with.
#[derive(Clone, Copy, Debug)]
pub struct Files<'a> {
    /// The name of the JSON file.
    pub json: &'a str,
    /// The SHA-256 of its bytes.
    pub json_sha256: &'a str,
}

/// Writes the page.
pub fn page(report: &Report, files: Files<'_>) -> String {
    let mut html = Html::document();
    html.element("html", &[("lang", "en")], |html| {
        html.element("head", &[], |html| head(html, report));
        html.element("body", &[], |html| {
            html.element("header", &[], |html| title(html, report));
            html.element("main", &[], |html| sections(html, report, files));
        });
    });
    html.into_string()
}

fn head(html: &mut Html, report: &Report) {
    html.void("meta", &[("charset", "utf-8")]);
    html.void("meta", &[("name", "viewport"), ("content", "width=device-width, initial-scale=1")]);
    let policy = "default-src 'none'; style-src 'unsafe-inline'";
    html.void("meta", &[("http-equiv", "Content-Security-Policy"), ("content", policy)]);
    html.void("meta", &[("name", "color-scheme"), ("content", "light dark")]);
    let made = &report.made;
    html.leaf(
        "title",
        &[],
        &format!("Evidence report of {}, {} to {}", made.site, day(&report.from), day(&report.to)),
    );
    html.style(STYLE);
}

fn title(html: &mut Html, report: &Report) {
    html.leaf("p", &[("class", "kicker")], "Penstock evidence report");
    html.leaf("h1", &[], &format!("Audit records at {}", report.made.site));
    html.element("p", &[("class", "period")], |html| {
        html.text("Received from ");
        time(html, &report.from);
        html.text(" to ");
        time(html, &report.to);
    });
    html.leaf("p", &[("class", "period")], &format!("Evidence towards {}", report.framework.title));
}

fn sections(html: &mut Html, report: &Report, files: Files<'_>) {
    verdict(html, report);
    about(html, report, files);
    completeness(html, report);
    proof(html, report);
    exceptions(html, report);
    latency(html, report);
    flow(html, report);
    integrity(html, report);
    custody(html, report);
    keys(html, report);
    archive(html, report);
    alarms(html, report);
    configuration(html, report);
    framework(html, report);
    limits(html, &report.made.site, files);
}

fn verdict(html: &mut Html, report: &Report) {
    let verdict = &report.verdict;
    let class = if verdict.complete { "verdict complete" } else { "verdict incomplete" };
    html.element("section", &[("class", class), ("aria-labelledby", "verdict")], |html| {
        let word = if verdict.complete { "complete" } else { "INCOMPLETE" };
        html.leaf("h2", &[("id", "verdict")], word);
        if verdict.complete {
            let text = "Every record of the period arrived or was suppressed by a named rule. None is missing or lost, and every proof below holds.";
            html.leaf("p", &[], text);
        } else {
            list(html, &verdict.reasons);
        }
    });
    if verdict.notes.count() > 0 {
        html.element("section", &[("class", "notes"), ("aria-labelledby", "notes")], |html| {
            html.leaf("h2", &[("id", "notes")], "To be known besides");
            list(html, &verdict.notes);
        });
    }
}

fn about(html: &mut Html, report: &Report, files: Files<'_>) {
    let made = &report.made;
    begin(html, report, section::ABOUT, |html| {
        html.element("dl", &[], |html| {
            pair(html, "Site", &made.site);
            pair(html, "Made", &short(&made.at));
            pair(html, "By", &format!("{} on {}", made.by, made.host));
            pair(html, "With", &made.program);
            pair(html, "Data", files.json);
            code_pair(html, "SHA-256 of the data", files.json_sha256);
            match &made.signed_by {
                Some(key) => code_pair(html, "Signed by", key),
                None => pair(html, "Signed by", "nobody: this side has no signing key"),
            }
        });
    });
}

fn completeness(html: &mut Html, report: &Report) {
    let account = &report.account;
    begin(html, report, section::COMPLETENESS, |html| {
        let text = "Every record that the high sides received in the period, to the record: generated = arrived + suppressed + lost + missing.";
        html.leaf("p", &[], text);
        html.element("dl", &[("class", "tiles")], |html| {
            for (name, count, class) in [
                ("generated", account.generated, "plain"),
                ("arrived", account.arrived, "arrived"),
                ("suppressed", account.suppressed, "suppressed"),
                ("declared lost", account.lost, "lost"),
                ("missing", account.missing, "missing"),
            ] {
                html.element("div", &[("class", class)], |html| {
                    html.leaf("dt", &[], name);
                    html.leaf("dd", &[], &number(count));
                });
            }
        });
        let share = |name, count, class| Share { name, count, class };
        let shares = [
            share("arrived", account.arrived, "arrived"),
            share("suppressed", account.suppressed, "suppressed"),
            share("lost", account.lost, "lost"),
            share("missing", account.missing, "missing"),
        ];
        chart::shares(html, "shares", "Where the records are", &shares);
        let mut rows: Listed<Vec<String>> = Listed::default();
        for (stream, part) in &account.streams {
            rows.push(vec![stream.clone(), "arrived".to_owned(), number(part.arrived)]);
            for (rule, records) in &part.suppressed {
                let what = format!("suppressed by rule {rule}");
                rows.push(vec![stream.clone(), what, number(*records)]);
            }
        }
        for (reason, records) in &account.losses {
            let what = format!("declared lost: {reason}");
            rows.push(vec!["of no known stream".to_owned(), what, number(*records)]);
        }
        if account.missing > 0 {
            let what = "missing".to_owned();
            rows.push(vec!["of no known stream".to_owned(), what, number(account.missing)]);
        }
        rows.push(vec!["all".to_owned(), "generated".to_owned(), number(account.generated)]);
        let columns =
            [text_column("Stream"), text_column("What became of them"), count_column("Records")];
        table(html, "Records by stream", &columns, &rows);
        let text =
            "Of what was lost or has not come, the stream is not known: it stands in the records.";
        html.leaf("p", &[("class", "small")], text);
        delivery(html, report);
    });
}

/// What became of the records at the sinks.
fn delivery(html: &mut Html, report: &Report) {
    let known = &report.delivery.items;
    let not_counted = known.iter().any(|part| part.not_counted > 0);
    let removed = known.iter().any(|part| part.removed > 0);
    let mut columns = vec![
        text_column("Sink"),
        text_column("Stream"),
        count_column("Delivered"),
        count_column("Filtered out"),
        count_column("Rejected"),
        count_column("Not yet taken"),
    ];
    columns.extend(removed.then_some(count_column("Never got")));
    columns.extend(not_counted.then_some(count_column("Not known")));
    let rows = rows_of(&report.delivery, |part| {
        let mut row = vec![part.sink.clone(), part.stream.clone()];
        row.extend([part.delivered, part.filtered, part.rejected, part.pending].map(number));
        row.extend(removed.then(|| number(part.removed)));
        row.extend(not_counted.then(|| number(part.not_counted)));
        row
    });
    table(html, "Delivery to the sinks, in records of whole bundles", &columns, &rows);
    if rows.count() > 0 {
        let text = "Delivered: the receiver confirmed them. Filtered out: by the sink's own filter. Rejected: the receiver refused them for good; they are among the sink's dead letters.";
        html.leaf("p", &[("class", "small")], text);
    }
    let rows = rows_of(&report.not_taken, |sink| {
        let sum = |of: fn(&SinkDelivery) -> u64| -> u64 {
            known.iter().filter(|part| part.sink == sink.sink).map(of).sum()
        };
        vec![sink.sink.clone(), number(sink.numbers), state(sink.numbers, sum)]
    });
    let columns = [text_column("Sink"), count_column("Not dealt with"), text_column("State")];
    table(html, "Delivery to the sinks, in sequence numbers", &columns, &rows);
}

/// What the sums of a sink come to.
fn state(numbers: u64, sum: impl Fn(fn(&SinkDelivery) -> u64) -> u64) -> String {
    let mut parts = Vec::new();
    for (of, what) in [
        ((|part| part.rejected) as fn(&SinkDelivery) -> u64, "REJECTED for good"),
        (|part| part.filtered, "filtered out"),
        (|part| part.removed, "never got"),
        (|part| part.not_counted, "not known"),
        (|part| part.sent_again, "sent once more after a refusal"),
    ] {
        let records = sum(of);
        if records > 0 {
            parts.push(format!("{} {what}", counted(records, "record")));
        }
    }
    let first = match numbers {
        0 if parts.is_empty() => "everything of the period was delivered",
        0 => "everything of the period was dealt with",
        _ => "not all was taken yet",
    };
    parts.insert(0, first.to_owned());
    parts.join("; ")
}

fn proof(html: &mut Html, report: &Report) {
    let sums = &report.chain_sums;
    begin(html, report, section::PROOF, |html| {
        let text = "Each high side numbers its records without holes, in each epoch and lane. Below are the whole bundles that reach into the period, so the numbers may go a little beyond it. The numbers assigned must be the sum of what became of them.";
        html.leaf("p", &[], text);
        let state = format!(
            "{} assigned = {} arrived + {} suppressed + {} lost + {} missing: {}",
            number(sums.assigned),
            number(sums.arrived),
            number(sums.suppressed),
            number(sums.lost),
            number(sums.missing),
            if sums.wrong_chains == 0 { "adds up" } else { "DOES NOT ADD UP" }
        );
        html.leaf("p", &[("class", "sum")], &state);
        let rows = rows_of(&report.chains, |chain| {
            vec![
                chain.chain.clone(),
                format!("{} to {}", number(chain.first_bundle), number(chain.last_bundle)),
                format!("{} to {}", number(chain.first_sequence), number(chain.last_sequence)),
                number(chain.assigned),
                number(chain.arrived),
                number(chain.suppressed),
                number(chain.lost),
                number(chain.missing),
                if chain.adds_up { "yes".to_owned() } else { "NO".to_owned() },
            ]
        });
        let columns = [
            name_column("Chain"),
            text_column("Bundles"),
            text_column("Sequence"),
            count_column("Assigned"),
            count_column("Arrived"),
            count_column("Suppressed"),
            count_column("Lost"),
            count_column("Missing"),
            text_column("Adds up"),
        ];
        table(html, "Chains: origin/epoch/lane", &columns, &rows);
        let rows = rows_of(&report.heard, |heard| {
            vec![heard.origin.clone(), heard.lane.clone(), short(&heard.through)]
        });
        let columns = [text_column("High side"), text_column("Lane"), time_column("Proven until")];
        table(html, "Until when each lane was heard of", &columns, &rows);
    });
}

fn exceptions(html: &mut Html, report: &Report) {
    let custody = &report.custody.tally;
    begin(html, report, section::EXCEPTIONS, |html| {
        let rows = rows_of(&report.gaps, |gap| {
            let passed = gap
                .passed
                .as_deref()
                .map_or("holds".to_owned(), |at| format!("passed {}", short(at)));
            let around = |time: &Option<String>| time.as_deref().map_or("-".to_owned(), short);
            vec![
                gap.chain.clone(),
                format!("{} to {}", number(gap.first), number(gap.last)),
                number(gap.records),
                format!("{} to {}", around(&gap.after), around(&gap.before)),
                short(&gap.noticed),
                passed,
            ]
        });
        let columns = [
            name_column("Chain"),
            text_column("Bundles"),
            count_column("Records"),
            time_column("Received between"),
            time_column("Noticed"),
            text_column("What is behind"),
        ];
        table(html, "Bundles that have not come", &columns, &rows);
        let rows = rows_of(&report.losses, |loss| {
            let listener = if loss.listener.is_empty() { "-" } else { &loss.listener };
            vec![
                loss.chain.clone(),
                loss.reason.clone(),
                listener.to_owned(),
                number(loss.records),
                number(loss.numbered),
                format!("{} to {}", short(&loss.from), short(&loss.to)),
            ]
        });
        let columns = [
            name_column("Chain"),
            text_column("Reason"),
            text_column("Listener"),
            count_column("Records"),
            count_column("With a number"),
            time_column("Lost between"),
        ];
        table(html, "What the high side declared lost", &columns, &rows);
        let mut rows: Listed<Vec<String>> = Listed::default();
        rows.push(vec!["duplicate, set aside".to_owned(), number(custody.duplicates)]);
        for (code, files) in &custody.quarantined {
            rows.push(vec![format!("quarantined: {code}"), number(*files)]);
        }
        let columns = [text_column("What"), count_column("Files")];
        table(
            html,
            "Files that were not admitted in the period, by the custody log",
            &columns,
            &rows,
        );
        let rows = rows_of(&report.epochs_begun, |begun| {
            vec![begun.origin.clone(), begun.epoch.to_string(), short(&begun.sealed)]
        });
        let columns =
            [text_column("High side"), text_column("New epoch"), time_column("First sealed")];
        table(html, "Buffers that began anew", &columns, &rows);
    });
}

fn latency(html: &mut Html, report: &Report) {
    let proof = &report.latency;
    begin(html, report, section::LATENCY, |html| {
        let text = "From the reception of a record on the high side, or from when the event happened as its source says, to a sink's confirmation. Percentiles are at most 1/16 too long. Single records are counted for seven days; the last table covers the whole period.";
        html.leaf("p", &[], text);
        for (at, shown) in proof
            .delivered
            .items
            .iter()
            .filter(|one| one.sum.hop.starts_with("received"))
            .take(CHARTS_MAX)
            .enumerate()
        {
            histogram(html, at, shown);
        }
        let rows = rows_of(&proof.delivered, |shown| {
            let sum = &shown.sum;
            vec![
                sum.sink.clone(),
                sum.lane.clone(),
                sum.stream.clone(),
                sum.hop.replace("-to-", " to "),
                number(sum.records),
                span(sum.p50_ms),
                span(sum.p95_ms),
                span(sum.p99_ms),
                span(sum.max_ms),
                span(sum.budget_ms),
                number(sum.over_budget),
            ]
        });
        let columns = [
            text_column("Sink"),
            text_column("Lane"),
            text_column("Stream"),
            text_column("Way"),
            count_column("Records"),
            count_column("p50"),
            count_column("p95"),
            count_column("p99"),
            count_column("Longest"),
            count_column("Budget"),
            count_column("Over"),
        ];
        table(html, "To the sinks", &columns, &rows);
        let rows = rows_of(&proof.admitted, |wait| {
            let signed = |millis: i64| span(u64::try_from(millis).unwrap_or(0));
            vec![
                wait.origin.clone(),
                wait.lane.clone(),
                number(wait.bundles),
                number(wait.records),
                signed(wait.mean_ms),
                signed(wait.max_ms),
                span(wait.budget_ms),
                number(wait.bundles_over),
                number(wait.records_over),
            ]
        });
        let columns = [
            text_column("High side"),
            text_column("Lane"),
            count_column("Bundles"),
            count_column("Records"),
            count_column("Mean"),
            count_column("Longest"),
            count_column("Budget"),
            count_column("Bundles over"),
            count_column("Records in them"),
        ];
        table(html, "From a bundle's oldest record to its admission", &columns, &rows);
        let rows = rows_of(&proof.clocks, |clock| vec![clock.text()]);
        table(html, "How far the clocks may lie apart", &[text_column("Clocks")], &rows);
    });
}

fn histogram(html: &mut Html, at: usize, shown: &LatencyHistogram) {
    let sum = &shown.sum;
    let mut bars = Vec::new();
    let mut limit = None;
    let mut words = Vec::new();
    for bar in &shown.histogram {
        let label = match bar.up_to_ms {
            Some(end) => format!("\u{2264} {}", span(end)),
            None => "more".to_owned(),
        };
        let late = bar.up_to_ms.is_none_or(|end| end > sum.budget_ms);
        if late && limit.is_none() {
            limit = Some((bars.len(), format!("budget {}", span(sum.budget_ms))));
        }
        if bar.records > 0 {
            words.push(format!("{} {label}", number(bar.records)));
        }
        bars.push(Bar { label, count: bar.records, more: 0, late });
    }
    let title = format!("{} to {}, lane {}: received to delivered", sum.stream, sum.sink, sum.lane);
    let description = format!("Records by the time they took: {}.", words.join(", "));
    figure(html, &title, |html| {
        let chart = Bars {
            id: &format!("latency-{at}"),
            title: &title,
            description: &description,
            bars,
            counts: true,
            limit,
            height: 150,
        };
        chart::bars(html, &chart);
    });
}

fn flow(html: &mut Html, report: &Report) {
    let flow = &report.flow;
    begin(html, report, section::FLOW, |html| {
        let part = span(flow.part_secs.saturating_mul(1_000));
        let text = format!(
            "Records by when the high side received them, in parts of {part}. Those of a bundle stand where its newest record was received. Darker: arrived; lighter: suppressed by a rule."
        );
        html.leaf("p", &[], &text);
        if flow.streams.is_empty() {
            html.leaf("p", &[("class", "none")], "No record of the period arrived.");
        }
        for (at, (stream, of_stream)) in flow.streams.iter().take(CHARTS_MAX).enumerate() {
            let (arrived, suppressed): (u64, u64) =
                (of_stream.arrived.iter().sum(), of_stream.suppressed.iter().sum());
            let empty = (0..flow.parts)
                .filter(|part| {
                    of_stream.arrived.get(*part) == Some(&0)
                        && of_stream.suppressed.get(*part) == Some(&0)
                })
                .count() as u64;
            let description = format!(
                "{} arrived and {} suppressed in {} of {part}; {} without any.",
                number(arrived),
                number(suppressed),
                counted(flow.parts as u64, "part"),
                counted(empty, "part")
            );
            let bars = (0..flow.parts).map(|part| Bar {
                label: flow_label(flow, &report.from, part),
                count: of_stream.arrived.get(part).copied().unwrap_or(0),
                more: of_stream.suppressed.get(part).copied().unwrap_or(0),
                late: false,
            });
            let title = format!("{stream}: {description}");
            figure(html, &title, |html| {
                let chart = Bars {
                    id: &format!("flow-{at}"),
                    title: stream,
                    description: &description,
                    bars: bars.collect(),
                    counts: false,
                    limit: None,
                    height: 120,
                };
                chart::bars(html, &chart);
            });
        }
        if !flow.streams.is_empty() {
            flow_table(html, flow, &report.from);
        }
    });
}

/// The numbers of the charts, for those who can't see them; closed, so that they are not printed.
fn flow_table(html: &mut Html, flow: &Flow, from: &str) {
    let streams: Vec<_> = flow.streams.iter().take(CHARTS_MAX).collect();
    let mut columns = vec![time_column("From")];
    columns.extend(streams.iter().map(|(stream, _)| count_column(stream)));
    let mut rows: Listed<Vec<String>> = Listed::default();
    rows.extend((0..flow.parts).map(|part| {
        let mut row = vec![part_begin(flow, from, part).map_or(String::new(), |at| short(&at))];
        row.extend(streams.iter().map(|(_, counts)| {
            let count = |counts: &[u64]| number(counts.get(part).copied().unwrap_or(0));
            format!("{} + {}", count(&counts.arrived), count(&counts.suppressed))
        }));
        row
    }));
    html.element("details", &[], |html| {
        html.leaf("summary", &[], "The same as a table");
        some_table(html, "Arrived + suppressed, by stream", &columns, &rows);
    });
}

fn part_begin(flow: &Flow, from: &str, part: usize) -> Option<String> {
    let from: shared::clock::Nanos = from.parse().ok()?;
    let secs = flow.part_secs.saturating_mul(part as u64);
    Some(from.plus(std::time::Duration::from_secs(secs)).to_string())
}

/// Some of the parts say when they begin.
fn flow_label(flow: &Flow, from: &str, part: usize) -> String {
    let every = flow.parts.div_ceil(6).max(1);
    if !part.is_multiple_of(every) {
        return String::new();
    }
    let begin = part_begin(flow, from, part).unwrap_or_default();
    if flow.part_secs >= 86_400 {
        day(&begin).to_owned()
    } else {
        begin.get(5..16).unwrap_or_default().replace('T', " ")
    }
}

fn integrity(html: &mut Html, report: &Report) {
    let (sums, stored) = (&report.chain_sums, &report.stored);
    begin(html, report, section::INTEGRITY, |html| {
        html.element("dl", &[], |html| {
            let links = match sums.broken {
                0 if sums.links == 0 => "there are none to compare".to_owned(),
                0 => format!("{} compared, each bundle names the one before it, and its records continue the buffer's hash chain", counted(sums.links, "link")),
                broken => format!("{} OF {} DO NOT HOLD", number(broken), number(sums.links)),
            };
            pair(html, "Links between bundles", &links);
            let headers = format!(
                "{} of {}: container, signature and releases verified again, and the digest is the ledger's",
                number(stored.verified),
                counted(stored.bundles, "bundle")
            );
            pair(html, "Stored bundles", &headers);
            pair(html, "Stored files found damaged", &number(sums.damaged));
            let custody = match &report.custody.verdict {
                Some(verdict) if report.custody.verified => format!(
                    "verified from its first entry to its last: {}, {}, signed up to entry {}",
                    counted(verdict.entries, "entry"),
                    counted(verdict.checkpoints, "checkpoint"),
                    number(verdict.signed_through)
                ),
                Some(verdict) => {
                    format!("DOES NOT VERIFY: {}", counted(verdict.found, "finding"))
                }
                None => "not verified".to_owned(),
            };
            pair(html, "Custody log", &custody);
            if let Some(verdict) = &report.custody.verdict {
                code_pair(html, "Its head", &verdict.head);
                for key in &verdict.keys {
                    code_pair(html, "Its checkpoints signed by", key);
                }
            }
        });
        let findings = report.custody.verdict.iter().flat_map(|verdict| &verdict.findings);
        let mut rows: Listed<Vec<String>> = Listed::default();
        rows.extend(findings.map(|finding| {
            vec![format!("{}:{}", finding.file, finding.line), finding.text.clone()]
        }));
        let columns = [text_column("Where"), text_column("What is wrong with the custody log")];
        some_table(html, "Findings", &columns, &rows);
        let rows = rows_of(&stored.wrong, |wrong| {
            vec![wrong.file.clone(), wrong.code.clone(), wrong.problem.clone()]
        });
        let columns = [code_column("File"), text_column("Code"), text_column("Problem")];
        some_table(html, "Stored bundles that are not as they should be", &columns, &rows);
        let rows = rows_of(&report.chains, |chain| {
            let or_none =
                |digest: &Option<String>| digest.clone().unwrap_or_else(|| "-".to_owned());
            vec![
                chain.chain.clone(),
                number(chain.links),
                number(chain.broken()),
                or_none(&chain.head),
                or_none(&chain.record_head),
            ]
        });
        let columns = [
            name_column("Chain"),
            count_column("Links"),
            count_column("Broken"),
            code_column("Digest of the last bundle"),
            code_column("Hash behind the last record"),
        ];
        table(html, "Heads of the chains", &columns, &rows);
    });
}

fn custody(html: &mut Html, report: &Report) {
    let (stored, tally) = (&report.stored, &report.custody.tally);
    begin(html, report, section::CUSTODY, |html| {
        let text = format!(
            "Releases stand in the bundles of the period, and were verified again. The rest is from the {} of the custody log dated in the period, by the clock of this side.",
            counted(tally.entries, "entry")
        );
        html.leaf("p", &[], &text);
        let rows = rows_of(&stored.releases, |release| {
            let officer = release.officer.clone().unwrap_or_else(|| "not known here".to_owned());
            vec![
                officer,
                release.key.clone(),
                number(release.bundles),
                short(&release.first),
                short(&release.last),
            ]
        });
        let columns = [
            text_column("Officer"),
            code_column("Key"),
            count_column("Bundles"),
            time_column("First sealed"),
            time_column("Last sealed"),
        ];
        table(html, "Bundles released by officers", &columns, &rows);
        html.leaf(
            "p",
            &[("class", "small")],
            &format!("{} of the period carry no release.", counted(stored.unreleased, "bundle")),
        );
        let rows = rows_of(&tally.media, |done| {
            vec![number(done.entry), short(&done.at), done.who.clone(), done.detail.clone()]
        });
        let columns =
            [count_column("Entry"), time_column("When"), text_column("Who"), text_column("What")];
        table(html, "Media with a transfer record, read and signed for", &columns, &rows);
        let mut rows: Listed<Vec<String>> = Listed::default();
        for (by, files) in &tally.arrivals {
            rows.push(vec![by.clone(), number(*files)]);
        }
        table(html, "How files came", &[text_column("Way"), count_column("Files")], &rows);
        let mut rows: Listed<Vec<String>> = Listed::default();
        for (who, actions) in &tally.people {
            let did: Vec<String> = actions
                .iter()
                .map(|(action, times)| format!("{action} {}", number(*times)))
                .collect();
            rows.push(vec![who.clone(), did.join(", ")]);
        }
        table(html, "Who did what how often", &[text_column("Who"), text_column("Actions")], &rows);
        let rows = rows_of(&tally.events, |done| {
            vec![
                number(done.entry),
                short(&done.at),
                done.who.clone(),
                done.action.clone(),
                done.detail.clone(),
            ]
        });
        let columns = [
            count_column("Entry"),
            time_column("When"),
            text_column("Who"),
            text_column("Action"),
            text_column("What"),
        ];
        some_table(html, "Gaps passed, files deleted, the log repaired", &columns, &rows);
    });
}

fn keys(html: &mut Html, report: &Report) {
    begin(html, report, section::KEYS, |html| {
        let text = "More than one key of a high side in the first table is a change of keys, at the times shown. The custody log does not note changes of the lists of keys: compare their digests below with those of earlier reports.";
        html.leaf("p", &[], text);
        let rows = rows_of(&report.signers, |signer| {
            vec![
                signer.origin.clone(),
                signer.key.clone(),
                number(signer.bundles),
                short(&signer.first),
                short(&signer.last),
            ]
        });
        let columns = [
            text_column("High side"),
            code_column("Key"),
            count_column("Bundles"),
            time_column("First sealed"),
            time_column("Last sealed"),
        ];
        table(html, "Keys that signed the bundles of the period", &columns, &rows);
        let rows = rows_of(&report.officers, |officer| {
            vec![officer.name.clone(), officer.key.clone(), officer.state.to_owned()]
        });
        let columns = [text_column("Officer"), code_column("Key"), text_column("Now")];
        table(html, "Officers' keys as they are now", &columns, &rows);
    });
}

fn archive(html: &mut Html, report: &Report) {
    begin(html, report, section::ARCHIVE, |html| {
        if report.archives.items.is_empty() {
            html.leaf("p", &[("class", "none")], "No archive is configured.");
        }
        let text = "Bundles are kept as they came, encrypted and signed. That a lock holds is shown by trying to break it: a run of archive verify, whose signed report has the digest below.";
        if !report.archives.items.is_empty() {
            html.leaf("p", &[], text);
        }
        for archive in &report.archives.items {
            html.leaf("h3", &[], &archive.name);
            html.element("dl", &[], |html| archive_pairs(html, archive));
            let mut findings = Listed::default();
            findings.extend(archive.findings.iter().map(|finding| {
                let mark = if finding.bad { "BAD: " } else { "" };
                format!("{mark}{}", finding.text)
            }));
            if findings.count() == 0 {
                html.leaf("p", &[("class", "none")], "No findings.");
            } else {
                html.leaf("p", &[], "Findings:");
                list(html, &findings);
            }
        }
        if report.archives.left_out > 0 {
            let more = counted(report.archives.left_out, "more archive");
            html.leaf("p", &[], &format!("{more} not listed."));
        }
    });
}

fn archive_pairs(html: &mut Html, archive: &ArchiveProof) {
    pair(html, "Kind", &archive.kind);
    pair(html, "Where", &archive.place);
    pair(html, "Lock", &archive.lock);
    let retain = match archive.retain_secs {
        Some(secs) => span(secs.saturating_mul(1_000)),
        None => "not promised".to_owned(),
    };
    pair(html, "Each bundle locked for", &retain);
    let until = archive.locked_until.as_deref().map_or("no lock is known".to_owned(), short);
    pair(html, "Bundles of the period locked until, at least", &until);
    let order = if archive.before { "before any sink" } else { "beside the sinks" };
    pair(html, "Archived", order);
    pair(html, "Bundles of the period in it", &number(archive.archived));
    pair(html, "Bundles of the period that wait", &number(archive.waiting));
    pair(html, "Of these, refused", &number(archive.refused));
    for (name, run) in [
        ("Last archive verify", &archive.last_run),
        ("Found bad, and not good since", &archive.last_found),
        ("Lock last proven to hold", &archive.last_held),
    ] {
        let Some(run) = run else {
            pair(html, name, "never");
            continue;
        };
        let lock = run.lock.as_deref().unwrap_or("not tried");
        let how = if run.full { "all read back" } else { "a sample" };
        let mut text = format!(
            "{}: {}, lock {lock}, {} looked at ({how}), {}",
            short(&run.at),
            run.verdict,
            counted(run.looked_at, "object"),
            counted(run.findings, "finding")
        );
        for (count, what) in [
            (run.unanswered, "not shown"),
            (run.gone_after_lock, "gone after their lock had ended"),
        ] {
            if count > 0 {
                let _ = write!(text, ", {} {what}", counted(count, "object"));
            }
        }
        pair(html, name, &text);
        pair(html, "Its report", &run.report);
        code_pair(html, "SHA-256 of its report", &run.sha256);
    }
}

fn alarms(html: &mut Html, report: &Report) {
    begin(html, report, section::ALARMS, |html| {
        let rows = rows_of(&report.alarms, |alarm| {
            vec![alarm.code.clone(), number(alarm.alarms), number(alarm.raised), number(alarm.open)]
        });
        let columns = [
            text_column("Alarm"),
            count_column("Subjects"),
            count_column("Raised"),
            count_column("Not acknowledged"),
        ];
        table(html, "Alarms of this side that stood in the period", &columns, &rows);
    });
}

fn configuration(html: &mut Html, report: &Report) {
    begin(html, report, section::CONFIGURATION, |html| {
        html.leaf(
            "p",
            &[],
            "As it was when this report was made, to be compared with what was approved.",
        );
        let rows = rows_of(&report.configuration, |file| {
            let sha256 = file.sha256.clone().unwrap_or_else(|| "there is none".to_owned());
            vec![file.what.to_owned(), file.path.clone(), sha256]
        });
        let columns = [text_column("What"), code_column("File"), code_column("SHA-256")];
        table(html, "Files that this side runs with", &columns, &rows);
    });
}

fn framework(html: &mut Html, report: &Report) {
    let text = &report.framework;
    begin(html, report, section::CONTROLS, |html| {
        html.leaf("p", &[], &format!("Source: {}.", text.source));
        let modest = "The sections named here are evidence towards these controls. Whether a control is met is for the auditor to say, and takes more than this report.";
        html.leaf("p", &[], modest);
        let mut rows: Listed<Vec<String>> = Listed::default();
        rows.extend(text.controls.iter().map(|control| {
            let sections: Vec<&str> =
                control.sections.iter().map(|id| section::title(id)).collect();
            let sections = sections.join("; ");
            vec![
                control.id.to_owned(),
                control.about.to_owned(),
                control.evidence.to_owned(),
                sections,
            ]
        }));
        let columns = [
            text_column("Control"),
            text_column("About"),
            text_column("What is shown here, and what is not"),
            text_column("Sections"),
        ];
        table(html, "Controls", &columns, &rows);
        html.leaf("p", &[], &format!("Keeping: {}", text.retention));
    });
}

fn limits(html: &mut Html, site: &str, files: Files<'_>) {
    html.element("section", &[("aria-labelledby", "verify")], |html| {
        html.leaf("h2", &[("id", "verify")], "Verifying this report");
        html.leaf("p", &[], "The data beside this page hold the same, exactly. They have the SHA-256 above, and each file has a signature of its own:");
        let stem = files.json.strip_suffix(".json").unwrap_or(files.json);
        let commands = format!(
            "sha256sum {stem}.json\nssh-keygen -Y verify -f signers -I {site} -n {0} -s {stem}.json.sig < {stem}.json\nssh-keygen -Y verify -f signers -I {site} -n {0} -s {stem}.html.sig < {stem}.html",
            super::gather::namespace()
        );
        html.element("pre", &[], |html| {
            for (at, line) in commands.lines().enumerate() {
                if at > 0 {
                    html.void("br", &[]);
                }
                html.text(line);
            }
        });
        html.leaf("p", &[], "signers is a file with one line: the site's name, a space, and the key in the line signer of what penstock-low public prints.");
        html.leaf("h3", &[], "What this report can't show");
        html.element("ul", &[], |html| {
            for text in [
                "What a source did not send, or lost before the high side received it, has no number. Losses of a UDP socket are counted by the kernel and declared; those on the network are not.",
                "Bundles behind the last one that came are not known to exist. That is why each lane says until when it is proven.",
                "Times of reception are by the high side's clock, times of admission by this side's.",
                "Of stored bundles the signed header was read again, which names the payload's SHA-256; the payload itself was verified when the bundle was admitted, and is whenever it is opened.",
                "Who can write to this side's ledger, custody log and key folder can make a report that verifies. Checkpoints of the custody log kept elsewhere, and the high side's own custody log, are the remedy.",
            ] {
                html.leaf("li", &[], text);
            }
        });
    });
}

/// A section with its heading and the controls it serves.
fn begin(html: &mut Html, report: &Report, id: &'static str, inside: impl FnOnce(&mut Html)) {
    let heading = format!("{id}-heading");
    html.element("section", &[("id", id), ("aria-labelledby", &heading)], |html| {
        html.leaf("h2", &[("id", &heading)], section::title(id));
        let serves = |control: &&Control| control.sections.contains(&id);
        let controls: Vec<&str> =
            report.framework.controls.iter().filter(serves).map(|control| control.id).collect();
        if !controls.is_empty() {
            let text = format!("Evidence towards {}", controls.join(" \u{b7} "));
            html.leaf("p", &[("class", "controls")], &text);
        }
        inside(html);
    });
}

fn figure(html: &mut Html, caption: &str, inside: impl FnOnce(&mut Html)) {
    html.element("figure", &[], |html| {
        html.leaf("figcaption", &[], caption);
        inside(html);
    });
}

fn pair(html: &mut Html, name: &str, value: &str) {
    html.leaf("dt", &[], name);
    html.leaf("dd", &[], value);
}

fn code_pair(html: &mut Html, name: &str, value: &str) {
    html.leaf("dt", &[], name);
    html.element("dd", &[], |html| html.leaf("code", &[], value));
}

fn list(html: &mut Html, listed: &Listed<String>) {
    html.element("ul", &[], |html| {
        for item in &listed.items {
            html.leaf("li", &[], item);
        }
        if listed.left_out > 0 {
            html.leaf("li", &[], &format!("and {} more, not listed", number(listed.left_out)));
        }
    });
}

/// A column of a table.
#[derive(Clone, Copy)]
struct Column<'a> {
    name: &'a str,
    class: &'static str,
}

const fn text_column(name: &str) -> Column<'_> {
    Column { name, class: "" }
}

const fn name_column(name: &str) -> Column<'_> {
    Column { name, class: "name" }
}

const fn time_column(name: &str) -> Column<'_> {
    Column { name, class: "time" }
}

const fn count_column(name: &str) -> Column<'_> {
    Column { name, class: "count" }
}

const fn code_column(name: &str) -> Column<'_> {
    Column { name, class: "code" }
}

fn rows_of<T>(listed: &Listed<T>, row: impl Fn(&T) -> Vec<String>) -> Listed<Vec<String>> {
    Listed { items: listed.items.iter().map(row).collect(), left_out: listed.left_out }
}

/// A table; where there is nothing, the caption says so.
fn table(html: &mut Html, caption: &str, columns: &[Column<'_>], rows: &Listed<Vec<String>>) {
    if rows.count() == 0 {
        html.leaf("p", &[("class", "none")], &format!("{caption}: none."));
        return;
    }
    some_table(html, caption, columns, rows);
}

/// A table; where there is nothing, nothing.
fn some_table(html: &mut Html, caption: &str, columns: &[Column<'_>], rows: &Listed<Vec<String>>) {
    if rows.count() == 0 {
        return;
    }
    html.element("div", &[("class", "scroll"), ("tabindex", "0")], |html| {
        let class = match (columns.len() > 5, rows.items.len() <= SHORT_ROWS) {
            (true, true) => "wide short",
            (true, false) => "wide",
            (false, true) => "short",
            (false, false) => "",
        };
        html.element("table", &[("class", class)], |html| {
            html.leaf("caption", &[], caption);
            html.element("thead", &[], |html| {
                html.element("tr", &[], |html| {
                    for column in columns {
                        html.leaf("th", &[("scope", "col"), ("class", column.class)], column.name);
                    }
                });
            });
            html.element("tbody", &[], |html| {
                for row in &rows.items {
                    html.element("tr", &[], |html| {
                        for (at, (column, cell)) in columns.iter().zip(row).enumerate() {
                            let class = [("class", column.class), ("scope", "row")];
                            let (name, attributes) =
                                if at == 0 { ("th", &class[..]) } else { ("td", &class[..1]) };
                            html.element(name, attributes, |html| match column.class {
                                "time" => times(html, cell),
                                _ => html.text(cell),
                            });
                        }
                    });
                }
            });
        });
    });
    if rows.left_out > 0 {
        let text = format!("{} are not listed here.", counted(rows.left_out, "more row"));
        html.leaf("p", &[("class", "small")], &text);
    }
}

/// One time, or two with `to` between them: neither is broken over lines.
fn times(html: &mut Html, text: &str) {
    for (at, part) in text.splitn(2, " to ").enumerate() {
        if at > 0 {
            html.text(" to ");
        }
        html.leaf("span", &[("class", "whole")], part);
    }
}

fn time(html: &mut Html, time: &str) {
    html.leaf("time", &[("datetime", time)], &short(time));
}

/// A table of so many rows is not broken over pages.
const SHORT_ROWS: usize = 12;
/// So many charts of one kind are drawn; the tables have the rest.
const CHARTS_MAX: usize = 12;

const STYLE: &str = include_str!("page.css");
