//! Elasticsearch and `OpenSearch`, by `_bulk`.
//!
//! Each record is one `create` with the record's id as `_id`, in an index that follows from the record
//! alone ([`index`]): whatever is sent again is found there and answered with 409, which counts as
//! delivered. So nothing stands there twice, and an answer that did not come costs one bulk more.
//!
//! | answer to the bulk | what follows |
//! |---|---|
//! | 200 | each item counts by its own status, see [`answer`] |
//! | 413 | the bulk is halved; a record that is too large alone goes to the dead letters |
//! | 400 | the bulk is halved; a record goes to the dead letters only where others of its batch are taken |
//! | 408, 429, 5xx, none, half an answer, too few items | the batch is sent again, after what `Retry-After` asks for |
//! | 401, 403, 404 and all others | nothing is wrong with the records: the batch waits until the configuration, here or there, is mended |
//!
//! Items that are answered with 408, 429 or 5xx are sent again alone, [`TRIES_MAX`] times with a growing
//! pause; then the batch fails and is sent again as a whole.
//!
//! Memory: one bulk of `body-bytes` and one record more, a copy of it where it goes out in parts or
//! compressed, and an answer of at most [`ANSWER_BYTES_MAX`](crate::http::ANSWER_BYTES_MAX).

mod answer;
mod arrival;
pub(super) mod config;
mod index;
mod probe;
mod setup;

use std::io::Write as _;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use hyper::Method;
use hyper::header::{AUTHORIZATION, CONTENT_ENCODING, CONTENT_TYPE, HeaderValue};
use shared::bell::Bell;
use zeroize::Zeroizing;

use super::bulk::Bulk;
use super::{Confirmed, Item, Sink, SinkError};
use crate::event;
use crate::http::{Answer, Call, Http, credential, gzip, sensitive};
use crate::ledger::Ledger;
use crate::mapping::ecs;
use answer::Fault;
use config::{Access, ElasticConfig};
use index::Indices;

pub(super) use arrival::stamped;
pub(super) use probe::probe;
pub(super) use setup::{find, setup};

/// The sink.
pub(super) struct ElasticSink {
    config: ElasticConfig,
    bell: Bell,
    http: Http,
    indices: Indices,
    bulk: Bulk,
    /// The shortest and the longest pause before items are sent again.
    pauses: (Duration, Duration),
}

/// Records of the bulk that go in one request: their places in it, ascending.
type Part = Vec<usize>;

/// How the requests of one bulk did.
#[derive(Default)]
struct Course {
    /// A request was carried out: what is refused whole is not the fault of the configuration.
    taken: bool,
    /// Requests that were refused whole with 400 before any was carried out.
    refused: usize,
    /// Records that were refused with 400 alone.
    alone: Vec<(usize, String)>,
}

impl ElasticSink {
    pub(super) fn new(config: ElasticConfig, bell: Bell) -> Self {
        let indices = Indices::new(&config.index_prefix);
        Self {
            http: Http::new(&config.http, &bell),
            config,
            bell,
            indices,
            bulk: Bulk::default(),
            pauses: (PAUSE_MIN, PAUSE_MAX),
        }
    }

    /// Sends what is gathered, in parts where it is not taken whole.
    fn send(&mut self) -> Result<(), SinkError> {
        let mut parts: Vec<Part> = Vec::new();
        if self.bulk.len() > 0 {
            parts.push((0..self.bulk.len()).collect());
        }
        let mut course = Course::default();
        while let Some(part) = parts.pop() {
            let answer = self.ask(&part)?;
            match (answer.status, part.len()) {
                (200, _) => {
                    course.taken = true;
                    self.settle(&part, answer)?;
                }
                (413, 1) => {
                    let why =
                        format!("413: one record is more than is taken: {}", answer.excerpt());
                    self.bulk.reject(part[0], why);
                }
                (400, _) if !course.taken && course.refused >= REFUSED_MAX => {
                    return Err(self.refusal(&answer));
                }
                (400, 1) => {
                    course.refused += 1;
                    course.alone.push((part[0], format!("400: {}", answer.excerpt())));
                    if parts.is_empty() && !course.taken {
                        return Err(self.refusal(&answer));
                    }
                }
                (400 | 413, many) => {
                    course.refused += usize::from(answer.status == 400);
                    let (left, right) = part.split_at(many / 2);
                    parts.push(right.to_vec());
                    parts.push(left.to_vec());
                }
                _ => return Err(self.refusal(&answer)),
            }
        }
        for (at, why) in course.alone {
            self.bulk.reject(at, why);
        }
        self.bulk.clear();
        Ok(())
    }

    /// Deals with an answer that has a status for each item; sends again, alone, what the cluster does
    /// not take now.
    fn settle(&mut self, part: &[usize], answer: Answer) -> Result<(), SinkError> {
        let (mut part, mut answer) = (part.to_vec(), answer);
        let mut pause = self.pauses.0;
        for tries in 1.. {
            let faults = answer::faults(&answer.body, part.len()).map_err(|problem| {
                let why = format!("{problem}: {}", answer.excerpt());
                SinkError::Answer { place: self.place(), status: 200, why, retry_after: None }
            })?;
            let mut later: Part = Vec::new();
            let mut last = (0, String::new());
            for (at, fault) in faults {
                match fault {
                    Fault::Rejected(why) => self.bulk.reject(part[at], why),
                    Fault::Later(status, why) => {
                        later.push(part[at]);
                        last = (status, why);
                    }
                    Fault::Wrong(status, why) => return Err(self.item_error(status, why)),
                }
            }
            if later.is_empty() {
                return Ok(());
            }
            if tries >= TRIES_MAX {
                let why = format!("{} item(s), {tries} times: {}", later.len(), last.1);
                return Err(self.item_error(last.0, why));
            }
            self.bell.rest(pause);
            if self.bell.stopping() {
                return Err(SinkError::Stopping);
            }
            pause = (pause * 2).min(self.pauses.1);
            answer = self.ask(&later)?;
            if answer.status != 200 {
                return Err(self.refusal(&answer));
            }
            part = later;
        }
        Ok(())
    }

    /// Sends some of the gathered records.
    fn ask(&mut self, part: &[usize]) -> Result<Answer, SinkError> {
        let call = self.call(part)?;
        Ok(self.http.send(&call)?)
    }

    fn call(&self, part: &[usize]) -> Result<Call, SinkError> {
        let mut body = Vec::new();
        for run in part.chunk_by(|a, b| a + 1 == *b) {
            if let [first, .., last] | [first @ last] = run {
                body.extend_from_slice(self.bulk.slice(*first..last + 1));
            }
        }
        let mut call = Call::new(Method::POST, BULK, Bytes::new())
            .header(CONTENT_TYPE, HeaderValue::from_static("application/x-ndjson"));
        if self.config.gzip {
            body = gzip(&body);
            call = call.header(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        }
        call.body = Bytes::from(body);
        authorized(call, &self.config.access)
    }

    fn place(&self) -> String {
        self.config.http.url.to_string()
    }

    fn refusal(&self, answer: &Answer) -> SinkError {
        SinkError::answer(&self.place(), answer)
    }

    fn item_error(&self, status: u16, why: String) -> SinkError {
        SinkError::Answer { place: self.place(), status, why, retry_after: None }
    }
}

/// With the header that says who we are. The file is read for each request, so that a credential that
/// was replaced is used at once.
fn authorized(call: Call, access: &Access) -> Result<Call, SinkError> {
    let value = match access {
        Access::None => return Ok(call),
        Access::ApiKey(path) => {
            let key = credential(path)?;
            // A key is shown as `encoded`, or as an id and a secret that belong together.
            let encoded =
                if key.contains(':') { Zeroizing::new(BASE64.encode(key.as_bytes())) } else { key };
            Zeroizing::new(format!("ApiKey {}", *encoded))
        }
        Access::Basic(name, path) => {
            let both = Zeroizing::new(format!("{name}:{}", *credential(path)?));
            Zeroizing::new(format!("Basic {}", BASE64.encode(both.as_bytes())))
        }
        Access::Token(path) => Zeroizing::new(format!("Bearer {}", *credential(path)?)),
    };
    Ok(call.header(AUTHORIZATION, sensitive(&value)?))
}

impl Sink for ElasticSink {
    fn begin(&mut self, _ledger: &mut Ledger) -> Result<(), SinkError> {
        self.bulk.forget();
        Ok(())
    }

    fn write(&mut self, item: Item<'_>) -> Result<u64, SinkError> {
        let indices = &mut self.indices;
        let bytes = self.bulk.push(item, |out| {
            event::with_view(item.chain, item.record, |view| {
                out.extend_from_slice(b"{\"create\":{\"_index\":\"");
                indices.name(out, item.record.stream, view.time(), item.record.received);
                // Writing to memory does not fail.
                let _ = writeln!(out, "\",\"_id\":\"{}\"}}}}", view.id);
                ecs::render(out, view);
                // Also behind the last one: a bulk ends with a line feed.
                out.push(b'\n');
            });
        });
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
        self.bulk.forget();
        self.http.disconnect();
    }
}

/// Only what is read of the answer: a tenth of it, where all is well.
const BULK: &str =
    "/_bulk?filter_path=errors,items.*.status,items.*.error.type,items.*.error.reason";
/// How often an item is sent before the batch fails.
const TRIES_MAX: u32 = 6;
/// The shortest pause before items are sent again; each is twice as long as the one before.
const PAUSE_MIN: Duration = Duration::from_millis(250);
/// The longest.
const PAUSE_MAX: Duration = Duration::from_secs(5);
/// So many requests may be refused whole before one is taken. Halving comes to any record of a bulk
/// in fewer; where nothing at all is taken, it ends here.
const REFUSED_MAX: usize = 64;

#[cfg(test)]
mod tests;
