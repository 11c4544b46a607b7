//! The official Node client of Fluentd's Forward protocol.

use std::fs;
use std::path::Path;
use std::process::Stdio;

use serde_json::Value;

use super::peer;
use crate::process::Process;

/// Starts the client with the options of `peers/fluent-logger.js`; it sends these lines. Its log names
/// each line that was acknowledged.
///
/// # Panics
/// When the client is not installed.
pub fn fluent_logger(dir: &Path, name: &str, options: &Value, lines: &[String]) -> Process {
    let modules = super::npm_modules("@fluent-org/logger");
    let input = dir.join(format!("{name}.lines"));
    fs::write(&input, lines.join("\n")).expect("the lines can be written");
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("peers/fluent-logger.js");
    let mut command = peer("sh");
    command.arg("-c").arg("exec node \"$1\" \"$2\" \"$3\" < \"$4\"").arg("sh");
    command.arg(script).arg(modules).arg(options.to_string()).arg(&input).stdin(Stdio::null());
    let _ = peer("node");
    Process::spawn(&mut command, name, dir)
}

/// The numbers of the lines that a client says were acknowledged.
pub fn acknowledged(log: &str) -> Vec<usize> {
    log.lines().filter_map(|line| line.strip_prefix("acknowledged ")?.parse().ok()).collect()
}
