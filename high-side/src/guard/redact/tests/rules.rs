//! Rules as operators write them.

use super::*;

fn rules(toml: &str) -> Result<Redactor, Vec<String>> {
    #[derive(serde::Deserialize)]
    struct File {
        redact: Vec<RawRedactionRule>,
    }
    let file: File = toml::from_str(toml).map_err(|err| vec![err.to_string()])?;
    let mut checked = Vec::new();
    for raw in file.redact {
        let rule =
            raw.check().map_err(|all| all.iter().map(ToString::to_string).collect::<Vec<_>>())?;
        checked.push(rule);
    }
    let redactor = Redactor::new(checked, HmacKey::new(&[1; 32]));
    redactor.map_err(|all| all.iter().map(ToString::to_string).collect())
}

#[test]
fn each_rule_does_what_it_says() {
    for (toml, raw, wanted) in [
        ("name='x'\nkeys=['a']\naction='drop'", r#"{"a":1,"b":2,"a":3}"#, r#"{"b":2}"#),
        ("name='x'\nkeys=['a']\naction='drop'", r#"{"b":2,"a":1,"a":3}"#, r#"{"b":2}"#),
        ("name='x'\nkeys=['a']\naction='drop'", r#"{"a":1}"#, "{}"),
        ("name='x'\nkeys=['a','b']\naction='drop'", r#"{"a":1, "b":2}"#, "{}"),
        ("name='x'\npointers=['/a/1']\naction='drop'", r#"{"a":[1,2,3]}"#, r#"{"a":[1,3]}"#),
        (
            "name='x'\npointers=['/a/*/b~1c']\naction='mask'",
            r#"{"a":[{"b/c":true},{"b/c":null}]}"#,
            r#"{"a":[{"b/c":"[redacted:x]"},{"b/c":null}]}"#,
        ),
        (
            "name='x'\npointers=['/p!/a']\naction='mask'",
            r#"{"p":"{\"a\":1,\"b\":2}"}"#,
            r#"{"p":"{\"a\":\"[redacted:x]\",\"b\":2}"}"#,
        ),
        (
            "name='x'\nkeys=['a']\nresources=['secrets']\naction='mask'",
            r#"{"a":1,"o":{"kind":"Secret","a":2}}"#,
            r#"{"a":1,"o":{"kind":"Secret","a":"[redacted:x]"}}"#,
        ),
        (
            "name='x'\nkeys=['*colour*']\ntext=['key-value']\naction='mask'",
            r#"{"m":"my-Colour=red x=y","k":{"MyColours":"b"}}"#,
            r#"{"m":"my-Colour=[redacted:x] x=y","k":{"MyColours":"[redacted:x]"}}"#,
        ),
        ("name='x'\nkeys=['a']\nstreams=['falco']\naction='mask'", r#"{"a":1}"#, r#"{"a":1}"#),
    ] {
        let redactor = rules(&format!("[[redact]]\n{toml}")).unwrap();
        assert_eq!(show(&run(&redactor, raw.as_bytes(), Stream::Other).bytes), wanted, "{toml}");
    }
}

#[test]
fn equal_values_get_equal_digests() {
    let redactor = rules("[[redact]]\nname='x'\nkeys=['a','b']\naction='hmac'").unwrap();
    let out = show(
        &run(&redactor, br#"{"a":"v\u0061l","b":"val","c":{"a":"other"}}"#, Stream::Other).bytes,
    );
    let json: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!(json["a"], json["b"]);
    assert_ne!(json["a"], json["c"]["a"]);
    assert!(json["a"].as_str().unwrap().starts_with("[hmac:x:"));
    assert_eq!(json["a"].as_str().unwrap().len(), "[hmac:x:]".len() + 22);
}

#[test]
fn what_is_wrong_with_a_rule_is_told() {
    for (toml, problem) in [
        ("name='X'\nkeys=['a']\naction='mask'", "`name` must have"),
        ("name='x'\nkeys=['a']", "`action` must be"),
        ("name='x'\nkeys=['a*b']\naction='mask'", "is no name of a key"),
        ("name='x'\npointers=['a']\naction='mask'", "is no JSON pointer"),
        ("name='x'\npointers=['/a~2']\naction='mask'", "is no JSON pointer"),
        ("name='x'\naction='mask'", "names nothing"),
        ("name='x'\ntext=['key-value']\naction='mask'", "there are none"),
        ("name='x'\ntext=['y']\naction='mask'", "is no detector"),
        ("name='x'\nresources=['pods']\naction='mask'", "is no resource"),
        ("name='x'\nkeys=['a']\nstreams=['y']\naction='mask'", "is no stream"),
        ("name='x'\nkeys=['a']\naction='mask'\ncolour=1", "unknown field"),
        (
            "name='x'\nkeys=['a']\naction='mask'\n[[redact]]\nname='x'\nkeys=['a']\naction='mask'",
            "same name",
        ),
    ] {
        let told = rules(&format!("[[redact]]\n{toml}")).unwrap_err();
        assert!(told.iter().any(|one| one.contains(problem)), "{toml}: {told:?}");
    }
    let rule = RawRedactionRule {
        name: "x".into(),
        keys: vec!["a".into()],
        action: Some("hmac".into()),
        ..Default::default()
    };
    let told = Redactor::new(vec![rule.check().unwrap()], None).unwrap_err();
    assert_eq!(told[0].problem, RuleProblem::HmacKeyMissing);
}

#[test]
fn a_note_names_rules_and_places() {
    let raw = r#"{"Env":[{"name":"DB_PASSWORD","value":"a"},{"name":"X_PASSWORD","value":"b"}],"log":"{\"token\":\"x\"}"}"#;
    let out = run(&defaults(), raw.as_bytes(), Stream::Other).note.unwrap();
    assert_eq!(&*out.note, "passwords:/Env/*/valuex2,tokens:/log!/token");
    assert_eq!(out.count, 3);
    let out = run(&defaults(), b"password=x", Stream::Other).note.unwrap();
    assert_eq!(&*out.note, "passwords:text@9");
}
