//! The page of an agent, its numbers for Prometheus, and whether it is well: over HTTP, and read-only.
//!
//! ```text
//! GET /              the page, with /page.js and /page.css; nothing else is loaded, from nowhere
//! GET /status.json   all there is to show; the page asks for it every two seconds
//! GET /history.json  records by stream, a sample every ten seconds, of the last hour
//! GET /life.json     ?bundle=NAME: what the custody log says of one bundle
//! GET /metrics       the numbers, in the text format of Prometheus or, for who asks for it, of `OpenMetrics`
//! GET /healthz       200 while the agent lives
//! GET /readyz        200 while it does its work, 503 and the reason otherwise
//! ```
//!
//! - A Unix socket or the loopback needs nothing else: who may open the one, and who is on the machine
//!   for the other, may look. Any other address is served over TLS only, to who has the token or a
//!   certificate of the client authority.
//! - Without TLS, on the loopback as on the socket, the `Host` header must name this machine, so that no
//!   page of another site can be made to read it (DNS rebinding): a socket is reached from a browser,
//!   too, where somebody forwards it with ssh.
//! - Names come from logs, media and peers: the page puts them in as text, never as markup, and its
//!   content security policy lets nothing run but its own script.
//! - Bounds: 64 connections, 16 KiB of a request's head, no bodies, ten seconds for a head; one look at
//!   the agent serves everybody who asks within half a second.

#![deny(missing_docs)]

mod access;
mod advice;
pub mod answers;
mod config;
mod history;
pub mod metrics;
mod server;
mod show;
mod verdict;

pub use config::{Listen, PageConfig, RawPage, TlsFiles};
pub use server::{PageError, Server};
pub use show::{Place, life, shown};
pub use verdict::{Level, Trouble, Verdict, judge};

/// What an agent shows of itself.
pub trait Source: Send + 'static {
    /// All there is to show, as one JSON object.
    fn status(&mut self) -> Result<String, String>;
    /// The numbers.
    fn metrics(&mut self) -> Result<metrics::Numbers, String>;
    /// Whether the agent does its work, or why it does not.
    fn ready(&mut self) -> Result<(), String>;
    /// Records so far, by stream.
    fn flows(&mut self) -> Vec<(String, u64)>;
    /// What the custody log says of one bundle, as JSON; `None` where it knows none of that name.
    fn life(&mut self, bundle: &str) -> Result<Option<String>, String>;
}
