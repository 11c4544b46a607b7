//! What the demonstration sends: real and odd input, and messages in Portainer's shape.

use std::fs;
use std::path::{Path, PathBuf};

use tests::load::Pool;
use tests::samples::messages_in;

/// Messages and where they are from.
pub(crate) struct Samples {
    pub(crate) name: &'static str,
    pub(crate) messages: Vec<Vec<u8>>,
}

/// The samples of this workspace, and larger ones where they lie beside it.
pub(crate) fn samples() -> Vec<Samples> {
    let own = Path::new(env!("CARGO_MANIFEST_DIR")).join("samples");
    let beside = own.join("../../../shared/samples");
    let first = |paths: [PathBuf; 2]| paths.into_iter().find(|path| path.is_file());
    let odd = first([beside.join("syslog/odd-lines.jsonl"), own.join("syslog-odd-lines.jsonl")]);
    let mut all = vec![
        Samples { name: "Portainer authentication and activity", messages: portainer() },
        Samples {
            name: "odd syslog lines",
            messages: odd.map_or(Vec::new(), |path| messages_in(&path)),
        },
        Samples {
            name: "Kubernetes API audit",
            messages: lines(&own.join("kube-audit.jsonl"), "<109>1 - k8s kube-apiserver - - - "),
        },
    ];
    let falco = lines(&beside.join("falco/no-licence/alerts.jsonl"), "<108>1 - node falco - - - ");
    all.push(Samples { name: "Falco alerts", messages: falco });
    all.retain(|samples| !samples.messages.is_empty());
    all
}

/// A login, a failed one, a logout, and some activity.
fn portainer() -> Vec<Vec<u8>> {
    let header = "<110>1 2026-11-23T21:10:19Z portainer portainer 1 useractivity - ";
    let auth = (1..=3).map(|kind| {
        format!(
            "{header}{{\"id\":{kind},\"timestamp\":1795468219,\"username\":\"alice\",\"type\":{kind},\
             \"origin\":\"10.0.0.7\",\"context\":1}}"
        )
        .into_bytes()
    });
    auth.chain((1..=GENERATED).map(|id| Pool::message(id, Some(700)))).collect()
}

fn lines(path: &Path, header: &str) -> Vec<Vec<u8>> {
    let text = fs::read_to_string(path).unwrap_or_default();
    text.lines()
        .filter(|line| !line.is_empty())
        .map(|line| format!("{header}{line}").into_bytes())
        .collect()
}

/// Messages with different ids, like those of a busy minute.
const GENERATED: u64 = 40;
