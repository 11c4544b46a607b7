//! Whom the low side believes.
//!
//! The file is an OpenSSH `allowed_signers` (ssh-keygen(1), ALLOWED SIGNERS), so that the same file
//! serves `ssh-keygen -Y verify`. The principal of a line is the origin.
//!
//! A line in the namespace of releases names an officer instead of an origin. No key may stand for
//! both, and none for two officers: whoever seals could then release alone, or one person for two.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use ssh_key::HashAlg;

use super::allowed::{self, Line, Validity, content_lines, existing};
use super::{
    ALLOWED_SIGNERS_FILE, BUNDLE_NAMESPACE, KeyError, OfficerHalf, PublicHalf, PublicKey,
    RELEASE_NAMESPACE, REVOKED_KEYS_FILE, ReleaseDemand, ReleasePolicy, SignedBy, StatementKind,
    StatementProblem, StatementSignature,
};
use crate::clock::Nanos;
use crate::record::{Lane, OriginId};

/// One line of the list.
#[derive(Clone, Debug)]
struct Signer {
    /// An origin, or an officer's name.
    name: OriginId,
    validity: Validity,
    key: ssh_key::PublicKey,
}

/// The trusted signers and officers, the revoked keys, and how many officers it takes.
#[derive(Clone, Debug, Default)]
pub struct Trust {
    signers: Vec<Signer>,
    officers: Vec<Signer>,
    revoked: Vec<ssh_key::public::KeyData>,
    releases: ReleasePolicy,
}

/// Whether an officer's releases count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OfficerState {
    /// They do.
    Believed,
    /// The key's time is over or has not begun.
    NotValidNow,
    /// The key was revoked.
    Revoked,
}

impl OfficerState {
    /// The state's name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Believed => "believed",
            Self::NotValidNow => "not-valid-now",
            Self::Revoked => "revoked",
        }
    }
}

/// An officer, or a high side, on the list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrustedOfficer {
    /// The name.
    pub name: String,
    /// The key's fingerprint.
    pub key: String,
    /// Whether releases by this key count now.
    pub state: OfficerState,
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
            let added =
                parse_signer(&line).and_then(|(purpose, signer)| trust.take(purpose, signer));
            added.map_err(|problem| {
                KeyError::malformed(allowed_signers, format!("line {number}: {problem}"))
            })?;
        }
        trust.revoked = allowed::revoked_keys(revoked_keys)?;
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
            signer.name.as_str() == half.name && signer.key.key_data() == key.key_data()
        };
        if known.signers.iter().any(same) {
            return Ok(false);
        }
        known.append(&path, Purpose::Bundles, &half.name, &half.key.to_string(), validity)
    }

    /// Adds an officer's public half to the file; returns false when its key was there already.
    pub fn add_officer(
        keys_dir: &Path,
        half: &OfficerHalf,
        validity: Validity,
    ) -> Result<bool, KeyError> {
        let path = keys_dir.join(ALLOWED_SIGNERS_FILE);
        let known = Self::load_dir(keys_dir)?;
        let same = |signer: &Signer| {
            signer.name.as_str() == half.name() && signer.key.key_data() == half.key().key_data()
        };
        if known.officers.iter().any(same) {
            return Ok(false);
        }
        known.append(&path, Purpose::Releases, half.name(), &half.key_text(), validity)
    }

    /// Revokes every key of an officer; gives how many were not revoked before. `None` where there is
    /// no officer of this name.
    pub fn revoke_officer(keys_dir: &Path, name: &str) -> Result<Option<usize>, KeyError> {
        let known = Self::load_dir(keys_dir)?;
        let of_name = || known.officers.iter().filter(|officer| officer.name.as_str() == name);
        if of_name().next().is_none() {
            return Ok(None);
        }
        let path = keys_dir.join(REVOKED_KEYS_FILE);
        let mut text = existing(&path)?;
        let mut count = 0;
        for officer in of_name().filter(|officer| !known.revoked.contains(officer.key.key_data())) {
            let key = officer.key.to_openssh().unwrap_or_default();
            let _ = writeln!(text, "# officer {name}\n{key}");
            count += 1;
        }
        if count > 0 {
            crate::durable::write(&path, text.as_bytes(), 0o644).map_err(KeyError::io(&path))?;
        }
        Ok(Some(count))
    }

    /// Demands releases of officers from now on.
    #[must_use]
    pub fn demanding(mut self, releases: ReleasePolicy) -> Self {
        self.releases = releases;
        self
    }

    /// The officers on the list, in its order.
    pub fn officers(&self, now: Nanos) -> Vec<TrustedOfficer> {
        self.officers.iter().map(|officer| self.told(officer, now)).collect()
    }

    /// The signers of high sides on the list, in its order; the names are their origins.
    pub fn signers(&self, now: Nanos) -> Vec<TrustedOfficer> {
        self.signers.iter().map(|signer| self.told(signer, now)).collect()
    }

    fn told(&self, listed: &Signer, now: Nanos) -> TrustedOfficer {
        TrustedOfficer {
            name: listed.name.to_string(),
            key: listed.key.fingerprint(HashAlg::Sha256).to_string(),
            state: self.officer_state(listed, now),
        }
    }

    /// The officer whose key this is, if it is believed now.
    pub(crate) fn officer(&self, key: &ssh_key::public::KeyData, now: Nanos) -> Option<&str> {
        let believed = |officer: &&Signer| {
            officer.key.key_data() == key
                && self.officer_state(officer, now) == OfficerState::Believed
        };
        self.officers.iter().find(believed).map(|officer| officer.name.as_str())
    }

    /// The officer whose key this is, whatever its time, unless it was revoked.
    pub(crate) fn officer_of_any_time(&self, key: &ssh_key::public::KeyData) -> Option<&str> {
        let listed = |officer: &&Signer| officer.key.key_data() == key;
        let officer = self.officers.iter().find(listed).filter(|_| !self.revoked.contains(key));
        officer.map(|officer| officer.name.as_str())
    }

    fn officer_state(&self, officer: &Signer, now: Nanos) -> OfficerState {
        if self.revoked.contains(officer.key.key_data()) {
            OfficerState::Revoked
        } else if officer.validity.holds(now) {
            OfficerState::Believed
        } else {
            OfficerState::NotValidNow
        }
    }

    /// How many officers have to have released a bundle, and which ones count.
    pub(crate) fn release_demand(&self, origin: &OriginId, lane: Lane) -> ReleaseDemand<'_> {
        self.releases.demand(origin, lane)
    }

    /// Takes a line into the lists, unless it makes one key stand for two.
    fn take(&mut self, purpose: Purpose, signer: Signer) -> Result<(), &'static str> {
        let same = |other: &Signer| other.key.key_data() == signer.key.key_data();
        match purpose {
            Purpose::Bundles if self.officers.iter().any(same) => {
                Err("its key is an officer's: who seals must not release")
            }
            Purpose::Releases if self.signers.iter().any(same) => {
                Err("its key signs bundles: who seals must not release")
            }
            Purpose::Releases
                if self.officers.iter().any(|other| same(other) && other.name != signer.name) =>
            {
                Err("its key stands for another officer already")
            }
            Purpose::Bundles => {
                self.signers.push(signer);
                Ok(())
            }
            Purpose::Releases => {
                self.officers.push(signer);
                Ok(())
            }
        }
    }

    /// Writes one more line, if the lists can take it.
    fn append(
        mut self,
        path: &Path,
        purpose: Purpose,
        name: &str,
        key: &str,
        validity: Validity,
    ) -> Result<bool, KeyError> {
        let line = allowed::line_text(name, purpose.namespace(), validity, key);
        parse_signer(&line).and_then(|(purpose, signer)| self.take(purpose, signer)).map_err(
            |problem| KeyError::malformed(path, format!("the line for {name}: {problem}")),
        )?;
        let text = format!("{}{line}\n", existing(path)?);
        crate::durable::write(path, text.as_bytes(), 0o644).map_err(KeyError::io(path))?;
        Ok(true)
    }

    /// The origins that have a signer, each once.
    pub fn origins(&self) -> Vec<&OriginId> {
        let mut origins: Vec<_> = self.signers.iter().map(|signer| &signer.name).collect();
        origins.sort();
        origins.dedup();
        origins
    }

    /// Verifies a statement of a high side, and says whose it is: whoever seals for an origin may also
    /// say what crosses.
    pub fn verify_statement(
        &self,
        kind: StatementKind,
        message: &[u8],
        armored: &[u8],
        now: Nanos,
    ) -> Result<SignedBy, StatementProblem> {
        let signature = StatementSignature::parse(kind, armored)?;
        let mut named = self
            .signers
            .iter()
            .filter(|signer| signer.key.key_data() == signature.key())
            .peekable();
        if named.peek().is_none() {
            return Err(StatementProblem::UnknownKey);
        }
        if self.revoked.contains(signature.key()) {
            return Err(StatementProblem::Revoked);
        }
        let signer =
            named.find(|signer| signer.validity.holds(now)).ok_or(StatementProblem::NotValidNow)?;
        signature.fits(message)?;
        Ok(SignedBy { name: signer.name.to_string(), key: signature.fingerprint() })
    }

    /// The key with this fingerprint, if it may sign for the origin at some time and was not revoked.
    pub(crate) fn signer_of_any_time(
        &self,
        origin: &OriginId,
        fingerprint: &str,
    ) -> Result<&ssh_key::PublicKey, SignerProblem> {
        let named = |signer: &&Signer| {
            signer.name == *origin
                && signer.key.fingerprint(HashAlg::Sha256).to_string() == fingerprint
        };
        match self.signers.iter().find(named) {
            Some(signer) if !self.revoked.contains(signer.key.key_data()) => Ok(&signer.key),
            // The same words as for any other bundle.
            _ => self.signer(origin, fingerprint, Nanos(0)),
        }
    }

    /// The key with this fingerprint, if it may sign for the origin now.
    pub(crate) fn signer(
        &self,
        origin: &OriginId,
        fingerprint: &str,
        now: Nanos,
    ) -> Result<&ssh_key::PublicKey, SignerProblem> {
        let mut of_origin = self.signers.iter().filter(|s| s.name == *origin).peekable();
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
            if signer.validity.holds(now) {
                return Ok(&signer.key);
            }
            problem = SignerProblem::NotValidNow;
        }
        Err(problem)
    }
}

/// What a key may sign.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Purpose {
    Bundles,
    Releases,
}

impl Purpose {
    fn namespace(self) -> &'static str {
        match self {
            Self::Bundles => BUNDLE_NAMESPACE,
            Self::Releases => RELEASE_NAMESPACE,
        }
    }
}

fn parse_signer(line: &str) -> Result<(Purpose, Signer), &'static str> {
    const PROBLEM: &str = "its namespaces should be \"penstock-bundle@v1\", or \"penstock-release@v1\" for an officer";
    let Line { name, namespaces, validity, key } = Line::parse(line)?;
    let statement =
        |namespace: &str| StatementKind::ALL.into_iter().any(|kind| kind.namespace() == namespace);
    let mut named = namespaces.iter().map(String::as_str).filter(|name| !statement(name));
    let purpose = match (named.next(), named.next()) {
        (None, _) if namespaces.is_empty() => Purpose::Bundles,
        (Some(BUNDLE_NAMESPACE), None) => Purpose::Bundles,
        // A person's key signs releases and nothing besides.
        (Some(RELEASE_NAMESPACE), None) if namespaces.len() == 1 => Purpose::Releases,
        _ => return Err(PROBLEM),
    };
    Ok((purpose, Signer { name, validity, key }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keys::allowed::parse_openssh_time;

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

    const OTHER: &str =
        "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIMlSrjQayNQA1uKBMVLo/2dllsQ1OspUou5EFO7GfkBf";

    #[test]
    fn an_officer_is_believed_in_its_time_until_revoked_and_is_no_signer() {
        let key = ssh_key::PublicKey::from_openssh(KEY).unwrap();
        let now = parse_openssh_time("20261123Z").unwrap();
        let line = format!(
            "alice namespaces=\"penstock-release@v1\",valid-before=\"20270101Z\" {KEY}\nplant-7 {OTHER}\n"
        );
        let known = trust(&line, "").unwrap();
        assert_eq!(known.officer(key.key_data(), now), Some("alice"));
        assert_eq!(known.officer(key.key_data(), parse_openssh_time("20270101Z").unwrap()), None);
        let alice = "alice".parse().unwrap();
        let print = key.fingerprint(HashAlg::Sha256).to_string();
        assert_eq!(
            known.signer(&alice, &print, now).unwrap_err(),
            SignerProblem::UnknownOrigin,
            "an officer can't sign bundles"
        );
        let other = ssh_key::PublicKey::from_openssh(OTHER).unwrap();
        assert_eq!(known.officer(other.key_data(), now), None, "a signer can't release");
        let known = trust(&line, &format!("{KEY}\n")).unwrap();
        assert_eq!(known.officer(key.key_data(), now), None);
        assert_eq!(known.officers(now)[0].state, OfficerState::Revoked);
    }

    #[test]
    fn no_key_stands_for_two() {
        let release = "namespaces=\"penstock-release@v1\"";
        for (lines, says) in [
            (format!("plant-7 {KEY}\nalice {release} {KEY}"), "line 2: its key signs bundles"),
            (format!("alice {release} {KEY}\nplant-7 {KEY}"), "line 2: its key is an officer's"),
            (
                format!("alice {release} {KEY}\nbob {release} {KEY}"),
                "line 2: its key stands for another officer",
            ),
        ] {
            let message = trust(&lines, "").unwrap_err().to_string();
            assert!(message.contains(says), "{message}");
        }
        trust(&format!("alice {release} {KEY}\nalice {release} {OTHER}"), "").unwrap();
    }

    #[test]
    fn officers_are_added_and_revoked_by_name() {
        let (dir, keys) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let officer = crate::keys::OfficerKey::generate(keys.path(), "alice", None).unwrap();
        let half = officer.public_half();
        let add = || Trust::add_officer(dir.path(), half, Validity::default());
        assert!(add().unwrap() && !add().unwrap());
        let state = || Trust::load_dir(dir.path()).unwrap().officers(Nanos(0))[0].state;
        assert_eq!(state(), OfficerState::Believed);
        let revoke = |name: &str| Trust::revoke_officer(dir.path(), name).unwrap();
        assert_eq!((revoke("bob"), revoke("alice"), revoke("alice")), (None, Some(1), Some(0)));
        assert_eq!(state(), OfficerState::Revoked);
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
}
