//! To whom a backup is encrypted: age recipients, as `age -R` reads them.

use std::io::{self, Read};
use std::path::{Path, PathBuf};

use super::BackupError;
use crate::keys::{
    Identities, KeyError, PublicHalf, PublicKey, Recipients, Side, generate_identity,
};

/// No age header is longer: 16 stanzas of hybrid recipients have 25 KiB.
const HEADER_BYTES_MAX: u64 = 64 << 10;
/// No list of recipients is longer.
const LIST_BYTES_MAX: u64 = 64 << 10;

/// Reads recipients from files: one `age1...` in a line, `#` for comments.
pub fn load_recipients(paths: &[PathBuf]) -> Result<Recipients, BackupError> {
    let mut halves = Vec::new();
    for path in paths {
        let mut text = String::new();
        let file = std::fs::File::open(path).map_err(BackupError::io(path))?;
        file.take(LIST_BYTES_MAX).read_to_string(&mut text).map_err(BackupError::io(path))?;
        for (number, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            if line.starts_with("AGE-SECRET-KEY-") {
                return Err(BackupError::Recipients(format!(
                    "{} holds a secret key, which must stay elsewhere than the backup is made\n  try: its public key, in the line that begins with age1",
                    path.display()
                )));
            }
            let key = PublicKey::parse(line)
                .filter(|key| !matches!(key, PublicKey::Ed25519(_)))
                .ok_or_else(|| {
                    BackupError::Recipients(format!(
                        "{}: line {} is no age recipient",
                        path.display(),
                        number + 1
                    ))
                })?;
            let name = "backup".to_owned();
            halves.push(PublicHalf { side: Side::Low, name, key, signer: None });
        }
    }
    let named = paths.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", ");
    Recipients::new(halves).map_err(|problem| {
        BackupError::Recipients(format!("{named} {}", problem.unwrap_or("holds no recipient")))
    })
}

/// Makes a key for backups, mode 0600, and gives its recipient. It resists quantum computers: a backup
/// is kept for long.
pub fn generate_backup_key(path: &Path) -> Result<String, KeyError> {
    Ok(generate_identity(path, "backup", true)?.key.to_string())
}

/// Opens what stands behind an age header, whose length has a bound.
pub(super) fn decrypt<'a>(
    mut input: impl Read + 'a,
    identities: &Identities,
) -> Result<impl Read + 'a, BackupError> {
    let mut head = Vec::new();
    let damaged = |err: io::Error| BackupError::Damaged(err.to_string());
    (&mut input).take(HEADER_BYTES_MAX).read_to_end(&mut head).map_err(damaged)?;
    if memchr::memmem::find(&head, b"\n--- ").is_none() {
        return Err(BackupError::Damaged("its age header has no end".to_owned()));
    }
    let whole = io::BufReader::new(io::Cursor::new(head).chain(input));
    let decryptor = age::Decryptor::new_buffered(whole).map_err(|err| match err {
        age::DecryptError::Io(err) => damaged(err),
        err => BackupError::Damaged(err.to_string()),
    })?;
    decryptor.decrypt(identities.all()).map_err(|err| match err {
        age::DecryptError::NoMatchingKeys => BackupError::Identity,
        err => BackupError::Damaged(err.to_string()),
    })
}
