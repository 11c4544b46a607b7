//! Whom the low side believes.
//!
//! The file is an OpenSSH `allowed_signers` (ssh-keygen(1), ALLOWED SIGNERS), so that the same file
//! serves `ssh-keygen -Y verify`. Of its format we take one principal (the origin), the options
//! `namespaces`, `valid-after` and `valid-before`, and Ed25519 keys; anything else is refused
//! rather than passed over, since a restriction that is not understood must not be dropped.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use ssh_key::HashAlg;

use super::{
    ALLOWED_SIGNERS_FILE, BUNDLE_NAMESPACE, KeyError, PublicHalf, PublicKey, REVOKED_KEYS_FILE,
    load_public,
};
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

#[derive(Clone, Debug)]
struct Signer {
    origin: OriginId,
    validity: Validity,
    key: ssh_key::PublicKey,
}

/// The trusted signers and the revoked keys.
#[derive(Clone, Debug, Default)]
pub struct Trust {
    signers: Vec<Signer>,
    revoked: Vec<ssh_key::public::KeyData>,
}

/// Why a signer is not believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SignerProblem {
    /// The key is known, but its time is over or has not begun.
    NotValidNow,
    /// The key was revoked.
    Revoked,
    /// No key of this fingerprint is trusted for the origin.
    UnknownKey,
    /// Nothing is trusted for the origin.
    UnknownOrigin,
}

impl Trust {
    /// Loads `allowed_signers` and `revoked_keys` of a key folder. A missing file is an empty one.
    pub fn load_dir(keys_dir: &Path) -> Result<Self, KeyError> {
        Self::load(&keys_dir.join(ALLOWED_SIGNERS_FILE), &keys_dir.join(REVOKED_KEYS_FILE))
    }

    /// Loads the two files. A missing file is an empty one.
    pub fn load(allowed_signers: &Path, revoked_keys: &Path) -> Result<Self, KeyError> {
        let mut trust = Self::default();
        for (number, line) in content_lines(allowed_signers)? {
            let signer = parse_signer(&line).map_err(|problem| {
                KeyError::malformed(allowed_signers, format!("line {number}: {problem}"))
            })?;
            trust.signers.push(signer);
        }
        for (number, line) in content_lines(revoked_keys)? {
            let key = ssh_key::PublicKey::from_openssh(&line).map_err(|_| {
                KeyError::malformed(revoked_keys, format!("line {number}: is no public key"))
            })?;
            trust.revoked.push(key.key_data().clone());
        }
        Ok(trust)
    }

    /// Adds a high side's public half to the file; returns false when its key was there already.
    pub fn add(keys_dir: &Path, half: &PublicHalf, validity: Validity) -> Result<bool, KeyError> {
        let path: PathBuf = keys_dir.join(ALLOWED_SIGNERS_FILE);
        let PublicKey::Ed25519(key) = &half.key else {
            return Err(KeyError::malformed(&path, "only the public half of a high side can sign"));
        };
        let known = Self::load_dir(keys_dir)?;
        let same = |signer: &Signer| {
            signer.origin.as_str() == half.name && signer.key.key_data() == key.key_data()
        };
        if known.signers.iter().any(same) {
            return Ok(false);
        }
        let mut options = format!("namespaces=\"{BUNDLE_NAMESPACE}\"");
        for (name, time) in [("valid-after", validity.after), ("valid-before", validity.before)] {
            if let Some(time) = time {
                let _ = write!(options, ",{name}=\"{}\"", openssh_time(time));
            }
        }
        let mut text = if path.exists() { load_public(&path)? } else { String::new() };
        if !text.is_empty() && !text.ends_with('\n') {
            text.push('\n');
        }
        let _ = writeln!(text, "{} {options} {}", half.name, half.key);
        crate::durable::write(&path, text.as_bytes(), 0o644).map_err(KeyError::io(&path))?;
        Ok(true)
    }

    /// The origins that have a signer, each once.
    pub fn origins(&self) -> Vec<&OriginId> {
        let mut origins: Vec<_> = self.signers.iter().map(|signer| &signer.origin).collect();
        origins.sort();
        origins.dedup();
        origins
    }

    /// The key with this fingerprint, if it may sign for the origin now.
    pub(crate) fn signer(
        &self,
        origin: &OriginId,
        fingerprint: &str,
        now: Nanos,
    ) -> Result<&ssh_key::PublicKey, SignerProblem> {
        let mut of_origin = self.signers.iter().filter(|s| s.origin == *origin).peekable();
        if of_origin.peek().is_none() {
            return Err(SignerProblem::UnknownOrigin);
        }
        let mut problem = SignerProblem::UnknownKey;
        for signer in of_origin {
            if signer.key.fingerprint(HashAlg::Sha256).to_string() != fingerprint {
                continue;
            }
            if self.revoked.contains(signer.key.key_data()) {
                return Err(SignerProblem::Revoked);
            }
            let Validity { after, before } = signer.validity;
            if after.is_none_or(|after| now >= after) && before.is_none_or(|before| now < before) {
                return Ok(&signer.key);
            }
            problem = SignerProblem::NotValidNow;
        }
        Err(problem)
    }
}

fn content_lines(path: &Path) -> Result<Vec<(usize, String)>, KeyError> {
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

fn parse_signer(line: &str) -> Result<Signer, &'static str> {
    let (principal, rest) = line.split_once(' ').ok_or("has no key")?;
    let origin = principal.parse().map_err(|_| "begins with no origin")?;
    let rest = rest.trim_start();
    let (options, key) = if rest.starts_with("ssh-") {
        ("", rest)
    } else {
        rest.split_once(' ').ok_or("has no key")?
    };
    let mut validity = Validity::default();
    let mut namespace = options.is_empty();
    for option in options.split(',').filter(|option| !option.is_empty()) {
        let (name, value) =
            option.split_once('=').ok_or("holds an option that is not understood")?;
        let value = value.trim_matches('"');
        match name {
            "namespaces" => namespace = value == BUNDLE_NAMESPACE,
            "valid-after" => validity.after = Some(parse_openssh_time(value)?),
            "valid-before" => validity.before = Some(parse_openssh_time(value)?),
            _ => return Err("holds an option that is not understood"),
        }
    }
    if !namespace {
        return Err("its namespaces should be \"penstock-bundle@v1\"");
    }
    let key =
        ssh_key::PublicKey::from_openssh(key.trim()).map_err(|_| "ends with no public key")?;
    key.key_data().ed25519().ok_or("its key is no Ed25519 key")?;
    Ok(Signer { origin, validity, key })
}

/// ssh-keygen's `YYYYMMDD[HHMM[SS]]Z`; without the Z it would be local time, which we refuse.
fn parse_openssh_time(text: &str) -> Result<Nanos, &'static str> {
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

    const KEY: &str =
        "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIKHEChAmPNiAjQY2FIiKFsaqdW0rVXqNxhFkHpoQNZEY";

    fn trust(lines: &str, revoked: &str) -> Result<Trust, KeyError> {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join(ALLOWED_SIGNERS_FILE), lines).unwrap();
        std::fs::write(dir.path().join(REVOKED_KEYS_FILE), revoked).unwrap();
        Trust::load_dir(dir.path())
    }

    #[test]
    fn a_signer_is_believed_for_its_origin_in_its_time_until_revoked() {
        let key = ssh_key::PublicKey::from_openssh(KEY).unwrap();
        let print = key.fingerprint(HashAlg::Sha256).to_string();
        let line = format!(
            "plant-7 namespaces=\"penstock-bundle@v1\",valid-after=\"20250101Z\",valid-before=\"20300101Z\" {KEY}\n"
        );
        let at = |text: &str| parse_openssh_time(text).unwrap();
        let plant: OriginId = "plant-7".parse().unwrap();
        let now = at("20261123Z");
        let known = trust(&line, "").unwrap();
        assert!(known.signer(&plant, &print, now).is_ok());
        for (origin, print, now, problem) in [
            ("plant-8", print.as_str(), now, SignerProblem::UnknownOrigin),
            ("plant-7", "SHA256:x", now, SignerProblem::UnknownKey),
            ("plant-7", &print, at("20241231235959Z"), SignerProblem::NotValidNow),
            ("plant-7", &print, at("20300101Z"), SignerProblem::NotValidNow),
        ] {
            let origin = origin.parse().unwrap();
            assert_eq!(known.signer(&origin, print, now).unwrap_err(), problem);
        }
        let known = trust(&line, &format!("{KEY}\n")).unwrap();
        assert_eq!(known.signer(&plant, &print, now).unwrap_err(), SignerProblem::Revoked);
    }

    #[test]
    fn what_is_not_understood_is_refused_and_never_passed_over() {
        for line in [
            format!("plant-7 cert-authority {KEY}"),
            format!("plant-7 namespaces=\"git\" {KEY}"),
            format!("plant-7 valid-after=\"20250101\" {KEY}"),
            format!("plant-7,plant-8 {KEY}"),
            format!("* {KEY}"),
            "plant-7 ssh-ed25519 AAAA".to_owned(),
            "plant-7".to_owned(),
        ] {
            let message = trust(&line, "").unwrap_err().to_string();
            assert!(message.contains("allowed_signers: line 1"), "{line}: {message}");
        }
    }

    #[test]
    fn times_print_as_ssh_keygen_reads_them() {
        assert_eq!(openssh_time(parse_openssh_time("20260102030405Z").unwrap()), "20260102030405Z");
    }
}
