//! From `METHOD URL` to what was done: Portainer's own routes, and those of the Docker and Kubernetes
//! APIs that it is a proxy of.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::LazyLock;

use memchr::memmem::Finder;

use crate::event::kubernetes::{self, Request, uri};
use crate::event::view::{Access, Category, Classified, Privilege, Unclassified};
use crate::json::Value;

use super::{docker, routes};

/// One row of a table.
#[derive(Clone, Copy, Debug)]
pub(super) struct Route {
    pub(super) method: &'static str,
    pub(super) path: &'static str,
    pub(super) category: Category,
    pub(super) kind: &'static str,
    pub(super) action: &'static str,
    pub(super) access: Access,
    pub(super) privilege: Option<Privilege>,
    pub(super) check: Option<Check>,
}

/// What of the payload decides whether a row is a matter of privilege.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Check {
    /// Access policies of users and teams: role 1 is the environment administrator.
    AccessPolicies,
    /// Settings: of audit or syslog, or of how people prove who they are.
    AuditSettings,
    /// A user's role: 1 is the administrator, 3 the administrator of edge environments.
    UserRole,
}

impl Route {
    pub(super) const fn new(
        method: &'static str,
        path: &'static str,
        category: Category,
        kind: &'static str,
        action: &'static str,
    ) -> Self {
        let access = Access::Write;
        Self { method, path, category, kind, action, access, privilege: None, check: None }
    }

    /// Its requests change nothing, although its method is one that writes.
    pub(super) const fn reads(mut self) -> Self {
        self.access = Access::Read;
        self
    }

    /// Its requests always belong to the privileged-access set.
    pub(super) const fn always(mut self, privilege: Privilege) -> Self {
        self.privilege = Some(privilege);
        self
    }

    /// The payload decides.
    pub(super) const fn decided_by(mut self, check: Check) -> Self {
        self.check = Some(check);
        self
    }
}

/// What a request was about.
#[derive(Debug)]
pub(super) struct Hit<'t> {
    pub(super) category: Classified,
    pub(super) action: Cow<'static, str>,
    pub(super) access: Access,
    pub(super) privilege: Option<Privilege>,
    pub(super) check: Option<Check>,
    /// The path of the Kubernetes API that was asked for, if it was; its verdict may need the payload.
    pub(super) kubernetes: Option<(&'t str, &'static str)>,
    pub(super) kind: Option<Cow<'t, str>>,
    pub(super) part: Option<Cow<'t, str>>,
    pub(super) id: Option<&'t str>,
    pub(super) name: Option<Cow<'t, str>>,
    pub(super) namespace: Option<Cow<'t, str>>,
    pub(super) environment_id: Option<Cow<'t, str>>,
}

impl Hit<'_> {
    fn blank() -> Self {
        Self {
            category: Classified::Not { unclassified: Unclassified::UnknownAction },
            action: Cow::Borrowed(""),
            access: Access::Write,
            privilege: None,
            check: None,
            kubernetes: None,
            kind: None,
            part: None,
            id: None,
            name: None,
            namespace: None,
            environment_id: None,
        }
    }
}

/// `METHOD URL`, if a text is that or begins so.
pub(in crate::event) fn method_and_url(text: &str) -> Option<(&str, &str)> {
    let text = text.trim_ascii_start();
    let (method, rest) = text.split_at(memchr::memchr(b' ', text.as_bytes())?);
    if !METHODS.contains(&method) {
        return None;
    }
    let rest = &rest[1..];
    let end = rest.bytes().position(|byte| byte.is_ascii_whitespace()).unwrap_or(rest.len());
    let url = &rest[..end];
    (url.starts_with('/') || url.contains("://")).then_some((method, url))
}

/// Looks a request up.
pub(super) fn find<'t>(method: &'t str, url: &'t str) -> Hit<'t> {
    let (path, absolute) = match url.split_once("://") {
        Some((_, rest)) if !url.starts_with('/') => {
            (memchr::memchr(b'/', rest.as_bytes()).map_or("", |at| &rest[at..]), true)
        }
        _ => (url, false),
    };
    let (mut path, mut absolute) = (path, absolute);
    // Portainer behind a base path, or asked by its whole URL.
    if let Some(at) = memchr::memmem::find(path.as_bytes(), b"/api/endpoints/") {
        path = &path[at + "/api".len()..];
        absolute = false;
    }
    if !absolute && let Some(rest) = path.strip_prefix("/api/") {
        path = &path[path.len() - rest.len() - 1..];
    }
    let end = memchr::memchr2(b'?', b'#', path.as_bytes()).unwrap_or(path.len());
    let query = path;
    let path = &path[..end];
    let mut buffer = [""; WORDS_MAX];
    let mut count = 0;
    let mut from = 0;
    for at in memchr::memchr_iter(b'/', path.as_bytes()).chain([path.len()]) {
        if at > from && count < WORDS_MAX {
            buffer[count] = &path[from..at];
            count += 1;
        }
        from = at + 1;
    }
    let words = &buffer[..count];
    let mut hit = if absolute {
        proxied(method, path, query, words)
    } else {
        own(method, path, query, words)
    };
    let parameters = query.get(end + 1..).unwrap_or_default();
    for (key, value) in parameters.split('&').filter_map(|pair| pair.split_once('=')) {
        let slot = match key {
            "name" | "podName" => &mut hit.name,
            "namespace" => &mut hit.namespace,
            "endpointId" => &mut hit.environment_id,
            _ => continue,
        };
        if slot.is_none() {
            *slot = Some(uri::percent_decoded(value));
        }
    }
    hit
}

/// A request to Portainer itself.
fn own<'t>(method: &str, path: &'t str, query: &'t str, words: &[&'t str]) -> Hit<'t> {
    if let Some(hit) = look_up(&TABLES.own, method, words) {
        return hit;
    }
    if let ["endpoints", environment, api, rest @ ..] = words {
        // An agent is asked for Docker behind a word of its own.
        let (api, rest) = match (*api, rest) {
            ("agent", [inner, rest @ ..]) => (*inner, rest),
            other => other,
        };
        let found = match api {
            "docker" => docker(method, rest),
            "kubernetes" => {
                let at =
                    path.find("/kubernetes/").map_or(path.len(), |at| at + "/kubernetes".len());
                kubernetes_api(method, &query[at..])
            }
            "azure" => Some(Hit {
                category: Classified::As { category: Category::Deployment },
                action: Cow::Borrowed(match method {
                    "DELETE" => "container.delete",
                    "PUT" => "container.create",
                    _ => "container.update",
                }),
                kind: Some(Cow::Borrowed("container")),
                ..Hit::blank()
            }),
            _ => None,
        };
        if let Some(mut hit) = found {
            hit.environment_id = Some(Cow::Borrowed(*environment));
            return hit;
        }
    }
    unknown(method, words)
}

/// A request that is noted as it was sent on to an agent or a socket.
fn proxied<'t>(method: &str, path: &'t str, query: &'t str, words: &[&'t str]) -> Hit<'t> {
    let kubernetes = match words.first() {
        Some(&("api" | "apis")) => kubernetes_api(method, query),
        Some(&"kubernetes") => {
            let at = path.find("/kubernetes").map_or(0, |at| at + "/kubernetes".len());
            kubernetes_api(method, &query[at..])
        }
        _ => None,
    };
    let words = if words.first() == Some(&"docker") { &words[1..] } else { words };
    kubernetes.or_else(|| docker(method, words)).unwrap_or_else(|| unknown(method, words))
}

fn docker<'t>(method: &str, words: &[&'t str]) -> Option<Hit<'t>> {
    // The version of the API may stand before the path: v1.41. The agent's own is v2.
    let versioned = words.first().is_some_and(|word| {
        word.strip_prefix("v1.").is_some_and(|rest| rest.bytes().all(|b| b.is_ascii_digit()))
    });
    let words = if versioned { &words[1..] } else { words };
    look_up(&TABLES.docker, method, words)
}

/// A request to the Kubernetes API of an environment.
fn kubernetes_api<'t>(method: &str, uri: &'t str) -> Option<Hit<'t>> {
    let target = uri::target(uri)?;
    let verb = match method {
        "GET" | "HEAD" => "get",
        "POST" => "create",
        "PUT" => "update",
        "PATCH" => "patch",
        "DELETE" if target.name.is_empty() => "deletecollection",
        "DELETE" => "delete",
        _ => return None,
    };
    let keep = |text: &'t str| (!text.is_empty()).then_some(Cow::Borrowed(text));
    let hit = Hit {
        kubernetes: Some((uri, verb)),
        kind: keep(target.resource),
        part: keep(target.part),
        name: keep(target.name),
        namespace: keep(target.namespace),
        ..Hit::blank()
    };
    Some(judged(hit, None))
}

/// The verdict on a request to the Kubernetes API, with the object that was sent where it is known.
pub(super) fn judged<'t>(mut hit: Hit<'t>, object: Option<Value<'_>>) -> Hit<'t> {
    let Some((uri, verb)) = hit.kubernetes else { return hit };
    let target = uri::target(uri).unwrap_or_default();
    let verdict = kubernetes::judge(&Request {
        group: target.group,
        resource: target.resource,
        part: target.part,
        name: target.name,
        verb,
        uri,
        object,
    });
    hit.category = verdict.category;
    hit.action = verdict.action;
    hit.access = verdict.access;
    hit.privilege = verdict.privilege;
    hit
}

/// A request that no row fits: its words say what they can. What touches people and their rights by
/// any of its words is guarded.
fn unknown<'t>(method: &str, words: &[&'t str]) -> Hit<'t> {
    let is_name =
        |word: &&&str| word.bytes().all(|byte| byte.is_ascii_alphabetic() || b"_-".contains(&byte));
    // No part that is looked for goes over a slash.
    let path = words.join("/").to_ascii_lowercase();
    let says =
        |list: &[Finder<'static>]| list.iter().any(|part| part.find(path.as_bytes()).is_some());
    let first = words.first().copied().unwrap_or_default();
    let category = if says(&IDENTITY_PARTS) {
        Some(Category::IdentityAndAccess)
    } else if says(&POLICY_PARTS) {
        Some(Category::Policy)
    } else {
        FIRST_WORDS.get(first).copied()
    };
    let noun = words.iter().rev().find(is_name).copied().unwrap_or("unknown");
    // A way to a shell that is in no table, of Podman say, is one all the same.
    let last = &words[words.len().saturating_sub(3)..];
    let enters = last.iter().any(|word| ["attach", "exec"].contains(word));
    if enters && matches!(method, "GET" | "POST") {
        return Hit {
            category: Classified::As { category: Category::Deployment },
            action: Cow::Borrowed("container.exec"),
            access: Access::Write,
            privilege: Some(Privilege::Exec),
            kind: (!first.is_empty()).then_some(Cow::Borrowed(first)),
            ..Hit::blank()
        };
    }
    let verb = match method {
        "POST" => "create",
        "PUT" | "PATCH" => "update",
        "DELETE" => "delete",
        _ => "read",
    };
    Hit {
        category: match category {
            Some(category) => Classified::As { category },
            None => Classified::Not { unclassified: Unclassified::UnknownAction },
        },
        action: Cow::Owned(format!("{}.{verb}", noun.to_ascii_lowercase())),
        access: kubernetes::access_of(method),
        kind: (!first.is_empty()).then_some(Cow::Borrowed(first)),
        ..Hit::blank()
    }
}

/// A table made ready for look-ups.
struct Table {
    /// By first word and number of words.
    rows: HashMap<(&'static str, usize), Vec<Ready>>,
    /// Those with a name of several words.
    open: Vec<Open>,
}

/// A row whose name may have several words: what stands before it and behind it.
struct Open {
    route: &'static Route,
    begin: Vec<&'static str>,
    end: Vec<&'static str>,
}

/// A row with its path taken apart.
struct Ready {
    route: &'static Route,
    words: Vec<&'static str>,
}

struct Tables {
    docker: Table,
    own: Table,
}

/// The category of everything behind a first word.
static FIRST_WORDS: LazyLock<HashMap<&'static str, Category>> = LazyLock::new(|| {
    let mut words = HashMap::new();
    for row in routes::ROUTES {
        words.entry(template(row).next().unwrap_or_default()).or_insert(row.category);
    }
    words
});

static IDENTITY_PARTS: LazyLock<Vec<Finder<'static>>> =
    LazyLock::new(|| IDENTITY_WORDS.iter().map(|word| Finder::new(*word)).collect());

static POLICY_PARTS: LazyLock<Vec<Finder<'static>>> =
    LazyLock::new(|| POLICY_WORDS.iter().map(|word| Finder::new(*word)).collect());

static TABLES: LazyLock<Tables> =
    LazyLock::new(|| Tables { docker: Table::of(docker::ROUTES), own: Table::of(routes::ROUTES) });

impl Table {
    fn of(routes: &'static [Route]) -> Self {
        let mut table = Self { rows: HashMap::new(), open: Vec::new() };
        for route in routes {
            let first = template(route).next().unwrap_or_default();
            if route.path.contains("*}") {
                let begin: Vec<_> =
                    template(route).take_while(|word| !word.starts_with('{')).collect();
                let end = template(route).skip(begin.len() + 1).collect();
                table.open.push(Open { route, begin, end });
            } else {
                let words: Vec<_> = template(route).collect();
                table.rows.entry((first, words.len())).or_default().push(Ready { route, words });
            }
        }
        // A word that is written out fits better than a parameter.
        for rows in table.rows.values_mut() {
            rows.sort_by_key(|ready| ready.route.path.matches('{').count());
        }
        table
    }
}

fn template(route: &'static Route) -> impl Iterator<Item = &'static str> {
    route.path.split('/').filter(|word| !word.is_empty())
}

fn look_up<'t>(table: &Table, method: &str, words: &[&'t str]) -> Option<Hit<'t>> {
    let first = *words.first()?;
    let rows = table.rows.get(&(first, words.len()));
    let fits = |ready: &&Ready| {
        let same = |(wanted, word): (&&str, &&str)| wanted.starts_with('{') || wanted == word;
        ready.route.method == method && ready.words.iter().zip(words).all(same)
    };
    if let Some(ready) = rows.and_then(|rows| rows.iter().find(fits)) {
        return Some(taken(ready, words));
    }
    // The row with the longest end is looked at first: `.../push` before the bare name.
    let mut best: Option<(&'static Route, usize)> = None;
    for Open { route, begin, end } in &table.open {
        let fits = route.method == method
            && words.len() > begin.len() + end.len()
            && words.starts_with(begin)
            && words.ends_with(end);
        if fits && best.is_none_or(|(_, length)| end.len() > length) {
            best = Some((route, end.len()));
        }
    }
    let (route, end) = best?;
    let mut hit = from_row(route);
    hit.name = Some(Cow::Owned(words[1..words.len() - end].join("/")));
    Some(hit)
}

fn from_row<'t>(route: &'static Route) -> Hit<'t> {
    Hit {
        category: Classified::As { category: route.category },
        action: Cow::Borrowed(route.action),
        access: route.access,
        privilege: route.privilege,
        check: route.check,
        kind: Some(Cow::Borrowed(route.kind)),
        ..Hit::blank()
    }
}

/// The row's verdict, with what the path says about the resource.
fn taken<'t>(ready: &Ready, words: &[&'t str]) -> Hit<'t> {
    let mut hit = from_row(ready.route);
    for (at, (wanted, word)) in ready.words.iter().copied().zip(words.iter().copied()).enumerate() {
        let inside = words.len() > 2 && matches!(words[0], "docker" | "endpoints" | "kubernetes");
        match wanted {
            "{environmentId}" | "{endpointId}" | "{endpoint_id}" => {
                hit.environment_id = Some(Cow::Borrowed(word));
            }
            "{id}" if at == 1 && inside => hit.environment_id = Some(Cow::Borrowed(word)),
            "{namespace}" | "{rpn}" => hit.namespace = Some(Cow::Borrowed(word)),
            "{name}" | "{release}" | "{secret}" | "{configmap}" | "{repositoryName}" => {
                hit.name = Some(Cow::Borrowed(word));
            }
            "{kind}" => hit.kind = Some(Cow::Borrowed(word)),
            _ if wanted.starts_with('{') => hit.id = Some(word),
            _ => {}
        }
    }
    hit
}

const METHODS: [&str; 7] = ["GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS"];

/// Parts of words of a path that no row fits which stand for people and their rights.
const IDENTITY_WORDS: [&str; 9] =
    ["access", "auth", "credential", "ldap", "member", "permission", "role", "team", "user"];

const POLICY_WORDS: [&str; 3] = ["admission", "policies", "policy"];

/// More words than any route has.
const WORDS_MAX: usize = 32;

#[cfg(test)]
mod tests {
    use super::*;

    const LIST: &str = include_str!("openapi-writes.txt");

    fn category(hit: &Hit<'_>) -> Option<Category> {
        hit.category.category()
    }

    #[test]
    fn every_published_write_operation_has_its_row() {
        let lines = LIST.lines().filter(|line| !line.starts_with('#'));
        let (mut all, mut newest, mut missing) = (0, 0, Vec::new());
        for line in lines {
            let mut fields = line.split('\t');
            let (method, path) = (fields.next().unwrap(), fields.next().unwrap());
            let path_here = path.replace(['{', '}'], "x");
            let words: Vec<&str> = path_here[1..].split('/').collect();
            all += 1;
            newest += usize::from(fields.next().unwrap().contains("BE 2.45.3"));
            let fits = |route: &&&'static Route| route.method == method && route.path == path;
            let row = routes::ROUTES.iter().find(|route| fits(&route));
            let hit = look_up(&TABLES.own, method, &words);
            if row.is_none() || hit.is_none_or(|hit| hit.action != row.unwrap().action) {
                missing.push(line);
            }
        }
        eprintln!(
            "{} of {all} write operations are covered, {newest} of them of the newest release",
            all - missing.len()
        );
        assert!(missing.is_empty(), "{missing:#?}");
        assert!(all > 250 && newest > 200);
    }

    #[test]
    fn requests_are_found_in_every_form() {
        for (text, action, wanted) in [
            ("PUT /stacks/3?endpointId=1", "stack.update", Some(Category::Deployment)),
            (
                "POST /api/stacks?type=2&method=string&endpointId=1",
                "stack.create",
                Some(Category::Deployment),
            ),
            (
                "POST http://unixsocket/containers/create?name=nginx",
                "container.create",
                Some(Category::Deployment),
            ),
            (
                "POST https://10.0.0.1:9001/v1.41/containers/abc/exec",
                "container.exec",
                Some(Category::Deployment),
            ),
            (
                "POST /endpoints/2/docker/v1.41/images/reg.example/a/b/push",
                "image.push",
                Some(Category::Deployment),
            ),
            (
                "DELETE /endpoints/2/docker/images/reg.example/a/b",
                "image.delete",
                Some(Category::Deployment),
            ),
            (
                "DELETE /endpoints/2/docker/secrets/s",
                "secret.delete",
                Some(Category::Configuration),
            ),
            (
                "POST /endpoints/2/docker/v2/browse/put",
                "volume.file.put",
                Some(Category::Deployment),
            ),
            (
                "POST /endpoints/1/kubernetes/api/v1/namespaces/n/pods/p/exec",
                "pod.exec",
                Some(Category::Deployment),
            ),
            (
                "DELETE /endpoints/1/kubernetes/api/v1/namespaces/n/secrets/s",
                "secret.delete",
                Some(Category::Configuration),
            ),
            (
                "POST https://kubernetes.default.svc/apis/apps/v1/namespaces/n/deployments",
                "deployment.create",
                Some(Category::Deployment),
            ),
            ("POST /endpoints/1/kubernetes/helm", "helm.install", Some(Category::Deployment)),
            ("DELETE /users/4/tokens/2", "apikey.revoke", Some(Category::IdentityAndAccess)),
            (
                "POST /registries/4/configure",
                "registry.credential.change",
                Some(Category::Configuration),
            ),
            ("POST /backup/s3/restore", "backup.restore", Some(Category::Administrative)),
            (
                "GET /websocket/exec?endpointId=1&id=abc&token=x",
                "container.exec",
                Some(Category::Deployment),
            ),
            ("POST /users/3/new-thing", "new-thing.create", Some(Category::IdentityAndAccess)),
            ("PUT /auth/mfa", "mfa.update", Some(Category::IdentityAndAccess)),
            ("DELETE /stacks/3/unheard/of", "of.delete", Some(Category::Deployment)),
            ("POST /unheard/3", "unheard.create", None),
            ("POST /", "unknown.create", None),
        ] {
            let (method, url) = method_and_url(text).unwrap();
            let hit = find(method, url);
            assert_eq!((hit.action.as_ref(), category(&hit)), (action, wanted), "{text}");
        }
        let (method, url) =
            method_and_url("POST http://unixsocket/containers/create?name=nginx").unwrap();
        assert_eq!(find(method, url).name.as_deref(), Some("nginx"));
        let hit = find("PUT", "/endpoints/7/registries/3");
        assert_eq!((hit.environment_id.as_deref(), hit.id), (Some("7"), Some("3")));
        assert_eq!(method_and_url("user logged in"), None);
    }
}
