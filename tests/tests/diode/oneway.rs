//! A link that is one-way for certain: what crosses, and that nothing was sent back.

use std::fs::File;
use std::io::Write;

use tests::crossing::{Crossing, assert_sound, assert_unaltered};
use tests::diode::{Diode, count};
use tests::load::{Framing, Pool};
use tests::oneway::{Counted, OneWay};
use tests::oracle::Oracle;
use tests::wait::PATIENCE;

const RECORDS: u64 = 3000;
const PORT: u16 = 6000;

#[test]
fn bundles_cross_a_link_on_which_nothing_was_sent_back() {
    let diode =
        Diode::between("diode-oneway", OneWay::low_address(PORT), OneWay::low_address(PORT));
    let crossing = &diode.crossing;
    let link = match OneWay::new(&crossing.sandbox) {
        Ok(link) => link,
        Err(why) => {
            eprintln!("passed over: {why}");
            return;
        }
    };
    link.lose(20);
    // The namespaces have no listener of ours in common with the test: records come from a file.
    let log = crossing.sandbox.join("audit.log");
    let mut oracle = Oracle::new();
    let ids = oracle.issue(RECORDS);
    write_log(&mut File::create(&log).unwrap(), ids.clone());
    oracle.taken(ids);
    let file =
        format!("[[file]]\nname = \"audit\"\npaths = [\"{}\"]\nlane = \"flash\"\n", log.display());
    let carrier = diode.carrier("bit-rate = \"100Mbit\"\n");
    crossing.pair.high.configure(&format!("{}{file}{carrier}", Crossing::seal_soon(500)));
    let low = format!("{}{}{}", Crossing::quick_inbox(), crossing.file_sink(), diode.receiver(""));
    crossing.pair.low.configure(&low);

    let (low, high) = (&crossing.pair.low, &crossing.pair.high);
    let agents = [
        low.start_as(&mut link.on_low(&low.command(["run"]))),
        high.start_as(&mut link.on_high(&high.command(["run"]))),
    ];
    crossing.wait_committed(RECORDS);
    assert_eq!(crossing.wait_drained(), RECORDS);
    let arrived = assert_sound(&crossing.events());
    assert_unaltered(&arrived);
    oracle.judge(arrived.ids.iter().copied()).assert_exactly_once();

    assert_eq!(link.sent_back(), Counted::default(), "the low side tried to answer");
    assert_eq!(link.came_back(), Counted::default(), "something came back");
    assert!(count(&diode.received(), "bundles") > 0);
    // The doctors of both ends work there, too, and send nothing.
    for (site, on) in [(low, true), (high, false)] {
        let doctor = site.command(["diode", "doctor", "--json"]);
        let mut doctor = if on { link.on_low(&doctor) } else { link.on_high(&doctor) };
        let report = tests::process::run(&mut doctor);
        assert!(report.stdout.contains("\"findings\""), "{report:?}");
    }
    assert_eq!(link.sent_back(), Counted::default(), "a doctor sent something");
    // The receiver last: a datagram to a port where nobody listens any more is answered by the kernel.
    for agent in agents.into_iter().rev() {
        agent.stop(PATIENCE);
    }
    assert_eq!(link.sent_back(), Counted::default(), "stopping sent something");
}

fn write_log(file: &mut File, ids: std::ops::Range<u64>) {
    let pool = Pool::new(Framing::None, None);
    let mut line = Vec::new();
    for id in ids {
        line.clear();
        pool.append(id, &mut line);
        line.push(b'\n');
        file.write_all(&line).expect("a log can be written");
    }
}
