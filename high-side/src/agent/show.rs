//! What the agent shows on its page.

use page::metrics::Numbers;
use page::{Server, Source};
use serde_json::Value;
use shared::clock::{Clock, SystemClock};
use shared::custody::CustodyFolder;
use shared::record::Stream;

use super::numbers::numbers;
use super::report::{places, read_live};
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
        let store = Store::open(&self.config.state_dir).map_err(|err| err.to_string())?;
        let now = SystemClock.now();
        let live = read_live(&self.config.state_dir, now);
        gather(&self.config, &store, live.as_ref(), now).map_err(|err| err.to_string())
    }
}

impl Source for HighSource {
    fn status(&mut self) -> Result<String, String> {
        let places = places(&self.config);
        Ok(page::shown(self.gather()?, "high", self.config.origin.as_str(), &places))
    }

    fn metrics(&mut self) -> Result<Numbers, String> {
        Ok(numbers(&self.gather()?, &places(&self.config)))
    }

    fn ready(&mut self) -> Result<(), String> {
        let status = self.gather()?;
        match status["live"]["writer"]["state"].as_str() {
            None => Err("the agent has not said for a while what it does".to_owned()),
            Some("flowing") => {
                let [buffer, _] = places(&self.config);
                buffer.has_room()
            }
            Some(state) => Err(format!("the buffer takes nothing: {state}")),
        }
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
