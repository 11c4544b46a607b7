//! A receiver that counts: total, unique and repeated messages, by a bitmap of their ids.

use std::io::{self, Read};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Instant;

use memchr::memmem;
use serde_json::{Value, json};

use crate::oracle::{ID_DIGITS, ID_PREFIX, find_id};

/// Listens and counts until it is dropped with the process.
#[derive(Clone, Debug)]
pub struct CountingSink {
    address: SocketAddr,
    state: Arc<Mutex<State>>,
}

/// What has arrived.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Counts {
    /// Messages, repeated ones included.
    pub total: u64,
    /// Different ids.
    pub unique: u64,
    /// Ids that had been there before.
    pub repeated: u64,
    /// Bytes.
    pub bytes: u64,
    /// From the first byte to the last, in seconds.
    pub seconds: f64,
}

impl Counts {
    /// The counts as they are printed.
    pub fn to_json(&self) -> Value {
        json!({
            "total": self.total,
            "unique": self.unique,
            "duplicates": self.repeated,
            "bytes": self.bytes,
            "seconds": self.seconds,
            "per_second": (self.total as f64 / self.seconds.max(f64::MIN_POSITIVE)).round(),
        })
    }
}

#[derive(Debug, Default)]
struct State {
    counts: Counts,
    seen: Vec<u64>,
    first: Option<Instant>,
    last: Option<Instant>,
}

impl CountingSink {
    /// Begins to listen.
    pub fn listen(address: SocketAddr) -> io::Result<Self> {
        let listener = TcpListener::bind(address)?;
        let sink = Self { address: listener.local_addr()?, state: Arc::default() };
        let state = sink.state.clone();
        thread::Builder::new().name("sink".to_owned()).spawn(move || {
            for stream in listener.incoming().flatten() {
                let state = state.clone();
                // A connection that fails has ended; what it brought is counted.
                thread::spawn(move || receive(stream, &state));
            }
        })?;
        Ok(sink)
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What has arrived up to now.
    pub fn counts(&self) -> Counts {
        let state = lock(&self.state);
        let span = state.first.zip(state.last).map(|(first, last)| last - first);
        Counts { seconds: span.unwrap_or_default().as_secs_f64(), ..state.counts }
    }

    /// When the last bytes came.
    pub fn last_arrival(&self) -> Option<Instant> {
        lock(&self.state).last
    }

    /// Whether a message with this id has arrived.
    pub fn has(&self, id: u64) -> bool {
        let state = lock(&self.state);
        state.seen.get((id / 64) as usize).is_some_and(|word| word >> (id % 64) & 1 == 1)
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

fn receive(mut stream: TcpStream, state: &Mutex<State>) -> io::Result<()> {
    let mut buffer = vec![0; READ_BYTES];
    let mut kept = 0;
    let mut ids = Vec::new();
    loop {
        let count = stream.read(&mut buffer[kept..])?;
        if count == 0 {
            return Ok(());
        }
        let filled = kept + count;
        ids.clear();
        let used = scan(&buffer[..filled], &mut ids);
        lock(state).note(count as u64, &ids);
        // An id that was cut in two is found with the next bytes.
        buffer.copy_within(used..filled, 0);
        kept = filled - used;
    }
}

/// Collects ids; gives up to where nothing more can be found without further bytes.
fn scan(bytes: &[u8], ids: &mut Vec<u64>) -> usize {
    let mut from = 0;
    for at in memmem::find_iter(bytes, ID_PREFIX.as_bytes()) {
        let end = at + ID_PREFIX.len() + ID_DIGITS;
        if end > bytes.len() {
            return at;
        }
        if let Some((id, _)) = find_id(&bytes[at..end]) {
            ids.push(id);
            from = end;
        }
    }
    from.max(bytes.len().saturating_sub(ID_PREFIX.len() - 1))
}

impl State {
    fn note(&mut self, bytes: u64, ids: &[u64]) {
        let now = Instant::now();
        self.first.get_or_insert(now);
        self.last = Some(now);
        self.counts.bytes += bytes;
        for id in ids {
            let word = (id / 64) as usize;
            if word >= self.seen.len() {
                self.seen.resize(2 * word + 1024, 0);
            }
            let bit = 1 << (id % 64);
            let new = self.seen[word] & bit == 0;
            self.seen[word] |= bit;
            self.counts.total += 1;
            if new {
                self.counts.unique += 1;
            } else {
                self.counts.repeated += 1;
            }
        }
    }
}

const READ_BYTES: usize = 256 * 1024;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::{Framing, Plan, Target, send};
    use crate::wait::{PATIENCE, wait_until};

    #[test]
    fn cut_ids_are_found_at_every_cut() {
        let text = b"xx evt-0000000001 yy evt-0000000002 evt-";
        for cut in 0..text.len() {
            let mut ids = Vec::new();
            let used = scan(&text[..cut], &mut ids);
            scan(&text[used..], &mut ids);
            assert_eq!(ids, [1, 2], "cut at {cut}");
        }
    }

    #[test]
    fn what_is_sent_is_counted() {
        let sink = CountingSink::listen(([127, 0, 0, 1], 0).into()).unwrap();
        let plan = Plan { connections: 3, ..Plan::new(Target::Tcp(sink.address()), 1000) };
        let report = send(&plan).unwrap();
        assert_eq!((report.sent, report.segments.len()), (1000, 3));
        assert!(report.segments.iter().all(|segment| segment.broken.is_none()));
        let lines = Plan { framing: Framing::Lf, count: 10, first_id: 996, ..plan };
        assert_eq!(send(&lines).unwrap().sent, 10);
        wait_until(PATIENCE, "all messages", || sink.counts().total == 1010);
        let counts = sink.counts();
        assert_eq!((counts.unique, counts.repeated), (1005, 5));
        assert!(sink.has(1005) && !sink.has(1006));
    }
}
