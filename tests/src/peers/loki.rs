//! A stand-in of ours for Loki's push API, written from the vendor's documents and as strict:
//! <https://grafana.com/docs/loki/latest/reference/loki-http-api/#ingest-logs> and the limits of
//! <https://grafana.com/docs/loki/latest/configure/#limits_config>.
//!
//! What it keeps of the real one's traps:
//! - a push without a stream is 422;
//! - a 400 is partial: the good entries of the same push are stored;
//! - the same labels, time and line are stored once;
//! - an entry that is older than the newest of its stream by more than an hour is `too far behind`;
//! - entries that are older than a week are `too old`, ten minutes ahead `too new`, and lines over
//!   262,144 bytes too long.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt::Write as _;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde_json::{Value, json};
use shared::clock::{Clock, Nanos, SystemClock};

use super::{Asked, Certificate, HttpServer, Reply};

/// What happens to one push before all is well again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Nothing: it is taken.
    Good,
    /// Half of the entries are stored, then this is the answer.
    HalfThenStatus(u16),
    /// Nothing is stored, the connection is reset.
    Reset,
    /// Nothing is stored, this is the answer.
    Status(u16),
    /// It is stored, and the connection is reset.
    TakenThenReset,
    /// It is stored, and nothing is ever answered.
    TakenThenSilence,
}

/// A running stand-in.
#[derive(Debug)]
pub struct Loki {
    server: HttpServer,
    state: Arc<Mutex<State>>,
}

/// How it is set, and what it has.
#[derive(Debug)]
pub struct State {
    /// What happens to the next pushes.
    pub faults: VecDeque<Fault>,
    /// What happens to each push behind these, until it is unset.
    pub always: Option<Fault>,
    /// The tenant that must be named.
    pub tenant: String,
    /// What the header `Authorization` must say; anything where it is unset.
    pub authorization: Option<String>,
    /// Entries that hold one of these are refused as too long.
    pub poison: Vec<String>,
    /// Seconds that an entry may be old.
    pub age_secs_max: i64,
    /// Pushes that came.
    pub pushes: u64,
    /// Entries that came and were there already.
    pub again: u64,
    /// By their labels.
    pub streams: BTreeMap<String, Stream>,
}

/// One stream.
#[derive(Debug, Default)]
pub struct Stream {
    newest: i64,
    /// Time and line.
    pub entries: BTreeSet<(i64, String)>,
}

impl Loki {
    /// Starts one for a tenant, with nothing in it.
    pub fn start(tenant: &str) -> Self {
        Self::start_with(tenant, None)
    }

    /// The same, over TLS where there is a certificate.
    pub fn start_with(tenant: &str, certificate: Option<&Certificate>) -> Self {
        let state = Arc::new(Mutex::new(State {
            faults: VecDeque::new(),
            always: None,
            tenant: tenant.to_owned(),
            authorization: None,
            poison: Vec::new(),
            age_secs_max: 168 * 3_600,
            pushes: 0,
            again: 0,
            streams: BTreeMap::new(),
        }));
        let shared = Arc::clone(&state);
        let any = ([127, 0, 0, 1], 0).into();
        let server =
            HttpServer::start_at(any, certificate, move |asked| answer(&mut lock(&shared), asked));
        Self { server, state }
    }

    /// Its base URL.
    pub fn url(&self) -> String {
        self.server.url()
    }

    /// How it is set, and what it has.
    pub fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    /// Every line that is stored, with its labels.
    pub fn lines(&self) -> Vec<(String, String)> {
        let state = self.state();
        let of = |(labels, stream): (&String, &Stream)| {
            stream
                .entries
                .iter()
                .map(|(_, line)| (labels.clone(), line.clone()))
                .collect::<Vec<_>>()
        };
        state.streams.iter().flat_map(of).collect()
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

fn answer(state: &mut State, asked: &Asked) -> Reply {
    if asked.headers.get("x-scope-orgid") != Some(&state.tenant) {
        return Reply::status(401, "no org id");
    }
    if state.authorization.is_some()
        && asked.headers.get("authorization") != state.authorization.as_ref()
    {
        return Reply::status(401, "401 Authorization Required");
    }
    let (path, query) = asked.path.split_once('?').unwrap_or((&asked.path, ""));
    match (asked.method.as_str(), path) {
        ("POST", "/loki/api/v1/push") => push(state, asked),
        ("GET", "/loki/api/v1/query_range") => search(state, query),
        _ => Reply::status(404, "404 page not found"),
    }
}

fn push(state: &mut State, asked: &Asked) -> Reply {
    if read(asked).is_ok_and(|entries| entries.is_empty()) {
        return Reply::status(422, "error at least one valid stream is required for ingestion\n");
    }
    state.pushes += 1;
    let fault = state.faults.pop_front().or(state.always).unwrap_or(Fault::Good);
    match fault {
        Fault::Reset => return Reply::Reset,
        Fault::Status(status) => return Reply::status(status, "not now"),
        _ => {}
    }
    let entries = match read(asked) {
        Ok(entries) => entries,
        Err(problem) => return Reply::status(400, problem),
    };
    let count = match fault {
        Fault::HalfThenStatus(_) => entries.len() / 2,
        _ => entries.len(),
    };
    let mut problems = String::new();
    for (labels, time, line) in entries.into_iter().take(count) {
        if let Err(problem) = state.take(&labels, time, line) {
            let _ = writeln!(problems, "{problem}");
        }
    }
    match fault {
        Fault::HalfThenStatus(status) => Reply::status(status, "not now"),
        Fault::TakenThenReset => Reply::Reset,
        Fault::TakenThenSilence => Reply::Silence,
        _ if problems.is_empty() => Reply::status(204, ""),
        _ => Reply::status(400, problems),
    }
}

type Read = Vec<(String, i64, String)>;

fn read(asked: &Asked) -> Result<Read, String> {
    if asked.headers.get("content-type").map(String::as_str) != Some("application/json") {
        return Err("the body is neither JSON nor protobuf".to_owned());
    }
    let body: Value = serde_json::from_slice(&asked.body).map_err(|err| err.to_string())?;
    let mut read = Vec::new();
    for stream in body["streams"].as_array().ok_or("no streams")? {
        let labels = stream["stream"].as_object().ok_or("error parsing labels")?;
        let good = |name: &str| name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
        if labels.is_empty() || labels.len() > 15 || !labels.keys().all(|name| good(name)) {
            return Err("error parsing labels".to_owned());
        }
        let mut text: Vec<String> = Vec::new();
        for (name, value) in labels {
            let value = value.as_str().ok_or("error parsing labels")?;
            text.push(format!("{name}={value:?}"));
        }
        text.sort();
        let labels = format!("{{{}}}", text.join(", "));
        for value in stream["values"].as_array().ok_or("no values")? {
            let [time, line] = value.as_array().ok_or("no value")?.as_slice() else {
                return Err("a value is a time and a line".to_owned());
            };
            let time = time.as_str().and_then(|time| time.parse().ok()).ok_or("no time")?;
            let line = line.as_str().ok_or("no line")?.to_owned();
            read.push((labels.clone(), time, line));
        }
    }
    Ok(read)
}

impl State {
    fn take(&mut self, labels: &str, time: i64, line: String) -> Result<(), String> {
        let now = SystemClock.now().0;
        let oldest = now - self.age_secs_max * SECOND;
        let shown = Nanos(time);
        if time < oldest {
            return Err(format!(
                "entry for stream '{labels}' has timestamp too old: {shown}, oldest acceptable timestamp is: {}",
                Nanos(oldest)
            ));
        }
        if time > now + AHEAD_MAX {
            return Err(format!("entry for stream '{labels}' has timestamp too new: {shown}"));
        }
        let poisoned = self.poison.iter().any(|poison| line.contains(poison));
        if line.len() > LINE_BYTES_MAX || poisoned {
            return Err(format!(
                "max entry size '{LINE_BYTES_MAX}' bytes exceeded for stream '{labels}' while adding an entry with length '{}' bytes",
                line.len()
            ));
        }
        let stream = self.streams.entry(labels.to_owned()).or_default();
        let oldest = stream.newest - BEHIND_MAX;
        if time < oldest {
            return Err(format!(
                "entry with timestamp {shown} ignored, reason: 'entry too far behind, entry timestamp is: {shown}, oldest acceptable timestamp is: {}' for stream: {labels}",
                Nanos(oldest)
            ));
        }
        stream.newest = stream.newest.max(time);
        if !stream.entries.insert((time, line)) {
            self.again += 1;
        }
        Ok(())
    }
}

/// `{job="penstock"} |= "TEXT"`, and nothing else.
fn search(state: &State, query: &str) -> Reply {
    let text = query.split('&').find_map(|part| part.strip_prefix("query=")).unwrap_or_default();
    let words = text.strip_prefix("%7Bjob%3D%22penstock%22%7D%20%7C%3D%20%22");
    let Some(words) = words.and_then(|rest| rest.strip_suffix("%22")) else {
        return Reply::status(400, "parse error");
    };
    let mut result = Vec::new();
    for (labels, stream) in &state.streams {
        for (time, line) in stream.entries.iter().filter(|(_, line)| line.contains(words)) {
            let value = json!([time.to_string(), line]);
            result.push(json!({"stream": {"labels": labels}, "values": [value]}));
        }
    }
    let data = json!({"resultType": "streams", "result": result});
    Reply::status(200, json!({"status": "success", "data": data}).to_string())
}

const SECOND: i64 = 1_000_000_000;
/// Half of `max_chunk_age`.
const BEHIND_MAX: i64 = 3_600 * SECOND;
/// `creation_grace_period`.
const AHEAD_MAX: i64 = 600 * SECOND;
const LINE_BYTES_MAX: usize = 262_144;
