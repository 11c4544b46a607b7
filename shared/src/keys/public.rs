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
//! The fingerprint is made from the other lines; people read it to each other on the telephone.

use std::fmt;
use std::path::Path;
use std::str::FromStr;

use sha2::{Digest, Sha256};

use super::hybrid::HybridRecipient;
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
    fn parse(text: &str) -> Option<Self> {
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

    /// A file name for it: `NAME-XXXXXXXX.pub`, with the first digits of the fingerprint.
    pub fn file_name(&self) -> String {
        let digits: String =
            self.fingerprint().chars().filter(char::is_ascii_digit).take(8).collect();
        format!("{}-{digits}.pub", self.name)
    }

    fn signed_lines(&self) -> String {
        let Self { side, name, key } = self;
        format!("penstock-public 1\nside {}\nname {name}\nkey {key}\n", side.as_str())
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
        if field("penstock-public").as_deref() != Some("1") {
            return Err("is no Penstock public half (it should begin with \"penstock-public 1\")");
        }
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
        let half = Self { side, name, key };
        if matches!(half.key, PublicKey::Ed25519(_)) != (side == Side::High) {
            return Err("the kind of key does not fit the side");
        }
        if field("fingerprint").as_deref() != Some(half.fingerprint().as_str()) {
            return Err("the fingerprint does not fit the key: the file was changed or damaged");
        }
        Ok(half)
    }
}
