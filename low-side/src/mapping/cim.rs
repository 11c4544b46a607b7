//! Splunk: the envelope of its HTTP Event Collector, and an event in the words of the Common
//! Information Model.
//!
//! The envelope: <https://docs.splunk.com/Documentation/Splunk/latest/Data/FormateventsforHTTPEventCollector>.
//! The models Authentication, Change and Alerts, with the fields and values they ask for:
//! <https://docs.splunk.com/Documentation/CIM/latest/User/Overview>.
//!
//! `cim_model` names the model an event belongs to, so that an event type needs no more than
//! `cim_model=Authentication`. Only then are the model's required fields all there; what is not
//! known of them is `unknown`, which is what the models themselves put there. An event that says
//! nothing about its success is none of Change, which knows only success and failure.

use std::io::Write as _;

use shared::clock::Nanos;
use shared::event::{Event, Outcome, Privilege};
use shared::record::{Stream, Token};

use crate::event::View;

use super::json::{Object, object, string};
use super::sense::{Change, Class, Grade, Sense};
use super::{Original, Techniques, changes_within, name_of, result, said};

/// Appends an event with its envelope: what `/services/collector/event` takes. Events may follow
/// each other without anything between them.
///
/// An empty index leaves the choice to the token.
pub fn hec_envelope(out: &mut Vec<u8>, view: &View<'_>, index: &str) {
    let sense = Sense::of(view);
    out.extend_from_slice(b"{\"time\":");
    seconds(out, view.time());
    out.extend_from_slice(b",\"host\":");
    string(out, super::text::cut(host(view), TEXT_BYTES_MAX));
    // Our own constants need no escape. Writing to memory does not fail.
    let _ = write!(
        out,
        ",\"source\":\"penstock:{}\",\"sourcetype\":\"{}\"",
        view.record.stream, sense.product.sourcetype
    );
    if !index.is_empty() {
        out.extend_from_slice(b",\"index\":");
        string(out, index);
    }
    out.extend_from_slice(b",\"fields\":");
    object(out, TEXT_BYTES_MAX, |o| {
        // Splunk refuses anything nested here. What stands here stands nowhere in the event: a field
        // that is indexed and found in the event's JSON as well has two values, and counts twice.
        o.plain("record_id", view.id);
    });
    out.extend_from_slice(b",\"event\":");
    object(out, TEXT_BYTES_MAX, |o| fields(o, view, &sense));
    out.push(b'}');
}

/// Appends the event alone: one JSON object, with the id that the envelope carries otherwise.
pub fn render(out: &mut Vec<u8>, view: &View<'_>) {
    object(out, TEXT_BYTES_MAX, |o| {
        o.plain("record_id", view.id);
        fields(o, view, &Sense::of(view));
    });
}

/// A data model of CIM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Model {
    /// Something was detected.
    Alerts,
    /// Somebody came in, or tried to.
    Authentication,
    /// Something was changed, or should have been.
    Change,
}

impl Model {
    /// Its name.
    pub fn as_str(self) -> &'static str {
        match self {
            Model::Alerts => "Alerts",
            Model::Authentication => "Authentication",
            Model::Change => "Change",
        }
    }
}

fn model(event: &Event<'_>, sense: &Sense<'_>) -> Option<Model> {
    match (sense.class, sense.change) {
        (Class::Alert, _) => Some(Model::Alerts),
        (Class::Session, Change::Logon) => Some(Model::Authentication),
        (Class::Session | Class::Unknown, _) | (_, Change::Read) => None,
        _ => event.outcome.map(|_| Model::Change),
    }
}

/// The host that speaks: as its header says, else where it came from.
fn host<'v>(view: &'v View<'_>) -> &'v str {
    let host = match view.event.stream {
        Stream::Falco => view.event.detail("host").or(view.envelope.hostname.as_deref()),
        _ => view.envelope.hostname.as_deref(),
    };
    said(host).unwrap_or(view.chain.origin.as_str())
}

/// What is short first, then what searches select by, then what a request can make long: Splunk reads
/// fields out of JSON up to a number of bytes only (`extraction_cutoff` and `maxchars` in `limits.conf`).
fn fields(o: &mut Object<'_>, view: &View<'_>, sense: &Sense<'_>) {
    let View { record, event, .. } = view;
    let detail = |name| event.detail(name);
    let resource = &event.resource;
    let model = model(event, sense);
    o.text_of("cim_model", model.map(Model::as_str));
    o.text("origin", view.chain.origin.as_str());
    o.plain("epoch", view.chain.epoch);
    o.plain("lane", view.chain.lane);
    o.plain("seq", record.sequence);
    o.plain("stream", record.stream);
    o.plain("event_time", view.time());
    o.plain("received", record.received);
    o.text("vendor_product", vendor_product(sense));
    o.text("app", sense.product.module);
    o.text_of("category", event.category.category().map(shared::event::Category::as_str));
    o.text_of("privileged", event.privileged.map(name_of::<Privilege>).as_deref());
    o.text_of("status", event.outcome.map(status));
    o.text_of("result", event.outcome.map(result));
    o.text("severity", severity(sense.severity.grade()));
    o.number("severity_id", sense.severity.number());
    o.text_of("operation", Some(event.action.as_ref()));
    o.text_of("action", Some(action(event, sense, model)));
    o.text_of("verb", detail("verb"));
    o.text_of("stage", detail("stage"));
    o.text_of("response_code", detail("code"));
    o.text_of("request_id", event.request_id.as_deref());
    o.text_of("session_id", event.session_id.as_deref());
    people(o, view, model);
    o.text("src", sense.client.address.unwrap_or(UNKNOWN));
    if let Some(ip) = sense.client.ip {
        o.plain("src_ip", ip);
    }
    o.number_of("src_port", sense.client.port);
    o.text_of("environment", resource.environment.as_deref());
    o.text_of("namespace", resource.namespace.as_deref());
    o.text_of("stack", resource.stack.as_deref());
    o.text_of("resource_type", resource.kind.as_deref());
    o.text_of("resource_id", resource.id.as_deref());
    o.text_of("resource_name", resource.name.as_deref());
    o.text_of("subresource", resource.part.as_deref());
    o.text("dvc", host(view));
    o.text("dest", dest(view, sense));
    o.text_of("image", detail("image"));
    o.text_of("image_digest", detail("image-digest"));
    o.text_of("git_sha", detail("git-commit"));
    o.text("signature_id", sense.signature);
    o.text("signature", said(event.kind.as_deref()).unwrap_or(sense.signature));
    o.text_of("http_method", detail("method"));
    o.text_of("url", detail("url").or(detail("uri")));
    match model {
        Some(Model::Alerts) => {
            o.plain("id", view.id);
            o.text("type", "alert");
            o.text("description", said(detail("message")).unwrap_or(sense.signature));
            let found = Techniques::of(detail("tags").unwrap_or_default());
            let exact =
                found.ids.iter().filter(|id| !found.sub_ids.iter().any(|sub| sub.starts_with(*id)));
            o.texts("mitre_technique_id", exact.chain(&found.sub_ids).copied());
        }
        Some(Model::Change) => changed(o, view, sense),
        _ => {}
    }
    o.text_of("authentication_method", event.actor.method.as_deref());
    o.text_of("reason", detail("decision-reason").or(detail("policy-violation")));
    o.text_of("user_agent", detail("user-agent"));
    o.texts("user_groups", event.actor.groups.iter().map(AsRef::as_ref));
    o.text_of("role", detail("role"));
    o.text_of("pod", detail("pod"));
    o.text_of("container", detail("container"));
    o.text_of("container_id", detail("container-id"));
    o.text_of("process", detail("command").or(detail("process")));
    o.text_of("file_path", detail("file"));
    o.texts("rule_tags", detail("tags").into_iter().flat_map(str::split_whitespace));
    carried(o, view);
}

/// How the record came, and the record itself, last.
fn carried(o: &mut Object<'_>, view: &View<'_>) {
    let record = view.record;
    o.text("listener", &record.listener.decode());
    o.text("peer", &record.peer.decode());
    o.text_of("tls_subject", record.tls_subject.map(Token::decode).as_deref());
    o.flag("recovered", record.recovered);
    o.text_of("redacted", record.redacted.map(Token::decode).as_deref());
    o.number_of("cut_from", record.cut_from);
    o.number("raw_bytes", record.raw.len());
    let original = Original::of(view, RAW_BYTES_MAX);
    o.text_of("raw_omitted", original.omitted());
    match original {
        Original::Text(text) => o.whole("raw", text),
        Original::NotUtf8(raw) => o.base64("raw_base64", raw),
        Original::TooLarge => {}
    }
}

/// `user`, `user_id` and `src_user`. Where an account was changed, `user` is that account, and who
/// changed it is `src_user`.
fn people(o: &mut Object<'_>, view: &View<'_>, model: Option<Model>) {
    let actor = &view.event.actor;
    let (id, name) = (said(actor.id.as_deref()), said(actor.name.as_deref()));
    if let Some(target) = view.target_user().filter(|_| model == Some(Model::Change)) {
        let (target_id, target_name) = target;
        o.text("user", target_name.or(target_id).unwrap_or(UNKNOWN));
        o.text_of("user_id", target_id);
        o.text("src_user", name.or(id).unwrap_or(UNKNOWN));
        o.text_of("src_user_id", id);
        return;
    }
    o.text("user", name.or(id).unwrap_or(UNKNOWN));
    o.text_of("user_id", id);
    o.text_of("acting_as", actor.acting_as.as_deref());
}

/// What the model Change asks for.
fn changed(o: &mut Object<'_>, view: &View<'_>, sense: &Sense<'_>) {
    let event = &view.event;
    let resource = &event.resource;
    let (id, name) = (said(resource.id.as_deref()), said(resource.name.as_deref()));
    let iam = matches!(sense.class, Class::Account | Class::Group | Class::Role);
    let category = event.category.category().map(shared::event::Category::as_str);
    let kind = if view.target_user().is_some() {
        "user"
    } else if sense.class == Class::Group {
        "group"
    } else {
        said(resource.kind.as_deref()).or(category).unwrap_or(UNKNOWN)
    };
    o.text("change_type", if iam { "AAA" } else { category.unwrap_or(UNKNOWN) });
    o.text("command", said(event.kind.as_deref()).unwrap_or(sense.signature));
    o.text("object", name.or(id).unwrap_or(UNKNOWN));
    o.text("object_id", id.or(name).unwrap_or(UNKNOWN));
    o.text("object_category", kind);
    o.text_of("object_path", resource.namespace.as_deref());
    let attributes = changes_within(event, TEXT_BYTES_MAX);
    let attributes = said(attributes.as_deref()).or(said(event.detail("role")));
    let made_of = said(event.detail("image-digest")).or(said(event.detail("git-commit")));
    o.text("object_attrs", attributes.or(made_of).unwrap_or(UNKNOWN));
}

/// What `action` means depends on the model.
fn action<'e>(event: &'e Event<'_>, sense: &Sense<'_>, model: Option<Model>) -> &'e str {
    match model {
        Some(Model::Authentication) => match event.outcome {
            Some(Outcome::Success) => "success",
            Some(Outcome::Failure | Outcome::Denied) => "failure",
            None => "pending",
        },
        Some(Model::Change) => match sense.change {
            Change::Create => "created",
            Change::Delete => "deleted",
            Change::Stop => "stopped",
            Change::Assign | Change::Revoke => "acl_modified",
            _ if sense.class == Class::Role => "acl_modified",
            _ => "modified",
        },
        Some(Model::Alerts) | None => event.action.as_ref(),
    }
}

/// What it was done to, or in.
fn dest<'v>(view: &'v View<'_>, sense: &Sense<'_>) -> &'v str {
    let resource = &view.event.resource;
    if let Some(environment) = said(resource.environment.as_deref()) {
        return environment;
    }
    match sense.class {
        Class::Alert => {
            let pod = said(view.event.detail("pod")).or(said(view.event.detail("container")));
            pod.unwrap_or_else(|| host(view))
        }
        _ => host(view),
    }
}

fn vendor_product(sense: &Sense<'_>) -> &'static str {
    match sense.product.module {
        "portainer" => "Portainer Portainer",
        "kubernetes" => "Kubernetes kube-apiserver",
        "falco" => "Falco Falco",
        _ => "Penstock Penstock",
    }
}

fn status(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Success => "success",
        Outcome::Failure | Outcome::Denied => "failure",
    }
}

fn severity(grade: Grade) -> &'static str {
    match grade {
        Grade::Informational => "informational",
        Grade::Low => "low",
        Grade::Medium => "medium",
        Grade::High => "high",
        Grade::Critical => "critical",
    }
}

/// Seconds since 1970 with nine digits, in decimal: a float would change the last of them. A time
/// before 1970, which Splunk refuses, becomes zero; `event_time` says it.
fn seconds(out: &mut Vec<u8>, time: Nanos) {
    let nanos = time.0.max(0);
    let _ = write!(out, "{}.{:09}", nanos / 1_000_000_000, nanos % 1_000_000_000);
}

/// What CIM's models put where a required field is not known.
const UNKNOWN: &str = "unknown";

/// The most bytes of one text, but not of the record.
const TEXT_BYTES_MAX: usize = 8191;

/// The largest record that an event carries: with every byte escaped it fits into a request.
const RAW_BYTES_MAX: usize = 512 << 10;
