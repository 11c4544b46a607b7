//! `init`, `public` and `pair`: keys and the exchange of their public halves.

use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use anyhow::Context;
use shared::config::Span;
use shared::keys::{
    KeyError, PublicHalf, Recipients, SIGNING_KEY_FILE, SigningKey, StatementSigners,
    generate_signing_key,
};
use shared::record::OriginId;

use super::Failure;
use crate::config::{Config, SAMPLE};

/// The service of this side.
const SERVICE: &str = "penstock-high";

/// What the command line asks of `init`.
pub(super) struct Asked<'a> {
    pub(super) origin: Option<&'a str>,
    pub(super) dir: Option<&'a Path>,
    pub(super) listen: &'a [Listen],
    pub(super) budget: Option<Span>,
    pub(super) pair: Option<&'a Path>,
    pub(super) start: bool,
}

/// A socket for the new configuration: `PROTOCOL://ADDRESS`. What either may be, the configuration says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listen {
    protocol: String,
    bind: SocketAddr,
}

impl FromStr for Listen {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (protocol, bind) =
            text.split_once("://").ok_or("is PROTOCOL://ADDRESS:PORT, as tcp://0.0.0.0:5514")?;
        let plain = |byte: u8| byte.is_ascii_lowercase() || byte == b'-';
        if protocol.is_empty() || !protocol.bytes().all(plain) {
            return Err(format!("{protocol:?} is no protocol; try tcp, udp or relp"));
        }
        let bind = bind.parse().map_err(|_| {
            format!("{bind:?} is no address with a port, as 0.0.0.0:5514 or [::]:5514")
        })?;
        Ok(Self { protocol: protocol.to_owned(), bind })
    }
}

impl Listen {
    /// As it stands in the configuration.
    fn section(&self) -> String {
        let Self { protocol, bind } = self;
        let port = bind.port();
        format!(
            "\n[[listener]]\nname = \"{protocol}-{port}\"\nprotocol = \"{protocol}\"\nbind = \"{bind}\"\n"
        )
    }
}

/// Makes key and configuration, without replacing either, and prints the public half.
pub(super) fn init(config: &Path, asked: &Asked<'_>) -> Result<(), Failure> {
    let Asked { origin, dir, listen, budget, pair, start } = *asked;
    let origin =
        origin.map(str::parse::<OriginId>).transpose().map_err(|err| Failure::usage(&err))?;
    let path = dir.map_or_else(|| config.to_owned(), |dir| dir.join("high.toml"));
    // Looked at before anything is made.
    let half_of_low = pair.map(read_half).transpose()?;
    let (origin, state_dir, keys_dir) = if path.exists() {
        for (asked, key, option) in [
            (!listen.is_empty(), "a [[listener]]", "--listen"),
            (budget.is_some(), "seal.latency-budget and seal.flash-budget", "--budget"),
        ] {
            if asked {
                return Err(Failure::config(format!(
                    "{} exists and stays as it is\n  try: {key} in it, and leave {option} out",
                    path.display()
                )));
            }
        }
        let config = Config::load(&path)?;
        if let Some(origin) = origin.filter(|origin| *origin != config.origin) {
            return Err(Failure::config(format!(
                "{} says origin {}, not {origin}\n  try: without --origin, or with another --dir",
                path.display(),
                config.origin
            )));
        }
        (config.origin, config.state_dir, config.keys_dir)
    } else {
        let Some(origin) = origin else {
            return Err(Failure::usage(&"a new installation needs a name\n  try: --origin NAME"));
        };
        let (state_dir, keys_dir) = write_config(&path, &origin, asked)?;
        (origin, state_dir, keys_dir)
    };
    for dir in [&state_dir, &keys_dir] {
        shared::durable::create_dir(dir)
            .with_context(|| format!("can't make {}", dir.display()))?;
    }
    let key = keys_dir.join(SIGNING_KEY_FILE);
    let half = match generate_signing_key(&key) {
        Ok(key) => key.public_half(origin.as_str()),
        Err(KeyError::Exists { .. }) => {
            tell!("{} exists already and stays as it is", key.display());
            SigningKey::load(&key)?.public_half(origin.as_str())
        }
        Err(err) => return Err(err.into()),
    };
    print_half(&half);
    if let Some(low) = half_of_low {
        add(&keys_dir, &low)?;
    }
    tell!("next: take this text to the low side: penstock-low pair FILE");
    start_if(start)
}

/// Writes the sample with this installation's name and folders; gives the latter.
fn write_config(
    path: &Path,
    origin: &OriginId,
    asked: &Asked<'_>,
) -> Result<(PathBuf, PathBuf), Failure> {
    let above = path.parent().filter(|above| !above.as_os_str().is_empty());
    let above = above.unwrap_or(Path::new("."));
    if !above.is_dir() {
        shared::durable::create_dir(above)
            .with_context(|| format!("can't make {}", above.display()))?;
        // The agent's own user reads the configuration; nothing in it is secret.
        std::fs::set_permissions(above, std::fs::Permissions::from_mode(0o755))
            .with_context(|| above.display().to_string())?;
    }
    let (state_dir, keys_dir) = match asked.dir {
        Some(dir) => {
            let dir = dir.canonicalize().with_context(|| dir.display().to_string())?;
            (dir.join("state"), dir.join("keys"))
        }
        None => (PathBuf::from("/var/lib/penstock-high"), PathBuf::from("/etc/penstock/high-keys")),
    };
    let mut text = sample_for(origin, &state_dir, &keys_dir);
    if let Some(budget) = asked.budget {
        text = text
            .replace("\nlatency-budget = \"24h\"\n", &format!("\nlatency-budget = \"{budget}\"\n"))
            .replace("\nflash-budget = \"1s\"\n", &format!("\nflash-budget = \"{budget}\"\n"));
    }
    text.extend(asked.listen.iter().map(Listen::section));
    Config::from_text(&text, path)?;
    shared::durable::write(path, text.as_bytes(), 0o644)
        .with_context(|| format!("can't write {}", path.display()))?;
    tell!("wrote {}", path.display());
    Ok((state_dir, keys_dir))
}

/// Prints the public half again.
pub(super) fn public(config: &Config) -> Result<(), Failure> {
    let key = SigningKey::load(&config.keys_dir.join(SIGNING_KEY_FILE))?;
    print_half(&key.public_half(config.origin.as_str()));
    Ok(())
}

/// Adds a recipient.
pub(super) fn pair(config: &Config, file: &Path, start: bool) -> Result<(), Failure> {
    add(&config.keys_dir, &read_half(file)?)?;
    if !start {
        tell!("a running agent takes it up at: systemctl reload penstock-high (SIGHUP)");
    }
    start_if(start)
}

fn start_if(start: bool) -> Result<(), Failure> {
    if start {
        let outcome = shared::service::start(SERVICE).map_err(Failure::new)?;
        tell!("{outcome}");
    }
    Ok(())
}

fn read_half(file: &Path) -> Result<PublicHalf, Failure> {
    let half = PublicHalf::load(file)?;
    if half.side == shared::keys::Side::High {
        return Err(Failure::config(format!(
            "{} is the public half of a high side\n  try: the text that penstock-low init printed",
            file.display()
        )));
    }
    Ok(half)
}

fn add(keys_dir: &Path, half: &PublicHalf) -> Result<(), Failure> {
    // What is there and what is added must be able to receive together.
    let mut halves = match Recipients::load(keys_dir) {
        Ok(known) => known.halves().to_vec(),
        Err(KeyError::NoRecipient { .. }) => Vec::new(),
        Err(err) => return Err(err.into()),
    };
    halves.push(half.clone());
    if let Err(Some(problem)) = Recipients::new(halves) {
        return Err(Failure::config(format!("{}: together with it {problem}", half.name)));
    }
    let new = Recipients::add(keys_dir, half)?;
    let signer_new = StatementSigners::add(keys_dir, half)?;
    let what = if new { "bundles are encrypted to" } else { "was paired already:" };
    tell!("{what} {}", half.name);
    if signer_new {
        tell!("receipts are believed from {}", half.name);
    } else if half.signer.is_none() {
        tell!(
            "note: it holds no key for receipts; a newer penstock-low public prints one that does"
        );
    }
    tell!("fingerprint {}", half.fingerprint());
    tell!("next: read it aloud to the low side; they see theirs with: penstock-low public");
    Ok(())
}

fn print_half(half: &PublicHalf) {
    say!("{}", half.to_string().trim_end());
    tell!("fingerprint {}", half.fingerprint());
}

fn sample_for(origin: &OriginId, state_dir: &Path, keys_dir: &Path) -> String {
    SAMPLE
        .replace("origin = \"my-site\"", &format!("origin = \"{origin}\""))
        .replace("\"/var/lib/penstock-high\"", &format!("{:?}", state_dir.display().to_string()))
        .replace("\"/etc/penstock/high-keys\"", &format!("{:?}", keys_dir.display().to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_budget_holds_for_both_lanes_of_the_new_configuration() {
        let dir = tempfile::tempdir().unwrap();
        let budget = Some(Span::secs(36 * 3600));
        let mut asked = Asked {
            origin: Some("plant-7"),
            dir: Some(dir.path()),
            listen: &[],
            budget,
            pair: None,
            start: false,
        };
        init(Path::new("unused.toml"), &asked).unwrap();
        let config = Config::load(&dir.path().join("high.toml")).unwrap();
        let seal = config.seal;
        assert_eq!((Some(seal.latency_budget), Some(seal.flash_budget)), (budget, budget));
        // What stands there stays as it is.
        let refused = init(Path::new("unused.toml"), &asked).err().unwrap();
        assert!(refused.to_string().contains("--budget"), "{refused}");
        asked.budget = None;
        init(Path::new("unused.toml"), &asked).unwrap();
    }
}
