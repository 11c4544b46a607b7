//! Files that real programs rotate, read by an agent that is killed again and again.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use tests::crossing::{Crossing, assert_unaltered};
use tests::load::{Framing, Pool};
use tests::oracle::Oracle;
use tests::peers::peer;
use tests::process::{Process, run};
use tests::wait::{PATIENCE, wait_until};

use super::incoming::{finish, start};

/// A program that logs, and logrotate's view of it.
struct Log {
    dir: PathBuf,
    path: PathBuf,
    file: File,
    oracle: Oracle,
    pool: Pool,
    count: u64,
}

impl Log {
    fn new(dir: PathBuf, name: &str) -> Self {
        let path = dir.join(name);
        let file = append_to(&path);
        let pool = Pool::new(Framing::None, None);
        Self { dir, path, file, oracle: Oracle::new(), pool, count: 0 }
    }

    fn write(&mut self, count: u64) {
        let ids = self.oracle.issue(count);
        for id in ids.clone() {
            let mut line = Vec::new();
            self.pool.append(id, &mut line);
            line.push(b'\n');
            self.file.write_all(&line).unwrap();
        }
        self.oracle.taken(ids);
        self.count += count;
    }

    /// As after a signal: goes on in the file that has the name now.
    fn reopen(&mut self) {
        self.file = append_to(&self.path);
    }

    fn logrotate(&self, options: &str) {
        let config = self.dir.join("logrotate.conf");
        let text = format!(
            "\"{}\" {{\n size 1\n rotate 50\n missingok\n {options}\n}}\n",
            self.path.display()
        );
        fs::write(&config, text).unwrap();
        let state = self.dir.join("logrotate.state");
        let second = || jiff::Timestamp::now().as_second();
        let begun = second();
        run(peer("logrotate").arg("-f").arg("-s").arg(state).arg(config)).success();
        if options.contains("%s") {
            wait_until(PATIENCE, "a name that is not taken", || second() > begun + 1);
        }
    }
}

fn append_to(path: &Path) -> File {
    OpenOptions::new().create(true).append(true).open(path).unwrap()
}

fn section(paths: &[PathBuf], more: &str) -> String {
    let paths: Vec<String> = paths.iter().map(|path| path.display().to_string()).collect();
    format!(
        "[[file]]\nname = \"files\"\npaths = {paths:?}\nlane = \"flash\"\npoll-interval = \"100ms\"\n{more}"
    )
}

/// Writes, rotates and kills in turn; each line must arrive once.
fn rotate_and_kill(name: &str, options: &str, reopens_late: bool) {
    let crossing = Crossing::new(name);
    let mut log = Log::new(crossing.sandbox.dir("log"), "falco.log");
    let [mut high, low] = start(&crossing, &section(&[log.path.clone()], ""));
    for round in 0..12 {
        log.write(150 + 31 * round);
        if round % 3 == 1 {
            high.kill();
            log.write(70);
            log.logrotate(options);
            if reopens_late {
                log.write(40);
            }
            log.reopen();
            log.write(60);
            high = crossing.pair.high.start();
        } else {
            log.logrotate(options);
            if reopens_late {
                log.write(25);
            }
            log.reopen();
        }
        log.write(10);
    }
    let arrived = finish(&crossing, [high, low], log.count);
    log.oracle.judge(arrived.ids.iter().copied()).assert_exactly_once();
    assert_unaltered(&arrived);
    for event in arrived.events.values() {
        let peer = event["peer"].as_str().unwrap();
        assert!(peer.starts_with(log.path.to_str().unwrap()), "{peer}");
    }
    assert_eq!(alarms(&crossing), 0);
}

fn alarms(crossing: &Crossing) -> usize {
    crossing.pair.high.status()["alarms"].as_array().unwrap().len()
}

#[test]
fn logrotate_renames_and_the_program_goes_on_in_the_old_file_for_a_while() {
    rotate_and_kill("rotate-create", "create", true);
}

#[test]
fn logrotate_copies_and_truncates() {
    rotate_and_kill("rotate-copytruncate", "copytruncate", false);
}

#[test]
fn logrotate_renames_and_compresses_at_once() {
    rotate_and_kill("rotate-compress", "create\n compress", false);
}

#[test]
fn logrotate_copies_truncates_and_compresses_later() {
    rotate_and_kill("rotate-copycompress", "copytruncate\n compress\n delaycompress", false);
}

#[test]
fn logrotate_names_by_date() {
    rotate_and_kill("rotate-date", "create\n dateext\n dateformat -%Y%m%d-%s", true);
}

/// Renames as the API server's rotation does, and compresses with the real gzip.
#[test]
fn files_rotated_and_compressed_while_the_agent_is_killed_are_read_to_the_byte() {
    let crossing = Crossing::new("rotate-kube");
    let mut log = Log::new(crossing.sandbox.dir("log"), "audit.log");
    let [mut high, low] = start(&crossing, &section(&[log.path.clone()], ""));
    let mut rotated: Vec<PathBuf> = Vec::new();
    for round in 0..10_u64 {
        log.write(200);
        let is_killed = round % 2 == 1;
        let mut agent = Some(high);
        if is_killed && let Some(agent) = agent.take() {
            agent.kill();
        }
        for part in 0..3 {
            log.write(50);
            let name = format!("audit-2026-11-24T00-00-{round:02}.00{part}.log");
            let to = log.dir.join(name);
            shared::durable::rename(&log.path, &to).unwrap();
            log.reopen();
            rotated.push(to);
        }
        while rotated.len() > 2 {
            run(peer("gzip").arg(rotated.remove(0))).success();
        }
        high = agent.unwrap_or_else(|| crossing.pair.high.start());
    }
    let arrived = finish(&crossing, [high, low], log.count);
    log.oracle.judge(arrived.ids.iter().copied()).assert_exactly_once();
    assert_unaltered(&arrived);
    assert_eq!(alarms(&crossing), 0);
}

#[test]
fn a_killed_reader_of_a_large_file_goes_on_at_the_exact_byte() {
    let crossing = Crossing::new("file-kill");
    let mut log = Log::new(crossing.sandbox.dir("log"), "audit.log");
    log.write(30_000);
    let [mut high, low] = start(&crossing, &section(&[log.path.clone()], ""));
    let mut kills = 0;
    let behind = |crossing: &Crossing| {
        let status = crossing.pair.high.status();
        status["live"]["files"][0]["files"]["backlog-bytes"].as_u64()
    };
    while kills < 8 {
        high.kill();
        kills += 1;
        log.write(500);
        high = crossing.pair.high.start();
        wait_until(PATIENCE, "a report", || behind(&crossing).is_some());
    }
    let arrived = finish(&crossing, [high, low], log.count);
    log.oracle.judge(arrived.ids.iter().copied()).assert_exactly_once();
    assert_unaltered(&arrived);
    assert!(arrived.ids.is_sorted(), "lines changed places");
    assert!(log.file.metadata().unwrap().ino() > 0);
}

#[test]
fn status_and_metrics_tell_of_files_and_check_config_of_what_can_not_be_read() {
    let crossing = Crossing::new("file-status");
    let mut log = Log::new(crossing.sandbox.dir("log"), "audit.log");
    log.write(3);
    write!(log.file, "no end yet").unwrap();
    let [high, low] = start(&crossing, &section(&[log.path.clone()], ""));
    let site = &crossing.pair.high;
    wait_until(PATIENCE, "the report", || {
        let files = &site.status()["live"]["files"][0];
        files["counters"]["messages"] == 3
            && files["files"]["files"] == 1
            && files["files"]["backlog-bytes"] == 10
            && files["files"]["oldest-unread"] == log.path.to_str().unwrap()
    });
    let text = site.run(["status"]).success();
    assert!(text.contains("files files: 3 messages from 1 files"), "{text}");
    let metrics = fs::read_to_string(site.state_dir().join("metrics.prom")).unwrap();
    assert!(
        metrics.contains("penstock_high_file_backlog_bytes{listener=\"files\"} 10"),
        "{metrics}"
    );
    assert!(metrics.contains("penstock_high_listener_messages_total{listener=\"files\"} 3"));
    stop(high);
    stop(low);
    site.run(["check-config"]).success();
    std::os::unix::fs::symlink("circle.log", log.dir.join("circle.log")).unwrap();
    site.configure(&section(&[log.dir.join("*.log")], ""));
    let done = site.run(["check-config"]);
    assert_eq!(done.code, Some(78));
    assert!(done.stderr.contains("file.files") && done.stderr.contains("circle.log"), "{done:?}");
}

/// What went away unread is told; with the rotation that the page advises nothing more goes away.
#[test]
fn what_is_truncated_before_it_was_read_is_told_and_a_rotation_by_renaming_loses_nothing() {
    let crossing = Crossing::new("file-unread");
    let mut log = Log::new(crossing.sandbox.dir("log"), "app.log");
    // The beginning of a line, which is not read before its end is there.
    write!(log.file, "half a line").unwrap();
    let agents = start(&crossing, &section(&[log.path.clone()], ""));
    let high = &crossing.pair.high;
    wait_until(PATIENCE, "what is not read yet", || {
        high.status()["live"]["files"][0]["files"]["backlog-bytes"] == 11
    });
    File::create(&log.path).unwrap();
    wait_until(PATIENCE, "the alarm", || alarms(&crossing) > 0);
    let told = high.status()["alarms"][0].clone();
    assert_eq!(told["kind"], "file-unread", "{told}");
    let said = told["message"].as_str().unwrap();
    let place = format!("{} was truncated", log.path.display());
    assert!(said.contains(&place) && said.contains("11 bytes behind byte 0"), "{said}");

    // Whoever truncates renames instead, and the alarm is acknowledged.
    high.run(["acknowledge", &told["id"].to_string()]).success();
    for _ in 0..3 {
        log.write(100);
        log.logrotate("create");
        log.write(20);
        log.reopen();
    }
    let arrived = finish(&crossing, agents, log.count);
    log.oracle.judge(arrived.ids.iter().copied()).assert_exactly_once();
    assert_eq!(alarms(&crossing), 0);
}

fn stop(agent: Process) {
    assert!(agent.stop(PATIENCE).success());
}
