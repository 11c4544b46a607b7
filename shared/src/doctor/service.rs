//! How the service manager runs an agent, read from its files: nothing is asked over D-Bus, which a
//! container or a recovery shell does not have.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::certificate::read_small;
use super::{Finding, Level};

/// What is known about a service.
#[derive(Clone, Debug)]
pub struct Service<'a> {
    /// The unit, as `penstock-high.service`.
    pub unit: &'a str,
    /// Where the file system begins; `/`, but for tests.
    pub root: &'a Path,
    /// Folders that the agent writes to.
    pub writes: Vec<PathBuf>,
    /// The process of the running agent.
    pub agent: Option<u32>,
}

impl Service<'_> {
    /// Looks at the unit, its drop-ins, and the process.
    pub fn examine(&self) -> Vec<Finding> {
        let mut findings = self.process();
        if !self.root.join("run/systemd/system").is_dir() {
            let what = "no systemd runs here: whatever starts the agent has to start it again";
            findings.push(Finding::new(Level::Skipped, "unit", what));
            return findings;
        }
        let Some(settings) = self.settings() else {
            let what = format!("{} is not installed", self.unit);
            findings.push(
                Finding::new(Level::Warning, "unit", what)
                    .remedy("install the package, or copy the unit from systemd/ to /etc/systemd/system")
                    .remedy("systemctl daemon-reload"),
            );
            return findings;
        };
        findings.push(self.enabled());
        findings.push(watchdog(&settings));
        findings.extend(self.folders(&settings));
        findings
    }

    /// The settings of the section `[Service]`, drop-ins last, in order; `None` without a unit.
    fn settings(&self) -> Option<Vec<(String, String)>> {
        let dirs = DIRS.map(|dir| self.root.join(dir));
        let unit = dirs.iter().map(|dir| dir.join(self.unit)).find(|path| path.is_file())?;
        let mut files = vec![unit];
        for dir in dirs.iter().rev() {
            let drop_ins = fs::read_dir(dir.join(format!("{}.d", self.unit)));
            let mut paths: Vec<PathBuf> =
                drop_ins.into_iter().flatten().flatten().map(|entry| entry.path()).collect();
            paths.retain(|path| path.extension().is_some_and(|ending| ending == "conf"));
            paths.sort();
            files.extend(paths.into_iter().take(DROP_INS_MAX));
        }
        let texts = files.iter().filter_map(|path| read_small(path, UNIT_BYTES_MAX).ok());
        Some(texts.flat_map(|text| pairs(&String::from_utf8_lossy(&text))).collect())
    }

    /// Whether the service may bind ports below 1024.
    pub fn binds_low_ports(&self) -> bool {
        let settings = self.settings().unwrap_or_default();
        all(&settings, "AmbientCapabilities").iter().any(|word| word == "CAP_NET_BIND_SERVICE")
    }

    fn enabled(&self) -> Finding {
        let wants = self.root.join("etc/systemd/system/multi-user.target.wants").join(self.unit);
        if fs::symlink_metadata(&wants).is_ok() {
            let what = format!("{} starts with the machine", self.unit);
            return Finding::new(Level::Fine, "enabled", what);
        }
        let what = format!("{} does not start with the machine", self.unit);
        Finding::new(Level::Warning, "enabled", what)
            .remedy(format!("systemctl enable --now {}", self.unit))
    }

    fn folders(&self, settings: &[(String, String)]) -> Vec<Finding> {
        let strict = last(settings, "ProtectSystem").is_some_and(|value| value == "strict");
        let mut open: Vec<PathBuf> = all(settings, "StateDirectory")
            .into_iter()
            .map(|name| Path::new("/var/lib").join(name))
            .collect();
        let paths = all(settings, "ReadWritePaths").into_iter();
        open.extend(paths.map(|path| PathBuf::from(path.trim_start_matches(['-', '+']))));
        let hidden = last(settings, "ProtectHome").is_some_and(|value| value != "no");
        let mut findings = Vec::new();
        for path in &self.writes {
            let in_home = ["/home", "/root", "/run/user"].iter().any(|home| path.starts_with(home));
            if open.iter().any(|open| path.starts_with(open)) {
                continue;
            }
            let shown = path.display();
            if hidden && in_home {
                let what = format!("the service can't see {shown}: ProtectHome hides it");
                findings.push(
                    Finding::new(Level::Fault, "read-write-paths", what)
                        .remedy("a folder outside of /home and /root")
                        .at(shown),
                );
            } else if strict {
                let what = format!("the service may not write to {shown}: ProtectSystem=strict");
                findings.push(
                    Finding::new(Level::Fault, "read-write-paths", what)
                        .remedy(format!(
                            "mkdir -p /etc/systemd/system/{0}.d && printf '[Service]\\nReadWritePaths={shown}\\n' > /etc/systemd/system/{0}.d/folders.conf",
                            self.unit
                        ))
                        .remedy("systemctl daemon-reload && systemctl restart the service")
                        .at(shown),
                );
            }
        }
        if findings.is_empty() {
            let what = "the service may write to every folder that it needs";
            findings.push(Finding::new(Level::Fine, "read-write-paths", what));
        }
        findings
    }

    /// Core dumps hold keys and records.
    fn process(&self) -> Vec<Finding> {
        let Some(pid) = self.agent else { return Vec::new() };
        let limits = fs::read_to_string(format!("/proc/{pid}/limits")).unwrap_or_default();
        let core = limits.lines().find_map(|line| line.strip_prefix("Max core file size"));
        let finding = match core.and_then(|line| line.split_ascii_whitespace().next()) {
            Some("0") => Finding::new(Level::Fine, "core-dumps", "the agent writes no core dumps"),
            Some(_) => Finding::new(
                Level::Warning,
                "core-dumps",
                "the agent may write core dumps, which hold keys and records",
            )
            .remedy("LimitCORE=0 in the unit, or ulimit -c 0 before it starts"),
            None => Finding::new(
                Level::Skipped,
                "core-dumps",
                "what the agent's process may do can't be read",
            ),
        };
        vec![finding]
    }
}

fn watchdog(settings: &[(String, String)]) -> Finding {
    let set = last(settings, "WatchdogSec").filter(|value| *value != "0");
    match (set, last(settings, "Restart")) {
        (Some(after), Some(restart)) if restart != "no" => {
            let what = format!("an agent that hangs for {after} (s) is started again");
            Finding::new(Level::Fine, "watchdog", what)
        }
        _ => Finding::new(
            Level::Warning,
            "watchdog",
            "an agent that hangs or ends is not started again",
        )
        .remedy(
            "WatchdogSec=120 and Restart=on-failure in [Service], as in the unit that is shipped",
        ),
    }
}

fn pairs(text: &str) -> Vec<(String, String)> {
    let lines = text.lines().map(str::trim).filter(|line| !line.starts_with(['#', ';', '[']));
    lines
        .filter_map(|line| line.split_once('='))
        .map(|(key, value)| (key.trim().to_owned(), value.trim().to_owned()))
        .collect()
}

fn last<'a>(settings: &'a [(String, String)], key: &str) -> Option<&'a str> {
    settings.iter().rev().find(|(name, _)| name == key).map(|(_, value)| value.as_str())
}

/// The words of a setting that adds up; an empty one begins anew.
fn all(settings: &[(String, String)], key: &str) -> Vec<String> {
    let mut words = Vec::new();
    for (_, value) in settings.iter().filter(|(name, _)| name == key) {
        if value.is_empty() {
            words.clear();
        }
        words.extend(value.split_ascii_whitespace().map(ToOwned::to_owned));
    }
    words
}

/// For how long a process has run; `None` where that can't be read.
pub fn uptime(pid: u32) -> Option<Duration> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name stands in brackets and may hold anything; behind it the numbers begin with the third.
    let (_, rest) = stat.rsplit_once(") ")?;
    let ticks: f64 = rest.split(' ').nth(19)?.parse().ok()?;
    let up = fs::read_to_string("/proc/uptime").ok()?;
    let up: f64 = up.split(' ').next()?.parse().ok()?;
    Duration::try_from_secs_f64(up - ticks / TICKS_PER_SEC).ok()
}

/// Where units lie, the first that has one counts.
const DIRS: [&str; 4] =
    ["etc/systemd/system", "run/systemd/system", "usr/lib/systemd/system", "lib/systemd/system"];
const DROP_INS_MAX: usize = 100;
const UNIT_BYTES_MAX: u64 = 256 * 1024;
/// `USER_HZ`: the same on every Linux that we run on.
const TICKS_PER_SEC: f64 = 100.0;

#[cfg(test)]
mod tests {
    use super::*;

    const UNIT: &str = include_str!("../../../systemd/penstock-high.service");

    fn examine(root: &Path, writes: &[&str]) -> Vec<Finding> {
        let writes = writes.iter().map(PathBuf::from).collect();
        let agent = Some(std::process::id());
        Service { unit: "penstock-high.service", root, writes, agent }.examine()
    }

    fn about<'a>(findings: &'a [Finding], about: &str) -> &'a Finding {
        let found = findings.iter().find(|finding| finding.about == about);
        found.unwrap_or_else(|| panic!("nothing about {about}: {findings:?}"))
    }

    #[test]
    fn a_machine_without_systemd_or_without_the_unit_is_told() {
        let root = tempfile::tempdir().unwrap();
        assert_eq!(about(&examine(root.path(), &[]), "unit").level, Level::Skipped);
        fs::create_dir_all(root.path().join("run/systemd/system")).unwrap();
        assert_eq!(about(&examine(root.path(), &[]), "unit").level, Level::Warning);
    }

    #[test]
    fn the_shipped_unit_needs_a_drop_in_for_folders_outside_of_its_own() {
        let root = tempfile::tempdir().unwrap();
        let at = |name: &str| root.path().join(name);
        for dir in ["run/systemd/system", "usr/lib/systemd/system"] {
            fs::create_dir_all(at(dir)).unwrap();
        }
        fs::write(at("usr/lib/systemd/system/penstock-high.service"), UNIT).unwrap();
        let writes = ["/var/lib/penstock-high/outbox", "/mnt/diode", "/home/x"];
        let findings = examine(root.path(), &writes);
        assert_eq!(about(&findings, "enabled").level, Level::Warning);
        assert_eq!(about(&findings, "watchdog").level, Level::Fine);
        let paths: Vec<_> =
            findings.iter().filter(|finding| finding.about == "read-write-paths").collect();
        assert_eq!(paths.len(), 2, "{findings:?}");
        assert!(paths[0].remedies[0].contains("ReadWritePaths=/mnt/diode"), "{paths:?}");
        assert!(paths[1].what.contains("ProtectHome"), "{paths:?}");

        let drop_ins = at("etc/systemd/system/penstock-high.service.d");
        fs::create_dir_all(&drop_ins).unwrap();
        fs::create_dir_all(at("etc/systemd/system/multi-user.target.wants")).unwrap();
        std::os::unix::fs::symlink(
            "x",
            at("etc/systemd/system/multi-user.target.wants/penstock-high.service"),
        )
        .unwrap();
        let text = "[Service]\nReadWritePaths=-/mnt/diode\nWatchdogSec=0\n";
        fs::write(drop_ins.join("folders.conf"), text).unwrap();
        let findings = examine(root.path(), &writes[..2]);
        assert_eq!(about(&findings, "read-write-paths").level, Level::Fine, "{findings:?}");
        assert_eq!(about(&findings, "enabled").level, Level::Fine);
        assert_eq!(about(&findings, "watchdog").level, Level::Warning);
    }

    #[test]
    fn this_process_has_run_for_a_while() {
        let up = uptime(std::process::id()).unwrap();
        assert!(up < Duration::from_hours(24), "{up:?}");
    }
}
