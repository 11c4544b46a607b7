//! The SIEM side. A sink takes records in batches; a batch counts once it is confirmed.

mod answered;
mod bulk;
pub mod config;
pub mod dead_letters;
mod doubt;
mod elastic;
mod file;
mod forward;
mod guid;
mod http_json;
pub mod kafka;
mod loki;
pub mod marked;
mod next_hop;
mod patience;
pub mod probe;
mod relp;
#[cfg(test)]
mod script;
mod sentinel;
mod splunk;
mod syslog;
mod syslog_format;
mod transport;

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use shared::bell::Bell;
use shared::clock::{Clock, Nanos};
use shared::record::{RecordId, RecordRef};

use crate::http::{Answer, HttpError, credential};
use crate::ledger::{ChainName, FilePosition, Ledger, LedgerError, SinkId};
use crate::tls::TlsError;
use config::{Endpoint, SinkConfig, SinkKind, Wire};

/// Why a batch was not delivered. The batch is sent again.
#[derive(Debug, thiserror::Error)]
pub enum SinkError {
    /// The receiver answered that it does not take the batch, or not now.
    #[error("{place} answered {status}: {why}")]
    Answer {
        /// The receiver.
        place: String,
        /// The status it gave.
        status: u16,
        /// What it said.
        why: String,
        /// How long it asked to be left alone.
        retry_after: Option<Duration>,
    },
    /// The file can't be used.
    #[error("{path} can't be used")]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// There was no answer.
    #[error(transparent)]
    Http(#[from] HttpError),
    /// Kafka, or the client of it, can't go on.
    #[error("{brokers}: {doing}: {why}")]
    Kafka {
        /// The brokers that were given.
        brokers: String,
        /// What failed.
        doing: &'static str,
        /// What the client says.
        why: String,
    },
    /// The ledger failed.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// The marked record is not as it should be: a fault of ours.
    #[error("the marked record: {why}")]
    Marked {
        /// What is wrong with it.
        why: String,
    },
    /// The receiver can't be reached, or broke off.
    #[error("{address}: {doing}")]
    Network {
        /// The receiver.
        address: String,
        /// What was being done.
        doing: &'static str,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The program stops.
    #[error("the agent stops")]
    Stopping,
    /// A file for TLS, or one with a credential, can't be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The receiver did not confirm in time.
    #[error("{address} did not {doing} within {}", shared::config::Span(*.after))]
    Timeout {
        /// The receiver.
        address: String,
        /// What it did not do.
        doing: &'static str,
        /// How long we waited.
        after: Duration,
    },
}

impl SinkError {
    /// An answer that refuses, as an error.
    pub fn answer(place: &str, answer: &Answer) -> Self {
        SinkError::Answer {
            place: place.to_owned(),
            status: answer.status,
            why: answer.excerpt(),
            retry_after: answer.retry_after(),
        }
    }

    /// What the receiver said, as the reason of a dead letter.
    pub fn into_reason(self) -> String {
        match self {
            SinkError::Answer { status, why, .. } => format!("{status}: {why}"),
            other => other.to_string(),
        }
    }

    /// How long the receiver asked to be left alone.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            SinkError::Answer { retry_after, .. } => *retry_after,
            _ => None,
        }
    }
}

/// A record on its way to a sink.
#[derive(Clone, Copy, Debug)]
pub struct Item<'a> {
    /// Its chain.
    pub chain: &'a ChainName,
    /// The number of the bundle that brought it.
    pub bundle: u64,
    /// The record.
    pub record: &'a RecordRef<'a>,
}

/// A record that the receiver will never take. It goes to the sink's dead letters and counts as dealt
/// with, so that it does not stop what is behind it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejected {
    /// Its chain.
    pub chain: ChainName,
    /// Its number.
    pub sequence: u64,
    /// What the receiver said.
    pub reason: String,
}

/// A batch that is dealt with.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Confirmed {
    /// How far the file of a file sink is durable, or the number of a Kafka sink's last batch.
    pub position: Option<FilePosition>,
    /// The records among it that the receiver will never take; all others are delivered.
    pub rejected: Vec<Rejected>,
}

/// A destination. Calls come in this order: `begin`, `write`..., `confirm`, `stands`, `committed`; where
/// a sink holds batches back, further ones come before the last two. After any error `reset`, and then
/// `begin` again, with all that was not `committed`.
pub trait Sink: Send {
    /// Makes ready for a batch: opens, connects, or finishes what was interrupted.
    fn begin(&mut self, ledger: &mut Ledger) -> Result<(), SinkError>;
    /// The chain whose records the sink holds already, unconfirmed, and would recognise.
    fn unfinished(&mut self) -> Result<Option<ChainName>, SinkError> {
        Ok(None)
    }
    /// Takes one record; gives the bytes it became.
    fn write(&mut self, item: Item<'_>) -> Result<u64, SinkError>;
    /// Returns once the batch is delivered, as surely as this kind of sink can tell.
    fn confirm(&mut self) -> Result<Confirmed, SinkError>;
    /// How long a confirmed batch is held back before it is noted, so that a break in that time makes it
    /// be sent again. Further batches go out meanwhile.
    fn holds(&self) -> Duration {
        Duration::ZERO
    }
    /// Whether what was confirmed and held back still stands. Called before each batch is noted.
    fn stands(&mut self) -> Result<(), SinkError> {
        Ok(())
    }
    /// The batch is noted in the ledger.
    fn committed(&mut self, _ledger: &mut Ledger) -> Result<(), SinkError> {
        Ok(())
    }
    /// There is nothing to deliver at the moment.
    fn idle(&mut self) -> Result<(), SinkError> {
        Ok(())
    }
    /// Forgets the batch and whatever was open.
    fn reset(&mut self, error: &SinkError);
}

/// Makes the sink that the configuration describes.
pub fn make(
    config: &SinkConfig,
    id: SinkId,
    clock: impl Clock + 'static,
    bell: Bell,
) -> Box<dyn Sink> {
    match &config.kind {
        SinkKind::Elastic(elastic) => Box::new(elastic::ElasticSink::new(*elastic.clone(), bell)),
        SinkKind::File(file) => {
            Box::new(file::FileSink::new(&config.name, id, file.clone(), clock))
        }
        SinkKind::Forward(forward) => Box::new(forward::ForwardSink::new(forward.clone(), bell)),
        SinkKind::Http(http) => Box::new(http_json::HttpJsonSink::new(http.clone(), bell)),
        #[cfg(feature = "kafka")]
        SinkKind::Kafka(kafka) => Box::new(kafka::KafkaSink::new(id, kafka.clone(), clock, bell)),
        SinkKind::Loki(loki) => Box::new(loki::LokiSink::new(*loki.clone(), bell)),
        SinkKind::Sentinel(sentinel) => {
            Box::new(sentinel::SentinelSink::new(&config.name, *sentinel.clone(), bell))
        }
        SinkKind::Splunk(splunk) => Box::new(splunk::SplunkSink::new(*splunk.clone(), bell)),
        SinkKind::Syslog(syslog) => match syslog.wire {
            Wire::Relp { window } => Box::new(relp::RelpSink::new(syslog.clone(), window, bell)),
            Wire::Stream { framing, confirm } => {
                let wire = (framing, confirm);
                Box::new(syslog::SyslogSink::new(&config.name, syslog.clone(), wire, clock, bell))
            }
        },
    }
}

/// Makes the destination ready for what is sent to it, or with `apply` unset only says how; gives what
/// was done, or is to be done, as text.
pub fn setup(config: &SinkConfig, apply: bool) -> Result<String, SinkError> {
    let text = match &config.kind {
        SinkKind::Elastic(elastic) => {
            let mut text = String::new();
            elastic::setup(elastic, &Bell::default(), apply, &mut text)?;
            text
        }
        SinkKind::File(file) => {
            format!("nothing to set up: {} is made when it is written to\n", file.dir.display())
        }
        SinkKind::Forward(forward) => next_hop::forward(forward),
        SinkKind::Http(_) => "nothing can be set up here: see the receiver's own page\n".to_owned(),
        #[cfg(feature = "kafka")]
        SinkKind::Kafka(kafka) => kafka::setup(config, kafka),
        SinkKind::Loki(loki) => loki::setup(loki),
        SinkKind::Sentinel(sentinel) => sentinel::setup(sentinel, &config.name),
        SinkKind::Splunk(splunk) => splunk::setup(splunk, &config.name),
        SinkKind::Syslog(syslog) => next_hop::syslog(syslog),
    };
    Ok(text)
}

/// Whether a record can be found at the destination by its id; `None` where it can't be asked.
pub fn find(config: &SinkConfig, id: &RecordId) -> Result<Option<bool>, SinkError> {
    match &config.kind {
        SinkKind::File(_) | SinkKind::Forward(_) | SinkKind::Http(_) | SinkKind::Syslog(_) => {
            Ok(None)
        }
        SinkKind::Elastic(elastic) => elastic::find(elastic, &Bell::default(), id),
        SinkKind::Loki(loki) => loki::find(loki, &Bell::default(), id),
        SinkKind::Sentinel(sentinel) => sentinel::find(sentinel, &Bell::default(), id),
        SinkKind::Splunk(splunk) => splunk::find(splunk, &Bell::default(), id),
        #[cfg(feature = "kafka")]
        SinkKind::Kafka(_) => Ok(None),
    }
}

/// Whether a record that was found there carries what the detection rules of that destination go by;
/// `None` where they go by nothing that could be missing, or it can't be asked.
pub fn stamped(config: &SinkConfig, id: &RecordId) -> Result<Option<bool>, SinkError> {
    match &config.kind {
        SinkKind::Elastic(elastic) => elastic::stamped(elastic, &Bell::default(), id),
        _ => Ok(None),
    }
}

/// What is to be said before records that were received in a period are sent to a sink once more, where it
/// is known that the destination will refuse some.
pub fn replay_warning(config: &SinkConfig, period: (Nanos, Nanos), now: Nanos) -> Option<String> {
    match &config.kind {
        SinkKind::Elastic(elastic) => elastic::warning(elastic, &Bell::default(), period, now),
        _ => None,
    }
}

/// The sink as `penstock-low check` uses it, beside the agent's own.
pub fn for_check(config: &SinkConfig) -> SinkConfig {
    let kind = match &config.kind {
        #[cfg(feature = "kafka")]
        SinkKind::Kafka(kafka) => SinkKind::Kafka(kafka::for_check(kafka)),
        other => other.clone(),
    };
    SinkConfig { kind, ..config.clone() }
}

/// Writes the marked record to the folder of a file sink and reads it back; gives the id of the user as whom
/// that was done.
pub fn prove_file(
    name: &str,
    config: &config::FileConfig,
    marked: &marked::Marked,
) -> Result<u32, SinkError> {
    file::prove(name, config, marked)
}

/// What an operator should know of a sink that works.
pub fn warning(config: &SinkConfig) -> Option<String> {
    match &config.kind {
        SinkKind::Syslog(syslog) if matches!(syslog.wire, Wire::Stream { .. }) => {
            let which = syslog_format::without_id(syslog)?;
            Some(format!(
                "with body = \"original\", {which} go out without the record's id, so that what a break makes come twice can't be told apart\n    try: body = \"json\", or transport = \"relp\", which repeats next to nothing"
            ))
        }
        _ => None,
    }
}

/// Looks for what would keep a sink from working, without connecting or writing.
pub fn check(config: &SinkConfig) -> Result<(), SinkError> {
    match &config.kind {
        SinkKind::Elastic(elastic) => {
            elastic.http.check()?;
            elastic.access.file().map(|path| credential(path)).transpose()?;
            Ok(())
        }
        SinkKind::File(file) if file.dir.exists() && !file.dir.is_dir() => Err(SinkError::File {
            path: file.dir.clone(),
            source: io::Error::from(io::ErrorKind::NotADirectory),
        }),
        SinkKind::File(_) => Ok(()),
        SinkKind::Http(http) => {
            http.http.check()?;
            http.authorization_file.as_deref().map(credential).transpose()?;
            Ok(())
        }
        #[cfg(feature = "kafka")]
        SinkKind::Kafka(kafka) => kafka::check(kafka),
        SinkKind::Loki(loki) => {
            loki.http.check()?;
            loki.authorization_file.as_deref().map(credential).transpose()?;
            Ok(())
        }
        SinkKind::Sentinel(sentinel) => {
            sentinel.http.check()?;
            credential(&sentinel.client_secret_file)?;
            Ok(())
        }
        SinkKind::Splunk(splunk) => {
            splunk.http.check()?;
            credential(&splunk.token_file)?;
            if let Some(search) = &splunk.search {
                search.http.check()?;
                credential(&search.authorization_file)?;
            }
            Ok(())
        }
        SinkKind::Forward(forward) => {
            check_tls(&forward.endpoint)?;
            let password = forward.user.as_ref().map(|(_, path)| path);
            for path in forward.shared_key_file.iter().chain(password) {
                credential(path)?;
            }
            Ok(())
        }
        SinkKind::Syslog(syslog) => check_tls(&syslog.endpoint),
    }
}

fn check_tls(endpoint: &Endpoint) -> Result<(), SinkError> {
    match &endpoint.tls {
        Some(tls) => Ok(tls.load().map(|_| ())?),
        None => Ok(()),
    }
}
