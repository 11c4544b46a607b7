//! One rotation, restart or oddity at a time.

use super::*;

fn lines(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

#[test]
fn lines_are_records_to_the_byte_and_carry_the_path() {
    let mut rig = Rig::new("*.log");
    rig.append("a.log", b"one\r\n\n  two \xff\0\n");
    rig.step();
    let source = format!("test {}", rig.path("a.log").display());
    let got = std::mem::take(&mut rig.got);
    let raw: Vec<_> = got.iter().map(|got| &got.raw[..]).collect();
    assert_eq!(raw, [&b"one\r"[..], b"  two \xff\0"]);
    assert!(got.iter().all(|got| got.source == source && got.cut_from.is_none()));
    assert_eq!(rig.ingest.snapshot().empty_frames, 1);
}

#[test]
fn a_line_is_no_record_before_its_end() {
    let mut rig = Rig::new("a.log");
    rig.append("a.log", "hal");
    rig.pass(Duration::from_mins(5));
    assert_eq!(rig.take(), lines(&[]));
    rig.restart();
    rig.append("a.log", "f\nnext");
    rig.step();
    assert_eq!(rig.take(), lines(&["half"]));
}

#[test]
fn the_last_line_of_a_rotated_file_needs_no_end() {
    let mut rig = Rig::new("a.log");
    rig.append("a.log", "one\nlast");
    rig.step();
    rig.rename("a.log", "a.log.1");
    rig.append("a.log", "new\nopen");
    rig.step();
    assert_eq!(rig.take(), lines(&["one", "new"]));
    rig.pass(Duration::from_mins(1));
    assert_eq!(rig.take(), lines(&["last"]));
    rig.restart();
    rig.pass(Duration::from_mins(1));
    assert_eq!(rig.take(), lines(&[]));
}

#[test]
fn a_program_that_writes_into_the_renamed_file_for_a_while_is_read() {
    let mut rig = Rig::new("a.log");
    rig.append("a.log", "one\n");
    rig.step();
    rig.rename("a.log", "elsewhere");
    rig.step();
    rig.append("elsewhere", "two\n");
    rig.pass(Duration::from_secs(8));
    assert_eq!(rig.take(), lines(&["one", "two"]));
    rig.pass(Duration::from_mins(12));
    assert!(rig.marks.keys().all(|mark| mark.ends_with("/set")), "{:?}", rig.marks);
    assert_eq!(rig.alarms(), lines(&[]));
}

#[test]
fn files_rotated_while_the_agent_is_down_are_finished_and_none_is_left_out() {
    let mut rig = Rig::new("audit.log");
    rig.append("audit.log", "1\n2\n");
    rig.step();
    rig.append("audit.log", "3\n");
    rig.kill(0);
    for (stamp, line) in [("01", "4\n"), ("02", "5\n"), ("03", "6\n")] {
        rig.rename("audit.log", &format!("audit-2026-11-24T00-00-{stamp}.000.log"));
        rig.append("audit.log", line);
    }
    rig.gzip("audit-2026-11-24T00-00-01.000.log");
    rig.gzip("audit-2026-11-24T00-00-02.000.log");
    rig.start();
    rig.pass(Duration::from_mins(1));
    let mut got = rig.take();
    got.sort();
    assert_eq!(got, lines(&["1", "2", "3", "4", "5", "6"]));
    rig.restart();
    rig.pass(Duration::from_mins(15));
    assert_eq!((rig.take(), rig.alarms()), (lines(&[]), lines(&[])));
}

#[test]
fn an_inode_that_another_file_got_is_noticed() {
    let mut rig = Rig::new("*.log");
    rig.append("a.log", "one\ntwo\n");
    rig.step();
    rig.kill(0);
    // The same file by number, another one by content.
    fs::write(rig.path("a.log"), "uno\ndos\ntres\n").unwrap();
    rig.start();
    rig.pass(Duration::from_mins(12));
    assert_eq!(rig.take(), lines(&["one", "two", "uno", "dos", "tres"]));
    let alarms = rig.alarms();
    assert_eq!(alarms.len(), 1, "{alarms:?}");
    assert!(alarms[0].contains("behind byte 8"), "{alarms:?}");
}

#[test]
fn a_file_written_anew_with_as_many_bytes_is_noticed() {
    let mut rig = Rig::new("a.log");
    rig.append("a.log", "one\n");
    rig.step();
    rig.truncate("a.log", 0);
    rig.append("a.log", "two\n");
    rig.step();
    assert_eq!(rig.take(), lines(&["one", "two"]));
    assert_eq!(rig.counters.snapshot().rewritten, 1);
}

#[test]
fn a_copy_is_finished_and_the_truncated_file_begins_anew() {
    for text in ["short", &"long ".repeat(200)] {
        let mut rig = Rig::new("a.log");
        rig.append("a.log", format!("{text} 1\n"));
        rig.step();
        rig.append("a.log", format!("{text} 2\n{text} half"));
        rig.copy_truncate("a.log", "a.log.1");
        rig.append("a.log", "rest\n");
        rig.pass(Duration::from_mins(1));
        let mut got = rig.take();
        got.sort();
        let text = |end: &str| format!("{text} {end}");
        assert_eq!(
            got,
            [vec![text("1"), text("2"), text("half")], lines(&["rest"])].concat().tap_sort()
        );
        rig.restart();
        rig.pass(Duration::from_mins(12));
        assert_eq!((rig.take(), rig.alarms()), (lines(&[]), lines(&[])));
    }
}

#[test]
fn a_copy_made_before_the_last_line_was_written_is_not_read_again() {
    let mut rig = Rig::new("a.log");
    rig.append("a.log", long("1"));
    let copy = fs::read(rig.path("a.log")).unwrap();
    rig.append("a.log", long("2"));
    rig.step();
    fs::write(rig.path("a.log.1"), copy).unwrap();
    rig.truncate("a.log", 0);
    rig.append("a.log", long("3"));
    rig.pass(Duration::from_mins(12));
    assert_eq!(rig.take().len(), 3);
    rig.restart();
    rig.pass(Duration::from_mins(12));
    assert_eq!((rig.take(), rig.alarms()), (lines(&[]), lines(&[])));
}

#[test]
fn a_copy_that_is_there_at_the_first_look_is_not_read_beside_its_original() {
    for text in ["short", &"long ".repeat(200)] {
        let mut rig = Rig::new("a.log");
        rig.append("a.log", format!("{text} 1\n{text} 2\n"));
        fs::copy(rig.path("a.log"), rig.path("a.log.1")).unwrap();
        rig.step();
        rig.truncate("a.log", 0);
        rig.append("a.log", format!("{text} 3\n"));
        rig.pass(Duration::from_mins(12));
        let text = |end: &str| format!("{text} {end}");
        assert_eq!(rig.take().tap_sort(), [text("1"), text("2"), text("3")]);
        assert_eq!(rig.alarms(), lines(&[]));
    }
}

#[test]
fn a_backup_is_not_read_until_it_goes_on_by_itself() {
    let mut rig = Rig::new("*.log");
    rig.append("a.log", long("1"));
    rig.step();
    fs::copy(rig.path("a.log"), rig.path("backup.log")).unwrap();
    rig.pass(Duration::from_mins(1));
    assert_eq!(rig.take().len(), 1);
    rig.append("backup.log", long("other 1") + &long("other 2"));
    rig.pass(Duration::from_mins(1));
    let got = rig.take();
    assert_eq!(got.len(), 2);
    assert!(got[0].starts_with("other 1") && got[1].starts_with("other 2"));
}

#[test]
fn what_is_unread_in_a_file_that_goes_is_told_with_what_is_known() {
    let mut rig = Rig::new("*.log");
    rig.append("a.log", "one\nhalf");
    rig.append("b.log", "two\n");
    rig.step();
    rig.truncate("a.log", 0);
    rig.kill(usize::MAX);
    rig.remove("b.log");
    rig.start();
    rig.pass(Duration::from_mins(12));
    let alarms = rig.alarms();
    assert_eq!(alarms.len(), 2, "{alarms:?}");
    assert!(alarms.iter().all(|text| text.contains("behind byte 4")), "{alarms:?}");
    assert_eq!(rig.counters.snapshot().unread_gone, 2);
    // Nothing is invented where nothing is known.
    assert_eq!(rig.counters.snapshot().unread_gone_bytes, 0);
    let mut rig = Rig::new("a.log");
    rig.append("a.log", "one\nhalf");
    rig.step();
    rig.truncate("a.log", 0);
    rig.pass(Duration::from_mins(12));
    assert_eq!(rig.counters.snapshot().unread_gone_bytes, 4);
}

#[test]
fn what_goes_before_anything_of_it_was_read_is_told_where_no_copy_can_hold_it() {
    for copied in [false, true] {
        let mut rig = Rig::new("a.log");
        rig.append("a.log", "half");
        rig.step();
        if copied {
            fs::copy(rig.path("a.log"), rig.path("a.log.1")).unwrap();
        }
        rig.truncate("a.log", 0);
        rig.step();
        rig.append("a.log", "new\n");
        rig.pass(Duration::from_mins(1));
        let expected: &[&str] = if copied { &["half", "new"] } else { &["new"] };
        let mut got = rig.take();
        got.sort();
        assert_eq!(got, lines(expected), "copied: {copied}");
        let alarms = rig.alarms();
        assert_eq!(alarms.len(), usize::from(!copied), "{alarms:?}");
        assert!(alarms.iter().all(|text| text.contains(": 4 bytes behind byte 0")), "{alarms:?}");
    }
}

#[test]
fn a_short_copy_is_not_read_again_when_the_truncation_and_the_end_of_its_wait_come_together() {
    for compressed in [false, true] {
        let mut rig = Rig::new("a.log");
        rig.append("a.log", "one\n");
        rig.step();
        fs::copy(rig.path("a.log"), rig.path("a.log.1")).unwrap();
        if compressed {
            rig.gzip("a.log.1");
        }
        rig.step();
        rig.truncate("a.log", 0);
        rig.now += Timing::default().copy_grace;
        rig.step();
        rig.pass(Duration::from_mins(4));
        assert_eq!(rig.take(), lines(&["one"]), "compressed: {compressed}");
    }
}

#[test]
fn files_that_are_there_at_first_can_be_left_out_and_later_ones_are_not() {
    let mut rig = Rig::with(&["*.log"], |settings| settings.from = BeginAt::End);
    rig.kill(0);
    rig.append("a.log", "old\nold\nha");
    fs::write(rig.path("old.log.1.gz"), gzip(b"old\n")).unwrap();
    rig.start();
    rig.step();
    rig.append("a.log", "lf\nnew\n");
    rig.append("b.log", "first\n");
    rig.pass(Duration::from_secs(20));
    assert_eq!(rig.take(), lines(&["half", "new", "first"]));
    rig.kill(0);
    rig.append("c.log", "while down\n");
    rig.start();
    rig.pass(Duration::from_secs(20));
    assert_eq!(rig.take(), lines(&["while down"]));
}

#[test]
fn folders_may_come_later() {
    let mut rig = Rig::new("later/*/x.log");
    rig.step();
    fs::create_dir_all(rig.path("later/on")).unwrap();
    rig.append("later/on/x.log", "one\n");
    rig.step();
    assert_eq!(rig.take(), lines(&["one"]));
}

#[test]
fn a_mark_that_can_not_be_understood_is_told_and_its_file_read_again() {
    let mut rig = Rig::new("a.log");
    rig.append("a.log", "one\n");
    rig.step();
    rig.kill(0);
    for value in rig.marks.values_mut() {
        *value = "nonsense".to_owned();
    }
    rig.start();
    rig.step();
    assert_eq!(rig.take(), lines(&["one", "one"]));
    assert_eq!(rig.alarms().len(), 1);
}

trait TapSort {
    fn tap_sort(self) -> Self;
}

impl TapSort for Vec<String> {
    fn tap_sort(mut self) -> Self {
        self.sort();
        self
    }
}
