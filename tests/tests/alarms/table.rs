//! Which test raises each alarm, and whether it goes on to the end: until the advice helped.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use high_side::buffer::AlarmKind;
use low_side::ledger::ALARM_CODES;

/// Up to where the test of an alarm goes.
#[derive(Clone, Copy, Debug)]
enum End {
    /// What the handbook advises is done, and the alarm is over by itself.
    Over,
    /// It tells of something that happened: the advice is followed, and once it is acknowledged it is not told
    /// again.
    Known,
    /// It is only raised; the words say why.
    Raised(&'static str),
}
use End::{Known, Over, Raised};

/// Code, file, and the test in it.
type Row = (&'static str, &'static str, &'static str, End);

/// Each code of the low side.
const LOW: &[Row] = &[
    (
        "archive-conflict",
        FOLDER,
        "a_bundle_that_is_damaged_or_whose_name_is_taken_waits_until_that_is_mended",
        Over,
    ),
    ("archive-lag", S3, "a_bundle_is_archived_as_it_came_before_its_records_go_on", Over),
    ("archive-refused", S3, "a_bucket_without_a_lock_is_refused", Over),
    (
        "custody-changed",
        DAMAGE,
        "a_custody_log_that_was_cut_off_and_one_that_can_not_be_signed_are_told",
        Known,
    ),
    (
        "custody-not-signed",
        DAMAGE,
        "a_custody_log_that_was_cut_off_and_one_that_can_not_be_signed_are_told",
        Over,
    ),
    (
        "custody-not-written",
        "../low-side/src/ledger/custody_tests.rs",
        "what_can_not_be_written_waits_and_is_written_once",
        Over,
    ),
    ("disk-low", RETENTION, "a_disk_that_gets_small_is_told_until_there_is_room", Over),
    ("epoch-began", DAMAGE, "a_broken_buffer_is_set_aside_and_what_it_held_is_taken_in", Known),
    (
        "fork",
        "tests/e2e/disorder.rs",
        "a_high_side_put_back_to_an_old_state_is_found_out_as_a_fork",
        Known,
    ),
    ("gap", DISORDER, "a_gap_that_was_passed_is_over_when_the_bundle_is_sent_again", Over),
    ("gap-passed", DISORDER, "a_gap_that_was_passed_is_over_when_the_bundle_is_sent_again", Over),
    ("import-failed", AROUND, LOW_SIDE, Over),
    ("inbox-ignored", AROUND, LOW_SIDE, Over),
    (
        "inbox-not-writable",
        AROUND,
        "what_was_imported_and_stays_is_removed_once_the_inbox_can_be_written",
        Over,
    ),
    ("inbox-unreadable", AROUND, LOW_SIDE, Over),
    ("ledger-rebuilt", AROUND, LOW_SIDE, Known),
    (
        "ledger-restored",
        BACKUP,
        "a_low_side_on_a_new_disk_takes_from_the_high_side_what_it_lost",
        Known,
    ),
    (
        "loss-declared",
        DAMAGE,
        "records_that_the_disk_changed_are_declared_lost_on_both_sides",
        Known,
    ),
    (
        "quarantined",
        DISORDER,
        "bundles_of_a_stranger_are_taken_out_of_quarantine_once_he_is_paired",
        Known,
    ),
    ("receipt-not-written", AROUND, LOW_SIDE, Over),
    ("receiver-trouble", AROUND, LOW_SIDE, Over),
    (
        "receiver-wrong",
        "../low-side/src/agent/watch_receivers.rs",
        "what_was_thrown_away_is_told_each_time",
        Raised(
            "a link makes none of itself; that the next pass brings it is tested with the diode",
        ),
    ),
    (
        "record-chain-broken",
        "../low-side/src/ledger/tests.rs",
        "what_a_bundle_says_or_shows_of_its_records_is_told",
        Raised("the advice is to look for who changed the high side's buffer"),
    ),
    ("rollback", "tests/e2e/disorder.rs", "an_older_epoch_is_a_rollback", Known),
    ("silence", AROUND, LOW_SIDE, Over),
    (
        "sink-file-changed",
        DISORDER,
        "a_sinks_file_that_somebody_changed_is_set_aside_and_another_one_goes_on",
        Known,
    ),
    (
        "sink-lag",
        "tests/sinks/http.rs",
        "a_sink_that_fails_for_too_long_is_an_alarm_until_it_has_what_waited",
        Over,
    ),
    (
        "sink-not-confirming",
        DISORDER,
        "a_receiver_that_never_closes_is_believed_once_the_configuration_says_so",
        Over,
    ),
    (
        "sink-rejects",
        "tests/sinks/http.rs",
        "a_record_that_is_refused_for_good_stops_nothing_and_comes_after_the_fix",
        Known,
    ),
    (
        "store-damaged",
        FOLDER,
        "a_bundle_that_is_damaged_or_whose_name_is_taken_waits_until_that_is_mended",
        Over,
    ),
    (
        "store-journal-damaged",
        "../low-side/src/agent/recover.rs",
        "a_rebuilt_ledger_knows_what_had_left_the_store",
        Raised("bundles are brought from an archive in the archive's own tests"),
    ),
    ("store-not-admitted", AROUND, LOW_SIDE, Over),
    ("store-over", RETENTION, "the_oldest_leave_first_until_the_store_is_small_enough", Over),
    (
        "store-unreadable",
        "../low-side/src/replay/tests.rs",
        "a_disk_that_does_not_give_a_bundle_is_no_damage",
        Over,
    ),
];

/// Each kind of the high side, where none is over by itself.
const HIGH: &[Row] = &[
    (
        "block-damaged",
        DAMAGE,
        "records_that_the_disk_changed_are_declared_lost_on_both_sides",
        Known,
    ),
    ("buffer-restored", BACKUP, "high_side_lost", Known),
    (
        "buffer-set-aside",
        DAMAGE,
        "a_broken_buffer_is_set_aside_and_what_it_held_is_taken_in",
        Known,
    ),
    (
        "custody-changed",
        DAMAGE,
        "a_custody_log_that_was_cut_off_and_one_that_can_not_be_signed_are_told",
        Known,
    ),
    (
        "custody-not-signed",
        DAMAGE,
        "a_custody_log_that_was_cut_off_and_one_that_can_not_be_signed_are_told",
        Known,
    ),
    (
        "custody-not-written",
        CUSTODY,
        "a_custody_log_that_can_not_be_written_holds_nothing_up",
        Known,
    ),
    ("epoch-began", DAMAGE, "a_broken_buffer_is_set_aside_and_what_it_held_is_taken_in", Known),
    (
        "file-unread",
        "tests/e2e/files.rs",
        "what_is_truncated_before_it_was_read_is_told_and_a_rotation_by_renaming_loses_nothing",
        Known,
    ),
    ("hand-over-overdue", AROUND, HIGH_SIDE, Known),
    ("outbox-damaged", AROUND, HIGH_SIDE, Known),
    ("reconcile-overdue", RECONCILE, "a_portainer_that_is_silent_for_long_is_an_alarm", Known),
    (
        "receipt-fork",
        CUSTODY,
        "a_resend_request_is_taken_unsigned_when_told_and_a_fork_in_a_receipt_is_an_alarm",
        Known,
    ),
    ("records-recovered", RECONCILE, "what_udp_lost_is_recovered_once_and_marked", Known),
    (
        "release-overdue",
        RELEASE,
        "what_waits_too_long_raises_one_alarm_and_too_few_officers_keep_it_in_the_buffer",
        Known,
    ),
    (
        "release-refused",
        RELEASE,
        "officers_who_work_elsewhere_exchange_files_and_may_refuse",
        Known,
    ),
    (
        "release-stranded",
        RELEASE,
        "what_waited_for_officers_when_the_buffer_was_lost_can_not_be_released_and_is_brought_by_hand",
        Known,
    ),
];

const AROUND: &str = "tests/alarms/around.rs";
const LOW_SIDE: &str = "what_goes_wrong_around_a_low_side_is_told_and_is_over_when_it_was_mended";
const HIGH_SIDE: &str = "what_goes_wrong_around_a_high_side_is_told_and_the_advice_helps";
const BACKUP: &str = "tests/e2e/backup.rs";
const CUSTODY: &str = "tests/custody.rs";
const DAMAGE: &str = "tests/alarms/damage.rs";
const DISORDER: &str = "tests/alarms/disorder.rs";
const FOLDER: &str = "tests/archive/folder.rs";
const RECONCILE: &str = "tests/e2e/reconcile.rs";
const RELEASE: &str = "tests/e2e/release.rs";
const RETENTION: &str = "../low-side/src/retention/tests.rs";
const S3: &str = "tests/archive/s3.rs";

fn read(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    fs::read_to_string(&path).unwrap_or_else(|err| panic!("{}: {err}", path.display()))
}

/// The codes that the handbook's table has a line for, and for which side; of no side said: both.
fn advised() -> BTreeMap<String, BTreeSet<&'static str>> {
    let mut found: BTreeMap<String, BTreeSet<&str>> = BTreeMap::new();
    for row in section().lines().filter(|line| line.starts_with("| `")) {
        let first = row.split(" | ").next().unwrap_or_default();
        let sides: &[&str] = match first.split_once('(').map(|(_, side)| side) {
            Some("high)") => &["high"],
            Some("low)") => &["low"],
            _ => &["high", "low"],
        };
        for code in quoted(first) {
            found.entry(code).or_default().extend(sides);
        }
    }
    found
}

fn section() -> String {
    let handbook = read("../packaging/doc/handbook.md");
    let (_, section) = handbook.split_once("\n## What each alarm means").expect("the section");
    section.split("\n## ").next().unwrap_or_default().to_owned()
}

/// What stands between back-ticks.
fn quoted(text: &str) -> Vec<String> {
    text.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

/// The lines of a function, which ends where a brace stands under its beginning.
fn body(file: &str, function: &str) -> String {
    let text = read(file);
    let begin = format!("fn {function}(");
    let mut lines = text.lines().skip_while(|line| !line.trim_start().starts_with(&begin));
    let first = lines.next().unwrap_or_else(|| panic!("{file} has no {function}"));
    let end = format!("{}}}", &first[..first.len() - first.trim_start().len()]);
    lines.take_while(|line| *line != end).collect::<Vec<_>>().join("\n")
}

#[test]
fn every_alarm_has_its_line_in_the_handbook_and_a_test_that_raises_it() {
    let advised = advised();
    let high = AlarmKind::ALL.map(AlarmKind::as_str);
    for (side, codes, rows) in
        [("high", high.as_slice(), HIGH), ("low", ALARM_CODES.as_slice(), LOW)]
    {
        for code in codes {
            let line = advised.get(*code).is_some_and(|sides| sides.contains(side));
            assert!(line, "the handbook has no line for {code} of the {side} side");
        }
        let listed: Vec<&str> = rows.iter().map(|(code, ..)| *code).collect();
        assert_eq!(listed, codes, "the list of tests that raise the alarms of the {side} side");
        for (code, file, test, end) in rows {
            let body = body(file, test);
            assert!(body.contains(&format!("\"{code}\"")), "{file}: {test} raises no {code}");
            // The words by which tests say that an alarm has ended, or see that it has.
            let ends: &[&str] = match end {
                Over => &["wait_over(", "closed", "!alarms(low)", ", [\"\"; 0]"],
                Known => &["acknowledge"],
                Raised(why) => {
                    assert!(why.split(' ').count() > 3, "{code}: a reason is a sentence");
                    continue;
                }
            };
            assert!(ends.iter().any(|end| body.contains(end)), "{test} leaves {code} where it is");
        }
    }
    for (code, sides) in &advised {
        let known = (sides.contains("high") && high.contains(&code.as_str()))
            || (sides.contains("low") && ALARM_CODES.contains(&code.as_str()));
        assert!(known, "the handbook has a line for {code}, which nothing raises");
    }
}

#[test]
fn the_handbook_names_the_alarms_that_are_over_by_themselves() {
    let section = section();
    let said =
        section.split("\n\n").find_map(|text| text.split_once(OVER)).expect("the sentence").1;
    let said: BTreeSet<String> =
        quoted(said.split_once('.').expect("its end").0).into_iter().collect();
    let over = LOW.iter().filter(|(.., end)| matches!(end, Over));
    let over: BTreeSet<String> = over.map(|(code, ..)| (*code).to_owned()).collect();
    assert_eq!(said, over);
}

/// How the handbook begins that list.
const OVER: &str = "by itself when its cause has ended: ";
