//! What a listener remembers of requests that it refused.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use sha2::{Digest, Sha256};
use tokio::time::Instant;

/// Bodies that were refused and kept all the same, and when that was last told.
#[derive(Debug, Default)]
pub(in super::super) struct Refusals(Mutex<Remembered>);

#[derive(Debug, Default)]
struct Remembered {
    kept: VecDeque<[u8; 32]>,
    told: Option<Instant>,
    untold: u64,
}

impl Refusals {
    /// Whether this body is to be kept: an API server sends the same one five times.
    pub(super) fn is_new(&self, body: &[u8]) -> bool {
        let digest = digest(body);
        let remembered = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        !remembered.kept.contains(&digest)
    }

    /// Remembers a body that is durable now.
    pub(super) fn kept(&self, body: &[u8]) {
        let digest = digest(body);
        let mut remembered = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if remembered.kept.len() >= KEPT_MAX {
            remembered.kept.pop_front();
        }
        remembered.kept.push_back(digest);
    }

    /// How many refusals there are to tell of, this one with them: none while one was just told.
    pub(super) fn to_tell(&self) -> Option<u64> {
        let mut remembered = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        remembered.untold += 1;
        if remembered.told.is_some_and(|told| told.elapsed() < TELL_INTERVAL) {
            return None;
        }
        remembered.told = Some(Instant::now());
        Some(std::mem::take(&mut remembered.untold))
    }
}

fn digest(body: &[u8]) -> [u8; 32] {
    Sha256::digest(body).into()
}

/// How many bodies are remembered: those of a few senders that try again at the same time.
const KEPT_MAX: usize = 64;

/// A sender that sends nothing good must not fill the log.
const TELL_INTERVAL: Duration = Duration::from_mins(1);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_is_kept_once_and_a_log_line_speaks_for_many() {
        let refusals = Refusals::default();
        assert!(refusals.is_new(b"a"));
        refusals.kept(b"a");
        assert!(!refusals.is_new(b"a") && refusals.is_new(b"b"));
        (0..KEPT_MAX).for_each(|at| refusals.kept(at.to_string().as_bytes()));
        assert!(refusals.is_new(b"a"));
        assert_eq!(refusals.to_tell(), Some(1));
        assert_eq!((0..5).filter_map(|_| refusals.to_tell()).count(), 0);
    }
}
