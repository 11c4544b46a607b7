//! The files with secrets that a configuration names: whether the agent can read each of them.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use super::files::{Account, Need, closed, reach};
use super::{Finding, Level};
use crate::reach::Reach;

/// Looks at every secret of a configuration but those in the folder of keys. A file that only root can read
/// is in order where the service of this unit gets it as a credential.
pub fn secrets(named: &Reach, keys_dir: &Path, account: &Account, unit: &str) -> Vec<Finding> {
    let handed = handed_over(&UNIT_FOLDERS.map(Path::new), unit);
    let mut findings = Vec::new();
    for path in named.secrets().filter(|path| !path.starts_with(keys_dir)) {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if handed.contains(name.as_ref()) {
            let what = format!("{unit} hands {} over as the credential {name}", path.display());
            findings.push(Finding::new(Level::Fine, ABOUT, what));
            continue;
        }
        let found = reach(path, account, Need::Secret, ABOUT);
        let found = match found.level {
            Level::Fault => {
                found.remedy("or hand it over as a credential: setup systemd --credentials")
            }
            _ => found,
        };
        findings.push(found);
        findings.extend(closed(path, 0o040, "secret-mode"));
    }
    findings
}

/// The names of the credentials that a unit and its drop-ins ask for (systemd.exec(5)), as their files say.
fn handed_over(folders: &[&Path], unit: &str) -> BTreeSet<String> {
    let mut files: Vec<PathBuf> = folders.iter().map(|folder| folder.join(unit)).collect();
    for folder in folders {
        // What can't be listed hands nothing over that could be seen from here.
        let entries = std::fs::read_dir(folder.join(format!("{unit}.d"))).into_iter().flatten();
        files.extend(entries.flatten().map(|entry| entry.path()));
    }
    let mut names = BTreeSet::new();
    for text in files.iter().filter_map(|path| std::fs::read_to_string(path).ok()) {
        for line in text.lines() {
            let keys = ["LoadCredential=", "LoadCredentialEncrypted="];
            let value = keys.iter().find_map(|key| line.trim().strip_prefix(key));
            // Without a path after the name it comes from a store, and may not be there.
            if let Some((name, _)) = value.and_then(|value| value.split_once(":/")) {
                names.insert(name.replace("%%", "%"));
            }
        }
    }
    names
}

const ABOUT: &str = "secret-readable";
const UNIT_FOLDERS: [&str; 4] = [
    "/etc/systemd/system",
    "/run/systemd/system",
    "/usr/lib/systemd/system",
    "/lib/systemd/system",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_of_a_unit_and_its_drop_ins() {
        let dir = tempfile::tempdir().unwrap();
        let drop_ins = dir.path().join("p.service.d");
        std::fs::create_dir(&drop_ins).unwrap();
        let unit =
            "[Service]\nLoadCredential=identity.key:p.identity.key\nLoadCredential=a:/etc/a\n";
        std::fs::write(dir.path().join("p.service"), unit).unwrap();
        let more = "[Service]\nLoadCredentialEncrypted=b%%:/etc/b\n#LoadCredential=c:/etc/c\n";
        std::fs::write(drop_ins.join("x.conf"), more).unwrap();
        let found = handed_over(&[dir.path(), Path::new("/nowhere")], "p.service");
        assert_eq!(found.into_iter().collect::<Vec<_>>(), ["a", "b%"]);
    }
}
