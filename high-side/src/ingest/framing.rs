//! RFC 6587: from the bytes of one connection to messages. Pure; it reads nothing and copies nothing.
//!
//! Both framings of RFC 6587 may alternate on one connection, so each frame is recognised by itself:
//!
//! ```text
//! digits SP '<'         counted: so many bytes follow, kept exactly, a trailing LF included
//! digits SP other       counted after a counted frame; as the first frame of a connection where
//!                       the count fits what follows; else a line
//! anything else         a line: up to LF or NUL, whichever is first
//! ```
//!
//! Invariants: every byte given is consumed exactly once; a message is a run of the bytes given; the
//! caller never has to hold more than the longest message and its count; the work is linear in the
//! bytes given, however they are cut into reads.

use std::ops::Range;

/// What the bytes at hand are, as [`Framer::step`] sees them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// A line without content: to be counted, not stored.
    Empty {
        /// How many bytes are done with.
        consumed: usize,
    },
    /// The head of a message that is longer than the limit; a [`Step::Tail`] follows.
    Head {
        /// Where the kept bytes are.
        body: Range<usize>,
        /// How many bytes are done with.
        consumed: usize,
    },
    /// A whole message.
    Message {
        /// Where its bytes are.
        body: Range<usize>,
        /// How many bytes are done with.
        consumed: usize,
        /// The full length, where not all of the message is in `body`.
        cut_from: Option<u64>,
    },
    /// Nothing whole is left.
    More {
        /// How many bytes are done with.
        consumed: usize,
        /// How many bytes must fit the buffer, after those are dropped, for the next step.
        want: usize,
    },
    /// The end of the message whose head was given.
    Tail {
        /// How many bytes are done with.
        consumed: usize,
        /// The full length of the message.
        cut_from: u64,
    },
}

/// The framing of one connection.
#[derive(Debug)]
pub struct Framer {
    message_bytes_max: usize,
    previous: Previous,
    state: State,
    /// How many bytes of the stream are consumed; the searches below remember stream offsets.
    base: u64,
    /// The first NUL at or after any offset up to itself.
    nul_at: Option<u64>,
    /// Before this offset no line feed is part of a NUL-terminated message.
    lines_until: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Previous {
    Counted,
    Line,
    None,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Inside a line whose first bytes have been searched for its end.
    Line {
        searched: usize,
    },
    SkipCounted {
        count: u64,
        left: u64,
    },
    SkipLine {
        length: u64,
    },
    Start,
}

/// What the start of a frame says.
enum Start {
    Counted { body: usize, count: u64 },
    Line,
    Undecided { want: usize },
}

impl Framer {
    /// A connection's framing, at its first byte.
    pub fn new(message_bytes_max: usize) -> Self {
        Self {
            message_bytes_max,
            previous: Previous::None,
            state: State::Start,
            base: 0,
            nul_at: None,
            lines_until: 0,
        }
    }

    /// Looks at `data`, which begins at the first byte not yet consumed. `end` says that the
    /// connection gives no more: then an unfinished message is a message too.
    pub fn step(&mut self, data: &[u8], end: bool) -> Step {
        let step = match self.state {
            State::Start => self.start(data, end),
            State::Line { searched } => self.line(data, 0, searched, end),
            State::SkipCounted { count, left } => self.skip_counted(data, count, left, end),
            State::SkipLine { length } => self.skip_line(data, length, end),
        };
        self.base += step.consumed() as u64;
        step
    }

    fn start(&mut self, data: &[u8], end: bool) -> Step {
        let at = if self.previous == Previous::Counted { stray_terminators(data, end) } else { 0 };
        let rest = &data[at..];
        if rest.is_empty() {
            return Step::More { consumed: at, want: 1 };
        }
        match self.recognise(rest, end) {
            Start::Counted { body, count } => self.counted(data, at, body, count, end),
            Start::Line => self.line(data, at, 0, end),
            Start::Undecided { want } => Step::More { consumed: at, want },
        }
    }

    fn recognise(&self, data: &[u8], end: bool) -> Start {
        let digits =
            data.iter().take(COUNT_DIGITS_MAX + 1).take_while(|b| b.is_ascii_digit()).count();
        if digits == 0 || digits > COUNT_DIGITS_MAX {
            return Start::Line;
        }
        let undecided = |want| {
            if end { Start::Line } else { Start::Undecided { want } }
        };
        match data.get(digits) {
            None => return undecided(digits + 1),
            Some(b' ') => {}
            Some(_) => return Start::Line,
        }
        let count = data[..digits].iter().fold(0, |sum, digit| sum * 10 + u64::from(digit - b'0'));
        let body = digits + 1;
        if count > SKIP_BYTES_MAX {
            return Start::Line;
        }
        if self.previous == Previous::Counted || data.get(body) == Some(&b'<') {
            return Start::Counted { body, count };
        }
        if data.len() == body {
            return undecided(body + 1);
        }
        let guess_max = GUESS_BYTES_MAX.min(self.message_bytes_max as u64);
        if self.previous == Previous::Line || count > guess_max {
            return Start::Line;
        }
        // The first frame of a connection, and no '<' after the count: the count must fit.
        let after = body + count as usize;
        match data.get(after) {
            Some(&byte) if starts_frame(byte) || is_terminator(byte) => {
                Start::Counted { body, count }
            }
            Some(_) => Start::Line,
            None if data.len() == after => Start::Counted { body, count },
            // A line's end inside: holding it back for a count that may never be met is worse.
            None if memchr::memchr2(b'\n', 0, &data[body..]).is_some() => Start::Line,
            None => undecided(after),
        }
    }

    fn counted(&mut self, data: &[u8], at: usize, body: usize, count: u64, end: bool) -> Step {
        let start = at + body;
        let there = data.len() - start;
        let kept = count.min(self.message_bytes_max as u64) as usize;
        if there >= kept {
            self.previous = Previous::Counted;
            let consumed = start + kept;
            if count > kept as u64 {
                self.state = State::SkipCounted { count, left: count - kept as u64 };
                return Step::Head { body: start..consumed, consumed };
            }
            return match kept {
                0 => Step::Empty { consumed },
                _ => Step::Message { body: start..consumed, consumed, cut_from: None },
            };
        }
        match (end, there) {
            (false, _) => Step::More { consumed: at, want: body + kept },
            // The count alone came: keep that, since it is all there is.
            (true, 0) => self.line(data, at, 0, end),
            (true, _) => {
                let consumed = data.len();
                Step::Message { body: start..consumed, consumed, cut_from: Some(count) }
            }
        }
    }

    /// A line that begins at `at` and has no end in its first `searched` bytes.
    fn line(&mut self, data: &[u8], at: usize, searched: usize, end: bool) -> Step {
        let found = self.line_end(data, at + searched);
        let length = found.unwrap_or(data.len()) - at;
        let kept = length.min(self.message_bytes_max);
        let body = at..at + kept;
        let cut_from = (length > kept).then_some(length as u64);
        let consumed = match found {
            Some(terminator) => terminator + 1,
            None if end => data.len(),
            None if cut_from.is_some() => {
                self.state = State::SkipLine { length: length as u64 };
                return Step::Head { body, consumed: data.len() };
            }
            None => {
                self.state = State::Line { searched: length };
                return Step::More { consumed: at, want: length + 1 };
            }
        };
        self.state = State::Start;
        // A blank line says nothing about the framing: the next frame may still be the first.
        if length == 0 {
            return Step::Empty { consumed };
        }
        self.previous = Previous::Line;
        Step::Message { body, consumed, cut_from }
    }

    fn skip_counted(&mut self, data: &[u8], count: u64, left: u64, end: bool) -> Step {
        let skipped = left.min(data.len() as u64);
        let consumed = skipped as usize;
        if skipped == left || end {
            self.state = State::Start;
            return Step::Tail { consumed, cut_from: count };
        }
        self.state = State::SkipCounted { count, left: left - skipped };
        Step::More { consumed, want: 1 }
    }

    fn skip_line(&mut self, data: &[u8], length: u64, end: bool) -> Step {
        let found = self.line_end(data, 0);
        let length = length + found.unwrap_or(data.len()) as u64;
        if found.is_none() && !end {
            self.state = State::SkipLine { length };
            return Step::More { consumed: data.len(), want: 1 };
        }
        self.state = State::Start;
        self.previous = Previous::Line;
        Step::Tail { consumed: found.map_or(data.len(), |at| at + 1), cut_from: length }
    }

    /// Where the terminator of a line is, searching from `from`.
    fn line_end(&mut self, data: &[u8], from: usize) -> Option<usize> {
        let at = from + memchr::memchr2(b'\n', 0, &data[from..])?;
        match data.get(at + 1) {
            Some(&next) if data[at] == b'\n' && !starts_frame(next) && !is_terminator(next) => {
                Some(self.closing_nul(data, at + 1).unwrap_or(at))
            }
            _ => Some(at),
        }
    }

    /// The NUL that ends a message with line feeds inside (Python's `SysLogHandler` sends such):
    /// it comes before anything that looks like the start of a frame, and a frame or nothing
    /// follows it. Both searches remember how far they saw, so that no input makes them quadratic.
    fn closing_nul(&mut self, data: &[u8], from: usize) -> Option<usize> {
        let offset = self.base + from as u64;
        if offset < self.lines_until {
            return None;
        }
        let nul = match self.nul_at {
            Some(nul) if nul >= offset => Some((nul - self.base) as usize),
            _ => memchr::memchr(0, &data[from..]).map(|at| from + at),
        };
        self.nul_at = nul.map(|at| self.base + at as u64);
        let Some(nul) = nul else {
            self.lines_until = self.base + data.len() as u64;
            return None;
        };
        let next_start = memchr::memchr_iter(b'\n', &data[from..nul])
            .map(|at| from + at + 1)
            .find(|&at| starts_frame(data[at]));
        let closes = data.get(nul + 1).is_none_or(|&byte| starts_frame(byte));
        match next_start {
            None if closes => return Some(nul),
            None => self.lines_until = self.base + nul as u64,
            Some(start) => self.lines_until = self.base + start as u64,
        }
        None
    }
}

impl Step {
    /// How many bytes are done with after this step.
    pub fn consumed(&self) -> usize {
        match self {
            Step::Empty { consumed }
            | Step::Head { consumed, .. }
            | Step::Message { consumed, .. }
            | Step::More { consumed, .. }
            | Step::Tail { consumed, .. } => *consumed,
        }
    }
}

/// How many bytes before a frame that follows a counted one are a terminator which its sender did
/// not count. A carriage return is only part of one before a line feed.
fn stray_terminators(data: &[u8], end: bool) -> usize {
    let mut at = 0;
    loop {
        match (data.get(at), data.get(at + 1)) {
            (Some(&byte), _) if is_terminator(byte) => at += 1,
            (Some(b'\r'), Some(b'\n')) => at += 2,
            // Whether a line feed follows is not known yet; a line would wait for its end anyhow.
            (Some(b'\r'), None) if !end => return at,
            _ => return at,
        }
    }
}

fn is_terminator(byte: u8) -> bool {
    byte == b'\n' || byte == 0
}

fn starts_frame(byte: u8) -> bool {
    byte == b'<' || byte.is_ascii_digit()
}

/// The longest count that is one: ten digits, since no 32-bit sender writes more.
const COUNT_DIGITS_MAX: usize = 10;

/// The longest counted message whose bytes past the limit are skipped. A greater count is taken for
/// the start of a line, so that one wrong number can't silence a connection for long.
pub const SKIP_BYTES_MAX: u64 = 64 << 20;

/// The longest first frame without `<` that is taken for a counted one: it must be held whole before
/// that can be known.
const GUESS_BYTES_MAX: u64 = 64 << 10;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MAX: usize = 1 << 20;

    /// What a connection gives whose bytes come in the given pieces.
    fn run(pieces: &[&[u8]], max: usize) -> Vec<(Vec<u8>, Option<u64>)> {
        let mut framer = Framer::new(max);
        let mut waiting = Vec::new();
        let mut out = Vec::new();
        let mut head = Vec::new();
        let mut consumed_all = 0;
        let total: usize = pieces.iter().map(|piece| piece.len()).sum();
        for index in 0..=pieces.len() {
            let end = index == pieces.len();
            if let Some(piece) = pieces.get(index) {
                waiting.extend_from_slice(piece);
            }
            loop {
                let step = framer.step(&waiting, end);
                let consumed = step.consumed();
                consumed_all += consumed;
                let more = matches!(step, Step::More { .. });
                match step {
                    Step::Message { body, cut_from, .. } => {
                        assert!(!body.is_empty() && body.len() <= max, "{body:?}");
                        out.push((waiting[body].to_vec(), cut_from));
                    }
                    Step::Head { body, .. } => {
                        assert!(head.is_empty());
                        head = waiting[body].to_vec();
                    }
                    Step::Tail { cut_from, .. } => {
                        out.push((std::mem::take(&mut head), Some(cut_from)));
                    }
                    Step::Empty { .. } => assert!(consumed > 0),
                    Step::More { want, .. } => {
                        let left = waiting.len() - consumed;
                        assert!(left <= max + COUNT_DIGITS_MAX + 1, "holds {left}");
                        assert!(end || want > left, "asks for nothing new");
                    }
                }
                waiting.drain(..consumed);
                if more || (end && waiting.is_empty() && head.is_empty()) {
                    break;
                }
            }
        }
        assert_eq!(consumed_all, total, "every byte is consumed once");
        out
    }

    fn whole(data: &[u8]) -> Vec<String> {
        let show = |(raw, cut): (Vec<u8>, Option<u64>)| {
            let raw = String::from_utf8_lossy(&raw).into_owned();
            cut.map_or(raw.clone(), |cut| format!("{raw} (of {cut})"))
        };
        run(&[data], MAX).into_iter().map(show).collect()
    }

    #[test]
    fn frames_of_both_kinds_alternate() {
        for (data, messages) in [
            ("5 <1>ab5 <2>cd", &["<1>ab", "<2>cd"][..]),
            ("<1>ab\n<2>cd\n", &["<1>ab", "<2>cd"]),
            ("<1>ab\0<2>cd\0", &["<1>ab", "<2>cd"]),
            ("5 <1>ab<2>cd\n5 <3>ef", &["<1>ab", "<2>cd", "<3>ef"]),
            // The line feed is counted in, as rsyslog does it.
            ("6 <1>ab\n6 <2>cd\n", &["<1>ab\n", "<2>cd\n"]),
            // It is not, and the sender adds it all the same.
            ("5 <1>ab\n5 <2>cd\r\n5 <3>ef\0", &["<1>ab", "<2>cd", "<3>ef"]),
            // After a counted frame a count needs no '<' behind it.
            ("5 <1>ab3 abc0 2 x ", &["<1>ab", "abc", "x "]),
            ("<1>ab\r\n\n\n<2>cd", &["<1>ab\r", "<2>cd"]),
        ] {
            assert_eq!(whole(data.as_bytes()), messages, "{data:?}");
        }
    }

    #[test]
    fn a_first_frame_without_a_priority_is_counted_only_if_the_count_fits() {
        for (data, messages) in [
            ("5 hello", &["hello"][..]),
            ("5 hello5 world", &["hello", "world"]),
            ("5 hello\n5 world", &["hello", "world"]),
            ("5 hello there\n", &["5 hello there"]),
            ("2016 was a year\n", &["2016 was a year"]),
            ("122 - - - - - -", &["122 - - - - - -"]),
            ("1", &["1"]),
            ("16<1>1", &["16<1>1"]),
            ("0\n1\n2\n", &["0", "1", "2"]),
        ] {
            assert_eq!(whole(data.as_bytes()), messages, "{data:?}");
        }
    }

    #[test]
    fn wrong_counts_cost_no_byte_and_the_stream_finds_its_frame_again() {
        for (data, messages) in [
            // Too short: the rest is a line of its own.
            ("3 <1>ab\n5 <2>cd", &["<1>", "ab", "<2>cd"][..]),
            // Too long, and the connection ends.
            ("16 <1>1", &["<1>1 (of 16)"]),
            ("5 <1>ab16 ", &["<1>ab", "16 "]),
            // Greater than anything that is skipped, or no number: a line.
            ("99999999999 <1>a\n<2>b\n", &["99999999999 <1>a", "<2>b"]),
            ("4294967295 <1>a\n<2>b\n", &["4294967295 <1>a", "<2>b"]),
        ] {
            assert_eq!(whole(data.as_bytes()), messages, "{data:?}");
        }
    }

    #[test]
    fn a_message_that_ends_with_nul_may_hold_line_feeds() {
        for (data, messages) in [
            ("<1>a\nb\0<2>c\0", &["<1>a\nb", "<2>c"][..]),
            ("<1>a\nb\n\nc\0", &["<1>a\nb\n\nc"]),
            // A NUL inside a line, and a neighbour before it that ended with a line feed.
            ("<1>a\nodd \0 one\n<2>b\n", &["<1>a", "odd ", " one", "<2>b"]),
            ("<1>a\nodd\0\n<2>b\n", &["<1>a", "odd", "<2>b"]),
            ("<1>a\nx\n<2>b\0", &["<1>a", "x", "<2>b"]),
        ] {
            assert_eq!(whole(data.as_bytes()), messages, "{data:?}");
        }
    }

    #[test]
    fn a_message_over_the_limit_is_cut_and_the_next_one_is_whole() {
        let long = "x".repeat(40);
        for (data, cut) in [
            (format!("<1>{long}\n<2>b\n"), 43),
            (format!("43 <1>{long}4 <2>b"), 43),
            (format!("43 <1>{long}\n4 <2>b"), 43),
        ] {
            let data = data.as_bytes();
            for piece in [1, 7, data.len()] {
                let pieces: Vec<_> = data.chunks(piece).collect();
                let messages = run(&pieces, 10);
                let want = [(b"<1>xxxxxxx".to_vec(), Some(cut)), (b"<2>b".to_vec(), None)];
                assert_eq!(messages, want, "in pieces of {piece}");
            }
        }
        assert_eq!(run(&[b"0123456789\n0123456789a"], 10)[0], (b"0123456789".to_vec(), None));
        assert_eq!(run(&[b"0123456789\n0123456789a"], 10)[1].1, Some(11));
        assert_eq!(run(&[b"99 <3456789", b"abc"], 10), [(b"<3456789ab".to_vec(), Some(99))]);
    }

    #[test]
    fn hostile_line_feeds_and_nuls_take_linear_time() {
        // A search for the NUL at every line feed would be 80,000 searches of 256 KiB.
        let mut data = b"\n<\nx".repeat(80_000);
        data.push(0);
        let began = std::time::Instant::now();
        run_in_place(&data);
        data.pop();
        run_in_place(&data);
        assert!(began.elapsed().as_secs() < 5, "{:?}", began.elapsed());
    }

    fn run_in_place(data: &[u8]) {
        let mut framer = Framer::new(MAX);
        let mut at = 0;
        while at < data.len() {
            at += framer.step(&data[at..], true).consumed();
        }
    }

    /// A message as a well-behaved sender frames it, and the message.
    fn frame() -> impl Strategy<Value = (Vec<u8>, Vec<u8>)> {
        let line = proptest::collection::vec(any::<u8>(), 0..30).prop_map(|tail| {
            let clean = tail.into_iter().filter(|byte| *byte != b'\n' && *byte != 0);
            let message: Vec<u8> = b"<1>".iter().copied().chain(clean).collect();
            ([&message[..], b"\n"].concat(), message)
        });
        let counted = proptest::collection::vec(any::<u8>(), 0..30).prop_map(|tail| {
            let message = [b"<1>", &tail[..]].concat();
            ([format!("{} ", message.len()).as_bytes(), &message].concat(), message)
        });
        prop_oneof![line, counted]
    }

    proptest! {
        #[test]
        fn well_framed_messages_come_out_however_they_are_cut(
            frames in proptest::collection::vec(frame(), 1..12),
            piece in 1..40_usize,
        ) {
            let data: Vec<u8> = frames.iter().flat_map(|(bytes, _)| bytes.clone()).collect();
            let pieces: Vec<_> = data.chunks(piece).collect();
            let messages: Vec<_> = run(&pieces, MAX).into_iter().map(|(raw, _)| raw).collect();
            let sent: Vec<_> = frames.into_iter().map(|(_, message)| message).collect();
            prop_assert_eq!(messages, sent);
        }

        #[test]
        fn no_input_panics_loses_a_byte_or_holds_more_than_a_message(
            data in proptest::collection::vec(
                prop_oneof![
                    Just(b'\n'), Just(0), Just(b' '), Just(b'<'), Just(b'\r'),
                    b'0'..=b'9', any::<u8>(),
                ],
                0..300,
            ),
            piece in 1..50_usize,
            max in 1..40_usize,
        ) {
            let pieces: Vec<_> = data.chunks(piece).collect();
            let messages = run(&pieces, max);
            // What is kept stands in the input in the same order.
            let mut from = 0;
            for (raw, _) in messages {
                let at = data[from..].windows(raw.len()).position(|window| window == raw);
                prop_assert!(at.is_some());
                from += at.unwrap() + raw.len();
            }
        }
    }
}
