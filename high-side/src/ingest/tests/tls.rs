//! TLS: who is let in, what is kept of it, and new certificates without interruption.

use std::fs;
use std::path::Path;

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

use super::*;

/// An authority, and certificates that it issued, as files.
struct Authority {
    dir: tempfile::TempDir,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "test authority");
        let key = KeyPair::generate().unwrap();
        fs::write(dir.path().join("ca.pem"), params.self_signed(&key).unwrap().pem()).unwrap();
        Self { dir, issuer: Issuer::new(params, key) }
    }

    fn issue(&self, file: &str, name: &str) {
        let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::OrganizationName, "Pen, stock");
        params.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        fs::write(self.path(&format!("{file}.pem")), certificate.pem()).unwrap();
        shared::durable::write(
            &self.path(&format!("{file}.key")),
            key.serialize_pem().as_bytes(),
            0o600,
        )
        .unwrap();
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn settings(&self, client_auth: ClientAuth) -> Protocol {
        Protocol::Tls(TlsSettings {
            certificate: self.path("server.pem"),
            key: self.path("server.key"),
            client_auth,
        })
    }

    fn client(&self, address: SocketAddr, identity: Option<&str>) -> Client {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut roots = RootCertStore::empty();
        roots.add(certificate(&self.path("ca.pem"))).unwrap();
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots);
        let config = match identity {
            None => config.with_no_client_auth(),
            Some(name) => {
                let key = PrivateKeyDer::from_pem_file(self.path(&format!("{name}.key"))).unwrap();
                let chain = vec![certificate(&self.path(&format!("{name}.pem")))];
                config.with_client_auth_cert(chain, key).unwrap()
            }
        };
        let name = ServerName::try_from("localhost").unwrap();
        let connection = ClientConnection::new(Arc::new(config), name).unwrap();
        StreamOwned::new(connection, TcpStream::connect(address).unwrap())
    }
}

use std::path::PathBuf;

type Client = StreamOwned<ClientConnection, TcpStream>;

fn certificate(path: &Path) -> CertificateDer<'static> {
    CertificateDer::from_pem_file(path).unwrap()
}

fn server_certificate(client: &Client) -> CertificateDer<'static> {
    client.conn.peer_certificates().unwrap()[0].clone().into_owned()
}

#[test]
fn the_subject_of_a_client_is_kept_with_its_records() {
    let authority = Authority::new();
    authority.issue("server", "localhost");
    authority.issue("client", "sender one");
    let ca = authority.path("ca.pem");
    for client_auth in [ClientAuth::Optional(ca.clone()), ClientAuth::Required(ca)] {
        let mut rig = Rig::start(authority.settings(client_auth), &Options::default());
        let mut client = authority.client(rig.address(), Some("client"));
        client.write_all(b"6 <34>ab<34>cd\n").unwrap();
        let got = rig.take(2);
        assert_eq!([&got[0].raw, &got[1].raw], [b"<34>ab", b"<34>cd"]);
        let (_, subject) = got[0].source.split_once(" tls=").unwrap();
        assert_eq!(subject, r"CN=sender%20one,O=Pen\,%20stock");
    }
}

#[test]
fn a_client_without_a_certificate_is_let_in_only_where_it_may() {
    let authority = Authority::new();
    authority.issue("server", "localhost");
    let ca = authority.path("ca.pem");
    for client_auth in [ClientAuth::None, ClientAuth::Optional(ca.clone())] {
        let mut rig = Rig::start(authority.settings(client_auth), &Options::default());
        authority.client(rig.address(), None).write_all(b"<34>a\n").unwrap();
        assert!(!rig.take(1)[0].source.contains("tls="));
    }
    let rig = Rig::start(authority.settings(ClientAuth::Required(ca)), &Options::default());
    // TLS 1.3 tells a client only after its first writes: they may seem to succeed.
    let _ = authority.client(rig.address(), None).write_all(b"<34>a\n");
    let seen = rig.wait_for(|now| now.handshake_failures == 1 && now.connections_open == 0);
    assert_eq!(seen.messages, 0);
}

#[test]
fn a_new_certificate_is_taken_up_without_dropping_a_connection_and_a_bad_one_is_not() {
    let authority = Authority::new();
    authority.issue("server", "localhost");
    let mut rig = Rig::start(authority.settings(ClientAuth::None), &Options::default());
    let handle = rig.listener.tls.clone().unwrap();
    let first = certificate(&authority.path("server.pem"));
    let mut old = authority.client(rig.address(), None);
    old.write_all(b"<34>a\n").unwrap();
    assert_eq!(rig.take_raw(1), [b"<34>a"]);
    assert_eq!(server_certificate(&old), first);

    fs::write(authority.path("server.pem"), "no certificate").unwrap();
    let error = handle.reload().unwrap_err().to_string();
    assert!(error.contains("server.pem"), "{error}");
    let mut client = authority.client(rig.address(), None);
    client.write_all(b"<34>b\n").unwrap();
    assert_eq!(rig.take_raw(1), [b"<34>b"]);
    assert_eq!(server_certificate(&client), first);

    authority.issue("server", "localhost");
    handle.reload().unwrap();
    let mut new = authority.client(rig.address(), None);
    new.write_all(b"<34>c\n").unwrap();
    old.write_all(b"<34>d\n").unwrap();
    let mut got = rig.take_raw(2);
    got.sort();
    assert_eq!(got, [b"<34>c", b"<34>d"]);
    assert_ne!(server_certificate(&new), first);
}

#[test]
fn a_slow_handshake_and_a_client_without_tls_are_counted() {
    let authority = Authority::new();
    authority.issue("server", "localhost");
    let mut options = Options::default();
    options.limits.handshake_timeout = Duration::from_millis(50);
    let rig = Rig::start(authority.settings(ClientAuth::None), &options);
    let _silent = rig.connect();
    rig.wait_for(|now| now.handshake_failures == 1);
    rig.connect().write_all(b"<34>1 - - - - - - no tls here\n").unwrap();
    rig.wait_for(|now| now.handshake_failures == 2 && now.connections_open == 0);
}

#[test]
fn a_key_that_everybody_may_read_is_refused() {
    let authority = Authority::new();
    authority.issue("server", "localhost");
    let key = fs::read(authority.path("server.key")).unwrap();
    shared::durable::write(&authority.path("server.key"), &key, 0o644).unwrap();
    let Protocol::Tls(settings) = authority.settings(ClientAuth::None) else {
        return;
    };
    let error = TlsAcceptorHandle::load(settings).unwrap_err().to_string();
    assert!(error.contains("chmod 640"), "{error}");
}
