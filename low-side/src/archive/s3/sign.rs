//! Credentials, and signatures of requests (AWS Signature Version 4).

use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_credential_types::Credentials;
use aws_sigv4::http_request::{
    PayloadChecksumKind, PercentEncodingMode, SignableBody, SignableRequest, SigningSettings,
    UriPathNormalizationMode, sign,
};
use aws_sigv4::sign::v4;
use shared::clock::Nanos;

use crate::archive::ArchiveError;

/// Reads credentials in AWS's own form (`aws configure` writes it): sections with `key = value`. Read for
/// each request, so that rotated ones are used at once.
pub(super) fn credentials(path: &Path, profile: &str) -> Result<Credentials, ArchiveError> {
    let wrong = |why: String| ArchiveError::Credential { path: path.to_owned(), why };
    let text = shared::keys::load_secret(path).map_err(|err| wrong(err.to_string()))?;
    let (mut id, mut secret, mut token) = (None, None, None);
    let mut ours = false;
    for line in text.lines().map(str::trim) {
        if let Some(section) = line.strip_prefix('[').and_then(|line| line.strip_suffix(']')) {
            ours = section.trim() == profile;
        } else if let Some((key, value)) = line.split_once('=').filter(|_| ours) {
            let place = match key.trim() {
                "aws_access_key_id" => &mut id,
                "aws_secret_access_key" => &mut secret,
                "aws_session_token" => &mut token,
                _ => continue,
            };
            *place = Some(value.trim().to_owned());
        }
    }
    match (id, secret) {
        (Some(id), Some(secret)) => Ok(Credentials::new(id, secret, token, None, "file")),
        _ => Err(wrong(format!(
            "holds no aws_access_key_id and aws_secret_access_key under [{profile}]"
        ))),
    }
}

/// What is signed.
pub(super) struct Unsigned<'a> {
    pub(super) method: &'a str,
    /// The whole URL, as the request line and the header `Host` say it.
    pub(super) url: &'a str,
    pub(super) headers: &'a [(&'static str, String)],
    /// The SHA-256 of the body, in hex.
    pub(super) body_sha256: String,
}

/// The headers that a signature adds.
pub(super) fn signed(
    request: Unsigned<'_>,
    credentials: Credentials,
    region: &str,
    now: Nanos,
) -> Result<Vec<(String, String)>, String> {
    let identity = credentials.into();
    let mut settings = SigningSettings::default();
    // What S3 wants, other than all other services: AmazonS3/latest/API/sig-v4-header-based-auth.html.
    settings.payload_checksum_kind = PayloadChecksumKind::XAmzSha256;
    settings.percent_encoding_mode = PercentEncodingMode::Single;
    settings.uri_path_normalization_mode = UriPathNormalizationMode::Disabled;
    let params = v4::SigningParams::builder()
        .identity(&identity)
        .region(region)
        .name("s3")
        .time(time(now))
        .settings(settings)
        .build()
        .map_err(|err| err.to_string())?
        .into();
    let headers = request.headers.iter().map(|(name, value)| (*name, value.as_str()));
    let body = SignableBody::Precomputed(request.body_sha256);
    let signable = SignableRequest::new(request.method, request.url, headers, body)
        .map_err(|err| err.to_string())?;
    let (instructions, _) = sign(signable, &params).map_err(|err| err.to_string())?.into_parts();
    let added = instructions.headers();
    Ok(added.map(|(name, value)| (name.to_owned(), value.to_owned())).collect())
}

fn time(now: Nanos) -> SystemTime {
    UNIX_EPOCH + Duration::from_nanos(u64::try_from(now.0).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_signature_of_the_example_in_the_documentation() {
        // AmazonS3/latest/API/sig-v4-header-based-auth.html, "Example: GET Object".
        let credentials = Credentials::new(
            "AKIAIOSFODNN7EXAMPLE",
            "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY",
            None,
            None,
            "test",
        );
        let empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        let request = Unsigned {
            method: "GET",
            url: "https://examplebucket.s3.amazonaws.com/test.txt",
            headers: &[("range", "bytes=0-9".to_owned())],
            body_sha256: empty.to_owned(),
        };
        let now = "2013-05-24T00:00:00Z".parse().unwrap();
        let headers = signed(request, credentials, "us-east-1", now).unwrap();
        let (_, value) = headers.iter().find(|(name, _)| name == "authorization").unwrap();
        assert!(
            value.ends_with(
                "Signature=f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41"
            ),
            "{value}"
        );
    }

    #[test]
    fn credentials_of_a_profile() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("credentials");
        let text = "[default]\naws_access_key_id = A\naws_secret_access_key = B\n[other]\naws_access_key_id=C\naws_secret_access_key=D\naws_session_token=E\n";
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        let read =
            |profile| credentials(&path, profile).map(|read| read.access_key_id().to_owned());
        assert_eq!(read("default").unwrap(), "A");
        assert_eq!(read("other").unwrap(), "C");
        assert!(read("third").unwrap_err().to_string().contains("[third]"));
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
        assert!(read("default").is_err());
    }
}
