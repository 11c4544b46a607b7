//! Why a Portainer could not be asked, or its answer not be used, and what to do about it.

use std::path::PathBuf;

use crate::buffer::{BufferError, IntakeClosed};

/// Why a reconciliation did not come to its end. What was inserted until then stays, and is found by
/// the next run.
#[derive(Debug, thiserror::Error)]
pub enum ReconcileError {
    /// The buffer can't be read.
    #[error("the buffer can't be read: {0}")]
    Buffer(#[from] BufferError),
    /// The authorities' certificates can't be used.
    #[error("can't use the certificates of {path}: {why}\n  try: check `ca` of this section")]
    Ca {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// There is nobody there.
    #[error(
        "can't reach {url}: {source}\n  try: check `url` of this section, that Portainer runs, and the firewalls between"
    )]
    Connect {
        /// Where.
        url: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// A stretch of time holds more records than are kept in memory.
    #[error("{url} has more than {most} records within {secs} seconds: too many to be compared")]
    Crowded {
        /// What was asked.
        url: String,
        /// The most.
        most: usize,
        /// How short the stretch of time is.
        secs: i64,
    },
    /// What it speaks is no HTTP, or the connection broke.
    #[error("{url} did not answer as a web server does: {why}")]
    Http {
        /// What was asked.
        url: String,
        /// What is wrong.
        why: String,
    },
    /// The buffer takes no more.
    #[error(transparent)]
    Intake(#[from] IntakeClosed),
    /// The API key can't be read.
    #[error("can't use the API key in {path}: {why}")]
    Key {
        /// The file.
        path: PathBuf,
        /// What is wrong, and what to do.
        why: String,
    },
    /// The answer is no JSON, or has another shape than any known one.
    #[error(
        "{url} answered with something that is no list of records: {why}\n  try: ask it with curl; a proxy or another program may stand there"
    )]
    Malformed {
        /// What was asked.
        url: String,
        /// What is wrong.
        why: String,
    },
    /// Offsets are not respected, so that not all records can be had.
    #[error("{url} gives the same records for every offset: not all of them can be had")]
    Paging {
        /// What was asked.
        url: String,
    },
    /// It sends us elsewhere; the API key is given to nobody else.
    #[error(
        "{url} answered {status} and points to {to}: the API key is not sent there\n  try: give the address that answers itself as `url`"
    )]
    Redirect {
        /// What was asked.
        url: String,
        /// The status.
        status: u16,
        /// Where it points.
        to: String,
    },
    /// It refused, or could not.
    #[error("{url} answered {status}\n  try: {}", advice(*status))]
    Status {
        /// What was asked.
        url: String,
        /// The status.
        status: u16,
    },
    /// A thread of our own died.
    #[error("a thread that read the buffer died")]
    Thread,
    /// No answer in time.
    #[error(
        "{url} did not answer within {secs} s\n  try: a smaller `page-size` or a longer `timeout`"
    )]
    Timeout {
        /// What was asked.
        url: String,
        /// How long was waited.
        secs: u64,
    },
    /// It can't prove who it is.
    #[error(
        "{url} can't prove who it is: {source}\n  try: check that `ca` holds the authority of its certificate, and that the certificate names the host in `url`"
    )]
    Tls {
        /// Where.
        url: String,
        /// What does not fit.
        source: rustls::Error,
    },
    /// The answer is longer than any that is read.
    #[error("{url} answered with more than {most} bytes; reading was ended")]
    TooLarge {
        /// What was asked.
        url: String,
        /// The most.
        most: usize,
    },
}

fn advice(status: u16) -> &'static str {
    match status {
        400 => {
            "check the version: these are parameters of Portainer Business Edition 2.20 and later"
        }
        401 => "the API key is not known: make a new one and put it into `api-key-file`",
        403 => "the API key is not of an administrator: only administrators may read these logs",
        404 => {
            "only Portainer Business Edition has these logs; check edition, version (2.20 or later) and the path in `url`"
        }
        429 | 503 => "it has too much to do; it is asked again later",
        500..=599 => "look into Portainer's own log; it is asked again later",
        _ => "ask the same with curl and look at what comes",
    }
}
