//! The Open Cybersecurity Schema Framework, version 1.8.0: <https://schema.ocsf.io/1.8.0/>.
//!
//! | what | class |
//! |---|---|
//! | logins and logouts | Authentication, 3002 |
//! | accounts | Account Change, 3001 |
//! | roles of a known user | User Access Management, 3005 |
//! | teams | Group Management, 3006 |
//! | restart, backup, licence | Application Lifecycle, 6002 |
//! | violations of policy | Compliance Finding, 2003 |
//! | Falco's alerts | Detection Finding, 2004 |
//! | everything else that was understood | API Activity, 6003 |
//! | what was not | Base Event, 0 |
//!
//! A class that requires what the record does not say (whose role it was) is not used: the event is
//! API Activity then. Captions come from the same row as their numbers, so that they agree.

use shared::event::{Event, Outcome, Privilege};
use shared::record::{Stream, Token};

use crate::event::View;

use super::json::{Object, object};
use super::sense::{Change, Class as Kind, Grade, Sense};
use super::{Original, Techniques, changes_within, digest, millis, name_of, said};

/// The version of OCSF that the events follow.
pub const VERSION: &str = "1.8.0";

/// A class of OCSF.
#[derive(Debug)]
pub struct Class {
    /// Its number, `class_uid`.
    pub uid: u32,
    /// Its caption.
    pub name: &'static str,
    /// The caption of its category, whose number is the first digit of the class's.
    pub category: &'static str,
    /// The numbers and captions of those of its activities that are used.
    pub activities: &'static [(u32, &'static str)],
}

impl Class {
    /// Every class that is used.
    pub const ALL: [&'static Class; 9] = [
        &BASE,
        &COMPLIANCE_FINDING,
        &DETECTION_FINDING,
        &ACCOUNT_CHANGE,
        &AUTHENTICATION,
        &USER_ACCESS,
        &GROUP_MANAGEMENT,
        &LIFECYCLE,
        &API_ACTIVITY,
    ];

    fn caption(&self, activity: u32) -> Option<&'static str> {
        self.activities.iter().find(|(number, _)| *number == activity).map(|(_, caption)| *caption)
    }
}

/// Appends an event, without a line end.
pub fn render(out: &mut Vec<u8>, view: &View<'_>) {
    let sense = Sense::of(view);
    object(out, TEXT_BYTES_MAX, |o| fields(o, view, &sense));
}

fn fields(o: &mut Object<'_>, view: &View<'_>, sense: &Sense<'_>) {
    let View { record, event, .. } = view;
    let class = class(view, sense);
    let activity = activity(class, event, sense);
    let caption = class.caption(activity).unwrap_or("Other");
    o.number("activity_id", activity);
    // The caption of `Other` is the source's own word for it.
    match (activity, event.action.as_ref()) {
        (OTHER, action) if !action.is_empty() => o.text("activity_name", action),
        _ => o.text("activity_name", caption),
    }
    o.number("category_uid", class.uid / 1000);
    o.text("category_name", class.category);
    o.number("class_uid", class.uid);
    o.text("class_name", class.name);
    o.number("type_uid", u64::from(class.uid) * 100 + u64::from(activity));
    o.text("type_name", &format!("{}: {caption}", class.name));
    o.number("time", millis(view.time()));
    let (severity_id, severity) = severity(sense.severity.grade());
    o.number("severity_id", severity_id);
    o.text("severity", severity);
    let (status_id, status) = match event.outcome {
        // The status of a finding is not how it went, but how far its handling is.
        _ if is_finding(class) => (1, "New"),
        Some(Outcome::Success) => (1, "Success"),
        Some(Outcome::Failure | Outcome::Denied) => (2, "Failure"),
        None => (0, "Unknown"),
    };
    o.number("status_id", status_id);
    o.text("status", status);
    o.text_of("status_code", event.detail("code"));
    o.text_of(
        "status_detail",
        event.detail("decision-reason").or(event.detail("policy-violation")),
    );
    o.text_of("message", event.detail("message"));
    metadata(o, view, sense, class);
    match class.uid {
        2003 => compliance(o, view, sense),
        2004 => detection(o, view, sense),
        3001 => {
            actor(o, event);
            target(o, view);
        }
        3002 => {
            o.group("user", |o| user(o, event));
            authentication(o, event);
            o.group("service", |o| o.text("name", sense.product.name));
            o.group("session", |o| o.text_of("uid", event.session_id.as_deref()));
        }
        3005 => {
            actor(o, event);
            target(o, view);
            o.texts("privileges", event.detail("role"));
        }
        3006 => {
            actor(o, event);
            o.group("group", |o| {
                o.text_of("name", event.resource.name.as_deref());
                o.text_of("uid", event.resource.id.as_deref());
            });
        }
        6002 => {
            actor(o, event);
            o.group("app", |o| product(o, sense));
        }
        6003 => {
            actor(o, event);
            api(o, event);
            resources(o, event);
        }
        _ => {}
    }
    if !has_host_profile(class) && class.uid != BASE.uid {
        client(o, sense);
    }
    o.number("raw_data_size", record.raw.len());
    o.group("raw_data_hash", |o| {
        o.text("algorithm", "SHA-256");
        o.number("algorithm_id", 3);
        o.plain("value", digest(view));
    });
    let original = Original::of(view, RAW_BYTES_MAX);
    if let Original::Text(text) = original {
        o.whole("raw_data", text);
    }
    o.group("unmapped", |o| unmapped(o, view, class, original));
}

/// The class of an event, where what the class requires is known.
fn class(view: &View<'_>, sense: &Sense<'_>) -> &'static Class {
    let resource = &view.event.resource;
    let named = said(resource.id.as_deref()).or(said(resource.name.as_deref())).is_some();
    let targeted = view.target_user().is_some() && named;
    match sense.class {
        Kind::Account if targeted => &ACCOUNT_CHANGE,
        Kind::Alert => &DETECTION_FINDING,
        Kind::Group if named => &GROUP_MANAGEMENT,
        Kind::Lifecycle => &LIFECYCLE,
        Kind::PolicyViolation => &COMPLIANCE_FINDING,
        Kind::Role if targeted && said(view.event.detail("role")).is_some() => &USER_ACCESS,
        Kind::Session => &AUTHENTICATION,
        Kind::Unknown => &BASE,
        _ => &API_ACTIVITY,
    }
}

/// The activity's number; each is in its class's table.
fn activity(class: &Class, event: &Event<'_>, sense: &Sense<'_>) -> u32 {
    let says = |word: &str| event.action.split(['.', '-', '_']).any(|part| part == word);
    match class.uid {
        0 => 0,
        2003 | 2004 => 1,
        3001 => match sense.change {
            Change::Create => 1,
            Change::Delete => 6,
            _ if says("password") => 3,
            _ if says("lockout") || says("lock") => 9,
            _ if says("enable") => 2,
            _ if says("disable") => 5,
            _ => OTHER,
        },
        3002 => match sense.change {
            Change::Logon => 1,
            Change::Logoff => 2,
            _ => OTHER,
        },
        3005 => match sense.change {
            Change::Assign | Change::Update | Change::Create => 1,
            Change::Revoke | Change::Delete => 2,
            _ => OTHER,
        },
        3006 => match sense.change {
            Change::Assign => 3,
            Change::Revoke => 4,
            Change::Delete => 5,
            Change::Create => 6,
            _ => OTHER,
        },
        6002 => match sense.change {
            Change::Start => 3,
            Change::Stop => 4,
            Change::Restart => 5,
            Change::Update if !says("restore") => 8,
            _ => OTHER,
        },
        _ => match sense.change {
            Change::Create => 1,
            Change::Read => 2,
            Change::Update | Change::Assign => 3,
            Change::Delete | Change::Revoke => 4,
            _ => OTHER,
        },
    }
}

fn is_finding(class: &Class) -> bool {
    class.uid / 1000 == 2
}

fn has_host_profile(class: &Class) -> bool {
    is_finding(class) || class.uid == LIFECYCLE.uid
}

fn severity(grade: Grade) -> (u32, &'static str) {
    match grade {
        Grade::Informational => (1, "Informational"),
        Grade::Low => (2, "Low"),
        Grade::Medium => (3, "Medium"),
        Grade::High => (4, "High"),
        Grade::Critical => (5, "Critical"),
    }
}

fn metadata(o: &mut Object<'_>, view: &View<'_>, sense: &Sense<'_>, class: &Class) {
    let View { id, record, event, .. } = view;
    o.group("metadata", |o| {
        o.text("version", VERSION);
        o.plain("uid", id);
        o.number_of("sequence", i64::try_from(record.sequence.0).ok());
        o.text_of("event_code", event.kind.as_deref());
        o.text("log_name", record.stream.as_str());
        o.text("log_provider", sense.product.name);
        o.number("logged_time", millis(record.received));
        o.plain("original_time", view.time());
        o.text_of("log_level", event.severity.as_deref());
        o.text_of("correlation_uid", event.request_id.as_deref());
        if let Some(bytes) = record.cut_from.and_then(|bytes| i64::try_from(bytes).ok()) {
            o.flag("is_truncated", true);
            o.number("untruncated_size", bytes);
        }
        o.group("product", |o| product(o, sense));
        // In these classes it is this profile that knows an actor.
        o.texts("profiles", has_host_profile(class).then_some("host"));
    });
}

fn product(o: &mut Object<'_>, sense: &Sense<'_>) {
    o.text("name", sense.product.name);
    o.text("vendor_name", sense.product.vendor);
}

/// Who did it. A user must have a name or an id.
fn actor(o: &mut Object<'_>, event: &Event<'_>) {
    o.group("actor", |o| {
        o.group("user", |o| user(o, event));
        o.group("session", |o| o.text_of("uid", event.session_id.as_deref()));
    });
}

fn user(o: &mut Object<'_>, event: &Event<'_>) {
    let actor = &event.actor;
    if said(actor.name.as_deref()).or(said(actor.id.as_deref())).is_none() {
        o.text("name", UNKNOWN);
        return;
    }
    o.text_of("name", actor.name.as_deref());
    o.text_of("uid", actor.id.as_deref());
    let groups = actor.groups.iter().filter(|group| !group.is_empty());
    o.list("groups", groups, |o, group| o.text("name", group));
}

/// To whom it was done.
fn target(o: &mut Object<'_>, view: &View<'_>) {
    let (id, name) = view.target_user().unwrap_or_default();
    o.group("user", |o| {
        o.text_of("name", name);
        o.text_of("uid", id);
    });
}

fn authentication(o: &mut Object<'_>, event: &Event<'_>) {
    let Some(method) = said(event.actor.method.as_deref()) else { return };
    let known = PROTOCOLS.iter().find(|(word, ..)| method.eq_ignore_ascii_case(word));
    let (number, caption) =
        known.map_or((OTHER, method), |(_, number, caption)| (*number, caption));
    o.number("auth_protocol_id", number);
    o.text("auth_protocol", caption);
}

fn client(o: &mut Object<'_>, sense: &Sense<'_>) {
    o.group("src_endpoint", |o| match (sense.client.ip, sense.client.address) {
        (Some(ip), _) => {
            o.plain("ip", ip);
            o.number_of("port", sense.client.port);
        }
        (None, address) => o.text("name", address.unwrap_or(UNKNOWN)),
    });
}

fn api(o: &mut Object<'_>, event: &Event<'_>) {
    let detail = |name| event.detail(name);
    o.group("api", |o| {
        let action = said(Some(event.action.as_ref()));
        o.text("operation", said(detail("verb")).or(action).unwrap_or(UNKNOWN));
        o.group("request", |o| o.text_of("uid", event.request_id.as_deref()));
        o.group("response", |o| {
            o.number_of("code", detail("code").and_then(|code| code.parse::<u16>().ok()));
        });
        o.group("group", |o| o.text_of("name", event.resource.group.as_deref()));
    });
    o.group("http_request", |o| {
        o.text_of("http_method", detail("method"));
        o.text_of("user_agent", detail("user-agent"));
        let url = detail("url").or(detail("uri"));
        o.group("url", |o| o.text_of("url_string", url));
    });
}

fn resources(o: &mut Object<'_>, event: &Event<'_>) {
    let resource = &event.resource;
    // A resource must have a name or an id.
    let named = said(resource.id.as_deref()).or(said(resource.name.as_deref())).is_some();
    o.list("resources", named.then_some(resource), |o, resource| {
        o.text_of("name", resource.name.as_deref());
        o.text_of("uid", resource.id.as_deref());
        o.text_of("type", resource.kind.as_deref());
        o.text_of("namespace", resource.namespace.as_deref());
    });
}

fn compliance(o: &mut Object<'_>, view: &View<'_>, sense: &Sense<'_>) {
    let resource = &view.event.resource;
    actor(o, &view.event);
    o.group("compliance", |o| {
        o.text_of("control", resource.name.as_deref().or(resource.id.as_deref()));
        o.number("status_id", 3);
        o.text("status", "Fail");
    });
    o.group("finding_info", |o| {
        o.plain("uid", view.id);
        o.text("title", sense.signature);
    });
}

fn detection(o: &mut Object<'_>, view: &View<'_>, sense: &Sense<'_>) {
    let event = &view.event;
    let detail = |name| event.detail(name);
    actor(o, event);
    o.group("finding_info", |o| {
        o.plain("uid", view.id);
        o.text("title", sense.signature);
        o.text_of("desc", detail("message"));
        o.group("analytic", |o| {
            o.text("name", sense.signature);
            o.number("type_id", 1);
            o.text("type", "Rule");
        });
        let tags = detail("tags").unwrap_or_default();
        let found = Techniques::of(tags);
        // Which of the tactics a technique serves is not said.
        let tactics = found.tactics.iter().map(|name| ("tactic", "name", *name));
        let whole = found.ids.iter().map(|id| ("technique", "uid", *id));
        let parts = found.sub_ids.iter().map(|id| ("sub_technique", "uid", *id));
        o.list("attacks", tactics.chain(whole).chain(parts), |o, (what, key, value)| {
            o.group(what, |o| o.text(key, value));
        });
        o.texts("types", tags.split_whitespace());
    });
    resources(o, event);
}

/// What OCSF has no place for in this class.
fn unmapped(o: &mut Object<'_>, view: &View<'_>, class: &Class, original: Original<'_>) {
    let View { record, event, .. } = view;
    let detail = |name| event.detail(name);
    o.text("origin", view.chain.origin.as_str());
    o.plain("epoch", view.chain.epoch);
    o.plain("lane", view.chain.lane);
    o.text("listener", &record.listener.decode());
    o.text("peer", &record.peer.decode());
    o.text_of("tls_subject", record.tls_subject.map(Token::decode).as_deref());
    o.flag("recovered", record.recovered);
    o.text_of("redacted", record.redacted.map(Token::decode).as_deref());
    o.text_of("privileged", event.privileged.map(name_of::<Privilege>).as_deref());
    o.text_of("category", event.category.category().map(shared::event::Category::as_str));
    o.text_of("action", Some(event.action.as_ref()));
    o.text_of("request_id", event.request_id.as_deref());
    o.text_of("session_id", event.session_id.as_deref());
    o.text_of("acting_as", event.actor.acting_as.as_deref());
    o.text_of("environment", event.resource.environment.as_deref());
    o.text_of("stack", event.resource.stack.as_deref());
    o.text_of("resource_part", event.resource.part.as_deref());
    o.text_of("changes", changes_within(event, TEXT_BYTES_MAX).as_deref());
    o.text_of("image_digest", detail("image-digest"));
    o.text_of("git_sha", detail("git-commit"));
    o.text_of("role", detail("role"));
    o.text_of("stage", detail("stage"));
    if has_host_profile(class) {
        // These classes have no end of a connection.
        o.text_of("source_address", event.source_address.as_deref());
    }
    if event.stream == Stream::Falco {
        for name in ["host", "source", "pod", "container", "container-id", "image", "image-tag"] {
            o.text_of(name, detail(name));
        }
        for name in ["process", "parent-process", "executable", "command", "file", "syscall"] {
            o.text_of(name, detail(name));
        }
    }
    o.text_of("raw_omitted", original.omitted());
    if let Original::NotUtf8(raw) = original {
        o.base64("raw_base64", raw);
    }
}

/// `Other`, of every list of numbers.
const OTHER: u32 = 99;

/// What stands where a required name is not known.
const UNKNOWN: &str = "unknown";

/// How somebody proved who they are, by the words of Portainer.
const PROTOCOLS: [(&str, u32, &str); 6] = [
    ("ldap", 12, "LDAP"),
    ("oauth", 6, "OAUTH 2.0"),
    ("oauth2", 6, "OAUTH 2.0"),
    ("oidc", 4, "OpenID"),
    ("openid", 4, "OpenID"),
    ("saml", 5, "SAML"),
];

const BASE: Class = Class {
    uid: 0,
    name: "Base Event",
    category: "Uncategorized",
    activities: &[(0, "Unknown"), (OTHER, "Other")],
};

const COMPLIANCE_FINDING: Class = Class {
    uid: 2003,
    name: "Compliance Finding",
    category: "Findings",
    activities: &[(1, "Create")],
};

const DETECTION_FINDING: Class = Class {
    uid: 2004,
    name: "Detection Finding",
    category: "Findings",
    activities: &[(1, "Create")],
};

const ACCOUNT_CHANGE: Class = Class {
    uid: 3001,
    name: "Account Change",
    category: "Identity & Access Management",
    activities: &[
        (1, "Create"),
        (2, "Enable"),
        (3, "Password Change"),
        (5, "Disable"),
        (6, "Delete"),
        (9, "Lock"),
        (OTHER, "Other"),
    ],
};

const AUTHENTICATION: Class = Class {
    uid: 3002,
    name: "Authentication",
    category: "Identity & Access Management",
    activities: &[(1, "Logon"), (2, "Logoff"), (OTHER, "Other")],
};

const USER_ACCESS: Class = Class {
    uid: 3005,
    name: "User Access Management",
    category: "Identity & Access Management",
    activities: &[(1, "Assign Privileges"), (2, "Revoke Privileges"), (OTHER, "Other")],
};

const GROUP_MANAGEMENT: Class = Class {
    uid: 3006,
    name: "Group Management",
    category: "Identity & Access Management",
    activities: &[
        (3, "Add User"),
        (4, "Remove User"),
        (5, "Delete"),
        (6, "Create"),
        (OTHER, "Other"),
    ],
};

const LIFECYCLE: Class = Class {
    uid: 6002,
    name: "Application Lifecycle",
    category: "Application Activity",
    activities: &[(3, "Start"), (4, "Stop"), (5, "Restart"), (8, "Update"), (OTHER, "Other")],
};

const API_ACTIVITY: Class = Class {
    uid: 6003,
    name: "API Activity",
    category: "Application Activity",
    activities: &[(1, "Create"), (2, "Read"), (3, "Update"), (4, "Delete"), (OTHER, "Other")],
};

/// The most bytes of one text, but not of the record.
const TEXT_BYTES_MAX: usize = 8191;

/// The largest record that an event carries.
const RAW_BYTES_MAX: usize = 1 << 20;
