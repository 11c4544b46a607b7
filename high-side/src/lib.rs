//! The high-side agent of Penstock: listeners, the durable buffer, and the sealing of bundles.

#![deny(missing_docs)]

pub mod buffer;
pub mod ingest;
