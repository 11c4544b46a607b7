//! What a buffer that was set aside still holds and no bundle does: read there, to be taken in again
//! by the buffer that follows it.

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

use rusqlite::Connection;
use shared::custody::CustodyFolder;
use shared::record::{self, Entry, Lane, Sequence};

use super::block::Unpacker;
use super::error::BufferError;
use super::intake::{Fate, Incoming, IncomingMessage};
use super::lane::LaneState;
use super::open::load_life;
use super::schema;
use super::store::{DamagedRange, Store};
use super::walk::{Route, walk};

/// How many records of a lane in a set-aside buffer no sealed bundle holds, damaged ones among them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unsealed {
    /// The lane.
    pub lane: Lane,
    /// The first sequence number that no bundle holds.
    pub first: Sequence,
    /// How many there are.
    pub records: u64,
}

impl Store {
    /// Opens a database that was set aside, without changing more of it than its version.
    ///
    /// # Errors
    /// It is broken so that it can't be read, or is none of ours.
    pub fn open_set_aside(dir: &Path) -> Result<Self, BufferError> {
        let path = dir.join(super::open::DATABASE);
        let conn: Connection = schema::connect(&path, false)?;
        // What is broken was set aside for it, and gives what can still be read.
        if let Err(newer @ BufferError::NewerSchema { .. }) =
            super::open::check_version(&conn, &path)
        {
            return Err(newer);
        }
        let life = load_life(&conn)?;
        Ok(Self { conn, life, custody: CustodyFolder::at(dir), custody_failing: None })
    }

    /// What no sealed bundle holds, lane by lane.
    pub fn unsealed(&self) -> Result<[Unsealed; Lane::ALL.len()], BufferError> {
        let mut unsealed = Lane::ALL.map(|lane| Unsealed { lane, first: Sequence(0), records: 0 });
        for found in &mut unsealed {
            let state = LaneState::load(&self.conn, found.lane)?;
            found.first = Sequence(state.sealed_through + 1);
            found.records = state.last_sequence() - state.sealed_through;
        }
        Ok(unsealed)
    }

    /// Reads what no sealed bundle holds of a lane and has a number above `after`, as the batches by
    /// which it would come in. `take` gets each with the last number that is in it. Gives the damaged
    /// ranges: what was in them is lost.
    pub fn read_unsealed<E: From<BufferError>>(
        &self,
        lane: Lane,
        after: u64,
        mut take: impl FnMut(Incoming, u64) -> Result<(), E>,
    ) -> Result<Vec<DamagedRange>, E> {
        let state = LaneState::load(&self.conn, lane)?;
        let route = Route {
            life: &self.life,
            lane,
            first: state.sealed_through + 1,
            chain_before: state.sealed_chain,
            last: state.last_sequence(),
            chain_head: state.chain_head,
        };
        let mut unpacker = Unpacker::new().map_err(BufferError::Thread)?;
        let walked = walk(&self.conn, &route, |block| {
            if block.end() <= after + 1 {
                return Ok(ControlFlow::Continue(()));
            }
            let plain = unpacker.unpack(block).ok_or_else(|| unreadable(block.first))?;
            for batch in batches(lane, plain, after)? {
                let last = batch.1;
                take(batch.0, last)?;
            }
            Ok::<_, E>(ControlFlow::Continue(()))
        })?;
        let damaged =
            |(first, last)| DamagedRange { lane, first: Sequence(first), last: Sequence(last) };
        Ok(walked.damaged.into_iter().filter(|(_, last)| *last > after).map(damaged).collect())
    }
}

fn unreadable(first: u64) -> BufferError {
    BufferError::Broken(format!("the block that begins with record {first} does not unpack"))
}

/// The records of a block as batches, each of what came from one source in a row.
fn batches(lane: Lane, mut plain: &[u8], after: u64) -> Result<Vec<(Incoming, u64)>, BufferError> {
    let mut batches: Vec<(Incoming, u64)> = Vec::new();
    while !plain.is_empty() {
        let broken = |_| BufferError::Broken("a record in a whole block can't be read".to_owned());
        let (entry, used) = record::parse_entry(plain, plain.len() as u64).map_err(broken)?;
        plain = &plain[used..];
        let (source, raw, sequence, message) = match entry {
            Entry::Record(record) => {
                let fate = match record.redacted {
                    Some(note) => Fate::Redacted(note.decode().into()),
                    None => Fate::Kept,
                };
                let message = IncomingMessage {
                    lane,
                    end: 0,
                    received: record.received,
                    stream: record.stream,
                    cut_from: record.cut_from,
                    fate,
                };
                (Some(record.source()), record.raw, record.sequence, message)
            }
            Entry::Suppressed(gone) => {
                let fate = Fate::Suppressed { rule: gone.rule.into(), bytes: gone.length };
                let message = IncomingMessage {
                    lane,
                    end: 0,
                    received: gone.received,
                    stream: gone.stream,
                    cut_from: None,
                    fate,
                };
                (None, &[][..], gone.sequence, message)
            }
        };
        if sequence.0 <= after {
            continue;
        }
        // What was suppressed has no source left, and goes with whatever it stands beside.
        let fits = batches.last().is_some_and(|(batch, _)| {
            source.as_ref().is_none_or(|source| *source == *batch.source)
        });
        if !fits {
            let source = source.unwrap_or_else(|| shared::record::SourceTag::new("", "", None));
            let batch = Incoming {
                source: Arc::new(source),
                data: Vec::new(),
                messages: Vec::new(),
                mark: None,
                sightings: Vec::new(),
                committed: None,
            };
            batches.push((batch, 0));
        }
        if let Some((batch, last)) = batches.last_mut() {
            batch.data.extend_from_slice(raw);
            batch.messages.push(IncomingMessage { end: batch.data.len(), ..message });
            *last = sequence.0;
        }
    }
    Ok(batches)
}
