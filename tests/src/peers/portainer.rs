//! A stand-in for the REST interface of Portainer Business Edition.
//!
//! No real one can be had for tests: it needs a licence. This one does what the published description
//! of the interface says, and what the handlers of 2021 to 2023 did: an API key of an administrator;
//! `after` and `before` in seconds, included; `offset` and `limit`, 50 by default; `sortBy` one of the
//! columns; authentication records in a bare list (as described) or in an object (as the handler had
//! it); records older than 7 days deleted. It refuses what the real one refuses, and is stricter where
//! that one is silent: an unknown parameter or column is refused. On top it can be told to misbehave.

use std::collections::BTreeMap;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustls::{ServerConfig, ServerConnection, StreamOwned};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use shared::clock::{Clock, SystemClock};

use super::Certificate;
use crate::wait::PATIENCE;

/// The API key of an administrator.
pub const ADMIN_KEY: &str = "ptr_admin-of-the-tests=";
/// The API key of somebody else.
pub const USER_KEY: &str = "ptr_user-of-the-tests=";

/// Which of the two lists.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum List {
    /// `/useractivity/authlogs`
    Auth,
    /// `/useractivity/logs`
    Activity,
}

/// One record as it is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kept {
    /// Its list.
    pub list: List,
    /// Its number in this list.
    pub id: u64,
    /// When it happened, in seconds by Portainer's clock.
    pub second: i64,
    /// Who did it.
    pub user: String,
    /// What was done: a `METHOD URL`, or `1`, `2`, `3` for a login, a failed one, a logout.
    pub what: String,
}

impl Kept {
    /// The JSON that the REST interface gives, as Go writes it.
    pub fn rest(&self) -> String {
        let Self { id, second, what, .. } = self;
        let user = serde_json::Value::from(self.user.as_str());
        match self.list {
            List::Auth => format!(
                "{{\"id\":{id},\"timestamp\":{second},\"username\":{user},\"type\":{what},\"origin\":\"192.0.2.10\",\"context\":1}}"
            ),
            List::Activity => format!(
                "{{\"id\":{id},\"timestamp\":{second},\"username\":{user},\"context\":\"local\",\"action\":\"{what}\",\"payload\":\"eyJOYW1lIjoiXHUwMDNjYVx1MDAzZSJ9\"}}"
            ),
        }
    }

    /// The same record as a syslog message whose body has the published fields.
    pub fn published(&self) -> String {
        format!("<134>1 {} portainer /portainer 1 portainer - {}", utc(self.second), self.rest())
    }

    /// The same record as a syslog message whose body is the richer envelope.
    pub fn envelope(&self) -> String {
        let user = serde_json::Value::from(self.user.as_str());
        let rest = match self.list {
            List::Auth => {
                let (action, result) = match self.what.as_str() {
                    "1" => ("login", "success"),
                    "2" => ("login", "failure"),
                    _ => ("logout", "success"),
                };
                format!(
                    "\"AuthenticationMethod\":\"Internal\",\"SourceIP\":\"192.0.2.10\",\"Action\":\"{action}\",\"Result\":\"{result}\""
                )
            }
            List::Activity => format!(
                "\"Action\":\"{}\",\"ResourceType\":\"stack\",\"Environment\":\"local\",\"Result\":\"success\"",
                self.what
            ),
        };
        let time = utc(self.second);
        format!(
            "<134>1 {time} portainer /portainer 1 portainer - {{\"Timestamp\":\"{time}\",\"Username\":{user},\"UserID\":7,{rest}}}"
        )
    }
}

fn utc(second: i64) -> String {
    let time = shared::clock::Nanos(second * 1_000_000_000).to_string();
    time.split_once('.').map_or(time.clone(), |(whole, _)| format!("{whole}Z"))
}

/// How it answers.
#[derive(Clone, Debug, Default)]
pub struct Manners {
    /// Authentication records come in an object, as activity records do.
    pub auth_in_object: bool,
    /// It gives no more than this at once.
    pub page_cap: Option<usize>,
    /// Its clock is so many seconds ahead.
    pub clock_ahead: i64,
    /// Items that stand first in every list that is not empty.
    pub odd_items: Vec<String>,
    /// A record that comes in behind each answer.
    pub arriving: Option<String>,
    /// It sends whoever asks to this place.
    pub redirect_to: Option<String>,
    /// It sends bytes without end.
    pub endless: bool,
    /// It is the Community Edition, which does not have these lists.
    pub community: bool,
    /// It keeps silent at the n-th list of this kind that is not empty, from 1, until told to go on.
    pub stall_at: Option<(List, u32)>,
}

#[derive(Debug, Default)]
struct Inside {
    manners: Manners,
    kept: Vec<Kept>,
    next_id: BTreeMap<List, u64>,
    requests: Vec<String>,
    not_empty: BTreeMap<List, u32>,
    stalled: bool,
    stopping: bool,
}

/// The stand-in; ends when dropped.
#[derive(Debug)]
pub struct Portainer {
    address: SocketAddr,
    tls: bool,
    shared: Arc<Shared>,
    accepting: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    inside: Mutex<Inside>,
    changed: Condvar,
}

impl Shared {
    fn inside(&self) -> MutexGuard<'_, Inside> {
        self.inside.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Portainer {
    /// Starts one on a free port, with TLS if there is a certificate.
    pub fn start(certificate: Option<&Certificate>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("it listens");
        let tls = certificate
            .map(|certificate| Arc::new(server_config(&certificate.cert, &certificate.key)));
        let with_tls = tls.is_some();
        let shared = Arc::new(Shared::default());
        let all = Arc::clone(&shared);
        let accepting = std::thread::spawn(move || {
            for stream in listener.incoming() {
                if all.inside().stopping {
                    return;
                }
                let Ok(stream) = stream else { continue };
                let (shared, tls) = (Arc::clone(&all), tls.clone());
                // A client that goes away in the middle is no fault.
                std::thread::spawn(move || drop(serve(stream, tls, &shared)));
            }
        });
        Self { address, tls: with_tls, shared, accepting: Some(accepting) }
    }

    /// Where it answers.
    pub fn url(&self) -> String {
        format!("{}://{}", if self.tls { "https" } else { "http" }, self.address)
    }

    /// Its host and port.
    pub fn authority(&self) -> String {
        self.address.to_string()
    }

    /// Changes how it answers.
    pub fn behave(&self, change: impl FnOnce(&mut Manners)) {
        change(&mut self.shared.inside().manners);
        self.shared.changed.notify_all();
    }

    /// Something happens, so many seconds ago by its clock.
    pub fn happens(&self, list: List, secs_ago: i64, user: &str, what: &str) -> Kept {
        let mut inside = self.shared.inside();
        let second = inside.now() - secs_ago;
        inside.add(list, second, user, what)
    }

    /// Every request so far.
    pub fn requests(&self) -> Vec<String> {
        self.shared.inside().requests.clone()
    }

    /// What it keeps now.
    pub fn kept(&self) -> Vec<Kept> {
        self.shared.inside().kept.clone()
    }

    /// Whether somebody waits for an answer that does not come.
    pub fn is_stalled(&self) -> bool {
        self.shared.inside().stalled
    }
}

impl Drop for Portainer {
    fn drop(&mut self) {
        self.shared.inside().stopping = true;
        self.shared.changed.notify_all();
        // Wakes the thread that accepts.
        let _ = TcpStream::connect(self.address);
        if let Some(accepting) = self.accepting.take() {
            let _ = accepting.join();
        }
    }
}

impl Inside {
    fn now(&self) -> i64 {
        SystemClock.now().as_secs() + self.manners.clock_ahead
    }

    fn add(&mut self, list: List, second: i64, user: &str, what: &str) -> Kept {
        let id = self.next_id.entry(list).or_insert(0);
        *id += 1;
        let (user, what) = (user.to_owned(), what.to_owned());
        let record = Kept { list, id: *id, second, user, what };
        self.kept.push(record.clone());
        record
    }
}

pub(super) fn server_config(certificate: &Path, key: &Path) -> ServerConfig {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let chain = CertificateDer::pem_file_iter(certificate).expect("a certificate");
    let chain = chain.map(|item| item.expect("a certificate")).collect();
    let key = PrivateKeyDer::from_pem_file(key).expect("a key");
    ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .expect("the key is the certificate's")
}

fn serve(stream: TcpStream, tls: Option<Arc<ServerConfig>>, shared: &Shared) -> io::Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    match tls {
        None => {
            let reader = stream.try_clone()?;
            answer_all(&mut BufReader::new(Half(reader, stream)), shared)
        }
        Some(config) => {
            let connection = ServerConnection::new(config).map_err(io::Error::other)?;
            answer_all(&mut BufReader::new(StreamOwned::new(connection, stream)), shared)
        }
    }
}

/// Both directions of a plain connection.
struct Half(TcpStream, TcpStream);

impl Read for Half {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.read(buffer)
    }
}

impl Write for Half {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.1.write(bytes)
    }
    fn flush(&mut self) -> io::Result<()> {
        self.1.flush()
    }
}

fn answer_all<S: Read + Write>(stream: &mut BufReader<S>, shared: &Shared) -> io::Result<()> {
    loop {
        let mut head: Vec<String> = Vec::new();
        loop {
            let mut line = String::new();
            if stream.read_line(&mut line)? == 0 {
                return Ok(());
            }
            let line = line.trim_end().to_owned();
            if line.is_empty() {
                break;
            }
            head.push(line);
        }
        let reply = reply_to(&head, shared);
        let Some((status, headers, body)) = reply else { return Ok(()) };
        if shared.inside().manners.endless && status == 200 {
            let to = stream.get_mut();
            to.write_all(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n[")?;
            loop {
                to.write_all(&[b' '; 4096])?;
            }
        }
        let now = shared.inside().now();
        let date = jiff::Timestamp::from_second(now).expect("a time");
        let date = date.strftime("%a, %d %b %Y %H:%M:%S GMT");
        let text = format!(
            "HTTP/1.1 {status} Whatever\r\nDate: {date}\r\nContent-Type: application/json\r\n{headers}Content-Length: {}\r\n\r\n{body}",
            body.len()
        );
        stream.get_mut().write_all(text.as_bytes())?;
        stream.get_mut().flush()?;
    }
}

type Reply = (u16, String, String);

fn refusal(status: u16, message: &str) -> Reply {
    (status, String::new(), format!("{{\"message\":\"{message}\",\"details\":\"{message}\"}}"))
}

fn reply_to(head: &[String], shared: &Shared) -> Option<Reply> {
    let mut inside = shared.inside();
    let request = head.first().cloned().unwrap_or_default();
    inside.requests.push(request.clone());
    let header = |name: &str| {
        head.iter().skip(1).find_map(|line| {
            let (key, value) = line.split_once(':')?;
            key.eq_ignore_ascii_case(name).then(|| value.trim().to_owned())
        })
    };
    let mut words = request.split(' ');
    let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    if header("host").is_none() || words.next() != Some("HTTP/1.1") {
        return Some(refusal(400, "Bad request"));
    }
    if let Some(to) = &inside.manners.redirect_to {
        return Some((307, format!("Location: {to}\r\n"), String::new()));
    }
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let list = match path {
        "/api/useractivity/authlogs" if !inside.manners.community => List::Auth,
        "/api/useractivity/logs" if !inside.manners.community => List::Activity,
        _ => return Some(refusal(404, "Not found")),
    };
    if method != "GET" {
        return Some(refusal(405, "Method not allowed"));
    }
    match header("x-api-key").as_deref() {
        Some(ADMIN_KEY) => {}
        Some(USER_KEY) => return Some(refusal(403, "Access denied to resource")),
        _ => return Some(refusal(401, "Invalid API key")),
    }
    let query = match Query::parse(query, list) {
        Ok(query) => query,
        Err(message) => return Some(refusal(400, &message)),
    };
    let reply = inside.list(list, &query);
    let empty = reply.0 == 0;
    if !empty {
        let count = inside.not_empty.entry(list).or_insert(0);
        *count += 1;
        let nth = *count;
        if inside.manners.stall_at == Some((list, nth)) {
            inside.stalled = true;
            let until = Instant::now() + PATIENCE;
            while !inside.stopping && inside.manners.stall_at.is_some() && Instant::now() < until {
                let waited = shared.changed.wait_timeout(inside, Duration::from_millis(50));
                inside = waited.unwrap_or_else(PoisonError::into_inner).0;
            }
            inside.stalled = false;
            return None;
        }
    }
    Some((200, String::new(), reply.1))
}

#[derive(Debug, Default)]
struct Query {
    offset: usize,
    limit: usize,
    after: i64,
    before: i64,
    by_time: bool,
    descending: bool,
}

impl Query {
    fn parse(text: &str, list: List) -> Result<Self, String> {
        let mut query = Self::default();
        for part in text.split('&').filter(|part| !part.is_empty()) {
            let (key, value) = part.split_once('=').unwrap_or((part, ""));
            let number = || value.parse::<i64>().map_err(|_| format!("{key} is no number"));
            match key {
                "offset" => query.offset = usize::try_from(number()?).unwrap_or(0),
                "limit" => query.limit = usize::try_from(number()?).unwrap_or(0),
                "after" => query.after = number()?,
                "before" => query.before = number()?,
                "sortDesc" => query.descending = value == "true",
                "sortBy" => {
                    let columns: &[&str] = match list {
                        List::Auth => {
                            &["Type", "Timestamp", "Origin", "Context", "Username", "Result"]
                        }
                        List::Activity => &["Context", "Action", "Timestamp", "Username"],
                    };
                    if !columns.contains(&value) {
                        return Err(format!("no column {value}"));
                    }
                    query.by_time = value == "Timestamp";
                }
                _ => return Err(format!("unknown parameter {key}")),
            }
        }
        if query.limit == 0 {
            query.limit = 50;
        }
        Ok(query)
    }
}

impl Inside {
    /// How many records an answer has, and the answer.
    fn list(&mut self, list: List, query: &Query) -> (usize, String) {
        let oldest = self.now() - 7 * 24 * 3600;
        self.kept.retain(|record| record.second >= oldest);
        let mut found: Vec<&Kept> = self
            .kept
            .iter()
            .filter(|record| record.list == list)
            .filter(|record| query.after == 0 || record.second >= query.after)
            .filter(|record| query.before == 0 || record.second <= query.before)
            .collect();
        if query.by_time {
            found.sort_by_key(|record| (record.second, record.id));
        } else {
            found.sort_by_key(|record| record.id);
        }
        if query.descending {
            found.reverse();
        }
        let total = found.len();
        let limit = query.limit.min(self.manners.page_cap.unwrap_or(usize::MAX));
        let mut items: Vec<String> =
            found.iter().skip(query.offset).take(limit).map(|record| record.rest()).collect();
        let count = items.len();
        if count > 0 {
            items.splice(0..0, self.manners.odd_items.clone());
        }
        let items = items.join(",");
        let text = if list == List::Auth && !self.manners.auth_in_object {
            format!("[{items}]\n")
        } else {
            format!("{{\"logs\":[{items}],\"totalCount\":{total}}}\n")
        };
        if let Some(user) = self.manners.arriving.clone() {
            let now = self.now();
            self.add(list, now, &user, if list == List::Auth { "1" } else { "PUT /settings" });
        }
        (count, text)
    }
}
