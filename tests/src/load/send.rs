//! Sending: each connection has its own range of ids and reports how much of it was written.

use std::io;
use std::net::UdpSocket;
use std::ops::Range;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::wire::{Target, Wire};
use super::{Framing, Pool};

/// What is sent, where and how.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Where to.
    pub target: Target,
    /// How many messages, over all connections.
    pub count: u64,
    /// How many connections, each with its own thread and an equal share of the ids.
    pub connections: u64,
    /// How messages are kept apart; datagrams need nothing.
    pub framing: Framing,
    /// Messages a second over all connections; without it, as fast as the receiver takes them.
    pub rate: Option<u64>,
    /// All messages of one size, in bytes, instead of 600 to 900.
    pub size: Option<usize>,
    /// The first id.
    pub first_id: u64,
    /// What to do when a connection breaks.
    pub on_break: OnBreak,
    /// The longest that a write may wait for the receiver before the connection counts as broken.
    pub stall: Option<Duration>,
}

impl Plan {
    /// So many messages to a target, as fast as it takes them, over one octet-counted connection.
    pub fn new(target: Target, count: u64) -> Self {
        let framing = if matches!(target, Target::Udp(_)) { Framing::None } else { Framing::Octet };
        Self {
            target,
            count,
            connections: 1,
            framing,
            rate: None,
            size: None,
            first_id: 1,
            on_break: OnBreak::Stop,
            stall: None,
        }
    }

    /// The ids of one connection.
    fn share(&self, connection: u64) -> Range<u64> {
        let start = |at: u64| self.first_id + self.count * at / self.connections;
        start(connection)..start(connection + 1)
    }
}

/// What to do when a connection breaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnBreak {
    /// Connect again for so long, and go on with the first message that was not wholly written.
    Reconnect(Duration),
    /// End this connection's share.
    Stop,
}

/// What was sent.
#[derive(Clone, Debug)]
pub struct Report {
    /// Messages written whole, over all connections.
    pub sent: u64,
    /// From the first connection to the last end, in seconds.
    pub seconds: f64,
    /// Each connection in turn.
    pub segments: Vec<Segment>,
}

/// One connection's life.
#[derive(Clone, Debug)]
pub struct Segment {
    /// Which share of the ids it carried.
    pub connection: u64,
    /// The first id.
    pub first_id: u64,
    /// How many messages were written whole: these ids and the ones behind it.
    pub whole: u64,
    /// Why it ended; `None` when the receiver had read everything and closed.
    pub broken: Option<String>,
}

impl Segment {
    /// The ids of the messages that were written whole.
    pub fn ids(&self) -> Range<u64> {
        self.first_id..self.first_id + self.whole
    }
}

impl Report {
    /// Messages a second.
    pub fn per_second(&self) -> f64 {
        self.sent as f64 / self.seconds.max(f64::MIN_POSITIVE)
    }

    /// The report as it is printed.
    pub fn to_json(&self) -> Value {
        let segment = |segment: &Segment| {
            json!({
                "connection": segment.connection,
                "first_id": segment.first_id,
                "whole": segment.whole,
                "broken": segment.broken,
            })
        };
        json!({
            "sent": self.sent,
            "seconds": self.seconds,
            "per_second": self.per_second().round(),
            "segments": self.segments.iter().map(segment).collect::<Vec<_>>(),
        })
    }
}

/// Sends as planned; returns when every connection has ended.
///
/// # Errors
/// When a first connection can't be made. A later break stands in the report.
pub fn send(plan: &Plan) -> io::Result<Report> {
    let pool = Pool::new(plan.framing, plan.size);
    let started = Instant::now();
    let results: Vec<_> = thread::scope(|scope| {
        let pool = &pool;
        let spawn = |connection| scope.spawn(move || Share::new(plan, pool, connection).send());
        let threads: Vec<_> = (0..plan.connections).map(spawn).collect();
        threads.into_iter().map(|thread| thread.join().expect("a sender does not panic")).collect()
    });
    let seconds = started.elapsed().as_secs_f64();
    let shares: Vec<Vec<Segment>> = results.into_iter().collect::<io::Result<_>>()?;
    let segments: Vec<Segment> = shares.into_iter().flatten().collect();
    Ok(Report { sent: segments.iter().map(|segment| segment.whole).sum(), seconds, segments })
}

/// Sends these very messages over one connection, or a datagram each, and waits until the receiver
/// has read everything and closed.
pub fn send_messages(target: &Target, framing: Framing, messages: &[Vec<u8>]) -> io::Result<()> {
    if let Target::Udp(address) = target {
        let socket = UdpSocket::bind(("127.0.0.1", 0))?;
        return messages
            .iter()
            .try_for_each(|message| socket.send_to(message, address).map(|_| ()));
    }
    let mut wire = Wire::connect(target, None)?;
    for message in messages {
        let framed = match framing {
            Framing::Lf => [message, &b"\n"[..]].concat(),
            Framing::None => message.clone(),
            Framing::Octet => [format!("{} ", message.len()).as_bytes(), message].concat(),
        };
        wire.write(&framed).map_err(|(_, err)| err)?;
    }
    wire.finish()
}

/// One connection's share of the work.
struct Share<'a> {
    plan: &'a Plan,
    pool: &'a Pool,
    connection: u64,
    ids: Range<u64>,
    pace: Pace,
}

impl<'a> Share<'a> {
    fn new(plan: &'a Plan, pool: &'a Pool, connection: u64) -> Self {
        let ids = plan.share(connection);
        let rate = plan.rate.map(|rate| rate as f64 / plan.connections as f64);
        Self { plan, pool, connection, pace: Pace::new(rate), ids }
    }

    fn send(mut self) -> io::Result<Vec<Segment>> {
        if let Target::Udp(_) = self.plan.target {
            return self.send_datagrams().map(|segment| vec![segment]);
        }
        let mut segments = Vec::new();
        let mut wire = Wire::connect(&self.plan.target, self.plan.stall)?;
        loop {
            let mut segment = Segment {
                connection: self.connection,
                first_id: self.ids.start,
                whole: 0,
                broken: None,
            };
            segment.broken =
                self.fill(&mut wire, &mut segment.whole).err().map(|err| err.to_string());
            let broken = segment.broken.is_some();
            segments.push(segment);
            // A receiver that breaks behind the last message leaves nothing to send again.
            if !broken || self.ids.is_empty() {
                return Ok(segments);
            }
            match self.reconnect() {
                Some(again) => wire = again,
                None => return Ok(segments),
            }
        }
    }

    /// Writes what is left of the share, and counts the whole messages even when that breaks off.
    fn fill(&mut self, wire: &mut Wire, whole: &mut u64) -> io::Result<()> {
        let mut chunk = Vec::with_capacity(2 * CHUNK_BYTES);
        let mut ends = Vec::new();
        while !self.ids.is_empty() {
            let due = self.pace.due();
            chunk.clear();
            ends.clear();
            for id in self.ids.clone().take(due as usize) {
                self.pool.append(id, &mut chunk);
                ends.push(chunk.len());
                if chunk.len() >= CHUNK_BYTES {
                    break;
                }
            }
            let result = wire.write(&chunk);
            let taken = match &result {
                Ok(()) => ends.len(),
                Err((bytes, _)) => ends.partition_point(|end| end <= bytes),
            } as u64;
            self.ids.start += taken;
            self.pace.done(taken);
            *whole += taken;
            result.map_err(|(_, err)| err)?;
        }
        wire.finish()
    }

    fn reconnect(&self) -> Option<Wire> {
        let OnBreak::Reconnect(patience) = self.plan.on_break else {
            return None;
        };
        let started = Instant::now();
        while started.elapsed() < patience {
            if let Ok(wire) = Wire::connect(&self.plan.target, self.plan.stall) {
                return Some(wire);
            }
            thread::sleep(RECONNECT_PAUSE); // ok: backoff
        }
        None
    }

    fn send_datagrams(&mut self) -> io::Result<Segment> {
        let Target::Udp(address) = self.plan.target else {
            return Err(io::Error::other("only datagrams"));
        };
        let socket = UdpSocket::bind(("127.0.0.1", 0))?;
        socket.connect(address)?;
        let mut segment = Segment {
            connection: self.connection,
            first_id: self.ids.start,
            whole: 0,
            broken: None,
        };
        let mut message = Vec::with_capacity(CHUNK_BYTES);
        while !self.ids.is_empty() {
            let due = self.pace.due();
            for id in self.ids.clone().take(due as usize) {
                message.clear();
                self.pool.append(id, &mut message);
                // A refusal (nobody listens) concerns an earlier datagram; this one is sent anew.
                if socket.send(&message).is_err()
                    && let Err(err) = socket.send(&message)
                {
                    segment.broken = Some(err.to_string());
                    return Ok(segment);
                }
                segment.whole += 1;
                self.pace.done(1);
                self.ids.start += 1;
            }
        }
        Ok(segment)
    }
}

/// Spreads messages evenly over time.
struct Pace {
    /// The time that one message takes.
    interval: Option<Duration>,
    started: Instant,
    done: u64,
}

impl Pace {
    fn new(rate: Option<f64>) -> Self {
        let interval = rate.map(|rate| Duration::from_secs_f64(1.0 / rate.max(f64::MIN_POSITIVE)));
        Self { interval, started: Instant::now(), done: 0 }
    }

    /// How many messages may go now; waits until it is at least one.
    fn due(&self) -> u64 {
        let Some(interval) = self.interval else {
            return u64::MAX;
        };
        loop {
            let allowed = self.started.elapsed().as_nanos() / interval.as_nanos().max(1);
            let allowed = u64::try_from(allowed).unwrap_or(u64::MAX);
            if allowed > self.done {
                return allowed - self.done;
            }
            thread::sleep(PACE_TICK); // ok: pacing
        }
    }

    fn done(&mut self, count: u64) {
        self.done += count;
    }
}

/// One write, in bytes.
const CHUNK_BYTES: usize = 64 * 1024;
/// How finely a rate is spread.
const PACE_TICK: Duration = Duration::from_micros(500);
/// The pause before another try to connect.
const RECONNECT_PAUSE: Duration = Duration::from_millis(20);
