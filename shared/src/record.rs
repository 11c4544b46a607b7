//! A record: one audit message as received, with its identity.
//!
//! The text encoding below is the one encoding of a record, in the buffer and in a bundle alike
//! (FORMAT.md section 6): a head line, the raw bytes, a line feed. It is canonical: every record
//! has exactly one encoding, and whatever parses re-encodes to the same bytes.
//!
//! ```text
//! r SEQUENCE RECEIVED-NS STREAM LENGTH LISTENER PEER[ tls=SUBJECT][ cut=ORIGINAL-LENGTH]\n
//! RAW BYTES\n
//! ```

use std::fmt::{self, Write as _};
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::clock::Nanos;

/// The name of one high-side installation: 1 to 32 of `a-z 0-9 -`, beginning with a letter or digit.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct OriginId(String);

impl OriginId {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for OriginId {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let fits = (1..=32).contains(&text.len())
            && !text.starts_with('-')
            && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
        if fits { Ok(Self(text.to_owned())) } else { Err(NameError("an origin", text.to_owned())) }
    }
}

impl TryFrom<String> for OriginId {
    type Error = NameError;
    fn try_from(text: String) -> Result<Self, NameError> {
        text.parse()
    }
}

impl From<OriginId> for String {
    fn from(origin: OriginId) -> Self {
        origin.0
    }
}

impl fmt::Display for OriginId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A name that does not fit its pattern.
#[derive(Debug, thiserror::Error)]
#[error("{0} is 1 to 32 of a-z, 0-9 and '-', and begins with a letter or digit; got {1:?}")]
pub struct NameError(&'static str, String);

/// One life of a buffer. A later epoch has a greater number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Epoch(pub u64);

/// A record's number in its (origin, epoch, lane): from 1, without holes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Sequence(pub u64);

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for Sequence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// How urgent a record is. Each lane has its own sequence and its own chain of bundles.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Lane {
    /// Seconds matter.
    Flash,
    /// The rest.
    Routine,
}

impl Lane {
    /// Every lane, the urgent one first.
    pub const ALL: [Lane; 2] = [Lane::Flash, Lane::Routine];

    /// The lane's name.
    pub fn as_str(self) -> &'static str {
        match self {
            Lane::Flash => "flash",
            Lane::Routine => "routine",
        }
    }
}

impl FromStr for Lane {
    type Err = UnknownName;
    fn from_str(text: &str) -> Result<Self, UnknownName> {
        Lane::ALL.into_iter().find(|lane| lane.as_str() == text).ok_or(UnknownName("lane"))
    }
}

impl fmt::Display for Lane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What kind of source a record came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Stream {
    /// Falco alerts.
    Falco,
    /// Kubernetes API audit events.
    KubeAudit,
    /// Anything not recognised as one of the others.
    Other,
    /// Portainer user activity.
    PortainerActivity,
    /// Portainer authentication activity.
    PortainerAuth,
}

impl Stream {
    /// Every stream, in the order in which a manifest lists them.
    pub const ALL: [Stream; 5] = [
        Stream::Falco,
        Stream::KubeAudit,
        Stream::Other,
        Stream::PortainerActivity,
        Stream::PortainerAuth,
    ];

    /// The stream's name.
    pub fn as_str(self) -> &'static str {
        match self {
            Stream::Falco => "falco",
            Stream::KubeAudit => "kube-audit",
            Stream::Other => "other",
            Stream::PortainerActivity => "portainer-activity",
            Stream::PortainerAuth => "portainer-auth",
        }
    }
}

impl FromStr for Stream {
    type Err = UnknownName;
    fn from_str(text: &str) -> Result<Self, UnknownName> {
        Stream::ALL.into_iter().find(|stream| stream.as_str() == text).ok_or(UnknownName("stream"))
    }
}

impl fmt::Display for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A name that is none of the known ones.
#[derive(Debug, thiserror::Error)]
#[error("unknown {0}")]
pub struct UnknownName(pub &'static str);

/// The identity of a record in every SIEM: the first 160 bits of the SHA-256 of the text
/// `ORIGIN\nEPOCH\nLANE\nSEQUENCE\n`, as 40 hex digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RecordId([u8; 20]);

impl RecordId {
    /// The id of one record.
    pub fn new(origin: &OriginId, epoch: Epoch, lane: Lane, sequence: Sequence) -> Self {
        let mut hash = Sha256::new();
        hash.update(format!("{origin}\n{epoch}\n{lane}\n{sequence}\n"));
        let mut id = [0; 20];
        id.copy_from_slice(&hash.finalize()[..20]);
        Self(id)
    }
}

impl fmt::Display for RecordId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// Where records came in, encoded once per connection: `LISTENER PEER[ tls=SUBJECT]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceTag(String);

impl SourceTag {
    /// Names the listener, the peer (usually `address:port`) and the subject of its certificate.
    /// Each is kept up to [`SOURCE_BYTES_MAX`] bytes.
    pub fn new(listener: &str, peer: &str, tls_subject: Option<&str>) -> Self {
        let mut text = String::new();
        push_token(&mut text, capped(listener));
        text.push(' ');
        push_token(&mut text, capped(peer));
        if let Some(subject) = tls_subject {
            text.push_str(" tls=");
            push_token(&mut text, capped(subject));
        }
        Self(text)
    }

    /// The encoded text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// A record as it stands in its encoding; borrows the bytes it was parsed from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordRef<'a> {
    /// Its number.
    pub sequence: Sequence,
    /// When it was received.
    pub received: Nanos,
    /// What kind of source it came from.
    pub stream: Stream,
    /// The listener's name, as a token.
    pub listener: Token<'a>,
    /// The peer, as a token.
    pub peer: Token<'a>,
    /// The subject of the peer's certificate, as a token.
    pub tls_subject: Option<Token<'a>>,
    /// The length before truncation, where the message was longer than the limit.
    pub cut_from: Option<u64>,
    /// The bytes as received.
    pub raw: &'a [u8],
}

/// Text without spaces or control bytes: anything else is percent-encoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Token<'a>(&'a str);

impl<'a> Token<'a> {
    /// The encoded form.
    pub fn encoded(self) -> &'a str {
        self.0
    }

    /// The text it stands for.
    pub fn decode(self) -> String {
        if self.0 == EMPTY_TOKEN {
            return String::new();
        }
        String::from_utf8_lossy(&self.decode_bytes()).into_owned()
    }

    fn parse(text: &'a [u8]) -> Option<Self> {
        if text.is_empty() {
            return None;
        }
        let mut at = 0;
        while at < text.len() {
            match text[at] {
                b'%' => {
                    let high = hex_value(*text.get(at + 1)?)?;
                    let low = hex_value(*text.get(at + 2)?)?;
                    let byte = high << 4 | low;
                    // "%2D" stands only for a token that is a lone hyphen.
                    if is_plain(byte) && !(byte == b'-' && text.len() == 3) {
                        return None;
                    }
                    at += 3;
                }
                byte if is_plain(byte) => at += 1,
                _ => return None,
            }
        }
        let token = std::str::from_utf8(text).ok().map(Self)?;
        let utf8 = !text.contains(&b'%') || std::str::from_utf8(&token.decode_bytes()).is_ok();
        utf8.then_some(token)
    }

    fn decode_bytes(self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(self.0.len());
        let mut rest = self.0.as_bytes().iter();
        while let Some(&byte) = rest.next() {
            if byte == b'%' {
                let high = rest.next().and_then(|b| hex_value(*b)).unwrap_or(0);
                let low = rest.next().and_then(|b| hex_value(*b)).unwrap_or(0);
                bytes.push(high << 4 | low);
            } else {
                bytes.push(byte);
            }
        }
        bytes
    }
}

const EMPTY_TOKEN: &str = "-";

/// The longest listener name, peer or certificate subject kept with a record.
/// Three of them, percent-encoded, stay under [`HEAD_BYTES_MAX`].
pub const SOURCE_BYTES_MAX: usize = 800;

fn capped(text: &str) -> &[u8] {
    &text.as_bytes()[..text.floor_char_boundary(SOURCE_BYTES_MAX)]
}

fn is_plain(byte: u8) -> bool {
    byte.is_ascii_graphic() && byte != b'%'
}

fn hex_value(byte: u8) -> Option<u8> {
    match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'A'..=b'F' => Some(byte - b'A' + 10),
        _ => None,
    }
}

fn push_token(out: &mut String, bytes: &[u8]) {
    match bytes {
        b"" => out.push_str(EMPTY_TOKEN),
        b"-" => out.push_str("%2D"),
        _ => {
            for &byte in bytes {
                if is_plain(byte) {
                    out.push(char::from(byte));
                } else {
                    let _ = write!(out, "%{byte:02X}");
                }
            }
        }
    }
}

/// Appends the encoding of one record.
pub fn encode(
    out: &mut Vec<u8>,
    sequence: Sequence,
    received: Nanos,
    stream: Stream,
    source: &SourceTag,
    cut_from: Option<u64>,
    raw: &[u8],
) {
    out.extend_from_slice(b"r ");
    push_number(out, sequence.0);
    out.push(b' ');
    // A clock before 1970 is no time worth keeping; zero says so.
    push_number(out, u64::try_from(received.0).unwrap_or(0));
    out.push(b' ');
    out.extend_from_slice(stream.as_str().as_bytes());
    out.push(b' ');
    push_number(out, raw.len() as u64);
    out.push(b' ');
    out.extend_from_slice(source.as_str().as_bytes());
    if let Some(original) = cut_from {
        out.extend_from_slice(b" cut=");
        push_number(out, original);
    }
    out.push(b'\n');
    out.extend_from_slice(raw);
    out.push(b'\n');
}

fn push_number(out: &mut Vec<u8>, mut value: u64) {
    let mut digits = [0_u8; 20];
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + (value % 10) as u8;
        value /= 10;
        if value == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[at..]);
}

/// Why bytes are no record.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// More bytes are needed; not an error while they may still come.
    #[error("the record ends early")]
    Incomplete,
    /// The head line is not canonical.
    #[error("a record's head line is malformed")]
    Malformed,
    /// The head line or the record is longer than allowed.
    #[error("a record is longer than the limit")]
    TooLong,
}

/// The longest head line, in bytes: two tokens and a certificate's subject fit many times over.
pub const HEAD_BYTES_MAX: usize = 8 * 1024;

/// Parses the record at the start of `bytes`; also gives the length of its encoding.
pub fn parse(bytes: &[u8], raw_bytes_max: u64) -> Result<(RecordRef<'_>, usize), RecordError> {
    let window = &bytes[..bytes.len().min(HEAD_BYTES_MAX)];
    let Some(end) = memchr::memchr(b'\n', window) else {
        return Err(if window.len() == HEAD_BYTES_MAX {
            RecordError::TooLong
        } else {
            RecordError::Incomplete
        });
    };
    let (mut record, length) = parse_head(&bytes[..end]).ok_or(RecordError::Malformed)?;
    if length > raw_bytes_max {
        return Err(RecordError::TooLong);
    }
    let start = end + 1;
    let stop = start + length as usize;
    match bytes.get(stop) {
        None => Err(RecordError::Incomplete),
        Some(b'\n') => {
            record.raw = &bytes[start..stop];
            Ok((record, stop + 1))
        }
        Some(_) => Err(RecordError::Malformed),
    }
}

fn parse_head(line: &[u8]) -> Option<(RecordRef<'_>, u64)> {
    let mut fields = line.split(|b| *b == b' ');
    if fields.next()? != b"r" {
        return None;
    }
    let sequence = Sequence(parse_number(fields.next()?)?);
    let received = Nanos(i64::try_from(parse_number(fields.next()?)?).ok()?);
    let stream = std::str::from_utf8(fields.next()?).ok()?.parse().ok()?;
    let length = parse_number(fields.next()?)?;
    let listener = Token::parse(fields.next()?)?;
    let peer = Token::parse(fields.next()?)?;
    let mut field = fields.next();
    let mut tls_subject = None;
    if let Some(subject) = field.and_then(|f| f.strip_prefix(b"tls=")) {
        tls_subject = Some(Token::parse(subject)?);
        field = fields.next();
    }
    let mut cut_from = None;
    if let Some(original) = field.and_then(|f| f.strip_prefix(b"cut=")) {
        let original = parse_number(original)?;
        if original <= length {
            return None;
        }
        cut_from = Some(original);
        field = fields.next();
    }
    if field.is_some() || sequence.0 == 0 {
        return None;
    }
    let record =
        RecordRef { sequence, received, stream, listener, peer, tls_subject, cut_from, raw: b"" };
    Some((record, length))
}

/// A decimal number in its one form: no sign, no leading zero, no overflow.
pub(crate) fn parse_number(digits: &[u8]) -> Option<u64> {
    let leading_zero = digits.len() > 1 && digits[0] == b'0';
    if digits.is_empty() || digits.len() > 20 || leading_zero {
        return None;
    }
    digits.iter().try_fold(0_u64, |value, digit| {
        let digit = digit.checked_sub(b'0').filter(|d| *d <= 9)?;
        value.checked_mul(10)?.checked_add(u64::from(digit))
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_record_reads_as_text() {
        let source = SourceTag::new("portainer", "10.0.0.7:41234", Some("CN=edge 1"));
        let mut out = Vec::new();
        encode(
            &mut out,
            Sequence(7),
            Nanos(99),
            Stream::PortainerAuth,
            &source,
            Some(12),
            b"hello",
        );
        assert_eq!(
            String::from_utf8_lossy(&out),
            "r 7 99 portainer-auth 5 portainer 10.0.0.7:41234 tls=CN=edge%201 cut=12\nhello\n"
        );
    }

    #[test]
    fn an_id_can_be_made_with_sha256sum() {
        // printf 'plant-7\n1\nroutine\n42\n' | sha256sum | cut -c1-40
        let id = RecordId::new(&"plant-7".parse().unwrap(), Epoch(1), Lane::Routine, Sequence(42));
        assert_eq!(id.to_string(), "52e588a0dc596a47007c916d1e4d704718069690");
    }

    #[test]
    fn every_other_spelling_is_refused() {
        let cases: &[&[u8]] = &[
            b"r 07 1 other 0 a b\n\n",
            b"r 0 1 other 0 a b\n\n",
            b"r 1 1 other 0 a b \n\n",
            b"r 1 1 other 0 a\n\n",
            b"r 1 1 other 0 a b cut=0\n\n",
            b"r 1 1 other 0 a b cut=5 tls=x\n\n",
            b"r 1 1 other 0 a %2d\n\n",
            b"r 1 1 other 0 a %41\n\n",
            b"r 1 1 nonsense 0 a b\n\n",
            b"r 1 1 other 1 a b\nxx\n",
            b"s 1 1 other 0 a b\n\n",
        ];
        for case in cases {
            let shown = String::from_utf8_lossy(case);
            assert_eq!(parse(case, 10).unwrap_err(), RecordError::Malformed, "{shown}");
        }
        assert_eq!(parse(b"r 1 1 other 11 a b\n", 10).unwrap_err(), RecordError::TooLong);
    }

    proptest! {
        #[test]
        fn what_is_encoded_parses_to_the_same_and_every_prefix_is_incomplete(
            sequence in 1_u64.., received in 0_i64.., raw: Vec<u8>, listener: String, peer: String,
            subject: Option<String>, longer in proptest::option::of(1_u64..1000), stream in 0_usize..5,
        ) {
            let source = SourceTag::new(&listener, &peer, subject.as_deref());
            let cut = longer.map(|extra| raw.len() as u64 + extra);
            let stream = Stream::ALL[stream];
            let mut out = Vec::new();
            encode(&mut out, Sequence(sequence), Nanos(received), stream, &source, cut, &raw);
            let (record, used) = parse(&out, 1 << 20).unwrap();
            prop_assert_eq!(used, out.len());
            prop_assert_eq!(record.raw, &raw[..]);
            prop_assert_eq!(record.listener.decode(), listener);
            prop_assert_eq!(record.peer.decode(), peer);
            prop_assert_eq!(record.tls_subject.map(Token::decode), subject);
            prop_assert_eq!(record.cut_from, cut);
            for end in 0..out.len() {
                prop_assert_eq!(parse(&out[..end], 1 << 20).unwrap_err(), RecordError::Incomplete);
            }
        }

        #[test]
        fn whatever_parses_encodes_to_the_same_bytes(bytes: Vec<u8>, head in "r [0-9]{1,3} [0-9]{1,3} other [0-9] [a-z%0-9A-F-]{1,4} [a-z]{1,3}( tls=[a-z-]{1,3})?( cut=[0-9]{1,2})?\n.{0,9}\n") {
            for input in [bytes.as_slice(), head.as_bytes()] {
                if let Ok((record, used)) = parse(input, 100) {
                    let source = SourceTag::new(
                        &record.listener.decode(), &record.peer.decode(),
                        record.tls_subject.map(Token::decode).as_deref());
                    let mut again = Vec::new();
                    encode(&mut again, record.sequence, record.received, record.stream, &source,
                        record.cut_from, record.raw);
                    prop_assert_eq!(&again[..], &input[..used]);
                }
            }
        }
    }
}
