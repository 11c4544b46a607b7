//! Redaction: what must not leave is taken out of a record before it is sealed.
//!
//! ```text
//! record ─┬─ header, structured data ──────────────> text ─┐
//!         └─ body ─┬─ JSON: one walk over its nodes        ├─> edits ─> bytes and a note
//!                  │   ├─ a key or pointer of a rule ──────┤
//!                  │   └─ a string with an anchor ─> text ─┤
//!                  └─ anything else ───────────────> text ─┘
//!            text ─> JSON, base64, escapes, percent-encoding in it ─> the same again, to a depth
//! ```
//!
//! Most records hold nothing secret, and every record passes here. So the usual record costs one walk
//! over the nodes with a cached verdict for each key, and two searches for [anchors](anchor) over its
//! bytes. Only strings with an anchor are looked into, and nothing is allocated until something goes.
//!
//! Invariant: every byte outside of what is replaced stays as it came, also inside strings with
//! escapes. In base64 every other *decoded* byte stays. JSON stays JSON.
//!
//! Invariant: redacting twice changes nothing more (but a pointer that drops an array's element by
//! its index finds another one there).
//!
//! It fails safe: what is not JSON, or was cut, is looked into as text; what nests deeper than is
//! followed is looked into as the text that it is.

mod anchor;
mod command;
mod cut;
mod defaults;
mod edit;
mod hmac;
mod mark;
mod names;
mod note;
mod pairs;
mod rule;
mod shapes;
mod text;
mod walk;
mod yaml;

#[cfg(test)]
mod tests;

use std::sync::atomic::{AtomicU64, Ordering};

use shared::event::Body;
use shared::json::{Node, Tape};
use shared::record::Stream;

use anchor::Anchors;
use edit::{Edit, View};
use names::{NameCache, NameTable};
use pairs::Stop;
use rule::{RULES_MAX, Step};

pub use defaults::default_rules;
pub use hmac::HmacKey;
pub use rule::{Action, Detector, RawRedactionRule, RedactionRule, RuleError, RuleProblem};

/// What is known of a record beside its bytes.
#[derive(Clone, Copy, Debug)]
pub struct Context<'a> {
    /// Its stream.
    pub stream: Stream,
    /// The Kubernetes resource that it is about, as `objectRef.resource` names it. When it is not given,
    /// the body's own `objectRef` is looked at.
    pub resource: Option<&'a str>,
}

/// What was done to a record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Redacted {
    /// Which rules acted, and where: `RULE:POINTER` or `RULE:text@OFFSET`, with `xN` for several of a
    /// kind, and `!` where the path enters a string. At most [`NOTE_BYTES_MAX`] bytes.
    pub note: Box<str>,
    /// How many values went.
    pub count: u32,
}

/// The rules, made ready.
#[derive(Debug)]
pub struct Redactor {
    rules: Vec<RedactionRule>,
    names: NameTable,
    anchors: Anchors,
    key: Option<HmacKey>,
    /// For each stream, a bit for each rule that is for it.
    streams: [u64; Stream::ALL.len()],
    /// For each detector, a bit for each rule that uses it.
    detectors: [u64; Detector::ALL.len()],
    /// Rules for every value in the bodies of `Secret` and `ConfigMap`.
    bodies: Bodies,
    /// Rules whose names count only in such bodies.
    conditional: Bodies,
    pointers: Vec<(u8, Vec<Step>)>,
    /// Tells caches which redactor's verdicts they hold.
    serial: u64,
}

/// A bit for each rule, by the kind of body that it is for.
#[derive(Clone, Copy, Debug, Default)]
struct Bodies {
    secrets: u64,
    config_maps: u64,
}

impl Redactor {
    /// Makes rules ready.
    ///
    /// # Errors
    /// Everything that is wrong between them; what is wrong within one, [`RawRedactionRule::check`] told.
    pub fn new(rules: Vec<RedactionRule>, key: Option<HmacKey>) -> Result<Self, Vec<RuleError>> {
        let mut problems = Vec::new();
        for (index, rule) in rules.iter().enumerate() {
            let mut told = |problem| {
                problems.push(RuleError { rule: format!("{:?}", rule.name()), problem });
            };
            if rules[..index].iter().any(|other| other.name == rule.name) {
                told(RuleProblem::NameTaken);
            }
            if rule.action == Action::Hmac && key.is_none() {
                told(RuleProblem::HmacKeyMissing);
            }
            if index == RULES_MAX {
                told(RuleProblem::TooMany);
            }
        }
        if !problems.is_empty() {
            return Err(problems);
        }
        let bits = |wanted: &dyn Fn(&RedactionRule) -> bool| {
            let numbered = rules.iter().enumerate();
            numbered.filter(|(_, rule)| wanted(rule)).fold(0, |all, (index, _)| all | 1 << index)
        };
        let narrow = |rule: &RedactionRule| !rule.keys.is_empty() || !rule.pointers.is_empty();
        let anchors = Anchors::new(&rules).map_err(|_| {
            vec![RuleError {
                rule: "with the longest keys".to_owned(),
                problem: RuleProblem::TooMany,
            }]
        })?;
        Ok(Self {
            names: NameTable::new(&rules),
            anchors,
            streams: Stream::ALL.map(|stream| {
                bits(&|rule| rule.streams.as_ref().is_none_or(|streams| streams.contains(&stream)))
            }),
            detectors: Detector::ALL.map(|detector| bits(&|rule| rule.text.contains(&detector))),
            bodies: Bodies {
                secrets: bits(&|rule| rule.secrets && !narrow(rule)),
                config_maps: bits(&|rule| rule.config_maps && !narrow(rule)),
            },
            conditional: Bodies {
                secrets: bits(&|rule| rule.secrets && narrow(rule)),
                config_maps: bits(&|rule| rule.config_maps && narrow(rule)),
            },
            pointers: rules
                .iter()
                .enumerate()
                .flat_map(|(index, rule)| {
                    rule.pointers.iter().map(move |one| (index as u8, one.clone()))
                })
                .collect(),
            rules,
            key,
            serial: SERIALS.fetch_add(1, Ordering::Relaxed),
        })
    }

    /// Makes the shipped rules ready.
    ///
    /// # Errors
    /// As [`Redactor::new`].
    pub fn with_defaults(key: Option<HmacKey>) -> Result<Self, Vec<RuleError>> {
        let mut problems = Vec::new();
        let mut rules = Vec::new();
        for raw in default_rules() {
            match raw.check() {
                Ok(rule) => rules.push(rule),
                Err(more) => problems.extend(more),
            }
        }
        if problems.is_empty() { Self::new(rules, key) } else { Err(problems) }
    }

    /// The rules.
    pub fn rules(&self) -> &[RedactionRule] {
        &self.rules
    }

    /// Takes out of a record what the rules name. `None` when nothing had to go; otherwise the record's
    /// new bytes are in `scratch.out`.
    pub fn redact(
        &self,
        body: &Body<'_>,
        context: &Context<'_>,
        scratch: &mut RedactScratch,
    ) -> Option<Redacted> {
        if scratch.serial != self.serial {
            scratch.names.clear();
            scratch.serial = self.serial;
        }
        let nodes = body.json.map(|json| json.nodes());
        let pointers = &self.pointers;
        if !self.once(body.raw, body.range.clone(), nodes, pointers, context, scratch) {
            return None;
        }
        edit::apply(body.raw, &scratch.edits, &mut scratch.out);
        // A mark may be as it was: then nothing has to go.
        if scratch.out == body.raw {
            return None;
        }
        let mut edits = std::mem::take(&mut scratch.edits);
        // What was replaced may have hidden where something else begins. Only records that hold
        // something secret are looked at again, without pointers: an index has another meaning now.
        for _ in 1..PASSES_MAX {
            let out = std::mem::take(&mut scratch.out);
            let mut level = scratch.levels.pop().unwrap_or_default();
            let again = Body::of(&out, &mut level.tape);
            let (range, json) = (again.range.clone(), again.json.is_some());
            let nodes = json.then(|| level.tape.nodes());
            let more = self.once(&out, range, nodes, &[], context, scratch);
            scratch.levels.push(level);
            if more {
                edit::apply(&out, &scratch.edits, &mut scratch.out);
            }
            if !more || scratch.out == out {
                scratch.out = out;
                break;
            }
            edits.append(&mut scratch.edits);
        }
        let count = edits.iter().map(|edit| edit.places.len().max(1)).sum::<usize>();
        let note = note::note(&self.rules, &edits);
        scratch.edits = edits;
        Some(Redacted { note, count: u32::try_from(count).unwrap_or(u32::MAX) })
    }

    /// Looks at a record once. Says whether something has to go: `scratch.edits`, in order.
    fn once(
        &self,
        raw: &[u8],
        range: std::ops::Range<usize>,
        nodes: Option<&[Node]>,
        pointers: &[(u8, Vec<Step>)],
        context: &Context<'_>,
        scratch: &mut RedactScratch,
    ) -> bool {
        scratch.edits.clear();
        let index = Stream::ALL.iter().position(|stream| *stream == context.stream).unwrap_or(0);
        let mut pass = Pass {
            redactor: self,
            active: self.streams[index],
            stream: context.stream,
            resource: context.resource,
            edits: &mut scratch.edits,
            levels: &mut scratch.levels,
            names: &mut scratch.names,
        };
        match nodes {
            Some(nodes) => {
                pass.document(&raw[range.clone()], nodes, pointers, range.start);
                if range.start > 0 && self.anchors.hits(&raw[..range.start]).at(0).is_some() {
                    pass.text(&raw[..range.start], 0, &[]);
                }
            }
            None => pass.text(raw, 0, &[]),
        }
        edit::settle(&mut scratch.edits, 0);
        !scratch.edits.is_empty()
    }
}

/// Memory that redaction uses again for each record.
#[derive(Debug, Default)]
pub struct RedactScratch {
    /// The bytes of the last record from which something went.
    pub out: Vec<u8>,
    edits: Vec<Edit>,
    levels: Vec<Level>,
    names: NameCache,
    serial: u64,
}

/// What one layer inside another needs.
#[derive(Debug, Default)]
struct Level {
    view: View,
    tape: Tape,
}

/// One record on its way through the rules. Edits are in the coordinates of the layer that is being
/// looked at; each layer carries those of the layers in it over to its own.
struct Pass<'r> {
    redactor: &'r Redactor,
    /// A bit for each rule that is for the record's stream.
    active: u64,
    stream: Stream,
    resource: Option<&'r str>,
    edits: &'r mut Vec<Edit>,
    levels: &'r mut Vec<Level>,
    names: &'r mut NameCache,
}

/// Pointers that reach into a layer: a rule, and the steps that are left.
type Pointers<'p> = &'p [(u8, &'p [Step])];

impl Pass<'_> {
    /// The first rule for a stream that uses a detector.
    fn detector(&self, detector: Detector) -> Option<u8> {
        let index = Detector::ALL.iter().position(|one| *one == detector)?;
        first(self.redactor.detectors[index] & self.active)
    }

    /// What takes the place of a value: its decoded bytes count for the digest.
    fn mark(&self, rule: u8, value: &[u8]) -> String {
        let rule = &self.redactor.rules[usize::from(rule)];
        match (rule.action, &self.redactor.key) {
            (Action::Drop, _) => String::new(),
            (Action::Hmac, Some(key)) => format!("[hmac:{}:{}]", rule.name, key.digest(value)),
            (Action::Hmac | Action::Mask, _) => format!("[redacted:{}]", rule.name),
        }
    }

    /// Replaces a range of the text that is being looked at.
    fn replace_text(&mut self, text: &[u8], start: usize, end: usize, rule: u8) {
        if start >= end || mark::is_mark(&text[start..end]) {
            return;
        }
        let mark = self.mark(rule, &text[start..end]).into_bytes();
        self.edits.push(Edit {
            start,
            end,
            text: mark,
            encoded: false,
            places: vec![(rule, String::new())],
        });
    }
}

fn first(rules: u64) -> Option<u8> {
    (rules != 0).then_some(rules.trailing_zeros() as u8)
}

/// How often a record with something secret in it is looked at. One look more than the first one
/// mostly finds nothing; each that finds something leaves less to find.
const PASSES_MAX: usize = 4;

static SERIALS: AtomicU64 = AtomicU64::new(1);

/// A note stands beside its record in the bundle: it names places, it is no list of all.
pub const NOTE_BYTES_MAX: usize = 600;

/// How many layers are entered: a body, a payload in base64, an annotation in it, and JSON in that are
/// three. Each layer may cost as much as the record, so depth bounds the work.
const DEPTH_MAX: u8 = 5;
