//! What comes wrongly or goes nowhere on the low side.

use std::fs;
use std::io::Read;
use std::net::TcpListener;

use nix::sys::signal::Signal;
use tests::agents::{Pair, Site, bundles_in};
use tests::crossing::Crossing;
use tests::sandbox::{Sandbox, free_address};
use tests::wait::{PATIENCE, wait_until};

use super::{acknowledge, alarm, wait_over, wait_raised};

#[test]
fn bundles_of_a_stranger_are_taken_out_of_quarantine_once_he_is_paired() {
    let sandbox = Sandbox::new("alarms-stranger");
    let (high, low) = (Site::high(&sandbox, "plant-7"), Site::low(&sandbox, "soc"));
    high.pair(&low);
    let crossing = Crossing { sandbox, pair: Pair { high, low }, tcp: free_address() };
    crossing.configure(100);
    let (high, low) = (&crossing.pair.high, &crossing.pair.low);
    let (_sender, agent) = (high.start(), low.start());
    crossing.send(1..11);
    let told = wait_raised(low, "quarantined");
    let listed = low.run(["quarantine", "list"]).success();
    let why = told["subject"].as_str().unwrap();
    assert!(listed.contains(why), "{why}: {listed}");
    low.pair(high);
    agent.signal(Signal::SIGHUP);
    low.run(["quarantine", "retry", "--all"]).success();
    assert_eq!(crossing.wait_drained(), 10);
    acknowledge(low, "quarantined");
    crossing.send(11..21);
    crossing.wait_committed(20);
    assert_eq!(crossing.wait_drained(), 20);
    assert!(alarm(low, "quarantined").is_none());
}

#[test]
fn a_gap_that_was_passed_is_over_when_the_bundle_is_sent_again() {
    let crossing = Crossing::new("alarms-gap");
    let (high, low) = (&crossing.pair.high, &crossing.pair.low);
    high.configure(&format!("{}{}", Crossing::seal_soon(100), crossing.listener()));
    low.configure(&format!(
        "{}{}[admission]\ngap-hold = \"1s\"\n",
        Crossing::quick_inbox(),
        crossing.file_sink()
    ));
    let _agents = [high.start(), low.start()];
    let mut carried = Vec::new();
    for bundle in 1..4 {
        crossing.send(bundle * 10..bundle * 10 + 10);
        wait_until(PATIENCE, "a bundle", || bundles_in(&high.outbox()).len() == bundle as usize);
        if bundle == 2 {
            let name = bundles_in(&high.outbox()).pop().unwrap();
            carried.push(name.file_name().unwrap().to_string_lossy().into_owned());
        }
        crossing.pair.carry(&mut carried);
    }
    wait_raised(low, "gap");
    wait_raised(low, "gap-passed");
    wait_until(PATIENCE, "what is behind it", || low.status()["sinks"][0]["delivered"] == 20);
    // The list goes back, and the high side copies just these.
    let (receipt, medium) = (crossing.sandbox.join("low.receipt"), crossing.sandbox.dir("medium"));
    let (receipt, medium) = (receipt.to_str().unwrap(), medium.to_str().unwrap());
    low.run(["receipt", "--out", receipt]).success();
    high.run(["export", "--missing", receipt, medium]).success();
    assert_eq!(bundles_in(medium.as_ref()).len(), 1);
    low.run(["import", medium]).success();
    wait_over(low, "gap");
    wait_over(low, "gap-passed");
    wait_until(PATIENCE, "the missing one", || low.status()["sinks"][0]["delivered"] == 30);
}

#[test]
fn a_sinks_file_that_somebody_changed_is_set_aside_and_another_one_goes_on() {
    let crossing = Crossing::new("alarms-file");
    crossing.configure(100);
    let low = &crossing.pair.low;
    let (_high, agent) = (crossing.pair.high.start(), low.start());
    crossing.send(1..11);
    crossing.wait_committed(10);
    assert_eq!(crossing.wait_drained(), 10);
    agent.kill();
    let files = |crossing: &Crossing| {
        let entries = fs::read_dir(crossing.sink_dir()).unwrap().flatten();
        let mut texts: Vec<String> =
            entries.map(|entry| fs::read_to_string(entry.path()).unwrap()).collect();
        texts.sort_by_key(String::len);
        texts
    };
    let entry = fs::read_dir(crossing.sink_dir()).unwrap().flatten().next().unwrap();
    let whole = fs::read_to_string(entry.path()).unwrap();
    let changed = format!("{}\n", &whole[..whole.len() / 2]);
    fs::write(entry.path(), &changed).unwrap();
    let _agent = low.start();
    crossing.send(11..21);
    crossing.wait_committed(20);
    assert_eq!(crossing.wait_drained(), 20);
    wait_raised(low, "sink-file-changed");
    let found = files(&crossing);
    assert!(found.contains(&changed), "nothing is cut: {found:?}");
    assert!(found.iter().any(|text| text.lines().count() == 10), "{found:?}");
    acknowledge(low, "sink-file-changed");
    crossing.send(21..31);
    crossing.wait_committed(30);
    assert_eq!(crossing.wait_drained(), 30);
    assert!(alarm(low, "sink-file-changed").is_none());
}

#[test]
fn a_receiver_that_never_closes_is_believed_once_the_configuration_says_so() {
    let crossing = Crossing::new("alarms-syslog");
    crossing.configure(100);
    let low = &crossing.pair.low;
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    // It reads, and keeps every connection for itself.
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            std::thread::spawn(move || {
                let mut stream = stream.unwrap();
                let mut bytes = [0; 4096];
                while stream.read(&mut bytes).is_ok_and(|count| count > 0) {}
                std::mem::forget(stream);
            });
        }
    });
    let sink = |more: &str| {
        low.configure(&format!(
            "{}[[sink]]\nname = \"syslog\"\ntype = \"syslog\"\naddress = \"{address}\"\ntransport = \"tcp\"\n\
             confirm-timeout = \"1s\"\nretry-min = \"20ms\"\nretry-max = \"100ms\"\n{more}",
            Crossing::quick_inbox()
        ));
    };
    sink("");
    let (_high, agent) = (crossing.pair.high.start(), low.start());
    crossing.send(1..11);
    let told = wait_raised(low, "sink-not-confirming");
    assert!(told["message"].as_str().unwrap().contains("confirm = \"write\""), "{told}");
    agent.kill();
    sink("confirm = \"write\"\nresend-window = \"100ms\"\n");
    let _agent = low.start();
    wait_over(low, "sink-not-confirming");
    crossing.wait_committed(10);
    assert_eq!(crossing.wait_drained(), 10);
}
