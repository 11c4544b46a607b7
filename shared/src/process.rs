//! What every agent does to its own process before it loads a key.

use nix::sys::resource::{Resource, setrlimit};

/// Keeps keys out of core dumps: none is written, and no other process of the same user may read
/// this one's memory.
pub fn forbid_core_dumps() -> std::io::Result<()> {
    // The second is tried even where the first fails: each helps alone.
    let limited = setrlimit(Resource::RLIMIT_CORE, 0, 0);
    nix::sys::prctl::set_dumpable(false)?;
    Ok(limited?)
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
