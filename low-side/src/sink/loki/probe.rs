//! Whether Loki lets us in, without an entry: for the doctor.

use bytes::Bytes;
use hyper::Method;
use hyper::header::{CONTENT_TYPE, HeaderValue};
use shared::bell::Bell;
use shared::doctor::{Finding, Level};

use super::config::LokiConfig;
use super::{PUSH, authorized};
use crate::http::{Call, Http};
use crate::sink::SinkError;
use crate::sink::probe::judged;

/// Pushes nothing. Loki 3 answers that a stream is missing (422), older ones that all is well.
pub(in crate::sink) fn probe(config: &LokiConfig, bell: &Bell) -> Vec<Finding> {
    let mut http = Http::new(&config.http, bell);
    let mut asked = || -> Result<_, SinkError> {
        let nothing = Bytes::from_static(b"{\"streams\":[]}");
        let call = Call::new(Method::POST, PUSH, nothing)
            .header(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        Ok(http.send(&authorized(call, config)?)?)
    };
    let findings = judged(&config.http.url.to_string(), asked(), |status| status == 422);
    let more = match &config.tenant {
        Some(tenant) => format!("is the tenant {tenant:?} the right one?"),
        None => "a Loki with several tenants wants `tenant` in this section".to_owned(),
    };
    let is_refused =
        |finding: &Finding| finding.about == "credential" && finding.level == Level::Fault;
    findings
        .into_iter()
        .map(|finding| if is_refused(&finding) { finding.remedy(&more) } else { finding })
        .collect()
}
