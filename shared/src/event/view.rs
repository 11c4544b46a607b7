//! The parsed event: one shape for what Portainer, Kubernetes and Falco say.

use std::borrow::Cow;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::clock::Nanos;
use crate::record::Stream;

/// What an event is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Category {
    /// Backup, licence, the control plane itself.
    Administrative,
    /// Logins, logouts, sessions, tokens in use.
    Authentication,
    /// Credentials, sources, environments, settings.
    Configuration,
    /// What runs: stacks, workloads, exec.
    Deployment,
    /// Users, teams, roles, keys.
    IdentityAndAccess,
    /// Admission, security policy.
    Policy,
    /// What happens inside containers and on hosts.
    Runtime,
}

impl Category {
    /// Every category.
    pub const ALL: [Category; 7] = [
        Category::Administrative,
        Category::Authentication,
        Category::Configuration,
        Category::Deployment,
        Category::IdentityAndAccess,
        Category::Policy,
        Category::Runtime,
    ];

    /// Its name.
    pub fn as_str(self) -> &'static str {
        match self {
            Category::Administrative => "administrative",
            Category::Authentication => "authentication",
            Category::Configuration => "configuration",
            Category::Deployment => "deployment",
            Category::IdentityAndAccess => "identity-and-access",
            Category::Policy => "policy",
            Category::Runtime => "runtime",
        }
    }

    /// Whether events of this category may never be suppressed.
    pub fn is_guarded(self) -> bool {
        matches!(self, Category::Authentication | Category::IdentityAndAccess | Category::Policy)
    }
}

impl fmt::Display for Category {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Whether something was changed or only looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Access {
    /// Looked at.
    Read,
    /// Changed, created, deleted, entered.
    Write,
}

/// How it went.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// It was refused.
    Denied,
    /// It failed.
    Failure,
    /// It was done.
    Success,
}

/// Who did it.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Actor<'a> {
    /// The id, as the source gives it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<Cow<'a, str>>,
    /// The name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<Cow<'a, str>>,
    /// How it proved who it is: internal, ldap, oauth, ...
    #[serde(skip_serializing_if = "Option::is_none")]
    pub method: Option<Cow<'a, str>>,
    /// Groups it belongs to.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub groups: Vec<Cow<'a, str>>,
    /// As whom it acted, where it took another's place.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub acting_as: Option<Cow<'a, str>>,
}

/// What it was done to.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Resource<'a> {
    /// What kind of thing: stack, user, pods, secrets, ...
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kind: Option<Cow<'a, str>>,
    /// The part of it: exec, log, status, ...
    #[serde(skip_serializing_if = "Option::is_none")]
    pub part: Option<Cow<'a, str>>,
    /// Its id, as the source gives it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<Cow<'a, str>>,
    /// Its name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<Cow<'a, str>>,
    /// The Portainer environment.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub environment: Option<Cow<'a, str>>,
    /// The stack.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stack: Option<Cow<'a, str>>,
    /// The Kubernetes namespace.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespace: Option<Cow<'a, str>>,
    /// The API group.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub group: Option<Cow<'a, str>>,
}

/// The parsed view of a record. It borrows from the record; nothing in it is ever evidence.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Event<'a> {
    /// The stream of its record.
    #[serde(skip)]
    pub stream: Stream,
    /// The category, or why there is none.
    #[serde(flatten)]
    pub category: Classified,
    /// Why it belongs to the privileged-access set, if it does.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub privileged: Option<Privilege>,
    /// When it happened, as the source says.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "super::envelope::as_text")]
    pub time: Option<Nanos>,
    /// The source's own name for this kind of event: a rule, `METHOD URL`, verb and stage.
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    pub kind: Option<Cow<'a, str>>,
    /// What was done, as `NOUN.VERB`: `stack.update`, `secret.delete`, `container.exec`.
    pub action: Cow<'a, str>,
    /// Whether it changed anything.
    pub access: Access,
    /// Who did it.
    pub actor: Actor<'a>,
    /// From where.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source_address: Option<Cow<'a, str>>,
    /// What it was done to.
    pub resource: Resource<'a>,
    /// How it went, where the source says so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub outcome: Option<Outcome>,
    /// The request's id.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request_id: Option<Cow<'a, str>>,
    /// The session's id.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub session_id: Option<Cow<'a, str>>,
    /// The severity as the source writes it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub severity: Option<Cow<'a, str>>,
    /// What only one stream has, by name: `verb`, `stage`, `code`, `user-agent`, `uri`, `rule`,
    /// `tags`, `container`, `image`, `pod`, `method`, `url`, ...
    #[serde(skip_serializing_if = "Vec::is_empty", serialize_with = "as_map")]
    pub details: Vec<(&'static str, Cow<'a, str>)>,
}

impl<'a> Event<'a> {
    /// An event of which only the stream is known.
    pub fn blank(stream: Stream) -> Self {
        Self {
            stream,
            category: Classified::Not {
                unclassified: match stream {
                    Stream::Other => Unclassified::OtherStream,
                    _ => Unclassified::UnknownShape,
                },
            },
            privileged: None,
            time: None,
            kind: None,
            action: Cow::Borrowed(""),
            access: Access::Write,
            actor: Actor::default(),
            source_address: None,
            resource: Resource::default(),
            outcome: None,
            request_id: None,
            session_id: None,
            severity: None,
            details: Vec::new(),
        }
    }

    /// The same event, with strings of its own.
    pub fn into_owned(self) -> Event<'static> {
        Event {
            stream: self.stream,
            category: self.category,
            privileged: self.privileged,
            time: self.time,
            kind: owned(self.kind),
            action: Cow::Owned(self.action.into_owned()),
            access: self.access,
            actor: Actor {
                id: owned(self.actor.id),
                name: owned(self.actor.name),
                method: owned(self.actor.method),
                groups: self.actor.groups.into_iter().map(|g| Cow::Owned(g.into_owned())).collect(),
                acting_as: owned(self.actor.acting_as),
            },
            source_address: owned(self.source_address),
            resource: Resource {
                kind: owned(self.resource.kind),
                part: owned(self.resource.part),
                id: owned(self.resource.id),
                name: owned(self.resource.name),
                environment: owned(self.resource.environment),
                stack: owned(self.resource.stack),
                namespace: owned(self.resource.namespace),
                group: owned(self.resource.group),
            },
            outcome: self.outcome,
            request_id: owned(self.request_id),
            session_id: owned(self.session_id),
            severity: owned(self.severity),
            details: self
                .details
                .into_iter()
                .map(|(name, value)| (name, Cow::Owned(value.into_owned())))
                .collect(),
        }
    }

    /// Adds a detail, if there is one.
    pub(super) fn detail_of(&mut self, name: &'static str, value: Option<Cow<'a, str>>) {
        if let Some(value) = value {
            self.details.push((name, value));
        }
    }

    /// Whether it may never be suppressed.
    pub fn is_guarded(&self) -> bool {
        self.privileged.is_some()
            || matches!(self.category, Classified::As { category } if category.is_guarded())
    }

    /// One of its details.
    pub fn detail(&self, name: &str) -> Option<&str> {
        self.details.iter().find(|(key, _)| *key == name).map(|(_, value)| value.as_ref())
    }
}

/// A category, or why there is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum Classified {
    /// It has a category.
    As {
        /// Which one.
        category: Category,
    },
    /// It has none.
    Not {
        /// Why.
        unclassified: Unclassified,
    },
}

impl Classified {
    /// The category, if there is one.
    pub fn category(self) -> Option<Category> {
        match self {
            Classified::As { category } => Some(category),
            Classified::Not { .. } => None,
        }
    }
}

/// Why an event has no category.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Unclassified {
    /// It is of stream `other`.
    OtherStream,
    /// It was cut on its way, and what is left does not say enough.
    Cut,
    /// It is text or JSON of a shape that is not known.
    UnknownShape,
    /// Its route, verb or rule is not known.
    UnknownAction,
}

/// Why an event belongs to the privileged-access set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Privilege {
    /// Somebody was made administrator, of the site or of an environment.
    AdministratorGrant,
    /// Audit or syslog settings were changed.
    AuditSettings,
    /// A backup was downloaded or restored.
    Backup,
    /// The break-glass account logged in, or acted.
    BreakGlass,
    /// `cluster-admin` was bound, or somebody acted as it.
    ClusterAdmin,
    /// A shell or command in a container or on a node.
    Exec,
    /// Falco's priority is Critical or above.
    FalcoCritical,
    /// A secret was deleted.
    SecretDeletion,
}

/// What a site says about its privileged accounts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PrivilegeSettings {
    /// Names of break-glass accounts; user id 1 of Portainer is always one.
    pub break_glass_names: Vec<String>,
}

impl Default for PrivilegeSettings {
    fn default() -> Self {
        Self { break_glass_names: vec!["admin".to_owned()] }
    }
}

fn owned(text: Option<Cow<'_, str>>) -> Option<Cow<'static, str>> {
    text.map(|text| Cow::Owned(text.into_owned()))
}

fn as_map<S: serde::Serializer>(
    details: &Vec<(&'static str, Cow<'_, str>)>,
    to: S,
) -> Result<S::Ok, S::Error> {
    to.collect_map(details.iter().map(|(name, value)| (*name, value)))
}
