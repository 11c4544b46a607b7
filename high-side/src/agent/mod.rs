//! The running agent: what is started, in which order it stops, and what ends it.
//!
//! ```text
//! start:  configuration, keys ──> buffer (recovers) ──> sealer (recovers), carriers ──> listeners ──> READY
//! stop:   listeners ──> writer drains and commits ──> sealer ──> carriers ──> last report
//! ```
//!
//! Every part is joined. One that ends early ends the process, and the service manager starts it
//! again: `kill -9` and a clean stop differ only in what was read and not committed yet.

mod custody;
mod files;
mod numbers;
mod overdue;
mod report;
mod sealing;
mod show;
mod trouble;

use std::sync::Arc;
use std::time::Duration;

use shared::clock::{Clock, SystemClock};
use shared::keys::{Officers, Recipients};
use shared::{sqlite, telemetry};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};

use crate::buffer::{Buffer, BufferSettings, Opened, Writer};
use crate::carrier::{self, RunningCarriers};
use crate::cmd::Failure;
use crate::config::Config;
use crate::guard::Guard;
use crate::ingest::{self, Protocol, ReadMemory, RunningListener, Surroundings, TlsAcceptorHandle};
use crate::reach;
use crate::reconcile::{self, RunningReconciler};
use crate::sealer::SealKeys;
use crate::tail::{self, RunningFiles};

use report::Reporter;
pub(crate) use report::places;
pub use report::{Live, read_live};
pub(crate) use trouble::troubles;

/// The time a stop may take: then what waits in memory is given up, uncommitted.
const GRACE: Duration = Duration::from_secs(20);
/// What is left of it for the carriers, at least: enough to finish a write.
const CARRIERS_GRACE: Duration = Duration::from_secs(2);
/// The read buffers of all connections together, in bytes; bodies of HTTP requests come on top.
const READ_MEMORY_BYTES: u64 = 16 << 20;
/// How often parts that should run are looked at.
const WATCH_INTERVAL: Duration = Duration::from_millis(200);

/// Everything that is wrong with keys, certificates and folders, for `check-config`.
pub fn check(config: &Config) -> Vec<String> {
    let mut problems = Vec::new();
    match SealKeys::load(&config.keys_dir) {
        Ok(_) => {}
        Err(err) => {
            problems.push(err.to_string());
            // One missing half must not hide what is wrong with the other.
            if let Err(other) = Recipients::load(&config.keys_dir)
                && other.to_string() != err.to_string()
            {
                problems.push(other.to_string());
            }
        }
    }
    for api in &config.portainer_apis {
        if let Err(err) = reconcile::Client::new(api) {
            problems.push(format!("portainer-api.{}: {err}", api.name));
        }
    }
    if config.release.any_reviewed() {
        let required = config.release.required;
        match Officers::load(&config.keys_dir) {
            Ok(officers) if officers.halves().len() < required => problems.push(format!(
                "release.required: {required} officer(s) have to release a bundle and {} are known\n    try: penstock-high officer add FILE",
                officers.halves().len()
            )),
            Ok(_) => {}
            Err(err) => problems.push(err.to_string()),
        }
    }
    problems.extend(Guard::new(&config.guard).err().map(|err| err.to_string()));
    for listener in &config.listeners {
        if let Some(err) = ingest::check(listener) {
            problems.push(format!("listener.{}: {err}", listener.name));
        }
        if let Some(tls) = listener.protocol.tls()
            && let Err(err) = TlsAcceptorHandle::load(tls.clone())
        {
            problems.push(format!("listener.{}: {err}", listener.name));
        }
    }
    for set in &config.files {
        let unreadable = tail::check(set).into_iter();
        problems.extend(unreadable.map(|problem| format!("file.{}: {problem}", set.name)));
    }
    for (key, path) in [("state-dir", &config.state_dir), ("outbox.path", &config.outbox.path)] {
        // One that is not there yet is made.
        let problem = path.exists().then(|| carrier::writable_folder(path)).flatten();
        problems.extend(problem.map(|problem| format!("{key}: {problem}")));
    }
    for carrier in &config.carriers {
        let wrong = carrier::check(carrier).into_iter();
        problems.extend(wrong.map(|problem| format!("carrier.{}: {problem}", carrier.name)));
    }
    problems
}

/// Runs until told to stop.
pub fn run(config: Config) -> Result<(), Failure> {
    telemetry::init(config.log_level, config.log_format);
    shared::custody::act_as_agent();
    confine(&config)?;
    let keys = SealKeys::load(&config.keys_dir)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(WORKER_THREADS)
        .thread_name("listen")
        .enable_all()
        .build()
        .map_err(|err| Failure::new(format!("can't start the runtime: {err}")))?;
    let ended = runtime.block_on(run_parts(config, keys));
    // What hangs on a disk must not keep the process: it is as if it was killed there.
    runtime.shutdown_background();
    ended
}

/// Gives up whatever the configuration does not name, before the first thread starts.
fn confine(config: &Config) -> Result<(), Failure> {
    // What is there can be named to the kernel. What can't be made is told by what needs it.
    for dir in [&config.state_dir, &config.outbox.path] {
        let _ = shared::durable::create_dir(dir);
    }
    if let Err(error) = sqlite::keep_temporary_files(&config.state_dir) {
        tracing::warn!(%error, "the buffer's temporary files can't be kept in the state folder");
    }
    let reach = reach::reach(config);
    reach.check_credentials().map_err(Failure::config)?;
    let confinement =
        shared::reach::confine(&reach, config.hardening.landlock).map_err(Failure::config)?;
    tracing::info!("{confinement}");
    Ok(())
}

/// Two threads carry hundreds of thousands of records a second; the rest is for writer and sealer.
const WORKER_THREADS: usize = 2;

async fn run_parts(config: Config, keys: SealKeys) -> Result<(), Failure> {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let mut signals = Signals::new()?;
    let (mut buffer, recovery) =
        Buffer::open(buffer_settings(&config), &config.origin, Arc::clone(&clock))?;
    tell_opened(&recovery.opened, recovery.epoch.0);
    let (intake, writer) = buffer.start_writer()?;
    let custody = custody::start(&config, &clock)?;
    let (carriers, sealing) = sealing::start(&config, &keys, &clock)?;
    let (stop_listeners, shutdown) = watch::channel(false);
    reconcile::begin(&config, &intake, clock.now()).await?;
    let surroundings = Surroundings {
        intake,
        guard: Arc::new(guard(&config)?),
        clock: Arc::clone(&clock),
        memory: ReadMemory::new(READ_MEMORY_BYTES + body_memory_bytes(&config)),
        shutdown,
    };
    let listeners = start_listeners(&config, &surroundings)?;
    let reconciler = (!config.portainer_apis.is_empty()).then(|| {
        let apis = config.portainer_apis.clone();
        reconcile::spawn(apis, config.state_dir.clone(), &surroundings)
    });
    let files = files::start(&config, &buffer, &surroundings)?;
    let reporter = Reporter::new(clock.now());
    let mut parts = Parts {
        config,
        clock,
        buffer,
        writer,
        sealing,
        carriers,
        custody,
        listeners,
        reconciler,
        files,
        reporter,
    };
    parts.report(true);
    let _page = show::serve(&parts.config);
    // Outside of a service manager there is nobody to tell.
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);
    tracing::info!(origin = %parts.config.origin, epoch = recovery.epoch.0, listeners = parts.listeners.len(), "ready");

    let fault = parts.watch(&mut signals).await;
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Stopping]);
    tracing::info!("stopping");
    let _ = stop_listeners.send(true);
    let stopped = tokio::select! {
        stopped = parts.stop(surroundings) => stopped,
        () = signals.second() => Err(Failure::new("told to stop a second time: stopped at once")),
    };
    match fault {
        Some(fault) => Err(fault),
        None => stopped,
    }
}

/// The export guard, by the rules of a configuration.
pub(crate) fn guard(config: &Config) -> Result<Guard, Failure> {
    Guard::new(&config.guard).map_err(Failure::config)
}

/// The buffer's settings in a configuration.
pub(crate) fn buffer_settings(config: &Config) -> BufferSettings {
    BufferSettings {
        quota_bytes: config.buffer.quota.0,
        free_disk_floor_bytes: config.buffer.free_disk_floor.0,
        commit_records: config.buffer.commit_records,
        commit_bytes: config.buffer.commit_bytes.0,
        commit_interval: config.buffer.commit_interval.0,
        in_flight_bytes: config.buffer.in_flight.0,
        ..BufferSettings::new(&config.state_dir)
    }
}

fn tell_opened(opened: &Opened, epoch: u64) {
    match opened {
        Opened::Continued => tracing::info!(epoch, "the buffer goes on where it stopped"),
        Opened::Created => tracing::info!(epoch, "a new buffer begins"),
        // The buffer logged and raised an alarm already; nothing is to be added here.
        Opened::SetAside { .. } => {}
    }
}

fn start_listeners(
    config: &Config,
    surroundings: &Surroundings,
) -> Result<Vec<RunningListener>, Failure> {
    if config.listeners.is_empty() && config.files.is_empty() {
        tracing::warn!("no listener and no file is configured: nothing will be received");
    }
    config
        .listeners
        .iter()
        .map(|settings| ingest::spawn(settings.clone(), surroundings).map_err(Failure::new))
        .collect()
}

/// The longest body of an HTTP request, twice: as it came, and decompressed.
fn body_memory_bytes(config: &Config) -> u64 {
    let longest = config.listeners.iter().filter_map(|listener| match &listener.protocol {
        Protocol::Http(settings) => Some(settings.body_bytes_max),
        _ => None,
    });
    longest.max().unwrap_or(0) as u64 * 2
}

/// What runs.
struct Parts {
    config: Config,
    clock: Arc<dyn Clock>,
    buffer: Buffer,
    writer: Writer,
    sealing: sealing::Sealing,
    carriers: RunningCarriers,
    custody: custody::Custody,
    listeners: Vec<RunningListener>,
    reconciler: Option<RunningReconciler>,
    files: Vec<RunningFiles>,
    reporter: Reporter,
}

impl Parts {
    /// Waits for a signal to stop (`None`) or for a part that ended early (its fault).
    async fn watch(&mut self, signals: &mut Signals) -> Option<Failure> {
        let mut ticks = tokio::time::interval(WATCH_INTERVAL);
        loop {
            tokio::select! {
                _ = ticks.tick() => {
                    if let Some(part) = self.ended_early() {
                        tracing::error!(part, "a part of the agent ended; the agent stops");
                        return Some(Failure::new(format!("{part} ended unexpectedly")));
                    }
                    self.report(false);
                }
                _ = signals.interrupt.recv() => return None,
                _ = signals.terminate.recv() => return None,
                _ = signals.hangup.recv() => self.reload(),
            }
        }
    }

    fn ended_early(&self) -> Option<&'static str> {
        if self.writer.is_finished() {
            return Some("the buffer's writer");
        }
        if self.sealing.is_finished() {
            return Some("the sealer");
        }
        if self.carriers.any_finished() {
            return Some("a carrier");
        }
        if self.custody.is_finished() {
            return Some("the custody log");
        }
        if self.reconciler.as_ref().is_some_and(|reconciler| reconciler.task.is_finished()) {
            return Some("reconciliation");
        }
        if self.files.iter().any(|files| files.task.is_finished()) {
            return Some("a reader of files");
        }
        self.listeners.iter().any(|listener| listener.task.is_finished()).then_some("a listener")
    }

    /// Takes up new certificates and keys; what can't be used is told, and the old stays.
    fn reload(&mut self) {
        for listener in &self.listeners {
            let Some(tls) = &listener.tls else { continue };
            match tls.reload() {
                Ok(()) => tracing::info!(listener = %listener.name, "certificate loaded again"),
                Err(err) => {
                    tracing::error!(listener = %listener.name, %err, "the new certificate can't be used; the old one stays");
                }
            }
        }
        match SealKeys::load(&self.config.keys_dir) {
            Ok(keys) => {
                tracing::info!(
                    recipients = keys.recipients().halves().len(),
                    officers = keys.officers().halves().len(),
                    "keys loaded again"
                );
                self.sealing.set_keys(&keys);
            }
            Err(err) => tracing::error!(%err, "the new keys can't be used; the old ones stay"),
        }
    }

    fn report(&mut self, now: bool) {
        self.reporter.write(
            &self.config,
            &self.buffer.gauges(),
            report::Sources {
                listeners: &self.listeners,
                files: &self.files,
                reconciling: self.reconciler.as_ref().map(|reconciler| &reconciler.status),
            },
            report::Going { sealing: &self.sealing, carriers: &self.carriers },
            self.clock.now(),
            now,
        );
    }

    /// Stops everything in order; gives up what can't be committed within the grace period, which is
    /// one for all of it.
    async fn stop(mut self, surroundings: Surroundings) -> Result<(), Failure> {
        let deadline = Instant::now() + GRACE;
        let mut result = Ok(());
        if let Some(reconciler) = self.reconciler.take()
            && let Err(err) = reconciler.task.await
            && err.is_panic()
        {
            result = Err(Failure::new("reconciliation panicked"));
        }
        for listener in std::mem::take(&mut self.listeners) {
            match timeout_at(deadline, listener.task).await {
                Ok(Ok(Ok(()))) => {}
                Ok(Ok(Err(err))) => result = Err(Failure::new(err)),
                Ok(Err(_)) => {
                    let name = &listener.name;
                    result = Err(Failure::new(format!("listener {name:?} panicked")));
                }
                Err(_) => {
                    tracing::warn!(listener = %listener.name, "did not stop in time; what it holds is given up");
                    self.writer.give_up();
                }
            }
        }
        for files in std::mem::take(&mut self.files) {
            if let Err(failure) = files::join(files, deadline, &self.writer).await {
                result = Err(failure);
            }
        }
        drop(surroundings);
        let Self { writer, sealing, carriers, custody, buffer, .. } = self;
        let waited = timeout_at(deadline, async {
            while !writer.has_ended() {
                tokio::time::sleep(WATCH_INTERVAL / 10).await;
            }
        });
        if waited.await.is_err() {
            tracing::warn!("the buffer takes no more; what waits in memory is given up");
            writer.give_up();
        }
        let joined = tokio::task::spawn_blocking(move || {
            let stats = writer.join();
            let sealed = sealing.stop();
            carriers.stop(deadline.saturating_duration_since(Instant::now()).max(CARRIERS_GRACE));
            custody.stop(deadline.saturating_duration_since(Instant::now()).max(CARRIERS_GRACE));
            drop(buffer);
            (stats, sealed)
        });
        let (stats, sealed) = joined.await.map_err(|_| Failure::new("stopping failed"))?;
        let stats = stats?;
        sealed?;
        tracing::info!(records = stats.records, commits = stats.commits, "stopped");
        result
    }
}

/// The signals that the agent answers.
struct Signals {
    hangup: Signal,
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    fn new() -> Result<Self, Failure> {
        let of =
            |kind| signal(kind).map_err(|err| Failure::new(format!("can't take signals: {err}")));
        Ok(Self {
            hangup: of(SignalKind::hangup())?,
            interrupt: of(SignalKind::interrupt())?,
            terminate: of(SignalKind::terminate())?,
        })
    }

    /// Told to stop once more, while stopping.
    async fn second(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}
