//! Splunk's HTTP Event Collector (HEC), with indexer acknowledgement.
//!
//! ```text
//! begin    a channel: a GUID, the token as it stands in its file, and a question whether
//!          acknowledgements are on, before a record is sent
//! write    a body that is full goes to /services/collector/event; its ackId is noted
//! confirm  the last body, then /services/collector/ack until each ackId was true once
//! reset    connection, channel and what was noted are forgotten
//! ```
//!
//! - An acknowledgement is said once: what was true is remembered, and asked for no more. One that was
//!   lost or evicted is false for ever. After `ack-timeout` the batch is sent again over a new channel.
//! - ackIds grow within a channel. One that does not says that the collector has begun anew and knows
//!   nothing of what it was asked: the batch is sent again, and nothing is believed by mistake.
//! - Delivery is at least once. Each repetition carries the same `record_id`.
//! - Memory: one body of at most `body-bytes` and one record more, the same compressed, 24 bytes for
//!   each record of a body, an ackId for each body of a batch, and the reason of each record of it that
//!   is refused.
//!
//! What follows from each answer stands in [`codes`], and whether a refusal is believed in
//! [`doubt`](super::doubt). Sources: Splunk, "Get data into Splunk
//! Enterprise", "Format events for HTTP Event Collector", "About HTTP Event Collector Indexer
//! Acknowledgment", "Troubleshoot HTTP Event Collector".

mod codes;
pub(super) mod config;
mod search;
mod setup;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::time::{Duration, Instant};

use bytes::Bytes;
use hyper::Method;
use hyper::header::{AUTHORIZATION, CONTENT_ENCODING, CONTENT_TYPE, HeaderName, HeaderValue};
use serde::Deserialize;
use shared::bell::Bell;
use shared::record::Stream;

use super::bulk::Bulk;
use super::doubt::{Doubt, refuses_all};
use super::guid::guid;
use super::marked::Marked;
use super::patience::Patience;
use super::{Confirmed, Item, Sink, SinkError};
use crate::event::with_view;
use crate::http::{Answer, Call, Http, HttpError, credential, gzip, sensitive};
use crate::ledger::Ledger;
use crate::mapping::cim::hec_envelope;
use codes::{Reply, Verdict};
use config::SplunkConfig;

pub(super) use search::find;
pub(super) use setup::setup;

/// The sink.
pub(super) struct SplunkSink {
    config: SplunkConfig,
    bell: Bell,
    http: Http,
    channel: Option<Channel>,
    bulk: Bulk,
    /// What was taken and is not acknowledged yet.
    pending: BTreeSet<u64>,
    /// Whether anything of the batch was taken.
    begun: bool,
    doubt: Doubt,
}

/// What acknowledgements are counted in.
struct Channel {
    id: HeaderValue,
    authorization: HeaderValue,
    /// The connection that it was made for.
    connection: u64,
}

/// What became of one body.
enum Posted {
    Taken,
    /// The record at this place is refused, and those behind it were not looked at.
    Refused(usize, SinkError),
    TooLong(SinkError),
}

#[derive(Deserialize)]
struct Acks {
    acks: BTreeMap<u64, bool>,
}

impl SplunkSink {
    pub(super) fn new(config: SplunkConfig, bell: Bell) -> Self {
        Self {
            http: Http::new(&config.http, &bell),
            config,
            bell,
            channel: None,
            bulk: Bulk::default(),
            pending: BTreeSet::new(),
            begun: false,
            doubt: Doubt::default(),
        }
    }

    fn forget(&mut self) {
        self.bulk.forget();
        self.pending.clear();
        self.begun = false;
        self.doubt.begin();
    }

    /// Sends some of the records that are gathered, in parts where they are not taken whole.
    fn send(&mut self, records: Range<usize>) -> Result<(), SinkError> {
        // Of each part, whether it is sent once more after it was refused.
        let mut parts = vec![(records, false)];
        while let Some((part, again)) = parts.pop() {
            if part.is_empty() {
                continue;
            }
            let posted = self.post(part.clone())?;
            let (at, error) = match posted {
                Posted::Taken => {
                    self.doubt.taken();
                    continue;
                }
                Posted::TooLong(_) if part.len() > 1 => {
                    let middle = part.start + part.len() / 2;
                    parts.push((middle..part.end, false));
                    parts.push((part.start..middle, false));
                    continue;
                }
                Posted::Refused(at, error) => (at, error),
                Posted::TooLong(error) => (part.start, error),
            };
            if at > part.start {
                self.begun = true;
                self.doubt.taken();
            }
            parts.push((at + 1..part.end, false));
            if !again && self.doubt.refused(1) {
                self.ask()?;
                parts.push((at..at + 1, true));
            } else {
                self.bulk.reject(at, error.into_reason());
            }
            if self.config.ack && self.config.repeat_unacknowledged {
                parts.push((part.start..at, false));
            }
        }
        Ok(())
    }

    /// Sends a marked record, to see who is at fault.
    fn ask(&mut self) -> Result<(), SinkError> {
        Marked::now(Stream::Other)?.with(|item| Ok(self.gather(item)))?;
        let last = self.bulk.len() - 1;
        let posted = self.post(last..last + 1)?;
        self.bulk.drop_last();
        match posted {
            Posted::Taken => self.doubt.borne_out(),
            Posted::Refused(_, error) | Posted::TooLong(error) => return Err(refuses_all(error)),
        }
        Ok(())
    }

    fn gather(&mut self, item: Item<'_>) -> u64 {
        let index = &self.config.index;
        self.bulk.push(item, |out| {
            with_view(item.chain, item.record, |view| hec_envelope(out, view, index));
        })
    }

    /// Sends one body; waits where the collector takes nothing at the moment.
    fn post(&mut self, part: Range<usize>) -> Result<Posted, SinkError> {
        // Within a batch the channel stays, whatever the connection does: what was taken over it can
        // be acknowledged only there.
        let http = &mut self.http;
        let channel = open(&self.config, http, &mut self.channel, self.begun)?;
        let body = self.bulk.slice(part.clone());
        let body = if self.config.gzip { gzip(body) } else { body.to_vec() };
        let mut call = channel.call(EVENT_PATH, body);
        if self.config.gzip {
            call = call.header(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        }
        let mut patience =
            Patience::new(self.config.ack_timeout, (self.config.ack_poll, PAUSE_MAX));
        loop {
            let answer = http.send(&call)?;
            let reply = Reply::of(&answer);
            let error = refusal(http, &answer, &reply);
            let named = reply.invalid.map(|number| part.start.saturating_add(number));
            match (reply.verdict(answer.status), named) {
                (Verdict::Taken, _) => {
                    self.begun = true;
                    if self.config.ack {
                        let newer = |id: &u64| self.pending.last().is_none_or(|last| id > last);
                        match reply.ack_id.filter(newer) {
                            Some(id) => self.pending.insert(id),
                            None => return Err(no_ack(http, &answer, reply.ack_id)),
                        };
                    }
                    return Ok(Posted::Taken);
                }
                // All records go to one index. Where the first of a body can't, none can.
                (Verdict::RecordBefore, Some(behind)) if behind > part.start + 1 => {
                    return Ok(Posted::Refused(behind.min(part.end) - 1, error));
                }
                (Verdict::RecordNamed, Some(at)) if part.contains(&at) => {
                    return Ok(Posted::Refused(at, error));
                }
                (Verdict::Data, Some(at)) if at > part.start && at < part.end => {
                    return Ok(Posted::Refused(at, error));
                }
                // A body that is too long is answered as if its first record were wrong.
                (Verdict::Data | Verdict::RecordNamed, _) => return Ok(Posted::TooLong(error)),
                (Verdict::Later, _) if self.begun => {
                    if !patience.rest(&self.bell, answer.retry_after())? {
                        return Err(error);
                    }
                }
                (
                    Verdict::Later
                    | Verdict::Configuration
                    | Verdict::RecordBefore
                    | Verdict::Unclear,
                    _,
                ) => return Err(error),
            }
        }
    }

    /// Asks until everything that was taken is acknowledged.
    fn await_acks(&mut self) -> Result<(), SinkError> {
        let until = Instant::now() + self.config.ack_timeout;
        let mut pause = self.config.ack_poll;
        let mut failures = 0;
        while !self.pending.is_empty() {
            let http = &mut self.http;
            let channel = open(&self.config, http, &mut self.channel, true)?;
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                let (doing, after) = ("acknowledge what it took", self.config.ack_timeout);
                return Err(SinkError::Timeout { address: http.place(), doing, after });
            }
            self.bell.rest(pause.min(left));
            if self.bell.stopping() {
                return Err(SinkError::Stopping);
            }
            pause = longer(pause);
            let ids: Vec<u64> = self.pending.iter().copied().collect();
            let question = serde_json::json!({ "acks": ids }).to_string();
            let answer = match http.send(&channel.call(ACK_PATH, question)) {
                Ok(answer) => answer,
                // The answer may come over another connection.
                Err(HttpError::Connect { .. } | HttpError::Broken { .. })
                    if failures < POLL_FAILURES_MAX =>
                {
                    failures += 1;
                    continue;
                }
                Err(error) => return Err(error.into()),
            };
            failures = 0;
            if let Some(said) = acks(&answer) {
                self.pending.retain(|id| said.get(id) != Some(&true));
                continue;
            }
            let reply = Reply::of(&answer);
            if reply.verdict(answer.status) != Verdict::Later {
                return Err(refusal(http, &answer, &reply));
            }
            pause = pause.max(answer.retry_after().unwrap_or_default());
        }
        Ok(())
    }
}

impl Channel {
    fn new(config: &SplunkConfig, http: &mut Http) -> Result<Self, SinkError> {
        let token = credential(&config.token_file)?;
        let authorization = sensitive(&zeroize::Zeroizing::new(format!("Splunk {}", *token)))?;
        let id = HeaderValue::from_str(&guid()?)
            .map_err(|err| HttpError::Request { url: http.place(), why: err.to_string() })?;
        let mut channel = Self { id, authorization, connection: 0 };
        if config.ack {
            // A token without acknowledgements would take every batch, and each would be sent again
            // for ever. An id that was never given is false, and nothing else.
            let answer = http.send(&channel.call(ACK_PATH, &b"{\"acks\":[0]}"[..]))?;
            if acks(&answer).is_none() {
                return Err(refusal(http, &answer, &Reply::of(&answer)));
            }
        }
        channel.connection = http.connections();
        Ok(channel)
    }

    fn call(&self, path: &str, body: impl Into<Bytes>) -> Call {
        Call::new(Method::POST, path, body)
            .header(AUTHORIZATION, self.authorization.clone())
            .header(CHANNEL, self.id.clone())
            .header(CONTENT_TYPE, HeaderValue::from_static("application/json"))
    }
}

/// The channel: a new one where there is none, or, unless it has to stay, where the connection is
/// another than it was made for.
fn open<'a>(
    config: &SplunkConfig,
    http: &mut Http,
    channel: &'a mut Option<Channel>,
    keep: bool,
) -> Result<&'a Channel, SinkError> {
    if !keep && channel.as_ref().is_some_and(|open| open.connection != http.connections()) {
        *channel = None;
    }
    match channel {
        Some(channel) => Ok(channel),
        None => Ok(channel.insert(Channel::new(config, http)?)),
    }
}

/// The acknowledgements in an answer, where it is one to the question for them.
fn acks(answer: &Answer) -> Option<BTreeMap<u64, bool>> {
    let said: Acks = serde_json::from_slice(&answer.body).ok()?;
    answer.is_success().then_some(said.acks)
}

fn refusal(http: &Http, answer: &Answer, reply: &Reply) -> SinkError {
    SinkError::Answer {
        place: http.place(),
        status: answer.status,
        why: reply.say(answer),
        retry_after: answer.retry_after(),
    }
}

fn no_ack(http: &Http, answer: &Answer, given: Option<u64>) -> SinkError {
    let why = match given {
        Some(id) => format!(
            "ackId {id}, which is not above those it gave before: it has begun anew, and what it had not acknowledged is sent again"
        ),
        None => "no ackId: the token has no indexer acknowledgement; enable it, or set ack = false"
            .to_owned(),
    };
    let (place, status) = (http.place(), answer.status);
    SinkError::Answer { place, status, why, retry_after: None }
}

fn longer(pause: Duration) -> Duration {
    pause.saturating_mul(2).min(PAUSE_MAX.max(pause))
}

impl Sink for SplunkSink {
    fn begin(&mut self, _ledger: &mut Ledger) -> Result<(), SinkError> {
        self.forget();
        open(&self.config, &mut self.http, &mut self.channel, false).map(|_| ())
    }

    fn write(&mut self, item: Item<'_>) -> Result<u64, SinkError> {
        let bytes = self.gather(item);
        let full = self.bulk.size() > self.config.body_bytes;
        if full && self.bulk.len() > 1 {
            let last = self.bulk.len() - 1;
            self.send(0..last)?;
            self.bulk.drop_first(last);
        }
        Ok(bytes)
    }

    fn confirm(&mut self) -> Result<Confirmed, SinkError> {
        self.send(0..self.bulk.len())?;
        self.await_acks()?;
        self.begun = false;
        Ok(self.bulk.confirmed())
    }

    fn reset(&mut self, _error: &SinkError) {
        self.forget();
        self.channel = None;
        self.http.disconnect();
    }
}

const EVENT_PATH: &str = "/services/collector/event";
const ACK_PATH: &str = "/services/collector/ack";
const CHANNEL: HeaderName = HeaderName::from_static("x-splunk-request-channel");
/// Pauses grow up to this.
const PAUSE_MAX: Duration = Duration::from_secs(10);
/// So many questions in a row may break off.
const POLL_FAILURES_MAX: u32 = 3;

#[cfg(test)]
mod tests;
