//! Fluentd, Fluent Bit and whatever else speaks the "Fluentd Forward Protocol Specification" v1.
//!
//! Records of one tag travel in chunks (`PackedForward`, or `CompressedPackedForward` with `gzip`), each
//! with an id that the receiver answers once it has the chunk (`require_ack_response` in its words). A
//! batch counts when every chunk of it was answered. There is no negative answer: a receiver that takes
//! a chunk badly says nothing or hangs up, and gets it again.
//!
//! After a break only what was not answered for goes again, with the ids it had: delivery is at least
//! once. Memory: one chunk for each tag, of which there are as many as streams, and for each record under
//! way its number.

mod handshake;

use std::collections::VecDeque;
use std::io::{self, Write as _};
use std::time::Instant;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use flate2::Compression;
use flate2::write::GzEncoder;
use shared::bell::Bell;
use shared::msgpack::{self, Head, head, push_text};

use super::answered::{Answered, Slot};
use super::config::ForwardConfig;
use super::transport::Connection;
use super::{Confirmed, Item, Sink, SinkError};
use crate::event::{self, View};
use crate::ledger::Ledger;

/// The Forward sink.
pub(super) struct ForwardSink {
    config: ForwardConfig,
    bell: Bell,
    connection: Option<Connection>,
    /// What was received and is not looked at yet.
    received: Vec<u8>,
    answered: Answered,
    /// Records handed over and not noted as answered, in their order.
    under_way: VecDeque<UnderWay>,
    /// Chunks that are being filled, one for each tag.
    filling: Vec<Chunk>,
    /// Chunks that wait for an answer of the receiver.
    awaited: Vec<(u64, String)>,
    /// The number of the last chunk.
    chunks: u64,
    entry: Vec<u8>,
    text: Vec<u8>,
}

/// One record.
struct UnderWay {
    slot: Slot,
    sequence: u64,
    /// The number of its chunk, until that is answered.
    chunk: Option<u64>,
}

/// Records of one tag.
struct Chunk {
    number: u64,
    /// The first 128 bits of its first record's id.
    id: String,
    tag: String,
    entries: Vec<u8>,
    count: u64,
}

impl ForwardSink {
    /// A sink that connects when it has something to say.
    pub(super) fn new(config: ForwardConfig, bell: Bell) -> Self {
        Self {
            config,
            bell,
            connection: None,
            received: Vec::new(),
            answered: Answered::default(),
            under_way: VecDeque::new(),
            filling: Vec::new(),
            awaited: Vec::new(),
            chunks: 0,
            entry: Vec::new(),
            text: Vec::new(),
        }
    }

    /// Sends a chunk, once there is room for one more under way.
    fn send(&mut self, chunk: &Chunk) -> Result<(), SinkError> {
        self.settle(CHUNKS_MAX - 1)?;
        let message = chunk.message(self.config.gzip)?;
        if let Some(connection) = &mut self.connection {
            connection.send(&message)?;
            connection.flush()?;
        }
        self.awaited.push((chunk.number, chunk.id.clone()));
        Ok(())
    }

    /// Takes answers until no more than so many are awaited.
    fn settle(&mut self, awaited_max: usize) -> Result<(), SinkError> {
        while self.awaited.len() > awaited_max {
            let Some(connection) = &mut self.connection else { break };
            connection.receive(&mut self.received, ACKNOWLEDGE)?;
            while let Some(length) =
                msgpack::end_of(&self.received).map_err(|err| self.odd(&err))?
            {
                let found = acknowledged(&self.received[..length])
                    .and_then(|id| self.awaited.iter().position(|(_, awaited)| awaited == id));
                let Some(at) = found else {
                    let asks = matches!(head(&self.received), Ok(Some((Head::Array(_), _))));
                    return Err(self.odd(if asks {
                        &"it asks for a shared key: set shared-key-file"
                    } else {
                        &"it answered what was not asked"
                    }));
                };
                self.received.drain(..length);
                let (number, _) = self.awaited.swap_remove(at);
                for one in self.under_way.iter_mut().filter(|one| one.chunk == Some(number)) {
                    one.chunk = None;
                }
                while let Some(one) = self.under_way.pop_front_if(|one| one.chunk.is_none()) {
                    self.answered.taken(one.slot, one.sequence);
                }
            }
            if self.received.len() > ANSWER_BYTES_MAX {
                return Err(self.odd(&"an answer is too long"));
            }
        }
        Ok(())
    }

    fn odd(&self, problem: &dyn std::fmt::Display) -> SinkError {
        odd(&self.config.endpoint.address, ACKNOWLEDGE, problem)
    }
}

impl Sink for ForwardSink {
    fn begin(&mut self, _ledger: &mut Ledger) -> Result<(), SinkError> {
        // It stood idle: the receiver may have ended the session.
        self.idle()?;
        if self.connection.is_none() {
            let mut connection = Connection::open(&self.config.endpoint, &self.bell)?;
            self.received.clear();
            if self.config.shared_key_file.is_some() {
                handshake::shake(&mut connection, &mut self.received, &self.config)?;
            }
            self.connection = Some(connection);
        }
        Ok(())
    }

    fn write(&mut self, item: Item<'_>) -> Result<u64, SinkError> {
        let sequence = item.record.sequence.0;
        let Some(slot) = self.answered.slot(item.chain, sequence, Instant::now()) else {
            return Ok(0);
        };
        let (entry, text, config) = (&mut self.entry, &mut self.text, &self.config);
        let (tag, id) = event::with_view(item.chain, item.record, |view| {
            push_entry(entry, text, view);
            (config.tag(view.record.stream), view.id.to_string())
        });
        let bytes = self.entry.len();
        let found = self.filling.iter().position(|chunk| chunk.tag == tag);
        let full = |chunk: &Chunk| chunk.entries.len() + bytes > self.config.chunk_bytes;
        let at = match found {
            Some(at) if !full(&self.filling[at]) => at,
            found => {
                if let Some(at) = found {
                    let chunk = self.filling.swap_remove(at);
                    self.send(&chunk)?;
                }
                self.chunks += 1;
                self.filling.push(Chunk {
                    number: self.chunks,
                    id: chunk_id(&id),
                    tag,
                    entries: Vec::new(),
                    count: 0,
                });
                self.filling.len() - 1
            }
        };
        let chunk = &mut self.filling[at];
        chunk.entries.extend_from_slice(&self.entry);
        chunk.count += 1;
        self.under_way.push_back(UnderWay { slot, sequence, chunk: Some(chunk.number) });
        Ok(bytes as u64)
    }

    fn confirm(&mut self) -> Result<Confirmed, SinkError> {
        for chunk in std::mem::take(&mut self.filling) {
            self.send(&chunk)?;
        }
        self.settle(0)?;
        Ok(Confirmed { position: None, rejected: self.answered.rejected() })
    }

    fn committed(&mut self, _ledger: &mut Ledger) -> Result<(), SinkError> {
        self.answered.committed();
        Ok(())
    }

    fn idle(&mut self) -> Result<(), SinkError> {
        if let Some(connection) = &mut self.connection {
            match connection.is_quiet() {
                Ok(true) => {}
                // Nothing is awaited: there is nothing that it could have to say.
                Ok(false) => self.connection = None,
                Err(error) => {
                    tracing::info!(%error, "an idle receiver closed the connection");
                    self.connection = None;
                }
            }
        }
        Ok(())
    }

    fn reset(&mut self, _error: &SinkError) {
        self.connection = None;
        self.under_way.clear();
        self.filling.clear();
        self.awaited.clear();
        self.answered.broke(Instant::now());
    }
}

impl Chunk {
    /// `[TAG, ENTRIES, {chunk, size, compressed}]`.
    fn message(&self, gzip: bool) -> Result<Vec<u8>, SinkError> {
        let packed;
        let entries = if gzip {
            let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
            // Into memory: there is nothing that could fail.
            let done = encoder.write_all(&self.entries).and_then(|()| encoder.finish());
            let memory = |source| SinkError::File { path: "memory".into(), source };
            packed = done.map_err(memory)?;
            &packed
        } else {
            &self.entries
        };
        let mut out = Vec::with_capacity(entries.len() + self.tag.len() + 128);
        msgpack::push_array_head(&mut out, 3);
        push_text(&mut out, &self.tag);
        msgpack::push_bin_head(&mut out, entries.len());
        out.extend_from_slice(entries);
        msgpack::push_map_head(&mut out, if gzip { 3 } else { 2 });
        push_text(&mut out, "chunk");
        push_text(&mut out, &self.id);
        push_text(&mut out, "size");
        msgpack::push_unsigned(&mut out, self.count);
        if gzip {
            push_text(&mut out, "compressed");
            push_text(&mut out, "gzip");
        }
        Ok(out)
    }
}

/// Writes one entry into `out`, which is emptied first: `[EVENT TIME, {the JSON event}]`.
fn push_entry(out: &mut Vec<u8>, text: &mut Vec<u8>, view: &View<'_>) {
    out.clear();
    msgpack::push_array_head(out, 2);
    // EventTime: an extension of type 0 with seconds and nanoseconds, of 32 bits each. What it can't
    // say (before 1970, after 2106) stands as the time of arrival.
    let seconds = |time: shared::clock::Nanos| u32::try_from(time.as_secs()).ok();
    let time = Some(view.time()).filter(|time| seconds(*time).is_some());
    let time = time.unwrap_or(view.record.received);
    out.extend([0xd7, 0]);
    out.extend(seconds(time).unwrap_or(0).to_be_bytes());
    let nanos = u32::try_from(time.0.rem_euclid(1_000_000_000)).unwrap_or(0);
    out.extend(nanos.to_be_bytes());
    text.clear();
    event::render_view(text, view);
    // Our own JSON can be read.
    let value: serde_json::Value = serde_json::from_slice(text).unwrap_or_default();
    msgpack::push_json(out, &value);
}

/// The id of a chunk: 128 bits in base64, as the specification has it.
fn chunk_id(record_id: &str) -> String {
    let byte = |at: usize| u8::from_str_radix(record_id.get(at..at + 2)?, 16).ok();
    let bytes: Vec<u8> = (0..32).step_by(2).filter_map(byte).collect();
    BASE64.encode(bytes)
}

/// The id in `{"ack": ID}`.
fn acknowledged(answer: &[u8]) -> Option<&str> {
    let (Head::Map(pairs), mut at) = head(answer).ok()?? else {
        return None;
    };
    let mut id = None;
    for _ in 0..pairs {
        let key = text(answer, &mut at)?;
        let begin = at;
        at += msgpack::end_of(&answer[at..]).ok()??;
        if key == "ack" {
            id = text(answer, &mut { begin });
        }
    }
    id
}

/// The text at a place, which moves behind it.
fn text<'a>(data: &'a [u8], at: &mut usize) -> Option<&'a str> {
    let (Head::Str(length) | Head::Bin(length), begin) = head(data.get(*at..)?).ok()?? else {
        return None;
    };
    let begin = *at + begin;
    *at = begin.checked_add(length as usize)?;
    std::str::from_utf8(data.get(begin..*at)?).ok()
}

/// A receiver that speaks something else.
fn odd(address: &str, doing: &'static str, problem: &dyn std::fmt::Display) -> SinkError {
    let source = io::Error::new(io::ErrorKind::InvalidData, problem.to_string());
    SinkError::Network { address: address.to_owned(), doing, source }
}

const ACKNOWLEDGE: &str = "acknowledge what was sent";
/// Chunks under way: one is stored there while the next ones travel.
const CHUNKS_MAX: usize = 4;
/// A map with one id, and room for more.
const ANSWER_BYTES_MAX: usize = 4096;

#[cfg(test)]
mod tests;
