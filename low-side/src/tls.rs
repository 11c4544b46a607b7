//! How we verify who we talk to, and how we prove who we are.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use serde::Deserialize;
use shared::config::Problems;
use shared::doctor::certificate::read_small;

/// How the other side is authenticated, and how we are. There is no way to leave it unverified.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TlsConfig {
    /// The authorities that may have signed the other side's certificate; the system's where it is
    /// not given.
    pub ca_file: Option<PathBuf>,
    /// Our certificate chain and its key, for mutual TLS.
    pub client: Option<(PathBuf, PathBuf)>,
    /// The name in the other side's certificate; the host that is connected to where it is not given.
    pub server_name: Option<String>,
}

/// A file that can't be used, and why.
#[derive(Debug, thiserror::Error)]
#[error("{path}: {problem}")]
pub struct TlsError {
    /// The file.
    pub path: PathBuf,
    /// What is wrong with it.
    pub problem: String,
}

impl TlsError {
    fn new(path: &Path, problem: impl fmt::Display) -> Self {
        Self { path: path.to_owned(), problem: problem.to_string() }
    }
}

impl TlsConfig {
    /// The name that has to stand in the certificate of `host`.
    pub fn name(&self, host: &str) -> Result<ServerName<'static>, TlsError> {
        let name = self.server_name.clone().unwrap_or_else(|| host.to_owned());
        ServerName::try_from(name).map_err(|err| {
            TlsError::new(Path::new(host), format!("is no name for a certificate: {err}"))
        })
    }

    /// Reads the files. Done for each connection: a renewed certificate is used without a restart.
    pub fn load(&self) -> Result<ClientConfig, TlsError> {
        let mut roots = RootCertStore::empty();
        if let Some(path) = &self.ca_file {
            for certificate in certificates(path)? {
                roots.add(certificate).map_err(|err| TlsError::new(path, err))?;
            }
        } else {
            let found = rustls_native_certs::load_native_certs();
            roots.add_parsable_certificates(found.certs);
            if roots.is_empty() {
                let why = "the system has no authorities of its own; set ca-file";
                return Err(TlsError::new(Path::new("ca-file"), why));
            }
        }
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|err| TlsError::new(Path::new("TLS"), err))?
            .with_root_certificates(roots);
        let Some((certificate, key)) = &self.client else {
            return Ok(builder.with_no_client_auth());
        };
        let secret = shared::keys::load_secret(key).map_err(|err| TlsError::new(key, err))?;
        let parsed = PrivateKeyDer::from_pem_slice(secret.as_bytes())
            .map_err(|err| TlsError::new(key, err))?;
        builder
            .with_client_auth_cert(certificates(certificate)?, parsed)
            .map_err(|err| TlsError::new(certificate, err))
    }
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    // Not more than any such file has: a path may lead to a device or to something huge.
    let bytes = read_small(path, PEM_BYTES_MAX).map_err(|err| TlsError::new(path, err))?;
    let read: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&bytes).collect();
    let found = read.map_err(|err| TlsError::new(path, err))?;
    if found.is_empty() { Err(TlsError::new(path, "holds no certificate")) } else { Ok(found) }
}

/// A store of all public authorities has a quarter of this.
const PEM_BYTES_MAX: u64 = 1 << 20;

/// The keys of a section that say how TLS is done.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "kebab-case", deny_unknown_fields)]
pub(crate) struct RawTls {
    pub(crate) ca_file: Option<PathBuf>,
    pub(crate) cert_file: Option<PathBuf>,
    pub(crate) key_file: Option<PathBuf>,
    pub(crate) server_name: Option<String>,
}

impl RawTls {
    /// Checks the keys; `used` says whether the connection has TLS at all. `key` gives a key's place.
    pub(crate) fn check(
        self,
        used: bool,
        key: &dyn Fn(&str) -> String,
        problems: &mut Problems,
    ) -> Option<TlsConfig> {
        let given = [
            ("ca-file", self.ca_file.is_some()),
            ("cert-file", self.cert_file.is_some()),
            ("key-file", self.key_file.is_some()),
            ("server-name", self.server_name.is_some()),
        ];
        for (name, given) in given {
            problems.check(used || !given, &key(name), "is for TLS, and there is none here");
        }
        problems.check(
            self.cert_file.is_some() == self.key_file.is_some(),
            &key("cert-file"),
            "and key-file go together",
        );
        used.then(|| TlsConfig {
            ca_file: self.ca_file,
            client: self.cert_file.zip(self.key_file),
            server_name: self.server_name,
        })
    }
}
