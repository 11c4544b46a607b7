//! One connection to a receiver: TCP or TLS, with an exact account of what was written.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

/// Where messages go.
#[derive(Clone, Debug)]
pub enum Target {
    /// Plain TCP.
    Tcp(SocketAddr),
    /// TLS, with the name that the receiver's certificate must carry.
    Tls(SocketAddr, TlsFiles),
    /// One datagram a message.
    Udp(SocketAddr),
}

/// The files of a TLS client, in PEM.
#[derive(Clone, Debug)]
pub struct TlsFiles {
    /// Who may have signed the receiver's certificate.
    pub ca: PathBuf,
    /// Our certificate and key, if the receiver asks for one.
    pub client: Option<(PathBuf, PathBuf)>,
    /// The name in the receiver's certificate.
    pub server_name: String,
}

/// One connection.
pub(super) enum Wire {
    Plain(TcpStream),
    Tls(Box<StreamOwned<ClientConnection, TcpStream>>),
}

impl Wire {
    /// Connects; `stall` is the longest that a write may wait for the receiver.
    pub(super) fn connect(target: &Target, stall: Option<Duration>) -> io::Result<Self> {
        let tcp = |address: &SocketAddr| {
            let stream = TcpStream::connect_timeout(address, CONNECT_TIMEOUT)?;
            stream.set_write_timeout(stall)?;
            io::Result::Ok(stream)
        };
        match target {
            Target::Tcp(address) => Ok(Self::Plain(tcp(address)?)),
            Target::Tls(address, files) => {
                let mut stream = tcp(address)?;
                let name = ServerName::try_from(files.server_name.clone());
                let name = name.map_err(io::Error::other)?;
                let client = ClientConnection::new(Arc::new(client_config(files)?), name);
                let mut client = client.map_err(io::Error::other)?;
                client.complete_io(&mut stream)?;
                Ok(Self::Tls(Box::new(StreamOwned::new(client, stream))))
            }
            Target::Udp(_) => Err(io::Error::other("a datagram needs no connection")),
        }
    }

    /// Writes everything, or gives how many bytes the receiver's side of the socket has taken.
    ///
    /// TLS can't say how much of a broken chunk had gone; nothing of it counts then.
    pub(super) fn write(&mut self, bytes: &[u8]) -> Result<(), (usize, io::Error)> {
        match self {
            Self::Plain(stream) => {
                let mut written = 0;
                while written < bytes.len() {
                    match stream.write(&bytes[written..]) {
                        Ok(0) => return Err((written, io::ErrorKind::WriteZero.into())),
                        Ok(count) => written += count,
                        Err(err) if err.kind() == io::ErrorKind::Interrupted => {}
                        Err(err) => return Err((written, err)),
                    }
                }
                Ok(())
            }
            Self::Tls(stream) => {
                stream.write_all(bytes).and_then(|()| stream.flush()).map_err(|err| (0, err))
            }
        }
    }

    /// Ends our side and waits until the receiver has read everything and ends its own.
    pub(super) fn finish(&mut self) -> io::Result<()> {
        let mut scratch = [0; 4096];
        match self {
            Self::Plain(stream) => {
                stream.shutdown(Shutdown::Write)?;
                while stream.read(&mut scratch)? > 0 {}
            }
            Self::Tls(stream) => {
                stream.conn.send_close_notify();
                stream.flush()?;
                stream.sock.shutdown(Shutdown::Write)?;
                loop {
                    match stream.read(&mut scratch) {
                        Ok(0) => break,
                        Ok(_) => {}
                        // Many receivers close without a last alert; the data was ours, not theirs.
                        Err(err) if err.kind() == io::ErrorKind::UnexpectedEof => break,
                        Err(err) => return Err(err),
                    }
                }
            }
        }
        Ok(())
    }
}

fn client_config(files: &TlsFiles) -> io::Result<ClientConfig> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(&files.ca)? {
        roots.add(certificate).map_err(io::Error::other)?;
    }
    let config = ClientConfig::builder().with_root_certificates(roots);
    Ok(match &files.client {
        None => config.with_no_client_auth(),
        Some((certificate, key)) => {
            let key = PrivateKeyDer::from_pem_file(key).map_err(io::Error::other)?;
            config
                .with_client_auth_cert(certificates(certificate)?, key)
                .map_err(io::Error::other)?
        }
    })
}

fn certificates(path: &Path) -> io::Result<Vec<CertificateDer<'static>>> {
    CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect)
        .map_err(|err| io::Error::other(format!("{}: {err}", path.display())))
}

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
