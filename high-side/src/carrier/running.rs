//! The carriers' threads.

use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use shared::bell::Bell;
use shared::clock::Clock;

use super::{Carriage, Carrier, CarrierCounters, make};
use crate::config::{CarrierSettings, Config};
use crate::sealer::SealerError;

/// All carriers of the running agent.
#[derive(Debug, Default)]
pub struct RunningCarriers {
    carriers: Vec<Running>,
}

#[derive(Debug)]
struct Running {
    settings: CarrierSettings,
    counters: Arc<CarrierCounters>,
    bell: Bell,
    thread: JoinHandle<()>,
}

/// How one carrier goes.
#[derive(Debug)]
pub struct CarrierStatus {
    /// Its name.
    pub name: String,
    /// What it counts.
    pub counters: Arc<CarrierCounters>,
}

impl RunningCarriers {
    /// Starts one thread for each section.
    pub fn start(config: &Config, clock: &Arc<dyn Clock>) -> Result<Self, SealerError> {
        let mut carriers = Vec::new();
        for settings in &config.carriers {
            let bell = Bell::default();
            let carriage = Carriage::open(config, settings, Arc::clone(clock), bell.clone())?;
            let counters = Arc::clone(&carriage.counters);
            let carrier = make(settings);
            let thread = thread::Builder::new()
                .name(format!("carry-{}", settings.name))
                .spawn(move || run(carrier, carriage))
                .map_err(SealerError::io(&config.state_dir))?;
            carriers.push(Running { settings: settings.clone(), counters, bell, thread });
        }
        Ok(Self { carriers })
    }

    /// The bells to ring when a bundle is ready.
    pub fn bells(&self) -> Vec<Bell> {
        self.carriers.iter().map(|carrier| carrier.bell.clone()).collect()
    }

    /// Whether one ended although nobody told it to.
    pub fn any_finished(&self) -> bool {
        self.carriers.iter().any(|carrier| carrier.thread.is_finished())
    }

    /// How each one goes.
    pub fn statuses(&self) -> Vec<CarrierStatus> {
        let status = |carrier: &Running| CarrierStatus {
            name: carrier.settings.name.clone(),
            counters: Arc::clone(&carrier.counters),
        };
        self.carriers.iter().map(status).collect()
    }

    /// The same, for the status file.
    pub fn snapshot(&self) -> Vec<Value> {
        let snapshot = |carrier: &Running| {
            json!({
                "name": carrier.settings.name,
                "type": carrier.settings.kind.as_str(),
                "lanes": carrier.settings.lanes,
                "counters": carrier.counters.snapshot(),
            })
        };
        self.carriers.iter().map(snapshot).collect()
    }

    /// Tells all of them to end and waits, but no longer than `grace`: a thread that hangs in a folder
    /// whose server is gone ends with the process. What it was doing is done again by the next start.
    pub fn stop(self, grace: Duration) {
        self.carriers.iter().for_each(|carrier| carrier.bell.stop());
        let deadline = Instant::now() + grace;
        for carrier in self.carriers {
            let name = &carrier.settings.name;
            while !carrier.thread.is_finished() && Instant::now() < deadline {
                thread::sleep(JOIN_PAUSE);
            }
            if !carrier.thread.is_finished() {
                tracing::warn!(carrier = %name, "a carrier did not stop in time; what it does is given up");
            } else if carrier.thread.join().is_err() {
                tracing::error!(carrier = %name, "a carrier panicked");
            }
        }
    }
}

fn run(mut carrier: Box<dyn Carrier>, mut carriage: Carriage) {
    while !carriage.is_stopping() {
        if let Err(err) = carrier.run(&mut carriage) {
            carriage.failed(&err);
            if let SealerError::Io { path, .. } | SealerError::Seal { path, .. } = &err
                && path.parent() == Some(carriage.outbox.dir())
                && let Some(name) = path.file_name()
            {
                let name = name.to_string_lossy().into_owned();
                if let Err(err) = carriage.unreadable(&name, &err) {
                    carriage.failed(&err);
                }
            }
            carriage.bell.rest(RETRY_INTERVAL);
            carriage.reopen();
        }
    }
}

/// After a failure, how long until the next try.
const RETRY_INTERVAL: Duration = Duration::from_secs(1);
const JOIN_PAUSE: Duration = Duration::from_millis(5);
