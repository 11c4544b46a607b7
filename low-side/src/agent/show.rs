//! What the agent shows on its page.

use page::metrics::Numbers;
use page::{Server, Source};
use serde_json::json;
use shared::clock::{Clock, Nanos, SystemClock};

use crate::config::Config;
use crate::folders::Folders;
use crate::ledger::{Ledger, LedgerError};
use crate::metrics::{Surroundings, numbers, places};
use crate::picture::{Quarantined, strips};
use crate::replay::chain_text;
use crate::site;
use crate::status::{Status, live};
use crate::trouble::{troubles, unready};

/// Serves the page. Where that can't be, records go their way all the same, and the log says why.
pub(super) fn serve(config: &Config) -> Result<Option<Server>, LedgerError> {
    let source = LowSource {
        ledger: Ledger::open(&config.state_dir)?,
        folders: Folders::of(&config.state_dir),
        name: site::name(&config.keys_dir),
        config: config.clone(),
        quarantined: Quarantined::default(),
    };
    Ok(Server::start_or_tell(config.page.clone(), source))
}

struct LowSource {
    config: Config,
    ledger: Ledger,
    folders: Folders,
    name: String,
    quarantined: Quarantined,
}

impl LowSource {
    fn gather(&mut self, now: Nanos) -> Result<Status, String> {
        let live = live(&self.folders);
        Status::gather(&mut self.ledger, &self.config.latency, now, live)
            .map_err(|err| chain_text(&err))
    }
}

impl Source for LowSource {
    fn status(&mut self) -> Result<String, String> {
        let (now, places) = (SystemClock.now(), places(&self.config));
        let status = self.gather(now)?;
        let troubles = troubles(&status, &self.config, &places, now);
        let strips = strips(&self.ledger, &status.sums.chains).map_err(|err| chain_text(&err))?;
        let mut status = serde_json::to_value(status).map_err(|err| err.to_string())?;
        page::judge(&mut status, troubles);
        status["strips"] = json!(strips);
        status["refused"] = json!(self.quarantined.newest(&self.folders.quarantine));
        Ok(page::shown(status, "low", &self.name, &places))
    }

    fn metrics(&mut self) -> Result<Numbers, String> {
        let around = Surroundings::look(&self.config);
        Ok(numbers(&self.gather(SystemClock.now())?, &around))
    }

    fn ready(&mut self) -> Result<(), String> {
        let now = SystemClock.now();
        unready(&self.gather(now)?, &self.config, &places(&self.config), now)
    }

    fn flows(&mut self) -> Vec<(String, u64)> {
        let sums = self.ledger.sums().map(|sums| sums.streams).unwrap_or_default();
        sums.into_iter().map(|sum| (sum.stream, sum.records)).collect()
    }

    fn life(&mut self, bundle: &str) -> Result<Option<String>, String> {
        page::life(self.ledger.custody_folder(), bundle)
    }
}
