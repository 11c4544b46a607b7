//! What gives text with a secret in it away: short byte sequences that one search over the whole record
//! finds. Only strings that hold one are looked into.

use aho_corasick::packed;
use aho_corasick::{AhoCorasick, AhoCorasickBuilder, AhoCorasickKind, Input, MatchKind};

use super::rule::{Detector, RedactionRule};

/// What an anchor announces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Anchor {
    /// `\u00`: a character that need not be escaped may hide a word.
    Escape,
    /// A program whose arguments may be secrets.
    Program,
    /// Something that is recognised by its own form.
    Shape,
    /// `://`: user and password may follow.
    Url,
    /// A part of a name: a value may follow.
    Word,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Hit {
    pub(super) start: usize,
    pub(super) end: usize,
    pub(super) anchor: Anchor,
}

/// Two searches: the vectorised search looks for at most 64 patterns at once.
#[derive(Debug)]
pub(super) struct Anchors {
    words: Finder,
    forms: Finder,
    own: Option<Finder>,
}

#[derive(Debug)]
struct Finder {
    search: Search,
    anchors: Vec<Anchor>,
}

#[derive(Debug)]
enum Search {
    /// Where the processor has no vector instructions for it, and for patterns without case.
    Automaton(AhoCorasick),
    Packed(packed::Searcher),
}

impl Finder {
    fn new(patterns: &[(&str, Anchor)]) -> Result<Self, aho_corasick::BuildError> {
        let anchors = patterns.iter().map(|(_, anchor)| *anchor).collect();
        let texts = || patterns.iter().map(|(text, _)| text);
        let packed = packed::Config::new()
            .match_kind(packed::MatchKind::LeftmostFirst)
            .builder()
            .extend(texts())
            .build();
        let search = match packed {
            Some(packed) => Search::Packed(packed),
            None => Search::Automaton(
                AhoCorasickBuilder::new().match_kind(MatchKind::LeftmostFirst).build(texts())?,
            ),
        };
        Ok(Self { search, anchors })
    }

    fn without_case(patterns: &[String]) -> Result<Self, aho_corasick::BuildError> {
        let automaton = AhoCorasickBuilder::new()
            .ascii_case_insensitive(true)
            .kind(Some(AhoCorasickKind::DFA))
            .match_kind(MatchKind::LeftmostFirst)
            .build(patterns)?;
        Ok(Self {
            search: Search::Automaton(automaton),
            anchors: vec![Anchor::Word; patterns.len()],
        })
    }

    fn find(&self, text: &[u8], from: usize) -> Option<Hit> {
        let found = match &self.search {
            Search::Automaton(search) => search.find(Input::new(text).span(from..text.len())),
            Search::Packed(search) => search.find_in(text, (from..text.len()).into()),
        }?;
        let anchor = self.anchors[found.pattern().as_usize()];
        Some(Hit { start: found.start(), end: found.end(), anchor })
    }
}

impl Anchors {
    pub(super) fn new(rules: &[RedactionRule]) -> Result<Self, aho_corasick::BuildError> {
        let flat = |forms: &[(Anchor, &[&'static str])]| -> Vec<(&'static str, Anchor)> {
            forms
                .iter()
                .flat_map(|(anchor, texts)| texts.iter().map(|text| (*text, *anchor)))
                .collect()
        };
        let mut words: Vec<_> = WORDS.iter().map(|word| (*word, Anchor::Word)).collect();
        words.extend(flat(SHORT_FORMS));
        let forms = flat(FORMS);
        // A rule's own names that hold none of the words: their first bytes, which have no separator
        // in them.
        let own: Vec<String> = rules
            .iter()
            .filter(|rule| !rule.shipped && rule.text.contains(&Detector::KeyValue))
            .flat_map(|rule| &rule.keys)
            .filter(|key| !WORDS.iter().any(|word| key.text.contains(&word.to_lowercase())))
            .map(|key| key.text.chars().take(OWN_WORD_CHARS).collect())
            .collect();
        let own = if own.is_empty() { None } else { Some(Finder::without_case(&own)?) };
        Ok(Self { words: Finder::new(&words)?, forms: Finder::new(&forms)?, own })
    }

    pub(super) fn hits<'a>(&'a self, text: &'a [u8]) -> Hits<'a> {
        let finders = [Some(&self.words), Some(&self.forms), self.own.as_ref()];
        let next = finders.map(|finder| finder.and_then(|finder| finder.find(text, 0)));
        Hits { text, finders, next }
    }
}

/// The anchors in a text, in their order.
pub(super) struct Hits<'a> {
    text: &'a [u8],
    finders: [Option<&'a Finder>; 3],
    next: [Option<Hit>; 3],
}

impl Hits<'_> {
    /// The first anchor that begins at `from` or behind it.
    #[inline]
    pub(super) fn at(&mut self, from: usize) -> Option<Hit> {
        let mut first: Option<Hit> = None;
        for (finder, next) in self.finders.iter().zip(&mut self.next) {
            if next.is_some_and(|hit| hit.start < from) {
                *next = match finder {
                    Some(finder) if from < self.text.len() => finder.find(self.text, from),
                    _ => None,
                };
            }
            if let Some(hit) = next
                && first.is_none_or(|first| hit.start < first.start)
            {
                first = Some(*hit);
            }
        }
        first
    }
}

/// Parts of names that hold secrets, as they are written: small, with a capital, large. Of longer
/// words only the part that has the same case in the first two.
const WORDS: &[&str] = &[
    "pass",
    "Pass",
    "PASS",
    "pwd",
    "Pwd",
    "PWD",
    "ecret",
    "ECRET",
    "oken",
    "OKEN",
    "key",
    "Key",
    "KEY",
    "redential",
    "REDENTIAL",
    "uthorization",
    "UTHORIZATION",
    "ookie",
    "OOKIE",
    "earer",
    "EARER",
    "asic ",
    "ConfigMap",
    "pw=",
    "pw:",
    "PW=",
    "psk",
    "PSK",
    "jwt",
    "JWT",
    "otp",
    "OTP",
    "auth\"",
    "auth=",
    "auth:",
    "AUTH=",
    "dentified ",
    "DENTIFIED ",
    "creds",
    "Creds",
    "CREDS",
    "pin=",
    "pin:",
    "PIN=",
];

/// Forms of three bytes: they stand with the words, so that the other search has patterns of four bytes
/// and more, which it tells from other text better.
const SHORT_FORMS: &[(Anchor, &[&str])] = &[
    (Anchor::Url, &["://", ":\\/\\/"]),
    // A data source of Go's MySQL driver: the password stands before it.
    (Anchor::Url, &["@tcp(", "@unix("]),
    (Anchor::Shape, &["eyJ", "SG.", "$6$", "$5$", "$y$"]),
    (Anchor::Program, &["7z ", "7za ", "bcp ", "zip ", "--stdin"]),
    // Longer ones, for which the other search has no room.
    (Anchor::Shape, &["AGE-SECRET-KEY-1", "GOCSPX-", "SWMKEY-1-", "dckr_oat_", "glrt-", "whsec_"]),
];

const FORMS: &[(Anchor, &[&str])] = &[
    (Anchor::Url, &["%3A%2F%2F", "%3a%2f%2f"]),
    (Anchor::Escape, &["\\u00"]),
    (
        Anchor::Shape,
        &[
            "ewog",
            "ewoJ",
            "ew0K",
            "W3si",
            "LS0t",
            "--BEGIN",
            "ptr_",
            "ghp_",
            "gho_",
            "ghu_",
            "ghs_",
            "ghr_",
            "pat_",
            "glpat-",
            "xoxb",
            "xoxp",
            "xoxa",
            "xoxr",
            "xoxs",
            "xoxe",
            "AKIA",
            "AIza",
            "_live_",
            "sk_test_",
            "SWMTKN-1-",
            "npm_",
            "hvs.",
            "pypi-",
            "dop_v1_",
            "hooks.slack",
            "ya29.",
            "sk-ant",
            "sk-proj",
            "$2a$",
            "$2b$",
            "$2y$",
            "$argon2",
            "$apr1$",
            "api/webhooks/",
        ],
    ),
    (
        Anchor::Program,
        &[
            "mysql",
            "mariadb",
            "curl",
            "redis-cli",
            "ldap",
            "mongo",
            "login ",
            "=login",
            "sqlcmd",
            "from-literal",
            "useradd",
            "usermod",
            "mosquitto",
            "smbclient",
            "rpcclient",
            "rdesktop",
            "vault",
            "openssl",
            "rabbitmq",
            "freerdp",
            "sshpass",
            "chpasswd",
        ],
    ),
];

/// Enough of an own name to be rare, and short enough that no separator stands in it.
const OWN_WORD_CHARS: usize = 4;
