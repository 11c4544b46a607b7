//! Elasticsearch and `OpenSearch`, by `_bulk`.
//!
//! Each record is one `create` with the record's id as `_id`, in an index that follows from the record
//! alone ([`index`]): whatever is sent again is found there and answered with 409, which counts as
//! delivered. So nothing stands there twice, and an answer that did not come costs one bulk more.
//!
//! | answer to the bulk | what follows |
//! |---|---|
//! | 200 | each item counts by its own status, see [`answer`] |
//! | 413, 400 | the bulk is halved; a record that is refused alone goes to the dead letters, unless everything is refused ([`doubt`](super::doubt)) |
//! | 408, 429, 5xx, none, half an answer, too few items | the batch is sent again, after what `Retry-After` asks for |
//! | 401, 403, 404 and all others | nothing is wrong with the records: the batch waits until the configuration, here or there, is mended |
//!
//! Items that are answered with 408, 429 or 5xx are sent again alone, [`TRIES_MAX`] times with a growing
//! pause; then the batch fails. Whatever fails it, what was settled before is not sent again ([`Answered`]).
//!
//! An index that is closed to writers, as the months that have aged are, takes nothing: its items are refused
//! like a document that is wrong, and the others go on. Where nothing of a batch is taken, the marked record
//! tells one index from all of them: it goes to the month that runs, of the same kind; where that is closed
//! as well, to the kind of which something was taken last.
//!
//! Memory: one bulk of `body-bytes` and one record more, a copy of it where it goes out in parts or
//! compressed, and an answer of at most [`ANSWER_BYTES_MAX`](crate::http::ANSWER_BYTES_MAX).

mod answer;
mod arrival;
mod closed;
pub(super) mod config;
mod index;
mod probe;
mod setup;

use std::io::Write as _;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use hyper::Method;
use hyper::header::{AUTHORIZATION, CONTENT_ENCODING, CONTENT_TYPE, HeaderValue};
use shared::bell::Bell;
use shared::record::Stream;
use zeroize::Zeroizing;

use super::answered::{Answered, Slot};
use super::bulk::Bulk;
use super::doubt::{Doubt, refuses_all};
use super::marked::Marked;
use super::{Confirmed, Item, Sink, SinkError};
use crate::event;
use crate::http::{Answer, Call, Http, credential, gzip, sensitive};
use crate::ledger::Ledger;
use crate::mapping::ecs;
use answer::Fault;
use config::{Access, ElasticConfig};
use index::{Indices, is_of_one_kind};

pub(super) use arrival::stamped;
pub(super) use closed::warning;
pub(super) use probe::probe;
pub(super) use setup::{find, setup};

/// The sink.
pub(super) struct ElasticSink {
    config: ElasticConfig,
    bell: Bell,
    http: Http,
    indices: Indices,
    bulk: Bulk,
    /// What is known of each record of the bulk.
    records: Vec<Known>,
    answered: Answered,
    doubt: Doubt,
    /// The stream of a record that was taken, the last of its answer.
    taken: Option<Stream>,
    /// The shortest and the longest pause before items are sent again.
    pauses: (Duration, Duration),
}

/// A record of the bulk.
#[derive(Clone, Copy)]
struct Known {
    slot: Slot,
    sequence: u64,
    stream: Stream,
}

/// Records of the bulk that go in one request: their places in it, ascending.
type Part = Vec<usize>;

impl ElasticSink {
    pub(super) fn new(config: ElasticConfig, bell: Bell) -> Self {
        let indices = Indices::new(&config.index_prefix);
        Self {
            http: Http::new(&config.http, &bell),
            config,
            bell,
            indices,
            bulk: Bulk::default(),
            records: Vec::new(),
            answered: Answered::default(),
            doubt: Doubt::default(),
            taken: None,
            pauses: (PAUSE_MIN, PAUSE_MAX),
        }
    }

    /// Sends what is gathered, in parts where it is not taken whole.
    fn send(&mut self) -> Result<(), SinkError> {
        // Of each part, whether it is sent once more after it was refused.
        let mut parts: Vec<(Part, bool)> = Vec::new();
        if self.bulk.len() > 0 {
            parts.push(((0..self.bulk.len()).collect(), false));
        }
        while let Some((part, again)) = parts.pop() {
            let answer = self.ask(&part)?;
            let doubtful = match (answer.status, part.len()) {
                (200, _) => self.settle(&part, answer, again)?,
                (status @ (400 | 413), 1) => {
                    let refused = vec![(part[0], format!("{status}: {}", answer.excerpt()))];
                    self.refuse(refused, again)?
                }
                (400 | 413, many) => {
                    let (left, right) = part.split_at(many / 2);
                    parts.push((right.to_vec(), again));
                    parts.push((left.to_vec(), again));
                    Part::new()
                }
                _ => return Err(self.refusal(&answer)),
            };
            if !doubtful.is_empty() {
                parts.push((doubtful, true));
            }
        }
        self.clear();
        Ok(())
    }

    /// Deals with an answer that has a status for each item; sends again, alone, what the cluster does
    /// not take now. Gives what is to be sent once more, since its refusal was in doubt.
    fn settle(&mut self, part: &[usize], answer: Answer, again: bool) -> Result<Part, SinkError> {
        let (mut part, mut answer) = (part.to_vec(), answer);
        let mut doubtful = Part::new();
        let mut pause = self.pauses.0;
        for tries in 1.. {
            let faults = self.faults(&answer, part.len())?;
            let mut faults = faults.into_iter().peekable();
            let (mut refused, mut later) = (Vec::new(), Part::new());
            let (mut last, mut wrong) = ((0, String::new()), None);
            let mut taken = false;
            for (at, record) in part.iter().copied().enumerate() {
                match faults.next_if(|(bad, _)| *bad == at).map(|(_, fault)| fault) {
                    None => {
                        let Known { slot, sequence, stream } = self.records[record];
                        self.answered.taken(slot, sequence);
                        (taken, self.taken) = (true, Some(stream));
                    }
                    Some(Fault::Closed(_, why) | Fault::Rejected(why)) => {
                        refused.push((record, why));
                    }
                    Some(Fault::Later(status, why)) => {
                        later.push(record);
                        last = (status, why);
                    }
                    Some(Fault::Wrong(status, why)) => wrong = Some((status, why)),
                }
            }
            if taken {
                self.doubt.taken();
            }
            // What others of the same answer bear out is believed.
            doubtful.extend(self.refuse(refused, again || taken)?);
            if let Some((status, why)) = wrong {
                return Err(self.item_error(status, why));
            }
            if later.is_empty() {
                return Ok(doubtful);
            }
            if tries >= TRIES_MAX {
                let why = format!("{} item(s), {tries} times: {}", later.len(), last.1);
                return Err(self.item_error(last.0, why));
            }
            self.rest(&mut pause)?;
            answer = self.ask(&later)?;
            if answer.status != 200 {
                return Err(self.refusal(&answer));
            }
            part = later;
        }
        Ok(doubtful)
    }

    /// Notes that records are refused for good; where it is in doubt who is at fault, sends a marked record,
    /// and gives them back to be sent once more.
    fn refuse(&mut self, refused: Vec<(usize, String)>, believed: bool) -> Result<Part, SinkError> {
        let Some((first, _)) = refused.first() else { return Ok(Part::new()) };
        if !believed && self.doubt.refused(refused.len()) {
            self.inquire(self.records[*first].stream)?;
            return Ok(refused.into_iter().map(|(record, _)| record).collect());
        }
        for (record, why) in refused {
            let Known { slot, sequence, .. } = self.records[record];
            self.answered.refused(slot, sequence, why);
        }
        Ok(Part::new())
    }

    /// Sends a marked record, to see who is at fault.
    fn inquire(&mut self, stream: Stream) -> Result<(), SinkError> {
        let error = match self.ask_marked(stream)? {
            None => None,
            Some((true, error)) => match self.taken.filter(|taken| !is_of_one_kind(*taken, stream))
            {
                Some(taken) => self.ask_marked(taken)?.map(|(_, error)| error),
                None => Some(error),
            },
            Some((false, error)) => Some(error),
        };
        if let Some(error) = error {
            return Err(refuses_all(error));
        }
        self.doubt.borne_out();
        Ok(())
    }

    /// Sends a marked record of a stream; where it is refused for good, gives whether because its index
    /// is closed to writers, and what was said.
    fn ask_marked(&mut self, stream: Stream) -> Result<Option<(bool, SinkError)>, SinkError> {
        let mut pause = self.pauses.0;
        for tries in 1.. {
            Marked::now(stream)?.with(|item| Ok(self.gather(item)))?;
            let answer = self.ask(&[self.bulk.len() - 1]);
            self.bulk.drop_last();
            let answer = answer?;
            match answer.status {
                200 => {}
                400 | 413 => return Ok(Some((false, self.refusal(&answer)))),
                _ => return Err(self.refusal(&answer)),
            }
            match self.faults(&answer, 1)?.pop().map(|(_, fault)| fault) {
                None => return Ok(None),
                Some(Fault::Closed(status, why)) => {
                    return Ok(Some((true, self.item_error(status, why))));
                }
                Some(Fault::Rejected(why)) => return Ok(Some((false, self.item_error(400, why)))),
                Some(Fault::Wrong(status, why)) => return Err(self.item_error(status, why)),
                Some(Fault::Later(status, why)) if tries >= TRIES_MAX => {
                    return Err(self.item_error(status, why));
                }
                Some(Fault::Later(..)) => self.rest(&mut pause)?,
            }
        }
        Ok(None)
    }

    fn faults(&self, answer: &Answer, sent: usize) -> Result<Vec<(usize, Fault)>, SinkError> {
        answer::faults(&answer.body, sent)
            .map_err(|problem| self.item_error(200, format!("{problem}: {}", answer.excerpt())))
    }

    fn rest(&self, pause: &mut Duration) -> Result<(), SinkError> {
        self.bell.rest(*pause);
        *pause = (*pause * 2).min(self.pauses.1);
        if self.bell.stopping() { Err(SinkError::Stopping) } else { Ok(()) }
    }

    /// Adds a record to the bulk.
    fn gather(&mut self, item: Item<'_>) -> u64 {
        let indices = &mut self.indices;
        self.bulk.push(item, |out| {
            event::with_view(item.chain, item.record, |view| {
                out.extend_from_slice(b"{\"create\":{\"_index\":\"");
                indices.name(out, item.record.stream, view.time(), item.record.received);
                // Writing to memory does not fail.
                let _ = writeln!(out, "\",\"_id\":\"{}\"}}}}", view.id);
                ecs::render(out, view);
                // Also behind the last one: a bulk ends with a line feed.
                out.push(b'\n');
            });
        })
    }

    fn clear(&mut self) {
        self.bulk.clear();
        self.records.clear();
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
        self.clear();
        self.doubt.begin();
        Ok(())
    }

    fn write(&mut self, item: Item<'_>) -> Result<u64, SinkError> {
        let (sequence, stream) = (item.record.sequence.0, item.record.stream);
        let Some(slot) = self.answered.slot(item.chain, sequence, Instant::now()) else {
            return Ok(0);
        };
        let bytes = self.gather(item);
        self.records.push(Known { slot, sequence, stream });
        if self.bulk.size() >= self.config.body_bytes {
            self.send()?;
        }
        Ok(bytes)
    }

    fn confirm(&mut self) -> Result<Confirmed, SinkError> {
        self.send()?;
        Ok(Confirmed { position: None, rejected: self.answered.rejected() })
    }

    fn committed(&mut self, _ledger: &mut Ledger) -> Result<(), SinkError> {
        self.answered.committed();
        Ok(())
    }

    fn reset(&mut self, _error: &SinkError) {
        self.clear();
        self.answered.broke(Instant::now());
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

#[cfg(test)]
mod tests;
