//! Files that are compressed before, while and after they are read.

use super::*;

#[test]
fn a_file_compressed_while_the_agent_is_down_goes_on_where_it_stopped() {
    let mut rig = Rig::new("a.log");
    rig.append("a.log", long("1") + &long("2"));
    rig.step();
    rig.append("a.log", long("3") + "last");
    rig.kill(0);
    rig.rename("a.log", "a.log.1");
    rig.gzip("a.log.1");
    rig.start();
    rig.pass(Duration::from_secs(10));
    let got: Vec<_> = rig.take().iter().map(|line| line[..1].to_owned()).collect();
    assert_eq!(got, ["1", "2", "3", "l"]);
    rig.rename("a.log.1.gz", "a.log.2.gz");
    rig.restart();
    rig.pass(Duration::from_mins(12));
    assert_eq!((rig.take(), rig.alarms()), (vec![], vec![]));
}

#[test]
fn a_compressed_file_is_read_when_it_is_complete() {
    let mut rig = Rig::new("a.log");
    let whole = gzip((long("1") + &long("2")).as_bytes());
    fs::write(rig.path("a.log.1.gz"), &whole[..whole.len() / 2]).unwrap();
    rig.pass(Duration::from_secs(20));
    rig.append("a.log.1.gz", &whole[whole.len() / 2..]);
    rig.pass(Duration::from_secs(20));
    assert_eq!(rig.take().len(), 2);
    assert_eq!(rig.alarms().len(), 0);
}

#[test]
fn a_compressed_file_that_lies_beside_its_original_is_not_read() {
    let mut rig = Rig::new("a.log");
    rig.append("a.log.1", "one\ntwo\n");
    fs::write(rig.path("a.log.1.gz"), gzip(b"one\ntwo\n")).unwrap();
    rig.pass(Duration::from_mins(1));
    rig.remove("a.log.1");
    rig.pass(Duration::from_mins(1));
    assert_eq!(rig.take(), ["one", "two"]);
}

#[test]
fn a_damaged_one_is_read_to_its_damage_and_told() {
    let mut rig = Rig::new("a.log");
    let lines: String = numbered(20_000, |n| format!("line {n} {}", n * 7919));
    let whole = gzip(lines.as_bytes());
    fs::write(rig.path("a.log.1.gz"), &whole[..whole.len() - 100]).unwrap();
    fs::write(rig.path("b.log.1.gz"), b"no gzip at all").unwrap();
    rig.pass(Duration::from_mins(1));
    assert_eq!(rig.alarms().len(), 0);
    rig.pass(Duration::from_mins(3));
    let got = rig.take();
    assert!(got.len() > 15_000, "{}", got.len());
    assert!(lines.starts_with(&(got[..got.len() - 1].join("\n") + "\n")));
    let alarms = rig.alarms();
    assert!(alarms.len() == 1 && alarms[0].contains("damaged"), "{alarms:?}");
    rig.restart();
    rig.pass(Duration::from_mins(3));
    assert_eq!(rig.take().len(), 0);
}

#[test]
fn another_content_with_the_same_beginning_is_not_taken_for_it() {
    let mut rig = Rig::new("a.log");
    let head = "same ".repeat(300) + "\n";
    rig.append("a.log", head.clone() + "first\n");
    rig.step();
    rig.kill(0);
    rig.remove("a.log");
    fs::write(rig.path("a.log.1.gz"), gzip((head + "other\nother\n").as_bytes())).unwrap();
    rig.start();
    rig.pass(Duration::from_mins(1));
    let got = rig.take();
    assert_eq!(got.iter().filter(|line| *line == "other").count(), 2, "{got:?}");
}

#[test]
fn long_lines_and_pieces_make_no_difference() {
    let mut rig = Rig::with(&["a.log"], |settings| settings.message_bytes_max = 1000);
    let lines: String = numbered(3000, |n| format!("{n} {}", "y".repeat(n % 1500)));
    fs::write(rig.path("a.log.1.gz"), gzip((lines.clone() + &"z".repeat(600_000)).as_bytes()))
        .unwrap();
    rig.pass(Duration::from_secs(20));
    assert_eq!(rig.got.len(), 3001);
    for (got, line) in rig.got.iter().zip(lines.lines()) {
        assert_eq!(got.raw, line.as_bytes()[..line.len().min(1000)]);
        assert_eq!(got.cut_from, (line.len() > 1000).then_some(line.len() as u64));
    }
    assert_eq!(rig.got[3000].cut_from, Some(600_000));
}
