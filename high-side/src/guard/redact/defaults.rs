//! The rules that are on unless the configuration says otherwise.

use super::rule::RawRedactionRule;

/// The shipped rules, in the order in which they are tried.
pub fn default_rules() -> Vec<RawRedactionRule> {
    vec![
        rule("kubernetes-bodies", &[], &[], &[]).with_resources(&["secrets", "configmaps"]),
        rule("private-keys", PRIVATE_KEYS, KEY_EXCEPT, &["private-key", "key-value"]),
        rule("registry-credentials", REGISTRY, &[], &["key-value"]),
        rule("authorization", AUTHORIZATION, &[], &["bearer", "key-value"]),
        rule("passwords", PASSWORDS, PASSWORD_EXCEPT, &["key-value", "command-line", "url-credentials"]),
        rule("tokens", TOKENS, TOKEN_EXCEPT, &["key-value", "jwt", "known-token"]),
        rule("keys", KEYS, KEY_EXCEPT, &["key-value"]),
    ]
}

fn rule(name: &str, keys: &[&str], except: &[&str], text: &[&str]) -> RawRedactionRule {
    let owned = |list: &[&str]| list.iter().map(|one| (*one).to_owned()).collect();
    RawRedactionRule {
        name: name.to_owned(),
        keys: owned(keys),
        except: owned(except),
        text: owned(text),
        action: Some("mask".to_owned()),
        ..RawRedactionRule::default()
    }
}

impl RawRedactionRule {
    fn with_resources(mut self, resources: &[&str]) -> Self {
        self.resources = resources.iter().map(|one| (*one).to_owned()).collect();
        self
    }
}

/// Key files that Portainer takes as contents, and what kubeconfigs call them.
const PRIVATE_KEYS: &[&str] = &[
    "*private-key*", "*private-key-data", "client-key-data", "tls-key", "tls-key-file", "tls-cert-file", "tls-cacert-file",
    "ssl-key", "ssh-key", "*ssh-private-key", "key-pem", "pem-key", "tls.key", "kubeconfig", "kube-config",
    "kubeconfig-content", "signing-key", "*-signing-key",
];

const REGISTRY: &[&str] = &[
    "auth", "x-registry-auth", "x-registry-config", "registry-auth", "*docker-config-json", "docker-config",
    "docker-cfg", "identity-token", "registry-token", "auth-config",
];

const AUTHORIZATION: &[&str] =
    &["authorization", "proxy-authorization", "*-authorization", "cookie", "cookies", "set-cookie", "http-authorization"];

const PASSWORDS: &[&str] = &[
    "*password*", "*passwd*", "*passphrase*", "*passwort*", "*kennwort*", "*mot-de-passe*", "*pwd", "*pass", "pw", "*-dbpw", "userpw",
    "pass-code", "*pass-key", "pin", "pin-code", "psk", "*pre-shared-key", "otp", "*totp*", "mfa-code", "one-time-code", "*credential", "*credentials",
    "require-pass", "master-auth", "mnemonic", "seed-phrase", "htpasswd", "*pass-word*",
];

/// Names that speak of passwords and hold none.
const PASSWORD_EXCEPT: &[&str] = &[
    "*policy", "*length", "*expiry", "*expiration", "*expired", "*expires", "*age", "*name", "*file", "*path", "*dir", "*ref",
    "*enabled", "*required", "*strength", "*id", "*ids", "*type", "*count", "*ttl", "*stdin", "*changed", "*changed-at", "*last-set",
    "*last-changed", "*reset", "*less", "*at", "*time", "*key-ref", "*secret-key", "old-pwd", "*bypass", "*compass", "*encompass",
    "*surpass", "*multipass", "*overpass", "*underpass", "*trespass", "f:*", "*rules", "*valid", "*days", "*attempts", "*complexity", "*prompt", 
];

const TOKENS: &[&str] = &[
    "*token", "*tokens-value", "*secret", "*-secret-value", "secrets", "*-token-value", "jwt", "*-jwt", "*access-token*", "*refresh-token*", "*bearer*", "client-secret*",
    "*secret-token*", "session-secret*", "x-auth-token*", "*csrf-token*", "*xsrf-token*", "*webhook-secret*", "*unseal*", "recovery-codes", "*backup-codes", "join-tokens",
    "*api-secret*", "*app-secret*", "secret-string", "secret-binary", "*token-value", "bot-token*", "x-amz-security-token", "x-vault-token", "*-token-secret", "sas-token",
    "sig", "x-amz-signature", "secret-value", "secret-text", "secret-data", "*token-data", "jws-kubeconfig*", "tokens", "token1", "token2", "token-hash", "*worker-token", "*manager-token",
];

const TOKEN_EXCEPT: &[&str] = &[
    "service-account-token", "automount-service-account-token", "next-token", "*page-token", "*continuation-token", "*sync-token", "existing-secret", "*pull-secret", "*-existing-secret",
    "*name", "*file", "*path", "*id", "*expiration", "*expires", "*expires-in", "*expires-at", "*expiry", "*expiry-seconds", "*type", "*ttl", "*enabled", "*lifetime", "*count", "*url", "*uri", "*endpoint",
    "*format", "*ref", "*key-ref", "*audience", "*issuer", "*max-age", "*max-ttl", "bearer-method*",
];

const KEYS: &[&str] = &[
    "*api-key*", "*access-key", "*secret-key*", "*secret-access-key*", "*account-key", "*storage-key", "*encryption-key*", "*master-key", "*shared-key", "*shared-access-key",
    "*authentication-key", "*auth-key", "edge-key", "*-edge-key", "license-key", "licence-key", "license-keys", "licensekeys", "*session-key", "*hmac-key", "*aes-key", "*decryption-key", "x-api-key*",
    "*service-account-key", "*app-key", "*application-key", "*consumer-key", "*deploy-key", "*host-key", "*root-key", "*wrapping-key", "*data-key", "*subscription-key", "*functions-key",
    "*recovery-key*", "*token-key", "*client-key", "*server-key", "*crypt-key", "raw-api-key", "*vault-key", "*cookie-key", "*salt-key", "secret-base", "secret-key-base",
];

/// Names that speak of keys and hold none.
const KEY_EXCEPT: &[&str] = &[
    "*id", "*ids", "*name", "*names", "*file", "*path", "*dir", "*ref", "*type", "*algorithm", "*size", "*length", "*count", "*usage", "*enabled", "*policy", "*description", "*digest",
    "*fingerprint", "*expiry", "*expiration", "*expires", "*url", "*usages", "*provider", "*created", "*date-created", "*last-used", "*prefix", "*rotation", "*secret-key-ref",
];
