//! Our own service, as an operator's command starts it: by systemd's own program, and never by the agent.

use std::io;
use std::path::Path;
use std::process::Command;

/// Why the service was not started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// There is no systemd here, or its program can't be run.
    #[error("can't run systemctl ({source})\n  try: without --start, and then {program} run")]
    NoSystemd {
        /// Which program would have been started.
        program: &'static str,
        /// Why.
        source: io::Error,
    },
    /// It could not be enabled or started.
    #[error("systemctl {verb} {program} failed\n  try: journalctl --unit {program}")]
    Failed {
        /// What was asked for.
        verb: &'static str,
        /// Which service.
        program: &'static str,
    },
}

/// Enables the service of a program and starts it; one that runs takes up its configuration and keys anew.
/// In a system that was not booted by systemd it is enabled only. Gives what became of it, in words.
///
/// # Errors
/// Names what was asked of systemd and went wrong.
pub fn start(program: &'static str) -> Result<String, StartError> {
    // What sd_booted(3) looks at.
    let booted = Path::new("/run/systemd/system").is_dir();
    let verbs: &[&'static str] =
        if booted { &["enable", "reload-or-restart"] } else { &["enable"] };
    for &verb in verbs {
        let unit = format!("{program}.service");
        // What it says goes where our own words to the operator go; standard output is for data.
        let done = Command::new("systemctl").args([verb, &unit]).stdout(io::stderr()).status();
        match done {
            Ok(status) if status.success() => {}
            Ok(_) => return Err(StartError::Failed { verb, program }),
            Err(source) => return Err(StartError::NoSystemd { program, source }),
        }
    }
    Ok(if booted {
        format!("{program} is enabled and runs; see: {program} status")
    } else {
        format!("{program} is enabled; systemd does not run here, so start it by: {program} run")
    })
}
