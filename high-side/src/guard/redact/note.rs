//! The note on a redacted record: which rule acted where, without a byte of any value.

use std::fmt::Write as _;

use super::NOTE_BYTES_MAX;
use super::edit::Edit;
use super::rule::RedactionRule;

pub(super) fn note(rules: &[RedactionRule], edits: &[Edit]) -> Box<str> {
    // Places that differ only in indices are one line: (rule, pattern, first place, how many).
    let mut lines: Vec<(u8, String, String, usize)> = Vec::new();
    let mut beyond = 0;
    for edit in edits {
        for (rule, place) in &edit.places {
            let (place, pattern) = if place.is_empty() {
                (format!("text@{}", edit.start), "text".to_owned())
            } else {
                (place.clone(), pattern(place))
            };
            let full = lines.len() >= LINES_MAX;
            match lines.iter_mut().find(|(known, other, ..)| known == rule && *other == pattern) {
                Some((.., count)) => *count += 1,
                None if full => beyond += 1,
                None => lines.push((*rule, pattern, place, 1)),
            }
        }
    }
    let mut note = String::new();
    for (index, (rule, pattern, place, count)) in lines.iter().enumerate() {
        let mut line = if index > 0 { String::from(",") } else { String::new() };
        line.push_str(rules[usize::from(*rule)].name());
        line.push(':');
        line.push_str(if *count > 1 { pattern } else { place });
        if *count > 1 {
            let _ = write!(line, "x{count}");
        }
        if note.len() + line.len() > NOTE_BYTES_MAX - TAIL_BYTES_MAX {
            beyond += lines[index..].iter().map(|(.., count)| count).sum::<usize>();
            break;
        }
        note.push_str(&line);
    }
    if beyond > 0 {
        let _ = write!(note, ",...+{beyond}");
    }
    note.into()
}

fn pattern(place: &str) -> String {
    let is_index = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    let parts = place.split('/').map(|part| match part.strip_suffix('!') {
        Some(inner) if is_index(inner) => "*!",
        None if is_index(part) => "*",
        _ => part,
    });
    parts.collect::<Vec<_>>().join("/")
}

/// `,...+` and a number.
const TAIL_BYTES_MAX: usize = 24;

/// More lines than fit are only counted.
const LINES_MAX: usize = 64;
