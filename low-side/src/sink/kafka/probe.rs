//! Whether a cluster is reached, lets us in and has the topics, without a record: for the doctor.

use shared::bell::Bell;
use shared::doctor::{Finding, Level};

use super::client::Patience;
use super::config::KafkaConfig;
use super::setup::topics;
use crate::replay::chain_text;
use crate::sink::SinkError;
use crate::sink::config::SinkConfig;
use crate::sink::probe::unreached;

/// Asks the cluster for the sink's topics, as a reader, for whom no broker makes one.
pub(in crate::sink) fn probe(sink: &SinkConfig, config: &KafkaConfig, bell: &Bell) -> Vec<Finding> {
    let brokers = config.brokers.join(",");
    let mut wanted = topics(sink, config);
    wanted.insert(config.control_topic.clone());
    let patience = Patience { config, bell };
    let found = match patience.topics(wanted.iter().map(String::as_str)) {
        Ok(found) => found,
        Err(SinkError::Kafka { why, .. }) if why.contains("SASL") => {
            let what = format!("{brokers} does not let us in: {why}");
            return vec![
                Finding::new(Level::Fault, "credential", what)
                    .remedy("username, password-file and mechanism in this section"),
            ];
        }
        Err(err) => {
            let first = config.brokers.first().map_or("", String::as_str);
            return vec![unreached(first, &chain_text(&err))];
        }
    };
    let mut findings = vec![Finding::new(Level::Fine, "reached", format!("{brokers} is reached"))];
    let setup = format!(
        "penstock-low setup {}: the topics, and what the account has to be allowed",
        sink.name
    );
    for (topic, problem) in found {
        findings.push(match problem {
            None => Finding::new(Level::Fine, "topic", format!("the topic {topic} is there")),
            Some(code) => Finding::new(Level::Fault, "topic", format!("the topic {topic}: {code}"))
                .remedy(&setup),
        });
    }
    findings
}
