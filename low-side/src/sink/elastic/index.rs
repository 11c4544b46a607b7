//! Which index a record goes to: plain monthly ones, named by when the event happened.
//!
//! An id is unique inside one index only. So a record's index must follow from the record alone, the
//! same at every try: no rollover, no data stream
//! (<https://github.com/elastic/elasticsearch/issues/44794>), and nothing of the time of delivery.
//!
//! When an event happened is said by whoever sent it, and a forged time must not make indices. The
//! month is that of the event where it happened from [`EARLY`] before to [`LATE`] after the high side
//! received it, and the month of its reception otherwise. So whatever is claimed, what was received
//! in one month stands in at most three indices of its kind, and an index gets nothing that was
//! received [`EARLY`] after its month: see the lifecycle policy in `setup`.

use std::time::Duration;

use jiff::Timestamp;
use jiff::tz::Offset;
use shared::clock::Nanos;
use shared::record::Stream;

/// The kinds of indices, one for each family of streams.
pub(super) const FAMILIES: [&str; 4] =
    ["portainer-audit", "kube-audit", "falco-alert", "penstock-other"];

/// Whether records of both streams go to the same indices.
pub(super) fn is_of_one_kind(one: Stream, other: Stream) -> bool {
    family(one) == family(other)
}

fn family(stream: Stream) -> &'static str {
    match stream {
        Stream::PortainerActivity | Stream::PortainerAuth => "portainer-audit",
        Stream::KubeAudit => "kube-audit",
        Stream::Falco => "falco-alert",
        Stream::Other => "penstock-other",
    }
}

/// The names of indices; remembers the month it was asked for last.
#[derive(Debug)]
pub(super) struct Indices {
    prefix: String,
    month: Month,
}

#[derive(Clone, Debug)]
struct Month {
    from: Nanos,
    to: Nanos,
    text: String,
}

impl Indices {
    pub(super) fn new(prefix: &str) -> Self {
        let month = Month { from: Nanos(0), to: Nanos(0), text: String::new() };
        Self { prefix: prefix.to_owned(), month }
    }

    /// Appends the name of the index of a record.
    pub(super) fn name(
        &mut self,
        out: &mut Vec<u8>,
        stream: Stream,
        happened: Nanos,
        received: Nanos,
    ) {
        let time = trusted(happened, received);
        if !(self.month.from <= time && time < self.month.to) {
            self.month = Month::of(time);
        }
        for part in [&self.prefix, family(stream), "-", &self.month.text] {
            out.extend_from_slice(part.as_bytes());
        }
    }
}

/// When an event happened, as far as it is believed.
fn trusted(happened: Nanos, received: Nanos) -> Nanos {
    let is_near = received.since(happened) <= EARLY && happened.since(received) <= LATE;
    if is_near { happened } else { received }
}

/// The month that names an index, `YYYY.MM`.
pub(super) fn month(time: Nanos) -> String {
    Month::of(time).text
}

impl Month {
    fn of(time: Nanos) -> Self {
        // All that 64 bits of nanoseconds hold lies in the range of both types.
        let at = Timestamp::from_nanosecond(i128::from(time.0)).unwrap_or_default();
        let first = Offset::UTC.to_datetime(at).date().first_of_month();
        let nanos = |date: jiff::civil::Date| {
            let start = Offset::UTC.to_timestamp(date.to_datetime(jiff::civil::Time::midnight()));
            let nanos = start.map_or(i128::from(time.0), Timestamp::as_nanosecond);
            Nanos(i64::try_from(nanos).unwrap_or(time.0))
        };
        let next = first.last_of_month().tomorrow().unwrap_or(first);
        let text = format!("{:04}.{:02}", first.year(), first.month());
        Self { from: nanos(first), to: nanos(next), text }
    }
}

/// How long before its reception an event may have happened to be filed by its own time. A source
/// that was cut off for longer is filed by reception.
pub(super) const EARLY: Duration = Duration::from_hours(31 * 24);
/// How long after its reception an event may claim to have happened: a clock that is wrong.
pub(super) const LATE: Duration = Duration::from_hours(24);

#[cfg(test)]
mod tests {
    use super::*;

    fn name(stream: Stream, happened: &str, received: &str) -> String {
        let mut out = Vec::new();
        let (happened, received) = (happened.parse().unwrap(), received.parse().unwrap());
        Indices::new("x-").name(&mut out, stream, happened, received);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn an_index_is_named_by_the_event_unless_its_time_is_absurd() {
        let received = "2026-11-02T00:00:00Z";
        for (happened, month) in [
            ("2026-11-01T00:00:00Z", "2026.11"),
            ("2026-10-31T23:59:59.999999999Z", "2026.10"),
            ("2026-10-02T00:00:00Z", "2026.10"),
            // Older than is believed, from the future, the ends of time.
            ("2026-10-01T23:59:59Z", "2026.11"),
            ("2026-12-01T00:00:00Z", "2026.11"),
            ("1970-01-01T00:00:00Z", "2026.11"),
            ("2262-01-01T00:00:00Z", "2026.11"),
        ] {
            let expected = format!("x-kube-audit-{month}");
            assert_eq!(name(Stream::KubeAudit, happened, received), expected, "{happened}");
        }
        // A clock that is a little ahead, over the end of a year.
        let (happened, received) = ("2027-01-01T00:30:00Z", "2026-12-31T23:59:00Z");
        assert_eq!(name(Stream::Falco, happened, received), "x-falco-alert-2027.01");
    }

    #[test]
    fn a_month_is_remembered_and_left() {
        let mut indices = Indices::new("");
        let mut names = Vec::new();
        for time in ["2026-11-30T23:59:59Z", "2026-12-01T00:00:00Z", "2026-11-01T00:00:00Z"] {
            let time = time.parse().unwrap();
            let mut out = Vec::new();
            indices.name(&mut out, Stream::PortainerAuth, time, time);
            names.push(String::from_utf8(out).unwrap());
        }
        let november = "portainer-audit-2026.11";
        assert_eq!(names, [november, "portainer-audit-2026.12", november]);
        // The ends of what a time can be.
        for time in [Nanos(i64::MIN), Nanos(i64::MAX)] {
            indices.name(&mut Vec::new(), Stream::Other, time, time);
        }
    }

    #[test]
    fn every_stream_has_a_family_that_setup_knows() {
        for stream in Stream::ALL {
            assert!(FAMILIES.contains(&family(stream)));
        }
    }
}
