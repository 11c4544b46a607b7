//! `MessagePack` as Fluentd's Forward protocol has it: where values end, how to read them where they
//! stand, and how to write them. Pure; nothing is allocated for what a header only claims.
//!
//! The format is that of `msgpack/spec.md`; the shortest form of each value is written.

use serde_json::Value;

/// The head of a value: scalars whole, for the others how much follows.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Head {
    /// Nothing.
    Nil,
    /// Yes or no.
    Bool(bool),
    /// An integer that is not negative.
    Unsigned(u64),
    /// A negative integer.
    Negative(i64),
    /// A number of 32 bits with a fraction.
    F32(f32),
    /// A number of 64 bits with a fraction.
    F64(f64),
    /// So many bytes of text follow.
    Str(u32),
    /// So many bytes follow.
    Bin(u32),
    /// So many values follow.
    Array(u32),
    /// So many pairs of values follow.
    Map(u32),
    /// So many bytes of an application's own type follow.
    Ext(i8, u32),
}

/// Bytes that are no `MessagePack`, or nested beyond reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// Values in values in values.
    #[error("a value is nested deeper than {DEPTH_MAX} levels")]
    Depth,
    /// A byte that must not come.
    #[error("0xc1 begins no value")]
    Reserved,
}

/// The head at the start of `data` and its length, once all of it is there.
///
/// # Errors
/// Where no value begins so.
pub fn head(data: &[u8]) -> Result<Option<(Head, usize)>, Malformed> {
    let Some((&marker, rest)) = data.split_first() else {
        return Ok(None);
    };
    let low = u32::from(marker & 0x1f);
    let (head, extra) = match marker {
        0x00..=0x7f => (Some(Head::Unsigned(u64::from(marker))), 0),
        0x80..=0x8f => (Some(Head::Map(low & 0xf)), 0),
        0x90..=0x9f => (Some(Head::Array(low & 0xf)), 0),
        0xa0..=0xbf => (Some(Head::Str(low)), 0),
        0xc0 => (Some(Head::Nil), 0),
        0xc1 => return Err(Malformed::Reserved),
        0xc2 | 0xc3 => (Some(Head::Bool(marker == 0xc3)), 0),
        0xc4 => (take(rest).map(|[n]: [u8; 1]| Head::Bin(n.into())), 1),
        0xc5 => (take(rest).map(|n| Head::Bin(u16::from_be_bytes(n).into())), 2),
        0xc6 => (take(rest).map(|n| Head::Bin(u32::from_be_bytes(n))), 4),
        0xc7 => (take(rest).map(|[n, kind]: [u8; 2]| ext(kind, n.into())), 2),
        0xc8 => (
            take(rest).map(|[a, b, kind]: [u8; 3]| ext(kind, u16::from_be_bytes([a, b]).into())),
            3,
        ),
        0xc9 => (
            take(rest)
                .map(|[a, b, c, d, kind]: [u8; 5]| ext(kind, u32::from_be_bytes([a, b, c, d]))),
            5,
        ),
        0xca => (take(rest).map(|n| Head::F32(f32::from_be_bytes(n))), 4),
        0xcb => (take(rest).map(|n| Head::F64(f64::from_be_bytes(n))), 8),
        0xcc => (take(rest).map(|[n]: [u8; 1]| Head::Unsigned(n.into())), 1),
        0xcd => (take(rest).map(|n| Head::Unsigned(u16::from_be_bytes(n).into())), 2),
        0xce => (take(rest).map(|n| Head::Unsigned(u32::from_be_bytes(n).into())), 4),
        0xcf => (take(rest).map(|n| Head::Unsigned(u64::from_be_bytes(n))), 8),
        0xd0 => (take(rest).map(|n| signed(i8::from_be_bytes(n).into())), 1),
        0xd1 => (take(rest).map(|n| signed(i16::from_be_bytes(n).into())), 2),
        0xd2 => (take(rest).map(|n| signed(i32::from_be_bytes(n).into())), 4),
        0xd3 => (take(rest).map(|n| signed(i64::from_be_bytes(n))), 8),
        0xd4..=0xd8 => (take(rest).map(|[kind]: [u8; 1]| ext(kind, 1 << (marker - 0xd4))), 1),
        0xd9 => (take(rest).map(|[n]: [u8; 1]| Head::Str(n.into())), 1),
        0xda => (take(rest).map(|n| Head::Str(u16::from_be_bytes(n).into())), 2),
        0xdb => (take(rest).map(|n| Head::Str(u32::from_be_bytes(n))), 4),
        0xdc => (take(rest).map(|n| Head::Array(u16::from_be_bytes(n).into())), 2),
        0xdd => (take(rest).map(|n| Head::Array(u32::from_be_bytes(n))), 4),
        0xde => (take(rest).map(|n| Head::Map(u16::from_be_bytes(n).into())), 2),
        0xdf => (take(rest).map(|n| Head::Map(u32::from_be_bytes(n))), 4),
        0xe0..=0xff => (Some(signed(i8::from_be_bytes([marker]).into())), 0),
    };
    Ok(head.map(|head| (head, 1 + extra)))
}

fn take<const N: usize>(rest: &[u8]) -> Option<[u8; N]> {
    rest.first_chunk().copied()
}

fn signed(value: i64) -> Head {
    u64::try_from(value).map_or(Head::Negative(value), Head::Unsigned)
}

fn ext(kind: u8, length: u32) -> Head {
    Head::Ext(i8::from_be_bytes([kind]), length)
}

/// Finds where values end, however they are cut into pieces. What it holds does not depend on what
/// they claim to be.
#[derive(Clone, Debug)]
pub struct Skipper {
    /// How many values each open level still holds; the outermost is first.
    levels: Vec<u64>,
    /// Bytes of a string's or the like's content that are still to come.
    content: u64,
}

impl Skipper {
    /// For so many values, one after the other.
    pub fn new(values: u64) -> Self {
        Self { levels: vec![values], content: 0 }
    }

    /// Whether all values have ended.
    pub fn is_done(&self) -> bool {
        self.levels.is_empty() && self.content == 0
    }

    /// Passes over bytes; gives how many are done with. That is fewer than there are at the end of
    /// the values, and where the head of a value is not there as a whole.
    ///
    /// # Errors
    /// Where it is no `MessagePack`, or nested too deep.
    pub fn skip(&mut self, data: &[u8]) -> Result<usize, Malformed> {
        let mut at = 0;
        loop {
            let here = self.content.min((data.len() - at) as u64);
            self.content -= here;
            at += here as usize;
            if self.content > 0 {
                return Ok(at);
            }
            while self.levels.pop_if(|left| *left == 0).is_some() {}
            let Some(left) = self.levels.last_mut() else {
                return Ok(at);
            };
            let Some((head, length)) = head(&data[at..])? else {
                return Ok(at);
            };
            *left -= 1;
            at += length;
            match head {
                Head::Str(bytes) | Head::Bin(bytes) | Head::Ext(_, bytes) => {
                    self.content = bytes.into();
                }
                Head::Array(count) => self.open(count.into())?,
                Head::Map(count) => self.open(2 * u64::from(count))?,
                _ => {}
            }
        }
    }

    fn open(&mut self, values: u64) -> Result<(), Malformed> {
        // The outermost level is ours, not the sender's.
        if self.levels.len() > DEPTH_MAX {
            return Err(Malformed::Depth);
        }
        self.levels.push(values);
        Ok(())
    }
}

/// Where the value at the start of `data` ends, once all of it is there.
///
/// # Errors
/// Where it is no `MessagePack`, or nested too deep.
pub fn end_of(data: &[u8]) -> Result<Option<usize>, Malformed> {
    let mut skipper = Skipper::new(1);
    let at = skipper.skip(data)?;
    Ok(skipper.is_done().then_some(at))
}

/// Appends a text.
pub fn push_text(out: &mut Vec<u8>, text: &str) {
    match u8::try_from(text.len()) {
        Ok(length @ 0..32) => out.push(0xa0 | length),
        Ok(length) => out.extend([0xd9, length]),
        Err(_) => push_length(out, 0xda, text.len()),
    }
    out.extend_from_slice(text.as_bytes());
}

/// Appends the head of so many bytes; they follow.
pub fn push_bin_head(out: &mut Vec<u8>, length: usize) {
    match u8::try_from(length) {
        Ok(length) => out.extend([0xc4, length]),
        Err(_) => push_length(out, 0xc5, length),
    }
}

/// Appends the head of an array of so many values; they follow.
pub fn push_array_head(out: &mut Vec<u8>, count: usize) {
    match u8::try_from(count) {
        Ok(count @ 0..16) => out.push(0x90 | count),
        _ => push_length(out, 0xdc, count),
    }
}

/// Appends the head of a map of so many pairs; they follow.
pub fn push_map_head(out: &mut Vec<u8>, count: usize) {
    match u8::try_from(count) {
        Ok(count @ 0..16) => out.push(0x80 | count),
        _ => push_length(out, 0xde, count),
    }
}

/// Appends a number that is not negative.
pub fn push_unsigned(out: &mut Vec<u8>, value: u64) {
    if let Ok(value @ 0..0x80) = u8::try_from(value) {
        out.push(value);
    } else if let Ok(value) = u8::try_from(value) {
        out.extend([0xcc, value]);
    } else if let Ok(value) = u16::try_from(value) {
        out.push(0xcd);
        out.extend(value.to_be_bytes());
    } else if let Ok(value) = u32::try_from(value) {
        out.push(0xce);
        out.extend(value.to_be_bytes());
    } else {
        out.push(0xcf);
        out.extend(value.to_be_bytes());
    }
}

/// Appends a value of JSON. Numbers that fit no 64 bits are written as the nearest that do.
pub fn push_json(out: &mut Vec<u8>, value: &Value) {
    match value {
        Value::Null => out.push(0xc0),
        Value::Bool(value) => out.push(if *value { 0xc3 } else { 0xc2 }),
        Value::Number(number) => {
            if let Some(value) = number.as_u64() {
                push_unsigned(out, value);
            } else if let Some(value) = number.as_i64() {
                out.push(0xd3);
                out.extend(value.to_be_bytes());
            } else {
                out.push(0xcb);
                out.extend(number.as_f64().unwrap_or(f64::NAN).to_be_bytes());
            }
        }
        Value::String(text) => push_text(out, text),
        Value::Array(values) => {
            push_array_head(out, values.len());
            for value in values {
                push_json(out, value);
            }
        }
        Value::Object(pairs) => {
            push_map_head(out, pairs.len());
            for (key, value) in pairs {
                push_text(out, key);
                push_json(out, value);
            }
        }
    }
}

/// A marker with a length of 16 bits; the next marker is for 32.
fn push_length(out: &mut Vec<u8>, marker: u8, length: usize) {
    if let Ok(length) = u16::try_from(length) {
        out.push(marker);
        out.extend(length.to_be_bytes());
    } else {
        out.push(marker + 1);
        out.extend(u32::try_from(length).unwrap_or(u32::MAX).to_be_bytes());
    }
}

/// Kubernetes objects reach about 20 levels. Readers of JSON give up at 128.
pub const DEPTH_MAX: usize = 64;

/// The longest head: a marker and eight bytes.
pub const HEAD_BYTES_MAX: usize = 9;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn every_kind_of_head() {
        let cases: &[(&[u8], Head, usize)] = &[
            (b"\x7f", Head::Unsigned(127), 1),
            (b"\xff", Head::Negative(-1), 1),
            (b"\xcc\xff", Head::Unsigned(255), 2),
            (b"\xcf\xff\xff\xff\xff\xff\xff\xff\xff", Head::Unsigned(u64::MAX), 9),
            (b"\xd0\x80", Head::Negative(-128), 2),
            (b"\xd3\x00\x00\x00\x00\x00\x00\x00\x05", Head::Unsigned(5), 9),
            (b"\xd3\x80\x00\x00\x00\x00\x00\x00\x00", Head::Negative(i64::MIN), 9),
            (b"\xca\x3f\x80\x00\x00", Head::F32(1.0), 5),
            (b"\xcb\x3f\xf8\x00\x00\x00\x00\x00\x00", Head::F64(1.5), 9),
            (b"\xa3abc", Head::Str(3), 1),
            (b"\xdb\xff\xff\xff\xff", Head::Str(u32::MAX), 5),
            (b"\xc4\x02ab", Head::Bin(2), 2),
            (b"\x93", Head::Array(3), 1),
            (b"\xdc\x01\x00", Head::Array(256), 3),
            (b"\x82", Head::Map(2), 1),
            (b"\xd7\x00", Head::Ext(0, 8), 2),
            (b"\xc7\x08\xff", Head::Ext(-1, 8), 3),
            (b"\xc0", Head::Nil, 1),
            (b"\xc3", Head::Bool(true), 1),
        ];
        for (bytes, expected, length) in cases {
            assert_eq!(head(bytes), Ok(Some((*expected, *length))), "{bytes:x?}");
            for short in 0..*length {
                assert_eq!(head(&bytes[..short]), Ok(None), "{bytes:x?}");
            }
        }
        assert_eq!(head(b"\xc1"), Err(Malformed::Reserved));
    }

    #[test]
    fn claims_cost_nothing_and_depth_has_an_end() {
        // An array and a map of 4,294,967,295 values each, of which none comes.
        assert_eq!(end_of(b"\xdd\xff\xff\xff\xff\xdf\xff\xff\xff\xff"), Ok(None));
        let nested = |depth| [vec![0x91; depth], vec![0xc0]].concat();
        assert_eq!(end_of(&nested(DEPTH_MAX)), Ok(Some(DEPTH_MAX + 1)));
        assert_eq!(end_of(&nested(DEPTH_MAX + 1)), Err(Malformed::Depth));
        assert_eq!(end_of(&vec![0x91; 100_000]), Err(Malformed::Depth));
    }

    #[test]
    fn what_is_written_is_read() {
        let long = "x".repeat(70_000);
        let some = "y".repeat(300);
        let many: Vec<u32> = (0..70_000).map(|n| n % 3).collect();
        let value = serde_json::json!({
            "none": null, "yes": true, "text": [long, some, "z".repeat(200), "", "é"],
            "numbers": [0, 127, 128, 255, 256, 65535, 65536, 4_294_967_296_u64, u64::MAX, -1, i64::MIN, 1.5],
            "many": many, "map": (0..20).map(|n| (n.to_string(), n)).collect::<std::collections::BTreeMap<_, _>>(),
        });
        let mut out = Vec::new();
        push_json(&mut out, &value);
        assert_eq!(end_of(&out), Ok(Some(out.len())));
        let (read, length) = read(&out);
        assert_eq!((read, length), (value, out.len()));
    }

    /// A reader of our own, as the specification's table has it.
    fn read(data: &[u8]) -> (Value, usize) {
        let (head, mut at) = head(data).unwrap().unwrap();
        let next = |at: &mut usize| {
            let (value, length) = read(&data[*at..]);
            *at += length;
            value
        };
        let value = match head {
            Head::Nil => Value::Null,
            Head::Bool(value) => value.into(),
            Head::Unsigned(value) => value.into(),
            Head::Negative(value) => value.into(),
            Head::F64(value) => value.into(),
            Head::Str(length) => {
                let begin = at;
                at += length as usize;
                std::str::from_utf8(&data[begin..at]).unwrap().into()
            }
            Head::Array(count) => (0..count).map(|_| next(&mut at)).collect(),
            Head::Map(count) => {
                let pair = |_| (next(&mut at).as_str().unwrap().to_owned(), next(&mut at));
                Value::Object((0..count).map(pair).collect())
            }
            other => panic!("{other:?}"),
        };
        (value, at)
    }

    proptest! {
        #[test]
        fn cutting_changes_nothing(bytes in prop::collection::vec(any::<u8>(), 0..300), piece in 1..20_usize) {
            let whole = end_of(&bytes);
            let mut skipper = Skipper::new(1);
            let (mut at, mut end) = (0, 0);
            let cut = loop {
                match skipper.skip(&bytes[at..end]) {
                    Err(malformed) => break Err(malformed),
                    Ok(consumed) => at += consumed,
                }
                if skipper.is_done() {
                    break Ok(Some(at));
                }
                if end == bytes.len() {
                    break Ok(None);
                }
                end = (end + piece).min(bytes.len());
            };
            prop_assert_eq!(whole, cut);
        }
    }
}
