//! Where something answers over HTTP.

use std::fmt;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC};

/// What has to be escaped in a query, or in one segment of a path: everything that RFC 3986, section 2.3,
/// does not call unreserved. S3 signs what was escaped this way (API/sig-v4-header-based-auth.html).
pub const IN_QUERY: AsciiSet = NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');
/// The same in a whole path, whose slashes stay.
pub const IN_PATH: AsciiSet = IN_QUERY.remove(b'/');

/// A base URL: scheme, host, port, and what stands before every path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Url {
    /// Whether TLS is spoken.
    pub tls: bool,
    /// The host, a name or an address, without brackets.
    pub host: String,
    /// The port.
    pub port: u16,
    /// What stands before every path, without a slash at its end; usually empty.
    pub base: String,
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.tls { "https" } else { "http" };
        write!(f, "{scheme}://{}{}", self.authority(), self.base)
    }
}

impl Url {
    /// Reads `https://HOST[:PORT][/BASE]`; says what is wrong with anything else.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        let uri: hyper::Uri = text.parse().map_err(|_| EXPECTED)?;
        let tls = match uri.scheme_str() {
            Some("https") => true,
            Some("http") => false,
            _ => return Err("begins with https:// or http://"),
        };
        let authority = uri.authority().ok_or(EXPECTED)?;
        if authority.as_str().contains('@') {
            return Err("has no user in it: credentials stand in files");
        }
        if uri.query().is_some() {
            return Err("has no query");
        }
        let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_owned();
        if host.is_empty() {
            return Err(EXPECTED);
        }
        let port = authority.port_u16().unwrap_or(if tls { 443 } else { 80 });
        Ok(Self { tls, host, port, base: uri.path().trim_end_matches('/').to_owned() })
    }

    /// `HOST:PORT`, with brackets around an address that has colons.
    pub fn authority(&self) -> String {
        if self.host.contains(':') {
            format!("[{}]:{}", self.host, self.port)
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }

    /// What the `Host` header says: the port only where it is not the scheme's own.
    pub fn host_header(&self) -> String {
        let authority = self.authority();
        let usual = if self.tls { ":443" } else { ":80" };
        authority.strip_suffix(usual).map_or_else(|| authority.clone(), ToOwned::to_owned)
    }
}

const EXPECTED: &str = "is a URL, as https://siem.example:8088";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_a_base_url() {
        for (text, shown, host) in [
            ("https://siem.example", "https://siem.example:443", "siem.example"),
            ("https://siem.example:8088/", "https://siem.example:8088", "siem.example:8088"),
            ("http://[::1]:9200/es", "http://[::1]:9200/es", "[::1]:9200"),
        ] {
            let url = Url::parse(text).unwrap();
            assert_eq!((url.to_string().as_str(), url.host_header().as_str()), (shown, host));
        }
        for text in ["", "siem", "ftp://h", "https://u:p@h", "https://h?x=1", "https://"] {
            assert!(Url::parse(text).is_err(), "{text}");
        }
    }
}
