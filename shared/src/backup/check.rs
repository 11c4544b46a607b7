//! A backup read to its end before anything is done with it.

use std::fmt::Write as _;
use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use super::{BackupError, Content, Facts, Member, read};
use crate::durable;
use crate::keys::{Identities, Side};

/// No configuration is longer.
const CONFIG_BYTES_MAX: u64 = 4 << 20;

/// A backup that was read to its end, and is as it was written.
#[derive(Debug)]
pub struct Checked {
    /// What it says of itself.
    pub facts: Facts,
    /// Files in it.
    pub files: u64,
    /// Their length together.
    pub bytes: u64,
    /// The configuration in it.
    pub config: Vec<u8>,
}

/// Reads a backup in a file; see [`read`].
pub fn read_file(
    file: &Path,
    identities: Option<&Identities>,
    side: Side,
    take: &mut dyn FnMut(&Facts, &Member, &mut Content<'_>) -> Result<(), BackupError>,
) -> Result<Facts, BackupError> {
    // What root may read it may also read while it acts as the owner of the state folder.
    let input = crate::process::as_root(|| File::open(file)).and_then(|opened| opened);
    let input = input.map_err(BackupError::io(file))?;
    read(input, identities, side, take)
}

impl Checked {
    /// Reads a backup to its end. The names are those of the members that have to be there.
    pub fn read(
        file: &Path,
        identities: Option<&Identities>,
        side: Side,
        (config_name, database_name): (&str, &str),
    ) -> Result<Self, BackupError> {
        let mut config = Vec::new();
        let (mut files, mut bytes, mut found) = (0, 0, 0);
        let facts = read_file(file, identities, side, &mut |_, member, content| {
            files += 1;
            bytes += member.bytes;
            found += u32::from(member.name == database_name || member.name == config_name);
            if member.name == config_name {
                let took = content.take(CONFIG_BYTES_MAX).read_to_end(&mut config);
                took.map_err(BackupError::io(file))?;
            }
            Ok(())
        })?;
        if found < 2 {
            let problem = format!("it holds no {database_name}, or no {config_name}");
            return Err(BackupError::Malformed(problem));
        }
        Ok(Self { facts, files, bytes, config })
    }

    /// What is in it, for people.
    pub fn summary(&self) -> String {
        let Self { facts, files, bytes, .. } = self;
        let keys = if facts.keys { "with" } else { "without" };
        let mut text = format!(
            "{} {}, as of {}, {keys} secret keys: {files} files, {bytes} bytes, all as they were written\n",
            facts.side, facts.name, facts.made
        );
        for what in &facts.left_out {
            let _ = writeln!(text, "not in it: {what}");
        }
        text
    }

    /// The same as data.
    pub fn to_json(&self) -> serde_json::Value {
        serde_json::json!({ "backup": self.facts, "files": self.files, "bytes": self.bytes })
    }

    /// Writes the configuration beside where it belongs; the caller gives it its name, or removes it.
    pub fn config_beside(&self, path: &Path) -> Result<PathBuf, BackupError> {
        let mut name = path.as_os_str().to_owned();
        name.push(".restored");
        let beside = PathBuf::from(name);
        if let Some(above) = path.parent().filter(|above| !above.as_os_str().is_empty()) {
            durable::create_dir(above).map_err(BackupError::io(above))?;
        }
        durable::write(&beside, &self.config, 0o644).map_err(BackupError::io(&beside))?;
        Ok(beside)
    }
}
