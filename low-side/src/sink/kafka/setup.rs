//! What the cluster has to have, and what can be found wrong without it.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use shared::record::Stream;

use super::client::producer_settings;
use super::config::KafkaConfig;
use crate::sink::SinkError;
use crate::sink::config::SinkConfig;

/// The topics that records of the sink go to.
pub(super) fn topics(sink: &SinkConfig, config: &KafkaConfig) -> BTreeSet<String> {
    let streams = Stream::ALL
        .iter()
        .filter(|stream| sink.filter.streams.is_empty() || sink.filter.streams.contains(stream));
    streams.map(|stream| config.topic.of(*stream)).collect()
}

/// The commands that make the topics and allow the sink what it needs, and nothing else. The sink itself
/// is allowed to do none of it.
///
/// Sources: the operations that each request needs are Kafka's ("Authorization and ACLs", protocol
/// operations and resources: `InitProducerId`, `AddPartitionsToTxn`, `Produce`, `EndTxn`, `Fetch`,
/// `FindCoordinator`); a compacted topic keeps the last record of each key ("Log Compaction").
pub(crate) fn setup(sink: &SinkConfig, config: &KafkaConfig) -> String {
    let brokers = config.brokers.join(",");
    let user = config.login.as_ref().map_or("CN=penstock", |login| login.username.as_str());
    let topics = topics(sink, config);
    let (control, id) = (&config.control_topic, &config.transactional_id);
    // The brokers count a whole request; ours are no longer than this and their frame.
    let message_bytes = config.record_bytes_max + REQUEST_FRAME;
    let mut text = String::new();
    let mut line = |text_line: &str| {
        let _ = writeln!(text, "{text_line}");
    };
    line("# Nothing is done from here: the sink's account needs no right to make topics or rules.");
    line("# Run these with Kafka's own tools and an administrator's account (--command-config).");
    line("");
    line(
        "# The topics of records. How many partitions and how long they are kept is the site's choice.",
    );
    for topic in &topics {
        line(&format!(
            "kafka-topics.sh --bootstrap-server {brokers} --create --if-not-exists --topic {topic} \\\n  \
             --partitions 6 --replication-factor 3 --config min.insync.replicas=2 \\\n  \
             --config max.message.bytes={message_bytes}"
        ));
    }
    line("# Where sinks keep what they committed: one partition, and nothing in it ever ages.");
    line(&format!(
        "kafka-topics.sh --bootstrap-server {brokers} --create --if-not-exists --topic {control} \\\n  \
         --partitions 1 --replication-factor 3 --config min.insync.replicas=2 \\\n  \
         --config cleanup.policy=compact --config max.message.bytes={message_bytes}"
    ));
    line("");
    let acl =
        format!("kafka-acls.sh --bootstrap-server {brokers} --add --allow-principal 'User:{user}'");
    line("# It writes records, and can't read them.");
    for topic in &topics {
        line(&format!("{acl} --operation Write --operation Describe --topic {topic}"));
    }
    line("# It writes and reads what it committed.");
    line(&format!(
        "{acl} --operation Write --operation Read --operation Describe --topic {control}"
    ));
    line("# Its transactions, and those of: penstock-low check");
    for id in [id.as_str(), &check_id(id)] {
        line(&format!("{acl} --operation Write --operation Describe --transactional-id {id}"));
    }
    line("# The client library asks who would coordinate its group, and joins none.");
    for id in [id.as_str(), &check_id(id)] {
        line(&format!("{acl} --operation Describe --group {id}"));
    }
    line("");
    line("# Whoever reads the records sees each of them once with: isolation.level=read_committed");
    text
}

/// The sink of a marked record: another producer, so that it does not fence off the agent's, with a
/// control record of its own.
pub(crate) fn for_check(config: &KafkaConfig) -> KafkaConfig {
    KafkaConfig { transactional_id: check_id(&config.transactional_id), ..config.clone() }
}

fn check_id(id: &str) -> String {
    format!("{id}-check")
}

/// Reads the files, and shows the settings to the library.
pub(crate) fn check(config: &KafkaConfig) -> Result<(), SinkError> {
    let settings = producer_settings(config, false)?;
    settings.create_native_config().map(|_| ()).map_err(|err| SinkError::Kafka {
        brokers: config.brokers.join(","),
        doing: "the client can't be made",
        why: err.to_string(),
    })
}

/// What a request has besides its record, generously.
const REQUEST_FRAME: u64 = 4096;
