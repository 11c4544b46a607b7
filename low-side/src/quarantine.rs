//! Refused files, each kept with its reason. Nothing is deleted.
//!
//! A file stands under the SHA-256 of its content, so the same one refused twice is stored once;
//! `SHA256.reason.json` beside it says why, when, and under which name it came.

use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use shared::durable;

use crate::staging::ReceivedBundle;

/// Why a file is in the quarantine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Reason {
    /// The SHA-256 of the file.
    pub sha256: String,
    /// Its length.
    pub bytes: u64,
    /// The stable reason code.
    pub code: String,
    /// What was wrong, for people.
    pub message: String,
    /// The name it came under, escaped.
    pub name: String,
    /// When it first came, RFC 3339.
    pub first: String,
    /// When it last came, RFC 3339.
    pub last: String,
    /// Who its header says signed it; not verified.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub claimed_signer: Option<String>,
    /// The bundle its header says it is; not verified.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub claimed_bundle: Option<String>,
}

/// The quarantine folder.
#[derive(Clone, Debug)]
pub struct Quarantine {
    dir: PathBuf,
}

impl Quarantine {
    /// The quarantine in this folder.
    pub fn at(dir: &Path) -> Self {
        Self { dir: dir.to_owned() }
    }

    /// Keeps a refused file with its reason. May be repeated.
    pub fn keep(&self, received: &ReceivedBundle, mut reason: Reason) -> io::Result<()> {
        if let Some(earlier) = self.reason(&reason.sha256)? {
            reason.first = earlier.first;
        }
        // The reason first: a file without one could not be explained.
        let mut text = serde_json::to_vec_pretty(&reason).map_err(io::Error::other)?;
        text.push(b'\n');
        durable::write(&self.reason_path(&reason.sha256), &text, 0o600)?;
        let file = self.file(&reason.sha256);
        if file.exists() { Ok(()) } else { received.place(&file) }
    }

    /// Every reason, the oldest first.
    pub fn list(&self) -> io::Result<Vec<Reason>> {
        let mut reasons = Vec::new();
        for entry in std::fs::read_dir(&self.dir)? {
            let name = entry?.file_name();
            let sha256 = name.to_str().and_then(|name| name.strip_suffix(REASON_SUFFIX));
            if let Some(sha256) = sha256.filter(|sha256| is_sha256(sha256)) {
                reasons.extend(self.reason(sha256)?);
            }
        }
        reasons.sort_by(|a, b| (&a.first, &a.sha256).cmp(&(&b.first, &b.sha256)));
        Ok(reasons)
    }

    /// The one reason whose SHA-256 begins so; `None` where there is none, or more than one.
    pub fn find(&self, prefix: &str) -> io::Result<Option<Reason>> {
        let mut found = self.list()?.into_iter().filter(|reason| reason.sha256.starts_with(prefix));
        Ok(found.next().filter(|_| found.next().is_none()))
    }

    /// Where the file of this SHA-256 stands.
    pub fn file(&self, sha256: &str) -> PathBuf {
        self.dir.join(sha256)
    }

    /// Takes a file out after a retry put its content elsewhere.
    pub fn release(&self, sha256: &str) -> io::Result<()> {
        durable::remove(&self.file(sha256))?;
        durable::remove(&self.reason_path(sha256))
    }

    fn reason(&self, sha256: &str) -> io::Result<Option<Reason>> {
        match std::fs::read(self.reason_path(sha256)) {
            Ok(text) => Ok(serde_json::from_slice(&text).ok()),
            Err(err) if err.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(err) => Err(err),
        }
    }

    fn reason_path(&self, sha256: &str) -> PathBuf {
        self.dir.join(format!("{sha256}{REASON_SUFFIX}"))
    }
}

const REASON_SUFFIX: &str = ".reason.json";

fn is_sha256(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|b| b.is_ascii_hexdigit())
}
