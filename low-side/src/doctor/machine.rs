//! What the low side's agent needs of its machine: folders, disk, clock, ports, certificates; what came
//! in, how the agent does, and who starts it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use page::answers;
use serde_json::Value;
use shared::clock::Nanos;
use shared::config::Span;
use shared::doctor::certificate::{Purpose, certificates as judge_certificates};
use shared::doctor::disk::{self, Room};
use shared::doctor::files::{Need, closed, reach};
use shared::doctor::ports::{Transport, Wanted, port, receive_buffer};
use shared::doctor::service::{Service, uptime};
use shared::doctor::{Finding, Level, clock as clocks, grouped};

use super::{Subject, UNIT};
use crate::archive::config::{ArchiveConfig, ArchiveKind};
use crate::config::{AfterImport, Config};
use crate::folders::Folders;
use crate::ledger::{Ledger, LedgerError};
use crate::receiver::config::{After, ReceiverKind, TcpPeer};
use crate::sink::config::SinkKind;
use crate::sink::probe::tls_of;
use crate::tls::TlsConfig;

pub(super) fn folders(subject: &Subject) -> Vec<Finding> {
    let config = &subject.config;
    let account = &subject.account;
    let inbox = match config.inbox.after_import {
        AfterImport::Delete => Need::Write,
        AfterImport::Keep => Need::List,
    };
    let mut findings = vec![
        reach(&config.state_dir, account, Need::Write, "state"),
        reach(&config.inbox.path, account, inbox, "inbox"),
    ];
    findings.extend(closed(&config.state_dir, 0o050, "state-mode"));
    for receiver in &config.receivers {
        let ReceiverKind::Folder(folder) = &receiver.kind else { continue };
        let need = if matches!(folder.after, After::Keep) { Need::List } else { Need::Write };
        findings.push(reach(&folder.path, account, need, "receiver").at(&receiver.name));
    }
    for sink in &config.sinks {
        let SinkKind::File(file) = &sink.kind else { continue };
        if file.dir.exists() {
            findings.push(reach(&file.dir, account, Need::Write, "sink").at(&sink.name));
        } else if let Some(above) = file.dir.parent() {
            // It is made when the first record comes.
            findings.push(reach(above, account, Need::Write, "sink").at(&sink.name));
        }
    }
    for (name, path) in archive_folders(&config.archives) {
        findings.push(reach(&path, account, Need::Write, "archive").at(name));
    }
    if let Some(receipt) = &config.receipt {
        findings.push(reach(&receipt.folder, account, Need::Write, "receipts"));
    }
    findings
}

fn archive_folders(archives: &[ArchiveConfig]) -> Vec<(&str, PathBuf)> {
    archives
        .iter()
        .filter_map(|archive| match &archive.kind {
            ArchiveKind::Directory(path) => Some((archive.name.as_str(), path.clone())),
            _ => None,
        })
        .collect()
}

pub(super) fn disks(subject: &Subject) -> Vec<Finding> {
    let config = &subject.config;
    // A bundle stands in the inbox and in the staging folder at once, and may be the largest.
    let bundle = config.limits.file_bytes_max;
    let mut rooms = vec![
        Room {
            name: "inbox",
            path: config.inbox.path.clone(),
            more_bytes: bundle,
            floor_bytes: 0,
            keys: "limits.bundle-bytes-max",
        },
        Room {
            name: "staging and store",
            path: config.state_dir.clone(),
            more_bytes: bundle,
            floor_bytes: FLOOR_BYTES,
            keys: "limits.bundle-bytes-max",
        },
    ];
    rooms.extend(config.receivers.iter().filter_map(|receiver| {
        let more_bytes = match &receiver.kind {
            ReceiverKind::UdpDiode(diode) => diode.state_bytes_max,
            ReceiverKind::Tcp(tcp) => tcp.partial_bytes_max,
            ReceiverKind::Folder(_) => return None,
        };
        Some(Room {
            name: "partial bundles",
            path: config.state_dir.clone(),
            more_bytes,
            floor_bytes: 0,
            keys: "state-bytes-max or partial-bytes-max of the receiver",
        })
    }));
    let mut findings = disk::room(&rooms);
    if config.state_dir.is_dir() {
        findings.push(disk::kind(&config.state_dir, "file-system"));
        findings.push(disk::sync_speed(&config.state_dir));
    }
    findings
}

fn ledger(config: &Config) -> Result<Option<Ledger>, Finding> {
    match Ledger::open_read_only(&config.state_dir) {
        Ok(ledger) => Ok(Some(ledger)),
        Err(LedgerError::Absent(_)) => Ok(None),
        Err(err) => {
            let finding = Finding::of_problem(Level::Fault, "ledger", &err.to_string());
            Err(finding
                .remedy("the same as the agent's user, or root")
                .at(config.state_dir.display()))
        }
    }
}

pub(super) fn clock(subject: &Subject) -> Vec<Finding> {
    let Ok(Some(ledger)) = ledger(&subject.config) else {
        return clocks::clock(subject.now, &[]);
    };
    let heard = ledger.last_heard().unwrap_or_default();
    let latest: Vec<(&str, Nanos)> = heard
        .iter()
        .map(|_| "the admission of the last bundle")
        .zip(heard.iter().map(|h| h.1))
        .collect();
    let mut findings = clocks::clock(subject.now, &latest);
    match ledger.clocks(SKEW_LAST, subject.now) {
        Ok(clocks) => findings.extend(clocks.iter().map(|clock| {
            // A bundle can't arrive before it was sealed.
            if clock.shortest_ms < 0 {
                Finding::new(Level::Warning, "skew", clock.text())
                    .remedy("set both clocks by one source; latencies are wrong by so much")
            } else {
                Finding::new(Level::Fine, "skew", clock.text())
            }
        })),
        Err(err) => findings.push(Finding::new(Level::Skipped, "skew", err.to_string())),
    }
    if let Ok(bundles) = ledger.arrived_since(Nanos(i64::MIN), 1)
        && let Some(last) = bundles.first()
        && last.sealed > last.admitted.plus(SKEW_TOLERATED)
    {
        let ahead = Span::secs(last.sealed.since(last.admitted).as_secs());
        let what =
            format!("the last bundle was sealed {ahead} after it came, by the high side's clock");
        findings.push(
            Finding::new(Level::Warning, "skew", what)
                .remedy("on the high side: penstock-high doctor, section clock"),
        );
    }
    findings
}

pub(super) fn receivers(subject: &Subject) -> Vec<Finding> {
    let mut findings = Vec::new();
    let privileged = subject.account.is_root() || service_of(subject).binds_low_ports();
    for receiver in &subject.config.receivers {
        let name = receiver.name.as_str();
        let (transport, bind) = match &receiver.kind {
            ReceiverKind::UdpDiode(diode) => {
                findings.push(receive_buffer(name, diode.receive_buffer as usize));
                (Transport::Udp, diode.bind)
            }
            ReceiverKind::Tcp(tcp) => match tcp.peer {
                TcpPeer::Listen(bind) => (Transport::Tcp, bind),
                TcpPeer::Datagrams(bind) => (Transport::Udp, bind),
                TcpPeer::Connect(_) => continue,
            },
            ReceiverKind::Folder(_) => continue,
        };
        findings.push(port(&Wanted {
            name,
            transport,
            bind,
            listening: None,
            agent: subject.agent,
            privileged,
            privilege_remedy: "AmbientCapabilities=CAP_NET_BIND_SERVICE in a drop-in of the unit",
        }));
    }
    let live = subject.live.as_ref().and_then(|live| live["receivers"].as_array());
    for receiver in live.into_iter().flatten() {
        let name = receiver["name"].as_str().unwrap_or_default();
        let trouble = receiver["counters"]["trouble"].as_str().unwrap_or_default();
        findings.push(if trouble.is_empty() {
            let what =
                format!("{name} put {} bundles into the inbox", receiver["counters"]["bundles"]);
            Finding::new(Level::Fine, "trouble", what)
        } else {
            Finding::new(Level::Fault, "trouble", format!("{name} says: {trouble}")).at(name)
        });
    }
    if subject.config.receivers.is_empty() {
        let what =
            "no receiver is configured: bundles come into the inbox or by penstock-low import";
        findings.push(Finding::new(Level::Note, "none", what));
    }
    findings
}

pub(super) fn certificates(subject: &Subject) -> Vec<Finding> {
    let config = &subject.config;
    let mut findings = Vec::new();
    let sinks = config.sinks.iter().flat_map(tls_of);
    let archives = config.archives.iter().filter_map(|archive| match &archive.kind {
        ArchiveKind::Azure(azure) => Some(&azure.http),
        ArchiveKind::Gcs(gcs) => Some(&gcs.http),
        ArchiveKind::S3(s3) => Some(&s3.http),
        ArchiveKind::Directory(_) => None,
    });
    let archives = archives.filter(|http| http.url.tls).map(|http| &http.tls);
    for tls in sinks.chain(archives) {
        findings.extend(of_connection(subject, tls));
    }
    if let Some(tls) = &config.page.tls {
        findings.extend(judge_certificates(&tls.cert_file, Purpose::Server, subject.now));
        if let Some(path) = &tls.client_ca_file {
            findings.extend(judge_certificates(path, Purpose::Authority, subject.now));
        }
    }
    if findings.is_empty() {
        findings.push(Finding::new(Level::Note, "none", "no certificate is configured here"));
    }
    findings
}

fn of_connection(subject: &Subject, tls: &TlsConfig) -> Vec<Finding> {
    let mut findings = Vec::new();
    if let Some(path) = &tls.ca_file {
        findings.extend(judge_certificates(path, Purpose::Authority, subject.now));
        findings.push(reach(path, &subject.account, Need::Read, "authority-readable"));
    }
    if let Some((certificate, _)) = &tls.client {
        findings.extend(judge_certificates(certificate, Purpose::Client, subject.now));
        findings.push(reach(certificate, &subject.account, Need::Read, "certificate-readable"));
    }
    findings
}

/// What came in: gaps, quarantine, silence, what waits for sinks.
pub(super) fn bundles(subject: &Subject) -> Vec<Finding> {
    let mut ledger = match ledger(&subject.config) {
        Ok(Some(ledger)) => ledger,
        Ok(None) => {
            let what = "no ledger yet: the agent was never started";
            return vec![Finding::new(Level::Note, "ledger", what)];
        }
        Err(finding) => return vec![finding],
    };
    match came_in(subject, &mut ledger) {
        Ok(findings) => findings,
        Err(err) => vec![Finding::of_problem(Level::Fault, "ledger", &err.to_string())],
    }
}

fn came_in(subject: &Subject, ledger: &mut Ledger) -> Result<Vec<Finding>, LedgerError> {
    let mut findings = Vec::new();
    let heard = ledger.last_heard()?;
    if heard.is_empty() {
        findings.push(
            Finding::new(Level::Warning, "heard", "no bundle was ever admitted")
                .remedy("penstock-high doctor --send-test, carry its bundle, and: penstock-low doctor --await-test MARKER"),
        );
    }
    for (origin, last) in heard {
        let silent = subject.now.since(last);
        let what = format!("the last bundle of {origin} came {} ago", Span::secs(silent.as_secs()));
        findings.push(if silent > subject.config.admission.silence_alarm {
            Finding::new(Level::Fault, "heard", what)
                .remedy("penstock-high doctor there; is a courier late, a link down?")
        } else {
            Finding::new(Level::Fine, "heard", what)
        });
    }
    for gap in ledger.gaps()? {
        let what = format!("bundles {} to {} of {} are missing", gap.first, gap.last, gap.chain);
        findings.push(Finding::new(Level::Warning, "gap", what).remedy(
            "penstock-low receipt --out FILE, and carry it to the high side: it sends them again",
        ));
    }
    for (code, files) in ledger.quarantine_codes()? {
        let what = format!("{} refused file(s) stand in the quarantine: {code}", grouped(files));
        let finding = Finding::new(Level::Warning, "quarantine", what);
        findings.push(match code.as_str() {
            "signer-unknown" | "origin-unknown" => finding
                .remedy("penstock-low pair HIGH.pub, then penstock-low quarantine retry --all"),
            "recipient-unknown" => finding
                .remedy("the high side encrypts to another key: penstock-high pair LOW.pub there"),
            _ => finding.remedy("penstock-low quarantine list"),
        });
    }
    for sink in ledger.sums()?.sinks {
        if !subject.config.sinks.iter().any(|config| config.name == sink.name) {
            continue;
        }
        let what = format!(
            "{} has {} records, and {} wait for it",
            sink.name,
            grouped(sink.delivered),
            grouped(sink.pending)
        );
        let finding = if sink.pending > LAG_RECORDS {
            Finding::new(Level::Warning, "lag", what)
                .remedy("its own section below says whether it is reached and what it refuses")
        } else {
            Finding::new(Level::Fine, "lag", what)
        };
        findings.push(finding);
        if sink.rejected > 0 {
            let what = format!("{} refused {} records for good", sink.name, grouped(sink.rejected));
            findings.push(
                Finding::new(Level::Warning, "dead-letters", what)
                    .remedy(format!("penstock-low dead-letters {}", sink.name)),
            );
        }
    }
    Ok(findings)
}

pub(super) fn agent(subject: &Subject) -> Vec<Finding> {
    let Some(live) = &subject.live else {
        let held = Folders::of(&subject.config.state_dir).lock_agent();
        return vec![match held {
            Ok(None) => Finding::new(
                Level::Fault,
                "running",
                "the agent runs and has not written its status: is the disk full?",
            )
            .remedy("journalctl -u penstock-low -n 50"),
            Err(err) if err.kind() == std::io::ErrorKind::PermissionDenied => {
                Finding::new(Level::Skipped, "running", format!("that can't be seen: {err}"))
                    .remedy("the same as root, or as the agent's user")
            }
            Ok(Some(_)) | Err(_) => {
                Finding::new(Level::Warning, "running", "no agent runs: nothing is taken in")
                    .remedy("systemctl start penstock-low, or penstock-low run")
            }
        }];
    };
    let pid = subject.agent.unwrap_or(0);
    let up = uptime(pid).map_or("some time".to_owned(), |up| Span::secs(up.as_secs()).to_string());
    let what = format!("the agent runs as process {pid}, for {up}, by user {}", subject.account);
    let mut findings = vec![Finding::new(Level::Fine, "running", what)];
    if live["version"] != env!("CARGO_PKG_VERSION") {
        let what = format!(
            "the running agent has version {}, this program {}",
            live["version"],
            env!("CARGO_PKG_VERSION")
        );
        findings.push(
            Finding::new(Level::Warning, "version", what).remedy("systemctl restart penstock-low"),
        );
    }
    findings.push(answers::page(&subject.config.page));
    if let Some(ignored) = live["inbox-ignored"].as_u64().filter(|ignored| *ignored > 0) {
        let what = format!("{ignored} entries of the inbox are no bundles, and stay there");
        findings.push(
            Finding::new(Level::Note, "inbox", what)
                .remedy(format!("ls -la {}", subject.config.inbox.path.display())),
        );
    }
    findings.extend(alarms(&subject.config));
    findings
}

fn alarms(config: &Config) -> Vec<Finding> {
    let alarms = match ledger(config) {
        Ok(Some(ledger)) => ledger.alarms(),
        Ok(None) => return Vec::new(),
        Err(finding) => return vec![finding],
    };
    match alarms {
        Ok(alarms) if alarms.is_empty() => {
            vec![Finding::new(Level::Fine, "alarms", "no alarm is open")]
        }
        Ok(alarms) => alarms
            .iter()
            .take(ALARMS_MAX)
            .map(|alarm| {
                let text = format!("alarm {} {}: {}", alarm.id, alarm.code, alarm.message);
                Finding::of_problem(Level::Warning, "alarms", &text)
                    .remedy(format!("then penstock-low acknowledge {}", alarm.id))
            })
            .collect(),
        Err(err) => vec![Finding::new(Level::Skipped, "alarms", err.to_string())],
    }
}

fn service_of(subject: &Subject) -> Service<'static> {
    let config = &subject.config;
    let mut writes = vec![config.state_dir.clone(), config.inbox.path.clone()];
    writes.extend(config.receivers.iter().filter_map(|receiver| match &receiver.kind {
        ReceiverKind::Folder(folder) => Some(folder.path.clone()),
        ReceiverKind::UdpDiode(_) | ReceiverKind::Tcp(_) => None,
    }));
    writes.extend(config.sinks.iter().filter_map(|sink| match &sink.kind {
        SinkKind::File(file) => Some(file.dir.clone()),
        _ => None,
    }));
    writes.extend(archive_folders(&config.archives).into_iter().map(|(_, path)| path));
    writes.extend(config.receipt.as_ref().map(|receipt| receipt.folder.clone()));
    Service { unit: UNIT, root: Path::new("/"), writes, agent: subject.agent }
}

pub(super) fn service(subject: &Subject) -> Vec<Finding> {
    service_of(subject).examine()
}

/// What the running agent says of a sink.
pub(super) fn health(live: Option<&Value>, name: &str) -> Option<Finding> {
    let health = &live?["sinks"][name];
    let error = health["error"].as_str()?;
    let state = health["state"].as_str().unwrap_or_default();
    let what = format!("the agent is {state}, after {} tries: {error}", health["failures"]);
    Some(Finding::new(Level::Fault, "agent", what))
}

/// Clocks are compared over as long as is shown elsewhere.
const SKEW_LAST: Duration = Duration::from_hours(24);
const SKEW_TOLERATED: Duration = Duration::from_secs(5);
/// Less is what a few bundles hold.
const LAG_RECORDS: u64 = 100_000;
/// `SQLite` and the status need some.
const FLOOR_BYTES: u64 = 64 << 20;
/// As many as one reads.
const ALARMS_MAX: usize = 20;
