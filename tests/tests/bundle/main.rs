//! The bundle from outside: golden bundles, tampering, hostile bundles, and the stock tools.

mod hostile;
mod keys;
mod site;
mod stock_tools;
mod tamper;
mod vectors;
