//! `receipt import`: what the low side says arrived, and what it asks for again.

use std::fs::File;
use std::io::Read as _;
use std::path::Path;

use serde_json::{Value, json};
use shared::clock::{Clock, Nanos, SystemClock};
use shared::keys::StatementSigners;
use shared::receipt::{Brought, MissingRange, RECEIPT_BYTES_MAX, Receipt, ReceiptError};
use shared::record::Lane;

use super::{Failure, custody};
use crate::buffer::{BundleState, Requeued, Store, Taken};
use crate::cli::ReceiptVerb;
use crate::config::Config;

/// What was asked for on the command line.
struct Asked {
    unsigned: bool,
    behind: bool,
    as_json: bool,
}

/// What became of the wishes in it.
#[derive(Default)]
struct Queued {
    again: Vec<(Lane, u64)>,
    waiting: Vec<(Lane, u64)>,
    /// What can't be sent again, and why.
    gone: Vec<String>,
}

pub(super) fn run(config: &Config, verb: &ReceiptVerb) -> Result<(), Failure> {
    match verb {
        ReceiptVerb::Import { file, unsigned, behind, json } => {
            let asked = Asked { unsigned: *unsigned, behind: *behind, as_json: *json };
            import(config, file, &asked)
        }
        ReceiptVerb::List { json } => list(config, *json),
    }
}

fn import(config: &Config, file: &Path, asked: &Asked) -> Result<(), Failure> {
    let now = SystemClock.now();
    let brought = brought(config, file, now)?;
    let mut store = Store::open(&config.state_dir)?;
    let mut queued = Queued::default();
    let taken = match &brought {
        Brought::Request(_) if !asked.unsigned => {
            return Err(Failure::config(format!(
                "{} is an unsigned request to send bundles again\n  try: --unsigned, if you know who asks",
                file.display()
            )));
        }
        Brought::Request(_) => None,
        Brought::Receipt(receipt, _) => {
            let Some(taken) = store.take_receipt(receipt, now)? else {
                return Err(Failure::new(format!(
                    "receipt {} of {} is older than the one that was taken in; nothing was changed\n  try: penstock-high receipt list",
                    receipt.number, receipt.name
                )));
            };
            Some(taken)
        }
    };
    for range in brought.missing() {
        queue(&mut store, config, range, &mut queued)?;
    }
    if let Some(taken) = &taken
        && asked.behind
    {
        for (lane, number) in &taken.behind {
            send_again(&mut store, config, *lane, *number, &mut queued)?;
        }
    }
    custody::settle(&mut store);
    if asked.as_json {
        say!("{}", to_json(&brought, taken.as_ref(), &queued));
    } else {
        print(&brought, taken.as_ref(), &queued, asked);
    }
    match taken {
        Some(taken) if !taken.forks.is_empty() => Err(Failure::new(format!(
            "{}\n  try: packaging/doc/gaps.md says what to do about a fork; receipts are evidence: keep {}",
            taken.forks.join("\n"),
            file.display()
        ))),
        _ => Ok(()),
    }
}

/// A receipt that is believed, to be looked at alone.
pub(super) fn load(config: &Config, file: &Path) -> Result<Receipt, Failure> {
    match brought(config, file, SystemClock.now())? {
        Brought::Receipt(receipt, _) => Ok(*receipt),
        Brought::Request(_) => Err(Failure::config(format!(
            "{} is a request, which does not say what arrived
  try: the file that penstock-low receipt wrote",
            file.display()
        ))),
    }
}

fn brought(config: &Config, file: &Path, now: Nanos) -> Result<Brought, Failure> {
    let bytes = read(file)?;
    let signers = StatementSigners::load(&config.keys_dir)?;
    Brought::read(&bytes, &signers, now).map_err(|err| {
        let text = format!("{} {err}", file.display());
        match err {
            ReceiptError::Form(_) => Failure::refused(text),
            ReceiptError::Unsigned | ReceiptError::Signature(_) => Failure::config(text),
        }
    })
}

fn read(path: &Path) -> Result<Vec<u8>, Failure> {
    let io = |err: std::io::Error| Failure::io(format!("{}: {err}", path.display()));
    let file = File::open(path).map_err(io)?;
    if !file.metadata().map_err(io)?.is_file() {
        return Err(Failure::refused(format!("{} is no regular file", path.display())));
    }
    let mut bytes = Vec::new();
    // One more than may be, so that a longer one is seen to be too long.
    file.take(RECEIPT_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(io)?;
    Ok(bytes)
}

/// Queues a missing range again; of what can't be, says why. Only what this buffer knows is looked at,
/// however long the range says it is.
fn queue(
    store: &mut Store,
    config: &Config,
    range: &MissingRange,
    queued: &mut Queued,
) -> Result<(), Failure> {
    let MissingRange { origin, epoch, lane, first, last } = range;
    if *origin != config.origin {
        return Ok(());
    }
    if *epoch != store.epoch() {
        queued.gone.push(format!(
            "{lane} {first} to {last} of epoch {epoch}: this buffer begins with epoch {}",
            store.epoch()
        ));
        return Ok(());
    }
    let mut next = *first;
    for number in store.numbers_between(*lane, *first, *last)? {
        if number > next {
            queued.gone.push(format!("{lane} {next} to {}: not known any more", number - 1));
        }
        send_again(store, config, *lane, number, queued)?;
        next = number + 1;
    }
    if next <= *last {
        queued.gone.push(format!("{lane} {next} to {last}: not known here"));
    }
    Ok(())
}

fn send_again(
    store: &mut Store,
    config: &Config,
    lane: Lane,
    number: u64,
    queued: &mut Queued,
) -> Result<(), Failure> {
    let bundle = store.bundle(lane, number)?;
    let file = bundle.and_then(|bundle| match bundle.state {
        BundleState::Ready | BundleState::HandedOver => bundle.file,
        _ => None,
    });
    if let Some(file) = file
        && !config.outbox.path.join(&file.name).exists()
    {
        queued.gone.push(format!("{lane} {number}: {} is gone from the outbox", file.name));
        return Ok(());
    }
    match store.requeue(lane, number)? {
        Requeued::Again => queued.again.push((lane, number)),
        Requeued::Waiting => queued.waiting.push((lane, number)),
        Requeued::Gone => {
            let state = store.bundle(lane, number)?.map_or("not known", |b| b.state.as_str());
            queued.gone.push(format!("{lane} {number}: {state}"));
        }
    }
    Ok(())
}

fn print(brought: &Brought, taken: Option<&Taken>, queued: &Queued, asked: &Asked) {
    if let (Brought::Receipt(receipt, by), Some(taken)) = (brought, taken) {
        say!("receipt {} of {}, written {}", receipt.number, receipt.name, receipt.time);
        say!("signed by {} ({})", by.name, by.key);
        say!("{} bundle(s) are now known to have arrived", taken.confirmed);
        if taken.other_epochs > 0 {
            say!("{} chain(s) of other epochs of this origin are in it, too", taken.other_epochs);
        }
        if receipt.quarantined > 0 {
            say!("{} file(s) were refused there", receipt.quarantined);
        }
        if !taken.behind.is_empty() && !asked.behind {
            say!(
                "{} bundle(s) were handed over before it was written and lie behind the last that arrived: on their way, or lost\n  try: --behind sends them again",
                taken.behind.len()
            );
        }
    }
    say!("{} bundle(s) are sent again", queued.again.len());
    if !queued.waiting.is_empty() {
        say!("{} bundle(s) are on their way to their first hand-over", queued.waiting.len());
    }
    for gone in &queued.gone {
        say!("can't be sent again: {gone}");
    }
}

fn to_json(brought: &Brought, taken: Option<&Taken>, queued: &Queued) -> Value {
    let bundles = |list: &[(Lane, u64)]| -> Vec<Value> {
        list.iter().map(|(lane, number)| json!({"lane": lane, "number": number})).collect()
    };
    let (receipt, by) = match brought {
        Brought::Receipt(receipt, by) => (
            json!({"name": receipt.name, "number": receipt.number, "time": receipt.time.to_string()}),
            json!({"name": by.name, "key": by.key}),
        ),
        Brought::Request(_) => (Value::Null, Value::Null),
    };
    json!({
        "receipt": receipt,
        "signed-by": by,
        "confirmed": taken.map(|taken| taken.confirmed),
        "forks": taken.map(|taken| &taken.forks),
        "behind": taken.map(|taken| bundles(&taken.behind)),
        "again": bundles(&queued.again),
        "waiting": bundles(&queued.waiting),
        "gone": queued.gone,
    })
}

fn list(config: &Config, as_json: bool) -> Result<(), Failure> {
    let receipts = Store::open(&config.state_dir)?.receipts()?;
    if as_json {
        let list: Vec<Value> = receipts
            .iter()
            .map(|receipt| {
                json!({
                    "name": receipt.name,
                    "number": receipt.number,
                    "time": receipt.time.to_string(),
                    "taken": receipt.taken.to_string(),
                })
            })
            .collect();
        say!("{}", json!({"receipts": list}));
        return Ok(());
    }
    for receipt in &receipts {
        say!(
            "receipt {} of {}, written {}, taken in {}",
            receipt.number,
            receipt.name,
            receipt.time,
            receipt.taken
        );
    }
    if receipts.is_empty() {
        tell!("no receipt was taken in yet");
    }
    Ok(())
}
