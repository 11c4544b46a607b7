//! Why Loki refused an entry, read from its words: an answer has no code but 400.
//!
//! The words are those of `pkg/validation/validate.go` and `pkg/ingester/stream.go` of
//! <https://github.com/grafana/loki>.

use shared::clock::Nanos;

/// Whether this is said of an entry that is never taken as it is.
pub(super) fn is_for_good(text: &str) -> bool {
    FOR_GOOD.iter().any(|words| text.contains(words))
}

/// The oldest time that is taken, where the answer says one: of several, the oldest.
pub(super) fn oldest_acceptable(text: &str) -> Option<Nanos> {
    let times = text.split(OLDEST).skip(1).filter_map(|rest| {
        // Behind it stands the end of the sentence, a quote, or a line's end.
        let end = rest.find(|char: char| !(char.is_ascii_alphanumeric() || "-:.+".contains(char)));
        let word = &rest[..end.unwrap_or(rest.len())];
        word.trim_end_matches(['.', ',']).parse::<Nanos>().ok()
    });
    times.min()
}

const OLDEST: &str = "oldest acceptable timestamp is: ";
const FOR_GOOD: [&str; 5] = [
    "entry too far behind",
    "entry out of order",
    "has timestamp too old",
    "has timestamp too new",
    "max entry size",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_is_understood() {
        let behind = "entry with timestamp 2026-11-23 18:10:19 +0000 UTC ignored, reason: 'entry too far behind, entry timestamp is: 2026-11-23T18:10:19Z, oldest acceptable timestamp is: 2026-11-23T20:10:19Z',\nuser 'fake', total ignored: 1 out of 2 for stream: {job=\"penstock\"}";
        let old = "entry for stream '{job=\"penstock\"}' has timestamp too old: 2026-11-01T00:00:00Z, oldest acceptable timestamp is: 2026-11-16T21:10:19Z";
        assert!(is_for_good(behind) && is_for_good(old));
        assert_eq!(oldest_acceptable(behind), Some("2026-11-23T20:10:19Z".parse().unwrap()));
        let both = format!("{behind}\n{old}");
        assert_eq!(oldest_acceptable(&both), Some("2026-11-16T21:10:19Z".parse().unwrap()));
        for other in ["", "error parsing labels", "oldest acceptable timestamp is: soon"] {
            assert!(!is_for_good(other));
            assert_eq!(oldest_acceptable(other), None);
        }
    }
}
