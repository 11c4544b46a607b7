//! Reconciliation: what Portainer still knows and syslog never brought is asked for, and taken once.
//!
//! UDP, restarts, and a sender that reconnects once and then drops lose records that Portainer itself
//! keeps for 7 days. From time to time, or when told to, its REST interface is asked what happened,
//! and the answer is compared with what is remembered of the records that came.
//!
//! ```text
//! records on their way in ──> sighting() ──> stored with them ──┐
//! Portainer ──> client ──> ask (windows of time) ──> answer ────┴─> matching ──> missing ──> Gate
//! ```
//!
//! - A sealed bundle can't be opened on this side, so a [`Sighting`](crate::buffer::Sighting), a second
//!   and a hash, is kept of each record, in the transaction that makes the record durable.
//! - What is missing is inserted with its own sighting in one transaction: if the process dies before
//!   the mark moves, the next run finds it and takes nothing twice.
//! - Records are counted: three equal ones need three sightings.
//! - Memory is bounded by one answer, and an index of a stretch of time.

mod answer;
mod ask;
mod client;
mod error;
mod matching;
mod report;
mod request;
mod run;
mod sighting;
mod state;
mod task;

use std::path::PathBuf;
use std::time::Duration;

use shared::record::Lane;

pub use error::ReconcileError;
pub use report::Report;
pub use request::{Answer, Order, OrderError, ask_agent};
pub use run::{Run, Wanted};
pub use sighting::{sighting, sighting_in};
pub use task::{Reconciling, RunningReconciler, SectionStatus, spawn};

pub(crate) use client::Client;
pub(crate) use state::{State, begin};
pub(crate) use task::gate_for;

/// One Portainer that is asked, as configured.
#[derive(Clone, Debug)]
pub struct PortainerApi {
    /// Its name; stands as the listener with every record that was recovered.
    pub name: String,
    /// Where it answers.
    pub url: ApiUrl,
    /// The file of its API key; read at each run, so that a new key needs no restart.
    pub api_key_file: PathBuf,
    /// The authorities that may have issued its certificate, in PEM; none for plain HTTP.
    pub ca: Option<PathBuf>,
    /// The lane of recovered records; the guard moves what is urgent to the flash lane.
    pub lane: Lane,
    /// How often it is asked.
    pub interval: Duration,
    /// How far before the end of the last run the next one looks again.
    pub overlap: Duration,
    /// What is younger is not missing yet, only late.
    pub settle: Duration,
    /// How far the two times of one record may be apart.
    pub tolerance: Duration,
    /// The longest wait for one answer.
    pub timeout: Duration,
    /// How many records are asked for at once.
    pub page_size: u32,
    /// An alarm is raised when it could not be asked for so long.
    pub alarm_after: Duration,
}

/// Where a Portainer answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApiUrl {
    /// Whether TLS is spoken.
    pub tls: bool,
    /// The host, a name or an address, without brackets.
    pub host: String,
    /// The port.
    pub port: u16,
    /// What stands before `/api`, without a slash at its end; usually empty.
    pub base: String,
}

impl std::fmt::Display for ApiUrl {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let scheme = if self.tls { "https" } else { "http" };
        write!(f, "{scheme}://{}{}", self.authority(), self.base)
    }
}

impl ApiUrl {
    /// Reads `https://HOST[:PORT][/BASE]`; says what is wrong with anything else.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        let uri: hyper::Uri =
            text.parse().map_err(|_| "is a URL, as https://portainer.example:9443")?;
        let tls = match uri.scheme_str() {
            Some("https") => true,
            Some("http") => false,
            _ => return Err("begins with https://"),
        };
        let authority = uri.authority().ok_or("has a host, as https://portainer.example:9443")?;
        if authority.as_str().contains('@') {
            return Err("has no user in it: the API key stands in api-key-file");
        }
        if uri.query().is_some() {
            return Err("has no query: only scheme, host, port, and what stands before /api");
        }
        let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_owned();
        if host.is_empty() {
            return Err("has a host, as https://portainer.example:9443");
        }
        let port = authority.port_u16().unwrap_or(if tls { 443 } else { 80 });
        let base = uri.path().trim_end_matches('/').trim_end_matches("/api").to_owned();
        Ok(Self { tls, host, port, base })
    }

    /// Whether it leads to this machine: nobody else can listen in.
    pub fn is_loopback(&self) -> bool {
        self.host == "localhost"
            || self.host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
    }

    /// `HOST:PORT`, with brackets around an address that has colons.
    pub fn authority(&self) -> String {
        if self.host.contains(':') {
            format!("[{}]:{}", self.host, self.port)
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }
}

/// How long Portainer keeps its records; it looks for older ones once a day.
pub const PORTAINER_KEEPS: Duration = Duration::from_hours(7 * 24);

/// How long sightings are kept: what Portainer keeps, and a day for its clock and its habits.
pub const SIGHTINGS_KEPT: Duration = Duration::from_hours(8 * 24);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_read_with_what_stands_before_the_api() {
        for (text, shown, loopback) in [
            ("https://portainer.example", "https://portainer.example:443", false),
            ("https://portainer.example:9443/", "https://portainer.example:9443", false),
            ("https://h/tools/portainer/api", "https://h:443/tools/portainer", false),
            ("http://127.0.0.1:9000", "http://127.0.0.1:9000", true),
            ("http://[::1]:9000", "http://[::1]:9000", true),
            ("http://localhost:9000", "http://localhost:9000", true),
        ] {
            let url = ApiUrl::parse(text).unwrap();
            assert_eq!((url.to_string().as_str(), url.is_loopback()), (shown, loopback), "{text}");
        }
        for text in ["", "portainer", "ftp://h", "https://u:p@h", "https://h?x=1", "https://"] {
            assert!(ApiUrl::parse(text).is_err(), "{text}");
        }
    }
}
