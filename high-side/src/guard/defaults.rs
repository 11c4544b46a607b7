//! The suppression rules that are shipped: what Kubernetes and `GitOps` say all day without anything
//! having happened.
//!
//! Each names the accounts it trusts to be noisy and what they do; somebody else who does the same is
//! heard. Nothing that changes what runs, who may do what, or a secret is among them.

use std::collections::BTreeMap;

use shared::event::Category;
use shared::record::Stream;

use super::pattern::Patterns;
use super::suppress::{RuleAccess, SuppressRule};

/// Kubernetes' own components. Service accounts of `kube-system` are controllers and add-ons.
const SYSTEM_ACCOUNTS: &[&str] = &[
    "system:apiserver",
    "system:kube-controller-manager",
    "system:kube-proxy",
    "system:kube-scheduler",
    "system:node:*",
    "system:serviceaccount:kube-system:*",
];

/// The control plane itself, and the nodes.
const COMPONENTS: &[&str] = &[
    "system:apiserver",
    "system:kube-controller-manager",
    "system:kube-scheduler",
    "system:node:*",
];

/// What probes ask for. A path that climbs out of there is something else.
const HEALTH_PATHS: [&str; 10] = [
    "/healthz",
    "/healthz?*",
    "/healthz/*",
    "/livez",
    "/livez?*",
    "/livez/*",
    "/readyz",
    "/readyz?*",
    "/readyz/*",
    "!*..*",
];

/// What components watch all day, and which holds no secret and grants nothing.
const WATCHED_KINDS: &[&str] = &[
    "configmaps",
    "controllerrevisions",
    "cronjobs",
    "csidrivers",
    "csinodes",
    "csistoragecapacities",
    "daemonsets",
    "deployments",
    "endpoints",
    "endpointslices",
    "events",
    "horizontalpodautoscalers",
    "ingressclasses",
    "ingresses",
    "jobs",
    "leases",
    "limitranges",
    "namespaces",
    "nodes",
    "persistentvolumeclaims",
    "persistentvolumes",
    "poddisruptionbudgets",
    "pods",
    "podtemplates",
    "priorityclasses",
    "replicasets",
    "replicationcontrollers",
    "resourcequotas",
    "runtimeclasses",
    "services",
    "statefulsets",
    "storageclasses",
    "volumeattachments",
];

/// The rules that are on unless the configuration says otherwise.
pub fn default_suppressions() -> Vec<SuppressRule> {
    let list = |texts: &[&str]| Patterns::from(texts);
    let details = |pairs: &[(&str, &[&str])]| -> BTreeMap<String, Patterns> {
        pairs.iter().map(|(name, texts)| ((*name).to_owned(), list(texts))).collect()
    };
    let rule = |name: &str, stream| SuppressRule {
        name: name.to_owned(),
        streams: vec![stream],
        ..SuppressRule::default()
    };
    // A request that was only received has no outcome yet.
    let went_well = list(&["success", ""]);
    vec![
        SuppressRule {
            actors: list(SYSTEM_ACCOUNTS),
            kinds: list(&["leases"]),
            parts: list(&[""]),
            groups: list(&["coordination.k8s.io"]),
            outcomes: went_well.clone(),
            details: details(&[("verb", &["get", "list", "patch", "update", "watch"])]),
            ..rule("kube-leases", Stream::KubeAudit)
        },
        SuppressRule {
            access: Some(RuleAccess::Read),
            kinds: list(&[""]),
            outcomes: went_well.clone(),
            details: details(&[("uri", &HEALTH_PATHS), ("verb", &["get"])]),
            ..rule("kube-health", Stream::KubeAudit)
        },
        SuppressRule {
            access: Some(RuleAccess::Read),
            actors: list(SYSTEM_ACCOUNTS),
            kinds: list(WATCHED_KINDS),
            parts: list(&[""]),
            outcomes: went_well.clone(),
            details: details(&[("verb", &["list", "watch"])]),
            ..rule("kube-watch", Stream::KubeAudit)
        },
        SuppressRule {
            access: Some(RuleAccess::Read),
            actors: list(COMPONENTS),
            kinds: list(WATCHED_KINDS),
            parts: list(&[""]),
            outcomes: went_well.clone(),
            details: details(&[("verb", &["get"])]),
            ..rule("kube-get", Stream::KubeAudit)
        },
        SuppressRule {
            // Leader election by the older kind of lock. Those who keep endpoints for a living are heard.
            actors: list(&["system:serviceaccount:kube-system:*", "!*endpoint*"]),
            kinds: list(&["endpoints"]),
            parts: list(&[""]),
            namespaces: list(&["kube-system"]),
            outcomes: went_well.clone(),
            details: details(&[("verb", &["get", "update"])]),
            ..rule("kube-election", Stream::KubeAudit)
        },
        SuppressRule {
            categories: vec![Category::Deployment, Category::Configuration],
            actions: list(&["gitops.*", "stack.gitops", "stack.reconcile", "stack.sync"]),
            actors: list(&[""]),
            kinds: list(&["", "application", "gitops*", "stack", "stacks"]),
            details: details(&[(
                "result",
                &["no-change", "no_change", "nochange", "no change", "unchanged", "up-to-date"],
            )]),
            ..rule("gitops-unchanged", Stream::PortainerActivity)
        },
    ]
}
