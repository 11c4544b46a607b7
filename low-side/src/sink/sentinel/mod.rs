//! Microsoft Sentinel, by the Logs Ingestion API of Azure Monitor.
//!
//! | answer | what follows |
//! |---|---|
//! | 204 | the rows are delivered |
//! | 400, 413 | the body is halved, until the row that is refused stands alone: it goes to the dead letters |
//! | 400 that names the stream; 400 for one row after the other, and for a marked one ([`doubt`](super::doubt)) | it is said about the rule, not about rows: the batch waits |
//! | 401 | one new token, and once more; then the batch waits |
//! | 429, 503 | nothing was taken: later, after what `Retry-After` asks for |
//! | 408, other 5xx, none | the batch is sent again |
//! | 403, 404 and all others, and any other 2xx | the batch waits until the configuration, here or there, is mended |
//!
//! - There is no other confirmation than 204, and nothing is idempotent: what may have been taken is
//!   sent again, each row with the same `RecordId`.
//! - Columns that the rule does not declare are dropped with 204. Where `arm-url` is configured the
//!   rule is read, and nothing is sent to a stream that lacks a column; else a line in the log says
//!   that this can't be seen.
//! - Memory: for each of four tables one body of at most `body-bytes` and one row more, one of them
//!   compressed at a time; the reason of each row that is refused, up to the end of the batch.
//!
//! Sources: Microsoft, "Logs Ingestion API in Azure Monitor" (2026-08-13), "Azure Monitor service
//! limits".

pub(super) mod config;
mod drift;
mod probe;
mod setup;
#[cfg(test)]
mod template;
mod token;

use std::ops::Range;

use bytes::Bytes;
use hyper::Method;
use hyper::header::{AUTHORIZATION, CONTENT_ENCODING, CONTENT_TYPE, HeaderName, HeaderValue};
use serde::Deserialize;
use shared::bell::Bell;
use shared::record::Stream;

use super::bulk::Bulk;
use super::doubt::{Doubt, refuses_all};
use super::guid::guid;
use super::http_json::array;
use super::marked::Marked;
use super::patience::{PAUSES, Patience, WAIT_MAX};
use super::{Confirmed, Item, Sink, SinkError};
use crate::event::with_view;
use crate::http::{Answer, Call, Http, HttpError, gzip};
use crate::ledger::Ledger;
use crate::mapping::sentinel::{Table, row};
use config::SentinelConfig;
use drift::Declared;
use token::Token;

pub(super) use probe::probe;
pub(super) use setup::{find, setup};

/// The sink.
pub(super) struct SentinelSink {
    config: SentinelConfig,
    bell: Bell,
    http: Http,
    token: Option<Token>,
    declared: Option<Declared>,
    /// Which tables were compared with what is declared.
    compared: [bool; TABLES],
    /// What is gathered for each table.
    bulks: [Bulk; TABLES],
    /// What is known of each table.
    doubts: [Doubt; TABLES],
    /// Whether anything of the batch was taken.
    begun: bool,
}

/// What became of one body.
enum Posted {
    Taken,
    Refused(SinkError),
}

#[derive(Deserialize)]
struct Failure {
    error: FailureCode,
}

#[derive(Deserialize)]
struct FailureCode {
    code: String,
}

impl SentinelSink {
    pub(super) fn new(name: &str, config: SentinelConfig, bell: Bell) -> Self {
        if config.arm.is_none() {
            tracing::info!(
                sink = name,
                "arm-url is not set: whether the data collection rule has all columns can't be seen, and what it lacks is dropped unseen"
            );
        }
        Self {
            http: Http::new(&config.http, &bell),
            config,
            bell,
            token: None,
            declared: None,
            compared: [false; TABLES],
            bulks: Default::default(),
            doubts: Default::default(),
            begun: false,
        }
    }

    fn forget(&mut self) {
        self.bulks.iter_mut().for_each(Bulk::forget);
        self.doubts.iter_mut().for_each(Doubt::begin);
        self.begun = false;
    }

    /// Sends some of the rows of a stream, in halves where they are not taken whole.
    fn send(&mut self, at: usize, rows: Range<usize>) -> Result<(), SinkError> {
        // Of each part, whether it is sent once more after it was refused.
        let mut parts = vec![(rows, false)];
        while let Some((part, again)) = parts.pop() {
            if part.is_empty() {
                continue;
            }
            let error = match self.post(at, part.clone())? {
                Posted::Taken => {
                    self.doubts[at].taken();
                    continue;
                }
                Posted::Refused(error) => error,
            };
            if part.len() > 1 {
                let middle = part.start + part.len() / 2;
                parts.push((middle..part.end, false));
                parts.push((part.start..middle, false));
                continue;
            }
            if !again && self.doubts[at].refused(1) {
                self.ask(at)?;
                parts.push((part, true));
            } else {
                self.bulks[at].reject(part.start, error.into_reason());
            }
        }
        Ok(())
    }

    /// Sends a marked record to a table, to see who is at fault.
    fn ask(&mut self, at: usize) -> Result<(), SinkError> {
        let (at, _) = Marked::now(STREAMS[at])?.with(|item| Ok(gather(&mut self.bulks, item)))?;
        let last = self.bulks[at].len() - 1;
        let posted = self.post(at, last..last + 1)?;
        self.bulks[at].drop_last();
        match posted {
            Posted::Taken => self.doubts[at].borne_out(),
            Posted::Refused(error) => return Err(refuses_all(error)),
        }
        Ok(())
    }

    /// Sends one body; waits where nothing is taken at the moment.
    fn post(&mut self, at: usize, part: Range<usize>) -> Result<Posted, SinkError> {
        let rows = array(self.bulks[at].slice(part));
        let body = Bytes::from(if self.config.gzip { gzip(&rows) } else { rows });
        let path = ingest_path(&self.config, at);
        let mut patience = Patience::new(WAIT_MAX, PAUSES);
        let mut renewed = false;
        loop {
            let authorization = authorization(&mut self.token, &self.config, &self.bell)?;
            let mut call = Call::new(Method::POST, path.clone(), body.clone())
                .header(AUTHORIZATION, authorization)
                .header(CONTENT_TYPE, HeaderValue::from_static("application/json"))
                .header(REQUEST_ID, header(&guid()?)?);
            if self.config.gzip {
                call = call.header(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
            }
            let answer = self.http.send(&call)?;
            let error = SinkError::answer(&self.http.place(), &answer);
            match answer.status {
                204 => {
                    self.begun = true;
                    return Ok(Posted::Taken);
                }
                400 if !is_about_the_rule(&answer) => return Ok(Posted::Refused(error)),
                413 => return Ok(Posted::Refused(error)),
                401 if !renewed => {
                    self.token = None;
                    renewed = true;
                }
                429 | 503 if self.begun => {
                    if !patience.rest(&self.bell, answer.retry_after())? {
                        return Err(error);
                    }
                }
                _ => return Err(error),
            }
        }
    }

    /// Compares a table with what the rule declares, where that can be read.
    fn compare(&mut self, at: usize) -> Result<(), SinkError> {
        if !self.compared[at]
            && let Some(declared) = &self.declared
        {
            declared.check(Table::ALL[at], self.config.streams.of(at))?;
            self.compared[at] = true;
        }
        Ok(())
    }
}

/// Where rows of a table are sent.
fn ingest_path(config: &SentinelConfig, at: usize) -> String {
    format!(
        "/dataCollectionRules/{}/streams/{}?api-version=2023-01-01",
        config.rule,
        config.streams.of(at)
    )
}

/// Adds a record to what is gathered for its table; gives the table's place and the bytes of the row.
fn gather(bulks: &mut [Bulk; TABLES], item: Item<'_>) -> (usize, u64) {
    with_view(item.chain, item.record, |view| {
        let table = Table::of(view);
        let at = Table::ALL.iter().position(|one| *one == table).unwrap_or(TABLES - 1);
        let bytes = bulks[at].push(item, |out| {
            row(out, view);
            out.push(b'\n');
        });
        (at, bytes)
    })
}

/// A token that is good: the one at hand, or a new one.
fn authorization(
    token: &mut Option<Token>,
    config: &SentinelConfig,
    bell: &Bell,
) -> Result<HeaderValue, SinkError> {
    match token {
        Some(token) if token.is_good() => Ok(token.authorization.clone()),
        _ => Ok(token.insert(Token::ask(config, &config.scope, bell)?).authorization.clone()),
    }
}

/// Whether a 400 is said about stream or rule: no row would be taken.
fn is_about_the_rule(answer: &Answer) -> bool {
    let failure: Option<Failure> = serde_json::from_slice(&answer.body).ok();
    failure.is_some_and(|failure| RULE_CODES.contains(&failure.error.code.as_str()))
}

fn header(text: &str) -> Result<HeaderValue, HttpError> {
    HeaderValue::from_str(text)
        .map_err(|err| HttpError::Request { url: REQUEST_ID.to_string(), why: err.to_string() })
}

impl Sink for SentinelSink {
    fn begin(&mut self, _ledger: &mut Ledger) -> Result<(), SinkError> {
        self.forget();
        if self.declared.as_ref().is_some_and(Declared::is_fresh) {
            return Ok(());
        }
        match (Declared::read(&self.config, &self.bell), &mut self.declared) {
            (Ok(declared), _) => {
                self.declared = declared;
                self.compared = [false; TABLES];
            }
            // What was read before was good; to be cut off from it holds nothing up.
            (Err(error), Some(before)) if drift::is_passing(&error) => before.keep(),
            (Err(error), _) => return Err(error),
        }
        Ok(())
    }

    fn write(&mut self, item: Item<'_>) -> Result<u64, SinkError> {
        let (at, bytes) = gather(&mut self.bulks, item);
        self.compare(at)?;
        let bulk = &self.bulks[at];
        // The brackets are the one byte more; each row has its comma.
        if bulk.size() + 1 > self.config.body_bytes && bulk.len() > 1 {
            let last = bulk.len() - 1;
            self.send(at, 0..last)?;
            self.bulks[at].drop_first(last);
        }
        Ok(bytes)
    }

    fn confirm(&mut self) -> Result<Confirmed, SinkError> {
        for at in 0..TABLES {
            self.send(at, 0..self.bulks[at].len())?;
        }
        self.begun = false;
        let rejected = self.bulks.iter_mut().flat_map(|bulk| bulk.confirmed().rejected).collect();
        Ok(Confirmed { position: None, rejected })
    }

    fn reset(&mut self, error: &SinkError) {
        self.forget();
        self.http.disconnect();
        // What is answered about the rule, or about us, may have been mended before the next try.
        if matches!(error, SinkError::Answer { .. }) {
            self.declared.as_mut().map(Declared::doubt);
            self.token = None;
        }
    }
}

/// How many tables there are.
const TABLES: usize = Table::ALL.len();
/// A stream of each table, in their order.
const STREAMS: [Stream; TABLES] =
    [Stream::PortainerActivity, Stream::KubeAudit, Stream::Falco, Stream::Other];
const REQUEST_ID: HeaderName = HeaderName::from_static("x-ms-client-request-id");
/// What a 400 is called that says nothing about rows.
const RULE_CODES: [&str; 4] =
    ["InvalidStream", "InvalidApiVersion", "InvalidDataCollectionRule", "MissingApiVersion"];

#[cfg(test)]
mod tests;
