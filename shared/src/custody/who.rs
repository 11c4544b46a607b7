//! Who acts: the agent, or the person at the terminal.

use std::sync::atomic::{AtomicBool, Ordering};

/// Set once, by the agent.
static AGENT: AtomicBool = AtomicBool::new(false);

/// The name of the agent in the log.
const AGENT_NAME: &str = "agent";
/// The audit system's word for a process without a login.
const NO_LOGIN: u32 = u32::MAX;
/// The longest name that is kept; systems allow 32 bytes.
const NAME_BYTES_MAX: usize = 64;

/// From now on what this process does is done by the agent.
pub fn act_as_agent() {
    AGENT.store(true, Ordering::Relaxed);
}

/// Who acts in this process: `agent`, or the login name of a person, also behind `sudo`.
///
/// The login that the kernel keeps (`/proc/self/loginuid`) outlives `sudo` and can't be set by the
/// person; where there is none, what `sudo` says counts for root, and else the process's own user.
pub fn who() -> String {
    if AGENT.load(Ordering::Relaxed) {
        return AGENT_NAME.to_owned();
    }
    let login = std::fs::read_to_string("/proc/self/loginuid").ok();
    let login = login.and_then(|text| text.trim().parse::<u32>().ok());
    let behind_sudo = || {
        let root = nix::unistd::getuid().is_root() || crate::process::acts_as().is_some();
        let name = std::env::var("SUDO_USER").ok()?;
        (root && !name.is_empty()).then_some(name)
    };
    let name = login
        .filter(|uid| *uid != NO_LOGIN)
        .map(name_of)
        .or_else(behind_sudo)
        // Root acts as the owner of what it works on, and is root all the same.
        .unwrap_or_else(|| match crate::process::acts_as() {
            Some(_) => name_of(0),
            None => name_of(nix::unistd::getuid().as_raw()),
        });
    plain(&name)
}

fn name_of(uid: u32) -> String {
    match nix::unistd::User::from_uid(uid.into()) {
        Ok(Some(user)) => user.name,
        _ => format!("uid {uid}"),
    }
}

/// Names come from outside; nobody is called `agent` but the agent.
fn plain(name: &str) -> String {
    let kept = |c: char| if c.is_ascii_graphic() || c == ' ' { c } else { '?' };
    let name: String = name.chars().take(NAME_BYTES_MAX).map(kept).collect();
    if name == AGENT_NAME { format!("user {name}") } else { name }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_person_has_a_plain_name_that_is_not_the_agent_s() {
        assert!(!who().is_empty());
        assert_eq!(plain("alice"), "alice");
        assert_eq!(plain("a\n\u{e9}b"), "a??b");
        assert_eq!(plain("agent"), "user agent");
    }
}
