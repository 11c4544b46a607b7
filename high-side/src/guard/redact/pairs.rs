//! A telling name and its value, in whatever notation: `NAME=value`, `name: value`, `"name": "value"`,
//! `--name value`, `<name>value</name>`, `name="..." value="..."`.

use super::anchor::Hit;
use super::{Detector, Pass, mark};

/// A few comparisons: whether a value may stand behind the name in which an anchor is.
pub(super) fn may_have_value(text: &[u8], start: usize, hit: Hit) -> bool {
    let end = name_end(text, hit.end);
    let Some(&next) = text.get(end) else { return false };
    match next {
        b'=' | b':' | b'"' | b'\'' | b'\\' | b'%' | b'>' | b'\n' | b'\r' | b'`' | b']' | b'(' => {
            true
        }
        b' ' | b'\t' => {
            let begin = name_start(text, start, hit.start);
            let name = &text[begin..end];
            text.get(begin) == Some(&b'-')
                || name.len() <= 6
                || SPOKEN.iter().any(|word| name.eq_ignore_ascii_case(word))
                || text[end..]
                    .iter()
                    .find(|byte| !matches!(byte, b' ' | b'\t'))
                    .is_some_and(|byte| matches!(byte, b'=' | b':' | b'"' | b'\'' | b'\\'))
        }
        _ => false,
    }
}

impl Pass<'_> {
    /// Looks at the name in which an anchor stands; says where to go on.
    pub(super) fn pair(&mut self, text: &[u8], hit: Hit) -> usize {
        let end = name_end(text, hit.end);
        let begin = name_start(text, 0, hit.start);
        let dashes = text[begin..end].iter().take_while(|byte| matches!(byte, b'-' | b'.')).count();
        let start = begin + dashes;
        if start >= end {
            return end;
        }
        let name = &text[start..end];
        if let Some(next) = self.scheme(text, start, end) {
            return next;
        }
        let lower = name.to_ascii_lowercase();
        if lower.ends_with(b"identified") {
            return self.identified_by(text, end);
        }
        let Some(rule) = self.named_in_text(name) else { return end };
        if let Some(next) = self.element(text, start, end, rule) {
            return next;
        }
        if let Some(next) = self.value_beside(text, start, end, rule) {
            return next;
        }
        let flag = dashes > 0 && text[begin] == b'-';
        let mut at = end;
        if text.get(at) == Some(&b']') {
            at += 1;
        }
        // The quote that closes the name, however often it was escaped.
        let quote = quote_at(text, at);
        let quoted = quote > 0 && start > 0 && quote_ends_at(text, start) > 0;
        if quoted {
            at += quote;
        }
        at = skip_blanks(text, at);
        let separator = separator_at(text, at);
        if separator == 0 {
            let blank = at > end;
            let spoken = [&b"requirepass"[..], b"masterauth"].contains(&lower.as_slice());
            let sql = blank && !quoted && quote_at(text, at) > 0 && lower.ends_with(b"password");
            let login = lower == b"password" && follows_login(text, start);
            let call = text.get(end) == Some(&b'(') && quote_at(text, end + 1) > 0;
            if call {
                return self.replace_value_at(text, end + 1, rule, Stop::Word);
            }
            let takes = flag && !lower.starts_with(b"no-");
            if (takes && blank && text.get(at) != Some(&b'-'))
                || sql
                || (blank && (spoken || login))
            {
                return self.replace_value_at(text, at, rule, Stop::Word);
            }
            return end;
        }
        // `arn:aws:secretsmanager:...:secret:NAME` and the like.
        if text[at] == b':' && start > 0 && text[start - 1] == b':' {
            return end;
        }
        let assign = text[at] == b'=';
        let value = skip_blanks(text, at + separator);
        let header = HEADERS.iter().any(|known| lower == *known || lower.ends_with(known));
        let stop = if header && !assign {
            Stop::Line
        } else if !flag && is_line_start(text, begin, quoted) {
            Stop::LineUnlessPairs
        } else {
            Stop::Word
        };
        if !assign && let Some(next) = self.yaml_value(text, begin, value, rule) {
            return next;
        }
        let range = value_range(text, value, stop);
        if mark::is_key_path(name, &text[range.clone()]) {
            return range.end;
        }
        self.replace_value_at(text, value, rule, stop)
    }

    /// `Bearer ...`, `Basic ...`, `Token ...`.
    fn scheme(&mut self, text: &[u8], start: usize, end: usize) -> Option<usize> {
        let name = &text[start..end];
        let scheme =
            [&b"bearer"[..], b"basic"].iter().any(|known| name.eq_ignore_ascii_case(known));
        let follows = matches!(text.get(end), Some(b' ' | b'+')) || text[end..].starts_with(b"%20");
        if !scheme || !follows {
            return None;
        }
        let rule = self.detector(Detector::Bearer)?;
        let value = end + if text[end] == b'%' { 3 } else { 1 };
        let value = skip_blanks(text, value);
        let length = text[value..]
            .iter()
            .take_while(|byte| byte.is_ascii_alphanumeric() || b"-._~+/=%:$!".contains(byte))
            .count();
        let token = &text[value..value + length];
        // Prose such as "basic authentication" has no token behind the word.
        let plain = token.iter().all(|byte| byte.is_ascii_lowercase() || b".:".contains(byte));
        let word = PROSE.iter().any(|word| token.eq_ignore_ascii_case(word));
        if length >= SCHEME_VALUE_BYTES_MIN && !word && !(plain && length < 16) {
            self.replace_text(text, value, value + length, rule);
            return Some(value + length);
        }
        Some(end)
    }

    /// SQL: `IDENTIFIED BY '...'`.
    fn identified_by(&mut self, text: &[u8], end: usize) -> usize {
        let Some(rule) = self.detector(Detector::CommandLine) else { return end };
        let window = &text[end..text.len().min(end + 64)];
        let by = window.windows(2).position(|two| two.eq_ignore_ascii_case(b"by"));
        let Some(by) = by else { return end };
        let value = skip_blanks(text, end + by + 2);
        if quote_at(text, value) == 0 {
            return end;
        }
        self.replace_value_at(text, value, rule, Stop::Word)
    }

    /// `<name>value</name>`, with attributes and name spaces.
    fn element(&mut self, text: &[u8], start: usize, end: usize, rule: u8) -> Option<usize> {
        let head = &text[start.saturating_sub(ELEMENT_BYTES_MAX)..start];
        let open = head.iter().rposition(|byte| !byte.is_ascii_alphanumeric() && *byte != b':');
        if open.map(|at| head[at]) != Some(b'<') {
            return None;
        }
        let tail = &text[end..text.len().min(end + ELEMENT_BYTES_MAX)];
        let close = memchr::memchr(b'>', tail)?;
        if tail[..close].ends_with(b"/") || !matches!(tail[0], b'>' | b' ' | b'\t' | b'\n') {
            return None;
        }
        let value = end + close + 1;
        let length = memchr::memchr(b'<', &text[value..]).unwrap_or(text.len() - value);
        let cdata = text[value..].starts_with(b"<![CDATA[");
        if cdata {
            let value = value + b"<![CDATA[".len();
            let length = memchr::memmem::find(&text[value..], b"]]>").unwrap_or(text.len() - value);
            self.replace_text(text, value, value + length, rule);
            return Some(value + length);
        }
        self.replace_text(text, value, value + length, rule);
        Some(value + length)
    }

    /// The name is itself a value: `name: DB_PASSWORD` with `value: ...` behind it, in YAML, XML
    /// attributes and form parts.
    fn value_beside(&mut self, text: &[u8], start: usize, end: usize, rule: u8) -> Option<usize> {
        let mut at = start - quote_ends_at(text, start);
        at -= text[..at].iter().rev().take_while(|byte| **byte == b' ').count();
        let head = &text[..at];
        let head = head
            .strip_suffix(b":")
            .or_else(|| head.strip_suffix(b"="))
            .or_else(|| head.strip_suffix(b">"))?;
        let head = &head[..head.len() - quote_ends_at(head, head.len())];
        let head = head.trim_ascii_end();
        let named = [&b"name"[..], b"Name", b"NAME", b"key", b"Key", b"KEY", b"variable"];
        if !named.iter().any(|name| head.ends_with(name)) {
            return None;
        }
        let behind = end + quote_at(text, end);
        let window = &text[behind..text.len().min(behind + BESIDE_BYTES_MAX)];
        // A part of a form: its value stands behind an empty line.
        if let Some(gap) = memchr::memmem::find(window, b"\r\n\r\n").filter(|gap| *gap < 96) {
            let value = behind + gap + 4;
            let length =
                memchr::memmem::find(&text[value..], b"\r\n--").unwrap_or(text.len() - value);
            self.replace_text(text, value, value + length, rule);
            return Some(value + length);
        }
        // Up to the next entry's name.
        let stop = memchr::memmem::find(window, b"name").unwrap_or(window.len());
        let found = window[..stop].windows(5).position(|five| five.eq_ignore_ascii_case(b"value"));
        let Some(found) = found else {
            // `<entry key="password">value</entry>`
            if window.first() == Some(&b'>') {
                let length = memchr::memchr(b'<', &window[1..]).unwrap_or(window.len() - 1);
                self.replace_text(text, behind + 1, behind + 1 + length, rule);
                return Some(behind + 1 + length);
            }
            return None;
        };
        let mut at = behind + found + 5;
        at += quote_at(text, at);
        at = skip_blanks(text, at);
        if text.get(at) == Some(&b'>') {
            let length = memchr::memchr(b'<', &text[at..]).unwrap_or(text.len() - at);
            self.replace_text(text, at + 1, at + length, rule);
            return Some(at + length);
        }
        let separator = separator_at(text, at);
        if separator == 0 {
            return None;
        }
        let value = skip_blanks(text, at + separator);
        let begin = behind + found;
        if let Some(next) = self.yaml_value(text, begin, value, rule) {
            return Some(next);
        }
        let stop =
            if is_line_start(text, begin, false) { Stop::LineUnlessPairs } else { Stop::Word };
        Some(self.replace_value_at(text, value, rule, stop))
    }

    /// Replaces the value that begins at `at`.
    pub(super) fn replace_value_at(
        &mut self,
        text: &[u8],
        at: usize,
        rule: u8,
        stop: Stop,
    ) -> usize {
        let range = value_range(text, at, stop);
        let value = &text[range.clone()];
        let stays = value.is_empty()
            || mark::is_variable(value)
            || mark::is_count(value)
            || [&b"null"[..], b"true", b"false", b"~", b"<nil>", b"<NA>"].contains(&value);
        if !stays {
            self.replace_text(text, range.start, range.end, rule);
        }
        range.end.max(at)
    }
}

/// Where a value without quotes ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stop {
    /// At the end of the line, or a quote around the whole.
    Line,
    /// At the end of the line, unless more pairs follow in it.
    LineUnlessPairs,
    /// At a blank, or a delimiter with something behind it that looks like the next pair.
    Word,
}

fn value_range(text: &[u8], at: usize, stop: Stop) -> std::ops::Range<usize> {
    let quote = quote_at(text, at);
    if quote > 0 {
        let start = at + quote;
        return start..closing_quote(text, start, &text[at..start]);
    }
    // A mark from before: what follows it decides, as it did then.
    let from = at + mark::mark_length(&text[at..]);
    if from == at && matches!(text.get(at), Some(b'{' | b'[')) && stop != Stop::Line {
        return at..closing_bracket(text, at);
    }
    let mut end = from;
    while end < text.len() {
        let byte = text[end];
        // What follows in the line, as far as anybody looks.
        let ahead = || {
            let window = &text[end..text.len().min(end + AHEAD_BYTES_MAX)];
            let line = memchr::memchr3(b'\n', b'\r', 0, window).unwrap_or(window.len());
            &window[..line]
        };
        let ends = match byte {
            b'\n' | b'\r' | 0 | b'"' | b'`' => true,
            b'\'' | b'<' | b'>' => stop != Stop::LineUnlessPairs,
            b'\\' => {
                quote_at(text, end) > 0 || matches!(text.get(end + 1), Some(b'n' | b'r' | b't'))
            }
            b' ' | b'\t' => match stop {
                Stop::Line => false,
                Stop::LineUnlessPairs => {
                    let ahead = ahead();
                    ahead.starts_with(b" #") || pair_follows(ahead)
                }
                Stop::Word => true,
            },
            b'&' | b',' | b';' if stop != Stop::Line => {
                let ahead = ahead();
                pair_follows(ahead) || ahead.len() == 1 || ahead[1] == b' ' && stop == Stop::Word
            }
            b')' | b']' | b'}' => {
                stop == Stop::Word
                    && ahead()[1..]
                        .iter()
                        .take(GAP_BYTES_MAX)
                        .find(|byte| !b")]}".contains(byte))
                        .is_none_or(|byte| b" ,;&\"'".contains(byte))
            }
            _ => false,
        };
        if ends {
            break;
        }
        end += 1;
    }
    if end > from || from == at {
        end -= text[from..end].iter().rev().take_while(|byte| matches!(byte, b' ' | b'\t')).count();
    }
    at..end
}

/// Whether behind a delimiter there is a name and `=` or `:`, or an option.
fn pair_follows(text: &[u8]) -> bool {
    let mut head = text.iter().take(GAP_BYTES_MAX);
    let rest = head.position(|byte| !matches!(byte, b' ' | b'\t' | b'&' | b',' | b';'));
    let Some(rest) = rest.map(|at| &text[at..]) else { return false };
    if rest.starts_with(b"--") {
        return true;
    }
    let rest = &rest[quote_at(rest, 0)..];
    let length = rest.iter().take(NAME_BYTES_MAX).take_while(|byte| is_name(**byte)).count();
    let behind = &rest[length..];
    let behind = &behind[quote_at(behind, 0)..];
    length > 0 && rest[0].is_ascii_alphabetic() && matches!(behind.first(), Some(b'=' | b':'))
}

/// Where the quote that was opened closes: the same, as often escaped.
pub(super) fn closing_quote(text: &[u8], start: usize, quote: &[u8]) -> usize {
    let last = quote.len() - 1;
    let mut at = start;
    while let Some(found) = memchr::memchr(quote[last], &text[at..]).map(|found| at + found) {
        let escapes = text[start..found].iter().rev().take_while(|byte| **byte == b'\\').count();
        // Deeper escapes belong to the value. An even number before a plain quote is escaped
        // backslashes.
        if escapes == last || (last == 0 && escapes % 2 == 0) || (last > 0 && escapes < last) {
            return found - escapes.min(last);
        }
        at = found + 1;
    }
    text.len()
}

fn closing_bracket(text: &[u8], at: usize) -> usize {
    let mut depth = 0_usize;
    for (offset, byte) in text[at..].iter().enumerate() {
        match byte {
            b'{' | b'[' => depth += 1,
            b'}' | b']' => {
                depth -= 1;
                if depth == 0 {
                    return at + offset + 1;
                }
            }
            _ => {}
        }
    }
    text.len()
}

/// The length of a quote with its escapes: `"`, `'`, `\"`, `\\\"`.
pub(super) fn quote_at(text: &[u8], at: usize) -> usize {
    let escapes = text[at.min(text.len())..]
        .iter()
        .take(ESCAPES_MAX)
        .take_while(|byte| **byte == b'\\')
        .count();
    match text.get(at + escapes) {
        Some(b'"' | b'\'') => escapes + 1,
        Some(b'`') if escapes == 0 => 1,
        _ => 0,
    }
}

/// The length of a quote with its escapes that ends at `at`.
pub(super) fn quote_ends_at(text: &[u8], at: usize) -> usize {
    match at.checked_sub(1).map(|before| text[before]) {
        Some(b'"' | b'\'' | b'`') => {
            1 + text[..at - 1].iter().rev().take_while(|byte| **byte == b'\\').count()
        }
        _ => 0,
    }
}

/// The length of what separates a name from its value.
fn separator_at(text: &[u8], at: usize) -> usize {
    match text.get(at..).unwrap_or_default() {
        [b'=' | b':', b'=' | b'>', ..] if text.get(at + 1) != Some(&b'=') || text[at] == b':' => 2,
        [b'=' | b':', ..] => 1,
        _ => 0,
    }
}

fn skip_blanks(text: &[u8], at: usize) -> usize {
    at + text[at.min(text.len())..].iter().take_while(|byte| matches!(byte, b' ' | b'\t')).count()
}

fn is_name(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.')
}

fn name_end(text: &[u8], from: usize) -> usize {
    // An anchor may hold the separator.
    let from = from - text[..from].iter().rev().take_while(|byte| !is_name(**byte)).count();
    from + text[from..].iter().take(NAME_BYTES_MAX).take_while(|byte| is_name(**byte)).count()
}

fn name_start(text: &[u8], floor: usize, from: usize) -> usize {
    from - text[floor..from]
        .iter()
        .rev()
        .take(NAME_BYTES_MAX)
        .take_while(|byte| is_name(**byte))
        .count()
}

/// Whether only indentation, a list's dash, or a word such as `export` stands before a name.
fn is_line_start(text: &[u8], begin: usize, quoted: bool) -> bool {
    let begin = if quoted { begin - quote_ends_at(text, begin) } else { begin };
    let floor = begin.saturating_sub(LINE_HEAD_BYTES_MAX);
    let line = text[floor..begin].iter().rposition(|byte| matches!(byte, b'\n' | b'\r' | 0));
    let head = match line {
        Some(at) => &text[floor + at + 1..begin],
        None if floor == 0 => &text[..begin],
        None => return false,
    };
    let head = head.trim_ascii();
    head.iter().all(|byte| matches!(byte, b'-' | b' ' | b'"' | b'\''))
        || [&b"export"[..], b"ENV", b"ARG", b"set", b"SET", b"- export"].contains(&head)
}

/// `machine HOST login NAME password ...`
fn follows_login(text: &[u8], start: usize) -> bool {
    let head = text[start.saturating_sub(LINE_HEAD_BYTES_MAX)..start].trim_ascii_end();
    let Some(blank) = head.iter().rposition(u8::is_ascii_whitespace) else { return false };
    head[..blank].trim_ascii_end().ends_with(b"login")
}

/// Names that take their value behind a blank.
const SPOKEN: &[&[u8]] =
    &[b"requirepass", b"masterauth", b"bearer", b"basic", b"password", b"identified"];

/// Headers whose value is the rest of the line.
const HEADERS: &[&[u8]] = &[b"authorization", b"cookie"];

/// What follows `basic` and `bearer` in prose.
const PROSE: &[&[u8]] =
    &[b"authentication", b"auth", b"token", b"tokens", b"realm", b"error", b"credentials"];

/// A quote in six layers of JSON has so many backslashes before it.
const ESCAPES_MAX: usize = 63;

/// Blanks and brackets between two pairs: a longer run ends what was before it, or not, alike.
const GAP_BYTES_MAX: usize = 32;

/// A delimiter, a gap, and a name with its separator: how far is looked ahead for the next pair.
const AHEAD_BYTES_MAX: usize = 2 * GAP_BYTES_MAX + ESCAPES_MAX + 2 * NAME_BYTES_MAX;

/// No name is longer; what is, is no name.
const NAME_BYTES_MAX: usize = 128;

/// Base64 of the shortest user and password.
const SCHEME_VALUE_BYTES_MIN: usize = 4;

/// An element's tag with its attributes.
const ELEMENT_BYTES_MAX: usize = 256;

/// How far behind its name an entry's value begins.
const BESIDE_BYTES_MAX: usize = 256;

/// Indentation, a dash and a word.
const LINE_HEAD_BYTES_MAX: usize = 96;
