//! `export`: copy what waits, or what is asked for, to mounted media, with proof.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::{Value, json};
use shared::clock::{Clock, SystemClock};
use shared::custody::{Action, CustodyEvent};
use shared::keys::{SIGNING_KEY_FILE, SigningKey};
use shared::transfer::{TransferRecord, TransferredBundle};

use super::Failure;
use crate::config::Config;
use crate::media::{
    Exporter, Lot, MediumError, OpenSet, Options, Request, RequestError, SetError, Shares, Stick,
    Unsendable, share_out,
};
use crate::outbox::Waiting;
use crate::sealer::{Patience, Publisher, SealerError};

impl From<MediumError> for Failure {
    fn from(err: MediumError) -> Self {
        Self::io(super::chain(&err))
    }
}

impl From<SetError> for Failure {
    fn from(err: SetError) -> Self {
        match err {
            SetError::Io { .. } => Self::io(err),
            SetError::Other { .. } => Self::new(err),
        }
    }
}

impl From<RequestError> for Failure {
    fn from(err: RequestError) -> Self {
        match err {
            RequestError::Io { .. } => Self::io(err),
            RequestError::Keys(err) => err.into(),
            RequestError::Signature { .. } => {
                Self { code: shared::exit::REFUSED, ..Self::new(err) }
            }
            RequestError::Malformed { .. } | RequestError::OtherOrigin { .. } => Self::new(err),
        }
    }
}

/// What the command line asks for.
pub(super) struct Asked<'a> {
    pub(super) dests: &'a [PathBuf],
    pub(super) all: bool,
    pub(super) missing: Option<&'a Path>,
    pub(super) shares: Option<Shares>,
    pub(super) file_bytes_max: Option<u64>,
    pub(super) new_set: bool,
    pub(super) as_json: bool,
}

/// What is to be copied.
struct Chosen {
    waiting: Vec<Waiting>,
    unsendable: Vec<Unsendable>,
    set: Option<OpenSet>,
}

/// What was done.
#[derive(Default)]
struct Summary {
    bundles: Vec<TransferredBundle>,
    media: Vec<TransferRecord>,
    failures: Vec<String>,
}

pub(super) fn export(config: &Config, asked: &Asked<'_>) -> Result<(), Failure> {
    let sticks: Result<Vec<Stick>, String> = asked.dests.iter().map(|dir| Stick::at(dir)).collect();
    let sticks = sticks.map_err(Failure::io)?;
    if sticks.len() > 1 && asked.shares.is_none() {
        return Err(Failure::usage(
            &"several folders are for the parts of a set\n  try: --parts K+R, as 3+2; or one folder",
        ));
    }
    for (at, stick) in sticks.iter().enumerate() {
        if let Some(other) = sticks[..at].iter().find(|other| other.shares_device(stick)) {
            let (one, two) = (other.dir.display(), stick.dir.display());
            tell!("warning: {one} and {two} lie on one device: who loses it loses both parts");
        }
    }
    let mut publisher = Publisher::open(config, Patience::Wait, Arc::new(SystemClock))?;
    publisher.publish_sealed()?;
    let chosen = choose(config, &mut publisher, asked)?;
    for bundle in &chosen.unsendable {
        tell!("can't be sent: {}", bundle.to_text());
    }
    let unsendable = chosen.unsendable.clone();
    let copied = copy_all(config, &mut publisher, asked, sticks, chosen);
    super::custody::settle(publisher.outbox().1);
    let (summary, set) = copied?;
    if asked.as_json {
        say!("{}", to_json(config, &summary, set.as_ref(), &unsendable));
    }
    if !summary.failures.is_empty() {
        return Err(Failure::io(format!(
            "{}\n  nothing is lost: mend the cause and export again",
            summary.failures.join("\n")
        )));
    }
    if unsendable.is_empty() {
        return Ok(());
    }
    Err(Failure::new(format!(
        "{} of what was asked for can't be sent\n  try: penstock-low gaps --pass, where it is accepted as lost",
        unsendable.len()
    )))
}

/// What is to be copied: a set that was begun, what is asked for, or what waits.
fn choose(
    config: &Config,
    publisher: &mut Publisher,
    asked: &Asked<'_>,
) -> Result<Chosen, Failure> {
    let now = SystemClock.now();
    let begun = OpenSet::load(&config.state_dir)?;
    let (outbox, store) = publisher.outbox();
    if let (Some(shares), Some(set), false) = (asked.shares, begun.clone(), asked.new_set) {
        let set = set.expect(shares)?;
        let mut waiting = outbox.all(store, true, now)?;
        waiting.retain(|bundle| set.bundles.contains(&bundle.name));
        let here: BTreeSet<&str> = waiting.iter().map(|bundle| bundle.name.as_str()).collect();
        for name in set.bundles.iter().filter(|name| !here.contains(name.as_str())) {
            tell!("warning: {name} is gone from the outbox; the other parts of it were written");
        }
        return Ok(Chosen { waiting, unsendable: Vec::new(), set: Some(set) });
    }
    if let (None, Some(set)) = (asked.shares, &begun) {
        tell!(
            "note: a set of {} parts was begun and is not complete: parts {} are still to be written",
            set.shares,
            numbers(&set.outstanding())
        );
    }
    let (mut waiting, mut unsendable);
    match asked.missing {
        None => (waiting, unsendable) = (outbox.all(store, asked.all, now)?, Vec::new()),
        Some(path) => {
            let request = Request::load(path, config, now)?;
            if let Some(name) = &request.signed_by {
                tell!("the request is signed by {name}");
            }
            let (bundles, gone) = request.select(store)?;
            unsendable = gone;
            let wanted: BTreeSet<_> = bundles.iter().map(|b| (b.lane, b.number)).collect();
            let key = |waiting: &Waiting| waiting.bundle.as_ref().map(|b| (b.lane, b.number));
            waiting = outbox.all(store, true, now)?;
            waiting.retain(|bundle| key(bundle).is_some_and(|key| wanted.contains(&key)));
            let here: BTreeSet<_> = waiting.iter().filter_map(key).collect();
            let gone = bundles.iter().filter(|b| !here.contains(&(b.lane, b.number)));
            let epoch = store.epoch().0;
            unsendable.extend(gone.map(|b| Unsendable::file_gone(epoch, b.lane, b.number)));
        }
    }
    let names = || waiting.iter().map(|bundle| bundle.name.clone()).collect();
    let set = asked.shares.filter(|_| !waiting.is_empty());
    let set = set.map(|shares| OpenSet::begin(shares, now.to_string(), names()));
    if let Some(set) = &set {
        set.save(&config.state_dir)?;
    }
    Ok(Chosen { waiting, unsendable, set })
}

fn copy_all(
    config: &Config,
    publisher: &mut Publisher,
    asked: &Asked<'_>,
    mut sticks: Vec<Stick>,
    chosen: Chosen,
) -> Result<(Summary, Option<OpenSet>), Failure> {
    let Chosen { waiting, mut set, .. } = chosen;
    let options = Options { shares: asked.shares, file_bytes_max: asked.file_bytes_max };
    let key = signing_key(config);
    let mut exporter = Exporter::new(config, key);
    let mut summary = Summary::default();
    let (outbox, store) = publisher.outbox();
    if let Some(set) = &set {
        let lots = Exporter::lots(outbox, waiting.clone(), &sticks[0].device, options);
        let lots: Vec<Lot> = lots.map_err(Failure::new)?.into_iter().map(|(_, lot)| lot).collect();
        share_out(&mut sticks, &lots, set.shares, &set.outstanding());
    }
    for stick in &sticks {
        let shown = stick.dir.display();
        if let (Some(set), None) = (&set, stick.share) {
            tell!("{shown}: every part of the set of {} is written already", set.shares);
            continue;
        }
        let bundles = Exporter::lots(outbox, waiting.clone(), &stick.device, options);
        let bundles = bundles.map_err(Failure::new)?;
        let lots: Vec<Lot> = bundles.iter().map(|(_, lot)| lot.clone()).collect();
        let needed = stick.needed_bytes(&lots);
        tell!("{}", stick.device.describe());
        if needed > stick.device.free_bytes {
            tell!(
                "warning: {needed} bytes wait and {shown} has {} free; what fits is copied, the rest goes on waiting",
                stick.device.free_bytes
            );
        }
        let bar = progress_bar(2 * needed);
        let done = stick.fill(&bundles, &mut |name, bytes| {
            bar.set_message(name.to_owned());
            bar.inc(bytes);
        });
        bar.finish_and_clear();
        // What was copied and verified counts, even if the medium failed later.
        let now = SystemClock.now();
        for (at, path) in &done.damaged {
            outbox.damaged(store, &bundles[*at].0, now)?;
            let err = SealerError::Damaged { path: path.clone() };
            summary.failures.push(super::chain(&err));
            if let Some(set) = &mut set {
                set.bundles.remove(&bundles[*at].0.name);
            }
        }
        if !done.bundles.is_empty() {
            let (record, failure) = exporter.record(stick, done.bundles, store.epoch().0, now)?;
            match failure {
                None => tell!("transfer record: {}.txt", stick.dir.join(&record.record).display()),
                Some(failure) => {
                    tell!("warning: the transfer record is not on the medium: {failure}");
                }
            }
            let detail = format!(
                "transfer record {}: {} bundle(s) to {}",
                record.record,
                record.bundles.len(),
                stick.device.describe()
            );
            store.note_custody(CustodyEvent::new(now, Action::Transfer).detail(detail))?;
            for bundle in &record.bundles {
                if !summary.bundles.iter().any(|known| known.name == bundle.name) {
                    summary.bundles.push(bundle.clone());
                }
            }
            summary.media.push(record);
        }
        let part = stick.share.map(|index| format!("part {} of ", index + 1)).unwrap_or_default();
        if !asked.as_json {
            let complete = || done.complete.iter().map(|at| &lots[*at]);
            say!(
                "{part}{} bundle(s), {} bytes copied to {shown}, read back and verified{}",
                done.complete.len(),
                stick.needed_bytes(&complete().cloned().collect::<Vec<_>>()),
                if done.kept_bytes > 0 {
                    format!("; {} of them were there already", done.kept_bytes)
                } else {
                    String::new()
                }
            );
        }
        let by = format!("export to {shown}");
        match (&mut set, stick.share) {
            (Some(set), Some(index)) if done.failure.is_none() => {
                set.note(index, now.to_string(), stick.device.clone());
                set.save(&config.state_dir)?;
            }
            (Some(_), _) => {}
            (None, _) => {
                for at in &done.complete {
                    let bundle = &bundles[*at].0;
                    outbox.exported(store, bundle, &by, &config.carriers_of(bundle.lane), now)?;
                }
            }
        }
        if let Some(failure) = done.failure {
            let text = super::chain(&failure);
            let (some, all) = (done.complete.len(), bundles.len());
            summary.failures.push(format!(
                "{text}\n  {some} of {all} bundles are on the medium, read back and verified"
            ));
        }
    }
    if waiting.is_empty() && !asked.as_json {
        say!("0 bundle(s): nothing waits to be copied");
    }
    if let Some(open) = &set {
        let outstanding = open.outstanding();
        if outstanding.is_empty() {
            let now = SystemClock.now();
            let by = format!("export in {} parts", open.shares);
            for bundle in waiting.iter().filter(|bundle| open.bundles.contains(&bundle.name)) {
                outbox.exported(store, bundle, &by, &config.carriers_of(bundle.lane), now)?;
            }
            OpenSet::remove(&config.state_dir)?;
            tell!(
                "the set of {} parts is complete: any {} restore it",
                open.shares,
                open.shares.data
            );
        } else {
            tell!(
                "the set of {} parts is not complete: still to be written are {}\n  try: the next medium, and the same command",
                open.shares,
                numbers(&outstanding)
            );
        }
    }
    Ok((summary, set))
}

/// Numbers of parts, from 1.
fn numbers(indexes: &[u16]) -> String {
    let numbers: Vec<String> = indexes.iter().map(|index| (index + 1).to_string()).collect();
    numbers.join(", ")
}

/// The key that signs the record. Whoever may not read it can still carry bundles.
fn signing_key(config: &Config) -> Option<SigningKey> {
    match SigningKey::load(&config.keys_dir.join(SIGNING_KEY_FILE)) {
        Ok(key) => Some(key),
        Err(err) => {
            tell!("warning: the transfer record is not signed: {err}");
            None
        }
    }
}

fn to_json(
    config: &Config,
    summary: &Summary,
    set: Option<&OpenSet>,
    unsendable: &[Unsendable],
) -> Value {
    json!({
        "origin": config.origin,
        "bundles": summary.bundles,
        "media": summary.media,
        "set": set.map(|set| json!({
            "parts": set.shares,
            "begun": set.begun,
            "written": set.written,
            "outstanding": set.outstanding().iter().map(|index| index + 1).collect::<Vec<_>>(),
        })),
        "unsendable": unsendable.iter().map(Unsendable::to_json).collect::<Vec<_>>(),
        "failures": summary.failures,
    })
}

pub(super) fn progress_bar(bytes: u64) -> ProgressBar {
    let bar = ProgressBar::with_draw_target(Some(bytes), ProgressDrawTarget::stderr());
    let style =
        ProgressStyle::with_template("{bar:30} {percent:>3}% {bytes_per_sec} {eta} left  {msg}");
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    bar
}
