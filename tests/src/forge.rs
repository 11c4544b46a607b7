//! A second writer of bundles, made from FORMAT.md alone, that can break exactly one rule.
//!
//! It shares no code with `shared::bundle::seal`: the tar blocks, the header's text, the SSHSIG, the
//! manifest and the records are put together by hand. Each layer can be edited, and everything
//! around it is then made honestly: digests, lengths, the age header's MAC and the signature fit
//! what was edited, so that the edit is the only defect.
//!
//! ```text
//! records ──> manifest ──> plain ──> frame ──> age header, age ──> header ──> signature ──> members ──> file
//! ```

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use age_core::format::{FileKey, Stanza};
use age_core::secrecy::ExposeSecret as _;
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};
use sha2::{Digest, Sha256, Sha512};
use shared::keys::{PublicHalf, PublicKey};

/// A part of a bundle whose bytes an edit replaces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layer {
    /// The encoded records; the manifest then gives their new length.
    Records,
    /// The manifest's text with its empty line.
    Manifest,
    /// Manifest and records together.
    Plain,
    /// The zstd frame.
    Frame,
    /// The age header up to and with the `---`; its MAC is made afterwards.
    AgeHeader,
    /// The whole age file.
    Age,
    /// The plaintext header.
    Header,
    /// The armored signature.
    Signature,
    /// The release statement, before it is signed.
    Release,
    /// The officers' signatures, one behind the other.
    Releases,
    /// The whole file.
    File,
}

/// What makes new bytes of a layer out of the honest ones.
pub type Edit = Box<dyn Fn(Vec<u8>) -> Vec<u8>>;

/// One record to be written.
#[derive(Clone, Debug)]
pub struct Rec {
    /// Its number.
    pub sequence: u64,
    /// Its time of reception.
    pub received: u64,
    /// Its stream's name.
    pub stream: &'static str,
    /// The tokens after the length, as they are written.
    pub tail: &'static str,
    /// Its bytes.
    pub raw: Vec<u8>,
}

/// What is left of a record that a rule suppressed.
#[derive(Clone, Debug)]
pub struct Gone {
    /// Its number.
    pub sequence: u64,
    /// Its time of reception.
    pub received: u64,
    /// Its stream's name.
    pub stream: &'static str,
    /// How many bytes it had.
    pub length: u64,
    /// The rule's name.
    pub rule: &'static str,
}

/// One member of the archive: its block and its content, without padding.
#[derive(Clone, Debug)]
pub struct Member {
    /// The 512 bytes before the content.
    pub block: Vec<u8>,
    /// The content.
    pub content: Vec<u8>,
}

impl Member {
    /// The canonical member (FORMAT.md section 2).
    pub fn new(name: &str, content: Vec<u8>) -> Self {
        let block = block(name, content.len() as u64);
        Self { block, content }
    }

    /// Overwrites part of the block and makes its checksum fit.
    pub fn set(&mut self, at: usize, bytes: &[u8]) {
        self.block[at..at + bytes.len()].copy_from_slice(bytes);
        fit_checksum(&mut self.block);
    }
}

/// The block before a member's content.
pub fn block(name: &str, size: u64) -> Vec<u8> {
    let mut block = vec![0; 512];
    let mut put = |at: usize, bytes: &[u8]| block[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, name.as_bytes());
    put(100, b"0000644\0");
    put(108, b"0000000\0");
    put(116, b"0000000\0");
    put(124, format!("{size:011o}\0").as_bytes());
    put(136, b"00000000000\0");
    put(156, b"0");
    put(257, b"ustar\x0000");
    fit_checksum(&mut block);
    block
}

fn fit_checksum(block: &mut [u8]) {
    block[148..156].fill(b' ');
    let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
    block[148..156].copy_from_slice(format!("{sum:07o}\0").as_bytes());
}

/// Puts members together: content padded to whole blocks, and two blocks of zeros at the end.
pub fn archive(members: &[Member]) -> Vec<u8> {
    let mut out = Vec::new();
    for member in members {
        out.extend_from_slice(&member.block);
        out.extend_from_slice(&member.content);
        out.resize(out.len().next_multiple_of(512), 0);
    }
    out.resize(out.len() + 1024, 0);
    out
}

/// The folder with the test keys.
#[derive(Clone, Debug)]
pub struct Keys(PathBuf);

impl Keys {
    /// The keys in this folder.
    pub fn at(dir: &Path) -> Self {
        Self(dir.to_owned())
    }

    /// A signing key by its file name without extension.
    pub fn signer(&self, name: &str) -> ssh_key::PrivateKey {
        let path = self.0.join(format!("{name}.key"));
        let text = std::fs::read(&path).unwrap_or_else(|err| panic!("{}: {err}", path.display()));
        ssh_key::PrivateKey::from_openssh(text).expect("a test key is an OpenSSH private key")
    }

    /// A public half by its file name without extension.
    pub fn recipient(&self, name: &str) -> PublicKey {
        let path = self.0.join(format!("{name}.pub"));
        let half = PublicHalf::load(&path).unwrap_or_else(|err| panic!("{err}"));
        half.key
    }
}

/// Everything that goes into one bundle.
pub struct Recipe {
    /// The header's `origin`, and so on.
    pub origin: String,
    /// The header's `epoch`.
    pub epoch: u64,
    /// The header's `lane`.
    pub lane: &'static str,
    /// The header's `number`.
    pub number: u64,
    /// The header's `previous`.
    pub previous: String,
    /// Why it was sealed.
    pub reason: &'static str,
    /// The first sequence number it accounts for.
    pub first: u64,
    /// How many numbers it accounts for.
    pub span: u64,
    /// The records.
    pub records: Vec<Rec>,
    /// What rules suppressed, in order.
    pub suppressed: Vec<Gone>,
    /// The manifest's loss lines.
    pub losses: Vec<String>,
    /// Who signs.
    pub signer: ssh_key::PrivateKey,
    /// What the header names as the signer.
    pub signer_name: String,
    /// The signature's namespace.
    pub namespace: &'static str,
    /// The signature's hash: `sha512` or `sha256`.
    pub hash: &'static str,
    /// The SSHSIG's version.
    pub sshsig_version: u32,
    /// The SSHSIG's reserved field.
    pub reserved: Vec<u8>,
    /// Who releases it; without anybody there is no release.
    pub officers: Vec<ssh_key::PrivateKey>,
    /// The namespace of the release's signatures.
    pub release_namespace: &'static str,
    /// How many officers its reader demands.
    pub demand: usize,
    /// Whom it is encrypted to.
    pub recipients: Vec<PublicKey>,
    /// Makes the zstd frame.
    pub compress: fn(&[u8]) -> Vec<u8>,
    /// Changes the archive's members.
    pub members: Option<fn(&mut Vec<Member>)>,
    /// Changes of the layers, in the order of the layers.
    pub edits: Vec<(Layer, Edit)>,
}

impl std::fmt::Debug for Recipe {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Recipe")
            .field("origin", &self.origin)
            .field("number", &self.number)
            .finish_non_exhaustive()
    }
}

impl Recipe {
    /// Three records of two streams, the second bundle of its chain, valid.
    pub fn new(keys: &Keys) -> Self {
        let signer = keys.signer("signing");
        let record = |sequence: u64, stream, tail, raw: &[u8]| Rec {
            sequence,
            received: 1_795_468_000_000_000_000 + sequence,
            stream,
            tail,
            raw: raw.to_vec(),
        };
        Self {
            origin: "plant-7".to_owned(),
            epoch: 1_795_468_219,
            lane: "routine",
            number: 2,
            previous: hex(&Sha256::digest(b"the header of bundle 1")),
            reason: "age",
            first: 11,
            span: 3,
            records: vec![
                record(
                    11,
                    "portainer-auth",
                    "tls 10.0.0.7:41234 tls=CN=edge%201",
                    b"<86>1 2026-11-23T21:10:19Z edge portainer - - - login",
                ),
                record(12, "other", "udp 10.0.0.8:514", b"<13>hello"),
                record(13, "other", "udp 10.0.0.8:514", b"bytes: \x00\x0a\xff"),
            ],
            suppressed: Vec::new(),
            losses: Vec::new(),
            signer_name: fingerprint(&signer),
            signer,
            namespace: "penstock-bundle@v1",
            hash: "sha512",
            sshsig_version: 1,
            reserved: Vec::new(),
            officers: Vec::new(),
            release_namespace: "penstock-release@v1",
            demand: 0,
            recipients: vec![keys.recipient("identity")],
            compress: frame,
            members: None,
            edits: Vec::new(),
        }
    }

    /// Lets another key sign, and the header name it.
    #[must_use]
    pub fn signed_by(mut self, signer: ssh_key::PrivateKey) -> Self {
        self.signer_name = fingerprint(&signer);
        self.signer = signer;
        self
    }

    /// Lets these officers release it.
    #[must_use]
    pub fn released_by(mut self, keys: &Keys, officers: &[&str]) -> Self {
        self.officers = officers.iter().map(|name| keys.signer(name)).collect();
        self
    }

    /// Changes a layer's bytes.
    #[must_use]
    pub fn edit(mut self, layer: Layer, edit: impl Fn(Vec<u8>) -> Vec<u8> + 'static) -> Self {
        self.edits.push((layer, Box::new(edit)));
        self
    }

    /// Replaces the first occurrence of some text in a layer, which must be there.
    #[must_use]
    pub fn replace(self, layer: Layer, from: impl AsRef<[u8]>, to: impl AsRef<[u8]>) -> Self {
        let (from, to) = (from.as_ref().to_vec(), to.as_ref().to_vec());
        self.edit(layer, move |bytes| {
            let at = memchr::memmem::find(&bytes, &from).unwrap_or_else(|| {
                panic!("no {:?} in the layer", String::from_utf8_lossy(&from));
            });
            [&bytes[..at], &to, &bytes[at + from.len()..]].concat()
        })
    }

    /// The encoded records as they will be in the bundle.
    pub fn records_section(&self) -> Vec<u8> {
        let mut out = Vec::new();
        let mut gone = self.suppressed.iter().peekable();
        let mut push_gone = |out: &mut Vec<u8>, before: u64| {
            while let Some(Gone { sequence, received, stream, length, rule }) =
                gone.next_if(|gone| gone.sequence < before)
            {
                let line = format!("s {sequence} {received} {stream} {length} {rule}\n");
                out.extend_from_slice(line.as_bytes());
            }
        };
        for Rec { sequence, received, stream, tail, raw } in &self.records {
            push_gone(&mut out, *sequence);
            let length = raw.len();
            let head = format!("r {sequence} {received} {stream} {length} {tail}\n");
            out.extend_from_slice(head.as_bytes());
            out.extend_from_slice(raw);
            out.push(b'\n');
        }
        push_gone(&mut out, u64::MAX);
        self.apply(Layer::Records, out)
    }

    /// The bundle's bytes.
    pub fn forge(&self) -> Vec<u8> {
        let records = self.records_section();
        let manifest = self.manifest(records.len());
        let plain = self.apply(Layer::Plain, [manifest, records].concat());
        let frame = self.apply(Layer::Frame, (self.compress)(&plain));
        let payload = self.encrypt(&frame);
        let header = self.header(&payload);
        let signature = self.apply(Layer::Signature, self.sign(&header));
        let mut members = vec![
            Member::new("header", header),
            Member::new("header.sig", signature),
            Member::new("payload.age", payload),
        ];
        if !self.officers.is_empty() {
            let (statement, signatures) = self.release(&members[0].content);
            members.insert(2, Member::new("release", statement));
            members.insert(3, Member::new("release.sig", signatures));
        }
        if let Some(change) = self.members {
            change(&mut members);
        }
        self.apply(Layer::File, archive(&members))
    }

    fn apply(&self, layer: Layer, bytes: Vec<u8>) -> Vec<u8> {
        let edits = self.edits.iter().filter(|(of, _)| *of == layer);
        edits.fold(bytes, |bytes, (_, edit)| edit(bytes))
    }

    fn manifest(&self, records_bytes: usize) -> Vec<u8> {
        let times = self.records.iter().map(|record| record.received);
        let times = times.chain(self.suppressed.iter().map(|gone| gone.received));
        let time = |time: Option<u64>| time.map_or("-".to_owned(), |time| time.to_string());
        let mut text = format!(
            "penstock-manifest 1\norigin {}\nepoch {}\nlane {}\nnumber {}\nprevious {}\n\
             agent penstock-forge/1\nsealed-at 1795468300000000000\nreason {}\nrecords {}\n\
             first-sequence {}\nlast-sequence {}\nrecords-bytes {records_bytes}\n\
             oldest-received {}\nnewest-received {}\nchain-before {}\nchain-head {}\n",
            self.origin,
            self.epoch,
            self.lane,
            self.number,
            self.previous,
            self.reason,
            self.records.len(),
            self.first,
            self.first + self.span - 1,
            time(times.clone().min()),
            time(times.max()),
            hex(&Sha256::digest(b"before")),
            hex(&Sha256::digest(b"head")),
        );
        for stream in ["falco", "kube-audit", "other", "portainer-activity", "portainer-auth"] {
            let of_stream = self.records.iter().filter(|record| record.stream == stream);
            let count = of_stream.clone().count();
            let bytes: usize = of_stream.map(|record| record.raw.len()).sum();
            if count > 0 {
                let _ = writeln!(text, "stream {stream} {count} {bytes}");
            }
        }
        let mut sums = std::collections::BTreeMap::new();
        for Gone { stream, length, rule, .. } in &self.suppressed {
            let (count, bytes) = sums.entry((rule, stream)).or_insert((0, 0));
            (*count, *bytes) = (*count + 1, *bytes + length);
        }
        for ((rule, stream), (count, bytes)) in sums {
            let _ = writeln!(text, "suppressed {rule} {stream} {count} {bytes}");
        }
        for loss in &self.losses {
            let _ = writeln!(text, "loss {loss}");
        }
        text.push('\n');
        self.apply(Layer::Manifest, text.into_bytes())
    }

    /// Encrypts with the age library, then edits the age header and makes its MAC fit.
    fn encrypt(&self, frame: &[u8]) -> Vec<u8> {
        let spy = Spy(Mutex::new(None));
        let mut recipients: Vec<Tapped<'_>> = Vec::new();
        for recipient in &self.recipients {
            let recipient: &dyn age::Recipient = match recipient {
                PublicKey::Hybrid(key) => key.as_ref(),
                PublicKey::X25519(key) => key,
                PublicKey::Ed25519(_) => panic!("a signing key can't receive"),
            };
            recipients.push(Tapped(recipient, &spy));
        }
        let recipients = recipients.iter().map(|r| r as &dyn age::Recipient);
        let encryptor = age::Encryptor::with_recipients(recipients).expect("recipients of a kind");
        let mut out = Vec::new();
        let mut writer = encryptor.wrap_output(&mut out).expect("a vector takes it all");
        writer.write_all(frame).expect("a vector takes it all");
        writer.finish().expect("a vector takes it all");

        let dashes = memchr::memmem::find(&out, b"\n--- ").expect("an age header ends") + 4;
        let mac_end = memchr::memchr(b'\n', &out[dashes..]).expect("the MAC's line ends") + dashes;
        let head = self.apply(Layer::AgeHeader, out[..dashes].to_vec());
        let file_key = spy.0.lock().expect("no panic before").take();
        let mac = age_mac(&file_key.expect("every recipient was asked"), &head);
        let mac = STANDARD_NO_PAD.encode(mac);
        let whole = [&head, &b" "[..], mac.as_bytes(), &out[mac_end..]].concat();
        self.apply(Layer::Age, whole)
    }

    fn header(&self, payload: &[u8]) -> Vec<u8> {
        let mut text = format!(
            "penstock-bundle 1\norigin {}\nepoch {}\nlane {}\nnumber {}\nprevious {}\n\
             payload-bytes {:020}\npayload-sha256 {}\nsigner {}\n",
            self.origin,
            self.epoch,
            self.lane,
            self.number,
            self.previous,
            payload.len(),
            hex(&Sha256::digest(payload)),
            self.signer_name,
        );
        let mut names: Vec<String> = self.recipients.iter().map(key_id).collect();
        names.sort();
        for name in names {
            let _ = writeln!(text, "recipient {name}");
        }
        self.apply(Layer::Header, text.into_bytes())
    }

    /// Statement and signatures of a release (FORMAT.md section 4.1).
    fn release(&self, header: &[u8]) -> (Vec<u8>, Vec<u8>) {
        let (bundle, summary) = (Sha256::digest(header), Sha256::digest(b"the summary"));
        let text =
            format!("penstock-release 1\nbundle {}\nsummary {}\n", hex(&bundle), hex(&summary));
        let statement = self.apply(Layer::Release, text.into_bytes());
        let mut officers: Vec<_> = self.officers.iter().collect();
        officers.sort_by_key(|key| fingerprint(key));
        let signatures = officers
            .iter()
            .flat_map(|key| sshsig(key, self.release_namespace, "sha512", 1, &[], &statement));
        let signatures = self.apply(Layer::Releases, signatures.collect());
        (statement, signatures)
    }

    fn sign(&self, message: &[u8]) -> Vec<u8> {
        let Self { signer, namespace, hash, sshsig_version, reserved, .. } = self;
        sshsig(signer, namespace, hash, *sshsig_version, reserved, message)
    }
}

/// An armored SSHSIG (OpenSSH PROTOCOL.sshsig).
fn sshsig(
    signer: &ssh_key::PrivateKey,
    namespace: &str,
    hash: &str,
    version: u32,
    reserved: &[u8],
    message: &[u8],
) -> Vec<u8> {
    let digest = match hash {
        "sha256" => Sha256::digest(message).to_vec(),
        _ => Sha512::digest(message).to_vec(),
    };
    let common = |out: &mut Vec<u8>| {
        push_string(out, namespace.as_bytes());
        push_string(out, reserved);
        push_string(out, hash.as_bytes());
    };
    let mut covered = b"SSHSIG".to_vec();
    common(&mut covered);
    push_string(&mut covered, &digest);
    let mut signature = Vec::new();
    push_string(&mut signature, b"ssh-ed25519");
    push_string(&mut signature, &raw_signature(signer, &covered));

    let mut blob = b"SSHSIG".to_vec();
    blob.extend_from_slice(&version.to_be_bytes());
    let public = signer.public_key().to_bytes();
    push_string(&mut blob, &public.expect("an Ed25519 key encodes"));
    common(&mut blob);
    push_string(&mut blob, &signature);
    armor(&blob, 70)
}

/// The armor of an SSHSIG, with lines of this many characters.
pub fn armor(blob: &[u8], line_chars: usize) -> Vec<u8> {
    let mut out = b"-----BEGIN SSH SIGNATURE-----\n".to_vec();
    for line in STANDARD.encode(blob).as_bytes().chunks(line_chars) {
        out.extend_from_slice(line);
        out.push(b'\n');
    }
    out.extend_from_slice(b"-----END SSH SIGNATURE-----\n");
    out
}

fn push_string(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend_from_slice(&(bytes.len() as u32).to_be_bytes());
    out.extend_from_slice(bytes);
}

fn raw_signature(key: &impl ssh_key::SigningKey, message: &[u8]) -> Vec<u8> {
    let signature = key.try_sign(message).expect("an Ed25519 key signs");
    signature.as_bytes().to_vec()
}

/// A key's fingerprint as `ssh-keygen -l` prints it.
pub fn fingerprint(key: &ssh_key::PrivateKey) -> String {
    let blob = key.public_key().to_bytes().expect("an Ed25519 key encodes");
    format!("SHA256:{}", STANDARD_NO_PAD.encode(Sha256::digest(blob)))
}

/// A recipient's name in a header.
pub fn key_id(key: &PublicKey) -> String {
    let text = key.to_string();
    let kind = if text.starts_with("age1pq1") { "mlkem768x25519" } else { "x25519" };
    format!("{kind}:{}", hex(&Sha256::digest(text)[..8]))
}

/// Lower-case hexadecimal digits.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// The honest frame: content size, no checksum, no dictionary.
pub fn frame(plain: &[u8]) -> Vec<u8> {
    let mut encoder = zstd::Encoder::new(Vec::new(), 3).expect("level 3 exists");
    encoder.set_pledged_src_size(Some(plain.len() as u64)).expect("nothing was written yet");
    encoder.write_all(plain).expect("a vector takes it all");
    encoder.finish().expect("a vector takes it all")
}

/// A zstd frame put together by hand from raw blocks (RFC 8878 section 3.1.1): `head` is everything
/// between the magic number and the blocks.
pub fn raw_frame(head: &[u8], plain: &[u8]) -> Vec<u8> {
    let mut out = [&0xFD2F_B528_u32.to_le_bytes()[..], head].concat();
    let blocks = plain.chunks(65536).count();
    for (at, block) in plain.chunks(65536).enumerate() {
        let last = u32::from(at + 1 == blocks);
        out.extend_from_slice(&((block.len() as u32) << 3 | last).to_le_bytes()[..3]);
        out.extend_from_slice(block);
    }
    out
}

/// A frame of `plain` followed by zeros, which takes four bytes for each 128 KiB of them.
pub fn bomb(plain: &[u8], zero_bytes: u64, announced: u64) -> Vec<u8> {
    const RLE_BYTES: u64 = 128 << 10;
    // An eight-byte content size, and a window of 128 KiB.
    let head = [&[0xC0, 7 << 3][..], &announced.to_le_bytes()].concat();
    let mut out = [&0xFD2F_B528_u32.to_le_bytes()[..], &head].concat();
    out.extend_from_slice(&((plain.len() as u32) << 3).to_le_bytes()[..3]);
    out.extend_from_slice(plain);
    let blocks = zero_bytes / RLE_BYTES;
    for at in 1..=blocks {
        let block = (RLE_BYTES as u32) << 3 | 1 << 1 | u32::from(at == blocks);
        out.extend_from_slice(&block.to_le_bytes()[..3]);
        out.push(0);
    }
    out
}

/// The MAC of an age header (C2SP age.md, "Header MAC").
fn age_mac(file_key: &[u8], head: &[u8]) -> [u8; 32] {
    // HKDF-SHA-256 without salt, one block.
    let extracted = hmac(&[0; 32], file_key);
    let key = hmac(&extracted, b"header\x01");
    hmac(&key, head)
}

fn hmac(key: &[u8], message: &[u8]) -> [u8; 32] {
    let pad = |byte: u8| {
        let mut block = [byte; 64];
        block.iter_mut().zip(key).for_each(|(pad, key)| *pad ^= key);
        block
    };
    let inner = Sha256::new().chain_update(pad(0x36)).chain_update(message);
    let outer = Sha256::new().chain_update(pad(0x5c)).chain_update(inner.finalize());
    outer.finalize().into()
}

/// Keeps the file key that the age library made.
struct Spy(Mutex<Option<Vec<u8>>>);

struct Tapped<'a>(&'a dyn age::Recipient, &'a Spy);

impl age::Recipient for Tapped<'_> {
    fn wrap_file_key(
        &self,
        file_key: &FileKey,
    ) -> Result<(Vec<Stanza>, std::collections::HashSet<String>), age::EncryptError> {
        let copy = file_key.expose_secret().to_vec();
        *self.1.0.lock().expect("no panic before") = Some(copy);
        // Without its label a hybrid recipient can be mixed with classic ones, as no honest writer does.
        let (stanzas, _) = self.0.wrap_file_key(file_key)?;
        Ok((stanzas, std::collections::HashSet::new()))
    }
}
