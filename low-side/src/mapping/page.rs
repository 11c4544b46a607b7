//! The published table of fields, compared with what the code emits.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde_json::Value;

use super::samples::{golden, viewed};
use super::*;

/// Values by path; those of lists one after the other.
type Values = BTreeMap<String, Vec<String>>;

fn collect(value: &Value, path: &str, out: &mut Values) {
    match value {
        Value::Object(members) => {
            for (name, value) in members {
                let dot = if path.is_empty() { "" } else { "." };
                collect(value, &format!("{path}{dot}{name}"), out);
            }
        }
        Value::Array(items) => items.iter().for_each(|item| collect(item, path, out)),
        Value::String(text) => out.entry(path.to_owned()).or_default().push(text.clone()),
        other => out.entry(path.to_owned()).or_default().push(other.to_string()),
    }
}

fn json(out: &[u8]) -> Values {
    let mut values = Values::new();
    collect(&serde_json::from_slice(out).unwrap(), "", &mut values);
    values
}

fn cef_pairs(out: &[u8]) -> Values {
    let line = std::str::from_utf8(out).unwrap();
    let (header, pairs) = super::tests::read_cef(line);
    let mut values: Values = pairs.into_iter().map(|(key, value)| (key, vec![value])).collect();
    values.insert("Signature".to_owned(), vec![header[4].clone()]);
    values
}

fn leef_pairs(out: &[u8]) -> Values {
    let line = std::str::from_utf8(out).unwrap();
    let pairs = line.splitn(7, '|').last().unwrap().split('^');
    pairs
        .map(|pair| pair.split_once('=').unwrap())
        .map(|(key, value)| (key.to_owned(), vec![value.to_owned()]))
        .collect()
}

/// Of each golden sample: our own JSON, then each schema in the order of the columns.
fn emitted() -> Vec<[Values; 7]> {
    let of = |raw: &[u8]| {
        viewed(raw, shared::event::recognise(raw), |view| {
            let bytes = |render: fn(&mut Vec<u8>, &View<'_>)| {
                let mut out = Vec::new();
                render(&mut out, view);
                out
            };
            [
                json(&bytes(crate::event::render_view)),
                json(&bytes(ecs::render)),
                json(&bytes(cim::render)),
                cef_pairs(&bytes(cef::render)),
                leef_pairs(&bytes(leef::render)),
                json(&bytes(ocsf::render)),
                json(&bytes(sentinel::row)),
            ]
        })
    };
    golden().iter().map(|(_, raw)| of(raw)).collect()
}

/// The rows of a section's table: what the cells name in backticks.
fn rows(page: &str, section: &str) -> Vec<Vec<Vec<String>>> {
    let (_, rest) = page.split_once(&format!("## {section}\n")).unwrap();
    let rest = rest.split("\n## ").next().unwrap();
    let lines = rest.lines().filter(|line| line.starts_with('|')).skip(2);
    let cell = |cell: &str| cell.split('`').skip(1).step_by(2).map(str::to_owned).collect();
    lines.map(|line| line.trim_matches('|').split('|').map(cell).collect()).collect()
}

fn page() -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../packaging/doc/mappings.md");
    std::fs::read_to_string(path).unwrap()
}

/// A named field holds our value in at least one sample; whole, or cut, or as one of a list.
#[test]
fn the_page_says_where_each_field_goes() {
    let (page, samples) = (page(), emitted());
    for row in rows(&page, "Carried as it is") {
        let ours = &row[0][0];
        assert_eq!(row.len(), 7, "{ours}");
        for (column, names) in row.iter().enumerate().skip(1) {
            for name in names {
                let carried = samples.iter().any(|sample| {
                    let from = sample[0].get(ours).into_iter().flatten();
                    let to = || sample[column].get(name).into_iter().flatten();
                    from.clone().any(|from| {
                        to().any(|to| to == from || from.split_whitespace().any(|word| word == to))
                    })
                });
                assert!(carried, "{ours} does not go to {name} in column {column}");
            }
        }
    }
    for row in rows(&page, "Computed") {
        for (column, names) in row.iter().enumerate().skip(1) {
            for name in names {
                assert!(
                    samples.iter().any(|sample| sample[column].contains_key(name)),
                    "{name} in column {column} is never there"
                );
            }
        }
    }
}

/// Nothing is emitted that the page does not name, but for what repeats or only labels another.
#[test]
fn the_page_names_every_field() {
    let page = page();
    let mut named: [BTreeSet<String>; 7] = Default::default();
    for section in ["Carried as it is", "Computed"] {
        for row in rows(&page, section) {
            for (column, names) in row.into_iter().enumerate() {
                named[column].extend(names);
            }
        }
    }
    for sample in emitted() {
        for (column, values) in sample.iter().enumerate().skip(1) {
            for name in values.keys() {
                let repeats = REPEATS[column - 1].iter().any(|begin| name.starts_with(begin));
                assert!(repeats || named[column].contains(name), "{name} of column {column}");
            }
        }
    }
}

/// Begins of names that the page leaves out: constants, labels, and the same value under another
/// name of the same schema.
const REPEATS: [&[&str]; 6] = [
    &[
        "ecs.version",
        "kubernetes.audit.",
        "kubernetes.namespace",
        "log.syslog.",
        "orchestrator.type",
        "penstock.access",
        "penstock.unclassified",
        "source.port",
    ],
    &["command", "id", "object_path", "src_port", "src_user", "type"],
    &["Signature", "c6a2Label", "cn1Label", "cs", "flexString", "spt"],
    &["srcPort"],
    &[
        "app.",
        "auth_protocol_id",
        "compliance.status",
        "finding_info.analytic.type",
        "finding_info.uid",
        "metadata.profiles",
        "metadata.version",
        "raw_data_hash.algorithm",
        "service.name",
        "src_endpoint.port",
        "unmapped.",
    ],
    &[],
];
