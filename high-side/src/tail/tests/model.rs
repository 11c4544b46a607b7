//! Random rotations, kills and restarts, beside a model that knows every line that was written.
//!
//! Promised and tested: whatever happens in whatever order, each line is a record once, if each
//! content stays readable under a name that a pattern or a rotation gives until it was read. Between a
//! copy and the truncation behind it nothing is written here, and no time goes by: what is written
//! between the two is lost to whoever reads files, and nobody can promise anything about it.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;

#[derive(Clone, Debug)]
enum Action {
    Append { lines: usize, length: usize, half: bool },
    Rename,
    Copy,
    Truncate,
    GzipHalf,
    Gzip,
    DeleteRead,
    Read,
    Commit(usize),
    Step,
    Kill(usize),
    Start,
    Pass(u64),
}

fn action() -> impl Strategy<Value = Action> {
    prop_oneof![
        6 => (1_usize..6, 1_usize..700, prop::bool::weighted(0.2))
            .prop_map(|(lines, length, half)| Action::Append { lines, length, half }),
        2 => Just(Action::Rename),
        3 => Just(Action::Copy),
        4 => Just(Action::Truncate),
        1 => Just(Action::GzipHalf),
        2 => Just(Action::Gzip),
        1 => Just(Action::DeleteRead),
        3 => Just(Action::Read),
        2 => (1_usize..4).prop_map(Action::Commit),
        4 => Just(Action::Step),
        2 => (0_usize..4).prop_map(Action::Kill),
        3 => Just(Action::Start),
        2 => (1_u64..50).prop_map(Action::Pass),
    ]
}

/// What the program that logs, and the one that rotates, did.
#[derive(Default)]
struct World {
    issued: Vec<String>,
    /// The beginning of a line that has not ended.
    half: String,
    next: usize,
    /// Rotated files that are there, the oldest first, with what is in them.
    rotated: Vec<(String, Vec<String>)>,
    /// The lines of the live file.
    live: Vec<String>,
    stamp: usize,
    /// A copy of the live file, which is not truncated yet.
    copy: Option<String>,
}

impl World {
    fn run(&mut self, rig: &mut Rig, action: &Action) {
        let touches = matches!(
            action,
            Action::Append { .. } | Action::Rename | Action::Copy | Action::Pass(_)
        );
        if touches && self.copy.is_some() {
            return;
        }
        match action {
            Action::Append { lines, length, half } => self.append(rig, *lines, *length, *half),
            Action::Rename => {
                if rig.path(LIVE).exists() {
                    self.cut_half();
                    let name = format!("audit-2026-11-24T00-00-00.{:03}.log", self.stamp);
                    rig.rename(LIVE, &name);
                    self.rotate(name);
                    rig.append(LIVE, "");
                }
            }
            Action::Copy => {
                if rig.path(LIVE).exists() {
                    self.cut_half();
                    let name = format!("{LIVE}.{}", self.stamp);
                    fs::copy(rig.path(LIVE), rig.path(&name)).unwrap();
                    self.copy = Some(name);
                }
            }
            Action::Truncate => {
                if let Some(name) = self.copy.take() {
                    rig.truncate(LIVE, 0);
                    self.rotate(name);
                }
            }
            Action::GzipHalf => {
                if let Some((name, _)) = self.rotated.iter().find(|(name, _)| !is_gz(name)) {
                    let whole = gzip(&fs::read(rig.path(name)).unwrap());
                    fs::write(rig.path(&format!("{name}.gz")), &whole[..whole.len() / 2]).unwrap();
                }
            }
            Action::Gzip => {
                if let Some((name, _)) = self.rotated.iter_mut().find(|(name, _)| !is_gz(name)) {
                    rig.gzip(name);
                    name.push_str(".gz");
                }
            }
            Action::DeleteRead => {
                let durable: BTreeSet<_> = rig.got.iter().map(|got| got.raw.clone()).collect();
                let is_read = |line: &String| durable.contains(line.as_bytes());
                let at = self.rotated.iter().position(|(_, lines)| lines.iter().all(is_read));
                if let Some(at) = at {
                    let (name, _) = self.rotated.remove(at);
                    rig.remove(&name);
                    let _ = fs::remove_file(rig.path(&format!("{name}.gz")));
                }
            }
            Action::Read => rig.read(),
            Action::Commit(count) => rig.commit(*count),
            Action::Step => rig.step(),
            Action::Kill(count) => rig.kill(*count),
            Action::Start => {
                if rig.agent.is_none() {
                    rig.start();
                }
            }
            Action::Pass(secs) => {
                rig.now += Duration::from_secs(*secs);
                rig.read();
            }
        }
    }

    fn append(&mut self, rig: &Rig, lines: usize, length: usize, half: bool) {
        let mut text = String::new();
        for n in 0..lines {
            self.next += 1;
            let line = format!("{} {}", self.next, "x".repeat(length));
            text.push_str(&line);
            self.half.push_str(&line);
            if half && n + 1 == lines {
                break;
            }
            text.push('\n');
            self.end_line();
        }
        rig.append(LIVE, text);
    }

    fn end_line(&mut self) {
        let line = std::mem::take(&mut self.half);
        self.live.push(line.clone());
        self.issued.push(line);
    }

    /// A file that is rotated in the middle of a line ends with it.
    fn cut_half(&mut self) {
        if !self.half.is_empty() {
            self.end_line();
        }
    }

    fn rotate(&mut self, name: String) {
        self.stamp += 1;
        self.rotated.push((name, std::mem::take(&mut self.live)));
    }

    /// Everything is left alone for a while, and then each line must be there once.
    fn judge(&mut self, rig: &mut Rig) {
        self.run(rig, &Action::Truncate);
        if !self.half.is_empty() {
            rig.append(LIVE, "\n");
            self.end_line();
        }
        if rig.agent.is_none() {
            rig.start();
        }
        rig.pass(Duration::from_mins(4));
        rig.restart();
        rig.pass(Duration::from_mins(12));
        let mut got = rig.take();
        got.sort();
        let mut issued = self.issued.clone();
        issued.sort();
        let count = |all: &[String], line: &String| all.iter().filter(|l| *l == line).count();
        let short = |line: &String| line[..line.len().min(20)].to_owned();
        let differ: Vec<_> = issued
            .iter()
            .chain(&got)
            .filter(|line| count(&got, line) != count(&issued, line))
            .map(|line| format!("{:?} {} times", short(line), count(&got, line)))
            .collect();
        assert!(differ.is_empty(), "{differ:?}");
        // The table of marks does not grow with every file that ever was.
        let there = self.rotated.len() + 2;
        assert!(rig.marks.len() <= there, "{} marks, {there} files", rig.marks.len());
    }
}

fn is_gz(name: &str) -> bool {
    Path::new(name).extension().is_some_and(|ending| ending == "gz")
}

const LIVE: &str = "audit.log";

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, ..ProptestConfig::default() })]
    #[test]
    fn each_line_is_a_record_once(actions in prop::collection::vec(action(), 1..60)) {
        let mut rig = Rig::new(LIVE);
        let mut world = World::default();
        for action in &actions {
            world.run(&mut rig, action);
        }
        world.judge(&mut rig);
    }
}
