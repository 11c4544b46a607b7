//! Every kind of sink, against real receivers or strict stand-ins that misbehave: nothing is lost, and
//! what is repeated carries the same id.

mod doctor;
mod elastic;
mod forward;
mod http;
#[cfg(feature = "kafka")]
mod kafka;
mod loki;
mod sentinel;
mod splunk;
mod syslog;
