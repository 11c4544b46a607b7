//! The fence from outside: a drop-in for the agent's unit, made of what the configuration names
//! (systemd.exec(5), systemd.resource-control(5)).

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::io;
use std::net::{IpAddr, ToSocketAddrs as _};
use std::path::{Path, PathBuf};

use super::{AmbiguousCredential, Reach, Transport};

/// What the configuration does not say.
pub struct Asked<'a> {
    /// The program, which is also the name of its unit.
    pub program: &'a str,
    /// The configuration.
    pub config: &'a Path,
    /// Addresses or networks from which the sockets are spoken to, as `IPAddressAllow` takes them.
    pub sources: &'a [String],
    /// Whether names are replaced by the addresses that they have now.
    pub pin_names: bool,
    /// Whether secrets are handed over as credentials.
    pub credentials: bool,
    /// The addresses of a name.
    pub resolve: &'a dyn Fn(&str) -> io::Result<Vec<IpAddr>>,
    /// Who is asked for names.
    pub name_servers: &'a [IpAddr],
}

impl std::fmt::Debug for Asked<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Asked({})", self.program)
    }
}

/// Why no drop-in can be made.
#[derive(Debug, thiserror::Error)]
pub enum DropInError {
    /// One credential would stand for two secrets.
    #[error(transparent)]
    Ambiguous(#[from] AmbiguousCredential),
    /// A folder that the unit hides from its service.
    #[error(
        "{0}: the unit hides home folders from its service (ProtectHome=yes)\n  try: a folder below /var/lib, /srv or /etc/penstock"
    )]
    Home(PathBuf),
    /// Nothing says who may speak to the sockets.
    #[error(
        "the configuration does not say from where these are spoken to: {0}\n  try: --sources 10.20.0.0/24 for each network, or --sources any"
    )]
    NoSources(String),
    /// Something that is no address and no network.
    #[error("--sources {0:?}: is an address, ADDRESS/BITS, localhost or any")]
    Source(String),
    /// A path that a unit can't name.
    #[error("{0:?}: a unit can't name a path with line breaks or, for a credential, blanks")]
    Path(PathBuf),
    /// A name without an address.
    #[error("{host} ({what}): {source}\n  try: without --pin-names, or the address itself")]
    Resolve {
        /// The name.
        host: String,
        /// The section that names it.
        what: String,
        /// Why.
        source: io::Error,
    },
}

/// The addresses that a name has now.
pub fn resolve(host: &str) -> io::Result<Vec<IpAddr>> {
    Ok((host, 0).to_socket_addrs()?.map(|address| address.ip()).collect())
}

/// The name servers of this machine; none where none are told.
pub fn name_servers() -> Vec<IpAddr> {
    let text = std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    let servers = text.lines().filter_map(|line| line.strip_prefix("nameserver "));
    servers.filter_map(|server| server.trim().parse().ok()).collect()
}

/// The text of the drop-in.
pub fn drop_in(reach: &Reach, asked: &Asked<'_>) -> Result<String, DropInError> {
    let network = network(reach, asked)?;
    let folders = folders(reach, asked.program)?;
    let credentials = if asked.credentials { credentials(reach)? } else { String::new() };
    let program = asked.program;
    let mut text = format!(
        "# What {program} reaches by {}, and nothing else. Make it again when that file changes:\n\
         #   {program} setup systemd ... > /etc/systemd/system/{program}.service.d/reach.conf\n\
         #   systemctl daemon-reload && systemctl restart {program}\n",
        asked.config.display()
    );
    if !folders.is_empty() {
        text.push_str("[Unit]\n");
        for folder in &folders {
            let _ = writeln!(text, "RequiresMountsFor={folder}");
        }
    }
    text.push_str("[Service]\n");
    for folder in &folders {
        // One that is missing is told of by the agent, and keeps nothing else from running.
        let _ = writeln!(text, "ReadWritePaths=-{folder}");
    }
    text.push_str(&credentials);
    text.push_str(&network);
    text.push_str(&sockets(reach));
    Ok(text)
}

/// The folders that the unit must give, beyond the one it gives by itself (`StateDirectory`).
fn folders(reach: &Reach, program: &str) -> Result<Vec<String>, DropInError> {
    let usual = Path::new("/var/lib").join(program);
    let state = (!reach.state.starts_with(usual)).then_some(&reach.state);
    let all: BTreeSet<_> = state.into_iter().chain(&reach.folders_written).collect();
    let read = [&reach.keys].into_iter().chain(&reach.folders_read);
    if let Some(path) = all.iter().copied().chain(read).find(|path| is_home(path)) {
        return Err(DropInError::Home(path.clone()));
    }
    all.into_iter().map(|path| quoted(path)).collect()
}

/// Whether a unit with `ProtectHome=yes` has an empty folder there.
fn is_home(path: &Path) -> bool {
    ["/home", "/root", "/run/user"].iter().any(|home| path.starts_with(home))
}

/// A path as a unit takes it: quoted where it has blanks, and without specifiers.
fn quoted(path: &Path) -> Result<String, DropInError> {
    let bad = || DropInError::Path(path.to_owned());
    let text = path.to_str().filter(|text| !text.contains(char::is_control)).ok_or_else(bad)?;
    let text = text.replace('%', "%%");
    if text.contains([' ', '"', '\'', '\\', ';']) {
        return Ok(format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\"")));
    }
    Ok(text)
}

fn credentials(reach: &Reach) -> Result<String, DropInError> {
    if let Some(ambiguous) = reach.ambiguous().into_iter().next() {
        return Err(ambiguous.into());
    }
    let mut text = String::from(
        "# Copied when the service starts: root may own these files alone, and a changed one needs a restart.\n",
    );
    for path in &reach.secrets {
        let name = path.file_name().and_then(|name| name.to_str());
        let name = name.ok_or_else(|| DropInError::Path(path.clone()))?;
        let quoted = quoted(path)?;
        if quoted.starts_with('"') || name.contains([':', ' ']) {
            return Err(DropInError::Path(path.clone()));
        }
        let _ = writeln!(text, "LoadCredential={}:{quoted}", name.replace('%', "%%"));
    }
    Ok(text)
}

fn network(reach: &Reach, asked: &Asked<'_>) -> Result<String, DropInError> {
    let mut text = String::new();
    let mut allowed = BTreeSet::new();
    let mut free = None;
    let heard: Vec<_> = reach
        .listens
        .iter()
        .filter(|listens| !listens.address.ip().is_loopback())
        .map(|listens| listens.what.as_str())
        .collect();
    if reach.listens.iter().any(|listens| listens.address.ip().is_loopback()) {
        allowed.insert("localhost".to_owned());
    }
    if !heard.is_empty() {
        if asked.sources.is_empty() {
            return Err(DropInError::NoSources(heard.join(", ")));
        }
        for source in asked.sources {
            if source == "any" {
                free = Some("--sources any".to_owned());
            } else if source == "localhost" || is_network(source) {
                allowed.insert(source.clone());
            } else {
                return Err(DropInError::Source(source.clone()));
            }
        }
    }
    let mut named = false;
    for speaks in &reach.speaks {
        let host = &speaks.host;
        if let Ok(address) = host.parse::<IpAddr>() {
            allowed.insert(shown(address));
        } else if host == "localhost" {
            allowed.insert(host.clone());
        } else if asked.pin_names {
            let resolved = (asked.resolve)(host).map_err(|source| DropInError::Resolve {
                host: host.clone(),
                what: speaks.what.clone(),
                source,
            })?;
            let _ = writeln!(text, "# {host}, {}: as it resolves now.", speaks.what);
            allowed.extend(resolved.into_iter().map(shown));
            named = true;
        } else {
            free = Some(format!(
                "{host}, {}, is a name whose addresses may change; --pin-names takes those of now",
                speaks.what
            ));
        }
    }
    if let Some(why) = free.or_else(|| reach.ports_unknown.map(ToOwned::to_owned)) {
        // What the unit itself says is taken back.
        let _ = writeln!(text, "# No filter of addresses: {why}.\nIPAddressDeny=\nIPAddressAllow=");
        return Ok(text);
    }
    if named {
        text.push_str("# And who is asked for names.\n");
        allowed.extend(asked.name_servers.iter().copied().map(shown));
    }
    // The empty one takes back what the unit itself allows.
    text.push_str("IPAddressDeny=any\nIPAddressAllow=\n");
    for address in allowed {
        let _ = writeln!(text, "IPAddressAllow={address}");
    }
    Ok(text)
}

fn shown(address: IpAddr) -> String {
    if address.is_loopback() { "localhost".to_owned() } else { address.to_string() }
}

fn is_network(text: &str) -> bool {
    let (address, bits) = text.split_once('/').unwrap_or((text, "0"));
    let bits_max = match address.parse::<IpAddr>() {
        Ok(IpAddr::V4(_)) => 32,
        Ok(IpAddr::V6(_)) => 128,
        Err(_) => return false,
    };
    bits.parse::<u8>().is_ok_and(|bits| bits <= bits_max)
}

/// The ports that are listened on; a socket that only sends datagrams asks for any.
fn sockets(reach: &Reach) -> String {
    let family = |address: IpAddr| if address.is_ipv4() { "ipv4" } else { "ipv6" };
    let mut allowed = BTreeSet::new();
    for listens in &reach.listens {
        let transport = match listens.transport {
            Transport::Tcp => "tcp",
            Transport::Udp => "udp",
        };
        let (family, port) = (family(listens.address.ip()), listens.address.port());
        // Port 0 is whatever the kernel gives.
        let port = if port == 0 { String::new() } else { format!(":{port}") };
        allowed.insert(format!("{family}:{transport}{port}"));
        // One socket takes both families.
        if listens.address.ip().is_unspecified() && listens.address.is_ipv6() {
            allowed.insert(format!("ipv4:{transport}{port}"));
        }
    }
    if reach.speaks.iter().any(|speaks| speaks.transport == Transport::Udp) {
        allowed.extend(["ipv4:udp".to_owned(), "ipv6:udp".to_owned()]);
    }
    let mut text = String::from("SocketBindDeny=any\n");
    for socket in allowed {
        let _ = writeln!(text, "SocketBindAllow={socket}");
    }
    if reach.listens.iter().any(|listens| (1..1024).contains(&listens.address.port())) {
        text.push_str(
            "# For ports below 1024; a capability counts for the network only in its own user namespace.\n\
             AmbientCapabilities=CAP_NET_BIND_SERVICE\nCapabilityBoundingSet=CAP_NET_BIND_SERVICE\nPrivateUsers=no\n",
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAME_SERVERS: [IpAddr; 1] = [IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 53))];

    fn asked<'a>(
        sources: &'a [String],
        resolve: &'a dyn Fn(&str) -> io::Result<Vec<IpAddr>>,
    ) -> Asked<'a> {
        Asked {
            program: "penstock-high",
            config: Path::new("/etc/penstock/high.toml"),
            sources,
            pin_names: false,
            credentials: true,
            resolve,
            name_servers: &NAME_SERVERS,
        }
    }

    fn reach() -> Reach {
        let at = |path: &'static str| Path::new(path);
        let mut reach = Reach::new(
            at("/etc/penstock/high.toml"),
            at("/var/lib/penstock-high"),
            at("/etc/penstock/high-keys"),
        );
        reach.secret(at("/etc/penstock/high-keys/signing.key"));
        reach.write_folder(at("/mnt/the stick/50%"));
        reach.write_folder(at("/var/lib/penstock-high/outbox"));
        reach.listen("listener.a", Transport::Udp, "0.0.0.0:514".parse().unwrap());
        reach.listen("listener.b", Transport::Tcp, "[::]:6514".parse().unwrap());
        reach.speak("carrier.d", Transport::Udp, "192.0.2.2", 5555);
        reach
    }

    #[test]
    fn a_drop_in_names_what_is_reached_and_nothing_else() {
        let none = |_: &str| Ok(Vec::new());
        let sources = ["10.20.0.0/24".to_owned()];
        let text = drop_in(&reach(), &asked(&sources, &none)).unwrap();
        for line in [
            "RequiresMountsFor=\"/mnt/the stick/50%%\"",
            "ReadWritePaths=-\"/mnt/the stick/50%%\"",
            "LoadCredential=signing.key:/etc/penstock/high-keys/signing.key",
            "IPAddressDeny=any",
            "IPAddressAllow=10.20.0.0/24",
            "IPAddressAllow=192.0.2.2",
            "SocketBindDeny=any",
            "SocketBindAllow=ipv4:udp:514",
            "SocketBindAllow=ipv6:tcp:6514",
            "SocketBindAllow=ipv4:tcp:6514",
            "SocketBindAllow=ipv4:udp",
            "AmbientCapabilities=CAP_NET_BIND_SERVICE",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is missing from\n{text}");
        }
        assert!(!text.contains("outbox") && !text.contains("/var/lib"), "{text}");
    }

    #[test]
    fn a_state_folder_elsewhere_is_given_and_a_home_is_refused() {
        let none = |_: &str| Ok(Vec::new());
        let state = |state: &str, keys: &str| {
            let reach = Reach::new(Path::new("/etc/p.toml"), Path::new(state), Path::new(keys));
            drop_in(&reach, &asked(&[], &none)).unwrap_or_else(|err| err.to_string())
        };
        let text = state("/srv/pst", "/etc/penstock/high-keys");
        assert!(text.contains("RequiresMountsFor=/srv/pst\n"), "{text}");
        assert!(text.contains("ReadWritePaths=-/srv/pst\n"), "{text}");
        for (state_dir, keys_dir) in [("/home/p/state", "/etc/k"), ("/srv/p", "/home/p/keys")] {
            let text = state(state_dir, keys_dir);
            assert!(text.contains("ProtectHome=yes"), "{text}");
        }
    }

    #[test]
    fn what_the_configuration_does_not_say_is_asked_for() {
        let none = |_: &str| Err(io::Error::other("no such name"));
        let said = |reach: &Reach, sources: &[String], pin_names| {
            let asked = Asked { pin_names, ..asked(sources, &none) };
            drop_in(reach, &asked).unwrap_or_else(|err| err.to_string())
        };
        let sources = ["10.20.0.0/24".to_owned()];
        let text = said(&reach(), &[], false);
        assert!(text.contains("listener.a, listener.b") && text.contains("--sources"), "{text}");
        for wrong in ["10.20.0.0/33", "example.org", "10.0.0.1\nExecStart=/bin/sh"] {
            let text = said(&reach(), &[wrong.to_owned()], false);
            assert!(text.starts_with("--sources"), "{text}");
        }
        let mut named = reach();
        named.speak_to("carrier.t", Transport::Tcp, "relay.example:601");
        let text = said(&named, &sources, false);
        assert!(text.contains("# No filter of addresses: relay.example, carrier.t"), "{text}");
        assert!(text.contains("\nIPAddressDeny=\nIPAddressAllow=\nSocket"), "{text}");
        assert!(said(&named, &sources, true).contains("relay.example (carrier.t): no such name"));

        let found = |_: &str| Ok(vec!["198.51.100.7".parse().unwrap()]);
        let pinned = Asked { pin_names: true, ..asked(&sources, &found) };
        let text = drop_in(&named, &pinned).unwrap();
        assert!(text.contains("=198.51.100.7\n") && text.contains("=10.0.0.53\n"), "{text}");

        let mut twice = reach();
        twice.secret(Path::new("/other/signing.key"));
        assert!(said(&twice, &sources, false).contains("one of the two files another name"));
    }
}
