//! Removable media: bundles, or parts of them, get onto sticks and discs, proven by reading back, with
//! a signed record of who put what where.
//!
//! ```text
//! outbox ──select──> bundles ──whole or in parts──> NAME.partial ──sync──> read back ──> NAME
//!            ^ ready, --all, --missing FILE                                              │
//! STATE/media/set.json: a K+R set over several media       transfer record, signed <─────┘
//! ```
//!
//! Invariant: nothing half written stands under a final name. Invariant: a bundle counts as handed over
//! only after all its files were read back from the medium. A run that was interrupted leaves
//! `.partial` files, which the next one goes on with after comparing what is there.

mod copy;
mod export;
mod files;
mod request;
mod set;

pub use copy::MediumError;
pub use export::{Exported, Exporter, Options, Shares, Stick, share_out};
pub use files::Lot;
pub use request::{Request, RequestError, Unsendable};
pub use set::{OpenSet, SetError};
