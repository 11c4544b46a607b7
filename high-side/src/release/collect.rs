//! Counting what goes into a bundle while it is sealed: one pass, in memory that does not grow.

use std::collections::BTreeMap;

use rand_core::{OsRng, RngCore};
use serde::Serialize;
use shared::event::{Body, Classified, Event, PrivilegeSettings, understand};
use shared::json::Tape;
use shared::record::{self, Entry, RecordRef, Stream};

use super::heavy::{Heavy, NAME_BYTES_MAX, cut};
use super::summary::{
    Large, Named, Privileged, PrivilegedEvent, Redacted, Sampled, SizeClass, Summary,
};

/// So many privileged events are listed one by one; all are counted.
const PRIVILEGED_SHOWN: usize = 256;
/// So many records of each stream are shown, drawn at random.
const SAMPLED_PER_STREAM: usize = 6;
/// So much of a record is shown, in bytes.
const SAMPLE_BYTES_MAX: usize = 512;
/// So many of the largest records are named.
const LARGEST_SHOWN: usize = 5;
/// So many rules of redaction are told apart: more than any site has.
const RULES_MAX: usize = 256;

/// What the records so far add up to.
pub(crate) struct Collector {
    settings: PrivilegeSettings,
    tape: Tape,
    dice: Dice,
    entries: u64,
    malformed: u64,
    categories: BTreeMap<String, u64>,
    actions: Heavy,
    actors: Heavy,
    sources: Heavy,
    privileges: BTreeMap<String, u64>,
    privileged: Vec<PrivilegedEvent>,
    privileged_count: u64,
    redacted: u64,
    redactions: BTreeMap<String, u64>,
    /// Records by the number of bits of their length.
    sizes: [u64; 65],
    largest: Vec<Large>,
    samples: BTreeMap<Stream, Reservoir>,
}

impl Collector {
    pub(crate) fn new(settings: PrivilegeSettings) -> Self {
        Self {
            settings,
            tape: Tape::default(),
            dice: Dice(OsRng.next_u64()),
            entries: 0,
            malformed: 0,
            categories: BTreeMap::new(),
            actions: Heavy::default(),
            actors: Heavy::default(),
            sources: Heavy::default(),
            privileges: BTreeMap::new(),
            privileged: Vec::new(),
            privileged_count: 0,
            redacted: 0,
            redactions: BTreeMap::new(),
            sizes: [0; 65],
            largest: Vec::new(),
            samples: BTreeMap::new(),
        }
    }

    /// Looks at whole encoded entries.
    pub(crate) fn add(&mut self, mut plain: &[u8]) {
        while !plain.is_empty() {
            let Ok((entry, length)) = record::parse_entry(plain, u64::MAX) else {
                // The buffer's own blocks are whole; an officer should know if one was not.
                self.malformed += 1;
                return;
            };
            self.entries += 1;
            if let Entry::Record(record) = entry {
                self.add_record(&record);
            }
            plain = &plain[length..];
        }
    }

    fn add_record(&mut self, record: &RecordRef<'_>) {
        self.note_size(record);
        if let Some(note) = record.redacted {
            self.note_redacted(&note.decode());
        }
        let mut tape = std::mem::take(&mut self.tape);
        let event =
            understand(&Body::of(record.raw, &mut tape), Some(record.stream), &self.settings);
        self.note_event(record, &event);
        drop(event);
        self.tape = tape;
        let reservoir = self.samples.entry(record.stream).or_default();
        reservoir.offer(record, &mut self.dice);
    }

    fn note_event(&mut self, record: &RecordRef<'_>, event: &Event<'_>) {
        let category = match event.category {
            Classified::As { category } => category.as_str().to_owned(),
            Classified::Not { unclassified } => format!("none: {}", name_of(&unclassified)),
        };
        *self.categories.entry(category).or_default() += 1;
        if !event.action.is_empty() {
            self.actions.add(&event.action);
        }
        if let Some(actor) = event.actor.name.as_ref().or(event.actor.id.as_ref()) {
            self.actors.add(actor);
        }
        if let Some(source) = &event.source_address {
            self.sources.add(source);
        }
        let Some(privilege) = event.privileged else { return };
        let privilege = name_of(&privilege);
        *self.privileges.entry(privilege.clone()).or_default() += 1;
        self.privileged_count += 1;
        if self.privileged.len() < PRIVILEGED_SHOWN {
            let kept = |text: &str| cut(text, NAME_BYTES_MAX).to_owned();
            let resource = &event.resource;
            let parts = [
                &resource.kind,
                &resource.environment,
                &resource.namespace,
                &resource.stack,
                &resource.name,
                &resource.id,
                &resource.part,
            ];
            let resource: Vec<&str> =
                parts.into_iter().filter_map(|part| part.as_deref()).collect();
            self.privileged.push(PrivilegedEvent {
                sequence: record.sequence.0,
                received: record.received.to_string(),
                stream: record.stream,
                why: privilege,
                actor: event.actor.name.as_deref().or(event.actor.id.as_deref()).map(kept),
                source: event.source_address.as_deref().map(kept),
                action: kept(&event.action),
                resource: kept(&resource.join(" ")),
                outcome: event.outcome.map(|outcome| name_of(&outcome)),
            });
        }
    }

    /// A note is `RULE:PLACE`, separated by commas (FORMAT.md section 6).
    fn note_redacted(&mut self, note: &str) {
        self.redacted += 1;
        for part in note.split(',') {
            let rule = cut(part.split(':').next().unwrap_or_default(), NAME_BYTES_MAX);
            if self.redactions.len() < RULES_MAX || self.redactions.contains_key(rule) {
                *self.redactions.entry(rule.to_owned()).or_default() += 1;
            } else {
                *self.redactions.entry("others".to_owned()).or_default() += 1;
            }
        }
    }

    fn note_size(&mut self, record: &RecordRef<'_>) {
        let bytes = record.raw.len() as u64;
        self.sizes[(u64::BITS - bytes.leading_zeros()) as usize] += 1;
        let smallest = self.largest.last().map_or(0, |large| large.bytes);
        if self.largest.len() < LARGEST_SHOWN || bytes > smallest {
            self.largest.push(Large { sequence: record.sequence.0, stream: record.stream, bytes });
            self.largest.sort_by_key(|large| (std::cmp::Reverse(large.bytes), large.sequence));
            self.largest.truncate(LARGEST_SHOWN);
        }
    }

    /// Puts into a summary what was counted.
    pub(crate) fn fill(self, summary: &mut Summary) {
        let named = |counts: BTreeMap<String, u64>| -> Vec<Named> {
            counts.into_iter().map(|(name, count)| Named { name, count }).collect()
        };
        let mut nonce = [0; 16];
        OsRng.fill_bytes(&mut nonce);
        summary.nonce = format!("{:032x}", u128::from_be_bytes(nonce));
        summary.entries_looked_at = self.entries;
        summary.blocks_not_understood = self.malformed;
        summary.categories = named(self.categories);
        summary.actions = self.actions.top();
        summary.actors = self.actors.top();
        summary.sources = self.sources.top();
        summary.privileged = Privileged {
            count: self.privileged_count,
            not_shown: self.privileged_count - self.privileged.len() as u64,
            why: named(self.privileges),
            shown: self.privileged,
        };
        summary.redacted = Redacted { records: self.redacted, rules: named(self.redactions) };
        summary.sizes = self
            .sizes
            .iter()
            .enumerate()
            .filter(|(_, records)| **records > 0)
            .map(|(bits, records)| SizeClass {
                bytes_below: 1_u64.checked_shl(bits as u32).unwrap_or(u64::MAX),
                records: *records,
            })
            .collect();
        summary.largest = self.largest;
        summary.sample = self.samples.into_values().flat_map(|reservoir| reservoir.kept).collect();
        summary.sample.sort_by_key(|sampled| sampled.sequence);
    }
}

/// The name that serde gives to a variant without fields.
fn name_of(variant: &impl Serialize) -> String {
    let value = serde_json::to_value(variant).unwrap_or_default();
    value.as_str().unwrap_or("unknown").to_owned()
}

/// Keeps some of what it is offered, each with the same chance (Vitter's algorithm R). By stream, so
/// that a flood in one does not hide another.
#[derive(Default)]
struct Reservoir {
    offered: u64,
    kept: Vec<Sampled>,
}

impl Reservoir {
    fn offer(&mut self, record: &RecordRef<'_>, dice: &mut Dice) {
        self.offered += 1;
        let place = if self.kept.len() < SAMPLED_PER_STREAM {
            self.kept.len()
        } else {
            dice.below(self.offered) as usize
        };
        if place >= SAMPLED_PER_STREAM {
            return;
        }
        let shown = &record.raw[..record.raw.len().min(SAMPLE_BYTES_MAX)];
        let sampled = Sampled {
            sequence: record.sequence.0,
            received: record.received.to_string(),
            stream: record.stream,
            bytes: record.raw.len() as u64,
            begins: String::from_utf8_lossy(shown).into_owned(),
        };
        if place == self.kept.len() {
            self.kept.push(sampled);
        } else {
            self.kept[place] = sampled;
        }
    }
}

/// `SplitMix64` from a seed of the system: nobody who sends records can guess which are drawn, and one
/// draw a record costs nothing.
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^= z >> 31;
        // A bias of one in 2^40 does not matter to a sample.
        ((u128::from(z) * u128::from(bound)) >> 64) as u64
    }
}

#[cfg(test)]
mod tests {
    use shared::clock::Nanos;
    use shared::record::{Head, Sequence, SourceTag};

    use super::*;

    fn encoded(records: &[(Stream, Vec<u8>, Option<&str>)]) -> Vec<u8> {
        let source = SourceTag::new("tcp", "192.0.2.1:1", None);
        let mut out = Vec::new();
        for (number, (stream, raw, redacted)) in (1..).zip(records) {
            let head = Head {
                sequence: Sequence(number),
                received: Nanos(1_000_000_000),
                stream: *stream,
                source: &source,
                cut_from: None,
                redacted: *redacted,
            };
            head.encode(&mut out, raw);
        }
        out
    }

    fn summary_of(records: &[(Stream, Vec<u8>, Option<&str>)]) -> Summary {
        let mut collector = Collector::new(PrivilegeSettings::default());
        collector.add(&encoded(records));
        let mut summary = Summary::default();
        collector.fill(&mut summary);
        summary
    }

    #[test]
    fn everything_is_counted_once_and_each_stream_is_sampled() {
        let mut records: Vec<_> =
            (0..1000).map(|n| (Stream::Other, format!("noise {n}").into_bytes(), None)).collect();
        records.push((Stream::Falco, vec![b'x'; 5000], Some("tokens:url,pem:body")));
        records.push((Stream::Falco, b"y".to_vec(), Some("tokens:/a")));
        let summary = summary_of(&records);
        assert_eq!((summary.entries_looked_at, summary.blocks_not_understood), (1002, 0));
        assert_eq!(summary.categories.iter().map(|named| named.count).sum::<u64>(), 1002);
        assert_eq!(summary.redacted.records, 2);
        let rules: Vec<_> =
            summary.redacted.rules.iter().map(|r| (r.name.as_str(), r.count)).collect();
        assert_eq!(rules, [("pem", 1), ("tokens", 2)]);
        assert_eq!(summary.sizes.iter().map(|class| class.records).sum::<u64>(), 1002);
        assert_eq!((summary.largest[0].bytes, summary.largest[0].sequence), (5000, 1001));
        let of = |stream| summary.sample.iter().filter(move |s| s.stream == stream).count();
        assert_eq!((of(Stream::Other), of(Stream::Falco)), (SAMPLED_PER_STREAM, 2));
        let long = summary.sample.iter().find(|sampled| sampled.bytes == 5000).unwrap();
        assert_eq!(long.begins.len(), SAMPLE_BYTES_MAX);
    }

    #[test]
    fn samples_and_nonces_differ_from_time_to_time() {
        let records: Vec<_> =
            (0..1000).map(|n| (Stream::Other, format!("noise {n}").into_bytes(), None)).collect();
        let (one, other) = (summary_of(&records), summary_of(&records));
        assert_ne!(one.nonce, other.nonce);
        assert_eq!(one.nonce.len(), 32);
        assert_ne!(one.sample, other.sample);
    }

    #[test]
    fn what_is_no_entry_is_said_and_not_passed_over() {
        let mut collector = Collector::new(PrivilegeSettings::default());
        collector.add(b"r 1 nonsense\n");
        let mut summary = Summary::default();
        collector.fill(&mut summary);
        assert_eq!(summary.blocks_not_understood, 1);
    }
}
