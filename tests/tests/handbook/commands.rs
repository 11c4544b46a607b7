//! Every command of every page: run, or named in `not-run.txt` with the reason why not.
//!
//! A page's commands run in one shell, in order, on a machine of its own. `stage/PAGE.sh` holds what the page takes for
//! granted, as shell:
//!
//! ```text
//! commands that run before the page
//! #> BEGINNING OF A COMMAND
//! commands that run before that command of the page
//! #= 65                       (that command is to end with 65; without this with 0)
//! #~ TEXT                     (in what the page shows of its output, lines with this text are not compared)
//! #.
//! commands that run after the last one
//! #! exact                    (what the page shows of outputs has the numbers, too, that are printed)
//! ```

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use crate::machine::Machine;
use crate::pages::{Page, PageCommand, ROOT, pages};

/// What `not-run.txt` names.
struct NotRun {
    page: String,
    command: String,
    used: bool,
}

const NOT_RUN: &str = "tests/tests/handbook/not-run.txt";

/// Entries are apart by an empty line: `PAGE: reason`, and below it the command as it stands in the page.
fn not_run() -> Vec<NotRun> {
    let path = Path::new(ROOT).join(NOT_RUN);
    let text = fs::read_to_string(&path).unwrap_or_else(|err| panic!("{}: {err}", path.display()));
    let entries = text.split("\n\n").map(str::trim).filter(|text| !text.is_empty());
    entries
        .filter(|text| !text.lines().all(|line| line.starts_with("//")))
        .map(|text| {
            let (head, command) = text.split_once('\n').expect("a reason, and the command below");
            let (page, reason) = head.split_once(": ").expect("PAGE: reason");
            assert!(reason.split(' ').count() >= 3, "{head}: a reason is a sentence");
            NotRun { page: page.to_owned(), command: command.trim().to_owned(), used: false }
        })
        .collect()
}

/// The commands of a page that are run.
pub(crate) fn to_run(page: &Page) -> Vec<PageCommand> {
    let mut left_out = not_run();
    let mut commands = page.commands();
    commands.retain(|command| {
        let entry = left_out.iter_mut().find(|entry| {
            !entry.used && entry.page == page.name && entry.command == command.text.trim()
        });
        entry.map(|entry| entry.used = true).is_none()
    });
    commands
}

#[test]
fn what_is_not_run_stands_in_a_page() {
    let mut left_out = not_run();
    for page in pages() {
        for command in page.commands() {
            let entry = left_out.iter_mut().find(|entry| {
                !entry.used && entry.page == page.name && entry.command == command.text.trim()
            });
            if let Some(entry) = entry {
                entry.used = true;
            }
        }
    }
    for entry in left_out {
        assert!(entry.used, "no page {} has the command: {}", entry.page, entry.command);
    }
}

/// What has to be there, command by command.
#[derive(Default)]
struct Stage {
    before_page: String,
    steps: Vec<StageStep>,
    after_page: String,
    exact: bool,
}

struct StageStep {
    command: String,
    before: String,
    code: i32,
    differs: Vec<String>,
}

impl Stage {
    fn of(page: &Page) -> Self {
        let path = Path::new(ROOT).join("tests/tests/handbook/stage");
        let path = path.join(format!("{}.sh", page.name));
        let text = fs::read_to_string(&path).unwrap_or_else(|err| {
            panic!("{}: {err}: what the page takes for granted", path.display())
        });
        let mut stage = Self::default();
        let mut after = false;
        for line in text.lines() {
            if let Some(command) = line.strip_prefix("#> ") {
                stage.steps.push(StageStep {
                    command: command.to_owned(),
                    before: String::new(),
                    code: 0,
                    differs: Vec::new(),
                });
            } else if line == "#." {
                after = true;
            } else if line == "#! exact" {
                stage.exact = true;
            } else if let Some(code) = line.strip_prefix("#= ") {
                let step = stage.steps.last_mut().expect("a command before its code");
                step.code = code.trim().parse().expect("an exit code");
            } else if let Some(text) = line.strip_prefix("#~ ") {
                let step = stage.steps.last_mut().expect("a command before what differs");
                step.differs.push(text.to_owned());
            } else {
                let text = match stage.steps.last_mut() {
                    _ if after => &mut stage.after_page,
                    Some(step) => &mut step.before,
                    None => &mut stage.before_page,
                };
                text.push_str(line);
                text.push('\n');
            }
        }
        stage
    }
}

/// A command of a page, in which it is November 2026 and lately the 23rd, with the dates of this month and today.
fn in_our_time(command: &str) -> String {
    let today = jiff::tz::TimeZone::UTC.to_datetime(jiff::Timestamp::now()).date();
    let month = today.first_of_month();
    let next = |date: jiff::civil::Date, span: jiff::Span| date.saturating_add(span);
    let dates = [
        ("2026-11-01T", month),
        ("2026-12-01T", next(month, jiff::Span::new().months(1))),
        ("2026-11-23T", today),
        ("2026-11-24T", next(today, jiff::Span::new().days(1))),
    ];
    dates.iter().fold(command.to_owned(), |text, (from, to)| text.replace(from, &format!("{to}T")))
}

/// Runs the commands of a page.
fn run_page(name: &str) {
    let page = pages().into_iter().find(|page| page.name == name);
    let page = page.unwrap_or_else(|| panic!("there is no page {name}"));
    let commands = to_run(&page);
    let mut stage = Stage::of(&page);
    let machine = Machine::new(name);
    let blocks = page.blocks();
    for (index, block) in blocks.iter().filter(|block| block.language == "toml").enumerate() {
        machine.put(&format!("toml-{}", index + 1), &block.text);
    }
    let mut script = String::from("exec 2> /results/stage.err\n. /run/stage/lib.sh\n");
    // A stage runs in the page's shell, and stops at its first error.
    let staged = |script: &mut String, text: &str| {
        if !text.trim().is_empty() {
            let _ = write!(script, "set -e\ntrap 'staged $?' EXIT\n{text}set +e\ntrap - EXIT\n");
        }
    };
    script.push_str("where='the page'\n");
    staged(&mut script, &stage.before_page);
    let mut checks = Vec::new();
    for (number, command) in commands.iter().enumerate() {
        let at = page.at(command.line);
        let next = stage.steps.first().is_some_and(|step| command.text.starts_with(&step.command));
        let step = next.then(|| stage.steps.remove(0));
        let (code, differs) =
            step.as_ref().map_or((0, &[][..]), |step| (step.code, &*step.differs));
        let _ = writeln!(script, "step {number} {at} {code}");
        staged(&mut script, step.as_ref().map_or("", |step| &step.before));
        let text = in_our_time(&command.text);
        let _ = write!(
            script,
            "{{\n{text}\n}} < /run/stdin > /results/{number}.out 2> /results/{number}.err\nended $?\n"
        );
        checks.push((number, at, command, differs.to_vec()));
    }
    staged(&mut script, &stage.after_page);
    script.push_str("echo done > /results/done\n");
    let unused: Vec<&str> = stage.steps.iter().map(|step| &*step.command).collect();
    assert!(unused.is_empty(), "the stage of {name} names commands that are not next: {unused:?}");
    machine.put("page.sh", &script);
    let done = machine.run();

    let mut shown = String::new();
    for (number, at, command, _) in &checks {
        if machine.result(&format!("{number}.code")).is_empty() {
            continue;
        }
        let of = |kind: &str| machine.result(&format!("{number}.{kind}"));
        let _ = write!(shown, "{at} $ {}\n{}{}", command.text, of("out"), of("err"));
    }
    assert!(
        machine.result("done") == "done\n",
        "{}\n{}\n{shown}{}{}",
        machine.result("failed"),
        machine.result("stage.err"),
        done.stdout,
        done.stderr
    );
    for (number, at, command, differs) in checks {
        let printed = ["out", "err"].map(|kind| machine.result(&format!("{number}.{kind}")));
        compare(&at, command, &differs, &printed.concat(), stage.exact);
    }
}

/// What the page says that a command prints is what it prints, but for numbers, times and digests.
fn compare(at: &str, command: &PageCommand, differs: &[String], printed: &str, exact: bool) {
    let shape = |line: &str| if exact { line.to_owned() } else { shape(line) };
    let printed: BTreeSet<String> = printed.lines().map(&shape).collect();
    for line in &command.printed {
        let exempt = line == "..." || differs.iter().any(|text| line.contains(text));
        if line.trim().is_empty() || exempt {
            continue;
        }
        assert!(
            printed.contains(&shape(line)),
            "{at}: {} does not print\n{line}\nbut\n{}",
            command.text,
            printed.iter().fold(String::new(), |all, line| all + line + "\n")
        );
    }
}

/// A line with every number, digest and row of blanks made alike.
fn shape(line: &str) -> String {
    let mut words = Vec::new();
    for word in line.split_whitespace() {
        let word = word.split_once("SHA256:").map_or(word.to_owned(), |(before, rest)| {
            let end = rest.find(|c: char| !(c.is_ascii_alphanumeric() || "+/".contains(c)));
            format!("{before}SHA256:#{}", end.map_or("", |end| &rest[end..]))
        });
        let mut out = String::new();
        let mut run = String::new();
        for c in word.chars().chain(['\0']) {
            if c.is_ascii_alphanumeric() {
                run.push(c);
                continue;
            }
            let digits = run.chars().any(|c| c.is_ascii_digit());
            let digest = run.len() >= 8 && run.chars().all(|c| c.is_ascii_hexdigit());
            out.push_str(if digits || digest { "#" } else { &run });
            run.clear();
            if c != '\0' {
                out.push(c);
            }
        }
        words.push(out.replace("#.#", "#"));
    }
    words.join(" ")
}

/// One test a page; a page with commands and without a test is named by another test.
macro_rules! pages_with_commands {
    ($($test:ident $page:literal,)*) => {
        $(#[test] fn $test() { run_page($page); })*
        const TESTED: &[&str] = &[$($page),*];
    };
}

pages_with_commands! {
    appliances "appliances",
    archive "archive",
    backup_and_upgrade "backup-and-upgrade",
    custody "custody",
    diode "diode",
    disaster_recovery "disaster-recovery",
    export_guard "export-guard",
    gaps "gaps",
    handbook "handbook",
    open_by_hand "open-by-hand",
    page "page",
    planning "planning",
    release "release",
    removable_media "removable-media",
    report "report",
    sinks_readme "sinks/README",
    sinks_elasticsearch "sinks/elasticsearch",
    sinks_loki "sinks/loki",
    sources_falco "sources/falco",
    sources_files "sources/files",
    sources_fluent_bit "sources/fluent-bit",
    sources_kubernetes_webhook "sources/kubernetes-webhook",
    sources_portainer_reconcile "sources/portainer-reconcile",
    sources_portainer_syslog "sources/portainer-syslog",
    sources_relp "sources/relp",
    start "start",
}

#[test]
fn every_page_with_commands_has_its_test() {
    let with_commands: BTreeSet<String> =
        pages().into_iter().filter(|page| !to_run(page).is_empty()).map(|page| page.name).collect();
    let tested: BTreeSet<String> = TESTED.iter().map(|name| (*name).to_owned()).collect();
    assert_eq!(with_commands, tested);
    assert_eq!(tested.len(), TESTED.len(), "a page is tested twice");
}

#[test]
fn lines_are_compared_by_their_shape() {
    let same = [
        ("entries      11, the last", "entries 9, the  last"),
        ("at 2026-11-25T04:01:56.314280865Z", "at 2026-11-25T04:02:56.3Z"),
        ("by SHA256:iYZfRfraY+2ahpEu2KVdbpj/aYF, x", "by SHA256:AbC, x"),
        (
            "plant-7-routine-0000000001-183761152187e350.pstk",
            "plant-7-routine-0000000002-aaaaaaaaaaaaaaaa.pstk",
        ),
    ];
    for (a, b) in same {
        assert_eq!(shape(a), shape(b));
    }
    assert_ne!(shape("admitted 2 bundles"), shape("admitted 2 files"));
    assert_ne!(shape("changed: entry 8"), shape("removed: entry 8"));
}
