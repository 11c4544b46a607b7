//! Audit events of the Kubernetes API server.

mod resources;
pub(super) mod uri;

use std::borrow::Cow;
use std::sync::LazyLock;

use crate::json::{Kind, Value};
use crate::record::Stream;

use super::keys::{Key, Slots};
use super::shapes::Shape;
use super::timestamp;
use super::view::{Access, Category, Classified, Event, Outcome, Privilege, Unclassified};

pub(super) use resources::Resource;
use resources::{GROUPS, PARTS, Part, RESOURCES};

/// What somebody asked of the API: of an audit event, or of a request that went through a proxy.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Request<'r> {
    pub(super) group: &'r str,
    pub(super) resource: &'r str,
    pub(super) part: &'r str,
    pub(super) name: &'r str,
    pub(super) verb: &'r str,
    pub(super) uri: &'r str,
    /// The object that was sent, if it is known.
    pub(super) object: Option<Value<'r>>,
}

/// What a request is about.
#[derive(Clone, Debug)]
pub(super) struct Verdict {
    pub(super) category: Classified,
    pub(super) action: Cow<'static, str>,
    pub(super) access: Access,
    pub(super) privilege: Option<Privilege>,
}

/// The row of a resource.
pub(super) fn resource(name: &str) -> Option<&'static Resource> {
    row_of(name).map(|at| &RESOURCES[at])
}

fn row_of(name: &str) -> Option<usize> {
    RESOURCES.binary_search_by(|row| row.name.cmp(name)).ok()
}

/// Whether a verb changes anything.
pub(super) fn access_of(verb: &str) -> Access {
    match verb {
        "get" | "list" | "watch" | "head" | "options" | "GET" | "HEAD" => Access::Read,
        _ => Access::Write,
    }
}

/// What a request is about, by the tables.
pub(super) fn judge(request: &Request<'_>) -> Verdict {
    let at = row_of(request.resource);
    let row = at.map(|at| &RESOURCES[at]);
    let part = part_of(request.resource, request.part);
    let category = part
        .map(|part| part.category)
        .or_else(|| row.map(|row| row.category))
        .or_else(|| group_category(request.group));
    let access = match (part, row) {
        (Some(part), _) => part.access,
        (None, Some(row)) if row.review => Access::Read,
        _ => access_of(request.verb),
    };
    let action = match (part, at) {
        (Some(part), _) => Cow::Borrowed(part.action),
        (None, Some(at)) if request.part.is_empty() => action_of(at, request.verb),
        (None, _) => {
            let noun = row.map_or(request.resource, |row| row.noun);
            let (dot, part) = if request.part.is_empty() { ("", "") } else { (".", request.part) };
            Cow::Owned(format!("{noun}{dot}{part}.{}", request.verb))
        }
    };
    Verdict {
        category: match category {
            Some(category) => Classified::As { category },
            None => Classified::Not { unclassified: Unclassified::UnknownAction },
        },
        action,
        access,
        privilege: part.and_then(|part| part.privilege).or_else(|| privilege(request, access)),
    }
}

fn part_of(resource: &str, part: &str) -> Option<&'static Part> {
    if part.is_empty() {
        return None;
    }
    let fits =
        |row: &&Part| row.name == part && (row.resource.is_empty() || row.resource == resource);
    PARTS.iter().find(fits)
}

/// What the resources of a group are about; those of an operator that is not known are its
/// configuration. A name without group that is in no table is nothing that the API server has.
fn group_category(group: &str) -> Option<Category> {
    let known = GROUPS.iter().find(|(end, _)| {
        group.strip_suffix(end).is_some_and(|head| head.is_empty() || head.ends_with('.'))
    });
    let custom = group.contains('.').then_some(Category::Configuration);
    known.map(|(_, category)| *category).or(custom)
}

/// `NOUN.VERB`, ready made for every resource and every usual verb.
fn action_of(row: usize, verb: &str) -> Cow<'static, str> {
    static ACTIONS: LazyLock<Vec<String>> = LazyLock::new(|| {
        let pairs = RESOURCES.iter().flat_map(|row| VERBS.iter().map(move |verb| (row, verb)));
        pairs.map(|(row, verb)| format!("{}.{verb}", row.noun)).collect()
    });
    match VERBS.iter().position(|known| *known == verb) {
        Some(verb) => Cow::Borrowed(ACTIONS[row * VERBS.len() + verb].as_str()),
        None => Cow::Owned(format!("{}.{verb}", RESOURCES[row].noun)),
    }
}

/// Why a request belongs to the privileged-access set. What can't be excluded counts, where only
/// people do it and seldom.
fn privilege(request: &Request<'_>, access: Access) -> Option<Privilege> {
    let deletes = request.verb.starts_with("delete");
    match request.resource {
        "nodes" | "pods" if request.part == "proxy" => {
            // The kubelet runs commands behind this proxy.
            let path = request.uri.split('?').next().unwrap_or_default();
            let behind = path.split_once("/proxy/").map_or("", |(_, behind)| behind);
            let word = behind.split('/').next().unwrap_or_default();
            KUBELET_COMMANDS.contains(&word).then_some(Privilege::Exec)
        }
        // The shell on a node that `kubectl debug node/...` opens is a pod of this name.
        "pods" if request.part.is_empty() && access == Access::Write && !deletes => {
            let metadata = request.object.and_then(|object| object.get("metadata"));
            let named = |key| metadata.and_then(|metadata| metadata.str_at(&[key]));
            let is_shell = |name: &str| NODE_SHELLS.iter().any(|begin| name.starts_with(begin));
            let debugs = is_shell(request.name)
                || ["name", "generateName"]
                    .iter()
                    .any(|key| named(key).is_some_and(|name| is_shell(&name)));
            (debugs || enters_node(request.object)).then_some(Privilege::Exec)
        }
        "secrets" if deletes => Some(Privilege::SecretDeletion),
        _ if AUDIT_RESOURCES.contains(&request.resource) && access == Access::Write => {
            Some(Privilege::AuditSettings)
        }
        "configmaps" | "secrets" if access == Access::Write => {
            let audits = AUDIT_WORDS.iter().any(|word| request.name.contains(word));
            audits.then_some(Privilege::AuditSettings)
        }
        "clusterrolebindings" | "rolebindings" if access == Access::Write && !deletes => {
            binds_cluster_admin(request).then_some(Privilege::ClusterAdmin)
        }
        "users" | "groups" if request.verb == "impersonate" => {
            is_cluster_admin(request.name).then_some(Privilege::ClusterAdmin)
        }
        _ => None,
    }
}

/// Whether a pod sees the processes of its node and may do anything to them: a shell on the node,
/// whatever it is called.
fn enters_node(object: Option<Value<'_>>) -> bool {
    let Some(spec) = object.and_then(|object| object.get("spec")) else { return false };
    let sees = spec.get("hostPID").and_then(|flag| flag.as_bool()) == Some(true);
    sees && spec.get("containers").is_some_and(|containers| {
        containers.children().any(|container| {
            let privileged = container.at(&["securityContext", "privileged"]);
            privileged.and_then(|flag| flag.as_bool()) == Some(true)
        })
    })
}

/// Whether a binding gives `cluster-admin`. Where the binding's body is not recorded, a binding of
/// the whole cluster counts unless its name is one of the API server's own.
fn binds_cluster_admin(request: &Request<'_>) -> bool {
    if let Some(object) = request.object {
        let role = object.get("roleRef").and_then(|role| role.get_any_case("name"));
        if let Some(role) = role.and_then(|name| name.as_str()) {
            return is_cluster_admin(&role);
        }
        let masters = object.get("subjects").is_some_and(|subjects| {
            subjects.children().any(|subject| {
                subject.str_at(&["name"]).is_some_and(|name| name == "system:masters")
            })
        });
        return masters || request.name.contains("cluster-admin");
    }
    let whole = request.resource == "clusterrolebindings";
    request.name.contains("cluster-admin") || (whole && !request.name.starts_with("system:"))
}

fn is_cluster_admin(name: &str) -> bool {
    CLUSTER_ADMINS.contains(&name)
}

/// The event of one audit record.
pub(super) fn event<'t>(slots: &Slots<'t>, stream: Stream) -> Event<'t> {
    let mut event = Event::blank(stream);
    event.details.reserve(DETAILS);
    let verb = slots.str(Key::Verb).unwrap_or_default();
    let stage = slots.str(Key::Stage);
    let uri = slots.str(Key::RequestUri).unwrap_or_default();
    let time = [Key::RequestReceived, Key::StageTimestamp, Key::Timestamp];
    event.time = time
        .into_iter()
        .filter_map(|key| slots.str(key))
        .find_map(|time| timestamp::instant(&time));
    event.request_id = slots.str(Key::AuditId);
    if let Some(user) = slots.get(Key::User) {
        read_user(&mut event, user);
    }
    let masters = slots.get(Key::ImpersonatedUser).is_some_and(|user| {
        // That somebody acts as another counts, whoever that is.
        let name = user.get_any_case("username").and_then(|name| name.as_str());
        event.actor.acting_as = (!user.is_null()).then(|| name.unwrap_or(Cow::Borrowed("")));
        let groups = user.get_any_case("groups");
        groups.is_some_and(|groups| {
            groups
                .children()
                .filter_map(|group| group.as_str())
                .any(|group| is_cluster_admin(&group))
        })
    });
    let mut version = None;
    let mut target = Reference::default();
    if let Some(reference) = slots.get(Key::ObjectRef) {
        target = Reference::of(reference);
        version = reference.get_any_case("apiVersion").and_then(|version| version.as_str());
    }
    // A whole event ends with its times; of one that was cut the reference may lack its end.
    if target.resource.is_none() || !slots.has(Key::StageTimestamp) {
        target.fill_from(&uri);
    } else if target.part.is_none() {
        target.fill_part_from(&uri);
    }
    // Some relays write the group into the version.
    let group_in_version =
        version.as_deref().and_then(|v| v.split_once('/')).map(|(group, _)| group);
    let group = target.group.as_deref().or(group_in_version).unwrap_or_default();
    let object = slots.get(Key::RequestObject).filter(|object| !is_empty(object));
    let answered = || {
        let answer = slots.get(Key::ResponseObject).filter(|object| !is_empty(object));
        // An error's answer is a Status, which says nothing about what was sent.
        answer.filter(|answer| answer.str_at(&["kind"]).is_none_or(|kind| kind != "Status"))
    };
    // A patch of a binding need not name the role; the answer does.
    let binds = target.resource.as_deref().is_some_and(|name| name.ends_with("rolebindings"));
    let says_all = object.filter(|object| !binds || object.get("roleRef").is_some());
    let recorded = says_all.or_else(answered).or(object);
    let verdict = match &target.resource {
        Some(resource) => judge(&Request {
            group,
            resource,
            part: target.part.as_deref().unwrap_or_default(),
            name: target.name.as_deref().unwrap_or_default(),
            verb: &verb,
            uri: &uri,
            object: recorded,
        }),
        None => without_resource(&uri, &verb),
    };
    event.category = verdict.category;
    event.action = verdict.action;
    event.access = verdict.access;
    let acts = masters || event.actor.acting_as.as_deref().is_some_and(is_cluster_admin);
    event.privileged = verdict.privilege.or(acts.then_some(Privilege::ClusterAdmin));
    event.resource.kind = target.resource;
    event.resource.part = target.part;
    event.resource.name = target.name;
    event.resource.namespace = target.namespace;
    event.resource.id = target.id;
    event.resource.group = target.group;
    event.kind = Some(kind_of(&verb, stage.as_deref()));
    read_addresses(&mut event, slots.get(Key::SourceIps));
    read_answer(&mut event, slots, stage.as_deref());
    let reason = event.detail("decision-reason").unwrap_or_default();
    if event.actor.acting_as.is_some() && reason.contains("\"cluster-admin\"") {
        event.privileged = event.privileged.or(Some(Privilege::ClusterAdmin));
    }
    event.detail_of("verb", Some(verb).filter(|verb| !verb.is_empty()));
    event.detail_of("stage", stage);
    event.detail_of("level", slots.str(Key::Level));
    event.detail_of("user-agent", slots.str(Key::UserAgent));
    event.detail_of("uri", Some(uri).filter(|uri| !uri.is_empty()));
    event
}

/// An object without members says as little as none: some re-encoders write one for each.
fn is_empty(object: &Value<'_>) -> bool {
    object.kind() != Kind::Object || object.children().next().is_none()
}

fn read_user<'t>(event: &mut Event<'t>, user: Value<'t>) {
    for member in user.children() {
        match member.key_bytes() {
            b"username" | b"Username" | b"userName" => event.actor.name = member.as_str(),
            b"uid" | b"UID" => event.actor.id = member.as_str().filter(|id| !id.is_empty()),
            b"groups" | b"Groups" => {
                event.actor.groups.reserve(GROUPS_USUAL);
                event.actor.groups.extend(member.children().filter_map(|group| group.as_str()));
            }
            _ => {}
        }
    }
    let method = match event.actor.name.as_deref() {
        Some(name) if name.starts_with("system:serviceaccount:") => "service-account",
        Some(name) if name.starts_with("system:node:") => "node",
        Some("system:anonymous") => "anonymous",
        _ => return,
    };
    event.actor.method = Some(Cow::Borrowed(method));
}

fn read_addresses<'t>(event: &mut Event<'t>, addresses: Option<Value<'t>>) {
    let Some(addresses) = addresses else { return };
    let mut all = addresses.children().filter_map(|address| address.as_str());
    event.source_address = all.next().filter(|address| !address.is_empty());
    // All but the last come from a header that the client may have written.
    let more: Vec<_> = all.collect();
    if !more.is_empty() {
        event.details.push(("forwarded-by", Cow::Owned(more.join(" "))));
    }
}

/// How it went, and what the answer and the annotations say about why.
fn read_answer<'t>(event: &mut Event<'t>, slots: &Slots<'t>, stage: Option<&str>) {
    let answer = slots.get(Key::ResponseStatus);
    let code = answer.and_then(|answer| answer.get_any_case("code"));
    // Some re-encoders make a text of the number.
    let number = code.and_then(|code| code.as_i64().or_else(|| code.as_str()?.parse().ok()));
    let said =
        |key| answer.and_then(|answer| answer.get_any_case(key)).and_then(|text| text.as_str());
    event.outcome = match number {
        Some(401 | 403) => Some(Outcome::Denied),
        Some(400..) => Some(Outcome::Failure),
        Some(1..) => Some(Outcome::Success),
        _ if stage == Some("Panic") => Some(Outcome::Failure),
        _ => match said("status").as_deref() {
            Some("Failure") => Some(match said("reason").as_deref() {
                Some("Forbidden" | "Unauthorized") => Outcome::Denied,
                _ => Outcome::Failure,
            }),
            _ => None,
        },
    };
    event.detail_of("code", code.and_then(|code| code.as_text()));
    if let Some(annotations) = slots.get(Key::Annotations) {
        for annotation in annotations.children() {
            let name = match annotation.key_bytes() {
                b"authorization.k8s.io/decision" => "decision",
                b"authorization.k8s.io/reason" => "decision-reason",
                b"pod-security.kubernetes.io/audit-violations" => "policy-violation",
                b"audit.k8s.io/truncated" => "truncated",
                _ => continue,
            };
            let value = annotation.as_str().filter(|value| !value.is_empty());
            if name == "decision" && value.as_deref() == Some("forbid") {
                event.outcome = Some(Outcome::Denied);
            }
            event.detail_of(name, value);
        }
    }
    if event.outcome != Some(Outcome::Denied) {
        return;
    }
    let message = answer.and_then(|answer| answer.get_any_case("message")).and_then(|m| m.as_str());
    if number == Some(401) {
        event.category = Classified::As { category: Category::Authentication };
    } else if message.as_deref().is_some_and(is_refused_by_policy) {
        event.category = Classified::As { category: Category::Policy };
    } else if message.as_deref().is_some_and(|message| message.contains("cannot impersonate")) {
        event.category = Classified::As { category: Category::IdentityAndAccess };
        let masters = message.as_deref().is_some_and(|message| message.contains("system:masters"));
        event.privileged = event.privileged.or(masters.then_some(Privilege::ClusterAdmin));
    }
    event.detail_of("message", message);
}

fn is_refused_by_policy(message: &str) -> bool {
    POLICY_REFUSALS.iter().any(|words| message.contains(words))
}

/// What an object reference names; an empty string is as good as nothing.
#[derive(Debug, Default)]
struct Reference<'t> {
    group: Option<Cow<'t, str>>,
    id: Option<Cow<'t, str>>,
    name: Option<Cow<'t, str>>,
    namespace: Option<Cow<'t, str>>,
    part: Option<Cow<'t, str>>,
    resource: Option<Cow<'t, str>>,
}

impl<'t> Reference<'t> {
    fn of(reference: Value<'t>) -> Self {
        let mut found = Self::default();
        for member in reference.children() {
            let slot = match member.key_bytes() {
                b"apiGroup" | b"APIGroup" => &mut found.group,
                b"uid" | b"UID" => &mut found.id,
                b"name" | b"Name" => &mut found.name,
                b"namespace" | b"Namespace" => &mut found.namespace,
                b"subresource" | b"Subresource" => &mut found.part,
                b"resource" | b"Resource" => &mut found.resource,
                _ => continue,
            };
            *slot = member.as_str().filter(|text| !text.is_empty());
        }
        found
    }

    /// What is missing from the path, where a relay cut or dropped the reference.
    fn fill_from(&mut self, path: &str) {
        let Some(target) = uri::target(path) else { return };
        if self.resource.as_deref().is_some_and(|resource| resource != target.resource) {
            return;
        }
        let fill = |slot: &mut Option<Cow<'t, str>>, text: &str| {
            if slot.is_none() && !text.is_empty() {
                *slot = Some(Cow::Owned(text.to_owned()));
            }
        };
        fill(&mut self.group, target.group);
        fill(&mut self.name, target.name);
        fill(&mut self.namespace, target.namespace);
        fill(&mut self.part, target.part);
        fill(&mut self.resource, target.resource);
    }
}

impl Reference<'_> {
    /// The part alone, where the reference names the resource without it.
    fn fill_part_from(&mut self, path: &str) {
        if let Some(target) = uri::target(path)
            && !target.part.is_empty()
            && self.resource.as_deref() == Some(target.resource)
        {
            self.part = Some(Cow::Owned(target.part.to_owned()));
        }
    }
}

/// Health, metrics, discovery: what is asked of the server itself.
fn without_resource(uri: &str, verb: &str) -> Verdict {
    let path = uri.split(['?', '#']).next().unwrap_or_default();
    let first = path.split('/').find(|word| !word.is_empty()).unwrap_or_default();
    let known = SERVER_PATHS.iter().find(|(name, _)| *name == first);
    Verdict {
        category: if uri.is_empty() {
            Classified::Not { unclassified: Unclassified::UnknownAction }
        } else {
            Classified::As { category: Category::Administrative }
        },
        action: Cow::Borrowed(known.map_or("server.request", |(_, action)| *action)),
        access: access_of(verb),
        privilege: None,
    }
}

/// The source's own name of an event: `VERB STAGE`.
fn kind_of(verb: &str, stage: Option<&str>) -> Cow<'static, str> {
    static KINDS: LazyLock<Vec<String>> = LazyLock::new(|| {
        let pairs = VERBS.iter().flat_map(|verb| STAGES.iter().map(move |stage| (verb, stage)));
        pairs.map(|(verb, stage)| format!("{verb} {stage}")).collect()
    });
    let Some(stage) = stage else { return Cow::Owned(verb.to_owned()) };
    let verb_at = VERBS.iter().position(|known| *known == verb);
    match (verb_at, STAGES.iter().position(|known| *known == stage)) {
        (Some(verb), Some(stage)) => Cow::Borrowed(KINDS[verb * STAGES.len() + stage].as_str()),
        _ => Cow::Owned(format!("{verb} {stage}")),
    }
}

/// What no rule may suppress: read from the same tables as the events.
pub(super) fn shapes() -> impl Iterator<Item = Shape> {
    let base = Shape::of(Stream::KubeAudit);
    let guarded = RESOURCES.iter().filter(|row| row.category.is_guarded()).map(move |row| Shape {
        kind: Some(row.name),
        category: Some(row.category),
        ..base
    });
    let groups =
        GROUPS.iter().filter(|(_, category)| category.is_guarded()).map(move |row| Shape {
            group: Some(row.0),
            category: Some(row.1),
            unknown_kind: true,
            note: "a resource of this group, or of one that ends so, that is in no table",
            ..base
        });
    let parts = PARTS
        .iter()
        .filter(|part| part.privilege.is_some() || part.category.is_guarded())
        .map(move |part| Shape {
            kind: (!part.resource.is_empty()).then_some(part.resource),
            part: Some(part.name),
            category: Some(part.category),
            action: Some(part.action),
            access: Some(part.access),
            privilege: part.privilege,
            ..base
        });
    let secrets = Shape {
        kind: Some("secrets"),
        verbs: &["delete", "deletecollection"],
        access: Some(Access::Write),
        privilege: Some(Privilege::SecretDeletion),
        ..base
    };
    let audit = AUDIT_RESOURCES.iter().map(move |name| Shape {
        kind: Some(name),
        access: Some(Access::Write),
        privilege: Some(Privilege::AuditSettings),
        ..base
    });
    let settings = ["configmaps", "secrets"].map(|name| Shape {
        kind: Some(name),
        access: Some(Access::Write),
        privilege: Some(Privilege::AuditSettings),
        name_words: &AUDIT_WORDS,
        certain: false,
        note: "its name has audit, syslog or falco in it",
        ..base
    });
    let shells = [
        Shape {
            kind: Some("pods"),
            access: Some(Access::Write),
            privilege: Some(Privilege::Exec),
            name_words: &NODE_SHELLS,
            certain: false,
            note: "the pod of a shell on a node",
            ..base
        },
        Shape {
            kind: Some("nodes"),
            part: Some("proxy"),
            privilege: Some(Privilege::Exec),
            certain: false,
            note: "a command behind the kubelet's proxy",
            ..base
        },
        Shape {
            kind: Some("pods"),
            part: Some("proxy"),
            privilege: Some(Privilege::Exec),
            certain: false,
            note: "a command behind the kubelet's proxy",
            ..base
        },
    ];
    let any = [
        Shape {
            privilege: Some(Privilege::ClusterAdmin),
            acts_as_another: true,
            certain: false,
            note: "somebody acts as cluster administrator",
            ..base
        },
        Shape {
            outcome: Some(Outcome::Denied),
            certain: false,
            note: "refused: not authenticated, by policy, or impersonation",
            ..base
        },
    ];
    guarded
        .chain(groups)
        .chain(parts)
        .chain([secrets])
        .chain(audit)
        .chain(settings)
        .chain(shells)
        .chain(any)
}

const VERBS: [&str; 9] = [
    "get",
    "list",
    "watch",
    "create",
    "update",
    "patch",
    "delete",
    "deletecollection",
    "impersonate",
];

const STAGES: [&str; 4] = ["RequestReceived", "ResponseStarted", "ResponseComplete", "Panic"];

/// Resources that say what is recorded and where it is sent.
const AUDIT_RESOURCES: [&str; 4] =
    ["apiservers", "auditsinks", "clusterauditpolicies", "clusterlogforwarders"];

/// Words in the name of a `ConfigMap` or `Secret` that hold the settings of what records and sends.
const AUDIT_WORDS: [&str; 3] = ["audit", "falco", "syslog"];

/// The group and the users that may do everything in a cluster that is set up as usual.
const CLUSTER_ADMINS: [&str; 5] =
    ["cluster-admin", "kube-admin", "kubernetes-admin", "system:admin", "system:masters"];

/// What the kubelet's own API runs commands by.
const KUBELET_COMMANDS: [&str; 4] = ["attach", "cri", "exec", "run"];

/// The names of pods by which common tools open a shell on a node.
const NODE_SHELLS: [&str; 3] = ["node-debugger-", "node-shell-", "nsenter-"];

/// How the API server begins to say that admission refused something.
const POLICY_REFUSALS: [&str; 6] = [
    "admission webhook",
    "denied by policy",
    "denied request",
    "violates PodSecurity",
    "ValidatingAdmissionPolicy",
    "unable to validate against any security context constraint",
];

const SERVER_PATHS: [(&str, &str); 13] = [
    (".well-known", "discovery.get"),
    ("api", "discovery.get"),
    ("apis", "discovery.get"),
    ("debug", "debug.get"),
    ("healthz", "health.check"),
    ("livez", "health.check"),
    ("logs", "logs.get"),
    ("metrics", "metrics.get"),
    ("openapi", "discovery.get"),
    ("readyz", "health.check"),
    ("statusz", "health.check"),
    ("swagger.json", "discovery.get"),
    ("version", "version.get"),
];

/// Room for the details and groups of a usual event, so that they are allocated once.
const DETAILS: usize = 10;
const GROUPS_USUAL: usize = 4;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tables_are_sorted() {
        assert!(RESOURCES.is_sorted_by(|a, b| a.name < b.name));
    }
}
