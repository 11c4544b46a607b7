//! Kafka: each batch is one transaction, and readers of what is committed see each record once.
//!
//! ```text
//! begin ──> write ... ──> confirm ─────────────────────────────> committed
//!   │         │ produce     │ control record, flush, commit          the ledger has noted the batch's number
//!   └ after a start or a failure: fence off the predecessor, read what it committed (control.rs)
//! ```
//!
//! One producer at a time: `transactional.id` is the sink's for ever, and the cluster refuses whoever had
//! it before. Its unfinished transaction is aborted, one whose commit had begun is committed; only then is
//! the last control record read. So whatever happened to a commit that was not answered is known before the
//! first record is sent again, and what the cluster has is left out.
//!
//! | answer | what follows |
//! |---|---|
//! | the record is longer than `record-bytes-max` | it goes to the dead letters, nothing is sent |
//! | `MSG_SIZE_TOO_LARGE`, `INVALID_RECORD`, `INVALID_TIMESTAMP`, of a request with one record | it goes to the dead letters |
//! | the same, of a request with several records | the transaction is aborted, and the batch sent again with each record alone |
//! | no broker, no answer, no such topic, no permission, fenced, and all others | nothing is wrong with the records: the batch is sent again |
//!
//! Sources: the codes are Kafka's (<https://kafka.apache.org/protocol.html#protocol_error_codes>); what a
//! failed record does to its transaction is the client library's (INTRODUCTION.md of librdkafka,
//! "Transactional producer").

#[cfg(feature = "kafka")]
mod client;
pub mod config;
#[cfg(feature = "kafka")]
mod control;
#[cfg(feature = "kafka")]
mod probe;
#[cfg(feature = "kafka")]
mod setup;
#[cfg(feature = "kafka")]
mod sink;

#[cfg(feature = "kafka")]
pub(super) use probe::probe;
#[cfg(feature = "kafka")]
pub(super) use setup::{check, for_check, setup};
#[cfg(feature = "kafka")]
pub(super) use sink::KafkaSink;
