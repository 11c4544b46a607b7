//! `seal`: cut bundles now, with or without a running agent.

use std::sync::Arc;

use serde_json::json;
use shared::bundle::SealReason;
use shared::clock::SystemClock;
use shared::record::Lane;

use super::Failure;
use crate::buffer::Bundle;
use crate::config::Config;
use crate::sealer::{Patience, Sealer};

pub(super) fn seal(config: &Config, lane: Option<&str>, as_json: bool) -> Result<(), Failure> {
    let lanes = match lane {
        None => Lane::ALL.to_vec(),
        Some(name) => {
            vec![name.parse().map_err(|_| Failure::usage(&"a lane is flash or routine"))?]
        }
    };
    let ready = now(config, &lanes)?;
    if as_json {
        let list: Vec<_> = ready.iter().map(super::bundles::to_json).collect();
        say!("{}", json!({ "sealed": list }));
    } else if ready.is_empty() {
        say!("nothing waits to be sealed");
    } else {
        super::bundles::print(&ready);
    }
    Ok(())
}

/// Cuts bundles of what waits in these lanes.
pub(crate) fn now(config: &Config, lanes: &[Lane]) -> Result<Vec<Bundle>, Failure> {
    let mut sealer = Sealer::open(config, Patience::Wait, Arc::new(SystemClock))?;
    let mut ready = Vec::new();
    for lane in lanes.iter().copied() {
        ready.extend(sealer.recover(lane)?);
        // What comes in while this runs is for the next time; else it might never end.
        let last = sealer.last_sequence(lane)?;
        while let Some(bundle) = sealer.seal(lane, SealReason::Requested)? {
            let enough = bundle.last_sequence.0 >= last;
            ready.push(bundle);
            if enough {
                break;
            }
        }
    }
    Ok(ready)
}
