//! What only sounds like a secret is evidence, and stays.

use super::*;

#[test]
fn what_only_sounds_like_a_secret_stays() {
    let redactor = defaults();
    for raw in [
        r#"{"keyboard":"x","monkey":"y","key":"z","keys":["a"],"publicKey":"AAAA","keyId":"k","apiKeyId":"i","tokenExpiration":5}"#,
        r#"{"annotations":{"authorization.k8s.io/decision":"allow","authorization.k8s.io/reason":"RBAC: allowed by ClusterRoleBinding \"a\" of ClusterRole \"token-cleaner\" to ServiceAccount \"token-cleaner/kube-system\"","authentication.kubernetes.io/issued-credential-id":"JTI=8b0c"}}"#,
        r#"{"requestURI":"/api/v1/namespaces/x/secrets/foo?limit=500&fieldSelector=metadata.name%3Dfoo","objectRef":{"resource":"secrets","name":"foo"},"auditID":"a","resourceVersion":"7"}"#,
        r#"{"requestURI":"/apis/authentication.k8s.io/v1/tokenreviews","objectRef":{"resource":"tokenreviews"}}"#,
        r#"{"user":{"extra":{"authentication.kubernetes.io/credential-id":["JTI=1"]}}}"#,
        r#"{"spec":{"automountServiceAccountToken":true,"imagePullSecrets":[{"name":"regcred"}],"volumes":[{"secret":{"secretName":"db","defaultMode":420}},{"projected":{"sources":[{"serviceAccountToken":{"expirationSeconds":3607,"path":"token"}}]}}]}}"#,
        r#"{"env":[{"name":"DB_PASSWORD","valueFrom":{"secretKeyRef":{"name":"db","key":"password"}}},{"name":"TZ","value":"utc"}]}"#,
        r#"{"passwordPolicy":"strong","RequiredPasswordLength":12,"passwordExpired":false,"generatePassword":true}"#,
        r#"{"fieldsV1":{"f:data":{".":{},"f:password":{}},"f:stringData":{"f:token":{}}}}"#,
        r#"{"output":"Grep private keys (command=grep -r password /etc user=root)","proc.cmdline":"passwd root"}"#,
        r#"{"url":"https://index.docker.io:443/v1/a@sha256:abc","image":"r.example:5000/mysql@sha256:aa","mail":"https://x/?m=a@b"}"#,
        r#"{"password":"","token":null,"secret":"[REDACTED]","apiKey":"[redacted:keys]","x":"${TOKEN}","passwd":"${DB_PASSWORD}"}"#,
        r#"{"message":"basic authentication failed for user alice; bearer token expired"}"#,
        r#"{"imageID":"docker://sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef","uid":"0123456789abcdef0123456789abcdef"}"#,
        r#"{"args":["--service-account-signing-key-file=/x","--tls-private-key-file=/y","--enable-bootstrap-token-auth=true","--token-auth-file=/z"]}"#,
        "<13>1 - token-host secret-app - key - user=alice action=login",
        r#"{"output":"echo done | tee x","x":"echo a | passwd root","y":"redis-cli auth && echo on","z":"user@tcp(db:3306)/x"}"#,
        "POSTGRES_PASSWORD_FILE=/run/secrets/db",
    ] {
        let out = run(&redactor, raw.as_bytes(), Stream::KubeAudit);
        assert_eq!(show(&out.bytes), raw);
        assert_eq!(out.note, None, "{raw}");
    }
}
