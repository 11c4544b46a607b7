//! What no well-meaning program writes.

use std::os::unix::fs::FileExt;

use super::*;

#[test]
fn a_huge_line_is_cut_with_its_length_and_bounded_memory() {
    let mut rig = Rig::with(&["a.log"], |settings| settings.message_bytes_max = 480);
    let huge = vec![b'h'; 5 << 20];
    rig.append("a.log", "before\n");
    for piece in huge.chunks(700_000) {
        rig.append("a.log", piece);
        rig.step();
    }
    rig.append("a.log", "\nafter\n");
    rig.step();
    let got: Vec<_> = rig.got.iter().map(|got| (got.raw.len(), got.cut_from)).collect();
    assert_eq!(got, [(6, None), (480, Some(5 << 20)), (5, None)]);
    let agent = rig.agent.as_ref().unwrap();
    assert!(agent.tailer.line.capacity() + agent.tailer.chunk.capacity() < 2 << 20);
}

#[test]
fn a_line_longer_than_a_piece_and_shorter_than_the_limit_is_whole() {
    let mut rig = Rig::new("a.log");
    let line = vec![b'w'; 900_000];
    rig.append("a.log", [&line[..], b"\n", &line, b"x\nend\n"].concat());
    rig.step();
    let got: Vec<_> = rig.got.iter().map(|got| (got.raw.len(), got.cut_from)).collect();
    assert_eq!(got, [(900_000, None), (900_001, None), (3, None)]);
    rig.restart();
    rig.append("a.log", "more\n");
    rig.step();
    assert_eq!(rig.got.len(), 4);
}

#[test]
fn binary_bytes_are_kept() {
    let mut rig = Rig::new("a.log");
    let bytes: Vec<u8> =
        (0..200_000_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8 | 1).collect();
    rig.append("a.log", &bytes);
    rig.append("a.log", "\n");
    rig.step();
    let raw: Vec<_> = rig.got.iter().map(|got| &got.raw[..]).collect();
    let lines: Vec<_> =
        bytes.split(|&byte| byte == b'\n').filter(|line| !line.is_empty()).collect();
    assert_eq!(raw, lines);
}

#[test]
fn a_hole_is_passed_over_and_counted() {
    let mut rig = Rig::new("a.log");
    rig.append("a.log", "one\n");
    rig.step();
    // A program that does not append goes on writing where it was.
    let file = OpenOptions::new().write(true).open(rig.path("a.log")).unwrap();
    file.set_len(0).unwrap();
    let hole = 1_u64 << 40;
    file.write_all_at(b"two\n", hole).unwrap();
    rig.step();
    assert_eq!(rig.take(), ["one", "two"]);
    assert_eq!(rig.counters.snapshot().nul_bytes, hole);
    file.write_all_at(b"\0\0\0three\n\0\0", hole + 4).unwrap();
    rig.step();
    assert_eq!(rig.take(), ["three"]);
    // What is not written yet is no hole.
    file.write_all_at(b"four\n", hole + 13).unwrap();
    rig.step();
    rig.restart();
    rig.step();
    assert_eq!(rig.take(), ["four"]);
}

#[test]
fn a_file_that_shrinks_is_not_read_from_nowhere() {
    let mut rig = Rig::new("a.log");
    rig.append("a.log", "one\ntwo\nthree\n");
    rig.step();
    rig.truncate("a.log", 8);
    rig.step();
    // Nobody can tell this from a file written anew: what is there is read.
    assert_eq!(rig.take(), ["one", "two", "three", "one", "two"]);
    assert_eq!(rig.counters.snapshot().rewritten, 1);
}

#[test]
fn devices_pipes_and_circles_are_passed_over() {
    let mut rig = Rig::new("*.log");
    nix::unistd::mkfifo(&rig.path("pipe.log"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    std::os::unix::fs::symlink("/dev/zero", rig.path("zero.log")).unwrap();
    std::os::unix::fs::symlink("circle.log", rig.path("circle.log")).unwrap();
    rig.append("good.log", "good\n");
    rig.step();
    assert_eq!(rig.take(), ["good"]);
    assert_eq!(rig.counters.snapshot().unreadable, 1, "the circle");
}

#[test]
fn thousands_of_files_are_read_with_a_bounded_number_open() {
    let mut rig = Rig::new("*/*.log");
    let count = 2000;
    for n in 0..count {
        let dir = format!("dir{}", n % 20);
        fs::create_dir_all(rig.path(&dir)).unwrap();
        rig.append(&format!("{dir}/{n}.log"), format!("first {n}\nsecond {n}\n"));
    }
    rig.step();
    assert_eq!(rig.got.len(), 2 * count);
    let open = rig.agent.as_ref().unwrap().tailer.open_files();
    assert!(open <= OPEN_FILES_MAX, "{open}");
    rig.restart();
    for n in 0..count {
        rig.append(&format!("dir{}/{n}.log", n % 20), format!("third {n}\n"));
    }
    rig.step();
    assert_eq!(rig.got.len(), 3 * count);
    let mut raw = rig.take();
    raw.sort();
    raw.dedup();
    assert_eq!(raw.len(), 3 * count);
}

#[test]
fn what_can_not_be_read_is_named_with_what_to_do() {
    let denied = std::io::Error::from(std::io::ErrorKind::PermissionDenied);
    let trouble = glob::Trouble::of(&denied);
    let text = scan::trouble_text(Path::new("/var/log/audit.log"), trouble);
    assert!(text.contains("/var/log/audit.log") && text.contains("setfacl"), "{text}");
}
