//! A stand-in of ours for Splunk's HTTP Event Collector, written from the vendor's documents and as
//! strict as they are: "Format events for HTTP Event Collector", "About HTTP Event Collector Indexer
//! Acknowledgment", "Troubleshoot HTTP Event Collector" (error codes), and the search endpoint of the
//! "REST API Reference Manual".
//!
//! What it keeps of the real one's traps:
//! - objects before a wrong one are indexed, from it on nothing is; the answer names it, from 0; for a
//!   wrong index it names the one behind it;
//! - a key that no envelope has ends the reading silently, and the answer is 200;
//! - ackIds count from 0 in each channel; each is true once; an id of another channel, one that was
//!   evicted and one that was never given are false;
//! - a body that is too long is answered as if its first object were wrong.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::{Asked, Certificate, HttpServer, Reply};

/// What happens to one body before the collector is itself again.
#[derive(Clone, Copy, Debug)]
pub enum Fault {
    /// None: it is taken and acknowledged.
    Good,
    /// Nothing is taken, and this code of its table is the answer.
    Code(u16),
    /// Nothing is taken: something in between answers this status.
    Proxy(u16),
    /// Nothing is taken, the connection is reset.
    Reset,
    /// It is taken, and the connection is reset.
    TakenThenReset,
    /// It is taken, and nothing is ever answered.
    TakenThenSilence,
    /// It is taken, and half an answer comes.
    TakenThenTorn,
    /// It is taken, and its acknowledgement is evicted.
    TakenThenEvicted,
    /// It is answered with an ackId, and lost before it is written.
    Lost,
    /// It is lost like this with everything the collector has in memory: it starts anew.
    Restarted,
}

/// The collector.
#[derive(Debug)]
pub struct Hec {
    server: HttpServer,
    state: Arc<Mutex<State>>,
}

/// How it is set, and what it has.
#[derive(Debug)]
pub struct State {
    /// The tokens that are known.
    pub tokens: BTreeSet<String>,
    /// Those of them that are disabled.
    pub disabled: BTreeSet<String>,
    /// Whether tokens have indexer acknowledgement.
    pub use_ack: bool,
    /// The index that tokens may write.
    pub index: String,
    /// How long writing takes, after which it is acknowledged. `None`: for ever.
    pub ack_delay: Option<Duration>,
    /// The acknowledgements that a channel has room for; older ones are evicted.
    pub acks_max: usize,
    /// The longest body.
    pub body_max: usize,
    /// What happens to the next bodies.
    pub faults: VecDeque<Fault>,
    /// An object that holds this text is refused with this code.
    pub poison: BTreeMap<String, u16>,
    /// What was indexed.
    pub indexed: Vec<Value>,
    /// Bodies that came, whatever became of them.
    pub bodies: u64,
    /// Every channel that was seen.
    pub channels_seen: BTreeSet<String>,
    channels: BTreeMap<String, Channel>,
}

#[derive(Debug, Default)]
struct Channel {
    next: u64,
    /// When each body was taken, by its ackId; `None`: it is never acknowledged.
    waiting: BTreeMap<u64, Option<Instant>>,
}

/// How reading a body ended.
struct Read {
    objects: Vec<Value>,
    /// Code and number of the object that is named.
    refused: Option<(u16, usize)>,
}

impl State {
    fn new(token: &str) -> Self {
        Self {
            tokens: BTreeSet::from([token.to_owned()]),
            disabled: BTreeSet::new(),
            use_ack: true,
            index: "portainer_audit".to_owned(),
            ack_delay: Some(Duration::from_millis(30)),
            acks_max: 1_000_000,
            body_max: 838_860_800,
            faults: VecDeque::new(),
            poison: BTreeMap::new(),
            indexed: Vec::new(),
            bodies: 0,
            channels_seen: BTreeSet::new(),
            channels: BTreeMap::new(),
        }
    }

    fn answer(&mut self, asked: &Asked) -> Reply {
        let path = asked.path.split('?').next().unwrap_or_default();
        match (asked.method.as_str(), path) {
            ("GET", "/services/collector/health") => say(200, 17, "HEC is healthy", None),
            ("POST", "/services/search/jobs") => self.search(asked),
            ("POST", "/services/collector/event" | "/services/collector") => {
                self.refused_access(asked).unwrap_or_else(|| self.event(asked))
            }
            ("POST", "/services/collector/ack") => {
                self.refused_access(asked).unwrap_or_else(|| self.ack(asked))
            }
            _ => Reply::status(404, "{\"text\":\"The requested URL was not found\",\"code\":404}"),
        }
    }

    fn refused_access(&self, asked: &Asked) -> Option<Reply> {
        let Some(authorization) = asked.headers.get("authorization") else {
            return Some(code(2));
        };
        let Some(token) = authorization.strip_prefix("Splunk ") else {
            return Some(code(3));
        };
        if self.disabled.contains(token) {
            return Some(code(1));
        }
        (!self.tokens.contains(token)).then(|| code(4))
    }

    fn event(&mut self, asked: &Asked) -> Reply {
        self.bodies += 1;
        let coding = asked.headers.get("content-encoding").map(String::as_str);
        if !matches!(coding, None | Some("gzip" | "identity")) {
            return Reply::status(415, "");
        }
        let channel = match asked.headers.get(CHANNEL) {
            None if self.use_ack => return code(10),
            Some(id) if !is_guid(id) => return code(11),
            id => id.cloned(),
        };
        let fault = self.faults.pop_front();
        match fault {
            Some(Fault::Code(number)) => return code(number),
            Some(Fault::Proxy(status)) => return Reply::status(status, "<html>a proxy</html>"),
            Some(Fault::Reset) => return Reply::Reset,
            Some(Fault::Restarted) => {
                self.channels.clear();
                return Reply::Reset;
            }
            _ => {}
        }
        if asked.body.is_empty() {
            return code(5);
        }
        if asked.body.len() > self.body_max {
            return say(400, 6, "Invalid data format", Some(("invalid-event-number", 0)));
        }
        let Read { objects, refused } = self.read(&asked.body);
        if !matches!(fault, Some(Fault::Lost)) {
            self.indexed.extend(objects);
        }
        if let Some((number, at)) = refused {
            let (status, text) = text(number);
            return say(status, number, text, Some(("invalid-event-number", at as u64)));
        }
        let id = channel.filter(|_| self.use_ack).map(|channel| {
            self.channels_seen.insert(channel.clone());
            let channel = self.channels.entry(channel).or_default();
            let id = channel.next;
            channel.next += 1;
            let lost = matches!(fault, Some(Fault::Lost | Fault::TakenThenEvicted));
            channel.waiting.insert(id, (!lost).then(Instant::now));
            while channel.waiting.len() > self.acks_max {
                channel.waiting.pop_first();
            }
            id
        });
        let answer = say(200, 0, "Success", id.map(|id| ("ackId", id)));
        match (fault, answer) {
            (Some(Fault::TakenThenReset), _) => Reply::Reset,
            (Some(Fault::TakenThenSilence), _) => Reply::Silence,
            (Some(Fault::TakenThenTorn), Reply::Status(status, _, body)) => {
                Reply::Torn(status, body[..body.len() / 2].to_vec())
            }
            (_, answer) => answer,
        }
    }

    fn read(&self, body: &[u8]) -> Read {
        let mut objects = Vec::new();
        for value in serde_json::Deserializer::from_slice(body).into_iter::<Value>() {
            let at = objects.len();
            let refused = |code| Some((code, if code == 7 { at + 1 } else { at }));
            let Ok(Value::Object(object)) = value else {
                return Read { objects, refused: refused(6) };
            };
            if object.keys().any(|key| !KEYS.contains(&key.as_str())) {
                return Read { objects, refused: None };
            }
            if let Some(code) = self.fault_of(&object) {
                return Read { objects, refused: refused(code) };
            }
            objects.push(Value::Object(object));
        }
        Read { objects, refused: None }
    }

    fn fault_of(&self, object: &serde_json::Map<String, Value>) -> Option<u16> {
        let string = |key: &str| object.get(key).is_none_or(Value::is_string);
        let time = match object.get("time") {
            None => true,
            Some(Value::Number(number)) => number.as_f64().is_some_and(|time| time >= 0.0),
            Some(Value::String(text)) => text.parse::<f64>().is_ok_and(|time| time >= 0.0),
            Some(_) => false,
        };
        if !time || !["host", "source", "sourcetype", "index"].into_iter().all(string) {
            return Some(6);
        }
        match object.get("event") {
            None | Some(Value::Null) => return Some(12),
            Some(Value::String(text)) if text.is_empty() => return Some(13),
            Some(_) => {}
        }
        match object.get("fields") {
            None => {}
            Some(Value::Object(fields)) if fields.values().all(is_flat) => {}
            Some(_) => return Some(15),
        }
        if object.get("index").is_some_and(|index| *index != *self.index) {
            return Some(7);
        }
        if self.poison.is_empty() {
            return None;
        }
        let text = Value::Object(object.clone()).to_string();
        self.poison.iter().find(|(poison, _)| text.contains(*poison)).map(|(_, code)| *code)
    }

    fn ack(&mut self, asked: &Asked) -> Reply {
        if !self.use_ack {
            return code(14);
        }
        let Some(channel) = asked.headers.get(CHANNEL) else { return code(10) };
        if !is_guid(channel) {
            return code(11);
        }
        let question: Option<Value> = serde_json::from_slice(&asked.body).ok();
        let ids = question.as_ref().and_then(|question| question["acks"].as_array());
        let ids: Option<Vec<u64>> =
            ids.and_then(|ids| ids.iter().map(Value::as_u64).collect::<Option<_>>());
        let Some(ids) = ids else { return code(6) };
        let delay = self.ack_delay;
        let mut waiting = self.channels.get_mut(channel).map(|channel| &mut channel.waiting);
        let mut acks = serde_json::Map::new();
        for id in ids {
            let taken = waiting.as_ref().and_then(|waiting| waiting.get(&id).copied().flatten());
            let written = taken.zip(delay).is_some_and(|(at, delay)| at.elapsed() >= delay);
            if let (true, Some(waiting)) = (written, &mut waiting) {
                waiting.remove(&id);
            }
            acks.insert(id.to_string(), written.into());
        }
        Reply::status(200, json!({ "acks": acks }).to_string())
    }

    fn search(&self, asked: &Asked) -> Reply {
        if asked.headers.get("authorization").is_none_or(|found| *found != SEARCH_AUTHORIZATION) {
            return Reply::status(
                401,
                "{\"messages\":[{\"type\":\"WARN\",\"text\":\"call not properly authenticated\"}]}",
            );
        }
        let form = String::from_utf8_lossy(&asked.body).into_owned();
        let wanted =
            ["exec_mode=oneshot", "output_mode=json", "search=%7C%20tstats%20count%20where"];
        let id = form.split("record_id%3D").nth(1).unwrap_or_default();
        if wanted.iter().any(|part| !form.contains(part)) || id.len() != 40 {
            return Reply::status(
                400,
                "{\"messages\":[{\"type\":\"FATAL\",\"text\":\"Unknown search\"}]}",
            );
        }
        let count = self.indexed.iter().filter(|one| one["fields"]["record_id"] == *id).count();
        let row = json!({ "count": count.to_string() });
        Reply::status(200, json!({ "preview": false, "results": [row] }).to_string())
    }
}

impl Hec {
    /// A collector at an address (port 0 for any), which knows one token.
    pub fn start(address: SocketAddr, certificate: &Certificate, token: &str) -> Self {
        let state = Arc::new(Mutex::new(State::new(token)));
        let shared = Arc::clone(&state);
        let server = HttpServer::start_at(address, Some(certificate), move |asked| {
            lock(&shared).answer(asked)
        });
        Self { server, state }
    }

    /// Its base URL; the same for the search head.
    pub fn url(&self) -> String {
        self.server.url()
    }

    /// How it is set and what it has.
    pub fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

fn is_flat(value: &Value) -> bool {
    match value {
        Value::Object(_) | Value::Null => false,
        Value::Array(values) => values.iter().all(Value::is_string),
        _ => true,
    }
}

fn is_guid(text: &str) -> bool {
    let parts: Vec<&str> = text.split('-').collect();
    parts.iter().map(|part| part.len()).eq([8, 4, 4, 4, 12])
        && parts.iter().all(|part| part.bytes().all(|b| b.is_ascii_hexdigit()))
}

fn say(status: u16, code: u16, text: &str, more: Option<(&str, u64)>) -> Reply {
    let mut body = json!({ "text": text, "code": code });
    if let Some((key, value)) = more {
        body[key] = value.into();
    }
    Reply::status(status, body.to_string())
}

/// The answer that has a code of the table.
fn code(number: u16) -> Reply {
    let (status, text) = text(number);
    // As the real one does, though nothing was looked at.
    let more = (number == 9).then_some(("invalid-event-number", 0));
    say(status, number, text, more)
}

fn text(number: u16) -> (u16, &'static str) {
    TABLE.get(usize::from(number)).copied().unwrap_or((500, "Internal server error"))
}

/// Status and text of each code.
pub const TABLE: [(u16, &str); 29] = [
    (200, "Success"),
    (403, "Token disabled"),
    (401, "Token is required"),
    (401, "Invalid authorization"),
    (403, "Invalid token"),
    (400, "No data"),
    (400, "Invalid data format"),
    (400, "Incorrect index"),
    (500, "Internal server error"),
    (503, "Server is busy"),
    (400, "Data channel is missing"),
    (400, "Invalid data channel"),
    (400, "Event field is required"),
    (400, "Event field cannot be blank"),
    (400, "ACK is disabled"),
    (400, "Error in handling indexed fields"),
    (400, "Query string authorization is not enabled"),
    (200, "HEC is healthy"),
    (503, "HEC is unhealthy, queues are full"),
    (503, "HEC is unhealthy, ack service unavailable"),
    (503, "HEC is unhealthy, queues are full, ack service unavailable"),
    (400, "Invalid token"),
    (400, "Token disabled"),
    (503, "Server is shutting down"),
    (200, "Queue is approaching capacity"),
    (200, "Ack channel is approaching capacity"),
    (429, "Queue at capacity"),
    (429, "Ack channel at capacity"),
    (400, "Data channel is missing or the session is not sticky"),
];

/// What the search head wants to see.
pub const SEARCH_AUTHORIZATION: &str = "Bearer a-search-token";

const CHANNEL: &str = "x-splunk-request-channel";
/// The keys of an envelope.
const KEYS: [&str; 7] = ["event", "fields", "host", "index", "source", "sourcetype", "time"];

#[cfg(test)]
mod tests {
    use super::*;

    const GUID: &str = "0f1e2d3c-0000-4000-8000-000000000001";

    fn ask(state: &mut State, path: &str, channel: &str, body: &str) -> (u16, Value) {
        let headers = [("authorization", "Splunk t"), (CHANNEL, channel)];
        let headers = headers.map(|(name, value)| (name.to_owned(), value.to_owned()));
        let asked = Asked {
            method: "POST".to_owned(),
            path: format!("/services/collector/{path}"),
            headers: headers.into(),
            body: body.as_bytes().to_vec(),
        };
        match state.answer(&asked) {
            Reply::Status(status, _, body) => (status, serde_json::from_slice(&body).unwrap()),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_stands_before_a_wrong_object_is_indexed() {
        let good = r#"{"event":"x"}"#;
        for (wrong, code, named) in [
            ("[1]", 6, 1),
            (r#"{"event":"#, 6, 1),
            (r#"{"time":"x","event":1}"#, 6, 1),
            (r#"{"event":"x","index":"other"}"#, 7, 2),
            (r#"{"host":"h"}"#, 12, 1),
            (r#"{"event":""}"#, 13, 1),
            (r#"{"event":1,"fields":{"a":{"b":"c"}}}"#, 15, 1),
        ] {
            let mut state = State::new("t");
            let (status, said) = ask(&mut state, "event", GUID, &format!("{good}{wrong}{good}"));
            assert_eq!(status, 400);
            assert_eq!(
                (&said["code"], &said["invalid-event-number"]),
                (&code.into(), &named.into())
            );
            assert_eq!(state.indexed.len(), 1, "{wrong}");
        }
        // The trap: all is well, it says.
        let mut state = State::new("t");
        let (status, said) =
            ask(&mut state, "event", GUID, &format!(r#"{good}{{"event":1,"id":2}}{good}"#));
        assert_eq!((status, &said["code"], state.indexed.len()), (200, &0.into(), 1));
    }

    #[test]
    fn an_acknowledgement_is_given_once_and_only_in_its_channel() {
        let mut state = State::new("t");
        state.ack_delay = Some(Duration::ZERO);
        state.acks_max = 2;
        for id in 0..3 {
            assert_eq!(ask(&mut state, "event", GUID, r#"{"event":1}"#).1["ackId"], id);
        }
        let other = GUID.replace("01", "02");
        assert_eq!(ask(&mut state, "event", &other, r#"{"event":1}"#).1["ackId"], 0);
        let question = r#"{"acks":[0,1,2,9]}"#;
        let said = ask(&mut state, "ack", GUID, question).1["acks"].clone();
        assert_eq!(said, json!({"0": false, "1": true, "2": true, "9": false}));
        let said = ask(&mut state, "ack", GUID, question).1["acks"].clone();
        assert_eq!(said, json!({"0": false, "1": false, "2": false, "9": false}));
        state.use_ack = false;
        assert_eq!(ask(&mut state, "ack", GUID, question).1["code"], 14);
    }

    #[test]
    fn who_may_not_write_is_told_why() {
        let mut state = State::new("t");
        assert_eq!(ask(&mut state, "event", "no-guid", r#"{"event":1}"#).1["code"], 11);
        state.disabled.insert("t".to_owned());
        assert_eq!(ask(&mut state, "event", GUID, r#"{"event":1}"#).1["code"], 1);
        state = State::new("another");
        assert_eq!(
            ask(&mut state, "event", GUID, r#"{"event":1}"#),
            (403, json!({"text": "Invalid token", "code": 4}))
        );
    }
}
