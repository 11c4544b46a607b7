//! `init`, `public` and `pair`: keys and the exchange of their public halves.

use std::path::{Path, PathBuf};
use std::str::FromStr;

use shared::durable;
use shared::exit;
use shared::keys::{
    IDENTITY_FILE, Identities, KeyError, PublicHalf, PublicKey, RECEIPT_KEY_FILE, Side, SigningKey,
    Trust, Validity, generate_identity, receipt_key,
};

use super::{Failure, put};
use crate::config::{Config, SAMPLE};
use crate::site::{self, NAME_FILE};

/// The service of this side.
const SERVICE: &str = "penstock-low";

/// What the command line asks of `init`.
pub(super) struct Asked<'a> {
    pub(super) name: Option<&'a str>,
    pub(super) dir: Option<&'a Path>,
    pub(super) hybrid: bool,
    pub(super) sinks: &'a [Place],
    pub(super) pair: Option<&'a Path>,
    pub(super) start: bool,
}

/// A destination for the new configuration that needs nothing but its place. What the place may be, the
/// configuration says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// A folder for files of events.
    File(String),
    /// A receiver of syslog, by `transport`.
    Syslog {
        /// `tcp` or `relp`.
        transport: String,
        /// HOST:PORT.
        address: String,
    },
}

impl FromStr for Place {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if let Some(path) = text.strip_prefix("file:") {
            return Ok(Self::File(path.strip_prefix("//").unwrap_or(path).to_owned()));
        }
        match text.split_once("://") {
            Some((transport @ ("tcp" | "relp"), address)) => {
                Ok(Self::Syslog { transport: transport.to_owned(), address: address.to_owned() })
            }
            _ => Err(
                "is file:/FOLDER, tcp://HOST:PORT or relp://HOST:PORT; other destinations, and \
                TLS, need more than a place: add a [[sink]] to the configuration",
            ),
        }
    }
}

impl Place {
    /// As it stands in the configuration, under a name that no other has.
    fn section(&self, number: usize) -> String {
        let name =
            |base: &str| if number == 1 { base.to_owned() } else { format!("{base}-{number}") };
        match self {
            Self::File(path) => {
                format!(
                    "\n[[sink]]\nname = {:?}\ntype = \"file\"\npath = {path:?}\n",
                    name("events")
                )
            }
            Self::Syslog { transport, address } => format!(
                "\n[[sink]]\nname = {:?}\ntype = \"syslog\"\ntransport = {transport:?}\naddress = {address:?}\n",
                name("siem")
            ),
        }
    }
}

/// Makes key and configuration, without replacing either, and prints the public half.
pub(super) fn init(config: &Path, asked: &Asked<'_>) -> Result<(), Failure> {
    let Asked { name, dir, hybrid, sinks, pair, start } = *asked;
    // The name takes the form of an origin, so that it can stand in a file name.
    if let Some(name) = name {
        name.parse::<shared::record::OriginId>().map_err(|err| Failure::new(exit::USAGE, err))?;
    }
    // Looked at before anything is made.
    let half = pair.map(read_half).transpose()?;
    let make = |dir: &Path| durable::create_dir(dir).map_err(|err| io(dir, &err));
    let config = dir.map_or_else(|| config.to_owned(), |dir| dir.join("low.toml"));
    if config.exists() && !sinks.is_empty() {
        let text = format!(
            "{} exists and stays as it is\n  try: add a [[sink]] to it, and leave --sink out",
            config.display()
        );
        return Err(Failure::new(exit::CONFIG, text));
    }
    let (state_dir, keys_dir, inbox) = match dir {
        Some(dir) => {
            make(dir)?;
            let dir = dir.canonicalize().map_err(|err| io(dir, &err))?;
            (dir.join("state"), dir.join("keys"), dir.join("inbox"))
        }
        None if config.exists() => {
            let config = Config::load(&config)?;
            (config.state_dir, config.keys_dir, config.inbox.path)
        }
        None => (
            PathBuf::from("/var/lib/penstock-low"),
            PathBuf::from("/etc/penstock/low-keys"),
            PathBuf::from("/var/spool/penstock/inbox"),
        ),
    };
    let mut text = sample_for(&state_dir, &keys_dir, &inbox);
    text.extend(sinks.iter().zip(1..).map(|(sink, number)| sink.section(number)));
    Config::from_text(&text, &config)?;
    for dir in [&state_dir, &keys_dir, &inbox] {
        make(dir)?;
    }
    if !config.exists() {
        durable::write(&config, text.as_bytes(), 0o644).map_err(|err| io(&config, &err))?;
        tell!("wrote {}", config.display());
    }
    let key = keys_dir.join(IDENTITY_FILE);
    // A new key of a side that has one goes on as that side: under its name, and of the same kind, since a high
    // side encrypts to keys of one kind alone.
    let name = &name.map_or_else(|| site::name(&keys_dir), ToOwned::to_owned);
    let hybrid = hybrid || is_hybrid(&keys_dir)?;
    match generate_identity(&key, name, hybrid) {
        Ok(_) => {
            let file = keys_dir.join(NAME_FILE);
            durable::write(&file, name.as_bytes(), 0o644).map_err(|err| io(&file, &err))?;
        }
        Err(KeyError::Exists { .. }) => {
            tell!("{} exists already and stays as it is", key.display());
        }
        Err(err) => return Err(err.into()),
    }
    print_halves(&keys_dir, true)?;
    if let Some(high) = half {
        add(&keys_dir, &high)?;
    }
    tell!("next: take this text to the high side: penstock-high pair FILE");
    start_if(start)
}

/// Whether the keys that are there resist quantum computers.
fn is_hybrid(keys_dir: &Path) -> Result<bool, Failure> {
    let entries = std::fs::read_dir(keys_dir).map_err(|err| io(keys_dir, &err))?;
    let mut names = entries.flatten().map(|entry| entry.file_name());
    let any = names.any(|name| {
        let name = name.to_string_lossy();
        name.starts_with("identity") && name.ends_with(".key")
    });
    // Where there is none, to load the folder is an error.
    let halves = any.then(|| Identities::load_dir(keys_dir)).transpose()?;
    let halves = halves.map(|identities| identities.public_halves("low", None));
    Ok(halves.iter().flatten().any(|half| matches!(half.key, PublicKey::Hybrid(_))))
}

/// Prints the public half again.
pub(super) fn public(config: &Config) -> Result<(), Failure> {
    print_halves(&config.keys_dir, false)
}

/// Adds a trusted signer.
pub(super) fn pair(config: &Config, file: &Path, start: bool) -> Result<(), Failure> {
    add(&config.keys_dir, &read_half(file)?)?;
    if !start {
        tell!("a running agent takes it up at: systemctl reload penstock-low (SIGHUP)");
    }
    start_if(start)
}

fn start_if(start: bool) -> Result<(), Failure> {
    if start {
        let outcome =
            shared::service::start(SERVICE).map_err(|err| Failure::new(exit::FAILED, err))?;
        tell!("{outcome}");
    }
    Ok(())
}

fn read_half(file: &Path) -> Result<PublicHalf, Failure> {
    let half = PublicHalf::load(file)?;
    if half.side == Side::Low {
        let text = format!(
            "{} is the public half of a low side\n  try: the text that penstock-high init printed",
            file.display()
        );
        return Err(Failure::new(exit::CONFIG, text));
    }
    Ok(half)
}

fn add(keys_dir: &Path, half: &PublicHalf) -> Result<(), Failure> {
    let new = Trust::add(keys_dir, half, Validity::default())?;
    let what = if new { "bundles are believed from" } else { "was paired already:" };
    tell!("{what} {}", half.name);
    tell!("fingerprint {}", half.fingerprint());
    tell!("next: read it aloud to the high side; they see theirs with: penstock-high public");
    Ok(())
}

/// The key that signs for this side. An installation of an older version gets one now, and is told.
pub(super) fn signing_key(keys_dir: &Path) -> Result<SigningKey, Failure> {
    let (key, made) = receipt_key(keys_dir)?;
    if made {
        tell!("made {}, which signs receipts", keys_dir.join(RECEIPT_KEY_FILE).display());
        tell!(
            "next: take the text of penstock-low public to the high side: penstock-high pair FILE"
        );
    }
    Ok(key)
}

fn print_halves(keys_dir: &Path, quietly: bool) -> Result<(), Failure> {
    let name = site::name(keys_dir);
    let identities = Identities::load_dir(keys_dir)?;
    let signer = if quietly { receipt_key(keys_dir)?.0 } else { signing_key(keys_dir)? };
    let halves = identities.public_halves(&name, Some(&signer));
    for half in &halves {
        tell!("fingerprint {}", half.fingerprint());
    }
    // One half is a file for the other side; of several, the current one comes first.
    if halves.len() > 1 {
        tell!("note: there are {} keys; each text below is a file of its own", halves.len());
    }
    put(&halves.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))
}

fn sample_for(state_dir: &Path, keys_dir: &Path, inbox: &Path) -> String {
    let quoted = |path: &Path| format!("{:?}", path.display().to_string());
    SAMPLE
        .replace("\"/var/lib/penstock-low\"", &quoted(state_dir))
        .replace("\"/etc/penstock/low-keys\"", &quoted(keys_dir))
        .replace("\"/var/spool/penstock/inbox\"", &quoted(inbox))
}

fn io(path: &Path, err: &std::io::Error) -> Failure {
    Failure::new(exit::IO, format!("{}: {err}", path.display()))
}
