//! The evidence report of a period: what an auditor keeps.
//!
//! ```text
//! ledger (read only, one moment) ─┐
//! stored bundles: headers ────────┼─> gather ──> Report ──> JSON ──> SHA-256 ─┐
//! custody log: verified, tallied ─┘                └──────> HTML <────────────┘
//! ```
//!
//! Invariant: nothing here writes to the ledger, the store or the custody log. Invariant: whatever
//! comes from outside (names of streams, rules, files, officers) reaches the page by [`html::Html`]
//! alone, which escapes it. Lists are capped, and each says how much it leaves out.

pub mod archive;
pub mod chart;
pub mod custody;
pub mod frameworks;
pub mod gather;
pub mod html;
pub mod listed;
pub mod page;
pub mod stored;
#[cfg(test)]
mod tests;
mod words;

pub use archive::ArchiveProof;
pub use frameworks::Framework;
pub use gather::{Made, Report, ReportError, Sources, gather};
pub use listed::Listed;
