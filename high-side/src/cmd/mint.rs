//! `mint`: the certificate authority, and the server's and clients' certificates, that a site without a
//! public key infrastructure needs for mutual TLS.
//!
//! The certificates are plain: ECDSA on P-256 with SHA-256, PKCS #8 keys, names as subject alternative
//! names. Go (Portainer, Kubernetes), OpenSSL (Falco, rsyslog) and mbedTLS (Fluent Bit) take them.

use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::Args;
use rcgen::{
    BasicConstraints, Certificate, CertificateParams, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, PublicKeyData, date_time_ymd,
};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use sha2::{Digest, Sha256};
use shared::clock::{Clock, Nanos, SystemClock};
use shared::durable;
use x509_cert::der::{Decode, Encode};

use super::Failure;

/// The arguments of `mint`.
#[derive(Debug, Args)]
pub struct MintArgs {
    /// Where everything is written. The authority that lies there is used again.
    #[arg(long, value_name = "FOLDER")]
    pub dir: PathBuf,
    /// A name or address under which clients reach this machine; give each of them. Makes the server's
    /// certificate.
    #[arg(long, value_name = "NAME")]
    pub server_name: Vec<String>,
    /// A client, such as portainer or kube-apiserver: its name stands with each of its records.
    #[arg(long, value_name = "NAME")]
    pub client: Vec<String>,
    /// How long the server's and clients' certificates are valid.
    #[arg(long, default_value_t = 730, value_parser = clap::value_parser!(u32).range(1..=7300))]
    pub days: u32,
    /// How long a new authority is valid.
    #[arg(long, default_value_t = 3650, value_parser = clap::value_parser!(u32).range(1..=7300))]
    pub ca_days: u32,
}

pub(super) fn mint(args: &MintArgs) -> Result<(), Failure> {
    mint_at(args, SystemClock.now())
}

fn mint_at(args: &MintArgs, now: Nanos) -> Result<(), Failure> {
    if args.server_name.is_empty() && args.client.is_empty() {
        return Err(Failure::usage(&"nothing to make\n  try: --server-name NAME, --client NAME"));
    }
    let mut wanted = Vec::new();
    if !args.server_name.is_empty() {
        wanted.push(Wanted::server(&args.server_name)?);
    }
    for name in &args.client {
        wanted.push(Wanted::client(name)?);
    }
    // Everything is looked at before anything is written.
    for (at, one) in wanted.iter().enumerate() {
        let file = args.dir.join(format!("{}.pem", one.file));
        if file.exists() || wanted[..at].iter().any(|other| other.file == one.file) {
            return Err(Failure::config(format!(
                "{} exists already\n  try: another name, or move the old certificate and its key away first",
                file.display()
            )));
        }
    }
    durable::create_dir(&args.dir).with_context(|| format!("can't make {}", args.dir.display()))?;
    let authority = Authority::load_or_make(&args.dir, now, args.ca_days)?;
    let until = day(now, args.days)?;
    if until > authority.until {
        return Err(Failure::config(format!(
            "the authority in {} ends before a certificate of {} days would\n  try: fewer --days, or a new folder for a new authority",
            args.dir.display(),
            args.days
        )));
    }
    tell!("certificate authority (clients trust it, and so does the listener as `client-ca`):");
    say!("{} {}", fingerprint(&authority.certificate), args.dir.join(CA_CERT).display());
    for one in &wanted {
        let (certificate, cert, key) = authority.issue(one, now, args.days, &args.dir)?;
        tell!("{}:", one.what);
        say!("{} {}", fingerprint(certificate.der()), cert.display());
        tell!("  key, for nobody else: {}", key.display());
    }
    tell_what_goes_where(args);
    Ok(())
}

fn tell_what_goes_where(args: &MintArgs) {
    let path = |name: &str| args.dir.join(name).display().to_string();
    if !args.server_name.is_empty() {
        tell!("\nin [[listener]] of this side:");
        tell!("  certificate = {:?}\n  key = {:?}", path("server.pem"), path("server.key"));
        tell!("  client-auth = \"required\"\n  client-ca = {:?}", path(CA_CERT));
        tell!("if the agent runs as a user of its own, as the service does, let it in:");
        tell!(
            "  chgrp penstock-high {0} {1} && chmod 750 {0}",
            args.dir.display(),
            path("server.key")
        );
    }
    if let Some(name) = args.client.first() {
        tell!(
            "\nto each client, by a way that nobody else can read: {CA_CERT}, client-NAME.pem, client-NAME.key"
        );
        tell!(
            "  Portainer: --syslog-ca-cert {CA_CERT} --syslog-cert client-{name}.pem --syslog-key client-{name}.key"
        );
        tell!(
            "  others: penstock-high setup kubernetes|falco|fluent-bit|portainer --listener NAME --host HOST"
        );
    }
    tell!(
        "\n{} signs new clients: whoever has it can pose as any of them. Keep it off this machine until it is needed again.",
        path(CA_KEY)
    );
}

/// A certificate that is to be made.
struct Wanted {
    what: String,
    file: String,
    common_name: String,
    names: Vec<String>,
    usage: ExtendedKeyUsagePurpose,
    key_mode: u32,
}

impl Wanted {
    fn server(names: &[String]) -> Result<Self, Failure> {
        for name in names {
            let plain = |b: u8| b.is_ascii_alphanumeric() || b"-.*".contains(&b);
            let is_name = (1..=253).contains(&name.len()) && name.bytes().all(plain);
            if !is_name && name.parse::<std::net::IpAddr>().is_err() {
                return Err(Failure::usage(&format!(
                    "{name:?} is neither a host's name nor an address\n  try: a name without port, as penstock.example.org or 10.0.0.5"
                )));
            }
        }
        Ok(Self {
            what: format!("server {}", names.join(", ")),
            file: "server".to_owned(),
            common_name: names
                .first()
                .map(|name| name.chars().take(CN_MAX).collect())
                .unwrap_or_default(),
            names: names.to_vec(),
            usage: ExtendedKeyUsagePurpose::ServerAuth,
            // The agent's group reads it where root owns it.
            key_mode: 0o640,
        })
    }

    fn client(name: &str) -> Result<Self, Failure> {
        let plain = |b: u8| b.is_ascii_alphanumeric() || b"-_.".contains(&b);
        if !(1..=CN_MAX).contains(&name.len()) || !name.bytes().all(plain) {
            return Err(Failure::usage(&format!(
                "{name:?} can't be a client's name\n  try: 1 to {CN_MAX} letters, digits, '-', '_' or '.'"
            )));
        }
        Ok(Self {
            what: format!("client {name}"),
            file: format!("client-{name}"),
            common_name: name.to_owned(),
            names: Vec::new(),
            usage: ExtendedKeyUsagePurpose::ClientAuth,
            key_mode: 0o600,
        })
    }
}

struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: CertificateDer<'static>,
    /// The last day on which it is valid.
    until: jiff::civil::Date,
}

impl Authority {
    fn load_or_make(dir: &Path, now: Nanos, days: u32) -> Result<Self, Failure> {
        let (cert, key) = (dir.join(CA_CERT), dir.join(CA_KEY));
        match (cert.exists(), key.exists()) {
            (false, false) => Self::make(&cert, &key, now, days),
            (true, true) => Self::load(&cert, &key),
            (true, false) => Err(Failure::config(format!(
                "{} is not there: without it nothing can be signed\n  try: bring it back for as long as this takes, or make a new authority in another folder",
                key.display()
            ))),
            (false, true) => Err(Failure::config(format!(
                "{} is there and {} is not\n  try: bring the certificate back, or move the key away for a new authority",
                key.display(),
                cert.display()
            ))),
        }
    }

    fn make(cert: &Path, key: &Path, now: Nanos, days: u32) -> Result<Self, Failure> {
        let pair = KeyPair::generate().map_err(Failure::new)?;
        let mut params = authority_params(&pair);
        set_validity(&mut params, now, days)?;
        let certificate = params.self_signed(&pair).map_err(Failure::new)?;
        write(key, pair.serialize_pem().as_bytes(), 0o600)?;
        write(cert, certificate.pem().as_bytes(), 0o644)?;
        Ok(Self {
            certificate: certificate.der().clone(),
            issuer: Issuer::new(params, pair),
            until: day(now, days)?,
        })
    }

    fn load(cert: &Path, key: &Path) -> Result<Self, Failure> {
        let text = std::fs::read_to_string(key).with_context(|| key.display().to_string())?;
        let foreign = || {
            Failure::config(format!(
                "{} was not made by this command, or does not belong to {}\n  try: another --dir",
                cert.display(),
                key.display()
            ))
        };
        let pair = KeyPair::from_pem(&text).map_err(|_| foreign())?;
        let certificate = CertificateDer::from_pem_file(cert).map_err(|_| foreign())?;
        let parsed = x509_cert::Certificate::from_der(&certificate).map_err(|_| foreign())?;
        let body = parsed.tbs_certificate();
        let params = authority_params(&pair);
        // What the key would sign, and what the certificate says of it, must be the same.
        let public = body.subject_public_key_info().to_der().map_err(|_| foreign())?;
        let subject = body.subject().to_string();
        if public != pair.subject_public_key_info() || !subject.contains(&authority_name(&pair)) {
            return Err(foreign());
        }
        let until = body.validity().not_after.to_unix_duration().as_secs();
        let until = jiff::Timestamp::from_second(until.cast_signed()).map_err(|_| foreign())?;
        let until = jiff::tz::Offset::UTC.to_datetime(until).date();
        Ok(Self { issuer: Issuer::new(params, pair), certificate, until })
    }

    fn issue(
        &self,
        wanted: &Wanted,
        now: Nanos,
        days: u32,
        dir: &Path,
    ) -> Result<(Certificate, PathBuf, PathBuf), Failure> {
        let mut params = CertificateParams::new(wanted.names.clone()).map_err(Failure::new)?;
        params.distinguished_name = subject(&wanted.common_name);
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![wanted.usage.clone()];
        params.use_authority_key_identifier_extension = true;
        params.is_ca = IsCa::ExplicitNoCa;
        set_validity(&mut params, now, days)?;
        let pair = KeyPair::generate().map_err(Failure::new)?;
        let certificate = params.signed_by(&pair, &self.issuer).map_err(Failure::new)?;
        let file = |suffix: &str| dir.join(format!("{}.{suffix}", wanted.file));
        // The key first: without its certificate it is of no use to anybody, and is made anew.
        write(&file("key"), pair.serialize_pem().as_bytes(), wanted.key_mode)?;
        write(&file("pem"), certificate.pem().as_bytes(), 0o644)?;
        Ok((certificate, file("pem"), file("key")))
    }
}

/// What an authority says of itself. It follows from the key alone, so that it need not be read from the
/// certificate when more is signed later.
fn authority_params(pair: &KeyPair) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = subject(&authority_name(pair));
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

/// Two authorities must not have the same name: peers that know both could not tell them apart.
fn authority_name(pair: &KeyPair) -> String {
    let digest = Sha256::digest(pair.subject_public_key_info());
    let short = digest.iter().take(4).fold(0_u32, |short, byte| short << 8 | u32::from(*byte));
    format!("Penstock CA {short:08x}")
}

fn subject(common_name: &str) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    name.push(DnType::OrganizationName, "Penstock");
    name.push(DnType::CommonName, common_name);
    name
}

fn write(path: &Path, bytes: &[u8], mode: u32) -> Result<(), Failure> {
    durable::write(path, bytes, mode)
        .with_context(|| format!("can't write {}", path.display()))
        .map_err(Failure::from)
}

fn today(now: Nanos) -> Result<jiff::civil::Date, Failure> {
    let time = jiff::Timestamp::from_nanosecond(i128::from(now.0)).map_err(Failure::new)?;
    Ok(jiff::tz::Offset::UTC.to_datetime(time).date())
}

fn day(now: Nanos, days: u32) -> Result<jiff::civil::Date, Failure> {
    use jiff::ToSpan as _;
    today(now)?.checked_add(i64::from(days).days()).map_err(Failure::new)
}

/// Makes a certificate valid for so many days, and since yesterday: the clocks of an isolated site differ.
fn set_validity(params: &mut CertificateParams, now: Nanos, days: u32) -> Result<(), Failure> {
    let at = |date: jiff::civil::Date| {
        date_time_ymd(
            i32::from(date.year()),
            date.month().unsigned_abs(),
            date.day().unsigned_abs(),
        )
    };
    params.not_before = at(today(now)?.yesterday().map_err(Failure::new)?);
    params.not_after = at(day(now, days)?);
    Ok(())
}

/// SHA-256, as `openssl x509 -fingerprint -sha256` prints it.
fn fingerprint(der: &[u8]) -> String {
    let hex: Vec<String> = Sha256::digest(der).iter().map(|byte| format!("{byte:02X}")).collect();
    hex.join(":")
}

const CA_CERT: &str = "ca.pem";
const CA_KEY: &str = "ca.key";

/// The longest common name, by RFC 5280.
const CN_MAX: usize = 64;

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    const NOW: Nanos = Nanos(1_795_600_000_000_000_000);

    fn mint(dir: &Path, servers: &[&str], clients: &[&str], days: u32) -> Result<(), String> {
        let own = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        let args = MintArgs {
            dir: dir.to_owned(),
            server_name: own(servers),
            client: own(clients),
            days,
            ca_days: 100,
        };
        mint_at(&args, NOW).map_err(|failure| failure.to_string())
    }

    #[test]
    fn more_clients_are_signed_later_by_the_same_authority() {
        let dir = tempfile::tempdir().unwrap();
        mint(dir.path(), &["a.example", "10.0.0.5"], &["portainer"], 30).unwrap();
        let ca = std::fs::read(dir.path().join(CA_CERT)).unwrap();
        let server = std::fs::read(dir.path().join("server.pem")).unwrap();
        mint(dir.path(), &[], &["kube-apiserver", "falco"], 30).unwrap();
        assert_eq!(std::fs::read(dir.path().join(CA_CERT)).unwrap(), ca);
        assert_eq!(std::fs::read(dir.path().join("server.pem")).unwrap(), server);
        let mode = |name: &str| {
            std::fs::metadata(dir.path().join(name)).unwrap().permissions().mode() & 0o777
        };
        for (name, wanted) in [
            (CA_KEY, 0o600),
            (CA_CERT, 0o644),
            ("server.key", 0o640),
            ("client-falco.key", 0o600),
            ("client-falco.pem", 0o644),
        ] {
            assert_eq!(mode(name), wanted, "{name}");
        }
    }

    #[test]
    fn nothing_is_replaced_and_nothing_half_made() {
        let dir = tempfile::tempdir().unwrap();
        mint(dir.path(), &["a"], &["one"], 30).unwrap();
        let message = mint(dir.path(), &[], &["two", "one"], 30).unwrap_err();
        assert!(message.contains("client-one.pem exists"), "{message}");
        assert!(!dir.path().join("client-two.pem").exists());
        assert!(mint(dir.path(), &["b"], &[], 30).unwrap_err().contains("server.pem exists"));
        assert!(mint(dir.path(), &[], &["x", "x"], 30).unwrap_err().contains("client-x.pem"));
        assert!(mint(dir.path(), &[], &["late"], 200).unwrap_err().contains("fewer --days"));
        for (servers, clients) in
            [(&["a:80"][..], &[][..]), (&[], &["../x"]), (&[], &[""]), (&[], &[])]
        {
            assert!(mint(dir.path(), servers, clients, 30).is_err(), "{servers:?} {clients:?}");
        }
    }

    #[test]
    fn another_authority_is_not_taken_for_ours() {
        let (ours, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        mint(ours.path(), &["a"], &[], 30).unwrap();
        mint(other.path(), &["a"], &[], 30).unwrap();
        let ca = ours.path().join(CA_CERT);
        std::fs::copy(other.path().join(CA_CERT), &ca).unwrap();
        assert!(mint(ours.path(), &[], &["b"], 30).unwrap_err().contains("was not made"));
        std::fs::write(&ca, "junk").unwrap();
        assert!(mint(ours.path(), &[], &["b"], 30).unwrap_err().contains("was not made"));
        std::fs::remove_file(ours.path().join(CA_KEY)).unwrap();
        assert!(mint(ours.path(), &[], &["b"], 30).unwrap_err().contains("ca.key is not there"));
    }
}
