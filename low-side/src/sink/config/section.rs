//! A section `[[sink]]` while it is read, and the keys that several kinds of sinks have.

use std::path::Path;
use std::time::Duration;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use shared::config::{Problems, Span};

use crate::http::{HttpConfig, Url};
use crate::tls::{RawTls, TlsConfig};

/// A receiver that is spoken to over a connection of its own protocol.
#[derive(Clone, Debug, PartialEq)]
pub struct Endpoint {
    /// `HOST:PORT`.
    pub address: String,
    /// TLS, or plain TCP where there is none.
    pub tls: Option<TlsConfig>,
    /// How long connecting and the TLS handshake may take.
    pub connect_timeout: Duration,
    /// How long the receiver may take for its next sign of life: to take bytes, to answer, to close.
    pub timeout: Duration,
}

/// What sinks that have a protocol of their own have.
#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct RawEndpoint {
    address: String,
    #[serde(default = "confirm_timeout")]
    confirm_timeout: Span,
    #[serde(default = "connect_timeout")]
    connect_timeout: Span,
}

const ENDPOINT_KEYS: [&str; 3] = ["address", "confirm-timeout", "connect-timeout"];

/// What sinks that speak HTTP have.
#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct RawHttp {
    url: String,
    #[serde(default = "timeout")]
    timeout: Span,
    #[serde(default = "connect_timeout")]
    connect_timeout: Span,
}

const HTTP_KEYS: [&str; 3] = ["url", "timeout", "connect-timeout"];

const TLS_KEYS: [&str; 4] = ["ca-file", "cert-file", "key-file", "server-name"];

/// One section while it is checked.
pub(crate) struct Section<'a> {
    pub(super) position: usize,
    pub(super) table: toml::Table,
    pub(super) problems: &'a mut Problems,
}

impl Section<'_> {
    /// Where a key stands, for problems.
    pub(crate) fn key(&self, name: &str) -> String {
        format!("sink[{}].{name}", self.position)
    }

    /// Notes a problem with a key where `good` does not hold.
    pub(crate) fn check(&mut self, good: bool, name: &str, problem: &str) {
        let key = self.key(name);
        self.problems.check(good, &key, problem);
    }

    /// A credential is never sent in the clear, and stands in a file with an absolute path.
    pub(crate) fn check_secret(&mut self, tls: bool, path: Option<&Path>, name: &str) {
        let Some(path) = path else { return };
        self.check(path.is_absolute(), name, "must be an absolute path");
        self.check(tls, name, "is not sent without TLS: use an https:// url");
    }

    /// Takes some keys out of the section.
    pub(super) fn take<T: DeserializeOwned>(&mut self, keys: &[&str]) -> Option<T> {
        let mut taken = toml::Table::new();
        for key in keys {
            if let Some((key, value)) = self.table.remove_entry(*key) {
                taken.insert(key, value);
            }
        }
        self.read(taken)
    }

    /// Takes all keys that are left: there may be none but those of `T`.
    pub(crate) fn rest<T: DeserializeOwned>(&mut self) -> Option<T> {
        let rest = std::mem::take(&mut self.table);
        self.read(rest)
    }

    fn read<T: DeserializeOwned>(&mut self, table: toml::Table) -> Option<T> {
        match table.try_into() {
            Ok(read) => Some(read),
            Err(err) => {
                let err: toml::de::Error = err;
                self.problems.add(&format!("sink[{}]", self.position), err.to_string().trim_end());
                None
            }
        }
    }

    /// Whether its transport is TLS.
    pub(crate) fn is_tls(&self) -> bool {
        self.table.get("transport").and_then(|value| value.as_str()) == Some("tls")
    }

    /// Takes the keys about TLS.
    pub(crate) fn tls(&mut self, used: bool) -> Option<TlsConfig> {
        let raw: RawTls = self.take(&TLS_KEYS)?;
        let position = self.position;
        raw.check(used, &|name| format!("sink[{position}].{name}"), self.problems)
    }

    /// Takes the keys of a receiver that has a protocol of its own.
    pub(crate) fn endpoint(&mut self, with_tls: bool) -> Option<Endpoint> {
        let tls = self.tls(with_tls);
        self.check(
            tls.as_ref().is_none_or(|tls| tls.ca_file.is_some()),
            "ca-file",
            "is needed: the receiver's certificate is always verified",
        );
        let raw: RawEndpoint = self.take(&ENDPOINT_KEYS)?;
        let problem = format!("is written HOST:PORT, not {:?}", raw.address);
        self.check(split_address(&raw.address).is_some(), "address", &problem);
        for (name, span) in
            [("confirm-timeout", raw.confirm_timeout), ("connect-timeout", raw.connect_timeout)]
        {
            self.check(!span.0.is_zero(), name, "must not be zero");
        }
        Some(Endpoint {
            address: raw.address,
            tls: tls.filter(|_| with_tls),
            connect_timeout: raw.connect_timeout.0,
            timeout: raw.confirm_timeout.0,
        })
    }

    /// Reads a URL; a problem is noted under `key`.
    pub(crate) fn url(&mut self, key: &str, text: &str) -> Option<Url> {
        Url::parse(text).map_err(|problem| self.problems.add(key, problem)).ok()
    }

    /// Takes the keys of a server that is spoken to over HTTP.
    pub(crate) fn http(&mut self) -> Option<HttpConfig> {
        let raw: RawHttp = self.take(&HTTP_KEYS)?;
        for (name, span) in [("timeout", raw.timeout), ("connect-timeout", raw.connect_timeout)] {
            self.check(!span.0.is_zero(), name, "must not be zero");
        }
        let key = self.key("url");
        let url = self.url(&key, &raw.url)?;
        let tls = self.tls(url.tls).unwrap_or_default();
        let (connect_timeout, timeout) = (raw.connect_timeout.0, raw.timeout.0);
        Some(HttpConfig { url, tls, connect_timeout, timeout })
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Transport {
    Relp,
    RelpTls,
    Tcp,
    Tls,
}

// A receiver that writes a batch to a slow disk before it reads on.
fn confirm_timeout() -> Span {
    Span::secs(30)
}
// A bulk that a busy index takes its time for.
fn timeout() -> Span {
    Span::secs(60)
}
fn connect_timeout() -> Span {
    Span::secs(10)
}

/// The host of `HOST:PORT` or `[IPv6]:PORT`.
pub(in crate::sink) fn split_address(address: &str) -> Option<String> {
    let (host, port) = address.rsplit_once(':')?;
    port.parse::<u16>().ok().filter(|port| *port > 0)?;
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    let ipv6_without_brackets = bare.contains(':') && bare.len() == host.len();
    (!bare.is_empty() && !ipv6_without_brackets).then(|| bare.to_owned())
}
