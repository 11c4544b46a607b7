//! A record: one audit message as received, with its identity.
//!
//! The text encoding below is the one encoding of a record, in the buffer and in a bundle alike
//! (FORMAT.md section 6): a head line, the raw bytes, a line feed. It is canonical: every record
//! has exactly one encoding, and whatever parses re-encodes to the same bytes.
//!
//! ```text
//! r SEQUENCE RECEIVED-NS STREAM LENGTH LISTENER PEER[ tls=SUBJECT][ tag=TAG][ recovered][ cut=ORIGINAL-LENGTH][ redacted=NOTE]\n
//! RAW BYTES\n
//! ```
//!
//! A record that a rule of the high side suppressed keeps its number, and leaves one line in its place:
//!
//! ```text
//! s SEQUENCE RECEIVED-NS STREAM LENGTH RULE\n
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

/// Where records came in, encoded once per connection:
/// `LISTENER PEER[ tls=SUBJECT][ tag=TAG][ recovered]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceTag(String);

impl SourceTag {
    /// Names the listener, the peer (usually `address:port`, or a file) and the subject of its
    /// certificate. The listener is kept up to [`LISTENER_BYTES_MAX`] bytes, the others up to
    /// [`SOURCE_BYTES_MAX`].
    pub fn new(listener: &str, peer: &str, tls_subject: Option<&str>) -> Self {
        let mut text = String::new();
        push_token(&mut text, capped(listener, LISTENER_BYTES_MAX));
        text.push(' ');
        push_token(&mut text, capped(peer, SOURCE_BYTES_MAX));
        if let Some(subject) = tls_subject {
            text.push_str(" tls=");
            push_token(&mut text, capped(subject, SOURCE_BYTES_MAX));
        }
        Self(text)
    }

    /// The same, with the tag by which a relay names what it carries, up to [`TAG_BYTES_MAX`] bytes.
    /// Call it before [`SourceTag::recovered`], and once.
    #[must_use]
    pub fn tagged(&self, tag: &str) -> Self {
        let mut text = self.0.clone();
        text.push_str(" tag=");
        push_token(&mut text, capped(tag, TAG_BYTES_MAX));
        Self(text)
    }

    /// The same, for records that did not come by the way they should have, and were asked for.
    #[must_use]
    pub fn recovered(&self) -> Self {
        Self(format!("{}{RECOVERED}", self.0))
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
    /// The tag by which a relay named it, as a token.
    pub tag: Option<Token<'a>>,
    /// Whether it was asked for because it did not come by the way it should have.
    pub recovered: bool,
    /// What was redacted and by which rule, as a token.
    pub redacted: Option<Token<'a>>,
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

const RECOVERED: &str = " recovered";

/// The longest listener's name kept with a record, in bytes. With peer, subject, tag and note, all of
/// them percent-encoded, a head line stays under [`HEAD_BYTES_MAX`].
pub const LISTENER_BYTES_MAX: usize = 128;
/// The longest peer or certificate subject kept with a record, in bytes.
pub const SOURCE_BYTES_MAX: usize = 600;
/// The longest tag kept with a record, in bytes.
pub const TAG_BYTES_MAX: usize = 300;
/// The longest note of what was redacted kept with a record, in bytes.
pub const NOTE_BYTES_MAX: usize = 600;

fn capped(text: &str, bytes_max: usize) -> &[u8] {
    &text.as_bytes()[..text.floor_char_boundary(bytes_max)]
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

/// Everything about a record but its bytes.
#[derive(Clone, Copy, Debug)]
pub struct Head<'a> {
    /// Its number.
    pub sequence: Sequence,
    /// When it was received.
    pub received: Nanos,
    /// What kind of source it came from.
    pub stream: Stream,
    /// Where it came in.
    pub source: &'a SourceTag,
    /// The length before truncation, where the message was longer than the limit.
    pub cut_from: Option<u64>,
    /// What was redacted and by which rule; kept up to [`NOTE_BYTES_MAX`] bytes.
    pub redacted: Option<&'a str>,
}

impl Head<'_> {
    /// Appends the encoding of the record that has these bytes.
    pub fn encode(&self, out: &mut Vec<u8>, raw: &[u8]) {
        push_begin(out, b"r ", self.sequence, self.received, self.stream, raw.len() as u64);
        out.push(b' ');
        out.extend_from_slice(self.source.as_str().as_bytes());
        if let Some(original) = self.cut_from {
            out.extend_from_slice(b" cut=");
            push_number(out, original);
        }
        if let Some(note) = self.redacted {
            let mut token = String::from(" redacted=");
            push_token(&mut token, capped(note, NOTE_BYTES_MAX));
            out.extend_from_slice(token.as_bytes());
        }
        out.push(b'\n');
        out.extend_from_slice(raw);
        out.push(b'\n');
    }
}

/// Appends the encoding of one record of which nothing was redacted.
pub fn encode(
    out: &mut Vec<u8>,
    sequence: Sequence,
    received: Nanos,
    stream: Stream,
    source: &SourceTag,
    cut_from: Option<u64>,
    raw: &[u8],
) {
    Head { sequence, received, stream, source, cut_from, redacted: None }.encode(out, raw);
}

fn push_begin(
    out: &mut Vec<u8>,
    kind: &[u8],
    sequence: Sequence,
    received: Nanos,
    stream: Stream,
    length: u64,
) {
    out.extend_from_slice(kind);
    push_number(out, sequence.0);
    out.push(b' ');
    // A clock before 1970 is no time worth keeping; zero says so.
    push_number(out, u64::try_from(received.0).unwrap_or(0));
    out.push(b' ');
    out.extend_from_slice(stream.as_str().as_bytes());
    out.push(b' ');
    push_number(out, length);
}

/// What is left of a record that a rule suppressed: its number, and by which rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Suppressed<'a> {
    /// Its number.
    pub sequence: Sequence,
    /// When it was received.
    pub received: Nanos,
    /// What kind of source it came from.
    pub stream: Stream,
    /// How many bytes it had.
    pub length: u64,
    /// The rule's name: see [`is_rule_name`].
    pub rule: &'a str,
}

impl Suppressed<'_> {
    /// Appends its encoding.
    pub fn encode(&self, out: &mut Vec<u8>) {
        push_begin(out, b"s ", self.sequence, self.received, self.stream, self.length);
        out.push(b' ');
        out.extend_from_slice(self.rule.as_bytes());
        out.push(b'\n');
    }
}

/// Whether a text can name a rule: 1 to 32 of `a-z 0-9 -`, beginning with a letter or digit.
pub fn is_rule_name(text: &str) -> bool {
    text.parse::<OriginId>().is_ok()
}

/// What stands for one sequence number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entry<'a> {
    /// The record.
    Record(RecordRef<'a>),
    /// A rule suppressed it.
    Suppressed(Suppressed<'a>),
}

impl Entry<'_> {
    /// Appends its encoding: the bytes that it was parsed from.
    pub fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Entry::Record(record) => record.encode(out),
            Entry::Suppressed(suppressed) => suppressed.encode(out),
        }
    }
}

impl RecordRef<'_> {
    /// Where it came in, as it is encoded.
    pub fn source(&self) -> SourceTag {
        let mut text = format!("{} {}", self.listener.0, self.peer.0);
        let mut push = |before: &str, token: Option<Token<'_>>| {
            if let Some(token) = token {
                text.push_str(before);
                text.push_str(token.0);
            }
        };
        push(" tls=", self.tls_subject);
        push(" tag=", self.tag);
        if self.recovered {
            text.push_str(RECOVERED);
        }
        SourceTag(text)
    }

    fn encode(&self, out: &mut Vec<u8>) {
        push_begin(out, b"r ", self.sequence, self.received, self.stream, self.raw.len() as u64);
        let mut push = |before: &str, token: Token<'_>| {
            out.extend_from_slice(before.as_bytes());
            out.extend_from_slice(token.0.as_bytes());
        };
        push(" ", self.listener);
        push(" ", self.peer);
        if let Some(subject) = self.tls_subject {
            push(" tls=", subject);
        }
        if let Some(tag) = self.tag {
            push(" tag=", tag);
        }
        if self.recovered {
            out.extend_from_slice(RECOVERED.as_bytes());
        }
        if let Some(original) = self.cut_from {
            out.extend_from_slice(b" cut=");
            push_number(out, original);
        }
        if let Some(note) = self.redacted {
            out.extend_from_slice(b" redacted=");
            out.extend_from_slice(note.0.as_bytes());
        }
        out.push(b'\n');
        out.extend_from_slice(self.raw);
        out.push(b'\n');
    }
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

/// Parses the record at the start of `bytes`; also gives the length of its encoding. What stands
/// for a suppressed record is malformed here.
pub fn parse(bytes: &[u8], raw_bytes_max: u64) -> Result<(RecordRef<'_>, usize), RecordError> {
    match parse_entry(bytes, raw_bytes_max)? {
        (Entry::Record(record), used) => Ok((record, used)),
        (Entry::Suppressed(_), _) => Err(RecordError::Malformed),
    }
}

/// Parses what stands for a sequence number at the start of `bytes`; also gives its length.
pub fn parse_entry(bytes: &[u8], raw_bytes_max: u64) -> Result<(Entry<'_>, usize), RecordError> {
    let window = &bytes[..bytes.len().min(HEAD_BYTES_MAX)];
    let Some(end) = memchr::memchr(b'\n', window) else {
        return Err(if window.len() == HEAD_BYTES_MAX {
            RecordError::TooLong
        } else {
            RecordError::Incomplete
        });
    };
    let start = end + 1;
    let line = &bytes[..end];
    if line.starts_with(b"s ") {
        let suppressed = parse_suppressed(line).ok_or(RecordError::Malformed)?;
        return Ok((Entry::Suppressed(suppressed), start));
    }
    let (mut record, length) = parse_head(line).ok_or(RecordError::Malformed)?;
    if length > raw_bytes_max {
        return Err(RecordError::TooLong);
    }
    let stop = start + length as usize;
    match bytes.get(stop) {
        None => Err(RecordError::Incomplete),
        Some(b'\n') => {
            record.raw = &bytes[start..stop];
            Ok((Entry::Record(record), stop + 1))
        }
        Some(_) => Err(RecordError::Malformed),
    }
}

/// The fields that every line begins with: kind, sequence, time, stream, length.
fn parse_begin<'a>(
    fields: &mut impl Iterator<Item = &'a [u8]>,
    kind: &[u8],
) -> Option<(Sequence, Nanos, Stream, u64)> {
    if fields.next()? != kind {
        return None;
    }
    let sequence = Sequence(parse_number(fields.next()?)?);
    let received = Nanos(i64::try_from(parse_number(fields.next()?)?).ok()?);
    let stream = std::str::from_utf8(fields.next()?).ok()?.parse().ok()?;
    let length = parse_number(fields.next()?)?;
    (sequence.0 != 0).then_some((sequence, received, stream, length))
}

fn parse_suppressed(line: &[u8]) -> Option<Suppressed<'_>> {
    let mut fields = line.split(|b| *b == b' ');
    let (sequence, received, stream, length) = parse_begin(&mut fields, b"s")?;
    let rule = std::str::from_utf8(fields.next()?).ok().filter(|rule| is_rule_name(rule))?;
    let suppressed = Suppressed { sequence, received, stream, length, rule };
    fields.next().is_none().then_some(suppressed)
}

fn parse_head(line: &[u8]) -> Option<(RecordRef<'_>, u64)> {
    let mut fields = line.split(|b| *b == b' ');
    let (sequence, received, stream, length) = parse_begin(&mut fields, b"r")?;
    let listener = Token::parse(fields.next()?)?;
    let peer = Token::parse(fields.next()?)?;
    let mut field = fields.next();
    // Each of the rest may be absent; those present stand in this order.
    let mut optional = |prefix: &[u8]| {
        let value = field.and_then(|f| f.strip_prefix(prefix))?;
        field = fields.next();
        Some(value)
    };
    let tls_subject = token_or_none(optional(b"tls="))?;
    let tag = token_or_none(optional(b"tag="))?;
    let recovered = match optional(b"recovered") {
        Some(rest) => rest.is_empty().then_some(true)?,
        None => false,
    };
    let cut_from = match optional(b"cut=") {
        Some(original) => Some(parse_number(original).filter(|original| *original > length)?),
        None => None,
    };
    let redacted = token_or_none(optional(b"redacted="))?;
    if field.is_some() {
        return None;
    }
    let record = RecordRef {
        sequence,
        received,
        stream,
        listener,
        peer,
        tls_subject,
        tag,
        recovered,
        redacted,
        cut_from,
        raw: b"",
    };
    Some((record, length))
}

/// A field that may be absent, and that makes the line malformed if it is there and no token.
#[expect(clippy::option_option, reason = "absent is not malformed")]
fn token_or_none(field: Option<&[u8]>) -> Option<Option<Token<'_>>> {
    match field {
        Some(text) => Some(Some(Token::parse(text)?)),
        None => Some(None),
    }
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
    fn what_became_of_a_record_reads_as_text() {
        let source = SourceTag::new("relay", "10.0.0.7:1", None).tagged("kube.audit").recovered();
        let note = Some("keys:/a b");
        let head = Head {
            sequence: Sequence(8),
            received: Nanos(99),
            stream: Stream::KubeAudit,
            source: &source,
            cut_from: None,
            redacted: note,
        };
        let mut out = Vec::new();
        head.encode(&mut out, b"hi");
        let text = "r 8 99 kube-audit 2 relay 10.0.0.7:1 tag=kube.audit recovered redacted=keys:/a%20b\nhi\n";
        assert_eq!(String::from_utf8_lossy(&out), text);
        let (record, _) = parse(&out, 10).unwrap();
        assert!(record.recovered);
        assert_eq!(record.tag.map(Token::decode).as_deref(), Some("kube.audit"));
        assert_eq!(record.redacted.map(Token::decode).as_deref(), note);
        let suppressed = Suppressed {
            sequence: Sequence(9),
            received: Nanos(99),
            stream: Stream::KubeAudit,
            length: 800,
            rule: "kube-leases",
        };
        out.clear();
        suppressed.encode(&mut out);
        assert_eq!(String::from_utf8_lossy(&out), "s 9 99 kube-audit 800 kube-leases\n");
        assert_eq!(parse_entry(&out, 10), Ok((Entry::Suppressed(suppressed), out.len())));
        assert_eq!(parse(&out, 10), Err(RecordError::Malformed));
    }

    #[test]
    fn the_longest_head_line_is_read_again() {
        let long = "\u{1}".repeat(5000);
        let source = SourceTag::new(&long, &long, Some(&long)).tagged(&long).recovered();
        let head = Head {
            sequence: Sequence(u64::MAX),
            received: Nanos(i64::MAX),
            stream: Stream::PortainerActivity,
            source: &source,
            cut_from: Some(u64::MAX),
            redacted: Some(&long),
        };
        let mut out = Vec::new();
        head.encode(&mut out, b"");
        assert!(parse(&out, 10).is_ok(), "{} bytes", out.len());
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
            b"s 1 1 other 5 Rule\n",
            b"s 1 1 other 5\n",
            b"s 0 1 other 5 rule\n",
            b"r 1 1 other 0 a b tag=x tls=y\n\n",
            b"r 1 1 other 0 a b recovered=1\n\n",
            b"r 1 1 other 0 a b redacted=\n\n",
            b"r 1 1 other 0 a b redacted=x cut=5\n\n",
        ];
        for case in cases {
            let shown = String::from_utf8_lossy(case);
            assert_eq!(parse_entry(case, 10).unwrap_err(), RecordError::Malformed, "{shown}");
        }
        assert_eq!(parse(b"r 1 1 other 11 a b\n", 10).unwrap_err(), RecordError::TooLong);
    }

    fn source(
        listener: &str,
        peer: &str,
        subject: Option<&str>,
        tag: Option<&str>,
        recovered: bool,
    ) -> SourceTag {
        let source = SourceTag::new(listener, peer, subject);
        let source = tag.map_or(source.clone(), |tag| source.tagged(tag));
        if recovered { source.recovered() } else { source }
    }

    proptest! {
        #[test]
        fn what_is_encoded_parses_to_the_same_and_every_prefix_is_incomplete(
            sequence in 1_u64.., received in 0_i64.., raw: Vec<u8>, listener: String, peer: String,
            subject: Option<String>, tag: Option<String>, recovered: bool, note: Option<String>, longer in proptest::option::of(1_u64..1000), stream in 0_usize..5,
        ) {
            let source = source(&listener, &peer, subject.as_deref(), tag.as_deref(), recovered);
            let cut_from = longer.map(|extra| raw.len() as u64 + extra);
            let stream = Stream::ALL[stream];
            let mut out = Vec::new();
            let redacted = note.as_deref();
            let (sequence, received) = (Sequence(sequence), Nanos(received));
            Head { sequence, received, stream, source: &source, cut_from, redacted }.encode(&mut out, &raw);
            let (record, used) = parse(&out, 1 << 20).unwrap();
            prop_assert_eq!(used, out.len());
            prop_assert_eq!(record.raw, &raw[..]);
            prop_assert_eq!(record.listener.decode(), listener);
            prop_assert_eq!(record.peer.decode(), peer);
            prop_assert_eq!(record.tls_subject.map(Token::decode), subject);
            prop_assert_eq!(record.cut_from, cut_from);
            prop_assert_eq!(record.tag.map(Token::decode), tag);
            prop_assert_eq!(record.recovered, recovered);
            prop_assert_eq!(record.redacted.map(Token::decode), note);
            let mut again = Vec::new();
            Entry::Record(record).encode(&mut again);
            prop_assert_eq!(again, &out[..]);
            for end in 0..out.len() {
                prop_assert_eq!(parse(&out[..end], 1 << 20).unwrap_err(), RecordError::Incomplete);
            }
        }

        #[test]
        fn whatever_parses_encodes_to_the_same_bytes(bytes: Vec<u8>, head in "[rs] [0-9]{1,3} [0-9]{1,3} other [0-9] [a-z%0-9A-F-]{1,4} [a-z]{1,3}( tls=[a-z-]{1,3})?( tag=[a-z]{1,2})?( recovered)?( cut=[0-9]{1,2})?( redacted=[a-z]{1,2})?\n.{0,9}\n") {
            for input in [bytes.as_slice(), head.as_bytes()] {
                if let Ok((entry, used)) = parse_entry(input, 100) {
                    let mut again = Vec::new();
                    entry.encode(&mut again);
                    prop_assert_eq!(&again[..], &input[..used]);
                }
            }
        }
    }
}
