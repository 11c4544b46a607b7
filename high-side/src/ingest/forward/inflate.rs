//! The payload of a compressed message: gzip, of one member or several, as it comes.

use std::io::{self, Write};

use flate2::write::MultiGzDecoder;

/// Inflates a stream piece by piece. What comes out of one piece is bounded, whatever is in it.
#[derive(Debug)]
pub(super) struct Inflate {
    decoder: MultiGzDecoder<Vec<u8>>,
}

impl Default for Inflate {
    fn default() -> Self {
        Self { decoder: MultiGzDecoder::new(Vec::new()) }
    }
}

impl Inflate {
    /// Takes some of `data` and appends what it inflates to; gives how much was taken.
    pub(super) fn push(&mut self, data: &[u8], out: &mut Vec<u8>) -> io::Result<usize> {
        let piece = &data[..data.len().min(PIECE_BYTES)];
        let taken = self.decoder.write(piece)?;
        if taken == 0 && !piece.is_empty() {
            return Err(io::ErrorKind::InvalidData.into());
        }
        out.append(self.decoder.get_mut());
        Ok(taken)
    }

    /// The rest, and whether the last member is whole and its checksum right.
    pub(super) fn finish(&mut self, out: &mut Vec<u8>) -> io::Result<()> {
        self.decoder.try_finish()?;
        out.append(self.decoder.get_mut());
        Ok(())
    }
}

/// Whether a payload is compressed: as entries these bytes would be the numbers 31 and a map, and
/// entries are arrays. What the message says of it comes only after it.
pub(super) fn is_gzip(start: &[u8]) -> bool {
    start.starts_with(&MAGIC)
}

pub(super) const MAGIC: [u8; 2] = [0x1f, 0x8b];

/// What is inflated at once. Deflate makes at most 1,032 bytes of one.
const PIECE_BYTES: usize = 512;

#[cfg(test)]
mod tests {
    use super::*;

    fn gzip(data: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
        encoder.write_all(data).unwrap();
        encoder.finish().unwrap()
    }

    fn inflate(mut data: &[u8]) -> io::Result<Vec<u8>> {
        let mut inflate = Inflate::default();
        let (mut out, mut all) = (Vec::new(), Vec::new());
        while !data.is_empty() {
            let taken = inflate.push(data, &mut out)?;
            assert!(out.len() <= 1032 * PIECE_BYTES + (64 << 10), "{} at once", out.len());
            data = &data[taken..];
            all.append(&mut out);
        }
        inflate.finish(&mut out)?;
        all.append(&mut out);
        Ok(all)
    }

    #[test]
    fn one_member_or_several_and_nothing_else() {
        let text = b"penstock".repeat(10_000);
        let (one, other) = (gzip(&text), gzip(b"other"));
        assert_eq!(inflate(&one).unwrap(), text);
        assert_eq!(inflate(&[&one[..], &other].concat()).unwrap(), [&text[..], b"other"].concat());
        assert!(is_gzip(&one) && !is_gzip(b"\x92\x05"));
        for broken in
            [&one[..one.len() - 1], &one[..20], &[&one[..], b"xx"].concat(), b"no gzip at all"]
        {
            assert!(inflate(broken).is_err());
        }
        let mut damaged = one.clone();
        let at = damaged.len() - 6;
        damaged[at] ^= 1;
        assert!(inflate(&damaged).is_err(), "the checksum");
    }

    #[test]
    fn a_bomb_comes_in_bounded_pieces() {
        assert_eq!(inflate(&gzip(&vec![0; 32 << 20])).unwrap().len(), 32 << 20);
    }
}
