//! Portainer's messages. No captured line is public, so that every shape is read that is described:
//! the two record types, the names of an audit envelope in any spelling, `key=value`, and plain text.

mod docker;
mod payload;
mod route;
mod routes;
mod words;

use std::borrow::Cow;

use crate::clock::Nanos;
use crate::json::Kind;
use crate::record::Stream;

use super::keys::{Key, Slots, folded};
use super::shapes::Shape;
use super::timestamp;
use super::view::{
    Access, Category, Classified, Event, Outcome, Privilege, PrivilegeSettings, Unclassified,
};

pub(super) use route::method_and_url;
use route::{Check, Route};
use words::{EXEC_WORDS, NOUNS, SESSION_WORDS};

/// The stream of an object, if it has a shape of Portainer. `believed` says that its header names
/// Portainer, so that one of the names is enough.
pub(super) fn stream_of(slots: &Slots<'_>, believed: bool) -> Option<Stream> {
    let user = slots.get(Key::User).is_some_and(|user| user.kind() == Kind::String);
    let named = user || slots.has(Key::Username) || slots.has(Key::UserId);
    let did = slots.has(Key::Action) || slots.has(Key::EventType);
    let stamped = slots.has(Key::Timestamp) || slots.has(Key::Time);
    let login = named && stamped && slots.has(Key::Type) && slots.has(Key::Origin);
    let activity = named && slots.has(Key::Action) && slots.has(Key::Context);
    let envelope = named && did && slots.count(&ENVELOPE) >= 2;
    // The columns of the CSV export, as some re-encode them.
    let export =
        slots.has(Key::Username) && stamped && slots.has(Key::Origin) && slots.has(Key::Result);
    if login || export || activity || envelope || (believed && (named || did)) {
        let session = is_session(&Source::Json(slots));
        return Some(if session { Stream::PortainerAuth } else { Stream::PortainerActivity });
    }
    None
}

/// Where the facts of an event come from.
#[derive(Clone, Copy, Debug)]
enum Source<'a, 't> {
    Json(&'a Slots<'t>),
    Pairs(&'a [(Key, Cow<'t, str>)]),
}

impl<'t> Source<'_, 't> {
    fn text(&self, key: Key) -> Option<Cow<'t, str>> {
        match self {
            Source::Json(slots) => slots.text(key),
            Source::Pairs(pairs) => {
                pairs.iter().rev().find(|(name, _)| *name == key).map(|(_, value)| value.clone())
            }
        }
    }

    fn first(&self, keys: &[Key]) -> Option<Cow<'t, str>> {
        keys.iter().find_map(|key| self.text(*key))
    }

    fn has(&self, key: Key) -> bool {
        self.text(key).is_some()
    }
}

/// Whether this is about a session: who came in, or tried to.
fn is_session(source: &Source<'_, '_>) -> bool {
    let action = source.text(Key::Action);
    if action.as_deref().and_then(method_and_url).is_some() {
        return false;
    }
    if source.has(Key::Origin) && source.has(Key::Type) && action.is_none() {
        return true;
    }
    let says = |text: Option<Cow<'_, str>>| {
        text.is_some_and(|text| {
            words::words(&text).iter().any(|word| SESSION_WORDS.contains(&word.as_str()))
        })
    };
    says(action)
        || says(source.text(Key::EventType))
        || says(source.text(Key::Category))
        || says(source.text(Key::Type))
        || (says(source.text(Key::Result)) && source.has(Key::Origin))
        || (source.has(Key::AuthMethod)
            && !source.has(Key::ResourceType)
            && !source.has(Key::ResourceId))
}

/// The event of an object.
pub(super) fn event<'t>(
    slots: &Slots<'t>,
    stream: Stream,
    settings: &PrivilegeSettings,
) -> Event<'t> {
    read(&Source::Json(slots), Some(slots), stream, settings)
}

/// The event of a message that is no JSON object of a known shape: `key=value`, or words.
pub(super) fn text<'t>(text: &'t [u8], stream: Stream, settings: &PrivilegeSettings) -> Event<'t> {
    let text = String::from_utf8_lossy(text);
    if let Cow::Borrowed(borrowed) = text {
        return text_event(borrowed, stream, settings);
    }
    text_event(&text, stream, settings).into_owned()
}

fn text_event<'t>(text: &'t str, stream: Stream, settings: &PrivilegeSettings) -> Event<'t> {
    let pairs = pairs(text);
    if pairs.len() >= PAIRS_MIN {
        return read(&Source::Pairs(&pairs), None, stream, settings);
    }
    let mut event = Event::blank(stream);
    let request = METHOD_STARTS.iter().find_map(|start| {
        let at = text.find(start)?;
        route::method_and_url(&text[at..])
    });
    if let Some((method, url)) = request {
        let end = url.as_ptr() as usize + url.len() - text.as_ptr() as usize;
        let start = method.as_ptr() as usize - text.as_ptr() as usize;
        event.kind = Some(Cow::Borrowed(&text[start..end]));
        apply_route(&mut event, method, url, None);
    } else if stream == Stream::PortainerAuth {
        let said = words::words(text);
        let says = |list: &[&str]| said.iter().any(|word| list.contains(&word.as_str()));
        event.category = Classified::As { category: Category::Authentication };
        event.outcome = if says(&["fail", "failed", "failure", "invalid", "denied", "unauthorized"])
        {
            Some(Outcome::Failure)
        } else if says(&["success", "successful", "succeeded", "loggedin"]) {
            Some(Outcome::Success)
        } else {
            None
        };
        let leaves = says(&["logout", "loggedout", "logoff"]);
        event.action = Cow::Borrowed(if leaves { "session.logout" } else { "session.login" });
        let names = text.split(|char: char| char.is_whitespace() || "\"',;:()[]".contains(char));
        let breaks = names.into_iter().any(|name| is_break_glass_name(name, settings));
        event.privileged = breaks.then_some(Privilege::BreakGlass);
    }
    event.details.push(("message", Cow::Borrowed(text)));
    event
}

/// The pairs of a text whose keys are known; a value may stand in quotes.
fn pairs(text: &str) -> Vec<(Key, Cow<'_, str>)> {
    let mut pairs = Vec::new();
    let mut rest = text;
    while let Some(equals) = rest.find('=') {
        let name = rest[..equals].trim_end();
        let name = &name[name.rfind([' ', ',', ';', '\t', '[', '(']).map_or(0, |at| at + 1)..];
        let after = &rest[equals + 1..];
        let (value, left) = if let Some(inner) = after.strip_prefix('"') {
            let end = inner.find('"').unwrap_or(inner.len());
            (&inner[..end], inner.get(end + 1..).unwrap_or_default())
        } else {
            after.split_at(unquoted_end(after))
        };
        if let Some(key) = folded(name.as_bytes()).filter(|_| !value.is_empty()) {
            pairs.push((key, Cow::Borrowed(value)));
        }
        rest = left;
    }
    pairs
}

/// Where a value without quotes ends: at a blank or comma, but `POST /stacks` is one value.
fn unquoted_end(text: &str) -> usize {
    let end = text.find([' ', ',', ';', '\t', ']', ')']).unwrap_or(text.len());
    if method_and_url(text).is_some() && text[..end].bytes().all(|byte| byte.is_ascii_uppercase()) {
        let url = end + 1;
        return text[url..].find([' ', ',', ';', '\t']).map_or(text.len(), |at| url + at);
    }
    end
}

fn read<'t>(
    source: &Source<'_, 't>,
    slots: Option<&Slots<'t>>,
    stream: Stream,
    settings: &PrivilegeSettings,
) -> Event<'t> {
    let mut event = Event::blank(stream);
    event.actor.name = source.text(Key::Username).or_else(|| match slots {
        Some(slots) => slots.str(Key::User),
        None => source.text(Key::User),
    });
    event.actor.id = source.text(Key::UserId);
    event.time = source.first(&[Key::Timestamp, Key::Time]).and_then(|time| any_time(&time));
    event.severity = source.first(&[Key::Severity, Key::Level]);
    event.request_id = source.text(Key::RequestId);
    event.session_id = source.text(Key::SessionId);
    event.source_address = source.first(&[Key::SourceIp, Key::Origin]);
    let action = source.text(Key::Action);
    let is_login = source.has(Key::Origin) && (source.has(Key::Type) || source.has(Key::Result));
    if let Some(text) = &action
        && method_and_url(text).is_some()
    {
        match text {
            Cow::Borrowed(text) => {
                let (method, url) = method_and_url(text).unwrap_or_default();
                apply_route(&mut event, method, url, slots);
            }
            Cow::Owned(text) => {
                let (method, url) = method_and_url(text).unwrap_or_default();
                let mut own = Event::blank(stream);
                apply_route(&mut own, method, url, slots);
                let own = own.into_owned();
                (event.category, event.action, event.access) =
                    (own.category, own.action, own.access);
                (event.privileged, event.resource) = (own.privileged, own.resource);
                event.details.extend(own.details);
            }
        }
        // Only what was answered with success is written down.
        event.outcome = outcome(source).or(Some(Outcome::Success));
        event.resource.environment = source
            .first(&[Key::Environment, Key::Context])
            .filter(|context| context != "Portainer");
        event.kind = action;
    } else if action.is_none() && is_login {
        read_login(&mut event, source);
    } else {
        read_envelope(&mut event, source, action);
    }
    break_glass(&mut event, settings);
    event
}

/// A record of a login or logout.
fn read_login<'t>(event: &mut Event<'t>, source: &Source<'_, 't>) {
    event.category = Classified::As { category: Category::Authentication };
    let result = source.text(Key::Result).unwrap_or_default().to_ascii_lowercase();
    let kind = source.text(Key::Type).unwrap_or_default();
    let (action, outcome, kind) = match kind.as_ref() {
        "1" => ("session.login", Some(Outcome::Success), "login"),
        "2" => ("session.login", Some(Outcome::Failure), "login failure"),
        "3" => ("session.logout", Some(Outcome::Success), "logout"),
        _ if result.contains("logout") => ("session.logout", Some(Outcome::Success), "logout"),
        _ if result.contains("fail") => ("session.login", Some(Outcome::Failure), "login failure"),
        _ if result.contains("success") => ("session.login", Some(Outcome::Success), "login"),
        _ => ("session.login", None, "login"),
    };
    event.action = Cow::Borrowed(action);
    event.outcome = outcome;
    event.kind = Some(Cow::Borrowed(kind));
    event.actor.method = source.text(Key::Context).map(|context| match context.as_ref() {
        "1" => Cow::Borrowed("internal"),
        "2" => Cow::Borrowed("ldap"),
        "3" => Cow::Borrowed("oauth"),
        _ => Cow::Owned(context.to_ascii_lowercase()),
    });
}

/// What a request of `METHOD URL` was about; the payload is read only where it decides.
fn apply_route<'t>(
    event: &mut Event<'t>,
    method: &'t str,
    url: &'t str,
    slots: Option<&Slots<'t>>,
) {
    let mut hit = route::find(method, url);
    let payload = slots.and_then(|slots| slots.get(Key::Payload));
    let binds = hit.kubernetes.is_some() && hit.access == Access::Write;
    if (hit.check.is_some() || binds) && payload.is_some() {
        hit = payload::decide(hit, payload);
    }
    event.category = hit.category;
    event.action = hit.action;
    event.access = hit.access;
    event.privileged = hit.privilege;
    event.resource.kind = hit.kind;
    event.resource.part = hit.part;
    event.resource.id = hit.id.map(Cow::Borrowed);
    event.resource.name = hit.name;
    event.resource.namespace = hit.namespace;
    event.details.reserve(DETAILS);
    event.detail_of("environment-id", hit.environment_id);
    event.details.push(("method", Cow::Borrowed(method)));
    event.details.push(("url", Cow::Borrowed(url)));
}

/// An event told by names: `ResourceType`, `Action`, `Result` and their like.
fn read_envelope<'t>(event: &mut Event<'t>, source: &Source<'_, 't>, action: Option<Cow<'t, str>>) {
    event.actor.method = source.text(Key::AuthMethod);
    event.resource.kind = source.text(Key::ResourceType);
    event.resource.id = source.text(Key::ResourceId);
    event.resource.name = source.first(&[Key::ResourceName, Key::Team]);
    event.resource.environment =
        source.first(&[Key::Environment, Key::Context]).filter(|context| context != "Portainer");
    event.resource.stack = source.text(Key::Stack);
    event.resource.namespace = source.text(Key::Namespace);
    event.outcome = outcome(source);
    let kind = source.first(&[Key::EventType, Key::Type]);
    let group = source.text(Key::Category);
    event.detail_of("role", source.text(Key::Role));
    event.detail_of("before", source.text(Key::Before));
    event.detail_of("after", source.text(Key::After));
    event.detail_of("image-digest", source.text(Key::ImageDigest));
    event.detail_of("git-commit", source.text(Key::GitCommit));
    let of = |text: Option<&str>| words::words(text.unwrap_or_default());
    let done = of(action.as_deref());
    let typed = of(kind.as_deref());
    let about = of(event.resource.kind.as_deref());
    let grouped = of(group.as_deref());
    let says = |list: &[&str]| {
        [&done, &typed].into_iter().flatten().any(|word| list.contains(&word.as_str()))
    };
    let noun_in =
        |words: &[String]| NOUNS.iter().find(|(noun, _, _)| words.iter().any(|word| word == noun));
    let noun = noun_in(&about).or_else(|| noun_in(&typed)).or_else(|| noun_in(&done));
    let session = is_session(source);
    let category = if session {
        Some(Category::Authentication)
    } else {
        let named = Category::ALL
            .into_iter()
            .find(|category| grouped.concat().starts_with(&category.as_str().replace('-', "")));
        // What the words say may be more than the source's own category admits.
        let worded = noun.map(|(_, category, _)| *category);
        worded.filter(|category| category.is_guarded()).or(named).or(worded)
    };
    event.category = match category {
        Some(category) => Classified::As { category },
        None => Classified::Not { unclassified: Unclassified::UnknownAction },
    };
    let reads = says(&["get", "list", "read", "view", "inspect"]) && !says(&EXEC_WORDS);
    event.access = if reads { Access::Read } else { Access::Write };
    event.privileged = envelope_privilege(event, source, noun.map(|(_, _, noun)| *noun), &says);
    let verb =
        action.as_deref().map(|text| text.trim().to_ascii_lowercase().replace([' ', '_'], "."));
    event.action = match (noun, verb) {
        _ if session && says(&["logout", "logoff", "signout"]) => Cow::Borrowed("session.logout"),
        _ if session && says(&["login", "logon", "signin", "authenticate", "authentication"]) => {
            Cow::Borrowed("session.login")
        }
        (_, Some(verb)) if verb.contains('.') => Cow::Owned(verb),
        (Some((_, _, noun)), Some(verb)) => Cow::Owned(format!("{noun}.{verb}")),
        (Some((_, _, noun)), None) => Cow::Owned(format!("{noun}.event")),
        (None, Some(verb)) => Cow::Owned(format!("unknown.{verb}")),
        (None, None) => Cow::Borrowed("unknown.event"),
    };
    event.kind = kind.or(action);
}

fn envelope_privilege(
    event: &Event<'_>,
    source: &Source<'_, '_>,
    noun: Option<&str>,
    says: &dyn Fn(&[&str]) -> bool,
) -> Option<Privilege> {
    if says(&EXEC_WORDS) {
        return Some(Privilege::Exec);
    }
    if says(&["impersonate", "impersonation", "clusteradmin"]) {
        return Some(Privilege::ClusterAdmin);
    }
    let deletes = says(&["delete", "deleted", "destroy", "remove", "removed"]);
    match noun {
        Some("secret") if deletes => return Some(Privilege::SecretDeletion),
        Some("backup") if event.access == Access::Write => return Some(Privilege::Backup),
        _ => {}
    }
    if event.access == Access::Read || deletes {
        return None;
    }
    let identity = event.category.category() == Some(Category::IdentityAndAccess)
        || matches!(noun, Some("environment"));
    let after = [Key::Role, Key::After].into_iter().find_map(|key| source.text(key));
    let granted = after.map(|after| words::words(&after)).unwrap_or_default();
    let administrator =
        |word: &String| matches!(word.as_str(), "admin" | "administrator" | "clusteradmin");
    let by_id = source.text(Key::Role).is_some_and(|role| role == "1");
    if identity && (by_id || granted.iter().any(administrator)) {
        return Some(Privilege::AdministratorGrant);
    }
    let named = event.resource.name.as_deref().map(words::words).unwrap_or_default();
    let kinds = event.resource.kind.as_deref().map(words::words).unwrap_or_default();
    if noun == Some("role") && named.iter().any(administrator) {
        return Some(Privilege::AdministratorGrant);
    }
    let audits =
        |word: &String| matches!(word.as_str(), "audit" | "syslog" | "activitylog" | "siem");
    let settings = says(&["settings", "setting", "config"]) || noun == Some("settings");
    let about_audit = kinds.iter().chain(&named).any(audits) || says(&["audit", "syslog", "siem"]);
    (about_audit && (settings || says(&["update", "change", "disable", "modify"])))
        .then_some(Privilege::AuditSettings)
}

fn outcome(source: &Source<'_, '_>) -> Option<Outcome> {
    let result = source.text(Key::Result)?.to_ascii_lowercase();
    let says = |list: &[&str]| list.iter().any(|word| result.contains(word));
    if says(&["denied", "forbid", "unauthor", "reject", "401", "403"]) {
        Some(Outcome::Denied)
    } else if says(&["fail", "error", "false", "invalid"]) {
        Some(Outcome::Failure)
    } else if says(&["success", "succe", "ok", "true", "allow", "200", "201", "204"]) {
        Some(Outcome::Success)
    } else {
        None
    }
}

/// The break-glass account: user id 1, or, where somebody logs in, one of the configured names.
fn break_glass(event: &mut Event<'_>, settings: &PrivilegeSettings) {
    let first = event.actor.id.as_deref() == Some("1");
    let session = event.category.category() == Some(Category::Authentication);
    let named = session
        && event.actor.name.as_deref().is_some_and(|name| is_break_glass_name(name, settings));
    if first || named {
        event.privileged = event.privileged.or(Some(Privilege::BreakGlass));
    }
}

/// Portainer takes no notice of letter case in names.
fn is_break_glass_name(name: &str, settings: &PrivilegeSettings) -> bool {
    settings.break_glass_names.iter().any(|known| known.eq_ignore_ascii_case(name.trim()))
}

/// A time in seconds, milliseconds or nanoseconds since 1970, or as text.
fn any_time(text: &str) -> Option<Nanos> {
    if let Ok(number) = text.parse::<i64>() {
        let unit = match number.unsigned_abs() {
            0..100_000_000_000 => 1_000_000_000,
            100_000_000_000..100_000_000_000_000 => 1_000_000,
            100_000_000_000_000..100_000_000_000_000_000 => 1_000,
            _ => 1,
        };
        return number.checked_mul(unit).map(Nanos);
    }
    timestamp::instant(text)
}

/// What no rule may suppress.
pub(super) fn shapes() -> impl Iterator<Item = Shape> {
    let auth = Shape {
        note: "every record of a login, logout or session",
        ..Shape::of(Stream::PortainerAuth)
    };
    let base = Shape::of(Stream::PortainerActivity);
    let rows = routes::ROUTES.iter().chain(docker::ROUTES);
    let guarded = rows.filter(|row| row.privilege.is_some() || row.category.is_guarded());
    let certain = guarded.map(move |row| Shape {
        category: Some(row.category),
        action: Some(row.action),
        access: Some(row.access),
        privilege: row.privilege,
        note: row.path,
        ..base
    });
    let checked = routes::ROUTES.iter().filter(|row| row.check.is_some()).flat_map(move |row| {
        let note = "the payload grants a right, or changes what is recorded or who may come in";
        let of = |action| Shape { action: Some(action), certain: false, note, ..base };
        let assigns = Shape { action: Some("role.assign"), ..base };
        let proves = Shape { action: Some("settings.authentication.update"), ..base };
        [of(row.action), assigns, proves]
    });
    // A proxied request is judged by the tables of Kubernetes.
    let proxied = super::kubernetes::shapes().filter(|shape| shape.kind.is_some()).map(|shape| {
        Shape { stream: Stream::PortainerActivity, verbs: &[], certain: false, ..shape }
    });
    let named =
        Category::ALL.into_iter().filter(|category| category.is_guarded()).map(move |category| {
            Shape {
                category: Some(category),
                note: "told by names, or by a route that is in no table",
                ..base
            }
        });
    let first = Shape {
        certain: false,
        privilege: Some(Privilege::BreakGlass),
        by_break_glass: true,
        note: "done by the break-glass account, or told by names that mean a privilege",
        ..base
    };
    [auth].into_iter().chain(certain).chain(checked).chain(proxied).chain(named).chain([first])
}

/// The members of an audit envelope of which at least two must be there.
const ENVELOPE: [Key; 13] = [
    Key::After,
    Key::AuthMethod,
    Key::Before,
    Key::Environment,
    Key::EventType,
    Key::Namespace,
    Key::Origin,
    Key::RequestId,
    Key::ResourceId,
    Key::ResourceType,
    Key::Result,
    Key::SessionId,
    Key::SourceIp,
];

const METHOD_STARTS: [&str; 5] = ["POST ", "PUT ", "PATCH ", "DELETE ", "GET "];

/// Room for the details of an activity, so that they are allocated once.
const DETAILS: usize = 4;

/// How many pairs make a message one of pairs: a word with `=` may stand in any.
const PAIRS_MIN: usize = 2;
