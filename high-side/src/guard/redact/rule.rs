//! Redaction rules: as they are written in the configuration, and checked.

use std::fmt;

use serde::Deserialize;
use shared::record::Stream;

/// A rule as it is written: `[[redact]]`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct RawRedactionRule {
    /// Its name, which the marks and notes show.
    pub name: String,
    /// The streams it is for; all, when absent.
    pub streams: Option<Vec<String>>,
    /// JSON pointers into the body. `*` stands for any key or index; `!` enters the JSON that a string
    /// holds, plain or in base64, such as `/payload!/Env/*/value`.
    #[serde(default)]
    pub pointers: Vec<String>,
    /// Names of keys at any depth, compared without case and without `-`, `_`, `.` and blanks; `*` at
    /// the begin or the end stands for anything.
    #[serde(default)]
    pub keys: Vec<String>,
    /// Names that stay although a name with `*` in `keys` matches them.
    #[serde(default)]
    pub except: Vec<String>,
    /// Kubernetes resources whose bodies it is for: `secrets`, `configmaps`. Without `keys`, every
    /// value in their `data`, `stringData` and `binaryData` is meant.
    #[serde(default)]
    pub resources: Vec<String>,
    /// What to look for in text, by the names of detectors.
    #[serde(default)]
    pub text: Vec<String>,
    /// What to do: `drop`, `mask` or `hmac`.
    pub action: Option<String>,
    /// Whether the rule came with the program: the search in text is made for its names already.
    #[serde(skip)]
    pub(super) shipped: bool,
}

/// What happens to a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// The member goes, with its key; in text, the value goes.
    Drop,
    /// `[hmac:RULE:...]` takes its place: equal values can still be joined.
    Hmac,
    /// `[redacted:RULE]` takes its place.
    Mask,
}

/// What is looked for in text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Detector {
    /// `Bearer`, `Basic` and `Token` with what follows them.
    Bearer,
    /// What well-known programs take as a secret without a telling name: `mysql -p`, `curl -u`.
    CommandLine,
    /// Signed tokens: `eyJ...` with dots.
    Jwt,
    /// The names in `keys`, followed by a value: `NAME=...`, `name: ...`, `--name ...`, `<name>...`.
    KeyValue,
    /// Tokens with a well-known prefix, and password hashes.
    KnownToken,
    /// Private keys in PEM, and age identities.
    PrivateKey,
    /// `scheme://user:password@host`.
    UrlCredentials,
}

impl Detector {
    /// Every detector.
    pub const ALL: [Detector; 7] = [
        Detector::Bearer,
        Detector::CommandLine,
        Detector::Jwt,
        Detector::KeyValue,
        Detector::KnownToken,
        Detector::PrivateKey,
        Detector::UrlCredentials,
    ];

    /// Its name in the configuration.
    pub fn as_str(self) -> &'static str {
        match self {
            Detector::Bearer => "bearer",
            Detector::CommandLine => "command-line",
            Detector::Jwt => "jwt",
            Detector::KeyValue => "key-value",
            Detector::KnownToken => "known-token",
            Detector::PrivateKey => "private-key",
            Detector::UrlCredentials => "url-credentials",
        }
    }
}

/// One step of a pointer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Any key or index.
    Any,
    /// Into the JSON that a string holds.
    Enter,
    /// This key, or this index.
    Name(Box<str>),
}

/// A rule that was checked.
#[derive(Clone, Debug)]
pub struct RedactionRule {
    pub(super) name: Box<str>,
    pub(super) streams: Option<Vec<Stream>>,
    pub(super) pointers: Vec<Vec<Step>>,
    pub(super) keys: Vec<KeyPattern>,
    pub(super) except: Vec<KeyPattern>,
    pub(super) secrets: bool,
    pub(super) config_maps: bool,
    pub(super) text: Vec<Detector>,
    pub(super) action: Action,
    pub(super) shipped: bool,
}

impl RedactionRule {
    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What it does.
    pub fn action(&self) -> Action {
        self.action
    }
}

/// A name of a key, normalised, and where a `*` stood.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct KeyPattern {
    pub(super) text: Box<str>,
    pub(super) open_start: bool,
    pub(super) open_end: bool,
}

impl KeyPattern {
    pub(super) fn matches(&self, name: &[u8]) -> bool {
        let text = self.text.as_bytes();
        match (self.open_start, self.open_end) {
            (false, false) => name == text,
            (true, false) => name.ends_with(text),
            (false, true) => name.starts_with(text),
            (true, true) => memchr::memmem::find(name, text).is_some(),
        }
    }

    pub(super) fn is_exact(&self) -> bool {
        !self.open_start && !self.open_end
    }

    fn parse(text: &str) -> Result<Self, RuleProblem> {
        let inner = text.strip_prefix('*').unwrap_or(text);
        let open_start = inner.len() != text.len();
        let core = inner.strip_suffix('*').unwrap_or(inner);
        let open_end = core.len() != inner.len();
        let normalised: String = core
            .chars()
            .filter(|char| !"-_. ".contains(*char))
            .map(|char| char.to_ascii_lowercase())
            .collect();
        if normalised.is_empty() || normalised.contains('*') || normalised.len() > NAME_BYTES_MAX {
            return Err(RuleProblem::Key(text.to_owned()));
        }
        Ok(Self { text: normalised.into(), open_start, open_end })
    }
}

/// What is wrong with a rule.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RuleProblem {
    /// The action is missing or unknown.
    #[error("`action` must be \"drop\", \"mask\" or \"hmac\"")]
    Action,
    /// It matches nothing.
    #[error("it names nothing to redact: set `pointers`, `keys`, `resources` or `text`")]
    Empty,
    /// `hmac` without a key.
    #[error("`action = \"hmac\"` needs the site's key: set `redaction-key`")]
    HmacKeyMissing,
    /// A key's name can't be used.
    #[error("{0:?} is no name of a key: letters and digits, with `*` only at its begin or end")]
    Key(String),
    /// `key-value` without names.
    #[error("the detector \"key-value\" looks for the rule's `keys`, and there are none")]
    KeysMissing,
    /// The name can't be used.
    #[error("`name` must have 1 to 32 of a-z, 0-9 and -")]
    Name,
    /// Another rule has the same name.
    #[error("another rule has the same name")]
    NameTaken,
    /// A pointer can't be used.
    #[error("{0:?} is no JSON pointer: it begins with `/`, and `~` is written `~0`, `/` is `~1`")]
    Pointer(String),
    /// A resource is unknown.
    #[error("{0:?} is no resource that can be redacted: \"secrets\" or \"configmaps\"")]
    Resource(String),
    /// A stream is unknown.
    #[error("{0:?} is no stream")]
    Stream(String),
    /// A detector is unknown.
    #[error(
        "{0:?} is no detector: bearer, command-line, jwt, key-value, known-token, private-key or url-credentials"
    )]
    Text(String),
    /// There are more rules than a record can be held against.
    #[error("there are more than {RULES_MAX} rules")]
    TooMany,
}

/// A problem, and the rule that has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuleError {
    /// The rule's name as it is written, or its number, counted from one.
    pub rule: String,
    /// What is wrong.
    pub problem: RuleProblem,
}

impl fmt::Display for RuleError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "redaction rule {}: {}", self.rule, self.problem)
    }
}

impl std::error::Error for RuleError {}

impl RawRedactionRule {
    /// Checks the rule.
    ///
    /// # Errors
    /// Everything that is wrong with it, in the order of its fields.
    pub fn check(&self) -> Result<RedactionRule, Vec<RuleError>> {
        let mut problems = Vec::new();
        let letters = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        if !(1..=RULE_NAME_BYTES_MAX).contains(&self.name.len()) || !self.name.bytes().all(letters)
        {
            problems.push(RuleProblem::Name);
        }
        let mut streams = Vec::new();
        for name in self.streams.iter().flatten() {
            match name.parse() {
                Ok(stream) => streams.push(stream),
                Err(_) => problems.push(RuleProblem::Stream(name.clone())),
            }
        }
        let mut gather = |texts: &[String]| -> Vec<KeyPattern> {
            let parsed = texts.iter().map(|text| KeyPattern::parse(text));
            parsed.filter_map(|one| one.map_err(|problem| problems.push(problem)).ok()).collect()
        };
        let (keys, except) = (gather(&self.keys), gather(&self.except));
        let mut pointers = Vec::new();
        for text in &self.pointers {
            match parse_pointer(text) {
                Some(steps) => pointers.push(steps),
                None => problems.push(RuleProblem::Pointer(text.clone())),
            }
        }
        for resource in &self.resources {
            if !["secrets", "configmaps"].contains(&resource.as_str()) {
                problems.push(RuleProblem::Resource(resource.clone()));
            }
        }
        let mut text = Vec::new();
        for name in &self.text {
            match Detector::ALL.into_iter().find(|detector| detector.as_str() == name) {
                Some(detector) => text.push(detector),
                None => problems.push(RuleProblem::Text(name.clone())),
            }
        }
        if text.contains(&Detector::KeyValue) && self.keys.is_empty() {
            problems.push(RuleProblem::KeysMissing);
        }
        let action = match self.action.as_deref() {
            Some("drop") => Some(Action::Drop),
            Some("hmac") => Some(Action::Hmac),
            Some("mask") => Some(Action::Mask),
            _ => None,
        };
        if action.is_none() {
            problems.push(RuleProblem::Action);
        }
        if [&self.pointers, &self.keys, &self.resources, &self.text]
            .iter()
            .all(|list| list.is_empty())
        {
            problems.push(RuleProblem::Empty);
        }
        match action {
            Some(action) if problems.is_empty() => Ok(RedactionRule {
                name: self.name.as_str().into(),
                streams: self.streams.is_some().then_some(streams),
                pointers,
                keys,
                except,
                secrets: self.resources.iter().any(|name| name == "secrets"),
                config_maps: self.resources.iter().any(|name| name == "configmaps"),
                text,
                action,
                shipped: self.shipped,
            }),
            _ => Err(problems
                .into_iter()
                .map(|problem| RuleError { rule: format!("{:?}", self.name), problem })
                .collect()),
        }
    }
}

fn parse_pointer(text: &str) -> Option<Vec<Step>> {
    if !text.starts_with('/') || text.len() > POINTER_BYTES_MAX {
        return None;
    }
    let mut steps = Vec::new();
    for (index, layer) in text.split("!/").enumerate() {
        if index > 0 {
            steps.push(Step::Enter);
        }
        for part in layer.strip_prefix('/').unwrap_or(layer).split('/') {
            let valid = part.split('~').skip(1).all(|rest| rest.starts_with(['0', '1']));
            if !valid {
                return None;
            }
            steps.push(match part {
                "*" => Step::Any,
                part => Step::Name(part.replace("~1", "/").replace("~0", "~").into()),
            });
        }
    }
    Some(steps)
}

/// A mark carries its rule's name, and marks are counted in the growth of a record.
pub(super) const RULE_NAME_BYTES_MAX: usize = 32;

/// Rules are kept as the bits of one word.
pub(super) const RULES_MAX: usize = 64;

/// No name that anyone gives a field is longer.
const NAME_BYTES_MAX: usize = 128;

/// A pointer is written by hand.
const POINTER_BYTES_MAX: usize = 1024;
