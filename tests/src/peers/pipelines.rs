//! Ingest pipelines, as far as a sink installs one: what stands in for them before servers that have none.
//!
//! As Elasticsearch and `OpenSearch` have it: a template gives an index its final pipeline when the first
//! document makes the index, a later template changes nothing of it, and a document for an index whose
//! pipeline is not there is refused, alone, with 400
//! (<https://www.elastic.co/docs/reference/elasticsearch/index-settings/index-modules>,
//! <https://www.elastic.co/docs/reference/enrich-processor/set-processor>).

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};
use shared::clock::{Clock as _, SystemClock};

use super::bulk_proxy::{error, only, parsed};
use super::{Asked, Reply};

/// What is installed, and which index has what.
#[derive(Debug, Default)]
pub struct Pipelines {
    /// Pipelines by their names.
    pub installed: BTreeMap<String, Value>,
    /// Templates by their names: patterns, priority, final pipeline.
    templates: BTreeMap<String, (Vec<String>, u64, Option<String>)>,
    /// The final pipeline of each index that there is.
    pub indices: BTreeMap<String, Option<String>>,
}

impl Pipelines {
    pub(super) fn put(&mut self, path: &str, asked: &Asked) -> Reply {
        if asked.method != "PUT" {
            return error(405, "illegal_argument_exception", "only PUT stands in here");
        }
        let pipeline = match parsed(asked) {
            Ok(pipeline) => pipeline,
            Err(reply) => return reply,
        };
        if let Err(problem) = check(&pipeline) {
            return error(400, "parse_exception", &problem);
        }
        let name = path.rsplit('/').next().unwrap_or_default();
        self.installed.insert(name.to_owned(), pipeline);
        Reply::status(200, "{\"acknowledged\":true}")
    }

    /// Remembers a template, and gives it without its pipeline.
    pub(super) fn template(&mut self, path: &str, asked: &Asked) -> Result<String, Reply> {
        let mut body = parsed(asked)?;
        let patterns = body["index_patterns"].as_array().into_iter().flatten();
        let patterns = patterns.filter_map(Value::as_str).map(str::to_owned).collect();
        let priority = body["priority"].as_u64().unwrap_or(0);
        let settings = body["template"]["settings"].as_object_mut();
        let pipeline = settings.and_then(|settings| settings.remove(SETTING));
        let pipeline = pipeline.and_then(|name| name.as_str().map(str::to_owned));
        let name = path.rsplit('/').next().unwrap_or_default();
        self.templates.insert(name.to_owned(), (patterns, priority, pipeline));
        Ok(body.to_string())
    }

    /// `GET` and `PUT` of the settings of indices.
    pub(super) fn settings(&mut self, path: &str, asked: &Asked) -> Reply {
        let named = path.trim_matches('/').split('/').next().unwrap_or_default();
        let patterns: Vec<&str> = named.split(',').collect();
        let fits = |index: &str| patterns.iter().any(|pattern| matches(pattern, index));
        if asked.method == "GET" {
            let there = self.indices.iter().filter(|(index, _)| fits(index));
            let settings = there.map(|(index, pipeline)| {
                let mut of = json!({"settings": {"index": {"uuid": "u"}}});
                if let Some(pipeline) = pipeline {
                    of["settings"]["index"]["final_pipeline"] = pipeline.as_str().into();
                }
                (index.clone(), of)
            });
            return Reply::status(200, Value::Object(settings.collect()).to_string());
        }
        let body = match parsed(asked) {
            Ok(body) => body,
            Err(reply) => return reply,
        };
        if let Err(problem) = only(&body, &[SETTING]) {
            return error(400, "illegal_argument_exception", &problem);
        }
        for (_, pipeline) in self.indices.iter_mut().filter(|(index, _)| fits(index)) {
            *pipeline = body[SETTING].as_str().map(str::to_owned);
        }
        Reply::status(200, "{\"acknowledged\":true}")
    }

    /// Both lines of an item after its index's pipeline, or the answer that refuses it.
    pub(super) fn run(&mut self, action: &[u8], document: &[u8]) -> Result<Vec<u8>, Value> {
        let said: Value = serde_json::from_slice(action).unwrap_or_default();
        let index = said["create"]["_index"].as_str().unwrap_or_default();
        let pipeline = match self.indices.get(index) {
            Some(pipeline) => pipeline.clone(),
            None => self.of_new(index),
        };
        let Some(name) = pipeline else {
            self.indices.insert(index.to_owned(), None);
            return Ok([action, document].concat());
        };
        let Some(pipeline) = self.installed.get(&name) else {
            let reason = format!("pipeline with id [{name}] does not exist");
            return Err(json!({"create": {
                "_index": index, "_id": said["create"]["_id"], "status": 400,
                "error": {"type": "illegal_argument_exception", "reason": reason},
            }}));
        };
        let mut document: Value = serde_json::from_slice(document).unwrap_or_default();
        for processor in pipeline["processors"].as_array().into_iter().flatten() {
            let set = &processor["set"];
            let path = set["field"].as_str().unwrap_or_default();
            let now = SystemClock.now().to_string();
            let value = set["value"].as_str().unwrap_or_default();
            put(&mut document, path, &value.replace("{{{_ingest.timestamp}}}", &now));
        }
        self.indices.insert(index.to_owned(), Some(name));
        Ok([action, document.to_string().as_bytes(), b"\n"].concat())
    }

    fn of_new(&self, index: &str) -> Option<String> {
        let fits = self
            .templates
            .values()
            .filter(|(patterns, ..)| patterns.iter().any(|pattern| matches(pattern, index)));
        fits.max_by_key(|(_, priority, _)| *priority).and_then(|(_, _, pipeline)| pipeline.clone())
    }
}

/// A pattern that ends with a `*`, or a name.
fn matches(pattern: &str, index: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some(begin) => index.starts_with(begin),
        None => pattern == index,
    }
}

fn put(document: &mut Value, path: &str, value: &str) {
    let mut at = document;
    for name in path.split('.') {
        if !at.is_object() {
            *at = Value::Object(Map::new());
        }
        at = &mut at[name];
    }
    *at = value.into();
}

fn check(body: &Value) -> Result<(), String> {
    only(body, &["description", "processors", "on_failure", "version", "_meta"])?;
    for processor in
        body["processors"].as_array().ok_or("[processors] required property is missing")?
    {
        only(processor, &["set"])?;
        let set = &processor["set"];
        only(
            set,
            &["field", "value", "override", "ignore_empty_value", "if", "ignore_failure", "tag"],
        )?;
        for key in ["field", "value"] {
            set[key].as_str().ok_or_else(|| format!("[{key}] required property is missing"))?;
        }
    }
    Ok(())
}

const SETTING: &str = "index.final_pipeline";
