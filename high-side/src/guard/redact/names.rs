//! What a key's name means: which rules it belongs to, and whether it plays a part in a known shape.

use std::collections::HashMap;

use super::rule::{KeyPattern, RedactionRule};

/// The part that a key plays, apart from rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    /// None.
    Plain,
    /// `data`, `stringData`, `binaryData`: the body of a Kubernetes `Secret` or `ConfigMap`.
    Data,
    /// `value`: beside a `name`, a `key` or a `path`.
    Value,
    /// A string that may hold a whole text in base64.
    Content,
}

/// What is known of a name.
#[derive(Clone, Copy, Debug)]
pub(super) struct Verdict {
    /// A bit for each rule that names it.
    pub(super) rules: u64,
    pub(super) role: Role,
    /// Whether an object under it is often a reference to a secret that lies elsewhere.
    pub(super) reference: bool,
}

/// All names of all rules.
#[derive(Debug, Default)]
pub(super) struct NameTable {
    exact: HashMap<Box<[u8]>, u64>,
    patterns: Vec<(KeyPattern, u64)>,
    except: Vec<(KeyPattern, u64)>,
}

impl NameTable {
    pub(super) fn new(rules: &[RedactionRule]) -> Self {
        let mut table = Self::default();
        for (index, rule) in rules.iter().enumerate() {
            let bit = 1 << index;
            for pattern in &rule.keys {
                if pattern.is_exact() {
                    *table.exact.entry(pattern.text.as_bytes().into()).or_default() |= bit;
                } else {
                    merge(&mut table.patterns, pattern, bit);
                }
            }
            for pattern in &rule.except {
                merge(&mut table.except, pattern, bit);
            }
        }
        table
    }

    /// What a name means: its bytes, decoded.
    pub(super) fn verdict(&self, name: &[u8]) -> Verdict {
        // `proc.aenv[API_TOKEN]`: the name in the brackets.
        let inner = name.strip_suffix(b"]").and_then(|head| {
            memchr::memrchr(b'[', head).map(|open| &head[open + 1..]).filter(|one| !one.is_empty())
        });
        let written = inner.unwrap_or(name);
        let mut buffer = [0; NORMAL_BYTES_MAX];
        let name = normalise(written, &mut buffer);
        let hits = |patterns: &[(KeyPattern, u64)]| {
            patterns.iter().filter(|(one, _)| one.matches(name)).fold(0, |all, (_, bit)| all | bit)
        };
        let mut rules = hits(&self.patterns);
        if rules != 0 {
            rules &= !hits(&self.except);
        } else if let Some(bare) = without_variant(written) {
            rules = self.patterned(bare);
        }
        rules |= self.exact.get(name).copied().unwrap_or(0);
        let role = match name {
            b"data" | b"stringdata" | b"binarydata" => Role::Data,
            b"value" | b"val" => Role::Value,
            b"payload" | b"body" | b"content" | b"filecontent" | b"stackfilecontent"
            | b"configuration" | b"manifest" | b"userdata" => Role::Content,
            _ => Role::Plain,
        };
        let reference = name.ends_with(b"ref")
            || name.ends_with(b"secret")
            || name.ends_with(b"secrets")
            || name.ends_with(b"token")
            || name.ends_with(b"credentials");
        Verdict { rules, role, reference }
    }
}

impl NameTable {
    /// The rules whose patterns a name matches.
    fn patterned(&self, name: &[u8]) -> u64 {
        let mut buffer = [0; NORMAL_BYTES_MAX];
        let name = normalise(name, &mut buffer);
        let hits = |patterns: &[(KeyPattern, u64)]| {
            patterns.iter().filter(|(one, _)| one.matches(name)).fold(0, |all, (_, bit)| all | bit)
        };
        hits(&self.patterns) & !hits(&self.except)
    }
}

/// An environment variable's name without what tells it from its siblings: `GITHUB_TOKEN_PROD`,
/// `DBPASS1`, `APP_SECRET_V2`.
fn without_variant(name: &[u8]) -> Option<&[u8]> {
    let capital = |byte: &u8| byte.is_ascii_uppercase() || byte.is_ascii_digit() || *byte == b'_';
    if !name.iter().all(capital) {
        return None;
    }
    let mut bare = name;
    loop {
        let digits = bare.iter().rev().take_while(|byte| byte.is_ascii_digit()).count();
        let head = &bare[..bare.len() - digits];
        let head = if digits > 0 { head.strip_suffix(b"_V").unwrap_or(head) } else { head };
        let head = head.strip_suffix(b"_").unwrap_or(head);
        let variant = VARIANTS.iter().find_map(|one| head.strip_suffix(*one)?.strip_suffix(b"_"));
        let shorter = variant.unwrap_or(head);
        if shorter.len() == bare.len() {
            break;
        }
        bare = shorter;
    }
    (bare.len() < name.len() && !bare.is_empty()).then_some(bare)
}

/// Stages and generations behind the name of a variable.
const VARIANTS: &[&[u8]] =
    &[b"DEV", b"JSON", b"NEW", b"OLD", b"PROD", b"STAGE", b"STAGING", b"TEST"];

fn merge(list: &mut Vec<(KeyPattern, u64)>, pattern: &KeyPattern, bit: u64) {
    match list.iter_mut().find(|(known, _)| known == pattern) {
        Some((_, bits)) => *bits |= bit,
        None => list.push((pattern.clone(), bit)),
    }
}

/// Lower case, without `-`, `_`, `.` and blanks. Of a name that is too long its end is taken, where
/// the telling word mostly stands.
fn normalise<'b>(name: &[u8], buffer: &'b mut [u8; NORMAL_BYTES_MAX]) -> &'b [u8] {
    let mut length = 0;
    let tail = &name[name.len().saturating_sub(NORMAL_BYTES_MAX)..];
    for &byte in tail {
        if !matches!(byte, b'-' | b'_' | b'.' | b' ') {
            buffer[length] = byte.to_ascii_lowercase();
            length += 1;
        }
    }
    &buffer[..length]
}

/// Verdicts of recent names: the same keys come again with every record.
#[derive(Debug)]
pub(super) struct NameCache {
    slots: Box<[Slot]>,
}

#[derive(Clone, Copy, Debug)]
struct Slot {
    name: [u8; CACHED_BYTES_MAX],
    length: u8,
    verdict: Verdict,
}

const EMPTY: Slot = Slot {
    name: [0; CACHED_BYTES_MAX],
    length: u8::MAX,
    verdict: Verdict { rules: 0, role: Role::Plain, reference: false },
};

impl Default for NameCache {
    fn default() -> Self {
        Self { slots: vec![EMPTY; CACHE_SLOTS].into() }
    }
}

impl NameCache {
    pub(super) fn clear(&mut self) {
        self.slots.fill(EMPTY);
    }

    #[inline]
    pub(super) fn verdict(&mut self, table: &NameTable, name: &[u8]) -> Verdict {
        if name.len() > CACHED_BYTES_MAX {
            return table.verdict(name);
        }
        let slot = &mut self.slots[hash(name)];
        if usize::from(slot.length) == name.len() && slot.name[..name.len()] == *name {
            return slot.verdict;
        }
        slot.verdict = table.verdict(name);
        slot.name[..name.len()].copy_from_slice(name);
        slot.length = name.len() as u8;
        slot.verdict
    }
}

#[inline]
fn hash(name: &[u8]) -> usize {
    let word = |bytes: &[u8]| bytes.try_into().map_or(0, u64::from_le_bytes);
    let (first, last) = match name.len() {
        0 => (0, 0),
        1..4 => (u64::from(name[0]), u64::from(name[name.len() - 1])),
        4..8 => {
            let word = |bytes: &[u8]| bytes.try_into().map_or(0, u32::from_le_bytes);
            (u64::from(word(&name[..4])), u64::from(word(&name[name.len() - 4..])))
        }
        length => (word(&name[..8]), word(&name[length - 8..])),
    };
    let mixed =
        (first ^ last.rotate_left(29) ^ name.len() as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    (mixed >> 53) as usize % CACHE_SLOTS
}

/// Names are compared by at most so many bytes; nobody names a field with more.
const NORMAL_BYTES_MAX: usize = 160;

/// The longest keys that come often, such as `authentication.kubernetes.io/issued-credential-id`.
const CACHED_BYTES_MAX: usize = 56;

/// All streams together have some 600 different keys.
const CACHE_SLOTS: usize = 2048;
