//! Whether a destination can be reached and lets us in, without handing it a record.

use std::path::Path;

use hyper::Method;
use hyper::header::AUTHORIZATION;
use shared::bell::Bell;
use shared::doctor::{Finding, Level};
use shared::record::{Epoch, Lane, OriginId, RecordId, Sequence};
use zeroize::Zeroizing;

use super::config::{Endpoint, SinkConfig, SinkKind};
#[cfg(feature = "kafka")]
use super::kafka;
use super::transport::Connection;
use super::{SinkError, elastic, find, loki, sentinel};
use crate::http::{Answer, Call, Http, HttpConfig, HttpError, credential, sensitive};
use crate::replay::chain_text;
use crate::tls::TlsConfig;

/// How the destination is authenticated, for each connection of a sink that uses TLS.
pub fn tls_of(config: &SinkConfig) -> Vec<&TlsConfig> {
    let over = |http: &'_ HttpConfig| http.url.tls;
    match &config.kind {
        SinkKind::File(_) => Vec::new(),
        #[cfg(feature = "kafka")]
        SinkKind::Kafka(_) => Vec::new(),
        SinkKind::Elastic(elastic) if over(&elastic.http) => vec![&elastic.http.tls],
        SinkKind::Http(http) if over(&http.http) => vec![&http.http.tls],
        SinkKind::Loki(loki) if over(&loki.http) => vec![&loki.http.tls],
        SinkKind::Sentinel(sentinel) if over(&sentinel.http) => vec![&sentinel.http.tls],
        SinkKind::Splunk(splunk) => {
            let search = splunk.search.as_ref().map(|search| &search.http);
            let all = std::iter::once(&splunk.http).chain(search);
            all.filter(|http| http.url.tls).map(|http| &http.tls).collect()
        }
        SinkKind::Elastic(_) | SinkKind::Http(_) | SinkKind::Loki(_) | SinkKind::Sentinel(_) => {
            Vec::new()
        }
        SinkKind::Forward(forward) => forward.endpoint.tls.iter().collect(),
        SinkKind::Syslog(syslog) => syslog.endpoint.tls.iter().collect(),
    }
}

/// Connects, verifies, and shows the credential, as far as the destination's protocol lets one do that
/// without a record.
pub fn probe(config: &SinkConfig) -> Vec<Finding> {
    let name = &config.name;
    if let Err(err) = super::check(config) {
        let finding = Finding::of_problem(Level::Fault, "files", &chain_text(&err));
        return vec![finding.at(name)];
    }
    let bell = Bell::default();
    let findings = match &config.kind {
        SinkKind::File(_) => Vec::new(),
        #[cfg(feature = "kafka")]
        SinkKind::Kafka(kafka) => {
            let mut findings = kafka::probe(config, kafka, &bell);
            if lets_in(&findings) {
                findings.push(without_record(name));
            }
            findings
        }
        SinkKind::Elastic(elastic) => elastic::probe(elastic, name, &bell),
        SinkKind::Sentinel(sentinel) => sentinel::probe(sentinel, name, &bell),
        SinkKind::Loki(loki) => loki::probe(loki, &bell),
        SinkKind::Splunk(splunk) => {
            // An event collector answers "no data" (400) to who may send, 401 or 403 to others.
            let secret = Some((splunk.token_file.as_path(), "Splunk "));
            let asked = ask(&splunk.http, Method::POST, "/services/collector/event", secret);
            let mut findings = judged(&splunk.http.url.to_string(), asked, |status| status == 400);
            if let Some(search) = &splunk.search {
                findings.extend(searched(config, &search.http));
            }
            findings
        }
        SinkKind::Http(http) => {
            let asked = ask(&http.http, Method::HEAD, "/", None);
            let place = http.http.url.to_string();
            let mut findings = judged(&place, asked, |status| !matches!(status, 401 | 403));
            // It was asked without one.
            findings.retain(|finding| finding.about == "reached" || finding.level != Level::Fine);
            findings.push(without_record(name));
            findings
        }
        SinkKind::Forward(forward) => connected(name, &forward.endpoint),
        SinkKind::Syslog(syslog) => connected(name, &syslog.endpoint),
    };
    findings.into_iter().map(|finding| finding.at(name)).collect()
}

fn without_record(name: &str) -> Finding {
    Finding::new(Level::Skipped, "credential", "whether it lets us in shows only with a record")
        .remedy(format!("penstock-low check {name}: sends a marked one"))
}

fn connected(name: &str, endpoint: &Endpoint) -> Vec<Finding> {
    let how =
        if endpoint.tls.is_some() { "by TLS, its certificate verified" } else { "by plain TCP" };
    match Connection::open(endpoint, &Bell::default()) {
        Ok(connection) => {
            // Nothing was said, so that nothing can be lost by how it ends.
            drop(connection);
            let what = format!("{} is reached {how}", endpoint.address);
            vec![Finding::new(Level::Fine, "reached", what), without_record(name)]
        }
        Err(err) => vec![unreached(&endpoint.address, &chain_text(&err))],
    }
}

pub(super) fn unreached(place: &str, why: &str) -> Finding {
    let host = place.split("://").last().unwrap_or(place);
    let (host, port) =
        host.split('/').next().unwrap_or(host).rsplit_once(':').unwrap_or((host, ""));
    let finding = Finding::new(Level::Fault, "reached", format!("{place} is not reached: {why}"));
    if why.contains("certificate") {
        return finding
            .remedy(format!(
                "openssl s_client -connect {host}:{port} -showcerts: who issued it, for which name?"
            ))
            .remedy("ca-file with that authority, or server-name, in this section");
    }
    finding
        .remedy(format!("getent hosts {host}; nc -vz {host} {port}"))
        .remedy("a firewall between, another port, or the destination is down")
}

/// Searches for a record that is nowhere: whoever may search is let in.
fn searched(config: &SinkConfig, http: &HttpConfig) -> Vec<Finding> {
    let place = http.url.to_string();
    let Ok(origin) = NOWHERE.parse::<OriginId>() else { return Vec::new() };
    let id = RecordId::new(&origin, Epoch(0), Lane::Routine, Sequence(1));
    match find(config, &id) {
        Ok(asked) => {
            let mut findings =
                vec![Finding::new(Level::Fine, "reached", format!("{place} is reached"))];
            findings.push(match asked {
                Some(_) => Finding::new(Level::Fine, "credential", "it lets us search"),
                None => {
                    Finding::new(Level::Skipped, "credential", "it can't be searched from here")
                        .remedy(format!("penstock-low check {}", config.name))
                }
            });
            findings
        }
        Err(SinkError::Answer { status, why, .. }) => vec![answered(&place, status, &why)],
        Err(err) => vec![unreached(&place, &chain_text(&err))],
    }
}

fn answered(place: &str, status: u16, why: &str) -> Finding {
    if matches!(status, 401 | 403) {
        let what = format!("{place} does not let us in ({status}): {why}");
        return Finding::new(Level::Fault, "credential", what)
            .remedy("the credential in the file that this section names: expired, of another place, or with too few rights?");
    }
    if matches!(status, 404 | 405) {
        let what = format!("{place} is reached and has nothing like that there ({status}): {why}");
        return Finding::new(Level::Fault, "credential", what)
            .remedy("url in this section: another port, or a path in front of it?");
    }
    let what = format!("{place} is reached and answers {status}: {why}");
    Finding::new(Level::Warning, "credential", what)
        .remedy("penstock-low setup, then penstock-low check, with this sink's name")
}

/// What a destination answered to a request that hands it nothing; `good` are the statuses beside 2xx by
/// which who is let in is told that there was nothing.
pub(super) fn judged(
    place: &str,
    asked: Result<Answer, SinkError>,
    good: impl Fn(u16) -> bool,
) -> Vec<Finding> {
    match asked {
        Ok(answer) => {
            let reached = Finding::new(Level::Fine, "reached", format!("{place} is reached"));
            let credential = if answer.is_success() || good(answer.status) {
                Finding::new(Level::Fine, "credential", "it lets us in")
            } else {
                answered(place, answer.status, &answer.excerpt())
            };
            vec![reached, credential]
        }
        Err(SinkError::Http(err @ HttpError::Request { .. })) => {
            vec![Finding::new(Level::Fault, "credential", chain_text(&err))]
        }
        Err(err) => vec![unreached(place, &chain_text(&err))],
    }
}

/// Whether that was good.
pub(super) fn lets_in(findings: &[Finding]) -> bool {
    findings.iter().all(|finding| finding.level == Level::Fine)
}

/// One request without a record.
fn ask(
    config: &HttpConfig,
    method: Method,
    path: &str,
    secret: Option<(&Path, &str)>,
) -> Result<Answer, SinkError> {
    let mut call = Call::new(method, path, "");
    if let Some((file, scheme)) = secret {
        let secret = credential(file)?;
        let text = Zeroizing::new(format!("{scheme}{}", *secret));
        call = call.header(AUTHORIZATION, sensitive(&text)?);
    }
    Ok(Http::new(config, &Bell::default()).send(&call)?)
}

/// No installation has this name: what is searched for is nowhere.
const NOWHERE: &str = "penstock-doctor";
