//! The fence from inside: Landlock, by which a process gives up what it will not need (landlock(7)).
//!
//! Done once, after the configuration was read and before the first thread starts: threads and programs that
//! are started later are kept to the same. It can't be taken back, and holds for root, too.
//!
//! Rules belong to the folders that stand there at this moment, not to their names. A file is often replaced,
//! and a disk mounted late; so the rule is set on the folder *above* what is named, unless that is one of the
//! system's own ([`BROAD`]).

use std::collections::BTreeSet;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible, LandlockStatus, NetPort,
    PathBeneath, PathFd, RestrictionStatus, Ruleset, RulesetAttr, RulesetCreated,
    RulesetCreatedAttr, RulesetError, RulesetStatus, Scope,
};

use super::{LandlockMode, Programs, Reach, Transport};
use crate::keys::credentials_dir;

/// What the kernel keeps this process to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Confinement {
    /// Nothing: it was turned off.
    Off,
    /// Nothing: this kernel can't, or a filter of system calls keeps it from us.
    Unavailable,
    /// What the configuration names.
    Enforced {
        /// The version of Landlock.
        abi: i32,
        /// Why TCP ports are left alone, where they are.
        ports_free: Option<String>,
        /// Folders that are named and not there: they can't be reached before a restart.
        absent: Vec<PathBuf>,
    },
}

impl fmt::Display for Confinement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Off => f.write_str("Landlock: off (hardening.landlock)"),
            Self::Unavailable => f.write_str(
                "Landlock: not available, nothing is enforced (it takes Linux 5.19, \"landlock\" in /sys/kernel/security/lsm, and its system calls in the unit's SystemCallFilter)",
            ),
            Self::Enforced { abi, ports_free, absent } => {
                write!(f, "Landlock ABI {abi}: only the folders of the configuration")?;
                match ports_free {
                    None => f.write_str(" and its TCP ports")?,
                    Some(why) => write!(f, "; any TCP port ({why})")?,
                }
                if !absent.is_empty() {
                    let list: Vec<_> =
                        absent.iter().map(|path| path.display().to_string()).collect();
                    write!(f, "; not there yet, needs a restart once it is: {}", list.join(", "))?;
                }
                Ok(())
            }
        }
    }
}

/// Why a process can't be kept to its configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfineError {
    /// It is required, and can't be had.
    #[error(
        "hardening.landlock is \"required\", and can't be had here\n  try: a kernel from 5.19 on with \"landlock\" in /sys/kernel/security/lsm; a unit whose SystemCallFilter names landlock_create_ruleset, landlock_add_rule and landlock_restrict_self; or landlock = \"auto\""
    )]
    Required,
    /// The kernel refused a rule.
    #[error("Landlock: {0}\n  try: hardening.landlock = \"off\", and report this")]
    Rule(#[from] RulesetError),
}

/// What this process was kept to; `None` before [`confine`].
pub fn confinement() -> Option<&'static Confinement> {
    DONE.get()
}

static DONE: OnceLock<Confinement> = OnceLock::new();

/// Keeps this thread, and whatever it starts from now on, to what is reached.
///
/// # Errors
/// Where it is required and the kernel can't; and where the kernel has it and refuses a rule.
pub fn confine(reach: &Reach, mode: LandlockMode) -> Result<Confinement, ConfineError> {
    let done = match mode {
        LandlockMode::Off => Confinement::Off,
        LandlockMode::Auto | LandlockMode::Required => restrict(reach)?,
    };
    if mode == LandlockMode::Required && done == Confinement::Unavailable {
        return Err(ConfineError::Required);
    }
    // A process is confined once; a second time is narrower still, and the first is what is told.
    let _ = DONE.set(done.clone());
    Ok(done)
}

fn restrict(reach: &Reach) -> Result<Confinement, ConfineError> {
    // The first version forbids every rename from one folder to another: staging could not work.
    let usable = Ruleset::default()
        .set_compatibility(CompatLevel::HardRequirement)
        .handle_access(AccessFs::from_all(ABI::V2));
    if usable.is_err() {
        return Ok(Confinement::Unavailable);
    }
    let Rules { paths, absent } = rules(reach);
    let ports = ports(reach);
    let mut ruleset = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(NEWEST))?
        .scope(Scope::Signal)?;
    if ports.is_ok() {
        ruleset = ruleset.handle_access(AccessNet::from_all(NEWEST))?;
    }
    let mut created = ruleset.create()?;
    for (path, access) in paths {
        created = allow(created, &path, access)?;
    }
    if let Ok(ports) = &ports {
        for port in &ports.bound {
            created = created.add_rule(NetPort::new(*port, AccessNet::BindTcp))?;
        }
        for port in &ports.connected {
            created = created.add_rule(NetPort::new(*port, AccessNet::ConnectTcp))?;
        }
    }
    let RestrictionStatus { ruleset, landlock, .. } = created.restrict_self()?;
    let abi = match landlock {
        LandlockStatus::Available { effective_abi, kernel_abi }
            if ruleset != RulesetStatus::NotEnforced =>
        {
            kernel_abi.unwrap_or(effective_abi as i32)
        }
        _ => return Ok(Confinement::Unavailable),
    };
    let ports_free = match ports {
        Ok(_) if abi >= ABI::V4 as i32 => None,
        Ok(_) => Some("the kernel is older than 6.7".to_owned()),
        Err(why) => Some(why.to_owned()),
    };
    Ok(Confinement::Enforced { abi, ports_free, absent })
}

/// Rules are for what these rights name; what newer kernels add is left alone.
const NEWEST: ABI = ABI::V6;

fn allow(
    ruleset: RulesetCreated,
    path: &Path,
    access: BitFlags<AccessFs>,
) -> Result<RulesetCreated, RulesetError> {
    // Gone since it was looked for: then nobody needs it.
    let Ok(opened) = PathFd::new(path) else { return Ok(ruleset) };
    let is_dir = path.is_dir();
    let access = if is_dir { access } else { access & AccessFs::from_file(NEWEST) };
    ruleset.add_rule(PathBeneath::new(opened, access))
}

struct Rules {
    paths: Vec<(PathBuf, BitFlags<AccessFs>)>,
    absent: Vec<PathBuf>,
}

/// The folders with what may be done in them.
fn rules(reach: &Reach) -> Rules {
    let read = AccessFs::ReadFile | AccessFs::ReadDir;
    let write = read | AccessFs::from_write(NEWEST);
    let mut absent = Vec::new();
    let mut found = |named: &Path, access: BitFlags<AccessFs>| -> Vec<(PathBuf, _)> {
        let roots = roots(named);
        if roots.is_empty() {
            absent.push(named.to_owned());
        }
        roots.into_iter().map(|root| (root, access)).collect()
    };
    let mut paths = vec![(reach.state.clone(), write)];
    for folder in &reach.folders_written {
        paths.extend(found(folder, write));
    }
    for folder in &reach.folders_read {
        paths.extend(found(folder, read));
    }
    // A credential may stand for a secret: then nobody misses the file.
    for file in reach.files_read.iter().chain(&reach.secrets) {
        paths.extend(roots(file).into_iter().map(|root| (root, read)));
    }
    let system = SYSTEM_READ.iter().map(PathBuf::from).chain(credentials_dir());
    paths.extend(system.map(|path| (path, read)));
    paths.extend(DEVICES.iter().map(|device| (device.into(), read | AccessFs::WriteFile)));
    match reach.programs {
        Programs::None => {}
        Programs::Tools => {
            let folders = TOOLS.iter().map(PathBuf::from);
            paths.extend(folders.map(|folder| (folder, read | AccessFs::Execute)));
        }
        Programs::Hooks => {
            paths.push((PathBuf::from("/"), read | AccessFs::Execute));
            // What every program expects to be able to write to.
            paths.extend(["/tmp", "/var/tmp", "/dev"].iter().map(|path| (path.into(), write)));
        }
    }
    Rules { paths, absent }
}

/// Where the rules for a named file or folder are set: on what stands above it, also where it is a link. Empty
/// where nothing of it is there but a folder of the system.
fn roots(named: &Path) -> BTreeSet<PathBuf> {
    let real = named.canonicalize().ok();
    std::iter::once(named).chain(real.as_deref()).filter_map(root).collect()
}

fn root(path: &Path) -> Option<PathBuf> {
    let is_broad = |path: &Path| BROAD.iter().any(|broad| path == Path::new(broad));
    let above = path.ancestors().skip(1).find(|above| above.is_dir())?;
    if !is_broad(above) {
        return Some(above.to_owned());
    }
    path.exists().then(|| path.to_owned())
}

struct Ports {
    bound: BTreeSet<u16>,
    connected: BTreeSet<u16>,
}

/// The TCP ports; or why they can't be told.
fn ports(reach: &Reach) -> Result<Ports, &'static str> {
    if reach.programs == Programs::Hooks {
        return Err("a command may connect to anything");
    }
    if let Some(why) = reach.ports_unknown {
        return Err(why);
    }
    let tcp = |transport| transport == Transport::Tcp;
    let listens = reach.listens.iter().filter(|listens| tcp(listens.transport));
    let speaks = reach.speaks.iter().filter(|speaks| tcp(speaks.transport));
    let mut connected: BTreeSet<u16> = speaks.map(|speaks| speaks.port).collect();
    // A long answer of a name server comes over TCP.
    if reach.speaks.iter().any(|speaks| speaks.host.parse::<std::net::IpAddr>().is_err()) {
        connected.insert(53);
    }
    Ok(Ports { bound: listens.map(|listens| listens.address.port()).collect(), connected })
}

/// Folders of the system, in which others have theirs: a rule is never set on one of them because something in
/// it was named. Those that are for mounting (`/mnt`, `/media`, `/srv`) are not among them: a disk that is mounted
/// later covers the folder that a rule was set on.
const BROAD: [&str; 22] = [
    "/",
    "/bin",
    "/boot",
    "/dev",
    "/dev/shm",
    "/etc",
    "/home",
    "/lib",
    "/lib64",
    "/opt",
    "/proc",
    "/root",
    "/run",
    "/sbin",
    "/sys",
    "/tmp",
    "/usr",
    "/var",
    "/var/lib",
    "/var/log",
    "/var/spool/penstock",
    "/var/tmp",
];

/// What the C library and the TLS library read: names, authorities, time zones, modules for names. `/etc` as a
/// whole, since its files are replaced at any time; what is secret there is so by its mode. Our own process;
/// limits of the network; devices, which export media are known by.
const SYSTEM_READ: [&str; 15] = [
    "/dev/disk",
    "/etc",
    "/lib",
    "/lib64",
    "/proc/self",
    "/proc/sys",
    "/run/NetworkManager",
    "/run/resolvconf",
    "/run/systemd/resolve",
    "/sys/block",
    "/sys/class",
    "/sys/dev",
    "/sys/devices",
    "/usr/lib",
    "/usr/share",
];
const DEVICES: [&str; 4] = ["/dev/null", "/dev/random", "/dev/urandom", "/dev/zero"];
const TOOLS: [&str; 6] = ["/bin", "/lib", "/lib64", "/sbin", "/usr/bin", "/usr/lib"];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rule_stands_above_what_is_named_but_not_on_a_folder_of_the_system() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().canonicalize().unwrap();
        let named = dir.join("mount/out");
        std::fs::create_dir_all(&named).unwrap();
        let at = |path: &Path| roots(path).into_iter().collect::<Vec<_>>();
        assert_eq!(at(&named), [dir.join("mount")]);
        // Not there yet: as far as it is.
        assert_eq!(at(&dir.join("mount/a/b/c")), [dir.join("mount")]);
        // Where a link leads to, beside the link.
        std::os::unix::fs::symlink(&named, dir.join("link")).unwrap();
        assert_eq!(at(&dir.join("link")), [dir.clone(), dir.join("mount")]);
        for (path, expected) in [
            ("/proc", Some("/proc")),
            ("/etc/hostname", Some("/etc/hostname")),
            ("/no-such-folder/out", None),
            ("/mnt/no-such-disk", Some("/mnt")),
        ] {
            assert_eq!(root(Path::new(path)), expected.map(PathBuf::from), "{path}");
        }
    }

    #[test]
    fn ports_are_told_where_they_are_known() {
        let path = Path::new("/p");
        let mut reach = Reach::new(path, path, path);
        reach.listen("l", Transport::Tcp, "127.0.0.1:6514".parse().unwrap());
        reach.listen("u", Transport::Udp, "127.0.0.1:514".parse().unwrap());
        reach.speak_to("s", Transport::Tcp, "[::1]:443");
        let known = ports(&reach).unwrap_or_else(|why| panic!("{why}"));
        assert_eq!((known.bound, known.connected), ([6514].into(), [443].into()));
        reach.speak_to("n", Transport::Tcp, "siem.example:8088");
        let known = ports(&reach).unwrap_or_else(|why| panic!("{why}"));
        assert_eq!(known.connected, [53, 443, 8088].into());
        reach.speak_to_unknown_ports("brokers tell of others");
        assert_eq!(ports(&reach).err(), Some("brokers tell of others"));
    }

    #[test]
    fn what_is_enforced_is_told_in_one_line() {
        for (confinement, said) in [
            (Confinement::Off, "off"),
            (Confinement::Unavailable, "not available"),
            (
                Confinement::Enforced { abi: 4, ports_free: None, absent: Vec::new() },
                "Landlock ABI 4: only the folders of the configuration and its TCP ports",
            ),
            (
                Confinement::Enforced {
                    abi: 3,
                    ports_free: Some("the kernel is older than 6.7".to_owned()),
                    absent: vec!["/mnt/a".into()],
                },
                "any TCP port (the kernel is older than 6.7); not there yet, needs a restart once it is: /mnt/a",
            ),
        ] {
            let text = confinement.to_string();
            assert!(text.contains(said) && !text.contains('\n'), "{text}");
        }
    }
}
