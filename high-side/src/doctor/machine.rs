//! What the high side's agent needs of its machine: folders, disk, clock, ports, certificates; how it
//! does, and who starts it.

use std::path::PathBuf;
use std::time::Duration;

use page::{Listen, answers};
use serde_json::Value;
use shared::clock::Nanos;
use shared::config::Span;
use shared::doctor::certificate::{Purpose, certificates as judge_certificates};
use shared::doctor::disk::{self, Room};
use shared::doctor::files::{Need, closed, reach};
use shared::doctor::ports::{Transport, Wanted, port, receive_buffer};
use shared::doctor::service::{Service, uptime};
use shared::doctor::{Finding, Level, clock as clocks, grouped};
use shared::record::Lane;

use super::budget::{self, Plan, Way};
use super::{Subject, UNIT};
use crate::buffer::{BundleState, Store};
use crate::config::{CarrierKind, CarrierSettings};
use crate::ingest::{ClientAuth, Protocol, TlsSettings};

pub(super) fn folders(subject: &Subject) -> Vec<Finding> {
    let config = &subject.config;
    let mut findings = vec![
        reach(&config.state_dir, &subject.account, Need::Write, "state"),
        reach(&config.outbox.path, &subject.account, Need::Write, "outbox"),
    ];
    if !config.outbox.path.exists() && config.state_dir.exists() {
        let what = format!("{} is made when the agent starts", config.outbox.path.display());
        findings[1] = Finding::new(Level::Note, "outbox", what);
    }
    findings.extend(closed(&config.state_dir, 0o050, "state-mode"));
    for (name, path) in carrier_folders(&config.carriers) {
        findings.push(reach(&path, &subject.account, Need::Write, "carrier").at(name));
    }
    findings
}

/// The folders of carriers, by name.
fn carrier_folders(carriers: &[CarrierSettings]) -> Vec<(&str, PathBuf)> {
    carriers
        .iter()
        .filter_map(|carrier| match &carrier.kind {
            CarrierKind::Folder(folder) => Some((carrier.name.as_str(), folder.path.clone())),
            CarrierKind::UdpDiode(_) | CarrierKind::Tcp(_) => None,
        })
        .collect()
}

pub(super) fn disks(subject: &Subject) -> Vec<Finding> {
    let config = &subject.config;
    let store = Store::open(&config.state_dir).ok();
    let taken = |state| store.as_ref().and_then(|store| store.bundles_sum(state).ok());
    let sum = |states: &[BundleState]| -> u64 {
        states.iter().filter_map(|state| taken(*state)).map(|(_, bytes)| bytes).sum()
    };
    let waiting = sum(&BundleState::ON_ITS_WAY);
    let kept = sum(&[BundleState::HandedOver]);
    let buffer = config.state_dir.join("buffer.db");
    let buffered = std::fs::metadata(buffer).map_or(0, |meta| meta.len());
    let mut findings = disk::room(&[
        Room {
            name: "buffer",
            path: config.state_dir.clone(),
            more_bytes: config.buffer.quota.0.saturating_sub(buffered),
            floor_bytes: config.buffer.free_disk_floor.0,
            keys: "buffer.quota, buffer.free-disk-floor",
        },
        Room {
            name: "outbox",
            path: config.outbox.path.clone(),
            more_bytes: config.outbox.retain_bytes.saturating_sub(kept),
            floor_bytes: 0,
            keys: "outbox.retain-bytes",
        },
    ]);
    // What waits for the gap is held by the disk alone; it may never come to its limit.
    if waiting * 10 > config.outbox.waiting_bytes_max * 8 {
        let what = format!(
            "bundles of {} bytes wait to be carried, and outbox.waiting-bytes-max is {}",
            grouped(waiting),
            grouped(config.outbox.waiting_bytes_max)
        );
        findings.push(
            Finding::new(Level::Warning, "waiting", what)
                .remedy("penstock-high export FOLDER, or see what keeps the carriers"),
        );
    }
    if let (Some(every), Some(rate)) = (subject.asked.courier_every, rate(subject)) {
        let limit = config.buffer.quota.0;
        findings.push(disk::between_transfers(rate, every, limit, "buffer.quota"));
    }
    if config.state_dir.is_dir() {
        findings.push(disk::kind(&config.state_dir, "file-system"));
        findings.push(disk::sync_speed(&config.state_dir));
    }
    findings
}

/// Bytes of records a second since the agent started, once it has run for a while.
fn rate(subject: &Subject) -> Option<u64> {
    let up = uptime(subject.agent?)?;
    let bytes = subject.live.as_ref()?["writer"]["committed-bytes"].as_u64()?;
    (up > RATE_AFTER).then(|| bytes / up.as_secs().max(1))
}

pub(super) fn clock(subject: &Subject) -> Vec<Finding> {
    let store = Store::open(&subject.config.state_dir).ok();
    let last = |lane| store.as_ref().and_then(|store| store.last_sealed(lane).ok().flatten());
    let mut latest = Vec::new();
    latest.extend(last(Lane::Flash).map(|time| ("the last flash bundle", time)));
    latest.extend(last(Lane::Routine).map(|time| ("the last routine bundle", time)));
    let live = subject.live.as_ref().and_then(|live| live["updated-ns"].as_i64());
    latest.extend(live.map(|nanos| ("the agent's report", Nanos(nanos))));
    clocks::clock(subject.now, &latest)
}

pub(super) fn listeners(subject: &Subject) -> Vec<Finding> {
    let mut findings = Vec::new();
    let service = service_of(subject);
    let privileged = subject.account.is_root() || service.binds_low_ports();
    for listener in &subject.config.listeners {
        let udp = matches!(listener.protocol, Protocol::Udp);
        let live = subject.live_of("listeners", &listener.name);
        findings.push(port(&Wanted {
            name: &listener.name,
            transport: if udp { Transport::Udp } else { Transport::Tcp },
            bind: listener.bind,
            listening: live.and_then(|live| live["address"].as_str()).map(ToOwned::to_owned),
            agent: subject.agent,
            privileged,
            privilege_remedy: "the drop-in penstock-high-privileged-ports.conf: CAP_NET_BIND_SERVICE",
        }));
        if udp {
            findings.push(receive_buffer(&listener.name, listener.limits.receive_buffer_bytes));
        }
        let counted =
            |field: &str| live.and_then(|live| live["counters"][field].as_u64()).unwrap_or(0);
        let failed = counted("handshake-failures");
        if failed > 0 {
            let what = format!(
                "{} TLS handshakes failed at {} since the start",
                grouped(failed),
                listener.name
            );
            findings.push(
                Finding::new(Level::Warning, "handshakes", what)
                    .remedy("journalctl -u penstock-high names each peer and why")
                    .at(&listener.name),
            );
        }
    }
    if let Listen::Tcp(address) = subject.config.page.listen
        && !subject.running
    {
        findings.push(port(&Wanted {
            name: "page",
            transport: Transport::Tcp,
            bind: address,
            listening: None,
            agent: None,
            privileged,
            privilege_remedy: "a port above 1023 for page.listen",
        }));
    }
    findings
}

pub(super) fn certificates(subject: &Subject) -> Vec<Finding> {
    let mut findings = Vec::new();
    for listener in &subject.config.listeners {
        let Some(tls) = listener.protocol.tls() else { continue };
        findings.extend(of_listener(subject, tls));
    }
    for path in subject.config.portainer_apis.iter().filter_map(|api| api.ca.as_deref()) {
        findings.extend(judge_certificates(path, Purpose::Authority, subject.now));
        findings.push(reach(path, &subject.account, Need::Read, "authority-readable"));
    }
    if let Some(tls) = &subject.config.page.tls {
        findings.extend(judge_certificates(&tls.cert_file, Purpose::Server, subject.now));
        if let Some(path) = &tls.client_ca_file {
            findings.extend(judge_certificates(path, Purpose::Authority, subject.now));
        }
    }
    if findings.is_empty() {
        let what = "no certificate is configured: what comes in is neither secret nor proven";
        findings.push(
            Finding::new(Level::Note, "none", what).remedy(
                "penstock-high mint --dir FOLDER --server-name NAME, and protocol = \"tls\"",
            ),
        );
    }
    findings
}

fn of_listener(subject: &Subject, tls: &TlsSettings) -> Vec<Finding> {
    let mut findings = judge_certificates(&tls.certificate, Purpose::Server, subject.now);
    findings.push(reach(&tls.certificate, &subject.account, Need::Read, "certificate-readable"));
    match &tls.client_auth {
        ClientAuth::None => {}
        ClientAuth::Optional(path) | ClientAuth::Required(path) => {
            findings.extend(judge_certificates(path, Purpose::Authority, subject.now));
            findings.push(reach(path, &subject.account, Need::Read, "authority-readable"));
        }
    }
    findings
}

pub(super) fn budgets(subject: &Subject) -> Vec<Finding> {
    let config = &subject.config;
    let plans = Lane::ALL.into_iter().map(|lane| Plan {
        lane,
        policy: config.seal_policy(lane),
        ways: config
            .carriers
            .iter()
            .filter(|carrier| carrier.lanes.contains(&lane))
            .map(way)
            .collect(),
        courier_every: subject.asked.courier_every,
        reviewed: config.release.is_reviewed(lane),
    });
    plans.flat_map(|plan| budget::judge(&plan)).collect()
}

fn way(carrier: &CarrierSettings) -> Way {
    let bytes_per_sec = match &carrier.kind {
        // A medium is mounted there by somebody.
        CarrierKind::Folder(folder) if folder.mount_point => return Way::Courier,
        CarrierKind::Folder(folder) => folder.rate,
        CarrierKind::Tcp(tcp) => tcp.rate,
        CarrierKind::UdpDiode(diode) => Some(super::diode::goodput(
            diode.bit_rate.0,
            u64::from(diode.mtu),
            u64::from(diode.redundancy),
        )),
    };
    Way::Link { name: carrier.name.clone(), bytes_per_sec }
}

pub(super) fn carriers(subject: &Subject) -> Vec<Finding> {
    let config = &subject.config;
    let mut findings = Vec::new();
    for carrier in &config.carriers {
        let live = subject.live_of("carriers", &carrier.name).map(|live| &live["counters"]);
        let trouble = live.and_then(|live| live["trouble"].as_str()).unwrap_or_default();
        let finding = match live {
            _ if !trouble.is_empty() => {
                Finding::new(Level::Fault, "trouble", format!("{} says: {trouble}", carrier.name))
            }
            Some(live) => {
                let what = format!(
                    "{} handed over {} bundles since the start; {} wait for it",
                    carrier.name, live["bundles"], live["waiting"]
                );
                Finding::new(Level::Fine, "trouble", what)
            }
            None if subject.live.is_some() => Finding::new(
                Level::Fault,
                "trouble",
                format!("the running agent does not know carrier {}", carrier.name),
            )
            .remedy("restart the agent: it reads its configuration when it starts"),
            None => Finding::new(Level::Skipped, "trouble", "no agent runs that could tell"),
        };
        findings.push(finding.at(&carrier.name));
    }
    if config.carriers.is_empty() {
        let what = "no carrier is configured: bundles wait in the outbox for penstock-high export";
        findings.push(Finding::new(Level::Note, "none", what));
    }
    findings
}

pub(super) fn agent(subject: &Subject) -> Vec<Finding> {
    let mut findings = Vec::new();
    let Some(live) = &subject.live else {
        let finding = if subject.running {
            let what =
                "the agent runs and has not written its report for a while: is the disk full?";
            Finding::new(Level::Fault, "running", what).remedy("journalctl -u penstock-high -n 50")
        } else {
            Finding::new(Level::Warning, "running", "no agent runs: nothing is received")
                .remedy("systemctl start penstock-high, or penstock-high run")
        };
        findings.push(finding);
        return findings;
    };
    let pid = subject.agent.unwrap_or(0);
    let up = uptime(pid).map_or("some time".to_owned(), |up| Span::secs(up.as_secs()).to_string());
    let what = format!("the agent runs as process {pid}, for {up}, by user {}", subject.account);
    findings.push(Finding::new(Level::Fine, "running", what));
    findings.push(writer(&live["writer"]));
    if let Some(trouble) = live["sealer-trouble"].as_str().filter(|text| !text.is_empty()) {
        findings.push(Finding::of_problem(Level::Fault, "sealer", trouble));
    }
    findings.push(answers::page(&subject.config.page));
    findings.extend(alarms(subject));
    findings
}

fn writer(writer: &Value) -> Finding {
    let state = writer["state"].as_str().unwrap_or_default();
    let p99 = writer["commit-latency-ms-p99"].as_f64().unwrap_or_default();
    if state == crate::buffer::WriterState::Flowing.as_str() {
        let what = format!("the buffer takes records; 99 of 100 commits take {p99:.1} ms at most");
        return Finding::new(Level::Fine, "buffer", what);
    }
    Finding::new(Level::Fault, "buffer", format!("the buffer takes no more: {state}"))
        .remedy("penstock-high status: what waits, and for what")
        .remedy("carry bundles across, or a larger buffer.quota")
}

fn alarms(subject: &Subject) -> Vec<Finding> {
    let alarms = Store::open(&subject.config.state_dir).and_then(|store| store.alarms(false));
    match alarms {
        Ok(alarms) if alarms.is_empty() => {
            vec![Finding::new(Level::Fine, "alarms", "no alarm is open")]
        }
        Ok(alarms) => {
            let shown = alarms.iter().take(ALARMS_MAX).map(|alarm| {
                let text = format!("alarm {}: {}", alarm.id, alarm.message);
                Finding::of_problem(Level::Warning, "alarms", &text)
                    .remedy(format!("then penstock-high acknowledge {}", alarm.id))
            });
            shown.collect()
        }
        Err(err) => vec![Finding::new(Level::Skipped, "alarms", err.to_string())],
    }
}

fn service_of(subject: &Subject) -> Service<'static> {
    let config = &subject.config;
    let mut writes = vec![config.state_dir.clone(), config.outbox.path.clone()];
    writes.extend(carrier_folders(&config.carriers).into_iter().map(|(_, path)| path));
    Service { unit: UNIT, root: std::path::Path::new("/"), writes, agent: subject.agent }
}

pub(super) fn service(subject: &Subject) -> Vec<Finding> {
    service_of(subject).examine()
}

/// Before that, a rate says little.
const RATE_AFTER: Duration = Duration::from_mins(10);
/// As many as one reads.
const ALARMS_MAX: usize = 20;
