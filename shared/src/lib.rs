//! What both sides of Penstock agree on.
//!
//! `high-side -> shared <- low-side`: the two sides never see each other, and this crate knows no
//! async runtime, no database and no network.
//!
//! - [`record`]: a record, its identity and its one text encoding
//! - [`bundle`]: the sealed file that crosses the gap, specified in `FORMAT.md`
//! - [`keys`]: signing keys, recipients, identities, and who is trusted
//! - [`diode`]: the datagrams of a link without a return path, specified in `DIODE.md`
//! - [`event`]: the parsed view of a record
//! - [`stream`]: bundles as a stream of frames, or as syslog messages
//! - [`parts`]: a file in pieces or erasure-coded parts, specified in `PARTS.md`
//! - [`hook`]: a command of the operator's that is run for a file
//! - [`transfer`], [`device`]: records of what was put on a medium, and what the medium is
//! - [`receipt`]: what arrived on the low side, carried back by a person
//! - [`backup`]: a side's state in one file, and the one path that refuses such a file
//! - [`custody`]: the hash-linked log of who did what to which bundle
//! - [`durable`]: files that are complete and synced, or absent
//! - [`doctor`]: findings with remedies, and what the kernel tells about sockets and interfaces
//! - [`config`]: sizes, durations, and configuration files that report every problem at once
//! - [`json`], [`msgpack`]: JSON and `MessagePack` looked at where they stand
//! - [`bell`]: how threads wake each other, and tell each other to end
//! - [`reach`]: what an agent reaches, and how it is kept to that
//! - [`service`]: our own service, started by an operator's command
//! - `sqlite`: copies of databases, and their temporary files
//! - `manual`: manual pages from the definition of a command line
//! - [`clock`], [`exit`], [`process`], [`telemetry`]: time, exit codes, hardening and logs

#![deny(missing_docs)]

pub mod backup;
pub mod bell;
pub mod bundle;
pub mod clock;
pub mod config;
pub mod custody;
pub mod device;
pub mod diode;
pub mod doctor;
pub mod durable;
pub mod event;
pub mod exit;
pub mod hook;
mod journal;
pub mod json;
pub mod keys;
#[cfg(feature = "manual")]
pub mod manual;
pub mod msgpack;
pub mod parts;
pub mod process;
pub mod reach;
pub mod receipt;
pub mod record;
pub mod service;
#[cfg(feature = "sqlite")]
pub mod sqlite;
pub mod stream;
pub mod telemetry;
pub mod transfer;
