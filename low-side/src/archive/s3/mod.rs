//! S3 with Object Lock in COMPLIANCE mode, and whatever speaks its protocol.
//!
//! What is relied on, and where it is written (AmazonS3/latest):
//! - Lock headers of `PutObject`, and that they need a checksum: `API/API_PutObject.html`.
//! - COMPLIANCE: "a protected object version can't be overwritten or deleted by any user, including the root
//!   user", its mode can't be changed and its period not be shortened: userguide/object-lock.html.
//! - A DELETE without a version adds a marker and removes nothing: everything here is read by its version.
//! - `If-None-Match: *` makes an object only where none is (412), and 409 asks for another try:
//!   userguide/conditional-writes.html.
//! - `ListObjectVersions` lists versions under a deletion too, names in order, at most 1,000 at once, and
//!   with `encoding-type=url` any name can stand in its XML: `API/API_ListObjectVersions.html`.
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
use percent_encoding::{percent_decode_str, utf8_percent_encode};
use roxmltree::Node;
use shared::bell::Bell;
use shared::bundle::BundleDigest;
use shared::clock::{Clock, Nanos};

use super::config::S3Config;
use super::listing::{LISTED_MAX, Listed, Marker, Page, children, text, with_xml};
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
        Ok(match (element(&answer, "ObjectLockEnabled").as_deref(), element(&answer, "Mode")) {
            (Some("Enabled"), Some(mode)) => BucketLock::Default(mode),
            (Some("Enabled"), None) => BucketLock::EachObject,
            _ => BucketLock::Off,
        })
    }

    fn versioning(&mut self) -> Result<String, ArchiveError> {
        let ask = Ask::new(Method::GET, None, &[("versioning", "")]);
        let answer = self.good(ask, "?versioning")?;
        Ok(element(&answer, "Status").unwrap_or_else(|| "never set".to_owned()))
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

    fn list(&mut self, after: Option<&Marker>) -> Result<Page, ArchiveError> {
        let prefix = self.config.prefix.clone();
        let mut query = vec![
            ("versions", ""),
            ("encoding-type", "url"),
            ("max-keys", LISTED_MAX),
            ("prefix", prefix.as_str()),
        ];
        if let Some(marker) = after {
            query.push(("key-marker", marker.key.as_str()));
            if !marker.version.is_empty() {
                query.push(("version-id-marker", marker.version.as_str()));
            }
        }
        // An empty value means the same as none, and only a name alone is signed as such.
        query.retain(|(name, value)| !value.is_empty() || *name == "versions");
        let answer = self.good(Ask::new(Method::GET, None, &query), "?versions")?;
        with_xml(&self.bucket(), &answer, |root| page(root, &prefix))
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
    element(answer, "Code").unwrap_or_default()
}

/// The text of the first element of this name, wherever it stands; nothing where the answer is no XML.
fn element(answer: &Answer, name: &str) -> Option<String> {
    with_xml("", answer, |root| {
        let mut all = root.descendants();
        let found = all.find(|node| node.is_element() && node.tag_name().name() == name)?;
        Some(found.text().unwrap_or_default().trim().to_owned())
    })
    .ok()?
}

/// A part of a list, from the XML of `ListVersionsResult`.
fn page(root: Node<'_, '_>, prefix: &str) -> Page {
    // A store that does not know of the encoding does not name it, and gives names as they are.
    let encoded = text(root, "EncodingType") == "url";
    let name = |node, of| {
        let name = text(node, of);
        if !encoded {
            return name.to_owned();
        }
        let spaces = name.replace('+', " ");
        percent_decode_str(&spaces).decode_utf8_lossy().into_owned()
    };
    let listed = |node| {
        Some(Listed {
            key: name(node, "Key").strip_prefix(prefix)?.to_owned(),
            version: text(node, "VersionId").to_owned(),
            bytes: text(node, "Size").parse().unwrap_or(0),
            made: text(node, "LastModified").parse().unwrap_or(Nanos(0)),
            current: text(node, "IsLatest") == "true",
        })
    };
    let next = (text(root, "IsTruncated") == "true").then(|| Marker {
        key: name(root, "NextKeyMarker"),
        version: text(root, "NextVersionIdMarker").to_owned(),
    });
    Page { objects: children(root, "Version").filter_map(listed).collect(), next }
}

const COMPLIANCE: &str = "COMPLIANCE";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn elements_of_an_answer() {
        let answer = |body: &str| Answer {
            status: 403,
            headers: hyper::HeaderMap::new(),
            body: body.as_bytes().to_vec(),
        };
        let text =
            "<?xml version=\"1.0\"?><Error><Code>AccessDenied</Code><Message>no</Message></Error>";
        assert_eq!(element(&answer(text), "Code").as_deref(), Some("AccessDenied"));
        assert_eq!(element(&answer(text), "Mode"), None);
        assert_eq!(element(&answer("<Code>cut"), "Code"), None);
    }

    /// The example of `API_ListObjectVersions.html`, with a name that needs the encoding.
    #[test]
    fn a_list_of_versions() {
        let body = "<?xml version=\"1.0\" encoding=\"UTF-8\"?>
            <ListVersionsResult xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\">
            <Name>audit</Name><Prefix>e/</Prefix><EncodingType>url</EncodingType>
            <IsTruncated>true</IsTruncated>
            <NextKeyMarker>e/x%0Ay</NextKeyMarker><NextVersionIdMarker>v2</NextVersionIdMarker>
            <DeleteMarker><Key>e/x%0Ay</Key><VersionId>v3</VersionId><IsLatest>true</IsLatest></DeleteMarker>
            <Version><Key>e/x%0Ay</Key><VersionId>v2</VersionId><IsLatest>false</IsLatest>
            <LastModified>2026-11-25T09:00:00.000Z</LastModified><Size>7</Size></Version>
            <Version><Key>other</Key><VersionId>v1</VersionId></Version></ListVersionsResult>";
        let document = roxmltree::Document::parse(body).unwrap();
        let page = page(document.root_element(), "e/");
        let made = "2026-11-25T09:00:00Z".parse().unwrap();
        let (key, version) = ("x\ny".to_owned(), "v2".to_owned());
        assert_eq!(page.objects, [Listed { key, version, bytes: 7, made, current: false }]);
        let next = Marker { key: "e/x\ny".to_owned(), version: "v2".to_owned() };
        assert_eq!(page.next, Some(next));
    }

    #[test]
    fn checksums_of_parts_are_none_of_the_whole() {
        let whole = BASE64.encode([7; 32]);
        assert_eq!(checksum(&whole), Some(BundleDigest::from_bytes([7; 32])));
        assert_eq!(checksum(&format!("{whole}-3")), None);
        assert_eq!(checksum("AAAA"), None);
    }
}
