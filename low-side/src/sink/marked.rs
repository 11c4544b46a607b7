//! A record that says of itself that it is none, and that nothing happened.
//!
//! `penstock-low check` sends one to see whether records arrive; a sink sends one where it is in doubt
//! whether its receiver refuses records or everything ([`doubt`](super::doubt)).

use serde_json::json;
use shared::clock::{Clock, Nanos, SystemClock};
use shared::record::{
    Epoch, Lane, OriginId, RecordId, RecordRef, Sequence, SourceTag, Stream, encode, parse,
};

use super::{Item, SinkError};
use crate::ledger::ChainName;

/// The record.
#[derive(Debug)]
pub struct Marked {
    chain: ChainName,
    bytes: Vec<u8>,
    /// Its id.
    pub id: RecordId,
}

impl Marked {
    /// One of this stream, made now.
    pub(super) fn now(stream: Stream) -> Result<Self, SinkError> {
        Self::new(stream, SystemClock.now())
    }

    /// One of this stream, with the time at which it says that it was received.
    ///
    /// # Errors
    ///
    /// None but our own: that its own parts are not what they should be.
    pub fn new(stream: Stream, now: Nanos) -> Result<Self, SinkError> {
        let origin: OriginId = ORIGIN.parse().map_err(|err| odd(&err))?;
        // Each is a chain of its own: no two marked records have one id.
        let epoch = Epoch(u64::try_from(now.0 / 1_000).unwrap_or(0));
        let chain = ChainName { origin, epoch, lane: Lane::Routine };
        let id = RecordId::new(&chain.origin, chain.epoch, chain.lane, Sequence(1));
        let text = json!({
            "message": "this record was made to see whether records arrive; nothing happened",
            "record_id": id.to_string(),
        });
        let source = SourceTag::new(ORIGIN, "localhost", None);
        let mut bytes = Vec::new();
        let raw = text.to_string();
        encode(&mut bytes, Sequence(1), now, stream, &source, None, raw.as_bytes());
        Ok(Self { chain, bytes, id })
    }

    /// Hands it over as a sink takes records.
    pub fn with<T>(
        &self,
        take: impl FnOnce(Item<'_>) -> Result<T, SinkError>,
    ) -> Result<T, SinkError> {
        let (record, _): (RecordRef<'_>, _) =
            parse(&self.bytes, self.bytes.len() as u64).map_err(|err| odd(&err))?;
        take(Item { chain: &self.chain, bundle: 1, record: &record })
    }
}

fn odd(why: &dyn std::fmt::Display) -> SinkError {
    SinkError::Marked { why: why.to_string() }
}

/// The origin of marked records.
pub const ORIGIN: &str = "penstock-check";
