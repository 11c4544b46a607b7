//! One file out of the folder: a private copy, compared with what was said of it.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::Path;

use sha2::{Digest, Sha256};
use shared::bundle::{BundleDigest, BundleName, FILE_EXTENSION};
use shared::durable;
use shared::parts::is_part_name;

use super::parts::{PartTaken, Parts};
use crate::folders::open_untrusted;
use crate::inbox::{Stamp, sidecar};
use crate::receiver::config::SidecarUse;
use crate::receiver::{ReceiveError, Reception};

/// What a file has to be.
pub(super) struct Expect {
    /// What it was when it was found ready.
    pub(super) stamp: Stamp,
    /// What a manifest says of it.
    pub(super) listed: Option<(u64, BundleDigest)>,
    pub(super) sidecar: SidecarUse,
    pub(super) bytes_max: u64,
}

/// What came of a file.
pub(super) enum Take {
    /// A copy stands in the inbox under its temporary name.
    Bundle(Copied),
    /// Somebody took it away.
    Gone,
    /// It was taken in an earlier life, and stays in the folder.
    Known,
    /// It is a part of a bundle and is kept with the others.
    Part(BundleDigest),
    /// It is not what it has to be, or not yet.
    Unfit(&'static str),
}

/// A private copy.
pub(super) struct Copied {
    pub(super) name: String,
    pub(super) file: File,
    pub(super) sha256: BundleDigest,
}

/// Copies a file and compares it.
pub(super) fn take(
    path: &Path,
    expect: &Expect,
    reception: &Reception,
    parts: &mut Parts,
    known: &dyn Fn(&BundleDigest) -> bool,
) -> Result<Take, ReceiveError> {
    let mut source = match open_untrusted(path) {
        Ok(Some(source)) => source,
        Ok(None) => return Ok(Take::Unfit("not-a-file")),
        Err(err) if err.kind() == io::ErrorKind::NotFound => return Ok(Take::Gone),
        // One file that can't be read must not hold up the others.
        Err(_) => return Ok(Take::Unfit("unreadable")),
    };
    let found = source.metadata().map_err(ReceiveError::io(path))?;
    if Stamp::of(&found) != expect.stamp {
        return Ok(Take::Unfit("changed"));
    }
    if found.len() > expect.bytes_max.saturating_add(shared::parts::PART_HEADER_BYTES as u64) {
        return Ok(Take::Unfit("too-large"));
    }
    let beside = match expect.sidecar {
        SidecarUse::Ignored => None,
        SidecarUse::Optional | SidecarUse::Required => match sidecar(path) {
            Ok(Some(None)) => return Ok(Take::Unfit("checksum-unfinished")),
            Ok(beside) => beside.flatten(),
            Err(_) => return Ok(Take::Unfit("checksum-unreadable")),
        },
    };
    let named = path.file_name().and_then(|name| name.to_str());
    // A hint in the name makes it worth a look into the file.
    let part = named.is_some_and(is_part_name);
    let temporary = if part {
        parts.temporary()
    } else {
        // One file is copied at a time.
        reception.partial(&format!(".{}", reception.name))
    };
    let failed = || ReceiveError::io(&temporary);
    let mut copy = durable::create(&temporary, 0o640).map_err(failed())?;
    let copied = copy_hashing(&mut source, &mut copy, found.len());
    let (bytes, sha256) = match copied {
        Ok(copied) => copied,
        Err(CopyError::Read) => return Ok(Take::Unfit("unreadable")),
        Err(CopyError::Write(err)) => {
            // Room for another try.
            let _ = std::fs::remove_file(&temporary);
            return Err(failed()(err));
        }
    };
    let unfit = |why| {
        durable::remove(&temporary).map_err(failed())?;
        Ok(Take::Unfit(why))
    };
    // Somebody wrote to it meanwhile.
    let after = source.metadata().map_err(ReceiveError::io(path))?;
    if Stamp::of(&after) != expect.stamp || bytes != found.len() {
        return unfit("changed");
    }
    if beside.is_some_and(|digest| digest != sha256) {
        return unfit("differs-from-checksum");
    }
    if expect.listed.is_some_and(|listed| listed != (bytes, sha256)) {
        return unfit("differs-from-manifest");
    }
    if known(&sha256) {
        durable::remove(&temporary).map_err(failed())?;
        return Ok(Take::Known);
    }
    if part {
        copy.sync_all().map_err(failed())?;
        match parts.take(&temporary).map_err(failed())? {
            PartTaken::Kept => return Ok(Take::Part(sha256)),
            PartTaken::Refused(why) => return unfit(why),
            // Its name only looks like one: it is a file as any other.
            PartTaken::NotAPart => {}
        }
    }
    if bytes > expect.bytes_max {
        return unfit("too-large");
    }
    let name = final_name(named, &sha256);
    let to = reception.partial(&name);
    move_to(&temporary, &to).map(|file| Take::Bundle(Copied { name, file, sha256 }))
}

fn move_to(from: &Path, to: &Path) -> Result<File, ReceiveError> {
    match durable::rename(from, to) {
        Err(err) if err.kind() == io::ErrorKind::CrossesDevices => {
            std::fs::copy(from, to).map_err(ReceiveError::io(to))?;
            durable::remove(from).map_err(ReceiveError::io(from))?;
        }
        moved => moved.map_err(ReceiveError::io(to))?,
    }
    File::open(to).map_err(ReceiveError::io(to))
}

/// The name under which a file goes into the inbox: its own where that is a bundle's and nothing
/// else, or one made of its digest.
pub(super) fn final_name(named: Option<&str>, sha256: &BundleDigest) -> String {
    match named.and_then(|name| name.parse::<BundleName>().ok()) {
        Some(name) => name.to_string(),
        None => format!("{sha256}.{FILE_EXTENSION}"),
    }
}

enum CopyError {
    Read,
    Write(io::Error),
}

fn copy_hashing(
    source: &mut File,
    copy: &mut File,
    expected: u64,
) -> Result<(u64, BundleDigest), CopyError> {
    let mut hash = Sha256::new();
    let (mut buffer, mut bytes) = (vec![0; COPY_BYTES], 0);
    loop {
        let count = match source.read(&mut buffer) {
            Ok(0) => break,
            Ok(count) => count,
            Err(err) if err.kind() == io::ErrorKind::Interrupted => continue,
            Err(_) => return Err(CopyError::Read),
        };
        bytes += count as u64;
        // It grows while it is read: it is not finished, and may never be.
        if bytes > expected {
            break;
        }
        hash.update(&buffer[..count]);
        copy.write_all(&buffer[..count]).map_err(CopyError::Write)?;
    }
    Ok((bytes, BundleDigest::from_bytes(hash.finalize().into())))
}

const COPY_BYTES: usize = 256 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_bundles_name_goes_into_the_inbox_as_it_is() {
        let digest = BundleDigest::of(b"x");
        let name = "plant-7-flash-0000000001-0123456789abcdef.pstk";
        assert_eq!(final_name(Some(name), &digest), name);
        for other in [None, Some("../../etc/passwd"), Some("a.pstk"), Some("-rf")] {
            assert_eq!(final_name(other, &digest), format!("{digest}.pstk"));
        }
    }
}
