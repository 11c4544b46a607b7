//! The way into the buffer: bounded by bytes in flight, freed only by a commit.
//!
//! Every batch takes a permit that weighs as much as it does in memory, and the writer gives the
//! permit back once the batch is durable. When the buffer can take no more, the permits run out
//! and whoever reads from a socket waits here instead of reading: that is all backpressure is.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, SyncSender};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use shared::clock::Nanos;
use shared::record::{Lane, SourceTag, Stream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use super::losses::LossReason;

/// Messages from one connection, or one read of a UDP socket, in the order in which they came.
/// All of it becomes durable in one transaction.
#[derive(Debug)]
pub struct Incoming {
    /// Where they came in.
    pub source: Arc<SourceTag>,
    /// The raw bytes of all messages that are kept, one after the other, without framing.
    pub data: Vec<u8>,
    /// Where each message ends in `data`; the first one begins at 0, each other at its
    /// predecessor's end. Ends never decrease and the last one is `data.len()`.
    pub messages: Vec<IncomingMessage>,
    /// How far a source was read that can be read again, once these messages are durable.
    pub mark: Option<Mark>,
    /// What is remembered of messages that can also be asked for.
    pub sightings: Vec<Sighting>,
    /// Told once every message is durable; dropped without a word if that never happens.
    pub committed: Option<oneshot::Sender<()>>,
}

/// One message of an [`Incoming`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IncomingMessage {
    /// The lane whose next sequence number it gets.
    pub lane: Lane,
    /// The offset in `data` behind its last byte.
    pub end: usize,
    /// When it was received.
    pub received: Nanos,
    /// What kind of source it came from.
    pub stream: Stream,
    /// Its length before truncation, if it was longer than the limit.
    pub cut_from: Option<u64>,
    /// What the export guard made of it.
    pub fate: Fate,
}

/// What the export guard made of a message.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Fate {
    /// It is kept as it came.
    #[default]
    Kept,
    /// It is kept without what was redacted; the note says what and by which rule.
    Redacted(Box<str>),
    /// It is not kept: it takes no bytes of `data`.
    Suppressed {
        /// The rule's name.
        rule: Arc<str>,
        /// How many bytes it had.
        bytes: u64,
    },
}

/// How far a source was read: a note under a name that replaces the one before, stored in the
/// transaction that makes the messages durable which were read up to there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mark {
    /// The source.
    pub name: String,
    /// How far; `None` forgets the source.
    pub value: Option<String>,
}

/// What is remembered of a message, so that it is not taken twice when it is also asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sighting {
    /// When it happened, in seconds since 1970 UTC.
    pub second: i64,
    /// A hash of what identifies it besides the time.
    pub hash: u64,
}

/// Records that were lost before they could be buffered, as far as it is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LostBefore {
    /// The lane they would have travelled in.
    pub lane: Lane,
    /// Why they were lost.
    pub reason: LossReason,
    /// The listener that lost them.
    pub listener: String,
    /// How many.
    pub count: u64,
    /// They were lost after this time,
    pub from: Nanos,
    /// and before this one.
    pub to: Nanos,
}

/// The writer has stopped; nothing can be taken any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the buffer's writer has stopped")]
pub struct IntakeClosed;

/// A handle through which messages enter the buffer. The writer drains and ends when every clone,
/// and every [`LossSink`], is dropped.
#[derive(Clone, Debug)]
pub struct Intake {
    permits: Arc<Semaphore>,
    permits_total: u32,
    requests: SyncSender<Request>,
}

impl Intake {
    /// A way in that holds at most `in_flight_bytes_max` bytes which are not durable yet, and the
    /// end that the writer reads from.
    pub fn new(in_flight_bytes_max: u64) -> (Self, IntakeReceiver) {
        let units = in_flight_bytes_max.div_ceil(PERMIT_BYTES).clamp(1, u64::from(PERMITS_MAX));
        let permits_total = u32::try_from(units).unwrap_or(PERMITS_MAX);
        let permits = Arc::new(Semaphore::new(permits_total as usize));
        // Each request holds a permit, so a channel with a place for each is never full.
        let (requests, receiver) = mpsc::sync_channel(permits_total as usize);
        let intake = Self { permits: Arc::clone(&permits), permits_total, requests };
        (intake, IntakeReceiver { permits, receiver })
    }

    /// Hands over a batch, waiting while too much is in flight. Cancelling it before it is ready
    /// hands nothing over.
    pub async fn submit(&self, batch: Incoming) -> Result<(), IntakeClosed> {
        let weight = self.weight(&batch);
        self.send(weight, RequestKind::Batch(batch)).await
    }

    /// As [`Intake::submit`], for a thread that may block.
    pub fn submit_blocking(&self, batch: Incoming) -> Result<(), IntakeClosed> {
        block_on(self.submit(batch))
    }

    /// A handle through which losses are declared.
    pub fn loss_sink(&self) -> LossSink {
        LossSink(self.clone())
    }

    /// The bytes in flight: submitted and not durable yet, in units of a small batch.
    pub fn in_flight_bytes(&self) -> u64 {
        let free = self.permits.available_permits() as u64;
        u64::from(self.permits_total).saturating_sub(free) * PERMIT_BYTES
    }

    async fn send(&self, weight: u32, kind: RequestKind) -> Result<(), IntakeClosed> {
        let submitted = Instant::now();
        let permits = Arc::clone(&self.permits);
        let permit = permits.acquire_many_owned(weight).await.map_err(|_| IntakeClosed)?;
        self.requests.try_send(Request { kind, submitted, permit }).map_err(|_| IntakeClosed)
    }

    /// A batch larger than all that may be in flight takes all of it.
    fn weight(&self, batch: &Incoming) -> u32 {
        let bytes = batch.data.len()
            + std::mem::size_of_val(batch.messages.as_slice())
            + std::mem::size_of_val(batch.sightings.as_slice());
        let units = (bytes as u64).div_ceil(PERMIT_BYTES).max(1);
        u32::try_from(units).unwrap_or(u32::MAX).min(self.permits_total)
    }
}

/// A handle through which losses are declared; they are as durable as records and cross the gap
/// in the next bundle of their lane.
#[derive(Clone, Debug)]
pub struct LossSink(Intake);

impl LossSink {
    /// Declares a loss, waiting while too much is in flight.
    pub async fn declare(&self, loss: LostBefore) -> Result<(), IntakeClosed> {
        self.0.send(1, RequestKind::Loss(loss)).await
    }

    /// As [`LossSink::declare`], for a thread that may block.
    pub fn declare_blocking(&self, loss: LostBefore) -> Result<(), IntakeClosed> {
        block_on(self.declare(loss))
    }
}

/// The end of an [`Intake`] from which the writer reads.
#[derive(Debug)]
pub struct IntakeReceiver {
    permits: Arc<Semaphore>,
    receiver: Receiver<Request>,
}

impl IntakeReceiver {
    /// Waits for a request: for ever, or no longer than given.
    pub fn recv(&self, timeout: Option<Duration>) -> Result<Request, RecvTimeoutError> {
        match timeout {
            None => self.receiver.recv().map_err(|_| RecvTimeoutError::Disconnected),
            Some(timeout) => self.receiver.recv_timeout(timeout),
        }
    }
}

impl IntakeReceiver {
    pub(super) fn closer(&self) -> IntakeCloser {
        IntakeCloser(Arc::clone(&self.permits))
    }
}

impl Drop for IntakeReceiver {
    fn drop(&mut self) {
        self.closer().close();
    }
}

/// Refuses whatever is submitted from now on, and wakes whoever waits for a permit that will never
/// come.
pub(super) struct IntakeCloser(Arc<Semaphore>);

impl IntakeCloser {
    pub(super) fn close(&self) {
        self.0.close();
    }
}

/// What the writer is asked to make durable. Dropping it gives its permit back.
#[derive(Debug)]
pub struct Request {
    /// What it is.
    pub kind: RequestKind,
    /// When somebody began to submit it.
    pub(super) submitted: Instant,
    pub(super) permit: OwnedSemaphorePermit,
}

/// The kinds of [`Request`].
#[derive(Debug)]
pub enum RequestKind {
    /// Messages.
    Batch(Incoming),
    /// A declared loss.
    Loss(LostBefore),
}

/// Runs a future that needs no runtime on this thread: tokio's semaphore is one.
fn block_on<T>(future: impl Future<Output = T>) -> T {
    struct Unpark(Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let mut context = Context::from_waker(&waker);
    let mut future = pin!(future);
    loop {
        match future.as_mut().poll(&mut context) {
            Poll::Ready(value) => return value,
            Poll::Pending => thread::park(),
        }
    }
}

/// One permit stands for so many bytes. A small batch weighs as much as one permit, which pays for
/// its allocations and bounds how many batches can be in flight.
const PERMIT_BYTES: u64 = 2 * 1024;

/// No channel larger than this, in places: 1 GiB in flight.
const PERMITS_MAX: u32 = 1 << 19;
