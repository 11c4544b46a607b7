//! Hybrid post-quantum age recipients and identities: `age1pq1...`.
//!
//! X25519 with ML-KEM-768 (X-Wing) in HPKE, as specified in C2SP `age.md`, "The ML-KEM-768 + X25519
//! recipient type". The age crate of this version knows only X25519, so this plugs the type into its
//! public traits; tested with the vectors of C2SP and against a second implementation's files.

use std::collections::HashSet;
use std::fmt;
use std::str::FromStr;

use age::{DecryptError, EncryptError, Identity, Recipient};
use age_core::format::{FileKey, Stanza};
use age_core::secrecy::ExposeSecret;
use bech32::{FromBase32, ToBase32, Variant};
use hpke::aead::ChaCha20Poly1305;
use hpke::kdf::HkdfSha256;
use hpke::kem::XWing;
use hpke::{Deserializable, Kem, OpModeR, OpModeS, Serializable};
use zeroize::Zeroizing;

const STANZA_TAG: &str = "mlkem768x25519";
const INFO: &[u8] = b"age-encryption.org/mlkem768x25519";
const RECIPIENT_HRP: &str = "age1pq";
const IDENTITY_HRP: &str = "age-secret-key-pq-";
const SEED_BYTES: usize = 32;
const FILE_KEY_BYTES: usize = 16;
const SEALED_FILE_KEY_BYTES: usize = FILE_KEY_BYTES + 16;

/// Keeps classic recipients out of the same file, which they would weaken to their own strength.
const LABEL: &str = "postquantum";

/// A public key that resists an attacker with a quantum computer.
#[derive(Clone)]
pub struct HybridRecipient(<XWing as Kem>::PublicKey);

impl fmt::Debug for HybridRecipient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "HybridRecipient({self})")
    }
}

impl fmt::Display for HybridRecipient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let data = self.0.to_bytes().as_slice().to_base32();
        bech32::encode_to_fmt(f, RECIPIENT_HRP, data, Variant::Bech32).map_err(|_| fmt::Error)?
    }
}

impl FromStr for HybridRecipient {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let bytes = decode(text, RECIPIENT_HRP).ok_or("is no hybrid recipient")?;
        <XWing as Kem>::PublicKey::from_bytes(&bytes)
            .map(Self)
            .map_err(|_| "is no hybrid recipient")
    }
}

impl Recipient for HybridRecipient {
    fn wrap_file_key(
        &self,
        file_key: &FileKey,
    ) -> Result<(Vec<Stanza>, HashSet<String>), EncryptError> {
        let (share, body) = hpke::single_shot_seal::<ChaCha20Poly1305, HkdfSha256, XWing>(
            &OpModeS::Base,
            &self.0,
            INFO,
            file_key.expose_secret(),
            b"",
        )
        .map_err(|_| EncryptError::Io(std::io::Error::other("hybrid encapsulation failed")))?;
        let share = base64_no_pad(&share.to_bytes());
        let stanza = Stanza { tag: STANZA_TAG.to_owned(), args: vec![share], body };
        Ok((vec![stanza], HashSet::from([LABEL.to_owned()])))
    }
}

/// The secret half of a [`HybridRecipient`].
#[derive(Clone)]
pub(crate) struct HybridIdentity(<XWing as Kem>::PrivateKey);

impl fmt::Debug for HybridIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("HybridIdentity")
    }
}

impl HybridIdentity {
    pub(crate) fn generate() -> Self {
        Self(XWing::gen_keypair().0)
    }

    pub(crate) fn to_public(&self) -> HybridRecipient {
        HybridRecipient(XWing::sk_to_pk(&self.0))
    }

    pub(crate) fn to_text(&self) -> Result<Zeroizing<String>, bech32::Error> {
        let data = self.0.to_bytes().as_slice().to_base32();
        let text = Zeroizing::new(bech32::encode(IDENTITY_HRP, data, Variant::Bech32)?);
        Ok(Zeroizing::new(text.to_uppercase()))
    }

    pub(crate) fn parse(text: &str) -> Option<Self> {
        let bytes = Zeroizing::new(decode(text, IDENTITY_HRP)?);
        if bytes.len() != SEED_BYTES {
            return None;
        }
        <XWing as Kem>::PrivateKey::from_bytes(&bytes).ok().map(Self)
    }
}

impl Identity for HybridIdentity {
    fn unwrap_stanza(&self, stanza: &Stanza) -> Option<Result<FileKey, DecryptError>> {
        if stanza.tag != STANZA_TAG {
            return None;
        }
        let [share] = stanza.args.as_slice() else {
            return Some(Err(DecryptError::InvalidHeader));
        };
        let Some(share) = decode_base64_no_pad(share) else {
            return Some(Err(DecryptError::InvalidHeader));
        };
        let Ok(encapsulated) = <XWing as Kem>::EncappedKey::from_bytes(&share) else {
            return Some(Err(DecryptError::InvalidHeader));
        };
        if stanza.body.len() != SEALED_FILE_KEY_BYTES || is_low_order(&share) {
            return Some(Err(DecryptError::InvalidHeader));
        }
        let opened = hpke::single_shot_open::<ChaCha20Poly1305, HkdfSha256, XWing>(
            &OpModeR::Base,
            &self.0,
            &encapsulated,
            INFO,
            &stanza.body,
            b"",
        );
        // A stanza for another recipient looks the same: it just does not open.
        let opened = Zeroizing::new(opened.ok()?);
        Some(Ok(FileKey::init_with_mut(|key| {
            key.copy_from_slice(&opened);
        })))
    }
}

/// Whether the X25519 share, the last 32 bytes, contributes nothing to the secret (RFC 7748
/// section 6.1); the X-Wing implementation accepts such shares.
fn is_low_order(share: &[u8]) -> bool {
    let Some(x25519) = share.len().checked_sub(32).map(|start| &share[start..]) else {
        return true;
    };
    let mut masked = [0; 32];
    masked.copy_from_slice(x25519);
    masked[31] &= 0x7f;
    LOW_ORDER.contains(&masked)
}

/// The points of small order, as in libsodium's blacklist; the top bit is ignored by X25519.
const LOW_ORDER: [[u8; 32]; 7] = {
    let mut points = [[0_u8; 32]; 7];
    points[1][0] = 1;
    points[2] = [
        0xe0, 0xeb, 0x7a, 0x7c, 0x3b, 0x41, 0xb8, 0xae, 0x16, 0x56, 0xe3, 0xfa, 0xf1, 0x9f, 0xc4,
        0x6a, 0xda, 0x09, 0x8d, 0xeb, 0x9c, 0x32, 0xb1, 0xfd, 0x86, 0x62, 0x05, 0x16, 0x5f, 0x49,
        0xb8, 0x00,
    ];
    points[3] = [
        0x5f, 0x9c, 0x95, 0xbc, 0xa3, 0x50, 0x8c, 0x24, 0xb1, 0xd0, 0xb1, 0x55, 0x9c, 0x83, 0xef,
        0x5b, 0x04, 0x44, 0x5c, 0xc4, 0x58, 0x1c, 0x8e, 0x86, 0xd8, 0x22, 0x4e, 0xdd, 0xd0, 0x9f,
        0x11, 0x57,
    ];
    let mut at = 4;
    while at < 7 {
        points[at] = [0xff; 32];
        points[at][0] = 0xec + (at as u8 - 4);
        points[at][31] = 0x7f;
        at += 1;
    }
    points
};

fn decode(text: &str, hrp: &str) -> Option<Vec<u8>> {
    let (found, data, variant) = bech32::decode(text).ok()?;
    if variant != Variant::Bech32 || found.to_lowercase() != hrp {
        return None;
    }
    Vec::<u8>::from_base32(&data).ok()
}

fn base64_no_pad(bytes: &[u8]) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD_NO_PAD.encode(bytes)
}

fn decode_base64_no_pad(text: &str) -> Option<Vec<u8>> {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD_NO_PAD.decode(text).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_read_back_as_they_were_printed() {
        let identity = HybridIdentity::generate();
        let text = identity.to_text().unwrap();
        assert!(text.starts_with("AGE-SECRET-KEY-PQ-1"));
        let again = HybridIdentity::parse(&text).unwrap();
        let public = identity.to_public().to_string();
        assert_eq!(public.len(), 1959);
        assert!(public.starts_with("age1pq1"));
        assert_eq!(again.to_public().to_string(), public);
        assert_eq!(public.parse::<HybridRecipient>().unwrap().to_string(), public);
    }

    #[test]
    fn a_share_that_contributes_nothing_is_refused() {
        for low in [0_u8, 1, 0xec, 0xed, 0xee] {
            let mut share = vec![7_u8; 1120];
            let tail = if low > 1 { 0xff } else { 0 };
            share[1088..].fill(tail);
            share[1088] = low;
            share[1119] = if low > 1 { 0x7f } else { 0x80 };
            assert!(is_low_order(&share), "{low}");
        }
        assert!(!is_low_order(&[9; 1120]));
    }
}
