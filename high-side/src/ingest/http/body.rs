//! Bodies of requests: read within limits of size, time and memory, and decompressed within them.

use std::io::Read;
use std::time::Duration;

use flate2::read::MultiGzDecoder;
use http_body_util::BodyExt;
use hyper::body::{Body as _, Incoming};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::super::connection::STOP_DRAIN;
use super::super::memory::{ReadMemory, ReadPermit};

/// Bytes of a body, and the memory that they were given.
#[derive(Debug, Default)]
pub(super) struct Held {
    pub(super) bytes: Vec<u8>,
    permit: ReadPermit,
    room: usize,
}

/// What came of a body.
#[derive(Debug, Default)]
pub(super) struct Came {
    pub(super) body: Held,
    /// Why that is not all of it.
    pub(super) fault: Option<Fault>,
    /// Its whole length as far as it is known, if `body` is less.
    pub(super) cut_from: Option<u64>,
}

/// Why a body is not there, or not whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// The peer left, or broke the rules of its transfer encoding.
    Broken,
    /// What it is compressed with can't be undone.
    Encoding,
    /// There was no memory for it for a while.
    NoMemory,
    /// It took too long.
    Slow,
    /// The agent stops.
    Stopping,
    /// It is longer than the limit.
    TooLarge,
}

/// The limits of one body.
#[derive(Clone, Debug)]
pub(super) struct Rules {
    pub(super) bytes_max: usize,
    pub(super) time_max: Duration,
    pub(super) memory: ReadMemory,
    pub(super) shutdown: watch::Receiver<bool>,
}

impl Held {
    /// Makes room for more, in doubling steps up to `bytes_max`. Nobody waits for long while holding
    /// memory that others wait for.
    async fn reserve(&mut self, more: usize, rules: &Rules) -> Result<(), Fault> {
        let want = self.bytes.len() + more;
        if want <= self.room {
            return Ok(());
        }
        let room = want.max(self.room * 2).max(ROOM_BYTES_MIN).min(rules.bytes_max.max(want));
        let permit = timeout(MEMORY_WAIT, rules.memory.take(room - self.room))
            .await
            .map_err(|_| Fault::NoMemory)?;
        self.permit.merge(permit);
        self.bytes.reserve_exact(room - self.bytes.len());
        self.room = room;
        Ok(())
    }
}

impl Rules {
    /// Reads a body that is of no use unless it is whole.
    pub(super) async fn read_whole(&self, body: Incoming) -> Result<Held, Fault> {
        let declared = body.size_hint().lower();
        if declared > self.bytes_max as u64 {
            return Err(Fault::TooLarge);
        }
        let mut out = Held::default();
        // Memory is asked for before a client that asks first is told to go on.
        out.reserve((declared as usize).min(ROOM_BYTES_MIN), self).await?;
        let mut frames = self.frames(body);
        while let Some(frame) = frames.next().await? {
            if out.bytes.len() + frame.len() > self.bytes_max {
                return Err(Fault::TooLarge);
            }
            out.reserve(frame.len(), self).await?;
            out.bytes.extend_from_slice(&frame);
        }
        Ok(out)
    }

    /// Reads a body of which any part is worth keeping: its first bytes are kept, the rest is counted.
    /// Waits for memory as long as it takes, all of it at once, before anything is read: also for what
    /// it stands for, if it is `packed`.
    pub(super) async fn read_head(&self, body: Incoming, packed: bool) -> Came {
        let hint = body.size_hint();
        let declared = hint.lower();
        let room = hint.exact().unwrap_or(u64::MAX).min(self.bytes_max as u64) as usize;
        let mut came = Came::default();
        let spare = if packed { self.bytes_max + INFLATE_STEP_BYTES } else { 0 };
        came.body.permit = self.memory.take(room + spare).await;
        came.body.bytes.reserve_exact(room.min(ROOM_BYTES_MIN));
        let (kept, mut whole) = (&mut came.body.bytes, 0);
        let mut frames = self.frames(body);
        came.fault = loop {
            match frames.next().await {
                Ok(Some(frame)) => {
                    let free = self.bytes_max - kept.len();
                    kept.extend_from_slice(&frame[..frame.len().min(free)]);
                    whole += frame.len() as u64;
                }
                Ok(None) => break None,
                Err(fault) => break Some(fault),
            }
        };
        let length = kept.len() as u64;
        let known = whole.max(declared);
        came.cut_from = match came.fault {
            // One byte more than came, at least, where nobody said how many there would be.
            Some(_) => Some(known.max(length + 1)),
            None => Some(known).filter(|known| *known > length),
        };
        came
    }

    fn frames(&self, body: Incoming) -> Frames {
        Frames {
            declared: body.size_hint().lower(),
            body,
            deadline: Instant::now() + self.time_max,
            shutdown: self.shutdown.clone(),
            total: 0,
        }
    }

    /// Undoes gzip.
    pub(super) async fn inflate(&self, compressed: &[u8]) -> Result<Held, Fault> {
        self.inflate_into(Held::default(), compressed).await
    }

    /// Undoes gzip in place, in memory that [`Rules::read_head`] took for it.
    pub(super) async fn inflate_head(&self, body: &mut Held) -> Result<(), Fault> {
        let roomy = Held { room: self.bytes_max + INFLATE_STEP_BYTES, ..Held::default() };
        body.bytes = self.inflate_into(roomy, &body.bytes).await?.bytes;
        Ok(())
    }

    /// Goes step by step, so that a small body that stands for a huge one ends at the limit.
    async fn inflate_into(&self, mut out: Held, compressed: &[u8]) -> Result<Held, Fault> {
        let mut decoder = MultiGzDecoder::new(compressed);
        loop {
            out.reserve(INFLATE_STEP_BYTES, self).await?;
            let start = out.bytes.len();
            out.bytes.resize(start + INFLATE_STEP_BYTES, 0);
            let read = decoder.read(&mut out.bytes[start..]).map_err(|_| Fault::Encoding)?;
            out.bytes.truncate(start + read);
            if read == 0 {
                return Ok(out);
            }
            if out.bytes.len() > self.bytes_max {
                return Err(Fault::TooLarge);
            }
            // Other connections share this thread.
            tokio::task::yield_now().await;
        }
    }
}

/// The parts of a body as they come.
struct Frames {
    body: Incoming,
    declared: u64,
    deadline: Instant,
    shutdown: watch::Receiver<bool>,
    total: u64,
}

impl Frames {
    /// The next bytes; none at the orderly end.
    async fn next(&mut self) -> Result<Option<hyper::body::Bytes>, Fault> {
        loop {
            let frame = tokio::select! {
                frame = self.body.frame() => frame,
                () = sleep_until(self.deadline) => return Err(Fault::Slow),
                () = stopping(&mut self.shutdown) => return Err(Fault::Stopping),
            };
            match frame {
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        self.total += data.len() as u64;
                        return Ok(Some(data));
                    }
                }
                Some(Err(_)) => return Err(Fault::Broken),
                // A connection that ends under a body may look like the end of the body.
                None if self.total < self.declared => return Err(Fault::Broken),
                None => return Ok(None),
            }
        }
    }
}

/// Ends when the agent stops and a body had a moment to come to its end.
async fn stopping(shutdown: &mut watch::Receiver<bool>) {
    told_to_stop(shutdown).await;
    sleep(STOP_DRAIN).await;
}

/// Ends when the agent stops.
pub(super) async fn told_to_stop(shutdown: &mut watch::Receiver<bool>) {
    // Without its sender there is no agent any more.
    let _ = shutdown.wait_for(|stop| *stop).await;
}

/// The least memory that is taken for a body at a time: most bodies fit.
const ROOM_BYTES_MIN: usize = 16 * 1024;

/// How much is decompressed at a time.
const INFLATE_STEP_BYTES: usize = 16 * 1024;

/// How long a body waits for memory before its sender is told to come again.
const MEMORY_WAIT: Duration = Duration::from_secs(2);
