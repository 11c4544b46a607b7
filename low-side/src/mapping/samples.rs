//! What the tests of the mappings render: the golden samples of this folder, and, where they are
//! present beside the workspace, many more real ones, which are no part of it.

use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use shared::clock::Nanos;
use shared::event::recognise;
use shared::record::{Epoch, Lane, Sequence, SourceTag, Stream, encode, parse};

use crate::event::{View, with_view};
use crate::ledger::ChainName;

/// 2026-11-23T21:10:19.000000001Z
pub(super) const RECEIVED: Nanos = Nanos(1_795_468_219_000_000_001);

/// Takes the view of a record of these bytes.
pub(super) fn viewed<T>(raw: &[u8], stream: Stream, take: impl FnOnce(&View<'_>) -> T) -> T {
    viewed_as(7, raw, stream, take)
}

/// The same, with a sequence number.
pub(super) fn viewed_as<T>(
    sequence: u64,
    raw: &[u8],
    stream: Stream,
    take: impl FnOnce(&View<'_>) -> T,
) -> T {
    let chain =
        ChainName { origin: "plant-7".parse().unwrap(), epoch: Epoch(3), lane: Lane::Flash };
    let source = SourceTag::new("syslog-tls", "10.0.0.1:40112", Some("CN=\"portainer\",O=Plant 7"));
    let mut bytes = Vec::new();
    encode(&mut bytes, Sequence(sequence), RECEIVED, stream, &source, None, raw);
    with_view(&chain, &parse(&bytes, 1 << 26).unwrap().0, take)
}

/// The golden samples: their names, streams and bytes, from the file that holds them.
pub(super) fn golden() -> Vec<(String, Vec<u8>)> {
    let text = std::fs::read_to_string(golden_dir().join("samples.txt")).unwrap();
    let mut lines = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    let mut all = Vec::new();
    while let (Some(name), Some(raw)) = (lines.next(), lines.next()) {
        let name = name.strip_prefix("== ").expect("a name, then its bytes");
        all.push((name.to_owned(), raw.as_bytes().to_vec()));
    }
    all
}

pub(super) fn golden_dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src/mapping/golden")
}

/// Every sample there is, with the stream it is recognised as.
pub(super) fn every() -> &'static [(Vec<u8>, Stream)] {
    static ALL: LazyLock<Vec<(Vec<u8>, Stream)>> = LazyLock::new(read_every);
    &ALL
}

fn read_every() -> Vec<(Vec<u8>, Stream)> {
    let mut all: Vec<_> = golden().into_iter().map(|(_, raw)| raw).collect();
    let beside = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/samples");
    let folder = std::env::var_os("PENSTOCK_SAMPLES").map_or(beside, PathBuf::from);
    if folder.is_dir() {
        walk(&folder, &mut all);
    } else {
        eprintln!("only the golden samples: there are none at {}", folder.display());
    }
    all.extend([b"".to_vec(), b"\xff\xfe\x00".to_vec(), b"<34>1 - - - - - -".to_vec()]);
    all.into_iter().map(|raw| (recognise(&raw), raw)).map(|(stream, raw)| (raw, stream)).collect()
}

/// Every line of the text files below a folder; of JSON lines that carry a sample inside, that too.
fn walk(folder: &Path, all: &mut Vec<Vec<u8>>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            walk(&path, all);
            continue;
        }
        let end = path.extension().and_then(|end| end.to_str()).unwrap_or_default();
        if !["json", "jsonl", "log", "txt", "csv", "bin"].contains(&end) {
            continue;
        }
        let bytes = std::fs::read(&path).unwrap();
        if end == "json" {
            all.push(bytes);
            continue;
        }
        let lines: Vec<_> = bytes.split(|byte| *byte == b'\n').filter(|l| !l.is_empty()).collect();
        for line in lines.iter().step_by(lines.len() / LINES_MAX + 1).copied() {
            let value: serde_json::Value = serde_json::from_slice(line).unwrap_or_default();
            if let Some(inner) = value["alert_raw"].as_str() {
                all.push(inner.as_bytes().to_vec());
            } else if value["log"].is_object() {
                all.push(value["log"].to_string().into_bytes());
            }
            all.push(line.to_vec());
        }
    }
}

/// About as many lines are taken from one file: the others are of the same kinds.
const LINES_MAX: usize = 300;
