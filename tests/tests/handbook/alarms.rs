//! Every alarm that the programs raise stands in the handbook's table, with what to do; and no other.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use crate::pages::{ROOT, pages};

/// The codes of the high side stand in one table, those of the low side beside each `raise`.
fn raised() -> BTreeSet<String> {
    let table = Path::new(ROOT).join("high-side/src/buffer/alarms.rs");
    let table = fs::read_to_string(table).expect("the alarms of the high side");
    let kinds = table.lines().filter(|line| line.trim_start().starts_with("AlarmKind::"));
    let mut codes: BTreeSet<String> =
        kinds.filter_map(|line| Some(line.split('"').nth(1)?.to_owned())).collect();
    assert!(codes.len() > 10, "the alarms of the high side are written in another form");
    let high = codes.len();
    visit(&Path::new(ROOT).join("low-side/src"), &mut codes);
    assert!(codes.len() > high + 20, "the alarms of the low side are raised in another form");
    codes
}

fn visit(dir: &Path, codes: &mut BTreeSet<String>) {
    for entry in fs::read_dir(dir).expect("a folder of sources").flatten() {
        let path = entry.path();
        let is_source = path.extension().is_some_and(|ext| ext == "rs");
        let is_test = path.file_stem().is_some_and(|stem| stem == "tests" || stem == "testing");
        if path.is_dir() {
            visit(&path, codes);
        } else if is_source && !is_test {
            let text = fs::read_to_string(&path).expect("a source");
            let text = text.split("#[cfg(test)]").next().unwrap_or_default();
            for call in text.split("raise(").skip(1).chain(text.split("raise_once(").skip(1)) {
                codes.extend(code_of(call.split([';', '{']).next().unwrap_or_default(), text));
            }
        }
    }
}

/// The first argument that is a code: a literal, or a constant of the same file.
fn code_of(arguments: &str, source: &str) -> Option<String> {
    // In a function that is given the code, its callers are looked at.
    let arguments = arguments.split(',').map(str::trim).take_while(|argument| *argument != "code");
    arguments.into_iter().find_map(|argument| {
        let literal = argument.strip_prefix('"').and_then(|rest| rest.strip_suffix('"'));
        let is_constant = !argument.is_empty()
            && argument.bytes().all(|byte| byte.is_ascii_uppercase() || byte == b'_');
        let constant = is_constant.then(|| {
            let (_, value) = source.split_once(&format!("const {argument}: &str = \""))?;
            value.split('"').next()
        });
        let code = literal.or(constant.flatten())?;
        let is_code = code.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'-');
        is_code.then(|| code.to_owned())
    })
}

#[test]
fn the_handbook_has_every_alarm_and_what_to_do() {
    let handbook = pages().into_iter().find(|page| page.name == "handbook").expect("the handbook");
    let mut documented = BTreeSet::new();
    let section = handbook.text.split("\n## What each alarm means").nth(1).expect("the section");
    for row in section.split("\n## ").next().unwrap_or_default().lines() {
        let cells: Vec<&str> = row.trim_matches('|').split(" | ").map(str::trim).collect();
        let [codes, means, what_to_do] = cells[..] else { continue };
        if codes.starts_with('`') {
            assert!(means.len() > 10 && what_to_do.len() > 10, "{row}");
            documented.extend(codes.split('`').skip(1).step_by(2).map(str::to_owned));
        }
    }
    let raised = raised();
    let missing: Vec<_> = raised.difference(&documented).collect();
    assert!(missing.is_empty(), "the handbook's table of alarms lacks {missing:?}");
    let gone: Vec<_> = documented.difference(&raised).collect();
    assert!(gone.is_empty(), "nothing raises {gone:?}, which the handbook has");
}
