//! The bad links of a campaign.

use std::fmt;
use std::time::Duration;

use crate::impair::{Impairment, Outages};

/// One kind of bad link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pattern {
    /// Nothing happens.
    Good,
    /// Each datagram may be lost; per mille.
    Loss(u32),
    /// Bursts of 1 to 20 ms, every 100 ms or so, and a little loss.
    Bursts,
    /// An outage of this many milliseconds after every 400 or so, and 5 % loss.
    Outages(u32),
    /// Late and doubled datagrams.
    Disorder,
    /// One of ten datagrams is damaged.
    Damage,
    /// Ten forged datagrams for each genuine one.
    Flood,
    /// All of it.
    Everything,
}

impl Pattern {
    /// Every pattern.
    pub const ALL: [Self; 15] = [
        Self::Good,
        Self::Loss(1),
        Self::Loss(10),
        Self::Loss(50),
        Self::Loss(100),
        Self::Loss(200),
        Self::Loss(400),
        Self::Bursts,
        Self::Outages(10),
        Self::Outages(50),
        Self::Outages(300),
        Self::Disorder,
        Self::Damage,
        Self::Flood,
        Self::Everything,
    ];

    /// What the link does.
    pub fn impairment(self) -> Impairment {
        let ms = |count: u32| Duration::from_millis(u64::from(count));
        let outages = |every: u32, least: u32, most: u32| {
            Some(Outages { every: ms(every), least: ms(least), most: ms(most) })
        };
        match self {
            Self::Good => Impairment::default(),
            Self::Loss(per_mille) => Impairment::losing(f64::from(per_mille) / 1000.0),
            Self::Bursts => Impairment { outages: outages(100, 1, 20), ..Impairment::losing(0.01) },
            Self::Outages(millis) => {
                Impairment { outages: outages(400, millis, millis), ..Impairment::losing(0.05) }
            }
            Self::Disorder => Impairment {
                reorder: 0.3,
                reorder_depth: 200,
                duplicate: 0.2,
                ..Impairment::losing(0.02)
            },
            Self::Damage => Impairment { corrupt: 0.1, ..Impairment::default() },
            Self::Flood => Impairment { forged: 10.0, ..Impairment::losing(0.02) },
            Self::Everything => Impairment {
                outages: outages(300, 1, 50),
                reorder: 0.1,
                reorder_depth: 50,
                duplicate: 0.05,
                corrupt: 0.02,
                forged: 2.0,
                ..Impairment::losing(0.05)
            },
        }
    }

    /// The outage that the sender is set to stand.
    pub fn outage(self) -> Duration {
        match self {
            Self::Outages(millis) => Duration::from_millis(u64::from(millis)),
            _ => Duration::from_millis(50),
        }
    }

    /// Whether every bundle must have arrived when its passes are over. Where outages may take a small
    /// bundle in every pass, chance decides.
    pub fn must_arrive(self) -> bool {
        !matches!(self, Self::Bursts | Self::Outages(_) | Self::Everything)
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Good => f.write_str("good"),
            Self::Loss(per_mille) => write!(f, "{} % loss", f64::from(*per_mille) / 10.0),
            Self::Bursts => f.write_str("bursts of 1-20 ms, 1 % loss"),
            Self::Outages(millis) => write!(f, "outages of {millis} ms every 400 ms, 5 % loss"),
            Self::Disorder => f.write_str("30 % late, 20 % doubled, 2 % loss"),
            Self::Damage => f.write_str("10 % damaged"),
            Self::Flood => f.write_str("10 forged for each, 2 % loss"),
            Self::Everything => f.write_str("all of it"),
        }
    }
}
