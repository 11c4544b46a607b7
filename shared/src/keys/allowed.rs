//! Lines of an OpenSSH `allowed_signers` file (ssh-keygen(1), ALLOWED SIGNERS).
//!
//! Of its format we take one principal, the options `namespaces`, `valid-after` and `valid-before`,
//! and Ed25519 keys; anything else is refused rather than passed over, since a restriction that is
//! not understood must not be dropped.

use std::fmt::Write as _;
use std::path::Path;

use super::{KeyError, load_public};
use crate::clock::Nanos;
use crate::record::OriginId;

/// From when to when a signer is believed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Validity {
    /// Not before this time.
    pub after: Option<Nanos>,
    /// Not at or after this time.
    pub before: Option<Nanos>,
}

impl Validity {
    pub(super) fn holds(self, now: Nanos) -> bool {
        self.after.is_none_or(|after| now >= after) && self.before.is_none_or(|before| now < before)
    }
}

/// One line.
#[derive(Clone, Debug)]
pub(super) struct Line {
    /// The principal: an origin, an officer, or a low side.
    pub(super) name: OriginId,
    /// What the key may sign; empty where the line does not say.
    pub(super) namespaces: Vec<String>,
    pub(super) validity: Validity,
    pub(super) key: ssh_key::PublicKey,
}

impl Line {
    pub(super) fn parse(line: &str) -> Result<Self, &'static str> {
        let (principal, rest) = line.split_once(' ').ok_or("has no key")?;
        let name = principal.parse().map_err(|_| "begins with no origin and no officer's name")?;
        let rest = rest.trim_start();
        let (options, key) = if rest.starts_with("ssh-") {
            ("", rest)
        } else {
            rest.split_once(' ').ok_or("has no key")?
        };
        let (mut validity, mut namespaces) = (Validity::default(), Vec::new());
        for option in split_options(options) {
            let (name, value) =
                option.split_once('=').ok_or("holds an option that is not understood")?;
            let value = value.trim_matches('"');
            match name {
                "namespaces" => namespaces = value.split(',').map(ToOwned::to_owned).collect(),
                "valid-after" => validity.after = Some(parse_openssh_time(value)?),
                "valid-before" => validity.before = Some(parse_openssh_time(value)?),
                _ => return Err("holds an option that is not understood"),
            }
        }
        let key =
            ssh_key::PublicKey::from_openssh(key.trim()).map_err(|_| "ends with no public key")?;
        key.key_data().ed25519().ok_or("its key is no Ed25519 key")?;
        Ok(Self { name, namespaces, validity, key })
    }
}

/// The text of a line.
pub(super) fn line_text(name: &str, namespaces: &str, validity: Validity, key: &str) -> String {
    let mut options = format!("namespaces=\"{namespaces}\"");
    for (name, time) in [("valid-after", validity.after), ("valid-before", validity.before)] {
        if let Some(time) = time {
            let _ = write!(options, ",{name}=\"{}\"", openssh_time(time));
        }
    }
    format!("{name} {options} {key}")
}

/// Options are set apart by commas; those within quotation marks belong to a value.
fn split_options(text: &str) -> Vec<&str> {
    let mut quoted = false;
    let apart = |c: char| {
        quoted ^= c == '"';
        c == ',' && !quoted
    };
    text.split(apart).filter(|option| !option.is_empty()).collect()
}

/// The lines that say something, with their numbers. A missing file is an empty one.
pub(super) fn content_lines(path: &Path) -> Result<Vec<(usize, String)>, KeyError> {
    let text = match load_public(path) {
        Ok(text) => text,
        Err(KeyError::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
            String::new()
        }
        Err(err) => return Err(err),
    };
    let lines = text.lines().enumerate().map(|(at, line)| (at + 1, line.trim().to_owned()));
    Ok(lines.filter(|(_, line)| !line.is_empty() && !line.starts_with('#')).collect())
}

/// The keys of a list of revoked ones. A missing file is an empty one.
pub(super) fn revoked_keys(path: &Path) -> Result<Vec<ssh_key::public::KeyData>, KeyError> {
    let mut revoked = Vec::new();
    for (number, line) in content_lines(path)? {
        let key = ssh_key::PublicKey::from_openssh(&line)
            .map_err(|_| KeyError::malformed(path, format!("line {number}: is no public key")))?;
        revoked.push(key.key_data().clone());
    }
    Ok(revoked)
}

/// The content of a file that need not be there, up to and with the end of its last line.
pub(super) fn existing(path: &Path) -> Result<String, KeyError> {
    let mut text = if path.exists() { load_public(path)? } else { String::new() };
    if !text.is_empty() && !text.ends_with('\n') {
        text.push('\n');
    }
    Ok(text)
}

/// ssh-keygen's `YYYYMMDD[HHMM[SS]]Z`; without the Z it would be local time, which we refuse.
pub(super) fn parse_openssh_time(text: &str) -> Result<Nanos, &'static str> {
    const PROBLEM: &str = "a time is written YYYYMMDDZ or YYYYMMDDHHMMSSZ, in UTC";
    let digits = text.strip_suffix('Z').ok_or(PROBLEM)?;
    let full = match digits.len() {
        8 => format!("{digits}000000"),
        12 => format!("{digits}00"),
        14 => digits.to_owned(),
        _ => return Err(PROBLEM),
    };
    let time = jiff::civil::DateTime::strptime("%Y%m%d%H%M%S", &full).map_err(|_| PROBLEM)?;
    let time = jiff::tz::Offset::UTC.to_timestamp(time).map_err(|_| PROBLEM)?;
    i64::try_from(time.as_nanosecond()).map(Nanos).map_err(|_| PROBLEM)
}

fn openssh_time(time: Nanos) -> String {
    let text = time.to_string();
    let digits: String = text.chars().take(19).filter(char::is_ascii_digit).collect();
    format!("{digits}Z")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_print_as_ssh_keygen_reads_them() {
        assert_eq!(openssh_time(parse_openssh_time("20260102030405Z").unwrap()), "20260102030405Z");
    }

    #[test]
    fn a_comma_within_quotation_marks_sets_nothing_apart() {
        assert_eq!(split_options("a=\"1,2\",b=\"3\","), ["a=\"1,2\"", "b=\"3\""]);
    }
}
