//! What goes wrong around an agent that runs: it is told, the advice is followed, and it is over.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};

use shared::durable;
use tests::agents::bundles_in;
use tests::crossing::Crossing;
use tests::wait::{PATIENCE, wait_until};

use super::{acknowledge, bound_by_permissions, wait_over, wait_raised};

#[test]
fn what_goes_wrong_around_a_low_side_is_told_and_is_over_when_it_was_mended() {
    let crossing = Crossing::new("alarms-low");
    let (high, low) = (&crossing.pair.high, &crossing.pair.low);
    let (receipts, appliance) = (crossing.sandbox.join("receipts"), crossing.sandbox.join("out"));
    high.configure(&format!(
        "{}{}{}",
        Crossing::seal_soon(100),
        crossing.listener(),
        crossing.handoff()
    ));
    low.configure(&format!(
        "{}copy-deadline = \"300ms\"\n{}[admission]\nsilence-alarm = \"20s\"\n[receipt]\nfolder = {receipts:?}\ninterval = \"1s\"\n\
         [[receiver]]\nname = \"appliance\"\ntype = \"folder\"\npath = {appliance:?}\n",
        Crossing::quick_inbox(),
        crossing.file_sink()
    ));
    let agent = low.start();

    // The folder for receipts is not there: it is made.
    wait_raised(low, "receipt-not-written");
    fs::create_dir(&receipts).unwrap();
    wait_over(low, "receipt-not-written");

    // Something that is no bundle stays in the inbox: it is taken away.
    let link = low.inbox().join("link.pstk");
    symlink("/etc/passwd", &link).unwrap();
    wait_raised(low, "inbox-ignored");
    fs::remove_file(&link).unwrap();
    wait_over(low, "inbox-ignored");

    // The inbox is gone, as a share that is not mounted: it comes back.
    let away = low.inbox().with_extension("away");
    durable::rename(&low.inbox(), &away).unwrap();
    wait_raised(low, "inbox-unreadable");
    durable::rename(&away, &low.inbox()).unwrap();
    wait_over(low, "inbox-unreadable");

    // What comes can't be stored: that is mended, and it is tried again by itself.
    let staging = low.state_dir().join("staging");
    fs::remove_dir_all(&staging).unwrap();
    fs::write(&staging, "in the way").unwrap();
    fs::write(low.inbox().join("any.pstk"), "no bundle").unwrap();
    wait_raised(low, "import-failed");
    fs::remove_file(&staging).unwrap();
    fs::create_dir(&staging).unwrap();
    wait_over(low, "import-failed");

    // Nothing has come of the trusted origin, until it does.
    let told = wait_raised(low, "silence");
    assert_eq!(told["subject"], "plant-7", "{told}");
    let sender = high.start();
    crossing.send(1..11);
    wait_over(low, "silence");
    assert_eq!(crossing.wait_drained(), 10);
    drop(sender);

    // A receiver's folder is not there: half a minute later that is an alarm, and over when it is.
    wait_raised(low, "receiver-trouble");
    fs::create_dir_all(&appliance).unwrap();
    wait_over(low, "receiver-trouble");

    // The ledger is lost, and the signer is not believed any more: what the store holds waits for him.
    agent.kill();
    for name in ["ledger.db", "ledger.db-wal", "ledger.db-shm"] {
        let _ = fs::remove_file(low.state_dir().join(name));
    }
    let signers = low.dir().join("keys/allowed_signers");
    let believed = fs::read_to_string(&signers).unwrap();
    fs::write(&signers, "").unwrap();
    let agent = low.start();
    wait_raised(low, "ledger-rebuilt");
    wait_raised(low, "store-not-admitted");
    fs::write(&signers, believed).unwrap();
    agent.kill();
    let _agent = low.start();
    wait_over(low, "store-not-admitted");
    wait_until(PATIENCE, "the records once more", || low.status()["records"] == 10);
    acknowledge(low, "ledger-rebuilt");
}

#[test]
fn what_goes_wrong_around_a_high_side_is_told_and_the_advice_helps() {
    let crossing = Crossing::new("alarms-high");
    let high = &crossing.pair.high;
    let medium = crossing.sandbox.dir("medium");
    let sections = format!("{}{}", Crossing::seal_soon(5), crossing.listener());
    high.configure(&sections);
    let agent = high.start();
    crossing.send(1..11);
    wait_until(PATIENCE, "a bundle", || !bundles_in(&high.outbox()).is_empty());

    // Nobody hands the bundles over; an export does, and the alarm is acknowledged.
    let told = wait_raised(high, "hand-over-overdue");
    assert!(told["message"].as_str().unwrap().contains("export"), "{told}");
    high.run(["export", medium.to_str().unwrap()]).success();
    acknowledge(high, "hand-over-overdue");

    // A sealed bundle is changed on the disk; the others cross.
    for (ids, bundles) in [(11..21, 1), (21..31, 2)] {
        crossing.send(ids);
        wait_until(PATIENCE, "another bundle", || {
            high.status()["bundles"]["ready"]["count"].as_u64() >= Some(bundles)
        });
    }
    agent.kill();
    let sealed = bundles_in(&high.outbox());
    let changed = sealed.last().expect("a bundle");
    let mut bytes = fs::read(changed).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(changed, bytes).unwrap();
    high.configure(&format!("{sections}{}", crossing.handoff()));
    let _agent = high.start();
    wait_raised(high, "outbox-damaged");
    wait_until(PATIENCE, "the others", || high.status()["bundles"]["ready"]["count"] == 1);
    acknowledge(high, "outbox-damaged");
}

#[test]
fn what_was_imported_and_stays_is_removed_once_the_inbox_can_be_written() {
    let crossing = Crossing::new("alarms-inbox");
    let (high, low) = (&crossing.pair.high, &crossing.pair.low);
    high.configure(&format!("{}{}", Crossing::seal_soon(100), crossing.listener()));
    low.configure(&format!("{}{}", Crossing::quick_inbox(), crossing.file_sink()));
    let _sender = high.start();
    crossing.send(1..11);
    wait_until(PATIENCE, "a bundle", || high.status()["bundles"]["ready"]["count"] == 1);
    assert_eq!(crossing.pair.carry(&mut Vec::new()), 1);
    let may_write = |may: bool| {
        let mode = fs::Permissions::from_mode(if may { 0o755 } else { 0o555 });
        fs::set_permissions(low.inbox(), mode).unwrap();
    };
    may_write(false);
    let _agent = low.start_as(&mut bound_by_permissions(low));
    let told = wait_raised(low, "inbox-not-writable");
    let [bundle] = &bundles_in(&low.inbox())[..] else { panic!("the bundle stays") };
    let name = bundle.file_name().unwrap().to_str().unwrap();
    assert!(told["message"].as_str().unwrap().contains(name), "{told}");
    // Nothing is held up, and it is not imported again and again.
    wait_until(PATIENCE, "its records", || low.status()["sinks"][0]["delivered"] == 10);
    assert_eq!(low.status()["received"], 1);
    may_write(true);
    wait_over(low, "inbox-not-writable");
    assert!(bundles_in(&low.inbox()).is_empty());
    assert_eq!((&low.status()["received"], &low.status()["adds-up"]), (&1.into(), &true.into()));
}
