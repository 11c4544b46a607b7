//! The Elastic Common Schema, version 9.4: <https://www.elastic.co/docs/reference/ecs>.
//!
//! What ECS has a field for stands there; what it has none for stands below `penstock`,
//! `portainer` and `kubernetes`, the last as Elastic's Kubernetes integration names it, so that
//! its rules match. `event.category` and `event.type` hold only the values that ECS allows, and
//! only pairs that it expects: <https://www.elastic.co/docs/reference/ecs/ecs-allowed-values-event-category>.
//!
//! Times: `@timestamp` is when it happened; `event.created` is when the high side received it.
//! `event.ingested`, when it came into the index, is the cluster's to set: a document is the same
//! however often it is rendered.

use shared::event::{Classified, Outcome, Privilege};
use shared::record::{Stream, Token};

use crate::event::View;

use super::json::{Object, object};
use super::sense::{Change, Class, Sense};
use super::{Original, Techniques, digest, name_of, result};

pub use super::ecs_fields::{
    FIELDS, Field, FieldType, KEYWORD_CHARS_MAX, ORIGINAL_BYTES_MAX, index_template,
};

/// The version of ECS that the documents follow.
pub const VERSION: &str = "9.4.0";

/// Appends a document, without a line end.
pub fn render(out: &mut Vec<u8>, view: &View<'_>) {
    let sense = Sense::of(view);
    object(out, TEXT_BYTES_MAX, |o| document(o, view, &sense));
}

fn document(o: &mut Object<'_>, view: &View<'_>, sense: &Sense<'_>) {
    let View { record, envelope, event, .. } = view;
    let detail = |name| event.detail(name);
    o.plain("@timestamp", view.time());
    o.group("ecs", |o| o.text("version", VERSION));
    o.text_of("message", detail("message"));
    o.texts("tags", detail("tags").into_iter().flat_map(str::split_whitespace));
    o.group("event", |o| event_fields(o, view, sense));
    user(o, view);
    if sense.class == Class::Group {
        o.group("group", |o| {
            o.text_of("id", event.resource.id.as_deref());
            o.text_of("name", event.resource.name.as_deref());
        });
    }
    o.group("source", |o| {
        o.text_of("address", sense.client.address);
        if let Some(ip) = sense.client.ip {
            o.plain("ip", ip);
        }
        o.number_of("port", sense.client.port);
    });
    related(o, view, sense);
    orchestrator(o, view);
    o.group("container", |o| {
        o.text_of("id", detail("container-id"));
        o.text_of("name", detail("container"));
        o.group("image", |o| {
            o.group("hash", |o| o.texts("all", detail("image-digest")));
            o.text_of("name", detail("image"));
            o.texts("tag", detail("image-tag"));
        });
    });
    o.group("process", |o| {
        o.text_of("name", detail("process"));
        o.text_of("executable", detail("executable"));
        o.text_of("command_line", detail("command"));
        o.group("parent", |o| o.text_of("name", detail("parent-process")));
    });
    o.group("file", |o| o.text_of("path", detail("file").filter(|path| path.starts_with('/'))));
    if event.stream == Stream::Falco {
        o.group("rule", |o| {
            o.text_of("name", event.kind.as_deref());
            o.text_of("ruleset", detail("source"));
        });
        threat(o, detail("tags").unwrap_or_default());
    }
    let host = match event.stream {
        Stream::Falco => detail("host").or(envelope.hostname.as_deref()),
        _ => envelope.hostname.as_deref(),
    };
    o.group("host", |o| o.text_of("name", host));
    o.group("http", |o| {
        o.group("request", |o| {
            o.text_of("id", event.request_id.as_deref());
            o.text_of("method", detail("method"));
        });
        o.group("response", |o| {
            o.number_of("status_code", detail("code").and_then(|code| code.parse::<u16>().ok()));
        });
    });
    o.group("url", |o| o.text_of("original", detail("url").or(detail("uri"))));
    o.group("user_agent", |o| o.text_of("original", detail("user-agent")));
    o.group("log", |o| {
        o.text_of("level", event.severity.as_deref());
        o.group("syslog", |o| syslog(o, view));
    });
    o.group("observer", |o| {
        o.text("vendor", sense.product.vendor);
        o.text("product", sense.product.name);
    });
    kubernetes(o, view);
    if matches!(event.stream, Stream::PortainerActivity | Stream::PortainerAuth) {
        o.group("portainer", |o| {
            o.text_of("authentication_method", event.actor.method.as_deref());
            o.text_of("session_id", event.session_id.as_deref());
            o.text_of("environment_id", detail("environment-id"));
            o.group("git", |o| o.text_of("sha", detail("git-commit")));
            o.text_of("stack", event.resource.stack.as_deref());
            o.text_of("role", detail("role"));
            o.text_of("before", detail("before"));
            o.text_of("after", detail("after"));
        });
    }
    o.group("penstock", |o| {
        o.text("origin", view.chain.origin.as_str());
        o.plain("epoch", view.chain.epoch);
        o.plain("lane", view.chain.lane);
        o.plain("sequence", record.sequence);
        o.plain("stream", record.stream);
        match event.category {
            Classified::As { category } => o.text("category", category.as_str()),
            Classified::Not { unclassified } => o.text("unclassified", &name_of(unclassified)),
        }
        o.text_of("privileged", event.privileged.map(name_of::<Privilege>).as_deref());
        // ECS itself tells no refusal from another failure.
        o.text_of("outcome", event.outcome.map(result));
        o.text("access", &name_of(event.access));
        o.text("listener", &record.listener.decode());
        o.text("peer", &record.peer.decode());
        o.text_of("tls_subject", record.tls_subject.map(Token::decode).as_deref());
        o.text_of("tag", record.tag.map(Token::decode).as_deref());
        o.flag("recovered", record.recovered);
        o.text_of("redacted", record.redacted.map(Token::decode).as_deref());
        o.number_of("cut_from", record.cut_from.and_then(long));
        o.flag("cut", detail("cut").is_some());
        o.number_of("items", detail("items").and_then(|items| items.parse::<u32>().ok()));
        o.group("original", |o| {
            let original = Original::of(view, ORIGINAL_BYTES_MAX);
            o.number("bytes", record.raw.len());
            o.text_of("omitted", original.omitted());
            if let Original::NotUtf8(raw) = original {
                o.base64("base64", raw);
            }
        });
    });
}

fn event_fields(o: &mut Object<'_>, view: &View<'_>, sense: &Sense<'_>) {
    let View { id, record, event, .. } = view;
    let (categories, types) = category_and_types(view, sense);
    o.plain("id", id);
    o.text("kind", if sense.class == Class::Alert { "alert" } else { "event" });
    o.texts("category", categories.iter().copied());
    o.texts("type", types);
    let outcome = match event.outcome {
        Some(Outcome::Success) => "success",
        Some(Outcome::Failure | Outcome::Denied) => "failure",
        None => "unknown",
    };
    o.text("outcome", outcome);
    o.text_of("action", Some(event.action.as_ref()));
    o.text_of("code", event.kind.as_deref());
    o.text("module", sense.product.module);
    o.text("dataset", sense.product.dataset);
    o.text("provider", sense.product.name);
    o.text_of("reason", event.detail("decision-reason").or(event.detail("policy-violation")));
    o.number("severity", sense.severity.number());
    o.number_of("sequence", long(record.sequence.0));
    o.plain("created", record.received);
    o.plain("hash", digest(view));
    if let Original::Text(text) = Original::of(view, ORIGINAL_BYTES_MAX) {
        o.whole("original", text);
    }
}

/// The categories and types that ECS expects together.
fn category_and_types(
    view: &View<'_>,
    sense: &Sense<'_>,
) -> (&'static [&'static str], Vec<&'static str>) {
    let denied = view.event.outcome == Some(Outcome::Denied);
    let of_change = match sense.change {
        Change::Create => "creation",
        Change::Delete => "deletion",
        Change::Read => "access",
        Change::Execute | Change::Logon | Change::Start => "start",
        Change::Logoff | Change::Stop => "end",
        _ => "change",
    };
    let iam = |of: &'static str| match sense.change {
        Change::Create => vec![of, "creation"],
        Change::Delete => vec![of, "deletion"],
        Change::Read => vec![of, "info"],
        _ => vec![of, "change"],
    };
    match sense.class {
        Class::Account => (&["iam"], iam("user")),
        Class::Alert => (&["intrusion_detection"], vec!["info"]),
        Class::Api => {
            let runs = sense.change == Change::Execute;
            let categories: &[&str] = if runs { &["api", "process"] } else { &["api"] };
            let mut types = vec![of_change];
            if denied {
                types.push("denied");
            }
            (categories, types)
        }
        Class::Configuration | Class::Deployment | Class::Lifecycle => {
            let kind = match of_change {
                "start" | "end" => "change",
                other => other,
            };
            (&["configuration"], vec![kind])
        }
        Class::Execution => (&["process"], vec!["start"]),
        Class::Group => (&["iam"], iam("group")),
        Class::PolicyViolation => (&["configuration"], vec!["info"]),
        Class::Role => (&["iam"], iam("admin")),
        Class::Session => {
            let kind = match sense.change {
                Change::Logon => "start",
                Change::Logoff => "end",
                _ => "info",
            };
            (&["authentication"], vec![kind])
        }
        Class::Unknown => (&[], Vec::new()),
    }
}

fn user(o: &mut Object<'_>, view: &View<'_>) {
    let event = &view.event;
    o.group("user", |o| {
        o.text_of("id", event.actor.id.as_deref());
        o.text_of("name", event.actor.name.as_deref());
        o.group("group", |o| o.texts("name", event.actor.groups.iter().map(AsRef::as_ref)));
        o.group("effective", |o| o.text_of("name", event.actor.acting_as.as_deref()));
        let (id, name) = view.target_user().unwrap_or_default();
        o.group("target", |o| {
            o.text_of("id", id);
            o.text_of("name", name);
        });
    });
}

fn related(o: &mut Object<'_>, view: &View<'_>, sense: &Sense<'_>) {
    let actor = &view.event.actor;
    let target = view.target_user().and_then(|(_, name)| name);
    let mut users = [actor.name.as_deref(), actor.acting_as.as_deref(), target];
    for at in 1..users.len() {
        if users[..at].contains(&users[at]) {
            users[at] = None;
        }
    }
    o.group("related", |o| {
        if let Some(ip) = sense.client.ip {
            o.texts("ip", [ip.to_string().as_str()]);
        }
        o.texts("user", users.into_iter().flatten());
    });
}

fn orchestrator(o: &mut Object<'_>, view: &View<'_>) {
    let event = &view.event;
    let resource = &event.resource;
    o.group("orchestrator", |o| {
        if event.stream == Stream::KubeAudit || resource.namespace.is_some() {
            o.text("type", "kubernetes");
        }
        o.group("cluster", |o| o.text_of("name", resource.environment.as_deref()));
        o.text_of("namespace", resource.namespace.as_deref());
        o.group("resource", |o| {
            o.text_of("id", resource.id.as_deref());
            o.text_of("name", resource.name.as_deref());
            o.text_of("type", resource.kind.as_deref());
        });
    });
}

/// Techniques by the tags of Falco's rules: `T1059`, `T1059.004`, `mitre_execution`.
fn threat(o: &mut Object<'_>, tags: &str) {
    let found = Techniques::of(tags);
    if found.is_empty() {
        return;
    }
    o.group("threat", |o| {
        o.text("framework", "MITRE ATT&CK");
        o.group("tactic", |o| o.texts("name", found.tactics.iter().copied()));
        o.group("technique", |o| {
            o.texts("id", found.ids.iter().copied());
            o.group("subtechnique", |o| o.texts("id", found.sub_ids.iter().copied()));
        });
    });
}

fn syslog(o: &mut Object<'_>, view: &View<'_>) {
    let envelope = &view.envelope;
    o.text_of("appname", envelope.app_name.as_deref());
    o.group("facility", |o| o.number_of("code", envelope.facility));
    o.text_of("hostname", envelope.hostname.as_deref());
    o.text_of("msgid", envelope.msgid.as_deref());
    o.text_of("procid", envelope.procid.as_deref());
    o.group("severity", |o| o.number_of("code", envelope.severity));
    if let Some(version) = envelope.version {
        o.plain("version", version);
    }
}

/// The names of Elastic's Kubernetes integration.
fn kubernetes(o: &mut Object<'_>, view: &View<'_>) {
    let event = &view.event;
    let resource = &event.resource;
    let detail = |name| event.detail(name);
    o.group("kubernetes", |o| {
        o.text_of("namespace", resource.namespace.as_deref());
        o.group("pod", |o| o.text_of("name", detail("pod")));
        if event.stream != Stream::KubeAudit {
            return;
        }
        o.group("audit", |o| {
            o.text_of("auditID", event.request_id.as_deref());
            o.text_of("level", detail("level"));
            o.text_of("stage", detail("stage"));
            o.text_of("verb", detail("verb"));
            o.text_of("requestURI", detail("uri"));
            o.text_of("userAgent", detail("user-agent"));
            o.texts(
                "sourceIPs",
                event
                    .source_address
                    .as_deref()
                    .into_iter()
                    .chain(detail("forwarded-by").into_iter().flat_map(str::split_whitespace)),
            );
            o.group("user", |o| {
                o.text_of("username", event.actor.name.as_deref());
                o.text_of("uid", event.actor.id.as_deref());
                o.texts("groups", event.actor.groups.iter().map(AsRef::as_ref));
            });
            o.group("impersonatedUser", |o| {
                o.text_of("username", event.actor.acting_as.as_deref());
            });
            o.group("objectRef", |o| {
                o.text_of("apiGroup", resource.group.as_deref());
                o.text_of("resource", resource.kind.as_deref());
                o.text_of("subresource", resource.part.as_deref());
                o.text_of("name", resource.name.as_deref());
                o.text_of("namespace", resource.namespace.as_deref());
            });
            o.group("responseStatus", |o| {
                o.number_of("code", detail("code").and_then(|code| code.parse::<u16>().ok()));
            });
            o.group("annotations", |o| {
                o.text_of("authorization_k8s_io/decision", detail("decision"));
                o.text_of("authorization_k8s_io/reason", detail("decision-reason"));
            });
        });
    });
}

/// A number that fits into the index's `long`.
fn long(number: u64) -> Option<i64> {
    i64::try_from(number).ok()
}

/// The most bytes of one text, but not of the original. What is longer is not indexed anyway, and
/// stands in the original.
const TEXT_BYTES_MAX: usize = 8191;
