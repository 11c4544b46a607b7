//! Who may reach which file or folder: asked for another user than the one who asks.
//!
//! Root may do everything, so that trying tells root nothing about the agent. What the kernel would
//! say to the agent's user is worked out from owner, groups and modes of every folder on the way.
//! Access control lists and mandatory access control (`SELinux`) are not looked at.

use std::ffi::CString;
use std::fmt;
use std::fs::{self, Metadata};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use nix::unistd::{Gid, Uid, User, getgrouplist};

use super::{Finding, Level};

/// A user with his groups.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Account {
    /// The name, or the number where there is none.
    pub name: String,
    uid: u32,
    groups: Vec<u32>,
}

impl fmt::Display for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

impl Account {
    /// A user by name.
    pub fn named(name: &str) -> Option<Self> {
        User::from_name(name).ok().flatten().map(|user| Self::of(&user))
    }

    /// A user by number, who may have no name.
    pub fn numbered(uid: u32) -> Self {
        match User::from_uid(Uid::from_raw(uid)) {
            Ok(Some(user)) => Self::of(&user),
            _ => Self { name: format!("#{uid}"), uid, groups: Vec::new() },
        }
    }

    /// Whoever runs this process, with the groups that it has.
    pub fn own() -> Self {
        let mut account = Self::numbered(nix::unistd::geteuid().as_raw());
        account.groups.push(nix::unistd::getegid().as_raw());
        let more = nix::unistd::getgroups().unwrap_or_default();
        account.groups.extend(more.into_iter().map(Gid::as_raw));
        account
    }

    fn of(user: &User) -> Self {
        let groups = CString::new(user.name.as_str())
            .ok()
            .and_then(|name| getgrouplist(&name, user.gid).ok())
            .unwrap_or_else(|| vec![user.gid]);
        let groups = groups.into_iter().map(Gid::as_raw).collect();
        Self { name: user.name.clone(), uid: user.uid.as_raw(), groups }
    }

    /// The agent's user: who runs it now, else the owner of its state folder, else the service's user,
    /// else whoever asks.
    pub fn of_agent(pid: Option<u32>, state_dir: &Path, service_user: &str) -> Self {
        let running = pid.and_then(|pid| fs::metadata(format!("/proc/{pid}")).ok());
        let owner = running.or_else(|| fs::metadata(state_dir).ok());
        match owner {
            Some(meta) => Self::numbered(meta.uid()),
            None => Self::named(service_user).unwrap_or_else(Self::own),
        }
    }

    /// Whether this is whoever runs this process.
    pub fn is_own(&self) -> bool {
        self.uid == nix::unistd::geteuid().as_raw()
    }

    /// Whether this is root, who may do everything.
    pub fn is_root(&self) -> bool {
        self.uid == 0
    }

    fn may(&self, meta: &Metadata, bits: u32) -> bool {
        let mode = meta.permissions().mode();
        let granted = if meta.uid() == self.uid {
            mode >> 6
        } else if self.groups.contains(&meta.gid()) {
            mode >> 3
        } else {
            mode
        };
        // Root reads and writes everything, and enters every folder.
        self.is_root() || granted & bits == bits
    }
}

/// What is to be possible.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// Read a file.
    Read,
    /// Read a file that nobody but its owner may read.
    Secret,
    /// List a folder and read in it.
    List,
    /// Make, rename and remove files in a folder.
    Write,
}

impl Need {
    fn bits(self) -> u32 {
        match self {
            Need::Read | Need::Secret => 0o4,
            Need::List => 0o5,
            Need::Write => 0o7,
        }
    }

    fn doing(self) -> &'static str {
        match self {
            Need::Read | Need::Secret => "read",
            Need::List => "list",
            Need::Write => "write to",
        }
    }
}

/// What keeps somebody from a file or folder.
#[derive(Debug, PartialEq, Eq)]
enum Obstacle {
    Absent(PathBuf),
    Closed(PathBuf),
    Kind(&'static str),
    ReadOnly,
    Unknown(String),
}

/// Whether an account can do what it needs to with a file or folder, and what to do if it can't.
pub fn reach(path: &Path, account: &Account, need: Need, about: &'static str) -> Finding {
    let shown = path.display();
    let doing = need.doing();
    let finding = match obstacle(path, account, need) {
        None => Finding::new(Level::Fine, about, format!("{account} can {doing} {shown}")),
        Some(Obstacle::Absent(missing)) => {
            let what = format!("{} does not exist", missing.display());
            let finding = Finding::new(Level::Fault, about, what);
            if matches!(need, Need::Read | Need::Secret) {
                finding
            } else {
                finding.remedy(format!("install -d -o {account} -m 0750 {shown}"))
            }
        }
        Some(Obstacle::Closed(at)) => {
            let what = format!("{account} can't {doing} {shown}: {} does not let it", at.display());
            let finding = Finding::new(Level::Fault, about, what);
            if at == path && need != Need::Read {
                finding.remedy(format!("chown {account} {shown}"))
            } else if at == path {
                finding.remedy(format!("chgrp {account} {shown} && chmod g+r {shown}"))
            } else {
                let at = at.display();
                finding.remedy(format!("chgrp {account} {at} && chmod g+x {at}"))
            }
        }
        Some(Obstacle::Kind(kind)) => {
            Finding::new(Level::Fault, about, format!("{shown} is {kind}"))
        }
        Some(Obstacle::ReadOnly) => {
            let what = format!("{shown} lies on a file system that is mounted read-only");
            Finding::new(Level::Fault, about, what)
                .remedy(format!("mount -o remount,rw \"$(findmnt -no TARGET -T {shown})\""))
        }
        Some(Obstacle::Unknown(why)) => {
            Finding::new(Level::Skipped, about, format!("{shown} can't be looked at: {why}"))
                .remedy("the same as root, or as the agent's user")
        }
    };
    finding.at(shown)
}

fn obstacle(path: &Path, account: &Account, need: Need) -> Option<Obstacle> {
    let mut above: Vec<&Path> = path.ancestors().skip(1).collect();
    above.reverse();
    for dir in above.into_iter().filter(|dir| !dir.as_os_str().is_empty()) {
        match fs::metadata(dir) {
            Ok(meta) if !meta.is_dir() => return Some(Obstacle::Absent(path.to_owned())),
            Ok(meta) if !account.may(&meta, 0o1) => return Some(Obstacle::Closed(dir.to_owned())),
            Ok(_) => {}
            Err(err) => return Some(unknown(dir, &err)),
        }
    }
    let meta = match fs::metadata(path) {
        Ok(meta) => meta,
        Err(err) => return Some(unknown(path, &err)),
    };
    match need {
        Need::Read | Need::Secret if !meta.is_file() => {
            return Some(Obstacle::Kind("no regular file"));
        }
        Need::List | Need::Write if !meta.is_dir() => return Some(Obstacle::Kind("no folder")),
        _ => {}
    }
    if !account.may(&meta, need.bits()) {
        return Some(Obstacle::Closed(path.to_owned()));
    }
    let read_only = nix::sys::statvfs::statvfs(path)
        .is_ok_and(|of| of.flags().contains(nix::sys::statvfs::FsFlags::ST_RDONLY));
    (need == Need::Write && read_only).then_some(Obstacle::ReadOnly)
}

fn unknown(path: &Path, err: &std::io::Error) -> Obstacle {
    if err.kind() == std::io::ErrorKind::NotFound {
        Obstacle::Absent(path.to_owned())
    } else {
        Obstacle::Unknown(err.to_string())
    }
}

/// Whether a secret is kept to its owner: `most` is what group and others may have, as `0o027`.
pub fn closed(path: &Path, most: u32, about: &'static str) -> Option<Finding> {
    let meta = fs::symlink_metadata(path).ok()?;
    let shown = path.display();
    if meta.is_symlink() {
        let what =
            format!("{shown} is a symbolic link: whoever may change where it leads changes it");
        let finding = Finding::new(Level::Fault, about, what).at(shown);
        return Some(finding.remedy("the file itself in its place"));
    }
    let mode = meta.permissions().mode() & 0o777;
    if mode & !(0o700 | most) == 0 {
        return None;
    }
    let (level, who) = if mode & 0o007 & !most == 0 {
        (Level::Warning, "its group")
    } else {
        (Level::Fault, "everybody")
    };
    let wanted = if meta.is_dir() { 0o700 | most } else { (0o600 | most) & 0o666 };
    let what = format!("{shown} has mode {mode:03o} and is open to {who}");
    let finding = Finding::new(level, about, what).at(path.display());
    Some(finding.remedy(format!("chmod {:03o} {}", mode & wanted, path.display())))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stranger() -> Account {
        Account { name: "stranger".to_owned(), uid: 64_321, groups: vec![64_321] }
    }

    fn open_up(path: &Path, mode: u32) {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn another_users_way_is_worked_out_from_modes() {
        let dir = tempfile::tempdir().unwrap();
        let inner = dir.path().join("inner");
        fs::create_dir(&inner).unwrap();
        fs::write(inner.join("file"), "x").unwrap();
        let reach = |path: &Path, need| reach(path, &stranger(), need, "test");
        open_up(dir.path(), 0o700);
        let finding = reach(&inner, Need::List);
        assert_eq!(finding.level, Level::Fault);
        let at = dir.path().display();
        assert_eq!(finding.remedies, [format!("chgrp stranger {at} && chmod g+x {at}")]);
        open_up(dir.path(), 0o755);
        open_up(&inner, 0o755);
        assert_eq!(reach(&inner, Need::List).level, Level::Fine);
        let finding = reach(&inner, Need::Write);
        assert_eq!(finding.remedies, [format!("chown stranger {}", inner.display())]);
        open_up(&inner.join("file"), 0o600);
        let finding = reach(&inner.join("file"), Need::Read);
        assert!(finding.remedies[0].starts_with("chgrp stranger"), "{finding:?}");
        // A secret that a group may read is one no more.
        let finding = reach(&inner.join("file"), Need::Secret);
        assert!(finding.remedies[0].starts_with("chown stranger"), "{finding:?}");
        open_up(&inner.join("file"), 0o644);
        assert_eq!(reach(&inner.join("file"), Need::Read).level, Level::Fine);
        let finding = reach(&inner.join("none"), Need::Write);
        assert!(finding.remedies[0].starts_with("install -d -o stranger"), "{finding:?}");
        assert_eq!(reach(&inner.join("file"), Need::Write).level, Level::Fault);
    }

    #[test]
    fn open_secrets_and_links_are_named() {
        let dir = tempfile::tempdir().unwrap();
        let key = dir.path().join("key");
        fs::write(&key, "x").unwrap();
        open_up(&key, 0o600);
        assert_eq!(closed(&key, 0, "key"), None);
        open_up(&key, 0o640);
        assert_eq!(closed(&key, 0o040, "key"), None);
        assert_eq!(closed(&key, 0, "key").unwrap().level, Level::Warning);
        open_up(&key, 0o644);
        let finding = closed(&key, 0, "key").unwrap();
        assert_eq!(finding.level, Level::Fault);
        assert_eq!(finding.remedies, [format!("chmod 600 {}", key.display())]);
        let link = dir.path().join("link");
        std::os::unix::fs::symlink(&key, &link).unwrap();
        assert!(closed(&link, 0, "key").unwrap().what.contains("symbolic link"));
    }
}
