//! The SIEM side. A sink takes records in batches; a batch counts once it is confirmed.

pub mod config;
mod file;
mod syslog;
mod syslog_format;
mod transport;

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use shared::clock::Clock;
use shared::record::RecordRef;

use crate::ledger::{ChainName, FilePosition, Ledger, LedgerError, SinkId};
use config::{SinkConfig, SinkKind};
use shared::bell::Bell;

/// Why a batch was not delivered. The batch is sent again.
#[derive(Debug, thiserror::Error)]
pub enum SinkError {
    /// The receiver's certificate or our own can't be used.
    #[error("{path}: {problem}")]
    Certificate {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        problem: String,
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
    fn write(&mut self, chain: &ChainName, record: &RecordRef<'_>) -> Result<u64, SinkError>;
    /// Returns once the batch is delivered, as surely as this kind of sink can tell.
    fn confirm(&mut self) -> Result<Option<FilePosition>, SinkError>;
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
        SinkKind::Syslog(syslog) => {
            Box::new(syslog::SyslogSink::new(&config.name, syslog.clone(), clock, bell))
        }
    }
}

/// Looks for what would keep a sink from working, without connecting or writing.
pub fn check(config: &SinkConfig) -> Result<(), SinkError> {
    match &config.kind {
        SinkKind::File(file) if file.dir.exists() && !file.dir.is_dir() => Err(SinkError::File {
            path: file.dir.clone(),
            source: io::Error::from(io::ErrorKind::NotADirectory),
        }),
        SinkKind::File(_) => Ok(()),
        SinkKind::Syslog(syslog) => syslog.tls.as_ref().map_or(Ok(()), transport::check),
    }
}
