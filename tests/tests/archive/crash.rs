//! Killed at the one moment that counts: an archive has the bundle, and the ledger does not know it.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tests::crossing::{Crossing, assert_sound, pending};
use tests::peers::stores::{S3Store, WRITER, write_credentials};
use tests::wait::{PATIENCE, wait_until};

use super::folder::Mutable;
use super::{configure, read, stored, wait_archived};

/// A proxy before a store, which can be armed: then it waits for the store's answer to a PUT, and calls
/// back instead of passing it on.
struct Proxy {
    address: std::net::SocketAddr,
    armed: Arc<AtomicBool>,
}

impl Proxy {
    fn before(store: &S3Store, on_put: impl Fn() + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (armed, on_put) = (Arc::new(AtomicBool::new(false)), Arc::new(on_put));
        let target = store.endpoint().trim_start_matches("http://").to_owned();
        let is_armed = Arc::clone(&armed);
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let Ok(server) = TcpStream::connect(&target) else { continue };
                let puts = Arc::new(AtomicBool::new(false));
                let (armed, on_put, seen) =
                    (Arc::clone(&is_armed), Arc::clone(&on_put), Arc::clone(&puts));
                let (mut from, mut to) = (client.try_clone().unwrap(), server.try_clone().unwrap());
                thread::spawn(move || {
                    pass(&mut from, &mut to, |bytes| {
                        // A request begins a piece: the client waits for one answer before the next.
                        if bytes.starts_with(b"PUT ") {
                            puts.store(true, Ordering::SeqCst);
                        } else if [&b"GET "[..], b"HEAD ", b"POST "]
                            .iter()
                            .any(|m| bytes.starts_with(m))
                        {
                            puts.store(false, Ordering::SeqCst);
                        }
                        true
                    });
                });
                let (mut from, mut to) = (server, client);
                thread::spawn(move || {
                    pass(&mut from, &mut to, |answer| {
                        let made =
                            answer.starts_with(b"HTTP/1.1 200") && seen.load(Ordering::SeqCst);
                        if made && armed.swap(false, Ordering::SeqCst) {
                            on_put();
                            return false;
                        }
                        true
                    });
                });
            }
        });
        Self { address, armed }
    }
}

/// Passes bytes on until one end closes, or `look` says no.
fn pass(from: &mut TcpStream, to: &mut TcpStream, look: impl Fn(&[u8]) -> bool) {
    let mut piece = vec![0; 64 << 10];
    loop {
        match from.read(&mut piece) {
            Ok(0) | Err(_) => break,
            Ok(count) => {
                if !look(&piece[..count]) || to.write_all(&piece[..count]).is_err() {
                    break;
                }
            }
        }
    }
    let _ = (from.shutdown(std::net::Shutdown::Both), to.shutdown(std::net::Shutdown::Both));
}

/// What must be true when all has come: everything archived, delivered once.
fn whole(crossing: &Crossing, records: u64) -> u64 {
    crossing.wait_committed(records);
    assert_eq!(crossing.wait_drained(), records);
    let archived = wait_archived(&crossing.pair.low);
    assert_eq!(assert_sound(&crossing.events()).ids.len() as u64, records);
    assert_eq!(crossing.pair.low.status()["adds-up"], true);
    archived
}

#[test]
fn killed_between_the_put_and_the_ledger_a_bundle_is_adopted() {
    let crossing = Crossing::new("put-kill");
    let store = S3Store::seaweedfs(&crossing.sandbox.dir("store"));
    store.bucket("audit", true);
    let credentials = crossing.sandbox.join("credentials");
    write_credentials(&credentials, WRITER);
    let victim = Arc::new(std::sync::atomic::AtomicI32::new(0));
    let id = Arc::clone(&victim);
    let proxy = Proxy::before(&store, move || {
        kill(Pid::from_raw(id.load(Ordering::SeqCst)), Signal::SIGKILL).expect("the agent lives");
    });
    configure(
        &crossing,
        &format!(
            "[[archive]]\nname = \"worm\"\ntype = \"s3\"\nendpoint = \"http://{}\"\nbucket = \"audit\"\n\
             credentials-file = \"{}\"\nretain = \"30d\"\nretry-min = \"50ms\"\nretry-max = \"200ms\"\n",
            proxy.address,
            credentials.display()
        ),
    );
    let low = &crossing.pair.low;
    let _high = crossing.pair.high.start();
    let mut sent = 0;
    for round in 1..=3 {
        let mut agent = low.start();
        victim.store(i32::try_from(agent.id()).unwrap(), Ordering::SeqCst);
        proxy.armed.store(true, Ordering::SeqCst);
        crossing.send(sent + 1..sent + 51);
        sent += 50;
        wait_until(PATIENCE, "the kill", || agent.ended().is_some());
        // The store has one more than the ledger knows of.
        let known = low.status()["archives"][0]["archived"].as_u64().unwrap();
        let there = store.versions("audit").len() as u64;
        assert_eq!(there, known + 1, "round {round}");
    }
    let agent = low.start();
    let archived = whole(&crossing, sent);
    assert!(agent.stop(PATIENCE).success());
    let versions = store.versions("audit");
    let keys: BTreeSet<_> = versions.iter().map(|(key, _)| key).collect();
    assert_eq!((versions.len() as u64, keys.len() as u64), (archived, archived), "{versions:?}");
    low.run(["archive", "verify", "--full", "--no-probe"]).success();
}

/// A `chattr` that kills whoever runs it, as long as a file is there: the copy has its name by then, and
/// the ledger has not heard of it.
fn deadly_chattr(dir: &Path, armed: &Path) {
    use std::os::unix::fs::PermissionsExt;
    let script =
        format!("#!/bin/sh\nif rm '{}' 2>/dev/null; then kill -9 $PPID; fi\n", armed.display());
    let path = dir.join("chattr");
    std::fs::write(&path, script).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
}

#[test]
fn killed_between_the_copy_and_the_ledger_a_file_is_adopted() {
    let crossing = Crossing::new("copy-kill");
    let dir = crossing.sandbox.dir("archive");
    configure(
        &crossing,
        &format!(
            "[[archive]]\nname = \"copy\"\ntype = \"directory\"\npath = \"{}\"\nretry-min = \"50ms\"\nretry-max = \"200ms\"\n\
             # The program that kills is none of the system's.\n[hardening]\nlandlock = \"off\"\n",
            dir.display()
        ),
    );
    let _mutable = Mutable(dir.clone());
    let (bin, armed) = (crossing.sandbox.dir("bin"), crossing.sandbox.join("armed"));
    deadly_chattr(&bin, &armed);
    let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap_or_default());
    let low = &crossing.pair.low;
    let _high = crossing.pair.high.start();
    let files = || -> Vec<_> {
        let mut found = Vec::new();
        let mut folders = vec![dir.clone()];
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() { folders.push(path) } else { found.push(path) }
            }
        }
        found.sort();
        found
    };
    let mut sent = 0;
    for round in 1..=3 {
        let mut agent = low.start_as(low.command(["run"]).env("PATH", &path));
        std::fs::write(&armed, "").unwrap();
        crossing.send(sent + 1..sent + 51);
        sent += 50;
        wait_until(PATIENCE, "the kill", || agent.ended().is_some());
        let status = low.status();
        let known = status["archives"][0]["archived"].as_u64().unwrap();
        assert_eq!(files().len() as u64, known + 1, "round {round}");
        assert!(pending(&status) > 0, "{status}");
    }
    let agent = low.start_as(low.command(["run"]).env("PATH", &path));
    let archived = whole(&crossing, sent);
    assert!(agent.stop(PATIENCE).success());
    let (copies, originals) = (files(), stored(low));
    assert_eq!((copies.len() as u64, originals.len() as u64), (archived, archived));
    for (copy, original) in copies.iter().zip(&originals) {
        assert_eq!(read(copy), read(original));
    }
    low.run(["archive", "verify", "--full"]).success();
}
