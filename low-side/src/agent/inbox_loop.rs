//! The thread of the inbox: waits for the file system or the clock, looks, imports.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use notify::{RecommendedWatcher, RecursiveMode, Watcher};
use shared::clock::Clock;

use super::InboxBoard;
use crate::config::InboxConfig;
use crate::folders::shown;
use crate::import::Importer;
use crate::inbox::{Inbox, Ready};
use crate::replay::chain_text;
use shared::bell::Bell;

/// For so long bundles are taken in, and one at least, before the folder is looked at again.
const TURN_MIN: Duration = Duration::from_millis(200);
/// Looking takes no more than this part of the time while there is a backlog.
const LOOK_SHARE: u32 = 4;
const NOT_WRITABLE: &str = "inbox-not-writable";
/// The shortest pause between two looks, so that a busy folder is not listed all the time.
const PAUSE_MIN: Duration = Duration::from_millis(20);

pub(super) fn run<C: Clock>(
    mut importer: Importer<C>,
    config: InboxConfig,
    bell: &Bell,
    waiting: &[Bell],
    board: &InboxBoard,
) {
    let rescan = config.rescan_interval;
    let path = config.path.clone();
    if let Err(error) = shared::durable::create_dir(&path) {
        tracing::error!(%error, path = %path.display(), "the inbox can't be made");
    }
    let mut inbox = Inbox::new(config, importer.limits.file_bytes_max);
    let mut watcher: Option<RecommendedWatcher> = None;
    // Of which kinds, and how many: each further one is told, also after those were acknowledged.
    let (mut alarmed, mut told_of) = (Vec::new(), 0);
    while !bell.stopping() {
        if watcher.is_none() {
            watcher = watch(&path, bell);
        }
        let began = Instant::now();
        let look = match inbox.look(began) {
            Ok(look) => {
                close(&mut importer, "inbox-unreadable");
                look
            }
            Err(error) => {
                raise(&mut importer, "inbox-unreadable", &format!("{}: {error}", path.display()));
                // It may have been unmounted: the watch is on a folder that is gone.
                watcher = None;
                bell.wait(rescan);
                continue;
            }
        };
        board.waiting.store(look.ready.len() as u64, Ordering::Relaxed);
        board.ignored.store(inbox.ignored, Ordering::Relaxed);
        let more = inbox.ignored > told_of;
        for (code, example) in &look.ignored {
            if more || !alarmed.contains(code) {
                let message =
                    format!("{code}: {} stays in the inbox and is not read", shown(example));
                raise(&mut importer, "inbox-ignored", &message);
            }
        }
        alarmed = look.ignored.iter().map(|(code, _)| *code).collect();
        told_of = inbox.ignored;
        if told_of == 0 {
            close(&mut importer, "inbox-ignored");
        }
        if inbox.remove_again(began) {
            close(&mut importer, NOT_WRITABLE);
        }
        let found = !look.ready.is_empty();
        // Behind a backlog an urgent bundle may come: the folder is looked at again before long. The
        // longer a look takes, the more is done between two of them.
        let mut more = false;
        let turn = TURN_MIN.max(began.elapsed() * LOOK_SHARE);
        for (at, ready) in look.ready.into_iter().enumerate() {
            if bell.stopping() {
                return;
            }
            more = at > 0 && began.elapsed() > turn;
            if more {
                break;
            }
            import(&mut importer, &mut inbox, &ready);
            waiting.iter().for_each(Bell::ring);
            board.waiting.fetch_sub(1, Ordering::Relaxed);
        }
        if more {
            continue;
        }
        // Something may have come while we were importing.
        let wait =
            if found { PAUSE_MIN } else { look.next.map_or(rescan, |next| next.min(rescan)) };
        bell.wait(wait.max(PAUSE_MIN));
        bell.rest(PAUSE_MIN);
    }
}

fn import<C: Clock>(importer: &mut Importer<C>, inbox: &mut Inbox, ready: &Ready) {
    let path = inbox.path(&ready.name);
    match importer.import(&path, ready.sidecar, |_| {}) {
        Ok(outcome) => {
            close(importer, "import-failed");
            if let Err(error) = inbox.done(&ready.name, &outcome) {
                inbox.stays(&ready.name, Instant::now());
                let message = format!(
                    "{} was imported, and can't be removed: {error}; it is tried again",
                    shown(&ready.name)
                );
                raise(importer, NOT_WRITABLE, &message);
            }
        }
        Err(error) => {
            inbox.failed(&ready.name, Instant::now());
            let found = std::fs::symlink_metadata(&path);
            if found.is_err_and(|error| error.kind() == std::io::ErrorKind::NotFound) {
                // Taken away again since it was listed.
                return;
            }
            let message =
                format!("{}: {}; it is tried again", shown(&ready.name), chain_text(&error));
            raise(importer, "import-failed", &message);
        }
    }
}

/// Rings the bell when the file system tells of a change. Without it the rescan does the work.
fn watch(path: &std::path::Path, bell: &Bell) -> Option<RecommendedWatcher> {
    let bell = bell.clone();
    let ring = move |event: notify::Result<notify::Event>| {
        // Our own reading of files is no news.
        if !matches!(event, Ok(event) if event.kind.is_access()) {
            bell.ring();
        }
    };
    let watcher = notify::recommended_watcher(ring).and_then(|mut watcher| {
        watcher.watch(path, RecursiveMode::NonRecursive)?;
        Ok(watcher)
    });
    match watcher {
        Ok(watcher) => Some(watcher),
        Err(error) => {
            tracing::warn!(%error, "the inbox can't be watched; it is listed now and then");
            None
        }
    }
}

/// An alarm is no reason to end: where the ledger can't take it, the log has it.
fn raise<C: Clock>(importer: &mut Importer<C>, code: &str, message: &str) {
    let now = importer.clock.now();
    if let Err(error) = importer.ledger.raise(code, "inbox", message, now) {
        tracing::error!(code, message, error = chain_text(&error), "an alarm can't be kept");
    }
}

fn close<C: Clock>(importer: &mut Importer<C>, code: &str) {
    let now = importer.clock.now();
    if let Err(error) = importer.ledger.close_alarm(code, "inbox", now) {
        tracing::error!(code, error = chain_text(&error), "an alarm can't be closed");
    }
}
