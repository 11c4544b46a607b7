//! Frames as syslog messages, for diodes that pass nothing else.
//!
//! ```text
//! <110>1 - - penstock - - - PSTK1:BASE64URL.
//! ```
//!
//! A relay may write another header, count octets or end lines: the reader looks for `PSTK1:` and
//! takes what follows up to the full stop, so that only the text in between has to cross as it is.
//! It holds letters, digits, `-` and `_` alone, which no relay has a reason to alter. A message that
//! a relay cut has no full stop and is counted as cut.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

/// What stands before the text: facility 13 (log audit), severity 6.
const HEADER: &[u8] = b"<110>1 - - penstock - - - ";
const MARK: &[u8] = b"PSTK1:";
const END: u8 = b'.';

/// How a syslog stream tells messages apart on sending.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Separation {
    /// Each datagram is a message.
    Datagram,
    /// Each message ends with a line feed.
    LineFeed,
    /// Each message follows its length (RFC 6587, RFC 5425).
    OctetCount,
}

/// Appends a frame as a message.
pub fn wrap(frame: &[u8], separation: Separation, to: &mut Vec<u8>) {
    if separation == Separation::OctetCount {
        to.extend_from_slice(format!("{} ", message_bytes(frame.len())).as_bytes());
    }
    to.extend_from_slice(HEADER);
    to.extend_from_slice(MARK);
    to.extend_from_slice(URL_SAFE_NO_PAD.encode(frame).as_bytes());
    to.push(END);
    if separation == Separation::LineFeed {
        to.push(b'\n');
    }
}

/// The length of the message for a frame of so many bytes.
fn message_bytes(frame_bytes: usize) -> usize {
    HEADER.len() + MARK.len() + (frame_bytes * 4).div_ceil(3) + 1
}

/// The longest frame that fits a message of so many bytes.
pub fn frame_bytes_max(message_bytes_max: usize) -> usize {
    message_bytes_max.saturating_sub(HEADER.len() + MARK.len() + 1) * 3 / 4
}

#[cfg(feature = "open")]
pub(super) use read::{Text, TextScanner};

#[cfg(feature = "open")]
mod read {
    use base64::Engine;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;
    use memchr::memmem;

    use super::{END, MARK};
    use crate::stream::FRAME_BYTES_MAX;

    /// What stands next in a syslog stream.
    pub(in crate::stream) enum Text {
        /// The text of a frame that was cut short or altered.
        Cut,
        /// A frame, decoded.
        Frame,
        More,
        /// So many bytes around the texts, more than headers take.
        Noise(usize),
    }

    /// Finds the texts of frames, wherever they stand.
    #[derive(Debug, Default)]
    pub(in crate::stream) struct TextScanner {
        buffer: Vec<u8>,
        start: usize,
        /// How far the text at hand was looked through.
        searched: usize,
        /// Bytes since the last text that were passed over.
        between: usize,
    }

    impl TextScanner {
        pub(in crate::stream) fn push(&mut self, bytes: &[u8]) {
            self.buffer.drain(..self.start);
            self.start = 0;
            self.buffer.extend_from_slice(bytes);
        }

        pub(in crate::stream) fn unfinished(&self) -> usize {
            let rest = &self.buffer[self.start..];
            if rest.starts_with(MARK) { rest.len() } else { 0 }
        }

        /// What stands next; a frame goes into `to`.
        pub(in crate::stream) fn step(&mut self, to: &mut Vec<u8>) -> Text {
            let rest = &self.buffer[self.start..];
            if !rest.starts_with(MARK) {
                let found = memmem::find(rest, MARK);
                let passed = found.unwrap_or_else(|| rest.len().saturating_sub(MARK.len() - 1));
                self.start += passed;
                self.searched = 0;
                self.between += passed;
                if self.between > HEADER_BYTES_MAX {
                    return Text::Noise(std::mem::take(&mut self.between));
                }
                if found.is_none() {
                    return Text::More;
                }
            }
            self.between = 0;
            let text = &self.buffer[self.start + MARK.len()..];
            let is_text = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
            let Some(more) = text[self.searched..].iter().position(|byte| !is_text(byte)) else {
                self.searched = text.len();
                if text.len() <= TEXT_BYTES_MAX {
                    return Text::More;
                }
                return self.pass(MARK.len());
            };
            let end = self.searched + more;
            if text[end] != END || end > TEXT_BYTES_MAX {
                return self.pass(MARK.len() + end);
            }
            to.clear();
            let decoded = URL_SAFE_NO_PAD.decode_vec(&text[..end], to);
            let passed = self.pass(MARK.len() + end + 1);
            if decoded.is_ok() { Text::Frame } else { passed }
        }

        fn pass(&mut self, bytes: usize) -> Text {
            self.start += bytes;
            self.searched = 0;
            Text::Cut
        }
    }

    /// The longest text: a frame in base64.
    const TEXT_BYTES_MAX: usize = (FRAME_BYTES_MAX * 4).div_ceil(3);
    /// What relays write around a text is less than this.
    const HEADER_BYTES_MAX: usize = 4096;
}
