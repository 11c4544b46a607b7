//! Backups of a side's state: one file that stock tools open, and the one path that refuses one.
//!
//! ```text
//! NAME.tar.zst, or NAME.tar.zst.age
//!   backup.json      first: what this is, of which side, from when
//!   config/...       the rest in the order of the names, each once
//!   keys/...
//!   outbox/...       high
//!   state/...        the database as it was at one moment, the custody log up to that moment, ...
//!   SHA256SUMS       last: what `sha256sum -c` reads; names every member before it
//! ```
//!
//! `age -d FILE | zstd -d | tar -x` and `sha256sum -c SHA256SUMS` open and check one without us. Each
//! tar header is regenerated and compared, so that there is one form and no other: regular files with
//! plain relative names. Nothing is unpacked by a name from an archive: a reader is handed names that
//! have been checked, and decides itself what it knows. The sums come last, so that a backup is written
//! and read in one pass, and one that was cut off is never taken for whole.
//!
//! The sums find damage, not a forger: a backup is as much to be trusted as where it was kept.

mod check;
mod crypt;
mod place;
mod read;
#[cfg(test)]
mod tests;
mod write;

use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::keys::Side;

pub use check::{Checked, read_file};
pub use crypt::{generate_backup_key, load_recipients};
pub use place::{
    KeyFile, Placed, Work, begin_restore, end_restore, expect_no_restore, is_public_key_file,
};
pub use read::{Content, Member, read};
pub use write::{
    Source, Written, collect, named_files, new_file_name, newest, remove_stale, write,
};

/// The version of the format that is written; every one up to it is read.
pub const FORMAT: u32 = 1;
/// The first member.
pub const FACTS_NAME: &str = "backup.json";
/// The last member.
pub const SUMS_NAME: &str = "SHA256SUMS";
/// More members are neither written nor read: bundles in an outbox or store, at most.
pub const MEMBERS_MAX: u64 = 1_000_000;
/// No first member is longer.
const FACTS_BYTES_MAX: u64 = 256 << 10;
/// No member is longer, nor all of them together: 16 TiB.
const BYTES_MAX: u64 = 16 << 40;
/// The folders of the members between the first and the last.
const FOLDERS: [&str; 5] = ["config", "keys", "outbox", "state", "store"];

/// What a backup says of itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Facts {
    /// The version of the format.
    #[serde(rename = "penstock-backup")]
    pub format: u32,
    /// `high` or `low`.
    pub side: String,
    /// The origin of a high side; what a low side calls itself.
    pub name: String,
    /// The life of a high side's buffer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub epoch: Option<u64>,
    /// When the database's moment was, RFC 3339.
    pub made: String,
    /// The version of the program that wrote it.
    pub program: String,
    /// The version of the database's tables.
    pub schema: i64,
    /// Whether secret keys are in it.
    pub keys: bool,
    /// What belongs to this side and is not in it.
    pub left_out: Vec<String>,
}

/// The name of a side in a backup.
pub fn side_name(side: Side) -> &'static str {
    match side {
        Side::High => "high",
        Side::Low => "low",
    }
}

/// Why a backup was not made, or is refused.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// A folder holds no backup of this side.
    #[error(
        "there is no {begins}*.tar.zst in {folder}, nor one with .age behind that\n  try: the file itself"
    )]
    NoneThere {
        /// The folder.
        folder: PathBuf,
        /// How the names begin.
        begins: String,
    },
    /// A folder holds backups of several installations.
    #[error("there are backups of {found}\n  try: the file itself")]
    Several {
        /// Whose, and where.
        found: String,
    },
    /// It was cut off, or changed.
    #[error("the backup is damaged: {0}\n  try: another copy of it, or an older one")]
    Damaged(String),
    /// It is encrypted, and no key was given.
    #[error(
        "the backup is encrypted\n  try: --identity FILE, with the key that belongs to one of its recipients"
    )]
    Encrypted,
    /// The keys do not open it.
    #[error("none of the given keys opens the backup\n  try: --identity with another file")]
    Identity,
    /// A file could not be read or written.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A restore was interrupted.
    #[error(
        "a restore into {0} was interrupted, and what stands there is not whole\n  try: the same restore once more; it begins anew"
    )]
    Interrupted(PathBuf),
    /// Something in it is not as it has to be: made by other hands.
    #[error("the backup is refused: {0}")]
    Malformed(String),
    /// A later version of the program wrote it.
    #[error(
        "the backup has format {found}, this program knows {FORMAT}\n  try: install the version that wrote it"
    )]
    Newer {
        /// The format found.
        found: u32,
    },
    /// It is no backup.
    #[error("this is no backup: it begins neither as zstd nor as age does")]
    NotOne,
    /// It is of the other side, or of another installation.
    #[error("the backup is of {found}, and this is {here}\n  try: the backup of this side")]
    Other {
        /// Whose it is.
        found: String,
        /// Who we are.
        here: String,
    },
    /// What is wrong with recipients, in words.
    #[error("{0}")]
    Recipients(String),
    /// There is too little room.
    #[error("{path} has {free} bytes free, and {need} are needed\n  try: make room there")]
    Room {
        /// The folder.
        path: PathBuf,
        /// What is free.
        free: u64,
        /// What is needed.
        need: u64,
    },
}

impl BackupError {
    /// An error of the system about this file.
    pub fn io(path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { path, source }
    }

    /// Whether the backup itself is at fault.
    pub fn is_refusal(&self) -> bool {
        matches!(
            self,
            Self::Damaged(_)
                | Self::Malformed(_)
                | Self::Newer { .. }
                | Self::NotOne
                | Self::Other { .. }
        )
    }
}

/// A name that a member may have: plain parts under one of the known folders.
fn is_member_name(name: &str) -> bool {
    let mut parts = name.split('/');
    let folder = parts.next().unwrap_or_default();
    let rest: Vec<&str> = parts.collect();
    let plain = |part: &&str| {
        !part.is_empty()
            && *part != "."
            && *part != ".."
            && part.bytes().all(|byte| (0x20..0x7f).contains(&byte) && byte != b'\\')
    };
    FOLDERS.contains(&folder)
        && !rest.is_empty()
        && rest.len() <= DEPTH_MAX
        && rest.iter().all(plain)
}

/// Parts of a name behind its folder.
const DEPTH_MAX: usize = 5;

/// The one header of a member, byte for byte; `None` where the name is too long for one.
fn member_header(name: &str, bytes: u64, mode: u32, mtime: u64) -> Option<[u8; BLOCK]> {
    let mut header = tar::Header::new_ustar();
    header.set_path(name).ok()?;
    header.set_size(bytes);
    header.set_mode(mode);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(mtime);
    header.set_entry_type(tar::EntryType::Regular);
    header.set_cksum();
    Some(*header.as_bytes())
}

/// The modes that members have.
const MODES: [u32; 3] = [0o600, 0o640, 0o644];
/// A block of tar.
const BLOCK: usize = 512;

/// The bytes behind a content up to the next block.
fn padding(bytes: u64) -> usize {
    (bytes.next_multiple_of(BLOCK as u64) - bytes) as usize
}
