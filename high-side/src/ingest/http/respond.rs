//! From a request to an answer.

use std::sync::Arc;

use hyper::body::Incoming;
use hyper::header::{
    ALLOW, CONNECTION, CONTENT_ENCODING, CONTENT_TYPE, HeaderMap, HeaderValue, RETRY_AFTER,
};
use hyper::{Method, Request, Response, StatusCode};
use shared::clock::Nanos;
use shared::record::{SourceTag, Stream};
use tokio::time::timeout;

use crate::buffer::IntakeClosed;

use super::super::Listener;
use super::super::counters::add;
use super::super::gate::Batch;
use super::audit::Events;
use super::body::{Fault, Held, Rules};
use super::relayed::{Records, unwrapped};
use super::{HttpSender, HttpSettings};

type Answer = Response<http_body_util::Full<hyper::body::Bytes>>;

/// What answers the requests of one connection.
pub(super) struct Responder<'a> {
    pub(super) listener: &'a Arc<Listener>,
    pub(super) settings: &'a HttpSettings,
    pub(super) source: Arc<SourceTag>,
}

/// How a body is packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Packing {
    Gzip,
    Plain,
    Unknown,
}

impl Responder<'_> {
    pub(super) async fn answer(&self, request: Request<Incoming>) -> Answer {
        let counters = &self.listener.gate.counters;
        add(&counters.requests, 1);
        let (method, path) = (request.method(), request.uri().path());
        if (method == Method::GET || method == Method::HEAD) && HEALTH_PATHS.contains(&path) {
            return text(StatusCode::OK, "ok\n");
        }
        // falcosidekick and Fluentd can be told to PUT.
        if method != Method::POST && method != Method::PUT {
            let mut answer = self.bad(
                StatusCode::METHOD_NOT_ALLOWED,
                "records come by POST; GET /healthz is for probes\n",
            );
            answer.headers_mut().insert(ALLOW, HeaderValue::from_static("POST, PUT"));
            return answer;
        }
        if self.settings.path.as_deref().is_some_and(|wanted| wanted != path) {
            return self.bad(
                StatusCode::NOT_FOUND,
                "nothing is taken under this path: see `path` of this listener\n",
            );
        }
        match self.settings.sender {
            HttpSender::Falco => self.alert(request).await,
            HttpSender::Fluent => self.relayed(request).await,
            HttpSender::KubeApiserver => self.audited(request).await,
        }
    }

    /// A batch of audit events.
    async fn audited(&self, request: Request<Incoming>) -> Answer {
        let body = match self.whole_body(request).await {
            Ok(body) => body,
            Err(answer) => return answer,
        };
        let events = match Events::find(&body.bytes) {
            Ok(events) => events,
            Err(fault) => {
                let why = format!("{fault}; it is kept as it is, and should not be sent again\n");
                return self.refused(StatusCode::BAD_REQUEST, &body.bytes, why).await;
            }
        };
        let received = self.now();
        let stream = self.listener.gate.stream.or(Some(Stream::KubeAudit));
        let store = async {
            let mut batch = Batch::new(&self.listener.gate, Arc::clone(&self.source));
            batch.expect(body.bytes.len());
            for span in events.spans(&body.bytes) {
                self.make_room(&mut batch).await?;
                self.push(&mut batch, &body.bytes[span], received, stream);
            }
            batch.commit().await
        };
        self.in_time(store).await
    }

    /// What a relay has gathered.
    async fn relayed(&self, request: Request<Incoming>) -> Answer {
        let source = match tag(request.headers(), request.uri().path(), self.settings) {
            Some(tag) => Arc::new(self.source.tagged(&tag)),
            None => Arc::clone(&self.source),
        };
        let kind = request.headers().get(CONTENT_TYPE).map(HeaderValue::as_bytes);
        let is_msgpack = kind.is_some_and(|kind| kind.ends_with(b"msgpack"));
        let body = match self.whole_body(request).await {
            Ok(body) => body,
            Err(answer) => return answer,
        };
        if is_msgpack {
            let why = "say `format json` or `format json_lines`, or use the forward protocol; \
                       what came is kept as it is\n";
            return self
                .refused(StatusCode::UNSUPPORTED_MEDIA_TYPE, &body.bytes, why.to_owned())
                .await;
        }
        let received = self.now();
        let stream = self.listener.gate.stream;
        let store = async {
            let mut batch = Batch::new(&self.listener.gate, source);
            batch.expect(body.bytes.len());
            for span in Records::of(&body.bytes) {
                self.make_room(&mut batch).await?;
                let record = &body.bytes[span];
                match &self.settings.unwrap {
                    None => self.push(&mut batch, record, received, stream),
                    Some(member) => {
                        self.push(&mut batch, &unwrapped(record, member), received, stream);
                    }
                }
            }
            batch.commit().await
        };
        self.in_time(store).await
    }

    /// One alert, whatever it looks like. Its sender does not look at the answer and does not send it
    /// again: it is kept though its sender leaves, and though it is not whole.
    async fn alert(&self, request: Request<Incoming>) -> Answer {
        let listener = Arc::clone(self.listener);
        let source = Arc::clone(&self.source);
        let rules = self.rules(self.listener.settings.limits.message_bytes_max);
        let packed = packing(request.headers()) == Packing::Gzip;
        let kept = tokio::spawn(async move {
            let mut came = rules.read_head(request.into_body(), packed).await;
            if packed && came.cut_from.is_none() {
                // What can't be unpacked within the limits is kept as it came.
                let _ = rules.inflate_head(&mut came.body).await;
            }
            let raw = &came.body.bytes;
            if raw.is_empty() {
                add(&listener.gate.counters.empty_frames, 1);
                return Ok(came.fault);
            }
            let mut batch = Batch::new(&listener.gate, source);
            batch.push(raw, listener.gate.clock.now(), came.cut_from);
            batch.commit().await.map(|()| came.fault)
        });
        match kept.await {
            Ok(Ok(None)) => text(StatusCode::OK, ""),
            Ok(Ok(Some(fault))) => self.faulty(fault),
            Ok(Err(IntakeClosed)) => self.come_again(StatusCode::SERVICE_UNAVAILABLE, STOPPING),
            // The runtime ends, or there is a defect, which was told by its panic.
            Err(_) => self.come_again(StatusCode::INTERNAL_SERVER_ERROR, STOPPING),
        }
    }

    /// Hands over what is in a batch, if it has to go before more is added. The last part stays for
    /// the commit, which would otherwise have nothing to wait for.
    async fn make_room(&self, batch: &mut Batch<'_>) -> Result<(), IntakeClosed> {
        if batch.is_full() {
            batch.submit().await?;
            // Other connections share this thread.
            tokio::task::yield_now().await;
        }
        Ok(())
    }

    fn push(&self, batch: &mut Batch<'_>, raw: &[u8], received: Nanos, stream: Option<Stream>) {
        let max = self.listener.settings.limits.message_bytes_max;
        let cut_from = (raw.len() > max).then_some(raw.len() as u64);
        batch.push_as(&raw[..raw.len().min(max)], received, cut_from, stream);
    }

    /// Waits for records to become durable, as long as the sender waits for its answer. What was handed
    /// over by then may become durable later, and come a second time.
    async fn in_time(&self, store: impl Future<Output = Result<(), IntakeClosed>>) -> Answer {
        match timeout(self.settings.answer_timeout, store).await {
            Ok(Ok(())) => text(StatusCode::OK, ""),
            Ok(Err(IntakeClosed)) => self.come_again(StatusCode::SERVICE_UNAVAILABLE, STOPPING),
            Err(_) => self.come_again(
                StatusCode::SERVICE_UNAVAILABLE,
                "the buffer takes nothing at the moment: come again\n",
            ),
        }
    }

    /// The body, unpacked.
    async fn whole_body(&self, request: Request<Incoming>) -> Result<Held, Answer> {
        let packing = packing(request.headers());
        let rules = self.rules(self.settings.body_bytes_max);
        let body =
            rules.read_whole(request.into_body()).await.map_err(|fault| self.faulty(fault))?;
        match packing {
            Packing::Plain => Ok(body),
            Packing::Unknown => {
                let why = "only gzip is understood as Content-Encoding; what came is kept\n";
                let status = StatusCode::UNSUPPORTED_MEDIA_TYPE;
                Err(self.refused(status, &body.bytes, why.to_owned()).await)
            }
            Packing::Gzip => match rules.inflate(&body.bytes).await {
                Ok(plain) => Ok(plain),
                Err(Fault::Encoding) => {
                    let why = "the body is not gzip, or not whole; what came is kept\n";
                    Err(self.refused(StatusCode::BAD_REQUEST, &body.bytes, why.to_owned()).await)
                }
                Err(fault) => Err(self.faulty(fault)),
            },
        }
    }

    fn rules(&self, bytes_max: usize) -> Rules {
        Rules {
            bytes_max,
            time_max: self.listener.settings.limits.message_timeout,
            memory: self.listener.surroundings.memory.clone(),
            shutdown: self.listener.surroundings.shutdown.clone(),
        }
    }

    fn now(&self) -> Nanos {
        self.listener.gate.clock.now()
    }

    /// The answer to a body that is not there.
    fn faulty(&self, fault: Fault) -> Answer {
        let counters = &self.listener.gate.counters;
        let mut answer = match fault {
            Fault::Broken | Fault::Encoding => {
                self.bad(StatusCode::BAD_REQUEST, "the body ends early or is not well-formed\n")
            }
            // Fluentd knows no other status that means "later" than 503.
            Fault::NoMemory if self.settings.sender == HttpSender::Fluent => {
                self.come_again(StatusCode::SERVICE_UNAVAILABLE, TOO_MANY)
            }
            Fault::NoMemory => self.come_again(StatusCode::TOO_MANY_REQUESTS, TOO_MANY),
            Fault::Slow => {
                add(&counters.slow_closes, 1);
                self.bad(StatusCode::REQUEST_TIMEOUT, "the body took too long to come\n")
            }
            Fault::Stopping => self.come_again(StatusCode::SERVICE_UNAVAILABLE, STOPPING),
            Fault::TooLarge => self.bad(
                StatusCode::PAYLOAD_TOO_LARGE,
                "the body is longer than `body-bytes-max` of this listener: send smaller batches\n",
            ),
        };
        // The rest of the body is not read.
        answer.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        answer
    }

    /// The answer to a body that can't be understood. It is evidence all the same: its first bytes are
    /// kept as a record, once, however often it is sent.
    async fn refused(&self, status: StatusCode, body: &[u8], why: String) -> Answer {
        let refusals = &self.listener.refusals;
        if !body.is_empty() && refusals.is_new(body) {
            let mut batch = Batch::new(&self.listener.gate, Arc::clone(&self.source));
            self.push(&mut batch, body, self.now(), Some(Stream::Other));
            let stored = self.in_time(batch.commit()).await;
            if stored.status() != StatusCode::OK {
                return stored;
            }
            refusals.kept(body);
        }
        self.bad(status, why)
    }

    fn bad(&self, status: StatusCode, why: impl Into<String>) -> Answer {
        let why = why.into();
        add(&self.listener.gate.counters.requests_bad, 1);
        if let Some(count) = self.listener.refusals.to_tell() {
            tracing::warn!(
                listener = %self.listener.settings.name,
                source = self.source.as_str(),
                status = status.as_u16(),
                count,
                why = why.trim_end(),
                "a request was refused; more of them are told of once a minute"
            );
        }
        text(status, why)
    }

    fn come_again(&self, status: StatusCode, why: &'static str) -> Answer {
        add(&self.listener.gate.counters.requests_deferred, 1);
        let mut answer = text(status, why);
        answer.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static(RETRY_AFTER_SECS));
        answer
    }
}

fn text(status: StatusCode, text: impl Into<hyper::body::Bytes>) -> Answer {
    let text = text.into();
    let mut answer = Response::new(http_body_util::Full::new(text));
    *answer.status_mut() = status;
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    answer
}

fn packing(headers: &HeaderMap) -> Packing {
    let mut encodings = headers.get_all(CONTENT_ENCODING).iter();
    match (encodings.next(), encodings.next()) {
        (None, _) => Packing::Plain,
        (Some(one), None) if one.as_bytes().eq_ignore_ascii_case(b"identity") => Packing::Plain,
        (Some(one), None)
            if one.as_bytes().eq_ignore_ascii_case(b"gzip")
                || one.as_bytes().eq_ignore_ascii_case(b"x-gzip") =>
        {
            Packing::Gzip
        }
        _ => Packing::Unknown,
    }
}

/// The tag that a relay gave: in a header, or as the path where any path is taken.
fn tag(headers: &HeaderMap, path: &str, settings: &HttpSettings) -> Option<String> {
    let header = TAG_HEADERS.iter().find_map(|name| headers.get(*name));
    if let Some(value) = header {
        return Some(String::from_utf8_lossy(value.as_bytes()).into_owned());
    }
    let path = path.trim_start_matches('/');
    (settings.path.is_none() && !path.is_empty()).then(|| path.to_owned())
}

/// Headers that carry a relay's tag: Fluent Bit's `header_tag` is free, and its manual shows the second.
const TAG_HEADERS: [&str; 2] = ["tag", "fluent-tag"];

/// What probes ask for.
const HEALTH_PATHS: [&str; 2] = ["/healthz", "/health"];

/// When a sender that was told to come again should do so, in seconds. Clients built on client-go, as
/// an API server is, wait as told and come again up to ten times before they count it as one error.
const RETRY_AFTER_SECS: &str = "2";

const STOPPING: &str = "the agent stops: come again\n";

const TOO_MANY: &str = "too many bodies are on their way at once: come again\n";
