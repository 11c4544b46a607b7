//! TLS for listeners: certificates from files, loaded again without dropping a connection.

use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig, version};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use shared::doctor::certificate::read_small;
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use x509_cert::Certificate;
use x509_cert::der::Decode;
use zeroize::Zeroizing;

/// What a TLS listener needs.
#[derive(Clone, Debug)]
pub struct TlsSettings {
    /// Its certificate and the chain above it, in PEM.
    pub certificate: PathBuf,
    /// The certificate's private key, in PEM; not readable by everybody.
    pub key: PathBuf,
    /// Whether clients must show a certificate.
    pub client_auth: ClientAuth,
}

/// Whether clients show certificates, and the authorities that may issue them, in PEM.
#[derive(Clone, Debug)]
pub enum ClientAuth {
    /// Clients are not asked.
    None,
    /// A client may show a certificate; one that does not fit ends the connection.
    Optional(PathBuf),
    /// Every client shows one.
    Required(PathBuf),
}

/// Why TLS can't be set up.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file can't be read, or is no PEM.
    #[error(
        "can't read {what} from {path}: {source}\n  try: check the path and that the agent's user may read it"
    )]
    File {
        /// What should be in it.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: rustls_pki_types::pem::Error,
    },
    /// The private key is readable by everybody.
    #[error("{0} is readable by everybody\n  try: chmod 640 {0}")]
    KeyExposed(PathBuf),
    /// The certificates do not fit.
    #[error("can't use {path}: {source}")]
    Unfit {
        /// The file.
        path: PathBuf,
        /// What does not fit.
        source: rustls::Error,
    },
    /// The authorities for clients do not fit.
    #[error("can't use the authorities of {path}: {source}")]
    Authorities {
        /// The file.
        path: PathBuf,
        /// What does not fit.
        source: rustls::server::VerifierBuilderError,
    },
}

/// Accepts TLS connections; clones share one configuration.
#[derive(Clone, Debug)]
pub struct TlsAcceptorHandle {
    settings: Arc<TlsSettings>,
    config: Arc<RwLock<Arc<ServerConfig>>>,
}

impl TlsAcceptorHandle {
    /// Reads the files that the settings name.
    pub fn load(settings: TlsSettings) -> Result<Self, TlsError> {
        let config = Arc::new(server_config(&settings)?);
        Ok(Self { settings: Arc::new(settings), config: Arc::new(RwLock::new(config)) })
    }

    /// Reads the files again, for connections yet to come. What can't be used changes nothing.
    pub fn reload(&self) -> Result<(), TlsError> {
        let config = Arc::new(server_config(&self.settings)?);
        *self.config.write().unwrap_or_else(PoisonError::into_inner) = config;
        Ok(())
    }

    /// Completes a handshake; gives also the subject of the client's certificate.
    pub(super) async fn accept(
        &self,
        stream: TcpStream,
    ) -> io::Result<(TlsStream<TcpStream>, Option<String>)> {
        let config = Arc::clone(&self.config.read().unwrap_or_else(PoisonError::into_inner));
        let stream = TlsAcceptor::from(config).accept(stream).await?;
        let certificates = stream.get_ref().1.peer_certificates();
        let subject = certificates.and_then(|chain| chain.first()).map(|leaf| subject(leaf));
        Ok((stream, subject))
    }
}

/// The subject as a string of RFC 4514. The certificate was verified before.
fn subject(leaf: &CertificateDer<'_>) -> String {
    match Certificate::from_der(leaf) {
        Ok(certificate) => certificate.tbs_certificate().subject().to_string(),
        Err(_) => UNREADABLE_SUBJECT.to_owned(),
    }
}

fn server_config(settings: &TlsSettings) -> Result<ServerConfig, TlsError> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let unfit = |path: &Path| {
        let path = path.to_owned();
        move |source| TlsError::Unfit { path, source }
    };
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[&version::TLS13, &version::TLS12])
        .map_err(unfit(&settings.certificate))?;
    let builder = match &settings.client_auth {
        ClientAuth::None => builder.with_no_client_auth(),
        ClientAuth::Optional(path) | ClientAuth::Required(path) => {
            let mut roots = RootCertStore::empty();
            for authority in certificates(path, "certificate authorities")? {
                roots.add(authority).map_err(unfit(path))?;
            }
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
            let verifier = match settings.client_auth {
                ClientAuth::Required(_) => verifier,
                ClientAuth::None | ClientAuth::Optional(_) => verifier.allow_unauthenticated(),
            };
            builder.with_client_cert_verifier(
                verifier
                    .build()
                    .map_err(|source| TlsError::Authorities { path: path.clone(), source })?,
            )
        }
    };
    let chain = certificates(&settings.certificate, "a certificate")?;
    builder.with_single_cert(chain, key(&settings.key)?).map_err(unfit(&settings.certificate))
}

fn certificates(path: &Path, what: &'static str) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let error = |source| TlsError::File { what, path: path.to_owned(), source };
    let found: Vec<_> = read_pem(path)
        .and_then(|bytes| CertificateDer::pem_slice_iter(&bytes).collect())
        .map_err(error)?;
    if found.is_empty() {
        return Err(error(rustls_pki_types::pem::Error::NoItemsFound));
    }
    Ok(found)
}

fn key(path: &Path) -> Result<PrivateKeyDer<'static>, TlsError> {
    let path = &shared::keys::secret_path(path);
    let exposed = std::fs::metadata(path).is_ok_and(|file| file.permissions().mode() & 0o007 != 0);
    if exposed {
        return Err(TlsError::KeyExposed(path.clone()));
    }
    read_pem(path)
        .and_then(|bytes| PrivateKeyDer::from_pem_slice(&bytes))
        .map_err(|source| TlsError::File { what: "a private key", path: path.clone(), source })
}

/// Reads no more than any such file has: a path may lead to a device or to something huge.
fn read_pem(path: &Path) -> Result<Zeroizing<Vec<u8>>, rustls_pki_types::pem::Error> {
    read_small(path, PEM_BYTES_MAX).map(Zeroizing::new).map_err(rustls_pki_types::pem::Error::Io)
}

/// A store of all public authorities has a quarter of this.
const PEM_BYTES_MAX: u64 = 1 << 20;
/// Stands for the subject of a certificate that was verified and can't be parsed all the same.
const UNREADABLE_SUBJECT: &str = "(unreadable)";
