//! Both agents and the way between them, set up for speed; and what must hold at its end.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::ops::Range;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::agents::Pair;
use crate::forge::hex;
use crate::load::{Plan, Pool, Report, Target, send};
use crate::oracle::{events_of, find_id};
use crate::sandbox::{Sandbox, free_address};
use crate::wait::{PATIENCE, wait_until};

/// A pair of agents with one TCP listener, and a file as the sink.
#[derive(Debug)]
pub struct Crossing {
    /// Where everything lies.
    pub sandbox: Sandbox,
    /// The two sides.
    pub pair: Pair,
    /// The address of the listener.
    pub tcp: SocketAddr,
}

impl Crossing {
    /// A new pair that knows each other and has no configuration yet.
    pub fn new(name: &str) -> Self {
        Self::inside(Sandbox::new(name))
    }

    /// The same, in a folder that is there.
    pub fn inside(sandbox: Sandbox) -> Self {
        let pair = Pair::new(&sandbox, "plant-7");
        Self { sandbox, pair, tcp: free_address() }
    }

    /// The TCP listener, in a lane whose budget may be short.
    pub fn listener(&self) -> String {
        let bind = self.tcp;
        format!(
            "[[listener]]\nname = \"tcp\"\nprotocol = \"tcp\"\nbind = \"{bind}\"\nlane = \"flash\"\n"
        )
    }

    /// Bundles of at most so many records, each cut a moment after its first record came.
    pub fn seal_soon(records_max: u64) -> String {
        format!(
            "[seal]\nflash-budget = \"100ms\"\nbundle-records-max = {records_max}\nheartbeat = \"1d\"\n"
        )
    }

    /// The high side puts bundles straight into the low side's inbox.
    pub fn handoff(&self) -> String {
        std::fs::create_dir_all(self.pair.low.inbox()).expect("the inbox can be made");
        format!(
            "[[carrier]]\nname = \"folder\"\ntype = \"folder\"\npath = \"{}\"\n",
            self.pair.low.inbox().display()
        )
    }

    /// The folder of the file sink.
    pub fn sink_dir(&self) -> PathBuf {
        self.sandbox.join("sink")
    }

    /// The file sink.
    pub fn file_sink(&self) -> String {
        format!(
            "[[sink]]\nname = \"file\"\ntype = \"file\"\npath = \"{}\"\nretry-min = \"50ms\"\nretry-max = \"200ms\"\n",
            self.sink_dir().display()
        )
    }

    /// Keys of the low side's inbox that make it quick.
    pub fn quick_inbox() -> &'static str {
        "settle = \"50ms\"\nrescan-interval = \"200ms\"\n"
    }

    /// Listener, small bundles and hand-off; quick inbox and file sink.
    pub fn configure(&self, records_max: u64) {
        let seal = Self::seal_soon(records_max);
        let high = format!("{seal}{}{}", self.listener(), self.handoff());
        self.pair.high.configure(&high);
        let low = format!("{}{}", Self::quick_inbox(), self.file_sink());
        self.pair.low.configure(&low);
    }

    /// The same, with a page on each side; an inbox that gives up early on what is no bundle.
    pub fn configure_with_pages(&self, records_max: u64) -> [SocketAddr; 2] {
        let pages = [free_address(), free_address()];
        let [high, low] = pages.map(|at| format!("[page]\nlisten = \"{at}\"\n"));
        let (seal, listener) = (Self::seal_soon(records_max), self.listener());
        self.pair.high.configure(&format!("{seal}{listener}{}{high}", self.handoff()));
        let inbox = format!("{}copy-deadline = \"300ms\"\n", Self::quick_inbox());
        self.pair.low.configure(&format!("{inbox}{}{low}", self.file_sink()));
        pages
    }

    /// Sends messages with these ids over one connection and waits until it was read to its end.
    pub fn send(&self, ids: Range<u64>) -> Report {
        let plan =
            Plan { first_id: ids.start, ..Plan::new(Target::Tcp(self.tcp), ids.end - ids.start) };
        let report = send(&plan).expect("the listener can be reached");
        assert_eq!(report.sent, plan.count, "{report:?}");
        report
    }

    /// Waits until the high side has made so many records durable.
    pub fn wait_committed(&self, records: u64) {
        wait_until(PATIENCE, "all records in the buffer", || {
            received(&self.pair.high.status()) >= records
        });
    }

    /// Waits until nothing is left on the way: all that was received is delivered.
    pub fn wait_drained(&self) -> u64 {
        let mut records = 0;
        wait_until(DRAIN, "nothing on the way", || {
            let high = self.pair.high.status();
            let states = ["planned", "sealed", "ready"];
            let waiting = states.map(|state| high["bundles"][state]["count"].as_u64());
            records = received(&high);
            if buffered(&high) > 0 || waiting != [Some(0); 3] {
                return false;
            }
            let low = self.pair.low.status();
            let gone = low["suppressed"].as_u64().unwrap_or(0);
            low["records"].as_u64().map(|kept| kept + gone) == Some(records) && pending(&low) == 0
        });
        records
    }

    /// The events in the file sink.
    pub fn events(&self) -> Vec<Value> {
        if !self.sink_dir().is_dir() {
            return Vec::new();
        }
        events_of(&self.sink_dir())
    }
}

/// Longer than anything takes while others use the machine.
const DRAIN: Duration = Duration::from_mins(2);

/// The records that a high side's status counts as received.
pub fn received(high: &Value) -> u64 {
    sum(high, "received")
}

/// The records that wait in a high side's buffer.
pub fn buffered(high: &Value) -> u64 {
    sum(high, "buffered")
}

fn sum(high: &Value, field: &str) -> u64 {
    let lanes = high["lanes"].as_array().expect("a status has lanes");
    lanes.iter().map(|lane| lane[field].as_u64().expect("a count")).sum()
}

/// The last durable sequence number of the lane `flash`.
pub fn last_durable(high: &Value) -> u64 {
    let lanes = high["lanes"].as_array().expect("a status has lanes");
    let flash = lanes.iter().find(|lane| lane["lane"] == "flash");
    flash.map_or(0, |lane| lane["last-durable-sequence"].as_u64().expect("a number"))
}

/// The records that a low side's sinks have yet to take, over all sinks.
pub fn pending(low: &Value) -> u64 {
    let sinks = low["sinks"].as_array().expect("a status has sinks");
    sinks.iter().map(|sink| sink["pending"].as_u64().expect("a count")).sum()
}

/// What a file sink holds, after [`assert_sound`].
#[derive(Debug, Default)]
pub struct Arrived {
    /// The ids of the load generator's messages, in the order of their sequence numbers.
    pub ids: Vec<u64>,
    /// The events by `EPOCH/LANE` and sequence number.
    pub events: BTreeMap<(String, u64), Value>,
}

/// What holds of everything in a file sink, whatever happened on the way: each sequence number of a
/// chain stands there once and none is left out, ids follow the recipe, no message of the load
/// generator stands there twice, and each is what was sent.
///
/// # Panics
/// When one of these does not hold.
pub fn assert_sound(events: &[Value]) -> Arrived {
    let mut arrived = Arrived::default();
    for event in events {
        let text = |field: &str| event[field].as_str().expect("a text").to_owned();
        let sequence = event["sequence"].as_u64().expect("a sequence number");
        let (epoch, lane) = (&event["epoch"], text("lane"));
        let recipe = format!("{}\n{epoch}\n{lane}\n{sequence}\n", text("origin"));
        let id = hex(&Sha256::digest(recipe.as_bytes())[..20]);
        assert_eq!(text("id"), id, "the id of {recipe:?}");
        let key = (format!("{epoch}/{lane}"), sequence);
        let again = arrived.events.insert(key.clone(), event.clone());
        assert!(again.is_none(), "{key:?} was delivered twice");
    }
    let mut next: BTreeMap<&str, u64> = BTreeMap::new();
    let mut seen = BTreeSet::new();
    for ((chain, sequence), event) in &arrived.events {
        let expected = next.entry(chain).or_insert(1);
        assert_eq!(sequence, expected, "a hole in {chain}");
        *expected += 1;
        let raw = event["raw"].as_str().unwrap_or_default();
        if let Some((id, _)) = find_id(raw.as_bytes()) {
            assert!(seen.insert(id), "message {id} stands in two records");
            arrived.ids.push(id);
        }
    }
    arrived
}

/// Every message of the load generator is, byte by byte, what was sent.
///
/// # Panics
/// When one is not.
pub fn assert_unaltered(arrived: &Arrived) {
    let pool = Pool::new(crate::load::Framing::None, None);
    let mut message = Vec::new();
    for event in arrived.events.values() {
        let raw = event["raw"].as_str().unwrap_or_default().as_bytes();
        let Some((id, _)) = find_id(raw) else {
            continue;
        };
        message.clear();
        pool.append(id, &mut message);
        assert!(raw == message, "message {id} was altered: {event}");
    }
}
