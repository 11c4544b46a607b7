//! The configuration of a Splunk HTTP Event Collector.

use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;
use shared::config::{ByteSize, Span};

use crate::http::HttpConfig;
use crate::sink::config::Section;

/// An HTTP Event Collector, and how it is spoken to.
#[derive(Clone, Debug, PartialEq)]
pub struct SplunkConfig {
    /// Where it is; the paths `/services/collector/...` are added.
    pub http: HttpConfig,
    /// The file with the token, and nothing else.
    pub token_file: PathBuf,
    /// The index that records go to.
    pub index: String,
    /// Whether a batch waits until the indexers acknowledge it.
    pub ack: bool,
    /// The first pause between two questions for acknowledgements.
    pub ack_poll: Duration,
    /// How long acknowledgements may take before the batch is sent again.
    pub ack_timeout: Duration,
    /// The longest body, before it is compressed.
    pub body_bytes: usize,
    /// Whether bodies are compressed.
    pub gzip: bool,
    /// Whether what stood before a refused record in the same body, taken without an acknowledgement
    /// of its own, is sent once more.
    pub repeat_unacknowledged: bool,
    /// How the search head is asked whether a record can be found.
    pub search: Option<SearchConfig>,
}

/// The management port of a search head.
#[derive(Clone, Debug, PartialEq)]
pub struct SearchConfig {
    /// Where it is.
    pub http: HttpConfig,
    /// The file with what the `Authorization` header says, as `Bearer TOKEN`.
    pub authorization_file: PathBuf,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct Raw {
    token_file: PathBuf,
    #[serde(default = "index")]
    index: String,
    #[serde(default = "yes")]
    ack: bool,
    #[serde(default = "ack_poll")]
    ack_poll: Span,
    #[serde(default = "ack_timeout")]
    ack_timeout: Span,
    #[serde(default = "body_bytes")]
    body_bytes: ByteSize,
    #[serde(default)]
    gzip: bool,
    #[serde(default = "yes")]
    repeat_unacknowledged: bool,
    search_url: Option<String>,
    search_authorization_file: Option<PathBuf>,
}

fn index() -> String {
    "portainer_audit".to_owned()
}
fn yes() -> bool {
    true
}
fn ack_poll() -> Span {
    Span::secs(1)
}
// Indexers hold the last small batches back for two minutes before they acknowledge them: a client
// that gave up then would send them again for ever.
fn ack_timeout() -> Span {
    Span::secs(5 * 60)
}
// Splunk Cloud refuses bodies of more than about 5 MB, and says it as if the data were wrong.
fn body_bytes() -> ByteSize {
    BODY_MAX
}

/// The longest body that may be configured.
const BODY_MAX: ByteSize = ByteSize::mib(2);
/// Records of a batch: an acknowledgement takes seconds, so that small batches would crawl.
pub(crate) const BATCH_RECORDS: u64 = 50_000;
/// What is sent again where no acknowledgement came, at most.
pub(crate) const BATCH_BYTES: ByteSize = ByteSize::mib(32);

/// Reads the section of a sink of the type `splunk-hec`.
pub(crate) fn read(section: &mut Section<'_>) -> Option<SplunkConfig> {
    let http = section.http()?;
    let raw: Raw = section.rest()?;
    section.check_secret(http.url.tls, Some(&raw.token_file), "token-file");
    section.check(is_index(&raw.index), "index", INDEX_RULE);
    section.check(!raw.ack_poll.0.is_zero(), "ack-poll", "must not be zero");
    let longer = raw.ack_timeout.0 > raw.ack_poll.0;
    section.check(longer, "ack-timeout", "must be longer than ack-poll");
    let fits = (1..=BODY_MAX.0).contains(&raw.body_bytes.0);
    section.check(fits, "body-bytes", "is more than nothing and at most 2MiB");
    let search = match (raw.search_url, raw.search_authorization_file) {
        (None, None) => None,
        (Some(url), Some(authorization_file)) => {
            let key = section.key("search-url");
            let url = section.url(&key, &url)?;
            section.check_secret(url.tls, Some(&authorization_file), "search-authorization-file");
            Some(SearchConfig { http: HttpConfig { url, ..http.clone() }, authorization_file })
        }
        _ => {
            section.check(false, "search-url", "and search-authorization-file go together");
            None
        }
    };
    Some(SplunkConfig {
        http,
        token_file: raw.token_file,
        index: raw.index,
        ack: raw.ack,
        ack_poll: raw.ack_poll.0,
        ack_timeout: raw.ack_timeout.0,
        body_bytes: usize::try_from(raw.body_bytes.0).unwrap_or(usize::MAX),
        gzip: raw.gzip,
        repeat_unacknowledged: raw.repeat_unacknowledged,
        search,
    })
}

// indexes.conf: "Index names must consist of only numbers, lowercase letters, underscores, and
// hyphens. They cannot begin with an underscore or hyphen, or contain the word kvstore."
fn is_index(name: &str) -> bool {
    let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_' || b == b'-';
    (1..=INDEX_BYTES_MAX).contains(&name.len())
        && name.bytes().all(allowed)
        && !name.starts_with(['_', '-'])
        && !name.contains("kvstore")
}

const INDEX_BYTES_MAX: usize = 80;
const INDEX_RULE: &str =
    "is the name of an index: a-z, 0-9, '_' and '-', beginning with a letter or digit";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sink::config::SinkKind;
    use crate::sink::script::section;

    const GOOD: &str = "name = \"s\"\ntype = \"splunk-hec\"\ntoken-file = \"/t\"\n";
    const HTTPS: &str = "url = \"https://h:8088\"\n";

    #[test]
    fn what_is_not_said_is_safe() {
        let sink = section(&format!("{GOOD}{HTTPS}")).unwrap();
        let SinkKind::Splunk(splunk) = &sink.kind else { panic!("{sink:?}") };
        assert!(splunk.ack && splunk.ack_timeout > Duration::from_mins(2));
        assert_eq!((splunk.body_bytes, &*splunk.index), (2 << 20, "portainer_audit"));
    }

    #[test]
    fn what_can_not_be_is_refused() {
        for (more, named) in [
            ("url = \"http://h:8088\"\n".to_owned(), "sink[0].token-file"),
            (format!("{HTTPS}index = \"Main\""), "sink[0].index"),
            (format!("{HTTPS}index = \"_internal\""), "sink[0].index"),
            (format!("{HTTPS}body-bytes = \"3MiB\""), "sink[0].body-bytes"),
            (format!("{HTTPS}ack-timeout = \"1s\""), "sink[0].ack-timeout"),
            (format!("{HTTPS}ack-poll = \"0s\""), "sink[0].ack-poll"),
            (format!("{HTTPS}search-url = \"https://h\""), "sink[0].search-url"),
            (format!("{HTTPS}token = \"t\""), "token"),
        ] {
            let found = section(&format!("{GOOD}{more}")).unwrap_err();
            assert!(found.contains(named), "{more}: {found}");
        }
    }
}
