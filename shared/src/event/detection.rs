//! Proof that the parsed fields carry what detection needs: published rules, written over our fields,
//! give the results that their authors expect. The samples are not part of the project.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde_json::Value;

use crate::json::Tape;
use crate::record::Stream;

use super::samples::samples;
use super::{
    Access, Body, Event, Fields, Outcome, Privilege, PrivilegeSettings, fields, understand,
};

fn parsed(raw: &[u8], hint: Option<Stream>) -> (Event<'static>, Fields) {
    let mut tape = Tape::default();
    let body = Body::of(raw, &mut tape);
    (understand(&body, hint, &PrivilegeSettings::default()).into_owned(), fields(&body))
}

fn kind<'e>(event: &'e Event<'_>) -> &'e str {
    event.resource.kind.as_deref().unwrap_or_default()
}

fn part<'e>(event: &'e Event<'_>) -> &'e str {
    event.resource.part.as_deref().unwrap_or_default()
}

fn verb<'e>(event: &'e Event<'_>) -> &'e str {
    event.detail("verb").unwrap_or_default()
}

/// The rules of `SigmaHQ` that can fire on what an audit event has, by the names of their files.
fn sigma(event: &Event<'_>) -> Vec<&'static str> {
    let group = event.resource.group.as_deref().unwrap_or_default();
    let changes = matches!(verb(event), "create" | "delete" | "patch" | "replace" | "update");
    let namespace = event.resource.namespace.as_deref().unwrap_or_default();
    let rules = [
        (
            "change_admission_controller",
            group == "admissionregistration.k8s.io"
                && matches!(
                    kind(event),
                    "mutatingwebhookconfigurations" | "validatingwebhookconfigurations"
                )
                && changes,
        ),
        (
            "cronjob_modification",
            group == "batch" && matches!(kind(event), "cronjobs" | "jobs") && changes,
        ),
        ("deployment_deleted", verb(event) == "delete" && kind(event) == "deployments"),
        ("events_deleted", verb(event) == "delete" && kind(event) == "events"),
        (
            "exec_into_container",
            verb(event) == "create" && kind(event) == "pods" && part(event) == "exec",
        ),
        (
            "pod_in_system_namespace",
            verb(event) == "create" && kind(event) == "pods" && namespace == "kube-system",
        ),
        (
            "rolebinding_modification",
            group == "rbac.authorization.k8s.io"
                && matches!(kind(event), "clusterrolebindings" | "rolebindings")
                && changes,
        ),
        ("secrets_enumeration", verb(event) == "list" && kind(event) == "secrets"),
        ("secrets_modified_or_deleted", kind(event) == "secrets" && changes),
        ("serviceaccount_creation", verb(event) == "create" && kind(event) == "serviceaccounts"),
        (
            "unauthorized_unauthenticated_actions",
            matches!(event.detail("code"), Some("401" | "403")),
        ),
    ];
    rules.into_iter().filter(|(_, fires)| *fires).map(|(name, _)| name).collect()
}

#[test]
fn the_hits_of_the_sigma_rules_are_reproduced() {
    let Some(samples) = samples() else { return };
    let table = std::fs::read_to_string(samples.join("detection/sigma-hits.tsv")).unwrap();
    let mut wanted: BTreeMap<String, Vec<(usize, String)>> = BTreeMap::new();
    for row in table.lines().skip(1) {
        let cells: Vec<&str> = row.split('\t').collect();
        let rule = cells[0].trim_start_matches("kubernetes_audit_").trim_end_matches(".yml");
        wanted
            .entry(cells[1].to_owned())
            .or_default()
            .push((cells[2].parse().unwrap(), rule.to_owned()));
    }
    let mut missed_execs = Vec::new();
    let (mut hits, mut differ) = (0, Vec::new());
    for folder in ["licensed", "no-licence"] {
        for entry in std::fs::read_dir(samples.join("k8s-audit").join(folder)).unwrap() {
            let path = entry.unwrap().path();
            let name =
                format!("k8s-audit/{folder}/{}", path.file_name().unwrap().to_string_lossy());
            let bytes = std::fs::read(&path).unwrap();
            let expected = wanted.remove(&name).unwrap_or_default();
            let mut found = Vec::new();
            // A file with one event over several lines counts as its first line.
            let whole =
                serde_json::from_slice::<Value>(&bytes).is_ok_and(|value| value.is_object());
            let lines: Vec<&[u8]> =
                if whole { vec![&bytes] } else { bytes.split(|byte| *byte == b'\n').collect() };
            for (line, raw) in lines.iter().enumerate() {
                let (event, _) = parsed(raw, None);
                if event.stream != Stream::KubeAudit || name.contains("panther") {
                    continue;
                }
                let fired = sigma(&event);
                if event.privileged == Some(Privilege::Exec)
                    && !fired.contains(&"exec_into_container")
                {
                    missed_execs.push(format!("{name}:{} {:?}", line + 1, event.kind));
                }
                found.extend(fired.into_iter().map(|rule| (line + 1, rule.to_owned())));
            }
            if expected.is_empty() && (whole || name.contains("eventlist")) {
                // The table covers logs, neither single files nor bodies of the webhook.
                continue;
            }
            let mut expected = expected;
            expected.sort();
            found.sort();
            hits += expected.iter().filter(|hit| found.contains(hit)).count();
            if expected != found {
                let only = |a: &[(usize, String)], b: &[(usize, String)]| {
                    a.iter().filter(|hit| !b.contains(hit)).cloned().collect::<Vec<_>>()
                };
                differ.push((name, only(&expected, &found), only(&found, &expected)));
            }
        }
    }
    eprintln!("{hits} hits reproduced; execs that the rule for exec misses: {missed_execs:#?}");
    assert!(wanted.is_empty(), "{wanted:?}");
    assert!(differ.is_empty(), "{differ:#?}");
    assert!(!missed_execs.is_empty());
}

/// One parsed record and what the author's pipeline added to it.
struct Case {
    event: Event<'static>,
    fields: Fields,
    enrichment: Value,
}

impl Case {
    fn who(&self) -> &str {
        self.event.actor.name.as_deref().unwrap_or_default()
    }

    fn is_system(&self) -> bool {
        self.who().starts_with("system:") || self.who().starts_with("eks:")
    }

    fn went_well(&self) -> bool {
        !matches!(self.event.outcome, Some(Outcome::Denied | Outcome::Failure))
    }

    fn code(&self) -> &str {
        self.event.detail("code").unwrap_or_default()
    }

    fn namespace(&self) -> &str {
        self.event.resource.namespace.as_deref().unwrap_or_default()
    }

    fn in_system_namespace(&self) -> bool {
        matches!(self.namespace(), "kube-system" | "kube-public" | "kube-node-lease")
    }

    fn creates(&self, resource: &str) -> bool {
        verb(&self.event) == "create"
            && kind(&self.event) == resource
            && part(&self.event).is_empty()
            && self.went_well()
    }

    fn creates_role(&self) -> bool {
        (self.creates("roles") || self.creates("clusterroles")) && !self.is_system()
    }

    /// Pods of the system's own, in its own namespaces, are let be.
    fn creates_pod(&self) -> bool {
        self.creates("pods") && !(self.is_system() && self.in_system_namespace())
    }

    fn agent(&self) -> &str {
        self.event.detail("user-agent").unwrap_or_default()
    }

    fn is_from_public(&self) -> bool {
        self.event.source_address.as_deref().is_some_and(is_public)
    }

    fn network(&self) -> &str {
        let of = |key: &str| self.enrichment["ipinfo_asn"][key][0]["domain"].as_str();
        of("sourceIPs").or_else(|| of("callerIP")).unwrap_or_default()
    }

    /// The nodes of a managed cluster come from the networks of who manages it.
    fn is_from_the_cloud_itself(&self, log_type: &str) -> bool {
        let known: &[&str] = match log_type {
            "Amazon.EKS.Audit" => &["amazon.com"],
            "Azure.MonitorActivity" => &["microsoft.com"],
            _ => &["google.com"],
        };
        known.contains(&self.network())
    }

    fn executes(&self) -> bool {
        self.event.privileged == Some(Privilege::Exec) && part(&self.event) == "exec"
    }

    fn commands(&self) -> Vec<&str> {
        self.fields.all("command").collect()
    }

    fn fires(&self, rule: &str, log_type: &str) -> bool {
        let event = &self.event;
        let fields = &self.fields;
        let health =
            ["ELB-HealthChecker", "GoogleHC"].iter().any(|name| self.agent().starts_with(name));
        let private = !self.is_from_public();
        let any = |name, list: &[&str]| fields.all(name).any(|value| list.contains(&value));
        match rule {
            "Amazon.EKS.AnonymousAPIAccess" => {
                self.who() == "system:anonymous" && !(health && private)
            }
            "Kubernetes.API.AnonymousAccess" => {
                let local = event.source_address.as_deref() == Some("127.0.0.1");
                self.who() == "system:anonymous" && !health && !local
            }
            "Amazon.EKS.Audit.Multiple403" | "Kubernetes.API.Multiple403.PublicIP" => {
                self.code() == "403" && self.is_from_public()
            }
            "Amazon.EKS.Audit.SystemNamespaceFromPublicIP" => {
                event.detail("stage") == Some("ResponseComplete")
                    && self.is_system()
                    && self.code() != "403"
                    && self.is_from_public()
                    && !self.is_from_the_cloud_itself(log_type)
            }
            "Kubernetes.System.Principal.PublicIP" => {
                let nobody = matches!(self.who(), "system:anonymous" | "system:unauthenticated");
                // Drivers of Azure's disks come from its own nodes, enriched or not.
                let driver = self.who().contains(":csi-azure");
                self.is_system()
                    && !nobody
                    && !driver
                    && self.is_from_public()
                    && !self.is_from_the_cloud_itself(log_type)
            }
            "Kubernetes.AdmissionController.Created" => {
                self.creates("mutatingwebhookconfigurations")
                    || self.creates("validatingwebhookconfigurations")
            }
            "Kubernetes.ClientCertificate.Created" => {
                self.creates("certificatesigningrequests")
                    && fields.first("csr.signer") == Some("kubernetes.io/kube-apiserver-client")
                    && (!self.is_system() || self.who().starts_with("system:serviceaccount:"))
            }
            "Kubernetes.ClusterRoleBinding.Privileged" => {
                let bound = fields.first("role.name").unwrap_or_default();
                self.creates("clusterrolebindings")
                    && !self.is_system()
                    && (bound.starts_with("system:") || matches!(bound, "admin" | "cluster-admin"))
            }
            "Kubernetes.CronJob.CreatedOrModified" => {
                kind(event) == "cronjobs" && event.access == Access::Write && self.went_well()
            }
            "Kubernetes.DaemonSet.Created" => self.creates("daemonsets"),
            "Kubernetes.Pod.Exec" => self.executes(),
            "Kubernetes.Ingress.NoTLS" => {
                self.creates("ingresses") && fields.first("ingress.tls").is_none()
            }
            "Kubernetes.API.IOC.Activity" => {
                event.stream == Stream::KubeAudit
                    && !self.enrichment["tor_exit_nodes"].is_null()
                    && event.category.category().is_some()
            }
            "Kubernetes.Kubectl.CP.Operation" => {
                let command = self.commands();
                self.executes()
                    && self.went_well()
                    && !self.in_system_namespace()
                    && command.first() == Some(&"tar")
                    && command.get(1) == Some(&"cf")
                    && command.get(2) == Some(&"-")
            }
            "Kubernetes.Pod.SystemNamespace" => {
                self.creates("pods") && self.in_system_namespace() && !self.is_system()
            }
            "Kubernetes.Pod.Dangerous.Capabilities" => {
                let dangerous =
                    ["SYS_ADMIN", "NET_ADMIN", "SYS_PTRACE", "SYS_MODULE", "BPF", "ALL"];
                self.creates_pod() && any("container.capability", &dangerous)
            }
            "Kubernetes.Pod.Host.IPC" => self.creates_pod() && fields.has("host.ipc", "true"),
            "Kubernetes.Pod.Host.Network" => {
                self.creates_pod() && fields.has("host.network", "true")
            }
            "Kubernetes.Pod.Host.PID" => self.creates_pod() && fields.has("host.pid", "true"),
            "Kubernetes.Pod.HostPath.Volume" => {
                self.creates_pod() && fields.first("volume.host-path").is_some()
            }
            "Kubernetes.Pod.Privileged.Created" => {
                self.creates_pod()
                    && (fields.has("container.privileged", "true")
                        || fields.has("container.run-as-non-root", "false")
                        || fields.has("container.run-as-user", "0"))
            }
            "Kubernetes.Role.NodeProxyPermissions" => {
                self.creates_role()
                    && (any("rule.resource", &["nodes/proxy", "nodes/*"])
                        || (fields.has("rule.resource", "nodes")
                            && fields.has("rule.resource", "*")))
            }
            "Kubernetes.Role.PodExec" => {
                self.creates_role() && any("rule.resource", &["pods/exec"])
            }
            "Kubernetes.Role.Wildcard" => {
                self.creates_role()
                    && (fields.has("rule.resource", "*") || fields.has("rule.verb", "*"))
            }
            "Kubernetes.Role.WritePermissions" => {
                let writes = ["create", "update", "patch", "delete", "deletecollection"];
                self.creates_role() && any("rule.verb", &writes)
            }
            "Kubernetes.Secret.AccessDenied" => {
                kind(event) == "secrets"
                    && verb(event) == "get"
                    && matches!(self.code(), "401" | "403" | "404")
                    && !self.who().starts_with("system:serviceaccount:kube-system:")
            }
            "Kubernetes.BulkSecretAccess" => {
                kind(event) == "secrets" && event.access == Access::Read
            }
            "Kubernetes.Secrets.DumpAllNamespaces" => {
                kind(event) == "secrets"
                    && verb(event) == "list"
                    && self.namespace().is_empty()
                    && !self.is_system()
            }
            "Kubernetes.Service.NodePort.Deployed" => {
                self.creates("services") && fields.has("service.type", "NodePort")
            }
            "Kubernetes.ServiceAccount.TokenCreated" => {
                event.action == "serviceaccount.token.create"
                    && verb(event) == "create"
                    && self.went_well()
                    && !(self.is_system() && self.in_system_namespace())
            }
            "Kubernetes.Pod.StealServiceAccountToken" => {
                let token =
                    |command: &str| command.contains("serviceaccount") && command.contains("token");
                let cloud = |command: &str| command.contains("/var/run/secrets/");
                self.executes()
                    && self.went_well()
                    && !(self.is_system() && self.in_system_namespace())
                    && self.commands().iter().any(|command| token(command) || cloud(command))
            }
            "Kubernetes.SystemRole.Modified" => {
                let name = event.resource.name.as_deref().unwrap_or_default();
                matches!(kind(event), "roles" | "clusterroles")
                    && matches!(verb(event), "update" | "patch" | "delete")
                    && name.starts_with("system:")
                    && !matches!(name, "system:coredns" | "system:managed-certificate-controller")
                    && !self.is_system()
            }
            _ => false,
        }
    }
}

fn is_public(address: &str) -> bool {
    match address.parse() {
        Ok(IpAddr::V4(address)) => {
            !(address.is_private() || address.is_loopback() || address.is_link_local())
        }
        Ok(IpAddr::V6(address)) => !(address.is_loopback() || address.is_unique_local()),
        Err(_) => false,
    }
}

#[test]
fn the_expected_results_of_the_panther_rules_are_reproduced() {
    let Some(samples) = samples() else { return };
    let path = samples.join("k8s-audit/licensed/panther-rule-tests.jsonl");
    let lines = std::fs::read_to_string(path).unwrap();
    let (mut all, mut wrong) = (0, Vec::new());
    for line in lines.lines() {
        let test: Value = serde_json::from_str(line).unwrap();
        let log_type = test["log"]["p_log_type"].as_str().unwrap_or("Amazon.EKS.Audit");
        let hint = (log_type == "Amazon.EKS.Audit").then_some(Stream::KubeAudit);
        let raw = serde_json::to_vec(&test["log"]).unwrap();
        let (event, fields) = parsed(&raw, hint);
        let case = Case { event, fields, enrichment: test["log"]["p_enrichment"].clone() };
        let rule = test["rule"].as_str().unwrap();
        let fires = case.fires(rule, log_type);
        all += 1;
        if Some(fires) != test["expected"].as_bool() {
            wrong.push(format!("{rule}: {} {:?} {:?}", test["test"], case.event, case.fields));
        }
    }
    eprintln!("{} of {all} expected results are reproduced", all - wrong.len());
    assert!(wrong.is_empty(), "{wrong:#?}");
}
