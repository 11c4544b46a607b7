//! Child processes: their output in a file, killed when dropped, and what they cost.

use std::fs::{self, OpenOptions};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, SysconfVar, sysconf};

use crate::wait::{wait_for, wait_until};

/// A running child. Dropping it kills it and waits for its end.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts a program whose standard output and error are appended to `LOG_DIR/NAME.log`.
    pub fn spawn(command: &mut Command, name: &str, log_dir: &Path) -> Self {
        let log = log_dir.join(format!("{name}.log"));
        let out = OpenOptions::new().create(true).append(true).open(&log);
        let out = out.unwrap_or_else(|err| panic!("can't write {}: {err}", log.display()));
        let err = out.try_clone().expect("a log file can be shared");
        let child = command.stdin(Stdio::null()).stdout(out).stderr(err).spawn();
        let child = child.unwrap_or_else(|err| panic!("can't start {command:?}: {err}"));
        Self { name: name.to_owned(), child, log }
    }

    /// The process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Where its output goes.
    pub fn log_path(&self) -> &Path {
        &self.log
    }

    /// Its output so far.
    pub fn log(&self) -> String {
        fs::read(&self.log)
            .map(|text| String::from_utf8_lossy(&text).into_owned())
            .unwrap_or_default()
    }

    /// Its end, if it has ended.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("a child can be waited for")
    }

    /// Waits until its output holds `text`.
    ///
    /// # Panics
    /// When it does not within `deadline`, or the process ends first.
    pub fn wait_for_log(&mut self, deadline: Duration, text: &str) {
        wait_until(deadline, &format!("{text:?} from {}", self.name), || {
            let found = self.log().contains(text);
            if !found && let Some(status) = self.ended() {
                panic!("{} ended with {status}:\n{}", self.name, self.log());
            }
            found
        });
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        kill(self.pid(), signal).unwrap_or_else(|err| panic!("can't signal {}: {err}", self.name));
    }

    /// Ends it at once, as a crash would.
    pub fn kill(mut self) {
        self.end();
    }

    /// Asks it to end (SIGTERM) and waits.
    ///
    /// # Panics
    /// When it still runs after `deadline`.
    pub fn stop(mut self, deadline: Duration) -> ExitStatus {
        if self.ended().is_none() {
            self.signal(Signal::SIGTERM);
        }
        self.wait(deadline)
    }

    /// Waits for its end.
    ///
    /// # Panics
    /// When it still runs after `deadline`.
    pub fn wait(&mut self, deadline: Duration) -> ExitStatus {
        wait_for(deadline, &format!("end of {}", self.name.clone()), || self.ended())
    }

    /// What it has cost so far.
    pub fn cost(&self) -> Cost {
        Cost::of(self.id())
    }

    fn pid(&self) -> Pid {
        Pid::from_raw(self.id().cast_signed())
    }

    fn end(&mut self) {
        // An error means that it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.end();
    }
}

/// What a process has cost up to now; zeros once it has ended.
#[derive(Clone, Copy, Debug, Default)]
pub struct Cost {
    /// Processor time in seconds, user and system, all threads.
    pub cpu_secs: f64,
    /// The most memory that was resident at one time, in bytes (`VmHWM`).
    pub memory_bytes_max: u64,
}

impl Cost {
    /// The cost of a process that still runs.
    pub fn of(pid: u32) -> Self {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        // The second field is the program's name in brackets and may hold spaces.
        let after_name = stat.rsplit_once(") ").map_or("", |(_, rest)| rest);
        let mut fields = after_name.split(' ').skip(STAT_UTIME - STAT_FIRST_AFTER_NAME);
        let mut ticks = || fields.next().and_then(|field| field.parse::<u64>().ok()).unwrap_or(0);
        let total = ticks() + ticks();
        let per_second = sysconf(SysconfVar::CLK_TCK).ok().flatten().unwrap_or(100);
        Self {
            cpu_secs: total as f64 / per_second as f64,
            memory_bytes_max: status_kib(pid, "VmHWM:") << 10,
        }
    }
}

// Field numbers of proc(5), from 1.
const STAT_FIRST_AFTER_NAME: usize = 3;
const STAT_UTIME: usize = 14;

fn status_kib(pid: u32, key: &str) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix(key)).unwrap_or_default();
    line.split_whitespace().next().and_then(|kib| kib.parse().ok()).unwrap_or(0)
}

/// How a command that ran to its end did.
#[derive(Debug)]
pub struct Done {
    /// The exit code; `None` after a signal.
    pub code: Option<i32>,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
    /// The command, for messages.
    pub command: String,
}

impl Done {
    /// Standard output of a command that succeeded.
    ///
    /// # Panics
    /// When it did not; the message carries its standard error.
    pub fn success(self) -> String {
        assert_eq!(self.code, Some(0), "{}\n{}{}", self.command, self.stdout, self.stderr);
        self.stdout
    }
}

/// Runs a command to its end.
pub fn run(command: &mut Command) -> Done {
    let output = command.stdin(Stdio::null()).output();
    let output = output.unwrap_or_else(|err| panic!("can't start {command:?}: {err}"));
    Done {
        code: output.status.code(),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        command: format!("{command:?}"),
    }
}

/// The size of everything under a folder, in bytes on disk.
pub fn disk_bytes(dir: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let Ok(entries) = fs::read_dir(dir) else {
        return 0;
    };
    entries
        .flatten()
        .filter_map(|entry| Some((entry.path(), entry.metadata().ok()?)))
        .map(|(path, meta)| if meta.is_dir() { disk_bytes(&path) } else { meta.blocks() * 512 })
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sandbox::Sandbox;
    use crate::wait::PATIENCE;

    #[test]
    fn a_child_logs_and_ends_when_told() {
        let sandbox = Sandbox::new("process");
        let mut command = Command::new("sh");
        command.args(["-c", "echo ready; exec sleep 1000"]);
        let mut child = Process::spawn(&mut command, "sleeper", sandbox.path());
        child.wait_for_log(PATIENCE, "ready");
        assert!(child.cost().memory_bytes_max > 0);
        assert!(!child.stop(PATIENCE).success());
    }

    #[test]
    fn the_cost_of_work_is_seen() {
        let until = std::time::Instant::now() + Duration::from_millis(60);
        while std::time::Instant::now() < until {}
        assert!(Cost::of(std::process::id()).cpu_secs > 0.0);
    }

    #[test]
    fn a_failed_command_tells_its_code_and_words() {
        let done = run(Command::new("sh").args(["-c", "echo out; echo err >&2; exit 65"]));
        assert_eq!((done.code, &*done.stdout, &*done.stderr), (Some(65), "out\n", "err\n"));
    }
}
