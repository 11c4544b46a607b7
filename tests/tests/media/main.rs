//! Removable media: what officers do, and what sticks do to them.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#![allow(
    clippy::case_sensitive_file_extension_comparisons,
    reason = "the names are of our own making"
)]

mod crashes;
mod disk;
mod faults;
mod parts;
mod records;
mod site;
