//! What detection rules ask for beyond the event: read on demand, since it means walking whole pod
//! specifications.

use crate::json::{Kind, Tape, Value};
use crate::record::Stream;

use super::Body;
use super::keys::{Key, Slots};
use super::kubernetes::uri;
use super::stream::{Sender, Shape};
use super::understand::{Inner, peel};

/// Named values of one record; a name may repeat.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fields {
    values: Vec<(&'static str, String)>,
}

impl Fields {
    /// Every value of a name, in the order in which they stand.
    pub fn all<'f>(&'f self, name: &'f str) -> impl Iterator<Item = &'f str> {
        self.values.iter().filter(move |(key, _)| *key == name).map(|(_, value)| value.as_str())
    }

    /// The first value of a name.
    pub fn first(&self, name: &str) -> Option<&str> {
        self.values.iter().find(|(key, _)| *key == name).map(|(_, value)| value.as_str())
    }

    /// Whether one of the values of a name is this one.
    pub fn has(&self, name: &str, value: &str) -> bool {
        self.all(name).any(|found| found == value)
    }

    fn add(&mut self, name: &'static str, value: Option<Value<'_>>) {
        if let Some(text) = value.and_then(|value| value.as_text()) {
            self.push(name, text.into_owned());
        }
    }

    fn add_all(&mut self, name: &'static str, values: Option<Value<'_>>) {
        for value in values.iter().flat_map(Value::children) {
            self.add(name, Some(value));
        }
    }

    fn push(&mut self, name: &'static str, value: String) {
        if self.values.len() < VALUES_MAX {
            self.values.push((name, value));
        }
    }
}

/// The fields of a record:
///
/// - of every request to Kubernetes: `source-address`, `command` (of exec), `container`, `reason`;
/// - of pods, also in what makes pods: `container.name`, `.image`, `.privileged`, `.capability`,
///   `.run-as-user`, `.run-as-non-root`, `.command`, `pod.run-as-user`, `pod.run-as-non-root`,
///   `host.network`, `host.pid`, `host.ipc`, `volume.host-path`, `service-account`;
/// - of access rules: `role.kind`, `role.name`, `subject.kind`, `subject.name`, `rule.verb`,
///   `rule.resource`, `rule.group`;
/// - of the rest: `service.type`, `ingress.tls`, `csr.signer`, `csr.usage`, `token.expires`.
pub fn fields(body: &Body<'_>) -> Fields {
    let mut fields = Fields::default();
    read(&mut fields, body, Sender::of(body.raw).portainer, 0);
    fields
}

fn read(fields: &mut Fields, body: &Body<'_>, portainer: bool, depth: usize) {
    let again = match peel(body, portainer) {
        Inner::Object(slots, shape) => return object(fields, &slots, shape),
        Inner::List(items) => {
            for item in items.children().filter(|item| item.kind() == Kind::Object) {
                kubernetes(fields, &Slots::of(item));
            }
            return;
        }
        Inner::Text(_) => return,
        Inner::Line(text) | Inner::Closed(text) => text,
    };
    if depth < WRAPPINGS_MAX {
        let mut tape = Tape::default();
        read(fields, &Body::of(&again, &mut tape), portainer, depth + 1);
    }
}

fn object(fields: &mut Fields, slots: &Slots<'_>, shape: Shape<'_>) {
    match shape {
        Shape::Falco => {
            let tags = slots.get(Key::Tags);
            fields.add_all("tag", tags);
        }
        Shape::GoogleAudit(payload) => {
            fields.add("source-address", payload.at(&["requestMetadata", "callerIP"]));
            let request = payload.get("request");
            fields.add_all("command", request.and_then(|request| request.get("command")));
            if let Some(request) = request {
                sent(fields, request);
            }
            for asked in payload.get("authorizationInfo").iter().flat_map(Value::children) {
                fields.add("permission", asked.get("permission"));
            }
            let answer = payload.get("response");
            fields.add("reason", answer.and_then(|answer| answer.get("reason")));
        }
        Shape::Portainer(Stream::PortainerAuth) => {}
        _ => kubernetes(fields, slots),
    }
}

fn kubernetes(fields: &mut Fields, slots: &Slots<'_>) {
    fields.add_all("source-address", slots.get(Key::SourceIps));
    if let Some(uri) = slots.str(Key::RequestUri) {
        for command in uri::parameters(&uri, "command") {
            fields.push("command", command.into_owned());
        }
        if let Some(container) = uri::parameter(&uri, "container") {
            fields.push("container", container.into_owned());
        }
    }
    let answer = slots.get(Key::ResponseStatus);
    fields.add("reason", answer.and_then(|answer| answer.get_any_case("reason")));
    for key in [Key::RequestObject, Key::ResponseObject] {
        let Some(object) = slots.get(key).filter(|object| object.children().next().is_some())
        else {
            continue;
        };
        if key == Key::RequestObject {
            fields.add_all("command", object.get("command"));
        }
        sent(fields, object);
        // What was sent says it; what came back repeats it with defaults filled in.
        break;
    }
}

/// What an object that was sent says.
fn sent(fields: &mut Fields, object: Value<'_>) {
    let spec = object.get("spec");
    fields.add("service.type", object.at(&["spec", "type"]));
    for tls in object.at(&["spec", "tls"]).iter().flat_map(Value::children) {
        fields.push("ingress.tls", String::from_utf8_lossy(tls.raw()).into_owned());
    }
    fields.add("csr.signer", object.at(&["spec", "signerName"]));
    fields.add_all("csr.usage", object.at(&["spec", "usages"]));
    fields.add("token.expires", object.at(&["spec", "expirationSeconds"]));
    fields.add("role.kind", object.at(&["roleRef", "kind"]));
    fields.add("role.name", object.at(&["roleRef", "name"]));
    for subject in object.get("subjects").iter().flat_map(Value::children) {
        fields.add("subject.kind", subject.get("kind"));
        fields.add("subject.name", subject.get("name"));
    }
    for rule in object.get("rules").iter().flat_map(Value::children) {
        fields.add_all("rule.verb", rule.get("verbs"));
        fields.add_all("rule.resource", rule.get("resources"));
        fields.add_all("rule.group", rule.get("apiGroups"));
    }
    for path in POD_SPECS {
        if let Some(spec) = spec.and_then(|spec| spec.at(path)) {
            pod(fields, spec);
        }
    }
}

fn pod(fields: &mut Fields, spec: Value<'_>) {
    fields.add("host.network", spec.get("hostNetwork"));
    fields.add("host.pid", spec.get("hostPID"));
    fields.add("host.ipc", spec.get("hostIPC"));
    fields.add("service-account", spec.get("serviceAccountName"));
    fields.add("pod.run-as-user", spec.at(&["securityContext", "runAsUser"]));
    fields.add("pod.run-as-non-root", spec.at(&["securityContext", "runAsNonRoot"]));
    for volume in spec.get("volumes").iter().flat_map(Value::children) {
        fields.add("volume.host-path", volume.at(&["hostPath", "path"]));
    }
    for list in ["containers", "initContainers", "ephemeralContainers"] {
        for container in spec.get(list).iter().flat_map(Value::children) {
            let security = |key| container.at(&["securityContext", key]);
            fields.add("container.name", container.get("name"));
            fields.add("container.image", container.get("image"));
            fields.add_all("container.command", container.get("command"));
            fields.add("container.privileged", security("privileged"));
            fields.add("container.run-as-user", security("runAsUser"));
            fields.add("container.run-as-non-root", security("runAsNonRoot"));
            let added = container.at(&["securityContext", "capabilities", "add"]);
            fields.add_all("container.capability", added);
        }
    }
}

/// Where a pod's specification stands in a `spec`: in a pod's own, in a workload's, in a cron job's.
const POD_SPECS: [&[&str]; 3] =
    [&[], &["template", "spec"], &["jobTemplate", "spec", "template", "spec"]];

/// The most values that are taken from one record: a hostile role may have any number of rules.
const VALUES_MAX: usize = 4096;

/// As deep as wrappings are taken off for the event.
const WRAPPINGS_MAX: usize = 4;
