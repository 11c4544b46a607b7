//! What an event is, judged once for every schema: its class, what was done, how grave it is, whose
//! product said it and from where it was done.
//!
//! A schema's own module says only what its names and numbers for these are.

use std::net::{IpAddr, SocketAddr};

use shared::event::{Access, Category, Event, Outcome, Privilege};
use shared::record::Stream;

use crate::event::View;

use super::said;

/// What an event is, for every schema.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sense<'v> {
    /// What kind of event.
    pub class: Class,
    /// What was done.
    pub change: Change,
    /// How grave it is.
    pub severity: Severity,
    /// Whose product said it.
    pub product: &'static Product,
    /// The stable name of this kind of event: Falco's rule, else our action.
    pub signature: &'v str,
    /// From where it was done.
    pub client: Client<'v>,
}

/// What kind of event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Class {
    /// A user's account was changed.
    Account,
    /// Falco raised an alert.
    Alert,
    /// The Kubernetes API was asked for something.
    Api,
    /// Settings, sources, credentials, environments.
    Configuration,
    /// What runs: stacks, workloads, images.
    Deployment,
    /// A shell or a command in a container or on a node.
    Execution,
    /// A team was changed, or who is in it.
    Group,
    /// The control plane itself: backup, restore, restart, licence.
    Lifecycle,
    /// A policy refused something, or was violated.
    PolicyViolation,
    /// A role was given or taken.
    Role,
    /// Somebody came in, left, or tried to.
    Session,
    /// It was not understood.
    Unknown,
}

/// What was done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Change {
    /// A right or a member was added.
    Assign,
    /// Something new.
    Create,
    /// Something is gone.
    Delete,
    /// A command was run.
    Execute,
    /// Somebody came in, or tried to.
    Logon,
    /// Somebody left.
    Logoff,
    /// Something else.
    Other,
    /// Something was only looked at.
    Read,
    /// Something was stopped and started.
    Restart,
    /// A right or a member was taken away.
    Revoke,
    /// Something was started.
    Start,
    /// Something was stopped.
    Stop,
    /// Something was changed.
    Update,
}

/// How grave an event is, from 0 to 10: CEF's scale, from which the others are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Severity(u8);

/// Whose product said it, by the names of each schema.
#[derive(Debug, PartialEq, Eq)]
pub struct Product {
    /// The vendor.
    pub vendor: &'static str,
    /// The product.
    pub name: &'static str,
    /// ECS: `event.module`.
    pub module: &'static str,
    /// ECS: `event.dataset`.
    pub dataset: &'static str,
    /// Splunk's source type.
    pub sourcetype: &'static str,
}

/// From where something was done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Client<'v> {
    /// As the source writes it.
    pub address: Option<&'v str>,
    /// The IP address, where it is one.
    pub ip: Option<IpAddr>,
    /// The port, where it is given.
    pub port: Option<u16>,
}

impl<'v> Sense<'v> {
    /// The sense of a record.
    pub fn of(view: &'v View<'_>) -> Self {
        let event = &view.event;
        let change = change(event);
        let class = class(event, change);
        let rule = said(event.kind.as_deref()).filter(|_| event.stream == Stream::Falco);
        let action = said(Some(event.action.as_ref()));
        Self {
            class,
            change,
            severity: Severity::of(event, class),
            product: product(event.stream),
            signature: rule.or(action).unwrap_or(NO_SIGNATURE),
            client: event.source_address.as_deref().map(Client::of).unwrap_or_default(),
        }
    }
}

impl<'v> Client<'v> {
    /// An address as sources write it: bare, with a port, or in brackets.
    pub fn of(address: &'v str) -> Self {
        let text = address.trim();
        if text.is_empty() {
            return Self::default();
        }
        let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
        let (ip, port) = match (bare.parse::<IpAddr>(), text.parse::<SocketAddr>()) {
            (Ok(ip), _) => (Some(ip), None),
            (_, Ok(socket)) => (Some(socket.ip()), Some(socket.port())),
            _ => (None, None),
        };
        Self { address: Some(text), ip: ip.map(|ip| ip.to_canonical()), port }
    }
}

impl Severity {
    /// What the source says, but never below what the event is by itself.
    fn of(event: &Event<'_>, class: Class) -> Self {
        let said = event.severity.as_deref().and_then(grade_of).unwrap_or(0);
        let own = match (event.privileged, event.outcome, class) {
            (Some(Privilege::BreakGlass | Privilege::ClusterAdmin), _, _) => 9,
            (Some(_), _, _) => 8,
            (_, _, Class::PolicyViolation)
            | (_, Some(Outcome::Failure | Outcome::Denied), Class::Session) => 6,
            (_, Some(Outcome::Denied), _) => 5,
            (_, Some(Outcome::Failure), _) => 4,
            _ if event.is_guarded() && event.access == Access::Write => 4,
            // An alert without a priority is not harmless for that.
            (_, _, Class::Alert) if said == 0 => 5,
            (_, _, Class::Alert | Class::Unknown) => 0,
            _ if event.access == Access::Write => 3,
            _ => 1,
        };
        Self(said.max(own))
    }

    /// From 0 to 10, as CEF and ECS take it.
    pub fn number(self) -> u8 {
        self.0
    }

    /// From 1 to 10, as LEEF takes it.
    pub fn from_one(self) -> u8 {
        self.0.max(1)
    }

    /// Which of the five grades it is.
    pub fn grade(self) -> Grade {
        match self.0 {
            0..=2 => Grade::Informational,
            3 | 4 => Grade::Low,
            5 | 6 => Grade::Medium,
            7 | 8 => Grade::High,
            _ => Grade::Critical,
        }
    }
}

/// The five grades that CIM and OCSF share.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Grade {
    /// 0 to 2.
    Informational,
    /// 3 and 4.
    Low,
    /// 5 and 6.
    Medium,
    /// 7 and 8.
    High,
    /// 9 and 10.
    Critical,
}

/// A source's own word for it: Falco's priorities, syslog's severities, and common grades.
fn grade_of(word: &str) -> Option<u8> {
    let known = SEVERITIES.iter().find(|(name, _)| word.trim().eq_ignore_ascii_case(name));
    known.map(|(_, number)| *number)
}

/// The class of an event.
fn class(event: &Event<'_>, change: Change) -> Class {
    match event.stream {
        Stream::Falco => return Class::Alert,
        Stream::KubeAudit if !event.action.is_empty() => return Class::Api,
        Stream::KubeAudit | Stream::Other => return Class::Unknown,
        Stream::PortainerActivity | Stream::PortainerAuth => {}
    }
    let noun = event.action.split('.').next().unwrap_or_default();
    let says = |word: &str| event.action.split(['.', '-', '_']).any(|part| part == word);
    let Some(category) = event.category.category() else {
        return if event.action.is_empty() { Class::Unknown } else { Class::Configuration };
    };
    if change == Change::Execute {
        return Class::Execution;
    }
    match category {
        Category::Authentication => Class::Session,
        Category::IdentityAndAccess => match noun {
            _ if says("role") || ROLE_NOUNS.contains(&noun) => Class::Role,
            "team" | "group" => Class::Group,
            "user" | "apikey" | "serviceaccount" => Class::Account,
            _ => Class::Configuration,
        },
        Category::Policy if says("violation") || event.outcome == Some(Outcome::Denied) => {
            Class::PolicyViolation
        }
        Category::Administrative => Class::Lifecycle,
        Category::Deployment | Category::Runtime => Class::Deployment,
        Category::Configuration | Category::Policy => Class::Configuration,
    }
}

/// What was done, by the last word of the action; of Kubernetes by its verb.
fn change(event: &Event<'_>) -> Change {
    if event.stream == Stream::Falco {
        return Change::Other;
    }
    let mut words = event.action.rsplit(['.', '-', '_']).filter(|word| !word.is_empty());
    let last = words.next().unwrap_or_default();
    let before = words.next().unwrap_or_default();
    if EXECUTES.contains(&last) {
        return Change::Execute;
    }
    if event.access == Access::Read {
        return Change::Read;
    }
    if event.stream == Stream::KubeAudit {
        return match event.detail("verb").unwrap_or(last) {
            "create" | "post" => Change::Create,
            "delete" | "deletecollection" => Change::Delete,
            "update" | "patch" | "put" => Change::Update,
            _ => Change::Other,
        };
    }
    match last {
        "login" | "logon" | "signin" | "authenticate" => Change::Logon,
        "logout" | "logoff" | "signout" | "expire" | "expired" => Change::Logoff,
        "assign" | "assigned" | "grant" | "granted" => Change::Assign,
        "add" | "added" if before == "member" => Change::Assign,
        "remove" | "removed" if before == "member" => Change::Revoke,
        "revoke" | "revoked" | "unassign" => Change::Revoke,
        "create" | "created" | "add" | "added" | "register" | "install" | "issue" | "deploy"
        | "import" | "upload" | "clone" | "pull" => Change::Create,
        "delete" | "deleted" | "remove" | "removed" | "uninstall" | "prune" | "destroy" => {
            Change::Delete
        }
        "start" | "started" | "unpause" | "resume" => Change::Start,
        "stop" | "stopped" | "kill" | "pause" => Change::Stop,
        "restart" | "restarted" => Change::Restart,
        "update" | "updated" | "change" | "changed" | "edit" | "modify" | "patch" | "put"
        | "set" | "scale" | "rollback" | "redeploy" | "rename" | "migrate" | "convert"
        | "upgrade" | "associate" | "sync" | "disable" | "enable" | "restore" => Change::Update,
        _ => Change::Other,
    }
}

/// Whose product a stream is of.
pub fn product(stream: Stream) -> &'static Product {
    match stream {
        Stream::Falco => &FALCO,
        Stream::KubeAudit => &KUBERNETES,
        Stream::Other => &OTHER,
        Stream::PortainerActivity => &PORTAINER_ACTIVITY,
        Stream::PortainerAuth => &PORTAINER_AUTH,
    }
}

const PORTAINER_ACTIVITY: Product = Product {
    vendor: "Portainer",
    name: "Portainer",
    module: "portainer",
    dataset: "portainer.activity",
    sourcetype: "portainer:audit",
};

const PORTAINER_AUTH: Product = Product { dataset: "portainer.auth", ..PORTAINER_ACTIVITY };

/// The data set is the one of Elastic's Kubernetes integration, by which its rules select.
const KUBERNETES: Product = Product {
    vendor: "Kubernetes",
    name: "kube-apiserver",
    module: "kubernetes",
    dataset: "kubernetes.audit_logs",
    sourcetype: "kube:audit",
};

/// The data set is the one of Elastic's Falco integration.
const FALCO: Product = Product {
    vendor: "Falco",
    name: "Falco",
    module: "falco",
    dataset: "falco.alerts",
    sourcetype: "falco:alert",
};

const OTHER: Product = Product {
    vendor: "Penstock",
    name: "Penstock",
    module: "penstock",
    dataset: "penstock.other",
    sourcetype: "penstock:other",
};

/// What stands for the kind of a record that was not understood.
const NO_SIGNATURE: &str = "record";

/// Words for a shell or a command in a container or on a node.
const EXECUTES: [&str; 7] =
    ["attach", "console", "debug", "exec", "shell", "terminal", "kubectlshell"];

/// Nouns of rights, which have another name than `role`.
const ROLE_NOUNS: [&str; 6] =
    ["access", "clusterrole", "clusterrolebinding", "rbac", "role", "rolebinding"];

/// What sources call how grave something is: Falco's priorities, which are syslog's severities
/// (RFC 5424, 6.2.1) by name, and the grades that other products use.
const SEVERITIES: [(&str, u8); 22] = [
    ("emergency", 10),
    ("emerg", 10),
    ("panic", 10),
    ("alert", 9),
    ("critical", 9),
    ("crit", 9),
    ("fatal", 9),
    ("high", 8),
    ("error", 7),
    ("err", 7),
    ("elevated", 7),
    ("warning", 6),
    ("warn", 6),
    ("medium", 5),
    ("moderate", 5),
    ("notice", 4),
    ("low", 3),
    ("informational", 2),
    ("information", 2),
    ("info", 2),
    ("debug", 1),
    ("trace", 1),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_as_sources_write_them() {
        let of = |text| {
            let client = Client::of(text);
            (client.ip.map(|ip| ip.to_string()), client.port)
        };
        assert_eq!(of("10.0.0.1"), (Some("10.0.0.1".into()), None));
        assert_eq!(of("10.0.0.1:443"), (Some("10.0.0.1".into()), Some(443)));
        assert_eq!(of("::ffff:10.0.0.1"), (Some("10.0.0.1".into()), None));
        assert_eq!(of("[2001:db8::1]"), (Some("2001:db8::1".into()), None));
        assert_eq!(of("[2001:db8::1]:80"), (Some("2001:db8::1".into()), Some(80)));
        assert_eq!(of("laptop.example"), (None, None));
        assert_eq!(Client::of(" ").address, None);
    }

    #[test]
    fn severities_are_read_in_any_letter_case() {
        assert_eq!(grade_of("Informational"), Some(2));
        assert_eq!(grade_of("CRITICAL"), Some(9));
        assert_eq!(grade_of("what"), None);
        assert_eq!(Severity(0).from_one(), 1);
        assert_eq!(Severity(6).grade(), Grade::Medium);
    }
}
