//! Numbers and times as people read them.

/// A time without the fraction of its second.
pub(super) fn short(time: &str) -> String {
    match (time.get(..10), time.get(11..19)) {
        (Some(day), Some(clock)) => format!("{day} {clock} UTC"),
        _ => time.to_owned(),
    }
}

/// The day of a time.
pub(super) fn day(time: &str) -> &str {
    time.get(..10).unwrap_or(time)
}

/// A number with its thousands apart.
pub(super) fn number(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// A time that something took: three digits are enough.
pub(super) fn span(millis: u64) -> String {
    let whole = |unit: u64, name: &str| format!("{}\u{a0}{name}", millis / unit);
    let part = |unit: u64, name: &str| {
        let tenths = millis.saturating_mul(10) / unit;
        let dot =
            if tenths.is_multiple_of(10) { String::new() } else { format!(".{}", tenths % 10) };
        format!("{}{dot}\u{a0}{name}", number(tenths / 10))
    };
    match millis {
        0..1_000 => whole(1, "ms"),
        1_000..60_000 => part(1_000, "s"),
        60_000..3_600_000 => part(60_000, "min"),
        3_600_000..172_800_000 => part(3_600_000, "h"),
        _ => part(86_400_000, "d"),
    }
}

/// `1 record`, `2 records`, `3 entries`.
pub(super) fn counted(count: u64, noun: &str) -> String {
    match (count, noun.strip_suffix('y')) {
        (1, _) => format!("1 {noun}"),
        (_, Some(stem)) => format!("{} {stem}ies", number(count)),
        _ => format!("{} {noun}s", number(count)),
    }
}
