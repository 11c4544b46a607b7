//! Random choices that can be repeated: a small generator, and the seed that begins it.

use std::time::Duration;

/// `SplitMix64`: every seed gives its own, repeatable row of choices.
#[derive(Clone, Debug)]
pub struct Seed(u64);

impl Seed {
    /// The row of choices of this seed.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next 64 bits.
    pub fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut word = self.0;
        word = (word ^ (word >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        word ^ (word >> 31)
    }

    /// A number from 0 to `below`, without it.
    pub fn below(&mut self, below: u64) -> u64 {
        self.next_u64() % below.max(1)
    }

    /// A time up to `most`.
    pub fn time(&mut self, most: Duration) -> Duration {
        Duration::from_micros(self.below(u64::try_from(most.as_micros()).unwrap_or(u64::MAX)))
    }
}

/// A number from the environment, to repeat or lengthen a run.
///
/// # Panics
/// When the variable holds no number.
pub fn env_number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    let number = text.parse();
    Some(number.unwrap_or_else(|_| panic!("{name} is a number, not {text:?}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_repeats_itself_and_no_other() {
        let row = |seed| {
            let mut seed = Seed::new(seed);
            [seed.next_u64(), seed.below(1000), seed.below(1000)]
        };
        assert_eq!(row(1), row(1));
        assert_ne!(row(1), row(2));
    }
}
