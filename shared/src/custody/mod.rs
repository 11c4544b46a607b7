//! The custody log: who did what to which bundle. It is evidence, not diagnostics.
//!
//! ```text
//!  state change ─┐ one transaction          under a file lock
//!  entry ────────┴─> custody_due (a row) ──────────────────────> STATE/custody/NUMBER.log
//!                    custody_head                                 one line an entry, each with the
//!                                                                 SHA-256 of the one before;
//!                                                                 now and then a signed checkpoint
//! ```
//!
//! - An action and its entry can't come apart: the transaction that changes a bundle's state also
//!   makes the complete line, its number and its link, and keeps it as a row.
//! - The file follows the rows. Writing a line twice is found by its number, so a kill between the
//!   write and the deletion of the row neither loses nor doubles an entry.
//! - A file that can't be written stops nothing: the rows wait.
//! - The database keeps the number and hash of the last entry, so that a log cut off behind its last
//!   checkpoint is found, too.
//!
//! This module knows files and no database; each side keeps the two tables behind [`CustodyRows`].

mod checkpoint;
mod entry;
mod folder;
mod life;
mod settle;
mod text;
mod verify;
mod who;

#[cfg(test)]
mod tests;

pub use checkpoint::{Checkpoint, CheckpointPolicy, Identity};
pub use entry::{
    Action, CustodyBundle, CustodyEvent, CustodyFile, Entry, EntryProblem, Head, LINE_BYTES_MAX,
};
pub use folder::{CustodyFolder, CustodyLock, DIR_NAME, Place, Tail};
pub use life::{Life, Wanted, export, life_of};
pub use settle::{CustodyRows, DueLine, Plan, Surprise, plan, settle};
pub use text::{life_json, life_text, verdict_text};
pub use verify::{Finding, FindingKind, Known, Verdict, verify, verify_with};
pub use who::{act_as_agent, who};
