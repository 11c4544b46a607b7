//! The sink itself.

use std::collections::HashMap;
use std::time::Duration;

use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{BaseRecord, Producer as _};
use shared::bell::Bell;
use shared::clock::Clock;

use super::client::{CONTROL_PARTITION, Patience, Producer, STEP, is_refusal};
use super::config::KafkaConfig;
use super::control::{Control, Marks};
use crate::event;
use crate::ledger::{ChainName, FilePosition, Ledger, SinkId};
use crate::sink::{Confirmed, Item, Rejected, Sink, SinkError};

/// The sink.
pub(crate) struct KafkaSink<C> {
    id: SinkId,
    config: KafkaConfig,
    clock: C,
    bell: Bell,
    open: Option<Open>,
    /// Records that the brokers refused for good in an earlier try.
    refused: HashMap<(ChainName, u64), String>,
    /// A request was refused, and it is not known for which of its records.
    alone: bool,
    /// A rendered record; the memory is used again.
    value: Vec<u8>,
}

/// A producer whose predecessors have all ended.
struct Open {
    producer: Producer,
    /// The number of the last batch.
    batch: u64,
    /// What the cluster has without the ledger's knowing.
    doubt: Marks,
    now: Batch,
}

/// The batch under way.
#[derive(Default)]
struct Batch {
    /// A transaction is open.
    begun: bool,
    /// All that is delivered once it is committed.
    taken: Marks,
    /// The records that were produced, in order.
    sent: Vec<(ChainName, u64)>,
    rejected: Vec<Rejected>,
}

impl Open {
    /// Fences off the predecessor, and learns what it has committed.
    fn new(
        patience: Patience<'_>,
        alone: bool,
        id: SinkId,
        ledger: &Ledger,
    ) -> Result<Self, SinkError> {
        let producer = patience.producer(alone)?;
        let noted = ledger.file_position(id)?.map_or(0, |noted| noted.offset);
        let control = patience.last_control()?;
        let batch = control.as_ref().map_or(0, |control| control.batch);
        let here = control.filter(|control| control.topic == patience.config.topic.as_str());
        let doubt = here.map_or_else(Marks::default, |control| control.in_doubt(noted));
        if !doubt.is_empty() {
            tracing::info!(
                transactional_id = patience.config.transactional_id,
                batch,
                "the cluster has records that the ledger does not know of; they are not sent again"
            );
        }
        Ok(Open { producer, batch: batch.max(noted), doubt, now: Batch::default() })
    }

    fn begin_transaction(&mut self, patience: Patience<'_>) -> Result<(), SinkError> {
        if !self.now.begun {
            let begun = self.producer.begin_transaction();
            begun.map_err(|err| patience.error("a transaction can't be begun", &err))?;
            self.now.begun = true;
        }
        Ok(())
    }

    /// Hands one message to the library, and waits where its queue is full. `false`: it is too long.
    fn produce(&mut self, patience: Patience<'_>, message: Message<'_>) -> Result<bool, SinkError> {
        self.begin_transaction(patience)?;
        let mut headers = message.headers;
        let producer = &self.producer;
        let number = self.now.sent.len();
        patience.wait(
            DELIVERING,
            producer.context(),
            || producer.poll(Duration::ZERO),
            || {
                let mut record = BaseRecord::with_opaque_to(message.topic, number)
                    .key(message.key)
                    .payload(message.value);
                record.partition = message.partition;
                record.headers = headers.take();
                match producer.send(record) {
                    Ok(()) => Ok(Some(true)),
                    Err((error, record)) => match error.rdkafka_error_code() {
                        Some(RDKafkaErrorCode::QueueFull) => {
                            headers = record.headers;
                            producer.poll(FULL);
                            Ok(None)
                        }
                        Some(RDKafkaErrorCode::MessageSizeTooLarge) => Ok(Some(false)),
                        _ => Err(error),
                    },
                }
            },
        )
    }

    /// Sends the control record and waits until everything has arrived.
    fn finish(&mut self, patience: Patience<'_>) -> Result<(), SinkError> {
        let control = Control {
            topic: patience.config.topic.as_str().to_owned(),
            batch: self.batch + 1,
            taken: self.now.taken.clone(),
            held: self.doubt.without(&self.now.taken),
        };
        let message = Message {
            topic: &patience.config.control_topic,
            partition: Some(CONTROL_PARTITION),
            key: &patience.config.transactional_id,
            headers: None,
            value: &control.encode(),
        };
        if !self.produce(patience, message)? {
            let why = "it is longer than record-bytes-max; lower batch-records";
            return Err(patience.fault("the control record can't be sent", why));
        }
        let producer = &self.producer;
        // A flush serves what the library tells.
        let step = || producer.flush(STEP).map(Some);
        patience.wait(DELIVERING, producer.context(), || producer.poll(Duration::ZERO), step)
    }

    fn commit(&mut self, patience: Patience<'_>) -> Result<(), SinkError> {
        let producer = &self.producer;
        let step = || producer.commit_transaction(STEP).map(Some);
        let serve = || producer.poll(Duration::ZERO);
        patience.wait(COMMITTING, producer.context(), serve, step)?;
        self.now.begun = false;
        self.batch += 1;
        Ok(())
    }
}

/// What is handed to the library.
struct Message<'a> {
    topic: &'a str,
    partition: Option<i32>,
    key: &'a str,
    headers: Option<OwnedHeaders>,
    value: &'a [u8],
}

impl<C: Clock> KafkaSink<C> {
    pub(crate) fn new(id: SinkId, config: KafkaConfig, clock: C, bell: Bell) -> Self {
        Self {
            id,
            config,
            clock,
            bell,
            open: None,
            refused: HashMap::new(),
            alone: false,
            value: Vec::new(),
        }
    }

    /// Both what waits and what is open.
    fn parts(&mut self) -> Result<(Patience<'_>, &mut Open), SinkError> {
        let patience = Patience { config: &self.config, bell: &self.bell };
        match &mut self.open {
            Some(open) => Ok((patience, open)),
            None => Err(patience.fault(DELIVERING, "there is no connection")),
        }
    }

    /// Takes a failure for what it is once it is known what the brokers said of single records.
    fn judge<T>(&mut self, done: Result<T, SinkError>) -> Result<T, SinkError> {
        let Some(open) = &self.open else { return done };
        let failed = open.producer.context().failed();
        let refusals: Vec<_> = failed.iter().filter(|(_, code)| is_refusal(*code)).collect();
        let Some((_, code)) = refusals.first().copied().or(failed.first()) else { return done };
        // Of a request that is refused whole, its records can't be told apart.
        let single = self.alone || refusals.len() == 1;
        for (record, code) in refusals.iter().filter(|_| single) {
            if let Some(record) = open.now.sent.get(*record) {
                self.refused.insert(record.clone(), format!("{}: {code}", *code as i32));
            }
        }
        self.alone |= !refusals.is_empty() && !single;
        let patience = Patience { config: &self.config, bell: &self.bell };
        Err(patience.error(DELIVERING, &KafkaError::MessageProduction(*code)))
    }

    fn reject(&mut self, item: Item<'_>, reason: String) -> Result<u64, SinkError> {
        let (chain, sequence) = (item.chain.clone(), item.record.sequence.0);
        self.parts()?.1.now.rejected.push(Rejected { chain, sequence, reason });
        Ok(0)
    }
}

impl<C: Clock> Sink for KafkaSink<C> {
    fn begin(&mut self, ledger: &mut Ledger) -> Result<(), SinkError> {
        if let Some(open) = &mut self.open {
            open.now = Batch::default();
        } else {
            let patience = Patience { config: &self.config, bell: &self.bell };
            self.open = Some(Open::new(patience, self.alone, self.id, ledger)?);
        }
        Ok(())
    }

    fn write(&mut self, item: Item<'_>) -> Result<u64, SinkError> {
        let (chain, sequence) = (item.chain, item.record.sequence.0);
        let (_, open) = self.parts()?;
        if open.doubt.contain(chain, sequence) {
            open.now.taken.add(chain, sequence);
            return Ok(0);
        }
        if let Some(reason) = self.refused.get(&(chain.clone(), sequence)).cloned() {
            return self.reject(item, reason);
        }
        let mut value = std::mem::take(&mut self.value);
        value.clear();
        let id = event::with_view(chain, item.record, |view| {
            event::render_view(&mut value, view);
            view.id.to_string()
        });
        let bytes = value.len() as u64;
        let topic = self.config.topic.of(item.record.stream);
        let (patience, open) = self.parts()?;
        let headers = OwnedHeaders::new_with_capacity(2)
            .insert(Header { key: "record-id", value: Some(&id) })
            .insert(Header { key: "stream", value: Some(item.record.stream.as_str()) });
        let key = chain.origin.as_str();
        let message =
            Message { topic: &topic, partition: None, key, headers: Some(headers), value: &value };
        let queued = open.produce(patience, message);
        self.value = value;
        if !self.judge(queued)? {
            let most = self.config.record_bytes_max;
            let code = RDKafkaErrorCode::MessageSizeTooLarge;
            let reason = format!("{}: {bytes} bytes, where {most} are taken", code as i32);
            return self.reject(item, reason);
        }
        let (_, open) = self.parts()?;
        open.now.sent.push((chain.clone(), sequence));
        open.now.taken.add(chain, sequence);
        Ok(bytes)
    }

    fn confirm(&mut self) -> Result<Confirmed, SinkError> {
        let (patience, open) = self.parts()?;
        if open.now.taken.is_empty() {
            return Ok(Confirmed {
                position: None,
                rejected: std::mem::take(&mut open.now.rejected),
            });
        }
        let finished = open.finish(patience);
        self.judge(finished)?;
        let (patience, open) = self.parts()?;
        let committed = open.commit(patience);
        self.judge(committed)?;
        let opened = self.clock.now();
        let (_, open) = self.parts()?;
        let position = FilePosition { offset: open.batch, opened, rotating_to: None };
        let rejected = std::mem::take(&mut open.now.rejected);
        Ok(Confirmed { position: Some(position), rejected })
    }

    fn committed(&mut self, _ledger: &mut Ledger) -> Result<(), SinkError> {
        let (_, open) = self.parts()?;
        open.doubt = open.doubt.without(&open.now.taken);
        open.now = Batch::default();
        self.refused.clear();
        if std::mem::take(&mut self.alone) {
            self.open = None;
        }
        Ok(())
    }

    fn reset(&mut self, _error: &SinkError) {
        if let Some(open) = self.open.take() {
            end(&open);
        }
    }
}

impl<C> Drop for KafkaSink<C> {
    fn drop(&mut self) {
        if let Some(open) = self.open.take() {
            end(&open);
        }
    }
}

/// Readers wait behind an open transaction until it times out: it is not left to that where it can be
/// helped.
fn end(open: &Open) {
    if open.now.begun
        && let Err(error) = open.producer.abort_transaction(ABORT)
    {
        tracing::debug!(%error, "a transaction could not be aborted; the next start does it");
    }
}

/// How long the library's queue is waited for in one step, where it is full.
const FULL: Duration = Duration::from_millis(20);
/// How long an abort may take: the brokers give up on the transaction anyway.
const ABORT: Duration = Duration::from_secs(2);
const DELIVERING: &str = "records can't be delivered";
const COMMITTING: &str = "the transaction can't be committed";

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
