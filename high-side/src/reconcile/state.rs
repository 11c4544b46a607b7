//! What is remembered from run to run, in the buffer's marks.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use shared::clock::Nanos;
use shared::record::{SourceTag, Stream};

use crate::buffer::{BufferError, Incoming, Intake, Mark, Store};
use crate::cmd::Failure;
use crate::config::Config;

use super::report::Report;

/// What is remembered of one Portainer.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub(crate) struct State {
    /// Everything up to this second of Portainer's clock was compared.
    pub(crate) through: Option<i64>,
    /// When it was first to be asked; an alarm counts from here until it was asked once.
    pub(crate) waiting_since_ns: i64,
    /// When a run last came to its end.
    pub(crate) asked_ns: Option<i64>,
    /// Records that were recovered and that no alarm has told yet. It grows in the transaction that
    /// holds the records, so that a crash can't hide them.
    pub(crate) untold: u64,
    /// The last run that came to its end.
    pub(crate) last: Option<Report>,
}

impl State {
    /// Reads what is remembered of a section.
    pub(crate) fn load(store: &Store, section: &str) -> Result<Self, BufferError> {
        let name = mark_name(section);
        let marks = store.marks(&name)?;
        let value = marks.into_iter().find(|(found, _)| *found == name).map(|(_, value)| value);
        // What a newer program wrote, or nobody, counts as nothing: then more is compared.
        Ok(value.and_then(|value| serde_json::from_str(&value).ok()).unwrap_or_default())
    }

    /// The mark that keeps this.
    pub(crate) fn mark(&self, section: &str) -> Mark {
        let value = serde_json::to_string(self).unwrap_or_default();
        Mark { name: mark_name(section), value: Some(value) }
    }
}

fn mark_name(section: &str) -> String {
    format!("{PREFIX}{section}")
}

/// From when on sightings were kept without a gap: before that, what came by syslog is not known, and
/// would be taken for missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Beginning {
    /// Before the first record of Portainer.
    Always,
    /// From this second on.
    At(i64),
}

impl Beginning {
    pub(super) fn load(store: &Store) -> Result<Option<Self>, BufferError> {
        let marks = store.marks(BEGINNING)?;
        let value = marks.into_iter().find(|(name, _)| name == BEGINNING).map(|(_, value)| value);
        Ok(value.map(|value| value.parse().map_or(Beginning::Always, Beginning::At)))
    }
}

/// Notes, before the first record is taken, from when on sightings are kept, or that they are not kept
/// any more. Call it before any listener starts.
pub(crate) async fn begin(config: &Config, intake: &Intake, now: Nanos) -> Result<(), Failure> {
    let store = Store::open(&config.state_dir)?;
    let Some(mark) = beginning_mark(&store, !config.portainer_apis.is_empty(), now)? else {
        return Ok(());
    };
    drop(store);
    let note = Incoming {
        source: Arc::new(SourceTag::new("", "", None)),
        data: Vec::new(),
        messages: Vec::new(),
        mark: Some(mark),
        sightings: Vec::new(),
        committed: None,
    };
    // Not waited for: a full buffer must not keep the agent from starting, and whatever is taken later
    // is committed later.
    intake.submit(note).await.map_err(Failure::new)
}

fn beginning_mark(
    store: &Store,
    configured: bool,
    now: Nanos,
) -> Result<Option<Mark>, BufferError> {
    let value = match (Beginning::load(store)?, configured) {
        (Some(_), true) | (None, false) => return Ok(None),
        (Some(_), false) => None,
        (None, true) => {
            let ours = [Stream::PortainerActivity, Stream::PortainerAuth];
            let came_before = store
                .totals()?
                .iter()
                .any(|lane| ours.iter().any(|stream| lane.received.of(*stream).records > 0));
            Some(if came_before { now.as_secs().to_string() } else { "always".to_owned() })
        }
    };
    Ok(Some(Mark { name: BEGINNING.to_owned(), value }))
}

/// Before the names of sections.
const PREFIX: &str = "reconcile/";

/// The name of the mark for [`Beginning`]; no section's mark begins like this.
const BEGINNING: &str = "reconcile-sightings";
