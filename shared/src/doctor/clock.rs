//! Whether this machine's clock can be believed.
//!
//! The kernel's own word (`adjtimex`) can't be asked without unsafe code; the programs that discipline
//! the clock are asked instead, each for a short time.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::{Finding, Level};
use crate::clock::Nanos;
use crate::config::Span;

/// Everything about the clock that does not depend on a side. `latest` are times that this machine
/// wrote down itself, with what they are of: none can lie ahead of now, unless the clock went back.
pub fn clock(now: Nanos, latest: &[(&str, Nanos)]) -> Vec<Finding> {
    let mut findings = vec![year(now), synchronised()];
    let ahead = latest.iter().filter(|(_, time)| time.0 > now.0 + JUMP_TOLERATED.as_nanos() as i64);
    for (what, time) in ahead {
        let text = format!(
            "the clock went back: {what} is of {time}, {} from now",
            Span::secs(time.since(now).as_secs())
        );
        findings.push(
            Finding::new(Level::Fault, "went-back", text)
                .remedy("set the clock, then restart the agent; ages are wrong until it caught up")
                .remedy("timedatectl status"),
        );
    }
    findings
}

fn year(now: Nanos) -> Finding {
    let shown = now.to_string();
    if now.0 < RELEASED.0 {
        let what = format!("the clock says {shown}, before this program was made");
        return Finding::new(Level::Fault, "year", what)
            .remedy("timedatectl set-time 'YYYY-MM-DD HH:MM:SS'")
            .remedy("hwclock --systohc, and a battery if it happens again");
    }
    if now.0 > RELEASED.0 + BELIEVED_AHEAD.as_nanos() as i64 {
        let what = format!("the clock says {shown}: certificates and keys will have expired");
        return Finding::new(Level::Fault, "year", what)
            .remedy("timedatectl set-time 'YYYY-MM-DD HH:MM:SS'");
    }
    Finding::new(Level::Fine, "year", format!("the clock says {shown}"))
}

fn synchronised() -> Finding {
    let told = [chrony as fn() -> Option<(bool, String)>, timedatectl, timesyncd];
    match told.into_iter().find_map(|ask| ask()) {
        Some((true, by)) => {
            Finding::new(Level::Fine, "synchronised", format!("the clock is synchronised: {by}"))
        }
        Some((false, by)) => {
            let what = format!("nothing disciplines the clock: {by}");
            Finding::new(Level::Warning, "synchronised", what)
                .remedy("timedatectl set-ntp true, or chrony with a time source of this zone")
                .remedy(
                    "without one: compare by hand once a month; penstock-low latency shows how far both sides lie apart",
                )
        }
        None => Finding::new(
            Level::Skipped,
            "synchronised",
            "neither chrony nor timedatectl says whether the clock is synchronised",
        )
        .remedy("adjtimex --print, or what your clock's own program says"),
    }
}

fn chrony() -> Option<(bool, String)> {
    let text = answer("chronyc", &["-c", "tracking"])?;
    understand_chrony(&text)
}

/// Fields by commas: reference, its name, stratum, time, correction, ..., leap status.
fn understand_chrony(text: &str) -> Option<(bool, String)> {
    let fields: Vec<&str> = text.lines().next()?.split(',').collect();
    let (stratum, correction) = (fields.get(2)?, fields.get(4)?);
    let leap = fields.get(13)?.trim();
    let good = leap != "Not synchronised" && *stratum != "0";
    Some((good, format!("chrony, stratum {stratum}, {correction} s off, {leap}")))
}

fn timedatectl() -> Option<(bool, String)> {
    let text = answer("timedatectl", &["show", "--property=NTPSynchronized", "--value"])?;
    match text.trim() {
        "yes" => Some((true, "timedatectl, from the kernel".to_owned())),
        "no" => Some((false, "timedatectl, from the kernel".to_owned())),
        _ => None,
    }
}

fn timesyncd() -> Option<(bool, String)> {
    Path::new("/run/systemd/timesync/synchronized")
        .exists()
        .then(|| (true, "systemd-timesyncd did so since the start".to_owned()))
}

/// What a program prints, if it ends well and soon.
fn answer(program: &str, arguments: &[&str]) -> Option<String> {
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .ok()?;
    let deadline = Instant::now() + ANSWER_WITHIN;
    loop {
        // A line fits into the pipe: the program can end before it is read.
        match child.try_wait() {
            Ok(Some(status)) if status.success() => break,
            Ok(None) if Instant::now() < deadline => std::thread::sleep(ANSWER_WITHIN / 100),
            _ => {
                let _ = child.kill();
                let _ = child.wait();
                return None;
            }
        }
    }
    std::io::read_to_string(child.stdout.take()?).ok()
}

/// 2026-01-01T00:00:00Z: no clock that is right is earlier.
const RELEASED: Nanos = Nanos(1_767_225_600_000_000_000);
/// No installation of this version runs for longer.
const BELIEVED_AHEAD: Duration = Duration::from_hours(20 * 365 * 24);
/// A step of a clock that is being disciplined.
const JUMP_TOLERATED: Duration = Duration::from_secs(5);
/// Longer than these programs take.
const ANSWER_WITHIN: Duration = Duration::from_secs(3);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_before_our_time_or_long_after_it_is_wrong() {
        for (text, level) in [
            ("1970-01-01T00:00:07Z", Level::Fault),
            ("2026-11-25T12:00:00Z", Level::Fine),
            ("2099-01-01T00:00:00Z", Level::Fault),
        ] {
            assert_eq!(year(text.parse().unwrap()).level, level, "{text}");
        }
    }

    #[test]
    fn a_clock_that_went_back_is_told_by_what_it_wrote() {
        let now: Nanos = "2026-11-25T12:00:00Z".parse().unwrap();
        let later = now.plus(Duration::from_hours(3));
        let findings = clock(now, &[("the last bundle", later), ("the status", now)]);
        let back: Vec<_> = findings.iter().filter(|f| f.about == "went-back").collect();
        assert_eq!(back.len(), 1, "{findings:?}");
        assert!(back[0].what.contains("the last bundle") && back[0].what.contains("3h"));
    }

    #[test]
    fn chrony_is_understood() {
        let good = "A9FEA97B,time.example,3,1700000000.1,-0.000012,0.1,0.1,-8.2,0.1,0.2,0.03,0.001,64.2,Normal\n";
        assert!(understand_chrony(good).unwrap().0);
        let bad = "00000000,,0,0.0,0.0,0.0,0.0,0.0,0.0,0.0,1.0,1.0,0.0,Not synchronised\n";
        assert!(!understand_chrony(bad).unwrap().0);
        assert_eq!(understand_chrony("506 Cannot talk to daemon"), None);
    }
}
