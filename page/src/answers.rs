//! Whether a running agent's page answers, asked as a browser would ask.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use shared::doctor::{Finding, Level};

use crate::config::{Listen, PageConfig};

/// Asks the page whether the agent does its work.
pub fn page(config: &PageConfig) -> Finding {
    match &config.listen {
        Listen::Off => Finding::new(Level::Note, "page", "the page is switched off"),
        Listen::Unix(path) => judge(UnixStream::connect(path).and_then(ask)).at(path.display()),
        Listen::Tcp(address) => {
            let mut reached = *address;
            if address.ip().is_unspecified() {
                reached.set_ip(match address {
                    std::net::SocketAddr::V4(_) => std::net::Ipv4Addr::LOCALHOST.into(),
                    std::net::SocketAddr::V6(_) => std::net::Ipv6Addr::LOCALHOST.into(),
                });
            }
            let connected = TcpStream::connect_timeout(&reached, WITHIN);
            // Behind TLS nothing is asked: a certificate of a client may be needed.
            let said = if config.tls.is_some() {
                connected.map(|_| None)
            } else {
                connected.and_then(ask)
            };
            judge(said).at(address)
        }
    }
}

/// A stream whose reads and writes end.
trait Timed: Read + Write {
    fn limit(&self) -> io::Result<()>;
}

impl Timed for UnixStream {
    fn limit(&self) -> io::Result<()> {
        self.set_write_timeout(Some(WITHIN))?;
        self.set_read_timeout(Some(WITHIN))
    }
}

impl Timed for TcpStream {
    fn limit(&self) -> io::Result<()> {
        self.set_write_timeout(Some(WITHIN))?;
        self.set_read_timeout(Some(WITHIN))
    }
}

/// The status and the last line of the answer.
fn ask(mut stream: impl Timed) -> io::Result<Option<(u16, String)>> {
    stream.limit()?;
    stream.write_all(b"GET /readyz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
    let mut answer = Vec::new();
    stream.take(ANSWER_BYTES_MAX).read_to_end(&mut answer)?;
    let text = String::from_utf8_lossy(&answer);
    let status = text.split(' ').nth(1).and_then(|status| status.parse().ok());
    let status = status.ok_or_else(|| io::Error::other("the answer is no HTTP"))?;
    let last = text.lines().map(str::trim).rfind(|line| !line.is_empty());
    Ok(Some((status, last.unwrap_or_default().to_owned())))
}

fn judge(said: io::Result<Option<(u16, String)>>) -> Finding {
    match said {
        Ok(None) => Finding::new(Level::Fine, "page", "the page's port is open, behind TLS"),
        Ok(Some((200, _))) => Finding::new(Level::Fine, "page", "the page answers, all is well"),
        Ok(Some((401 | 403, _))) => {
            Finding::new(Level::Fine, "page", "the page answers, and asks who one is")
        }
        Ok(Some((status, why))) => {
            let what = format!("the page answers that the agent is not ready ({status}): {why}");
            Finding::new(Level::Warning, "page", what).remedy("status says more")
        }
        Err(err) if err.kind() == io::ErrorKind::PermissionDenied => {
            Finding::new(Level::Skipped, "page", format!("the page can't be reached: {err}"))
                .remedy("the same as root, or as the agent's user")
        }
        Err(err) => {
            let what = format!("the agent runs and its page does not answer: {err}");
            Finding::new(Level::Warning, "page", what)
                .remedy("the agent's log says why it could not serve it")
        }
    }
}

const WITHIN: Duration = Duration::from_secs(5);
/// An answer has some hundred bytes.
const ANSWER_BYTES_MAX: u64 = 64 * 1024;
