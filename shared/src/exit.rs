//! The exit codes of both programs, in one table (after `sysexits.h`).

/// Done.
pub const DONE: u8 = 0;
/// Failed for a reason that the message gives.
pub const FAILED: u8 = 1;
/// The doctor found something that works, with less reserve than it could have, and nothing worse.
pub const WARNED: u8 = 2;
/// The command line was wrong.
pub const USAGE: u8 = 64;
/// A bundle was refused.
pub const REFUSED: u8 = 65;
/// Reading or writing failed.
pub const IO: u8 = 74;
/// The configuration or a key was wrong.
pub const CONFIG: u8 = 78;
