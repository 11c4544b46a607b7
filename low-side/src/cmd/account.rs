//! `account`: where every record of a period is.

use std::fmt::Write as _;

use shared::clock::{Clock, Nanos, SystemClock};
use shared::config::Span;
use shared::exit;

use super::{Failure, put, put_json};
use crate::account::{Account, Period};
use crate::config::Config;
use crate::folders::Folders;
use crate::import::Keys;
use crate::ledger::Ledger;

pub(super) fn account(
    config: &Config,
    last: Span,
    (from, to): (Option<Nanos>, Option<Nanos>),
    origin: Option<&str>,
    as_json: bool,
) -> Result<(), Failure> {
    let to = to.unwrap_or_else(|| SystemClock.now());
    let back = i64::try_from(last.0.as_nanos()).unwrap_or(i64::MAX);
    let from = from.unwrap_or(Nanos(to.0.saturating_sub(back)));
    if from >= to {
        let text =
            format!("the period from {from} to {to} holds nothing\n  try: --from before --to");
        return Err(Failure::new(exit::USAGE, text));
    }
    let ledger = Ledger::open_existing(&config.state_dir)?;
    let keys = Keys::load(&config.keys_dir, &config.releases)?;
    let store = Folders::of(&config.state_dir).store;
    let period = Period { from, to, origin };
    let account =
        crate::account::account(&ledger, &store, &keys.identities, &config.limits, period)?;
    if as_json { put_json(&account) } else { put(&text(&account)) }
}

fn text(account: &Account) -> String {
    let mut out = String::new();
    let _ = writeln!(
        out,
        "from {}\nto   {}\n\ngenerated {} = {} arrived + {} suppressed + {} lost + {} missing\n",
        account.from,
        account.to,
        account.generated,
        account.arrived,
        account.suppressed,
        account.lost,
        account.missing
    );
    for (stream, part) in &account.streams {
        let _ = writeln!(out, "{stream:<20} {:>12} arrived", part.arrived);
        for (rule, records) in &part.suppressed {
            let _ = writeln!(out, "{:<20} {records:>12} suppressed by rule {rule}", "");
        }
    }
    for (reason, records) in &account.losses {
        let _ = writeln!(out, "{:<20} {records:>12} declared lost: {reason}", "");
    }
    for (chain, bundles) in &account.missing_bundles {
        let _ = writeln!(out, "{:<20} {bundles:>12} bundles missing of {chain}", "");
    }
    for remark in &account.remarks {
        let _ = writeln!(out, "note: {remark}");
    }
    out
}
