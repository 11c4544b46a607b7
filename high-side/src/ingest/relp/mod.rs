//! RELP, rsyslog's reliable event logging protocol, after its specification ("RELP - The Reliable
//! Event Logging Protocol", `doc/relp.md` of librelp).
//!
//! A client opens a session and numbers its messages; each is answered with `200 OK` once it is
//! durable, and not before. Messages read together become durable together and are answered
//! together, while the next ones are already read: how many may be under way is the client's window.
//!
//! What is not answered, the client sends again in its next session. So nothing that it was told of
//! is lost, and a message stands here twice only where the connection broke between the commit and
//! its answer: delivery is at least once. A frame that is not complete is never kept: it comes again.

mod frame;
mod offers;

use std::io::Write as _;
use std::sync::Arc;

use shared::record::SourceTag;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::buffer::IntakeClosed;

use super::Listener;
use super::acknowledged::{Answer, Reading, answer, answers, both, linger};
use super::connection::End;
use super::counters::add;
use super::gate::Batch;
use frame::{Command, FrameError, Framer, Step};

/// Speaks RELP over a connection, to its end.
pub(super) async fn serve<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut S,
    source: Arc<SourceTag>,
    listener: &Listener,
) -> End {
    let limits = &listener.settings.limits;
    let (to_answer, pending) = answers();
    let session = Session {
        listener,
        reading: Reading::new(listener),
        framer: Framer::new(limits.message_bytes_max),
        batch: Batch::new(&listener.gate, Arc::clone(&source)),
        replies: Vec::new(),
        txnr: 0,
        state: State::New,
        answers: to_answer,
    };
    let end = {
        let (mut read, mut write) = tokio::io::split(&mut *stream);
        let reading = session.run(&mut read, &source);
        both(reading, answer(&mut write, pending, limits.message_timeout)).await
    };
    if end == End::Stopping || end == End::Refused {
        linger(stream).await;
    }
    end
}

struct Session<'a> {
    listener: &'a Listener,
    reading: Reading<'a>,
    framer: Framer,
    batch: Batch<'a>,
    /// What is said once the batch is durable.
    replies: Vec<u8>,
    /// The transaction that is looked at; 0 while its number is not known.
    txnr: u32,
    state: State,
    answers: mpsc::Sender<Answer>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// `open` is awaited.
    New,
    Open,
    /// `close` was answered; nothing may follow.
    Over,
}

/// Why a session ends early.
#[derive(Debug, thiserror::Error)]
enum Fault {
    #[error("a command came in the wrong place")]
    Order,
    #[error("a command is not known")]
    Unknown,
    #[error(transparent)]
    Frame(#[from] FrameError),
    #[error("{0}")]
    Offer(&'static str),
    #[error(transparent)]
    Intake(#[from] IntakeClosed),
    /// Nobody takes answers any more.
    #[error("the peer left")]
    Left,
}

impl Session<'_> {
    async fn run<R: AsyncRead + Unpin>(mut self, socket: &mut R, source: &SourceTag) -> End {
        let open_by = Instant::now() + self.listener.settings.limits.handshake_timeout;
        loop {
            let until = (self.state == State::New).then_some(open_by);
            let mut end = self.reading.fill(socket, until).await;
            match self.deframe().await {
                Ok(_) if end.is_some() => {}
                Ok(_) if self.state == State::Over => return End::Closed,
                Ok(want) => end = self.reading.grow(want).await,
                Err(fault) => return self.fail(&fault, source).await,
            }
            if let Some(end) = end {
                if end == End::Stopping {
                    // A hint, and the last word: it may find nobody.
                    let hint = Answer { after: None, bytes: b"0 serverclose 0\n".to_vec() };
                    let _ = self.answers.send(hint).await;
                }
                return end;
            }
        }
    }

    /// Takes all frames that are whole and hands them over; gives how much room the next one needs.
    async fn deframe(&mut self) -> Result<usize, Fault> {
        let received = self.listener.gate.clock.now();
        self.batch.expect(self.reading.buffer.data().len());
        let mut progressed = false;
        let want = loop {
            let data = self.reading.buffer.data();
            self.txnr = 0;
            let consumed = match self.framer.step(data)? {
                Step::More { consumed, want } => {
                    self.reading.buffer.consume(consumed);
                    break want;
                }
                Step::Cut { body, cut_from, consumed } => {
                    if self.state != State::Open {
                        return Err(Fault::Order);
                    }
                    self.batch.push(&data[body], received, Some(cut_from));
                    consumed
                }
                Step::Tail { txnr, consumed } => {
                    acknowledge(&mut self.replies, txnr);
                    consumed
                }
                Step::Frame { txnr, command, data: body, consumed } => {
                    let body = &data[body];
                    self.txnr = txnr;
                    match (command, self.state) {
                        (_, State::Over) => return Err(Fault::Order),
                        (Command::Open, State::New) if txnr > 0 => {
                            let offers = offers::select(body).map_err(Fault::Offer)?;
                            respond(&mut self.replies, txnr, &format!("200 OK\n{offers}"));
                            self.state = State::Open;
                        }
                        (Command::Syslog, State::Open) if txnr > 0 => {
                            if body.is_empty() {
                                add(&self.listener.gate.counters.empty_frames, 1);
                            } else {
                                self.batch.push(body, received, None);
                            }
                            acknowledge(&mut self.replies, txnr);
                        }
                        (Command::Close, _) if txnr > 0 => {
                            respond(&mut self.replies, txnr, "");
                            self.state = State::Over;
                        }
                        // Hints need no answer, and none of them tells us anything.
                        (Command::Other, _) if txnr == 0 => {}
                        (Command::Other, _) => return Err(Fault::Unknown),
                        _ => return Err(Fault::Order),
                    }
                    consumed
                }
            };
            progressed = true;
            self.reading.buffer.consume(consumed);
            if self.batch.is_full() {
                self.hand_over().await?;
            }
        };
        self.hand_over().await?;
        let unfinished = !self.reading.buffer.is_empty() || self.framer.is_within();
        self.reading.settle(unfinished, progressed);
        Ok(want)
    }

    /// Hands over the batch; the replies follow it once it is durable.
    async fn hand_over(&mut self) -> Result<(), Fault> {
        let after = self.batch.submit_acknowledged().await?;
        if after.is_none() && self.replies.is_empty() {
            return Ok(());
        }
        let answer = Answer { after, bytes: std::mem::take(&mut self.replies) };
        self.answers.send(answer).await.map_err(|_| Fault::Left)
    }

    /// Tells the peer what it did wrong, after what it did right.
    async fn fail(mut self, fault: &Fault, source: &SourceTag) -> End {
        match fault {
            Fault::Intake(_) => return End::IntakeClosed,
            Fault::Left => return End::Closed,
            _ => {}
        }
        add(&self.listener.gate.counters.protocol_errors, 1);
        tracing::warn!(source = source.as_str(), error = %fault, "a RELP session broke the rules; closed it");
        // For a frame that can't be read the number is 0, which makes this a hint.
        respond(&mut self.replies, self.txnr, &format!("500 {fault}"));
        match self.hand_over().await {
            Err(Fault::Intake(_)) => End::IntakeClosed,
            _ => End::Refused,
        }
    }
}

fn acknowledge(out: &mut Vec<u8>, txnr: u32) {
    respond(out, txnr, "200 OK");
}

fn respond(out: &mut Vec<u8>, txnr: u32, data: &str) {
    let gap = if data.is_empty() { "" } else { " " };
    // Writing to memory can't fail.
    let _ = writeln!(out, "{txnr} rsp {}{gap}{data}", data.len());
}
