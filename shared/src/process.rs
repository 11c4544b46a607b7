//! What a process does to itself before it loads a key; and who runs it, and where.

use std::ffi::CString;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::OnceLock;

use nix::sys::resource::{Resource, setrlimit};
use nix::unistd::{Gid, Uid, User};

/// Keeps keys out of core dumps: none is written, and no other process of the same user may read
/// this one's memory.
pub fn forbid_core_dumps() -> std::io::Result<()> {
    // The second is tried even where the first fails: each helps alone.
    let limited = setrlimit(Resource::RLIMIT_CORE, 0, 0);
    nix::sys::prctl::set_dumpable(false)?;
    Ok(limited?)
}

/// The user whom root acts as for good, and who root was.
static ACTS_AS: OnceLock<(String, String)> = OnceLock::new();

/// Whom the process acts as since [`become_owner_of`], if it does.
pub fn acts_as() -> Option<&'static str> {
    ACTS_AS.get().map(|(user, _)| user.as_str())
}

/// Root becomes the user to whom a folder belongs, with that user's groups, and can't go back: what is made in the
/// folder is then not out of its owner's reach, and what comes from outside is not read by root. Nothing is
/// done for who is not root, or where the folder is root's or is not there. To be called before a thread is
/// started, and before anything is opened.
///
/// # Errors
/// The kernel refuses; then some of it may have been done, and the process is to end.
pub fn become_owner_of(dir: &Path) -> io::Result<()> {
    let Some(owner) = Owner::of(dir)? else { return Ok(()) };
    let was = user_name();
    nix::unistd::setgid(owner.gid)?;
    owner.take_groups()?;
    nix::unistd::setuid(owner.uid)?;
    // It is set once: nobody becomes another user twice.
    let _ = ACTS_AS.set((owner.name, was));
    Ok(())
}

/// Root acts as the user to whom a folder belongs until this is dropped: for a command that also reads and
/// writes where only root may ([`as_root`]).
#[derive(Debug)]
pub struct AsOwner {
    groups: Vec<Gid>,
}

impl AsOwner {
    /// As [`become_owner_of`], for a while; `None` where nothing is done.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn of(dir: &Path) -> io::Result<Option<Self>> {
        let Some(owner) = Owner::of(dir)? else { return Ok(None) };
        let guard = Self { groups: nix::unistd::getgroups()? };
        nix::unistd::setegid(owner.gid)?;
        owner.take_groups()?;
        nix::unistd::seteuid(owner.uid)?;
        Ok(Some(guard))
    }
}

impl Drop for AsOwner {
    fn drop(&mut self) {
        // Root may always become root again; where that failed the rest of the command would say so.
        let _ = nix::unistd::seteuid(Uid::from_raw(0));
        let _ = nix::unistd::setegid(nix::unistd::getgid());
        let _ = nix::unistd::setgroups(&self.groups);
    }
}

/// Does something as root while [`AsOwner`] is there; else as whoever this is.
///
/// # Errors
/// The kernel refuses.
pub fn as_root<T>(act: impl FnOnce() -> T) -> io::Result<T> {
    let acting = nix::unistd::geteuid();
    if !nix::unistd::getuid().is_root() || acting.is_root() {
        return Ok(act());
    }
    nix::unistd::seteuid(Uid::from_raw(0))?;
    let done = act();
    nix::unistd::seteuid(acting)?;
    Ok(done)
}

/// The owner of a folder, for root.
struct Owner {
    name: String,
    uid: Uid,
    gid: Gid,
    known: bool,
}

impl Owner {
    fn of(dir: &Path) -> io::Result<Option<Self>> {
        if !nix::unistd::geteuid().is_root() {
            return Ok(None);
        }
        let meta = match dir.metadata() {
            Ok(meta) if meta.uid() != 0 => meta,
            Ok(_) => return Ok(None),
            Err(err) if err.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(err) => return Err(err),
        };
        let uid = Uid::from_raw(meta.uid());
        Ok(Some(if let Some(user) = User::from_uid(uid)? {
            Self { name: user.name, uid, gid: user.gid, known: true }
        } else {
            Self { name: format!("#{uid}"), uid, gid: Gid::from_raw(meta.gid()), known: false }
        }))
    }

    fn take_groups(&self) -> io::Result<()> {
        match CString::new(self.name.as_str()) {
            Ok(name) if self.known => nix::unistd::initgroups(&name, self.gid)?,
            _ => nix::unistd::setgroups(&[self.gid])?,
        }
        Ok(())
    }
}

/// Who runs this process: the login name behind sudo, if there is one.
pub fn user_name() -> String {
    if let Some((user, was)) = ACTS_AS.get() {
        return format!("{was} as {user}");
    }
    let uid = nix::unistd::getuid();
    let own = nix::unistd::User::from_uid(uid).ok().flatten().map(|user| user.name);
    let own = own.unwrap_or_else(|| uid.to_string());
    match std::env::var("SUDO_USER") {
        Ok(login) if uid.is_root() => format!("{login} (as {own})"),
        _ => own,
    }
}

/// The name of this machine, as it calls itself.
pub fn host_name() -> String {
    // Not from /proc, of which a service may see its own part only.
    let name = nix::unistd::gethostname().unwrap_or_default();
    name.to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    #[test]
    fn no_core_is_ever_written() {
        super::forbid_core_dumps().unwrap();
        let limits = std::fs::read_to_string("/proc/self/limits").unwrap();
        let core = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
        assert!(core.split_whitespace().nth(4) == Some("0"), "{core}");
        assert!(!nix::sys::prctl::get_dumpable().unwrap());
    }
}
