//! Google Cloud Storage with object retention, locked.
//!
//! What is relied on, and where it is written (docs.cloud.google.com/storage/docs):
//! - `retention` of an object, `{"mode": "Locked", "retainUntilTime": ..}`, in a bucket made for it; a locked
//!   one can't be removed or shortened, only extended: object-lock, `json_api/v1/objects`.
//! - `ifGenerationMatch=0` makes an object only where none is (412): request-preconditions.
//! - `objects.list` with `versions=true`, names in order, at most 1,000 at once: `json_api/v1/objects/list`.
//! - Upload of metadata and media in one request: uploading-objects (multipart).
//! - Tokens for a service account: developers.google.com/identity/protocols/oauth2/service-account.
//!
//! A hold, temporary or event-based, can be lifted by whoever may change objects, so it is not taken for a
//! lock. The store works out no SHA-256, so every object is read back once and hashed here.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::{rand, rsa, signature};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64URL;
use hyper::Method;
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HeaderValue};
use percent_encoding::utf8_percent_encode;
use rustls::pki_types::PrivatePkcs8KeyDer;
use rustls::pki_types::pem::PemObject;
use serde::Deserialize;
use serde_json::{Value, json};
use shared::bell::Bell;
use shared::clock::{Clock, Nanos};
use zeroize::Zeroizing;

use super::config::{GcsConfig, GcsCredential};
use super::listing::{LISTED_MAX, Listed, Marker, Page};
use super::proof::{LONGER, Outcome, Proof, allowed, read_back, refused, shown, still};
use super::{Archive, ArchiveError, Held, Lock, Made, Object, Take, rfc3339};
use crate::http::{Answer, Call, FileBody, Http, HttpConfig, IN_QUERY, Url, credential, sensitive};
use crate::replay::chain_text;
use crate::tls::TlsConfig;

/// A bucket.
pub(super) struct Gcs {
    config: GcsConfig,
    http: Http,
    clock: Arc<dyn Clock>,
    bell: Bell,
    /// The last token that was given for a service account, and until when it is good.
    token: Option<(Zeroizing<String>, Nanos)>,
}

/// A service account's key as Google gives it.
#[derive(Deserialize)]
struct ServiceAccount {
    client_email: String,
    private_key: Zeroizing<String>,
    #[serde(default = "token_uri")]
    token_uri: String,
}

fn token_uri() -> String {
    "https://oauth2.googleapis.com/token".to_owned()
}

#[derive(Deserialize)]
struct Token {
    access_token: Zeroizing<String>,
    expires_in: u64,
}

/// A part of a list.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct List {
    next_page_token: Option<String>,
    #[serde(default)]
    items: Vec<Item>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Item {
    name: String,
    generation: String,
    size: String,
    time_created: String,
    /// When it ceased to be the current one.
    time_deleted: Option<String>,
}

impl List {
    fn page(self, prefix: &str) -> Page {
        let listed = |item: Item| {
            Some(Listed {
                key: item.name.strip_prefix(prefix)?.to_owned(),
                version: item.generation,
                bytes: item.size.parse().unwrap_or(0),
                made: item.time_created.parse().unwrap_or(Nanos(0)),
                current: item.time_deleted.is_none(),
            })
        };
        let token = self.next_page_token.filter(|token| !token.is_empty());
        Page {
            objects: self.items.into_iter().filter_map(listed).collect(),
            next: token.map(|key| Marker { key, version: String::new() }),
        }
    }
}

impl ServiceAccount {
    fn load(path: &Path) -> Result<Self, ArchiveError> {
        let wrong = |why: String| ArchiveError::Credential { path: path.to_owned(), why };
        let text = shared::keys::load_secret(path).map_err(|err| wrong(err.to_string()))?;
        let wrong_form = |_| wrong("is no key of a service account".to_owned());
        serde_json::from_str(&text).map_err(wrong_form)
    }

    /// A statement that we are this account, signed by its key (RFC 7523, RS256).
    fn assertion(&self, path: &Path, now: Nanos) -> Result<String, ArchiveError> {
        let wrong = |why: &str| ArchiveError::Credential { path: path.to_owned(), why: why.into() };
        let key = PrivatePkcs8KeyDer::from_pem_slice(self.private_key.as_bytes())
            .map_err(|_| wrong("holds no private key in PKCS #8"))?;
        let pair = rsa::KeyPair::from_pkcs8(key.secret_pkcs8_der())
            .map_err(|_| wrong("holds no RSA key"))?;
        let claims = json!({
            "iss": self.client_email,
            "scope": SCOPE,
            "aud": self.token_uri,
            "iat": now.as_secs(),
            "exp": now.as_secs() + 3600,
        });
        let head = json!({"alg": "RS256", "typ": "JWT"});
        let text = format!(
            "{}.{}",
            BASE64URL.encode(head.to_string()),
            BASE64URL.encode(claims.to_string())
        );
        let mut signed = vec![0; pair.public_modulus_len()];
        let random = rand::SystemRandom::new();
        pair.sign(&signature::RSA_PKCS1_SHA256, &random, text.as_bytes(), &mut signed)
            .map_err(|_| wrong("holds a key that does not sign"))?;
        Ok(format!("{text}.{}", BASE64URL.encode(signed)))
    }
}

impl Gcs {
    pub(super) fn new(config: GcsConfig, clock: Arc<dyn Clock>, bell: &Bell) -> Self {
        let http = Http::new(&config.http, bell);
        Self { config, http, clock, bell: bell.clone(), token: None }
    }

    fn authorization(&mut self) -> Result<HeaderValue, ArchiveError> {
        let path = match &self.config.credential {
            GcsCredential::Token(path) => {
                let token = credential(path)?;
                return Ok(sensitive(&format!("Bearer {}", *token))?);
            }
            GcsCredential::ServiceAccount(path) => path.clone(),
        };
        let now = self.clock.now();
        if let Some((token, until)) = &self.token
            && *until > now
        {
            return Ok(sensitive(&format!("Bearer {}", **token))?);
        }
        let account = ServiceAccount::load(&path)?;
        let wrong = |why: String| ArchiveError::Credential { path: path.clone(), why };
        // Over TLS as the store itself, and by the same authorities.
        let (base, tail) = split(&account.token_uri);
        let url = Url::parse(base).map_err(|why| wrong(format!("token_uri {why}")))?;
        if !url.tls && !["127.0.0.1", "localhost", "::1"].contains(&url.host.as_str()) {
            return Err(wrong("token_uri begins with https://".to_owned()));
        }
        let tls =
            TlsConfig { ca_file: self.config.http.tls.ca_file.clone(), ..TlsConfig::default() };
        let config = HttpConfig { url, tls, ..self.config.http.clone() };
        let body = format!(
            "grant_type=urn%3Aietf%3Aparams%3Aoauth%3Agrant-type%3Ajwt-bearer&assertion={}",
            account.assertion(&path, now)?
        );
        let form = HeaderValue::from_static("application/x-www-form-urlencoded");
        let call = Call::new(Method::POST, tail, body).header(CONTENT_TYPE, form);
        let answer = Http::new(&config, &self.bell).send(&call)?;
        if !answer.is_success() {
            return Err(ArchiveError::answer(&account.token_uri, &answer, String::new()));
        }
        let token: Token = serde_json::from_slice(&answer.body)
            .map_err(|_| wrong(format!("{} gave no token", account.token_uri)))?;
        // Renewed before it ends.
        let good = Duration::from_secs(token.expires_in).saturating_sub(Duration::from_mins(5));
        let header = sensitive(&format!("Bearer {}", *token.access_token))?;
        self.token = Some((token.access_token, now.plus(good)));
        Ok(header)
    }

    fn send(&mut self, call: Call) -> Result<Answer, ArchiveError> {
        let call = call.header(AUTHORIZATION, self.authorization()?);
        let answer = self.http.send(&call)?;
        if answer.status == 401 {
            // It was taken back before its time: the next request asks for another.
            self.token = None;
        }
        Ok(answer)
    }

    fn object_path(&self, key: &str, query: &[(&str, &str)]) -> String {
        let name = format!("{}{key}", self.config.prefix);
        let name = utf8_percent_encode(&name, &IN_QUERY);
        let query: Vec<_> = query.iter().map(|(name, value)| format!("{name}={value}")).collect();
        let mark = if query.is_empty() { "" } else { "?" };
        format!("/storage/v1/b/{}/o/{name}{mark}{}", self.config.bucket, query.join("&"))
    }

    fn refused(&self, what: &str, answer: &Answer) -> ArchiveError {
        ArchiveError::answer(&self.place(what), answer, String::new())
    }

    fn upload(&mut self, object: &Object, name: &str, lock: bool) -> Result<Answer, ArchiveError> {
        let mut metadata = json!({
            "name": format!("{}{name}", self.config.prefix),
            "contentType": "application/octet-stream",
            "metadata": {"sha256": object.sha256.to_string()},
        });
        if lock {
            metadata["retention"] =
                json!({"mode": "Locked", "retainUntilTime": rfc3339(object.until)});
        }
        let head = format!(
            "--{BOUNDARY}\r\nContent-Type: application/json; charset=UTF-8\r\n\r\n{metadata}\r\n--{BOUNDARY}\r\nContent-Type: application/octet-stream\r\n\r\n"
        );
        let path = format!(
            "/upload/storage/v1/b/{}/o?uploadType=multipart&ifGenerationMatch=0",
            self.config.bucket
        );
        let file = FileBody::new(Arc::clone(&object.file), object.bytes);
        let kind = HeaderValue::from_static(MULTIPART);
        let call = Call::new(Method::POST, path, head)
            .header(CONTENT_TYPE, kind)
            .file(file.tail(format!("\r\n--{BOUNDARY}--\r\n")));
        self.send(call)
    }

    fn patch(
        &mut self,
        key: &str,
        generation: &str,
        body: &Value,
        overriding: bool,
    ) -> Result<Answer, ArchiveError> {
        let mut query = vec![("generation", generation)];
        if overriding {
            query.push(("overrideUnlockedRetention", "true"));
        }
        let kind = HeaderValue::from_static("application/json");
        let call = Call::new(Method::PATCH, self.object_path(key, &query), body.to_string());
        self.send(call.header(CONTENT_TYPE, kind))
    }

    fn delete(&mut self, key: &str, generation: &str) -> Result<Answer, ArchiveError> {
        let path = self.object_path(key, &[("generation", generation)]);
        self.send(Call::new(Method::DELETE, path, ""))
    }
}

impl Archive for Gcs {
    fn place(&self, key: &str) -> String {
        self.config.place(key)
    }

    fn check(&mut self) -> Result<(), ArchiveError> {
        let path = format!("/storage/v1/b/{}", self.config.bucket);
        let answer = self.send(Call::new(Method::GET, path, ""))?;
        if !answer.is_success() {
            return Err(self.refused("", &answer));
        }
        let bucket: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
        if bucket["objectRetention"]["mode"] == "Enabled" {
            return Ok(());
        }
        let why = "the bucket was made without object retention".to_owned();
        Err(ArchiveError::NoLock { place: self.place(""), why })
    }

    fn make(&mut self, object: &Object) -> Result<Made, ArchiveError> {
        let answer = self.upload(object, &object.key, true)?;
        match answer.status {
            412 => Ok(Made::There),
            200..=299 => {
                let made: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
                match made["generation"].as_str() {
                    Some(generation) => Ok(Made::New(generation.to_owned())),
                    None => Err(self.refused(&object.key, &answer)),
                }
            }
            _ => Err(self.refused(&object.key, &answer)),
        }
    }

    fn look(&mut self, key: &str, version: Option<&str>) -> Result<Option<Held>, ArchiveError> {
        let by_version = [("generation", version.unwrap_or_default())];
        let query: &[_] = if version.is_some() { &by_version } else { &[] };
        let path = self.object_path(key, query);
        let answer = self.send(Call::new(Method::GET, path, ""))?;
        if answer.status == 404 {
            return Ok(None);
        }
        if !answer.is_success() {
            return Err(self.refused(key, &answer));
        }
        let object: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
        let retention = &object["retention"];
        let until = retention["retainUntilTime"].as_str().and_then(|text| text.parse().ok());
        let held = object["temporaryHold"] == true || object["eventBasedHold"] == true;
        let lock = match (retention["mode"].as_str(), until) {
            (Some("Locked"), Some(until)) => Lock::Until(until),
            (Some(mode), _) => Lock::Weak(format!("its retention is {mode}, not Locked")),
            (None, _) if held => Lock::Weak("it has a hold only, which can be lifted".to_owned()),
            (None, _) => Lock::Weak("it has no retention".to_owned()),
        };
        Ok(Some(Held {
            version: object["generation"].as_str().unwrap_or_default().to_owned(),
            bytes: object["size"].as_str().and_then(|size| size.parse().ok()).unwrap_or(0),
            sha256: None,
            lock,
        }))
    }

    fn extend(&mut self, key: &str, version: &str, until: Nanos) -> Result<(), ArchiveError> {
        let answer = self.patch(key, version, &retention("Locked", until), false)?;
        if answer.is_success() { Ok(()) } else { Err(self.refused(key, &answer)) }
    }

    fn read(
        &mut self,
        key: &str,
        version: &str,
        bytes_max: u64,
        take: &mut Take<'_>,
    ) -> Result<(), ArchiveError> {
        let path = self.object_path(key, &[("generation", version), ("alt", "media")]);
        let call = Call::new(Method::GET, path, "").header(AUTHORIZATION, self.authorization()?);
        let answer = self.http.fetch(&call, bytes_max, take)?;
        if answer.is_success() { Ok(()) } else { Err(self.refused(key, &answer)) }
    }

    fn list(&mut self, after: Option<&Marker>) -> Result<Page, ArchiveError> {
        let mut path =
            format!("/storage/v1/b/{}/o?versions=true&maxResults={LISTED_MAX}", self.config.bucket);
        for (name, value) in [
            ("prefix", self.config.prefix.as_str()),
            ("pageToken", after.map_or("", |marker| marker.key.as_str())),
        ] {
            if !value.is_empty() {
                path.push('&');
                path.push_str(name);
                path.push('=');
                path.extend(utf8_percent_encode(value, &IN_QUERY));
            }
        }
        let answer = self.send(Call::new(Method::GET, path, ""))?;
        if !answer.is_success() {
            return Err(self.refused("", &answer));
        }
        match serde_json::from_slice::<List>(&answer.body) {
            Ok(list) => Ok(list.page(&self.config.prefix)),
            Err(err) => Err(ArchiveError::Answer {
                place: self.place(""),
                status: answer.status,
                code: String::new(),
                why: format!("its list can't be read: {err}"),
                retry_after: None,
            }),
        }
    }

    fn prove(&mut self, canary: &Object, proof: &mut Proof) -> Result<(), ArchiveError> {
        let (observed, outcome) = match &self.check() {
            Ok(()) => ("enabled".to_owned(), Outcome::Holds),
            Err(error @ ArchiveError::NoLock { .. }) => (chain_text(error), Outcome::Broken),
            Err(error) => (chain_text(error), Outcome::Unknown),
        };
        proof.note("object retention of the bucket", "enabled", observed, outcome);
        let Made::New(version) = self.make(canary)? else {
            let why = "a canary of this name is there already".to_owned();
            return Err(ArchiveError::Differs { key: canary.key.clone(), why });
        };
        let again = self.upload(canary, &canary.key, true)?;
        let outcome = if again.status == 412 { Outcome::Holds } else { Outcome::Broken };
        proof.note("make it once more", "refused (412)", again.status.to_string(), outcome);
        let held = self.look(&canary.key, Some(&version))?;
        let outcome = still(held.as_ref(), canary.until);
        let observed = shown(held.as_ref());
        proof.note("look at the canary", "locked, until the time asked for", observed, outcome);
        let may = self.control(proof, canary)?;
        let answer = self.delete(&canary.key, &version)?;
        let held = self.look(&canary.key, Some(&version))?;
        let outcome = refused(answer.status, may).max(still(held.as_ref(), canary.until));
        let observed = format!("{}; {}", answer.status, shown(held.as_ref()));
        proof.note("delete the canary", "refused, and it is still there", observed, outcome);
        if held.is_some() {
            self.prove_retention(proof, canary, &version)?;
        }
        read_back(proof, self, canary, &version);
        Ok(())
    }
}

impl Gcs {
    /// Makes an object without retention and removes it: says whether these credentials may.
    fn control(&mut self, proof: &mut Proof, canary: &Object) -> Result<bool, ArchiveError> {
        let key = format!("{}-control", canary.key);
        let made = self.upload(canary, &key, false)?;
        let object: Value = serde_json::from_slice(&made.body).unwrap_or_default();
        let mut observed = made.status.to_string();
        let mut may = false;
        if let Some(generation) = object["generation"].as_str() {
            let answer = self.delete(&key, generation)?;
            may = answer.is_success();
            observed = format!("made {observed}, removed {}", answer.status);
        }
        let what = "control: these credentials may delete objects (one without retention)";
        proof.note(what, "accepted", observed, allowed(may));
        Ok(may)
    }

    fn prove_retention(
        &mut self,
        proof: &mut Proof,
        canary: &Object,
        version: &str,
    ) -> Result<(), ArchiveError> {
        let longer = canary.until.plus(LONGER);
        let answer = self.patch(&canary.key, version, &retention("Locked", longer), false)?;
        let held = self.look(&canary.key, Some(version))?;
        let may = answer.is_success();
        let outcome = if may { still(held.as_ref(), longer) } else { Outcome::Unknown };
        let observed = format!("{}; {}", answer.status, shown(held.as_ref()));
        proof.note("control: lock it for longer", "accepted", observed, outcome);
        let least = if may { longer } else { canary.until };
        let shorter = Nanos(canary.until.0 - LONGER.as_nanos() as i64);
        for (what, body) in [
            ("lock it for less time", retention("Locked", shorter)),
            ("unlock its retention", retention("Unlocked", longer)),
            ("remove its retention", json!({"retention": null})),
        ] {
            // With the word that lets one change a retention that is not locked.
            let answer = self.patch(&canary.key, version, &body, true)?;
            let held = self.look(&canary.key, Some(version))?;
            let outcome = refused(answer.status, may).max(still(held.as_ref(), least));
            let observed = format!("{}; {}", answer.status, shown(held.as_ref()));
            proof.note(what, "refused, and its lock is as it was", observed, outcome);
        }
        Ok(())
    }
}

fn retention(mode: &str, until: Nanos) -> Value {
    json!({"retention": {"mode": mode, "retainUntilTime": rfc3339(until)}})
}

/// A URL as scheme and host, and what follows.
fn split(url: &str) -> (&str, &str) {
    let from = url.find("://").map_or(0, |at| at + 3);
    match url[from..].find('/') {
        Some(at) => url.split_at(from + at),
        None => (url, "/"),
    }
}

/// Whether the credential can be used.
pub(super) fn check(config: &GcsConfig) -> Result<(), ArchiveError> {
    match &config.credential {
        GcsCredential::ServiceAccount(path) => {
            ServiceAccount::load(path)?.assertion(path, Nanos(0)).map(|_| ())
        }
        GcsCredential::Token(path) => Ok(credential(path).map(|_| ())?),
    }
}

/// What is needed to make objects, and to read and lock them.
const SCOPE: &str = "https://www.googleapis.com/auth/devstorage.full_control";
/// It stands in no metadata of ours, and behind the media only its length counts.
const BOUNDARY: &str = "penstock-3f0c1a7e9b5d4c2886aa";
const MULTIPART: &str = "multipart/related; boundary=penstock-3f0c1a7e9b5d4c2886aa";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_and_what_follows() {
        assert_eq!(split("https://a.b/token"), ("https://a.b", "/token"));
        assert_eq!(split("https://a.b"), ("https://a.b", "/"));
    }
}
