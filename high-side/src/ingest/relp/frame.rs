//! RELP frames: from the bytes of one connection to frames. Pure; it reads nothing and copies nothing.
//!
//! ```text
//! TXNR SP COMMAND SP DATALEN [SP DATA] LF        TXNR and DATALEN: 1 to 9 digits
//! ```
//!
//! Invariants: every byte given is consumed once; the caller never has to hold more than the longest
//! message and its header; the transaction numbers of a client are 1, 2, 3 ... and follow
//! 999,999,999 with 1 again.

use std::ops::Range;

/// What the bytes at hand are, as [`Framer::step`] sees them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// The kept part of a message that is longer than the limit, and how long it is. Its frame goes
    /// on: a [`Step::Tail`] follows.
    Cut { body: Range<usize>, cut_from: u64, consumed: usize },
    /// A whole frame.
    Frame { txnr: u32, command: Command, data: Range<usize>, consumed: usize },
    /// Nothing whole is left: so many bytes are done with, and so many must fit the buffer after
    /// those are dropped.
    More { consumed: usize, want: usize },
    /// The end of a frame whose message was cut.
    Tail { txnr: u32, consumed: usize },
}

/// What a client can ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Command {
    Close,
    Open,
    /// Any other; by the rules it is answered with an error, or ignored if it is a hint.
    Other,
    Syslog,
}

/// How a client broke the rules of the frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum FrameError {
    /// The number, command or length is not of the form it must have.
    #[error("a frame's header is malformed")]
    Header,
    /// Only messages may be long.
    #[error("a frame that is no message is too long")]
    Length,
    /// There is no line feed where the frame must end.
    #[error("a frame does not end where its length says")]
    Trailer,
    /// The transaction number does not follow its predecessor.
    #[error("a transaction number is out of order")]
    Transaction,
}

/// The framing of one connection.
#[derive(Debug)]
pub(crate) struct Framer {
    message_bytes_max: usize,
    next_txnr: u32,
    /// The transaction and the bytes left of a message that was cut, without the trailer.
    skip: Option<(u32, u64)>,
}

struct Header {
    txnr: u32,
    command: Command,
    length: usize,
    /// Where the data begins; at the trailer if there is none.
    body: usize,
}

impl Framer {
    /// A connection's framing, at its first byte.
    pub(crate) fn new(message_bytes_max: usize) -> Self {
        Self { message_bytes_max, next_txnr: 1, skip: None }
    }

    /// Whether a frame has begun and not ended, though there is nothing of it in the buffer.
    pub(crate) fn is_within(&self) -> bool {
        self.skip.is_some()
    }

    /// Looks at `data`, which begins at the first byte not yet consumed.
    pub(crate) fn step(&mut self, data: &[u8]) -> Result<Step, FrameError> {
        if let Some((txnr, left)) = self.skip {
            return self.skip(data, txnr, left);
        }
        let Some(header) = header(data)? else {
            return Ok(Step::More { consumed: 0, want: HEADER_BYTES_MAX });
        };
        let Header { txnr, command, length, body } = header;
        let kept = match command {
            Command::Syslog => length.min(self.message_bytes_max),
            _ if length > COMMAND_DATA_BYTES_MAX => return Err(FrameError::Length),
            _ => length,
        };
        // The byte behind the message is its trailer, or says that it goes on.
        let end = body + kept;
        if data.len() <= end {
            return Ok(Step::More { consumed: 0, want: end + 1 });
        }
        self.count(txnr)?;
        if kept < length {
            self.skip = Some((txnr, (length - kept) as u64));
            return Ok(Step::Cut { body: body..end, cut_from: length as u64, consumed: end });
        }
        if data[end] != b'\n' {
            return Err(FrameError::Trailer);
        }
        Ok(Step::Frame { txnr, command, data: body..end, consumed: end + 1 })
    }

    fn skip(&mut self, data: &[u8], txnr: u32, left: u64) -> Result<Step, FrameError> {
        let here = left.min(data.len() as u64);
        match data.get(here as usize) {
            Some(b'\n') => {
                self.skip = None;
                Ok(Step::Tail { txnr, consumed: here as usize + 1 })
            }
            Some(_) => Err(FrameError::Trailer),
            None => {
                self.skip = Some((txnr, left - here));
                Ok(Step::More { consumed: here as usize, want: 1 })
            }
        }
    }

    fn count(&mut self, txnr: u32) -> Result<(), FrameError> {
        // 0 is for hints, which are not counted.
        if txnr == 0 {
            return Ok(());
        }
        if txnr != self.next_txnr {
            return Err(FrameError::Transaction);
        }
        self.next_txnr = if txnr == TXNR_MAX { 1 } else { txnr + 1 };
        Ok(())
    }
}

/// The header at the start of `data`, once all of it is there.
fn header(data: &[u8]) -> Result<Option<Header>, FrameError> {
    let Some((txnr, at)) = number(data, 0)? else {
        return Ok(None);
    };
    if data[at] != b' ' {
        return Err(FrameError::Header);
    }
    let command = at + 1;
    let rest = &data[command..];
    let letters = rest.iter().take_while(|byte| byte.is_ascii_alphabetic()).count();
    if letters > COMMAND_BYTES_MAX {
        return Err(FrameError::Header);
    }
    match rest.get(letters) {
        None => return Ok(None),
        Some(b' ') if letters > 0 => {}
        Some(_) => return Err(FrameError::Header),
    }
    let name = &rest[..letters];
    let Some((length, at)) = number(data, command + letters + 1)? else {
        return Ok(None);
    };
    let body = match (length, data[at]) {
        (0, b'\n') => at,
        (1.., b' ') => at + 1,
        (0, _) => return Err(FrameError::Trailer),
        _ => return Err(FrameError::Header),
    };
    let command = match name {
        b"close" => Command::Close,
        b"open" => Command::Open,
        b"syslog" => Command::Syslog,
        _ => Command::Other,
    };
    Ok(Some(Header { txnr, command, length: length as usize, body }))
}

/// A number of 1 to 9 digits from `at`, and where it ends, once the byte behind it is there.
fn number(data: &[u8], at: usize) -> Result<Option<(u32, usize)>, FrameError> {
    let rest = data.get(at..).unwrap_or_default();
    let digits = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
    if digits > NUMBER_DIGITS_MAX || (digits == 0 && !rest.is_empty()) {
        return Err(FrameError::Header);
    }
    if digits == rest.len() {
        return Ok(None);
    }
    let value = rest[..digits].iter().fold(0, |sum, digit| sum * 10 + u32::from(digit - b'0'));
    Ok(Some((value, at + digits)))
}

/// The last transaction number before 1 comes again.
const TXNR_MAX: u32 = 999_999_999;
const NUMBER_DIGITS_MAX: usize = 9;
const COMMAND_BYTES_MAX: usize = 32;
/// Two numbers, a command, three spaces and the byte that follows.
const HEADER_BYTES_MAX: usize = 2 * NUMBER_DIGITS_MAX + COMMAND_BYTES_MAX + 4;
/// Offers are a few lines of at most 32 and 255 bytes.
const COMMAND_DATA_BYTES_MAX: usize = 4096;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// All steps over a stream that comes in pieces of so many bytes, and what is left at the end.
    fn steps(
        stream: &[u8],
        piece: usize,
        max: usize,
    ) -> Result<Vec<(u32, Vec<u8>, u64)>, FrameError> {
        let mut framer = Framer::new(max);
        let (mut out, mut at, mut end) = (Vec::new(), 0, 0);
        let mut cut: Option<(Vec<u8>, u64)> = None;
        loop {
            let data = &stream[at..end];
            match framer.step(data)? {
                Step::Cut { body, cut_from, consumed } => {
                    cut = Some((data[body].to_vec(), cut_from));
                    at += consumed;
                }
                Step::Frame { txnr, data: body, consumed, .. } => {
                    out.push((txnr, data[body.clone()].to_vec(), body.len() as u64));
                    at += consumed;
                }
                Step::Tail { txnr, consumed } => {
                    let (head, length) = cut.take().unwrap();
                    out.push((txnr, head, length));
                    at += consumed;
                }
                Step::More { consumed, want } => {
                    assert!(want <= max.max(COMMAND_DATA_BYTES_MAX) + HEADER_BYTES_MAX);
                    at += consumed;
                    if end == stream.len() {
                        return Ok(out);
                    }
                    end = (end + piece).min(stream.len());
                }
            }
        }
    }

    fn frame(txnr: u32, command: &str, data: &[u8]) -> Vec<u8> {
        let mut out = format!("{txnr} {command} {}", data.len()).into_bytes();
        if !data.is_empty() {
            out.push(b' ');
            out.extend_from_slice(data);
        }
        out.push(b'\n');
        out
    }

    #[test]
    fn the_commands_of_a_session() {
        let mut framer = Framer::new(100);
        let stream =
            [frame(1, "open", b"relp_version=0"), frame(2, "syslog", b"<13>a\nb")].concat();
        let first = framer.step(&stream).unwrap();
        let Step::Frame { command: Command::Open, consumed, .. } = first else {
            panic!("{first:?}");
        };
        let rest = &stream[consumed..];
        let second = framer.step(rest).unwrap();
        let Step::Frame { txnr: 2, command: Command::Syslog, data, .. } = second else {
            panic!("{second:?}");
        };
        assert_eq!(&rest[data], b"<13>a\nb");
        let close = framer.step(b"3 close 0\n").unwrap();
        assert!(matches!(close, Step::Frame { txnr: 3, command: Command::Close, .. }), "{close:?}");
        let hint = framer.step(b"0 serverclose 0\n").unwrap();
        assert!(matches!(hint, Step::Frame { txnr: 0, command: Command::Other, .. }), "{hint:?}");
    }

    #[test]
    fn what_breaks_the_rules_is_named() {
        let cases: [(&[u8], FrameError); 12] = [
            (b"x", FrameError::Header),
            (b" 1 open 0\n", FrameError::Header),
            (b"1234567890 open 0\n", FrameError::Header),
            (b"1  0\n", FrameError::Header),
            (b"1 op3n 0\n", FrameError::Header),
            (b"1 abcdefghijklmnopqrstuvwxyzabcdefg", FrameError::Header),
            (b"1 open x\n", FrameError::Header),
            (b"1 open 3\nabc\n", FrameError::Header),
            (b"1 close 0 \n", FrameError::Trailer),
            (b"1 syslog 3 abcd\n", FrameError::Trailer),
            (b"2 open 1 a\n", FrameError::Transaction),
            (b"1 open 999999999 a", FrameError::Length),
        ];
        for (bytes, error) in cases {
            let found = Framer::new(100).step(bytes);
            assert_eq!(found, Err(error), "{:?}", String::from_utf8_lossy(bytes));
        }
    }

    #[test]
    fn the_number_after_the_last_is_1() {
        let mut framer = Framer { message_bytes_max: 9, next_txnr: TXNR_MAX, skip: None };
        assert!(framer.step(b"999999999 syslog 1 a\n").is_ok());
        assert!(framer.step(b"1 syslog 1 a\n").is_ok());
        assert_eq!(framer.step(b"999999999 syslog 1 a\n"), Err(FrameError::Transaction));
    }

    proptest! {
        #[test]
        fn frames_survive_any_cutting(
            messages in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..60), 1..8),
            piece in 1..50_usize,
            max in 1..70_usize,
        ) {
            let mut stream = Vec::new();
            let mut expected = Vec::new();
            for (txnr, message) in (1..).zip(&messages) {
                stream.extend(frame(txnr, "syslog", message));
                let kept = message[..message.len().min(max)].to_vec();
                expected.push((txnr, kept, message.len() as u64));
            }
            prop_assert_eq!(steps(&stream, piece, max), Ok(expected));
        }

        #[test]
        fn no_bytes_make_it_fail_otherwise(bytes in prop::collection::vec(any::<u8>(), 0..200), piece in 1..9_usize) {
            let _ = steps(&bytes, piece, 16);
        }
    }
}
