//! Microsoft Sentinel: rows of custom tables, for the Logs Ingestion API:
//! <https://learn.microsoft.com/azure/azure-monitor/logs/logs-ingestion-api-overview>.
//!
//! Names of columns begin with a letter, have at most 45 letters, digits and `_`, and are none of
//! the reserved ones. A value may have 64 KB, beyond which it is cut without a word: a longer record
//! is left out and named in `RawOmitted`. Nothing says that a column is missing in the data
//! collection rule, so [`Table::columns`] is there to be compared with it.
//!
//! `TimeGenerated` is when it happened, as `EventTime`: the service replaces a `TimeGenerated` that
//! is too old or in the future, but not `EventTime`.

use shared::clock::Nanos;
use shared::event::{Category, Privilege};
use shared::record::{Stream, Token};

use crate::event::View;

use super::json::{Object, object};
use super::sense::Sense;
use super::{Original, Techniques, name_of, result};

/// A custom table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Table {
    /// Its name in the workspace.
    pub name: &'static str,
    /// Its stream in the data collection rule.
    pub stream: &'static str,
    /// The columns that only it has.
    own: &'static [Column],
}

/// A column of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Column {
    /// Its name.
    pub name: &'static str,
    /// Its type.
    pub kind: ColumnType,
}

/// The type of a column.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ColumnType {
    /// `boolean`
    Boolean,
    /// `datetime`
    Datetime,
    /// `dynamic`: a list.
    Dynamic,
    /// `int`
    Int,
    /// `long`
    Long,
    /// `string`
    String,
}

impl ColumnType {
    /// Its name in templates of tables and rules.
    pub fn as_str(self) -> &'static str {
        match self {
            ColumnType::Boolean => "boolean",
            ColumnType::Datetime => "datetime",
            ColumnType::Dynamic => "dynamic",
            ColumnType::Int => "int",
            ColumnType::Long => "long",
            ColumnType::String => "string",
        }
    }
}

impl Table {
    /// Every table.
    pub const ALL: [&'static Table; 4] = [&PORTAINER, &KUBE, &FALCO, &OTHER];

    /// The table of a record.
    pub fn of(view: &View<'_>) -> &'static Table {
        match view.event.stream {
            Stream::Falco => &FALCO,
            Stream::KubeAudit => &KUBE,
            Stream::Other => &OTHER,
            Stream::PortainerActivity | Stream::PortainerAuth => &PORTAINER,
        }
    }

    /// Its columns, in the order of a row.
    pub fn columns(&self) -> impl Iterator<Item = &'static Column> + use<> {
        COMMON.iter().chain(self.own)
    }
}

/// Appends the row of a record, for the table of [`Table::of`]: one JSON object.
pub fn row(out: &mut Vec<u8>, view: &View<'_>) {
    let start = out.len();
    let sense = Sense::of(view);
    object(out, TEXT_BYTES_MAX, |o| fields(o, view, &sense, RAW_BYTES_MAX));
    if out.len() - start > ROW_BYTES_MAX {
        // Only a record that is made to be long gets here: each of its texts full of escapes.
        out.truncate(start);
        object(out, SHORT_BYTES_MAX, |o| fields(o, view, &sense, 0));
    }
}

fn fields(o: &mut Object<'_>, view: &View<'_>, sense: &Sense<'_>, raw_bytes_max: usize) {
    let View { record, event, .. } = view;
    let detail = |name| event.detail(name);
    let resource = &event.resource;
    o.plain("TimeGenerated", Ticks(view.time()));
    o.plain("EventTime", Ticks(view.time()));
    o.plain("ReceivedTime", Ticks(record.received));
    o.plain("RecordId", view.id);
    o.number_of("Seq", i64::try_from(record.sequence.0).ok());
    o.plain("Lane", view.chain.lane);
    o.plain("Epoch", view.chain.epoch);
    o.text("Origin", view.chain.origin.as_str());
    o.plain("Stream", record.stream);
    o.text("Product", sense.product.name);
    o.text_of("Category", event.category.category().map(Category::as_str));
    o.text_of("EventType", event.kind.as_deref());
    o.text_of("Action", Some(event.action.as_ref()));
    o.text_of("Result", event.outcome.map(result));
    o.text_of("Privileged", event.privileged.map(name_of::<Privilege>).as_deref());
    o.number("Severity", sense.severity.number());
    o.text_of("Username", event.actor.name.as_deref());
    o.text_of("UserID", event.actor.id.as_deref());
    if let Some(ip) = sense.client.ip {
        o.plain("SourceIP", ip);
    }
    o.text_of("SourceAddress", sense.client.address);
    o.text_of("Namespace", resource.namespace.as_deref());
    o.text_of("ResourceType", resource.kind.as_deref());
    o.text_of("ResourceID", resource.id.as_deref());
    o.text_of("ResourceName", resource.name.as_deref());
    o.text_of("RequestID", event.request_id.as_deref());
    o.text_of("Message", detail("message"));
    o.text_of("Host", detail("host").or(view.envelope.hostname.as_deref()));
    o.text("Listener", &record.listener.decode());
    o.text("Peer", &record.peer.decode());
    o.text_of("TlsSubject", record.tls_subject.map(Token::decode).as_deref());
    o.flag("Recovered", record.recovered);
    o.text_of("Redacted", record.redacted.map(Token::decode).as_deref());
    o.number_of("CutFrom", record.cut_from.and_then(|bytes| i64::try_from(bytes).ok()));
    o.number("RawBytes", record.raw.len());
    let original = Original::of(view, raw_bytes_max);
    o.text_of("RawOmitted", original.omitted());
    match original {
        Original::Text(text) => o.whole("RawEvent", text),
        Original::NotUtf8(raw) => o.base64("RawEventBase64", raw),
        Original::TooLarge => {}
    }
    match event.stream {
        Stream::Falco => falco(o, view),
        Stream::KubeAudit => kube(o, view),
        Stream::Other => {}
        Stream::PortainerActivity | Stream::PortainerAuth => portainer(o, view),
    }
}

fn portainer(o: &mut Object<'_>, view: &View<'_>) {
    let event = &view.event;
    let detail = |name| event.detail(name);
    o.text_of("AuthenticationMethod", event.actor.method.as_deref());
    o.text_of("Environment", event.resource.environment.as_deref());
    o.text_of("EnvironmentID", detail("environment-id"));
    o.text_of("Stack", event.resource.stack.as_deref());
    o.text_of("SessionID", event.session_id.as_deref());
    let target = view.target_user().and_then(|(id, name)| name.or(id));
    o.text_of("TargetUser", target);
    o.text_of("Role", detail("role"));
    o.text_of("Before", detail("before"));
    o.text_of("After", detail("after"));
    o.text_of("ImageDigest", detail("image-digest"));
    o.text_of("GitSha", detail("git-commit"));
    o.text_of("HttpMethod", detail("method"));
    o.text_of("Url", detail("url"));
}

fn kube(o: &mut Object<'_>, view: &View<'_>) {
    let event = &view.event;
    let detail = |name| event.detail(name);
    o.text_of("Verb", detail("verb"));
    o.text_of("Stage", detail("stage"));
    o.text_of("Level", detail("level"));
    o.text_of("Subresource", event.resource.part.as_deref());
    o.text_of("ApiGroup", event.resource.group.as_deref());
    o.number_of("ResponseCode", detail("code").and_then(|code| code.parse::<u16>().ok()));
    o.text_of("RequestURI", detail("uri"));
    o.text_of("UserAgent", detail("user-agent"));
    o.texts("UserGroups", event.actor.groups.iter().map(AsRef::as_ref));
    o.text_of("ImpersonatedUser", event.actor.acting_as.as_deref());
    o.text_of("Decision", detail("decision"));
    o.text_of("DecisionReason", detail("decision-reason"));
    o.text_of("PolicyViolation", detail("policy-violation"));
    o.texts("ForwardedBy", detail("forwarded-by").into_iter().flat_map(str::split_whitespace));
}

fn falco(o: &mut Object<'_>, view: &View<'_>) {
    let detail = |name| view.event.detail(name);
    let tags = detail("tags").unwrap_or_default();
    let found = Techniques::of(tags);
    o.text_of("Rule", view.event.kind.as_deref());
    o.text_of("Priority", view.event.severity.as_deref());
    o.text_of("RuleSource", detail("source"));
    o.texts("Tags", tags.split_whitespace());
    o.texts("Techniques", found.ids.iter().chain(&found.sub_ids).copied());
    o.texts("Tactics", found.tactics.iter().copied());
    o.text_of("Pod", detail("pod"));
    o.text_of("ContainerName", detail("container"));
    o.text_of("ContainerID", detail("container-id"));
    o.text_of("Image", detail("image"));
    o.text_of("ImageTag", detail("image-tag"));
    o.text_of("Process", detail("process"));
    o.text_of("ParentProcess", detail("parent-process"));
    o.text_of("CommandLine", detail("command"));
    o.text_of("Executable", detail("executable"));
    o.text_of("FileName", detail("file"));
    o.text_of("Syscall", detail("syscall"));
}

/// A time as text with the seven digits behind the second that a `datetime` holds: it counts in ticks
/// of 100 nanoseconds, and what it can't read becomes the time of arrival.
struct Ticks(Nanos);

impl std::fmt::Display for Ticks {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let text = self.0.to_string();
        match text.strip_suffix('Z').and_then(|text| text.get(..text.len().saturating_sub(2))) {
            Some(ticks) => write!(f, "{ticks}Z"),
            None => f.write_str(&text),
        }
    }
}

const fn column(name: &'static str, kind: ColumnType) -> Column {
    Column { name, kind }
}

const PORTAINER: Table = Table {
    name: "PortainerAudit_CL",
    stream: "Custom-PortainerAudit_CL",
    own: &[
        column("AuthenticationMethod", String),
        column("Environment", String),
        column("EnvironmentID", String),
        column("Stack", String),
        column("SessionID", String),
        column("TargetUser", String),
        column("Role", String),
        column("Before", String),
        column("After", String),
        column("ImageDigest", String),
        column("GitSha", String),
        column("HttpMethod", String),
        column("Url", String),
    ],
};

const KUBE: Table = Table {
    name: "KubeAudit_CL",
    stream: "Custom-KubeAudit_CL",
    own: &[
        column("Verb", String),
        column("Stage", String),
        column("Level", String),
        column("Subresource", String),
        column("ApiGroup", String),
        column("ResponseCode", Int),
        column("RequestURI", String),
        column("UserAgent", String),
        column("UserGroups", Dynamic),
        column("ImpersonatedUser", String),
        column("Decision", String),
        column("DecisionReason", String),
        column("PolicyViolation", String),
        column("ForwardedBy", Dynamic),
    ],
};

const FALCO: Table = Table {
    name: "FalcoAlert_CL",
    stream: "Custom-FalcoAlert_CL",
    own: &[
        column("Rule", String),
        column("Priority", String),
        column("RuleSource", String),
        column("Tags", Dynamic),
        column("Techniques", Dynamic),
        column("Tactics", Dynamic),
        column("Pod", String),
        column("ContainerName", String),
        column("ContainerID", String),
        column("Image", String),
        column("ImageTag", String),
        column("Process", String),
        column("ParentProcess", String),
        column("CommandLine", String),
        column("Executable", String),
        column("FileName", String),
        column("Syscall", String),
    ],
};

const OTHER: Table =
    Table { name: "PenstockOther_CL", stream: "Custom-PenstockOther_CL", own: &[] };

use ColumnType::{Boolean, Datetime, Dynamic, Int, Long, String};

/// The columns of every table.
const COMMON: &[Column] = &[
    column("TimeGenerated", Datetime),
    column("EventTime", Datetime),
    column("ReceivedTime", Datetime),
    column("RecordId", String),
    column("Seq", Long),
    column("Lane", String),
    column("Epoch", String),
    column("Origin", String),
    column("Stream", String),
    column("Product", String),
    column("Category", String),
    column("EventType", String),
    column("Action", String),
    column("Result", String),
    column("Privileged", String),
    column("Severity", Int),
    column("Username", String),
    column("UserID", String),
    column("SourceIP", String),
    column("SourceAddress", String),
    column("Namespace", String),
    column("ResourceType", String),
    column("ResourceID", String),
    column("ResourceName", String),
    column("RequestID", String),
    column("Message", String),
    column("Host", String),
    column("Listener", String),
    column("Peer", String),
    column("TlsSubject", String),
    column("Recovered", Boolean),
    column("Redacted", String),
    column("CutFrom", Long),
    column("RawBytes", Long),
    column("RawOmitted", String),
    column("RawEvent", String),
    column("RawEventBase64", String),
];

/// The largest row: a call takes 1 MB, of which the rest is left for brackets and other rows.
pub const ROW_BYTES_MAX: usize = 900_000;

/// The most bytes of one text, but not of the record.
const TEXT_BYTES_MAX: usize = 4096;

/// The same, where a row would be too large otherwise.
const SHORT_BYTES_MAX: usize = 256;

/// The largest record that a row carries: below the 64 KB of a value, whatever KB is taken for.
pub const RAW_BYTES_MAX: usize = 64_000;
