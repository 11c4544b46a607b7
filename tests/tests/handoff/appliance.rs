//! A strict little appliance: it takes what has a final name and has stood still, delays it, and puts
//! it into another folder in its own clumsy way. What it sees changing after it had its final name,
//! it reports.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, UNIX_EPOCH};

/// How it behaves.
#[derive(Clone, Debug)]
pub(crate) struct Habits {
    /// Polls that a file must stand still.
    pub polls: u32,
    /// Whether it takes the file away or leaves it to be cleaned up by others.
    pub deletes: bool,
    /// Names with these endings are not looked at.
    pub ignores: Vec<&'static str>,
    /// Files that it loses: every so-manieth.
    pub loses: Option<u64>,
    /// What it calls a file on the other side.
    pub renames: fn(&str) -> String,
    /// How many bytes it writes to the other side at once, without a temporary name.
    pub writes: usize,
}

impl Default for Habits {
    fn default() -> Self {
        Self {
            polls: 2,
            deletes: true,
            ignores: vec![".partial"],
            loses: None,
            renames: str::to_owned,
            writes: 4096,
        }
    }
}

/// What it saw.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    /// Files that changed, or came again, after they had their final names.
    pub touched: Vec<String>,
    /// Every name that it took, in order.
    pub took: Vec<String>,
}

/// The running appliance.
#[derive(Debug)]
pub(crate) struct Appliance {
    stop: Arc<AtomicBool>,
    paused: Arc<AtomicBool>,
    seen: Arc<Mutex<Seen>>,
    thread: Option<JoinHandle<()>>,
}

impl Appliance {
    pub(crate) fn start(from: &Path, to: &Path, habits: Habits) -> Self {
        let (stop, paused) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
        let seen = Arc::new(Mutex::new(Seen::default()));
        let mut work = Work {
            from: from.to_owned(),
            to: to.to_owned(),
            habits,
            known: BTreeMap::new(),
            taken: BTreeSet::new(),
            count: 0,
            seen: Arc::clone(&seen),
        };
        let (ends, waits) = (Arc::clone(&stop), Arc::clone(&paused));
        let thread = thread::spawn(move || {
            while !ends.load(Ordering::Relaxed) {
                if !waits.load(Ordering::Relaxed) {
                    work.poll();
                }
                thread::sleep(POLL); // ok: it is what the appliance does
            }
        });
        Self { stop, paused, seen, thread: Some(thread) }
    }

    /// Stops taking files away, or goes on.
    pub(crate) fn pause(&self, paused: bool) {
        self.paused.store(paused, Ordering::Relaxed);
    }

    /// Ends it and gives what it saw.
    pub(crate) fn end(mut self) -> Seen {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.join().expect("the appliance does not panic");
        }
        std::mem::take(&mut *self.seen.lock().expect("no panic holds it"))
    }
}

type Stamp = (u64, u128);

struct Work {
    from: PathBuf,
    to: PathBuf,
    habits: Habits,
    known: BTreeMap<String, (Stamp, u32)>,
    taken: BTreeSet<String>,
    count: u64,
    seen: Arc<Mutex<Seen>>,
}

impl Work {
    fn poll(&mut self) {
        let mut present = BTreeMap::new();
        for entry in fs::read_dir(&self.from).into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let Ok(meta) = entry.metadata() else { continue };
            if !meta.is_file() || self.habits.ignores.iter().any(|suffix| name.ends_with(suffix)) {
                continue;
            }
            let modified =
                meta.modified().ok().and_then(|time| time.duration_since(UNIX_EPOCH).ok());
            present.insert(name, (meta.len(), modified.map_or(0, |time| time.as_nanos())));
        }
        // In the order in which they were made: a marker goes behind what it is for.
        let mut in_order: Vec<(&String, &Stamp)> = present.iter().collect();
        in_order.sort_by_key(|(_, stamp)| stamp.1);
        for (name, stamp) in in_order {
            let polls = match self.known.get(name) {
                Some((known, polls)) if known == stamp => polls + 1,
                Some(_) => {
                    self.seen.lock().expect("no panic holds it").touched.push(name.clone());
                    0
                }
                None => 0,
            };
            self.known.insert(name.clone(), (*stamp, polls));
            if polls >= self.habits.polls && (self.habits.deletes || !self.taken.contains(name)) {
                self.take(name);
            }
        }
        self.known.retain(|name, _| present.contains_key(name));
    }

    fn take(&mut self, name: &str) {
        let path = self.from.join(name);
        let Ok(content) = fs::read(&path) else { return };
        self.count += 1;
        let lost = self.habits.loses.is_some_and(|every| self.count.is_multiple_of(every));
        if !lost {
            use std::io::Write;
            let to = self.to.join((self.habits.renames)(name));
            let mut file = fs::File::create(to).expect("the other side can be written to");
            for chunk in content.chunks(self.habits.writes) {
                file.write_all(chunk).expect("the other side can be written to");
                thread::yield_now();
            }
        }
        if self.habits.deletes {
            // Somebody else may have been quicker.
            let _ = fs::remove_file(&path);
        }
        self.taken.insert(name.to_owned());
        self.seen.lock().expect("no panic holds it").took.push(name.to_owned());
    }
}

const POLL: Duration = Duration::from_millis(20);
