//! Load: a generator whose messages are known beforehand, and a sink that counts them.

pub mod payload;
pub mod send;
pub mod sink;
mod wire;

pub use payload::{Framing, Pool};
pub use send::{OnBreak, Plan, Report, Segment, send, send_messages};
pub use sink::{CountingSink, Counts};
pub use wire::{Target, TlsFiles};
