//! Who may look.

use std::path::Path;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use hyper::HeaderMap;
use hyper::header::{AUTHORIZATION, HOST};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use subtle::ConstantTimeEq;

use super::config::TlsFiles;

/// Whether a request shows the token: as `Bearer TOKEN`, or as the password of any user, which a
/// browser asks for by itself.
pub(crate) fn shows_token(headers: &HeaderMap, token: &str) -> bool {
    let Some(said) = headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok()) else {
        return false;
    };
    let shown = if let Some(bearer) = said.strip_prefix("Bearer ") {
        bearer.trim().as_bytes().to_vec()
    } else if let Some(basic) = said.strip_prefix("Basic ") {
        let Ok(pair) = BASE64.decode(basic.trim()) else { return false };
        match pair.iter().position(|byte| *byte == b':') {
            Some(at) => pair[at + 1..].to_vec(),
            None => return false,
        }
    } else {
        return false;
    };
    shown.ct_eq(token.as_bytes()).into()
}

/// Whether the `Host` header names this machine: `localhost` or an address of the loopback, with any
/// port. A browser that was led here by another site's name (DNS rebinding) says that name.
pub(crate) fn names_this_machine(headers: &HeaderMap) -> bool {
    let Some(host) = headers.get(HOST).and_then(|value| value.to_str().ok()) else { return false };
    let (name, port) = match host.strip_prefix('[').map(|rest| rest.split_once(']')) {
        Some(Some((name, port))) => (name, port),
        Some(None) => return false,
        None => host.split_at(host.find(':').unwrap_or(host.len())),
    };
    let port = port.is_empty() || port.strip_prefix(':').is_some_and(|p| p.parse::<u16>().is_ok());
    let is_loopback = |name: &str| name.parse().is_ok_and(|at: std::net::IpAddr| at.is_loopback());
    port && (name.eq_ignore_ascii_case("localhost") || is_loopback(name))
}

/// Reads the token's file; for each request, so that a new token needs no restart.
pub(crate) fn token(path: &Path) -> Result<String, String> {
    let text = shared::keys::load_secret(path).map_err(|err| err.to_string())?;
    let token = text.trim();
    if token.len() < TOKEN_CHARS_MIN {
        let problem = format!("holds fewer than {TOKEN_CHARS_MIN} characters");
        return Err(format!("{}: {problem}\n  try: openssl rand -hex 32", path.display()));
    }
    Ok(token.to_owned())
}

/// Reads the files for TLS; for each connection, so that a renewed certificate needs no restart.
pub(crate) fn tls(files: &TlsFiles) -> Result<Arc<ServerConfig>, String> {
    let told = |path: &Path| {
        let path = path.display().to_string();
        move |err: &dyn std::fmt::Display| format!("{path}: {err}")
    };
    let certificates = |path: &Path| -> Result<Vec<CertificateDer<'static>>, String> {
        let tell = told(path);
        let found: Result<Vec<_>, _> =
            CertificateDer::pem_file_iter(path).and_then(Iterator::collect);
        let found = found.map_err(|err| tell(&err))?;
        if found.is_empty() { Err(tell(&"holds no certificate")) } else { Ok(found) }
    };
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|err| err.to_string())?;
    let builder = match &files.client_ca_file {
        None => builder.with_no_client_auth(),
        Some(path) => {
            let mut roots = RootCertStore::empty();
            for authority in certificates(path)? {
                roots.add(authority).map_err(|err| told(path)(&err))?;
            }
            let verifier =
                WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build();
            builder.with_client_cert_verifier(verifier.map_err(|err| told(path)(&err))?)
        }
    };
    let key_file = &files.key_file;
    let secret = shared::keys::load_secret(key_file).map_err(|err| told(key_file)(&err))?;
    let key = PrivateKeyDer::from_pem_slice(secret.as_bytes());
    let mut config = builder
        .with_single_cert(certificates(&files.cert_file)?, key.map_err(|err| told(key_file)(&err))?)
        .map_err(|err| told(&files.cert_file)(&err))?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

/// A token that can't be guessed has so many characters at least.
const TOKEN_CHARS_MIN: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_shows_the_token() {
        let said = |text: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(AUTHORIZATION, text.parse().unwrap());
            shows_token(&headers, "0123456789abcdef")
        };
        let basic = |pair: &str| format!("Basic {}", BASE64.encode(pair));
        assert!(said("Bearer 0123456789abcdef") && said(&basic("anyone:0123456789abcdef")));
        for text in
            ["Bearer x", "Bearer ", "Basic !", &basic("0123456789abcdef"), "0123456789abcdef"]
        {
            assert!(!said(text), "{text}");
        }
        assert!(!shows_token(&HeaderMap::new(), "0123456789abcdef"));
    }

    #[test]
    fn which_hosts_are_this_machine() {
        for (host, is) in [
            ("localhost", true),
            ("localhost:9464", true),
            ("127.0.0.1:9464", true),
            ("[::1]:9464", true),
            ("[::1]", true),
            ("LocalHost:9464", true),
            ("page", false),
            ("[::1]evil.example", false),
            ("[::1", false),
            ("localhost:evil.example", false),
            ("localhost.evil.example", false),
            ("192.0.2.1", false),
            ("evil.example", false),
            ("127.0.0.1.evil.example:9464", false),
            ("", false),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(HOST, host.parse().unwrap());
            assert_eq!(names_this_machine(&headers), is, "{host}");
        }
        assert!(!names_this_machine(&HeaderMap::new()));
    }
}
