//! The fields that an ECS document can hold, and the index template that allows exactly these.
//!
//! Types are those of ECS 9.4: <https://www.elastic.co/docs/reference/ecs/ecs-field-reference>.
//! `match_only_text` and `wildcard` are written as `text` and `keyword`: `OpenSearch` has them only
//! in later versions, and both sides understand these.

use std::collections::BTreeMap;
use std::fmt::Write as _;

/// A field and its type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Field {
    /// Its path, with dots.
    pub path: &'static str,
    /// Its type.
    pub kind: FieldType,
}

/// The type of a field in the index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FieldType {
    /// True or false.
    Boolean,
    /// A time.
    Date,
    /// An IP address.
    Ip,
    /// A text that is compared as a whole. A longer one than [`KEYWORD_CHARS_MAX`] is kept in the
    /// document, and not found by its value.
    Keyword,
    /// A number.
    Long,
    /// A text that is only kept: not found by its value, and not sorted by.
    Stored,
    /// A text whose words are found.
    Text,
}

impl FieldType {
    fn mapping(self) -> String {
        match self {
            FieldType::Boolean => r#"{"type":"boolean"}"#.to_owned(),
            FieldType::Date => r#"{"type":"date"}"#.to_owned(),
            FieldType::Ip => r#"{"type":"ip"}"#.to_owned(),
            FieldType::Keyword => {
                format!(r#"{{"type":"keyword","ignore_above":{KEYWORD_CHARS_MAX}}}"#)
            }
            FieldType::Long => r#"{"type":"long"}"#.to_owned(),
            FieldType::Stored => {
                r#"{"type":"keyword","index":false,"doc_values":false}"#.to_owned()
            }
            FieldType::Text => r#"{"type":"text"}"#.to_owned(),
        }
    }
}

/// The body of `PUT _index_template/NAME`, for Elasticsearch and `OpenSearch`: indices of these
/// patterns take the fields of [`FIELDS`] and refuse any other (`dynamic: strict`).
///
/// `settings` are index settings by their dotted names, as `index.lifecycle.name`.
pub fn index_template(patterns: &[&str], settings: &[(&str, &str)]) -> String {
    let mut tree = Node::default();
    for field in FIELDS {
        tree.add(field.path, field.kind);
    }
    let list = patterns.iter().map(|pattern| quoted(pattern)).collect::<Vec<_>>().join(",");
    let settings: Vec<_> = settings
        .iter()
        .map(|(name, value)| format!("{}:{}", quoted(name), quoted(value)))
        .collect();
    format!(
        "{{\"index_patterns\":[{list}],\"priority\":{PRIORITY},\"template\":{{\"settings\":{{{}}},\
         \"mappings\":{{\"dynamic\":\"strict\",\"date_detection\":false,\"properties\":{}}}}},\
         \"_meta\":{{\"description\":\"Audit records by Penstock, ECS {}\"}}}}",
        settings.join(","),
        tree.properties(),
        super::ecs::VERSION,
    )
}

#[derive(Default)]
struct Node {
    kind: Option<FieldType>,
    children: BTreeMap<&'static str, Node>,
}

impl Node {
    fn add(&mut self, path: &'static str, kind: FieldType) {
        match path.split_once('.') {
            Some((first, rest)) => self.children.entry(first).or_default().add(rest, kind),
            None => self.children.entry(path).or_default().kind = Some(kind),
        }
    }

    fn properties(&self) -> String {
        let mut out = String::from("{");
        for (at, (name, node)) in self.children.iter().enumerate() {
            let comma = if at == 0 { "" } else { "," };
            let mapping = match node.kind {
                Some(kind) => kind.mapping(),
                None => format!("{{\"properties\":{}}}", node.properties()),
            };
            let _ = write!(out, "{comma}\"{name}\":{mapping}");
        }
        out.push('}');
        out
    }
}

fn quoted(text: &str) -> String {
    let mut out = Vec::new();
    super::json::string(&mut out, text);
    String::from_utf8_lossy(&out).into_owned()
}

const fn field(path: &'static str, kind: FieldType) -> Field {
    Field { path, kind }
}

use FieldType::{Boolean, Date, Ip, Keyword, Long, Stored, Text};

/// Every field of a document, sorted.
pub const FIELDS: &[Field] = &[
    field("@timestamp", Date),
    field("container.id", Keyword),
    field("container.image.hash.all", Keyword),
    field("container.image.name", Keyword),
    field("container.image.tag", Keyword),
    field("container.name", Keyword),
    field("ecs.version", Keyword),
    field("event.action", Keyword),
    field("event.category", Keyword),
    field("event.code", Keyword),
    field("event.created", Date),
    field("event.dataset", Keyword),
    field("event.hash", Keyword),
    field("event.id", Keyword),
    // Not ours to set: an ingest pipeline of the cluster may.
    field("event.ingested", Date),
    field("event.kind", Keyword),
    field("event.module", Keyword),
    field("event.original", Stored),
    field("event.outcome", Keyword),
    field("event.provider", Keyword),
    field("event.reason", Keyword),
    field("event.sequence", Long),
    field("event.severity", Long),
    field("event.type", Keyword),
    field("file.path", Keyword),
    field("group.id", Keyword),
    field("group.name", Keyword),
    field("host.name", Keyword),
    field("http.request.id", Keyword),
    field("http.request.method", Keyword),
    field("http.response.status_code", Long),
    field("kubernetes.audit.annotations.authorization_k8s_io/decision", Keyword),
    field("kubernetes.audit.annotations.authorization_k8s_io/reason", Keyword),
    field("kubernetes.audit.auditID", Keyword),
    field("kubernetes.audit.impersonatedUser.username", Keyword),
    field("kubernetes.audit.level", Keyword),
    field("kubernetes.audit.objectRef.apiGroup", Keyword),
    field("kubernetes.audit.objectRef.name", Keyword),
    field("kubernetes.audit.objectRef.namespace", Keyword),
    field("kubernetes.audit.objectRef.resource", Keyword),
    field("kubernetes.audit.objectRef.subresource", Keyword),
    field("kubernetes.audit.requestURI", Keyword),
    field("kubernetes.audit.responseStatus.code", Long),
    field("kubernetes.audit.sourceIPs", Keyword),
    field("kubernetes.audit.stage", Keyword),
    field("kubernetes.audit.user.groups", Keyword),
    field("kubernetes.audit.user.uid", Keyword),
    field("kubernetes.audit.user.username", Keyword),
    field("kubernetes.audit.userAgent", Keyword),
    field("kubernetes.audit.verb", Keyword),
    field("kubernetes.namespace", Keyword),
    field("kubernetes.pod.name", Keyword),
    field("log.level", Keyword),
    field("log.syslog.appname", Keyword),
    field("log.syslog.facility.code", Long),
    field("log.syslog.hostname", Keyword),
    field("log.syslog.msgid", Keyword),
    field("log.syslog.procid", Keyword),
    field("log.syslog.severity.code", Long),
    field("log.syslog.version", Keyword),
    field("message", Text),
    field("observer.product", Keyword),
    field("observer.vendor", Keyword),
    field("orchestrator.cluster.name", Keyword),
    field("orchestrator.namespace", Keyword),
    field("orchestrator.resource.id", Keyword),
    field("orchestrator.resource.name", Keyword),
    field("orchestrator.resource.type", Keyword),
    field("orchestrator.type", Keyword),
    field("penstock.access", Keyword),
    field("penstock.category", Keyword),
    field("penstock.cut", Boolean),
    field("penstock.cut_from", Long),
    field("penstock.epoch", Keyword),
    field("penstock.items", Long),
    field("penstock.lane", Keyword),
    field("penstock.listener", Keyword),
    field("penstock.origin", Keyword),
    field("penstock.original.base64", Stored),
    field("penstock.original.bytes", Long),
    field("penstock.original.omitted", Keyword),
    field("penstock.outcome", Keyword),
    field("penstock.peer", Keyword),
    field("penstock.privileged", Keyword),
    field("penstock.recovered", Boolean),
    field("penstock.redacted", Keyword),
    field("penstock.sequence", Keyword),
    field("penstock.stream", Keyword),
    field("penstock.tag", Keyword),
    field("penstock.tls_subject", Keyword),
    field("penstock.unclassified", Keyword),
    field("portainer.after", Keyword),
    field("portainer.authentication_method", Keyword),
    field("portainer.before", Keyword),
    field("portainer.environment_id", Keyword),
    field("portainer.git.sha", Keyword),
    field("portainer.role", Keyword),
    field("portainer.session_id", Keyword),
    field("portainer.stack", Keyword),
    field("process.command_line", Keyword),
    field("process.executable", Keyword),
    field("process.name", Keyword),
    field("process.parent.name", Keyword),
    field("related.ip", Ip),
    field("related.user", Keyword),
    field("rule.name", Keyword),
    field("rule.ruleset", Keyword),
    field("source.address", Keyword),
    field("source.ip", Ip),
    field("source.port", Long),
    field("tags", Keyword),
    field("threat.framework", Keyword),
    field("threat.tactic.name", Keyword),
    field("threat.technique.id", Keyword),
    field("threat.technique.subtechnique.id", Keyword),
    field("url.original", Keyword),
    field("user.effective.name", Keyword),
    field("user.group.name", Keyword),
    field("user.id", Keyword),
    field("user.name", Keyword),
    field("user.target.id", Keyword),
    field("user.target.name", Keyword),
    field("user_agent.original", Keyword),
];

/// The longest keyword that is indexed, as ECS sets it.
pub const KEYWORD_CHARS_MAX: usize = 1024;

/// The largest original that a document carries; that of a larger one stays in the archive, where
/// its hash finds it.
pub const ORIGINAL_BYTES_MAX: usize = 1 << 20;

/// Above the templates that clusters bring along, whose priority is 100 to 300.
const PRIORITY: u32 = 500;
