//! The export guard: what each record is, which lane it takes, and what of it may leave.
//!
//! The gap is crossed from the more secret side to the less secret one. Every record is judged here,
//! once, on its way in and before it is stored: its stream is recognised, it is understood, what must
//! not leave is redacted, and noise is suppressed by rule. The verdict stays with the record.
//!
//! ```text
//! bytes ─> body scanned once ─> event ─┬─> privileged: flash lane
//!                                      ├─> noise: suppressed, unless it is guarded
//!                                      └─> what must not leave: redacted
//! ```

mod defaults;
pub mod pattern;
pub mod redact;
pub mod suppress;

use std::cell::RefCell;

use shared::clock::Nanos;
use shared::event::{Body, Event, PrivilegeSettings, understand};
use shared::json::Tape;
use shared::keys::{KeyError, load_secret};
use shared::record::Stream;

use crate::buffer::{Fate, Sighting};
use crate::config::GuardConfig;
use crate::reconcile;

pub use defaults::default_suppressions;
use redact::{Context, HmacKey, RedactScratch, Redactor};
use suppress::Suppressor;

/// What was decided about a record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Judged {
    /// Its stream.
    pub stream: Stream,
    /// Whether seconds matter: it takes the flash lane.
    pub urgent: bool,
    /// What is kept of it.
    pub fate: Fate,
    /// What is remembered of it, if it can also be asked for.
    pub sighting: Option<Sighting>,
}

/// Why the rules of a site can't be used.
#[derive(Debug, thiserror::Error)]
pub enum GuardError {
    /// The key by which equal values get equal marks.
    #[error("guard.hmac-key-file: {0}")]
    Key(#[from] KeyError),
    /// It is too short.
    #[error(
        "guard.hmac-key-file: {0} holds fewer than 16 bytes\n  try: openssl rand -hex 32 > {0}"
    )]
    KeyShort(String),
    /// The rules do not go together.
    #[error("{0}")]
    Rules(String),
}

/// The rules of one site, compiled.
#[derive(Debug, Default)]
pub struct Guard {
    /// Who is privileged here.
    pub privileges: PrivilegeSettings,
    /// What is noise.
    pub suppressor: Suppressor,
    /// What must not leave; nothing is looked for without it.
    pub redactor: Option<Redactor>,
    /// Whether sightings are kept of records that Portainer can be asked for.
    pub reconciles: bool,
}

/// The memory that judging uses again and again.
#[derive(Debug, Default)]
struct Scratch {
    tape: Tape,
    redact: RedactScratch,
}

thread_local! {
    // One for each thread that reads from sockets: a batch may be short, and the memory is worth keeping.
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

impl Guard {
    /// Compiles the rules of a configuration.
    pub fn new(config: &GuardConfig) -> Result<Self, GuardError> {
        let key = match &config.hmac_key_file {
            Some(path) => {
                let secret = load_secret(path)?;
                let short = || GuardError::KeyShort(path.display().to_string());
                Some(HmacKey::new(secret.trim().as_bytes()).ok_or_else(short)?)
            }
            None => None,
        };
        let redactor = Redactor::new(config.redact.clone(), key).map_err(|problems| {
            let texts: Vec<String> = problems.iter().map(ToString::to_string).collect();
            GuardError::Rules(texts.join("\n"))
        })?;
        Ok(Self {
            redactor: Some(redactor),
            privileges: config.privileges.clone(),
            suppressor: Suppressor::new(config.suppress.clone()),
            reconciles: config.reconciles,
        })
    }

    /// Judges a record as it would be judged on its way in; also gives what was understood of it, and
    /// the bytes that would be kept.
    pub fn examine(&self, raw: &[u8], stream: Option<Stream>) -> (Event<'static>, Judged, Vec<u8>) {
        let Scratch { mut tape, mut redact } = Scratch::default();
        let body = Body::of(raw, &mut tape);
        let event = understand(&body, stream, &self.privileges);
        let mut after = Vec::new();
        let judged = self.decide(&body, &event, Nanos(0), &mut redact, &mut after);
        (event.into_owned(), judged, after)
    }

    /// Judges a record and appends what is kept of it to `out`. `stream` is given where the way it
    /// came by says it.
    pub fn judge(
        &self,
        raw: &[u8],
        received: Nanos,
        stream: Option<Stream>,
        out: &mut Vec<u8>,
    ) -> Judged {
        SCRATCH.with_borrow_mut(|scratch| {
            let Scratch { tape, redact } = scratch;
            let body = Body::of(raw, tape);
            let event = understand(&body, stream, &self.privileges);
            self.decide(&body, &event, received, redact, out)
        })
    }

    fn decide(
        &self,
        body: &Body<'_>,
        event: &Event<'_>,
        received: Nanos,
        scratch: &mut RedactScratch,
        out: &mut Vec<u8>,
    ) -> Judged {
        // Of the bytes as they came: a redacted or suppressed record was seen all the same.
        let sighting =
            self.reconciles.then(|| reconcile::sighting_in(body, event.stream, received)).flatten();
        let judged = |fate| Judged {
            stream: event.stream,
            urgent: event.privileged.is_some(),
            fate,
            sighting,
        };
        if let Some(rule) = self.suppressor.suppressed_by(event) {
            let bytes = body.raw.len() as u64;
            return judged(Fate::Suppressed { rule: rule.clone(), bytes });
        }
        let resource = event.resource.kind.as_deref();
        let context = Context { stream: event.stream, resource };
        let redacted = self.redactor.as_ref().and_then(|r| r.redact(body, &context, scratch));
        if let Some(redacted) = redacted {
            out.extend_from_slice(&scratch.out);
            // One huge record must not hold its memory for ever.
            scratch.out.clear();
            scratch.out.shrink_to(SCRATCH_BYTES_KEPT);
            return judged(Fate::Redacted(redacted.note));
        }
        out.extend_from_slice(body.raw);
        judged(Fate::Kept)
    }
}

/// What a thread keeps for redacted records; they are rarely longer.
const SCRATCH_BYTES_KEPT: usize = 256 * 1024;

#[cfg(test)]
mod tests;
