//! Whether a record can be found: asked of the search head's REST API.
//!
//! Source: Splunk, "REST API Reference Manual", search endpoint descriptions, `search/jobs` with
//! `exec_mode=oneshot`. `record_id` is an indexed field, so that `tstats` answers without reading
//! events.

use hyper::Method;
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HeaderValue};
use serde::Deserialize;
use shared::bell::Bell;
use shared::record::RecordId;

use super::config::SplunkConfig;
use crate::http::{Call, Http, HttpError, credential, sensitive};
use crate::sink::SinkError;

#[derive(Deserialize)]
struct Found {
    results: Vec<Row>,
}

#[derive(Deserialize)]
struct Row {
    count: String,
}

/// Whether a search finds the record; `None` where no search head is configured.
pub(in crate::sink) fn find(
    config: &SplunkConfig,
    bell: &Bell,
    id: &RecordId,
) -> Result<Option<bool>, SinkError> {
    let Some(search) = &config.search else { return Ok(None) };
    let mut http = Http::new(&search.http, bell);
    let authorization = sensitive(&credential(&search.authorization_file)?)?;
    // Index and id hold nothing but letters, digits, '_' and '-': nothing to escape in the search,
    // and in the form only what stands around them.
    let body = format!(
        "exec_mode=oneshot&output_mode=json&earliest_time=0&search=%7C%20tstats%20count%20where%20index%3D{}%20record_id%3D{id}",
        config.index
    );
    let call = Call::new(Method::POST, "/services/search/jobs", body)
        .header(AUTHORIZATION, authorization)
        .header(CONTENT_TYPE, HeaderValue::from_static("application/x-www-form-urlencoded"));
    let answer = http.send(&call)?;
    if !answer.is_success() {
        return Err(SinkError::answer(&http.place(), &answer));
    }
    let found: Found = serde_json::from_slice(&answer.body).map_err(|err| HttpError::Broken {
        url: http.place(),
        why: format!("no result of a search: {err}"),
    })?;
    Ok(Some(found.results.iter().any(|row| row.count != "0")))
}
