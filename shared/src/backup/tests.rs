use std::fmt::Write as _;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use tar::EntryType;

use super::*;
use crate::keys::Identities;

fn facts() -> Facts {
    Facts {
        format: FORMAT,
        side: "high".to_owned(),
        name: "plant-7".to_owned(),
        epoch: Some(7),
        made: "2026-11-25T08:15:00.000000000Z".to_owned(),
        program: "0.1.0".to_owned(),
        schema: 5,
        keys: true,
        left_out: vec!["the outbox".to_owned()],
    }
}

/// A backup of two files, and the key that it may be encrypted to.
struct Made {
    dir: tempfile::TempDir,
    path: PathBuf,
}

fn make(encrypted: bool) -> Made {
    let dir = tempfile::tempdir().unwrap();
    let source = dir.path().join("source");
    fs::create_dir_all(source.join("custody")).unwrap();
    fs::write(source.join("buffer.db"), vec![7; 100_000]).unwrap();
    fs::write(source.join("custody/a.log"), b"one\ntwo\n").unwrap();
    fs::write(source.join("b.partial"), b"half").unwrap();
    std::os::unix::fs::symlink("/etc/passwd", source.join("link")).unwrap();
    let mut sources = collect(&source, "state", 0o600, &|_| true).unwrap();
    assert_eq!(sources.len(), 2);
    // Of a file that grows, what it had.
    sources.iter_mut().find(|s| s.name.ends_with("a.log")).unwrap().bytes = Some(4);
    let recipients = encrypted.then(|| {
        let recipient = generate_backup_key(&dir.path().join("key")).unwrap();
        fs::write(dir.path().join("to"), format!("# the vault\n{recipient}\n")).unwrap();
        load_recipients(&[dir.path().join("to")]).unwrap()
    });
    let path = dir.path().join(new_file_name(&facts(), encrypted));
    write(&path, &facts(), sources, recipients.as_ref(), &mut |_| {}).unwrap();
    assert!(!crate::durable::partial_path(&path).exists());
    Made { dir, path }
}

type Files = Vec<(String, u64)>;

fn read_bytes(bytes: &[u8], key: Option<&Path>) -> Result<(Facts, Files), BackupError> {
    let identities = key.map(|key| Identities::load(&[key.to_owned()]).unwrap());
    let mut files = Vec::new();
    let facts = read(bytes, identities.as_ref(), Side::High, &mut |_, member, content| {
        let bytes =
            std::io::copy(content, &mut std::io::sink()).map_err(BackupError::io(Path::new("")))?;
        files.push((member.name.clone(), bytes));
        Ok(())
    })?;
    Ok((facts, files))
}

#[test]
fn what_is_written_is_read_back() {
    for encrypted in [false, true] {
        let made = make(encrypted);
        let bytes = fs::read(&made.path).unwrap();
        let key = made.dir.path().join("key");
        let (found, files) = read_bytes(&bytes, encrypted.then_some(&*key)).unwrap();
        assert_eq!(found, facts());
        let expected = [("state/buffer.db", 100_000), ("state/custody/a.log", 4)];
        assert_eq!(files, expected.map(|(name, bytes)| (name.to_owned(), bytes)));
        let again = write(&made.path, &facts(), Vec::new(), None, &mut |_| {});
        assert!(
            matches!(again, Err(BackupError::Io { .. })),
            "one that is there is never replaced"
        );
        assert_eq!(fs::read(&made.path).unwrap(), bytes);
    }
}

#[test]
fn an_encrypted_one_opens_with_its_key_alone() {
    let made = make(true);
    let bytes = fs::read(&made.path).unwrap();
    assert!(matches!(read_bytes(&bytes, None), Err(BackupError::Encrypted)));
    let other = made.dir.path().join("other");
    generate_backup_key(&other).unwrap();
    assert!(matches!(read_bytes(&bytes, Some(&other)), Err(BackupError::Identity)));
    let secret = load_recipients(&[other]).unwrap_err().to_string();
    assert!(secret.contains("holds a secret key"), "{secret}");
}

#[test]
fn every_truncation_and_every_flipped_byte_is_refused() {
    for encrypted in [false, true] {
        let made = make(encrypted);
        let bytes = fs::read(&made.path).unwrap();
        let key = made.dir.path().join("key");
        let key = encrypted.then_some(&*key);
        for length in (0..bytes.len()).step_by(7) {
            let refused = read_bytes(&bytes[..length], key);
            assert!(refused.is_err(), "cut off after {length} of {}", bytes.len());
        }
        for at in (0..bytes.len()).step_by(if encrypted { 11 } else { 1 }) {
            let mut bytes = bytes.clone();
            bytes[at] ^= 1;
            match read_bytes(&bytes, key) {
                Err(_) => {}
                // A bit of zstd that says nothing: what was read is what was written.
                Ok((found, files)) => assert_eq!((found, files.len()), (facts(), 2), "byte {at}"),
            }
        }
        let mut longer = bytes.clone();
        longer.extend_from_slice(b"more");
        assert!(read_bytes(&longer, key).is_err(), "bytes behind it");
    }
}

/// A name, a content, and what is wrong with the header.
type Forged<'a> = (&'a str, &'a [u8], &'a dyn Fn(&mut tar::Header));

/// An archive of these members as whoever has tar and zstd can make it, its sums right.
fn forge(members: &[Forged<'_>]) -> Vec<u8> {
    let mut tar = Vec::new();
    let mut sums = String::new();
    let mut put = |name: &str, content: &[u8], change: &dyn Fn(&mut tar::Header)| {
        let mut header = tar::Header::new_ustar();
        let bytes = header.as_mut_bytes();
        bytes[..name.len()].copy_from_slice(name.as_bytes());
        header.set_size(content.len() as u64);
        header.set_mode(0o600);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(5);
        header.set_entry_type(tar::EntryType::Regular);
        change(&mut header);
        header.set_cksum();
        tar.extend_from_slice(header.as_bytes());
        tar.extend_from_slice(content);
        tar.resize(tar.len().next_multiple_of(512), 0);
    };
    for (name, content, change) in members {
        put(name, content, change);
        let digest = crate::bundle::BundleDigest::of(content);
        let _ = writeln!(sums, "{digest}  {name}");
    }
    if !members.iter().any(|(name, ..)| *name == SUMS_NAME) {
        put(SUMS_NAME, sums.as_bytes(), &|_| {});
    }
    tar.extend_from_slice(&[0; 1024]);
    let mut out = zstd::Encoder::new(Vec::new(), 1).unwrap();
    out.write_all(&tar).unwrap();
    out.finish().unwrap()
}

#[test]
fn what_other_hands_made_is_refused() {
    let head = serde_json::to_vec(&facts()).unwrap();
    let as_is = |_: &mut tar::Header| {};
    let first = (FACTS_NAME, &*head, &as_is as &dyn Fn(&mut tar::Header));
    let good = forge(&[first, ("state/a", b"x", &as_is), ("state/b", b"", &as_is)]);
    assert_eq!(read_bytes(&good, None).unwrap().1.len(), 2);

    let refused = |what: &str, bytes: &[u8]| {
        let err = read_bytes(bytes, None).expect_err(what);
        assert!(err.is_refusal(), "{what}: {err}");
        err.to_string()
    };
    let long = "state/".to_owned() + &"x/".repeat(20) + "y";
    let names = [
        "../etc/passwd",
        "/etc/passwd",
        "state/../../a",
        "state//a",
        "state/",
        "state",
        "other/a",
        "state/./a",
        "state/a\nb",
        "state\\a",
        &long,
    ];
    for name in names {
        let text = refused(name, &forge(&[first, (name, b"x", &as_is)]));
        assert!(text.contains("named") || text.contains("plain files"), "{name}: {text}");
    }
    refused("twice", &forge(&[first, ("state/a", b"x", &as_is), ("state/a", b"y", &as_is)]));
    refused("unordered", &forge(&[first, ("state/b", b"x", &as_is), ("state/a", b"y", &as_is)]));
    refused("no facts", &forge(&[("state/a", b"x", &as_is)]));
    refused("no sums", &forge(&[first, (SUMS_NAME, b"", &as_is)]));
    let kinds = [
        EntryType::Symlink,
        EntryType::Link,
        EntryType::Char,
        EntryType::Block,
        EntryType::Fifo,
        EntryType::Directory,
        EntryType::GNULongName,
        EntryType::XHeader,
        EntryType::GNUSparse,
    ];
    for kind in kinds {
        let change = move |header: &mut tar::Header| {
            header.set_entry_type(kind);
            if matches!(kind, EntryType::Symlink | EntryType::Link) {
                header.set_link_name("/etc/passwd").unwrap();
            }
        };
        let text = refused(&format!("{kind:?}"), &forge(&[first, ("state/a", b"x", &change)]));
        assert!(text.contains("plain files"), "{kind:?}: {text}");
    }
    let huge = |header: &mut tar::Header| header.set_size(1 << 50);
    refused("huge", &forge(&[first, ("state/a", b"x", &huge)]));
    let setuid = |header: &mut tar::Header| header.set_mode(0o4755);
    refused("set-user-id", &forge(&[first, ("state/a", b"x", &setuid)]));

    let newer = Facts { format: FORMAT + 1, ..facts() };
    let text =
        refused("newer", &forge(&[(FACTS_NAME, &serde_json::to_vec(&newer).unwrap(), &as_is)]));
    assert!(text.contains("install the version"), "{text}");
    let low = Facts { side: "low".to_owned(), ..facts() };
    let text = refused("low", &forge(&[(FACTS_NAME, &serde_json::to_vec(&low).unwrap(), &as_is)]));
    assert!(text.contains("of a low side"), "{text}");
    for bytes in [&b""[..], b"PK\x03\x04", b"\x28\xb5\x2f\xfd", b"age-encryption.org/v1\n"] {
        assert!(read_bytes(bytes, None).is_err());
    }
}

#[test]
fn a_file_is_put_where_nothing_stands_and_nowhere_else() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    fs::write(at("one"), b"one").unwrap();
    fs::write(at("two"), b"two").unwrap();
    assert_eq!(Placed::put(&at("one"), &at("a/b"), 0o600).unwrap(), Placed::Added);
    assert_eq!(Placed::put(&at("one"), &at("a/b"), 0o600).unwrap(), Placed::Same);
    assert_eq!(Placed::put(&at("two"), &at("a/b"), 0o600).unwrap(), Placed::Kept);
    assert_eq!(fs::read(at("a/b")).unwrap(), b"one");
}
