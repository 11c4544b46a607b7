//! Waking up when the system tells of a change, and in any case after a while.
//!
//! inotify tells nothing of a network file system's other clients, has limits that others use up, and
//! overflows. So it only ever shortens the wait.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use notify::event::{EventKind, ModifyKind};
use notify::{RecommendedWatcher, RecursiveMode, Watcher};

/// Folders that are watched, and the bell that they ring.
pub(super) struct Wake {
    watcher: Option<RecommendedWatcher>,
    folders: BTreeSet<PathBuf>,
    bell: Receiver<()>,
    folder_changed: Arc<AtomicBool>,
    woken: Option<Instant>,
    told: bool,
    /// Keeps the bell's other end alive when nothing is watched.
    _ring: SyncSender<()>,
}

impl Wake {
    pub(super) fn new(notifications: bool) -> Self {
        let (ring, bell) = sync_channel(1);
        let folder_changed = Arc::new(AtomicBool::new(false));
        let (changed, bell_rope) = (Arc::clone(&folder_changed), ring.clone());
        let on_event = move |event: notify::Result<notify::Event>| {
            let kind = event.map_or(EventKind::Any, |event| event.kind);
            match kind {
                // Our own reading is no news.
                EventKind::Access(_) => return,
                EventKind::Modify(ModifyKind::Data(_) | ModifyKind::Metadata(_)) => {}
                _ => changed.store(true, Ordering::Release),
            }
            // A bell that rings already is enough.
            let _ = bell_rope.try_send(());
        };
        let watcher = notifications.then(|| notify::recommended_watcher(on_event));
        let watcher = watcher.and_then(|watcher| {
            watcher
                .inspect_err(|error| tracing::warn!(%error, "files can't be watched: they are looked at now and then"))
                .ok()
        });
        let folders = BTreeSet::new();
        Self { watcher, folders, bell, folder_changed, woken: None, told: false, _ring: ring }
    }

    /// Watches these folders and no others.
    pub(super) fn watch(&mut self, folders: BTreeSet<PathBuf>) {
        let Some(watcher) = &mut self.watcher else { return };
        let folders: BTreeSet<PathBuf> = folders.into_iter().take(WATCHES_MAX).collect();
        for gone in self.folders.difference(&folders) {
            // The system forgets a folder that was deleted by itself.
            let _ = watcher.unwatch(gone);
        }
        let mut kept: BTreeSet<PathBuf> = self.folders.intersection(&folders).cloned().collect();
        for new in folders.difference(&self.folders) {
            match watcher.watch(new, RecursiveMode::NonRecursive) {
                Ok(()) => {
                    // What came between the listing and now was told to nobody: it is listed once more.
                    self.folder_changed.store(true, Ordering::Release);
                    kept.insert(new.clone());
                }
                Err(error) if new.is_dir() && !std::mem::replace(&mut self.told, true) => {
                    tracing::warn!(folder = %new.display(), %error, "a folder can't be watched: it is looked at now and then");
                }
                Err(_) => {}
            }
        }
        self.folders = kept;
    }

    /// Whether something in a folder came, went or changed its name since this was asked last.
    pub(super) fn folder_changed(&self) -> bool {
        self.folder_changed.swap(false, Ordering::AcqRel)
    }

    /// Waits for a change, and no longer than this.
    pub(super) fn wait(&mut self, timeout: Duration) {
        if self.bell.recv_timeout(timeout).is_ok()
            && let Some(woken) = self.woken
        {
            // A log that is written line by line would wake us for each.
            thread::sleep(WAKE_PAUSE.saturating_sub(woken.elapsed()));
        }
        self.woken = Some(Instant::now());
    }
}

/// The most folders that are watched; the others are looked at now and then. The system grants a user
/// 8,192 watches on small machines, all programs together.
const WATCHES_MAX: usize = 1024;

/// Between two wakings at least.
const WAKE_PAUSE: Duration = Duration::from_millis(20);
