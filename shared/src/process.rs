//! What a process does to itself before it loads a key; and who runs it, and where.

use nix::sys::resource::{Resource, setrlimit};

/// Keeps keys out of core dumps: none is written, and no other process of the same user may read
/// this one's memory.
pub fn forbid_core_dumps() -> std::io::Result<()> {
    // The second is tried even where the first fails: each helps alone.
    let limited = setrlimit(Resource::RLIMIT_CORE, 0, 0);
    nix::sys::prctl::set_dumpable(false)?;
    Ok(limited?)
}

/// Who runs this process: the login name behind sudo, if there is one.
pub fn user_name() -> String {
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
