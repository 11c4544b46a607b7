//! Officers: people who look at what a bundle holds and let it leave.
//!
//! An officer has two keys of their own, which no agent ever holds: an Ed25519 key that signs
//! releases, and an age identity that decrypts the summaries that releases are decided on.
//!
//! ```text
//! officer  DIR/officer.key    OpenSSH private key, Ed25519, mode 0600
//! officer  DIR/officer.age    age identity, mode 0600
//! officer  DIR/officer.pub    the public half: one line
//! high     KEYS/officers/NAME.pub
//! low      KEYS/allowed_signers, in the namespace of releases
//! ```
//!
//! With a passphrase the two secret files are age files themselves, which `age -d` opens.

use std::fmt;
use std::io::{Read, Write};
use std::path::Path;
use std::str::FromStr;

use age::secrecy::{ExposeSecret, SecretString};
use sha2::{Digest, Sha256};
use ssh_key::private::{Ed25519Keypair, KeypairData};
use ssh_key::{HashAlg, LineEnding, PrivateKey, PublicKey};
use zeroize::Zeroizing;

use super::{KeyError, load_public, load_secret, public, store_new_secret};
use crate::bundle::{ReleaseSignature, ReleaseStatement};
use crate::record::OriginId;

/// The SSHSIG namespace of a release.
pub const RELEASE_NAMESPACE: &str = "penstock-release@v1";
/// The folder with the officers' public halves on the high side.
pub const OFFICERS_DIR: &str = "officers";
/// The file name of an officer's signing key.
pub const OFFICER_SIGNING_FILE: &str = "officer.key";
/// The file name of an officer's age identity.
pub const OFFICER_IDENTITY_FILE: &str = "officer.age";
/// The file name of an officer's public half.
pub const OFFICER_PUBLIC_FILE: &str = "officer.pub";

/// More officers than this make no sense, and every summary is encrypted to each of them.
const OFFICERS_MAX: usize = 15;

/// What an officer gives to both sides: a name, the key that verifies releases, and the key that
/// summaries are encrypted to.
#[derive(Clone, Debug)]
pub struct OfficerHalf {
    name: String,
    key: PublicKey,
    recipient: age::x25519::Recipient,
}

impl OfficerHalf {
    /// Reads a public half from a file and checks its fingerprint.
    pub fn load(path: &Path) -> Result<Self, KeyError> {
        load_public(path)?.parse().map_err(|problem: &str| KeyError::malformed(path, problem))
    }

    /// The officer's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The signing key's fingerprint, as `ssh-keygen -l` prints it.
    pub fn key_fingerprint(&self) -> String {
        self.key.fingerprint(HashAlg::Sha256).to_string()
    }

    /// Eight groups of five digits (132 bits) for people to compare.
    pub fn fingerprint(&self) -> String {
        public::fingerprint_of(&self.begin())
    }

    pub(crate) fn key(&self) -> &PublicKey {
        &self.key
    }

    /// The key as `allowed_signers` has it.
    #[cfg(feature = "open")]
    pub(crate) fn key_text(&self) -> String {
        self.key.to_openssh().unwrap_or_default()
    }

    fn begin(&self) -> String {
        let key = self.key.to_openssh().unwrap_or_default();
        format!("{PUBLIC_BEGIN} {} {key} {}", self.name, self.recipient)
    }
}

impl fmt::Display for OfficerHalf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.begin(), self.fingerprint().replace(' ', "-"))
    }
}

impl FromStr for OfficerHalf {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let words: Vec<&str> = text.split_ascii_whitespace().collect();
        let [PUBLIC_BEGIN, name, kind, key, recipient, fingerprint] = words[..] else {
            return Err(
                "is no public half of an officer: one line that begins with \"penstock-officer-1\"",
            );
        };
        // The rule for origins keeps a name safe as a file name and in allowed_signers.
        name.parse::<OriginId>().map_err(|_| "gives a name that is not allowed")?;
        let key = PublicKey::from_openssh(&format!("{kind} {key}"))
            .map_err(|_| "holds no signing key that can be used")?;
        key.key_data().ed25519().ok_or("its signing key is no Ed25519 key")?;
        let recipient = recipient.parse().map_err(|_| "holds no age recipient")?;
        let half = Self { name: name.to_owned(), key, recipient };
        if half.fingerprint().replace(' ', "-") != fingerprint {
            return Err("the fingerprint does not fit the keys: the file was changed or damaged");
        }
        Ok(half)
    }
}

/// An officer's own keys.
pub struct OfficerKey {
    half: OfficerHalf,
    signing: PrivateKey,
    identity: age::x25519::Identity,
}

impl fmt::Debug for OfficerKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "OfficerKey({})", self.half.name)
    }
}

impl OfficerKey {
    /// Makes keys for a new officer and stores them in a folder; never replaces any. With a
    /// passphrase the secret files are encrypted by it.
    pub fn generate(
        dir: &Path,
        name: &str,
        passphrase: Option<&SecretString>,
    ) -> Result<Self, KeyError> {
        let malformed = |problem: &dyn fmt::Display| KeyError::malformed(dir, problem.to_string());
        name.parse::<OriginId>().map_err(|err| malformed(&err))?;
        let keypair = Ed25519Keypair::random(&mut rand_core::OsRng);
        let signing =
            PrivateKey::new(KeypairData::Ed25519(keypair), "").map_err(|err| malformed(&err))?;
        let identity = age::x25519::Identity::generate();
        let half = OfficerHalf {
            name: name.to_owned(),
            key: PublicKey::new(signing.public_key().key_data().clone(), ""),
            recipient: identity.to_public(),
        };
        crate::durable::create_dir(dir).map_err(KeyError::io(dir))?;
        for file in [OFFICER_SIGNING_FILE, OFFICER_IDENTITY_FILE, OFFICER_PUBLIC_FILE] {
            let path = dir.join(file);
            if path.symlink_metadata().is_ok() {
                return Err(KeyError::Exists { path });
            }
        }
        let signing_text = signing.to_openssh(LineEnding::LF).map_err(|err| malformed(&err))?;
        let identity_text = Zeroizing::new(format!(
            "# public key: {}\n{}\n",
            half.recipient,
            identity.to_string().expose_secret()
        ));
        for (file, text) in
            [(OFFICER_SIGNING_FILE, &signing_text), (OFFICER_IDENTITY_FILE, &identity_text)]
        {
            let path = dir.join(file);
            match passphrase {
                None => store_new_secret(&path, text)?,
                Some(passphrase) => {
                    let locked = lock(text, passphrase)
                        .map_err(|err| KeyError::malformed(&path, err.to_string()))?;
                    store_new_secret(&path, &locked)?;
                }
            }
        }
        let path = dir.join(OFFICER_PUBLIC_FILE);
        crate::durable::write(&path, format!("{half}\n").as_bytes(), 0o644)
            .map_err(KeyError::io(&path))?;
        Ok(Self { half, signing, identity })
    }

    /// Loads an officer's keys from their folder. `passphrase` is asked only where they are protected
    /// by one.
    pub fn load(
        dir: &Path,
        passphrase: impl FnOnce() -> std::io::Result<SecretString>,
    ) -> Result<Self, KeyError> {
        let half = OfficerHalf::load(&dir.join(OFFICER_PUBLIC_FILE))?;
        let [signing_path, identity_path] =
            [OFFICER_SIGNING_FILE, OFFICER_IDENTITY_FILE].map(|file| dir.join(file));
        let mut signing_text = load_secret(&signing_path)?;
        let mut identity_text = load_secret(&identity_path)?;
        if is_locked(&signing_text) || is_locked(&identity_text) {
            let passphrase = passphrase().map_err(KeyError::io(dir))?;
            for (path, text) in
                [(&signing_path, &mut signing_text), (&identity_path, &mut identity_text)]
            {
                if is_locked(text) {
                    *text = unlock(text, &passphrase).ok_or_else(|| {
                        KeyError::malformed(path, "does not open with this passphrase")
                    })?;
                }
            }
        }
        let signing = PrivateKey::from_openssh(signing_text.as_bytes())
            .map_err(|_| KeyError::malformed(&signing_path, "is no OpenSSH private key"))?;
        if !matches!(signing.key_data(), KeypairData::Ed25519(_)) {
            let problem = "is no Ed25519 key, or is protected in a way that this program can't open\n  try: a passphrase given to penstock-high officer init";
            return Err(KeyError::malformed(&signing_path, problem));
        }
        let line = identity_text.lines().find(|line| !line.is_empty() && !line.starts_with('#'));
        let identity: age::x25519::Identity = line
            .and_then(|line| line.trim().parse().ok())
            .ok_or_else(|| KeyError::malformed(&identity_path, "is no age identity"))?;
        let ours = signing.public_key().key_data() == half.key.key_data()
            && identity.to_public().to_string() == half.recipient.to_string();
        if !ours {
            let problem = "is not the public half of the keys beside it";
            return Err(KeyError::malformed(&dir.join(OFFICER_PUBLIC_FILE), problem));
        }
        Ok(Self { half, signing, identity })
    }

    /// The half that both sides need.
    pub fn public_half(&self) -> &OfficerHalf {
        &self.half
    }

    /// Decrypts a summary; `None` where it is not for this officer, or was damaged.
    pub fn decrypt(&self, bytes: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
        let decryptor = age::Decryptor::new_buffered(bytes).ok()?;
        let identity: &dyn age::Identity = &self.identity;
        let reader = decryptor.decrypt(std::iter::once(identity)).ok()?;
        let mut plain = Zeroizing::new(Vec::with_capacity(bytes.len()));
        reader.take(bytes.len() as u64 + 1).read_to_end(&mut plain).ok()?;
        Some(plain)
    }

    /// Signs a release.
    pub fn sign(&self, statement: &ReleaseStatement) -> Result<ReleaseSignature, KeyError> {
        let path = Path::new(OFFICER_SIGNING_FILE);
        let malformed = |err: &dyn fmt::Display| KeyError::malformed(path, err.to_string());
        let armored = self
            .signing
            .sign(RELEASE_NAMESPACE, HashAlg::Sha512, statement.encode().as_bytes())
            .and_then(|signature| signature.to_pem(LineEnding::LF))
            .map_err(|err| malformed(&err))?;
        ReleaseSignature::new(&armored, statement).map_err(|err| malformed(&err))
    }
}

/// The officers that a high side knows.
#[derive(Clone, Debug, Default)]
pub struct Officers(Vec<OfficerHalf>);

impl Officers {
    /// Loads every `*.pub` in the officers' folder, by name. There may be none.
    pub fn load(keys_dir: &Path) -> Result<Self, KeyError> {
        let dir = keys_dir.join(OFFICERS_DIR);
        let entries = match std::fs::read_dir(&dir) {
            Ok(entries) => entries.collect::<Result<Vec<_>, _>>().map_err(KeyError::io(&dir))?,
            Err(err) if err.kind() == std::io::ErrorKind::NotFound => Vec::new(),
            Err(err) => return Err(KeyError::io(&dir)(err)),
        };
        let mut halves: Vec<OfficerHalf> = Vec::new();
        for path in entries.iter().map(std::fs::DirEntry::path) {
            if path.extension().is_some_and(|extension| extension == "pub") {
                let half = OfficerHalf::load(&path)?;
                let twice = halves.iter().any(|known| {
                    known.name == half.name || known.key.key_data() == half.key.key_data()
                });
                if twice {
                    return Err(KeyError::malformed(
                        &path,
                        "is of an officer who stands here twice",
                    ));
                }
                halves.push(half);
            }
        }
        if halves.len() > OFFICERS_MAX {
            return Err(KeyError::malformed(&dir, "holds more than 15 officers"));
        }
        halves.sort_by(|one, other| one.name.cmp(&other.name));
        Ok(Self(halves))
    }

    /// Stores an officer's public half; returns false when it was there already.
    pub fn add(keys_dir: &Path, half: &OfficerHalf) -> Result<bool, KeyError> {
        let dir = keys_dir.join(OFFICERS_DIR);
        let path = dir.join(format!("{}.pub", half.name));
        let known = Self::load(keys_dir)?;
        if known.0.iter().any(|known| known.to_string() == half.to_string()) {
            return Ok(false);
        }
        let clash = |known: &&OfficerHalf| {
            known.name == half.name || known.key.key_data() == half.key.key_data()
        };
        if let Some(other) = known.0.iter().find(clash) {
            let problem = format!(
                "an officer of this name or with this key is known already: {}\n  try: penstock-high officer remove {}, if that one is to go",
                other.name, other.name
            );
            return Err(KeyError::malformed(&path, problem));
        }
        if known.0.len() == OFFICERS_MAX {
            return Err(KeyError::malformed(&dir, "holds 15 officers, and may hold no more"));
        }
        crate::durable::create_dir(&dir).map_err(KeyError::io(&dir))?;
        crate::durable::write(&path, format!("{half}\n").as_bytes(), 0o644)
            .map_err(KeyError::io(&path))?;
        Ok(true)
    }

    /// Forgets an officer; returns false when there was none of this name.
    pub fn remove(keys_dir: &Path, name: &str) -> Result<bool, KeyError> {
        let known = Self::load(keys_dir)?;
        if !known.0.iter().any(|half| half.name == name) {
            return Ok(false);
        }
        let dir = keys_dir.join(OFFICERS_DIR);
        for entry in std::fs::read_dir(&dir).map_err(KeyError::io(&dir))? {
            let path = entry.map_err(KeyError::io(&dir))?.path();
            let is_pub = path.extension().is_some_and(|extension| extension == "pub");
            if is_pub && OfficerHalf::load(&path)?.name == name {
                crate::durable::remove(&path).map_err(KeyError::io(&path))?;
            }
        }
        Ok(true)
    }

    /// The officers, by name.
    pub fn halves(&self) -> &[OfficerHalf] {
        &self.0
    }

    /// The officer whose key made a signature.
    pub fn signer(&self, signature: &ReleaseSignature) -> Option<&OfficerHalf> {
        self.0.iter().find(|half| half.key().key_data() == signature.key().key_data())
    }

    /// Encrypts a summary to every officer.
    pub fn encrypt(&self, plain: &[u8]) -> Result<Vec<u8>, age::EncryptError> {
        let recipients = self.0.iter().map(|half| &half.recipient as &dyn age::Recipient);
        let encryptor = age::Encryptor::with_recipients(recipients)?;
        encrypt_by(encryptor, plain)
    }
}

fn encrypt_by(encryptor: age::Encryptor, plain: &[u8]) -> Result<Vec<u8>, age::EncryptError> {
    let mut out = Vec::new();
    let mut writer = encryptor.wrap_output(&mut out)?;
    writer.write_all(plain)?;
    writer.finish()?;
    Ok(out)
}

/// Encrypts a secret text by a passphrase, as armored text.
fn lock(text: &str, passphrase: &SecretString) -> Result<String, age::EncryptError> {
    let encryptor = age::Encryptor::with_user_passphrase(passphrase.clone());
    let bytes = encrypt_by(encryptor, text.as_bytes())?;
    Ok(armor(&bytes))
}

fn unlock(text: &str, passphrase: &SecretString) -> Option<Zeroizing<String>> {
    let bytes = unarmor(text)?;
    let mut identity = age::scrypt::Identity::new(passphrase.clone());
    identity.set_max_work_factor(SCRYPT_WORK_MAX);
    let identity: &dyn age::Identity = &identity;
    let decryptor = age::Decryptor::new_buffered(bytes.as_slice()).ok()?;
    let mut plain = Zeroizing::new(String::with_capacity(text.len()));
    decryptor.decrypt(std::iter::once(identity)).ok()?.read_to_string(&mut plain).ok()?;
    Some(plain)
}

fn is_locked(text: &str) -> bool {
    text.starts_with(ARMOR_BEGIN)
}

/// The armor of age files (C2SP age.md): base64 in lines of 64.
fn armor(bytes: &[u8]) -> String {
    use base64::Engine as _;
    let text = base64::engine::general_purpose::STANDARD.encode(bytes);
    let mut out = format!("{ARMOR_BEGIN}\n");
    for line in text.as_bytes().chunks(64) {
        out.extend(line.iter().map(|byte| char::from(*byte)));
        out.push('\n');
    }
    out + ARMOR_END + "\n"
}

fn unarmor(text: &str) -> Option<Vec<u8>> {
    use base64::Engine as _;
    let body = text.trim().strip_prefix(ARMOR_BEGIN)?.strip_suffix(ARMOR_END)?;
    let body: String = body.split_ascii_whitespace().collect();
    base64::engine::general_purpose::STANDARD.decode(body).ok()
}

/// The SHA-256 that stands for a summary in the high side's database: who reads it there knows no
/// more about the summary's own SHA-256, which has to be signed.
pub fn summary_commitment(summary: &[u8; 32]) -> [u8; 32] {
    Sha256::new()
        .chain_update("penstock review summary v1\n")
        .chain_update(summary)
        .finalize()
        .into()
}

const PUBLIC_BEGIN: &str = "penstock-officer-1";
const ARMOR_BEGIN: &str = "-----BEGIN AGE ENCRYPTED FILE-----";
const ARMOR_END: &str = "-----END AGE ENCRYPTED FILE-----";
/// The hardest scrypt that is worked on, as a power of two: some ten seconds. age itself chooses what
/// takes one.
const SCRYPT_WORK_MAX: u8 = 22;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bundle::BundleDigest;

    fn never() -> std::io::Result<SecretString> {
        panic!("asked for a passphrase")
    }

    fn statement() -> ReleaseStatement {
        ReleaseStatement { bundle: BundleDigest::of(b"b"), summary: BundleDigest::of(b"s") }
    }

    #[test]
    fn keys_are_made_once_and_only_their_owner_can_read_them() {
        let dir = tempfile::tempdir().unwrap();
        let made = OfficerKey::generate(dir.path(), "alice", None).unwrap();
        let again = OfficerKey::generate(dir.path(), "alice", None).unwrap_err();
        assert!(matches!(again, KeyError::Exists { .. }), "{again}");
        let loaded = OfficerKey::load(dir.path(), never).unwrap();
        assert_eq!(loaded.public_half().to_string(), made.public_half().to_string());
        for file in [OFFICER_SIGNING_FILE, OFFICER_IDENTITY_FILE] {
            use std::os::unix::fs::PermissionsExt;
            let path = dir.path().join(file);
            let permissions = std::fs::metadata(&path).unwrap().permissions();
            assert_eq!(permissions.mode() & 0o777, 0o600, "{file}");
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
            assert!(matches!(
                OfficerKey::load(dir.path(), never).unwrap_err(),
                KeyError::Exposed { .. }
            ));
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        }
        let other = tempfile::tempdir().unwrap();
        OfficerKey::generate(other.path(), "bob", None).unwrap();
        std::fs::copy(other.path().join(OFFICER_PUBLIC_FILE), dir.path().join(OFFICER_PUBLIC_FILE))
            .unwrap();
        let message = OfficerKey::load(dir.path(), never).unwrap_err().to_string();
        assert!(message.contains("is not the public half"), "{message}");
    }

    #[test]
    fn a_passphrase_protects_both_keys() {
        let dir = tempfile::tempdir().unwrap();
        let secret = |text: &str| SecretString::from(text.to_owned());
        OfficerKey::generate(dir.path(), "alice", Some(&secret("open sesame"))).unwrap();
        for file in [OFFICER_SIGNING_FILE, OFFICER_IDENTITY_FILE] {
            let text = std::fs::read_to_string(dir.path().join(file)).unwrap();
            assert!(text.starts_with(ARMOR_BEGIN) && text.ends_with("FILE-----\n"), "{text}");
            assert!(!text.contains("OPENSSH") && !text.contains("AGE-SECRET"), "{text}");
        }
        let key = OfficerKey::load(dir.path(), || Ok(secret("open sesame"))).unwrap();
        key.sign(&statement()).unwrap();
        let wrong = OfficerKey::load(dir.path(), || Ok(secret("guess"))).unwrap_err().to_string();
        assert!(wrong.contains("passphrase"), "{wrong}");
    }

    #[test]
    fn a_public_half_is_one_line_that_can_not_be_changed_unnoticed() {
        let dir = tempfile::tempdir().unwrap();
        let key = OfficerKey::generate(dir.path(), "alice", None).unwrap();
        let line = key.public_half().to_string();
        assert!(!line.contains('\n'));
        assert_eq!(line.parse::<OfficerHalf>().unwrap().to_string(), line);
        for (from, to) in [
            ("alice", "mallory"),
            ("penstock-officer-1", "penstock-officer-2"),
            ("ssh-ed25519", "ssh-rsa"),
            (" age1", " age1q"),
            (" alice ", " ../alice "),
        ] {
            assert!(line.replacen(from, to, 1).parse::<OfficerHalf>().is_err(), "{from}");
        }
        assert!(format!("{line} more").parse::<OfficerHalf>().is_err());
        assert!("".parse::<OfficerHalf>().is_err());
    }

    #[test]
    fn only_officers_decrypt_and_their_signatures_are_told_apart() {
        let dir = tempfile::tempdir().unwrap();
        let keys = dir.path().join("keys");
        let officer =
            |name: &str| OfficerKey::generate(&dir.path().join(name), name, None).unwrap();
        let (alice, bob, carol) = (officer("alice"), officer("bob"), officer("carol"));
        assert!(Officers::load(&keys).unwrap().halves().is_empty());
        assert!(Officers::add(&keys, alice.public_half()).unwrap());
        assert!(Officers::add(&keys, bob.public_half()).unwrap());
        assert!(!Officers::add(&keys, bob.public_half()).unwrap());
        let impostor = OfficerKey::generate(&dir.path().join("other"), "bob", None).unwrap();
        let message = Officers::add(&keys, impostor.public_half()).unwrap_err().to_string();
        assert!(message.contains("known already"), "{message}");

        let officers = Officers::load(&keys).unwrap();
        let names: Vec<_> = officers.halves().iter().map(OfficerHalf::name).collect();
        assert_eq!(names, ["alice", "bob"]);
        let locked = officers.encrypt(b"what is inside").unwrap();
        for (key, expected) in [(&alice, true), (&bob, true), (&carol, false), (&impostor, false)] {
            let plain = key.decrypt(&locked);
            assert_eq!(plain.is_some_and(|plain| *plain == b"what is inside"), expected, "{key:?}");
        }
        let mut damaged = locked.clone();
        *damaged.last_mut().unwrap() ^= 1;
        assert!(alice.decrypt(&damaged).is_none());
        assert!(alice.decrypt(b"").is_none());

        let signed = bob.sign(&statement()).unwrap();
        assert_eq!(officers.signer(&signed).unwrap().name(), "bob");
        assert!(officers.signer(&carol.sign(&statement()).unwrap()).is_none());
        assert!(Officers::remove(&keys, "bob").unwrap());
        assert!(!Officers::remove(&keys, "bob").unwrap());
        assert!(Officers::load(&keys).unwrap().signer(&signed).is_none());
    }
}
