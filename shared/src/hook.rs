//! A command of the operator's that is run for a file: an argument list, no shell.
//!
//! Its exit code and its time are honoured, and the end of what it says is kept for the operator.
//! It runs in a process group of its own, which is killed as a whole when the time is over.

use std::io::{self, Read};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

/// A command, and how long it may take.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hook {
    argv: Vec<String>,
    timeout: Duration,
}

/// How a command failed.
#[derive(Debug, thiserror::Error)]
pub enum HookError {
    /// It can't be started.
    #[error(
        "the command {program} can't be started: {source}\n  try: give its absolute path, and see whether this user may run it"
    )]
    Start {
        /// What was to be run.
        program: String,
        /// What the system said.
        source: io::Error,
    },
    /// It ended with something else than 0.
    #[error("the command {program} failed ({status}){}", said(output))]
    Failed {
        /// What was run.
        program: String,
        /// How it ended.
        status: String,
        /// The end of what it said.
        output: String,
    },
    /// It took too long.
    #[error("the command {program} was ended after {} s{}", timeout.as_secs_f64(), said(output))]
    TimedOut {
        /// What was run.
        program: String,
        /// How long it was given.
        timeout: Duration,
        /// The end of what it said.
        output: String,
    },
    /// The agent stops.
    #[error("the command {program} was ended, since the agent stops")]
    Stopped {
        /// What was run.
        program: String,
    },
}

fn said(output: &str) -> String {
    if output.is_empty() { String::new() } else { format!("; it said: {output}") }
}

impl Hook {
    /// A command; `None` without a program. In each argument, placeholders are replaced by [`Self::run`].
    pub fn new(argv: Vec<String>, timeout: Duration) -> Option<Self> {
        argv.first().is_some_and(|program| !program.is_empty()).then_some(Self { argv, timeout })
    }

    /// The program.
    pub fn program(&self) -> &str {
        &self.argv[0]
    }

    /// Runs it. `values` are placeholders with what stands for them; a value is never looked at for
    /// further placeholders, and never by a shell. `stopping` is asked often.
    pub fn run(
        &self,
        values: &[(&str, &str)],
        stopping: &dyn Fn() -> bool,
    ) -> Result<(), HookError> {
        let program = self.program().to_owned();
        let mut child = Command::new(&program)
            .args(self.argv[1..].iter().map(|argument| filled(argument, values)))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .spawn()
            .map_err(|source| HookError::Start { program: program.clone(), source })?;
        let output = Tail::default();
        let readers = [
            child.stdout.take().map(|pipe| output.follow(pipe)),
            child.stderr.take().map(|pipe| output.follow(pipe)),
        ];
        let started = Instant::now();
        let ended = loop {
            match child.try_wait() {
                Ok(Some(status)) => break Ok(status),
                Ok(None) => {}
                Err(source) => break Err(HookError::Start { program: program.clone(), source }),
            }
            if stopping() {
                break Err(HookError::Stopped { program: program.clone() });
            }
            if started.elapsed() >= self.timeout {
                let timeout = self.timeout;
                break Err(HookError::TimedOut {
                    program: program.clone(),
                    timeout,
                    output: output.text(),
                });
            }
            thread::sleep(POLL);
        };
        if ended.is_err() {
            end(&mut child);
        }
        // A grandchild may keep the pipes open for ever; then what was said so far is enough.
        let patience = Instant::now() + OUTPUT_PATIENCE;
        while Instant::now() < patience
            && readers.iter().flatten().any(|reader| !reader.is_finished())
        {
            thread::sleep(POLL);
        }
        match ended? {
            status if status.success() => Ok(()),
            status => {
                Err(HookError::Failed { program, status: shown(status), output: output.text() })
            }
        }
    }
}

fn filled(argument: &str, values: &[(&str, &str)]) -> String {
    let (mut rest, mut text) = (argument, String::new());
    loop {
        let found = values
            .iter()
            .filter_map(|(placeholder, value)| Some((rest.find(placeholder)?, *placeholder, value)))
            .min_by_key(|(at, _, _)| *at);
        let Some((at, placeholder, value)) = found else { break };
        text.push_str(&rest[..at]);
        text.push_str(value);
        rest = &rest[at + placeholder.len()..];
    }
    text + rest
}

fn shown(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit code {code}"),
        (None, Some(signal)) => format!("signal {signal}"),
        (None, None) => "no exit code".to_owned(),
    }
}

/// Kills the whole group and waits for the command itself.
fn end(child: &mut Child) {
    if let Ok(pid) = i32::try_from(child.id()) {
        // An error means that it has ended.
        let _ = killpg(Pid::from_raw(pid), Signal::SIGKILL);
    }
    let _ = child.kill();
    let _ = child.wait();
}

/// The end of what a command says.
#[derive(Clone, Debug, Default)]
struct Tail(Arc<Mutex<Vec<u8>>>);

impl Tail {
    fn follow(&self, mut pipe: impl Read + Send + 'static) -> thread::JoinHandle<()> {
        let tail = self.clone();
        thread::spawn(move || {
            let mut buffer = [0; 1024];
            while let Ok(count @ 1..) = pipe.read(&mut buffer) {
                let mut kept = tail.0.lock().unwrap_or_else(PoisonError::into_inner);
                kept.extend_from_slice(&buffer[..count]);
                let over = kept.len().saturating_sub(OUTPUT_BYTES_MAX);
                kept.drain(..over);
            }
        })
    }

    /// In one line, without what a terminal could take amiss.
    fn text(&self) -> String {
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let lines: Vec<String> = kept
            .split(|byte| *byte == b'\n')
            .map(|line| line.trim_ascii().escape_ascii().to_string())
            .filter(|line| !line.is_empty())
            .collect();
        lines.join(" / ")
    }
}

/// What is kept of what a command says: its last words tell what went wrong.
const OUTPUT_BYTES_MAX: usize = 1024;
const OUTPUT_PATIENCE: Duration = Duration::from_millis(500);
const POLL: Duration = Duration::from_millis(5);

#[cfg(test)]
mod tests {
    use super::*;

    fn hook(argv: &[&str], timeout: Duration) -> Hook {
        Hook::new(argv.iter().map(|&word| word.to_owned()).collect(), timeout).unwrap()
    }

    const LONG: Duration = Duration::from_mins(1);

    #[test]
    fn arguments_come_as_they_are_and_no_shell_sees_them() {
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path().join("$(touch evil); {name}");
        let file = out.to_str().unwrap();
        let touch = hook(&["touch", "--", "{file}"], LONG);
        touch.run(&[("{file}", file), ("{name}", "x")], &|| false).unwrap();
        assert!(out.exists());
        assert_eq!(
            filled("a{name}b{file}{other}", &[("{file}", "{name}"), ("{name}", "N")]),
            "aNb{name}{other}"
        );
    }

    #[test]
    fn exit_codes_signals_and_last_words_are_told() {
        let failed = hook(&["sh", "-c", "echo first; echo disk full >&2; exit 3"], LONG);
        let text = failed.run(&[], &|| false).unwrap_err().to_string();
        assert!(text.contains("exit code 3") && text.contains("disk full"), "{text}");
        let killed = hook(&["sh", "-c", "kill -9 $$"], LONG).run(&[], &|| false);
        assert!(killed.unwrap_err().to_string().contains("signal 9"));
        let absent = hook(&["/no/such/program"], LONG).run(&[], &|| false);
        assert!(matches!(absent, Err(HookError::Start { .. })));
        let many = hook(&["sh", "-c", "seq 1 100000; echo end; exit 1"], LONG);
        let text = many.run(&[], &|| false).unwrap_err().to_string();
        assert!(text.len() < 4096 && text.ends_with("end"), "{}", text.len());
    }

    #[test]
    fn one_that_hangs_is_ended_with_its_children() {
        let dir = tempfile::tempdir().unwrap();
        let pid = dir.path().join("pid");
        let script = format!("sleep 1000 & echo $! > {}; wait", pid.display());
        let hung = hook(&["sh", "-c", &script], Duration::from_millis(700));
        assert!(matches!(hung.run(&[], &|| false), Err(HookError::TimedOut { .. })));
        if let Ok(child) = std::fs::read_to_string(&pid) {
            let deadline = Instant::now() + LONG;
            let stat = format!("/proc/{}/stat", child.trim());
            // Gone, or a zombie that its new parent has yet to take up.
            while std::fs::read_to_string(&stat).is_ok_and(|stat| !stat.contains(") Z")) {
                assert!(Instant::now() < deadline, "the grandchild lives");
                thread::sleep(POLL);
            }
        }
        let stopped = hook(&["sleep", "1000"], LONG).run(&[], &|| true);
        assert!(matches!(stopped, Err(HookError::Stopped { .. })));
    }
}
