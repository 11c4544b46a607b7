//! Grafana Loki, by its push API: <https://grafana.com/docs/loki/latest/reference/loki-http-api/>.
//!
//! Each record is one entry, its line the JSON event, in a stream that follows from the record alone
//! ([`entries`]), oldest first. What is sent again is stored once: the same labels, time and line.
//!
//! | answer | what follows |
//! |---|---|
//! | 2xx (204) | the entries are delivered |
//! | 400 | **the good entries were stored**; the push is halved until what is refused is known: it goes to the dead letters |
//! | 400 of a kind that says nothing of an entry | the same, unless everything is refused ([`doubt`](super::doubt)): then the batch waits |
//! | 413 | the push is halved |
//! | 429, 503 | the push is halved: one above the burst is never taken; when something of the batch was taken, after what `Retry-After` asks for |
//! | 408, 5xx, none, half an answer; 429 to one entry, before any was taken | the batch is sent again, after what `Retry-After` asks for |
//! | 401, 403, 404 and all others | nothing is wrong with the records: the batch waits until the configuration, here or there, is mended |
//!
//! A line that is longer than Loki takes is a dead letter without being sent: it is never cut.
//!
//! Memory: one push of `body-bytes` and one line more, and its JSON, at most six times as long.

pub(super) mod config;
mod entries;
mod probe;
mod refusal;

use std::fmt::Write as _;
use std::ops::Range;

use bytes::Bytes;
use hyper::Method;
use hyper::header::{AUTHORIZATION, CONTENT_ENCODING, CONTENT_TYPE, HeaderName, HeaderValue};
use serde::Deserialize;
use shared::bell::Bell;
use shared::record::{RecordId, Stream};

use super::bulk::Bulk;
use super::doubt::{Doubt, refuses_all};
use super::marked::Marked;
use super::patience::{PAUSES, Patience, WAIT_MAX};
use super::{Confirmed, Item, Sink, SinkError};
use crate::event;
use crate::http::{Answer, Call, Http, HttpError, credential, gzip, sensitive};
use crate::ledger::Ledger;
use config::LokiConfig;
use entries::{Entry, JOB, Streams};

pub(super) use probe::probe;

/// The sink.
pub(super) struct LokiSink {
    config: LokiConfig,
    bell: Bell,
    http: Http,
    /// The lines, unescaped.
    bulk: Bulk,
    /// One for each line.
    entries: Vec<Entry>,
    streams: Streams,
    /// Something of this batch was taken.
    taken: bool,
    doubt: Doubt,
}

impl LokiSink {
    pub(super) fn new(config: LokiConfig, bell: Bell) -> Self {
        Self {
            http: Http::new(&config.http, &bell),
            config,
            bell,
            bulk: Bulk::default(),
            entries: Vec::new(),
            streams: Streams::default(),
            taken: false,
            doubt: Doubt::default(),
        }
    }

    /// Sends what is gathered, in parts where it is not taken whole.
    fn send(&mut self) -> Result<(), SinkError> {
        let mut order: Vec<usize> = (0..self.entries.len()).collect();
        // Stable: entries of one time stay as they came.
        order.sort_by_key(|at| (self.entries[*at].stream, self.entries[*at].time));
        // Of each part, whether it is sent once more after it was refused.
        let mut parts: Vec<(Range<usize>, bool)> = vec![(0..order.len(), false)];
        let mut patience = Patience::new(WAIT_MAX, PAUSES);
        while let Some((range, again)) = parts.pop() {
            let part = &order[range.clone()];
            if part.is_empty() {
                continue;
            }
            let answer = self.ask(part)?;
            let text = String::from_utf8_lossy(&answer.body[..answer.body.len().min(TEXT_BYTES)]);
            match (answer.status, part.len()) {
                (200..=299, _) => {
                    self.taken = true;
                    self.doubt.taken();
                    patience = Patience::new(WAIT_MAX, PAUSES);
                }
                (429 | 503, many) if self.taken || many > 1 => {
                    if self.taken && !patience.rest(&self.bell, answer.retry_after())? {
                        return Err(self.refusal(&answer));
                    }
                    // A push above the burst is never taken.
                    let middle = range.start + many.div_ceil(2);
                    parts.push((middle..range.end, again));
                    parts.push((range.start..middle, again));
                }
                (400, _) if self.all_refused(part, &text) => {
                    for at in part {
                        self.bulk.reject(*at, reason(&answer));
                    }
                }
                (400 | 413, many) if many > 1 => {
                    let middle = range.start + many / 2;
                    parts.push((middle..range.end, again));
                    parts.push((range.start..middle, again));
                }
                // Alone: too long, or of no kind that is known.
                (400 | 413, _) if !again && self.doubt.refused(1) => {
                    self.inquire()?;
                    parts.push((range, true));
                }
                (400 | 413, _) => self.bulk.reject(part[0], reason(&answer)),
                _ => return Err(self.refusal(&answer)),
            }
        }
        self.clear();
        Ok(())
    }

    /// Sends a marked record, to see who is at fault.
    fn inquire(&mut self) -> Result<(), SinkError> {
        let last = self.entries.len();
        Marked::now(Stream::Other)?.with(|item| Ok(self.gather(item)))?;
        if self.entries.len() == last {
            let why = format!("it is longer than line-bytes, {}", self.config.line_bytes);
            return Err(SinkError::Marked { why });
        }
        let mut patience = Patience::new(WAIT_MAX, PAUSES);
        let mut answer = self.ask(&[last])?;
        while self.taken && matches!(answer.status, 429 | 503) {
            if !patience.rest(&self.bell, answer.retry_after())? {
                return Err(self.refusal(&answer));
            }
            answer = self.ask(&[last])?;
        }
        self.bulk.drop_last();
        self.entries.pop();
        if !answer.is_success() {
            return Err(refuses_all(self.refusal(&answer)));
        }
        self.taken = true;
        self.doubt.borne_out();
        Ok(())
    }

    /// Whether an answer of 400 says that none of these entries was stored: there is only one, or they
    /// are of one stream and all older than the oldest that is taken. A backlog that is too old is not
    /// asked about entry by entry.
    fn all_refused(&self, part: &[usize], text: &str) -> bool {
        if !refusal::is_for_good(text) {
            return false;
        }
        let stream = self.entries[part[0]].stream;
        part.len() == 1
            || refusal::oldest_acceptable(text).is_some_and(|oldest| {
                part.iter().all(|at| {
                    let entry = self.entries[*at];
                    entry.stream == stream && entry.time < oldest
                })
            })
    }

    fn ask(&mut self, part: &[usize]) -> Result<Answer, SinkError> {
        let mut body = self.body(part).into_bytes();
        let mut call = Call::new(Method::POST, PUSH, Bytes::new())
            .header(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if self.config.gzip {
            body = gzip(&body);
            call = call.header(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        }
        call.body = Bytes::from(body);
        let call = authorized(call, &self.config)?;
        Ok(self.http.send(&call)?)
    }

    /// The push of some entries, which are sorted by stream.
    fn body(&self, part: &[usize]) -> String {
        let mut out = String::from("{\"streams\":[");
        for (place, run) in
            part.chunk_by(|a, b| self.entries[*a].stream == self.entries[*b].stream).enumerate()
        {
            out.push_str(if place == 0 { "{\"stream\":" } else { ",{\"stream\":" });
            self.streams.labels(self.entries[run[0]].stream, &mut out);
            out.push_str(",\"values\":[");
            for (place, at) in run.iter().enumerate() {
                let comma = if place == 0 { "" } else { "," };
                // Lines are JSON, and JSON is UTF-8. Strings into memory: nothing here can fail.
                let line = String::from_utf8_lossy(self.bulk.slice(*at..at + 1));
                let line = serde_json::to_string(&line).unwrap_or_default();
                let _ = write!(out, "{comma}[\"{}\",{line}]", self.entries[*at].time.0);
            }
            out.push_str("]}");
        }
        out.push_str("]}");
        out
    }

    fn refusal(&self, answer: &Answer) -> SinkError {
        SinkError::answer(&self.config.http.url.to_string(), answer)
    }

    fn forget(&mut self) {
        self.clear();
        self.bulk.forget();
        self.taken = false;
        self.doubt.begin();
    }

    /// Adds a record to the push; one whose line is too long is refused here.
    fn gather(&mut self, item: Item<'_>) -> u64 {
        let (streams, config) = (&mut self.streams, &self.config);
        let mut entry = None;
        let bytes = self.bulk.push(item, |out| {
            event::with_view(item.chain, item.record, |view| {
                let start = out.len();
                event::render_view(out, view);
                if out.len() - start > config.line_bytes {
                    out.truncate(start);
                    return;
                }
                let stream = streams.of(view, item.bundle % config.batch_labels);
                entry =
                    Some(Entry { stream, time: entries::time(view.time(), item.record.received) });
            });
        });
        if let Some(entry) = entry {
            self.entries.push(entry);
        } else {
            let why = format!("its line is longer than {} bytes", self.config.line_bytes);
            self.bulk.reject(self.bulk.len() - 1, why);
            self.bulk.drop_last();
        }
        bytes
    }

    fn clear(&mut self) {
        self.bulk.clear();
        self.entries.clear();
        self.streams.clear();
    }
}

fn reason(answer: &Answer) -> String {
    format!("{}: {}", answer.status, answer.excerpt())
}

/// With the tenant, and the header that says who we are, read again for each request.
fn authorized(mut call: Call, config: &LokiConfig) -> Result<Call, SinkError> {
    if let Some(tenant) = &config.tenant {
        let value = HeaderValue::from_str(tenant).map_err(|_| HttpError::Request {
            url: config.http.url.to_string(),
            why: "the tenant holds what no header may hold".to_owned(),
        })?;
        call = call.header(HeaderName::from_static("x-scope-orgid"), value);
    }
    match &config.authorization_file {
        Some(path) => Ok(call.header(AUTHORIZATION, sensitive(&credential(path)?)?)),
        None => Ok(call),
    }
}

impl Sink for LokiSink {
    fn begin(&mut self, _ledger: &mut Ledger) -> Result<(), SinkError> {
        self.forget();
        Ok(())
    }

    fn write(&mut self, item: Item<'_>) -> Result<u64, SinkError> {
        let bytes = self.gather(item);
        if self.bulk.size() >= self.config.body_bytes {
            self.send()?;
        }
        Ok(bytes)
    }

    fn confirm(&mut self) -> Result<Confirmed, SinkError> {
        self.send()?;
        Ok(self.bulk.confirmed())
    }

    fn reset(&mut self, _error: &SinkError) {
        self.forget();
        self.http.disconnect();
    }
}

/// What has to be set in Loki, as text: its limits can't be changed from here.
pub(super) fn setup(config: &LokiConfig) -> String {
    let LokiConfig { line_bytes, body_bytes, batch_labels, .. } = config;
    format!(
        "# nothing is changed from here; in Loki's configuration, for this tenant:\n\
         limits_config:\n\
         \x20 reject_old_samples: true\n\
         \x20 reject_old_samples_max_age: 720h      # longer than the longest way across the gap; 168h by itself\n\
         \x20 max_line_size: {line_bytes}\n\
         \x20 ingestion_burst_size_mb: {burst}           # not less than one push\n\
         \x20 max_global_streams_per_user: 5000     # {streams} for each high side\n\
         # and a gateway in front of it that lets this sink's credential do POST /loki/api/v1/push, and no more\n",
        burst = (body_bytes >> 20) * 2 + 6,
        streams = 10 * batch_labels,
    )
}

/// Whether a record of the last hour can be found by its id; `None` where the credential may not ask.
pub(super) fn find(
    config: &LokiConfig,
    bell: &Bell,
    id: &RecordId,
) -> Result<Option<bool>, SinkError> {
    #[derive(Deserialize)]
    struct Found {
        data: Data,
    }
    #[derive(Deserialize)]
    struct Data {
        result: Vec<serde::de::IgnoredAny>,
    }
    // {job="penstock"} |= "ID"
    let path = format!("{QUERY}?limit=1&query=%7Bjob%3D%22{JOB}%22%7D%20%7C%3D%20%22{id}%22");
    let mut http = Http::new(&config.http, bell);
    let answer = http.send(&authorized(Call::new(Method::GET, path, Bytes::new()), config)?)?;
    match answer.status {
        200 => {
            let found: Found = serde_json::from_slice(&answer.body).map_err(|err| {
                let why = format!("{err}: {}", answer.excerpt());
                SinkError::Answer { place: http.place(), status: 200, why, retry_after: None }
            })?;
            Ok(Some(!found.data.result.is_empty()))
        }
        401 | 403 | 404 | 405 => Ok(None),
        _ => Err(SinkError::answer(&http.place(), &answer)),
    }
}

const PUSH: &str = "/loki/api/v1/push";
const QUERY: &str = "/loki/api/v1/query_range";
/// So much of an answer is read for the reason.
const TEXT_BYTES: usize = 64 << 10;

#[cfg(test)]
mod tests;
