use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;

use super::*;
use crate::metrics::Metric;

struct Fake {
    asked: Arc<Mutex<u32>>,
    ready: bool,
}

impl Source for Fake {
    fn status(&mut self) -> Result<String, String> {
        *self.asked.lock().unwrap() += 1;
        Ok("{\"side\":\"low\"}".to_owned())
    }
    fn metrics(&mut self) -> Result<Numbers, String> {
        const METRICS: &[Metric] = &[Metric::counter("seen_total", &[], "What was seen.")];
        let mut numbers = Numbers::new("penstock", METRICS);
        numbers.add("seen_total", &[], 1.0);
        Ok(numbers)
    }
    fn ready(&mut self) -> Result<(), String> {
        if self.ready { Ok(()) } else { Err("the disk is full".to_owned()) }
    }
    fn flows(&mut self) -> Vec<(String, u64)> {
        vec![("falco".to_owned(), 7)]
    }
    fn life(&mut self, bundle: &str) -> Result<Option<String>, String> {
        Ok((bundle == "flash/7 \u{e4}").then(|| "{}".to_owned()))
    }
}

fn loopback() -> PageConfig {
    let listen = Listen::Tcp("127.0.0.1:0".parse().unwrap());
    PageConfig { listen, tls: None, token_file: None, flow_file: None }
}

fn started(config: PageConfig, ready: bool) -> (Server, Arc<Mutex<u32>>) {
    let asked = Arc::default();
    let source = Fake { asked: Arc::clone(&asked), ready };
    (Server::start(config, source).unwrap(), asked)
}

fn read(mut stream: impl Read + Write, request: &str) -> String {
    stream.write_all(request.as_bytes()).unwrap();
    let mut text = String::new();
    let _ = stream.read_to_string(&mut text);
    text
}

fn get(server: &Server, path: &str, more: &str) -> String {
    let request =
        format!("GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n{more}\r\n");
    read(TcpStream::connect(server.place().unwrap()).unwrap(), &request)
}

#[test]
fn everything_is_served_with_a_policy_that_lets_nothing_else_in() {
    let (server, asked) = started(loopback(), true);
    for (path, kind, holds) in [
        ("/", "text/html", "<main"),
        ("/page.js", "text/javascript", "use strict"),
        ("/page.css", "text/css", "prefers-color-scheme"),
        ("/status.json", "application/json", "low"),
        ("/history.json", "application/json", "streams"),
        ("/metrics", "text/plain; version=0.0.4", "penstock_seen_total 1"),
        ("/life.json?bundle=flash%2F7+%C3%A4", "application/json", "{}"),
        ("/healthz", "text/plain", "alive"),
        ("/readyz", "text/plain", "ready"),
    ] {
        let answer = get(&server, path, "");
        assert!(answer.starts_with("HTTP/1.1 200"), "{path}: {answer}");
        assert!(answer.contains(&format!("content-type: {kind}")) && answer.contains(holds));
        assert!(answer.contains("content-security-policy: default-src 'none'"), "{answer}");
    }
    // Nothing on the page is loaded from elsewhere or runs beside the script.
    let page = include_str!("../../assets/page.html");
    assert!(!page.contains("http") && !page.contains("style=") && !page.contains("onclick"));
    let script = include_str!("../../assets/page.js");
    for markup in ["innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval("] {
        assert!(!script.contains(markup), "{markup}");
    }
    for _ in 0..20 {
        get(&server, "/status.json", "");
    }
    assert!(*asked.lock().unwrap() < 15, "one look serves all who ask at the same time");
}

#[test]
fn what_is_wrong_with_a_request_is_said() {
    let (server, _) = started(loopback(), false);
    for (path, status) in [
        ("/nothing", "404"),
        ("/../etc/passwd", "404"),
        ("/life.json", "400"),
        ("/life.json?bundle=%zz", "400"),
        ("/life.json?bundle=x", "404"),
        ("/readyz", "503"),
    ] {
        let answer = get(&server, path, "");
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{path}: {answer}");
    }
    let connect = || TcpStream::connect(server.place().unwrap()).unwrap();
    let foreign = "GET /status.json HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n";
    assert!(read(connect(), foreign).starts_with("HTTP/1.1 421"));
    let write = "POST /status.json HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: 0\r\n\r\n";
    assert!(read(connect(), write).starts_with("HTTP/1.1 405"));
    let long = format!("GET /{} HTTP/1.1\r\nHost: localhost\r\n\r\n", "x".repeat(40_000));
    assert!(!read(connect(), &long).contains("200 OK"));
}

#[test]
fn a_token_is_asked_for_and_a_new_one_needs_no_restart() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("token");
    let keep = |text: &str| {
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
    };
    keep("short\n");
    let config = PageConfig { token_file: Some(path.clone()), ..loopback() };
    let source = Fake { asked: Arc::default(), ready: true };
    let refused = Server::start(config.clone(), source).unwrap_err().to_string();
    assert!(refused.contains("openssl rand"), "{refused}");
    keep("0123456789abcdef\n");
    let (server, _) = started(config, true);
    let answer = get(&server, "/metrics", "");
    assert!(answer.starts_with("HTTP/1.1 401") && answer.contains("www-authenticate: Basic"));
    assert!(!answer.contains("penstock_seen_total 1"));
    let bearer =
        |token: &str| get(&server, "/metrics", &format!("Authorization: Bearer {token}\r\n"));
    assert!(bearer("0123456789abcdef").starts_with("HTTP/1.1 200"));
    keep("fedcba9876543210\n");
    assert!(bearer("0123456789abcdef").starts_with("HTTP/1.1 401"));
    assert!(bearer("fedcba9876543210").starts_with("HTTP/1.1 200"));
}

#[test]
fn a_socket_of_a_killed_process_is_replaced_and_nothing_else_is() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("page.sock");
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    let config = PageConfig {
        listen: Listen::Unix(path.clone()),
        tls: None,
        token_file: None,
        flow_file: None,
    };
    let (server, _) = started(config.clone(), true);
    let ask = |host: &str| {
        let request = format!("GET /healthz HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
        read(UnixStream::connect(&path).unwrap(), &request)
    };
    for host in ["localhost", "localhost:9465", "127.0.0.1:80", "[::1]:9465"] {
        assert!(ask(host).contains("alive"), "{host}");
    }
    // A browser that was led to a forwarded socket by somebody's name.
    for host in ["evil.example", "evil.example:9465"] {
        assert!(ask(host).starts_with("HTTP/1.1 421"), "{host}");
    }
    let mode = std::fs::metadata(&path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode, SOCKET_MODE);
    // One that somebody serves stays.
    let source = Fake { asked: Arc::default(), ready: true };
    assert!(Server::start(config.clone(), source).is_err());
    drop(server);
    assert!(!path.exists());
    std::fs::write(&path, "a file").unwrap();
    let source = Fake { asked: Arc::default(), ready: true };
    assert!(Server::start(config, source).is_err());
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "a file");
}

#[test]
fn who_asks_for_openmetrics_gets_it() {
    let (server, _) = started(loopback(), true);
    let accept = "Accept: application/openmetrics-text;version=1.0.0,text/plain;q=0.5\r\n";
    let answer = get(&server, "/metrics", accept);
    assert!(
        answer.contains("content-type: application/openmetrics-text; version=1.0.0"),
        "{answer}"
    );
    assert!(answer.contains("# TYPE penstock_seen counter\n") && answer.ends_with("# EOF\n"));
}
