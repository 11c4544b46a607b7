//! The durable queue of records not yet sealed.
