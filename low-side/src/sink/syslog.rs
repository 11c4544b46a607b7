//! A syslog receiver over TCP or TLS.
//!
//! Syslog has no acknowledgement: what is written to a receiver that dies is lost without a word
//! (1,499 of 2,000 messages in a measured case). With `confirm = "close"` each batch is one
//! connection, and counts only when the receiver closed in order after us. With `confirm = "write"`
//! the connection stays. Then a batch counts when the receiver's kernel has acknowledged all of it and
//! the connection has stood for the resend window since: a break in that time sends it again. What a
//! receiver leaves unread for longer and then dies with is lost, and nothing on this side can know it.
//!
//! A batch that was not confirmed is sent again whole: delivery is at least once, and repeated
//! records carry the same id. Of what is held back, only the ranges are kept, not the messages.

use std::io;
use std::time::Duration;

use shared::clock::{Clock, Nanos};

use super::config::{Confirm, Framing, SyslogConfig};
use super::transport::{CLOSE_IN_ORDER, Connection};
use super::{Confirmed, Item, Rejected, Sink, SinkError, syslog_format};
use crate::ledger::Ledger;
use shared::bell::Bell;

/// The syslog sink.
pub(super) struct SyslogSink<C> {
    name: String,
    config: SyslogConfig,
    framing: Framing,
    confirm: Confirm,
    clock: C,
    bell: Bell,
    /// How many times in a row the receiver did not close.
    unclosed: u32,
    /// Since when that is no accident.
    never_closed: Option<Nanos>,
    connection: Option<Connection>,
    /// Batches that were confirmed and are not committed: they are lost with the connection.
    held: u32,
    /// Framed messages on their way to the socket.
    waiting: Vec<u8>,
    message: Vec<u8>,
    /// What is too long to be sent.
    rejected: Vec<Rejected>,
}

impl<C: Clock> SyslogSink<C> {
    /// A sink that connects when it has something to say.
    pub(super) fn new(
        name: &str,
        config: SyslogConfig,
        (framing, confirm): (Framing, Confirm),
        clock: C,
        bell: Bell,
    ) -> Self {
        Self {
            name: name.to_owned(),
            config,
            framing,
            confirm,
            clock,
            bell,
            unclosed: 0,
            never_closed: None,
            connection: None,
            held: 0,
            waiting: Vec::new(),
            message: Vec::new(),
            rejected: Vec::new(),
        }
    }

    /// Without this, a receiver that never closes would get the same batch for ever, and no operator
    /// would know why.
    fn tell_if_never_closed(&mut self, ledger: &mut Ledger) -> Result<(), SinkError> {
        if self.unclosed >= UNCLOSED_MAX {
            let now = self.clock.now();
            let since = *self.never_closed.get_or_insert(now);
            let message = format!(
                "{} did not close the connection in order after {} batches in a row, so that they are sent again and again; set confirm = \"write\" if this receiver never closes",
                self.config.endpoint.address, self.unclosed
            );
            ledger.raise_lasting(NOT_CONFIRMING, &self.name, &message, (since, AGAIN), now)?;
        }
        Ok(())
    }

    fn send(&mut self) -> Result<(), SinkError> {
        if let Some(connection) = &mut self.connection {
            connection.send(&self.waiting)?;
        }
        self.waiting.clear();
        Ok(())
    }
}

impl<C: Clock> Sink for SyslogSink<C> {
    fn begin(&mut self, ledger: &mut Ledger) -> Result<(), SinkError> {
        self.tell_if_never_closed(ledger)?;
        self.waiting.clear();
        self.rejected.clear();
        // It stood idle: the receiver may have closed it.
        self.idle()?;
        if self.connection.is_some() {
            return Ok(());
        }
        self.connection = Some(Connection::open(&self.config.endpoint, &self.bell)?);
        Ok(())
    }

    fn write(&mut self, item: Item<'_>) -> Result<u64, SinkError> {
        let before = self.waiting.len();
        let longest = self.config.message_bytes_max;
        syslog_format::message(&mut self.message, &self.config, item.chain, item.record);
        let length = syslog_format::frame(&mut self.waiting, self.framing, &self.message);
        if length > longest {
            self.waiting.truncate(before);
            self.rejected.push(Rejected {
                chain: item.chain.clone(),
                sequence: item.record.sequence.0,
                reason: syslog_format::too_long(length, longest),
            });
            return Ok(0);
        }
        let bytes = (self.waiting.len() - before) as u64;
        if self.waiting.len() >= SEND_BYTES {
            self.send()?;
        }
        Ok(bytes)
    }

    fn confirm(&mut self) -> Result<Confirmed, SinkError> {
        self.send()?;
        match self.confirm {
            Confirm::Close => {
                if let Some(connection) = self.connection.take() {
                    let closed = connection.close();
                    let late =
                        matches!(closed, Err(SinkError::Timeout { doing: CLOSE_IN_ORDER, .. }));
                    self.unclosed = if late { self.unclosed.saturating_add(1) } else { 0 };
                    closed?;
                }
            }
            Confirm::Write { resend_window } => {
                if let Some(connection) = &mut self.connection {
                    connection.flush()?;
                    if !resend_window.is_zero() {
                        connection.wait_acknowledged()?;
                        self.held += 1;
                    }
                    connection.check()?;
                }
            }
        }
        Ok(Confirmed { position: None, rejected: std::mem::take(&mut self.rejected) })
    }

    fn holds(&self) -> Duration {
        match self.confirm {
            Confirm::Close => Duration::ZERO,
            Confirm::Write { resend_window } => resend_window,
        }
    }

    fn stands(&mut self) -> Result<(), SinkError> {
        match &mut self.connection {
            _ if self.held == 0 => Ok(()),
            Some(connection) => connection.check(),
            None => Err(SinkError::Network {
                address: self.config.endpoint.address.clone(),
                doing: "checking",
                source: io::ErrorKind::NotConnected.into(),
            }),
        }
    }

    fn committed(&mut self, ledger: &mut Ledger) -> Result<(), SinkError> {
        self.never_closed = None;
        self.held = self.held.saturating_sub(1);
        // Also one that was raised before a restart.
        Ok(ledger.close_alarm(NOT_CONFIRMING, &self.name, self.clock.now())?)
    }

    fn idle(&mut self) -> Result<(), SinkError> {
        if let Some(connection) = &mut self.connection
            && let Err(error) = connection.check()
        {
            if self.held > 0 {
                return Err(error);
            }
            tracing::info!(%error, "an idle receiver closed the connection");
            self.connection = None;
        }
        Ok(())
    }

    fn reset(&mut self, _error: &SinkError) {
        self.connection = None;
        self.held = 0;
        self.waiting.clear();
    }
}

/// A few TLS records at a time.
const SEND_BYTES: usize = 64 * 1024;
/// So many batches in a row that the receiver did not close are no accident.
const UNCLOSED_MAX: u32 = 3;
/// What was acknowledged and goes on is told again after so long.
const AGAIN: Duration = Duration::from_hours(1);
const NOT_CONFIRMING: &str = "sink-not-confirming";
