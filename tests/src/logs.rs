//! What the agents log: any ERROR line that a test does not list fails it.

use std::fs;
use std::path::Path;

/// Fails on ERROR lines and panics in a log that no entry of `allowed` is part of.
///
/// # Panics
/// With every unlisted line.
pub fn assert_no_unlisted_errors(log: &Path, allowed: &[&str]) {
    let text = fs::read(log).unwrap_or_else(|err| panic!("can't read {}: {err}", log.display()));
    let text = String::from_utf8_lossy(&text);
    let unlisted = unlisted_errors(&text, allowed);
    assert!(unlisted.is_empty(), "{} has unlisted errors:\n{}", log.display(), unlisted.join("\n"));
}

/// The ERROR lines and panics of a log, in either format, that no entry of `allowed` is part of.
pub fn unlisted_errors<'a>(text: &'a str, allowed: &[&str]) -> Vec<&'a str> {
    text.lines()
        .filter(|line| is_error(line))
        .filter(|line| !allowed.iter().any(|entry| line.contains(entry)))
        .collect()
}

fn is_error(line: &str) -> bool {
    // The text format has the level as its second word; the JSON format as a field.
    line.split_whitespace().nth(1) == Some("ERROR")
        || line.contains(r#""level":"ERROR""#)
        || line.contains("panicked at")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_unlisted_errors_are_found() {
        let log = "2026-11-23T21:10:19Z  INFO ready ERROR=none\n\
                   2026-11-23T21:10:20Z ERROR disk is full path=x\n\
                   {\"timestamp\":\"t\",\"level\":\"ERROR\",\"fields\":{}}\n\
                   thread 'writer' panicked at src/x.rs:1:1:\n\
                   2026-11-23T21:10:20Z ERROR a sink refused us";
        let found = unlisted_errors(log, &["disk is full"]);
        assert_eq!(found.len(), 3, "{found:?}");
        assert!(found[0].starts_with('{') && found[2].ends_with("refused us"));
    }
}
