use proptest::prelude::*;

use super::syslog::{Separation, frame_bytes_max, wrap};
use super::*;
use crate::bundle::BundleDigest;

fn key() -> StreamKey {
    StreamKey::from_secret(&[7; 32])
}

fn of(offset: u64) -> PieceOf {
    PieceOf {
        bundle: BundleDigest::of(b"file"),
        name: "plant-7-flash-0000000001-0123456789abcdef.pstk".parse().unwrap(),
        total: 10_000,
        offset,
    }
}

fn framed(offset: u64, bytes: &[u8]) -> Vec<u8> {
    let mut frame = Vec::new();
    piece(&key(), &of(offset), bytes, &mut frame);
    frame
}

/// Everything that is found, fed in reads of `step` bytes: pieces as (offset, bytes).
#[cfg(feature = "open")]
fn read(mut decoder: Decoder, stream: &[u8], step: usize) -> (Vec<(u64, Vec<u8>)>, Vec<Refused>) {
    let (mut pieces, mut refused) = (Vec::new(), Vec::new());
    for bytes in stream.chunks(step.max(1)) {
        decoder.push(bytes);
        loop {
            match decoder.next() {
                Found::More => break,
                Found::Hello => {}
                Found::Piece(piece) => pieces.push((piece.of.offset, piece.bytes.to_vec())),
                Found::Refused(why) => refused.push(why),
            }
        }
        assert!(decoder.unfinished() <= FRAME_BYTES_MAX + step);
    }
    decoder.finish();
    loop {
        match decoder.next() {
            Found::More => break,
            Found::Hello => {}
            Found::Piece(piece) => pieces.push((piece.of.offset, piece.bytes.to_vec())),
            Found::Refused(why) => refused.push(why),
        }
    }
    (pieces, refused)
}

#[cfg(feature = "open")]
#[test]
fn the_layout_is_the_one_that_is_described() {
    let frame = framed(5, b"abc");
    assert_eq!(&frame[..8], b"PSTKFRM1");
    assert_eq!(frame[16..20], [2, 46, 0, 0]);
    assert_eq!(frame[20..24], (46u32 + 3 + 16).to_le_bytes());
    assert_eq!(
        (&frame[24..32], &frame[32..40]),
        (&10_000u64.to_le_bytes()[..], &5u64.to_le_bytes()[..])
    );
    assert_eq!(frame.len(), overhead(46) + 3);
    // The codes are part of the layout: another implementation has to come to the same.
    assert_eq!(key().name(), "41cf94ad97ddaf40");
}

#[cfg(feature = "open")]
#[test]
fn frames_come_back_however_they_are_cut_and_what_is_between_them_is_passed_over() {
    let mut stream = b"hello?".to_vec();
    hello(&key(), &mut stream);
    stream.extend(framed(0, b"one"));
    stream.extend(b"PSTKFRM1 is no frame, nor is PSTKFR");
    stream.extend(framed(3, b"two"));
    for step in [1, 7, 100, 10_000] {
        let (pieces, refused) = read(Decoder::frames(key()), &stream, step);
        assert_eq!(pieces, [(0, b"one".to_vec()), (3, b"two".to_vec())], "{step}");
        assert!(refused.contains(&Refused::OtherLink), "{refused:?}");
    }
}

#[cfg(feature = "open")]
#[test]
fn no_flipped_bit_gives_a_piece() {
    let frame = framed(0, b"some bytes");
    for at in 0..frame.len() * 8 {
        let mut flipped = frame.clone();
        flipped[at / 8] ^= 1 << (at % 8);
        let (pieces, _) = read(Decoder::frames(key()), &flipped, 1000);
        assert!(pieces.is_empty(), "bit {at}");
    }
}

#[cfg(feature = "open")]
#[test]
fn a_hole_costs_the_frames_it_lies_in() {
    // What a link that loses blocks makes of a stream: bytes missing from the middle.
    let mut stream = Vec::new();
    for at in 0..20u8 {
        stream.extend(framed(u64::from(at) * 100, &[at; 100]));
    }
    stream.drain(700..1900);
    let (pieces, refused) = read(Decoder::frames(key()), &stream, 333);
    assert!(pieces.iter().all(|(at, bytes)| bytes[..] == vec![(at / 100) as u8; 100]));
    assert!(pieces.len() >= 20 - 1200usize.div_ceil(framed(0, &[0; 100]).len()) - 1);
    assert!(refused.contains(&Refused::Body));
}

#[cfg(feature = "open")]
#[test]
fn what_stands_in_a_frame_that_was_cut_at_the_end_is_found() {
    let mut stream = framed(0, &[1; 9000]);
    stream.truncate(5000);
    stream.extend(framed(9000, b"after the hole"));
    let (pieces, refused) = read(Decoder::frames(key()), &stream, 1000);
    assert_eq!(pieces, [(9000, b"after the hole".to_vec())]);
    assert_eq!(refused[0], Refused::Body);
}

#[cfg(feature = "open")]
#[test]
fn a_connection_of_repeated_headers_is_given_up() {
    let frame = framed(0, &[1; 9000]);
    let mut decoder = Decoder::frames(key());
    for round in 0.. {
        decoder.push(&frame[..HEADER_BYTES]);
        decoder.push(&[0; 9100]);
        let mut hopeless = false;
        loop {
            match decoder.next() {
                Found::More => break,
                Found::Refused(Refused::Hopeless) => hopeless = true,
                Found::Refused(_) => {}
                other => panic!("{other:?}"),
            }
        }
        if hopeless {
            break;
        }
        assert!(round < 2000);
    }
}

#[cfg(feature = "open")]
#[test]
fn another_key_is_told_from_damage() {
    let other = Decoder::frames(StreamKey::from_secret(&[8; 32]));
    let (pieces, refused) = read(other, &framed(0, b"x"), 100);
    assert!(pieces.is_empty());
    assert_eq!(refused[0], Refused::OtherLink);
}

#[cfg(feature = "open")]
#[test]
fn syslog_carries_frames_through_whatever_framing_a_relay_chooses() {
    let frames = [framed(0, b"one"), framed(3, &[0xff; 500])];
    let mut wanted = vec![(0, b"one".to_vec()), (3, vec![0xff; 500])];
    for separation in [Separation::OctetCount, Separation::LineFeed] {
        let mut stream = Vec::new();
        for frame in &frames {
            wrap(frame, separation, &mut stream);
        }
        for step in [1, 64, 4096] {
            let (pieces, refused) = read(Decoder::syslog(key()), &stream, step);
            assert_eq!((pieces, refused.len()), (wanted.clone(), 0), "{separation:?} {step}");
        }
    }
    // Another header, and a message that the relay cut.
    let mut message = Vec::new();
    wrap(&frames[0], Separation::Datagram, &mut message);
    let text = String::from_utf8(message).unwrap();
    let text = text.replace("<110>1 - -", "<13>1 2026-11-25T03:10:00.1Z relay");
    let stream = format!("{}\n{text}\n", &text[..text.len() - 9]);
    let (pieces, refused) = read(Decoder::syslog(key()), stream.as_bytes(), 50);
    wanted.truncate(1);
    assert_eq!((pieces, refused), (wanted, vec![Refused::Text]));
}

#[cfg(feature = "open")]
#[test]
fn a_datagram_is_whole_or_refused() {
    let mut message = Vec::new();
    wrap(&framed(0, b"one"), Separation::Datagram, &mut message);
    let mut datagrams = Datagrams::new(key());
    assert!(matches!(datagrams.read(&message), Found::Piece(_)));
    assert_eq!(datagrams.read(&message[..100]), Found::Refused(Refused::Text));
    assert_eq!(datagrams.read(b"<110>1 nothing of ours"), Found::Refused(Refused::Text));
    assert_eq!(datagrams.read(b""), Found::Refused(Refused::Text));
    assert!(matches!(datagrams.read(&message), Found::Piece(_)));
}

#[test]
fn a_message_is_as_long_as_it_may_be() {
    for message_bytes_max in [512, 1400, 2048, 8192] {
        let frame = vec![0x5a; frame_bytes_max(message_bytes_max)];
        let mut message = Vec::new();
        wrap(&frame, Separation::Datagram, &mut message);
        assert!((message_bytes_max - 3..=message_bytes_max).contains(&message.len()));
    }
}

#[cfg(feature = "open")]
proptest! {
    #[test]
    fn no_bytes_panic_or_are_held_without_end(bytes in prop::collection::vec(any::<u8>(), 0..400), step in 1usize..100) {
        let with_magic = [&MAGIC[..], key().link(), &bytes, b"PSTK1:", &bytes, b"."].concat();
        for stream in [&bytes, &with_magic] {
            prop_assert!(read(Decoder::frames(key()), stream, step).0.is_empty());
            prop_assert!(read(Decoder::syslog(key()), stream, step).0.is_empty());
        }
    }
}
