//! Whatever the bytes: no panic, JSON stays JSON, twice is once, and growth is bounded.

use proptest::prelude::*;

use super::*;

/// A piece of what records are made of.
fn piece() -> impl Strategy<Value = String> {
    prop_oneof![
        prop::sample::select(vec![
            "password",
            "token",
            "api_key",
            "Authorization",
            "Bearer ",
            "secret",
            "name",
            "value",
            "data",
            "kind",
            "Secret",
            "=",
            ":",
            ": ",
            "\"",
            "'",
            "\\",
            "\\\"",
            "\n",
            "\n  ",
            "- ",
            " ",
            "&",
            ",",
            ";",
            "|",
            "{",
            "}",
            "[",
            "]",
            "<",
            ">",
            "</",
            "://",
            "@",
            "%3D",
            "%22",
            "--",
            " -p",
            "mysql",
            "curl -u ",
            "eyJ",
            "eyJhbGciOiJIUzI1NiJ9.e30.x",
            "ghp_0123456789ABCDEF",
            "-----BEGIN RSA PRIVATE KEY-----",
            "-----END",
            "\\u0070",
            "\\n",
            "[redacted:tokens]",
            "[REDACTED]",
            "[redacted:",
            "eyJwYXNzd29yZCI6IngifQ==",
            "payload",
            "stringData:\n  a: b",
            "command=",
            "$6$",
            "é",
            "\0",
        ])
        .prop_map(str::to_owned),
        "[a-z0-9]{1,6}",
    ]
}

fn text() -> impl Strategy<Value = String> {
    proptest::collection::vec(piece(), 0..24).prop_map(|pieces| pieces.concat())
}

fn json() -> impl Strategy<Value = serde_json::Value> {
    let leaf = prop_oneof![
        text().prop_map(serde_json::Value::from),
        any::<i32>().prop_map(serde_json::Value::from),
        any::<bool>().prop_map(serde_json::Value::from),
        Just(serde_json::Value::Null)
    ];
    leaf.prop_recursive(4, 32, 5, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..5).prop_map(serde_json::Value::from),
            proptest::collection::btree_map(piece(), inner.clone(), 0..5)
                .prop_map(|map| serde_json::Value::Object(map.into_iter().collect())),
            inner.prop_map(|one| serde_json::Value::from(one.to_string())),
        ]
    })
}

/// All three actions.
fn rule_sets() -> Vec<Redactor> {
    ["mask", "drop", "hmac"]
        .map(|action| {
            let rules = default_rules()
                .into_iter()
                .map(|raw| RawRedactionRule { action: Some(action.to_owned()), ..raw });
            let rules = rules.map(|raw| raw.check().unwrap()).collect();
            Redactor::new(rules, HmacKey::new(&[7; 32])).unwrap()
        })
        .into()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn json_stays_json_and_twice_is_once(json in json()) {
        let raw = serde_json::to_vec(&json).unwrap();
        for redactor in rule_sets() {
            let once = run(&redactor, &raw, Stream::PortainerActivity);
            let parsed = serde_json::from_slice::<serde_json::Value>(&once.bytes);
            prop_assert!(parsed.is_ok(), "{} -> {}", show(&raw), show(&once.bytes));
            prop_assert!(once.bytes.len() <= growth_bound(raw.len()));
        }
        let redactor = defaults();
        let once = run(&redactor, &raw, Stream::PortainerActivity);
        let twice = run(&redactor, &once.bytes, Stream::PortainerActivity);
        prop_assert_eq!(show(&once.bytes), show(&twice.bytes), "{}", show(&raw));
    }

    #[test]
    fn text_twice_is_once(text in text()) {
        let redactor = defaults();
        let once = run(&redactor, text.as_bytes(), Stream::Other);
        let twice = run(&redactor, &once.bytes, Stream::Other);
        prop_assert_eq!(show(&once.bytes), show(&twice.bytes), "{}", text);
        prop_assert!(once.bytes.len() <= growth_bound(text.len()));
    }

    #[test]
    fn no_bytes_panic(mut bytes in proptest::collection::vec(any::<u8>(), 0..64), text in text(), at in any::<prop::sample::Index>()) {
        let at = at.index(bytes.len() + 1);
        bytes.splice(at..at, text.into_bytes());
        for redactor in rule_sets() {
            run(&redactor, &bytes, Stream::Other);
        }
    }
}

/// Each mark takes the place of at least one byte behind a name or an anchor of two bytes or more.
fn growth_bound(length: usize) -> usize {
    length * 24 + 64
}

/// What costs the square of its length would let whoever sends records stop the sealer.
#[test]
fn hostile_records_cost_what_their_length_allows() {
    let redactor = defaults();
    for unit in [
        "command=",
        "vault put ",
        "://",
        "://a:",
        "password ",
        "password=",
        "password= ",
        "passpass",
        "{\"",
        "[{",
        "\\",
        "\\\"",
        "%25",
        "eyJ",
        "eyJ.",
        "--BEGIN ",
        "-----BEGIN PRIVATE KEY",
        "name: password\n",
        "password:\n ",
        "kind: Secret\n",
        "data:\n",
        "<password",
        "<password>",
        "'",
        "\" ",
        "ghp_",
        "docker ",
        "$6$",
        "- - ",
        "secret: |\n  ",
    ] {
        for head in ["", "password=x", "{\"a\":\""] {
            let raw = head.to_owned() + &unit.repeat(HOSTILE_BYTES / unit.len());
            let begun = std::time::Instant::now();
            run(&redactor, raw.as_bytes(), Stream::Other);
            eprintln!("{:?} for {head:?} {unit:?}", begun.elapsed());
            assert!(begun.elapsed() < HOSTILE_TIME_MAX, "{head:?} {unit:?}");
        }
    }
    for member in
        ["\"value\":1,", "\"password\":\"x\",", "\"data\":\"x\",", "\"a\":[\"--token\",\"x\"],"]
    {
        let raw = format!(
            "{{\"kind\":\"Secret\",{}\"z\":1}}",
            member.repeat(HOSTILE_BYTES / member.len())
        );
        for redactor in rule_sets() {
            let begun = std::time::Instant::now();
            run(&redactor, raw.as_bytes(), Stream::Other);
            eprintln!("{:?} for {member}", begun.elapsed());
            assert!(begun.elapsed() < HOSTILE_TIME_MAX, "{member}");
        }
    }
}

/// A mebibyte without a line end, and far more siblings than a note counts.
#[test]
fn long_lines_and_long_arrays_cost_what_their_length_allows() {
    let redactor = defaults();
    let units = ["password=x ", "password: x ", "password=x,", "password=x)", "password=x;a "];
    for unit in units.into_iter().chain(["curlcurl", "{\"password\":\"x\"},"]) {
        for head in ["", "{\"a\":\""] {
            let raw = head.to_owned() + &unit.repeat((1 << 20) / unit.len());
            let begun = std::time::Instant::now();
            run(&redactor, raw.as_bytes(), Stream::Other);
            eprintln!("{:?} for {head:?} {unit:?}", begun.elapsed());
            assert!(begun.elapsed() < HOSTILE_TIME_MAX, "{head:?} {unit:?}");
        }
    }
    let items = vec![r#"{"password":"x"}"#; 16_000].join(",");
    for raw in [format!("[{items}]"), format!("{{\"items\":[{items}]}}")] {
        let begun = std::time::Instant::now();
        let out = run(&redactor, raw.as_bytes(), Stream::Other);
        eprintln!("{:?} for an array", begun.elapsed());
        assert!(begun.elapsed() < HOSTILE_TIME_MAX);
        assert_eq!(out.note.unwrap().count, 16_000);
    }
}

const HOSTILE_BYTES: usize = 64 * 1024;

/// Far more than a busy machine needs without optimisation, far less than the square of the length.
const HOSTILE_TIME_MAX: std::time::Duration = std::time::Duration::from_secs(20);
