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
        let Some([b':', digest @ .., b']']) = text.get(end..end + DIGEST_CHARS + 2) else {
            return 0;
        };
        let valid = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_".contains(byte);
        return if digest.iter().all(valid) { end + DIGEST_CHARS + 2 } else { 0 };
    }
    0
}

/// Where the mark ends in which a position lies.
pub(super) fn end_around(text: &[u8], at: usize) -> Option<usize> {
    let floor = at.saturating_sub(MARK_BYTES_MAX);
    let open = memchr::memrchr(b'[', text.get(floor..=at)?)? + floor;
    let end = open + mark_length(&text[open..]);
    (end > at).then_some(end)
}

/// Whether a value is a number so short that it counts something: no password, no PIN is as short.
pub(super) fn is_count(value: &[u8]) -> bool {
    value.len() < 4 && value.iter().all(u8::is_ascii_digit)
}

/// Whether a value only says in which file a key lies.
pub(super) fn is_key_path(name: &[u8], value: &[u8]) -> bool {
    let ends = |word: &str| {
        name.len() >= word.len()
            && name[name.len() - word.len()..].eq_ignore_ascii_case(word.as_bytes())
    };
    let path = |byte: &u8| byte.is_ascii_alphanumeric() || b"._/-".contains(byte);
    ["key", "kubeconfig", "file", "cert", "config"].iter().any(|word| ends(word))
        && value.iter().all(path)
        && (FOLDERS.iter().any(|folder| value.starts_with(folder))
            || FILE_ENDS.iter().any(|end| value.starts_with(b"/") && value.ends_with(end)))
}

const FOLDERS: &[&[u8]] = &[
    b"/etc/", b"/var/", b"/run/", b"/home/", b"/root/", b"/usr/", b"/opt/", b"/srv/", b"/tmp/",
    b"/certs/",
];
const FILE_ENDS: &[&[u8]] = &[b".key", b".pem", b".conf", b".crt", b".yaml", b".yml", b".json"];

/// The longest mark: a digest's, with the longest name.
const MARK_BYTES_MAX: usize = HMAC.len() + RULE_NAME_BYTES_MAX + DIGEST_CHARS + 2;

const REDACTED: &[u8] = b"[redacted:";
const HMAC: &[u8] = b"[hmac:";

/// Whether a value only names a variable that is filled in elsewhere: `${NAME}`.
pub(super) fn is_variable(value: &[u8]) -> bool {
    let Some([b'$', b'{', name @ .., b'}']) = Some(value) else { return false };
    !name.is_empty() && name.iter().all(|byte| byte.is_ascii_alphanumeric() || *byte == b'_')
}
