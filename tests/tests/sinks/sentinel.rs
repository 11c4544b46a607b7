//! Microsoft Sentinel, as a stand-in as strict as its documents has it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::Duration;

use serde_json::Value;
use tests::crossing::Crossing;
use tests::load::{Framing, Pool};
use tests::oracle::{Oracle, find_id, id_text};
use tests::peers::Authority;
use tests::peers::dce::{CLIENT, Dce, Fault, RULE, TENANT};
use tests::wait::{PATIENCE, wait_until};

const RECORDS: u64 = 2_000;
const BATCH: u64 = 300;
const TEMPLATE: &str = include_str!("../../../packaging/siem/sentinel/azuredeploy.json");

/// Both agents and the services that the low side delivers to.
struct Site {
    crossing: Crossing,
    services: Dce,
    ca: PathBuf,
}

impl Site {
    fn new(name: &str) -> Self {
        let crossing = Crossing::new(name);
        crossing.configure(500);
        let authority = Authority::new(&crossing.sandbox.dir("authority"));
        let services = Dce::start(&authority.server("dce"), TEMPLATE, "s+cret/=");
        let site = Self { ca: authority.ca().to_owned(), crossing, services };
        site.secret("s+cret/=");
        site.deliver(&format!("arm-url = \"{}\"\n", site.services.rule_url()));
        site
    }

    fn secret(&self, text: &str) {
        use std::os::unix::fs::PermissionsExt;
        let path = self.crossing.sandbox.join("secret");
        std::fs::write(&path, text).expect("a secret can be written");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).expect("its mode");
    }

    fn deliver(&self, more: &str) {
        let (url, ca) = (self.services.url(), self.ca.display());
        let low = format!(
            "{}[[sink]]\nname = \"sentinel\"\ntype = \"sentinel\"\nurl = \"{url}\"\nauthority-url = \"{url}\"\nca-file = \"{ca}\"\n\
             tenant = \"{TENANT}\"\nclient-id = \"{CLIENT}\"\nclient-secret-file = \"{}\"\ndcr = \"{RULE}\"\n\
             batch-records = {BATCH}\nbody-bytes = \"100KiB\"\ntimeout = \"1s\"\nretry-min = \"20ms\"\nretry-max = \"100ms\"\n{more}",
            Crossing::quick_inbox(),
            self.crossing.sandbox.join("secret").display(),
        );
        self.crossing.pair.low.configure(&low);
    }

    fn rows(&self) -> Vec<Value> {
        self.services.state().rows.values().flatten().cloned().collect()
    }

    /// The rows, each once. Whatever came twice was the same.
    fn once(&self) -> Vec<Value> {
        let mut found: BTreeMap<String, Value> = BTreeMap::new();
        for row in self.rows() {
            let id = row["RecordId"].as_str().expect("an id").to_owned();
            let first = found.entry(id).or_insert_with(|| row.clone());
            assert_eq!(*first, row);
        }
        found.into_values().collect()
    }

    fn repeated(&self) -> u64 {
        (self.rows().len() - self.once().len()) as u64
    }

    /// Everything that was sent is there at least once and as it was, and no number is missing.
    fn assert_all(&self) {
        assert_eq!(self.crossing.wait_drained(), RECORDS);
        let pool = Pool::new(Framing::None, None);
        let (mut ids, mut numbers) = (Vec::new(), BTreeSet::new());
        for row in self.once() {
            let raw = row["RawEvent"].as_str().expect("a text").to_owned();
            let (id, _) = find_id(raw.as_bytes()).expect("an id");
            let mut message = Vec::new();
            pool.append(id, &mut message);
            assert!(raw.as_bytes() == message, "message {id} was altered: {row}");
            assert_eq!(row["Origin"], "plant-7");
            assert!(row["TimeGenerated"].is_string() && row["RawOmitted"].is_null(), "{row}");
            ids.push(id);
            assert!(numbers.insert(row["Seq"].as_u64().expect("a number")));
        }
        let mut oracle = Oracle::new();
        let issued = oracle.issue(RECORDS);
        oracle.taken(issued);
        oracle.judge(ids).assert_exactly_once();
        assert!(numbers.into_iter().eq(1..=RECORDS));
        assert_eq!(self.crossing.pair.low.status()["adds-up"], true);
    }

    /// Whether the status says this about the sink.
    fn says(&self, what: &str) -> bool {
        self.crossing.pair.low.status()["agent"]["sinks"].to_string().contains(what)
    }
}

#[test]
fn what_was_not_taken_is_not_repeated_whatever_the_answer_was() {
    let site = Site::new("sink-dce-codes");
    let statuses = [302, 401, 403, 404, 408, 409, 413, 415, 429, 500, 502, 503, 504];
    let faults = statuses.map(Fault::Status).into_iter();
    // Some of them in the middle of a batch.
    let busy = [Fault::Good, Fault::Status(429), Fault::Good, Fault::Status(503), Fault::Good];
    site.services.state().faults =
        faults.chain([Fault::Reset, Fault::Revoked]).chain(busy).collect();
    let _agents = [site.crossing.pair.low.start(), site.crossing.pair.high.start()];
    site.crossing.send(1..RECORDS + 1);
    site.assert_all();
    assert!(site.services.state().faults.is_empty());
    assert_eq!(site.repeated(), 0);
    let sink = site.crossing.pair.low.status()["sinks"][0].clone();
    assert_eq!((&sink["delivered"], &sink["rejected"]), (&RECORDS.into(), &0.into()));
}

#[test]
fn what_was_taken_unseen_comes_again_with_the_same_id() {
    let site = Site::new("sink-dce-faults");
    let faults = [Fault::TakenThenReset, Fault::TakenThenSilence, Fault::TakenThenError];
    site.services.state().faults =
        faults.into_iter().flat_map(|fault| [Fault::Good, fault]).collect();
    let _agents = [site.crossing.pair.low.start(), site.crossing.pair.high.start()];
    site.crossing.send(1..RECORDS + 1);
    site.assert_all();
    let repeated = site.repeated();
    assert!(repeated > 0 && repeated <= 3 * BATCH, "{repeated}");
}

#[test]
fn an_agent_that_is_killed_repeats_no_more_than_the_batch_under_way() {
    let site = Site::new("sink-dce-killed");
    site.services.state().faults = [Fault::TakenThenSilence].into();
    let low = site.crossing.pair.low.start();
    let _high = site.crossing.pair.high.start();
    site.crossing.send(1..RECORDS + 1);
    wait_until(PATIENCE, "a body that is not answered", || !site.rows().is_empty());
    low.kill();
    let _low = site.crossing.pair.low.start();
    site.assert_all();
    let repeated = site.repeated();
    assert!(repeated > 0 && repeated <= BATCH, "{repeated}");
}

#[test]
fn a_row_that_is_refused_for_good_stops_nothing_and_comes_after_the_fix() {
    let site = Site::new("sink-dce-poison");
    site.services.state().poison = Some(id_text(777));
    let low = &site.crossing.pair.low;
    let _agents = [low.start(), site.crossing.pair.high.start()];
    site.crossing.send(1..RECORDS + 1);
    assert_eq!(site.crossing.wait_drained(), RECORDS);
    assert_eq!((site.rows().len() as u64, site.repeated()), (RECORDS - 1, 0));
    let letter = low.json(["dead-letters", "sentinel", "--json"]);
    assert!(letter["reason"].as_str().expect("a reason").starts_with("400"), "{letter}");
    site.services.state().poison = None;
    low.run(["dead-letters", "sentinel", "--retry"]).success();
    wait_until(PATIENCE, "the row that was refused", || site.rows().len() as u64 == RECORDS);
    site.assert_all();
}

#[test]
fn secrets_and_tokens_change_without_a_restart() {
    let site = Site::new("sink-dce-secret");
    site.services.state().secret = "another".to_owned();
    // Good for so short that each batch needs another.
    site.services.state().token_life = Duration::from_secs(1);
    let _agents = [site.crossing.pair.low.start(), site.crossing.pair.high.start()];
    site.crossing.send(1..RECORDS + 1);
    wait_until(PATIENCE, "what is wrong in the status", || site.says("AADSTS7000215"));
    site.secret("another\n");
    site.assert_all();
    assert_eq!(site.repeated(), 0);
}

#[test]
fn nothing_is_sent_to_a_rule_that_would_drop_a_column() {
    let site = Site::new("sink-dce-drift");
    // The load generator's messages are Portainer's.
    let stream = "Custom-PortainerAudit_CL";
    let taken = {
        let mut state = site.services.state();
        let columns = state.declared.get_mut(stream).expect("a stream");
        columns.remove("RecordId").expect("a column")
    };
    let low = &site.crossing.pair.low;
    let _agents = [low.start(), site.crossing.pair.high.start()];
    site.crossing.send(1..RECORDS + 1);
    wait_until(PATIENCE, "the column in the status", || site.says("unseen: RecordId;"));
    assert_eq!(site.services.state().bodies, 0);
    let mut state = site.services.state();
    state.declared.get_mut(stream).expect("a stream").insert("RecordId".to_owned(), taken);
    drop(state);
    site.assert_all();
    assert_eq!(site.repeated(), 0);
}

#[test]
fn what_to_do_is_printed_and_a_marked_record_is_taken() {
    let site = Site::new("sink-dce-check");
    let low = &site.crossing.pair.low;
    let text = low.run(["setup", "sentinel", "--print"]).success();
    assert!(text.contains("az deployment group create") && text.contains(RULE), "{text}");
    let done = low.run(["check", "sentinel"]);
    assert_eq!(done.code, Some(0), "{done:?}");
    let row = site.rows().pop().expect("a marked row");
    assert_eq!(row["Origin"], "penstock-check");
    assert!(done.stderr.contains(row["RecordId"].as_str().expect("an id")), "{done:?}");
}
