//! The high-side agent of Penstock: listeners, the durable buffer, and the sealing of bundles.
//!
//! ```text
//! ingest ──> buffer (one writer) ──> sealer ──> outbox ──> export, hand-off folder
//!              policy says when ───────^
//! ```

#![deny(missing_docs)]

pub mod agent;
pub mod buffer;
pub mod cli;
pub mod cmd;
pub mod config;
pub mod guard;
pub mod ingest;
pub mod outbox;
pub mod policy;
pub mod sealer;
