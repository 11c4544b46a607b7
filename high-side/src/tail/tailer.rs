//! What is known of one set of files, and the way into the buffer.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::PathBuf;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use shared::record::SourceTag;
use tokio::sync::watch;

use crate::buffer::{Incoming, IntakeClosed, Mark};
use crate::ingest::{Batch, Gate, Waiting};

use super::content::Content;
use super::counters::{FileCounters, Oldest};
use super::glob::{Key, Trouble, shown};
use super::reading::CHUNK_BYTES;
use super::scan::Stranger;
use super::{Alarm, FileSettings, mark_prefix};

/// One set of files. It does nothing by itself: [`Tailer::scan`] looks for files, [`Tailer::round`]
/// reads a piece of each.
pub(super) struct Tailer {
    pub(super) settings: FileSettings,
    pub(super) gate: Arc<Gate>,
    pub(super) counters: Arc<FileCounters>,
    pub(super) alarm: Alarm,
    shutdown: watch::Receiver<bool>,
    /// Every content of which something was read, by the number in its mark's name.
    pub(super) contents: BTreeMap<u64, Content>,
    next: u64,
    /// Files that were found and belong to no content yet.
    pub(super) strangers: HashMap<Key, Stranger>,
    /// What was told of what can't be read.
    pub(super) troubles: BTreeMap<PathBuf, Trouble>,
    pub(super) told_left_out: bool,
    /// Whether the set was read before, in this life or an earlier one.
    pub(super) is_known: bool,
    /// Marks to be stored that go with no record.
    pub(super) changed: BTreeSet<u64>,
    pub(super) removed: Vec<u64>,
    pub(super) rescan: bool,
    gauged: Option<Instant>,
    pub(super) chunk: Vec<u8>,
    pub(super) line: Vec<u8>,
}

impl Tailer {
    pub(super) fn new(
        settings: FileSettings,
        marks: &[(String, String)],
        gate: Gate,
        counters: Arc<FileCounters>,
        mut alarm: Alarm,
        shutdown: watch::Receiver<bool>,
        now: Instant,
    ) -> Self {
        let prefix = mark_prefix(&settings.name);
        let mut contents = BTreeMap::new();
        let mut removed = Vec::new();
        let mut is_known = false;
        for (name, value) in marks {
            match name.strip_prefix(&prefix) {
                Some(SET_MARK) => is_known = true,
                Some(number) => {
                    let number = number.parse().unwrap_or(0);
                    match Content::restore(value, now) {
                        Ok(content) => _ = contents.insert(number, content),
                        // No reason not to start: a file that is read again is better than none.
                        Err(err) => {
                            alarm(&format!(
                                "files {:?}: the mark {name:?} can't be understood ({err}): its file is read again",
                                settings.name
                            ));
                            removed.push(number);
                        }
                    }
                }
                None => {}
            }
        }
        let last = contents.keys().chain(&removed).max().copied();
        let next = last.map_or(1, |last| last + 1);
        Self {
            settings,
            gate: Arc::new(gate),
            counters,
            alarm,
            shutdown,
            contents,
            next,
            strangers: HashMap::new(),
            troubles: BTreeMap::new(),
            told_left_out: false,
            is_known,
            changed: BTreeSet::new(),
            removed,
            rescan: false,
            gauged: None,
            chunk: vec![0; CHUNK_BYTES],
            line: Vec::new(),
        }
    }

    pub(super) fn settings(&self) -> &FileSettings {
        &self.settings
    }

    pub(super) fn is_stopping(&self) -> bool {
        *self.shutdown.borrow()
    }

    /// Whether something was noticed that only a look at the folders can explain.
    pub(super) fn wants_scan(&self) -> bool {
        self.rescan
    }

    /// How many contents are known.
    pub(super) fn known(&self) -> usize {
        self.contents.len()
    }

    /// Takes up a content under a number of its own.
    pub(super) fn insert(&mut self, content: Content) -> u64 {
        let id = self.next;
        self.next += 1;
        self.contents.insert(id, content);
        id
    }

    /// Reads a piece of every file that has one. Tells whether there was any.
    pub(super) fn round(&mut self, now: Instant) -> Result<bool, IntakeClosed> {
        self.store_marks()?;
        let ids: Vec<u64> = self.contents.keys().copied().collect();
        let mut progress = false;
        for id in ids {
            if self.is_stopping() {
                break;
            }
            if self.look(id, now) {
                progress |= self.turn(id, now)?;
            }
        }
        self.gauge(now);
        Ok(progress)
    }

    /// The mark of a content as it is now.
    pub(super) fn mark(&self, id: u64) -> Mark {
        let value = self.contents.get(&id).map(Content::stored);
        Mark { name: format!("{}{id:08}", mark_prefix(&self.settings.name)), value }
    }

    /// Hands over the marks that changed though nothing was read.
    fn store_marks(&mut self) -> Result<(), IntakeClosed> {
        let mut marks = Vec::new();
        for id in std::mem::take(&mut self.removed) {
            self.changed.remove(&id);
            marks.push(self.mark(id));
        }
        for id in std::mem::take(&mut self.changed) {
            // Nothing is remembered of a content of which nothing was read.
            let known = |content: &Content| content.offset > 0 || content.place_is_done();
            if self.contents.get(&id).is_some_and(known) {
                marks.push(self.mark(id));
            }
        }
        // Last: only when every file that was there has its mark, the set counts as read before.
        if !std::mem::replace(&mut self.is_known, true) {
            let name = format!("{}{SET_MARK}", mark_prefix(&self.settings.name));
            marks.push(Mark { name, value: Some("1".to_owned()) });
        }
        let gate = Arc::clone(&self.gate);
        for mark in marks {
            let mut batch =
                Batch::new(&gate, Arc::new(SourceTag::new(&self.settings.name, "", None)));
            batch.mark(mark);
            if let Some(incoming) = batch.take() {
                self.hand_over(incoming)?;
            }
        }
        Ok(())
    }

    /// Hands over, and waits while the buffer takes no more. Meanwhile new files are looked for and
    /// opened: an open file can be read to its end though it is renamed and deleted.
    pub(super) fn hand_over(&mut self, incoming: Incoming) -> Result<(), IntakeClosed> {
        let gate = Arc::clone(&self.gate);
        let _waiting = Waiting::begin(&gate.counters);
        let mut submitted = pin!(gate.intake.submit(incoming));
        let waker = Waker::from(Arc::new(Unpark(thread::current())));
        let mut context = Context::from_waker(&waker);
        let mut looked = Instant::now();
        loop {
            if let Poll::Ready(result) = submitted.as_mut().poll(&mut context) {
                return result;
            }
            thread::park_timeout(self.settings.timing.poll);
            if looked.elapsed() >= self.settings.timing.poll {
                looked = Instant::now();
                self.scan(looked);
                self.gauge(looked);
            }
        }
    }

    fn gauge(&mut self, now: Instant) {
        if self.gauged.is_some_and(|then| now.saturating_duration_since(then) < GAUGE_INTERVAL) {
            return;
        }
        self.gauged = Some(now);
        let (mut open, mut backlog) = (0, 0);
        let mut oldest: Option<(&Content, Instant)> = None;
        for content in self.contents.values() {
            open += u64::from(content.is_open());
            backlog += content.backlog();
            if let Some(since) = content.unread_since
                && oldest.is_none_or(|(_, then)| since < then)
            {
                oldest = Some((content, since));
            }
        }
        let oldest = oldest.map(|(content, since)| Oldest { path: shown(&content.path), since });
        let counters = &self.counters;
        counters.files.store(self.contents.len() as u64, Ordering::Relaxed);
        counters.open.store(open, Ordering::Relaxed);
        counters.backlog_bytes.store(backlog, Ordering::Relaxed);
        counters.set_oldest(oldest);
    }
}

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// The name, behind the prefix, of the mark that says that the set was read before.
pub(super) const SET_MARK: &str = "set";

/// How often the gauges are brought up to date.
const GAUGE_INTERVAL: Duration = Duration::from_millis(200);
