//! Removable media as they come: transfer records are verified and compared with what is there, parts
//! are collected until they make a bundle, and what is taken in may be wiped.
//!
//! ```text
//! medium ──scan──> records ──verify, compare──> missing, changed, extra
//!            ├───> bundles ─────────────────────────────────> import
//!            └───> parts ──> enough? ──rejoin──> staging ───> import
//!                              └─no─> STATE/parts, until the next medium comes
//! ```
//!
//! Invariant: nothing here decides about a bundle; all go through [`crate::import`]. Invariant: a name
//! in a record or a part is compared with names that are there, and never made a path.

mod parts;
mod records;
mod scan;
mod wipe;

pub use parts::{Collected, PartStore, PartsError, SetKey, Sets};
pub use records::{Checked, Signature, check, load_all};
pub use scan::{Found, scan};
pub use wipe::{Wiped, wipe};
