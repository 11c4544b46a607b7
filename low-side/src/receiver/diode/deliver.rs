//! The way of a whole object into the inbox. May be repeated at any point.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::Path;

use sha2::{Digest, Sha256};
use shared::bundle::{BundleDigest, FILE_EXTENSION};
use shared::durable;

use super::assembler::Whole;
use super::journal::{self, ObjectInfo};
use crate::receiver::{ReceiveError, Reception};

/// The name under which a bundle that came over a link stands in the inbox. Only its order matters.
pub(super) fn file_name(info: &ObjectInfo) -> String {
    let id = info.key.id.to_string();
    format!(
        "diode-{:016x}-{}-{:010}-{:010}-{}.{FILE_EXTENSION}",
        info.link,
        info.lane,
        info.epoch,
        info.number,
        &id[..16]
    )
}

/// Puts a whole object into the inbox, then removes what was kept of it.
pub(super) fn deliver(whole: &Whole, reception: &Reception) -> Result<(), ReceiveError> {
    let name = file_name(&whole.info);
    let partial = reception.partial(&name);
    let file = File::open(&whole.data).map_err(ReceiveError::io(&whole.data))?;
    // The long sync before the file leaves its place: what a crash would leave behind is short-lived.
    file.sync_all().map_err(ReceiveError::io(&whole.data))?;
    let delivered = match durable::rename(&whole.data, &partial) {
        Ok(()) => reception.deliver(&name, &file, &whole.sha256).inspect_err(|_| {
            let _ = durable::rename(&partial, &whole.data);
        }),
        Err(err) if err.kind() == io::ErrorKind::CrossesDevices => {
            let copy = copy(&whole.data, &partial, &whole.sha256);
            let copy = copy.map_err(ReceiveError::io(&partial))?;
            reception.deliver(&name, &copy, &whole.sha256)
        }
        Err(err) => Err(ReceiveError::io(&partial)(err)),
    };
    delivered?;
    for path in whole.others.iter().rev().chain([&whole.data]) {
        durable::remove(path).map_err(ReceiveError::io(path))?;
    }
    Ok(())
}

fn copy(from: &Path, to: &Path, sha256: &BundleDigest) -> io::Result<File> {
    let mut source = File::open(from)?;
    let mut file = durable::create(to, 0o640)?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0; COPY_BYTES];
    loop {
        let count = source.read(&mut buffer)?;
        if count == 0 {
            break;
        }
        hash.update(&buffer[..count]);
        file.write_all(&buffer[..count])?;
    }
    if BundleDigest::from_bytes(hash.finalize().into()) != *sha256 {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "the file changed on the disk"));
    }
    Ok(file)
}

/// Takes back what a crash left on its way into the inbox, so that it is looked at once more.
pub(super) fn reclaim(dir: &Path, reception: &Reception) -> io::Result<()> {
    let entries = match fs::read_dir(dir) {
        Err(err) if err.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    for entry in entries {
        let path = entry?.path();
        let data = path.with_extension("data");
        if path.extension().is_some_and(|extension| extension == "journal")
            && !data.exists()
            && let Some(info) = journal::read(&path, |_, _| {})?
        {
            let partial = reception.partial(&file_name(&info));
            if partial.is_file() {
                durable::rename(&partial, &data)?;
            }
        }
    }
    Ok(())
}

const COPY_BYTES: usize = 256 * 1024;
