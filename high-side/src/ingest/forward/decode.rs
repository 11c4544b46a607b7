//! The messages of the Forward protocol, out of the bytes of one connection. Pure; it reads nothing,
//! and holds no more than a window of one entry.
//!
//! ```text
//! [tag, time, map, option?]               Message
//! [tag, [[time, map], ...], option?]      Forward
//! [tag, bin of entries, option?]          PackedForward
//! [tag, bin of gzip of entries, option?]  CompressedPackedForward
//! nil                                     a heartbeat
//! ```
//!
//! Entries are given as soon as each is there, before it is known whether the rest of their message
//! is sound: a message need not fit in memory. If it is not, it is not acknowledged.

use std::ops::Range;

use super::entries::{Next, Shape, Splitter};
use super::inflate::{Inflate, MAGIC, is_gzip};
use shared::msgpack::{self, HEAD_BYTES_MAX, Head, Skipper, head};

/// What the bytes at hand are, as [`Decoder::step`] sees them.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Step<'a> {
    /// The end of a message, and what is to be acknowledged, if it asks for that.
    End { chunk: Option<String>, consumed: usize },
    /// An entry, or its head if it is not whole.
    Entry { bytes: &'a [u8], shape: Shape, whole: bool, consumed: usize },
    /// So many bytes are done with, and so many must fit the buffer then.
    More { consumed: usize, want: usize },
    /// So many bytes are done with; there may be more to be had from the others.
    On { consumed: usize },
    /// The tag of what follows.
    Tag { tag: String, consumed: usize },
}

/// How a client broke the rules of the protocol.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DecodeError {
    #[error("a compressed chunk is damaged: {0}")]
    Gzip(std::io::Error),
    #[error("a message is not of the form [tag, ...]")]
    Form,
    #[error("a message is no MessagePack: {0}")]
    Malformed(#[from] msgpack::Malformed),
    #[error("the options of a message are larger than {OPTION_BYTES_MAX} bytes, or no map")]
    Option,
    #[error("a message's compression is {0:?}; only gzip is known")]
    Compression(String),
    #[error("a tag is longer than {TAG_BYTES_MAX} bytes")]
    Tag,
    #[error("a chunk ends within an entry")]
    Torn,
    #[error("a chunk is larger than chunk-bytes-max ({0} bytes), as it came or inflated")]
    TooLarge(u64),
}

/// The decoder of one connection.
#[derive(Debug)]
pub(crate) struct Decoder {
    chunk_bytes_max: u64,
    window: usize,
    state: State,
    /// Elements of the message that are to come after the one at hand.
    left: u32,
    /// Bytes of the message so far, and of its payload inflated.
    bytes: u64,
    inflated_bytes: u64,
}

#[derive(Debug)]
enum State {
    /// Before a message.
    Start,
    Tag,
    /// Before the second element.
    Body,
    /// In a list of so many more entries, or before the only one of a message.
    Entries {
        left: u32,
        splitter: Splitter,
    },
    /// In a payload of so many more bytes.
    Packed {
        left: u64,
        splitter: Splitter,
        gzip: Gzip,
    },
    /// Before the options, if there are any.
    Option,
}

#[derive(Debug)]
enum Gzip {
    /// The payload's first bytes tell.
    Unknown,
    No,
    Yes(Box<Inflating>),
}

#[derive(Debug, Default)]
struct Inflating {
    inflate: Inflate,
    /// What was inflated and, from `at`, not given yet.
    out: Vec<u8>,
    at: usize,
    finished: bool,
}

/// What comes next in a payload.
enum Piece {
    /// The next so many bytes are an entry, or the head of one.
    Entry {
        length: usize,
        whole: bool,
    },
    /// An entry is here in what was inflated.
    Inflated {
        range: Range<usize>,
        whole: bool,
    },
    More {
        want: usize,
    },
    On {
        consumed: usize,
    },
    Over,
}

impl Inflating {
    /// The next piece, and how much was inflated for it. `left` is what is left of the payload.
    fn next(
        &mut self,
        splitter: &mut Splitter,
        here: &[u8],
        left: u64,
    ) -> Result<(Piece, u64), DecodeError> {
        let from = self.at;
        match splitter.next(&self.out[from..])? {
            Next::Entry { length, whole } => {
                self.at += length;
                return Ok((Piece::Inflated { range: from..self.at, whole }, 0));
            }
            Next::Rest { length } => {
                self.at += length;
                return Ok((Piece::On { consumed: 0 }, 0));
            }
            Next::More { .. } => {}
        }
        self.out.drain(..from);
        self.at = 0;
        let before = self.out.len();
        let piece = if left > 0 && here.is_empty() {
            Piece::More { want: 1 }
        } else if left > 0 {
            let pushed = self.inflate.push(here, &mut self.out);
            Piece::On { consumed: pushed.map_err(DecodeError::Gzip)? }
        } else if !self.finished {
            self.finished = true;
            self.inflate.finish(&mut self.out).map_err(DecodeError::Gzip)?;
            Piece::On { consumed: 0 }
        } else {
            Piece::Over
        };
        Ok((piece, (self.out.len() - before) as u64))
    }
}

impl Decoder {
    /// For a connection at its first byte: chunks up to `chunk_bytes_max`, records of up to
    /// `message_bytes_max`.
    pub(crate) fn new(chunk_bytes_max: u64, message_bytes_max: usize) -> Self {
        let window = window(message_bytes_max);
        Self { chunk_bytes_max, window, state: State::Start, left: 0, bytes: 0, inflated_bytes: 0 }
    }

    /// Whether a message has begun and not ended.
    pub(crate) fn is_within(&self) -> bool {
        !matches!(self.state, State::Start)
    }

    /// Whether it holds inflated bytes: memory of its own.
    pub(crate) fn is_inflating(&self) -> bool {
        matches!(self.state, State::Packed { gzip: Gzip::Yes(_), .. })
    }

    /// The most memory that inflating takes.
    pub(crate) fn inflating_bytes_max(&self) -> usize {
        2 * self.window + INFLATED_AT_ONCE_BYTES
    }

    /// Looks at `data`, which begins at the first byte not yet consumed.
    pub(crate) fn step<'a>(&'a mut self, data: &'a [u8]) -> Result<Step<'a>, DecodeError> {
        let max = self.chunk_bytes_max;
        if self.bytes > max || self.inflated_bytes > max {
            return Err(DecodeError::TooLarge(max));
        }
        match self.state {
            State::Start => self.start(data),
            State::Tag => self.tag(data),
            State::Body => self.body(data),
            State::Option => self.option(data),
            State::Entries { .. } => self.entry(data),
            State::Packed { .. } => self.packed(data),
        }
    }

    fn start<'a>(&mut self, data: &[u8]) -> Result<Step<'a>, DecodeError> {
        let Some((head, consumed)) = head(data)? else {
            return Ok(MORE_HEAD);
        };
        match head {
            // For the health of the connection.
            Head::Nil => {}
            Head::Array(elements @ 2..=4) => {
                self.left = elements - 1;
                self.bytes = consumed as u64;
                self.inflated_bytes = 0;
                self.state = State::Tag;
            }
            _ => return Err(DecodeError::Form),
        }
        Ok(Step::On { consumed })
    }

    fn tag<'a>(&mut self, data: &[u8]) -> Result<Step<'a>, DecodeError> {
        let Some((head, at)) = head(data)? else {
            return Ok(MORE_HEAD);
        };
        let (Head::Str(length) | Head::Bin(length)) = head else {
            return Err(DecodeError::Form);
        };
        if length as usize > TAG_BYTES_MAX {
            return Err(DecodeError::Tag);
        }
        let end = at + length as usize;
        let Some(tag) = data.get(at..end) else {
            return Ok(Step::More { consumed: 0, want: end });
        };
        let tag = String::from_utf8_lossy(tag).into_owned();
        self.state = State::Body;
        self.bytes += end as u64;
        Ok(Step::Tag { tag, consumed: end })
    }

    fn body<'a>(&mut self, data: &[u8]) -> Result<Step<'a>, DecodeError> {
        let Some((head, at)) = head(data)? else {
            return Ok(MORE_HEAD);
        };
        let splitter = |shape| Splitter::new(shape, self.window);
        let mut consumed = at;
        self.state = match head {
            Head::Array(entries) if self.left <= 2 => {
                State::Entries { left: entries, splitter: splitter(Shape::Entry) }
            }
            Head::Bin(left) | Head::Str(left) if self.left <= 2 => {
                let left = u64::from(left);
                if self.bytes + left > self.chunk_bytes_max {
                    return Err(DecodeError::TooLarge(self.chunk_bytes_max));
                }
                State::Packed { left, splitter: splitter(Shape::Entry), gzip: Gzip::Unknown }
            }
            Head::Array(_) | Head::Bin(_) | Head::Str(_) | Head::Map(_) => {
                return Err(DecodeError::Form);
            }
            // A time; it is part of the entry.
            _ if self.left >= 2 => {
                self.left -= 1;
                consumed = 0;
                State::Entries { left: 1, splitter: splitter(Shape::Pair) }
            }
            _ => return Err(DecodeError::Form),
        };
        self.left -= 1;
        self.bytes += consumed as u64;
        Ok(Step::On { consumed })
    }

    /// An entry of a list, or the only one.
    fn entry<'a>(&mut self, data: &'a [u8]) -> Result<Step<'a>, DecodeError> {
        let State::Entries { left, splitter } = &mut self.state else {
            return Err(DecodeError::Form);
        };
        let shape = splitter.shape();
        if *left == 0 {
            self.state = State::Option;
            return Ok(Step::On { consumed: 0 });
        }
        let next = splitter.next(data)?;
        let ended = !splitter.is_within();
        let over = match next {
            Next::Entry { .. } | Next::Rest { .. } if ended => {
                *left -= 1;
                *left == 0
            }
            _ => false,
        };
        if over {
            self.state = State::Option;
        }
        Ok(match next {
            Next::Entry { length, whole } => {
                self.bytes += length as u64;
                Step::Entry { bytes: &data[..length], shape, whole, consumed: length }
            }
            Next::Rest { length } => {
                self.bytes += length as u64;
                Step::On { consumed: length }
            }
            Next::More { want } => Step::More { consumed: 0, want },
        })
    }

    fn packed<'a>(&'a mut self, data: &'a [u8]) -> Result<Step<'a>, DecodeError> {
        Ok(match self.payload(data)? {
            Piece::Entry { length, whole } => {
                Step::Entry { bytes: &data[..length], shape: Shape::Entry, whole, consumed: length }
            }
            Piece::Inflated { range, whole } => {
                let State::Packed { gzip: Gzip::Yes(inflating), .. } = &self.state else {
                    return Err(DecodeError::Form);
                };
                let bytes = &inflating.out[range];
                Step::Entry { bytes, shape: Shape::Entry, whole, consumed: 0 }
            }
            Piece::More { want } => Step::More { consumed: 0, want },
            Piece::On { consumed } => Step::On { consumed },
            Piece::Over => {
                self.state = State::Option;
                Step::On { consumed: 0 }
            }
        })
    }

    fn payload(&mut self, data: &[u8]) -> Result<Piece, DecodeError> {
        let State::Packed { left, splitter, gzip } = &mut self.state else {
            return Err(DecodeError::Form);
        };
        let here = &data[..data.len().min(usize::try_from(*left).unwrap_or(usize::MAX))];
        let (piece, inflated) = match gzip {
            Gzip::Unknown => {
                if here.len() < MAGIC.len() && (here.len() as u64) < *left {
                    return Ok(Piece::More { want: MAGIC.len() });
                }
                *gzip = if is_gzip(here) { Gzip::Yes(Box::default()) } else { Gzip::No };
                (Piece::On { consumed: 0 }, 0)
            }
            Gzip::No if *left == 0 => (Piece::Over, 0),
            Gzip::No => {
                let piece = match splitter.next(here)? {
                    Next::Entry { length, whole } => Piece::Entry { length, whole },
                    Next::Rest { length } => Piece::On { consumed: length },
                    Next::More { .. } if here.len() as u64 == *left => {
                        return Err(DecodeError::Torn);
                    }
                    Next::More { want } => Piece::More { want },
                };
                (piece, 0)
            }
            Gzip::Yes(inflating) => inflating.next(splitter, here, *left)?,
        };
        let (Piece::Entry { length: consumed, .. } | Piece::On { consumed }) = piece else {
            if matches!(piece, Piece::Over) && splitter.is_within() {
                return Err(DecodeError::Torn);
            }
            self.inflated_bytes += inflated;
            return Ok(piece);
        };
        *left -= consumed as u64;
        self.bytes += consumed as u64;
        self.inflated_bytes += inflated;
        Ok(piece)
    }

    fn option<'a>(&mut self, data: &[u8]) -> Result<Step<'a>, DecodeError> {
        if self.left == 0 {
            self.state = State::Start;
            return Ok(Step::End { chunk: None, consumed: 0 });
        }
        if self.left > 1 {
            return Err(DecodeError::Form);
        }
        let mut skipper = Skipper::new(1);
        let end = skipper.skip(data)?;
        if !skipper.is_done() {
            let want = (data.len() + 1).max(HEAD_BYTES_MAX);
            if want > OPTION_BYTES_MAX {
                return Err(DecodeError::Option);
            }
            return Ok(Step::More { consumed: 0, want: OPTION_BYTES_MAX });
        }
        let chunk = options(&data[..end])?;
        self.state = State::Start;
        Ok(Step::End { chunk, consumed: end })
    }
}

/// What is to be acknowledged, out of the options of a message.
fn options(data: &[u8]) -> Result<Option<String>, DecodeError> {
    let mut chunk = None;
    let (members, mut at) = match head(data)? {
        Some((Head::Map(members), at)) => (members, at),
        Some((Head::Nil, _)) => return Ok(None),
        _ => return Err(DecodeError::Option),
    };
    let mut value = || -> Result<&[u8], DecodeError> {
        let mut skipper = Skipper::new(1);
        let from = at;
        at += skipper.skip(&data[from..])?;
        Ok(&data[from..at])
    };
    for _ in 0..members {
        let (key, value) = (text(value()?), text(value()?));
        match (key, value) {
            (Some("chunk"), Some(id)) => chunk = Some(id.to_owned()),
            (Some("compressed"), Some(name)) if name != "gzip" && name != "text" => {
                return Err(DecodeError::Compression(name.to_owned()));
            }
            // `size` is a hint, `fluent_signal` says what kind of entries these are: all are kept.
            _ => {}
        }
    }
    Ok(chunk)
}

/// A value that is a text.
fn text(value: &[u8]) -> Option<&str> {
    match head(value).ok()?? {
        (Head::Str(length) | Head::Bin(length), at) => {
            std::str::from_utf8(value.get(at..at + length as usize)?).ok()
        }
        _ => None,
    }
}

/// How much of an entry is looked at: as JSON it is hardly ever shorter.
fn window(message_bytes_max: usize) -> usize {
    message_bytes_max + ENTRY_OVERHEAD_BYTES
}

const MORE_HEAD: Step<'static> = Step::More { consumed: 0, want: HEAD_BYTES_MAX };

/// Time, metadata and heads around the map of an entry.
const ENTRY_OVERHEAD_BYTES: usize = 1024;

/// Tags are names of files or containers; records keep 256 bytes of them.
const TAG_BYTES_MAX: usize = 1024;

/// Five known options, and those that `add_option` of Fluent Bit can add.
const OPTION_BYTES_MAX: usize = 4096;

/// What one piece of input can inflate to, and what the library holds.
const INFLATED_AT_ONCE_BYTES: usize = 640 * 1024;
