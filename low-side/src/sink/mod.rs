//! The SIEM side. A sink takes records in batches; a batch counts once it is confirmed.

mod bulk;
pub mod config;
pub mod dead_letters;
mod file;
mod http_json;
pub mod kafka;
mod syslog;
mod syslog_format;
mod transport;

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use shared::bell::Bell;
use shared::clock::Clock;
use shared::record::{RecordId, RecordRef};

use crate::http::{Answer, HttpError, credential};
use crate::ledger::{ChainName, FilePosition, Ledger, LedgerError, SinkId};
use crate::tls::TlsError;
use config::{SinkConfig, SinkKind};

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

/// A destination. Calls come in this order: `begin`, `write`..., `confirm`, `committed`; after any
/// error `reset`, and then `begin` again.
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
        SinkKind::File(file) => {
            Box::new(file::FileSink::new(&config.name, id, file.clone(), clock))
        }
        SinkKind::Http(http) => Box::new(http_json::HttpJsonSink::new(http.clone(), bell)),
        #[cfg(feature = "kafka")]
        SinkKind::Kafka(kafka) => Box::new(kafka::KafkaSink::new(id, kafka.clone(), clock, bell)),
        SinkKind::Syslog(syslog) => {
            Box::new(syslog::SyslogSink::new(&config.name, syslog.clone(), clock, bell))
        }
    }
}

/// Makes the destination ready for what is sent to it, or with `apply` unset only says how; gives what
/// was done, or is to be done, as text.
pub fn setup(config: &SinkConfig, _apply: bool) -> Result<String, SinkError> {
    let text = match &config.kind {
        SinkKind::File(file) => {
            format!("nothing to set up: {} is made when it is written to\n", file.dir.display())
        }
        SinkKind::Http(_) => "nothing can be set up here: see the receiver's own page\n".to_owned(),
        #[cfg(feature = "kafka")]
        SinkKind::Kafka(kafka) => kafka::setup(config, kafka),
        SinkKind::Syslog(_) => "nothing can be set up over syslog\n".to_owned(),
    };
    Ok(text)
}

/// Whether a record can be found at the destination by its id; `None` where it can't be asked.
pub fn find(config: &SinkConfig, _id: &RecordId) -> Result<Option<bool>, SinkError> {
    match &config.kind {
        SinkKind::File(_) | SinkKind::Http(_) | SinkKind::Syslog(_) => Ok(None),
        #[cfg(feature = "kafka")]
        SinkKind::Kafka(_) => Ok(None),
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

/// Looks for what would keep a sink from working, without connecting or writing.
pub fn check(config: &SinkConfig) -> Result<(), SinkError> {
    match &config.kind {
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
        SinkKind::Syslog(syslog) => match &syslog.tls {
            Some(tls) => Ok(tls.load().map(|_| ())?),
            None => Ok(()),
        },
    }
}
