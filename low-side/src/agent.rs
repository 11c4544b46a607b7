//! `penstock-low run`: recovery, then one thread for the inbox, one for each receiver, each archive and
//! each sink, one for the status, until a signal.
//!
//! A thread that ends early ends the process with an error; systemd starts it again. `kill -9` is a
//! supported way to stop: everything below `recover` is the ordinary path of every start.

mod housekeeping;
mod inbox_loop;
pub(crate) mod recover;
mod show;
mod watch_receivers;
mod watch_sinks;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use sd_notify::NotifyState;
use shared::clock::{Clock, SystemClock};
use shared::{durable, sqlite};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

use crate::admitted_before::AdmittedBefore;
use crate::archive;
use crate::archive::worker::{ArchiveBoard, Archiver};
use crate::config::Config;
use crate::folders::Folders;
use crate::import::{Arrivals, Importer, KeyRing, Keys, Source};
use crate::ledger::{CustodyError, Keeping, Ledger, open_or_set_aside};
use crate::reach;
use crate::receiver::config::ReceiverConfig;
use crate::receiver::{self, ReceiverCounters, Reception};
use crate::replay::{HealthBoard, Replayer, chain_text};
use crate::retention::{Letters, Retention};
use crate::sink;
use crate::sink::config::SinkKind;
use crate::sink::dead_letters::DeadLetters;
use shared::bell::Bell;

/// How long the threads may take to end in order: longer than a sync on a slow disk.
const GRACE: Duration = Duration::from_secs(20);

/// What the inbox shows to the status.
#[derive(Clone, Debug, Default)]
struct InboxBoard {
    waiting: Arc<AtomicU64>,
    ignored: Arc<AtomicU64>,
}

/// What sinks, archives and receivers show to the status.
struct Boards {
    sinks: Vec<(String, HealthBoard)>,
    archives: Vec<(String, ArchiveBoard)>,
    receivers: Vec<(ReceiverConfig, Arc<ReceiverCounters>)>,
}

/// Runs until SIGTERM or SIGINT.
pub fn run(config: &Config, config_file: &Path) -> anyhow::Result<()> {
    harden();
    shared::custody::act_as_agent();
    let clock = SystemClock;
    let folders = Folders::of(&config.state_dir);
    folders.create().with_context(|| config.state_dir.display().to_string())?;
    for dir in config.sinks.iter().filter_map(|sink| match &sink.kind {
        SinkKind::File(file) => Some(&file.dir),
        _ => None,
    }) {
        // The sink makes it, too, and says what is wrong: what is not there now, it may not make later.
        let _ = durable::create_dir(dir);
    }
    // Before the first thread starts.
    sqlite::keep_temporary_files(&config.state_dir).context("ledger.db")?;
    let reach = reach::reach(config, config_file);
    reach.check_credentials()?;
    tracing::info!("{}", shared::reach::confine(&reach, config.hardening.landlock)?);
    let Some(_lock) = folders.lock_agent().context("agent.lock")? else {
        bail!(
            "another agent runs on {}\n  try: systemctl status penstock-low",
            config.state_dir.display()
        );
    };
    let keys = KeyRing::new(Keys::load(&config.keys_dir, &config.releases)?);
    let opened = open_or_set_aside(&config.state_dir, clock.now())?;
    let lost = opened.created;
    let arrivals = Arrivals::default();
    let importer = Importer {
        folders: folders.clone(),
        ledger: opened.ledger,
        keys: keys.clone(),
        limits: config.limits,
        admission: config.admission,
        clock,
        source: Source::Inbox(arrivals.clone()),
        log: Some(AdmittedBefore::of(&config.state_dir, &config.keys_dir)),
        rebuilding: false,
        word: None,
    };
    let mut importer = recover::recover(importer, lost, opened.set_aside.as_deref())?;
    // Before any sink asks what it may have.
    let keeping: Vec<_> = config
        .archives
        .iter()
        .map(|archive| Keeping { name: &archive.name, before: archive.before })
        .collect();
    let archive_ids = importer.ledger.set_archives(&keeping, clock.now())?;
    // The end of the custody log is compared with what the ledger knows, also where nothing waits.
    told(importer.ledger.settle_custody(true, clock.now()));

    let mut threads = Threads::new();
    let mut boards = Vec::new();
    let mut bells = Vec::new();
    for sink in &config.sinks {
        let bell = threads.bell();
        let mut ledger = Ledger::open(&config.state_dir)?;
        let id = ledger.sink(&sink.name)?;
        let health = HealthBoard::default();
        let replayer = Replayer {
            name: sink.name.clone(),
            id,
            sink: sink::make(sink, id, clock, bell.clone()),
            batch: sink.batch,
            retry: sink.retry,
            records_per_second: sink.records_per_second,
            filter: sink.filter.clone(),
            dead_letters: DeadLetters::of(&config.state_dir, &sink.name),
            dead_letter_bytes: sink.dead_letter_bytes,
            ledger,
            store: folders.store.clone(),
            keys: keys.clone(),
            limits: config.limits,
            clock,
            bell: bell.clone(),
            health: health.clone(),
        };
        boards.push((sink.name.clone(), health));
        bells.push(bell);
        threads.start_replayer(replayer)?;
    }
    let mut archives = Vec::new();
    let mut admitted_bells = bells.clone();
    for (settings, id) in config.archives.iter().zip(archive_ids) {
        let bell = threads.bell();
        let clock: Arc<dyn Clock> = Arc::new(clock);
        let board = ArchiveBoard::default();
        let worker = Archiver {
            config: settings.clone(),
            id,
            archive: archive::make(settings, None, &clock, &bell),
            ledger: Ledger::open(&config.state_dir)?,
            store: folders.store.clone(),
            limits: config.limits,
            clock,
            bell: bell.clone(),
            sinks: bells.clone(),
            board: board.clone(),
        };
        archives.push((settings.name.clone(), board));
        admitted_bells.push(bell);
        threads.start(&format!("archive-{}", settings.name), move || worker.run())?;
    }
    let mut sink_ids = Vec::new();
    let mut ledger = Ledger::open(&config.state_dir)?;
    for sink in &config.sinks {
        sink_ids.push((sink.name.clone(), ledger.sink(&sink.name)?));
    }
    let retention = Retention {
        config: config.store,
        folders: folders.clone(),
        ledger,
        sinks: sink_ids,
        limits: config.limits,
        clock,
        letters: Letters::default(),
    };
    let bell = threads.bell();
    threads.start("store", move || retention.run(&bell))?;
    let inbox = InboxBoard::default();
    let (bell, board, config_inbox) = (threads.bell(), inbox.clone(), config.inbox.clone());
    threads.start("inbox", move || {
        inbox_loop::run(importer, config_inbox, &bell, &admitted_bells, &board);
    })?;
    let mut receivers = Vec::new();
    for settings in &config.receivers {
        let bell = threads.bell();
        let reception = Reception::new(&settings.name, &config.inbox.path, &config.state_dir, bell)
            .telling(arrivals.clone());
        receivers.push((settings.clone(), Arc::clone(reception.counters())));
        let receiver = receiver::make(settings, config.limits.file_bytes_max, &keys);
        threads.start(&format!("receive-{}", settings.name), move || {
            receiver::run(receiver, &reception);
        })?;
    }
    let bell = threads.bell();
    let keeper = housekeeping::Keeper::new(
        config,
        Ledger::open(&config.state_dir)?,
        keys.clone(),
        inbox,
        Boards { sinks: boards, archives, receivers },
        bells,
        clock,
    );
    threads.start("housekeeping", move || keeper.run(&bell))?;
    let _page = show::serve(config)?;

    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(wait(config, &keys, threads))
}

/// Waits for a signal or for a thread that ends early; then ends the threads in order.
async fn wait(config: &Config, keys: &KeyRing, mut threads: Threads) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut hangup = signal(SignalKind::hangup())?;
    let _ = sd_notify::notify(&[NotifyState::Ready]);
    tracing::info!("the agent is ready");
    let early = loop {
        tokio::select! {
            _ = terminate.recv() => break None,
            _ = interrupt.recv() => break None,
            _ = hangup.recv() => reload(config, keys),
            ended = threads.ended.recv() => break ended,
        }
    };
    let _ = sd_notify::notify(&[NotifyState::Stopping]);
    threads.bells.iter().for_each(Bell::stop);
    let joined = tokio::task::spawn_blocking(move || threads.join());
    tokio::select! {
        joined = joined => joined??,
        _ = terminate.recv() => bail!("stopped at once by a second signal"),
        _ = interrupt.recv() => bail!("stopped at once by a second signal"),
    }
    if let Some(name) = early {
        bail!("the thread {name} ended early; see the log");
    }
    close_custody(config);
    tracing::info!("the agent has stopped");
    Ok(())
}

/// Everything is noted by now: the custody log is written to its end, and signed.
fn close_custody(config: &Config) {
    let now = SystemClock.now();
    let closed = Ledger::open_existing(&config.state_dir).map_err(CustodyError::from).and_then(
        |mut ledger| {
            housekeeping::sign(&mut ledger, &config.keys_dir, None, now)?;
            ledger.settle_custody(false, now)
        },
    );
    told(closed);
}

/// What could not be written waits in the ledger, and an alarm says so.
fn told(result: Result<(), CustodyError>) {
    if let Err(error) = result {
        tracing::warn!(error = chain_text(&error), "the custody log could not be written now");
    }
}

/// SIGHUP: signers, revocations and decryption keys are read again. The old ones stay where the new
/// ones can't be used.
fn reload(config: &Config, keys: &KeyRing) {
    match Keys::load(&config.keys_dir, &config.releases) {
        Ok(new) => {
            keys.replace(new);
            tracing::info!("the keys were read again");
        }
        Err(error) => tracing::error!(%error, "the keys can't be read; the old ones stay in use"),
    }
}

/// Secrets are in memory: no core dumps, no debugger of the same user.
fn harden() {
    if let Err(error) = shared::process::forbid_core_dumps() {
        tracing::warn!(%error, "core dumps can't be turned off");
    }
}

/// The threads of the agent, by name.
struct Threads {
    bells: Vec<Bell>,
    handles: Vec<(String, JoinHandle<()>)>,
    sender: mpsc::Sender<String>,
    ended: mpsc::Receiver<String>,
}

/// Tells of the end of a thread, also where it panics.
struct TellEnd(String, mpsc::Sender<String>);

impl Drop for TellEnd {
    fn drop(&mut self) {
        // Full means that another end was told already.
        let _ = self.1.try_send(self.0.clone());
    }
}

impl Threads {
    fn new() -> Self {
        let (sender, ended) = mpsc::channel(1);
        Self { bells: Vec::new(), handles: Vec::new(), sender, ended }
    }

    fn bell(&mut self) -> Bell {
        let bell = Bell::default();
        self.bells.push(bell.clone());
        bell
    }

    fn start(&mut self, name: &str, body: impl FnOnce() + Send + 'static) -> anyhow::Result<()> {
        let tell = TellEnd(name.to_owned(), self.sender.clone());
        let thread = thread::Builder::new().name(name.to_owned());
        let handle = thread.spawn(move || {
            let _tell = tell;
            body();
        })?;
        self.handles.push((name.to_owned(), handle));
        Ok(())
    }

    fn start_replayer(&mut self, replayer: Replayer<SystemClock>) -> anyhow::Result<()> {
        let name = format!("sink-{}", replayer.name);
        self.start(&name, move || replayer.run())
    }

    fn join(self) -> anyhow::Result<()> {
        let deadline = Instant::now() + GRACE;
        for (name, handle) in self.handles {
            while !handle.is_finished() {
                if Instant::now() >= deadline {
                    bail!("the thread {name} did not end in time");
                }
                thread::sleep(Duration::from_millis(5));
            }
            if handle.join().is_err() {
                bail!("the thread {name} panicked");
            }
        }
        Ok(())
    }
}
