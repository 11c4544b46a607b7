//! The manifest: the signed and encrypted description of a bundle (FORMAT.md section 5).

use std::fmt::{self, Write as _};
use std::str::FromStr;

use super::BundleDigest;
use crate::clock::Nanos;
use crate::record::{
    Epoch, Lane, OriginId, Sequence, Stream, UnknownName, is_rule_name, parse_number,
};

/// Everything a bundle says about itself, inside the encryption.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manifest {
    /// As in the header.
    pub origin: OriginId,
    /// As in the header.
    pub epoch: Epoch,
    /// As in the header.
    pub lane: Lane,
    /// As in the header.
    pub number: u64,
    /// As in the header.
    pub previous: BundleDigest,
    /// Program and version that sealed it.
    pub agent: String,
    /// When its content was frozen.
    pub sealed_at: Nanos,
    /// Why it was sealed then.
    pub reason: SealReason,
    /// The number of records in it.
    pub records: u64,
    /// The first sequence number it accounts for.
    pub first_sequence: Sequence,
    /// The last sequence number it accounts for; one less than the first when there is none.
    pub last_sequence: Sequence,
    /// The length of all records' encodings, in bytes.
    pub records_bytes: u64,
    /// When its oldest record was received.
    pub oldest: Option<Nanos>,
    /// When its newest record was received.
    pub newest: Option<Nanos>,
    /// The buffer's chain head before its first record.
    pub chain_before: BundleDigest,
    /// The buffer's chain head after its last record.
    pub chain_head: BundleDigest,
    /// Records and raw bytes of each stream that occurs, in the order of [`Stream::ALL`].
    pub streams: Vec<StreamCount>,
    /// What rules suppressed, ordered by rule and stream; each has its line among the records.
    pub suppressed: Vec<SuppressedCount>,
    /// What was lost and is known to be.
    pub losses: Vec<Loss>,
}

/// How much of one stream a bundle holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StreamCount {
    /// Which stream.
    pub stream: Stream,
    /// Its records.
    pub records: u64,
    /// Their raw bytes.
    pub bytes: u64,
}

/// How much of one stream a rule suppressed.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SuppressedCount {
    /// The rule's name.
    pub rule: String,
    /// Which stream.
    pub stream: Stream,
    /// Its records.
    pub records: u64,
    /// Their raw bytes.
    pub bytes: u64,
}

/// Records that were lost, declared instead of passed over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Loss {
    /// How they were lost.
    pub reason: LossReason,
    /// Where they would have come in; empty where that is not known.
    pub listener: String,
    /// How many.
    pub count: u64,
    /// Not lost before this time.
    pub from: Nanos,
    /// Not lost after this time.
    pub to: Nanos,
    /// Their sequence numbers, where they had any: these are absent from the records.
    pub range: Option<(Sequence, Sequence)>,
}

macro_rules! names {
    ($(#[$doc:meta])* $type:ident, $what:literal { $($(#[$variant_doc:meta])* $variant:ident = $name:literal,)+ }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum $type { $($(#[$variant_doc])* $variant,)+ }

        impl $type {
            /// Its name in the manifest.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $name,)+ }
            }
        }

        impl FromStr for $type {
            type Err = UnknownName;
            fn from_str(text: &str) -> Result<Self, UnknownName> {
                match text { $($name => Ok(Self::$variant),)+ _ => Err(UnknownName($what)) }
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }
    };
}

names! {
    /// Why a bundle was sealed when it was.
    SealReason, "seal reason" {
        /// Its oldest record reached the age that the latency budget allows.
        Age = "age",
        /// Its records reached the number that fits one bundle.
        Count = "count",
        /// Nothing came for a period: the bundle says so.
        Heartbeat = "heartbeat",
        /// An operator asked for it.
        Requested = "requested",
        /// Its records reached the size that fits one bundle.
        Size = "size",
    }
}

names! {
    /// How records were lost.
    LossReason, "loss reason" {
        /// Stored, then found changed on the disk.
        BufferDamaged = "buffer-damaged",
        /// Dropped by the kernel because the socket's queue was full.
        UdpReceiveQueue = "udp-receive-queue",
    }
}

impl Manifest {
    /// The sequence numbers that were lost after they were given.
    pub fn lost_in_range(&self) -> u64 {
        let ranges = self.losses.iter().filter_map(|loss| loss.range);
        ranges.map(|(first, last)| last.0.saturating_sub(first.0).saturating_add(1)).sum()
    }

    /// The sequence numbers of records that rules suppressed.
    pub fn suppressed_records(&self) -> u64 {
        self.suppressed.iter().fold(0, |sum, count| sum.saturating_add(count.records))
    }

    /// The manifest's one encoding; it ends with an empty line.
    pub fn encode(&self) -> String {
        let time = |time: Option<Nanos>| time.map_or("-".to_owned(), |time| time.0.to_string());
        let mut text = format!(
            "penstock-manifest 1\norigin {}\nepoch {}\nlane {}\nnumber {}\nprevious {}\nagent {}\n\
             sealed-at {}\nreason {}\nrecords {}\nfirst-sequence {}\nlast-sequence {}\n\
             records-bytes {}\noldest-received {}\nnewest-received {}\nchain-before {}\nchain-head {}\n",
            self.origin,
            self.epoch,
            self.lane,
            self.number,
            self.previous,
            self.agent,
            self.sealed_at.0,
            self.reason,
            self.records,
            self.first_sequence,
            self.last_sequence,
            self.records_bytes,
            time(self.oldest),
            time(self.newest),
            self.chain_before,
            self.chain_head,
        );
        for StreamCount { stream, records, bytes } in &self.streams {
            let _ = writeln!(text, "stream {stream} {records} {bytes}");
        }
        for SuppressedCount { rule, stream, records, bytes } in &self.suppressed {
            let _ = writeln!(text, "suppressed {rule} {stream} {records} {bytes}");
        }
        for loss in &self.losses {
            let Loss { reason, count, from, to, .. } = loss;
            let listener = if loss.listener.is_empty() { "-" } else { &loss.listener };
            let _ = write!(text, "loss {reason} {listener} {count} {} {}", from.0, to.0);
            if let Some((first, last)) = loss.range {
                let _ = write!(text, " {first} {last}");
            }
            text.push('\n');
        }
        text.push('\n');
        text
    }

    /// Parses a manifest and checks that its numbers fit each other.
    #[cfg_attr(not(feature = "open"), allow(dead_code, reason = "the high side only writes"))]
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, &'static str> {
        let text = std::str::from_utf8(bytes).map_err(|_| "is not UTF-8")?;
        let body = text.strip_suffix("\n\n").ok_or("does not end with an empty line")?;
        let mut lines = body.split('\n').peekable();
        if lines.next() != Some("penstock-manifest 1") {
            return Err("is of an unknown version");
        }
        let mut field = |name: &str| -> Result<&str, &'static str> {
            let line = lines.next().ok_or("ends early")?;
            let value = line.strip_prefix(name).and_then(|rest| rest.strip_prefix(' '));
            value.ok_or("has a line out of place")
        };
        let number = |text: &str| parse_number(text.as_bytes()).ok_or("has a malformed number");
        let manifest = Self {
            origin: field("origin")?.parse().map_err(|_| "has a malformed origin")?,
            epoch: Epoch(number(field("epoch")?)?),
            lane: field("lane")?.parse().map_err(|_| "has an unknown lane")?,
            number: number(field("number")?)?,
            previous: field("previous")?.parse()?,
            agent: field("agent")?.to_owned(),
            sealed_at: parse_time(field("sealed-at")?)?,
            reason: field("reason")?.parse().map_err(|_| "has an unknown reason")?,
            records: number(field("records")?)?,
            first_sequence: Sequence(number(field("first-sequence")?)?),
            last_sequence: Sequence(number(field("last-sequence")?)?),
            records_bytes: number(field("records-bytes")?)?,
            oldest: parse_time_or_none(field("oldest-received")?)?,
            newest: parse_time_or_none(field("newest-received")?)?,
            chain_before: field("chain-before")?.parse()?,
            chain_head: field("chain-head")?.parse()?,
            streams: parse_while(&mut lines, "stream ", parse_stream)?,
            suppressed: parse_while(&mut lines, "suppressed ", parse_suppressed)?,
            losses: parse_while(&mut lines, "loss ", parse_loss)?,
        };
        if lines.next().is_some() || manifest.encode().as_bytes() != bytes {
            return Err("is not canonical");
        }
        manifest.check()?;
        Ok(manifest)
    }

    fn check(&self) -> Result<(), &'static str> {
        let agent = self.agent.bytes().all(|byte| byte.is_ascii_graphic());
        if self.agent.is_empty() || self.agent.len() > 64 || !agent {
            return Err("has a malformed agent");
        }
        let (first, last) = (self.first_sequence.0, self.last_sequence.0);
        let span = last.checked_add(1).and_then(|end| end.checked_sub(first));
        let missing = self.checked_losses(first, last)?;
        let entries = self.checked_entries()?;
        if first == 0 || span != entries.checked_add(missing) {
            return Err("has a range of sequence numbers that does not fit its count");
        }
        let total = |part: fn(&StreamCount) -> u64| {
            self.streams.iter().try_fold(0_u64, |sum, count| sum.checked_add(part(count)))
        };
        let ordered = self.streams.windows(2).all(|pair| pair[0].stream < pair[1].stream);
        if !ordered
            || total(|count| count.records) != Some(self.records)
            || self.streams.iter().any(|count| count.records == 0)
            || total(|count| count.bytes).is_none_or(|bytes| bytes > self.records_bytes)
        {
            return Err("has counts of streams that do not add up");
        }
        let times = match (self.oldest, self.newest) {
            (Some(oldest), Some(newest)) => entries > 0 && oldest <= newest,
            (None, None) => entries == 0 && self.records_bytes == 0,
            _ => false,
        };
        if times { Ok(()) } else { Err("has times that do not fit its records") }
    }

    /// The number of records and suppressed ones; the counts of these are in order.
    fn checked_entries(&self) -> Result<u64, &'static str> {
        const PROBLEM: &str = "has counts of suppressed records that do not add up";
        let ordered = self
            .suppressed
            .windows(2)
            .all(|pair| (&pair[0].rule, pair[0].stream) < (&pair[1].rule, pair[1].stream));
        let fits = |count: &SuppressedCount| count.records > 0 && is_rule_name(&count.rule);
        if !ordered || !self.suppressed.iter().all(fits) {
            return Err(PROBLEM);
        }
        self.suppressed
            .iter()
            .try_fold(self.records, |sum, count| sum.checked_add(count.records))
            .ok_or(PROBLEM)
    }

    /// The number of sequence numbers lost inside the range; the ranges are in order and apart.
    fn checked_losses(&self, first: u64, last: u64) -> Result<u64, &'static str> {
        const PROBLEM: &str = "has losses that do not fit its range";
        let mut missing = 0_u64;
        let mut next = first;
        for loss in &self.losses {
            let numbered = loss.reason == LossReason::BufferDamaged;
            if loss.count == 0 || loss.from > loss.to || numbered != loss.range.is_some() {
                return Err(PROBLEM);
            }
            if let Some((from, to)) = loss.range {
                let count = to.0.checked_sub(from.0).and_then(|count| count.checked_add(1));
                if from.0 < next || to.0 > last || count != Some(loss.count) {
                    return Err(PROBLEM);
                }
                missing = missing.checked_add(loss.count).ok_or(PROBLEM)?;
                next = to.0.checked_add(1).ok_or(PROBLEM)?;
            }
        }
        Ok(missing)
    }
}

/// Parses the lines that begin alike.
fn parse_while<'a, T>(
    lines: &mut std::iter::Peekable<std::str::Split<'a, char>>,
    prefix: &str,
    parse: fn(&'a str) -> Option<T>,
) -> Result<Vec<T>, &'static str> {
    let mut parsed = Vec::new();
    while let Some(rest) = lines.peek().and_then(|line| line.strip_prefix(prefix)) {
        parsed.push(parse(rest).ok_or("has a malformed count or loss")?);
        lines.next();
    }
    Ok(parsed)
}

fn parse_stream(text: &str) -> Option<StreamCount> {
    let mut words = text.split(' ');
    Some(StreamCount {
        stream: words.next()?.parse().ok()?,
        records: parse_number(words.next()?.as_bytes())?,
        bytes: parse_number(words.next()?.as_bytes())?,
    })
}

fn parse_suppressed(text: &str) -> Option<SuppressedCount> {
    let (rule, rest) = text.split_once(' ')?;
    let StreamCount { stream, records, bytes } = parse_stream(rest)?;
    Some(SuppressedCount { rule: rule.to_owned(), stream, records, bytes })
}

fn parse_loss(text: &str) -> Option<Loss> {
    let words: Vec<&str> = text.split(' ').collect();
    let number = |at: usize| parse_number(words[at].as_bytes());
    let time = |at: usize| number(at).and_then(|n| i64::try_from(n).ok()).map(Nanos);
    let range = match words.len() {
        5 => None,
        7 => Some((Sequence(number(5)?), Sequence(number(6)?))),
        _ => return None,
    };
    let listener = if words[1] == "-" { "" } else { words[1] };
    let plain = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_' || b == b'.';
    listener.bytes().all(plain).then_some(())?;
    Some(Loss {
        reason: words[0].parse().ok()?,
        listener: listener.to_owned(),
        count: number(2)?,
        from: time(3)?,
        to: time(4)?,
        range,
    })
}

fn parse_time(text: &str) -> Result<Nanos, &'static str> {
    let time = parse_number(text.as_bytes()).and_then(|nanos| i64::try_from(nanos).ok());
    time.map(Nanos).ok_or("has a malformed time")
}

fn parse_time_or_none(text: &str) -> Result<Option<Nanos>, &'static str> {
    if text == "-" { Ok(None) } else { parse_time(text).map(Some) }
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(super) fn manifest() -> Manifest {
        Manifest {
            origin: "plant-7".parse().unwrap(),
            epoch: Epoch(3),
            lane: Lane::Routine,
            number: 2,
            previous: BundleDigest::of(b"x"),
            agent: "penstock-high/0.1.0".to_owned(),
            sealed_at: Nanos(5000),
            reason: SealReason::Age,
            records: 7,
            first_sequence: Sequence(11),
            last_sequence: Sequence(22),
            records_bytes: 900,
            oldest: Some(Nanos(10)),
            newest: Some(Nanos(20)),
            chain_before: BundleDigest::of(b"a"),
            chain_head: BundleDigest::of(b"b"),
            streams: vec![
                StreamCount { stream: Stream::Falco, records: 3, bytes: 100 },
                StreamCount { stream: Stream::Other, records: 4, bytes: 200 },
            ],
            suppressed: vec![SuppressedCount {
                rule: "leases".to_owned(),
                stream: Stream::KubeAudit,
                records: 2,
                bytes: 1600,
            }],
            losses: vec![
                Loss {
                    reason: LossReason::UdpReceiveQueue,
                    listener: "udp".to_owned(),
                    count: 12,
                    from: Nanos(1),
                    to: Nanos(2),
                    range: None,
                },
                Loss {
                    reason: LossReason::BufferDamaged,
                    listener: String::new(),
                    count: 3,
                    from: Nanos(1),
                    to: Nanos(1),
                    range: Some((Sequence(14), Sequence(16))),
                },
            ],
        }
    }

    #[test]
    fn a_manifest_reads_back() {
        let text = manifest().encode();
        assert_eq!(Manifest::parse(text.as_bytes()).unwrap(), manifest());
    }

    #[test]
    fn numbers_that_do_not_fit_each_other_are_refused() {
        let text = manifest().encode();
        for (from, to) in [
            ("records 7", "records 8"),
            ("records 7", "records 07"),
            ("first-sequence 11", "first-sequence 12"),
            ("last-sequence 22", "last-sequence 18446744073709551615"),
            ("records-bytes 900", "records-bytes 299"),
            ("stream falco 3", "stream falco 4"),
            ("stream falco 3 100\n", ""),
            ("stream falco 3 100", "stream other 3 100"),
            ("oldest-received 10", "oldest-received 21"),
            ("oldest-received 10", "oldest-received -"),
            ("3 1 1 14 16", "3 1 1 9 11"),
            ("3 1 1 14 16", "3 1 1 21 23"),
            ("3 1 1 14 16", "2 1 1 14 16"),
            ("loss udp-receive-queue udp 12 1 2", "loss udp-receive-queue udp 12 3 2"),
            ("loss udp-receive-queue udp 12", "loss udp-receive-queue udp 0"),
            ("loss udp-receive-queue udp", "loss sloth udp"),
            ("loss udp-receive-queue udp 12 1 2", "loss udp-receive-queue udp 3 1 2 11 13"),
            ("suppressed leases kube-audit 2", "suppressed leases kube-audit 3"),
            ("suppressed leases kube-audit 2 1600\n", ""),
            ("suppressed leases", "suppressed Leases"),
            (
                "suppressed leases kube-audit 2 1600\n",
                "suppressed b falco 1 1\nsuppressed a falco 1 1\n",
            ),
            (
                "suppressed leases kube-audit 2 1600\n",
                "suppressed a falco 1 1\nsuppressed a falco 1 1\n",
            ),
            (
                "suppressed leases kube-audit 2 1600\n",
                "suppressed a falco 2 1\nsuppressed b falco 0 0\n",
            ),
            ("reason age", "reason boredom"),
            ("agent penstock-high/0.1.0", "agent penstock high"),
            ("lane routine\n", "lane routine\nlane routine\n"),
        ] {
            let changed = text.replacen(from, to, 1);
            assert_ne!(changed, text, "{from}");
            assert!(Manifest::parse(changed.as_bytes()).is_err(), "{to}");
        }
    }

    #[test]
    fn a_bundle_without_records_says_so() {
        let mut empty = manifest();
        empty.records = 0;
        empty.records_bytes = 0;
        empty.last_sequence = Sequence(10);
        (empty.oldest, empty.newest) = (None, None);
        empty.streams.clear();
        empty.suppressed.clear();
        empty.losses.truncate(1);
        assert_eq!(Manifest::parse(empty.encode().as_bytes()).unwrap(), empty);
    }

    #[test]
    fn a_bundle_of_which_all_was_suppressed_has_its_times() {
        let mut all = manifest();
        (all.records, all.records_bytes, all.last_sequence) = (0, 80, Sequence(12));
        all.streams.clear();
        all.losses.clear();
        assert_eq!(Manifest::parse(all.encode().as_bytes()).unwrap(), all);
    }
}
