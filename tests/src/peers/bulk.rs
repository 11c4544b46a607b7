//! Servers that speak the bulk API: `osmem`, which follows `OpenSearch`, and `noida`, which follows
//! Elasticsearch 8.15. Both come from `PyPI`, by `install-peers.sh`, and were written by others.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};

use super::client::{self, Answer};
use crate::process::Process;
use crate::sandbox::free_address;
use crate::wait::{PATIENCE, wait_for};

/// Which of the two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Engine {
    /// Follows Elasticsearch.
    Noida,
    /// Follows `OpenSearch`.
    Osmem,
}

/// A running server.
#[derive(Debug)]
pub struct BulkServer {
    /// Where it answers.
    pub address: SocketAddr,
    _process: Process,
}

impl BulkServer {
    /// Starts one, with nothing in it.
    ///
    /// # Panics
    /// When it is not installed.
    pub fn start(engine: Engine, dir: &Path) -> Self {
        let address = free_address();
        let (mut command, name) = match engine {
            Engine::Noida => {
                let mut command = Command::new(packaged("noida_db/noida-db"));
                command.arg("start").arg("--data-dir").arg(dir.join("noida"));
                command.args(["--only", "elasticsearch", "--elasticsearch-port"]);
                command.arg(address.port().to_string());
                (command, "noida")
            }
            Engine::Osmem => {
                let mut command = Command::new(packaged("osmem_server/bin/osmem-server"));
                command.args(["-no-stdin-watch", "-addr"]).arg(address.to_string());
                (command, "osmem")
            }
        };
        let mut process = Process::spawn(&mut command, name, dir);
        wait_for(PATIENCE, name, || {
            if let Some(status) = process.ended() {
                panic!("{name} ended with {status}:\n{}", process.log());
            }
            client::ask(address, "GET", "/", "", b"", QUICK).ok().filter(Answer::is_success)
        });
        Self { address, _process: process }
    }

    /// The documents of the indices that match, with `_index` and `_id`, in no order; what was written
    /// is made visible first.
    ///
    /// # Panics
    /// When it does not answer.
    pub fn documents(&self, pattern: &str) -> Vec<Value> {
        let quiet = "ignore_unavailable=true&allow_no_indices=true";
        self.ask("POST", &format!("/{pattern}/_refresh?{quiet}"), "");
        let body = json!({"size": DOCUMENTS_MAX, "query": {"match_all": {}}}).to_string();
        let found = self.ask("POST", &format!("/{pattern}/_search?{quiet}"), &body);
        let hits = found["hits"]["hits"].as_array().cloned().unwrap_or_default();
        let total = found["hits"]["total"]["value"].as_u64().unwrap_or(0);
        assert_eq!(total, hits.len() as u64, "more than one page of documents");
        hits
    }

    /// Asks, and gives what is answered.
    ///
    /// # Panics
    /// When it does not answer, or not with JSON.
    pub fn ask(&self, method: &str, path: &str, body: &str) -> Value {
        let headers = "content-type: application/json\r\n";
        let answer = client::ask(self.address, method, path, headers, body.as_bytes(), PATIENCE);
        let answer = answer.unwrap_or_else(|err| panic!("{method} {path}: {err}"));
        serde_json::from_slice(&answer.body).unwrap_or_else(|err| panic!("{method} {path}: {err}"))
    }
}

/// A program of the environment that `install-peers.sh` makes.
fn installed(path: &str) -> PathBuf {
    let target = std::env::var_os("CARGO_TARGET_DIR").map(PathBuf::from);
    let target = target.unwrap_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../target"));
    let found = target.join("peers/python").join(path);
    assert!(
        found.exists(),
        "{} is missing; run `make peers`, once with a network",
        found.display()
    );
    found
}

/// A program inside a package. It is started itself: the launcher of a package starts another process,
/// which would outlive the test that kills the launcher.
fn packaged(path: &str) -> PathBuf {
    // `lib/python3.N/site-packages`, whatever N is.
    let versions = std::fs::read_dir(installed("lib")).expect("an environment of Python");
    let mut found =
        versions.flatten().map(|version| version.path().join("site-packages").join(path));
    found.find(|program| program.is_file()).unwrap_or_else(|| panic!("no {path}; run `make peers`"))
}

/// More than any test sends, and the most that a search gives.
const DOCUMENTS_MAX: usize = 10_000;
const QUICK: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sandbox::Sandbox;

    #[test]
    fn both_engines_know_an_id_again() {
        for engine in [Engine::Noida, Engine::Osmem] {
            let sandbox = Sandbox::new("bulk-server");
            let server = BulkServer::start(engine, sandbox.path());
            let bulk = "{\"create\":{\"_index\":\"x-1\",\"_id\":\"a\"}}\n{\"f\":1}\n";
            let statuses: Vec<Value> = (0..2)
                .map(|_| server.ask("POST", "/_bulk", bulk)["items"][0]["create"]["status"].clone())
                .collect();
            assert_eq!(statuses, [201, 409], "{engine:?}");
            let documents = server.documents("x-*");
            assert_eq!((documents.len(), &documents[0]["_id"]), (1, &"a".into()), "{engine:?}");
        }
    }
}
