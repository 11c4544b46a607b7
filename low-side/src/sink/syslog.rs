//! A syslog receiver over TCP or TLS.
//!
//! Syslog has no acknowledgement: what is written to a receiver that dies is lost without a word
//! (1,499 of 2,000 messages in a measured case). With `confirm = "close"` each batch is one
//! connection, and counts only when the receiver closed in order after us. With `confirm = "write"`
//! the connection stays, and what a dying receiver had not read is lost.
//!
//! A batch that was not confirmed is sent again whole: delivery is at least once, and repeated
//! records carry the same id.

use shared::record::RecordRef;

use super::config::{Confirm, SyslogConfig};
use super::transport::Connection;
use super::{Sink, SinkError, syslog_format};
use crate::bell::Bell;
use crate::ledger::{ChainName, FilePosition, Ledger};

/// The syslog sink.
pub(super) struct SyslogSink {
    config: SyslogConfig,
    bell: Bell,
    connection: Option<Connection>,
    /// Framed messages on their way to the socket.
    waiting: Vec<u8>,
    scratch: Vec<u8>,
}

impl SyslogSink {
    /// A sink that connects when it has something to say.
    pub(super) fn new(config: SyslogConfig, bell: Bell) -> Self {
        Self { config, bell, connection: None, waiting: Vec::new(), scratch: Vec::new() }
    }

    fn send(&mut self) -> Result<(), SinkError> {
        if let Some(connection) = &mut self.connection {
            connection.send(&self.waiting)?;
        }
        self.waiting.clear();
        Ok(())
    }
}

impl Sink for SyslogSink {
    fn begin(&mut self, _ledger: &mut Ledger) -> Result<(), SinkError> {
        self.waiting.clear();
        if let Some(connection) = &mut self.connection {
            // It stood idle: the receiver may have closed it.
            if connection.check().is_ok() {
                return Ok(());
            }
            self.connection = None;
        }
        self.connection = Some(Connection::open(&self.config, &self.bell)?);
        Ok(())
    }

    fn write(&mut self, chain: &ChainName, record: &RecordRef<'_>) -> Result<u64, SinkError> {
        let before = self.waiting.len();
        syslog_format::frame(&mut self.waiting, &mut self.scratch, &self.config, chain, record);
        let bytes = (self.waiting.len() - before) as u64;
        if self.waiting.len() >= SEND_BYTES {
            self.send()?;
        }
        Ok(bytes)
    }

    fn confirm(&mut self) -> Result<Option<FilePosition>, SinkError> {
        self.send()?;
        match self.config.confirm {
            Confirm::Close => {
                if let Some(connection) = self.connection.take() {
                    connection.close()?;
                }
            }
            Confirm::Write => {
                if let Some(connection) = &mut self.connection {
                    connection.flush()?;
                    connection.check()?;
                }
            }
        }
        Ok(None)
    }

    fn idle(&mut self) -> Result<(), SinkError> {
        if let Some(connection) = &mut self.connection
            && let Err(error) = connection.check()
        {
            tracing::info!(%error, "an idle receiver closed the connection");
            self.connection = None;
        }
        Ok(())
    }

    fn reset(&mut self, _error: &SinkError) {
        self.connection = None;
        self.waiting.clear();
    }
}

/// A few TLS records at a time.
const SEND_BYTES: usize = 64 * 1024;
