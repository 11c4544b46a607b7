//! `seal`: cut bundles now, with or without a running agent.

use std::sync::Arc;

use serde_json::json;
use shared::bundle::SealReason;
use shared::clock::SystemClock;
use shared::record::Lane;

use super::Failure;
use crate::config::Config;
use crate::sealer::Sealer;

pub(super) fn seal(config: &Config, lane: Option<&str>, as_json: bool) -> Result<(), Failure> {
    let lanes = match lane {
        None => Lane::ALL.to_vec(),
        Some(name) => {
            vec![name.parse().map_err(|_| Failure::usage(&"a lane is flash or routine"))?]
        }
    };
    let mut sealer = Sealer::open(config, Arc::new(SystemClock))?;
    let mut ready = sealer.recover()?;
    for lane in lanes {
        while let Some(bundle) = sealer.seal(lane, SealReason::Requested)? {
            ready.push(bundle);
        }
    }
    if as_json {
        let list: Vec<_> = ready.iter().map(super::bundles::to_json).collect();
        println!("{}", json!({ "sealed": list }));
    } else if ready.is_empty() {
        println!("nothing waits to be sealed");
    } else {
        super::bundles::print(&ready);
    }
    Ok(())
}
