//! A secret planted in every place that comes to mind must be gone, and the rest must stay.

use base64::Engine as _;
use base64::prelude::{BASE64_STANDARD, BASE64_STANDARD_NO_PAD, BASE64_URL_SAFE_NO_PAD};
use serde_json::json;

use super::*;

const SECRET: &str = "Zq7Rt9Wx2KvB";

fn b64(text: &str) -> String {
    BASE64_STANDARD.encode(text)
}

fn activity(payload: &str) -> String {
    json!({"id": 7, "timestamp": 1_700_000_000, "username": "alice", "context": "local",
        "action": "POST /stacks?endpointId=1", "payload": b64(payload)})
    .to_string()
}

fn activity_json(payload: &serde_json::Value) -> String {
    activity(&payload.to_string())
}

fn action(action: &str) -> String {
    json!({"id": 7, "timestamp": 1_700_000_000, "username": "alice", "context": "local",
        "action": action, "payload": null})
    .to_string()
}

fn audit(resource: &str, object: &serde_json::Value) -> String {
    json!({"kind": "Event", "apiVersion": "audit.k8s.io/v1", "auditID": "a", "stage": "ResponseComplete",
        "requestURI": "/api/v1/x", "verb": "create", "objectRef": {"resource": resource, "name": "db"},
        "requestObject": object})
    .to_string()
}

fn falco(cmdline: &str) -> String {
    json!({"hostname": "n", "output": format!("12:00:00.1: Notice x (command={cmdline} pid=7 user=root)"),
        "output_fields": {"proc.cmdline": cmdline, "proc.pid": 7}, "priority": "Notice", "rule": "r", "time": "t"})
    .to_string()
}

fn say(text: &str) -> String {
    json!({"message": text, "level": "info"}).to_string()
}

fn places() -> Vec<(&'static str, String)> {
    let s = SECRET;
    let jwt = format!(
        "eyJhbGciOiJIUzI1NiJ9.{}.{s}",
        BASE64_URL_SAFE_NO_PAD.encode(format!("{{\"sub\":\"{s}\"}}"))
    );
    let pem =
        format!("-----BEGIN RSA PRIVATE KEY-----\nMIIE{s}\n{s}==\n-----END RSA PRIVATE KEY-----\n");
    let last_applied =
        json!({"apiVersion": "v1", "kind": "Secret", "data": {"a": s}, "metadata": {"name": "x"}})
            .to_string();
    let compose = format!(
        "services:\n  db:\n    image: mysql\n    environment:\n      MYSQL_ROOT_PASSWORD: {s}\n      TZ: utc\n"
    );
    let compose_list =
        format!("services:\n  db:\n    environment:\n      - DB_PASSWORD={s} x\n      - TZ=utc\n");
    let block = format!("a:\n  ssl_private_key: |\n    {s}\n    {s}\n  other: stays\n");
    let manifest = format!(
        "apiVersion: v1\nkind: Secret\nmetadata:\n  name: x\nstringData:\n  greeting: {s}\n  file: |-\n    one {s}\n    two {s}\ntype: Opaque\n"
    );
    let pod = format!(
        "kind: Pod\nspec:\n  containers:\n  - name: a\n    env:\n    - name: DB_PASSWORD\n      value: {s}\n    - name: TZ\n      value: utc\n"
    );
    let mut all = vec![
        ("top-level password", json!({"password": s}).to_string()),
        ("deep password", json!({"a": [{"b": {"Password": s}}]}).to_string()),
        ("number", format!("{{\"password\":1234{}}}", "567890123")),
        ("object", json!({"password": {"x": s}}).to_string()),
        ("array", json!({"passwords": ["a", s]}).to_string()),
        ("escaped key", format!("{{\"pass\\u0077ord\":\"{s}\"}}")),
        ("escaped value", format!("{{\"password\":\"\\u005a{}\"}}", &s[1..])),
        ("mixed case", json!({"PaSsWoRd": s}).to_string()),
        ("separators", json!({"to-ke_n": s}).to_string()),
        ("duplicate keys", format!("{{\"password\":\"a\",\"password\":\"{s}\"}}")),
        ("camel", json!({"repositoryPassword": s, "clientSecret": s, "apiKey": s, "accessToken": s}).to_string()),
        ("tls key file", activity_json(&json!({"TLSKeyFile": s, "TLSCertFile": s}))),
        ("activity payload", activity_json(&json!({"Name": "x", "Password": s}))),
        ("payload array", activity_json(&json!([{"pwd": s}]))),
        ("payload without padding", format!("{{\"payload\":\"{}\"}}", BASE64_STANDARD_NO_PAD.encode(json!({"Password": s}).to_string()))),
        ("payload in url alphabet", format!("{{\"payload\":\"{}\"}}", BASE64_URL_SAFE_NO_PAD.encode(json!({"?>~": "~~~???>>>", "Password": s}).to_string()))),
        ("docker env", activity_json(&json!({"Image": "mysql", "Env": [format!("MYSQL_PASSWORD={s}"), "TZ=utc"]}))),
        ("docker env with blanks", activity_json(&json!({"Env": [format!("API_TOKEN=a b {s}")]}))),
        ("stack env", activity_json(&json!({"Env": [{"name": "DB_PASSWORD", "value": s}]}))),
        ("stack env, value first", activity_json(&json!({"Env": [{"value": s, "name": "DB_PASSWORD"}]}))),
        ("compose", activity_json(&json!({"StackFileContent": compose}))),
        ("compose list", activity_json(&json!({"StackFileContent": compose_list}))),
        ("compose block", activity_json(&json!({"StackFileContent": block}))),
        ("compose quoted", activity_json(&json!({"StackFileContent": format!("x:\n  password: \"{s}\"\n  'token': '{s}'\n")}))),
        ("compose flow", activity_json(&json!({"StackFileContent": format!("environment: {{DB_PASSWORD: {s}, TZ: utc}}\n")}))),
        ("compose default", activity_json(&json!({"StackFileContent": format!("  password: ${{PW:-{s}}}\n")}))),
        ("compose in base64", activity_json(&json!({"StackFileContent": b64(&compose)}))),
        ("manifest text", activity_json(&json!({"StackFileContent": manifest}))),
        ("manifest env", activity_json(&json!({"StackFileContent": pod}))),
        ("next line", activity_json(&json!({"StackFileContent": format!("password:\n  {s}\nother: x\n")}))),
        ("yaml list", activity_json(&json!({"StackFileContent": format!("passwords:\n  - {s}\nother: x\n").replace("passwords", "db-password")}))),
        ("docker secret", activity_json(&json!({"Name": "x", "Data": b64(s)}))),
        ("registry auth", activity_json(&json!({"auths": {"r.example": {"auth": b64(&format!("u:{s}"))}}}))),
        ("token in url", action(&format!("GET /websocket/exec?token={s}&endpointId=1"))),
        ("access token in url", action(&format!("GET /x?id=1&access_token={s}"))),
        ("userinfo", say(&format!("clone https://user:{s}@git.example/x.git"))),
        ("userinfo with at", say(&format!("postgres://u:a@{s}@db/x"))),
        ("userinfo with slash", say(&format!("redis://:a/{s}@db:6379/0"))),
        ("userinfo escaped slashes", format!("{{\"url\":\"https:\\/\\/u:{s}@h\\/x\"}}")),
        ("userinfo in percent", say(&format!("/cb?redirect=https%3A%2F%2Fu%3A{s}%40h"))),
        ("bearer", say(&format!("Authorization: Bearer {s}"))),
        ("basic", say(&format!("authorization: Basic {}", b64(&format!("u:{s}"))))),
        ("token scheme", json!({"headers": {"Authorization": format!("Token {s}")}}).to_string()),
        ("header lists", json!({"headers": {"authorization": [s]}}).to_string()),
        ("header pairs", json!({"headers": [["Authorization", s], ["Host", "x"]]}).to_string()),
        ("raw headers", json!({"rawHeaders": ["Host", "x", "X-API-Key", s]}).to_string()),
        ("api key header", say(&format!("X-API-Key: {s}"))),
        ("cookie", say(&format!("GET / HTTP/1.1\r\nCookie: a=b; sid={s}\r\nHost: x\r\n"))),
        ("set-cookie", json!({"Set-Cookie": format!("sid={s}; Path=/")}).to_string()),
        ("registry header", say(&format!("X-Registry-Auth: {}", b64(&json!({"password": s}).to_string())))),
        ("curl header", falco(&format!("curl -H 'Authorization: Bearer {s}' https://x"))),
        ("long option", falco(&format!("psql --password {s} -h db"))),
        ("long option with =", falco(&format!("tool --db-password={s} --verbose"))),
        ("mysql -p", falco(&format!("mysql -u root -p{s} -h db"))),
        ("sshpass", falco(&format!("sshpass -p {s} ssh root@x"))),
        ("docker login", falco(&format!("docker login -u me -p {s} r.example"))),
        ("curl -u", falco(&format!("curl -u me:{s} https://x"))),
        ("redis AUTH", falco(&format!("redis-cli -h x AUTH {s}"))),
        ("redis auth of a user", falco(&format!("sh -c 'redis-cli auth app {s}'"))),
        ("chpasswd", falco(&format!("sh -c \"echo root:{s} | sudo chpasswd\""))),
        ("passwd --stdin", falco(&format!("sh -c 'echo {s} | passwd --stdin root'"))),
        ("chpasswd in an exec request", audit("pods", &json!({"command": ["sh", "-c", format!("echo root:{s} | chpasswd")]}))),
        ("data source", say(&format!("connecting to app:{s}@tcp(db:3306)/app"))),
        ("redis -a", falco(&format!("redis-cli -h x -a {s} ping"))),
        ("environment", falco(&format!("sh -c PGPASSWORD={s} psql -h db"))),
        ("from-literal", falco(&format!("kubectl create secret generic x --from-literal=greeting={s}"))),
        ("sql", falco(&format!("psql -c ALTER USER a WITH PASSWORD '{s}'"))),
        ("identified by", say(&format!("CREATE USER a IDENTIFIED BY '{s}'"))),
        ("args", json!({"args": ["--token", s, "--v=2"]}).to_string()),
        ("args joined", json!({"args": [format!("--token={s}")]}).to_string()),
        ("cmd array", json!({"Cmd": ["mysql", "-uroot", format!("-p{s}")]}).to_string()),
        ("shell in array", json!({"Cmd": ["sh", "-c", format!("mysql -uroot -p{s} -e x")]}).to_string()),
        ("exec uri", audit("pods", &json!(null)).replace("/api/v1/x", &format!("/api/v1/namespaces/d/pods/x/exec?command=mysql\\u0026command=-p{s}\\u0026container=x"))),
        ("exec uri option", audit("pods", &json!(null)).replace("/api/v1/x", &format!("/exec?command=tool&command=--password%3D{s}&stdin=true"))),
        ("jwt", say(&format!("got {jwt} from x"))),
        ("jwt under another key", json!({"x": jwt}).to_string()),
        ("pem", json!({"x": pem}).to_string()),
        ("pem with escapes", say(&pem.replace('\n', "\\n"))),
        ("pem in one line", say(&pem.replace('\n', " "))),
        ("pem cut", say(&pem[..pem.len() - 40])),
        ("pem in base64", json!({"x": b64(&pem)}).to_string()),
        ("client-key-data", say(&format!("users:\n- user:\n    client-key-data: {s}\n    token: {s}\n"))),
        ("portainer token", say(&format!("using ptr_{s}{s}= now"))),
        ("github token", say(&format!("ghp_{s}{s}"))),
        ("github pat", say(&format!("x github_pat_{s}_{s}"))),
        ("gitlab token", json!({"x": format!("glpat-{s}")}).to_string()),
        ("slack token", say(&format!("xoxb-1234-{s}"))),
        ("vault token", say(&format!("hvs.{s}{s}"))),
        ("stripe key", say(&format!("sk_live_{s}"))),
        ("npm token", say(&format!("npm_{s}{s}"))),
        ("token as a key", format!("{{\"ghp_{s}{s}\":1}}")),
        ("aws secret", json!({"aws_secret_access_key": s}).to_string()),
        ("k8s secret data", audit("secrets", &json!({"data": {"a": b64(s)}, "stringData": {"greeting": s}}))),
        ("k8s secret by kind", say("x").replace("\"x\"", &json!({"kind": "Secret", "data": {"a": s}}).to_string())),
        ("k8s secret, kind last", format!("{{\"o\":{{\"data\":{{\"a\":\"{s}\"}},\"kind\":\"Secret\"}}}}")),
        ("k8s secret list", json!({"kind": "SecretList", "items": [{"data": {"a": s}}]}).to_string()),
        ("k8s list", json!({"kind": "List", "items": [{"kind": "ConfigMap", "data": {"a": s}}]}).to_string()),
        ("config map", audit("configmaps", &json!({"data": {"a": s}, "binaryData": {"b": b64(s)}}))),
        ("json patch", audit("secrets", &json!([{"op": "replace", "path": "/data/greeting", "value": s}]))),
        ("json patch of data", audit("secrets", &json!([{"op": "add", "path": "/data", "value": {"a": s}}]))),
        ("last applied", audit("secrets", &json!({"metadata": {"annotations": {"kubectl.kubernetes.io/last-applied-configuration": last_applied}}}))),
        ("last applied elsewhere", json!({"annotations": {"kubectl.kubernetes.io/last-applied-configuration": last_applied}}).to_string()),
        ("token request", audit("serviceaccounts", &json!({"status": {"token": s, "expirationTimestamp": "t"}}))),
        ("pod env", audit("pods", &json!({"spec": {"containers": [{"env": [{"name": "API_KEY", "value": s}]}]}}))),
        ("nested json", json!({"log": json!({"password": s}).to_string()}).to_string()),
        ("twice nested", json!({"log": json!({"log": json!({"password": s}).to_string()}).to_string()}).to_string()),
        ("nested in base64 in nested", json!({"log": json!({"payload": b64(&json!({"pwd": s}).to_string())}).to_string()}).to_string()),
        ("cri line", format!("2026-11-23T16:00:00Z stdout F {}", json!({"password": s}))),
        ("cri line in log", json!({"log": format!("2026-11-23T16:00:00Z stdout F {}", json!({"password": s}))}).to_string()),
        ("kv text", format!("<13>1 - h portainer - - - user=alice password={s} action=login")),
        ("kv text, first", format!("<13>1 - h portainer - - - password={s} user=alice")),
        ("kv quoted", format!("user=alice password=\"a {s}\" action=login")),
        ("kv with comma", format!("password=a,{s} user=alice")),
        ("structured data", format!("<13>1 - h a - - [x@1 user=\"a\" password=\"{s}\"] {{\"a\":1}}")),
        ("structured data escaped", format!("<13>1 - h a - - [x@1 password=\"a\\\"{s}\"] text")),
        ("cut json", format!("{{\"user\":\"a\",\"password\":\"{s}")),
        ("cut json, escaped key", format!("{{\"user\":\"a\",\"pass\\u0077ord\":\"{s}")),
        ("cut nested json", format!("{{\"log\":\"{{\\\"password\\\":\\\"{s}")),
        ("cut payload", { let whole = activity_json(&json!({"Name": "x", "Password": s, "z": "zzzzzzzz"})); whole[..whole.len() - 12].to_owned() }),
        ("form", format!("a=1&password={s}&b=2")),
        ("form with percent", format!("a=1&user%5Bpassword%5D={s}&b=2")),
        ("form with an encoded name", format!("a=1&%70assword={s}&b=2")),
        ("multipart", format!("--x\r\nContent-Disposition: form-data; name=\"password\"\r\n\r\n{s}\r\n--x--")),
        ("xml", format!("<a><password>{s}</password></a>")),
        ("xml with attributes", format!("<a><ns:password t=\"1\">{s}</ns:password></a>")),
        ("xml attribute", format!("<user name=\"x\" password=\"{s}\"/>")),
        ("xml pair", format!("<add key=\"DbPassword\" value=\"{s}\"/>")),
        ("xml entry", format!("<entry key=\"password\">{s}</entry>")),
        ("ini", format!("[db]\nuser = x\npassword = {s}\n")),
        ("toml", format!("password = \"{s}\"\n")),
        ("php", format!("'password' => '{s}',")),
        ("connection string", say(&format!("Server=x;User Id=a;Password={s};Timeout=5"))),
        ("netrc", say(&format!("machine x login a password {s}"))),
        ("prose", say(&format!("token: {s}"))),
        ("hash", say(&format!("root:$6$abc${s}:1:"))),
        ("identity token", json!({"identitytoken": s}).to_string()),
        ("unescaped bom", format!("<13>1 - h a - - - \u{feff}{}", json!({"password": s}))),
        ("dockerconfigjson", json!({"stringData": {".dockerconfigjson": json!({"auths": {"r": {"password": s}}}).to_string()}}).to_string()),
        ("dockerfile", say(&format!("FROM x\nENV DB_PASSWORD={s}\nRUN y"))),
        ("export", say(&format!("export AWS_SECRET_ACCESS_KEY={s}\n"))),
        ("gson", format!("{{\"m\":\"password\\u003d{s} x\"}}")),
        ("hidden word", format!("{{\"m\":\"p\\u0061ssword={s}\"}}")),
        ("slack hook", say(&format!("https://hooks.slack.com/services/T0000000/B000/{s}"))),
        ("openssl", falco(&format!("openssl enc -aes-256-cbc -k {s} -in x"))),
        ("vault put", falco(&format!("vault kv put secret/x greeting={s}"))),
        ("ldap", falco(&format!("ldapsearch -x -D cn=a -w {s} -b x"))),
    ];
    all.push(("event list", json!({"kind": "EventList", "items": [{"objectRef": {"resource": "secrets"}, "requestObject": {"kind": "Secret", "data": {"a": s}}}]}).to_string()));
    all
}

#[test]
fn no_planted_secret_is_found() {
    let redactor = defaults();
    let mut failed = Vec::new();
    for (name, raw) in places() {
        for (stream, label) in [(Stream::PortainerActivity, "activity"), (Stream::Other, "other")] {
            if name == "docker secret" && stream == Stream::Other {
                continue;
            }
            let out = run(&redactor, raw.as_bytes(), stream);
            let text = show(&out.bytes);
            let mut forms =
                vec![SECRET.to_owned(), "1234567890123".to_owned(), SECRET[1..].to_owned()];
            for lead in ["", "a", "ab"] {
                let encoded = BASE64_STANDARD_NO_PAD.encode(format!("{lead}{SECRET}"));
                forms.push(encoded[4..encoded.len() - 2].to_owned());
            }
            let mut seen = text.clone();
            // What base64 holds counts as found, whatever its alignment.
            for run in
                text.split(|char: char| !char.is_ascii_alphanumeric() && !"+/-_=".contains(char))
            {
                for engine in [&BASE64_STANDARD, &BASE64_STANDARD_NO_PAD, &BASE64_URL_SAFE_NO_PAD] {
                    seen.extend(engine.decode(run).iter().map(|bytes| show(bytes)));
                }
            }
            if forms.iter().any(|form| seen.contains(form.as_str())) {
                failed.push(format!("{name} ({label}): {text}"));
                continue;
            }
            let was_json = serde_json::from_str::<serde_json::Value>(&raw).is_ok();
            if was_json && serde_json::from_slice::<serde_json::Value>(&out.bytes).is_err() {
                failed.push(format!("{name} ({label}) is no JSON: {text}"));
            }
            let Some(note) = out.note else { continue };
            if note.note.contains(SECRET) || note.note.len() > NOTE_BYTES_MAX || note.count == 0 {
                failed.push(format!("{name} ({label}) note: {}", note.note));
            }
            let again = run(&redactor, &out.bytes, stream);
            if again.bytes != out.bytes {
                failed.push(format!("{name} ({label}) twice: {text} -> {}", show(&again.bytes)));
            }
        }
    }
    assert!(places().len() >= 60);
    assert!(failed.is_empty(), "{} of {}:\n{}", failed.len(), places().len(), failed.join("\n"));
}

#[test]
fn every_other_byte_stays() {
    let s = SECRET;
    for (raw, wanted) in [
        (format!("{{ \"a\" : 1.0 , \"password\" : \"{s}\" ,\"b\":\"\\u003c\"}}"), "{ \"a\" : 1.0 , \"password\" : \"[redacted:passwords]\" ,\"b\":\"\\u003c\"}".to_owned()),
        (format!("{{\"log\":\"{{\\\"a\\\": \\\"\\\\u003c\\\", \\\"token\\\":\\\"{s}\\\"}}\\n\"}}"), "{\"log\":\"{\\\"a\\\": \\\"\\\\u003c\\\", \\\"token\\\":\\\"[redacted:tokens]\\\"}\\n\"}".to_owned()),
        (format!("<13>1 - h a - - - user=alice password={s} action=login\n"), "<13>1 - h a - - - user=alice password=[redacted:passwords] action=login\n".to_owned()),
        (format!("a=1&password={s}&b=2"), "a=1&password=[redacted:passwords]&b=2".to_owned()),
        (format!("https://user:{s}@git.example/x.git"), "https://user:[redacted:passwords]@git.example/x.git".to_owned()),
        (activity_json(&json!({"Name": "x", "Password": s})), activity_json(&json!({"Name": "x", "Password": "[redacted:passwords]"}))),
        (activity_json(&json!({"StackFileContent": format!("a:\n  TOKEN: {s}\n  b: c\n")})), activity_json(&json!({"StackFileContent": "a:\n  TOKEN: [redacted:tokens]\n  b: c\n"}))),
        (format!("<a><password>{s}</password></a>"), "<a><password>[redacted:passwords]</password></a>".to_owned()),
        (format!("{{\"m\":\"curl -u me:{s} https://x\"}}"), "{\"m\":\"curl -u me:[redacted:passwords] https://x\"}".to_owned()),
        (format!("{{\"u\":\"/exec?command=mysql\\u0026command=-p{s}\\u0026tty=true\"}}"), "{\"u\":\"/exec?command=mysql\\u0026command=-p[redacted:passwords]\\u0026tty=true\"}".to_owned()),
    ] {
        let out = run(&defaults(), raw.as_bytes(), Stream::PortainerActivity);
        assert_eq!(show(&out.bytes), wanted);
    }
}
