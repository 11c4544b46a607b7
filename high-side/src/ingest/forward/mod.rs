//! The Forward protocol of Fluentd and Fluent Bit, after the "Fluentd Forward Protocol Specification"
//! v1.5 of Fluentd's wiki.
//!
//! A client sends chunks of entries. It can ask for each chunk to be acknowledged; that is done once
//! all entries of it are durable, and not before. What is not acknowledged, the client sends again as
//! a whole: nothing that it was told of is lost, and entries stand here twice only where the
//! connection or the agent broke before the answer: delivery is at least once. A client that asks for
//! nothing is slowed by not reading it, and loses what was on the way when a connection breaks.
//!
//! Which bytes the record of an entry has, [`record`] says.

mod access;
mod decode;
mod entries;
mod handshake;
mod inflate;
mod record;

use std::sync::Arc;

use shared::record::SourceTag;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use crate::buffer::IntakeClosed;

use super::Listener;
use super::acknowledged::{Answer, Reading, answer, answers, both, linger};
use super::connection::{End, STOP_DRAIN};
use super::counters::add;
use super::gate::Batch;
use super::memory::ReadPermit;
use decode::{DecodeError, Decoder, Step};
use handshake::{Handshake, PingError};
use shared::msgpack::push_text;

pub(super) use access::Access;
pub use access::{ForwardSettings, SecretError};

/// Speaks the Forward protocol over a connection, to its end.
pub(super) async fn serve<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut S,
    source: Arc<SourceTag>,
    listener: &Listener,
    settings: &ForwardSettings,
) -> End {
    let limits = &listener.settings.limits;
    let (to_answer, pending) = answers();
    let session = Session {
        listener,
        reading: Reading::new(listener),
        decoder: Decoder::new(settings.chunk_bytes_max, limits.message_bytes_max),
        batch: Batch::new(&listener.gate, Arc::clone(&source)),
        source,
        tag: None,
        scratch: Vec::new(),
        inflating: None,
        durable: None,
        replies: Vec::new(),
        answers: to_answer,
    };
    let end = {
        let (mut read, mut write) = tokio::io::split(&mut *stream);
        both(session.run(&mut read), answer(&mut write, pending, limits.message_timeout)).await
    };
    if end == End::Stopping || end == End::Refused {
        linger(stream).await;
    }
    end
}

struct Session<'a> {
    listener: &'a Listener,
    reading: Reading<'a>,
    decoder: Decoder,
    batch: Batch<'a>,
    source: Arc<SourceTag>,
    /// The tag of what is in the batch.
    tag: Option<String>,
    /// Where records are put together; empty between them.
    scratch: Vec<u8>,
    /// Memory for a compressed chunk.
    inflating: Option<ReadPermit>,
    /// Told when what was handed over last is durable, if no answer waits for it yet.
    durable: Option<oneshot::Receiver<()>>,
    /// What is said once the batch is durable.
    replies: Vec<u8>,
    answers: mpsc::Sender<Answer>,
}

/// Why a session ends early.
#[derive(Debug, thiserror::Error)]
enum Fault {
    #[error(transparent)]
    Decode(#[from] DecodeError),
    #[error("the agent stops")]
    Ends(End),
    #[error(transparent)]
    Intake(#[from] IntakeClosed),
    /// Nobody takes answers any more.
    #[error("the peer left")]
    Left,
    #[error(transparent)]
    Ping(#[from] PingError),
    #[error("{0}")]
    Unauthentic(&'static str),
}

impl Session<'_> {
    async fn run<R: AsyncRead + Unpin>(mut self, socket: &mut R) -> End {
        let outcome = async {
            if let Some(key) = &self.listener.access.shared_key {
                self.introduce(key, socket).await?;
            }
            self.transport(socket).await
        };
        match outcome.await {
            Ok(end) => end,
            Err(fault) => self.fail(&fault).await,
        }
    }

    /// Lets only those go on who prove that they share our key.
    async fn introduce<R: AsyncRead + Unpin>(
        &mut self,
        key: &[u8],
        socket: &mut R,
    ) -> Result<(), Fault> {
        let by = Instant::now() + self.listener.settings.limits.handshake_timeout;
        let mut random = [0; 32];
        let provider = rustls::crypto::aws_lc_rs::default_provider();
        // Without a nonce that was never used before there is no proof.
        provider
            .secure_random
            .fill(&mut random)
            .map_err(|_| Fault::Unauthentic("no randomness"))?;
        let host = format!("penstock-{}", self.listener.settings.name);
        let handshake = Handshake::new(&self.listener.access, key, host, &random);
        self.say(handshake.helo()).await?;
        loop {
            if let Some((verdict, end)) = handshake.judge(self.reading.buffer.data())? {
                self.reading.buffer.consume(end);
                self.say(verdict.pong).await?;
                return verdict.refused.map_or(Ok(()), |reason| Err(Fault::Unauthentic(reason)));
            }
            let want = self.reading.buffer.data().len() + 1;
            if let Some(end) = self.reading.grow(want).await {
                return Err(Fault::Ends(end));
            }
            if let Some(end) = self.reading.fill(socket, Some(by)).await {
                return Err(Fault::Ends(end));
            }
        }
    }

    async fn say(&mut self, bytes: Vec<u8>) -> Result<(), Fault> {
        let answer = Answer { after: None, bytes };
        self.answers.send(answer).await.map_err(|_| Fault::Left)
    }

    async fn transport<R: AsyncRead + Unpin>(&mut self, socket: &mut R) -> Result<End, Fault> {
        loop {
            // A client may send its first chunk together with its PING.
            let want = self.decode().await?;
            let end = match self.reading.grow(want).await {
                Some(end) => Some(end),
                None => self.reading.fill(socket, None).await,
            };
            let Some(end) = end else {
                continue;
            };
            if end == End::Stopping {
                // A client that asks for no acknowledgement believes that what it sent is here.
                let until = Instant::now() + STOP_DRAIN;
                while self.reading.drain(socket, until).await {
                    let want = self.decode().await?;
                    if want > self.reading.buffer.capacity() {
                        break;
                    }
                }
            }
            self.decode().await?;
            return Ok(end);
        }
    }

    /// Takes all that is whole and hands it over; gives how much room the next piece needs.
    async fn decode(&mut self) -> Result<usize, Fault> {
        let received = self.listener.gate.clock.now();
        let max = self.listener.settings.limits.message_bytes_max;
        self.batch.expect(self.reading.buffer.data().len());
        let mut progressed = false;
        let want = loop {
            if self.decoder.is_inflating() {
                if self.inflating.is_none() {
                    let memory = self.reading.reserve(self.decoder.inflating_bytes_max()).await;
                    self.inflating = Some(memory.map_err(Fault::Ends)?);
                }
            } else {
                self.inflating = None;
            }
            let consumed = match self.decoder.step(self.reading.buffer.data())? {
                Step::More { consumed, want } => {
                    self.reading.buffer.consume(consumed);
                    break want;
                }
                Step::On { consumed } => consumed,
                Step::Tag { tag, consumed } => {
                    if self.tag.as_ref() != Some(&tag) {
                        self.hand_over().await?;
                        let source = Arc::new(self.source.tagged(&tag));
                        self.batch = Batch::new(&self.listener.gate, source);
                        self.tag = Some(tag);
                    }
                    consumed
                }
                Step::Entry { bytes, shape, whole, consumed } => {
                    let made = record::make(bytes, shape, whole, max, &mut self.scratch);
                    self.batch.push(made.raw, received, made.cut_from);
                    self.scratch.clear();
                    if self.scratch.capacity() > SCRATCH_BYTES {
                        self.scratch = Vec::new();
                    }
                    progressed = true;
                    consumed
                }
                Step::End { chunk, consumed } => {
                    if let Some(chunk) = chunk {
                        self.replies.push(0x81);
                        push_text(&mut self.replies, "ack");
                        push_text(&mut self.replies, &chunk);
                    }
                    progressed = true;
                    consumed
                }
            };
            self.reading.buffer.consume(consumed);
            if self.batch.is_full() {
                self.hand_over().await?;
            }
        };
        self.hand_over().await?;
        let unfinished = !self.reading.buffer.is_empty() || self.decoder.is_within();
        self.reading.settle(unfinished, progressed);
        Ok(want)
    }

    /// Hands over the batch; the replies follow once it is durable, and all before it.
    async fn hand_over(&mut self) -> Result<(), Fault> {
        if let Some(durable) = self.batch.submit_acknowledged().await? {
            self.durable = Some(durable);
        }
        if self.replies.is_empty() {
            return Ok(());
        }
        let bytes = std::mem::take(&mut self.replies);
        let answer = Answer { after: self.durable.take(), bytes };
        self.answers.send(answer).await.map_err(|_| Fault::Left)
    }

    /// The protocol has no word for what a client did wrong: its connection ends.
    async fn fail(mut self, fault: &Fault) -> End {
        let counters = &self.listener.gate.counters;
        match fault {
            Fault::Intake(_) => return End::IntakeClosed,
            Fault::Left => return End::Closed,
            Fault::Ends(end) => return *end,
            Fault::Unauthentic(_) => add(&counters.authentication_failures, 1),
            Fault::Decode(_) | Fault::Ping(_) => add(&counters.protocol_errors, 1),
        }
        let source = self.source.as_str();
        tracing::warn!(source, error = %fault, "a Forward client was refused; closed its connection");
        match self.hand_over().await {
            Err(Fault::Intake(_)) => End::IntakeClosed,
            _ => End::Refused,
        }
    }
}

/// What a connection keeps to put records together in.
const SCRATCH_BYTES: usize = 64 * 1024;
