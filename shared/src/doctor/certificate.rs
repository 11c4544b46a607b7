//! What is wrong with a certificate, before somebody who connects finds out.
//!
//! Files are as others left them: they are opened without waiting for a FIFO's writer and read up to a
//! limit. Whether a certificate's key fits and whether a peer accepts it, TLS itself says; signatures
//! are not verified here.

use std::fs::OpenOptions;
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::Duration;

use nix::fcntl::OFlag;
use x509_cert::Certificate;
use x509_cert::ext::pkix::{BasicConstraints, ExtendedKeyUsage, SubjectAltName};

use super::{Finding, Level};
use crate::clock::Nanos;

/// What a certificate is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Signs others, which are believed.
    Authority,
    /// Shows a server who connects.
    Client,
    /// Shows clients whom they reached.
    Server,
}

/// Reads a small regular file: at most so many bytes, and never a FIFO or a device.
///
/// # Errors
/// Where it can't be read, is no regular file, or is larger.
pub fn read_small(path: &Path, bytes_max: u64) -> io::Result<Vec<u8>> {
    let file = OpenOptions::new()
        .read(true)
        .custom_flags((OFlag::O_NONBLOCK | OFlag::O_NOCTTY).bits())
        .open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "is no regular file"));
    }
    let mut bytes = Vec::new();
    file.take(bytes_max + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > bytes_max {
        let text = format!("is larger than {bytes_max} bytes");
        return Err(io::Error::new(io::ErrorKind::InvalidData, text));
    }
    Ok(bytes)
}

/// Judges every certificate of a file in PEM; the first is the one that is shown.
pub fn certificates(path: &Path, purpose: Purpose, now: Nanos) -> Vec<Finding> {
    let shown = path.display();
    let fault =
        |what: String| Finding::new(Level::Fault, "certificate", what).at(shown.to_string());
    let bytes = match read_small(path, FILE_BYTES_MAX) {
        Ok(bytes) => bytes,
        Err(err) => {
            let finding = fault(format!("{shown} can't be read: {err}"));
            return vec![finding.remedy(format!("ls -lL {shown}"))];
        }
    };
    let chain = match Certificate::load_pem_chain(&bytes) {
        Ok(chain) if !chain.is_empty() => chain,
        Ok(_) => return vec![fault(format!("{shown} holds no certificate in PEM"))],
        Err(err) => {
            let finding = fault(format!("{shown} holds no certificate in PEM: {err}"));
            return vec![finding.remedy(format!("openssl x509 -in {shown} -noout -text"))];
        }
    };
    let mut findings = Vec::new();
    for (at, certificate) in chain.iter().enumerate().take(CHAIN_MAX) {
        findings.extend(validity(certificate, at, now));
    }
    match purpose {
        Purpose::Authority => findings.extend(authorities(&chain)),
        Purpose::Client | Purpose::Server => findings.extend(leaf(&chain, purpose)),
    }
    if findings.iter().all(|finding| finding.level < Level::Warning) {
        let until = chain[0].tbs_certificate().validity().not_after;
        let what = format!("{shown} is valid until {}", time(until.to_unix_duration()));
        findings.insert(0, Finding::new(Level::Fine, "certificate", what));
    }
    findings.into_iter().map(|finding| finding.at(&shown)).collect()
}

fn validity(certificate: &Certificate, at: usize, now: Nanos) -> Option<Finding> {
    let validity = certificate.tbs_certificate().validity();
    let (from, until) =
        (time(validity.not_before.to_unix_duration()), time(validity.not_after.to_unix_duration()));
    let subject = name(certificate);
    let which = if at == 0 { subject } else { format!("{subject} (number {} in it)", at + 1) };
    let renew = |finding: Finding| {
        finding
            .remedy("another certificate from whoever issued it, or penstock-high mint")
            .remedy("then systemctl reload (SIGHUP): nothing is interrupted")
    };
    if now < from {
        let what = format!("the certificate of {which} is not valid before {from}");
        return Some(
            Finding::new(Level::Fault, "not-yet-valid", what)
                .remedy("timedatectl: is this machine's clock right?"),
        );
    }
    if now > until {
        let what = format!("the certificate of {which} expired at {until}");
        return Some(renew(Finding::new(Level::Fault, "expired", what)));
    }
    let left = until.since(now);
    (left < EXPIRES_SOON).then(|| {
        let days = left.as_secs() / 86_400;
        let what = format!("the certificate of {which} expires in {days} days, at {until}");
        renew(Finding::new(Level::Warning, "expires-soon", what))
    })
}

fn authorities(chain: &[Certificate]) -> Vec<Finding> {
    let no_authority = chain.iter().filter(|certificate| {
        let constraints = certificate.tbs_certificate().get_extension::<BasicConstraints>();
        !matches!(constraints, Ok(Some((_, BasicConstraints { ca: true, .. }))))
    });
    no_authority
        .map(|certificate| {
            let what = format!("{} is no authority: it may sign nobody", name(certificate));
            Finding::new(Level::Warning, "no-authority", what)
                .remedy("the certificate of the authority itself (CA:TRUE)")
        })
        .collect()
}

fn leaf(chain: &[Certificate], purpose: Purpose) -> Vec<Finding> {
    let mut findings = Vec::new();
    let first = chain[0].tbs_certificate();
    let names = first.get_extension::<SubjectAltName>();
    if purpose == Purpose::Server && !matches!(&names, Ok(Some((_, names))) if !names.0.is_empty())
    {
        let what = format!("the certificate of {} holds no host name or address", name(&chain[0]));
        findings.push(
            Finding::new(Level::Fault, "no-name", what)
                .remedy("a certificate with a subjectAltName: clients look at nothing else")
                .remedy("penstock-high mint --dir FOLDER --server-name NAME"),
        );
    }
    let wanted = match purpose {
        Purpose::Client => CLIENT_AUTH,
        Purpose::Authority | Purpose::Server => SERVER_AUTH,
    };
    if let Ok(Some((_, usage))) = first.get_extension::<ExtendedKeyUsage>()
        && !usage.0.iter().any(|one| one.to_string() == wanted || one.to_string() == ANY_USAGE)
    {
        let what = format!("the certificate of {} is not for this use", name(&chain[0]));
        findings.push(
            Finding::new(Level::Fault, "usage", what)
                .remedy(format!("one whose extendedKeyUsage holds {wanted}, or none at all")),
        );
    }
    for pair in chain.windows(2).take(CHAIN_MAX) {
        let (below, above) = (pair[0].tbs_certificate(), pair[1].tbs_certificate());
        if below.issuer() != above.subject() {
            let what = format!(
                "behind the certificate of {} stands {}, which did not issue it",
                name(&pair[0]),
                name(&pair[1])
            );
            findings.push(
                Finding::new(Level::Warning, "chain", what)
                    .remedy("the certificate first, then each issuer's, without the root"),
            );
        }
    }
    findings
}

fn name(certificate: &Certificate) -> String {
    let mut text = certificate.tbs_certificate().subject().to_string();
    if let Some((at, _)) = text.char_indices().nth(NAME_CHARS_MAX) {
        text.truncate(at);
        text.push_str("...");
    }
    if text.is_empty() { "(no subject)".to_owned() } else { text }
}

fn time(since_1970: Duration) -> Nanos {
    Nanos(i64::try_from(since_1970.as_nanos()).unwrap_or(i64::MAX))
}

/// A chain has some kilobytes; a store of all public authorities has a quarter of this.
const FILE_BYTES_MAX: u64 = 1 << 20;
/// So many certificates of a file are looked at.
const CHAIN_MAX: usize = 512;
/// Longer than a subject needs.
const NAME_CHARS_MAX: usize = 120;
/// Time enough to get another one in most organisations.
const EXPIRES_SOON: Duration = Duration::from_hours(30 * 24);
/// RFC 5280, section 4.2.1.12.
const SERVER_AUTH: &str = "1.3.6.1.5.5.7.3.1";
const CLIENT_AUTH: &str = "1.3.6.1.5.5.7.3.2";
const ANY_USAGE: &str = "2.5.29.37.0";

#[cfg(test)]
mod tests {
    use super::*;

    fn judge(bytes: &[u8]) -> Vec<Finding> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("some.pem");
        std::fs::write(&path, bytes).unwrap();
        certificates(&path, Purpose::Server, Nanos(0))
    }

    #[test]
    fn garbage_is_a_fault_and_nothing_worse() {
        let begin = "-----BEGIN CERTIFICATE-----\n";
        let end = "-----END CERTIFICATE-----\n";
        for text in [
            String::new(),
            "hello".to_owned(),
            begin.to_owned(),
            format!("{begin}{end}"),
            format!("{begin}!!!!\n{end}"),
            format!("{begin}MIIBAAAA\n{end}"),
            format!("{begin}{}{end}", "MIIB\n".repeat(200_000)),
            "x".repeat(2 << 20),
        ] {
            let findings = judge(text.as_bytes());
            assert_eq!(findings.len(), 1, "{findings:?}");
            assert_eq!(findings[0].level, Level::Fault);
        }
        assert_eq!(judge(&[0xff; 4096])[0].level, Level::Fault);
    }

    #[test]
    fn what_is_no_file_is_not_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let fifo = dir.path().join("fifo");
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
        for path in [fifo.as_path(), dir.path(), Path::new("/dev/zero"), Path::new("/nowhere")] {
            let findings = certificates(path, Purpose::Server, Nanos(0));
            assert_eq!(findings[0].level, Level::Fault, "{findings:?}");
        }
    }
}
