//! The section `[page]`.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use shared::config::Problems;
use shared::reach::{Reach, Transport};

/// Where the page is served, and to whom.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PageConfig {
    /// Where.
    pub listen: Listen,
    /// With TLS.
    pub tls: Option<TlsFiles>,
    /// The file with the token that everybody has to show.
    pub token_file: Option<PathBuf>,
    /// Where the flow of the last hour outlives a restart.
    pub flow_file: Option<PathBuf>,
}

/// Where the page is served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Listen {
    /// Nowhere.
    Off,
    /// On a Unix socket.
    Unix(PathBuf),
    /// On an address.
    Tcp(SocketAddr),
}

/// The files for TLS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    /// Our certificate chain.
    pub cert_file: PathBuf,
    /// Its key.
    pub key_file: PathBuf,
    /// The authority that clients need a certificate of.
    pub client_ca_file: Option<PathBuf>,
}

/// The section as it is written.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "kebab-case", deny_unknown_fields)]
pub struct RawPage {
    listen: Option<String>,
    token_file: Option<PathBuf>,
    cert_file: Option<PathBuf>,
    key_file: Option<PathBuf>,
    client_ca_file: Option<PathBuf>,
}

impl PageConfig {
    /// Adds what serving the page needs.
    pub fn add_to(&self, reach: &mut Reach) {
        match &self.listen {
            Listen::Off => {}
            Listen::Tcp(address) => reach.listen("page", Transport::Tcp, *address),
            Listen::Unix(path) => path.parent().into_iter().for_each(|dir| reach.write_folder(dir)),
        }
        if let Some(tls) = &self.tls {
            reach.read_file(&tls.cert_file);
            reach.secret(&tls.key_file);
            tls.client_ca_file.iter().for_each(|path| reach.read_file(path));
        }
        self.token_file.iter().for_each(|path| reach.secret(path));
    }
}

impl RawPage {
    /// Checks the section. Where nothing is said, the page is served on a socket in `state_dir`.
    pub fn check(self, state_dir: &Path, problems: &mut Problems) -> PageConfig {
        let listen = match self.listen.as_deref() {
            None => Listen::Unix(state_dir.join("page.sock")),
            Some("off") => Listen::Off,
            Some(text) => match (text.strip_prefix("unix:"), text.parse()) {
                (Some(path), _) if Path::new(path).is_absolute() => Listen::Unix(path.into()),
                (None, Ok(address)) => Listen::Tcp(address),
                _ => {
                    let hint = "is off, unix:/ABSOLUTE/PATH, or ADDRESS:PORT, as 127.0.0.1:9464";
                    problems.add("page.listen", hint);
                    Listen::Off
                }
            },
        };
        problems.check(
            self.cert_file.is_some() == self.key_file.is_some(),
            "page.cert-file",
            "and key-file go together",
        );
        problems.check(
            self.client_ca_file.is_none() || self.cert_file.is_some(),
            "page.client-ca-file",
            "needs cert-file and key-file",
        );
        let tls = self.cert_file.zip(self.key_file).map(|(cert_file, key_file)| TlsFiles {
            cert_file,
            key_file,
            client_ca_file: self.client_ca_file,
        });
        if let Listen::Tcp(address) = listen
            && !address.ip().is_loopback()
        {
            problems.check(
                tls.is_some(),
                "page.listen",
                "is open to other machines: it needs cert-file and key-file",
            );
            let known = self.token_file.is_some()
                || tls.as_ref().is_some_and(|tls| tls.client_ca_file.is_some());
            problems.check(
                known,
                "page.listen",
                "is open to other machines: it needs token-file or client-ca-file",
            );
        }
        let flow_file = Some(state_dir.join("page-flow.json"));
        PageConfig { listen, tls, token_file: self.token_file, flow_file }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(raw: RawPage) -> Result<PageConfig, String> {
        let mut problems = Problems::default();
        let config = raw.check(Path::new("/state"), &mut problems);
        problems.into_result(Path::new("x.toml")).map(|()| config).map_err(|err| err.to_string())
    }

    fn at(listen: &str) -> RawPage {
        RawPage { listen: Some(listen.to_owned()), ..RawPage::default() }
    }

    #[test]
    fn where_the_page_may_stand() {
        let socket = Listen::Unix("/state/page.sock".into());
        assert_eq!(check(RawPage::default()).unwrap().listen, socket);
        assert_eq!(check(at("off")).unwrap().listen, Listen::Off);
        assert!(check(at("127.0.0.1:9464")).is_ok() && check(at("[::1]:9464")).is_ok());
        for wrong in ["unix:page.sock", "9464", "localhost:1", ""] {
            assert!(check(at(wrong)).unwrap_err().contains("page.listen"), "{wrong}");
        }
    }

    #[test]
    fn other_machines_need_tls_and_a_proof() {
        let open = at("0.0.0.0:9464");
        assert!(check(open.clone()).unwrap_err().contains("needs cert-file"));
        let tls = RawPage { cert_file: Some("/c".into()), key_file: Some("/k".into()), ..open };
        assert!(check(tls.clone()).unwrap_err().contains("needs token-file"));
        assert!(check(RawPage { token_file: Some("/t".into()), ..tls.clone() }).is_ok());
        assert!(check(RawPage { client_ca_file: Some("/a".into()), ..tls }).is_ok());
    }
}
