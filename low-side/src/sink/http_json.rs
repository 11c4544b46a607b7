//! A receiver of JSON over HTTP: Fluent Bit, Fluentd, Logstash, Vector, or a program of the site's.
//!
//! | answer | what follows |
//! |---|---|
//! | 2xx | the records are delivered |
//! | 400, 413, 422 | the request is halved, until the record that is refused stands alone: it goes to the dead letters, unless everything is refused ([`doubt`](super::doubt)) |
//! | 429, 503, when something of the batch was taken | the request is sent again, after what `Retry-After` asks for |
//! | 408, 429, 5xx, none | the batch is sent again, after what `Retry-After` asks for |
//! | 401, 403, 404 and all others | nothing is wrong with the records: the batch waits until the configuration, here or there, is mended |
//!
//! Delivery is at least once: a receiver that took a batch and did not live to say so gets it again,
//! each record with the same `id`.

use std::ops::Range;

use bytes::Bytes;
use hyper::Method;
use hyper::header::{AUTHORIZATION, CONTENT_ENCODING, CONTENT_TYPE, HeaderValue};
use shared::bell::Bell;
use shared::record::Stream;

use super::bulk::Bulk;
use super::config::{HttpJsonConfig, JsonShape};
use super::doubt::{Doubt, refuses_all};
use super::marked::Marked;
use super::patience::{PAUSES, Patience, WAIT_MAX};
use super::{Confirmed, Item, Sink, SinkError};
use crate::event;
use crate::http::{Answer, Call, Http, credential, gzip, sensitive};
use crate::ledger::Ledger;

/// The sink.
pub(super) struct HttpJsonSink {
    config: HttpJsonConfig,
    bell: Bell,
    http: Http,
    bulk: Bulk,
    /// Something of this batch was taken.
    taken: bool,
    doubt: Doubt,
}

impl HttpJsonSink {
    pub(super) fn new(config: HttpJsonConfig, bell: Bell) -> Self {
        let http = Http::new(&config.http, &bell);
        let (bulk, doubt) = (Bulk::default(), Doubt::default());
        Self { config, bell, http, bulk, taken: false, doubt }
    }

    /// Sends what is gathered, in halves where it is not taken whole.
    fn send(&mut self) -> Result<(), SinkError> {
        // Of each part, whether it is sent once more after it was refused.
        let mut parts: Vec<(Range<usize>, bool)> = Vec::new();
        if self.bulk.len() > 0 {
            parts.push((0..self.bulk.len(), false));
        }
        while let Some((part, again)) = parts.pop() {
            let answer = self.post(part.clone())?;
            if answer.is_success() {
                self.taken = true;
                self.doubt.taken();
                continue;
            }
            match (answer.status, part.len()) {
                (400 | 413 | 422, 1) if !again && self.doubt.refused(1) => {
                    self.ask()?;
                    parts.push((part, true));
                }
                (400 | 413 | 422, 1) => {
                    let reason = format!("{}: {}", answer.status, answer.excerpt());
                    self.bulk.reject(part.start, reason);
                }
                (400 | 413 | 422, many) => {
                    let middle = part.start + many / 2;
                    parts.push((middle..part.end, false));
                    parts.push((part.start..middle, false));
                }
                _ => return Err(SinkError::answer(&self.http.place(), &answer)),
            }
        }
        self.bulk.clear();
        Ok(())
    }

    /// Sends some records in one request; waits where they are not taken now.
    fn post(&mut self, part: Range<usize>) -> Result<Answer, SinkError> {
        let call = self.call(self.bulk.slice(part))?;
        let mut patience = Patience::new(WAIT_MAX, PAUSES);
        loop {
            let answer = self.http.send(&call)?;
            if !(self.taken && matches!(answer.status, 429 | 503)) {
                return Ok(answer);
            }
            if !patience.rest(&self.bell, answer.retry_after())? {
                return Err(SinkError::answer(&self.http.place(), &answer));
            }
        }
    }

    /// Sends a marked record, to see who is at fault.
    fn ask(&mut self) -> Result<(), SinkError> {
        Marked::now(Stream::Other)?.with(|item| Ok(self.gather(item)))?;
        let last = self.bulk.len() - 1;
        let answer = self.post(last..last + 1)?;
        self.bulk.drop_last();
        if !answer.is_success() {
            return Err(refuses_all(SinkError::answer(&self.http.place(), &answer)));
        }
        self.taken = true;
        self.doubt.borne_out();
        Ok(())
    }

    fn gather(&mut self, item: Item<'_>) -> u64 {
        let schema = self.config.schema;
        self.bulk.push(item, |out| {
            event::with_view(item.chain, item.record, |view| schema.render(out, view));
            out.push(b'\n');
        })
    }

    fn call(&self, lines: &[u8]) -> Result<Call, SinkError> {
        let (kind, body) = match self.config.shape {
            JsonShape::Lines => ("application/x-ndjson", lines.to_vec()),
            JsonShape::Array => ("application/json", array(lines)),
        };
        let body = if self.config.gzip { gzip(&body) } else { body };
        let mut call = Call::new(Method::POST, "", Bytes::from(body))
            .header(CONTENT_TYPE, HeaderValue::from_static(kind));
        if self.config.http.url.base.is_empty() {
            "/".clone_into(&mut call.path);
        }
        if self.config.gzip {
            call = call.header(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        }
        if let Some(path) = &self.config.authorization_file {
            call = call.header(AUTHORIZATION, sensitive(&credential(path)?)?);
        }
        Ok(call)
    }
}

/// Lines as one array.
pub(super) fn array(lines: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(lines.len() + 2);
    out.push(b'[');
    // A line feed inside a line is written as an escape: these are the ends.
    out.extend(lines.iter().map(|byte| if *byte == b'\n' { b',' } else { *byte }));
    if out.last() == Some(&b',') {
        out.pop();
    }
    out.push(b']');
    out
}

impl Sink for HttpJsonSink {
    fn begin(&mut self, _ledger: &mut Ledger) -> Result<(), SinkError> {
        self.bulk.forget();
        self.taken = false;
        self.doubt.begin();
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
        self.bulk.forget();
        self.taken = false;
        self.http.disconnect();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mapping::Schema;
    use crate::sink::script::{Script, holds_poison, poison_stops_nothing};

    #[test]
    fn poison_in_a_row_stops_nothing_and_who_refuses_everything_gets_no_dead_letters() {
        for status in [400, 413, 422] {
            poison_stops_nothing(|all| {
                let script = Script::start(move |request| {
                    let refused = all || holds_poison(request);
                    (if refused { status } else { 200 }, String::new(), "no".to_owned())
                });
                let http = script.config.clone();
                let config = HttpJsonConfig {
                    http,
                    schema: Schema::Native,
                    shape: JsonShape::Lines,
                    gzip: false,
                    authorization_file: None,
                    body_bytes: 1 << 20,
                };
                HttpJsonSink::new(config, Bell::default())
            });
        }
    }
}
