//! Records that are malformed, or are not those of the manifest.

use tests::forge::Layer;

use super::Cases;

const MALFORMED: &str = "records-malformed";
const MISMATCH: &str = "manifest-mismatch";

pub(crate) fn add(cases: &mut Cases) {
    heads(cases);
    sums(cases);
    suppressed(cases);
}

/// The line of number 14 is `s 14 1795468000000000014 other 914 leases`.
fn suppressed(cases: &mut Cases) {
    const LINE: &str = "s 14 1795468000000000014 other 914 leases\n";
    for (name, expect, comment, to) in [
        ("suppressed-rule-upper-case", MALFORMED, "A rule's name has a capital.", "s 14 1795468000000000014 other 914 Leases\n"),
        ("suppressed-rule-missing", MALFORMED, "The rule is missing.", "s 14 1795468000000000014 other 914\n"),
        ("suppressed-extra-word", MALFORMED, "Another word follows the rule.", "s 14 1795468000000000014 other 914 leases x\n"),
        ("suppressed-sequence-zero", MALFORMED, "Numbers begin with 1.", "s 0 1795468000000000014 other 914 leases\n"),
        ("suppressed-with-bytes", MALFORMED, "Bytes follow, as if it had been kept.", "s 14 1795468000000000014 other 2 leases\nhi\n"),
        ("suppressed-other-rule", MISMATCH, "It names a rule that was not counted.", "s 14 1795468000000000014 other 914 lease\n"),
        ("suppressed-other-stream", MISMATCH, "It is of another stream than was counted.", "s 14 1795468000000000014 falco 914 leases\n"),
        ("suppressed-other-length", MISMATCH, "It had another length than was counted.", "s 14 1795468000000000014 other 915 leases\n"),
        ("suppressed-other-number", MISMATCH, "Its number is not the next.", "s 15 1795468000000000014 other 914 leases\n"),
        ("suppressed-too-new", MISMATCH, "It is newer than the newest.", "s 14 1795468000000000019 other 914 leases\n"),
        ("suppressed-turned-record", MISMATCH, "A record stands where one was suppressed.", "r 14 1795468000000000014 other 2 a b\nhi\n"),
        ("suppressed-left-out", MISMATCH, "Its line is missing.", ""),
    ] {
        let recipe = super::valid::suppressed(cases.base()).replace(Layer::Records, LINE, to);
        cases.add(name, expect, "6", comment, recipe);
    }
    for (name, comment, tail) in [
        ("record-tag-before-tls", "The tag comes before the certificate.", "udp 10.0.0.8:514 tag=a tls=b"),
        ("record-tag-empty", "The tag is empty.", "udp 10.0.0.8:514 tag="),
        ("record-recovered-before-tag", "The order of fields is another.", "udp 10.0.0.8:514 recovered tag=a"),
        ("record-recovered-value", "`recovered` has no value.", "udp 10.0.0.8:514 recovered=1"),
        ("record-redacted-before-cut", "The order of fields is another.", "udp 10.0.0.8:514 redacted=a cut=10"),
        ("record-redacted-empty", "The note is empty.", "udp 10.0.0.8:514 redacted="),
        ("record-redacted-twice", "There are two notes.", "udp 10.0.0.8:514 redacted=a redacted=b"),
    ] {
        let mut recipe = cases.base();
        recipe.records[1].tail = tail;
        cases.add(name, MALFORMED, "6", comment, recipe);
    }
}

/// The base's second record is `r 12 1795468000000000012 other 9 udp 10.0.0.8:514`.
fn heads(cases: &mut Cases) {
    const HEAD: &str = "r 12 1795468000000000012 other 9 udp 10.0.0.8:514\n";
    for (name, comment, to) in [
        ("record-other-letter", "The first letter is another.", "s 12 1795468000000000012 other 9 udp 10.0.0.8:514\n"),
        ("record-leading-zero", "A number has a leading zero.", "r 012 1795468000000000012 other 9 udp 10.0.0.8:514\n"),
        ("record-sequence-zero", "Records are numbered from 1.", "r 0 1795468000000000012 other 9 udp 10.0.0.8:514\n"),
        ("record-sequence-too-large", "The number is 2^64.", "r 18446744073709551616 1795468000000000012 other 9 udp 10.0.0.8:514\n"),
        ("record-time-negative", "The time is negative.", "r 12 -1 other 9 udp 10.0.0.8:514\n"),
        ("record-time-too-large", "The time is 2^63.", "r 12 9223372036854775808 other 9 udp 10.0.0.8:514\n"),
        ("record-stream-unknown", "There is no such stream.", "r 12 1795468000000000012 others 9 udp 10.0.0.8:514\n"),
        ("record-length-sign", "The length has a sign.", "r 12 1795468000000000012 other +9 udp 10.0.0.8:514\n"),
        ("record-no-peer", "The peer is missing.", "r 12 1795468000000000012 other 9 udp\n"),
        ("record-trailing-space", "The head line ends with a space.", "r 12 1795468000000000012 other 9 udp 10.0.0.8:514 \n"),
        ("record-two-spaces", "Two spaces follow a word.", "r 12 1795468000000000012 other  9 udp 10.0.0.8:514\n"),
        ("record-carriage-return", "The head line ends with CR LF.", "r 12 1795468000000000012 other 9 udp 10.0.0.8:514\r\n"),
        ("record-extra-word", "The head line has another word.", "r 12 1795468000000000012 other 9 udp 10.0.0.8:514 x=1\n"),
        ("record-token-lower-case", "An escape has lower-case digits.", "r 12 1795468000000000012 other 9 udp%2f 10.0.0.8:514\n"),
        ("record-token-needless-escape", "A letter is escaped that need not be.", "r 12 1795468000000000012 other 9 ud%70 10.0.0.8:514\n"),
        ("record-token-cut-escape", "An escape is not whole.", "r 12 1795468000000000012 other 9 udp%2 10.0.0.8:514\n"),
        ("record-token-not-utf8", "Escapes stand for bytes that are not UTF-8.", "r 12 1795468000000000012 other 9 udp%FF 10.0.0.8:514\n"),
        ("record-token-raw-byte", "A byte that must be escaped is not.", "r 12 1795468000000000012 other 9 ud\u{e9} 10.0.0.8:514\n"),
        ("record-token-control", "A control byte is not escaped.", "r 12 1795468000000000012 other 9 ud\x1b 10.0.0.8:514\n"),
        ("record-cut-to-more", "The record is longer than what it was cut from.", "r 12 1795468000000000012 other 9 udp 10.0.0.8:514 cut=8\n"),
        ("record-cut-to-the-same", "The record was cut to what it was.", "r 12 1795468000000000012 other 9 udp 10.0.0.8:514 cut=9\n"),
        ("record-cut-twice", "There are two cuts.", "r 12 1795468000000000012 other 9 udp 10.0.0.8:514 cut=10 cut=10\n"),
        ("record-cut-before-tls", "The cut comes before the certificate.", "r 12 1795468000000000012 other 9 udp 10.0.0.8:514 cut=10 tls=x\n"),
        ("record-tls-empty", "The certificate's subject is empty.", "r 12 1795468000000000012 other 9 udp 10.0.0.8:514 tls=\n"),
        ("record-length-less", "The length is one less than the bytes.", "r 12 1795468000000000012 other 8 udp 10.0.0.8:514\n"),
        ("record-length-more", "The length is one more than the bytes.", "r 12 1795468000000000012 other 10 udp 10.0.0.8:514\n"),
        ("record-length-to-the-end", "The length reaches behind the last record.", "r 12 1795468000000000012 other 9999 udp 10.0.0.8:514\n"),
        ("record-empty-line", "An empty line stands between two records.", "\nr 12 1795468000000000012 other 9 udp 10.0.0.8:514\n"),
    ] {
        let recipe = cases.base().replace(Layer::Records, HEAD, to);
        cases.add(name, MALFORMED, "6", comment, recipe);
    }
    let recipe = cases.base().replace(Layer::Records, HEAD, "r 12 1795468000000000012 other 16777217 udp 10.0.0.8:514\n");
    cases.add("record-too-long", "limit-exceeded", "6", "A record claims 16 MiB + 1.", recipe);
    let long = format!("r 12 1795468000000000012 other 9 udp {}\n", "a".repeat(8192));
    let recipe = cases.base().replace(Layer::Records, HEAD, long);
    cases.add("record-head-too-long", "limit-exceeded", "6", "A head line has more than 8 KiB.", recipe);
    let recipe = cases.base().edit(Layer::Records, |mut records| {
        records.pop();
        records
    });
    cases.add("record-no-final-line-feed", MALFORMED, "6", "The last record does not end.", recipe);
    let recipe = cases.base().edit(Layer::Records, |records| [records, b"\n".to_vec()].concat());
    cases.add("record-trailing-line-feed", MALFORMED, "6", "A line feed follows the last record.", recipe);
    let recipe = cases.base().replace(Layer::Records, "<13>hello\n", "<13>hello!");
    cases.add("record-not-ended", MALFORMED, "6", "No line feed follows the bytes.", recipe);
}

/// Well-formed records that are not those of the manifest.
fn sums(cases: &mut Cases) {
    let layer = Layer::Records;
    for (name, comment, from, to) in [
        ("records-gap", "A number is passed over.", "r 13 ", "r 14 "),
        ("records-duplicate-number", "A number comes twice.", "r 13 ", "r 12 "),
        ("records-first-other", "The first number is another.", "r 11 ", "r 10 "),
        ("records-stream-other", "A record is of another stream than was counted.", "12 other", "12 falco"),
        ("records-oldest-other", "A record is older than the oldest.", "1795468000000000012", "1795468000000000010"),
        ("records-oldest-missing", "No record is as old as the oldest.", "1795468000000000011", "1795468000000000012"),
        ("records-newest-other", "A record is newer than the newest.", "1795468000000000012", "1795468000000000014"),
        ("records-newest-missing", "No record is as new as the newest.", "1795468000000000013", "1795468000000000012"),
        ("records-bytes-other", "A stream has one byte less than was counted.", "other 9 udp 10.0.0.8:514\n<13>hello", "other 8 udp 10.0.0.8:514\n<13>hell"),
    ] {
        let recipe = cases.base().replace(layer, from, to);
        cases.add(name, MISMATCH, "6", comment, recipe);
    }
    let recipe = cases.base().edit(layer, |records| [records, b"r 14 1795468000000000012 other 0 a b\n\n".to_vec()].concat());
    cases.add("records-one-more", MISMATCH, "6", "There is a record that was not counted.", recipe);
    let recipe = cases.base().edit(layer, |mut records| {
        let last = memchr::memmem::find(&records, b"r 13 ").expect("there is a third record");
        records.truncate(last);
        records
    });
    cases.add("records-one-less", MISMATCH, "6", "The last record is missing.", recipe);
    let recipe = cases.base().edit(layer, |_| Vec::new());
    cases.add("records-none", "manifest-malformed", "6", "All records are missing; the streams have more bytes than the section.", recipe);
    let recipe = cases.base().edit(layer, |records| {
        let second = memchr::memmem::find(&records, b"r 12 ").expect("there is a second record");
        let third = memchr::memmem::find(&records, b"r 13 ").expect("there is a third record");
        [&records[..second], &records[third..], &records[second..third]].concat()
    });
    cases.add("records-swapped", MISMATCH, "6", "Two records are swapped.", recipe);
    let recipe = cases.base().edit(layer, |records| [records.clone(), records].concat());
    cases.add("records-twice", MISMATCH, "6", "All records come twice.", recipe);

    let mut recipe = cases.base();
    // 12 is declared as lost, and is there; 14 is missing without a word.
    recipe.span = 4;
    recipe.losses = vec!["buffer-damaged - 1 1 1 12 12".to_owned()];
    cases.add("records-lost-and-there", MISMATCH, "6", "A record is there that was declared as lost.", recipe);
    let mut recipe = cases.base();
    recipe.span = 4;
    recipe.losses = vec!["buffer-damaged - 1 1 1 13 13".to_owned()];
    cases.add("records-lost-elsewhere", MISMATCH, "6", "The declared loss is not where the hole is.", recipe);
}
