//! Both agents as an operator has them: folders, a configuration, a command line, a process.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::process::{Done, Process, run};
use crate::sandbox::Sandbox;
use crate::wait::PATIENCE;

/// The path of one of our own programs, beside the test that runs.
///
/// # Panics
/// When it was not built.
pub fn program(name: &str) -> PathBuf {
    let test = std::env::current_exe().expect("a running program has a path");
    let dir = test.parent().expect("a program lies in a folder");
    // Tests lie in `target/PROFILE/deps`, programs one above.
    let dir = if dir.ends_with("deps") { dir.parent().unwrap_or(dir) } else { dir };
    let path = dir.join(name);
    let build = "cargo build --workspace --bins";
    assert!(path.is_file(), "{} is not built; first run: {build}", path.display());
    path
}

/// Which of the two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// `penstock-high`.
    High,
    /// `penstock-low`.
    Low,
}

impl Side {
    pub(crate) fn program(self) -> &'static str {
        match self {
            Side::High => "penstock-high",
            Side::Low => "penstock-low",
        }
    }

    fn unit(self) -> &'static str {
        match self {
            Side::High => "penstock-high.service",
            Side::Low => "penstock-low.service",
        }
    }

    fn config_name(self) -> &'static str {
        match self {
            Side::High => "high.toml",
            Side::Low => "low.toml",
        }
    }
}

/// One installation in a folder of its own.
#[derive(Clone, Debug)]
pub struct Site {
    side: Side,
    dir: PathBuf,
    state_dir: PathBuf,
    /// Lines above the first section of the configuration.
    head: String,
}

impl Site {
    /// A new high side; its keys are made by `init`.
    pub fn high(sandbox: &Sandbox, origin: &str) -> Self {
        let dir = sandbox.dir(&format!("high-{origin}"));
        let mut command = Command::new(program(Side::High.program()));
        command.args(["init", "--origin", origin, "--dir"]).arg(&dir);
        Self::set_up(Side::High, dir, &mut command, &format!("origin = \"{origin}\"\n"))
    }

    /// A new low side; its keys are made by `init`.
    pub fn low(sandbox: &Sandbox, name: &str) -> Self {
        let dir = sandbox.dir(&format!("low-{name}"));
        let mut command = Command::new(program(Side::Low.program()));
        command.args(["init", "--dir"]).arg(&dir);
        Self::set_up(Side::Low, dir, &mut command, "")
    }

    fn set_up(side: Side, dir: PathBuf, command: &mut Command, head: &str) -> Self {
        let public = run(command).success();
        fs::write(dir.join(PUBLIC_HALF_FILE), public).expect("the public half can be kept");
        let state_dir = dir.join("state");
        let keys_dir = dir.join("keys").display().to_string();
        let head = format!("{head}keys-dir = {keys_dir:?}\n");
        let installed = Self { side, dir, state_dir, head };
        installed.configure("");
        installed
    }

    /// The folder of this installation.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The configuration file.
    pub fn config(&self) -> PathBuf {
        self.dir.join(self.side.config_name())
    }

    /// The text that `init` printed for the other side.
    pub fn public_half(&self) -> PathBuf {
        self.dir.join(PUBLIC_HALF_FILE)
    }

    /// Where a high side's bundles appear.
    pub fn outbox(&self) -> PathBuf {
        self.state_dir().join("outbox")
    }

    /// Where a low side's bundles arrive.
    pub fn inbox(&self) -> PathBuf {
        self.dir.join("inbox")
    }

    /// Buffer or ledger.
    pub fn state_dir(&self) -> PathBuf {
        self.state_dir.clone()
    }

    /// The same installation with its buffer or ledger in another folder, and no sections in its
    /// configuration.
    #[must_use]
    pub fn with_state_dir(mut self, state_dir: PathBuf) -> Self {
        self.state_dir = state_dir;
        self.configure("");
        self
    }

    /// Where the agent's log goes.
    pub fn log_path(&self) -> PathBuf {
        self.dir.join(format!("{}.log", self.side.program()))
    }

    /// Writes the configuration: the folders of this site, then these sections.
    ///
    /// A low side gets its inbox in `[inbox]`, to which the keys at the top of `sections` belong.
    pub fn configure(&self, sections: &str) {
        let inbox = match self.side {
            Side::High => String::new(),
            Side::Low => {
                fs::create_dir_all(self.inbox()).expect("the inbox can be made");
                format!("[inbox]\npath = {:?}\n", self.inbox().display().to_string())
            }
        };
        let state_dir = self.state_dir.display().to_string();
        let text = format!("{}state-dir = {state_dir:?}\n{inbox}{sections}", self.head);
        fs::write(self.config(), text).expect("the configuration can be written");
    }

    /// Trusts, or encrypts to, the other side.
    pub fn pair(&self, other: &Site) {
        run(self.command(["pair"]).arg(other.public_half())).success();
    }

    /// A command of this side, with its configuration.
    pub fn command<'a>(&self, arguments: impl IntoIterator<Item = &'a str>) -> Command {
        let mut command = Command::new(program(self.side.program()));
        let mut arguments = arguments.into_iter().peekable();
        let runs = arguments.peek() == Some(&"run");
        command.arg("--config").arg(self.config()).args(arguments);
        // `make test-seccomp`: every agent of every test runs as its unit would have it.
        if runs && std::env::var_os("PENSTOCK_TEST_SECCOMP").is_some() {
            return crate::seccomp::under(self.side.unit(), &command);
        }
        command
    }

    /// The command that runs the agent under the filter of system calls of its unit.
    pub fn filtered_command(&self) -> Command {
        let mut command = Command::new(program(self.side.program()));
        command.arg("--config").arg(self.config()).arg("run");
        crate::seccomp::under(self.side.unit(), &command)
    }

    /// Runs a verb to its end.
    pub fn run<'a>(&self, arguments: impl IntoIterator<Item = &'a str>) -> Done {
        run(&mut self.command(arguments))
    }

    /// Runs a verb that must succeed and prints JSON.
    pub fn json<'a>(&self, arguments: impl IntoIterator<Item = &'a str>) -> Value {
        let text = self.run(arguments).success();
        serde_json::from_str(&text).unwrap_or_else(|err| panic!("no JSON: {err}: {text}"))
    }

    /// What `status` says.
    pub fn status(&self) -> Value {
        self.json(["status", "--json"])
    }

    /// Starts the agent and waits until it is ready.
    pub fn start(&self) -> Process {
        self.start_as(&mut self.command(["run"]))
    }

    /// Starts the agent by another command (under strace, say) and waits until it is ready.
    pub fn start_as(&self, command: &mut Command) -> Process {
        // The log goes on over restarts; an earlier life's line says nothing about this one.
        let lives = |log: &str| log.lines().filter(|line| is_ready(line)).count();
        let before = lives(&fs::read_to_string(self.log_path()).unwrap_or_default());
        let mut agent = Process::spawn(command, self.side.program(), &self.dir);
        crate::wait::wait_until(PATIENCE, &format!("ready {}", self.side.program()), || {
            let log = agent.log();
            let ready = lives(&log) > before;
            if !ready && let Some(status) = agent.ended() {
                panic!("{} ended with {status}:\n{log}", self.side.program());
            }
            ready
        });
        agent
    }
}

/// Two sides that know each other.
#[derive(Clone, Debug)]
pub struct Pair {
    /// The high side.
    pub high: Site,
    /// The low side.
    pub low: Site,
}

impl Pair {
    /// A new pair.
    pub fn new(sandbox: &Sandbox, origin: &str) -> Self {
        let high = Site::high(sandbox, origin);
        let low = Site::low(sandbox, origin);
        high.pair(&low);
        low.pair(&high);
        Self { high, low }
    }

    /// Carries every bundle of the outbox that the inbox has not seen, as a person with a stick does:
    /// sidecar first, then the file under another name, then its own name. Gives how many.
    ///
    /// `carried` remembers what went, since the low side deletes what it has taken.
    pub fn carry(&self, carried: &mut Vec<String>) -> usize {
        let mut bundles: Vec<PathBuf> = bundles_in(&self.high.outbox());
        bundles.retain(|path| !carried.contains(&name_of(path)));
        for path in &bundles {
            let name = name_of(path);
            let sidecar = format!("{name}.sha256");
            let copy = |from: &Path, to: &str| {
                let to = self.low.inbox().join(to);
                fs::copy(from, &to).unwrap_or_else(|err| panic!("can't carry {name}: {err}"));
                to
            };
            copy(&path.with_file_name(&sidecar), &sidecar);
            let part = copy(path, &format!("{name}.part"));
            shared::durable::rename(&part, &part.with_extension(""))
                .expect("a rename in the inbox");
            carried.push(name);
        }
        bundles.len()
    }
}

/// The bundles in a folder, in the order of their names.
pub fn bundles_in(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.path()).collect();
    paths.retain(|path| path.extension().is_some_and(|ext| ext == shared::bundle::FILE_EXTENSION));
    paths.sort();
    paths
}

fn name_of(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

fn is_ready(line: &str) -> bool {
    let message = line.split_once(" INFO ").map_or("", |(_, message)| message.trim_start());
    message.starts_with("ready") || message.starts_with("the agent is ready")
}

const PUBLIC_HALF_FILE: &str = "public-half.txt";
