//! From record to sink in the lane `flash`, while a routine backlog takes the link.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::super::table::{Row, Sample, Table};
use super::super::{Options, progress};
use super::backlog::{LONG_BYTES, fill, outbox_bytes};
use crate::crossing::Crossing;
use crate::diode::{Diode, count};
use crate::load::{Framing, Pool};
use crate::oracle::find_id;
use crate::sandbox::free_address;
use crate::wait::wait_until;

/// Fills the outbox while nothing can leave, then lets it leave and sends flash records beside it.
pub(super) fn run(options: &Options, table: &mut Table) {
    let bytes = options.diode_backlog_mib << 20;
    progress(&format!("a backlog of {} MiB", options.diode_backlog_mib));
    let address = free_address();
    let diode = Diode::between("bench-diode-flash", address, address);
    let crossing = &diode.crossing;
    let backlog = free_address();
    let listeners = format!(
        "{}[[listener]]\nname = \"backlog\"\nprotocol = \"tcp\"\nbind = \"{backlog}\"\nlane = \"routine\"\n",
        crossing.listener()
    );
    let high = &crossing.pair.high;
    high.configure(&format!("{SEAL}{listeners}"));
    let agent = high.start();
    let messages = fill(backlog, bytes, LONG_BYTES, 2).expect("the listener is there");
    crossing.wait_committed(messages);
    high.run(["seal"]).success();
    wait_until(FILL, "backlog in bundles", || outbox_bytes(high) >= bytes / 100 * 95);
    agent.stop(FILL);

    let sink = Sink::listen();
    let rate = &options.diode_flash_bit_rate;
    let carrier = diode.carrier(&format!("bit-rate = \"{rate}\"\npasses = 1\n"));
    high.configure(&format!("{SEAL}{listeners}{carrier}"));
    let low = format!(
        "{}[[sink]]\nname = \"siem\"\ntype = \"syslog\"\naddress = \"{}\"\ntransport = \"tcp\"\nbody = \"original\"\nframing = \"lf\"\n{}",
        Crossing::quick_inbox(),
        sink.address,
        diode.receiver("")
    );
    crossing.pair.low.configure(&low);
    let low_agent = crossing.pair.low.start();
    let high_agent = high.start();
    let backlog_bytes = outbox_bytes(high);
    wait_until(FILL, "backlog on the link", || count(&diode.received(), "bundles") > 0);
    let mut sent = HashMap::new();
    let mut stream = TcpStream::connect(crossing.tcp).expect("the listener is there");
    let pool = Pool::new(Framing::Lf, None);
    let begun = Instant::now();
    // While the backlog lasts, which flash bundles lengthen by next to nothing.
    while count(&diode.sent(), "bytes") < backlog_bytes && begun.elapsed() < FILL {
        let id = FIRST_ID + sent.len() as u64;
        let mut message = Vec::new();
        pool.append(id, &mut message);
        sent.insert(id, Instant::now());
        stream.write_all(&message).expect("the listener takes it");
        std::thread::sleep(BETWEEN); // ok: the rate of the flash records
    }
    let seconds = begun.elapsed().as_secs_f64();
    let all_there = || sent.keys().all(|id| sink.arrived(*id).is_some());
    wait_until(FILL, "every flash record in the sink", all_there);
    let mut times: Vec<f64> = sent
        .iter()
        .filter_map(|(id, at)| Some(sink.arrived(*id)?.duration_since(*at).as_secs_f64()))
        .collect();
    times.sort_by(f64::total_cmp);
    let at = |per_cent: usize| times.get((times.len().max(1) - 1) * per_cent / 100).copied();
    for (name, per_cent) in [("p50", 50), ("p99", 99), ("longest", 100)] {
        let subject = format!(
            "flash record to sink, {name}, beside {} MiB at {rate}",
            options.diode_backlog_mib
        );
        let mut row = Row::new("diode", subject, "s");
        row.samples.extend(at(per_cent).map(|figure| Sample { figure, ..Sample::default() }));
        row.note = format!(
            "{} records; flash-budget 1s; the backlog took {seconds:.0} s; receiver {:.0} MiB at most",
            times.len(),
            low_agent.cost().memory_bytes_max as f64 / super::super::ingest::MIB
        );
        table.rows.push(row);
    }
    high_agent.kill();
}

/// A receiver of lines that notes when each of our flash records came.
struct Sink {
    address: std::net::SocketAddr,
    seen: Arc<Mutex<HashMap<u64, Instant>>>,
}

impl Sink {
    fn listen() -> Self {
        let listener = TcpListener::bind((std::net::Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        let address = listener.local_addr().expect("a bound socket has an address");
        let seen = Arc::<Mutex<HashMap<u64, Instant>>>::default();
        let shared = Arc::clone(&seen);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let shared = Arc::clone(&shared);
                std::thread::spawn(move || read_lines(stream, &shared));
            }
        });
        Self { address, seen }
    }

    fn arrived(&self, id: u64) -> Option<Instant> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).get(&id).copied()
    }
}

fn read_lines(stream: TcpStream, seen: &Mutex<HashMap<u64, Instant>>) {
    let mut reader = BufReader::with_capacity(1 << 18, stream);
    let mut line = Vec::new();
    while reader.read_until(b'\n', &mut line).is_ok_and(|count| count > 0) {
        // The text of the backlog is long and holds no ids.
        if line.len() < FLASH_BYTES_MAX
            && let Some((id, _)) = find_id(&line)
        {
            let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
            seen.entry(id).or_insert_with(Instant::now);
        }
        line.clear();
    }
}

/// Flash bundles a moment after their first record; routine bundles as they are by default.
const SEAL: &str = "[buffer]\nquota = \"40GiB\"\n[seal]\nflash-budget = \"1s\"\nlatency-budget = \"2s\"\nheartbeat = \"1d\"\n";
const FILL: Duration = Duration::from_mins(30);
const BETWEEN: Duration = Duration::from_millis(100);
const FIRST_ID: u64 = 1;
const FLASH_BYTES_MAX: usize = 4096;
