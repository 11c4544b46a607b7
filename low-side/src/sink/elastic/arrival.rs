//! When a record came into the index: written down by the cluster, as `event.ingested`, and by nothing
//! else. Detection rules go by it, since a record may come long after it happened; a document is the
//! same however often it is sent, and so can't say it itself.
//!
//! An ingest pipeline sets it, and the indices name that pipeline as their final one, which runs
//! whatever pipeline a request names:
//! <https://www.elastic.co/docs/reference/elasticsearch/index-settings/index-modules>,
//! <https://docs.opensearch.org/latest/install-and-configure/configuring-opensearch/index-settings/>.
//! Whoever adds a document needs no right for it.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use hyper::Method;
use serde::Deserialize;
use serde_json::json;
use shared::bell::Bell;
use shared::record::RecordId;

use super::config::ElasticConfig;
use super::setup::{Part, ask, found, name, patterns, pretty, read};
use crate::http::Http;
use crate::sink::SinkError;

/// The pipeline that an index runs for each document, whatever else runs.
pub(super) const SETTING: &str = "index.final_pipeline";

/// The pipeline.
pub(super) fn pipeline(config: &ElasticConfig) -> Part {
    Part {
        what: "ingest pipeline, event.ingested",
        path: format!("/_ingest/pipeline/{}", name(config)),
        body: json!({
            "description": "Penstock: when a record came into the index. Detection rules go by it",
            "processors": [{"set": {"field": FIELD, "value": "{{{_ingest.timestamp}}}"}}],
        })
        .to_string(),
    }
}

/// Has the indices that were made before use the pipeline; a template is for new ones only. One that has
/// a final pipeline of its own keeps it, and is named.
pub(super) fn adopt(
    config: &ElasticConfig,
    http: &mut Http,
    out: &mut String,
) -> Result<(), SinkError> {
    let name = name(config);
    let path = format!(
        "/{}/_settings?ignore_unavailable=true&allow_no_indices=true&filter_path=*.settings.index.uuid,*.settings.index.final_pipeline",
        patterns(config).join(",")
    );
    let answer = ask(config, http, Method::GET, &path, "")?;
    // Where there is no index at all, some say so with this.
    if answer.status == 404 {
        return Ok(());
    }
    if !answer.is_success() {
        return Err(SinkError::answer(&http.place(), &answer));
    }
    let there: BTreeMap<String, Found> = read(http, &answer)?;
    for (index, Found { settings }) in there {
        match settings.index.final_pipeline {
            Some(used) if used == name => {}
            None => {
                let body = json!({ SETTING: name }).to_string();
                let answer = ask(config, http, Method::PUT, &format!("/{index}/_settings"), &body)?;
                if !answer.is_success() {
                    return Err(SinkError::answer(&http.place(), &answer));
                }
                // Writing to a string does not fail.
                let _ = writeln!(out, "installed: the pipeline, in the index {index}");
            }
            Some(other) => {
                let _ = writeln!(
                    out,
                    "left as it is: {index} has the final pipeline {other}; have that one set {FIELD}"
                );
            }
        }
    }
    Ok(())
}

/// The request by which somebody else does the same.
pub(super) fn adopt_by_hand(config: &ElasticConfig) -> String {
    format!(
        "\n# the same for indices that are there already; not needed where there are none\n\
         PUT /{}/_settings?ignore_unavailable=true&allow_no_indices=true\n{}\n",
        patterns(config).join(","),
        pretty(&json!({ SETTING: name(config) }).to_string())
    )
}

/// Whether a record that is there has the time; `None` where the credential may not search.
pub(in crate::sink) fn stamped(
    config: &ElasticConfig,
    bell: &Bell,
    id: &RecordId,
) -> Result<Option<bool>, SinkError> {
    let ids = json!({"ids": {"values": [id.to_string()]}});
    let query = json!({"bool": {"filter": [ids, {"exists": {"field": FIELD}}]}});
    found(config, bell, &query)
}

#[derive(Deserialize)]
struct Found {
    #[serde(default)]
    settings: Settings,
}

#[derive(Default, Deserialize)]
struct Settings {
    #[serde(default)]
    index: Index,
}

#[derive(Default, Deserialize)]
struct Index {
    final_pipeline: Option<String>,
}

const FIELD: &str = "event.ingested";
