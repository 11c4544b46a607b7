//! The plaintext header: what a transfer officer can check without any secret (FORMAT.md section 3).

use std::fmt::Write as _;
use std::str::FromStr;

use super::{BundleDigest, FILE_EXTENSION, FORMAT_VERSION};
use crate::keys::RECIPIENTS_MAX;
use crate::record::{Epoch, Lane, OriginId, parse_number};

/// The header's fields. Its encoding is canonical: what parses encodes to the same bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// Who sealed it.
    pub origin: OriginId,
    /// In which life of its buffer.
    pub epoch: Epoch,
    /// In which lane.
    pub lane: Lane,
    /// Its number in (origin, epoch, lane), from 1, without holes.
    pub number: u64,
    /// The digest of bundle `number - 1`; zeros for number 1.
    pub previous: BundleDigest,
    /// The length of the payload, in bytes.
    pub payload_bytes: u64,
    /// The SHA-256 of the payload.
    pub payload_sha256: BundleDigest,
    /// The signing key, as `ssh-keygen -l` names it.
    pub signer: String,
    /// The keys that can open it, sorted.
    pub recipients: Vec<String>,
}

impl Header {
    /// The header's one encoding.
    pub fn encode(&self) -> String {
        let mut text = format!(
            "penstock-bundle {FORMAT_VERSION}\norigin {}\nepoch {}\nlane {}\nnumber {}\nprevious {}\n\
             payload-bytes {:020}\npayload-sha256 {}\nsigner {}\n",
            self.origin,
            self.epoch,
            self.lane,
            self.number,
            self.previous,
            self.payload_bytes,
            self.payload_sha256,
            self.signer,
        );
        for recipient in &self.recipients {
            let _ = writeln!(text, "recipient {recipient}");
        }
        text
    }

    /// Parses a header; the version has been looked at before.
    #[cfg_attr(not(feature = "open"), allow(dead_code, reason = "the high side only writes"))]
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, &'static str> {
        let text = std::str::from_utf8(bytes).map_err(|_| "is not UTF-8")?;
        let body = text.strip_suffix('\n').ok_or("does not end with a line feed")?;
        let mut lines = body.split('\n').skip(1);
        let mut field =
            |name: &str| -> Option<&str> { lines.next()?.strip_prefix(name)?.strip_prefix(' ') };
        let number = |text: Option<&str>| text.and_then(|text| parse_number(text.as_bytes()));
        let origin = OriginId::from_str(field("origin").ok_or("has no origin")?);
        let epoch = number(field("epoch")).ok_or("has no epoch")?;
        let lane = field("lane").ok_or("has no lane")?.parse();
        let bundle_number = number(field("number")).ok_or("has no number")?;
        let previous = field("previous").ok_or("has no previous")?.parse()?;
        let payload_bytes = field("payload-bytes").filter(|digits| digits.len() == 20);
        let payload_bytes = payload_bytes.and_then(|digits| digits.parse().ok());
        let payload_sha256 = field("payload-sha256").ok_or("has no payload-sha256")?.parse()?;
        let signer = field("signer").ok_or("has no signer")?.to_owned();
        let recipients: Option<Vec<String>> =
            lines.map(|line| line.strip_prefix("recipient ").map(ToOwned::to_owned)).collect();
        let header = Self {
            origin: origin.map_err(|_| "has an origin that is not allowed")?,
            epoch: Epoch(epoch),
            lane: lane.map_err(|_| "has an unknown lane")?,
            number: bundle_number,
            previous,
            payload_bytes: payload_bytes.ok_or("has no payload-bytes")?,
            payload_sha256,
            signer,
            recipients: recipients.ok_or("has a line that is no recipient")?,
        };
        let first = header.number == 1;
        if header.number == 0 || first != (header.previous == BundleDigest::ZERO) {
            return Err("has a number that does not fit its previous digest");
        }
        let sorted = header.recipients.windows(2).all(|pair| pair[0] < pair[1]);
        let named = header.recipients.iter().all(|name| is_recipient(name));
        let count = (1..=RECIPIENTS_MAX).contains(&header.recipients.len());
        if !count || !sorted || !named || !is_key_name(&header.signer) {
            return Err("has recipients or a signer that are not canonical");
        }
        // Whatever slipped past the rules above changes the encoding.
        if header.encode().as_bytes() == bytes { Ok(header) } else { Err("is not canonical") }
    }

    /// The bundle's identity and what its successor names: the SHA-256 of the header's bytes.
    pub fn digest(&self) -> BundleDigest {
        BundleDigest::of(self.encode().as_bytes())
    }

    /// Splits the version from a header's bytes.
    #[cfg_attr(not(feature = "open"), allow(dead_code, reason = "the high side only writes"))]
    pub(super) fn version(bytes: &[u8]) -> Option<u64> {
        let line = bytes.split(|byte| *byte == b'\n').next()?;
        parse_number(line.strip_prefix(b"penstock-bundle ")?)
    }
}

fn is_key_name(name: &str) -> bool {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b":+/=".contains(&b);
    (1..=80).contains(&name.len()) && name.bytes().all(plain)
}

/// `x25519:` or `mlkem768x25519:` and 16 hex digits.
fn is_recipient(name: &str) -> bool {
    let hex = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
    name.split_once(':').is_some_and(|(kind, digits)| {
        matches!(kind, "x25519" | "mlkem768x25519") && digits.len() == 16 && digits.bytes().all(hex)
    })
}

/// The name under which a bundle stands in an outbox. Nobody relies on it.
pub fn file_name(origin: &OriginId, lane: Lane, number: u64, digest: &BundleDigest) -> String {
    let digest = digest.to_string();
    format!("{origin}-{lane}-{number:010}-{}.{FILE_EXTENSION}", &digest[..16])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header() -> Header {
        Header {
            origin: "plant-7".parse().unwrap(),
            epoch: Epoch(3),
            lane: Lane::Flash,
            number: 2,
            previous: BundleDigest::of(b"x"),
            payload_bytes: 77,
            payload_sha256: BundleDigest::of(b"y"),
            signer: "SHA256:abc".to_owned(),
            recipients: vec!["x25519:0011223344556677".to_owned()],
        }
    }

    #[test]
    fn a_header_has_one_form() {
        let text = header().encode();
        assert_eq!(Header::parse(text.as_bytes()).unwrap(), header());
        for (from, to) in [
            ("epoch 3", "epoch 03"),
            ("epoch 3", "epoch +3"),
            ("lane flash", "lane Flash"),
            ("number 2", "number 1"),
            ("number 2", "number 0"),
            ("payload-bytes 00000000000000000077", "payload-bytes 77"),
            ("payload-bytes 0", "payload-bytes +"),
            ("signer SHA256:abc", "signer SHA256:a c"),
            ("recipient x25519:0011223344556677\n", ""),
            ("recipient x25519:0011223344556677\n", "recipient x25519:0011223344556677\nmore 1\n"),
            ("origin plant-7", "origin Plant-7"),
            ("origin plant-7\n", "origin plant-7\r\n"),
            ("origin plant-7\n", "origin plant-7 \n"),
        ] {
            let changed = text.replacen(from, to, 1);
            assert_ne!(changed, text, "{from}");
            assert!(Header::parse(changed.as_bytes()).is_err(), "{to}");
        }
        assert!(Header::parse(format!("{text}\n").as_bytes()).is_err());
        assert!(Header::parse(text.trim_end().as_bytes()).is_err());
    }
}
