//! How the operator's command has the running agent reconcile: the agent alone writes to the buffer.
//!
//! An order is a file in the state folder, complete or absent; the answer is another one, written
//! anew as the run goes on. Both carry the order's number, so that an answer to an earlier order is
//! none. If the agent dies, so does the order: its next life begins by removing what lies there.

use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use shared::durable;

use crate::buffer::is_agent_running;

use super::report::Report;
use super::run::Wanted;

/// What the agent is told to do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Order {
    /// Its number.
    pub id: u64,
    /// How far to look back.
    pub since_secs: Option<u64>,
}

impl Order {
    pub(super) fn wanted(&self) -> Wanted {
        Wanted { since: self.since_secs.map(Duration::from_secs) }
    }
}

/// What the agent says of an order.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub struct Answer {
    /// The order's number.
    pub id: u64,
    /// Whether this is the last word.
    pub done: bool,
    /// How far each Portainer is, in the order of the configuration.
    pub reports: Vec<Report>,
}

/// Why the agent did not answer.
#[derive(Debug, thiserror::Error)]
pub enum OrderError {
    /// The order can't be written.
    #[error(
        "can't leave the order in {path}: {source}\n  try: run this as the agent's user or as root"
    )]
    Write {
        /// The file.
        path: std::path::PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// It runs, but takes no order.
    #[error(
        "the agent does not answer\n  try: restart it: it may run with an earlier configuration, without [[portainer-api]]"
    )]
    Silent,
    /// It stopped while it was at it.
    #[error(
        "the agent stopped before it had come to an end; what was recovered is kept\n  try: start it, and run this once more"
    )]
    Stopped,
}

/// Has the running agent reconcile and waits for its last word; `progress` is told what it says
/// meanwhile.
pub fn ask_agent(
    state_dir: &Path,
    order: &Order,
    mut progress: impl FnMut(&Answer),
) -> Result<Answer, OrderError> {
    let path = state_dir.join(ORDER_FILE);
    let text = serde_json::to_vec(order).unwrap_or_default();
    durable::write_volatile(&path, &text, 0o644)
        .map_err(|source| OrderError::Write { path: path.clone(), source })?;
    let mut last_word = Instant::now();
    let mut last = Answer::default();
    loop {
        if let Some(answer) = read::<Answer>(&state_dir.join(ANSWER_FILE))
            && answer.id == order.id
        {
            if answer.done {
                return Ok(answer);
            }
            if answer != last {
                progress(&answer);
                last = answer;
            }
            last_word = Instant::now();
        } else if last_word.elapsed() > SILENCE_MAX {
            // Nobody took it; nobody shall.
            let _ = std::fs::remove_file(&path);
            return Err(OrderError::Silent);
        }
        if !is_agent_running(state_dir) {
            let _ = std::fs::remove_file(&path);
            return Err(OrderError::Stopped);
        }
        std::thread::sleep(POLL_INTERVAL);
    }
}

/// Takes the order that lies in the state folder, if there is one.
pub(super) fn take_order(state_dir: &Path) -> Option<Order> {
    let path = state_dir.join(ORDER_FILE);
    if !path.exists() {
        return None;
    }
    let order = read(&path);
    // An order that can't be read must not lie there for ever.
    let _ = std::fs::remove_file(&path);
    order
}

/// Removes what an earlier life of the agent left behind.
pub(super) fn clean(state_dir: &Path) {
    for name in [ORDER_FILE, ANSWER_FILE] {
        let _ = std::fs::remove_file(state_dir.join(name));
    }
}

/// Says how far an order is. A failure is no reason to stop: who asked sees that nothing is said.
pub(super) fn answer(state_dir: &Path, answer: &Answer) {
    let text = serde_json::to_vec(answer).unwrap_or_default();
    if let Err(err) = durable::write_volatile(&state_dir.join(ANSWER_FILE), &text, 0o644) {
        tracing::debug!(%err, "the answer to an order can't be written");
    }
}

fn read<T: serde::de::DeserializeOwned>(path: &Path) -> Option<T> {
    let text = std::fs::read(path).ok()?;
    if text.len() > FILE_BYTES_MAX {
        return None;
    }
    serde_json::from_slice(&text).ok()
}

const ORDER_FILE: &str = "reconcile-order.json";
const ANSWER_FILE: &str = "reconcile-answer.json";

/// No order or answer is longer.
const FILE_BYTES_MAX: usize = 4 << 20;

/// How often the answer is looked at.
const POLL_INTERVAL: Duration = Duration::from_millis(100);

/// An agent that takes orders says something within this time; it looks several times a second, but may
/// be busy with a run of its own, which it ends first and says so.
const SILENCE_MAX: Duration = Duration::from_secs(15);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_order_is_taken_once_and_nonsense_goes_away() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(take_order(dir.path()), None);
        let order = Order { id: 7, since_secs: Some(60) };
        std::fs::write(dir.path().join(ORDER_FILE), serde_json::to_vec(&order).unwrap()).unwrap();
        assert_eq!(take_order(dir.path()), Some(order));
        assert_eq!(take_order(dir.path()), None);
        std::fs::write(dir.path().join(ORDER_FILE), "{").unwrap();
        assert_eq!(take_order(dir.path()), None);
        assert!(!dir.path().join(ORDER_FILE).exists());
    }
}
