//! Which months are closed to writers: what is sent there is refused, also what stands there already.

use std::collections::BTreeMap;

use bytes::Bytes;
use hyper::Method;
use serde_json::Value;
use shared::bell::Bell;
use shared::clock::Nanos;

use super::authorized;
use super::config::ElasticConfig;
use super::index::{EARLY, LATE, month};
use super::setup::{COLD_AFTER_DAYS, patterns};
use crate::http::{Call, Http};
use crate::sink::SinkError;

/// What is to be said before records that were received in a period are sent once more.
pub(in crate::sink) fn warning(
    config: &ElasticConfig,
    bell: &Bell,
    (from, to): (Nanos, Nanos),
    now: Nanos,
) -> Option<String> {
    // An index is named by when an event happened, which may be so long before or after it was received.
    let first = month(Nanos(from.0.saturating_sub_unsigned(nanos(EARLY))));
    let last = month(Nanos(to.0.saturating_add_unsigned(nanos(LATE))));
    let of_period = |index: &str| {
        index.rsplit_once('-').is_some_and(|(_, month)| (&*first..=&*last).contains(&month))
    };
    let found = match closed(config, bell) {
        Ok(closed) => {
            let names: Vec<String> = closed?.into_iter().filter(|name| of_period(name)).collect();
            match names.split_first() {
                Some((name, [])) => format!("{name} is closed to writers"),
                Some((name, more)) => {
                    format!("{name} and {} more of this period are closed to writers", more.len())
                }
                None => return None,
            }
        }
        Err(why) => {
            let aged = Nanos(now.0.saturating_sub_unsigned(nanos(READ_ONLY_AFTER)));
            let oldest_open = month(aged);
            if first >= oldest_open {
                return None;
            }
            format!(
                "indices of months before {oldest_open} are closed to writers, where the policy that setup installs is in force; that could not be asked ({why})"
            )
        }
    };
    Some(format!(
        "{found}. Such an index refuses every record, also one that it holds: they become dead letters. To open one:\n  \
         PUT INDEX/_settings {{\"index.blocks.write\": false}}, and once they are there: true again"
    ))
}

/// The indices of ours that are closed to writers.
fn closed(config: &ElasticConfig, bell: &Bell) -> Result<Option<Vec<String>>, SinkError> {
    let mut http = Http::new(&config.http, bell);
    let path = format!(
        "/{}/_settings/index.blocks.*?flat_settings=true&ignore_unavailable=true&allow_no_indices=true&expand_wildcards=open,closed",
        patterns(config).join(",")
    );
    let call = authorized(Call::new(Method::GET, path, Bytes::new()), &config.access)?;
    let answer = http.send(&call)?;
    if answer.status != 200 {
        return Err(SinkError::answer(&http.place(), &answer));
    }
    let found: BTreeMap<String, Value> =
        serde_json::from_slice(&answer.body).map_err(|err| SinkError::Answer {
            place: http.place(),
            status: 200,
            why: format!("{err}: {}", answer.excerpt()),
            retry_after: None,
        })?;
    let is_closed = |index: &Value| {
        ["index.blocks.write", "index.blocks.read_only"]
            .iter()
            .any(|name| index["settings"][*name] == "true" || index["settings"][*name] == true)
    };
    let names: Vec<String> =
        found.into_iter().filter(|(_, index)| is_closed(index)).map(|(name, _)| name).collect();
    Ok((!names.is_empty()).then_some(names))
}

fn nanos(time: std::time::Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

const READ_ONLY_AFTER: std::time::Duration = std::time::Duration::from_hours(24 * COLD_AFTER_DAYS);
