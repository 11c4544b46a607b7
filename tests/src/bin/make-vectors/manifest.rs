//! Manifests that are malformed, or do not fit the header.

use tests::forge::Layer;

use super::Cases;

const MALFORMED: &str = "manifest-malformed";
const MISMATCH: &str = "manifest-mismatch";

pub(crate) fn add(cases: &mut Cases) {
    let layer = Layer::Manifest;
    for (name, comment, from, to) in [
        ("manifest-other-origin", "The origin is not the header's.", "origin plant-7", "origin plant-8"),
        ("manifest-other-epoch", "The epoch is not the header's.", "epoch 1795468219", "epoch 1795468218"),
        ("manifest-other-lane", "The lane is not the header's.", "lane routine", "lane flash"),
        ("manifest-other-number", "The number is not the header's.", "number 2", "number 3"),
        (
            "manifest-other-previous",
            "The predecessor is not the header's.",
            "previous ",
            "previous 0000000000000000000000000000000000000000000000000000000000000000\nprevious ",
        ),
    ] {
        let recipe = cases.base().replace(layer, from, to);
        let recipe = if name.ends_with("previous") {
            // Keeps the first of the two lines.
            recipe.edit(layer, |text| {
                let text = String::from_utf8_lossy(&text).into_owned();
                let (before, after) = text.rsplit_once("\nprevious ").expect("there are two");
                let (_, rest) = after.split_once('\n').expect("the line ends");
                format!("{before}\n{rest}").into_bytes()
            })
        } else {
            recipe
        };
        cases.add(name, MISMATCH, "5", comment, recipe);
    }
    replaced(cases);
    losses(cases);
    suppressed(cases);

    let recipe = cases.base().edit(layer, |text| String::from_utf8_lossy(&text).replace('\n', "\r\n").into_bytes());
    cases.add("manifest-crlf", MALFORMED, "5", "Lines end with CR LF.", recipe);
    let recipe = cases.base().edit(layer, |text| [b"\xEF\xBB\xBF".to_vec(), text].concat());
    cases.add("manifest-byte-order-mark", MALFORMED, "5", "A byte order mark comes first.", recipe);
    let recipe = cases.base().replace(layer, "penstock-forge", b"penstock\xFF");
    cases.add("manifest-not-utf8", MALFORMED, "5", "A byte is not UTF-8.", recipe);
    let recipe = cases.base().edit(layer, |mut text| {
        text.pop();
        text
    });
    // The records hold no empty line that could be taken for the manifest's end.
    cases.add("manifest-without-end", MALFORMED, "5", "No empty line ends the manifest.", recipe);
    let recipe = cases.base().edit(layer, |_| b"\n\n".to_vec());
    cases.add("manifest-empty", MALFORMED, "5", "The manifest is empty.", recipe);
    let recipe = cases.base().edit(Layer::Plain, |_| b"penstock-manifest 1\n".to_vec());
    cases.add("manifest-only-a-line", MALFORMED, "5", "The plaintext ends in the manifest.", recipe);

    let mut recipe = cases.base();
    recipe.losses = vec!["udp-receive-queue udp 12 1 2".to_owned(); 37_000];
    cases.add("manifest-longer-than-1-mib", "limit-exceeded", "5", "A well-formed manifest of a little more than 1 MiB.", recipe);

    for (name, comment, more) in
        [("manifest-records-bytes-more", "One byte of records is missing.", 1_i64), ("manifest-records-bytes-less", "There is one byte of records too many.", -1)]
    {
        let bytes = cases.base().records_section().len() as i64;
        let recipe = cases.base().replace(layer, format!("records-bytes {bytes}"), format!("records-bytes {}", bytes + more));
        cases.add(name, MISMATCH, "5", comment, recipe);
    }
}

/// One piece of text in place of another. The base has three records: 11 to 13, of two streams.
fn replaced(cases: &mut Cases) {
    for (name, comment, from, to) in [
        ("manifest-version-2", "A later version.", "penstock-manifest 1", "penstock-manifest 2"),
        ("manifest-key-unknown", "There is another line.", "reason age", "reason age\ncomment x"),
        ("manifest-key-last", "Another line comes last.", "\n\n", "\nnote x\n\n"),
        ("manifest-key-twice", "A line comes twice.", "reason age", "reason age\nreason age"),
        ("manifest-key-missing", "A line is missing.", "reason age\n", ""),
        ("manifest-lines-swapped", "Two lines are swapped.", "records 3\nfirst-sequence 11", "first-sequence 11\nrecords 3"),
        ("manifest-trailing-space", "A line ends with a space.", "reason age", "reason age "),
        ("manifest-reason-unknown", "There is no such reason.", "reason age", "reason boredom"),
        ("manifest-reason-upper-case", "The reason has an upper-case letter.", "reason age", "reason Age"),
        ("manifest-agent-empty", "The agent is empty.", "penstock-forge/1", ""),
        ("manifest-agent-space", "The agent holds a space.", "penstock-forge/1", "penstock forge"),
        ("manifest-agent-escape", "The agent holds an escape sequence.", "penstock-forge/1", "\x1b[31mpenstock"),
        ("manifest-agent-not-ascii", "The agent holds a letter that is not ASCII.", "penstock-forge/1", "p\u{e9}nstock"),
        ("manifest-agent-too-long", "The agent has 65 characters.", "penstock-forge/1", "12345678901234567890123456789012345678901234567890123456789012345"),
        ("manifest-sealed-at-negative", "A time is negative.", "sealed-at 1", "sealed-at -1"),
        ("manifest-sealed-at-too-large", "A time is 2^63.", "sealed-at 1795468300000000000", "sealed-at 9223372036854775808"),
        ("manifest-sealed-at-none", "Only the times of reception can be absent.", "sealed-at 1795468300000000000", "sealed-at -"),
        ("manifest-records-leading-zero", "A number has a leading zero.", "records 3", "records 03"),
        ("manifest-records-sign", "A number has a sign.", "records 3", "records +3"),
        ("manifest-records-more", "The count does not fit the numbers.", "records 3", "records 4"),
        ("manifest-first-zero", "Records are numbered from 1.", "first-sequence 11\nlast-sequence 13", "first-sequence 0\nlast-sequence 2"),
        ("manifest-first-other", "The numbers do not fit the count.", "first-sequence 11", "first-sequence 10"),
        ("manifest-last-before-first", "The last number is before the first.", "last-sequence 13", "last-sequence 9"),
        ("manifest-last-greatest", "The last number is 2^64 - 1.", "last-sequence 13", "last-sequence 18446744073709551615"),
        ("manifest-no-oldest", "There are records, and no oldest.", "oldest-received 1795468000000000011", "oldest-received -"),
        ("manifest-no-newest", "There are records, and no newest.", "newest-received 1795468000000000013", "newest-received -"),
        ("manifest-oldest-after-newest", "The oldest record is newer than the newest.", "oldest-received 1795468000000000011", "oldest-received 1795468000000000014"),
        ("manifest-chain-long", "A digest has 65 digits.", "chain-head ", "chain-head 0"),
        ("manifest-stream-unknown", "There is no such stream.", "stream other 2", "stream others 2"),
        ("manifest-stream-twice", "A stream comes twice.", "stream other 2 ", "stream other 1 1\nstream other 1 "),
        ("manifest-stream-zero", "A stream without records.", "stream other 2 ", "stream falco 0 0\nstream other 2 "),
        ("manifest-stream-order", "The streams are not in order.", "stream other 2 ", "stream portainer-auth 1 1\nstream other 2 "),
        ("manifest-stream-sum", "The streams do not add up.", "stream other 2 ", "stream other 1 "),
        ("manifest-stream-bytes", "The streams have more bytes than the records.", "stream other 2 ", "stream other 2 9"),
        ("manifest-stream-bytes-overflow", "The streams' bytes add up to more than 2^64.", "stream other 2 ", "stream other 2 18446744073709551615\nstream x "),
        ("manifest-stream-extra-word", "A stream's line has another word.", "stream other 2 ", "stream other 2 1 "),
    ] {
        let recipe = cases.base().replace(Layer::Manifest, from, to);
        cases.add(name, MALFORMED, "5", comment, recipe);
    }
    let mut recipe = cases.base();
    (recipe.records, recipe.span) = (Vec::new(), 0);
    let recipe = recipe.replace(Layer::Manifest, "oldest-received -\nnewest-received -", "oldest-received 1\nnewest-received 1");
    cases.add("manifest-times-of-nothing", MALFORMED, "5", "There are times and no records.", recipe);
    let mut recipe = cases.base();
    (recipe.records, recipe.span) = (Vec::new(), 0);
    let recipe = recipe.edit(Layer::Records, |_| b"x\n".to_vec());
    cases.add("manifest-bytes-of-nothing", MALFORMED, "5", "There are bytes and no records.", recipe);
}

/// Losses that do not fit: the base's three records, and room for losses before them.
fn losses(cases: &mut Cases) {
    for (name, comment, losses) in [
        ("loss-reason-unknown", "There is no such reason.", &["sloth udp 1 1 2"][..]),
        ("loss-of-nothing", "Nothing was lost.", &["udp-receive-queue udp 0 1 2"]),
        ("loss-times-reversed", "It ends before it begins.", &["udp-receive-queue udp 1 2 1"]),
        ("loss-words-missing", "Words are missing.", &["udp-receive-queue udp 1 1"]),
        ("loss-words-too-many", "There is one word too many.", &["udp-receive-queue udp 1 1 2 3"]),
        ("loss-listener-odd", "The listener holds an escape sequence.", &["udp-receive-queue \x1b[31m 1 1 2"]),
        ("loss-listener-empty", "The listener is empty.", &["udp-receive-queue  1 1 2"]),
        ("loss-count-leading-zero", "The count has a leading zero.", &["udp-receive-queue udp 01 1 2"]),
        ("loss-before-the-range", "The lost numbers lie before the first.", &["buffer-damaged - 2 1 1 7 8"]),
        ("loss-behind-the-range", "The lost numbers lie behind the last.", &["buffer-damaged - 2 1 1 14 15"]),
        ("loss-count-other", "The count does not fit the numbers.", &["buffer-damaged - 1 1 1 9 10"]),
        ("loss-numbers-reversed", "The lost numbers end before they begin.", &["buffer-damaged - 2 1 1 10 9"]),
        ("loss-overlap", "Two losses overlap.", &["buffer-damaged - 1 1 1 9 9", "buffer-damaged - 1 1 1 9 9"]),
        ("loss-order", "Two losses are not in order.", &["buffer-damaged - 1 1 1 10 10", "buffer-damaged - 1 1 1 9 9"]),
        ("loss-not-subtracted", "Lost numbers are counted twice, as lost and as records.", &["buffer-damaged - 1 1 1 11 11"]),
        ("loss-greatest", "The lost numbers end at 2^64 - 1.", &["buffer-damaged - 18446744073709551615 1 1 1 18446744073709551615"]),
    ] {
        let mut recipe = cases.base();
        // Numbers 9 and 10 are missing, and declared as the case says.
        if losses.iter().any(|loss| loss.contains(" 9") || loss.contains(" 10")) {
            (recipe.first, recipe.span) = (9, 5);
        }
        recipe.losses = losses.iter().map(ToString::to_string).collect();
        cases.add(name, MALFORMED, "5", comment, recipe);
    }
    let mut recipe = cases.base();
    recipe.losses = vec!["udp-receive-queue udp 1 1 2".to_owned()];
    let recipe = recipe.edit(Layer::Manifest, |text| {
        let text = String::from_utf8_lossy(&text).into_owned();
        let (before, loss) = text.split_once("loss ").expect("there is a loss");
        let at = before.find("stream ").expect("there is a stream");
        format!("{}loss {}{}\n", &before[..at], loss.trim_end_matches('\n').to_owned() + "\n", &before[at..]).into_bytes()
    });
    cases.add("loss-before-the-streams", MALFORMED, "5", "The losses come before the streams.", recipe);
}

/// The manifest says: health-checks kube-audit 1, leases kube-audit 2, leases other 1.
fn suppressed(cases: &mut Cases) {
    const FIRST: &str = "suppressed health-checks kube-audit 1 912\n";
    const LAST: &str = "suppressed leases other 1 914\n";
    for (name, comment, from, to) in [
        ("suppressed-order", "The rules are not in order.", FIRST, "suppressed z kube-audit 1 912\n"),
        ("suppressed-twice", "A rule and stream are counted in two lines.", LAST, "suppressed leases kube-audit 1 914\n"),
        ("suppressed-none", "A count is zero.", FIRST, "suppressed a other 0 0\nsuppressed health-checks kube-audit 1 912\n"),
        ("suppressed-too-many", "More are counted than there are numbers.", LAST, "suppressed leases other 2 914\n"),
        ("suppressed-too-few", "Fewer are counted than there are numbers.", LAST, ""),
        ("suppressed-overflow", "The counts add up to more than 2^64.", LAST, "suppressed leases other 18446744073709551615 914\n"),
        ("suppressed-stream-unknown", "There is no such stream.", LAST, "suppressed leases others 1 914\n"),
        ("suppressed-name-malformed", "A rule's name begins with a hyphen.", FIRST, "suppressed -a kube-audit 1 912\n"),
        ("suppressed-leading-zero", "A number has a leading zero.", LAST, "suppressed leases other 01 914\n"),
        ("suppressed-behind-losses", "The suppressed come after the losses.", "suppressed health-checks kube-audit 1 912\n", "loss udp-receive-queue udp 1 1 2\nsuppressed health-checks kube-audit 1 912\n"),
    ] {
        let recipe = super::valid::suppressed(cases.base()).replace(Layer::Manifest, from, to);
        cases.add(name, MALFORMED, "5", comment, recipe);
    }
    let other = super::valid::suppressed(cases.base()).replace(Layer::Manifest, LAST, "suppressed leases portainer-auth 1 914\n");
    cases.add("suppressed-counted-elsewhere", MISMATCH, "6", "A suppressed record is counted under another stream.", other);
}
