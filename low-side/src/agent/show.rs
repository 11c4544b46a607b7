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

#[cfg(test)]
mod tests {
    use std::path::Path;

    use rusqlite::Connection;
    use serde_json::Value;

    use super::*;

    #[test]
    fn ten_thousand_gaps_make_a_page_no_larger_than_a_hundred() {
        let dir = tempfile::tempdir().unwrap();
        let inbox = tempfile::tempdir().unwrap();
        let text = format!("state-dir = {:?}\n[inbox]\npath = {:?}\n", dir.path(), inbox.path());
        let config = Config::from_text(&text, Path::new("low.toml")).unwrap();
        let folders = Folders::of(&config.state_dir);
        folders.create().unwrap();
        let ledger = Ledger::open(&config.state_dir).unwrap();
        let quarantined = Quarantined::default();
        let mut source =
            LowSource { ledger, folders, name: "soc-1".to_owned(), config, quarantined };
        let mut by_hand = Connection::open(dir.path().join("ledger.db")).unwrap();
        let tx = by_hand.transaction().unwrap();
        tx.execute(
            "INSERT INTO chain (id, origin, epoch, lane, bundles, last_ns) VALUES (1, 'plant-7', 1, 'flash', 190000, 5)",
            [],
        )
        .unwrap();
        for gap in 1..=10_000_i64 {
            let gap = [gap * 20, gap];
            tx.execute(
                "INSERT INTO gap (chain, first, last, noticed_ns) VALUES (1, ?1, ?1, ?2)",
                gap,
            )
            .unwrap();
        }
        tx.commit().unwrap();
        let told = source.status().unwrap();
        assert!(told.len() < 40_000, "{}", told.len());
        let status: Value = serde_json::from_str(&told).unwrap();
        let gaps = status["gaps"].as_array().unwrap();
        assert_eq!((gaps.len(), &gaps[99]["first"]), (100, &json!(200_000)), "the newest");
        assert_eq!((&status["gaps-holding"], &status["gaps-passed"]), (&json!(10_000), &json!(0)));
        let missing = status["strips"][0]["missing"].as_array().unwrap();
        assert!(missing.len() <= 240, "{}", missing.len());
        assert_eq!(missing.iter().filter_map(Value::as_u64).sum::<u64>(), 10_000);
        assert_eq!(status["verdict"]["level"], "bad", "no agent runs here");
        assert!(status["troubles"].to_string().contains("10000 bundles are missing"));
    }
}
