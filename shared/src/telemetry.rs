//! Logs: a constant sentence and fields, to the journal where the service manager has one, otherwise to
//! standard error.
//!
//! ERROR means loss, or that an operator must act; WARN odd but recovered; INFO a state change
//! worth a glance. Never the contents of a record, never a key. What comes from outside is in fields, and
//! can't begin a line of its own.

use std::io::{self, Write};

use tracing::level_filters::LevelFilter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use crate::journal::{Journal, one_line};

/// How log lines look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// One JSON object a line.
    Json,
    /// For people; fields of their own in the journal.
    #[default]
    Text,
}

/// Sets up logging for the process. Calling it a second time has no effect.
pub fn init(level: LevelFilter, format: LogFormat) {
    let journal = (format == LogFormat::Text).then(Journal::of_stderr).flatten();
    let builder = tracing_subscriber::fmt()
        .with_max_level(level)
        .with_writer(|| OneLine(io::stderr()))
        .with_ansi(false)
        .with_target(false);
    // A failure means that a subscriber is set already, as in tests: that one stays.
    let set = match (journal, format) {
        (Some(journal), _) => {
            let both = tracing_subscriber::registry().with(level).with(journal);
            both.try_init().is_ok()
        }
        (None, LogFormat::Json) => builder.json().try_init().is_ok(),
        (None, LogFormat::Text) => builder.try_init().is_ok(),
    };
    if !set {
        tracing::debug!("logging was set up before");
    }
}

/// Writes a line as one line, whatever is in it.
struct OneLine<W>(W);

impl<W: Write> Write for OneLine<W> {
    /// Takes one whole line, as `tracing` writes it.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let line = bytes.strip_suffix(b"\n").unwrap_or(bytes);
        if line.iter().any(u8::is_ascii_control) {
            let line = one_line(&String::from_utf8_lossy(line));
            self.0.write_all(format!("{line}\n").as_bytes())?;
        } else {
            self.0.write_all(bytes)?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_stays_one() {
        let written = |text: &str| {
            let mut out = OneLine(Vec::new());
            out.write_all(text.as_bytes()).unwrap();
            String::from_utf8(out.0).unwrap()
        };
        assert_eq!(written("INFO ready a=1\n"), "INFO ready a=1\n");
        assert_eq!(
            written("WARN it failed error=x\nERROR forged\r\u{1b}[2J\n"),
            "WARN it failed error=x\\nERROR forged\\r\\u{1b}[2J\n"
        );
    }
}
