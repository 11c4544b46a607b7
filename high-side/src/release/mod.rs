//! Reviewed release: sealed bundles wait until officers have looked at a summary of them and signed.
//!
//! ```text
//! sealing ──> summary, encrypted to the officers ──> awaiting-release ──> n officers sign ──> ready
//!             (counted while the records stream by)                  └──> one refuses     ──> refused
//! ```
//!
//! Invariants: the plain summary is never on a disk; what waits stands where neither export nor
//! hand-off looks; nothing that runs on this side without an officer holds a key that releases, and
//! a low side that demands releases refuses what this side alone let go.

mod collect;
mod folder;
mod heavy;
mod publish;
mod summary;

pub use folder::{ReviewFolder, SUMMARY_SUFFIX};
pub use heavy::{Frequent, Top};
pub use publish::{ReleaseError, Released};
pub use summary::{
    Large, LossSum, Named, Privileged, PrivilegedEvent, Redacted, SUMMARY_BYTES_MAX, Sampled,
    SizeClass, StreamSum, Summary, SuppressedSum, ascii_json, shown,
};

pub(crate) use collect::Collector;
