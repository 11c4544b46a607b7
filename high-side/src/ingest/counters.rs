//! What a listener counts.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use serde::Serialize;

/// The counters of one listener, from its start.
#[derive(Debug, Default)]
pub struct IngestCounters {
    pub(super) messages: AtomicU64,
    pub(super) bytes: AtomicU64,
    pub(super) truncated: AtomicU64,
    pub(super) empty_frames: AtomicU64,
    pub(super) connections_open: AtomicU64,
    pub(super) connections_total: AtomicU64,
    pub(super) connections_refused: AtomicU64,
    pub(super) handshake_failures: AtomicU64,
    pub(super) idle_closes: AtomicU64,
    pub(super) slow_closes: AtomicU64,
    pub(super) protocol_errors: AtomicU64,
    pub(super) authentication_failures: AtomicU64,
    pub(super) datagrams_lost: AtomicU64,
    pub(super) receive_buffer_bytes: AtomicU64,
    pub(super) requests: AtomicU64,
    pub(super) requests_bad: AtomicU64,
    pub(super) requests_deferred: AtomicU64,
    pub(super) waiting: AtomicU64,
    pub(super) waited_nanos: AtomicU64,
}

/// The counters of one listener at one time.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct IngestSnapshot {
    /// Messages handed to the buffer.
    pub messages: u64,
    /// Their bytes, without framing.
    pub bytes: u64,
    /// How many of them are not whole: longer than the limit, or the peer left before their end.
    pub truncated: u64,
    /// Lines and datagrams without content; they are not stored.
    pub empty_frames: u64,
    /// Connections open now.
    pub connections_open: u64,
    /// Connections accepted.
    pub connections_total: u64,
    /// Connections closed at once, since too many were open.
    pub connections_refused: u64,
    /// TLS handshakes that failed or took too long.
    pub handshake_failures: u64,
    /// Connections closed since nothing came.
    pub idle_closes: u64,
    /// Connections closed since a message did not end.
    pub slow_closes: u64,
    /// Connections closed since the peer broke the rules of the protocol.
    pub protocol_errors: u64,
    /// Peers that could not prove who they are: a wrong key, name or password.
    pub authentication_failures: u64,
    /// Datagrams that the kernel dropped before they could be read: declared as lost.
    pub datagrams_lost: u64,
    /// The receive buffer that the kernel gave a UDP socket, in bytes.
    pub receive_buffer_bytes: u64,
    /// HTTP requests, answered in any way.
    pub requests: u64,
    /// Of these, those refused for good: what can't be taken, or is not HTTP. Look into the log.
    pub requests_bad: u64,
    /// Of these, those whose sender was told to come again, since the buffer or the memory was full.
    pub requests_deferred: u64,
    /// Connections that wait for the buffer now: while it is not 0 for long, the buffer is full.
    pub waiting: u64,
    /// Time spent waiting for the buffer, summed over connections, in seconds.
    pub waited_secs: f64,
}

impl IngestCounters {
    /// The counters now. Each is exact; together they may be a moment apart.
    pub fn snapshot(&self) -> IngestSnapshot {
        let of = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        IngestSnapshot {
            messages: of(&self.messages),
            bytes: of(&self.bytes),
            truncated: of(&self.truncated),
            empty_frames: of(&self.empty_frames),
            connections_open: of(&self.connections_open),
            connections_total: of(&self.connections_total),
            connections_refused: of(&self.connections_refused),
            handshake_failures: of(&self.handshake_failures),
            idle_closes: of(&self.idle_closes),
            slow_closes: of(&self.slow_closes),
            protocol_errors: of(&self.protocol_errors),
            authentication_failures: of(&self.authentication_failures),
            datagrams_lost: of(&self.datagrams_lost),
            receive_buffer_bytes: of(&self.receive_buffer_bytes),
            requests: of(&self.requests),
            requests_bad: of(&self.requests_bad),
            requests_deferred: of(&self.requests_deferred),
            waiting: of(&self.waiting),
            waited_secs: Duration::from_nanos(of(&self.waited_nanos)).as_secs_f64(),
        }
    }
}

pub(super) fn add(counter: &AtomicU64, count: u64) {
    counter.fetch_add(count, Ordering::Relaxed);
}

/// Counts lines without content, for what is no socket.
pub(crate) fn add_empty_frames(counters: &IngestCounters, count: u64) {
    add(&counters.empty_frames, count);
}

/// One more while this lives: an open connection, a waiting reader.
pub(super) struct Gauge<'a>(&'a AtomicU64);

impl<'a> Gauge<'a> {
    pub(super) fn up(gauge: &'a AtomicU64) -> Self {
        add(gauge, 1);
        Self(gauge)
    }
}

impl Drop for Gauge<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
