//! The sections `[guard]`, `[[suppress]]` and `[[redact]]`: what is privileged, what is noise, what must
//! not leave.

use std::path::PathBuf;

use serde::Deserialize;
use shared::config::Problems;
use shared::event::{PrivilegeSettings, Shape};

use crate::guard::default_suppressions;
use crate::guard::redact::{Action, RawRedactionRule, RedactionRule, default_rules};
use crate::guard::suppress::SuppressRule;

/// The section `[guard]`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub(super) struct RawGuard {
    default_redactions: bool,
    default_suppressions: bool,
    hmac_key_file: Option<PathBuf>,
    disable: Vec<String>,
    break_glass: Vec<String>,
}

impl Default for RawGuard {
    fn default() -> Self {
        Self {
            default_redactions: true,
            default_suppressions: true,
            hmac_key_file: None,
            disable: Vec::new(),
            break_glass: PrivilegeSettings::default().break_glass_names,
        }
    }
}

/// The export guard, checked.
#[derive(Clone, Debug, Default)]
pub struct GuardConfig {
    /// Who is privileged here.
    pub privileges: PrivilegeSettings,
    /// What is noise: the site's own rules first, then those that are shipped.
    pub suppress: Vec<SuppressRule>,
    /// What must not leave: the site's own rules first, then those that are shipped.
    pub redact: Vec<RedactionRule>,
    /// The key for marks of values that must still be joined.
    pub hmac_key_file: Option<PathBuf>,
    /// Whether Portainer is asked for what did not come, so that what did must be remembered.
    pub reconciles: bool,
}

/// Checks the rules; each problem names its rule.
pub(super) fn check(
    raw: RawGuard,
    suppress: Vec<SuppressRule>,
    redact: &[RawRedactionRule],
    reconciles: bool,
    problems: &mut Problems,
) -> GuardConfig {
    let defaults = default_suppressions();
    let privileges = PrivilegeSettings { break_glass_names: raw.break_glass };
    let default_redactions = default_rules();
    for name in &raw.disable {
        problems.check(
            defaults
                .iter()
                .map(|rule| &rule.name)
                .chain(default_redactions.iter().map(|r| &r.name))
                .any(|known| known == name),
            "guard.disable",
            format!("no shipped rule is named {name:?}"),
        );
    }
    let on = |rule: &SuppressRule| raw.default_suppressions && !raw.disable.contains(&rule.name);
    for (at, rule) in suppress.iter().enumerate() {
        let key = if rule.name.is_empty() {
            format!("suppress.#{}", at + 1)
        } else {
            format!("suppress.{}", rule.name)
        };
        for problem in rule.problems() {
            problems.add(&key, problem);
        }
        for shape in rule.guarded(&privileges).take(SHAPES_NAMED) {
            problems
                .add(&key, format!("could match what is never suppressed: {}", describe(&shape)));
        }
        let taken = suppress[..at].iter().chain(&defaults).any(|other| other.name == rule.name);
        problems.check(!taken, &key, "the name is taken by another rule");
    }
    let shipped = default_redactions
        .iter()
        .filter(|rule| raw.default_redactions && !raw.disable.contains(&rule.name));
    let mut checked: Vec<RedactionRule> = Vec::new();
    for (at, rule) in redact.iter().chain(shipped).enumerate() {
        let key = if rule.name.is_empty() {
            format!("redact.#{}", at + 1)
        } else {
            format!("redact.{}", rule.name)
        };
        match rule.check() {
            Ok(rule) => {
                let taken = checked.iter().any(|other| other.name() == rule.name());
                problems.check(!taken, &key, "the name is taken by another rule");
                let keyed = rule.action() != Action::Hmac || raw.hmac_key_file.is_some();
                problems.check(keyed, &key, "action hmac needs guard.hmac-key-file");
                checked.push(rule);
            }
            Err(errors) => errors.iter().for_each(|err| problems.add(&key, &err.problem)),
        }
    }
    let redact = checked;
    let rules: Vec<SuppressRule> =
        suppress.into_iter().chain(defaults.into_iter().filter(on)).collect();
    problems.check(
        rules.len() <= RULES_MAX,
        "suppress",
        format!("has more than {RULES_MAX} rules: every record is held against them"),
    );
    GuardConfig {
        privileges,
        suppress: rules,
        redact,
        hmac_key_file: raw.hmac_key_file,
        reconciles,
    }
}

/// What a rule must exclude, in the words of a rule.
fn describe(shape: &Shape) -> String {
    let mut said = Vec::new();
    let mut say = |field: &str, value: Option<String>| {
        said.extend(value.map(|value| format!("{field} {value}")));
    };
    say("category", shape.category.map(|category| category.to_string()));
    say("action", shape.action.map(ToOwned::to_owned));
    say("kind", shape.kind.map(ToOwned::to_owned));
    say("part", shape.part.map(ToOwned::to_owned));
    say("group", shape.group.map(ToOwned::to_owned));
    say("verb", (!shape.verbs.is_empty()).then(|| shape.verbs.join(", ")));
    say("severity", (!shape.severities.is_empty()).then(|| shape.severities.join(", ")));
    say("outcome", shape.outcome.map(|outcome| format!("{outcome:?}").to_lowercase()));
    say(
        "name",
        (!shape.name_words.is_empty()).then(|| format!("*{}*", shape.name_words.join("*, *"))),
    );
    say("access", shape.access.map(|access| format!("{access:?}").to_lowercase()));
    say("privilege", shape.privilege.map(|privilege| format!("{privilege:?}")));
    let mut text = said.join(", ");
    if !shape.note.is_empty() {
        text = if text.is_empty() {
            shape.note.to_owned()
        } else {
            format!("{text} ({})", shape.note)
        };
    }
    format!("{}: {text}; narrow the rule so that it can't", shape.stream)
}

/// How many reasons are given for one rule.
const SHAPES_NAMED: usize = 3;

/// The most rules: each is counted by stream in every manifest, and every record is held against them.
const RULES_MAX: usize = 256;
