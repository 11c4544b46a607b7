//! Plaintext headers that are not canonical, each well signed.

use tests::forge::Layer;

use super::Cases;
use super::valid::with_recipients;

const CODE: &str = "header-malformed";

pub(crate) fn add(cases: &mut Cases) {
    replaced(cases);
    let layer = Layer::Header;

    let recipe = cases.base().edit(layer, |mut header| {
        header.pop();
        header
    });
    cases.add("header-no-final-line-feed", CODE, "3", "The last line does not end.", recipe);
    let recipe = cases.base().edit(layer, |header| [header, b"\n".to_vec()].concat());
    cases.add("header-empty-line", CODE, "3", "An empty line follows.", recipe);
    let recipe = cases.base().edit(layer, |header| [b"\xEF\xBB\xBF".to_vec(), header].concat());
    cases.add("header-byte-order-mark", CODE, "3", "A byte order mark comes first.", recipe);
    let recipe = cases.base().edit(layer, |header| {
        let text = String::from_utf8_lossy(&header).replace('\n', "\r\n");
        text.into_bytes()
    });
    cases.add("header-crlf", CODE, "3", "Lines end with CR LF.", recipe);
    let recipe = cases.base().edit(layer, |header| swap_lines(&header, 1, 2));
    cases.add("header-lines-swapped", CODE, "3", "Epoch comes before origin.", recipe);

    let mut recipe = cases.base();
    recipe.recipients.push(cases.keys.recipient("escrow"));
    let recipe = recipe.edit(layer, |header| {
        let last = header.split(|byte| *byte == b'\n').count() - 2;
        swap_lines(&header, last - 1, last)
    });
    cases.add("header-recipients-unsorted", CODE, "3", "The recipients are not in order.", recipe);
    let recipe = cases.base().edit(layer, |header| {
        let line = memchr::memmem::find(&header, b"recipient ").expect("there is a recipient");
        [&header[..], &header[line..]].concat()
    });
    cases.add("header-recipient-twice", CODE, "3", "The recipient is named twice.", recipe);
    let recipe = cases.base().edit(layer, |mut header| {
        let line = memchr::memmem::find(&header, b"recipient ").expect("there is a recipient");
        header.truncate(line);
        header
    });
    cases.add("header-no-recipient", CODE, "3", "No recipient is named.", recipe);
    let recipe = with_recipients(cases.base(), 16);
    cases.add("header-sixteen-recipients", CODE, "3", "One recipient too many.", recipe);

    for (name, comment, length) in [
        ("header-payload-bytes-more", "The payload is one byte shorter than the header says.", 1_i64),
        ("header-payload-bytes-less", "The payload is one byte longer than the header says.", -1),
    ] {
        let recipe = cases.base().edit(layer, move |header| {
            edit_line(&header, "payload-bytes", |digits| {
                let bytes: i64 = digits.parse().expect("the length is a number");
                format!("{:020}", bytes + length)
            })
        });
        cases.add(name, CODE, "3", comment, recipe);
    }
    let recipe = cases.base().edit(layer, |header| edit_line(&header, "payload-bytes", |digits| digits.trim_start_matches('0').to_owned()));
    cases.add("header-payload-bytes-short", CODE, "3", "The length has no leading zeros.", recipe);
    let recipe = cases.base().edit(layer, |header| edit_line(&header, "payload-bytes", |digits| format!("+{}", &digits[1..])));
    cases.add("header-payload-bytes-sign", CODE, "3", "The length has a sign.", recipe);
    for (name, comment, field) in [
        ("header-previous-upper-case", "A digest has upper-case digits.", "previous"),
        ("header-payload-sha256-upper-case", "A digest has upper-case digits.", "payload-sha256"),
    ] {
        let recipe = cases.base().edit(layer, move |header| edit_line(&header, field, str::to_uppercase));
        cases.add(name, CODE, "3", comment, recipe);
    }
    for (name, comment, field) in
        [("header-previous-short", "A digest has 63 digits.", "previous"), ("header-recipient-short", "A recipient has 15 digits.", "recipient")]
    {
        let recipe = cases.base().edit(layer, move |header| edit_line(&header, field, |value| value[..value.len() - 1].to_owned()));
        cases.add(name, CODE, "3", comment, recipe);
    }
    let recipe = cases.base().edit(layer, |header| edit_line(&header, "recipient", |value| value.replace("x25519", "ssh-rsa")));
    cases.add("header-recipient-kind", CODE, "3", "A recipient is of an unknown kind.", recipe);
    let recipe = cases.base().edit(layer, |header| edit_line(&header, "recipient", |_| "x25519:00112233445566fF".to_owned()));
    cases.add("header-recipient-upper-case", CODE, "3", "A recipient has an upper-case digit.", recipe);

    let recipe = cases.base().edit(layer, |header| edit_line(&header, "payload-sha256", |_| "0".repeat(64)));
    cases.add("payload-sha256-other", "payload-digest-mismatch", "3", "The signed header gives another digest.", recipe);
    let mut recipe = cases.base();
    recipe.members = Some(|m| *m[2].content.last_mut().expect("a payload has bytes") ^= 1);
    cases.add("payload-changed", "payload-digest-mismatch", "3", "One bit of the payload was changed after signing.", recipe);
}

/// One piece of text in place of another.
fn replaced(cases: &mut Cases) {
    for (name, expect, comment, from, to) in [
        ("version-2", "version-unknown", "A later version.", "penstock-bundle 1", "penstock-bundle 2"),
        ("version-0", "version-unknown", "No version.", "penstock-bundle 1", "penstock-bundle 0"),
        (
            "version-2-with-other-lines",
            "version-unknown",
            "A later version is refused before its lines are looked at.",
            "penstock-bundle 1\norigin",
            "penstock-bundle 2\nfrom",
        ),
        ("version-leading-zero", CODE, "The version has a leading zero.", "penstock-bundle 1", "penstock-bundle 01"),
        ("version-too-large", CODE, "The version is 2^64.", "penstock-bundle 1", "penstock-bundle 18446744073709551616"),
        ("version-missing", CODE, "There is no version.", "penstock-bundle 1\n", ""),
        ("header-other-text", CODE, "The first word is another.", "penstock-bundle", "penstock-bundles"),
        ("header-origin-upper-case", CODE, "The origin has an upper-case letter.", "plant-7", "Plant-7"),
        ("header-origin-hyphen", CODE, "The origin begins with a hyphen.", "plant-7", "-plant7"),
        ("header-origin-too-long", CODE, "The origin has 33 characters.", "plant-7", "plant-7-plant-7-plant-7-plant-7-p"),
        ("header-origin-empty", CODE, "The origin is empty.", "plant-7", ""),
        ("header-origin-path", CODE, "The origin is a path.", "plant-7", "../plant"),
        ("header-epoch-leading-zero", CODE, "A number has a leading zero.", "epoch 1", "epoch 01"),
        ("header-epoch-sign", CODE, "A number has a sign.", "epoch 1", "epoch +1"),
        ("header-epoch-too-large", CODE, "A number is 2^64 or more.", "epoch 1", "epoch 99999999991"),
        ("header-lane-unknown", CODE, "There is no such lane.", "lane routine", "lane express"),
        ("header-number-zero", CODE, "Bundles are numbered from 1.", "number 2", "number 0"),
        ("header-number-1-with-previous", CODE, "Number 1 names a predecessor.", "number 2", "number 1"),
        ("header-line-unknown", CODE, "There is another line.", "signer ", "comment x\nsigner "),
        ("header-line-last", CODE, "Another line comes last.", "recipient ", "recipient x25519:0000000000000000\nnote x25519:"),
        ("header-line-twice", CODE, "A line comes twice.", "lane routine\n", "lane routine\nlane routine\n"),
        ("header-line-missing", CODE, "A line is missing.", "lane routine\n", ""),
        ("header-trailing-space", CODE, "A line ends with a space.", "lane routine", "lane routine "),
        ("header-two-spaces", CODE, "Two spaces follow a word.", "lane routine", "lane  routine"),
        ("header-tab", CODE, "A tab follows a word.", "lane routine", "lane\troutine"),
        ("header-carriage-return", CODE, "A line ends with CR LF.", "lane routine\n", "lane routine\r\n"),
        ("header-nul", CODE, "There is a NUL.", "lane routine", "lane routine\0"),
        ("header-signer-space", CODE, "The signer holds a space.", "signer SHA256:", "signer SHA256: "),
        ("header-signer-empty", CODE, "The signer's line is empty.", "signer SHA256:", "signer \nsigner SHA256:"),
    ] {
        let recipe = cases.base().replace(Layer::Header, from, to);
        cases.add(name, expect, "3", comment, recipe);
    }
    let recipe = cases.base().replace(Layer::Header, "lane routine", b"lane \xFFoutine");
    cases.add("header-not-utf8", CODE, "3", "A byte is not UTF-8.", recipe);
    let mut recipe = cases.base();
    recipe.previous = "0".repeat(64);
    cases.add("header-number-2-without-previous", CODE, "3", "Number 2 names no predecessor.", recipe);
}

fn swap_lines(header: &[u8], one: usize, other: usize) -> Vec<u8> {
    let mut lines: Vec<&[u8]> = header.split(|byte| *byte == b'\n').collect();
    lines.swap(one, other);
    lines.join(&b'\n')
}

fn edit_line(header: &[u8], field: &str, edit: impl Fn(&str) -> String) -> Vec<u8> {
    let text = String::from_utf8_lossy(header);
    let mut out = String::new();
    for line in text.lines() {
        match line.split_once(' ') {
            Some((name, value)) if name == field => out.push_str(&format!("{name} {}\n", edit(value))),
            _ => out.push_str(&format!("{line}\n")),
        }
    }
    out.into_bytes()
}
