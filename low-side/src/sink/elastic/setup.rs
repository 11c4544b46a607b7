//! What a cluster needs before it takes records: what writes down when they came, the template of the
//! indices, how they age, and who may write them; and the search for one record.

use std::fmt::Write as _;

use bytes::Bytes;
use hyper::Method;
use hyper::header::{CONTENT_TYPE, HeaderValue};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use shared::bell::Bell;
use shared::record::RecordId;

use super::config::{Dialect, ElasticConfig};
use super::index::FAMILIES;
use super::{arrival, authorized};
use crate::http::{Answer, Call, Http};
use crate::mapping::ecs;
use crate::sink::SinkError;

/// One thing that is put into the cluster.
pub(super) struct Part {
    pub(super) what: &'static str,
    pub(super) path: String,
    pub(super) body: String,
}

/// Installs pipeline, policy and template, and has the indices that are there already use the pipeline;
/// or with `apply` unset writes the requests that do. And writes the role that the sink's own credential
/// should have.
pub(in crate::sink) fn setup(
    config: &ElasticConfig,
    bell: &Bell,
    apply: bool,
    out: &mut String,
) -> Result<(), SinkError> {
    // In this order: an index that names a pipeline which is not there refuses every document.
    let parts = [arrival::pipeline(config), policy(config), template(config)];
    let mut http = Http::new(&config.http, bell);
    // Writing to a string does not fail.
    let _ = writeln!(out, "# {} at {}", config.dialect.as_str(), config.http.url);
    for part in parts {
        if apply {
            let path = install(config, &mut http, &part)?;
            let _ = writeln!(out, "installed: {}, PUT {path}", part.what);
        } else {
            let _ = writeln!(out, "\n# {}\nPUT {}\n{}", part.what, part.path, pretty(&part.body));
        }
    }
    if apply {
        arrival::adopt(config, &mut http, out)?;
    } else {
        out.push_str(&arrival::adopt_by_hand(config));
    }
    out.push_str(&role(config));
    Ok(())
}

fn install(config: &ElasticConfig, http: &mut Http, part: &Part) -> Result<String, SinkError> {
    let mut path = part.path.clone();
    if config.dialect == Dialect::OpenSearch && path.starts_with(ISM) {
        // A policy that is there is changed only by who says which version of it they know.
        let found = ask(config, http, Method::GET, &path, "")?;
        if found.is_success() {
            let known: Known = read(http, &found)?;
            let _ =
                write!(path, "?if_seq_no={}&if_primary_term={}", known.seq_no, known.primary_term);
        } else if found.status != 404 {
            return Err(SinkError::answer(&http.place(), &found));
        }
    }
    let answer = ask(config, http, Method::PUT, &path, &part.body)?;
    if answer.is_success() { Ok(path) } else { Err(SinkError::answer(&http.place(), &answer)) }
}

#[derive(Deserialize)]
struct Known {
    #[serde(rename = "_seq_no")]
    seq_no: u64,
    #[serde(rename = "_primary_term")]
    primary_term: u64,
}

/// Whether a record can be found by its id; `None` where the credential may not search.
pub(in crate::sink) fn find(
    config: &ElasticConfig,
    bell: &Bell,
    id: &RecordId,
) -> Result<Option<bool>, SinkError> {
    found(config, bell, &json!({"ids": {"values": [id.to_string()]}}))
}

/// Whether a search finds anything in any of our indices; `None` where the credential may not search.
pub(super) fn found(
    config: &ElasticConfig,
    bell: &Bell,
    query: &Value,
) -> Result<Option<bool>, SinkError> {
    #[derive(Deserialize)]
    struct Found {
        hits: Hits,
    }
    #[derive(Deserialize)]
    struct Hits {
        total: Total,
    }
    #[derive(Deserialize)]
    struct Total {
        value: u64,
    }
    let mut http = Http::new(&config.http, bell);
    let path = format!(
        "/{}/_search?ignore_unavailable=true&allow_no_indices=true&filter_path=hits.total",
        patterns(config).join(",")
    );
    let query = json!({"size": 0, "query": query});
    let answer = ask(config, &mut http, Method::POST, &path, &query.to_string())?;
    match answer.status {
        200 => {
            let found: Found = read(&http, &answer)?;
            Ok(Some(found.hits.total.value > 0))
        }
        401 | 403 => Ok(None),
        _ => Err(SinkError::answer(&http.place(), &answer)),
    }
}

/// What an answer says, as far as it is asked for.
pub(super) fn read<T: DeserializeOwned>(http: &Http, answer: &Answer) -> Result<T, SinkError> {
    serde_json::from_slice(&answer.body).map_err(|err| {
        let why = format!("{err}: {}", answer.excerpt());
        SinkError::Answer { place: http.place(), status: answer.status, why, retry_after: None }
    })
}

pub(super) fn ask(
    config: &ElasticConfig,
    http: &mut Http,
    method: Method,
    path: &str,
    body: &str,
) -> Result<Answer, SinkError> {
    let mut call = Call::new(method, path, Bytes::copy_from_slice(body.as_bytes()));
    if !body.is_empty() {
        call = call.header(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    }
    Ok(http.send(&authorized(call, &config.access)?)?)
}

pub(super) fn patterns(config: &ElasticConfig) -> Vec<String> {
    FAMILIES.iter().map(|family| format!("{}{family}-*", config.index_prefix)).collect()
}

/// The name of pipeline, policy and template.
pub(super) fn name(config: &ElasticConfig) -> String {
    format!("{}penstock", config.index_prefix)
}

fn template(config: &ElasticConfig) -> Part {
    let (name, patterns) = (name(config), patterns(config));
    let patterns: Vec<&str> = patterns.iter().map(String::as_str).collect();
    let all = [(arrival::SETTING, name.as_str()), ("index.lifecycle.name", name.as_str())];
    let settings = match config.dialect {
        Dialect::Elasticsearch => &all[..],
        // The policy names the patterns itself.
        Dialect::OpenSearch => &all[..1],
    };
    Part {
        what: "index template, ECS, strict",
        path: format!("/_index_template/{name}"),
        body: ecs::index_template(&patterns, settings),
    }
}

/// How indices age, counted from when each was made: with the first record of its month. Never a
/// rollover: an id is unique inside one index only. Nothing closes an index while records of its month
/// may still come, which is why there is no force merge in the warm phase either: it makes an index
/// read-only, too.
///
/// <https://www.elastic.co/docs/reference/elasticsearch/index-lifecycle-actions/>,
/// <https://docs.opensearch.org/latest/im-plugin/ism/policies/>
fn policy(config: &ElasticConfig) -> Part {
    let name = name(config);
    match config.dialect {
        Dialect::Elasticsearch => Part {
            what: "lifecycle policy (ILM)",
            path: format!("/_ilm/policy/{name}"),
            body: json!({"policy": {
                "_meta": {"description": "Audit records by Penstock; no rollover, nothing is deleted"},
                "phases": {
                    "hot": {"min_age": "0ms", "actions": {"set_priority": {"priority": 100}}},
                    "warm": {"min_age": days(WARM_AFTER_DAYS), "actions": {"set_priority": {"priority": 50}}},
                    "cold": {"min_age": days(COLD_AFTER_DAYS), "actions": {
                        "readonly": {},
                        "set_priority": {"priority": 0},
                    }},
                },
            }})
            .to_string(),
        },
        Dialect::OpenSearch => Part {
            what: "state policy (ISM)",
            path: format!("{ISM}{name}"),
            body: json!({"policy": {
                "description": "Audit records by Penstock; no rollover, nothing is deleted",
                "default_state": "hot",
                "states": [
                    {"name": "hot", "actions": [{"index_priority": {"priority": 100}}],
                     "transitions": [{"state_name": "warm", "conditions": {"min_index_age": days(WARM_AFTER_DAYS)}}]},
                    {"name": "warm", "actions": [{"index_priority": {"priority": 50}}],
                     "transitions": [{"state_name": "cold", "conditions": {"min_index_age": days(COLD_AFTER_DAYS)}}]},
                    {"name": "cold", "actions": [
                        {"read_only": {}},
                        {"force_merge": {"max_num_segments": 1}},
                        {"index_priority": {"priority": 0}},
                     ],
                     "transitions": []},
                ],
                "ism_template": [{"index_patterns": patterns(config), "priority": 500}],
            }})
            .to_string(),
        },
    }
}

/// The least that the sink's credential needs: to make indices of its names, and documents in them
/// that do not exist. It can't read, change or delete.
///
/// <https://www.elastic.co/docs/reference/elasticsearch/security-privileges>,
/// <https://docs.opensearch.org/latest/security/access-control/permissions/>
fn role(config: &ElasticConfig) -> String {
    let patterns = patterns(config);
    match config.dialect {
        Dialect::Elasticsearch => {
            let key = json!({
                "name": name(config),
                "role_descriptors": {"penstock-append": {
                    "cluster": [],
                    "indices": [{"names": patterns, "privileges": ["create_doc", "auto_configure"]}],
                }},
            });
            format!(
                "\n# the key of the sink, which an administrator makes; it can add, and neither read nor change.\n\
                 # \"encoded\" of the answer is what stands in api-key-file\n\
                 POST /_security/api_key\n{}\n",
                pretty(&key.to_string())
            )
        }
        Dialect::OpenSearch => {
            // `indices:data/write/index` is asked for with `create` too; there is no action that
            // allows only new documents. `bulk*` also for its parts, `bulk[s]`.
            let role = json!({
                "cluster_permissions": ["indices:data/write/bulk"],
                "index_permissions": [{
                    "index_patterns": patterns,
                    "allowed_actions": [
                        "indices:data/write/index",
                        "indices:data/write/bulk*",
                        "indices:admin/create",
                        "indices:admin/mapping/put",
                    ],
                }],
            });
            format!(
                "\n# the role of the sink's user, which an administrator makes; it can neither read nor delete\n\
                 PUT /_plugins/_security/api/roles/{}\n{}\n",
                name(config),
                pretty(&role.to_string())
            )
        }
    }
}

pub(super) fn pretty(body: &str) -> String {
    let value: Result<Value, _> = serde_json::from_str(body);
    let text = value.and_then(|value| serde_json::to_string_pretty(&value));
    text.unwrap_or_else(|_| body.to_owned())
}

/// An age as both policies write it.
fn days(count: u64) -> String {
    format!("{count}d")
}

const ISM: &str = "/_plugins/_ism/policies/";
/// Hot for 30 days.
const WARM_AFTER_DAYS: u64 = 30;
/// Then warm for 90. An index of a month gets what was received up to 31 days after the month: so from
/// here on, closed to writers, it still left eight weeks for the way across the gap.
pub(super) const COLD_AFTER_DAYS: u64 = 120;
