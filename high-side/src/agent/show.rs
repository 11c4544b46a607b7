//! What the agent shows on its page.

use page::metrics::Numbers;
use page::{Server, Source};
use serde_json::Value;
use shared::clock::{Clock, Nanos, SystemClock};
use shared::custody::CustodyFolder;
use shared::record::Stream;

use super::numbers::numbers;
use super::report::{places, read_live};
use super::trouble::{troubles, unready};
use crate::buffer::Store;
use crate::cmd::status::gather;
use crate::config::Config;

/// Serves the page. Where that can't be, records go their way all the same, and the log says why.
pub(super) fn serve(config: &Config) -> Option<Server> {
    Server::start_or_tell(config.page.clone(), HighSource { config: config.clone() })
}

struct HighSource {
    config: Config,
}

impl HighSource {
    fn gather(&self) -> Result<Value, String> {
        Ok(self.look(SystemClock.now())?.1)
    }

    fn look(&self, now: Nanos) -> Result<(Store, Value), String> {
        let store = Store::open(&self.config.state_dir).map_err(|err| err.to_string())?;
        let live = read_live(&self.config.state_dir, now);
        let status = gather(&self.config, &store, live.as_ref(), now);
        Ok((store, status.map_err(|err| err.to_string())?))
    }
}

impl Source for HighSource {
    fn status(&mut self) -> Result<String, String> {
        let (places, now) = (places(&self.config), SystemClock.now());
        let (store, mut status) = self.look(now)?;
        let troubles = troubles(&self.config, &store, &status, &places, now);
        page::judge(&mut status, troubles.map_err(|err| err.to_string())?);
        Ok(page::shown(status, "high", self.config.origin.as_str(), &places))
    }

    fn metrics(&mut self) -> Result<Numbers, String> {
        Ok(numbers(&self.gather()?, &places(&self.config)))
    }

    fn ready(&mut self) -> Result<(), String> {
        let [buffer, _] = places(&self.config);
        unready(&self.gather()?, &buffer)
    }

    fn flows(&mut self) -> Vec<(String, u64)> {
        let counts = Store::open(&self.config.state_dir).and_then(|store| store.counts());
        let counts = counts.unwrap_or_default();
        let of = |stream: Stream| -> u64 {
            counts.iter().map(|lane| lane.received.of(stream).records).sum()
        };
        Stream::ALL.into_iter().map(|stream| (stream.to_string(), of(stream))).collect()
    }

    fn life(&mut self, bundle: &str) -> Result<Option<String>, String> {
        page::life(&CustodyFolder::at(&self.config.state_dir), bundle)
    }
}
