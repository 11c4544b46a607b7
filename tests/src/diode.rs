//! Both agents with a UDP diode between them, with or without a bad link in the middle.

use std::net::SocketAddr;
use std::path::PathBuf;

use serde_json::Value;

use crate::agents::{Side, Site, program};
use crate::crossing::Crossing;
use crate::impair::Impairment;
use crate::process::run;
use crate::relay::Relay;
use crate::sandbox::{Sandbox, free_address};

/// A pair of agents, a link key that both have, and the addresses of the link.
#[derive(Debug)]
pub struct Diode {
    /// The agents, with their listener and sink.
    pub crossing: Crossing,
    /// Where the high side sends to: a relay, or the low side itself.
    pub to: SocketAddr,
    /// Where the low side listens.
    pub bind: SocketAddr,
    key: PathBuf,
}

impl Diode {
    /// A new pair on loopback; nothing is configured yet. What is sent goes to a relay, which
    /// [`Self::relay`] starts.
    pub fn new(name: &str) -> Self {
        Self::between(name, free_address(), free_address())
    }

    /// A new pair with these addresses.
    pub fn between(name: &str, to: SocketAddr, bind: SocketAddr) -> Self {
        Self::inside(Sandbox::new(name), to, bind)
    }

    /// The same, in a folder that is there.
    pub fn inside(sandbox: Sandbox, to: SocketAddr, bind: SocketAddr) -> Self {
        let crossing = Crossing::inside(sandbox);
        let key = crossing.sandbox.join("link.key");
        let mut mint = std::process::Command::new(program(Side::High.program()));
        run(mint.arg("diode-key").arg(&key)).success();
        Self { crossing, to, bind, key }
    }

    /// Begins to relay what the high side sends.
    pub fn relay(&self, impairment: Impairment, seed: u64) -> Relay {
        Relay::start(self.to, self.bind, impairment, seed).expect("a relay can be started")
    }

    /// The section of the carrier; `keys` are further lines of it.
    pub fn carrier(&self, keys: &str) -> String {
        // Late passes are for outages of hours; a test that needs some says which.
        let late = if keys.contains("late-passes") { "" } else { "late-passes = []\n" };
        format!(
            "[[carrier]]\nname = \"{LINK}\"\ntype = \"udp-diode\"\nto = \"{}\"\nlink-key-file = \"{}\"\n{late}{keys}",
            self.to,
            self.key.display()
        )
    }

    /// The section of the receiver; `keys` are further lines of it.
    pub fn receiver(&self, keys: &str) -> String {
        format!(
            "[[receiver]]\nname = \"{LINK}\"\ntype = \"udp-diode\"\nbind = \"{}\"\nlink-key-file = \"{}\"\n{keys}",
            self.bind,
            self.key.display()
        )
    }

    /// What the running high side's carrier has counted.
    pub fn sent(&self) -> Value {
        counters(&self.crossing.pair.high, ["live", "carriers"])
    }

    /// What the running low side's receiver has counted.
    pub fn received(&self) -> Value {
        counters(&self.crossing.pair.low, ["agent", "receivers"])
    }
}

fn counters(site: &Site, of: [&str; 2]) -> Value {
    let status = site.status();
    let entries = status[of[0]][of[1]].as_array().cloned().unwrap_or_default();
    let entry = entries.into_iter().find(|entry| entry["name"] == LINK);
    entry.map_or(Value::Null, |entry| entry["counters"].clone())
}

/// A counter of [`Diode::sent`] or [`Diode::received`]; 0 where it is not told yet.
pub fn count(counters: &Value, name: &str) -> u64 {
    counters[name].as_u64().or_else(|| counters["details"][name].as_u64()).unwrap_or(0)
}

/// The name of the carrier and of the receiver.
pub const LINK: &str = "diode";
