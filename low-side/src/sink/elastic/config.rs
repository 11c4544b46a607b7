//! The configuration of an Elasticsearch or `OpenSearch` sink.

use std::path::PathBuf;

use serde::Deserialize;
use shared::config::ByteSize;

use crate::http::HttpConfig;
use crate::sink::config::Section;

/// Which of the two it is. Both take the same bulks; they differ in how indices age and in who may
/// ask for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// Elasticsearch 7.8 and later.
    Elasticsearch,
    /// `OpenSearch`.
    OpenSearch,
}

impl Dialect {
    /// Its name, as people write it.
    pub fn as_str(self) -> &'static str {
        match self {
            Dialect::Elasticsearch => "Elasticsearch",
            Dialect::OpenSearch => "OpenSearch",
        }
    }
}

/// A cluster, and how it is spoken to.
#[derive(Clone, Debug, PartialEq)]
pub struct ElasticConfig {
    /// Which of the two it is.
    pub dialect: Dialect,
    /// Where it is.
    pub http: HttpConfig,
    /// How we say who we are, beside a certificate.
    pub access: Access,
    /// What the names of indices, of the template and of the policy begin with.
    pub index_prefix: String,
    /// The size from which on a bulk is sent.
    pub body_bytes: usize,
    /// Whether bulks are compressed.
    pub gzip: bool,
}

/// How we say who we are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Access {
    /// Not at all, or by our certificate.
    None,
    /// The file with an API key: as it is shown encoded, or as `ID:KEY`.
    ApiKey(PathBuf),
    /// A name, and the file with its password.
    Basic(String, PathBuf),
    /// The file with a bearer token, a JWT for instance.
    Token(PathBuf),
}

impl Access {
    /// The file with the secret.
    pub fn file(&self) -> Option<&PathBuf> {
        match self {
            Access::None => None,
            Access::ApiKey(path) | Access::Basic(_, path) | Access::Token(path) => Some(path),
        }
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct Raw {
    api_key_file: Option<PathBuf>,
    username: Option<String>,
    password_file: Option<PathBuf>,
    token_file: Option<PathBuf>,
    #[serde(default)]
    index_prefix: String,
    #[serde(default = "body_bytes")]
    body_bytes: ByteSize,
    #[serde(default)]
    gzip: bool,
}

// The least that the documents recommend; far below the 100 MiB that a cluster takes by itself
// (http.max_content_length), and below what managed services and proxies set.
fn body_bytes() -> ByteSize {
    ByteSize::mib(5)
}
/// A batch is one or two bulks.
pub(in crate::sink) const BATCH_RECORDS: u64 = 10_000;
/// What is sent again where no answer came, at most.
pub(in crate::sink) const BATCH_BYTES: ByteSize = ByteSize(10 << 20);

/// Reads a section.
pub(in crate::sink) fn read(section: &mut Section<'_>, dialect: Dialect) -> Option<ElasticConfig> {
    let http = section.http()?;
    let raw: Raw = section.rest()?;
    let tls = http.url.tls;
    section.check(raw.body_bytes.0 > 0, "body-bytes", "must be more than nothing");
    section.check(
        dialect == Dialect::Elasticsearch || raw.api_key_file.is_none(),
        "api-key-file",
        "is for elasticsearch: OpenSearch takes username and password-file, token-file or cert-file",
    );
    section.check(
        raw.username.is_some() == raw.password_file.is_some(),
        "username",
        "and password-file go together",
    );
    section.check(
        raw.username.as_ref().is_none_or(|name| !name.is_empty() && !name.contains(':')),
        "username",
        "is not empty and has no colon",
    );
    section.check_secret(tls, raw.api_key_file.as_deref(), "api-key-file");
    section.check_secret(tls, raw.password_file.as_deref(), "password-file");
    section.check_secret(tls, raw.token_file.as_deref(), "token-file");
    let mut given = Vec::new();
    given.extend(raw.api_key_file.map(Access::ApiKey));
    given.extend(raw.username.zip(raw.password_file).map(|(name, file)| Access::Basic(name, file)));
    given.extend(raw.token_file.map(Access::Token));
    section.check(given.len() <= 1, "api-key-file", "username and token-file exclude each other");
    section.check(
        is_prefix(&raw.index_prefix),
        "index-prefix",
        "is at most 64 of a-z, 0-9, '-', '_' and '.', and begins with a letter or digit",
    );
    Some(ElasticConfig {
        dialect,
        http,
        access: given.pop().unwrap_or(Access::None),
        index_prefix: raw.index_prefix,
        body_bytes: usize::try_from(raw.body_bytes.0).unwrap_or(usize::MAX),
        gzip: raw.gzip,
    })
}

// What an index may be called:
// https://www.elastic.co/docs/api/doc/elasticsearch/operation/operation-indices-create
fn is_prefix(text: &str) -> bool {
    text.len() <= 64
        && !text.starts_with(['-', '_', '.'])
        && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-_.".contains(&b))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sink::config::SinkKind;
    use crate::sink::script::section;

    fn config(kind: &str, more: &str) -> Result<ElasticConfig, String> {
        let text = format!("name = \"x\"\ntype = \"{kind}\"\n{more}");
        match section(&text)?.kind {
            SinkKind::Elastic(config) => Ok(*config),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_is_taken() {
        let config =
            config("elasticsearch", "url = \"https://h:9200\"\napi-key-file = \"/k\"").unwrap();
        assert_eq!(config.access, Access::ApiKey("/k".into()));
        assert_eq!((config.body_bytes, config.gzip), (5 << 20, false));
        let open = self::config(
            "opensearch",
            "url = \"https://h\"\nusername = \"u\"\npassword-file = \"/p\"\nindex-prefix = \"soc1-\"",
        );
        let open = open.unwrap();
        assert_eq!((open.dialect, open.index_prefix.as_str()), (Dialect::OpenSearch, "soc1-"));
    }

    #[test]
    fn what_is_refused() {
        let url = "url = \"https://h\"\n";
        for (kind, more, named) in [
            ("opensearch", "api-key-file = \"/k\"", "api-key-file"),
            ("elasticsearch", "username = \"u\"", "username"),
            ("elasticsearch", "username = \"u:v\"\npassword-file = \"/p\"", "colon"),
            ("elasticsearch", "api-key-file = \"/k\"\ntoken-file = \"/t\"", "exclude"),
            ("elasticsearch", "api-key-file = \"k\"", "absolute"),
            ("elasticsearch", "index-prefix = \"Soc\"", "index-prefix"),
            ("elasticsearch", "index-prefix = \"_x\"", "index-prefix"),
            ("elasticsearch", "body-bytes = \"0B\"", "body-bytes"),
        ] {
            let problem = config(kind, &format!("{url}{more}")).unwrap_err();
            assert!(problem.contains(named), "{more}: {problem}");
        }
        let plain =
            config("elasticsearch", "url = \"http://h\"\napi-key-file = \"/k\"").unwrap_err();
        assert!(plain.contains("not sent without TLS"), "{plain}");
    }
}
