//! JSON that ends in the middle, because a relay cut it, made whole as far as it goes.

/// The text up to its last complete value, with everything closed that was open there. A string
/// that was cut is kept only where it is the line that a relay carries, as `log` or `message`: the
/// begin of a name or a verb would say something else than the whole.
///
/// It is no evidence and is only looked at.
pub(super) fn repair(text: &[u8]) -> Option<Vec<u8>> {
    let mut open = Vec::new();
    let mut safe = 0;
    let mut key = 0..0;
    let mut string = 0..0;
    let mut at = 0;
    let mut in_string = false;
    while let Some(&byte) = text.get(at) {
        if in_string {
            match byte {
                b'\\' => at += 1,
                b'"' => {
                    in_string = false;
                    string.end = at;
                }
                _ => {}
            }
            at += 1;
            continue;
        }
        match byte {
            b'"' => {
                in_string = true;
                string = at + 1..at + 1;
            }
            b':' => key = string.clone(),
            b',' => {
                safe = at;
                key = 0..0;
            }
            b'{' | b'[' => {
                if open.len() >= crate::json::DEPTH_MAX {
                    return None;
                }
                open.push(if byte == b'{' { b'}' } else { b']' });
                safe = at + 1;
                key = 0..0;
            }
            b'}' | b']' => {
                if open.pop() != Some(byte) {
                    return None;
                }
                safe = at + 1;
                key = 0..0;
            }
            _ => {}
        }
        at += 1;
    }
    if open.is_empty() {
        return None;
    }
    let carried = matches!(&text[key], b"log" | b"message" | b"msg" | b"MESSAGE");
    let mut whole = if in_string && carried && string.start <= text.len() {
        let mut kept = text.to_vec();
        // Neither half an escape nor half a \uXXXX may stand at the end.
        let tail = kept.len().saturating_sub(ESCAPE_BYTES_MAX);
        if let Some(escape) = half_escape(&kept, string.start.max(tail)) {
            kept.truncate(escape);
        }
        kept.push(b'"');
        kept
    } else {
        text[..safe].to_vec()
    };
    whole.extend(open.iter().rev());
    Some(whole)
}

/// Where an escape begins that is not complete at the end.
fn half_escape(text: &[u8], from: usize) -> Option<usize> {
    let mut at = from;
    // A backslash in the middle of an escape pair at `from` must not be taken for its begin.
    while at > 0 && text[at - 1] == b'\\' {
        at -= 1;
    }
    while at < text.len() {
        if text[at] != b'\\' {
            at += 1;
            continue;
        }
        let length = if text.get(at + 1) == Some(&b'u') { ESCAPE_BYTES_MAX } else { 2 };
        if at + length > text.len() {
            return Some(at);
        }
        at += length;
    }
    None
}

/// `\u00e4`
const ESCAPE_BYTES_MAX: usize = 6;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_cut_is_closed_behind_its_last_complete_value() {
        for (text, whole) in [
            (r#"{"a":1,"b":"cu"#, Some(r#"{"a":1}"#)),
            (r#"{"a":1,"b":{"c":[1,2"#, Some(r#"{"a":1,"b":{"c":[1]}}"#)),
            (r#"{"a":{"b":1}"#, Some(r#"{"a":{"b":1}}"#)),
            (r#"{"a":{"b":1},"#, Some(r#"{"a":{"b":1}}"#)),
            (r#"{"a\"":1,"x"#, Some(r#"{"a\"":1}"#)),
            (r#"{"date":1,"log":"{\"kind\":\"Ev"#, Some(r#"{"date":1,"log":"{\"kind\":\"Ev"}"#)),
            (r#"{"log":"a\"#, Some(r#"{"log":"a"}"#)),
            (r#"{"log":"a\\"#, Some(r#"{"log":"a\\"}"#)),
            (r#"{"log":"a\u00"#, Some(r#"{"log":"a"}"#)),
            ("{", Some("{}")),
            ("{]", None),
            ("words", None),
            ("", None),
        ] {
            let found = repair(text.as_bytes());
            assert_eq!(found.as_deref(), whole.map(str::as_bytes), "{text}");
        }
    }
}
