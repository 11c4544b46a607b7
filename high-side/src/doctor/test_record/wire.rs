//! One message, as each kind of sender puts it on the wire.

use std::fmt;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::{
    CertificateError, ClientConfig, ClientConnection, DigitallySignedStruct, Error,
    SignatureScheme, StreamOwned,
};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use shared::doctor::certificate::read_small;
use shared::msgpack;

use super::Record;
use crate::ingest::{ClientAuth, ForwardSettings, ListenerSettings, Protocol, TlsSettings};

/// Why it could not be sent, in words.
pub(super) type Problem = String;

/// Whether clients have to prove that they know a secret.
pub(super) fn demands_proof(forward: &ForwardSettings) -> bool {
    forward.shared_key.is_some() || forward.users.is_some()
}

/// Sends the record, and waits for the answer where the protocol has one.
pub(super) fn send(
    listener: &ListenerSettings,
    address: SocketAddr,
    record: &Record,
    client: Option<&(PathBuf, PathBuf)>,
) -> Result<(), Problem> {
    if let Protocol::Udp = &listener.protocol {
        return udp(address, &record.body).map_err(words);
    }
    let mut stream = connect(listener, address, client)?;
    match &listener.protocol {
        Protocol::Udp => Ok(()),
        Protocol::Tcp | Protocol::Tls(_) => {
            let framed = format!("{} {}", record.body.len(), record.body);
            stream.write_all(framed.as_bytes()).and_then(|()| stream.flush()).map_err(refused)?;
            stream.close().map_err(refused)
        }
        Protocol::Relp(_) => relp(&mut *stream, &record.body),
        Protocol::FluentForward(forward) if demands_proof(forward) => {
            Err("it demands a shared key or a password\n  try: --listener with another one"
                .to_owned())
        }
        Protocol::FluentForward(_) => forward(&mut *stream, &record.body),
        Protocol::Http(http) => {
            let path = http.path.as_deref().unwrap_or("/");
            post(&mut *stream, path, &record.body)
        }
    }
}

fn words(err: impl fmt::Display) -> Problem {
    err.to_string()
}

/// A refused certificate is told when one reads, in TLS 1.3.
#[expect(clippy::needless_pass_by_value, reason = "stands in map_err")]
fn refused(err: io::Error) -> Problem {
    let text = err.to_string();
    if text.contains("CertificateRequired") || text.contains("certificate") {
        format!("{text}\n  try: --client-cert FILE --client-key FILE, as one of its senders has")
    } else {
        text
    }
}

fn udp(address: SocketAddr, body: &str) -> io::Result<()> {
    let any = if address.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    UdpSocket::bind(any)?.send_to(body.as_bytes(), address).map(|_| ())
}

/// A connection that can be closed in order.
trait Connection: Read + Write {
    fn close(&mut self) -> io::Result<()>;
}

impl Connection for TcpStream {
    fn close(&mut self) -> io::Result<()> {
        self.shutdown(std::net::Shutdown::Write)?;
        drain(self)
    }
}

impl Connection for StreamOwned<ClientConnection, TcpStream> {
    fn close(&mut self) -> io::Result<()> {
        self.conn.send_close_notify();
        self.flush()?;
        self.sock.shutdown(std::net::Shutdown::Write)?;
        drain(self)
    }
}

/// Reads to the peer's close: what it refuses, it says now.
fn drain(stream: &mut impl Read) -> io::Result<()> {
    let mut rest = [0; 1024];
    for _ in 0..READS_MAX {
        match stream.read(&mut rest) {
            Ok(0) => return Ok(()),
            Ok(_) => {}
            Err(err) if err.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
            Err(err) => return Err(err),
        }
    }
    Ok(())
}

fn connect(
    listener: &ListenerSettings,
    address: SocketAddr,
    client: Option<&(PathBuf, PathBuf)>,
) -> Result<Box<dyn Connection>, Problem> {
    let tcp = TcpStream::connect_timeout(&address, WITHIN).map_err(words)?;
    tcp.set_read_timeout(Some(WITHIN)).map_err(words)?;
    tcp.set_write_timeout(Some(WITHIN)).map_err(words)?;
    let Some(tls) = listener.protocol.tls() else { return Ok(Box::new(tcp)) };
    let config = client_config(tls, client)?;
    let name = ServerName::from(address.ip());
    let session = ClientConnection::new(Arc::new(config), name).map_err(words)?;
    let mut stream = StreamOwned::new(session, tcp);
    while stream.conn.is_handshaking() {
        stream.conn.complete_io(&mut stream.sock).map_err(refused)?;
    }
    Ok(Box::new(stream))
}

fn client_config(
    tls: &TlsSettings,
    client: Option<&(PathBuf, PathBuf)>,
) -> Result<ClientConfig, Problem> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let chain = certificates(&tls.certificate)?;
    let shown = chain.into_iter().next().ok_or("the listener has no certificate")?;
    let verifier = Arc::new(Ours { shown, provider: Arc::clone(&provider) });
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(words)?
        .dangerous()
        .with_custom_certificate_verifier(verifier);
    match (client, &tls.client_auth) {
        (_, ClientAuth::None) | (None, ClientAuth::Optional(_)) => {
            Ok(builder.with_no_client_auth())
        }
        (None, ClientAuth::Required(_)) => Err(
            "it demands a client's certificate\n  try: --client-cert FILE --client-key FILE, as one of its senders has".to_owned(),
        ),
        (Some((certificate, key)), _) => {
            let secret = read_small(key, PEM_BYTES_MAX)
                .map_err(|err| format!("{}: {err}", key.display()))?;
            let secret = zeroize::Zeroizing::new(secret);
            let secret = PrivateKeyDer::from_pem_slice(&secret)
                .map_err(|err| format!("{}: {err}", key.display()))?;
            let chain = certificates(certificate)?;
            builder
                .with_client_auth_cert(chain, secret)
                .map_err(|err| format!("{}: {err}", certificate.display()))
        }
    }
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, Problem> {
    let said = |err: &dyn fmt::Display| format!("{}: {err}", path.display());
    let bytes = read_small(path, PEM_BYTES_MAX).map_err(|err| said(&err))?;
    CertificateDer::pem_slice_iter(&bytes).collect::<Result<_, _>>().map_err(|err| said(&err))
}

/// Believes the certificate that the configuration names, and no other: the question is whether the
/// listener answers, not whether this machine is known by some name.
#[derive(Debug)]
struct Ours {
    shown: CertificateDer<'static>,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Ours {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        if *end_entity == self.shown {
            Ok(ServerCertVerified::assertion())
        } else {
            Err(CertificateError::ApplicationVerificationFailure.into())
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// `TXNR COMMAND LENGTH DATA LF`, each answered by `TXNR rsp LENGTH CODE ...`.
fn relp(stream: &mut dyn Connection, body: &str) -> Result<(), Problem> {
    let offers = "relp_version=0\nrelp_software=penstock-doctor\ncommands=syslog";
    let frames = [("open", offers), ("syslog", body)];
    for (number, (command, data)) in (1..).zip(frames) {
        let frame = format!("{number} {command} {} {data}\n", data.len());
        stream.write_all(frame.as_bytes()).and_then(|()| stream.flush()).map_err(refused)?;
        let answer = line(stream)?;
        let good = answer.split(' ').nth(1) == Some("rsp")
            && answer.split(' ').nth(3).is_some_and(|code| code.starts_with("200"));
        if !good {
            return Err(format!("it answered {command} with {answer:?}"));
        }
        // The answer to `open` goes on with what the server offers, a line each.
        let length = answer.split(' ').nth(2).and_then(|length| length.parse::<usize>().ok());
        let head = answer.split(' ').take(3).map(|word| word.len() + 1).sum::<usize>();
        let mut rest = (length.unwrap_or(0) + head).saturating_sub(answer.len());
        while rest > 0 {
            rest = rest.saturating_sub(line(stream)?.len() + 1);
        }
    }
    stream.write_all(b"3 close 0\n").and_then(|()| stream.flush()).map_err(words)
}

/// A line without its end.
fn line(stream: &mut dyn Connection) -> Result<String, Problem> {
    let mut text = Vec::new();
    let mut byte = [0];
    while text.len() < LINE_BYTES_MAX {
        match stream.read(&mut byte).map_err(refused)? {
            0 => return Err("it closed the connection without an answer".to_owned()),
            _ if byte[0] == b'\n' => return Ok(String::from_utf8_lossy(&text).into_owned()),
            _ => text.push(byte[0]),
        }
    }
    Err("its answer has no end".to_owned())
}

/// `[tag, time, {"log": text}, {"chunk": id}]`, answered by `{"ack": id}`.
fn forward(stream: &mut dyn Connection, body: &str) -> Result<(), Problem> {
    let mut message = Vec::new();
    msgpack::push_array_head(&mut message, 4);
    msgpack::push_text(&mut message, "penstock.test");
    let now = shared::clock::Clock::now(&shared::clock::SystemClock).as_secs();
    msgpack::push_unsigned(&mut message, u64::try_from(now).unwrap_or(0));
    msgpack::push_map_head(&mut message, 1);
    msgpack::push_text(&mut message, "log");
    msgpack::push_text(&mut message, body);
    msgpack::push_map_head(&mut message, 1);
    msgpack::push_text(&mut message, "chunk");
    msgpack::push_text(&mut message, CHUNK);
    stream.write_all(&message).and_then(|()| stream.flush()).map_err(refused)?;
    let mut wanted = Vec::new();
    msgpack::push_map_head(&mut wanted, 1);
    msgpack::push_text(&mut wanted, "ack");
    msgpack::push_text(&mut wanted, CHUNK);
    let mut answer = vec![0; wanted.len()];
    stream.read_exact(&mut answer).map_err(refused)?;
    if answer == wanted {
        Ok(())
    } else {
        Err("its acknowledgement is of something else".to_owned())
    }
}

fn post(stream: &mut dyn Connection, path: &str, body: &str) -> Result<(), Problem> {
    let head = format!(
        "POST {path} HTTP/1.1\r\nHost: localhost\r\nUser-Agent: penstock-doctor\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).map_err(refused)?;
    stream.write_all(body.as_bytes()).and_then(|()| stream.flush()).map_err(refused)?;
    let answer = line(stream)?;
    let status = answer.split(' ').nth(1).and_then(|status| status.parse::<u16>().ok());
    match status {
        Some(200..=299) => Ok(()),
        _ => Err(format!("it answered {:?}", answer.trim())),
    }
}

const WITHIN: Duration = Duration::from_secs(15);
const PEM_BYTES_MAX: u64 = 1 << 20;
const LINE_BYTES_MAX: usize = 4096;
/// What a listener says before it closes is short.
const READS_MAX: usize = 64;
/// Names the chunk that is to be acknowledged.
const CHUNK: &str = "cGVuc3RvY2stZG9jdG9y";
