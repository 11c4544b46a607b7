//! The bundle from outside: golden bundles, tampering, hostile bundles, and the stock tools.

#![allow(clippy::unwrap_used, reason = "a helper of a test that fails, fails the test")]

mod hostile;
mod keys;
mod site;
mod stock_tools;
mod tamper;
mod vectors;
