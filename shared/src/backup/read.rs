//! Reading a backup: one pass, and the one path that refuses one.

use std::io::{self, BufReader, Read};

use sha2::{Digest, Sha256};

use super::write::sums_line;
use super::{
    BLOCK, BYTES_MAX, BackupError, FACTS_BYTES_MAX, FACTS_NAME, FORMAT, Facts, MEMBERS_MAX, MODES,
    SUMS_NAME, crypt, is_member_name, member_header, padding, side_name,
};
use crate::keys::{Identities, Side};

/// The most that a compressed stream may look back, as a power of two: what is written looks back 2 MiB.
const WINDOW_LOG_MAX: u32 = 23;
const ZSTD_MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];
const AGE_MAGIC: &[u8] = b"age-encryption.org/";

/// A member whose header is in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Its name: plain parts under one of the known folders.
    pub name: String,
    /// Its length.
    pub bytes: u64,
    /// The mode that it is to have.
    pub mode: u32,
}

/// The content of a member.
pub struct Content<'a> {
    input: &'a mut dyn Read,
    left: u64,
    hash: Sha256,
    failed: Option<String>,
}

impl std::fmt::Debug for Content<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Content").field("left", &self.left).finish_non_exhaustive()
    }
}

impl Read for Content<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let most = into.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
        if most == 0 {
            return Ok(0);
        }
        let count = match self.input.read(&mut into[..most]) {
            Ok(0) => Err(io::Error::from(io::ErrorKind::UnexpectedEof)),
            Err(err) if err.kind() == io::ErrorKind::Interrupted => return Err(err),
            read => read,
        };
        let count = count.inspect_err(|err| self.failed = Some(cut_off(err)))?;
        self.hash.update(&into[..count]);
        self.left -= count as u64;
        Ok(count)
    }
}

/// Reads a backup of this side to its end. `take` is handed each member but the first and the last, in
/// the order of the names; nothing of what it got is to be used before this returns.
///
/// # Errors
/// The backup is damaged, hostile, of the other side, newer than we are, or not for these keys; or
/// `take` failed.
pub fn read<'a>(
    input: impl Read + 'a,
    identities: Option<&Identities>,
    side: Side,
    take: &mut dyn FnMut(&Facts, &Member, &mut Content<'_>) -> Result<(), BackupError>,
) -> Result<Facts, BackupError> {
    let mut input = BufReader::new(input);
    let mut magic = Vec::new();
    let damaged = |err: io::Error| BackupError::Damaged(cut_off(&err));
    let longest = AGE_MAGIC.len() as u64;
    (&mut input).take(longest).read_to_end(&mut magic).map_err(damaged)?;
    let encrypted = magic.starts_with(AGE_MAGIC);
    if !encrypted && !magic.starts_with(&ZSTD_MAGIC) {
        return Err(BackupError::NotOne);
    }
    let input = io::Cursor::new(magic).chain(input);
    let zstd: Box<dyn Read + 'a> = match (encrypted, identities) {
        (true, Some(identities)) => Box::new(crypt::decrypt(input, identities)?),
        (true, None) => return Err(BackupError::Encrypted),
        (false, _) => Box::new(input),
    };
    let mut plain = zstd::Decoder::new(zstd).map_err(damaged)?;
    plain.window_log_max(WINDOW_LOG_MAX).map_err(damaged)?;
    read_tar(&mut plain, side, take)
}

fn read_tar(
    input: &mut dyn Read,
    side: Side,
    take: &mut dyn FnMut(&Facts, &Member, &mut Content<'_>) -> Result<(), BackupError>,
) -> Result<Facts, BackupError> {
    let malformed = |problem: &str| BackupError::Malformed(problem.to_owned());
    let first = header(input)?.filter(|(member, _)| member.name == FACTS_NAME);
    let (member, mtime) = first.ok_or_else(|| malformed("it does not begin with backup.json"))?;
    if member.bytes > FACTS_BYTES_MAX {
        return Err(malformed("its backup.json is too long"));
    }
    let mut text = Vec::new();
    let sha256 = content(input, member.bytes, &mut |content| {
        content
            .read_to_end(&mut text)
            .map(|_| ())
            .map_err(|err| BackupError::Damaged(cut_off(&err)))
    })?;
    let facts = parse_facts(&text, side)?;
    // What the last member must be, without its lines being kept.
    let (mut sums, mut sums_bytes) = (Sha256::new(), 0);
    let mut add = |name: &str, sha256| {
        let line = sums_line(name, sha256);
        sums.update(&line);
        sums_bytes += line.len() as u64;
    };
    add(FACTS_NAME, sha256);
    let (mut before, mut members, mut bytes) = (String::new(), 1, 0_u64);
    loop {
        let Some((member, time)) = header(input)? else {
            return Err(BackupError::Damaged("it ends without its sums".to_owned()));
        };
        if time != mtime {
            return Err(malformed("its members are not of one time"));
        }
        if member.name == SUMS_NAME {
            let wrong = || BackupError::Damaged("a file in it is not what its sum says".to_owned());
            if member.bytes != sums_bytes {
                return Err(wrong());
            }
            let sha256 = content(input, sums_bytes, &mut |_| Ok(()))?;
            if sha256 != <[u8; 32]>::from(sums.finalize()) {
                return Err(wrong());
            }
            break;
        }
        members += 1;
        bytes = bytes.saturating_add(member.bytes);
        if !is_member_name(&member.name) {
            let name = member.name.escape_default();
            return Err(BackupError::Malformed(format!("it holds a file named {name}")));
        }
        if member.name <= before {
            let name = &member.name;
            return Err(BackupError::Malformed(format!(
                "{name} stands twice in it, or out of order"
            )));
        }
        if members >= MEMBERS_MAX || bytes > BYTES_MAX {
            return Err(malformed("it holds more than a backup may"));
        }
        let sha256 = content(input, member.bytes, &mut |content| take(&facts, &member, content))?;
        add(&member.name, sha256);
        before = member.name;
    }
    if header(input)?.is_some() {
        return Err(malformed("it goes on behind its sums"));
    }
    match input.read(&mut [0]) {
        Ok(0) => Ok(facts),
        Ok(_) => Err(malformed("it goes on behind its end")),
        Err(err) => Err(BackupError::Damaged(cut_off(&err))),
    }
}

fn parse_facts(text: &[u8], side: Side) -> Result<Facts, BackupError> {
    #[derive(serde::Deserialize)]
    struct Version {
        #[serde(rename = "penstock-backup")]
        format: u32,
    }
    let malformed = |err: serde_json::Error| BackupError::Malformed(format!("backup.json: {err}"));
    // The version before all else: a later one may say other things.
    let found = serde_json::from_slice::<Version>(text).map_err(malformed)?.format;
    if found == 0 || found > FORMAT {
        return Err(BackupError::Newer { found });
    }
    let facts: Facts = serde_json::from_slice(text).map_err(malformed)?;
    if facts.side != side_name(side) {
        let (found, here) = (side_text(&facts.side), side_text(side_name(side)));
        return Err(BackupError::Other { found, here });
    }
    Ok(facts)
}

fn side_text(side: &str) -> String {
    match side {
        "high" | "low" => format!("a {side} side"),
        other => format!("a side called {:?}", other.chars().take(16).collect::<String>()),
    }
}

/// Hands a member's content to `take`, reads what that left, and the padding. Gives its SHA-256.
fn content(
    input: &mut dyn Read,
    bytes: u64,
    take: &mut dyn FnMut(&mut Content<'_>) -> Result<(), BackupError>,
) -> Result<[u8; 32], BackupError> {
    let mut content = Content { input, left: bytes, hash: Sha256::new(), failed: None };
    let taken = take(&mut content).and_then(|()| {
        let rest = io::copy(&mut content, &mut io::sink());
        rest.map(|_| ()).map_err(|err| BackupError::Damaged(cut_off(&err)))
    });
    // What failed is the archive, not the disk that it was read to.
    if let Some(problem) = content.failed {
        return Err(BackupError::Damaged(problem));
    }
    taken?;
    let sha256 = content.hash.finalize().into();
    let mut pad = [0; BLOCK];
    let pad = &mut pad[..padding(bytes)];
    input.read_exact(pad).map_err(|err| BackupError::Damaged(cut_off(&err)))?;
    if pad.iter().any(|byte| *byte != 0) {
        return Err(BackupError::Malformed("there is something between its files".to_owned()));
    }
    Ok(sha256)
}

/// The next header and its time; `None` at the end of the archive.
fn header(input: &mut dyn Read) -> Result<Option<(Member, u64)>, BackupError> {
    let mut block = [0; BLOCK];
    let mut next = |block: &mut [u8; BLOCK]| {
        input.read_exact(block).map_err(|err| BackupError::Damaged(cut_off(&err)))
    };
    next(&mut block)?;
    if block == [0; BLOCK] {
        next(&mut block)?;
        if block != [0; BLOCK] {
            return Err(BackupError::Malformed("it goes on behind its end".to_owned()));
        }
        return Ok(None);
    }
    let foreign = || BackupError::Malformed("it holds something else than plain files".to_owned());
    let parsed = tar::Header::from_byte_slice(&block);
    let name = parsed.path_bytes();
    let name = std::str::from_utf8(&name).map_err(|_| foreign())?.to_owned();
    let bytes = parsed.entry_size().map_err(|_| foreign())?;
    let mode = parsed.mode().map_err(|_| foreign())?;
    let mtime = parsed.mtime().map_err(|_| foreign())?;
    if !MODES.contains(&mode) || member_header(&name, bytes, mode, mtime) != Some(block) {
        return Err(foreign());
    }
    Ok(Some((Member { name, bytes, mode }, mtime)))
}

fn cut_off(err: &io::Error) -> String {
    if err.kind() == io::ErrorKind::UnexpectedEof {
        "it ends before its end: it was cut off".to_owned()
    } else {
        err.to_string()
    }
}
