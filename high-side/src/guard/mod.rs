//! The export guard: what of a record may leave the high side.

pub mod redact;
