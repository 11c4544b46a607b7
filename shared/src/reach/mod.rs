//! What an agent reaches: the folders, ports and programs that its configuration names, and nothing else.
//!
//! Each side makes a [`Reach`] of its configuration, in one place. Two fences are made of it: [`confine`], by which
//! the kernel keeps the running agent to it, and [`drop_in`], by which systemd does.

mod config;
mod dropin;
mod landlock;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

pub use config::{Hardening, LandlockMode, RawHardening};
pub use dropin::{Asked, DropInError, drop_in, name_servers, resolve};
pub use landlock::{ConfineError, Confinement, confine, confinement};

use crate::hook::Hook;
use crate::keys::credentials_dir;

/// What a configuration reaches.
#[derive(Clone, Debug, Default)]
pub struct Reach {
    state: PathBuf,
    keys: PathBuf,
    folders_read: BTreeSet<PathBuf>,
    folders_written: BTreeSet<PathBuf>,
    files_read: BTreeSet<PathBuf>,
    secrets: BTreeSet<PathBuf>,
    programs: Programs,
    listens: Vec<Listens>,
    speaks: Vec<Speaks>,
    ports_unknown: Option<&'static str>,
}

/// The programs that are started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
enum Programs {
    #[default]
    None,
    /// Small tools of the system.
    Tools,
    /// A command of the operator's, about which nothing is known.
    Hooks,
}

/// How something speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Transport {
    /// Connections.
    Tcp,
    /// Datagrams.
    Udp,
}

#[derive(Clone, Debug)]
struct Listens {
    what: String,
    transport: Transport,
    address: SocketAddr,
}

#[derive(Clone, Debug)]
struct Speaks {
    what: String,
    transport: Transport,
    host: String,
    port: u16,
}

impl Reach {
    /// An agent with this configuration file, this state directory and this folder of keys.
    pub fn new(config_file: &Path, state_dir: &Path, keys_dir: &Path) -> Self {
        let mut reach =
            Self { state: state_dir.to_owned(), keys: keys_dir.to_owned(), ..Self::default() };
        reach.read_file(config_file);
        reach.read_folder(keys_dir);
        reach
    }

    /// A folder whose files are read, and those in its folders.
    pub fn read_folder(&mut self, path: &Path) {
        self.folders_read.insert(path.to_owned());
    }

    /// A folder in which files are made, changed and removed.
    pub fn write_folder(&mut self, path: &Path) {
        if !path.starts_with(&self.state) {
            self.folders_written.insert(path.to_owned());
        }
    }

    /// A file that is read, now or after it was replaced.
    pub fn read_file(&mut self, path: &Path) {
        self.files_read.insert(path.to_owned());
    }

    /// A file with a secret, which may come as a credential of the service.
    pub fn secret(&mut self, path: &Path) {
        self.secrets.insert(path.to_owned());
    }

    /// The files with secrets.
    pub fn secrets(&self) -> impl Iterator<Item = &Path> {
        self.secrets.iter().map(PathBuf::as_path)
    }

    /// A command of the operator's.
    pub fn hook(&mut self, hook: Option<&Hook>) {
        if hook.is_some() {
            self.programs = Programs::Hooks;
        }
    }

    /// Programs of the system are started.
    pub fn tools(&mut self) {
        self.programs = self.programs.max(Programs::Tools);
    }

    /// A socket that takes what comes; `what` names the section.
    pub fn listen(&mut self, what: impl Into<String>, transport: Transport, address: SocketAddr) {
        self.listens.push(Listens { what: what.into(), transport, address });
    }

    /// A place that is spoken to; `what` names the section.
    pub fn speak(
        &mut self,
        what: impl Into<String>,
        transport: Transport,
        host: impl Into<String>,
        port: u16,
    ) {
        let (what, host) = (what.into(), host.into());
        self.speaks.push(Speaks { what, transport, host, port });
    }

    /// The same for a place that is written `HOST:PORT`. What can't be read so was refused before.
    pub fn speak_to(&mut self, what: impl Into<String>, transport: Transport, address: &str) {
        if let Some((host, port)) = address.rsplit_once(':')
            && let Ok(port) = port.parse()
        {
            let host = host.trim_start_matches('[').trim_end_matches(']');
            self.speak(what, transport, host, port);
        }
    }

    /// Ports that the configuration does not tell are connected to: why.
    pub fn speak_to_unknown_ports(&mut self, why: &'static str) {
        self.ports_unknown = Some(why);
    }

    /// Adds what the section `[hardening]` names beyond all this.
    pub fn extend(&mut self, hardening: &Hardening) {
        hardening.read.iter().for_each(|path| self.read_folder(path));
        hardening.write.iter().for_each(|path| self.write_folder(path));
    }

    /// Refuses secrets that a credential could be mistaken for: a credential is known by the name of the
    /// file alone.
    pub fn check_credentials(&self) -> Result<(), AmbiguousCredential> {
        let Some(dir) = credentials_dir() else { return Ok(()) };
        match self.ambiguous().into_iter().find(|found| dir.join(&found.name).exists()) {
            Some(found) => Err(found),
            None => Ok(()),
        }
    }

    /// Files with secrets that have the same name, in different folders.
    fn ambiguous(&self) -> Vec<AmbiguousCredential> {
        let mut by_name: BTreeMap<String, Vec<PathBuf>> = BTreeMap::new();
        for path in &self.secrets {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            by_name.entry(name).or_default().push(path.clone());
        }
        let several = by_name.into_iter().filter(|(_, paths)| paths.len() > 1);
        several
            .map(|(name, mut paths)| {
                let second = paths.swap_remove(1);
                AmbiguousCredential { name, first: paths.swap_remove(0), second }
            })
            .collect()
    }
}

/// Two secrets that one credential would stand for.
#[derive(Debug, thiserror::Error)]
#[error(
    "the credential {name} could be {first} or {second}\n  try: give one of the two files another name"
)]
pub struct AmbiguousCredential {
    name: String,
    first: PathBuf,
    second: PathBuf,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_of_one_name_are_told_apart_or_refused() {
        let mut reach = Reach::new(
            Path::new("/etc/p/low.toml"),
            Path::new("/var/lib/p"),
            Path::new("/etc/p/k"),
        );
        reach.secret(Path::new("/etc/p/a/token"));
        reach.secret(Path::new("/etc/p/a/token"));
        reach.secret(Path::new("/etc/p/b/key"));
        assert!(reach.ambiguous().is_empty());
        reach.secret(Path::new("/etc/p/b/token"));
        let text = reach.ambiguous()[0].to_string();
        assert!(text.contains("/etc/p/a/token or /etc/p/b/token"), "{text}");
        // Without a service manager there is no credential that could be mistaken.
        assert!(reach.check_credentials().is_ok());
    }
}
