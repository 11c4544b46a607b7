//! Whether a record is at fault that is refused, or who refuses it: the one rule of all sinks. Pure.
//!
//! A refusal is believed where something of the batch was taken before: there the receiver is in order, and
//! the record is what is wrong. Before anything was taken, and where [`IN_ROW_MAX`] refusals follow one
//! another, the sink sends a marked record ([`Marked`](super::marked::Marked)), in which nothing can be wrong.
//! Is that refused as well, then the receiver is broken: the batch waits, and nothing goes to the dead
//! letters. Is it taken, then what was refused is sent once more, since the receiver may have been mended
//! just now; is that refused again, it goes to the dead letters and the stream goes on. The next marked
//! record comes after twice as many in a row, [`IN_ROW_LONGEST`] at most.
//!
//! Only what a receiver says counts. A record that we refuse ourselves, because it is longer than the
//! configuration allows, is no reason for doubt.

use super::SinkError;

/// What is known in one batch.
#[derive(Debug)]
pub(super) struct Doubt {
    /// Refusals since something was taken last.
    in_row: u32,
    /// After so many the marked record is sent.
    limit: u32,
    /// Something of this batch was taken.
    taken: bool,
}

impl Default for Doubt {
    fn default() -> Self {
        Self { in_row: 0, limit: IN_ROW_MAX, taken: false }
    }
}

impl Doubt {
    /// A batch begins.
    pub(super) fn begin(&mut self) {
        *self = Self::default();
    }

    /// A record was taken.
    pub(super) fn taken(&mut self) {
        *self = Self { taken: true, ..Self::default() };
    }

    /// The receiver refused so many records for good; whether the marked record is to be sent, and they
    /// once more behind it.
    #[must_use]
    pub(super) fn refused(&mut self, records: usize) -> bool {
        self.in_row = self.in_row.saturating_add(u32::try_from(records).unwrap_or(u32::MAX));
        !self.taken || self.in_row >= self.limit
    }

    /// Whether nothing of the batch was taken.
    pub(super) fn nothing_taken(&self) -> bool {
        !self.taken
    }

    /// The marked record was taken.
    pub(super) fn borne_out(&mut self) {
        self.in_row = 0;
        self.limit = self.limit.saturating_mul(2).min(IN_ROW_LONGEST);
        self.taken = true;
    }
}

/// What is said of a receiver that refuses the marked record as well.
pub(super) fn refuses_all(error: SinkError) -> SinkError {
    let explained = |why: &str| format!("{why}; {ALL}");
    match error {
        SinkError::Answer { place, status, why, retry_after } => {
            SinkError::Answer { place, status, why: explained(&why), retry_after }
        }
        #[cfg(feature = "kafka")]
        SinkError::Kafka { brokers, doing, why } => {
            SinkError::Kafka { brokers, doing, why: explained(&why) }
        }
        other => other,
    }
}

/// So many refusals in a row are believed at first.
pub(super) const IN_ROW_MAX: u32 = 16;
/// So many later on: what a receiver that breaks down among poison costs in dead letters, at most.
pub(super) const IN_ROW_LONGEST: u32 = 256;
/// Stands in `status`.
const ALL: &str = "it refuses a marked record as well, in which nothing is wrong, so that the receiver has to be mended; the records wait";

#[cfg(test)]
mod tests {
    use super::*;

    /// How often the marked record is sent for a batch: `x` is refused, `o` is taken.
    fn questions(batch: &str) -> u32 {
        let mut doubt = Doubt::default();
        let mut asked = 0;
        for record in batch.chars() {
            if record == 'o' {
                doubt.taken();
            } else if doubt.refused(1) {
                asked += 1;
                doubt.borne_out();
            }
        }
        asked
    }

    #[test]
    fn only_what_nothing_bears_out_is_asked_about() {
        let rows = |count| "x".repeat(count);
        assert_eq!(questions(""), 0);
        assert_eq!(questions("ooo"), 0);
        assert_eq!(questions("x"), 1);
        assert_eq!(questions("xo"), 1);
        assert_eq!(questions("oxoxox"), 0);
        assert_eq!(questions(&format!("o{}", rows(15))), 0);
        assert_eq!(questions(&format!("o{}", rows(16))), 1);
        // 16, 32, 64, 128, then 256 each.
        assert_eq!(questions(&format!("o{}", rows(16 + 32 + 64 + 128 + 256 + 256))), 6);
        // What is taken begins the count anew.
        assert_eq!(questions(&format!("o{0}o{0}", rows(40))), 2);
    }
}
