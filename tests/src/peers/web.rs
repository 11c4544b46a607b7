//! Senders that post over HTTP: the real curl, and one that is quick enough for thousands of requests.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use super::{Certificate, peer, run_with_input};

/// An answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Its status.
    pub status: u16,
    /// Its head.
    pub head: String,
}

/// Posts a body over a connection of its own and waits for the answer. Anything else than an answer is
/// an error, as it is for any client.
pub fn post(
    address: SocketAddr,
    path: &str,
    body: &[u8],
    patience: Duration,
) -> io::Result<Answer> {
    let mut stream = TcpStream::connect_timeout(&address, patience)?;
    stream.set_read_timeout(Some(patience))?;
    let head = format!(
        "POST {path} HTTP/1.1\r\nHost: {address}\r\nContent-Type: application/json\r\n\
         Connection: close\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes())?;
    stream.write_all(body)?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    let head = String::from_utf8_lossy(&answer).into_owned();
    let status = head.strip_prefix("HTTP/1.1 ").and_then(|rest| rest.get(..3)?.parse().ok());
    match status {
        Some(status) => Ok(Answer { status, head }),
        None => Err(io::Error::new(io::ErrorKind::UnexpectedEof, "no answer")),
    }
}

/// Posts a body as an API server does: any error is followed by another try, five in all, each pause
/// half as long again as the one before. Gives the number of tries, if one was answered with 200.
pub fn post_as_api_server(
    address: SocketAddr,
    path: &str,
    body: &[u8],
    first_pause: Duration,
) -> (u32, bool) {
    let mut pause = first_pause;
    for tries in 1..=API_SERVER_TRIES {
        if post(address, path, body, API_SERVER_TIMEOUT).is_ok_and(|answer| answer.status == 200) {
            return (tries, true);
        }
        if tries < API_SERVER_TRIES {
            // This is how the client behaves, not how the test waits.
            std::thread::park_timeout(pause);
            pause = pause.mul_f64(1.5);
        }
    }
    (API_SERVER_TRIES, false)
}

/// Posts a body with curl; gives the status, or 0 without an answer, and what curl said.
pub fn curl(
    url: &str,
    tls: Option<(&Path, Option<&Certificate>)>,
    options: &[&str],
    body: &[u8],
) -> (u16, String) {
    let mut command: Command = peer("curl");
    command.args(["--silent", "--show-error", "--output", "-", "--max-time", "30"]);
    command.args(["--write-out", "\n%{http_code}", "--data-binary", "@-"]);
    if let Some((ca, client)) = tls {
        command.arg("--cacert").arg(ca);
        if let Some(client) = client {
            command.arg("--cert").arg(&client.cert).arg("--key").arg(&client.key);
        }
    }
    let done = run_with_input(command.args(options).arg(url), body);
    let status = done.stdout.rsplit('\n').next().and_then(|code| code.parse().ok()).unwrap_or(0);
    (status, format!("{}{}", done.stdout, done.stderr))
}

/// An API server tries a batch so often, then drops it.
const API_SERVER_TRIES: u32 = 5;

/// An API server gives up a request after so long.
const API_SERVER_TIMEOUT: Duration = Duration::from_secs(30);
