//! Times as they stand in syslog headers.

use jiff::civil;
use jiff::tz::Offset;

use crate::clock::Nanos;

use super::envelope::Problem;

/// A time of RFC 3339 with its zone, and what is unusual about it by RFC 5424 section 6.2.3.
/// `None` if it is none.
pub(super) fn rfc3339(text: &str) -> Option<(Nanos, Option<Problem>)> {
    let bytes = text.as_bytes();
    let (date, rest) = text.split_at_checked(10)?;
    let mut odd = None;
    match rest.as_bytes().first()? {
        b'T' => {}
        b't' | b' ' => odd = Some(Problem::TimestampUnusual),
        _ => return None,
    }
    if bytes[4] != b'-' || bytes[7] != b'-' {
        return None;
    }
    let date = (number(&date[..4])?, number(&date[5..7])?, number(&date[8..])?);
    let (clock, rest) = rest[1..].split_at_checked(8)?;
    let (hour, minute, second) = clock_time(clock)?;
    let (nanos, digits, rest) = fraction(rest)?;
    if digits > FRACTION_DIGITS_MAX || second == 60 {
        odd = Some(Problem::TimestampUnusual);
    }
    let offset = match rest.as_bytes() {
        b"Z" => 0,
        b"z" => {
            odd = Some(Problem::TimestampUnusual);
            0
        }
        _ => offset_seconds(rest)?,
    };
    let time = civil_time(date, (hour, minute, second), nanos, offset)?;
    Some((time, odd))
}

/// A time with date and zone, as events write it: RFC 3339, also with a zone without colon. It runs for
/// every event, so that the usual form has a way of its own.
pub(super) fn instant(text: &str) -> Option<Nanos> {
    let bytes = text.as_bytes();
    if bytes.len() < 20 || bytes[10] != b'T' || !text.is_ascii() {
        return rfc3339(text).map(|(time, _)| time);
    }
    let two = |at: usize| number2(bytes[at], bytes[at + 1]);
    let year = i64::from(two(0)? * 100 + two(2)?);
    let (month, day) = (two(5)?, two(8)?);
    let (hour, minute, second) = (two(11)?, two(14)?, two(17)?);
    let punctuation = [bytes[4], bytes[7], bytes[13], bytes[16]] == *b"--::";
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let days = match month {
        2 => 28 + u32::from(leap),
        4 | 6 | 9 | 11 => 30,
        1..=12 => 31,
        _ => return None,
    };
    if !punctuation || !(1..=days).contains(&day) || hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    let (nanos, _, zone) = fraction(&text[19..])?;
    let offset = match zone.as_bytes() {
        b"Z" => 0,
        [sign @ (b'+' | b'-'), h, i, m, n] | [sign @ (b'+' | b'-'), h, i, b':', m, n] => {
            let (hours, minutes) = (number2(*h, *i)?, number2(*m, *n)?);
            let seconds = i64::from(hours * 3600 + minutes * 60);
            if *sign == b'+' { seconds } else { -seconds }
        }
        _ => return None,
    };
    // Days since 1970 by counting years from March on, so that a leap day ends its year.
    let (years, months) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let days = years * 365 + years / 4 - years / 100
        + years / 400
        + i64::from((months * 153 + 2) / 5 + day - 1)
        - 719_468;
    let clock = i64::from(hour * 3600 + minute * 60 + second.min(59));
    (days * 86_400 + clock - offset)
        .checked_mul(1_000_000_000)?
        .checked_add(i64::from(nanos))
        .map(Nanos)
}

fn number2(tens: u8, ones: u8) -> Option<u32> {
    let digits = tens.is_ascii_digit() && ones.is_ascii_digit();
    digits.then(|| u32::from(tens - b'0') * 10 + u32::from(ones - b'0'))
}

/// A time as in RFC 3164: `Nov 23 16:00:00`, and the ways devices write it: the year before or after
/// the time of day, a fraction, a zone. Gives also how many bytes it takes, without a space after it.
pub(super) struct Bsd {
    pub(super) bytes: usize,
    pub(super) year_known: bool,
    pub(super) zone_known: bool,
    /// Read in UTC where no zone is given, and in the year nearest to the time received.
    pub(super) time: Option<Nanos>,
}

pub(super) fn bsd(text: &str, received: Nanos) -> Option<Bsd> {
    let name = text.get(..3)?;
    let (month, _) = (1..).zip(MONTHS).find(|(_, month)| name.eq_ignore_ascii_case(month))?;
    let mut rest = text[3..].strip_prefix(' ')?;
    rest = rest.trim_start_matches(' ');
    let (day, after) = digits(rest, 2)?;
    rest = after.strip_prefix(' ')?;
    let mut year = None;
    if let Some((value, after)) = digits(rest, 4)
        && rest.len() - after.len() == 4
        && let Some(after) = after.strip_prefix(' ')
    {
        year = Some(value);
        rest = after;
    }
    let (clock, after) = rest.split_at_checked(8)?;
    let at = clock_time(clock)?;
    let (nanos, _, after) = fraction(after).unwrap_or((0, 0, after));
    rest = after;
    if year.is_none()
        && let Some((value, after)) = rest.strip_prefix(' ').and_then(|rest| digits(rest, 4))
        && rest.len() - after.len() == 5
        && (1970..=2200).contains(&value)
        && after.as_bytes().first().is_none_or(|byte| b" :".contains(byte))
    {
        year = Some(value);
        rest = after;
    }
    let mut offset = None;
    for (name, seconds) in [("Z", 0), (" UTC", 0), (" GMT", 0)] {
        if let Some(after) = rest.strip_prefix(name)
            && after.as_bytes().first().is_none_or(|byte| b" :".contains(byte))
        {
            offset = Some(seconds);
            rest = after;
            break;
        }
    }
    if offset.is_none()
        && let Some(zone) = rest.get(..6)
        && let Some(seconds) = offset_seconds(zone)
    {
        offset = Some(seconds);
        rest = &rest[6..];
    }
    let time_in = |year| civil_time((year, month, day), at, nanos, offset.unwrap_or(0));
    let time = match year {
        Some(year) => time_in(year),
        None => nearest_year(received, time_in),
    };
    let zone_known = offset.is_some();
    Some(Bsd { bytes: text.len() - rest.len(), year_known: year.is_some(), zone_known, time })
}

fn nearest_year(received: Nanos, time_in: impl Fn(i32) -> Option<Nanos>) -> Option<Nanos> {
    let now = jiff::Timestamp::from_nanosecond(i128::from(received.0)).ok()?;
    let this = i32::from(Offset::UTC.to_datetime(now).year());
    [this - 1, this, this + 1]
        .into_iter()
        .filter_map(time_in)
        .min_by_key(|time| time.0.abs_diff(received.0))
}

fn civil_time(
    (year, month, day): (i32, i32, i32),
    (hour, minute, second): (i32, i32, i32),
    nanos: i32,
    offset: i32,
) -> Option<Nanos> {
    let small = |value: i32| i8::try_from(value).ok();
    let date = civil::Date::new(i16::try_from(year).ok()?, small(month)?, small(day)?).ok()?;
    // RFC 5424 forbids second 60; a clock that ticks it gets the last second of the minute.
    let time =
        civil::Time::new(small(hour)?, small(minute)?, small(second.min(59))?, nanos).ok()?;
    let stamp = Offset::from_seconds(offset).ok()?.to_timestamp(date.to_datetime(time)).ok()?;
    i64::try_from(stamp.as_nanosecond()).ok().map(Nanos)
}

/// `hh:mm:ss`; the second may be 60.
fn clock_time(text: &str) -> Option<(i32, i32, i32)> {
    let bytes = text.as_bytes();
    if bytes.len() != 8 || bytes[2] != b':' || bytes[5] != b':' || !text.is_ascii() {
        return None;
    }
    let (hour, minute, second) = (number(&text[..2])?, number(&text[3..5])?, number(&text[6..])?);
    (hour < 24 && minute < 60 && second <= 60).then_some((hour, minute, second))
}

/// An optional fraction of a second: its nanoseconds, its number of digits, and the rest.
fn fraction(text: &str) -> Option<(i32, usize, &str)> {
    let Some(rest) = text.strip_prefix('.') else {
        return Some((0, 0, text));
    };
    let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
    if digits == 0 {
        return None;
    }
    let nanos = rest
        .bytes()
        .take(digits)
        .chain(std::iter::repeat(b'0'))
        .take(9)
        .fold(0, |sum, digit| sum * 10 + i32::from(digit - b'0'));
    Some((nanos, digits, &rest[digits..]))
}

/// `+hh:mm` or `-hh:mm`, in seconds.
fn offset_seconds(text: &str) -> Option<i32> {
    let bytes = text.as_bytes();
    if bytes.len() != 6 || bytes[3] != b':' || !text.is_ascii() {
        return None;
    }
    let (hours, minutes) = (number(&text[1..3])?, number(&text[4..])?);
    if hours > 23 || minutes > 59 {
        return None;
    }
    match bytes[0] {
        b'+' => Some(hours * 3600 + minutes * 60),
        b'-' => Some(-(hours * 3600 + minutes * 60)),
        _ => None,
    }
}

fn number(text: &str) -> Option<i32> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok())?
}

/// One to `most` digits at the start of a text.
fn digits(text: &str, most: usize) -> Option<(i32, &str)> {
    let count = text.bytes().take(most).take_while(u8::is_ascii_digit).count();
    Some((number(text.get(..count)?)?, &text[count..]))
}

const FRACTION_DIGITS_MAX: usize = 6;

const MONTHS: [&str; 12] =
    ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_short_way_agrees_with_the_long_one() {
        for text in [
            "1970-01-01T00:00:00Z",
            "2000-02-29T23:59:59.5Z",
            "2026-11-23T16:00:00.123456789Z",
            "2100-03-01T00:00:00+02:00",
            "1999-12-31T23:59:60.1-11:30",
            "2024-01-31T08:00:00Z",
        ] {
            let (time, _) = rfc3339(text).unwrap();
            assert_eq!(instant(text), Some(time), "{text}");
        }
        assert_eq!(
            instant("2016-08-04T16:17:57.881781397+0000"),
            instant("2016-08-04T16:17:57.881781397Z")
        );
        for none in ["2026-02-29T00:00:00Z", "2026-13-01T00:00:00Z", "2026-11-23T16:00:00", "", "x"]
        {
            assert_eq!(instant(none), None, "{none}");
        }
    }
}
