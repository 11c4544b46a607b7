//! Blocks of TOML are taken by the programs' own parsers, and no key that these know is left out.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use tests::sandbox::Sandbox;

use crate::pages::{Block, Page, ROOT, pages};

/// Which program's configuration a block is of; `[page]` is of both.
fn sides(block: &Block) -> (bool, bool) {
    const HIGH: &[&str] = &[
        "# high.toml",
        "[[listener]]",
        "[[file]]",
        "[[portainer-api]]",
        "[[carrier]]",
        "[guard]",
        "[[redact]]",
        "[[suppress]]",
        "[seal]",
        "[buffer]",
        "[outbox]",
        "mode = ",
    ];
    const LOW: &[&str] = &[
        "# low.toml",
        "[[sink]]",
        "[[receiver]]",
        "[[archive]]",
        "[store]",
        "[receipt]",
        "[latency]",
        "[admission]",
        "[inbox]",
        "[limits]",
        "[[release.rule]]",
    ];
    let of = |marks: &[&str]| {
        block.text.lines().any(|line| marks.iter().any(|mark| line.starts_with(mark)))
    };
    match (of(HIGH), of(LOW)) {
        (false, false) => (true, true),
        sides => sides,
    }
}

/// Sections that both programs have.
const BOTH: [&str; 2] = ["[page]", "[hardening]"];

#[test]
fn the_programs_take_every_block_of_settings() {
    let sandbox = Sandbox::new("settings");
    let path = sandbox.join("settings.toml");
    let mut wrong = Vec::new();
    let mut count = 0;
    for page in pages() {
        for block in page.blocks().into_iter().filter(|block| block.language == "toml") {
            count += 1;
            let (high, low) = sides(&block);
            assert!(
                high != low || BOTH.iter().any(|section| block.text.contains(section)),
                "{}",
                page.at(block.line)
            );
            let mut note = |problem: String| {
                // A program that was built without it says so, and has read every key.
                if !(problem.contains("built without Kafka") && problem.contains("1 problem")) {
                    wrong.push(format!("{}: {problem}", page.at(block.line)));
                }
            };
            let settings = with_files(&block.text, &sandbox);
            if high {
                let named = settings.lines().any(|line| line.starts_with("origin = "));
                let name = if named { "" } else { "origin = \"plant-7\"\n" };
                let text = format!("{name}{settings}");
                fs::write(&path, text).expect("a file in the sandbox");
                if let Err(err) = high_side::config::Config::load(&path) {
                    note(err.to_string());
                }
            }
            if low {
                fs::write(&path, &settings).expect("a file in the sandbox");
                if let Err(err) = low_side::config::Config::load(&path) {
                    note(err.to_string());
                }
            }
        }
    }
    assert!(count > 30, "blocks are found by another form than the pages write");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// The settings with the files that they name below `/etc/penstock` in the sandbox instead, where they are made.
fn with_files(text: &str, sandbox: &Sandbox) -> String {
    let folder = sandbox.dir("etc");
    let text = text.replace("/etc/penstock", &folder.display().to_string());
    for quoted in
        text.split('"').filter(|quoted| quoted.starts_with(&*folder.display().to_string()))
    {
        let file = Path::new(quoted);
        fs::create_dir_all(file.parent().expect("a file lies in a folder")).expect("a folder");
        let users = quoted.ends_with("users");
        let content = if users { "edge:secret\n".to_owned() } else { "5a".repeat(32) };
        if !file.is_dir() {
            fs::write(file, content).expect("a file in the sandbox");
            let secret = fs::Permissions::from_mode(0o600);
            fs::set_permissions(file, secret).expect("a file of ours");
        }
    }
    text
}

/// Where the keys of a structure of the configuration stand: the folder of its source and its name; the section; the
/// page that has to have them, where several kinds share a section.
const SECTIONS: &[(&str, &str, &str)] = &[
    ("high-side/src/config RawConfig", "", ""),
    ("high-side/src/config RawLog", "log", ""),
    ("high-side/src/config/listener RawListener", "listener", ""),
    ("high-side/src/config/file RawFile", "file", "sources/files"),
    ("high-side/src/config/guard RawGuard", "guard", ""),
    ("high-side/src/guard/redact RawRedactionRule", "redact", ""),
    ("high-side/src/guard/suppress SuppressRule", "suppress", ""),
    ("high-side/src/config/portainer_api RawPortainerApi", "portainer-api", ""),
    ("high-side/src/config RawBuffer", "buffer", ""),
    ("high-side/src/config RawSeal", "seal", ""),
    ("high-side/src/config/release RawRelease", "release", ""),
    ("high-side/src/config RawOutbox", "outbox", ""),
    ("high-side/src/config/carrier RawFolder", "carrier", "appliances"),
    ("high-side/src/config/carrier RawTcp", "carrier", "appliances"),
    ("high-side/src/config/carrier RawDiode", "carrier", "diode"),
    ("low-side/src/config RawConfig", "", ""),
    ("low-side/src/config RawLog", "log", ""),
    ("low-side/src/config RawInbox", "inbox", ""),
    ("low-side/src/config RawStore", "store", "archive"),
    ("low-side/src/config RawLimits", "limits", ""),
    ("low-side/src/config RawAdmission", "admission", ""),
    ("low-side/src/config RawLatency", "latency", ""),
    ("low-side/src/config RawReceipt", "receipt", ""),
    ("low-side/src/release RawRelease", "release", ""),
    ("low-side/src/release RawRule", "release.rule", ""),
    ("low-side/src/receiver/config RawFolder", "receiver", "appliances"),
    ("low-side/src/receiver/config RawTcp", "receiver", "appliances"),
    ("low-side/src/receiver/diode RawDiode", "receiver", "diode"),
    ("low-side/src/archive RawCommon", "archive", "archive"),
    ("low-side/src/archive RawTimes", "archive", "archive"),
    ("low-side/src/archive RawDirectory", "archive", "archive"),
    ("low-side/src/archive RawS3", "archive", "archive"),
    ("low-side/src/archive RawAzure", "archive", "archive"),
    ("low-side/src/archive RawGcs", "archive", "archive"),
    ("low-side/src/sink RawCommon", "sink", "sinks/README"),
    ("low-side/src/tls RawTls", "sink", "sinks/README"),
    ("low-side/src/sink RawFile", "sink", "sinks/file"),
    ("low-side/src/sink RawSyslog", "sink", "sinks/syslog"),
    ("low-side/src/sink RawEndpoint", "sink", "sinks/syslog"),
    ("low-side/src/sink RawForward", "sink", "sinks/next-hops"),
    ("low-side/src/sink RawHttp", "sink", "sinks/http"),
    ("low-side/src/sink RawHttpJson", "sink", "sinks/http"),
    ("low-side/src/sink/elastic Raw", "sink", "sinks/elasticsearch"),
    ("low-side/src/sink/kafka RawKafka", "sink", "sinks/kafka"),
    ("low-side/src/sink/loki Raw", "sink", "sinks/loki"),
    ("low-side/src/sink/sentinel Raw", "sink", "sinks/sentinel"),
    ("low-side/src/sink/splunk Raw", "sink", "sinks/splunk"),
    ("page/src RawPage", "page", ""),
];

/// Structures that are filled from elsewhere.
const NO_SETTINGS: &[&str] = &[
    "high-side/src/media Raw",
    "low-side/src/sink/kafka/control Raw",
    "low-side/src/sink/kafka/control RawMarks",
];

/// The structures that serde fills from the files, with their keys.
fn structures() -> BTreeMap<String, Vec<String>> {
    let mut found = BTreeMap::new();
    for folder in ["high-side/src", "low-side/src", "page/src"] {
        visit(&Path::new(ROOT).join(folder), &mut found);
    }
    found
}

fn visit(dir: &Path, found: &mut BTreeMap<String, Vec<String>>) {
    for entry in fs::read_dir(dir).expect("a folder of sources").flatten() {
        let path = entry.path();
        if path.is_dir() {
            visit(&path, found);
        } else if path.extension().is_some_and(|ext| ext == "rs") {
            let text = fs::read_to_string(&path).expect("a source");
            let name = path.strip_prefix(ROOT).expect("below").display().to_string();
            for (structure, keys) in structures_in(&text) {
                found.insert(format!("{name} {structure}"), keys);
            }
        }
    }
}

/// `struct Raw...` and `SuppressRule`, where serde fills them.
fn structures_in(text: &str) -> Vec<(String, Vec<String>)> {
    let mut found: Vec<(String, Vec<String>)> = Vec::new();
    let (mut fills, mut inside, mut skipped) = (false, false, false);
    for line in text.lines() {
        let line = line.trim();
        if inside {
            skipped |= line == "#[serde(skip)]";
            if line == "}" {
                inside = false;
            } else if let (Some((name, _)), false) =
                (line.split_once(": "), line.starts_with(['/', '#']))
            {
                if std::mem::take(&mut skipped) {
                    continue;
                }
                let name = name.rsplit(' ').next().unwrap_or_default();
                let name = name.trim_start_matches("r#").trim_start_matches('_').replace('_', "-");
                found.last_mut().expect("one is open").1.push(name);
            }
            continue;
        }
        let words: Vec<&str> = line.split([' ', '(']).collect();
        let at = words.iter().position(|word| *word == "struct");
        if line.starts_with("#[derive(") {
            fills = line.contains("Deserialize");
        } else if let Some(name) = at.and_then(|at| words.get(at + 1)) {
            let ours = name.starts_with("Raw") || *name == "SuppressRule";
            if fills && ours && line.ends_with('{') {
                found.push(((*name).to_owned(), Vec::new()));
                inside = true;
            }
            fills = false;
        }
    }
    found
}

#[test]
fn every_key_stands_in_a_page() {
    let pages = pages();
    let mut missing = Vec::new();
    let mut structures = structures();
    for name in NO_SETTINGS {
        take(&mut structures, name);
    }
    for (name, section, only) in SECTIONS {
        let keys = take(&mut structures, name);
        assert!(!keys.is_empty(), "no keys were found in {name}");
        for key in keys {
            let mut pages = pages.iter().filter(|page| only.is_empty() || page.name == *only);
            if !pages.any(|page| is_documented(page, section, &key)) {
                missing.push(format!("[{section}] {key}, on the page {only:?}"));
            }
        }
    }
    let unknown: Vec<_> = structures.keys().collect();
    assert!(unknown.is_empty(), "which sections do these fill? {unknown:#?}");
    assert!(missing.is_empty(), "no page says what these keys do:\n{}", missing.join("\n"));
}

/// The keys of a structure: `FOLDER NAME`, or `FOLDER/FILE NAME`.
fn take(structures: &mut BTreeMap<String, Vec<String>>, wanted: &str) -> Vec<String> {
    let (folder, name) = wanted.split_once(' ').expect("a folder and a name");
    let found = structures.keys().find(|key| {
        let (path, structure) = key.split_once(".rs ").expect("made above");
        structure == name && (path == folder || path.starts_with(&format!("{folder}/")))
    });
    let found = found.unwrap_or_else(|| panic!("there is no {wanted} any more")).clone();
    structures.remove(&found).unwrap_or_default()
}

/// A key stands in a page: in a block under its section, or between backticks on a page that shows such a section, or
/// with its section's name before it.
fn is_documented(page: &Page, section: &str, key: &str) -> bool {
    let headers: Vec<&str> = section.split('|').collect();
    let mut shown = section.is_empty();
    for block in page.blocks().iter().filter(|block| block.language == "toml") {
        let mut here = section.is_empty();
        for line in block.text.lines() {
            let line = line.trim_start_matches(['#', ' ']);
            if line.starts_with('[') {
                let name = line.trim_start_matches('[').split(']').next().unwrap_or_default();
                here = headers.contains(&name);
                if headers.iter().any(|header| name == format!("{header}.{key}")) {
                    return true;
                }
                shown |= here;
            } else if here && line.split(['=', ' ']).next() == Some(key) {
                return true;
            }
        }
    }
    page.code_spans().iter().any(|(_, span)| {
        let span = span.trim_matches(['[', ']']).split([' ', '=']).next().unwrap_or_default();
        (shown && span == key) || headers.iter().any(|header| span == format!("{header}.{key}"))
    })
}
