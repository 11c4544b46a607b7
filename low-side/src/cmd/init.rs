//! `init`, `public` and `pair`: keys and the exchange of their public halves.

use std::path::{Path, PathBuf};

use shared::durable;
use shared::exit;
use shared::keys::{
    IDENTITY_FILE, Identities, KeyError, PublicHalf, RECEIPT_KEY_FILE, Side, SigningKey, Trust,
    Validity, generate_identity, receipt_key,
};

use super::{Failure, put};
use crate::config::{Config, SAMPLE};
use crate::site::{self, NAME_FILE};

/// Makes key and configuration, without replacing either, and prints the public half.
pub(super) fn init(
    config: &Path,
    name: &str,
    dir: Option<&Path>,
    hybrid: bool,
) -> Result<(), Failure> {
    // The name takes the form of an origin, so that it can stand in a file name.
    name.parse::<shared::record::OriginId>().map_err(|err| Failure::new(exit::USAGE, err))?;
    let make = |dir: &Path| durable::create_dir(dir).map_err(|err| io(dir, &err));
    let config = dir.map_or_else(|| config.to_owned(), |dir| dir.join("low.toml"));
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
    for dir in [&state_dir, &keys_dir, &inbox] {
        make(dir)?;
    }
    if !config.exists() {
        let text = sample_for(&state_dir, &keys_dir, &inbox);
        durable::write(&config, text.as_bytes(), 0o644).map_err(|err| io(&config, &err))?;
        tell!("wrote {}", config.display());
    }
    let key = keys_dir.join(IDENTITY_FILE);
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
    tell!("next: take this text to the high side: penstock-high pair FILE");
    Ok(())
}

/// Prints the public half again.
pub(super) fn public(config: &Config) -> Result<(), Failure> {
    print_halves(&config.keys_dir, false)
}

/// Adds a trusted signer.
pub(super) fn pair(config: &Config, file: &Path) -> Result<(), Failure> {
    let half = PublicHalf::load(file)?;
    if half.side == Side::Low {
        let text = format!(
            "{} is the public half of a low side\n  try: the text that penstock-high init printed",
            file.display()
        );
        return Err(Failure::new(exit::CONFIG, text));
    }
    let new = Trust::add(&config.keys_dir, &half, Validity::default())?;
    let what = if new { "bundles are believed from" } else { "was paired already:" };
    tell!("{what} {}", half.name);
    tell!("fingerprint {}", half.fingerprint());
    tell!("next: read it aloud to the high side; they see theirs with: penstock-high public");
    tell!("a running agent takes it up at: systemctl reload penstock-low (SIGHUP)");
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
