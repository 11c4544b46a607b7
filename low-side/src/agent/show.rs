//! What the agent shows on its page.

use page::metrics::Numbers;
use page::{Server, Source};
use shared::clock::{Clock, SystemClock};

use crate::config::Config;
use crate::folders::Folders;
use crate::ledger::{Ledger, LedgerError};
use crate::metrics::{Surroundings, numbers, places};
use crate::replay::chain_text;
use crate::site;
use crate::status::{Status, live};

/// Serves the page. Where that can't be, records go their way all the same, and the log says why.
pub(super) fn serve(config: &Config) -> Result<Option<Server>, LedgerError> {
    let source = LowSource {
        ledger: Ledger::open(&config.state_dir)?,
        folders: Folders::of(&config.state_dir),
        name: site::name(&config.keys_dir),
        config: config.clone(),
    };
    Ok(Server::start_or_tell(config.page.clone(), source))
}

struct LowSource {
    config: Config,
    ledger: Ledger,
    folders: Folders,
    name: String,
}

impl LowSource {
    fn gather(&mut self) -> Result<Status, String> {
        let live = live(&self.folders);
        Status::gather(&mut self.ledger, &self.config.latency, SystemClock.now(), live)
            .map_err(|err| chain_text(&err))
    }
}

impl Source for LowSource {
    fn status(&mut self) -> Result<String, String> {
        let status = serde_json::to_value(self.gather()?).map_err(|err| err.to_string())?;
        Ok(page::shown(status, "low", &self.name, &places(&self.config)))
    }

    fn metrics(&mut self) -> Result<Numbers, String> {
        let around = Surroundings::look(&self.config);
        Ok(numbers(&self.gather()?, &around))
    }

    fn ready(&mut self) -> Result<(), String> {
        self.gather()?;
        if !self.config.inbox.path.is_dir() {
            return Err(format!("{} is no folder", self.config.inbox.path.display()));
        }
        let [store, _] = places(&self.config);
        store.has_room()
    }

    fn flows(&mut self) -> Vec<(String, u64)> {
        let sums = self.ledger.sums().map(|sums| sums.streams).unwrap_or_default();
        sums.into_iter().map(|sum| (sum.stream, sum.records)).collect()
    }

    fn life(&mut self, bundle: &str) -> Result<Option<String>, String> {
        page::life(self.ledger.custody_folder(), bundle)
    }
}
