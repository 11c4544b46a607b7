//! Records and raw bytes, counted per stream.

use std::fmt::Write as _;

use shared::record::Stream;

/// Records and their raw bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Count {
    /// How many records.
    pub records: u64,
    /// How many raw bytes they have.
    pub bytes: u64,
}

/// A [`Count`] for each stream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StreamCounts([Count; Stream::ALL.len()]);

impl StreamCounts {
    /// The count of one stream.
    pub fn of(&self, stream: Stream) -> Count {
        self.0[stream as usize]
    }

    /// Every stream that has records, in the order of [`Stream::ALL`].
    pub fn iter(&self) -> impl Iterator<Item = (Stream, Count)> + '_ {
        Stream::ALL.into_iter().zip(self.0).filter(|(_, count)| count.records > 0)
    }

    /// The sum over all streams.
    pub fn sum(&self) -> Count {
        self.0.iter().fold(Count::default(), |sum, count| Count {
            records: sum.records.saturating_add(count.records),
            bytes: sum.bytes.saturating_add(count.bytes),
        })
    }

    /// Counts one record.
    pub(super) fn add_record(&mut self, stream: Stream, bytes: u64) {
        let count = &mut self.0[stream as usize];
        count.records += 1;
        count.bytes += bytes;
    }

    /// Adds the counts of another.
    pub(super) fn add(&mut self, other: &Self) {
        self.combine(other, u64::saturating_add);
    }

    /// Takes the counts of another away.
    pub(super) fn subtract(&mut self, other: &Self) {
        self.combine(other, u64::saturating_sub);
    }

    fn combine(&mut self, other: &Self, with: impl Fn(u64, u64) -> u64) {
        for (count, other) in self.0.iter_mut().zip(&other.0) {
            count.records = with(count.records, other.records);
            count.bytes = with(count.bytes, other.bytes);
        }
    }

    /// `STREAM RECORDS BYTES` for each stream that has records, joined by a semicolon.
    pub(super) fn to_text(self) -> String {
        let mut text = String::new();
        for (stream, count) in self.iter() {
            let separator = if text.is_empty() { "" } else { ";" };
            let _ = write!(text, "{separator}{stream} {} {}", count.records, count.bytes);
        }
        text
    }

    /// The counts that a text stands for, if it is one that [`StreamCounts::to_text`] writes.
    pub(super) fn from_text(text: &str) -> Option<Self> {
        let mut counts = Self::default();
        for part in text.split(';').filter(|part| !part.is_empty()) {
            let mut fields = part.split(' ');
            let stream: Stream = fields.next()?.parse().ok()?;
            counts.0[stream as usize] = Count {
                records: fields.next()?.parse().ok()?,
                bytes: fields.next()?.parse().ok()?,
            };
        }
        (counts.to_text() == text).then_some(counts)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_index_in_the_order_in_which_they_are_listed() {
        for (index, stream) in Stream::ALL.into_iter().enumerate() {
            assert_eq!(stream as usize, index);
        }
    }

    #[test]
    fn counts_read_as_text() {
        let mut counts = StreamCounts::default();
        assert_eq!(StreamCounts::from_text(""), Some(counts));
        counts.add_record(Stream::Other, 5);
        counts.add_record(Stream::Falco, 7);
        counts.add_record(Stream::Other, 1);
        assert_eq!(counts.to_text(), "falco 1 7;other 2 6");
        assert_eq!(StreamCounts::from_text("falco 1 7;other 2 6"), Some(counts));
        assert_eq!(counts.sum(), Count { records: 3, bytes: 13 });
        for wrong in ["other 2 6;falco 1 7", "falco 1", "falco 01 7", "falco 1 7 9", "x 1 1", ";"] {
            assert_eq!(StreamCounts::from_text(wrong), None, "{wrong}");
        }
    }
}
