//! Seeded runs of the diode's two ends over bad links, in memory: no sockets, no threads, and a clock
//! that follows from the bytes sent.
//!
//! Each run sends one bundle again and again until it has arrived or its passes are over. What is
//! delivered must be the bundle, byte for byte; whether, when and at which cost it is, depends on the
//! link, and is told in a table.

mod ends;
mod pattern;

use std::fmt;
use std::time::Duration;

use crate::impair::{Harm, Link};
use crate::seed::Seed;

pub use ends::Ends;
pub use pattern::Pattern;

/// One run, which follows from its seed.
#[derive(Clone, Debug)]
pub struct Run {
    /// What everything follows from.
    pub seed: u64,
    /// What the link does.
    pub pattern: Pattern,
    /// The length of the bundle, in bytes.
    pub bytes: u64,
    /// After which pass the receiver is killed and starts again, if at all.
    pub killed_in: Option<u32>,
    /// The first pass that the receiver is there for.
    pub joins_in: u32,
    /// Whether all passes are sent, whole bundle or not: what comes again must change nothing.
    pub all_passes: bool,
}

/// How a run went.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// The pass, counted from 1 and from the receiver's first, in which the bundle was whole.
    pub passes: Option<u32>,
    /// Something else than the bundle was delivered.
    pub wrong: bool,
    /// Bytes sent from the receiver's first pass until the bundle was whole, with UDP and IP headers.
    pub wire_bytes: u64,
    /// What the link did.
    pub harm: Harm,
}

impl Run {
    /// The run of this seed: patterns in turn, so that each is met equally often.
    pub fn of(seed: u64) -> Self {
        let pattern = Pattern::ALL[(seed % Pattern::ALL.len() as u64) as usize];
        let mut choices = Seed::new(seed);
        let bytes = match choices.below(20) {
            0 => 1 + choices.below(64),
            1..=4 => 1000 + choices.below(4000),
            5..=9 => 18_000 + choices.below(5000),
            10..=15 => 100_000 + choices.below(400_000),
            16..=18 => 1_000_000 + choices.below(2_000_000),
            _ => 5_000_000 + choices.below(3_000_000),
        };
        let killed_in = (choices.below(4) == 0).then(|| choices.below(2) as u32);
        let joins_in = u32::from(choices.below(8) == 0);
        let all_passes = choices.below(4) == 0;
        Self { seed, pattern, bytes, killed_in, joins_in, all_passes }
    }

    /// Sends the bundle over the link until it has arrived, but no more than [`PASSES_MAX`] times.
    ///
    /// # Panics
    /// When the disk below the temporary folder fails.
    pub fn go(&self) -> Outcome {
        let mut choices = Seed::new(!self.seed);
        let bundle: Vec<u8> = (0..self.bytes).map(|_| choices.next_u64() as u8).collect();
        let mut ends = Ends::new(&bundle, self.pattern.outage(), choices.next_u64());
        let mut link = Link::new(self.pattern.impairment(), self.seed);
        let mut outcome = Outcome::default();
        let mut pass_begun = Duration::ZERO;
        for pass in 0..self.joins_in + PASSES_MAX {
            let there = pass >= self.joins_in;
            if pass == self.joins_in {
                outcome.wire_bytes = 0;
            }
            let (sender, receiver) = ends.split();
            let mut sent = 0_u64;
            let kill_at = choices.below(1 + self.bytes / 1400);
            let mut through = Duration::ZERO;
            sender.pass(pass, |time, datagram| {
                let wire = datagram.len() as u64 + HEADER_BYTES;
                through = time;
                sent += 1;
                // A datagram after the bundle is whole costs a real sender the same; what is counted
                // is how much it took.
                if outcome.passes.is_none() {
                    outcome.wire_bytes += wire;
                }
                link.offer(pass_begun + time, datagram, &mut |bytes: &[u8]| {
                    if there {
                        receiver.take(bytes);
                    }
                });
                if self.killed_in == Some(pass) && sent == kill_at {
                    receiver.restart();
                }
                if sent.is_multiple_of(SETTLE_EVERY) {
                    receiver.settle();
                }
                if there && outcome.passes.is_none() && receiver.has_delivered() {
                    outcome.passes = Some(pass - self.joins_in + 1);
                }
            });
            pass_begun += through + PASS_INTERVAL;
            link.flush(&mut |bytes: &[u8]| {
                if there {
                    receiver.take(bytes);
                }
            });
            receiver.settle();
            if outcome.passes.is_none() && receiver.has_delivered() {
                outcome.passes = Some(pass - self.joins_in + 1);
            }
            if outcome.passes.is_some() && !self.all_passes {
                break;
            }
        }
        outcome.harm = link.harm();
        outcome.wrong = ends.delivered_anything_but(&bundle);
        outcome
    }
}

/// What many runs came to, by pattern.
#[derive(Clone, Debug)]
pub struct Campaign {
    rows: Vec<Tally>,
}

/// The runs of one pattern.
#[derive(Clone, Debug)]
struct Tally {
    pattern: Pattern,
    runs: u64,
    /// Arrived in the first, second, ... pass.
    arrived: [u64; PASSES_MAX as usize],
    wrong: Vec<u64>,
    /// Seeds of runs in which it did not arrive.
    absent: Vec<u64>,
    bundle_bytes: u64,
    wire_bytes: u64,
    harm: Harm,
}

impl Campaign {
    /// Does so many runs from a seed on.
    pub fn run(first_seed: u64, runs: u64, mut progress: impl FnMut(u64)) -> Self {
        let row = |pattern| Tally {
            pattern,
            runs: 0,
            arrived: [0; PASSES_MAX as usize],
            wrong: Vec::new(),
            absent: Vec::new(),
            bundle_bytes: 0,
            wire_bytes: 0,
            harm: Harm::default(),
        };
        let mut campaign = Self { rows: Pattern::ALL.into_iter().map(row).collect() };
        for done in 0..runs {
            let run = Run::of(first_seed + done);
            campaign.note(&run, &run.go());
            progress(done + 1);
        }
        campaign
    }

    fn note(&mut self, run: &Run, outcome: &Outcome) {
        let Some(row) = self.rows.iter_mut().find(|row| row.pattern == run.pattern) else { return };
        row.runs += 1;
        if outcome.wrong {
            row.wrong.push(run.seed);
        }
        match outcome.passes {
            Some(pass) => {
                row.arrived[pass as usize - 1] += 1;
                row.bundle_bytes += run.bytes;
                row.wire_bytes += outcome.wire_bytes;
            }
            None => row.absent.push(run.seed),
        }
        row.harm.offered += outcome.harm.offered;
        row.harm.lost += outcome.harm.lost + outcome.harm.lost_in_outages;
        row.harm.forged += outcome.harm.forged;
        row.harm.corrupted += outcome.harm.corrupted;
    }

    /// The seeds of runs in which something else than the bundle was delivered: there must be none.
    pub fn wrong(&self) -> Vec<u64> {
        self.rows.iter().flat_map(|row| row.wrong.iter().copied()).collect()
    }

    /// The seeds of runs in which the bundle did not arrive, by what must bring it over: a pattern whose
    /// every bundle must arrive in some pass.
    pub fn missed(&self) -> Vec<u64> {
        let must = self.rows.iter().filter(|row| row.pattern.must_arrive());
        must.flat_map(|row| row.absent.iter().copied()).collect()
    }

    /// How many runs there were.
    pub fn runs(&self) -> u64 {
        self.rows.iter().map(|row| row.runs).sum()
    }
}

impl fmt::Display for Campaign {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let passes: Vec<String> = (1..=PASSES_MAX).map(|pass| format!("in pass {pass}")).collect();
        writeln!(
            f,
            "| link | runs | {} | not | wrong | lost | forged | sent / size |",
            passes.join(" | ")
        )?;
        writeln!(f, "|---|---|{}---|---|---|---|---|", "---|".repeat(PASSES_MAX as usize))?;
        for row in self.rows.iter().filter(|row| row.runs > 0) {
            let arrived: Vec<String> = row.arrived.iter().map(ToString::to_string).collect();
            let lost = 100.0 * row.harm.lost as f64 / row.harm.offered.max(1) as f64;
            let overhead = row.wire_bytes as f64 / row.bundle_bytes.max(1) as f64;
            writeln!(
                f,
                "| {} | {} | {} | {} | {} | {lost:.1} % | {} | {overhead:.2} |",
                row.pattern,
                row.runs,
                arrived.join(" | "),
                row.absent.len(),
                row.wrong.len(),
                row.harm.forged,
            )?;
        }
        Ok(())
    }
}

/// No bundle is sent more often.
pub const PASSES_MAX: u32 = 4;

/// The rate of the imagined link, in bits a second: what turns bytes into time.
pub const BIT_RATE: u64 = 100_000_000;

/// From the end of a pass to the next.
const PASS_INTERVAL: Duration = Duration::from_secs(1);

/// IPv4 and UDP.
const HEADER_BYTES: u64 = 28;

/// Datagrams after which the receiver does what is left to do, as its second thread would.
const SETTLE_EVERY: u64 = 64;
