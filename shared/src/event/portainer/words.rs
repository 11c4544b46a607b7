//! What the words of an audit envelope are about, where an event is told by names instead of a route.

use crate::event::view::Category;

use Category::{
    Administrative, Authentication, Configuration, Deployment, IdentityAndAccess, Policy, Runtime,
};

/// What a noun is about, and the noun of its actions. Earlier rows win over later ones, so that the
/// `role` of a `user` and the `credential` of a `registry` are what they are.
pub(super) const NOUNS: &[(&str, Category, &str)] = &[
    ("apikey", IdentityAndAccess, "apikey"),
    ("backup", Administrative, "backup"),
    ("restore", Administrative, "backup"),
    ("role", IdentityAndAccess, "role"),
    ("roles", IdentityAndAccess, "role"),
    ("rbac", IdentityAndAccess, "role"),
    ("membership", IdentityAndAccess, "team.member"),
    ("memberships", IdentityAndAccess, "team.member"),
    ("team", IdentityAndAccess, "team"),
    ("teams", IdentityAndAccess, "team"),
    ("user", IdentityAndAccess, "user"),
    ("users", IdentityAndAccess, "user"),
    ("account", IdentityAndAccess, "user"),
    ("accounts", IdentityAndAccess, "user"),
    ("password", IdentityAndAccess, "user.password"),
    ("serviceaccount", IdentityAndAccess, "serviceaccount"),
    ("serviceaccounts", IdentityAndAccess, "serviceaccount"),
    ("clusterrolebinding", IdentityAndAccess, "clusterrolebinding"),
    ("clusterrolebindings", IdentityAndAccess, "clusterrolebinding"),
    ("rolebinding", IdentityAndAccess, "rolebinding"),
    ("rolebindings", IdentityAndAccess, "rolebinding"),
    ("permission", IdentityAndAccess, "access"),
    ("permissions", IdentityAndAccess, "access"),
    ("access", IdentityAndAccess, "access"),
    ("resourcecontrol", IdentityAndAccess, "access"),
    ("identity", IdentityAndAccess, "identity"),
    ("impersonation", IdentityAndAccess, "identity"),
    ("sso", IdentityAndAccess, "sso"),
    ("policy", Policy, "policy"),
    ("policies", Policy, "policy"),
    ("admission", Policy, "admission"),
    ("constraint", Policy, "constraint"),
    ("exemption", Policy, "policy.exemption"),
    ("violation", Policy, "policy.violation"),
    ("secret", Configuration, "secret"),
    ("secrets", Configuration, "secret"),
    ("configmap", Configuration, "configmap"),
    ("configmaps", Configuration, "configmap"),
    ("config", Configuration, "config"),
    ("registry", Configuration, "registry"),
    ("registries", Configuration, "registry"),
    ("credential", Configuration, "credential"),
    ("credentials", Configuration, "credential"),
    ("gitops", Deployment, "gitops"),
    ("stack", Deployment, "stack"),
    ("stacks", Deployment, "stack"),
    ("container", Deployment, "container"),
    ("containers", Deployment, "container"),
    ("pod", Deployment, "pod"),
    ("pods", Deployment, "pod"),
    ("deployment", Deployment, "deployment"),
    ("deployments", Deployment, "deployment"),
    ("application", Deployment, "application"),
    ("applications", Deployment, "application"),
    ("service", Deployment, "service"),
    ("services", Deployment, "service"),
    ("image", Deployment, "image"),
    ("images", Deployment, "image"),
    ("volume", Deployment, "volume"),
    ("volumes", Deployment, "volume"),
    ("network", Deployment, "network"),
    ("networks", Deployment, "network"),
    ("helm", Deployment, "helm"),
    ("job", Deployment, "job"),
    ("webhook", Deployment, "webhook"),
    ("workload", Deployment, "workload"),
    ("template", Deployment, "template"),
    ("node", Administrative, "node"),
    ("namespace", Configuration, "namespace"),
    ("environment", Configuration, "environment"),
    ("environments", Configuration, "environment"),
    ("endpoint", Configuration, "environment"),
    ("endpoints", Configuration, "environment"),
    ("settings", Configuration, "settings"),
    ("setting", Configuration, "settings"),
    ("ldap", IdentityAndAccess, "ldap"),
    ("oauth", IdentityAndAccess, "oauth"),
    ("oidc", IdentityAndAccess, "oauth"),
    ("license", Administrative, "license"),
    ("licence", Administrative, "license"),
    ("server", Administrative, "system"),
    ("system", Administrative, "system"),
    ("cluster", Administrative, "cluster"),
    ("token", Authentication, "token"),
    ("session", Authentication, "session"),
    ("authentication", Authentication, "session"),
    ("auth", Authentication, "session"),
    ("login", Authentication, "session"),
    ("logout", Authentication, "session"),
    ("runtime", Runtime, "runtime"),
];

/// Words that say that somebody came in or went, or tried to.
pub(super) const SESSION_WORDS: [&str; 12] = [
    "auth",
    "authenticate",
    "authenticated",
    "authentication",
    "lockout",
    "login",
    "logon",
    "logout",
    "logoff",
    "loggedin",
    "signin",
    "signout",
];

/// Words for a shell or a command in a container or on a node.
pub(super) const EXEC_WORDS: [&str; 7] =
    ["attach", "console", "exec", "kubectlshell", "nodeshell", "shell", "terminal"];

/// The words of a text in lower case: split at what is no letter or digit, and where a capital
/// follows a small letter. Neighbours are given joined too: `API key` is `apikey` as well.
pub(super) fn words(text: &str) -> Vec<String> {
    let mut words: Vec<String> = Vec::new();
    let mut small_before = false;
    let mut open = false;
    for char in text.chars().take(CHARS_MAX) {
        if !char.is_alphanumeric() {
            open = false;
            small_before = false;
            continue;
        }
        if !open || (small_before && char.is_uppercase()) {
            words.push(String::new());
        }
        open = true;
        small_before = char.is_lowercase() || char.is_numeric();
        if let Some(word) = words.last_mut() {
            word.extend(char.to_lowercase());
        }
    }
    let joined: Vec<String> = words.windows(2).map(<[String]>::concat).collect();
    words.extend(joined);
    words
}

/// How much of a text is taken apart: names are short.
const CHARS_MAX: usize = 256;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_come_apart_in_every_spelling() {
        for text in ["user.role_assign", "UserRoleAssign", "USER ROLE-ASSIGN"] {
            assert_eq!(words(text), ["user", "role", "assign", "userrole", "roleassign"], "{text}");
        }
        assert_eq!(words("APIKey"), ["apikey"]);
        assert_eq!(words("API key"), ["api", "key", "apikey"]);
        assert!(words("").is_empty());
    }
}
