//! Records and raw bytes, counted per stream, and per rule what was suppressed.

use std::fmt::Write as _;
use std::sync::Arc;

use shared::record::{Stream, is_rule_name};

/// Records and their raw bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Count {
    /// How many records.
    pub records: u64,
    /// How many raw bytes they have.
    pub bytes: u64,
}

impl Count {
    fn add(&mut self, other: Count) {
        self.records = self.records.saturating_add(other.records);
        self.bytes = self.bytes.saturating_add(other.bytes);
    }
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
}

/// Records by what became of them: those kept, per stream, and those suppressed, per rule and stream.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Kept.
    pub kept: StreamCounts,
    /// Suppressed, ordered by rule and stream, none of them zero.
    suppressed: Vec<(Arc<str>, Stream, Count)>,
}

impl Tally {
    /// What each rule suppressed of each stream, in order.
    pub fn suppressed(&self) -> impl Iterator<Item = (&str, Stream, Count)> + '_ {
        self.suppressed.iter().map(|(rule, stream, count)| (rule.as_ref(), *stream, *count))
    }

    /// What rules suppressed of a stream.
    pub fn suppressed_of(&self, stream: Stream) -> Count {
        let mut sum = Count::default();
        for (_, _, count) in self.suppressed.iter().filter(|(_, of, _)| *of == stream) {
            sum.add(*count);
        }
        sum
    }

    /// Everything: kept and suppressed, of all streams.
    pub fn sum(&self) -> Count {
        let mut sum = self.kept.sum();
        self.suppressed.iter().for_each(|(_, _, count)| sum.add(*count));
        sum
    }

    /// Kept and suppressed of one stream.
    pub fn of(&self, stream: Stream) -> Count {
        let mut sum = self.kept.of(stream);
        sum.add(self.suppressed_of(stream));
        sum
    }

    /// Counts one record that is kept.
    pub(super) fn add_record(&mut self, stream: Stream, bytes: u64) {
        self.kept.add_record(stream, bytes);
    }

    /// Counts one record that a rule suppressed.
    pub(super) fn add_suppressed(&mut self, rule: &Arc<str>, stream: Stream, bytes: u64) {
        self.suppressed_mut(rule, stream).add(Count { records: 1, bytes });
    }

    /// Adds the counts of another.
    pub(super) fn add(&mut self, other: &Self) {
        self.kept.add(&other.kept);
        for (rule, stream, count) in &other.suppressed {
            self.suppressed_mut(rule, *stream).add(*count);
        }
    }

    /// Takes the counts of another away.
    pub(super) fn subtract(&mut self, other: &Self) {
        self.kept.subtract(&other.kept);
        for (rule, stream, count) in &other.suppressed {
            let left = self.suppressed_mut(rule, *stream);
            left.records = left.records.saturating_sub(count.records);
            left.bytes = left.bytes.saturating_sub(count.bytes);
        }
        self.suppressed.retain(|(_, _, count)| count.records > 0);
    }

    fn suppressed_mut(&mut self, rule: &Arc<str>, stream: Stream) -> &mut Count {
        let key = (rule.as_ref(), stream);
        let found = self.suppressed.binary_search_by(|(r, s, _)| (r.as_ref(), *s).cmp(&key));
        let at = found.unwrap_or_else(|at| {
            self.suppressed.insert(at, (Arc::clone(rule), stream, Count::default()));
            at
        });
        &mut self.suppressed[at].2
    }

    /// `STREAM RECORDS BYTES` for each stream that has records, then `-RULE STREAM RECORDS BYTES` for
    /// what was suppressed, joined by semicolons.
    pub(super) fn to_text(&self) -> String {
        let mut text = String::new();
        for (stream, count) in self.kept.iter() {
            let separator = if text.is_empty() { "" } else { ";" };
            let _ = write!(text, "{separator}{stream} {} {}", count.records, count.bytes);
        }
        for (rule, stream, count) in &self.suppressed {
            let separator = if text.is_empty() { "" } else { ";" };
            let _ = write!(text, "{separator}-{rule} {stream} {} {}", count.records, count.bytes);
        }
        text
    }

    /// The counts that a text stands for, if it is one that [`Tally::to_text`] writes.
    pub(super) fn from_text(text: &str) -> Option<Self> {
        let mut tally = Self::default();
        for part in text.split(';').filter(|part| !part.is_empty()) {
            let mut fields = part.split(' ');
            let mut first = fields.next()?;
            let rule = first.strip_prefix('-');
            if rule.is_some() {
                first = fields.next()?;
            }
            let stream: Stream = first.parse().ok()?;
            let count = Count {
                records: fields.next()?.parse().ok()?,
                bytes: fields.next()?.parse().ok()?,
            };
            match rule {
                Some(rule) if is_rule_name(rule) && count.records > 0 => {
                    *tally.suppressed_mut(&rule.into(), stream) = count;
                }
                Some(_) => return None,
                None => tally.kept.0[stream as usize] = count,
            }
        }
        (tally.to_text() == text).then_some(tally)
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
        let mut counts = Tally::default();
        assert_eq!(Tally::from_text(""), Some(counts.clone()));
        counts.add_record(Stream::Other, 5);
        counts.add_record(Stream::Falco, 7);
        counts.add_record(Stream::Other, 1);
        assert_eq!(counts.to_text(), "falco 1 7;other 2 6");
        let rules: [Arc<str>; 2] = ["watch".into(), "leases".into()];
        for rule in &rules {
            counts.add_suppressed(rule, Stream::KubeAudit, 100);
        }
        counts.add_suppressed(&rules[0], Stream::KubeAudit, 1);
        let text = "falco 1 7;other 2 6;-leases kube-audit 1 100;-watch kube-audit 2 101";
        assert_eq!(counts.to_text(), text);
        assert_eq!(Tally::from_text(text), Some(counts.clone()));
        assert_eq!(counts.sum(), Count { records: 6, bytes: 214 });
        assert_eq!(counts.of(Stream::KubeAudit), Count { records: 3, bytes: 201 });
        for wrong in [
            "other 2 6;falco 1 7",
            "falco 1",
            "falco 01 7",
            "falco 1 7 9",
            "x 1 1",
            ";",
            "-watch kube-audit 0 0",
            "-Watch kube-audit 1 1",
            "-watch kube-audit 1 1;falco 1 7",
        ] {
            assert_eq!(Tally::from_text(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn what_was_added_can_be_taken_away() {
        let mut all = Tally::default();
        all.add_record(Stream::Falco, 7);
        all.add_suppressed(&"watch".into(), Stream::KubeAudit, 100);
        let part = all.clone();
        all.add(&part);
        all.subtract(&part);
        assert_eq!(all, part);
        all.subtract(&part);
        assert_eq!(all, Tally::default());
    }
}
