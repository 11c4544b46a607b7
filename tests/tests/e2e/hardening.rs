//! What an agent is kept to: by the filter of its unit, by the kernel, and by whom its keys are kept.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use tests::agents::Site;
use tests::crossing::Crossing;
use tests::peers::peer;
use tests::process::{Process, run};
use tests::sandbox::Sandbox;
use tests::seccomp::under;
use tests::wait::{PATIENCE, wait_until};

const AGENTS: [&str; 2] = ["penstock-high.service", "penstock-low.service"];

#[test]
fn the_filters_of_the_units_leave_the_agents_what_they_need() {
    let crossing = Crossing::new("filtered");
    crossing.configure(50);
    let pair = &crossing.pair;
    let high = pair.high.start_as(&mut pair.high.filtered_command());
    let low = pair.low.start_as(&mut pair.low.filtered_command());
    for agent in [&high, &low] {
        let status = fs::read_to_string(format!("/proc/{}/status", agent.id())).unwrap();
        assert!(status.lines().any(|line| line == "Seccomp:\t2"), "{status}");
    }
    crossing.send(0..200);
    crossing.wait_committed(200);
    // Killed and started again under the filter, too: recovery is the ordinary path.
    high.kill();
    let high = pair.high.start_as(&mut pair.high.filtered_command());
    crossing.send(200..300);
    crossing.wait_committed(300);
    assert_eq!(crossing.wait_drained(), 300);
    assert_eq!(crossing.events().len(), 300);
    for agent in [high, low] {
        assert!(agent.stop(PATIENCE).success());
    }
}

/// Landlock is in none of the groups of system calls that the units name.
#[test]
fn the_filters_leave_every_unit_the_fence_from_inside() {
    // landlock_create_ruleset(2), asked for the version: a number, or the kernel's own reason.
    let ask = "import ctypes; libc = ctypes.CDLL(None, use_errno=True); \
        print(libc.syscall(444, None, ctypes.c_size_t(0), 1), ctypes.get_errno())";
    let mut command = peer("python3");
    command.args(["-c", ask]);
    let without = run(&mut command).success();
    for unit in AGENTS.into_iter().chain([
        "penstock-low-import.service",
        "media/penstock-export@.service",
        "media/penstock-import@.service",
    ]) {
        assert_eq!(run(&mut under(unit, &command)).success(), without, "{unit}");
    }
}

#[test]
fn the_filters_refuse_what_no_agent_needs() {
    let sandbox = Sandbox::new("refused");
    for unit in AGENTS {
        let attempt = |program: &str, arguments: &[&str]| {
            let done = run(&mut under(unit, peer(program).args(arguments)));
            (done.code, done.stderr)
        };
        // The launcher by itself changes nothing.
        assert_eq!(attempt("sh", &["-c", "exit 7"]).0, Some(7));
        let (code, said) = attempt("taskset", &["1", "true"]);
        assert!(code != Some(0) && said.contains("Operation not permitted"), "{code:?} {said}");
        let place = sandbox.dir("place").display().to_string();
        let (code, said) = attempt("mount", &["-t", "tmpfs", "none", &place]);
        assert!(code != Some(0), "{said}");
        // Raw sockets, and memory that can be written to and run.
        for (attempted, python) in [
            ("raw socket", "import socket; socket.socket(socket.AF_PACKET, socket.SOCK_RAW)"),
            ("executable memory", "import mmap; mmap.mmap(-1, 4096, prot=7)"),
            ("priority", "import os; os.setpriority(os.PRIO_PROCESS, 0, 5)"),
        ] {
            let (code, said) = attempt("python3", &["-c", python]);
            assert!(code == Some(1) && said.contains("Errno 1"), "{attempted}: {code:?} {said}");
            // Without the filter it would have been allowed, so that something was shown.
            if nix::unistd::geteuid().is_root() || attempted != "raw socket" {
                run(peer("python3").args(["-c", python])).success();
            }
        }
    }
}

/// A high side that watches a folder whose one link leads elsewhere.
struct Watched {
    sandbox: Sandbox,
    high: Site,
}

impl Watched {
    fn new(name: &str) -> Self {
        let sandbox = Sandbox::new(name);
        let pair = tests::agents::Pair::new(&sandbox, "plant-7");
        let logs = sandbox.dir("watched/logs");
        let foreign = sandbox.dir("foreign");
        fs::write(foreign.join("secret.log"), "a line that nobody named\n").unwrap();
        fs::write(logs.join("plain.log"), "a line that is named\n").unwrap();
        std::os::unix::fs::symlink(foreign.join("secret.log"), logs.join("link.log")).unwrap();
        Self { high: pair.high, sandbox }
    }

    fn start(&self, hardening: &str) -> Process {
        let logs = self.sandbox.join("watched/logs");
        let file = format!(
            "[[file]]\nname = \"logs\"\npaths = [\"{}/*.log\"]\nstream = \"other\"\n",
            logs.display()
        );
        self.high.configure(&format!("[hardening]\n{hardening}{file}"));
        self.high.start()
    }

    fn confinement(&self) -> String {
        let mut said = String::new();
        wait_until(PATIENCE, "a live status", || {
            let status = self.high.status();
            status["live"]["confinement"].as_str().unwrap_or_default().clone_into(&mut said);
            !said.is_empty()
        });
        said
    }

    fn wait_received(&self, records: u64) {
        wait_until(PATIENCE, &format!("{records} records"), || {
            tests::crossing::received(&self.high.status()) == records
        });
    }
}

#[test]
fn the_kernel_keeps_an_agent_to_what_its_configuration_names() {
    let watched = Watched::new("confined");
    let agent = watched.start("");
    let said = watched.confinement();
    if said.contains("not available") {
        eprintln!("skipped: {said}");
        return;
    }
    assert!(said.starts_with("Landlock ABI"), "{said}");
    assert!(agent.log().contains(&said), "the journal tells it, too");
    assert!(watched.high.run(["status"]).success().contains(&said));
    // The link was found in the same look as the file beside it.
    watched.wait_received(1);
    assert!(agent.stop(PATIENCE).success());

    // Named, it can be read.
    let foreign = watched.sandbox.join("foreign/none");
    let agent = watched.start(&format!("read = [\"{}\"]\n", foreign.display()));
    watched.wait_received(2);
    assert!(agent.stop(PATIENCE).success());
}

#[test]
fn what_is_turned_off_is_told_and_what_is_wrong_is_refused() {
    let watched = Watched::new("unconfined");
    let agent = watched.start("landlock = \"off\"\n");
    assert!(watched.confinement().contains("off"));
    watched.wait_received(2);
    assert!(agent.stop(PATIENCE).success());

    watched.high.configure("[hardening]\nlandlock = \"yes\"\nwrite = [\"here\"]\n");
    let done = watched.high.run(["check-config"]);
    assert_eq!(done.code, Some(78), "{}", done.stderr);
    assert!(done.stderr.contains("landlock"), "{}", done.stderr);
    watched.high.configure("[hardening]\nwrite = [\"here\"]\n");
    let done = watched.high.run(["check-config"]);
    assert!(done.stderr.contains("hardening.write"), "{}", done.stderr);
}

/// Moves keys out of a folder into one as systemd makes it for a service.
fn as_credentials(site: &Site, names: &[&str], dir: &Path) {
    fs::create_dir_all(dir).unwrap();
    for name in names {
        let from = site.dir().join("keys").join(name);
        fs::write(dir.join(name), fs::read(&from).unwrap()).unwrap();
        fs::set_permissions(dir.join(name), fs::Permissions::from_mode(0o440)).unwrap();
        fs::remove_file(from).unwrap();
    }
    fs::set_permissions(dir, fs::Permissions::from_mode(0o550)).unwrap();
}

#[test]
fn agents_take_their_keys_from_credentials() {
    let crossing = Crossing::new("credentials");
    crossing.configure(50);
    let (high, low) = (&crossing.pair.high, &crossing.pair.low);
    let dirs =
        [crossing.sandbox.join("credentials-high"), crossing.sandbox.join("credentials-low")];
    as_credentials(high, &["signing.key"], &dirs[0]);
    as_credentials(low, &["identity.key", "receipt.key"], &dirs[1]);
    // Without them nobody starts, and no key is made in their place.
    for site in [high, low] {
        let done = site.run(["check-config"]);
        assert_eq!(done.code, Some(78), "{}", done.stderr);
    }
    let start = |site: &Site, dir: &Path| {
        site.start_as(site.command(["run"]).env("CREDENTIALS_DIRECTORY", dir))
    };
    let agents = [start(high, &dirs[0]), start(low, &dirs[1])];
    crossing.send(0..100);
    crossing.wait_committed(100);
    assert_eq!(crossing.wait_drained(), 100);
    // Read again where they were read before.
    for agent in &agents {
        agent.signal(nix::sys::signal::Signal::SIGHUP);
        wait_until(PATIENCE, "keys read again", || {
            let log = agent.log();
            log.contains("keys loaded again") || log.contains("the keys were read again")
        });
    }
    for agent in agents {
        assert!(agent.stop(PATIENCE).success());
    }
    for (site, name) in [(high, "signing.key"), (low, "identity.key"), (low, "receipt.key")] {
        assert!(!site.dir().join("keys").join(name).exists(), "{name} was made anew");
    }
}

#[test]
fn a_key_that_systemd_sealed_opens_to_the_same_key() {
    let crossing = Crossing::new("sealed");
    let key = crossing.pair.high.dir().join("keys/signing.key");
    let sealed = crossing.sandbox.join("penstock-high.signing.key");
    let opened = crossing.sandbox.join("opened");
    // As the handbook has it, with a key of this machine where it has `tpm2`.
    let creds = |arguments: &[&str]| {
        let mut command = peer("systemd-creds");
        command.args(arguments).env("SYSTEMD_CREDENTIAL_SECRET", crossing.sandbox.join("secret"));
        command
    };
    let done =
        run(creds(&["encrypt", "--with-key=host", "--name=signing.key"]).arg(&key).arg(&sealed));
    if done.code != Some(0) {
        eprintln!("skipped: this machine's systemd-creds can't seal: {}", done.stderr.trim());
        return;
    }
    let before = fs::read(&key).unwrap();
    assert!(!fs::read(&sealed).unwrap().windows(16).any(|part| part == &before[40..56]));
    run(creds(&["decrypt", "--name=signing.key"]).arg(&sealed).arg(&opened)).success();
    assert!(fs::read(&opened).unwrap() == before);
}

/// The import unit's own `ExecStart`, under its filter, with the paths of a test.
fn import_command(site: &Site, landing: &Path) -> Command {
    let unit = fs::read_to_string(tests::seccomp::unit("penstock-low-import.service")).unwrap();
    let line = unit.lines().find_map(|line| line.strip_prefix("ExecStart=")).unwrap();
    let mut words = line.split(' ').map(|word| match word {
        "/usr/bin/penstock-low" => tests::agents::program("penstock-low"),
        "/etc/penstock/low.toml" => site.config(),
        "/var/spool/penstock/landing" => landing.to_owned(),
        other => other.into(),
    });
    let mut command = Command::new(words.next().unwrap());
    command.args(words);
    under("penstock-low-import.service", &command)
}

/// The bundles of a hundred records. Nothing comes by the inbox: couriers have a folder of their own.
fn sealed(crossing: &Crossing) -> Vec<std::path::PathBuf> {
    let high = &crossing.pair.high;
    high.configure(&format!("{}{}", Crossing::seal_soon(20), crossing.listener()));
    let agent = high.start();
    // Two bundles at least, however fast they are sealed.
    for records in [0..50, 50..100] {
        crossing.send(records.clone());
        crossing.wait_committed(records.end);
        wait_until(PATIENCE, "all sealed", || {
            let status = high.status();
            tests::crossing::buffered(&status) == 0
                && ["planned", "sealed"].iter().all(|s| status["bundles"][s]["count"] == 0)
        });
    }
    assert!(agent.stop(PATIENCE).success());
    tests::agents::bundles_in(&high.outbox())
}

/// A copy that stays incomplete is waited for: ten minutes, as shipped.
#[test]
fn a_copy_that_was_broken_off_holds_up_no_other() {
    let crossing = Crossing::new("broken-off");
    crossing.configure(20);
    let low = &crossing.pair.low;
    low.configure(&format!("{}{}", Crossing::quick_inbox(), crossing.file_sink()));
    let landing = crossing.sandbox.dir("landing");
    let bundles = sealed(&crossing);
    let (first, others) = bundles.split_first().unwrap();
    let bring = |path: &Path| {
        let name = landing.join(path.file_name().unwrap());
        fs::copy(path, &name).unwrap();
        name
    };
    fs::write(landing.join("broken-off.pstk"), &fs::read(first).unwrap()[..2000]).unwrap();
    let taken = bring(first);
    let low_agent = low.start();
    let import =
        Process::spawn(&mut import_command(low, &landing), "import", crossing.sandbox.path());
    // From here on it waits for the rest of the other one.
    wait_until(PATIENCE, "the first is taken in", || !taken.exists());
    assert!(!others.is_empty());
    for path in others {
        drop(bring(path));
    }
    wait_until(PATIENCE, "all delivered", || crossing.events().len() == 100);
    assert!(landing.join("broken-off.pstk").exists());
    import.kill();
    assert!(low_agent.stop(PATIENCE).success());
}

#[test]
fn the_import_unit_takes_in_what_couriers_bring_and_the_agent_delivers_it() {
    let crossing = Crossing::new("landing");
    crossing.configure(20);
    let low = &crossing.pair.low;
    // What is no bundle could be one that is still being copied.
    let quick = Crossing::quick_inbox();
    low.configure(&format!("{quick}copy-deadline = \"1s\"\n{}", crossing.file_sink()));
    let landing = crossing.sandbox.dir("landing");
    for path in sealed(&crossing) {
        fs::copy(&path, landing.join(path.file_name().unwrap())).unwrap();
    }
    fs::write(landing.join("hostile.pstk"), "no bundle").unwrap();
    fs::write(landing.join("under-way.pstk.part"), "still coming").unwrap();

    let low_agent = low.start();
    let done = run(&mut import_command(low, &landing));
    // What is refused is said, and stays refused: the unit does not try it again.
    assert_eq!(done.code, Some(65), "{}{}", done.stdout, done.stderr);
    assert!(done.stdout.contains("quarantined 1"), "{}", done.stdout);
    let left: Vec<_> = fs::read_dir(&landing).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(left, ["under-way.pstk.part"]);
    wait_until(PATIENCE, "all delivered", || crossing.events().len() == 100);
    // Once more, with nothing to do.
    let done = run(&mut import_command(low, &landing));
    assert_eq!(done.code, Some(0), "{}", done.stderr);
    assert!(low_agent.stop(PATIENCE).success());

    let done = run(&mut import_command(low, &low.inbox()));
    assert_eq!(done.code, Some(64), "{}", done.stderr);
    assert!(done.stderr.contains("own inbox"), "{}", done.stderr);
}
