//! The whole way, with the senders and receivers that people have.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod backup;
mod backup_page;
mod codes;
mod disorder;
mod doctor;
mod files;
mod fluent;
mod guard;
mod hardening;
mod incoming;
mod lost;
mod outgoing;
mod pressure;
mod reconcile;
mod release;
mod relp;
mod samples;
mod units;
mod upgrade;
mod web;
