//! The low-side agent of Penstock.

#![deny(missing_docs)]
