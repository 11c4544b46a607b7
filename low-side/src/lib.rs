//! The low-side agent of Penstock.
//!
//! ```text
//! inbox ──> staging ──open()──> admit ──> store ──> replay ──> sinks, each with its own watermark
//!              │                  │ ledger                └──> ...
//!              └──> quarantine <──┘      └──> archive, before the sinks or beside them
//! ```
//!
//! Invariant: bundles are believed by [`shared::bundle::open`] alone, and delivered only as
//! [`ledger::AdmittedBundle`], which only the ledger makes. Invariant: nothing here depends on the
//! high side.

#![deny(missing_docs)]

pub mod account;
pub mod admit;
pub mod admitted_before;
pub mod agent;
pub mod archive;
pub mod cli;
pub mod cmd;
pub mod config;
pub mod doctor;
pub mod event;
pub mod folders;
pub mod http;
pub mod import;
pub mod inbox;
pub mod latency;
pub mod ledger;
pub mod mapping;
pub mod media;
pub mod metrics;
pub mod picture;
pub mod quarantine;
pub mod ranges;
mod reach;
pub mod receiver;
mod release;
pub mod replay;
pub mod report;
pub mod retention;
pub mod sink;
pub mod site;
pub mod staging;
pub mod status;
pub mod tls;
pub mod trouble;

#[cfg(test)]
mod testing;
