//! Whether authority, endpoint and rule let us in, without a row: for the doctor.

use hyper::Method;
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HeaderValue};
use shared::bell::Bell;
use shared::doctor::{Finding, Level};

use super::config::SentinelConfig;
use super::drift::Declared;
use super::ingest_path;
use super::token::Token;
use crate::http::{Call, Http};
use crate::mapping::sentinel::Table;
use crate::replay::chain_text;
use crate::sink::SinkError;
use crate::sink::probe::{judged, lets_in, unreached};

/// Asks for a token, sends an empty array to each stream, and reads the rule where that is set up.
pub(in crate::sink) fn probe(config: &SentinelConfig, sink: &str, bell: &Bell) -> Vec<Finding> {
    let setup =
        format!("penstock-low setup {sink} --print: the application, its secret and its rights");
    let token = match Token::ask(config, &config.scope, bell) {
        Ok(token) => token,
        Err(SinkError::Answer { place, status, why, .. }) if status < 429 => {
            let what = format!("{place} gives no token ({status}): {why}");
            return vec![
                Finding::new(Level::Fault, "credential", what)
                    .remedy("the secret in client-secret-file: expired, or another application's?")
                    .remedy(setup),
            ];
        }
        Err(err) => {
            let authority = config.authority.url.to_string();
            return vec![unreached(&authority, &chain_text(&err))];
        }
    };
    let mut http = Http::new(&config.http, bell);
    let place = http.place();
    let mut findings = Vec::new();
    for at in 0..Table::ALL.len() {
        let call = Call::new(Method::POST, ingest_path(config, at), "[]")
            .header(AUTHORIZATION, token.authorization.clone())
            .header(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        let asked = http.send(&call).map_err(SinkError::from);
        if let Ok(answer) = &asked
            && matches!(answer.status, 400 | 404)
        {
            let (stream, rule) = (config.streams.of(at), &config.rule);
            let what = format!(
                "{place} answers {} for stream {stream} of rule {rule}: {}",
                answer.status,
                answer.excerpt()
            );
            findings.push(
                Finding::new(Level::Fault, "stream", what)
                    .remedy("dcr and streams in this section; url is the endpoint of that rule")
                    .remedy(format!(
                        "penstock-low setup {sink} --print: how tables and rule are made"
                    )),
            );
            continue;
        }
        let judged = judged(&place, asked, |_| false);
        if !lets_in(&judged) {
            let more = "the role Monitoring Metrics Publisher on the rule: a new one takes up to half an hour";
            return judged.into_iter().map(|finding| remedied(finding, more)).collect();
        }
        if findings.is_empty() {
            findings = judged;
        }
    }
    findings.push(rule(config, bell));
    findings
}

/// More advice for what needs any.
fn remedied(finding: Finding, more: &str) -> Finding {
    if finding.level == Level::Fault { finding.remedy(more) } else { finding }
}

fn rule(config: &SentinelConfig, bell: &Bell) -> Finding {
    let compared = Declared::read(config, bell).and_then(|declared| {
        let Some(declared) = declared else { return Ok(false) };
        for (at, table) in Table::ALL.into_iter().enumerate() {
            declared.check(table, config.streams.of(at))?;
        }
        Ok(true)
    });
    match compared {
        Ok(true) => Finding::new(Level::Fine, "rule", "the rule has every column of ours"),
        Ok(false) => {
            let what =
                "whether the rule has every column can't be seen: what it lacks is dropped unseen";
            Finding::new(Level::Skipped, "rule", what).remedy("arm-url in this section")
        }
        Err(SinkError::Answer { place, status: status @ (401 | 403), why, .. }) => {
            let what = format!("the rule can't be read: {place} answered {status}: {why}");
            Finding::new(Level::Fault, "rule", what)
                .remedy("the role Monitoring Reader on the rule, or no arm-url")
        }
        Err(err) => Finding::new(Level::Fault, "rule", chain_text(&err)),
    }
}
