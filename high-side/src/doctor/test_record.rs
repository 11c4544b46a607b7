//! A marked record through a real listener of the running agent, as one of its senders would send it.
//!
//! It is harmless, says of itself that nothing happened, and is counted, sealed and delivered like any
//! other.

mod wire;

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rand_core::{OsRng, RngCore};
use serde_json::{Value, json};
use shared::clock::{Clock, SystemClock};
use shared::record::{Lane, Stream};

use crate::agent::read_live;
use crate::buffer::{Bundle, BundleState, Fate, Store, is_agent_running};
use crate::cmd::Failure;
use crate::config::Config;
use crate::guard::Guard;
use crate::ingest::{HttpSender, ListenerSettings, Protocol};

/// What is asked.
#[derive(Clone, Debug, Default)]
pub struct Asked {
    /// Through this listener; the first that can be used, where it is not said.
    pub listener: Option<String>,
    /// The certificate and key of a client, where the listener demands one.
    pub client: Option<(PathBuf, PathBuf)>,
}

/// What became of the record.
#[derive(Clone, Debug)]
pub struct Sent {
    /// By which it is found again.
    pub marker: String,
    /// The listener.
    pub listener: String,
    /// Its protocol.
    pub protocol: String,
    /// The lane that it took.
    pub lane: Lane,
    /// When it was sent, RFC 3339.
    pub sent: String,
    /// How long until it was durable.
    pub durable_after: Duration,
    /// The bundle that holds it, where one was cut.
    pub bundle: Option<Bundle>,
}

impl Sent {
    /// For machines.
    pub fn to_json(&self) -> Value {
        json!({
            "marker": self.marker,
            "listener": self.listener,
            "protocol": self.protocol,
            "lane": self.lane,
            "sent": self.sent,
            "durable-after-ms": self.durable_after.as_millis() as u64,
            "bundle": self.bundle.as_ref().map(|bundle| bundle.number),
            "bundle-state": self.bundle.as_ref().map(|bundle| bundle.state.as_str()),
            "file": self.bundle.as_ref().and_then(|bundle| bundle.file.as_ref()).map(|file| &file.name),
        })
    }
}

/// Sends the record, and cuts its bundle at once where this user may.
pub fn send(config: &Config, asked: &Asked, tell: &dyn Fn(&str)) -> Result<Sent, Failure> {
    let now = SystemClock.now();
    // The last report of an agent stays for a while after its end.
    let live = read_live(&config.state_dir, now).filter(|_| is_agent_running(&config.state_dir));
    let Some(live) = live.map(|live| live.0) else {
        let text =
            "no agent runs that could receive a test record\n  try: systemctl start penstock-high";
        return Err(Failure::new(text));
    };
    let mut random = [0; 8];
    OsRng.fill_bytes(&mut random);
    let digits = random.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    });
    let marker = format!("{MARKER_PREFIX}{digits}");
    let listener = choose(config, asked, &marker)?;
    let address = reached(listener, &live)?;
    let record = Record::new(listener, &marker, &now.to_string());
    let lane = judged(config, listener, &record, &marker)?;
    let store = Store::open(&config.state_dir)?;
    let before = store.waiting(lane)?.last_sequence;
    let started = Instant::now();
    let client = asked.client.clone().or_else(|| minted(listener));
    wire::send(listener, address, &record, client.as_ref()).map_err(|problem| {
        Failure::new(format!(
            "the test record can't be sent to {} ({} {address}): {problem}",
            listener.name, listener.protocol
        ))
    })?;
    tell(&format!("sent {marker} to {} ({} {address})", listener.name, listener.protocol));
    until("the test record is not durable", || {
        Ok((store.waiting(lane)?.last_sequence > before).then_some(()))
    })?;
    let durable_after = started.elapsed();
    tell(&format!("durable after {} ms, in lane {lane}", durable_after.as_millis()));
    let bundle = seal(config, &store, lane, before, tell)?;
    Ok(Sent {
        marker,
        listener: listener.name.clone(),
        protocol: listener.protocol.to_string(),
        lane,
        sent: now.to_string(),
        durable_after,
        bundle,
    })
}

/// The first listener that can be spoken to, or the one that was named.
fn choose<'a>(
    config: &'a Config,
    asked: &Asked,
    marker: &str,
) -> Result<&'a ListenerSettings, Failure> {
    if let Some(name) = &asked.listener {
        let found = config.listeners.iter().find(|listener| listener.name == *name);
        let known: Vec<&str> = config.listeners.iter().map(|one| one.name.as_str()).collect();
        let absent = || format!("no listener {name:?}; there is: {}", known.join(", "));
        return found.ok_or_else(|| Failure::config(absent()));
    }
    let rank = |listener: &&ListenerSettings| match &listener.protocol {
        // What answers tells most.
        Protocol::Relp(None) => 0,
        Protocol::FluentForward(forward) if wire::demands_proof(forward) => 9,
        Protocol::FluentForward(_) => 1,
        Protocol::Http(_) => 2,
        Protocol::Relp(Some(_)) => 3,
        Protocol::Tcp => 4,
        Protocol::Tls(_) => 5,
        Protocol::Udp => 6,
    };
    config.listeners.iter().filter(|listener| rank(listener) < 9).min_by_key(rank).ok_or_else(|| {
        let file = config.files.first().map_or("the file", |file| file.name.as_str());
        Failure::config(format!(
            "no listener takes a test record; a file that others write is not touched\n  try: a line with {marker} at the end of a file of [[file]] {file}, then: penstock-low doctor --await-test {marker}"
        ))
    })
}

/// Where the agent listens, as seen from this machine.
fn reached(listener: &ListenerSettings, live: &Value) -> Result<SocketAddr, Failure> {
    let running = live["listeners"].as_array().into_iter().flatten();
    let found = running
        .filter(|one| one["name"] == listener.name.as_str())
        .find_map(|one| one["address"].as_str()?.parse::<SocketAddr>().ok());
    let mut address = found.ok_or_else(|| {
        Failure::new(format!(
            "the running agent has no listener {}\n  try: restart the agent: it reads its configuration when it starts",
            listener.name
        ))
    })?;
    if address.ip().is_unspecified() {
        address.set_ip(match address.ip() {
            IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
            IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
        });
    }
    Ok(address)
}

/// What is sent, and which part of it becomes the record.
#[derive(Clone, Debug)]
struct Record {
    /// What the sender would put on the wire: a message, or the body of a request.
    body: String,
    /// What is kept of it as the record, as far as the guard is concerned.
    raw: String,
    stream: Option<Stream>,
}

impl Record {
    fn new(listener: &ListenerSettings, marker: &str, time: &str) -> Self {
        let what = format!("penstock test record {marker}: nothing happened");
        let host = shared::process::host_name();
        let plain = json!({ "category": "penstock-test", "marker": marker, "message": what });
        let host_word = if host.is_empty() { "-".to_owned() } else { host.replace(' ', "-") };
        let syslog = format!("<110>1 {time} {host_word} penstock-doctor - TEST - {plain}");
        let Protocol::Http(http) = &listener.protocol else {
            return Self { body: syslog.clone(), raw: syslog, stream: listener.stream };
        };
        let (body, raw) = match http.sender {
            HttpSender::Fluent => (json!([{ "log": syslog }]), json!({ "log": syslog })),
            HttpSender::Falco => {
                let alert = json!({
                    "hostname": host,
                    "output": what,
                    "output_fields": { "penstock.marker": marker },
                    "priority": "Informational",
                    "rule": "Penstock test record",
                    "source": "penstock",
                    "time": time,
                });
                (alert.clone(), alert)
            }
            HttpSender::KubeApiserver => {
                let event = json!({
                    "kind": "Event",
                    "apiVersion": "audit.k8s.io/v1",
                    "level": "Metadata",
                    "auditID": marker,
                    "stage": "ResponseComplete",
                    "requestURI": format!("/penstock-test/{marker}"),
                    "verb": "post",
                    "user": { "username": "penstock-doctor" },
                    "userAgent": what,
                    "responseStatus": { "code": 200 },
                    "requestReceivedTimestamp": time,
                    "stageTimestamp": time,
                });
                let list = json!({
                    "kind": "EventList",
                    "apiVersion": "audit.k8s.io/v1",
                    "items": [event],
                });
                (list, event)
            }
        };
        Self { body: body.to_string(), raw: raw.to_string(), stream: listener.stream }
    }
}

/// The lane that the guard gives the record; a failure where it would not arrive.
fn judged(
    config: &Config,
    listener: &ListenerSettings,
    record: &Record,
    marker: &str,
) -> Result<Lane, Failure> {
    let guard = Guard::new(&config.guard).map_err(Failure::config)?;
    let (_, judged, after) = guard.examine(record.raw.as_bytes(), record.stream);
    if let Fate::Suppressed { rule, .. } = &judged.fate {
        return Err(Failure::config(format!(
            "rule {rule} would suppress the test record, which then never arrives\n  try: --listener with another one; what of it arrives is the rule's name, in penstock-low account"
        )));
    }
    if matches!(judged.fate, Fate::Redacted(_)) && !String::from_utf8_lossy(&after).contains(marker)
    {
        let text = "a redaction rule would take the marker out of the test record\n  try: penstock-high try shows which";
        return Err(Failure::config(text));
    }
    Ok(if judged.urgent { Lane::Flash } else { listener.lane })
}

/// The pair that `mint` made beside the listener's own, where it is there.
fn minted(listener: &ListenerSettings) -> Option<(PathBuf, PathBuf)> {
    let dir = listener.protocol.tls()?.certificate.parent()?;
    let mut found: Vec<PathBuf> = std::fs::read_dir(dir)
        .ok()?
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            name.starts_with("client-") && name.ends_with(".pem")
        })
        .filter(|path| path.with_extension("key").is_file())
        .collect();
    found.sort();
    let certificate = found.into_iter().next()?;
    let key = certificate.with_extension("key");
    Some((certificate, key))
}

/// Cuts the bundle with the record, where this user may; else waits for the agent's own.
fn seal(
    config: &Config,
    store: &Store,
    lane: Lane,
    before: u64,
    tell: &dyn Fn(&str),
) -> Result<Option<Bundle>, Failure> {
    let holder = || -> Result<Option<Bundle>, Failure> {
        let bundles = store.bundles(None)?;
        Ok(bundles.into_iter().find(|bundle| {
            bundle.lane == lane
                && bundle.last_sequence.0 > before
                && bundle.state != BundleState::Planned
        }))
    };
    if !may_seal(&config.state_dir) {
        tell("the agent seals it by its budget: only the agent's own user may seal at once");
        return holder();
    }
    crate::cmd::seal::now(config, &[lane])?;
    let bundle = until("the test record's bundle is not sealed", holder)?;
    let name = bundle.file.as_ref().map_or("", |file| file.name.as_str());
    tell(&format!("sealed as {lane}/{}, {name}", bundle.number));
    if config.release.is_reviewed(lane) {
        tell("it waits for officers: penstock-high review, then release");
    } else if config.carriers_of(lane).is_empty() {
        tell("no carrier takes it: penstock-high export FOLDER");
    }
    Ok(Some(bundle))
}

/// Files that another user makes would be out of the agent's reach.
fn may_seal(state_dir: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    let ours = nix::unistd::geteuid().as_raw();
    std::fs::metadata(state_dir).is_ok_and(|meta| meta.uid() == ours)
}

/// Asks again and again, for a time.
fn until<T>(
    what: &str,
    mut probe: impl FnMut() -> Result<Option<T>, Failure>,
) -> Result<T, Failure> {
    let deadline = Instant::now() + WAIT;
    loop {
        if let Some(found) = probe()? {
            return Ok(found);
        }
        if Instant::now() >= deadline {
            let text = format!(
                "{what} after {}\n  try: penstock-high status: does the buffer take records?",
                shared::config::Span(WAIT)
            );
            return Err(Failure::new(text));
        }
        std::thread::sleep(LOOK_INTERVAL);
    }
}

/// What a marker begins with.
pub const MARKER_PREFIX: &str = "penstock-test-";
/// Longer than a commit and a seal take.
const WAIT: Duration = Duration::from_secs(30);
const LOOK_INTERVAL: Duration = Duration::from_millis(50);
