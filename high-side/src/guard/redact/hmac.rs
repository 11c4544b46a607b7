//! The site's key for keyed digests: equal values get equal marks, and nobody without the key can try
//! values out.

use std::fmt;

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use zeroize::Zeroizing;

/// A key for HMAC-SHA256.
#[derive(Clone)]
pub struct HmacKey(Zeroizing<Vec<u8>>);

impl HmacKey {
    /// Takes a key's bytes; `None` where there are too few.
    pub fn new(bytes: &[u8]) -> Option<Self> {
        (bytes.len() >= KEY_BYTES_MIN).then(|| Self(Zeroizing::new(bytes.to_vec())))
    }

    /// The digest of a value: 128 bits in 22 characters.
    pub(super) fn digest(&self, value: &[u8]) -> String {
        // HMAC takes keys of every length.
        let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(&self.0) else { return String::new() };
        mac.update(value);
        BASE64_URL_SAFE_NO_PAD.encode(&mac.finalize().into_bytes()[..DIGEST_BYTES])
    }
}

impl fmt::Debug for HmacKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("HmacKey")
    }
}

/// 128 bits: values must not be found by trying keys.
const KEY_BYTES_MIN: usize = 16;

/// Half of the digest: two values meet by chance once in 2^64 values.
const DIGEST_BYTES: usize = 16;

/// The length of a digest in a mark.
pub(super) const DIGEST_CHARS: usize = 22;
