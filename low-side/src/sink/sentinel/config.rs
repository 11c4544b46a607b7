//! The configuration of Microsoft Sentinel's Logs Ingestion API.

use std::path::PathBuf;

use serde::Deserialize;
use shared::config::ByteSize;

use crate::http::HttpConfig;
use crate::mapping::sentinel::Table;
use crate::sink::config::Section;

/// A Log Analytics workspace behind a data collection rule.
#[derive(Clone, Debug, PartialEq)]
pub struct SentinelConfig {
    /// The endpoint for logs: of the rule itself, or a data collection endpoint.
    pub http: HttpConfig,
    /// Who gives tokens.
    pub authority: HttpConfig,
    /// The tenant, by id or name.
    pub tenant: String,
    /// The application.
    pub client_id: String,
    /// The file with its secret, and nothing else.
    pub client_secret_file: PathBuf,
    /// What tokens for the endpoint are for.
    pub scope: String,
    /// The immutable id of the rule.
    pub rule: String,
    /// The rule's own streams, one for each kind of record.
    pub streams: Streams,
    /// Where the rule can be read, and what tokens for that are for.
    pub arm: Option<(HttpConfig, String)>,
    /// The longest body, before it is compressed.
    pub body_bytes: usize,
    /// Whether bodies are compressed.
    pub gzip: bool,
}

/// The streams of a rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Streams {
    /// Of Falco's alerts.
    pub falco: String,
    /// Of the Kubernetes audit log.
    pub kubernetes: String,
    /// Of everything else.
    pub other: String,
    /// Of Portainer.
    pub portainer: String,
}

impl Streams {
    /// The one of a table, by the table's place in [`Table::ALL`].
    pub fn of(&self, table: usize) -> &str {
        [&self.portainer, &self.kubernetes, &self.falco, &self.other][table]
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct Raw {
    tenant: String,
    client_id: String,
    client_secret_file: PathBuf,
    dcr: String,
    #[serde(default = "authority")]
    authority_url: String,
    #[serde(default = "scope")]
    scope: String,
    falco_stream: Option<String>,
    kubernetes_stream: Option<String>,
    other_stream: Option<String>,
    portainer_stream: Option<String>,
    arm_url: Option<String>,
    #[serde(default = "arm_scope")]
    arm_scope: String,
    #[serde(default = "body_bytes")]
    body_bytes: ByteSize,
    #[serde(default = "yes")]
    gzip: bool,
}

fn authority() -> String {
    "https://login.microsoftonline.com".to_owned()
}
fn scope() -> String {
    "https://monitor.azure.com/.default".to_owned()
}
fn arm_scope() -> String {
    "https://management.azure.com/.default".to_owned()
}
fn body_bytes() -> ByteSize {
    BODY_MAX
}
fn yes() -> bool {
    true
}

/// The API takes 1 MB, compressed and not: what a table adds has room above this.
const BODY_MAX: ByteSize = ByteSize(900_000);
/// Records of a batch.
pub(crate) const BATCH_RECORDS: u64 = 10_000;
/// What is sent again where no answer came, at most.
pub(crate) const BATCH_BYTES: ByteSize = ByteSize::mib(8);

/// Reads the section of a sink of the type `sentinel`.
pub(crate) fn read(section: &mut Section<'_>) -> Option<SentinelConfig> {
    let http = section.http()?;
    let raw: Raw = section.rest()?;
    section.check_secret(http.url.tls, Some(&raw.client_secret_file), "client-secret-file");
    section.check(is_name(&raw.tenant), "tenant", "is the id or the name of a tenant");
    section.check(is_name(&raw.client_id), "client-id", "is the id of an application");
    let is_rule = raw.dcr.starts_with("dcr-") && is_name(&raw.dcr);
    section.check(is_rule, "dcr", "is the immutable id of a rule: dcr- and 32 hex digits");
    let mut stream = |key: &str, given: Option<String>, table: usize| {
        let name = given.unwrap_or_else(|| Table::ALL[table].stream.to_owned());
        let good = name.starts_with("Custom-") && is_name(&name);
        section.check(good, key, "is a stream of the rule: Custom-NAME");
        name
    };
    // In the order of `Table::ALL`.
    let portainer = stream("portainer-stream", raw.portainer_stream, 0);
    let kubernetes = stream("kubernetes-stream", raw.kubernetes_stream, 1);
    let falco = stream("falco-stream", raw.falco_stream, 2);
    let other = stream("other-stream", raw.other_stream, 3);
    let streams = Streams { falco, kubernetes, other, portainer };
    let mut seen: Vec<&str> = (0..Table::ALL.len()).map(|table| streams.of(table)).collect();
    seen.sort_unstable();
    seen.dedup();
    let differ = seen.len() == Table::ALL.len();
    section.check(differ, "other-stream", "and the others differ: each table has its own columns");
    let fits = (1..=BODY_MAX.0).contains(&raw.body_bytes.0);
    section.check(fits, "body-bytes", "is more than nothing and at most 900000 bytes");
    let beside = |section: &mut Section<'_>, name: &str, url: &str| {
        let key = section.key(name);
        let url = section.url(&key, url)?;
        section.check(url.tls, name, "begins with https://: a secret or a token goes there");
        let mut beside = HttpConfig { url, ..http.clone() };
        // That name is the endpoint's own.
        beside.tls.server_name = None;
        Some(beside)
    };
    let authority = beside(section, "authority-url", &raw.authority_url)?;
    let arm = match raw.arm_url {
        Some(url) => Some((beside(section, "arm-url", &url)?, raw.arm_scope)),
        None => None,
    };
    Some(SentinelConfig {
        http,
        authority,
        tenant: raw.tenant,
        client_id: raw.client_id,
        client_secret_file: raw.client_secret_file,
        scope: raw.scope,
        rule: raw.dcr,
        streams,
        arm,
        body_bytes: usize::try_from(raw.body_bytes.0).unwrap_or(usize::MAX),
        gzip: raw.gzip,
    })
}

// These become parts of a path or of a form.
fn is_name(name: &str) -> bool {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    (1..=NAME_BYTES_MAX).contains(&name.len()) && name.bytes().all(allowed)
}

const NAME_BYTES_MAX: usize = 128;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sink::config::SinkKind;
    use crate::sink::script::section;

    const GOOD: &str = "name = \"s\"\ntype = \"sentinel\"\ntenant = \"t\"\nclient-id = \"c\"\nclient-secret-file = \"/s\"\n";
    const RULE: &str = "url = \"https://h\"\ndcr = \"dcr-00000000000000000000000000000000\"\n";

    #[test]
    fn what_is_not_said_is_the_public_cloud_and_our_template() {
        let sink = section(&format!("{GOOD}{RULE}")).unwrap();
        let SinkKind::Sentinel(sentinel) = &sink.kind else { panic!("{sink:?}") };
        assert_eq!(sentinel.authority.url.host, "login.microsoftonline.com");
        assert_eq!((sentinel.body_bytes, sentinel.gzip), (900_000, true));
        assert!(sentinel.arm.is_none());
        for (at, table) in Table::ALL.into_iter().enumerate() {
            assert_eq!(sentinel.streams.of(at), table.stream);
        }
    }

    #[test]
    fn what_can_not_be_is_refused() {
        for (more, named) in [
            (RULE.replace("https", "http"), "sink[0].client-secret-file"),
            (RULE.replace("dcr-", "x-"), "sink[0].dcr"),
            (format!("{RULE}body-bytes = \"1MiB\""), "sink[0].body-bytes"),
            (format!("{RULE}falco-stream = \"Falco\""), "sink[0].falco-stream"),
            (format!("{RULE}falco-stream = \"Custom-KubeAudit_CL\""), "sink[0].other-stream"),
            (format!("{RULE}arm-url = \"http://h\""), "sink[0].arm-url"),
            (format!("{RULE}authority-url = \"h\""), "sink[0].authority-url"),
            (format!("{RULE}client-secret = \"s\""), "client-secret"),
        ] {
            let found = section(&format!("{GOOD}{more}")).unwrap_err();
            assert!(found.contains(named), "{more}: {found}");
        }
    }
}
