//! What a bad one-way link does to datagrams, decided by a seed.
//!
//! The model knows no sockets and no clock: [`relay`](crate::relay) puts it between two programs, and
//! the campaign of [`bench`](crate::bench) between an encoder and an assembler in memory. The same
//! seed, times and datagrams give the same harm.

use std::collections::VecDeque;
use std::time::Duration;

use crate::seed::Seed;

/// What a link does. Chances lie between 0 and 1 and are drawn for each datagram.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Impairment {
    /// The chance that a datagram is lost, each by itself.
    pub loss: f64,
    /// Times in which everything is lost: short ones are bursts, long ones outages.
    pub outages: Option<Outages>,
    /// The chance that a datagram is held back and comes after later ones.
    pub reorder: f64,
    /// How many later datagrams may overtake one that is held back.
    pub reorder_depth: u64,
    /// The chance that a datagram comes twice.
    pub duplicate: f64,
    /// The chance that some of its bits are turned over.
    pub corrupt: f64,
    /// Forged datagrams for each genuine one; more than 1 is a flood.
    pub forged: f64,
}

/// Times in which everything is lost.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Outages {
    /// From the end of one to the beginning of the next, on average.
    pub every: Duration,
    /// The shortest.
    pub least: Duration,
    /// The longest.
    pub most: Duration,
}

impl Impairment {
    /// A link that loses each datagram with this chance, and does nothing else.
    pub fn losing(loss: f64) -> Self {
        Self { loss, ..Self::default() }
    }

    /// A link on which nothing comes through.
    pub fn dead() -> Self {
        Self::losing(1.0)
    }
}

/// What a link has done; every datagram that was offered is lost or delivered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Harm {
    /// Genuine datagrams that were sent into the link.
    pub offered: u64,
    /// Their bytes.
    pub offered_bytes: u64,
    /// Lost by chance.
    pub lost: u64,
    /// Lost in an outage.
    pub lost_in_outages: u64,
    /// Outages that began.
    pub outages: u64,
    /// Delivered after later ones.
    pub reordered: u64,
    /// Delivered twice.
    pub duplicated: u64,
    /// Delivered with turned bits.
    pub corrupted: u64,
    /// Made up and delivered.
    pub forged: u64,
    /// All that came out.
    pub delivered: u64,
}

/// A link with its state.
#[derive(Debug)]
pub struct Link {
    impairment: Impairment,
    seed: Seed,
    harm: Harm,
    outage: Option<Outage>,
    held: Vec<Held>,
    past: VecDeque<Vec<u8>>,
    forgeries_due: f64,
    scratch: Vec<u8>,
}

#[derive(Clone, Copy, Debug)]
struct Outage {
    begin: Duration,
    end: Duration,
    counted: bool,
}

#[derive(Debug)]
struct Held {
    /// Goes out once so many datagrams were offered.
    until: u64,
    bytes: Vec<u8>,
}

impl Link {
    /// A link whose choices follow from the seed.
    pub fn new(impairment: Impairment, seed: u64) -> Self {
        Self {
            impairment,
            seed: Seed::new(seed),
            harm: Harm::default(),
            outage: None,
            held: Vec::new(),
            past: VecDeque::new(),
            forgeries_due: 0.0,
            scratch: Vec::new(),
        }
    }

    /// From now on the link does this.
    pub fn change(&mut self, impairment: Impairment) {
        self.impairment = impairment;
        self.outage = None;
    }

    /// What it has done up to now.
    pub fn harm(&self) -> Harm {
        self.harm
    }

    /// Sends a datagram into the link at a time since its beginning, which never goes back; gives
    /// what comes out to `deliver`.
    pub fn offer(&mut self, at: Duration, datagram: &[u8], deliver: &mut impl FnMut(&[u8])) {
        self.harm.offered += 1;
        self.harm.offered_bytes += datagram.len() as u64;
        self.forge(datagram, deliver);
        if self.in_outage(at) {
            self.harm.lost_in_outages += 1;
        } else if self.happens(self.impairment.loss) {
            self.harm.lost += 1;
        } else {
            self.carry(datagram, deliver);
        }
        self.release(false, deliver);
    }

    /// Delivers what is still held back.
    pub fn flush(&mut self, deliver: &mut impl FnMut(&[u8])) {
        self.release(true, deliver);
    }

    fn carry(&mut self, datagram: &[u8], deliver: &mut impl FnMut(&[u8])) {
        let twice = self.happens(self.impairment.duplicate);
        let late = self.happens(self.impairment.reorder);
        let mut bytes = std::mem::take(&mut self.scratch);
        let mut out = datagram;
        if self.happens(self.impairment.corrupt) && !datagram.is_empty() {
            bytes.clear();
            bytes.extend_from_slice(datagram);
            self.turn_bits(&mut bytes);
            self.harm.corrupted += 1;
            out = &bytes;
        }
        if late && self.held.len() < HELD_MAX {
            let depth = self.impairment.reorder_depth.max(1);
            let until = self.harm.offered + 1 + self.seed.below(depth);
            self.held.push(Held { until, bytes: out.to_vec() });
            self.harm.reordered += 1;
        } else {
            self.harm.delivered += 1;
            deliver(out);
        }
        if twice {
            self.harm.duplicated += 1;
            self.harm.delivered += 1;
            deliver(out);
        }
        self.scratch = bytes;
    }

    fn release(&mut self, all: bool, deliver: &mut impl FnMut(&[u8])) {
        let mut at = 0;
        while at < self.held.len() {
            if all || self.held[at].until <= self.harm.offered {
                let held = self.held.swap_remove(at);
                self.harm.delivered += 1;
                deliver(&held.bytes);
            } else {
                at += 1;
            }
        }
    }

    fn in_outage(&mut self, at: Duration) -> bool {
        let Some(outages) = self.impairment.outages else {
            return false;
        };
        loop {
            let outage = self.outage.unwrap_or_else(|| next_outage(&mut self.seed, at, outages));
            self.outage = Some(outage);
            if at < outage.begin {
                return false;
            }
            if at < outage.end {
                if !outage.counted {
                    self.harm.outages += 1;
                    self.outage = Some(Outage { counted: true, ..outage });
                }
                return true;
            }
            self.outage = Some(next_outage(&mut self.seed, outage.end, outages));
        }
    }

    /// Delivers as many made-up datagrams as are due beside this genuine one.
    fn forge(&mut self, datagram: &[u8], deliver: &mut impl FnMut(&[u8])) {
        if self.impairment.forged <= 0.0 {
            return;
        }
        if self.past.is_empty() || self.seed.below(PAST_SHARE) == 0 {
            if self.past.len() == PAST_KEPT {
                self.past.pop_front();
            }
            self.past.push_back(datagram.to_vec());
        }
        self.forgeries_due += self.impairment.forged;
        while self.forgeries_due >= 1.0 {
            self.forgeries_due -= 1.0;
            let forgery = self.forgery();
            self.harm.forged += 1;
            self.harm.delivered += 1;
            deliver(&forgery);
        }
    }

    fn forgery(&mut self) -> Vec<u8> {
        let old = self.seed.below(self.past.len() as u64);
        let mut bytes = self.past.get(old as usize).cloned().unwrap_or_default();
        match self.seed.below(FORGERIES) {
            // Noise of any length.
            0 => {
                let length = self.seed.below(NOISE_BYTES_MAX);
                bytes.resize(length as usize, 0);
                self.fill(&mut bytes, 0);
            }
            // An old datagram once more, as it was.
            1 => {}
            // The beginning of a genuine one, then noise: right magic and version, wrong proof.
            2 => {
                let from = 4 + self.seed.below(FORGED_FROM_MAX) as usize;
                self.fill(&mut bytes, from);
            }
            // A genuine one with some bits turned, in the numbers of its head more often than not.
            3 => {
                let head = bytes.len().min(HEAD_BYTES);
                if head > 0 {
                    self.turn_bits(&mut bytes[..head]);
                }
            }
            // Too short, or too long.
            4 => {
                let length = self.seed.below(bytes.len() as u64 + 1);
                bytes.truncate(length as usize);
            }
            _ => {
                let from = bytes.len();
                let more = 1 + self.seed.below(64) as usize;
                bytes.resize(from + more, 0);
                self.fill(&mut bytes, from);
            }
        }
        bytes
    }

    fn fill(&mut self, bytes: &mut [u8], from: usize) {
        for chunk in bytes.get_mut(from..).into_iter().flat_map(|rest| rest.chunks_mut(8)) {
            let word = self.seed.next_u64().to_le_bytes();
            chunk.copy_from_slice(&word[..chunk.len()]);
        }
    }

    fn turn_bits(&mut self, bytes: &mut [u8]) {
        // An odd number of turned bits at chosen places can't cancel each other out to nothing.
        for _ in 0..=2 * self.seed.below(4) {
            let bit = self.seed.below(bytes.len() as u64 * 8);
            bytes[(bit / 8) as usize] ^= 1 << (bit % 8);
        }
    }

    fn happens(&mut self, chance: f64) -> bool {
        chance > 0.0 && unit(&mut self.seed) < chance
    }
}

/// Gaps are spread evenly between nothing and twice their average.
fn next_outage(seed: &mut Seed, after: Duration, outages: Outages) -> Outage {
    let begin = after + outages.every.mul_f64(2.0 * unit(seed));
    let length = outages.least + seed.time(outages.most.saturating_sub(outages.least));
    // An outage without length would never let the search for the next one end.
    let end = begin + length.max(Duration::from_micros(1));
    Outage { begin, end, counted: false }
}

/// A number from 0 to 1, without 1, of 53 bits.
fn unit(seed: &mut Seed) -> f64 {
    (seed.next_u64() >> 11) as f64 / (1_u64 << 53) as f64
}

/// Datagrams held back at one time: more would make a link of any depth hold everything.
const HELD_MAX: usize = 4096;

/// Old datagrams that forgeries are made from.
const PAST_KEPT: usize = 256;

/// One of so many genuine datagrams is remembered for forgeries.
const PAST_SHARE: u64 = 16;

/// Kinds of forgeries.
const FORGERIES: u64 = 6;

/// Longer than any datagram that crosses an Ethernet of 1500 bytes.
const NOISE_BYTES_MAX: u64 = 2048;

/// Where noise begins at the latest, behind the genuine beginning of a forgery.
const FORGED_FROM_MAX: u64 = 96;

/// Where the numbers of a datagram stand, more or less.
const HEAD_BYTES: usize = 96;

#[cfg(test)]
mod tests {
    use super::*;

    /// What comes out of a link for datagrams numbered from 0, a millisecond apart.
    fn numbers(link: &mut Link, count: u32) -> Vec<Vec<u8>> {
        let mut out = Vec::new();
        for number in 0..count {
            let at = Duration::from_millis(u64::from(number));
            link.offer(at, &number.to_le_bytes(), &mut |bytes: &[u8]| out.push(bytes.to_vec()));
        }
        link.flush(&mut |bytes: &[u8]| out.push(bytes.to_vec()));
        out
    }

    #[test]
    fn a_good_link_changes_nothing() {
        let mut link = Link::new(Impairment::default(), 1);
        let sent: Vec<Vec<u8>> = (0_u32..100).map(|n| n.to_le_bytes().to_vec()).collect();
        assert_eq!(numbers(&mut link, 100), sent);
        let harm = link.harm();
        assert_eq!(harm, Harm { offered: 100, offered_bytes: 400, delivered: 100, ..harm });
    }

    #[test]
    fn a_seed_repeats_its_harm_and_no_other() {
        let all = Impairment {
            loss: 0.1,
            outages: Some(Outages {
                every: Duration::from_millis(50),
                least: Duration::from_millis(1),
                most: Duration::from_millis(20),
            }),
            reorder: 0.1,
            reorder_depth: 9,
            duplicate: 0.1,
            corrupt: 0.1,
            forged: 0.5,
        };
        let run = |seed| numbers(&mut Link::new(all.clone(), seed), 1000);
        assert_eq!(run(7), run(7));
        assert_ne!(run(7), run(8));
    }

    #[test]
    fn everything_offered_is_accounted_for() {
        let harms = [
            Impairment::losing(0.4),
            Impairment { duplicate: 0.3, ..Impairment::losing(0.05) },
            Impairment { reorder: 0.5, reorder_depth: 30, ..Impairment::default() },
            Impairment { forged: 3.0, corrupt: 0.2, ..Impairment::default() },
            Impairment::dead(),
        ];
        for (seed, impairment) in harms.into_iter().enumerate() {
            let mut link = Link::new(impairment.clone(), seed as u64);
            let out = numbers(&mut link, 2000).len() as u64;
            let harm = link.harm();
            let gone = harm.lost + harm.lost_in_outages;
            assert_eq!(out, harm.delivered, "{impairment:?}");
            assert_eq!(
                harm.offered - gone + harm.duplicated + harm.forged,
                harm.delivered,
                "{impairment:?}: {harm:?}"
            );
        }
    }

    #[test]
    fn loss_is_about_what_was_asked_for() {
        for chance in [0.001, 0.05, 0.4] {
            let mut link = Link::new(Impairment::losing(chance), 3);
            let arrived = numbers(&mut link, 50_000).len() as f64 / 50_000.0;
            assert!((1.0 - arrived - chance).abs() < 0.01 + chance / 20.0, "{chance}: {arrived}");
        }
        assert!(numbers(&mut Link::new(Impairment::dead(), 3), 100).is_empty());
    }

    #[test]
    fn an_outage_takes_neighbours() {
        let outages = Outages {
            every: Duration::from_millis(200),
            least: Duration::from_millis(50),
            most: Duration::from_millis(50),
        };
        let impairment = Impairment { outages: Some(outages), ..Impairment::default() };
        let mut link = Link::new(impairment, 5);
        let out = numbers(&mut link, 10_000);
        let arrived: Vec<u32> =
            out.iter().map(|bytes| u32::from_le_bytes(bytes[..4].try_into().unwrap())).collect();
        let gaps: Vec<u32> =
            arrived.windows(2).map(|pair| pair[1] - pair[0] - 1).filter(|gap| *gap > 0).collect();
        assert!(gaps.iter().all(|gap| (49..=51).contains(gap) || *gap > 90), "{gaps:?}");
        assert!(link.harm().outages >= 20, "{:?}", link.harm());
    }

    #[test]
    fn what_is_held_back_comes_later() {
        let impairment = Impairment { reorder: 0.2, reorder_depth: 5, ..Impairment::default() };
        let out = numbers(&mut Link::new(impairment, 11), 500);
        let mut sorted = out.clone();
        sorted.sort_by_key(|bytes| u32::from_le_bytes(bytes[..4].try_into().unwrap()));
        assert_ne!(out, sorted);
        assert_eq!(out.len(), 500);
    }
}
