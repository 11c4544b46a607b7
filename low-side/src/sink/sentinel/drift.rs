//! Whether the rule has our columns: the service answers 204 and drops what the rule does not declare.
//!
//! Source: Microsoft, "Data Collection Rules - Get" (REST API, 2023-03-11), `streamDeclarations`.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use hyper::Method;
use hyper::header::AUTHORIZATION;
use serde::Deserialize;
use shared::bell::Bell;

use super::config::SentinelConfig;
use super::token::Token;
use crate::http::{Call, Http, HttpError};
use crate::mapping::sentinel::Table;
use crate::sink::SinkError;

/// What a rule declares, as it was read.
pub(super) struct Declared {
    /// Column names and types, by stream.
    streams: BTreeMap<String, BTreeMap<String, String>>,
    /// When it was read; `None`: it has to be read again.
    read: Option<Instant>,
    place: String,
}

#[derive(Deserialize)]
struct Rule {
    properties: Properties,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Properties {
    immutable_id: String,
    #[serde(default)]
    stream_declarations: BTreeMap<String, Declaration>,
}

#[derive(Deserialize)]
struct Declaration {
    #[serde(default)]
    columns: Vec<Column>,
}

#[derive(Deserialize)]
struct Column {
    name: String,
    r#type: String,
}

impl Declared {
    /// Reads the rule, where it is configured that it can be read.
    pub(super) fn read(config: &SentinelConfig, bell: &Bell) -> Result<Option<Self>, SinkError> {
        let Some((arm, scope)) = &config.arm else { return Ok(None) };
        let token = Token::ask(config, scope, bell)?;
        let mut http = Http::new(arm, bell);
        let call = Call::new(Method::GET, API_VERSION, Vec::new())
            .header(AUTHORIZATION, token.authorization.clone());
        let (answer, place) = (http.send(&call)?, http.place());
        if !answer.is_success() {
            return Err(SinkError::answer(&place, &answer));
        }
        let rule: Rule = serde_json::from_slice(&answer.body).map_err(|err| HttpError::Broken {
            url: place.clone(),
            why: format!("no rule: {err}"),
        })?;
        if !rule.properties.immutable_id.eq_ignore_ascii_case(&config.rule) {
            let why = format!(
                "the rule at arm-url is {}, and dcr is {}",
                rule.properties.immutable_id, config.rule
            );
            return Err(mismatch(&place, why));
        }
        let columns = |declaration: Declaration| {
            let columns = declaration.columns.into_iter();
            columns.map(|column| (column.name, column.r#type.to_ascii_lowercase())).collect()
        };
        let declared = rule.properties.stream_declarations.into_iter();
        let streams = declared.map(|(name, declaration)| (name, columns(declaration))).collect();
        Ok(Some(Self { streams, read: Some(Instant::now()), place }))
    }

    /// Whether it was read a moment ago.
    pub(super) fn is_fresh(&self) -> bool {
        self.read.is_some_and(|read| read.elapsed() < FRESH)
    }

    /// It is used for another while, unread.
    pub(super) fn keep(&mut self) {
        self.read = Some(Instant::now());
    }

    /// It is read again before anything else is sent.
    pub(super) fn doubt(&mut self) {
        self.read = None;
    }

    /// Refuses a stream that is not declared as the table's rows are.
    pub(super) fn check(&self, table: &Table, stream: &str) -> Result<(), SinkError> {
        let wrong = |what: String| {
            let why = format!("{what}; deploy the template again (penstock-low setup says how)");
            Err(mismatch(&self.place, why))
        };
        let Some(columns) = self.streams.get(stream) else {
            return wrong(format!("the rule has no stream {stream}"));
        };
        let differing: Vec<String> = table
            .columns()
            .filter_map(|column| {
                let (name, kind) = (column.name, column.kind.as_str());
                match columns.get(name) {
                    None => Some(name.to_owned()),
                    Some(found) if found != kind => {
                        Some(format!("{name} ({found} instead of {kind})"))
                    }
                    Some(_) => None,
                }
            })
            .collect();
        if differing.is_empty() {
            return Ok(());
        }
        wrong(format!(
            "the stream {stream} lacks columns, whose values would be dropped unseen: {}",
            differing.join(", ")
        ))
    }
}

/// Whether an error says that the rule can't be read now, and nothing about it.
pub(super) fn is_passing(error: &SinkError) -> bool {
    match error {
        SinkError::Http(error) => !matches!(error, HttpError::Tls(_) | HttpError::Stopping),
        SinkError::Answer { status, .. } => *status == 429 || *status >= 500,
        _ => false,
    }
}

/// The rule was read, and is not the one that is needed.
fn mismatch(place: &str, why: String) -> SinkError {
    SinkError::Answer { place: place.to_owned(), status: 200, why, retry_after: None }
}

const API_VERSION: &str = "?api-version=2023-03-11";
/// So often the rule is read again.
const FRESH: Duration = Duration::from_hours(1);
