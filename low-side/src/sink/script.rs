//! A server that says what a test tells it, and records for a sink under test.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use shared::clock::Nanos;
use shared::config::Problems;
use shared::record::{Epoch, Lane, Sequence, SourceTag, Stream, encode, parse};

use super::config::{RawSink, SinkConfig};
use super::{Confirmed, Item, Sink, SinkError};
use crate::http::{HttpConfig, Url};
use crate::ledger::{ChainName, Ledger};
use crate::tls::TlsConfig;

/// One request as it came: its head in lower case, and its body.
#[derive(Clone, Debug)]
pub(super) struct Request {
    pub(super) head: String,
    pub(super) body: Vec<u8>,
}

impl Request {
    pub(super) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// A server; what it was asked can be looked at.
pub(super) struct Script {
    pub(super) config: HttpConfig,
    asked: Arc<Mutex<Vec<Request>>>,
}

impl Script {
    /// Answers each request as `answer` says: status, headers beside the length, body. Status 0 closes
    /// the connection instead.
    pub(super) fn start(
        answer: impl FnMut(&Request) -> (u16, String, String) + Send + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = Url::parse(&format!("http://{}", listener.local_addr().unwrap())).unwrap();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let notes = Arc::clone(&asked);
        let answer = Arc::new(Mutex::new(answer));
        // Ends with the test's process.
        std::thread::spawn(move || {
            for mut stream in listener.incoming().flatten() {
                let (notes, answer) = (Arc::clone(&notes), Arc::clone(&answer));
                std::thread::spawn(move || {
                    while let Some(request) = read(&mut stream) {
                        notes.lock().unwrap().push(request.clone());
                        let (status, headers, body) = (answer.lock().unwrap())(&request);
                        if status == 0 {
                            break;
                        }
                        let length = body.len();
                        let text = format!(
                            "HTTP/1.1 {status} x\r\n{headers}content-length: {length}\r\n\r\n{body}"
                        );
                        if stream.write_all(text.as_bytes()).is_err() {
                            break;
                        }
                    }
                });
            }
        });
        let seconds = Duration::from_secs(10);
        let config = HttpConfig {
            url,
            tls: TlsConfig::default(),
            connect_timeout: seconds,
            timeout: seconds,
        };
        Self { config, asked }
    }

    pub(super) fn asked(&self) -> Vec<Request> {
        self.asked.lock().unwrap().clone()
    }

    /// Those whose path holds this.
    pub(super) fn asked_at(&self, path: &str) -> Vec<Request> {
        let mut asked = self.asked();
        asked.retain(|request| request.head.lines().next().unwrap().contains(path));
        asked
    }
}

fn read(stream: &mut TcpStream) -> Option<Request> {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        if stream.read(&mut byte).ok()? == 0 {
            return None;
        }
        head.push(byte[0]);
    }
    let head = String::from_utf8(head).ok()?.to_ascii_lowercase();
    let length = head.split("content-length: ").nth(1).and_then(|rest| rest.lines().next());
    let mut body = vec![0; length.and_then(|length| length.parse().ok()).unwrap_or(0)];
    stream.read_exact(&mut body).ok()?;
    Some(Request { head, body })
}

/// A secret in a file that only its owner can read.
pub(super) fn secret(dir: &std::path::Path, name: &str, text: &str) -> std::path::PathBuf {
    use std::os::unix::fs::OpenOptionsExt;
    let path = dir.join(name);
    let mut file = std::fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&path)
        .unwrap();
    file.write_all(text.as_bytes()).unwrap();
    path
}

/// Hands records `first..=last` to a sink as one batch.
pub(super) fn deliver(
    sink: &mut impl Sink,
    state: &std::path::Path,
    messages: &[(Stream, String)],
) -> Result<Confirmed, SinkError> {
    let mut ledger = Ledger::open(state).unwrap();
    let chain =
        ChainName { origin: "plant-7".parse().unwrap(), epoch: Epoch(1), lane: Lane::Flash };
    let deliver = |sink: &mut dyn Sink, ledger: &mut Ledger| {
        sink.begin(ledger)?;
        for (at, (stream, raw)) in messages.iter().enumerate() {
            let source = SourceTag::new("tcp", "10.0.0.1:99", None);
            let mut bytes = Vec::new();
            let (sequence, received) = (Sequence(at as u64 + 1), Nanos(1_795_468_219_000_000_000));
            encode(&mut bytes, sequence, received, *stream, &source, None, raw.as_bytes());
            let (record, _) = parse(&bytes, 1 << 24).unwrap();
            sink.write(Item { chain: &chain, bundle: 1, record: &record })?;
        }
        let confirmed = sink.confirm()?;
        sink.committed(ledger)?;
        Ok(confirmed)
    };
    let done = deliver(sink, &mut ledger);
    if let Err(error) = &done {
        sink.reset(error);
    }
    done
}

/// Messages `m1`, `m2`, ... of one stream.
pub(super) fn messages(count: usize) -> Vec<(Stream, String)> {
    (1..=count).map(|at| (Stream::Other, format!("m{at}."))).collect()
}

/// A section as a sink, or what is wrong with it.
pub(super) fn section(text: &str) -> Result<SinkConfig, String> {
    let raw: RawSink = toml::from_str(text).unwrap();
    let mut problems = Problems::default();
    let sink = raw.check(0, &mut problems);
    problems.into_result(std::path::Path::new("x")).map_err(|err| err.to_string())?;
    Ok(sink.unwrap())
}

/// Delivers 20 records that the receiver refuses and 5 that it takes, as one batch and as many, and what a
/// receiver is asked that refuses everything. `make` gives a sink, and what its server has taken: it
/// refuses whatever holds `"m1."` to `"m20."`, or all.
pub(super) fn poison_stops_nothing<S: Sink>(mut make: impl FnMut(bool) -> S) {
    let dir = tempfile::tempdir().unwrap();
    let refused = |confirmed: Confirmed| -> Vec<u64> {
        confirmed.rejected.iter().map(|one| one.sequence).collect()
    };
    let mut sink = make(false);
    let confirmed = deliver(&mut sink, dir.path(), &messages(25)).unwrap();
    assert_eq!(refused(confirmed), (1..=20).collect::<Vec<_>>());
    // Nothing good is among them.
    let confirmed = deliver(&mut sink, dir.path(), &messages(20)).unwrap();
    assert_eq!(refused(confirmed).len(), 20);
    let confirmed = deliver(&mut sink, dir.path(), &messages(1)).unwrap();
    assert_eq!(refused(confirmed), [1]);
    let mut sink = make(true);
    for count in [1, 206] {
        let error = deliver(&mut sink, dir.path(), &messages(count)).unwrap_err();
        assert!(error.to_string().contains("a marked record as well"), "{error}");
    }
}

/// Whether a request holds one of `m1.` to `m20.`.
pub(super) fn holds_poison(request: &Request) -> bool {
    let text = request.text();
    (1..=20).any(|number| text.contains(&format!("\"m{number}.\"")))
}
