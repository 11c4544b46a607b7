//! `officer`: people's own keys, and who may release here.

use std::io::{self, BufRead, Write};
use std::path::{Path, PathBuf};

use nix::sys::termios::{LocalFlags, SetArg, tcgetattr, tcsetattr};
use serde_json::{Value, json};
use shared::keys::{
    OFFICER_PUBLIC_FILE, OfficerHalf, OfficerKey, Officers, SIGNING_KEY_FILE, SecretString,
    SigningKey, load_secret,
};

use super::Failure;
use crate::config::Config;

/// A passphrase shorter than this is not worth typing.
const PASSPHRASE_CHARS_MIN: usize = 12;

/// Makes an officer's own keys. Needs no configuration: it is done wherever the officer works.
pub(super) fn init(
    name: &str,
    dir: &Path,
    passphrase: bool,
    passphrase_file: Option<&Path>,
) -> Result<(), Failure> {
    name.parse::<shared::record::OriginId>().map_err(|err| Failure::usage(&err))?;
    let secret = match passphrase_file {
        Some(file) => Some(passphrase_from(file)?),
        None if passphrase => Some(new_passphrase()?),
        None => None,
    };
    let key = OfficerKey::generate(dir, name, secret.as_ref())?;
    let half = key.public_half();
    say!("{half}");
    tell!("fingerprint {}", half.fingerprint());
    tell!("keys in {}; keep them to yourself", dir.display());
    if secret.is_none() {
        tell!("note: they are not protected by a passphrase; whoever reads the files can release");
    }
    tell!(
        "next: give {} to the administrators of both sides, and read them the fingerprint",
        dir.join(OFFICER_PUBLIC_FILE).display()
    );
    Ok(())
}

pub(super) fn add(config: &Config, file: &Path) -> Result<(), Failure> {
    let half = OfficerHalf::load(file)?;
    // Where the agent's key can't be read, the low side still refuses to believe in both.
    if let Ok(agent) = SigningKey::load(&config.keys_dir.join(SIGNING_KEY_FILE))
        && agent.fingerprint() == half.key_fingerprint()
    {
        return Err(Failure::config(format!(
            "{}: this key signs bundles here: who seals must not release\n  try: penstock-high officer init, for keys of the officer's own",
            file.display()
        )));
    }
    let new = Officers::add(&config.keys_dir, &half)?;
    let what = if new { "may release from now on:" } else { "was an officer already:" };
    tell!("{what} {}", half.name());
    tell!("fingerprint {}", half.fingerprint());
    tell!("next: compare it with the officer; on the low side: penstock-low officer add FILE");
    tell!("a running agent takes it up at: systemctl reload penstock-high (SIGHUP)");
    if new {
        tell!("note: bundles that wait already can't be decrypted by a new officer");
    }
    Ok(())
}

pub(super) fn list(config: &Config, as_json: bool) -> Result<(), Failure> {
    let officers = Officers::load(&config.keys_dir)?;
    if as_json {
        let list: Vec<Value> = officers.halves().iter().map(to_json).collect();
        say!("{}", json!({ "officers": list, "required": config.release.required }));
        return Ok(());
    }
    for half in officers.halves() {
        say!("{:<32} {}  {}", half.name(), half.key_fingerprint(), half.fingerprint());
    }
    tell!("{} officer(s); a release takes {}", officers.halves().len(), config.release.required);
    Ok(())
}

fn to_json(half: &OfficerHalf) -> Value {
    json!({ "name": half.name(), "key": half.key_fingerprint(), "fingerprint": half.fingerprint() })
}

pub(super) fn remove(config: &Config, name: &str) -> Result<(), Failure> {
    if !Officers::remove(&config.keys_dir, name)? {
        return Err(Failure::new(format!(
            "there is no officer {name:?}\n  try: penstock-high officer list"
        )));
    }
    tell!(
        "{name} may not release any more; what {name} signed and is not released yet does not count"
    );
    tell!("next: on the low side: penstock-low officer revoke {name}");
    tell!("a running agent takes it up at: systemctl reload penstock-high (SIGHUP)");
    Ok(())
}

/// Loads an officer's keys, asking for the passphrase if they have one.
pub(super) fn load_key(dir: &Path, passphrase_file: Option<&Path>) -> Result<OfficerKey, Failure> {
    let ask = || match passphrase_file {
        Some(file) => passphrase_from(file).map_err(io::Error::other),
        None => ask_passphrase("passphrase of the officer's keys: "),
    };
    Ok(OfficerKey::load(dir, ask)?)
}

fn passphrase_from(file: &Path) -> Result<SecretString, shared::keys::KeyError> {
    let text = load_secret(file)?;
    Ok(SecretString::from(text.lines().next().unwrap_or_default().to_owned()))
}

fn new_passphrase() -> Result<SecretString, Failure> {
    use shared::keys::ExposeSecret as _;
    let ask = |prompt| ask_passphrase(prompt).map_err(|err| Failure::usage(&err));
    let secret = ask("new passphrase: ")?;
    if secret.expose_secret().chars().count() < PASSPHRASE_CHARS_MIN {
        return Err(Failure::usage(&format!(
            "a passphrase has at least {PASSPHRASE_CHARS_MIN} characters"
        )));
    }
    if ask("the same again: ")?.expose_secret() != secret.expose_secret() {
        return Err(Failure::usage(&"the two differ; nothing was made"));
    }
    Ok(secret)
}

/// Asks at the terminal, without showing what is typed.
fn ask_passphrase(prompt: &str) -> io::Result<SecretString> {
    let path = PathBuf::from("/dev/tty");
    let mut terminal =
        std::fs::OpenOptions::new().read(true).write(true).open(path).map_err(|_| {
            io::Error::other(
                "a passphrase is needed and there is no terminal to ask for it\n  try: --passphrase-file FILE",
            )
        })?;
    let before = tcgetattr(&terminal)?;
    let mut quiet = before.clone();
    quiet.local_flags.remove(LocalFlags::ECHO);
    terminal.write_all(prompt.as_bytes())?;
    tcsetattr(&terminal, SetArg::TCSAFLUSH, &quiet)?;
    let mut line = String::with_capacity(1024);
    let read = io::BufReader::with_capacity(1024, &terminal).read_line(&mut line);
    tcsetattr(&terminal, SetArg::TCSAFLUSH, &before)?;
    terminal.write_all(b"\n")?;
    read?;
    line.truncate(line.trim_end_matches(['\r', '\n']).len());
    Ok(SecretString::from(line))
}
