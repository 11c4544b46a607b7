//! Marks: what stands in the place of a value. They are recognised so that they stay.

use super::hmac::DIGEST_CHARS;
use super::rule::RULE_NAME_BYTES_MAX;

/// Whether a whole value is a mark, ours or Portainer's own.
pub(super) fn is_mark(value: &[u8]) -> bool {
    !value.is_empty() && mark_length(value) == value.len()
}

/// The length of the mark with which a text begins; zero when there is none.
pub(super) fn mark_length(text: &[u8]) -> usize {
    if text.first() != Some(&b'[') {
        return 0;
    }
    if text.starts_with(b"[REDACTED]") {
        return b"[REDACTED]".len();
    }
    let name_end = |from: usize| {
        let name = text[from..].iter().take(RULE_NAME_BYTES_MAX + 1);
        let length = name
            .take_while(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || **byte == b'-')
            .count();
        ((1..=RULE_NAME_BYTES_MAX).contains(&length)).then_some(from + length)
    };
    if text.starts_with(REDACTED) {
        return match name_end(REDACTED.len()) {
            Some(end) if text.get(end) == Some(&b']') => end + 1,
            _ => 0,
        };
    }
    if text.starts_with(HMAC) {
        let Some(end) = name_end(HMAC.len()) else { return 0 };
        let Some([b':', digest @ .., b']']) = text.get(end..end + DIGEST_CHARS + 2) else { return 0 };
        let valid = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_".contains(byte);
        return if digest.iter().all(valid) { end + DIGEST_CHARS + 2 } else { 0 };
    }
    0
}

const REDACTED: &[u8] = b"[redacted:";
const HMAC: &[u8] = b"[hmac:";

/// Whether a value only names a variable that is filled in elsewhere: `${NAME}`.
pub(super) fn is_variable(value: &[u8]) -> bool {
    let Some([b'$', b'{', name @ .., b'}']) = Some(value) else { return false };
    !name.is_empty() && name.iter().all(|byte| byte.is_ascii_alphanumeric() || *byte == b'_')
}
