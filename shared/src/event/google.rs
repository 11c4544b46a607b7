//! Audit events of Google's Kubernetes engine, which says the same in other words.

use std::borrow::Cow;

use crate::json::Value;
use crate::record::Stream;

use super::kubernetes::{Request, judge, uri};
use super::timestamp;
use super::view::{Classified, Event, Outcome, Privilege, Unclassified};

/// The event of one `LogEntry` with the audit log of service `k8s.io` as its payload.
pub(super) fn event<'t>(entry: Value<'t>, payload: Value<'t>, stream: Stream) -> Event<'t> {
    let mut event = Event::blank(stream);
    event.time = entry.str_at(&["timestamp"]).and_then(|time| timestamp::instant(&time));
    event.request_id = entry.str_at(&["insertId"]);
    let who = |key| payload.str_at(&["authenticationInfo", key]);
    event.actor.name = who("principalEmail").or_else(|| who("authoritySelector"));
    event.source_address = payload
        .str_at(&["requestMetadata", "callerIP"])
        .or_else(|| payload.str_at(&["requestMetadata", "callerIp"]));
    let method = payload.str_at(&["methodName"]).unwrap_or_default();
    // io.k8s.GROUP.VERSION.RESOURCE[.PART].VERB, with `core` for the group without name.
    let words: Vec<&str> = method.trim_start_matches("io.k8s.").split('.').collect();
    let version = words.iter().position(|word| is_version(word));
    let name = payload.str_at(&["resourceName"]).unwrap_or_default();
    let path = if let Some(rest) = name.strip_prefix("core/") {
        Cow::Owned(format!("/api/{rest}"))
    } else if name.starts_with('/') {
        name.clone()
    } else {
        Cow::Owned(format!("/apis/{name}"))
    };
    let target = uri::target(&path).unwrap_or_default();
    let verb = words.last().copied().unwrap_or_default();
    let resource = version.and_then(|at| words.get(at + 1)).copied().unwrap_or(target.resource);
    let part = match version {
        Some(at) if words.len() > at + 3 => words[at + 2],
        _ => target.part,
    };
    let keep = |text: &str| (!text.is_empty()).then(|| Cow::Owned(text.to_owned()));
    if resource.is_empty() {
        event.category = Classified::Not { unclassified: Unclassified::UnknownAction };
    } else {
        let verdict = judge(&Request {
            group: target.group,
            resource,
            part,
            name: target.name,
            verb,
            uri: &path,
            object: payload.get("request"),
        });
        event.category = verdict.category;
        event.action = verdict.action;
        event.access = verdict.access;
        event.privileged = verdict.privilege;
    }
    let acting = payload.str_at(&["authenticationInfo", "authoritySelector"]);
    if acting.as_deref() == Some("system:masters") {
        event.privileged = event.privileged.or(Some(Privilege::ClusterAdmin));
    }
    event.resource.kind = keep(resource);
    event.resource.part = keep(part);
    event.resource.name = keep(target.name);
    event.resource.namespace = keep(target.namespace);
    event.resource.group = keep(target.group);
    event.details.push(("verb", Cow::Owned(verb.to_owned())));
    event.detail_of("user-agent", payload.str_at(&["requestMetadata", "callerSuppliedUserAgent"]));
    event.details.push(("uri", Cow::Owned(path.into_owned())));
    // Codes of gRPC: 7 is refused, 16 not authenticated.
    let code = payload.at(&["status", "code"]).and_then(|code| code.as_i64()).unwrap_or(0);
    event.outcome = Some(match code {
        0 => Outcome::Success,
        7 | 16 => Outcome::Denied,
        _ => Outcome::Failure,
    });
    let code = match code {
        0 => "200",
        5 => "404",
        7 => "403",
        16 => "401",
        _ => "500",
    };
    event.details.push(("code", Cow::Borrowed(code)));
    event.kind = Some(method);
    event
}

fn is_version(word: &str) -> bool {
    let mut bytes = word.bytes();
    bytes.next() == Some(b'v') && bytes.next().is_some_and(|byte| byte.is_ascii_digit())
}
