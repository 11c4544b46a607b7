//! The gate that every message passes, whatever it came by: judged by the export guard, gathered into
//! batches, handed to the buffer.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use shared::bundle::RECORD_BYTES_MAX;
use shared::clock::{Clock, Nanos};
use shared::record::{Lane, SourceTag, Stream};
use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::buffer::{Incoming, IncomingMessage, Intake, IntakeClosed, Mark, Sighting};
use crate::guard::{Guard, Judged};

use super::counters::{Gauge, IngestCounters, add};

/// What all messages of one listener, or of one set of files, have in common.
#[derive(Clone)]
pub(crate) struct Gate {
    /// The lane of its records; the guard moves what is urgent to the flash lane.
    pub(crate) lane: Lane,
    /// The stream of its records; recognised from each record's bytes if none is given.
    pub(crate) stream: Option<Stream>,
    pub(crate) guard: Arc<Guard>,
    pub(crate) intake: Intake,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) counters: Arc<IngestCounters>,
}

/// Messages on their way to the intake. What is handed over becomes durable in one transaction.
pub(crate) struct Batch<'a> {
    gate: &'a Gate,
    source: Arc<SourceTag>,
    data: Vec<u8>,
    messages: Vec<IncomingMessage>,
    sightings: Vec<Sighting>,
    mark: Option<Mark>,
    truncated: u64,
    raw_bytes: u64,
    room_bytes: usize,
    room_messages: usize,
}

impl<'a> Batch<'a> {
    pub(crate) fn new(gate: &'a Gate, source: Arc<SourceTag>) -> Self {
        Self {
            gate,
            source,
            data: Vec::new(),
            messages: Vec::new(),
            sightings: Vec::new(),
            mark: None,
            truncated: 0,
            raw_bytes: 0,
            room_bytes: 0,
            room_messages: 0,
        }
    }

    /// Says how many bytes are at hand, so that the next batch is allocated once.
    pub(crate) fn expect(&mut self, bytes: usize) {
        self.room_bytes = bytes.min(BATCH_BYTES_MAX);
    }

    /// Adds one message; `cut_from` is its whole length if `raw` is only its head.
    pub(crate) fn push(&mut self, raw: &[u8], received: Nanos, cut_from: Option<u64>) {
        self.push_as(raw, received, cut_from, self.gate.stream);
    }

    /// As [`Batch::push`], for a message whose stream is known from how it came.
    pub(crate) fn push_as(
        &mut self,
        raw: &[u8],
        received: Nanos,
        cut_from: Option<u64>,
        stream: Option<Stream>,
    ) {
        if self.messages.is_empty() {
            self.data.reserve(self.room_bytes);
            self.messages.reserve(self.room_messages);
        }
        let begin = self.data.len();
        let Judged { stream, urgent, fate, sighting } =
            self.gate.guard.judge(raw, received, stream, &mut self.data);
        let lane = if urgent { Lane::Flash } else { self.gate.lane };
        let cut_from = settle_length(&mut self.data, begin, cut_from);
        let end = self.data.len();
        self.messages.push(IncomingMessage { lane, end, received, stream, cut_from, fate });
        self.sightings.extend(sighting);
        self.truncated += u64::from(cut_from.is_some());
        self.raw_bytes += raw.len() as u64;
    }

    /// Notes how far the source was read, to be stored together with the messages.
    pub(crate) fn mark(&mut self, mark: Mark) {
        self.mark = Some(mark);
    }

    /// Whether it should be handed over before more is added.
    pub(crate) fn is_full(&self) -> bool {
        self.messages.len() >= BATCH_MESSAGES_MAX || self.data.len() >= BATCH_BYTES_MAX
    }

    /// Whether there is nothing in it.
    pub(crate) fn is_empty(&self) -> bool {
        self.messages.is_empty() && self.mark.is_none()
    }

    /// The batch to hand over, counted; this one is empty afterwards.
    pub(crate) fn take(&mut self) -> Option<Incoming> {
        if self.is_empty() {
            return None;
        }
        self.room_messages = self.messages.len();
        let counters = &self.gate.counters;
        add(&counters.messages, self.messages.len() as u64);
        add(&counters.bytes, std::mem::take(&mut self.raw_bytes));
        add(&counters.truncated, std::mem::take(&mut self.truncated));
        Some(Incoming {
            source: Arc::clone(&self.source),
            data: std::mem::take(&mut self.data),
            messages: std::mem::take(&mut self.messages),
            mark: self.mark.take(),
            sightings: std::mem::take(&mut self.sightings),
            committed: None,
        })
    }

    /// Hands over what is in it, waiting while the buffer takes no more. It is not durable yet.
    pub(crate) async fn submit(&mut self) -> Result<(), IntakeClosed> {
        let Some(incoming) = self.take() else {
            return Ok(());
        };
        let _waiting = Waiting::begin(&self.gate.counters);
        self.gate.intake.submit(incoming).await
    }

    /// Hands over what is in it and waits until all of it is durable: only then may its sender be
    /// told so. Earlier batches are durable then, too.
    pub(crate) async fn commit(&mut self) -> Result<(), IntakeClosed> {
        let Some(durable) = self.submit_acknowledged().await? else {
            return Ok(());
        };
        let _waiting = Waiting::begin(&self.gate.counters);
        durable.await.map_err(|_| IntakeClosed)
    }

    /// Hands over what is in it, without waiting for it to be durable: that is told through what
    /// this gives, unless there was nothing to hand over. Earlier batches are durable then, too. An
    /// error there means that it will never be.
    pub(crate) async fn submit_acknowledged(
        &mut self,
    ) -> Result<Option<oneshot::Receiver<()>>, IntakeClosed> {
        let Some(mut incoming) = self.take() else {
            return Ok(None);
        };
        let (committed, durable) = oneshot::channel();
        incoming.committed = Some(committed);
        let _waiting = Waiting::begin(&self.gate.counters);
        self.gate.intake.submit(incoming).await?;
        Ok(Some(durable))
    }
}

/// A mark may be longer than what it stands for. No record is longer than a bundle may hold, and one that
/// was cut says a length above its own, so that every reader takes it: gives that length.
fn settle_length(data: &mut Vec<u8>, begin: usize, cut_from: Option<u64>) -> Option<u64> {
    let kept = data.len() - begin;
    let longest = RECORD_BYTES_MAX as usize;
    if kept > longest {
        data.truncate(begin + longest);
        return Some(cut_from.unwrap_or(0).max(kept as u64));
    }
    cut_from.map(|whole| whole.max(kept as u64 + 1))
}

/// Counts the time until it is dropped as spent waiting for the buffer.
pub(crate) struct Waiting<'a> {
    _now: Gauge<'a>,
    sum: &'a AtomicU64,
    since: Instant,
}

impl<'a> Waiting<'a> {
    pub(crate) fn begin(counters: &'a IngestCounters) -> Self {
        let now = Gauge::up(&counters.waiting);
        Self { _now: now, sum: &counters.waited_nanos, since: Instant::now() }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let nanos = u64::try_from(self.since.elapsed().as_nanos()).unwrap_or(u64::MAX);
        self.sum.fetch_add(nanos, Ordering::Relaxed);
    }
}

/// A batch is handed over once it holds so many messages, or
const BATCH_MESSAGES_MAX: usize = 4096;
/// so many bytes, though there is more to be read.
pub(super) const BATCH_BYTES_MAX: usize = 256 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_that_redaction_made_longer_can_still_be_read() {
        for (kept, cut_from, expected) in [
            (10, None, (10, None)),
            (10, Some(20), (10, Some(20))),
            (25, Some(20), (25, Some(26))),
            (20, Some(20), (20, Some(21))),
        ] {
            let mut data = vec![b'x'; 5 + kept];
            let cut = settle_length(&mut data, 5, cut_from);
            assert_eq!((data.len() - 5, cut), expected);
        }
        let longest = RECORD_BYTES_MAX as usize;
        let mut data = vec![b'x'; 5 + longest + 7];
        assert_eq!(settle_length(&mut data, 5, None), Some(longest as u64 + 7));
        assert_eq!(data.len(), 5 + longest);
    }
}
