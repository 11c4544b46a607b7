//! The memory that all connections share for reading.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// A budget for read buffers beyond the few KiB that each connection has of its own. A connection
/// that finds it used up reads in smaller pieces; one that needs it for a long message waits.
#[derive(Clone, Debug)]
pub struct ReadMemory {
    permits: Arc<Semaphore>,
    total: u32,
}

/// Memory taken from the budget; given back when dropped.
#[derive(Debug, Default)]
pub(super) struct ReadPermit(Option<OwnedSemaphorePermit>);

impl ReadMemory {
    /// A budget of so many bytes.
    pub fn new(bytes: u64) -> Self {
        let total = units(bytes).max(1);
        Self { permits: Arc::new(Semaphore::new(total as usize)), total }
    }

    /// Takes bytes if they are there at once.
    pub(super) fn try_take(&self, bytes: usize) -> Option<ReadPermit> {
        let permits = Arc::clone(&self.permits);
        let permit = permits.try_acquire_many_owned(self.clamped(bytes)).ok()?;
        Some(ReadPermit(Some(permit)))
    }

    /// Takes bytes as soon as others give them back. More than there is takes all there is.
    pub(super) async fn take(&self, bytes: usize) -> ReadPermit {
        let permits = Arc::clone(&self.permits);
        // The semaphore is never closed.
        ReadPermit(permits.acquire_many_owned(self.clamped(bytes)).await.ok())
    }

    fn clamped(&self, bytes: usize) -> u32 {
        units(bytes as u64).min(self.total)
    }
}

impl ReadPermit {
    pub(super) fn is_held(&self) -> bool {
        self.0.is_some()
    }

    /// Splits off so many bytes, or all of it if it has no more.
    pub(super) fn split(&mut self, bytes: usize) -> ReadPermit {
        let part = self.0.as_mut().and_then(|permit| permit.split(units(bytes as u64) as usize));
        ReadPermit(part.or_else(|| self.0.take()))
    }

    pub(super) fn merge(&mut self, other: ReadPermit) {
        match (&mut self.0, other.0) {
            (Some(ours), Some(more)) => ours.merge(more),
            (ours, more) => *ours = ours.take().or(more),
        }
    }
}

fn units(bytes: u64) -> u32 {
    u32::try_from(bytes.div_ceil(UNIT_BYTES)).unwrap_or(u32::MAX).min(UNITS_MAX)
}

const UNIT_BYTES: u64 = 1024;
/// 64 GiB: far beyond any machine here, and within what a semaphore counts.
const UNITS_MAX: u32 = 1 << 26;
