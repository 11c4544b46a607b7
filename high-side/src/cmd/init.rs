//! `init`, `public` and `pair`: keys and the exchange of their public halves.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::Context;
use shared::keys::{
    KeyError, PublicHalf, Recipients, SIGNING_KEY_FILE, SigningKey, StatementSigners,
    generate_signing_key,
};
use shared::record::OriginId;

use super::Failure;
use crate::config::{Config, SAMPLE};

/// Makes key and configuration, without replacing either, and prints the public half.
pub(super) fn init(config: &Path, origin: Option<&str>, dir: Option<&Path>) -> Result<(), Failure> {
    let origin =
        origin.map(str::parse::<OriginId>).transpose().map_err(|err| Failure::usage(&err))?;
    let path = dir.map_or_else(|| config.to_owned(), |dir| dir.join("high.toml"));
    let (origin, state_dir, keys_dir) = if path.exists() {
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
        let (state_dir, keys_dir) = write_config(&path, &origin, dir)?;
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
    tell!("next: take this text to the low side: penstock-low pair FILE");
    Ok(())
}

/// Writes the sample with this installation's name and folders; gives the latter.
fn write_config(
    path: &Path,
    origin: &OriginId,
    dir: Option<&Path>,
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
    let (state_dir, keys_dir) = match dir {
        Some(dir) => {
            let dir = dir.canonicalize().with_context(|| dir.display().to_string())?;
            (dir.join("state"), dir.join("keys"))
        }
        None => (PathBuf::from("/var/lib/penstock-high"), PathBuf::from("/etc/penstock/high-keys")),
    };
    let text = sample_for(origin, &state_dir, &keys_dir);
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
pub(super) fn pair(config: &Config, file: &Path) -> Result<(), Failure> {
    let half = PublicHalf::load(file)?;
    if half.side == shared::keys::Side::High {
        return Err(Failure::config(format!(
            "{} is the public half of a high side\n  try: the text that penstock-low init printed",
            file.display()
        )));
    }
    // What is there and what is added must be able to receive together.
    let mut halves = match Recipients::load(&config.keys_dir) {
        Ok(known) => known.halves().to_vec(),
        Err(KeyError::NoRecipient { .. }) => Vec::new(),
        Err(err) => return Err(err.into()),
    };
    halves.push(half.clone());
    if let Err(Some(problem)) = Recipients::new(halves) {
        return Err(Failure::config(format!("{}: together with it {problem}", file.display())));
    }
    let new = Recipients::add(&config.keys_dir, &half)?;
    let signer_new = StatementSigners::add(&config.keys_dir, &half)?;
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
    tell!("a running agent takes it up at: systemctl reload penstock-high (SIGHUP)");
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
