//! The public half that one side prints and the other takes.
//!
//! ```text
//! penstock-public 1
//! side high
//! name plant-7
//! key ssh-ed25519 AAAA...
//! fingerprint 12345 67890 ...
//! ```
//!
//! A low side that signs receipts adds a line `signer ssh-ed25519 AAAA...` before the fingerprint, and
//! the first line says 2. The fingerprint is made from the other lines; people read it to each other on the telephone.

use std::fmt::{self, Write as _};
use std::path::Path;
use std::str::FromStr;

use sha2::{Digest, Sha256};
use ssh_key::HashAlg;

use super::hybrid::HybridRecipient;
use super::statement::parse_signer;
use super::{KeyError, load_public};
use crate::record::OriginId;

/// One side of the gap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The secure zone.
    High,
    /// The side of the SIEM.
    Low,
}

impl Side {
    fn as_str(self) -> &'static str {
        match self {
            Side::High => "high",
            Side::Low => "low",
        }
    }
}

impl fmt::Display for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A public key.
#[derive(Clone, Debug)]
pub enum PublicKey {
    /// Verifies signatures.
    Ed25519(Box<ssh_key::PublicKey>),
    /// Encrypts, X25519 with ML-KEM-768 (`age1pq1...`).
    Hybrid(Box<HybridRecipient>),
    /// Encrypts, X25519 (`age1...`).
    X25519(age::x25519::Recipient),
}

impl PublicKey {
    pub(crate) fn parse(text: &str) -> Option<Self> {
        if text.starts_with("ssh-ed25519 ") {
            let key = ssh_key::PublicKey::from_openssh(text).ok()?;
            key.key_data().ed25519()?;
            Some(Self::Ed25519(Box::new(key)))
        } else if text.starts_with("age1pq1") {
            text.parse().ok().map(Box::new).map(Self::Hybrid)
        } else {
            text.parse().ok().map(Self::X25519)
        }
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ed25519(key) => f.write_str(&key.to_openssh().map_err(|_| fmt::Error)?),
            Self::Hybrid(key) => key.fmt(f),
            Self::X25519(key) => key.fmt(f),
        }
    }
}

/// What one side tells the other about itself.
#[derive(Clone, Debug)]
pub struct PublicHalf {
    /// Whose key it is.
    pub side: Side,
    /// The origin on the high side; a name chosen by the operator on the low side.
    pub name: String,
    /// The key.
    pub key: PublicKey,
    /// The key that signs a low side's receipts; halves of older versions hold none.
    pub signer: Option<Box<ssh_key::PublicKey>>,
}

impl PublicHalf {
    /// Reads a public half from a file and checks its fingerprint.
    pub fn load(path: &Path) -> Result<Self, KeyError> {
        load_public(path)?.parse().map_err(|problem: &str| KeyError::malformed(path, problem))
    }

    /// Eight groups of five digits (132 bits) for people to compare.
    pub fn fingerprint(&self) -> String {
        fingerprint_of(&self.signed_lines())
    }

    /// A high side's signing key as `ssh-keygen -l` names it; a low side's half has none.
    pub fn signing_fingerprint(&self) -> Option<String> {
        match &self.key {
            PublicKey::Ed25519(key) => Some(key.fingerprint(HashAlg::Sha256).to_string()),
            PublicKey::Hybrid(_) | PublicKey::X25519(_) => None,
        }
    }

    /// A file name for it: `NAME-XXXXXXXX.pub`, with the first digits of the fingerprint.
    pub fn file_name(&self) -> String {
        let digits: String =
            self.fingerprint().chars().filter(char::is_ascii_digit).take(8).collect();
        format!("{}-{digits}.pub", self.name)
    }

    /// The same half with nothing but what encrypts or verifies bundles.
    #[must_use]
    pub fn without_signer(&self) -> Self {
        Self { signer: None, ..self.clone() }
    }

    fn signed_lines(&self) -> String {
        let Self { side, name, key, signer } = self;
        let version = if signer.is_some() { 2 } else { 1 };
        let mut lines =
            format!("penstock-public {version}\nside {}\nname {name}\nkey {key}\n", side.as_str());
        if let Some(signer) = signer {
            let _ = writeln!(lines, "signer {}", signer.to_openssh().unwrap_or_default());
        }
        lines
    }
}

/// Eight groups of five digits that stand for a text.
pub(super) fn fingerprint_of(text: &str) -> String {
    let hash = Sha256::digest(text);
    let groups = hash.chunks_exact(4).map(|chunk| {
        let value = u32::from_be_bytes([chunk[0], chunk[1], chunk[2], chunk[3]]);
        format!("{:05}", (u64::from(value) * 100_000) >> 32)
    });
    groups.collect::<Vec<_>>().join(" ")
}

impl fmt::Display for PublicHalf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}fingerprint {}", self.signed_lines(), self.fingerprint())
    }
}

impl FromStr for PublicHalf {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut lines = text.lines().map(str::trim_end);
        let mut field =
            |name: &str| lines.next()?.strip_prefix(name)?.strip_prefix(' ').map(ToOwned::to_owned);
        let with_signer = match field("penstock-public").as_deref() {
            Some("1") => false,
            Some("2") => true,
            _ => return Err("is no Penstock public half of a version that is known here"),
        };
        let side = match field("side").as_deref() {
            Some("high") => Side::High,
            Some("low") => Side::Low,
            _ => return Err("line 2 should say \"side high\" or \"side low\""),
        };
        let name = field("name").ok_or("line 3 should give the name")?;
        // The rule for origins keeps a name safe as a file name and in allowed_signers.
        name.parse::<OriginId>().map_err(|_| "line 3 holds a name that is not allowed")?;
        let key = field("key").and_then(|key| PublicKey::parse(&key));
        let key = key.ok_or("line 4 holds no key that can be used")?;
        let signer = if with_signer {
            let key = field("signer").and_then(|key| parse_signer(&key));
            Some(key.ok_or("line 5 holds no signing key that can be used")?)
        } else {
            None
        };
        let half = Self { side, name, key, signer };
        if matches!(half.key, PublicKey::Ed25519(_)) != (side == Side::High) {
            return Err("the kind of key does not fit the side");
        }
        if half.signer.is_some() && side == Side::High {
            return Err("only a low side has a signer besides its key");
        }
        if field("fingerprint").as_deref() != Some(half.fingerprint().as_str()) {
            return Err("the fingerprint does not fit the key: the file was changed or damaged");
        }
        Ok(half)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_half_with_a_signer_reads_back_and_older_ones_are_still_read() {
        let dir = tempfile::tempdir().unwrap();
        let (signer, _) = super::super::receipt_key(dir.path()).unwrap();
        let key = PublicKey::X25519(age::x25519::Identity::generate().to_public());
        let name = "soc-1".to_owned();
        let signer = Some(Box::new(signer.public_key()));
        let half = PublicHalf { side: Side::Low, name, key, signer };
        let text = half.to_string();
        assert!(text.starts_with("penstock-public 2\n") && text.contains("\nsigner ssh-ed25519 "));
        assert_eq!(text.parse::<PublicHalf>().unwrap().to_string(), text);

        let old = half.without_signer();
        assert!(old.to_string().starts_with("penstock-public 1\n"));
        assert!(old.to_string().parse::<PublicHalf>().unwrap().signer.is_none());
        assert_ne!(old.fingerprint(), half.fingerprint());

        // Who takes the line away, or puts another key into it, is found by the fingerprint.
        let cut: String = text
            .lines()
            .filter(|line| !line.starts_with("signer"))
            .fold(String::new(), |text, line| text + line + "\n");
        assert!(cut.replace("public 2", "public 1").parse::<PublicHalf>().is_err());
        let other = super::super::receipt_key(tempfile::tempdir().unwrap().path()).unwrap().0;
        let ours = half.signer.as_ref().unwrap().to_openssh().unwrap();
        let swapped = text.replace(&ours, &other.public_key().to_openssh().unwrap());
        assert!(swapped.parse::<PublicHalf>().unwrap_err().contains("fingerprint"));
    }
}
