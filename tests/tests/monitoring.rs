//! The numbers of both agents, the alert rules and the dashboard, as Prometheus and its promtool see them.

use std::collections::BTreeSet;
use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;

use serde_json::Value;
use tests::crossing::Crossing;
use tests::peers::{peer, run_with_input, unpacked};
use tests::process::{Process, run};
use tests::sandbox::free_address;
use tests::wait::{PATIENCE, wait_for, wait_until};

const RECORDS: u64 = 500;

fn prometheus(program: &str) -> Command {
    Command::new(unpacked("prometheus", &format!("usr/bin/{program}")))
}

fn packaging(path: &str) -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "../packaging", path].iter().collect()
}

fn read(path: &str) -> String {
    fs::read_to_string(packaging(path)).unwrap_or_else(|err| panic!("{path}: {err}"))
}

/// The words of a text that are names of our metrics.
fn names(text: &str) -> BTreeSet<String> {
    let of_name = |byte: char| !(byte.is_ascii_alphanumeric() || byte == '_');
    let ours =
        |word: &&str| word.starts_with("penstock_high_") || word.starts_with("penstock_low_");
    text.split(of_name).filter(ours).map(ToOwned::to_owned).collect()
}

/// The names that the documentation's two tables have a row for.
fn documented() -> BTreeSet<String> {
    let rows = read("doc/metrics.md");
    let rows = rows.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next());
    rows.filter(|name| name.starts_with("penstock_")).map(ToOwned::to_owned).collect()
}

fn exposed(text: &str) -> BTreeSet<String> {
    let lines = text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next());
    lines.map(ToOwned::to_owned).collect()
}

/// What the dashboard asks, its variables filled in.
fn asked_by_the_dashboard() -> Vec<String> {
    let board: Value = serde_json::from_str(&read("monitoring/grafana-dashboard.json"))
        .expect("the dashboard is JSON");
    let panels = board["panels"].as_array().expect("it has panels");
    let targets = panels.iter().flat_map(|panel| panel["targets"].as_array().into_iter().flatten());
    let filled = |target: &Value| {
        let text = target["expr"].as_str().expect("a target asks for something");
        text.replace("$instance", ".*").replace("$__rate_interval", "5m")
    };
    targets.map(filled).collect()
}

/// A Prometheus that asks both agents every second and has our alert rules.
struct Watching {
    address: SocketAddr,
    _process: Process,
}

impl Watching {
    fn start(crossing: &Crossing, targets: [SocketAddr; 2]) -> Self {
        let dir = crossing.sandbox.dir("prometheus");
        let address = free_address();
        let [high, low] = targets;
        let config = format!(
            "global: {{scrape_interval: 1s, evaluation_interval: 1s}}\n\
             rule_files: [{}]\n\
             scrape_configs:\n  - job_name: penstock\n    static_configs: [{{targets: [\"{high}\", \"{low}\"]}}]\n",
            packaging("monitoring/alerts.yml").display()
        );
        let file = dir.join("prometheus.yml");
        fs::write(&file, config).expect("the configuration can be written");
        let mut command = prometheus("prometheus");
        command.arg(format!("--config.file={}", file.display()));
        command.arg(format!("--storage.tsdb.path={}", dir.join("data").display()));
        command.arg(format!("--web.listen-address={address}")).current_dir(&dir);
        let process = Process::spawn(&mut command, "prometheus", &dir);
        Self { address, _process: process }
    }

    fn ask(&self, path: &str, query: Option<&str>) -> Value {
        let mut curl = peer("curl");
        curl.args(["--silent", "--max-time", "10", "--get"]);
        curl.arg(format!("http://{}/api/v1/{path}", self.address));
        if let Some(query) = query {
            curl.arg("--data-urlencode").arg(format!("query={query}"));
        }
        serde_json::from_str(&run(&mut curl).stdout).unwrap_or_default()
    }

    /// The values of a query's series, which are whole numbers.
    fn values(&self, query: &str) -> Vec<u64> {
        let answer = self.ask("query", Some(query));
        let series = answer["data"]["result"].as_array().cloned().unwrap_or_default();
        series.iter().filter_map(|one| one["value"][1].as_str()?.parse().ok()).collect()
    }
}

fn fetch(url: &str, accept: &str) -> String {
    let accept = format!("Accept: {accept}");
    run(peer("curl").args(["--silent", "--max-time", "10", "--include", "-H", &accept, url]))
        .success()
}

#[test]
fn the_numbers_are_well_formed_documented_scraped_and_enough_for_rules_and_dashboard() {
    let crossing = Crossing::new("monitoring");
    let (high, low) = (&crossing.pair.high, &crossing.pair.low);
    let [high_page, low_page] = crossing.configure_with_pages(100);
    let _agents = [low.start(), high.start()];
    crossing.send(1..RECORDS + 1);
    assert_eq!(crossing.wait_drained(), RECORDS);
    // Something to be alarmed about.
    fs::write(low.inbox().join("no-bundle.pstk"), "no bundle").expect("a file can be put there");
    wait_until(PATIENCE, "a refusal", || low.status()["quarantined"] == 1);

    let mut told = BTreeSet::new();
    for (site, at, accounted) in [
        (high, high_page, "penstock_high_stream_received_records_total{lane=\""),
        (low, low_page, "penstock_low_records_delivered_total{sink=\"file\"} 500"),
    ] {
        let url = format!("http://{at}/metrics");
        let text = fetch(&url, "text/plain");
        let (_, text) = text.split_once("\r\n\r\n").expect("a head and a body");
        assert!(text.contains(accounted), "{accounted}: {text}");
        let mut check = prometheus("promtool");
        let checked = run_with_input(check.args(["check", "metrics"]), text.as_bytes());
        assert_eq!((checked.code, checked.stderr.as_str()), (Some(0), ""), "{text}");
        // The file has the same set.
        let file = fs::read_to_string(site.state_dir().join("metrics.prom")).expect("the file");
        assert_eq!(exposed(&file), exposed(text));
        told.extend(exposed(text));

        let open = fetch(&url, "application/openmetrics-text;version=1.0.0,text/plain;q=0.5");
        assert!(
            open.contains("content-type: application/openmetrics-text; version=1.0.0"),
            "{open}"
        );
        assert!(open.ends_with("# EOF\n"), "{open}");
    }
    assert_eq!(told, documented(), "packaging/doc/metrics.md names what the agents tell");

    let watching = Watching::start(&crossing, [high_page, low_page]);
    // Prometheus asks for OpenMetrics, and takes no sample of what it can't parse.
    wait_until(PATIENCE, "both agents scraped", || watching.values("up == 1").len() == 2);
    wait_until(PATIENCE, "the records delivered", || {
        watching.values("penstock_low_records_delivered_total{sink=\"file\"}") == [RECORDS]
    });
    let received = "sum(penstock_high_stream_received_records_total)";
    assert_eq!(watching.values(received), [RECORDS]);
    assert_eq!(watching.values("min(penstock_high_adds_up or penstock_low_adds_up)"), [1]);
    let firing = "ALERTS{alertname=\"PenstockAlarm\", alertstate=\"firing\", code=\"quarantined\"}";
    wait_until(PATIENCE, "the alert", || watching.values(firing) == [1]);
    let others = "ALERTS{alertstate=\"firing\", severity=\"critical\"}";
    assert!(watching.values(others).is_empty(), "{}", watching.ask("query", Some(others)));

    // Every question of the dashboard can be asked, and those of what happened here have an answer.
    let mut answered = 0;
    for question in asked_by_the_dashboard() {
        let answer = watching.ask("query", Some(&question));
        assert_eq!(answer["status"], "success", "{question}: {answer}");
        answered +=
            usize::from(answer["data"]["result"].as_array().is_some_and(|all| !all.is_empty()));
    }
    assert!(answered >= 25, "only {answered} of the dashboard's questions have an answer");
    let rules = wait_for(PATIENCE, "the rules", || {
        let rules = watching.ask("rules", None)["data"]["groups"][0]["rules"].as_array().cloned();
        rules.filter(|rules| rules.iter().all(|rule| rule["health"] == "ok"))
    });
    assert!(rules.len() > 20);
}

#[test]
fn every_rule_is_tested_both_ways_documented_and_asks_for_what_there_is() {
    let rules = read("monitoring/alerts.yml");
    let mut check = prometheus("promtool");
    run(check.args(["check", "rules"]).arg(packaging("monitoring/alerts.yml"))).success();
    let mut test = prometheus("promtool");
    test.args(["test", "rules", "alerts.test.yml"]).current_dir(packaging("monitoring"));
    run(&mut test).success();

    let tested = read("monitoring/alerts.test.yml");
    let page = read("doc/metrics.md");
    let alerts: Vec<&str> =
        rules.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")).collect();
    assert!(alerts.len() > 20, "{alerts:?}");
    for alert in &alerts {
        for way in ["fires", "does not fire"] {
            assert!(tested.contains(&format!("name: {alert} {way}\n")), "{alert} {way}: no test");
        }
        let anchor = alert.to_ascii_lowercase();
        assert!(rules.contains(&format!("runbook_url: \"metrics.md#{anchor}\"")), "{alert}");
        let row = format!("| <a id=\"{anchor}\"></a>`{alert}` | ");
        assert!(page.contains(&row), "packaging/doc/metrics.md has no row for {alert}");
    }
    let rows = page.lines().filter(|line| line.starts_with("| <a id=")).count();
    assert_eq!(rows, alerts.len(), "packaging/doc/metrics.md has rows for alerts that are none");
    for field in ["summary: ", "description: ", "severity: "] {
        assert_eq!(rules.matches(field).count(), alerts.len(), "{field}");
    }

    let known = documented();
    for (file, text) in [("alerts.yml", rules.as_str()), ("alerts.test.yml", &tested)]
        .into_iter()
        .chain([("grafana-dashboard.json", asked_by_the_dashboard().join(" ").as_str())])
    {
        let unknown: Vec<_> = names(text).difference(&known).cloned().collect();
        assert!(unknown.is_empty(), "{file} asks for what nobody tells: {unknown:?}");
    }
}

#[test]
fn the_dashboard_is_one() {
    let board: Value = serde_json::from_str(&read("monitoring/grafana-dashboard.json")).unwrap();
    assert_eq!((&board["title"], &board["uid"]), (&"Penstock".into(), &"penstock".into()));
    let mut ids = BTreeSet::new();
    let mut taken = BTreeSet::new();
    for panel in board["panels"].as_array().unwrap() {
        assert!(ids.insert(panel["id"].as_u64().expect("an id")), "{panel}");
        assert!(panel["title"].as_str().is_some_and(|title| !title.is_empty()), "{panel}");
        let of = |field: &str| panel["gridPos"][field].as_u64().expect("a place");
        assert!(of("x") + of("w") <= 24, "{panel}");
        for x in of("x")..of("x") + of("w") {
            for y in of("y")..of("y") + of("h") {
                assert!(taken.insert((x, y)), "two panels in one place: {}", panel["title"]);
            }
        }
        if panel["type"] != "row" {
            assert!(!panel["targets"].as_array().unwrap().is_empty(), "{panel}");
            assert_eq!(panel["datasource"]["uid"], "${datasource}", "{panel}");
        }
    }
}

/// In a world of its own with a real journal, an agent is started as by the service manager: its standard
/// error is the journal's stream.
const WITH_A_JOURNAL: &str = r#"
set -e
mount -t tmpfs tmpfs /run
mkdir -p /run/systemd/journal /run/log/journal
/lib/systemd/systemd-journald 2>"$1/journald.err" &
journald=$!
tries=0
until [ -S /run/systemd/journal/socket ] && [ -S /run/systemd/journal/stdout ]; do
    tries=$((tries + 1)); [ "$tries" -lt 600 ]; sleep 0.1
done
dir=$1; shift
systemd-cat --identifier=agent sh -c 'JOURNAL_STREAM=$(stat -L -c %d:%i /proc/self/fd/2) exec "$@"' sh "$@" &
agent=$!
tries=0
until journalctl --directory /run/log/journal --output json PENSTOCK_ORIGIN=plant-7 >"$dir/entries.json" 2>/dev/null \
    && [ -s "$dir/entries.json" ]; do
    tries=$((tries + 1)); [ "$tries" -lt 600 ]; sleep 0.1
done
kill "$agent"; wait "$agent" || true
kill "$journald"
"#;

/// The same without a journal: what the agent can't send there goes to standard error.
const WITHOUT: &str = r#"
set -e
mount -t tmpfs tmpfs /run
log="$1/stderr"; : >"$log"; shift
JOURNAL_STREAM=$(stat -c %d:%i "$log") "$@" 2>"$log" &
agent=$!
tries=0
until grep -q "ready" "$log"; do tries=$((tries + 1)); [ "$tries" -lt 600 ]; sleep 0.1; done
kill "$agent"; wait "$agent" || true
"#;

fn in_a_world(crossing: &Crossing, script: &str) -> PathBuf {
    let high = &crossing.pair.high;
    high.configure(&Crossing::seal_soon(100));
    let dir = crossing.sandbox.dir("world");
    let agent = high.command(["run"]);
    let mut world = peer("unshare");
    if nix::unistd::geteuid().is_root() {
        world.arg("--mount");
    } else {
        world.args(["--map-root-user", "--mount"]);
    }
    world.args(["sh", "-c", script, "sh"]).arg(&dir);
    run(world.arg(agent.get_program()).args(agent.get_args())).success();
    dir
}

#[test]
fn a_real_journal_gets_what_is_logged_with_its_fields() {
    let crossing = Crossing::new("journal");
    let dir = in_a_world(&crossing, WITH_A_JOURNAL);
    let entries = fs::read_to_string(dir.join("entries.json")).expect("the journal's entries");
    let entry: Value = serde_json::from_str(entries.lines().next().expect("an entry")).unwrap();
    for (field, value) in [
        ("_TRANSPORT", "journal"),
        ("PRIORITY", "6"),
        ("SYSLOG_IDENTIFIER", "penstock-high"),
        ("PENSTOCK_ORIGIN", "plant-7"),
        ("PENSTOCK_LISTENERS", "0"),
    ] {
        assert_eq!(entry[field], value, "{field}: {entry:#}");
    }
    assert!(entry["MESSAGE"].as_str().unwrap().starts_with("ready origin=plant-7 "), "{entry:#}");
}

#[test]
fn without_a_journal_nothing_that_is_logged_is_lost() {
    let crossing = Crossing::new("no-journal");
    let dir = in_a_world(&crossing, WITHOUT);
    let log = fs::read_to_string(dir.join("stderr")).expect("what went to standard error");
    assert!(log.lines().any(|line| line.starts_with("<6>ready origin=plant-7 ")), "{log}");
    assert!(log.lines().any(|line| line.starts_with("<6>stopped ")), "{log}");
}
