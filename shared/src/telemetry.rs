//! Logs: a constant sentence and fields, to standard error.
//!
//! ERROR means loss, or that an operator must act; WARN odd but recovered; INFO a state change
//! worth a glance. Never the contents of a record, never a key.

use tracing::level_filters::LevelFilter;

/// How log lines look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// One JSON object a line.
    Json,
    /// For people.
    #[default]
    Text,
}

/// Sets up logging for the process. Calling it a second time has no effect.
pub fn init(level: LevelFilter, format: LogFormat) {
    let builder = tracing_subscriber::fmt()
        .with_max_level(level)
        .with_writer(std::io::stderr)
        .with_ansi(false)
        .with_target(false);
    // An error means that a subscriber is set already, as in tests: that one stays.
    let _ = match format {
        LogFormat::Json => builder.json().try_init(),
        LogFormat::Text => builder.try_init(),
    };
}
