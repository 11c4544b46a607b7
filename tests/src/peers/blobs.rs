//! Stand-ins for Azure Blob Storage and Google Cloud Storage, written from their vendors' descriptions.
//!
//! No program that keeps what their locks promise can be had for tests: Azurite ignores the headers, and
//! fake-gcs-server stores a retention and deletes all the same. These refuse what the descriptions say is
//! refused, with the same codes, and are stricter where these are silent. Told to pretend, they do what the
//! two programs do.
//!
//! - Azure: `rest/api/storageservices/put-blob`, `set-blob-immutability-policy`, `delete-blob`;
//!   `azure/storage/blobs/immutable-version-level-worm-policies`, `versioning-overview`.
//! - Google: `storage/docs/json_api/v1/objects`, `storage/docs/object-lock`, `request-preconditions`;
//!   `identity/protocols/oauth2/service-account`.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64URL;
use serde_json::{Value, json};
use shared::clock::{Clock, Nanos, SystemClock};

use super::{peer, run_with_input};
use crate::process::run;

/// Which of the two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Vendor {
    /// Azure Blob Storage: account `plant`, container `evidence`.
    Azure,
    /// Google Cloud Storage: bucket `evidence`.
    Google,
}

/// A store of one container or bucket.
#[derive(Debug)]
pub struct Blobs {
    address: SocketAddr,
    shared: Arc<Mutex<State>>,
    dir: PathBuf,
}

#[derive(Debug)]
struct State {
    vendor: Vendor,
    /// Takes locks and does not keep them.
    pretends: bool,
    /// The container was made for locks.
    lockable: bool,
    /// As many requests are answered 503.
    busy: u32,
    /// What is accepted as a proof of who asks.
    secret: String,
    /// Every version of every object, the current one among them.
    objects: BTreeMap<String, Vec<Version>>,
    next: u64,
    tokens: u64,
    dir: PathBuf,
}

#[derive(Clone, Debug)]
struct Version {
    id: String,
    bytes: Vec<u8>,
    /// Locked, and until when.
    policy: Option<(bool, Nanos)>,
    current: bool,
}

impl Version {
    fn is_held(&self) -> bool {
        self.policy.is_some_and(|(_, until)| until > SystemClock.now())
    }
}

struct Request {
    method: String,
    path: String,
    query: BTreeMap<String, String>,
    headers: BTreeMap<String, String>,
    body: Vec<u8>,
}

struct Answer(u16, Vec<(&'static str, String)>, Vec<u8>);

impl Answer {
    fn empty(status: u16) -> Self {
        Self(status, Vec::new(), Vec::new())
    }
    fn json(status: u16, value: &Value) -> Self {
        Self(status, Vec::new(), value.to_string().into_bytes())
    }
    fn error(status: u16, code: &str) -> Self {
        Self(status, vec![("x-ms-error-code", code.to_owned())], code.as_bytes().to_vec())
    }
}

impl Blobs {
    /// A store, made for locks.
    pub fn new(vendor: Vendor, dir: &Path) -> Self {
        fs::create_dir_all(dir).expect("the store's folder can be made");
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("a bound socket has an address");
        let state = State {
            vendor,
            pretends: false,
            lockable: true,
            busy: 0,
            secret: "first-secret".to_owned(),
            objects: BTreeMap::new(),
            next: 1,
            tokens: 0,
            dir: dir.to_owned(),
        };
        let shared = Arc::new(Mutex::new(state));
        let ours = Arc::clone(&shared);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let shared = Arc::clone(&ours);
                // A connection that ends is no error of the store.
                std::thread::spawn(move || serve(&stream, &shared));
            }
        });
        Self { address, shared, dir: dir.to_owned() }
    }

    /// Where it answers.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on it takes locks and does not keep them.
    pub fn pretend(&self) {
        self.state().pretends = true;
    }

    /// The container was not made for locks.
    pub fn without_locks(&self) {
        self.state().lockable = false;
    }

    /// It answers the next so many requests that it is busy.
    pub fn busy(&self, requests: u32) {
        self.state().busy = requests;
    }

    /// From now on only this proves who asks.
    pub fn rotate(&self, secret: &str) {
        secret.clone_into(&mut self.state().secret);
    }

    /// How often a token was given.
    pub fn tokens(&self) -> u64 {
        self.state().tokens
    }

    /// Every version of every object without canaries: name, and content.
    pub fn objects(&self) -> Vec<(String, Vec<u8>)> {
        let state = self.state();
        let objects = state.objects.iter().filter(|(key, _)| !key.contains("canary"));
        objects
            .flat_map(|(key, versions)| {
                versions.iter().map(|version| (key.clone(), version.bytes.clone()))
            })
            .collect()
    }

    /// Somebody puts something else under a name: it becomes the current version.
    pub fn overwrite(&self, key: &str, bytes: &[u8]) {
        self.state().add(key, bytes.to_vec(), None);
    }

    /// Somebody deletes a name: what was there is a former version.
    pub fn hide(&self, key: &str) {
        if let Some(version) = self.state().version(key, None) {
            version.current = false;
        }
    }

    /// A service account of this store, in Google's form; its public key stays here.
    pub fn service_account(&self) -> PathBuf {
        let key = self.dir.join("account.pem");
        let mut make = peer("openssl");
        make.args(["genpkey", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048", "-out"]);
        run(make.arg(&key)).success();
        let mut public = peer("openssl");
        public.args(["pkey", "-pubout", "-in"]).arg(&key).arg("-out");
        run(public.arg(self.dir.join(PUBLIC_KEY))).success();
        let account = json!({
            "type": "service_account",
            "client_email": ACCOUNT,
            "private_key": fs::read_to_string(&key).expect("a key was made"),
            "token_uri": format!("{}/token", self.endpoint()),
        });
        let path = self.dir.join("account.json");
        write_secret(&path, &account.to_string());
        path
    }
}

/// Writes a file that nobody else can read, in one step.
pub fn write_secret(path: &Path, text: &str) {
    use std::os::unix::fs::PermissionsExt;
    let partial = path.with_extension("new");
    fs::write(&partial, text).expect("a secret can be written");
    fs::set_permissions(&partial, fs::Permissions::from_mode(0o600)).expect("a mode can be set");
    shared::durable::rename(&partial, path).expect("a rename");
}

fn serve(stream: &TcpStream, shared: &Mutex<State>) -> io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut writer = stream;
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 {
            return Ok(());
        }
        let mut words = line.split_whitespace().map(ToOwned::to_owned);
        let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        let mut headers = BTreeMap::new();
        loop {
            let mut line = String::new();
            reader.read_line(&mut line)?;
            let Some((name, value)) = line.trim().split_once(':') else { break };
            headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
        }
        let length = headers.get("content-length").and_then(|n| n.parse().ok()).unwrap_or(0);
        let mut body = vec![0; length];
        reader.read_exact(&mut body)?;
        let (path, query) = target.split_once('?').unwrap_or((&target, ""));
        let query = query
            .split('&')
            .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
            .map(|(name, value)| (name.to_owned(), decode(value)))
            .collect();
        let head = method == "HEAD";
        let request = Request { method, path: decode(path), query, headers, body };
        let answer = {
            let mut state = shared.lock().unwrap_or_else(PoisonError::into_inner);
            match state.vendor {
                _ if state.busy > 0 => {
                    state.busy -= 1;
                    Answer::error(503, "ServerBusy")
                }
                Vendor::Azure => azure(&mut state, &request),
                Vendor::Google => google(&mut state, &request),
            }
        };
        let Answer(status, headers, body) = answer;
        let mut text = format!("HTTP/1.1 {status} X\r\nContent-Length: {}\r\n", body.len());
        for (name, value) in headers {
            let _ = write!(text, "{name}: {value}\r\n");
        }
        text.push_str("\r\n");
        writer.write_all(text.as_bytes())?;
        if !head {
            writer.write_all(&body)?;
        }
    }
}

fn decode(text: &str) -> String {
    let mut out = Vec::new();
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        if byte == b'%' {
            let digits = [bytes.next().unwrap_or(b'0'), bytes.next().unwrap_or(b'0')];
            let digits = String::from_utf8_lossy(&digits).into_owned();
            out.push(u8::from_str_radix(&digits, 16).unwrap_or(b'?'));
        } else {
            out.push(byte);
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

impl State {
    fn version(&mut self, key: &str, id: Option<&String>) -> Option<&mut Version> {
        let versions = self.objects.get_mut(key)?;
        versions.iter_mut().find(|version| match id {
            Some(id) => version.id == *id,
            None => version.current,
        })
    }

    /// A part of the list of all versions from a marker on, and the next marker. Fewer than were asked
    /// for, as the stores may give.
    fn listed(
        &self,
        query: &BTreeMap<String, String>,
        marker: &str,
    ) -> (Vec<(&str, &Version)>, String) {
        let prefix = query.get("prefix").map_or("", String::as_str);
        let from: usize = query.get(marker).and_then(|marker| marker.parse().ok()).unwrap_or(0);
        let all: Vec<_> = self
            .objects
            .iter()
            .filter(|(key, _)| key.starts_with(prefix))
            .flat_map(|(key, versions)| versions.iter().map(|one| (key.as_str(), one)))
            .collect();
        let until = all.len().min(from + LISTED);
        let next = if until < all.len() { until.to_string() } else { String::new() };
        (all[from.min(until)..until].to_vec(), next)
    }

    fn add(&mut self, key: &str, bytes: Vec<u8>, policy: Option<(bool, Nanos)>) -> String {
        let id = self.next.to_string();
        self.next += 1;
        let versions = self.objects.entry(key.to_owned()).or_default();
        for version in versions.iter_mut() {
            version.current = false;
        }
        versions.push(Version { id: id.clone(), bytes, policy, current: true });
        id
    }

    fn remove(&mut self, key: &str, id: &str) {
        let versions = self.objects.entry(key.to_owned()).or_default();
        versions.retain(|version| version.id != id);
    }
}

fn azure(state: &mut State, request: &Request) -> Answer {
    if request.query.get("sig") != Some(&state.secret) {
        return Answer::error(403, "AuthenticationFailed");
    }
    let header = |name: &str| request.headers.get(name).map(String::as_str);
    for needed in ["x-ms-version", "x-ms-date"] {
        if header(needed).is_none() {
            return Answer::error(400, "MissingRequiredHeader");
        }
    }
    let Some(path) = request.path.strip_prefix("/evidence") else {
        return Answer::error(404, "ContainerNotFound");
    };
    let key = path.trim_start_matches('/').to_owned();
    if key.is_empty() && request.query.get("comp").is_some_and(|comp| comp == "list") {
        if request.query.get("include").map(String::as_str) != Some("versions") {
            return Answer::error(400, "InvalidQueryParameterValue");
        }
        return Answer(200, Vec::new(), azure_list(state, &request.query).into_bytes());
    }
    if key.is_empty() {
        let on = ("x-ms-immutable-storage-with-versioning-enabled", state.lockable.to_string());
        return Answer(200, vec![on], Vec::new());
    }
    let until = header("x-ms-immutability-policy-until-date").and_then(rfc1123);
    let policy = match (header("x-ms-immutability-policy-mode"), until) {
        (None, None) => None,
        (Some(mode), Some(until)) if until > SystemClock.now() => {
            Some((mode.eq_ignore_ascii_case("locked"), until))
        }
        _ => return Answer::error(400, "InvalidHeaderValue"),
    };
    let id = request.query.get("versionid").cloned();
    let pretends = state.pretends;
    let policies = request.query.get("comp").is_some_and(|comp| comp == "immutabilityPolicies");
    match (request.method.as_str(), policies) {
        ("PUT", false) => {
            if header("x-ms-blob-type") != Some("BlockBlob") {
                return Answer::error(400, "MissingRequiredHeader");
            }
            if policy.is_some() && !state.lockable {
                return Answer::error(409, "VersionLevelImmutabilityNotEnabled");
            }
            if header("if-none-match") == Some("*") && state.version(&key, None).is_some() {
                return Answer::error(409, "BlobAlreadyExists");
            }
            // As Azurite does: the headers are read by nobody.
            let policy = policy.filter(|_| !pretends);
            let id = state.add(&key, request.body.clone(), policy);
            Answer(201, vec![("x-ms-version-id", id)], Vec::new())
        }
        (method, true) => {
            let Some(version) = state.version(&key, id.as_ref()) else {
                return Answer::error(404, "BlobNotFound");
            };
            let locked = version.policy.filter(|(locked, _)| *locked);
            let refused = match (method, locked, policy) {
                ("PUT", Some((_, old)), Some((locked, new))) => !locked || new < old,
                ("DELETE", Some(_), _) => true,
                ("PUT", None, Some(_)) | ("DELETE", None, _) => false,
                _ => return Answer::error(400, "InvalidHeaderValue"),
            };
            if refused && !pretends {
                return Answer::error(409, "ImmutabilityPolicyLocked");
            }
            version.policy = policy;
            Answer::empty(200)
        }
        ("DELETE", false) => {
            let Some(version) = state.version(&key, id.as_ref()).map(|version| version.clone())
            else {
                return Answer::error(404, "BlobNotFound");
            };
            if id.is_none() {
                // It becomes a former version.
                state.version(&key, None).expect("it was found").current = false;
                return Answer::empty(202);
            }
            if version.is_held() && !pretends {
                return Answer::error(409, "BlobImmutableDueToPolicy");
            }
            if version.current {
                return Answer::error(403, "OperationNotAllowedOnRootBlob");
            }
            state.remove(&key, &version.id);
            Answer::empty(202)
        }
        ("GET" | "HEAD", false) => {
            let Some(version) = state.version(&key, id.as_ref()) else {
                return Answer::error(404, "BlobNotFound");
            };
            let mut headers = vec![("x-ms-version-id", version.id.clone())];
            if let Some((locked, until)) = version.policy {
                let mode = if locked { "locked" } else { "unlocked" };
                headers.push(("x-ms-immutability-policy-mode", mode.to_owned()));
                headers.push(("x-ms-immutability-policy-until-date", rfc1123_text(until)));
            }
            Answer(200, headers, version.bytes.clone())
        }
        _ => Answer::error(405, "UnsupportedHttpVerb"),
    }
}

/// `rest/api/storageservices/list-blobs`: XML behind a byte order mark.
fn azure_list(state: &State, query: &BTreeMap<String, String>) -> String {
    let (versions, next) = state.listed(query, "marker");
    let mut text = "\u{feff}<?xml version=\"1.0\" encoding=\"utf-8\"?><EnumerationResults ContainerName=\"evidence\"><Blobs>".to_owned();
    for (key, version) in versions {
        let key = key.replace('&', "&amp;").replace('<', "&lt;");
        let current =
            if version.current { "<IsCurrentVersion>true</IsCurrentVersion>" } else { "" };
        let made = rfc1123_text(Nanos(made(version) * 1_000_000_000));
        let _ = write!(
            text,
            "<Blob><Name>{key}</Name><VersionId>{}</VersionId>{current}<Properties><Creation-Time>{made}</Creation-Time><Content-Length>{}</Content-Length></Properties></Blob>",
            version.id,
            version.bytes.len()
        );
    }
    let _ = write!(text, "</Blobs><NextMarker>{next}</NextMarker></EnumerationResults>");
    text
}

/// When a version was made: versions are a second apart.
fn made(version: &Version) -> i64 {
    1_790_000_000 + version.id.parse::<i64>().unwrap_or(0)
}

fn google(state: &mut State, request: &Request) -> Answer {
    if request.path == "/token" {
        return token(state, &request.body);
    }
    let bearer = format!("Bearer {}", state.secret);
    if request.headers.get("authorization") != Some(&bearer) {
        return Answer::empty(401);
    }
    if request.path == "/storage/v1/b/evidence" {
        let bucket = if state.lockable {
            json!({"name": "evidence", "objectRetention": {"mode": "Enabled"}})
        } else {
            json!({"name": "evidence"})
        };
        return Answer::json(200, &bucket);
    }
    if request.method == "GET" && request.path == "/storage/v1/b/evidence/o" {
        let all = request.query.get("versions").is_some_and(|versions| versions == "true");
        let (versions, next) = state.listed(&request.query, "pageToken");
        let items: Vec<_> = versions
            .into_iter()
            .filter(|(_, version)| all || version.current)
            .map(|(key, version)| described(key, version))
            .collect();
        let mut list = json!({"kind": "storage#objects", "items": items});
        if !next.is_empty() {
            list["nextPageToken"] = next.into();
        }
        return Answer::json(200, &list);
    }
    let generation = request.query.get("generation").cloned();
    let pretends = state.pretends;
    if request.path == "/upload/storage/v1/b/evidence/o" {
        return upload(state, request);
    }
    let Some(key) = request.path.strip_prefix("/storage/v1/b/evidence/o/").map(ToOwned::to_owned)
    else {
        return Answer::empty(404);
    };
    let Some(version) = state.version(&key, generation.as_ref()) else {
        return Answer::empty(404);
    };
    match request.method.as_str() {
        "GET" if request.query.get("alt").is_some_and(|alt| alt == "media") => {
            Answer(200, Vec::new(), version.bytes.clone())
        }
        "GET" => Answer::json(200, &described(&key, version)),
        "PATCH" => {
            let Ok(body) = serde_json::from_slice::<Value>(&request.body) else {
                return Answer::empty(400);
            };
            let new = retention(&body);
            let locked = version.policy.filter(|(locked, _)| *locked);
            let refused = match (locked, new) {
                (Some((_, old)), Some((locked, new))) => !locked || new < old,
                (Some(_), None) => true,
                (None, _) => false,
            };
            if refused && !pretends {
                return Answer::empty(403);
            }
            version.policy = new;
            Answer::json(200, &described(&key, version))
        }
        "DELETE" if version.is_held() && !pretends => Answer::empty(403),
        "DELETE" => {
            let id = version.id.clone();
            state.remove(&key, &id);
            Answer::empty(204)
        }
        _ => Answer::empty(405),
    }
}

fn upload(state: &mut State, request: &Request) -> Answer {
    let kind = request.headers.get("content-type").map_or("", String::as_str);
    let Some(boundary) = kind.strip_prefix("multipart/related; boundary=") else {
        return Answer::empty(400);
    };
    // Two parts, each with a head of its own, and nothing else.
    let text = &request.body;
    let delimiter = format!("--{boundary}");
    let find = |from: usize, what: &str| {
        let found = text[from..].windows(what.len()).position(|part| part == what.as_bytes());
        found.map(|at| from + at)
    };
    let parts = (|| {
        let json_from = find(0, "\r\n\r\n")? + 4;
        let json_to = find(json_from, &format!("\r\n{delimiter}\r\n"))?;
        let from = find(json_to, "\r\n\r\n")? + 4;
        let end = format!("\r\n{delimiter}--\r\n");
        let to = text.len().checked_sub(end.len()).filter(|to| text[*to..] == *end.as_bytes())?;
        let metadata: Value = serde_json::from_slice(&text[json_from..json_to]).ok()?;
        Some((metadata, text[from..to].to_vec()))
    })();
    let Some((metadata, bytes)) = parts else { return Answer::empty(400) };
    let key = metadata["name"].as_str().unwrap_or_default().to_owned();
    let policy = retention(&metadata);
    if policy.is_some() && !state.lockable {
        return Answer::empty(400);
    }
    if policy.is_some_and(|(_, until)| until <= SystemClock.now()) {
        return Answer::empty(400);
    }
    let create = request.query.get("ifGenerationMatch").is_some_and(|wanted| wanted == "0");
    if create && state.version(&key, None).is_some() && !state.pretends {
        return Answer::empty(412);
    }
    state.add(&key, bytes, policy);
    let version = state.version(&key, None).expect("it was made just now");
    Answer::json(200, &described(&key, version))
}

fn described(key: &str, version: &Version) -> Value {
    let time = |secs| Nanos(secs * 1_000_000_000).to_string();
    let mut value = json!({
        "name": key,
        "generation": version.id,
        "size": version.bytes.len().to_string(),
        "timeCreated": time(made(version)),
    });
    if !version.current {
        value["timeDeleted"] = time(made(version) + 1).into();
    }
    if let Some((locked, until)) = version.policy {
        let mode = if locked { "Locked" } else { "Unlocked" };
        value["retention"] = json!({"mode": mode, "retainUntilTime": until.to_string()});
    }
    value
}

fn retention(body: &Value) -> Option<(bool, Nanos)> {
    let until = body["retention"]["retainUntilTime"].as_str()?.parse().ok()?;
    Some((body["retention"]["mode"] == "Locked", until))
}

/// Gives the token that counts now to whoever proves, by openssl's judgement, to be the account.
fn token(state: &mut State, body: &[u8]) -> Answer {
    let text = String::from_utf8_lossy(body);
    let Some((_, assertion)) = text.split_once("assertion=") else { return Answer::empty(400) };
    let Some((signed, signature)) = assertion.rsplit_once('.') else { return Answer::empty(400) };
    let part = |text: &str| BASE64URL.decode(text).unwrap_or_default();
    let claims: Value = serde_json::from_slice(&part(signed.split('.').nth(1).unwrap_or_default()))
        .unwrap_or_default();
    let now = SystemClock.now().as_secs();
    let good = claims["iss"] == ACCOUNT
        && claims["aud"].as_str().is_some_and(|aud| aud.ends_with("/token"))
        && claims["exp"].as_i64().is_some_and(|exp| exp > now && exp <= now + 3600);
    let file = state.dir.join("assertion.sig");
    fs::write(&file, part(signature)).expect("a signature can be written");
    let mut verify = peer("openssl");
    verify.args(["dgst", "-sha256", "-verify"]).arg(state.dir.join(PUBLIC_KEY));
    verify.arg("-signature").arg(file);
    if !good || run_with_input(&mut verify, signed.as_bytes()).code != Some(0) {
        return Answer::empty(400);
    }
    state.tokens += 1;
    Answer::json(200, &json!({"access_token": state.secret, "expires_in": 3600}))
}

fn rfc1123(text: &str) -> Option<Nanos> {
    let parsed = jiff::fmt::strtime::parse("%a, %d %b %Y %H:%M:%S GMT", text).ok()?;
    let time = jiff::tz::Offset::UTC.to_timestamp(parsed.to_datetime().ok()?).ok()?;
    Some(Nanos(time.as_second() * 1_000_000_000))
}

fn rfc1123_text(time: Nanos) -> String {
    let time = jiff::Timestamp::from_second(time.as_secs()).expect("a time in range");
    time.strftime("%a, %d %b %Y %H:%M:%S GMT").to_string()
}

/// So many versions are in a part of a list, however many were asked for.
const LISTED: usize = 3;
const PUBLIC_KEY: &str = "account.pub";
const ACCOUNT: &str = "archiver@plant.iam.gserviceaccount.com";
