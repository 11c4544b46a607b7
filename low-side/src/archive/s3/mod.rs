//! S3 with Object Lock in COMPLIANCE mode, and whatever speaks its protocol.
//!
//! What is relied on, and where it is written (AmazonS3/latest):
//! - Lock headers of `PutObject`, and that they need a checksum: `API/API_PutObject.html`.
//! - COMPLIANCE: "a protected object version can't be overwritten or deleted by any user, including the root
//!   user", its mode can't be changed and its period not be shortened: userguide/object-lock.html.
//! - A DELETE without a version adds a marker and removes nothing: everything here is read by its version.
//! - `If-None-Match: *` makes an object only where none is (412), and 409 asks for another try:
//!   userguide/conditional-writes.html.
//! - One PUT takes 5 GiB: userguide/upload-objects.html. So no object is made of parts, and none is left
//!   half made.

mod prove;
mod sign;

use std::io;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use hyper::Method;
use hyper::header::{HeaderName, HeaderValue};
use percent_encoding::utf8_percent_encode;
use shared::bell::Bell;
use shared::bundle::BundleDigest;
use shared::clock::{Clock, Nanos};

use super::config::S3Config;
use super::proof::Proof;
use super::{Archive, ArchiveError, Held, Lock, Made, Object, Take, rfc3339};
use crate::http::{Answer, Call, FileBody, Http, HttpError, IN_PATH, IN_QUERY};

/// A bucket.
pub(super) struct S3 {
    config: S3Config,
    http: Http,
    clock: Arc<dyn Clock>,
}

/// The lock of a bucket.
#[derive(Debug, PartialEq, Eq)]
enum BucketLock {
    /// Objects that say nothing get a lock of this mode.
    Default(String),
    /// Each object says its own.
    EachObject,
    /// There is none.
    Off,
}

/// What a request carries.
enum Body<'a> {
    Nothing,
    Text(String),
    File(&'a Object),
}

/// One request.
struct Ask<'a> {
    method: Method,
    /// The object's name; nothing for the bucket itself.
    key: Option<&'a str>,
    query: &'a [(&'a str, &'a str)],
    headers: Vec<(&'static str, String)>,
    body: Body<'a>,
}

impl<'a> Ask<'a> {
    fn new(method: Method, key: Option<&'a str>, query: &'a [(&'a str, &'a str)]) -> Self {
        Self { method, key, query, headers: Vec::new(), body: Body::Nothing }
    }

    fn header(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    /// With a body and its checksum, which requests about locks must have.
    fn text(mut self, text: impl Into<String>) -> Self {
        let text = text.into();
        let digest = BundleDigest::of(text.as_bytes());
        self.body = Body::Text(text);
        self.checksum(&digest)
    }

    /// The checksum, and the name of its kind, as AWS's own clients send them.
    fn checksum(self, digest: &BundleDigest) -> Self {
        self.header("x-amz-sdk-checksum-algorithm", "SHA256")
            .header("x-amz-checksum-sha256", BASE64.encode(digest.as_bytes()))
    }
}

impl S3 {
    pub(super) fn new(config: S3Config, clock: Arc<dyn Clock>, bell: &Bell) -> Self {
        let http = Http::new(&config.http, bell);
        Self { config, http, clock }
    }

    /// Signs a request.
    fn call(&self, ask: Ask<'_>) -> Result<Call, ArchiveError> {
        let mut path = String::new();
        if let Some(key) = ask.key {
            path.push('/');
            path.extend(utf8_percent_encode(&format!("{}{key}", self.config.prefix), &IN_PATH));
        }
        for (at, (name, value)) in ask.query.iter().enumerate() {
            path.push(if at == 0 { '?' } else { '&' });
            path.push_str(name);
            // A name alone, as `?versioning`, is signed as if its value were empty.
            if !value.is_empty() {
                path.push('=');
                path.extend(utf8_percent_encode(value, &IN_QUERY));
            }
        }
        // What asks about the bucket itself has a path all the same.
        if ask.key.is_none() && self.config.http.url.base.is_empty() {
            path.insert(0, '/');
        }
        let (text, file, digest) = match ask.body {
            Body::Nothing => (String::new(), None, BundleDigest::of(b"")),
            Body::Text(text) => {
                let digest = BundleDigest::of(text.as_bytes());
                (text, None, digest)
            }
            Body::File(object) => {
                let file = FileBody::new(Arc::clone(&object.file), object.bytes);
                (String::new(), Some(file), object.sha256)
            }
        };
        let url = &self.config.http.url;
        let scheme = if url.tls { "https" } else { "http" };
        let whole = format!("{scheme}://{}{}{path}", url.host_header(), url.base);
        let unsigned = sign::Unsigned {
            method: ask.method.as_str(),
            url: &whole,
            headers: &ask.headers,
            body_sha256: digest.to_string(),
        };
        let credentials = sign::credentials(&self.config.credentials_file, &self.config.profile)?;
        let request = |why: String| HttpError::Request { url: whole.clone(), why };
        let signed = sign::signed(unsigned, credentials, &self.config.region, self.clock.now())
            .map_err(request)?;
        let mut call = Call::new(ask.method.clone(), path, text);
        call.file = file;
        let given = ask.headers.iter().map(|(name, value)| ((*name).to_owned(), value.clone()));
        for (name, value) in given.chain(signed) {
            let name = HeaderName::try_from(name).map_err(|err| request(err.to_string()))?;
            let mut value = HeaderValue::try_from(value).map_err(|err| request(err.to_string()))?;
            value.set_sensitive(true);
            call = call.header(name, value);
        }
        Ok(call)
    }

    fn ask(&mut self, ask: Ask<'_>) -> Result<Answer, ArchiveError> {
        let call = self.call(ask)?;
        Ok(self.http.send(&call)?)
    }

    /// An answer that must be good.
    fn good(&mut self, ask: Ask<'_>, what: &str) -> Result<Answer, ArchiveError> {
        let answer = self.ask(ask)?;
        if answer.is_success() { Ok(answer) } else { Err(self.refused(what, &answer)) }
    }

    fn refused(&self, what: &str, answer: &Answer) -> ArchiveError {
        ArchiveError::answer(&self.place(what), answer, code(answer))
    }

    fn no_lock(&self, why: impl Into<String>) -> ArchiveError {
        ArchiveError::NoLock { place: self.bucket(), why: why.into() }
    }

    fn bucket(&self) -> String {
        format!("s3://{}", self.config.bucket)
    }

    fn lock_of_bucket(&mut self) -> Result<BucketLock, ArchiveError> {
        let answer = self.ask(Ask::new(Method::GET, None, &[("object-lock", "")]))?;
        // ObjectLockConfigurationNotFoundError: there is none.
        if answer.status == 404 && code(&answer).starts_with("ObjectLockConfiguration") {
            return Ok(BucketLock::Off);
        }
        if !answer.is_success() {
            return Err(self.refused("?object-lock", &answer));
        }
        let text = String::from_utf8_lossy(&answer.body);
        Ok(match (element(&text, "ObjectLockEnabled"), element(&text, "Mode")) {
            (Some("Enabled"), Some(mode)) => BucketLock::Default(mode.to_owned()),
            (Some("Enabled"), None) => BucketLock::EachObject,
            _ => BucketLock::Off,
        })
    }

    fn versioning(&mut self) -> Result<String, ArchiveError> {
        let ask = Ask::new(Method::GET, None, &[("versioning", "")]);
        let answer = self.good(ask, "?versioning")?;
        let text = String::from_utf8_lossy(&answer.body);
        Ok(element(&text, "Status").unwrap_or("never set").to_owned())
    }
}

impl Archive for S3 {
    fn place(&self, key: &str) -> String {
        self.config.place(key)
    }

    fn check(&mut self) -> Result<(), ArchiveError> {
        if self.lock_of_bucket()? == BucketLock::Off {
            return Err(self.no_lock("Object Lock is not enabled for the bucket"));
        }
        match self.versioning()?.as_str() {
            "Enabled" => Ok(()),
            state => Err(self.no_lock(format!("versioning is {state}, not Enabled"))),
        }
    }

    fn make(&mut self, object: &Object) -> Result<Made, ArchiveError> {
        let mut ask = Ask::new(Method::PUT, Some(&object.key), &[])
            .header("content-type", "application/octet-stream")
            .header("if-none-match", "*")
            .checksum(&object.sha256)
            .header("x-amz-object-lock-mode", COMPLIANCE)
            .header("x-amz-object-lock-retain-until-date", rfc3339(object.until));
        ask.body = Body::File(object);
        let answer = self.ask(ask)?;
        match answer.status {
            412 => Ok(Made::There),
            200..=299 => match header(&answer, "x-amz-version-id") {
                Some(version) if version != "null" => Ok(Made::New(version.to_owned())),
                _ => Err(self.no_lock("it gave no version: the bucket keeps none")),
            },
            _ => Err(self.refused(&object.key, &answer)),
        }
    }

    fn look(&mut self, key: &str, version: Option<&str>) -> Result<Option<Held>, ArchiveError> {
        let by_version = [("versionId", version.unwrap_or_default())];
        let query: &[_] = if version.is_some() { &by_version } else { &[] };
        let ask = Ask::new(Method::HEAD, Some(key), query).header("x-amz-checksum-mode", "ENABLED");
        let answer = self.ask(ask)?;
        // 405: a marker of a deletion is what stands there.
        if matches!(answer.status, 404 | 405) {
            return Ok(None);
        }
        if !answer.is_success() {
            return Err(self.refused(key, &answer));
        }
        let text = |name| header(&answer, name);
        let until =
            text("x-amz-object-lock-retain-until-date").and_then(|date| date.parse::<Nanos>().ok());
        let lock = match (text("x-amz-object-lock-mode"), until) {
            (Some(COMPLIANCE), Some(until)) => Lock::Until(until),
            (Some(mode), _) => Lock::Weak(format!("its lock has the mode {mode}")),
            (None, _) => Lock::Weak("it has no lock".to_owned()),
        };
        Ok(Some(Held {
            version: text("x-amz-version-id").or(version).unwrap_or_default().to_owned(),
            bytes: text("content-length").and_then(|n| n.parse().ok()).unwrap_or(0),
            sha256: text("x-amz-checksum-sha256").and_then(checksum),
            lock,
        }))
    }

    fn extend(&mut self, key: &str, version: &str, until: Nanos) -> Result<(), ArchiveError> {
        let query = [("retention", ""), ("versionId", version)];
        let ask = Ask::new(Method::PUT, Some(key), &query).text(retention(COMPLIANCE, until));
        self.good(ask, key).map(|_| ())
    }

    fn read(
        &mut self,
        key: &str,
        version: &str,
        bytes_max: u64,
        take: &mut Take<'_>,
    ) -> Result<(), ArchiveError> {
        let query = [("versionId", version)];
        let call = self.call(Ask::new(Method::GET, Some(key), &query))?;
        let mut taken = 0;
        let answer = self.http.fetch(&call, bytes_max, &mut |piece: &[u8]| -> io::Result<()> {
            taken += piece.len() as u64;
            take(piece)
        })?;
        if answer.is_success() { Ok(()) } else { Err(self.refused(key, &answer)) }
    }

    fn prove(&mut self, canary: &Object, proof: &mut Proof) -> Result<(), ArchiveError> {
        prove::prove(self, canary, proof)
    }
}

/// Whether the credentials can be used.
pub(super) fn check(config: &S3Config) -> Result<(), ArchiveError> {
    sign::credentials(&config.credentials_file, &config.profile).map(|_| ())
}

/// The body of a request that sets a lock.
fn retention(mode: &str, until: Nanos) -> String {
    format!(
        "<Retention xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\"><Mode>{mode}</Mode><RetainUntilDate>{}</RetainUntilDate></Retention>",
        rfc3339(until)
    )
}

fn header<'a>(answer: &'a Answer, name: &str) -> Option<&'a str> {
    answer.headers.get(name)?.to_str().ok()
}

/// A checksum as S3 writes it. One that is made of those of parts ends in `-N` and is none of the whole.
fn checksum(text: &str) -> Option<BundleDigest> {
    let bytes: [u8; 32] = BASE64.decode(text).ok()?.try_into().ok()?;
    Some(BundleDigest::from_bytes(bytes))
}

/// S3's own code in a refusal.
fn code(answer: &Answer) -> String {
    let text = String::from_utf8_lossy(&answer.body);
    element(&text, "Code").unwrap_or_default().to_owned()
}

/// The text of the first element of this name. S3's answers are flat where they are looked at, and their
/// values hold no markup.
fn element<'a>(xml: &'a str, name: &str) -> Option<&'a str> {
    let from = xml.find(&format!("<{name}>"))? + name.len() + 2;
    let length = xml[from..].find(&format!("</{name}>"))?;
    Some(xml[from..from + length].trim())
}

const COMPLIANCE: &str = "COMPLIANCE";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn elements_of_an_answer() {
        let text =
            "<?xml version=\"1.0\"?><Error><Code>AccessDenied</Code><Message>no</Message></Error>";
        assert_eq!(element(text, "Code"), Some("AccessDenied"));
        assert_eq!(element(text, "Mode"), None);
        assert_eq!(element("<Code>cut", "Code"), None);
    }

    #[test]
    fn checksums_of_parts_are_none_of_the_whole() {
        let whole = BASE64.encode([7; 32]);
        assert_eq!(checksum(&whole), Some(BundleDigest::from_bytes([7; 32])));
        assert_eq!(checksum(&format!("{whole}-3")), None);
        assert_eq!(checksum("AAAA"), None);
    }
}
