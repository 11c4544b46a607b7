//! The high-side agent of Penstock: listeners, the durable buffer, and the sealing of bundles.
//!
//! ```text
//! ingest, tail ──> buffer (one writer) ──> sealer ──> outbox ──> carriers, export
//!              policy says when ───────^
//! ```

#![deny(missing_docs)]

pub mod agent;
pub mod buffer;
pub mod carrier;
pub mod cli;
pub mod cmd;
pub mod config;
pub mod doctor;
pub mod guard;
pub mod ingest;
pub mod media;
pub mod outbox;
pub mod policy;
mod reach;
pub mod reconcile;
pub mod release;
pub mod sealer;
pub mod tail;
