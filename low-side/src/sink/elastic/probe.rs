//! Whether a cluster lets us in, without handing it a document: for the doctor.
//!
//! Sources: Elastic, "Check user privileges" (any credential may ask about itself) and "Get index templates";
//! a bulk without a body is answered with 400, behind the question who asks.

use std::collections::BTreeMap;

use bytes::Bytes;
use hyper::Method;
use hyper::header::{CONTENT_TYPE, HeaderValue};
use serde::Deserialize;
use serde_json::json;
use shared::bell::Bell;
use shared::doctor::{Finding, Level};

use super::authorized;
use super::config::{Dialect, ElasticConfig};
use super::setup::{ask, name, patterns};
use crate::http::{Call, Http};
use crate::sink::SinkError;
use crate::sink::probe::{judged, lets_in};

/// Asks the cluster; `sink` is what the operator calls it.
pub(in crate::sink) fn probe(config: &ElasticConfig, sink: &str, bell: &Bell) -> Vec<Finding> {
    let mut http = Http::new(&config.http, bell);
    let place = http.place();
    let mut asked = || -> Result<_, SinkError> {
        let call = Call::new(Method::POST, "/_bulk", Bytes::new())
            .header(CONTENT_TYPE, HeaderValue::from_static("application/x-ndjson"));
        Ok(http.send(&authorized(call, &config.access)?)?)
    };
    let mut findings = judged(&place, asked(), |status| status == 400);
    if lets_in(&findings) {
        if config.dialect == Dialect::Elasticsearch {
            findings.extend(allowed(config, &mut http, sink));
        }
        findings.extend(template(config, &mut http, sink));
    }
    findings
}

#[derive(Deserialize)]
struct Privileges {
    #[serde(default)]
    index: BTreeMap<String, BTreeMap<String, bool>>,
}

/// Whether documents may be added. Where that can't be asked, as without security, there is nothing to say.
fn allowed(config: &ElasticConfig, http: &mut Http, sink: &str) -> Option<Finding> {
    let wanted = json!({"index": [{"names": patterns(config), "privileges": [ADD, NEW_INDICES]}]})
        .to_string();
    let answer = ask(config, http, Method::POST, PRIVILEGES, &wanted).ok()?;
    let found: Privileges =
        serde_json::from_slice(&answer.body).ok().filter(|_| answer.is_success())?;
    let lacking = |privilege: &str| -> Vec<&str> {
        let lacks = |may: &BTreeMap<String, bool>| may.get(privilege) == Some(&false);
        found.index.iter().filter(|(_, may)| lacks(may)).map(|(name, _)| name.as_str()).collect()
    };
    for (level, privilege) in [(Level::Fault, ADD), (Level::Warning, NEW_INDICES)] {
        let lacking = lacking(privilege);
        if !lacking.is_empty() {
            let what = format!(
                "the credential lacks the privilege {privilege} for {}",
                lacking.join(", ")
            );
            return Some(Finding::new(level, "permission", what).remedy(format!(
                "penstock-low setup {sink} --print: the key or the role that it needs"
            )));
        }
    }
    (!found.index.is_empty())
        .then(|| Finding::new(Level::Fine, "permission", "it may add documents"))
}

/// Whether the template of the indices is there.
fn template(config: &ElasticConfig, http: &mut Http, sink: &str) -> Option<Finding> {
    let name = name(config);
    let answer = ask(config, http, Method::GET, &format!("/_index_template/{name}"), "").ok()?;
    match answer.status {
        200 => {
            let what = format!("the index template {name} is there");
            Some(Finding::new(Level::Fine, "template", what))
        }
        404 => {
            let what = format!(
                "there is no index template {name}: the cluster would guess what the fields are"
            );
            let remedy =
                format!("penstock-low setup {sink}, with a credential that may install it");
            Some(Finding::new(Level::Warning, "template", what).remedy(remedy))
        }
        // The credential that the sink needs may add documents, and nothing else.
        401 | 403 => {
            let what =
                "this credential may not ask whether the index template is there, and need not";
            Some(Finding::new(Level::Skipped, "template", what))
        }
        _ => None,
    }
}

const PRIVILEGES: &str = "/_security/user/_has_privileges";
const ADD: &str = "create_doc";
const NEW_INDICES: &str = "auto_configure";
