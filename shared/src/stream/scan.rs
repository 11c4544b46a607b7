//! The reading half: from bytes that anybody may have sent to pieces that the link's key speaks for.
//!
//! Bytes that are no frame are passed over to the next one, wherever the stream was cut, damaged or
//! left out. The work is linear in what comes, save that a header that was seen before can be sent
//! again with another body: a connection on which that happens [`BODY_FAULTS_MAX`] times is given up.

use std::ops::Range;

use memchr::memmem::Finder;

use super::syslog::{Text, TextScanner};
use super::{
    CODE_BYTES, CODED_BYTES, FRAME_BYTES_MAX, HEADER_BYTES, KIND_HELLO, KIND_PIECE, MAGIC,
    PIECE_BYTES_MAX, PieceOf, StreamKey,
};
use crate::bundle::{BundleDigest, BundleName, NAME_BYTES_MAX};

/// What stands next in a stream.
#[derive(Debug, PartialEq, Eq)]
pub enum Found<'a> {
    /// The other end speaks, with our key.
    Hello,
    /// Nothing whole is left: more bytes are needed.
    More,
    /// A piece of a bundle.
    Piece(Piece<'a>),
    /// Something that is not taken. What follows is looked at all the same, unless it is
    /// [`Refused::Hopeless`].
    Refused(Refused),
}

/// Bytes of a bundle that the link's key speaks for.
#[derive(Debug, PartialEq, Eq)]
pub struct Piece<'a> {
    /// What they belong to.
    pub of: PieceOf,
    /// The bytes.
    pub bytes: &'a [u8],
}

/// Why something in a stream is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Refused {
    /// A frame whose body is not what was sent, or was cut off.
    Body,
    /// A header that the key does not speak for.
    Header,
    /// Too many damaged frames in one connection.
    Hopeless,
    /// A frame that a sender of ours does not write.
    Malformed,
    /// So many bytes that belong to no frame.
    Noise(usize),
    /// A frame of another link: the keys differ.
    OtherLink,
    /// A syslog message that was cut short or altered.
    Text,
}

impl Refused {
    /// The stable code.
    pub fn code(self) -> &'static str {
        match self {
            Self::Body => "frame-damaged",
            Self::Header => "header-not-authentic",
            Self::Hopeless => "connection-hopeless",
            Self::Malformed => "frame-malformed",
            Self::Noise(_) => "no-frame",
            Self::OtherLink => "other-link-key",
            Self::Text => "message-cut",
        }
    }
}

/// Reads the frames of one connection.
#[derive(Debug)]
pub struct Decoder {
    key: StreamKey,
    magic: Finder<'static>,
    /// Bytes that came and are not done with: at most a frame and what was pushed last.
    buffer: Vec<u8>,
    start: usize,
    /// Syslog messages around the frames, where there are any.
    text: Option<TextScanner>,
    body_faults: u32,
    ended: bool,
}

impl Decoder {
    /// Frames as they are.
    pub fn frames(key: StreamKey) -> Self {
        Self {
            key,
            magic: Finder::new(&MAGIC),
            buffer: Vec::new(),
            start: 0,
            text: None,
            body_faults: 0,
            ended: false,
        }
    }

    /// Frames in syslog messages, however these are framed.
    pub fn syslog(key: StreamKey) -> Self {
        Self { text: Some(TextScanner::default()), ..Self::frames(key) }
    }

    /// Takes bytes as they came. The caller pushes a bounded number and then asks [`Self::next`]
    /// until nothing is left.
    pub fn push(&mut self, bytes: &[u8]) {
        if let Some(text) = &mut self.text {
            text.push(bytes);
        } else {
            self.buffer.drain(..self.start);
            self.start = 0;
            self.buffer.extend_from_slice(bytes);
        }
    }

    /// What stands next.
    #[expect(clippy::should_implement_trait, reason = "what it gives borrows from it")]
    pub fn next(&mut self) -> Found<'_> {
        if let Some(text) = &mut self.text {
            match text.step(&mut self.buffer) {
                Text::More => return Found::More,
                Text::Cut => return Found::Refused(Refused::Text),
                Text::Noise(bytes) => return Found::Refused(Refused::Noise(bytes)),
                Text::Frame => {}
            }
            return match look(&self.key, &self.buffer) {
                Look::Frame(frame) if frame.end == self.buffer.len() => {
                    give(&self.buffer, 0, frame)
                }
                Look::Refused(refused) => self.refuse(refused),
                Look::Frame(_) | Look::More => Found::Refused(Refused::Malformed),
            };
        }
        let rest = &self.buffer[self.start..];
        let at = self.magic.find(rest);
        let noise = match at {
            Some(at) => at,
            // The first bytes of a magic may stand at the end.
            None => rest.len().saturating_sub(MAGIC.len() - 1),
        };
        if noise > 0 {
            self.start += noise;
            return Found::Refused(Refused::Noise(noise));
        }
        if at.is_none() {
            return Found::More;
        }
        match look(&self.key, rest) {
            Look::More if self.ended => {
                self.start += MAGIC.len();
                self.refuse(Refused::Body)
            }
            Look::More => Found::More,
            Look::Frame(frame) => {
                let at = self.start;
                self.start += frame.end;
                give(&self.buffer, at, frame)
            }
            Look::Refused(refused) => {
                // The next frame may begin anywhere inside of this one.
                self.start += MAGIC.len();
                self.refuse(refused)
            }
        }
    }

    /// No more bytes come: what waits for the rest of its frame is looked through for others.
    pub fn finish(&mut self) {
        self.ended = true;
    }

    /// How many bytes wait for the rest of their frame; they are lost when no more come.
    pub fn unfinished(&self) -> usize {
        match &self.text {
            Some(text) => text.unfinished(),
            None => self.buffer.len() - self.start,
        }
    }

    fn refuse(&mut self, refused: Refused) -> Found<'_> {
        if refused == Refused::Body {
            self.body_faults += 1;
            if self.body_faults > BODY_FAULTS_MAX {
                return Found::Refused(Refused::Hopeless);
            }
        }
        Found::Refused(refused)
    }
}

/// Reads syslog messages that come as datagrams: each is whole, or cut.
#[derive(Debug)]
pub struct Datagrams(Decoder);

impl Datagrams {
    /// Frames in datagrams.
    pub fn new(key: StreamKey) -> Self {
        Self(Decoder::syslog(key))
    }

    /// What stands in a datagram.
    pub fn read(&mut self, datagram: &[u8]) -> Found<'_> {
        self.0.text = Some(TextScanner::default());
        // Nobody holds a connection open here, so there is none to give up.
        self.0.body_faults = 0;
        self.0.push(datagram);
        self.0.push(b"\n");
        match self.0.next() {
            Found::More => Found::Refused(Refused::Text),
            found => found,
        }
    }
}

enum Look {
    Frame(Frame),
    More,
    Refused(Refused),
}

struct Frame {
    of: Option<PieceOf>,
    bytes: Range<usize>,
    end: usize,
}

/// Looks at bytes that begin with a magic.
fn look(key: &StreamKey, bytes: &[u8]) -> Look {
    let Some((header, rest)) = bytes.split_at_checked(HEADER_BYTES) else { return Look::More };
    if &header[8..16] != key.link() {
        return Look::Refused(Refused::OtherLink);
    }
    let (coded, code) = header.split_at(CODED_BYTES);
    if header[..8] != MAGIC || !key.holds([coded, &[]], code) {
        return Look::Refused(Refused::Header);
    }
    // From here on the key has spoken for the header.
    let number = |at: usize| {
        let mut bytes = [0; 8];
        bytes.copy_from_slice(&header[at..at + 8]);
        u64::from_le_bytes(bytes)
    };
    let body_bytes = (number(16) >> 32) as usize;
    let name_bytes = usize::from(header[17]);
    let coding = name_bytes + CODE_BYTES;
    let (total, offset) = (number(24), number(32));
    if header[18..20] != [0, 0] || name_bytes > NAME_BYTES_MAX {
        return Look::Refused(Refused::Malformed);
    }
    let length = match body_bytes.checked_sub(coding) {
        Some(length) if length <= PIECE_BYTES_MAX => length,
        _ => return Look::Refused(Refused::Malformed),
    };
    let sound = match header[16] {
        KIND_HELLO => length == 0 && name_bytes == 0,
        KIND_PIECE => {
            length > 0 && offset.checked_add(length as u64).is_some_and(|end| end <= total)
        }
        _ => false,
    };
    if !sound {
        return Look::Refused(Refused::Malformed);
    }
    let Some(body) = rest.get(..body_bytes) else { return Look::More };
    let (body, code) = body.split_at(body_bytes - CODE_BYTES);
    if !key.holds([header, body], code) {
        return Look::Refused(Refused::Body);
    }
    let start = HEADER_BYTES + name_bytes;
    let (bytes, end) = (start..start + length, HEADER_BYTES + body_bytes);
    if header[16] == KIND_HELLO {
        return Look::Frame(Frame { of: None, bytes, end });
    }
    let name = std::str::from_utf8(&body[..name_bytes]).ok();
    let Some(name) = name.and_then(|name| name.parse::<BundleName>().ok()) else {
        return Look::Refused(Refused::Malformed);
    };
    let mut bundle = [0; 32];
    bundle.copy_from_slice(&header[40..72]);
    let of = PieceOf { bundle: BundleDigest::from_bytes(bundle), name, total, offset };
    Look::Frame(Frame { of: Some(of), bytes, end })
}

fn give(buffer: &[u8], at: usize, frame: Frame) -> Found<'_> {
    match frame.of {
        None => Found::Hello,
        Some(of) => {
            let bytes = &buffer[at + frame.bytes.start..at + frame.bytes.end];
            Found::Piece(Piece { of, bytes })
        }
    }
}

/// After so many frames with a sound header and an unsound body, a connection is given up: each
/// makes us look at up to [`FRAME_BYTES_MAX`] bytes for 88 that were sent.
const BODY_FAULTS_MAX: u32 = 1024;

const _: () = assert!(FRAME_BYTES_MAX < u32::MAX as usize);
