//! Random names for channels and requests.

use std::fs::File;
use std::io::Read as _;
use std::path::PathBuf;

use super::SinkError;

/// A random UUID (RFC 9562, version 4) in its usual form.
pub(super) fn guid() -> Result<String, SinkError> {
    let mut bytes = [0_u8; 16];
    File::open(RANDOM)
        .and_then(|mut file| file.read_exact(&mut bytes))
        .map_err(|source| SinkError::File { path: PathBuf::from(RANDOM), source })?;
    let random = u128::from_be_bytes(bytes);
    let (version, variant) = (0xf_u128 << 76, 0x3_u128 << 62);
    let value = (random & !version & !variant) | 0x4 << 76 | 0x2 << 62;
    let hex = format!("{value:032x}");
    Ok([&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]].join("-"))
}

const RANDOM: &str = "/dev/urandom";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guid_has_its_form_and_is_used_once() {
        let (one, other) = (guid().unwrap(), guid().unwrap());
        assert_ne!(one, other);
        for guid in [one, other] {
            let parts: Vec<usize> = guid.split('-').map(str::len).collect();
            assert_eq!(parts, [8, 4, 4, 4, 12], "{guid}");
            assert_eq!(&guid[14..15], "4");
            assert!("89ab".contains(&guid[19..20]), "{guid}");
        }
    }
}
