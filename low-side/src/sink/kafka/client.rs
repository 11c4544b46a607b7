//! How the client library is set up, waited for and asked.
//!
//! Its calls are made in short steps, between which it is looked at whether the agent stops; its threads
//! tell of failures through a [`Context`].

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use rdkafka::client::ClientContext;
use rdkafka::config::{ClientConfig, RDKafkaLogLevel};
use rdkafka::consumer::{BaseConsumer, Consumer as _, ConsumerContext};
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};
use rdkafka::message::Message as _;
use rdkafka::producer::{BaseProducer, DeliveryResult, Producer as _, ProducerContext};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use shared::bell::Bell;
use shared::keys::load_secret;

use super::config::{Compression, KafkaConfig, Mechanism};
use super::control::Control;
use crate::http::credential;
use crate::sink::SinkError;
use crate::tls::TlsError;

pub(super) type Producer = BaseProducer<Context>;

/// What the library's threads told of.
#[derive(Debug, Default)]
pub(super) struct Context(Mutex<Told>);

#[derive(Debug, Default)]
struct Told {
    /// The last error of a connection.
    error: Option<String>,
    /// No broker can be reached.
    down: bool,
    /// Records that did not arrive, by their number in the batch.
    failed: Vec<(usize, RDKafkaErrorCode)>,
}

impl Context {
    /// Records that did not arrive since this was asked last, by their number in the batch.
    pub(super) fn failed(&self) -> Vec<(usize, RDKafkaErrorCode)> {
        std::mem::take(&mut self.told().failed)
    }

    fn told(&self) -> std::sync::MutexGuard<'_, Told> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ClientContext for Context {
    fn log(&self, _level: RDKafkaLogLevel, facility: &str, message: &str) {
        tracing::debug!(facility, message, "the Kafka client says something");
    }

    fn error(&self, error: KafkaError, reason: &str) {
        let mut told = self.told();
        if error.rdkafka_error_code() == Some(RDKafkaErrorCode::AllBrokersDown) {
            told.down = true;
        } else {
            told.error = Some(reason.to_owned());
        }
    }
}

impl ConsumerContext for Context {}

impl ProducerContext for Context {
    type DeliveryOpaque = usize;

    fn delivery(&self, result: &DeliveryResult<'_>, record: usize) {
        if let Err((error, _)) = result
            && let Some(code) = error.rdkafka_error_code()
        {
            self.told().failed.push((record, code));
        }
    }
}

/// Everything that a client of the cluster is told, whatever it does there. Files are read now.
pub(super) fn settings(config: &KafkaConfig) -> Result<ClientConfig, SinkError> {
    let mut settings = ClientConfig::new();
    settings
        .set("bootstrap.servers", config.brokers.join(","))
        .set("client.id", &config.transactional_id)
        .set("socket.keepalive.enable", "true")
        .set("reconnect.backoff.max.ms", RECONNECT.as_millis().to_string())
        .set_log_level(RDKafkaLogLevel::Warning);
    let protocol = match (&config.tls, &config.login) {
        (None, None) => "plaintext",
        (None, Some(_)) => "sasl_plaintext",
        (Some(_), None) => "ssl",
        (Some(_), Some(_)) => "sasl_ssl",
    };
    settings.set("security.protocol", protocol);
    if let Some(tls) = &config.tls {
        // The same files and complaints as everywhere; the library then reads the authorities itself.
        tls.load()?;
        settings.set("enable.ssl.certificate.verification", "true");
        settings.set("ssl.endpoint.identification.algorithm", "https");
        if let Some(ca) = &tls.ca_file {
            settings.set("ssl.ca.location", ca.display().to_string());
        }
        if let Some((certificate, key)) = &tls.client {
            let secret = load_secret(key)
                .map_err(|err| TlsError { path: key.clone(), problem: err.to_string() })?;
            settings.set("ssl.certificate.location", certificate.display().to_string());
            settings.set("ssl.key.pem", secret.as_str());
        }
    }
    if let Some(login) = &config.login {
        let mechanism = match login.mechanism {
            Mechanism::Plain => "PLAIN",
            Mechanism::ScramSha256 => "SCRAM-SHA-256",
            Mechanism::ScramSha512 => "SCRAM-SHA-512",
        };
        settings
            .set("sasl.mechanism", mechanism)
            .set("sasl.username", &login.username)
            .set("sasl.password", credential(&login.password_file)?.as_str());
    }
    Ok(settings)
}

/// The settings of a producer; `alone` puts each record in a request of its own.
pub(super) fn producer_settings(
    config: &KafkaConfig,
    alone: bool,
) -> Result<ClientConfig, SinkError> {
    let mut settings = settings(config)?;
    let timeout = config.timeout.as_millis().to_string();
    settings
        .set("transactional.id", &config.transactional_id)
        .set("transaction.timeout.ms", &timeout)
        .set("message.timeout.ms", &timeout)
        .set("enable.idempotence", "true")
        .set("acks", "all")
        // What the Java client does: records of one origin stay in one partition, whoever sends them.
        .set("partitioner", "murmur2")
        .set("message.max.bytes", config.record_bytes_max.to_string())
        .set("queue.buffering.max.kbytes", (config.queue_bytes >> 10).max(1).to_string())
        .set(
            "compression.codec",
            match config.compression {
                Compression::Lz4 => "lz4",
                Compression::None => "none",
                Compression::Snappy => "snappy",
            },
        );
    if alone {
        settings.set("batch.num.messages", "1");
    }
    Ok(settings)
}

fn consumer_settings(config: &KafkaConfig, isolation: &str) -> Result<ClientConfig, SinkError> {
    let mut settings = settings(config)?;
    settings
        // The library wants one for any consumer; it joins no group, and commits nothing.
        .set("group.id", &config.transactional_id)
        .set("enable.auto.commit", "false")
        .set("enable.partition.eof", "true")
        .set("auto.offset.reset", "earliest")
        .set("isolation.level", isolation);
    Ok(settings)
}

/// Waits for the library.
#[derive(Clone, Copy, Debug)]
pub(super) struct Patience<'a> {
    pub(super) config: &'a KafkaConfig,
    pub(super) bell: &'a Bell,
}

impl Patience<'_> {
    /// Takes steps until one gives a value; `None` says that another is needed.
    pub(super) fn wait<T>(
        &self,
        doing: &'static str,
        context: &Context,
        serve: impl Fn(),
        mut step: impl FnMut() -> KafkaResult<Option<T>>,
    ) -> Result<T, SinkError> {
        // What was told before, an idle connection that was closed say, is told again where it lasts.
        serve();
        context.told().down = false;
        let started = Instant::now();
        loop {
            match step() {
                Ok(Some(value)) => return Ok(value),
                Ok(None) => {}
                Err(error) if is_pause(&error) => self.bell.rest(PAUSE),
                Err(error) => return Err(self.error(doing, &error)),
            }
            serve();
            if self.bell.stopping() {
                return Err(SinkError::Stopping);
            }
            let told = context.told();
            let said = told.error.as_deref();
            if told.down {
                return Err(self.fault(doing, said.unwrap_or("no broker can be reached")));
            }
            if started.elapsed() >= self.config.timeout {
                let after = shared::config::Span(self.config.timeout);
                let why = match said {
                    Some(said) => format!("not done after {after}; {said}"),
                    None => format!("not done after {after}"),
                };
                return Err(self.fault(doing, why));
            }
        }
    }

    /// An error of the library as one of the sink's.
    pub(super) fn error(&self, doing: &'static str, error: &KafkaError) -> SinkError {
        use RDKafkaErrorCode as Code;
        let text = match error {
            // What it says is more than its code.
            KafkaError::Transaction(error) => error.to_string(),
            error => match error.rdkafka_error_code() {
                Some(code) => code.to_string(),
                None => error.to_string(),
            },
        };
        let hint = match error.rdkafka_error_code() {
            Some(
                Code::Fenced
                | Code::InvalidProducerEpoch
                | Code::ProducerFenced
                | Code::TransactionCoordinatorFenced,
            ) => "; another program uses the same transactional-id",
            Some(
                Code::GroupAuthorizationFailed
                | Code::TopicAuthorizationFailed
                | Code::TransactionalIdAuthorizationFailed
                | Code::UnknownPartition
                | Code::UnknownTopic
                | Code::UnknownTopicOrPartition,
            ) => "; what the cluster needs is told by: penstock-low setup NAME",
            _ => "",
        };
        self.fault(doing, format!("{text}{hint}"))
    }

    pub(super) fn fault(&self, doing: &'static str, why: impl Into<String>) -> SinkError {
        SinkError::Kafka { brokers: self.config.brokers.join(","), doing, why: why.into() }
    }

    /// A producer, after whatever its predecessor left behind was committed or aborted.
    pub(super) fn producer(&self, alone: bool) -> Result<Producer, SinkError> {
        let settings = producer_settings(self.config, alone)?;
        let producer: Producer = settings
            .create_with_context(Context::default())
            .map_err(|err| self.error("the client can't be made", &err))?;
        let begin = || producer.init_transactions(STEP).map(Some);
        self.wait(
            "transactions can't be begun",
            producer.context(),
            || producer.poll(Duration::ZERO),
            begin,
        )?;
        Ok(producer)
    }

    /// The last committed control record of this sink. No transaction of its own may be open.
    pub(super) fn last_control(&self) -> Result<Option<Control>, SinkError> {
        // Another sink's open transaction hides what stands behind its first record from readers of
        // what is committed. So the end is asked for by one who reads everything, and waited for.
        let (low, high) = {
            let everything = self.consumer("read_uncommitted")?;
            self.ends(&everything, i64::MIN)?
        };
        let committed = self.consumer("read_committed")?;
        self.ends(&committed, high)?;
        // The record stands near the end, but for one partition that many sinks share.
        let mut span = SCAN;
        loop {
            let start = high.saturating_sub(span).max(low);
            let found = self.scan(&committed, start)?;
            if found.is_some() || start == low {
                return Ok(found);
            }
            span = span.saturating_mul(8);
        }
    }

    fn consumer(&self, isolation: &str) -> Result<BaseConsumer<Context>, SinkError> {
        let settings = consumer_settings(self.config, isolation)?;
        settings
            .create_with_context(Context::default())
            .map_err(|err| self.error("the client can't be made", &err))
    }

    /// The first and the last offset of the control topic, once the last one is `least` or more.
    fn ends(&self, consumer: &BaseConsumer<Context>, least: i64) -> Result<(i64, i64), SinkError> {
        let topic = &self.config.control_topic;
        self.wait(
            READING,
            consumer.context(),
            || (),
            || {
                let (low, high) = consumer.fetch_watermarks(topic, CONTROL_PARTITION, STEP)?;
                if high < least {
                    self.bell.rest(PAUSE);
                    return Ok(None);
                }
                Ok(Some((low, high)))
            },
        )
    }

    /// What the cluster says of each of these topics: why it can't be used, where it can't. None is made.
    pub(super) fn topics<'t>(
        &self,
        names: impl IntoIterator<Item = &'t str>,
    ) -> Result<Vec<(&'t str, Option<RDKafkaErrorCode>)>, SinkError> {
        use RDKafkaErrorCode::{BrokerTransportFailure, UnknownTopicOrPartition};
        let consumer = self.consumer("read_committed")?;
        let mut found = Vec::new();
        for name in names {
            let step = || match consumer.fetch_metadata(Some(name), STEP) {
                Ok(metadata) => Ok(Some(metadata)),
                // No connection yet; where there will be none, the library's threads tell why.
                Err(error) if error.rdkafka_error_code() == Some(BrokerTransportFailure) => {
                    Ok(None)
                }
                Err(error) => Err(error),
            };
            let serve = || drop(consumer.poll(Duration::ZERO));
            let metadata =
                self.wait("its topics can't be asked for", consumer.context(), serve, step)?;
            let topic = metadata.topics().iter().find(|topic| topic.name() == name);
            let problem = match topic {
                Some(topic) => topic.error().map(RDKafkaErrorCode::from),
                None => Some(UnknownTopicOrPartition),
            };
            found.push((name, problem));
        }
        Ok(found)
    }

    /// The last control record of this sink from an offset on.
    fn scan(
        &self,
        consumer: &BaseConsumer<Context>,
        start: i64,
    ) -> Result<Option<Control>, SinkError> {
        let mut from = TopicPartitionList::new();
        from.add_partition_offset(
            &self.config.control_topic,
            CONTROL_PARTITION,
            Offset::Offset(start),
        )
        .and_then(|()| consumer.assign(&from))
        .map_err(|err| self.error(READING, &err))?;
        let mut found: Option<Vec<u8>> = None;
        self.wait(
            READING,
            consumer.context(),
            || (),
            || match consumer.poll(STEP) {
                Some(Err(KafkaError::PartitionEOF(_))) => Ok(Some(())),
                // It looks for the coordinator of a group that it does not join.
                Some(Err(error))
                    if error.rdkafka_error_code()
                        == Some(RDKafkaErrorCode::GroupAuthorizationFailed) =>
                {
                    Ok(None)
                }
                Some(Err(error)) => Err(error),
                Some(Ok(message)) => {
                    if message.key() == Some(self.config.transactional_id.as_bytes()) {
                        // One without a value takes back what was said before.
                        found = message.payload().map(<[u8]>::to_vec);
                    }
                    Ok(None)
                }
                None => Ok(None),
            },
        )?;
        let parsed = found.map(|bytes| Control::parse(&bytes)).transpose();
        parsed.map_err(|err| self.fault(READING, err.to_string()))
    }
}

/// Whether the same call, made once more, may do.
fn is_pause(error: &KafkaError) -> bool {
    match error {
        KafkaError::Transaction(error) if error.is_retriable() => true,
        error => error.rdkafka_error_code() == Some(RDKafkaErrorCode::OperationTimedOut),
    }
}

/// Whether the brokers refuse the record itself (Kafka's protocol, error codes 10, 32 and 87).
pub(super) fn is_refusal(code: RDKafkaErrorCode) -> bool {
    matches!(
        code,
        RDKafkaErrorCode::InvalidRecord
            | RDKafkaErrorCode::InvalidTimestamp
            | RDKafkaErrorCode::MessageSizeTooLarge
    )
}

/// The longest call into the library, and so the longest time for which a stop is not noticed.
pub(super) const STEP: Duration = Duration::from_millis(200);
/// Between two calls where the first one failed at once.
const PAUSE: Duration = Duration::from_millis(50);
/// The longest pause of the library between two tries to connect. The agent has its own, longer ones.
const RECONNECT: Duration = Duration::from_secs(1);
/// Control records of a sink all stand in this partition, in the order of their commits.
pub(super) const CONTROL_PARTITION: i32 = 0;
/// Offsets that are looked at first.
const SCAN: i64 = 64;
const READING: &str = "the control topic can't be read";
