//! rsyslog, in the foreground, with a configuration of the test's own.

use std::fmt::Write as _;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use super::authority::Certificate;
use super::peer;
use crate::process::{Process, run};
use crate::wait::{PATIENCE, wait_until};

/// A configuration of rsyslog, put together part by part.
#[derive(Clone, Debug)]
pub struct Rsyslog {
    dir: PathBuf,
    global: String,
    body: String,
}

impl Rsyslog {
    /// An empty configuration whose files lie in `dir`.
    pub fn new(dir: &Path) -> Self {
        fs::create_dir_all(dir.join("work")).expect("rsyslog's folder can be made");
        let global = format!("global(workDirectory=\"{}\"", dir.join("work").display());
        Self { dir: dir.to_owned(), global, body: String::new() }
    }

    /// The authority, certificate and key of every TLS input and output.
    #[must_use]
    pub fn tls(mut self, ca: &Path, own: &Certificate) -> Self {
        let _ = write!(
            self.global,
            " defaultNetstreamDriver=\"gtls\" defaultNetstreamDriverCAFile=\"{}\" \
             defaultNetstreamDriverCertFile=\"{}\" defaultNetstreamDriverKeyFile=\"{}\"",
            ca.display(),
            own.cert.display(),
            own.key.display()
        );
        self
    }

    /// Further parameters of the section `global`.
    #[must_use]
    pub fn global(mut self, parameters: &str) -> Self {
        let _ = write!(self.global, " {parameters}");
        self
    }

    /// Takes longer messages than the 8 KiB of the default.
    #[must_use]
    pub fn messages_up_to(mut self, size: &str) -> Self {
        let _ = write!(self.global, " maxMessageSize=\"{size}\"");
        self
    }

    /// Listens on TCP.
    #[must_use]
    pub fn listen_tcp(self, address: SocketAddr) -> Self {
        // The plain driver is named: the default one may be TLS.
        self.listen(address, "streamDriver.name=\"ptcp\" streamDriver.mode=\"0\"")
    }

    /// Listens on TLS; with `client_certificates`, only for clients of the authority.
    #[must_use]
    pub fn listen_tls(self, address: SocketAddr, client_certificates: bool) -> Self {
        let mode = if client_certificates { "x509/certvalid" } else { "anon" };
        self.listen(address, &format!("streamDriver.name=\"gtls\" streamDriver.mode=\"1\" streamDriver.authMode=\"{mode}\""))
    }

    fn listen(self, address: SocketAddr, driver: &str) -> Self {
        let module =
            if self.body.contains("module(load=\"imtcp\"") { "" } else { "module(load=\"imtcp\")" };
        self.with(&format!(
            "{module}\ninput(type=\"imtcp\" address=\"{}\" port=\"{}\" {driver})",
            address.ip(),
            address.port()
        ))
    }

    /// Listens for RELP; with TLS, only for clients of the authority that have the name `localhost`: librelp
    /// 1.11 with `GnuTLS` takes any certificate for `certvalid`.
    #[must_use]
    pub fn listen_relp(self, address: SocketAddr, tls: Option<(&Path, &Certificate)>) -> Self {
        let tls = tls.map_or_else(String::new, |(ca, own)| {
            format!(
                "tls=\"on\" tls.authMode=\"name\" tls.permittedPeer=[\"localhost\"] tls.caCert=\"{}\" tls.myCert=\"{}\" tls.myPrivKey=\"{}\"",
                ca.display(),
                own.cert.display(),
                own.key.display()
            )
        });
        self.with(&format!(
            "module(load=\"imrelp\")\n\
             input(type=\"imrelp\" address=\"{}\" port=\"{}\" maxDataSize=\"128k\" {tls})",
            address.ip(),
            address.port()
        ))
    }

    /// Reads lines that are appended to a file.
    #[must_use]
    pub fn follow(self, file: &Path, tag: &str) -> Self {
        self.with(&format!(
            "module(load=\"imfile\")\ninput(type=\"imfile\" file=\"{}\" tag=\"{tag}\" reopenOnTruncate=\"on\")",
            file.display()
        ))
    }

    /// Writes every message as it came, a line each.
    #[must_use]
    pub fn write_raw(self, file: &Path) -> Self {
        self.with(&format!(
            "template(name=\"raw\" type=\"string\" string=\"%rawmsg-after-pri%\\n\")\n\
             action(type=\"omfile\" file=\"{}\" template=\"raw\" flushOnTXEnd=\"on\")",
            file.display()
        ))
    }

    /// Writes only the message part, a line each: the JSON of an event.
    #[must_use]
    pub fn write_message(self, file: &Path) -> Self {
        self.with(&format!(
            "template(name=\"message\" type=\"string\" string=\"%msg%\\n\")\n\
             action(type=\"omfile\" file=\"{}\" template=\"message\" flushOnTXEnd=\"on\")",
            file.display()
        ))
    }

    /// Forwards everything over TCP, RFC 5424, octet-counted or by line, and tries for ever.
    #[must_use]
    pub fn forward_tcp(self, address: SocketAddr, octet_counted: bool) -> Self {
        self.forward(address, octet_counted, "streamDriver=\"ptcp\" streamDriverMode=\"0\"")
    }

    /// Forwards everything over TLS to a receiver whose certificate carries `name`.
    #[must_use]
    pub fn forward_tls(self, address: SocketAddr, name: &str) -> Self {
        self.forward(
            address,
            true,
            &format!(
                "streamDriver=\"gtls\" streamDriverMode=\"1\" streamDriverAuthMode=\"x509/name\" \
             streamDriverPermittedPeers=\"{name}\""
            ),
        )
    }

    fn forward(self, address: SocketAddr, octet_counted: bool, driver: &str) -> Self {
        let framing = if octet_counted { "octet-counted" } else { "traditional" };
        self.with(&format!(
            "action(type=\"omfwd\" target=\"{}\" port=\"{}\" protocol=\"tcp\" tcp_framing=\"{framing}\" \
             template=\"RSYSLOG_SyslogProtocol23Format\" action.resumeRetryCount=\"-1\" \
             action.resumeInterval=\"1\" {driver})",
            address.ip(), address.port()
        ))
    }

    /// Forwards everything by RELP and tries for ever; `more` are further parameters of the action.
    #[must_use]
    pub fn forward_relp(self, address: SocketAddr, template: &str, more: &str) -> Self {
        self.with(&format!(
            "module(load=\"omrelp\")\n\
             action(type=\"omrelp\" target=\"{}\" port=\"{}\" template=\"{template}\" \
             action.resumeRetryCount=\"-1\" action.resumeInterval=\"1\" {more})",
            address.ip(),
            address.port()
        ))
    }

    /// A configuration of `packaging/siem/next-hops` alone, with each of these texts replaced.
    ///
    /// # Panics
    /// When one does not stand in it.
    pub fn start_next_hop(&self, name: &str, replaced: &[(&str, &str)]) -> Process {
        let text = next_hop(name, replaced);
        let text = text.replacen(
            "global(",
            &format!("global(workDirectory=\"{}\" ", self.work_dir().display()),
            1,
        );
        self.start_text(&text)
    }

    /// Any further lines of configuration.
    #[must_use]
    pub fn with(mut self, lines: &str) -> Self {
        self.body.push_str(lines);
        self.body.push('\n');
        self
    }

    /// Where rsyslog keeps its queues.
    pub fn work_dir(&self) -> PathBuf {
        self.dir.join("work")
    }

    /// Starts it in the foreground; returns when it has taken up its configuration.
    pub fn start(&self) -> Process {
        // Its own complaints go to standard error, and so into the log file.
        self.start_text(&format!("{})\n{}", self.global, self.body))
    }

    fn start_text(&self, text: &str) -> Process {
        let config = self.dir.join("rsyslog.conf");
        let running = self.dir.join("rsyslog.pid");
        fs::write(&config, text).expect("rsyslog's configuration can be written");
        let _ = fs::remove_file(&running);
        let check = run(peer("rsyslogd").arg("-N1").arg("-f").arg(&config));
        assert!(check.code == Some(0), "rsyslog refuses its configuration:\n{}", check.stderr);
        let mut command = peer("rsyslogd");
        command.arg("-n").arg("-f").arg(&config).arg("-i").arg(&running);
        let mut process = Process::spawn(&mut command, "rsyslogd", &self.dir);
        wait_until(PATIENCE, "rsyslogd", || {
            let ended = process.ended();
            assert!(ended.is_none(), "rsyslogd ended: {}", process.log());
            running.exists()
        });
        process
    }
}

/// A file of `packaging/siem/next-hops`, with each of these texts replaced.
pub(super) fn next_hop(name: &str, replaced: &[(&str, &str)]) -> String {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../packaging/siem/next-hops");
    let mut text = fs::read_to_string(dir.join(name)).expect("the configuration is there");
    for (from, to) in replaced {
        assert!(text.contains(from), "{name} holds no {from:?}");
        text = text.replace(from, to);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::{Plan, Pool, Segment, Target, TlsFiles, send};
    use crate::oracle::{Oracle, ids_of};
    use crate::peers::{Authority, logger, openssl_send};
    use crate::sandbox::{Sandbox, free_address};

    #[test]
    fn rsyslog_takes_our_load_over_tls_and_forwards_it() {
        let sandbox = Sandbox::new("rsyslog");
        let authority = Authority::new(&sandbox.dir("ca"));
        let server = authority.server("rsyslog");
        let (front, back) = (free_address(), free_address());
        let out = sandbox.join("out");
        let last = Rsyslog::new(&sandbox.dir("last"))
            .tls(authority.ca(), &server)
            .listen_tls(back, true)
            .write_raw(&out);
        let _last = last.start();
        let first = Rsyslog::new(&sandbox.dir("first"))
            .tls(authority.ca(), &server)
            .listen_tls(front, true)
            .forward_tls(back, "localhost");
        let _first = first.start();

        let client = authority.client("portainer");
        let files = TlsFiles {
            ca: authority.ca().to_owned(),
            client: Some((client.cert.clone(), client.key.clone())),
            server_name: "localhost".to_owned(),
        };
        let mut oracle = Oracle::new();
        let ids = oracle.issue(200);
        let plan = Plan { connections: 2, ..Plan::new(Target::Tls(front, files), 200) };
        let report = send(&plan).unwrap();
        oracle.taken(report.segments.iter().flat_map(Segment::ids));
        assert_eq!(report.sent, ids.end - ids.start);
        let id = oracle.issue(1);
        let message = [&Pool::message(id.start, None)[..], b"\n"].concat();
        openssl_send(front, authority.ca(), Some(&client), &message).success();
        oracle.taken(id);
        wait_until(PATIENCE, "all messages in the file", || ids_of(&out).len() >= 201);
        oracle.judge(ids_of(&out)).assert_exactly_once();
    }

    #[test]
    fn logger_speaks_octet_counted_rfc5424() {
        let sandbox = Sandbox::new("logger");
        let address = free_address();
        let out = sandbox.join("out");
        let _rsyslog =
            Rsyslog::new(&sandbox.dir("rsyslog")).listen_tcp(address).write_raw(&out).start();
        logger(address, &["--tcp", "--rfc5424", "--octet-count"], "evt-0000000001").success();
        wait_until(PATIENCE, "the message", || ids_of(&out) == [1]);
    }
}
