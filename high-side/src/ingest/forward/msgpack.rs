//! `MessagePack`, as far as it is needed to find where values end and to read them where they stand.
//! Pure; nothing is allocated for what a header only claims.

/// The head of a value: scalars whole, for the others how much follows.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Head {
    Nil,
    Bool(bool),
    /// An integer that is not negative.
    Unsigned(u64),
    /// A negative integer.
    Negative(i64),
    F32(f32),
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
pub(super) enum Malformed {
    #[error("a value is nested deeper than {DEPTH_MAX} levels")]
    Depth,
    #[error("0xc1 begins no value")]
    Reserved,
}

/// The head at the start of `data` and its length, once all of it is there.
pub(super) fn head(data: &[u8]) -> Result<Option<(Head, usize)>, Malformed> {
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
pub(super) struct Skipper {
    /// How many values each open level still holds; the outermost is first.
    levels: Vec<u64>,
    /// Bytes of a string's or the like's content that are still to come.
    content: u64,
}

impl Skipper {
    /// For so many values, one after the other.
    pub(super) fn new(values: u64) -> Self {
        Self { levels: vec![values], content: 0 }
    }

    /// Whether all values have ended.
    pub(super) fn is_done(&self) -> bool {
        self.levels.is_empty() && self.content == 0
    }

    /// Passes over bytes; gives how many are done with. That is fewer than there are at the end of
    /// the values, and where the head of a value is not there as a whole.
    pub(super) fn skip(&mut self, data: &[u8]) -> Result<usize, Malformed> {
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

/// Kubernetes objects reach about 20 levels. Readers of JSON give up at 128.
pub(super) const DEPTH_MAX: usize = 64;

/// The longest head: a marker and eight bytes.
pub(super) const HEAD_BYTES_MAX: usize = 9;

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Where one value ends, if it is whole.
    pub(in super::super) fn end_of(data: &[u8]) -> Result<Option<usize>, Malformed> {
        let mut skipper = Skipper::new(1);
        let at = skipper.skip(data)?;
        Ok(skipper.is_done().then_some(at))
    }

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
