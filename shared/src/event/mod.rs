//! The parsed view of a record: which stream it belongs to, and its syslog envelope.
//!
//! A view only: the evidence is the record's bytes, and nothing here ever refuses or changes them.

mod envelope;
mod rfc3164;
mod rfc5424;
mod stream;
mod timestamp;

pub use envelope::{Element, Envelope, Format, Parameter, Problem, envelope};
pub use stream::recognise;

#[cfg(test)]
mod samples;
