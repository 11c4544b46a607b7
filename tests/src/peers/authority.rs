//! Certificates, made with openssl.

use std::fs;
use std::path::{Path, PathBuf};

use super::peer;
use crate::process::run;

/// A certificate and its key, in PEM.
#[derive(Clone, Debug)]
pub struct Certificate {
    /// The certificate.
    pub cert: PathBuf,
    /// The key.
    pub key: PathBuf,
}

/// A certificate authority made with openssl.
#[derive(Debug)]
pub struct Authority {
    dir: PathBuf,
    ca: Certificate,
}

impl Authority {
    /// A new authority in a folder.
    pub fn new(dir: &Path) -> Self {
        fs::create_dir_all(dir).expect("the folder of the authority can be made");
        let ca = pair_of_paths(dir, "ca");
        let mut command = peer("openssl");
        command.args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"]);
        command.args(["-nodes", "-days", "30", "-subj", "/O=Penstock tests/CN=Test authority"]);
        command.args(["-addext", "basicConstraints=critical,CA:TRUE"]);
        command.args(["-addext", "keyUsage=critical,keyCertSign,cRLSign"]);
        command.arg("-keyout").arg(&ca.key).arg("-out").arg(&ca.cert);
        run(&mut command).success();
        Self { dir: dir.to_owned(), ca }
    }

    /// The authority's certificate.
    pub fn ca(&self) -> &Path {
        &self.ca.cert
    }

    /// A certificate for a server at 127.0.0.1 and localhost.
    pub fn server(&self, name: &str) -> Certificate {
        self.issue(name, "serverAuth,clientAuth", "30")
    }

    /// A certificate for a client whose common name is `name`.
    pub fn client(&self, name: &str) -> Certificate {
        self.issue(name, "clientAuth", "30")
    }

    /// A certificate for a server that is valid between two times, as 20200101000000Z; with other extensions
    /// than a server's usual ones where some are given.
    pub fn server_between(
        &self,
        name: &str,
        (from, until): (&str, &str),
        extensions: &str,
    ) -> Certificate {
        let issued = pair_of_paths(&self.dir, name);
        let at = |name: &str| self.dir.join(name);
        let request = at(&format!("{name}.csr"));
        let mut command = peer("openssl");
        command.args(["req", "-new", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"]);
        command.args(["-nodes", "-subj", &format!("/CN={name}")]);
        command.arg("-keyout").arg(&issued.key).arg("-out").arg(&request);
        run(&mut command).success();
        let index = format!("{name}-index.txt");
        fs::write(at(&index), "").expect("an index can be written");
        fs::write(at("serial"), "01\n").expect("a serial can be written");
        let settings = format!(
            "[ca]\ndefault_ca = d\n[d]\ndatabase = {}\nserial = {}\nnew_certs_dir = {}\n\
             default_md = sha256\npolicy = p\nx509_extensions = e\n[p]\ncommonName = supplied\n\
             [e]\nbasicConstraints = CA:FALSE\n{extensions}\n",
            at(&index).display(),
            at("serial").display(),
            self.dir.display()
        );
        let config = at(&format!("{name}-ca.cnf"));
        fs::write(&config, settings).expect("the settings can be written");
        let mut command = peer("openssl");
        command.args(["ca", "-batch", "-notext", "-startdate", from, "-enddate", until]);
        command.arg("-config").arg(&config).arg("-in").arg(&request).arg("-out").arg(&issued.cert);
        command.arg("-cert").arg(&self.ca.cert).arg("-keyfile").arg(&self.ca.key);
        run(&mut command).success();
        issued
    }

    fn issue(&self, name: &str, usage: &str, days: &str) -> Certificate {
        let issued = pair_of_paths(&self.dir, name);
        let request = self.dir.join(format!("{name}.csr"));
        let mut command = peer("openssl");
        command.args(["req", "-new", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"]);
        command.args(["-nodes", "-subj", &format!("/O=Penstock tests/CN={name}")]);
        command.arg("-keyout").arg(&issued.key).arg("-out").arg(&request);
        run(&mut command).success();
        let extensions = self.dir.join(format!("{name}.ext"));
        let text = format!(
            "basicConstraints=CA:FALSE\nkeyUsage=critical,digitalSignature\n\
             extendedKeyUsage={usage}\nsubjectAltName=DNS:localhost,IP:127.0.0.1\n"
        );
        fs::write(&extensions, text).expect("the extensions can be written");
        let mut command = peer("openssl");
        command.args(["x509", "-req", "-days", days, "-CAcreateserial", "-in"]).arg(&request);
        command.arg("-CA").arg(&self.ca.cert).arg("-CAkey").arg(&self.ca.key);
        command.arg("-extfile").arg(&extensions).arg("-out").arg(&issued.cert);
        run(&mut command).success();
        issued
    }
}

fn pair_of_paths(dir: &Path, name: &str) -> Certificate {
    Certificate { cert: dir.join(format!("{name}.pem")), key: dir.join(format!("{name}.key")) }
}
