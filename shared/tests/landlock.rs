//! What the kernel keeps a thread to, asked of the kernel. A thread is enough: each test confines one of its own.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::io::ErrorKind;
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;

use shared::reach::{ConfineError, Confinement, LandlockMode, Reach, Transport, confine};

/// Runs a body in a thread of its own. False where the kernel can't, which is said.
fn confined(reach: &Reach, body: impl FnOnce(i32) + Send) -> bool {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| match confine(reach, LandlockMode::Auto).unwrap() {
            Confinement::Enforced { abi, .. } => {
                body(abi);
                true
            }
            other => {
                assert_eq!(other, Confinement::Unavailable);
                let required = confine(reach, LandlockMode::Required);
                assert!(matches!(required, Err(ConfineError::Required)));
                eprintln!("skipped: {other}");
                false
            }
        });
        thread.join().unwrap()
    })
}

fn denied<T: std::fmt::Debug>(result: std::io::Result<T>) {
    assert_eq!(result.unwrap_err().kind(), ErrorKind::PermissionDenied);
}

#[test]
fn folders_that_are_not_named_are_out_of_reach_for_root_too() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    for name in ["etc", "keys", "state/a", "state/b", "mount/out", "logs", "foreign"] {
        fs::create_dir_all(at(name)).unwrap();
    }
    fs::write(at("etc/low.toml"), "x").unwrap();
    fs::write(at("foreign/file"), "x").unwrap();
    fs::write(at("logs/log"), "x").unwrap();
    std::os::unix::fs::symlink(at("foreign/file"), at("logs/link")).unwrap();
    // The folders lie in one, which must not be above a rule.
    let mut reach = Reach::new(&at("etc/low.toml"), &at("state"), &at("keys/none"));
    reach.write_folder(&at("mount/out"));
    reach.read_folder(&at("logs/none"));
    confined(&reach, |_| {
        fs::write(at("state/a/file"), "x").unwrap();
        // From one folder to another, as staging does.
        #[expect(clippy::disallowed_methods, reason = "it is the rename that is tried")]
        fs::rename(at("state/a/file"), at("state/b/file")).unwrap();
        // A folder that was replaced after the rules were set.
        fs::remove_dir(at("mount/out")).unwrap();
        fs::create_dir(at("mount/out")).unwrap();
        fs::write(at("mount/out/file"), "x").unwrap();
        fs::read(at("etc/low.toml")).unwrap();
        fs::read(at("logs/log")).unwrap();
        fs::read("/etc/hosts").unwrap();
        fs::read_to_string("/proc/self/mountinfo").unwrap();

        denied(fs::read(at("foreign/file")));
        denied(fs::read(at("logs/link")));
        denied(fs::write(at("foreign/new"), "x"));
        denied(fs::remove_file(at("foreign/file")));
        denied(fs::write(at("logs/log"), "y"));
        denied(fs::write(at("etc/low.toml"), "y"));
        denied(fs::read_dir("/root").map(|_| ()));
        denied(Command::new("/bin/true").status());
        // What a thread starts is kept to the same.
        std::thread::scope(|scope| {
            scope.spawn(|| denied(fs::read(at("foreign/file")))).join().unwrap();
        });
    });
    assert!(fs::read(at("foreign/file")).is_ok(), "other threads are as free as before");
}

#[test]
fn ports_that_are_not_named_are_out_of_reach() {
    let dir = tempfile::tempdir().unwrap();
    let known = TcpListener::bind("127.0.0.1:0").unwrap();
    let foreign = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = |listener: &TcpListener| listener.local_addr().unwrap().port();
    let free = TcpListener::bind("127.0.0.1:0").unwrap();
    let ours = free.local_addr().unwrap();
    drop(free);
    let mut reach = Reach::new(&dir.path().join("c/x"), dir.path(), &dir.path().join("keys/x"));
    reach.listen("listener.a", Transport::Tcp, ours);
    reach.speak("sink.a", Transport::Tcp, "127.0.0.1", port(&known));
    confined(&reach, |abi| {
        if abi < 4 {
            eprintln!("skipped: this kernel's Landlock (ABI {abi}) knows no ports");
            return;
        }
        TcpStream::connect(known.local_addr().unwrap()).unwrap();
        denied(TcpStream::connect(foreign.local_addr().unwrap()));
        TcpListener::bind(ours).unwrap();
        denied(TcpListener::bind("127.0.0.1:0"));
    });
}

#[test]
fn a_command_may_run_and_read_what_it_needs_and_write_to_what_is_named() {
    let dir = tempfile::tempdir_in("/var/tmp").unwrap();
    let at = |name: &str| dir.path().join(name);
    fs::create_dir_all(at("foreign")).unwrap();
    let mut reach = Reach::new(Path::new("/etc/x"), &at("state"), Path::new("/etc/keys"));
    let hook = shared::hook::Hook::new(vec!["/bin/true".to_owned()], std::time::Duration::MAX);
    reach.hook(hook.as_ref());
    confined(&reach, |_| {
        assert!(
            Command::new("/bin/sh").args(["-c", "echo > /dev/null"]).status().unwrap().success()
        );
        let home = std::env::var("CARGO_MANIFEST_DIR").unwrap();
        denied(fs::write(Path::new(&home).join("new"), "x"));
    });
}

#[test]
fn what_is_turned_off_restricts_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let reach = Reach::new(Path::new("/etc/x"), dir.path(), Path::new("/etc/keys"));
    assert_eq!(confine(&reach, LandlockMode::Off).unwrap(), Confinement::Off);
    fs::read_dir(env!("CARGO_MANIFEST_DIR")).unwrap();
}
