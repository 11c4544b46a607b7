//! What stands between a sink and a server that speaks the bulk API: it hands requests on, and
//! misbehaves as told. It also stands in for what the servers do not have.
//!
//! - Faults of a bulk: [`Fault`].
//! - `PUT _ilm/policy`, `PUT` and `GET _plugins/_ism/policies` and `POST _security/api_key` take only
//!   what the documents allow: phases and actions of the right phase
//!   (<https://www.elastic.co/docs/reference/elasticsearch/index-lifecycle-actions/>), states that are
//!   reached (<https://docs.opensearch.org/latest/im-plugin/ism/policies/>), known privileges
//!   (<https://www.elastic.co/docs/reference/elasticsearch/security-privileges>).
//! - `POST _security/user/_has_privileges` answers as Elastic's "Check user privileges" says.
//! - A bulk without a body is 400.
//! - `PUT _ingest/pipeline`, the final pipeline that an index gets by its template or by `PUT _settings`,
//!   and what it does to documents: in `pipelines`.
//! - Where credentials are set, a request without one of them is answered with 401.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde_json::{Value, json};

use super::client;
use super::pipelines::Pipelines;
use super::{Asked, Certificate, HttpServer, Reply};
use crate::wait::PATIENCE;

/// What happens to one bulk before all is well again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Nothing: it is handed on.
    Good,
    /// Only the first half of the items is handed on; the others are answered with this status.
    HalfOfItems(u16),
    /// Every item is answered with this status, nothing is handed on.
    Items(u16),
    /// Nothing is handed on, the connection is reset.
    Reset,
    /// Nothing is handed on, this is the answer.
    Status(u16),
    /// It is handed on, and the connection is reset.
    TakenThenReset,
    /// It is handed on, and nothing is ever answered.
    TakenThenSilence,
    /// It is handed on, and half of the answer comes.
    TakenThenTorn,
    /// It is handed on, and the answer lacks its last item.
    TakenThenTooFew,
}

/// A running proxy.
#[derive(Debug)]
pub struct BulkProxy {
    server: HttpServer,
    state: Arc<Mutex<State>>,
}

/// How it is set, and what it has seen.
#[derive(Debug, Default)]
pub struct State {
    /// What happens to the next bulks.
    pub faults: VecDeque<Fault>,
    /// What happens to each bulk behind these, until it is unset.
    pub always: Option<Fault>,
    /// A longer bulk is answered with 413.
    pub body_max: Option<usize>,
    /// A document that holds one of these is handed on with a time that is none.
    pub poison: Vec<String>,
    /// A document that holds one of these is not handed on: its index is closed to writers, and answers so.
    pub closed: Vec<String>,
    /// What the settings of all indices say of their blocks; without it, asking for them is not allowed.
    pub blocks: Option<Value>,
    /// What the header `Authorization` may say; anything where it is empty.
    pub authorizations: BTreeSet<String>,
    /// Privileges that nobody who asks about himself has.
    pub lacking: BTreeSet<String>,
    /// Bulks that came.
    pub bulks: u64,
    /// Items of the bulks that were handed on.
    pub items: u64,
    /// Policies that were put, by their paths, and how often.
    pub policies: BTreeMap<String, (u64, Value)>,
    /// The bodies of requests for API keys.
    pub keys: Vec<Value>,
    /// What is done to documents on their way in.
    pub pipelines: Pipelines,
}

impl BulkProxy {
    /// Stands in front of a server.
    ///
    /// # Panics
    /// When the address or the certificate can't be used.
    pub fn start(
        address: SocketAddr,
        certificate: Option<&Certificate>,
        upstream: SocketAddr,
    ) -> Self {
        let state = Arc::new(Mutex::new(State::default()));
        let shared = Arc::clone(&state);
        let server = HttpServer::start_at(address, certificate, move |asked| {
            answer(&shared, upstream, asked)
        });
        Self { server, state }
    }

    /// Its base URL.
    pub fn url(&self) -> String {
        self.server.url()
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.server.address()
    }

    /// How it is set, and what it has seen.
    pub fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

fn answer(state: &Mutex<State>, upstream: SocketAddr, asked: &Asked) -> Reply {
    let path = asked.path.split('?').next().unwrap_or_default().to_owned();
    {
        let state = lock(state);
        let given = asked.headers.get("authorization");
        let known = given.is_some_and(|given| state.authorizations.contains(given));
        if !state.authorizations.is_empty() && !known {
            return error(401, "security_exception", "missing or unknown credentials");
        }
    }
    match (asked.method.as_str(), path.as_str()) {
        ("POST", "/_bulk") => bulk(state, upstream, asked),
        ("POST", "/_security/user/_has_privileges") => privileges(&lock(state), asked),
        ("POST", "/_security/api_key") => api_key(&mut lock(state), asked),
        ("GET", path) if path.contains("/_settings/") => match &lock(state).blocks {
            Some(blocks) => Reply::status(200, blocks.to_string()),
            None => error(403, "security_exception", "unauthorized"),
        },
        (_, path) if path.starts_with("/_ilm/policy/") => ilm(&mut lock(state), path, asked),
        (_, path) if path.starts_with("/_plugins/_ism/policies/") => {
            ism(&mut lock(state), path, asked)
        }
        (_, path) if path.starts_with("/_ingest/pipeline/") => {
            lock(state).pipelines.put(path, asked)
        }
        ("PUT", path) if path.starts_with("/_index_template/") => {
            let template = lock(state).pipelines.template(path, asked);
            // The servers behind know no pipelines, and refuse what names one.
            match template {
                Ok(body) => hand_on(upstream, asked, body.as_bytes()),
                Err(reply) => reply,
            }
        }
        (_, path) if path.ends_with("/_settings") => lock(state).pipelines.settings(path, asked),
        _ => hand_on(upstream, asked, &asked.body),
    }
}

fn bulk(state: &Mutex<State>, upstream: SocketAddr, asked: &Asked) -> Reply {
    assert_eq!(asked.headers["content-type"], "application/x-ndjson");
    if asked.body.is_empty() {
        return error(400, "parse_exception", "request body is required");
    }
    let (fault, body_max, poison, closed) = {
        let mut state = lock(state);
        state.bulks += 1;
        let fault = state.faults.pop_front().or(state.always);
        (fault.unwrap_or(Fault::Good), state.body_max, state.poison.clone(), state.closed.clone())
    };
    if body_max.is_some_and(|most| asked.body.len() > most) {
        return Reply::status(413, "<html>413 Request Entity Too Large</html>");
    }
    let lines: Vec<&[u8]> = asked.body.split_inclusive(|byte| *byte == b'\n').collect();
    let items = lines.len() / 2;
    let taken = match fault {
        Fault::Reset => return Reply::Reset,
        Fault::Status(status) => return Reply::status(status, "not now"),
        Fault::Items(_) => 0,
        Fault::HalfOfItems(_) => items / 2,
        _ => items,
    };
    let mut answers = Vec::new();
    if taken > 0 {
        // Of each item what goes on; or what the block of its index, as of an aged month, or its pipeline says.
        let fates: Vec<Result<Vec<u8>, Value>> = {
            let mut state = lock(state);
            let mut fate = |pair: &[&[u8]]| {
                let text = String::from_utf8_lossy(pair[1]);
                if closed.iter().any(|closed| text.contains(closed)) {
                    return Err(
                        json!({"create": {"status": 403, "error": {"type": "cluster_block_exception",
                        "reason": "index [x-2026.08] blocked by: [FORBIDDEN/8/index write (api)];"}}}),
                    );
                }
                state.pipelines.run(pair[0], &poisoned(pair[1], &poison))
            };
            lines[..2 * taken].chunks(2).map(&mut fate).collect()
        };
        let on: Vec<&[u8]> = fates.iter().flatten().map(Vec::as_slice).collect();
        let mut there = Vec::new();
        if !on.is_empty() {
            let Reply::Status(200, _, body) = hand_on(upstream, asked, &on.concat()) else {
                return Reply::status(502, "the server behind gave no good answer");
            };
            let answer: Value = serde_json::from_slice(&body).unwrap_or_default();
            there = answer["items"].as_array().cloned().unwrap_or_default();
        }
        lock(state).items += taken as u64;
        let mut there = there.into_iter();
        for fate in &fates {
            match fate {
                Ok(_) => answers.extend(there.next()),
                Err(refused) => answers.push(refused.clone()),
            }
        }
    }
    if let Fault::Items(status) | Fault::HalfOfItems(status) = fault {
        let kind = match status {
            429 => "es_rejected_execution_exception",
            503 => "unavailable_shards_exception",
            _ => "security_exception",
        };
        let refused =
            json!({"create": {"status": status, "error": {"type": kind, "reason": "so"}}});
        answers.resize(items, refused);
    }
    if fault == Fault::TakenThenTooFew {
        answers.pop();
    }
    let body = json!({"errors": true, "items": answers}).to_string();
    match fault {
        Fault::TakenThenReset => Reply::Reset,
        Fault::TakenThenSilence => Reply::Silence,
        Fault::TakenThenTorn => Reply::Torn(200, body.as_bytes()[..body.len() / 2].to_vec()),
        _ => Reply::Status(200, vec![("content-type", JSON.to_owned())], body.into_bytes()),
    }
}

/// A line, its time made one that is none where it is to be refused.
fn poisoned<'l>(line: &'l [u8], poison: &[String]) -> Cow<'l, [u8]> {
    let text = String::from_utf8_lossy(line);
    if poison.iter().any(|poison| text.contains(poison)) {
        text.replacen("{\"@timestamp\":\"", "{\"@timestamp\":\"no ", 1).into_bytes().into()
    } else {
        line.into()
    }
}

fn hand_on(upstream: SocketAddr, asked: &Asked, body: &[u8]) -> Reply {
    let kind = asked.headers.get("content-type").map_or(JSON, String::as_str);
    let headers = format!("content-type: {kind}\r\n");
    match client::ask(upstream, &asked.method, &asked.path, &headers, body, PATIENCE) {
        Ok(answer) => {
            Reply::Status(answer.status, vec![("content-type", JSON.to_owned())], answer.body)
        }
        Err(err) => Reply::status(502, err.to_string()),
    }
}

pub(super) fn error(status: u16, kind: &str, reason: &str) -> Reply {
    let cause = json!({"type": kind, "reason": reason});
    Reply::status(status, json!({"error": cause, "status": status}).to_string())
}

pub(super) fn parsed(asked: &Asked) -> Result<Value, Reply> {
    if asked.headers.get("content-type").map(String::as_str) != Some(JSON) {
        return Err(error(406, "media_type_header_exception", "no content type"));
    }
    serde_json::from_slice(&asked.body)
        .map_err(|err| error(400, "x_content_parse_exception", &err.to_string()))
}

/// The only keys of an object; what is wrong otherwise.
pub(super) fn only(value: &Value, keys: &[&str]) -> Result<(), String> {
    let object = value.as_object().ok_or_else(|| format!("no object: {value}"))?;
    match object.keys().find(|key| !keys.contains(&key.as_str())) {
        Some(key) => Err(format!("unknown field [{key}]")),
        None => Ok(()),
    }
}

/// A span as `90d`.
fn span(value: &Value) -> Result<(), String> {
    let text = value.as_str().unwrap_or_default();
    let digits = text.trim_end_matches(|char: char| char.is_ascii_lowercase());
    let unit = &text[digits.len()..];
    let good = digits.parse::<u64>().is_ok() && ["d", "h", "m", "s", "ms"].contains(&unit);
    good.then_some(()).ok_or_else(|| format!("failed to parse [{value}] as a time value"))
}

fn ilm(state: &mut State, path: &str, asked: &Asked) -> Reply {
    if asked.method != "PUT" {
        return error(405, "illegal_argument_exception", "only PUT stands in here");
    }
    let policy = match parsed(asked) {
        Ok(policy) => policy,
        Err(reply) => return reply,
    };
    if let Err(problem) = check_ilm(&policy) {
        return error(400, "illegal_argument_exception", &problem);
    }
    let kept = state.policies.entry(path.to_owned()).or_default();
    *kept = (kept.0 + 1, policy);
    Reply::status(200, "{\"acknowledged\":true}")
}

fn check_ilm(body: &Value) -> Result<(), String> {
    only(body, &["policy"])?;
    only(&body["policy"], &["phases", "_meta"])?;
    let phases = body["policy"]["phases"].as_object().ok_or("no phases")?;
    for (phase, content) in phases {
        let allowed: &[&str] = match phase.as_str() {
            "hot" => &[
                "set_priority",
                "unfollow",
                "rollover",
                "readonly",
                "downsample",
                "shrink",
                "forcemerge",
                "searchable_snapshot",
            ],
            "warm" => &[
                "set_priority",
                "unfollow",
                "readonly",
                "downsample",
                "allocate",
                "migrate",
                "shrink",
                "forcemerge",
            ],
            "cold" => &[
                "set_priority",
                "unfollow",
                "readonly",
                "downsample",
                "searchable_snapshot",
                "allocate",
                "migrate",
            ],
            "frozen" => &["unfollow", "searchable_snapshot"],
            "delete" => &["wait_for_snapshot", "delete"],
            other => return Err(format!("no phase [{other}]")),
        };
        only(content, &["min_age", "actions"])?;
        span(&content["min_age"])?;
        only(&content["actions"], allowed)?;
        let actions = content["actions"].as_object().ok_or("no actions")?;
        // In the hot phase these need a rollover before them.
        let needs =
            ["readonly", "forcemerge", "shrink"].iter().any(|name| actions.contains_key(*name));
        if phase == "hot" && needs && !actions.contains_key("rollover") {
            return Err("the [rollover] action is required".to_owned());
        }
        for (action, options) in actions {
            let keys: &[&str] = match action.as_str() {
                "set_priority" => &["priority"],
                "forcemerge" => &["max_num_segments", "index_codec"],
                _ => continue,
            };
            only(options, keys)?;
            for key in &keys[..1] {
                options[*key].as_u64().ok_or_else(|| format!("[{key}] is needed"))?;
            }
        }
    }
    Ok(())
}

fn ism(state: &mut State, path: &str, asked: &Asked) -> Reply {
    let known = state.policies.get(path).cloned();
    if asked.method == "GET" {
        return match known {
            None => error(404, "status_exception", "Policy not found"),
            Some((times, policy)) => {
                let body = json!({"_id": path, "_version": times, "_seq_no": times + 6, "_primary_term": 1, "policy": policy["policy"]});
                Reply::status(200, body.to_string())
            }
        };
    }
    let query = asked.path.split_once('?').map_or("", |(_, query)| query);
    let expected = known
        .as_ref()
        .map_or(String::new(), |(times, _)| format!("if_seq_no={}&if_primary_term=1", times + 6));
    if query != expected {
        return error(409, "version_conflict_engine_exception", "document already exists");
    }
    let policy = match parsed(asked) {
        Ok(policy) => policy,
        Err(reply) => return reply,
    };
    if let Err(problem) = check_ism(&policy) {
        return error(400, "illegal_argument_exception", &problem);
    }
    let times = known.map_or(0, |(times, _)| times);
    state.policies.insert(path.to_owned(), (times + 1, policy));
    Reply::status(201, "{}")
}

fn check_ism(body: &Value) -> Result<(), String> {
    only(body, &["policy"])?;
    let policy = &body["policy"];
    only(
        policy,
        &["description", "default_state", "states", "ism_template", "error_notification"],
    )?;
    let states = policy["states"].as_array().ok_or("no states")?;
    let names: BTreeSet<&str> = states.iter().filter_map(|state| state["name"].as_str()).collect();
    if names.len() != states.len()
        || !names.contains(policy["default_state"].as_str().unwrap_or(""))
    {
        return Err("states need names of their own, and one is the default".to_owned());
    }
    for state in states {
        only(state, &["name", "actions", "transitions"])?;
        for action in state["actions"].as_array().ok_or("no actions")? {
            only(
                action,
                &["read_only", "force_merge", "index_priority", "rollover", "delete", "close"],
            )?;
            if let Some(options) = action.get("force_merge") {
                options["max_num_segments"].as_u64().ok_or("max_num_segments")?;
            }
            if let Some(options) = action.get("index_priority") {
                options["priority"].as_u64().ok_or("priority")?;
            }
        }
        for transition in state["transitions"].as_array().ok_or("no transitions")? {
            only(transition, &["state_name", "conditions"])?;
            if !names.contains(transition["state_name"].as_str().unwrap_or("")) {
                return Err("a transition to a state that is none".to_owned());
            }
            only(
                &transition["conditions"],
                &["min_index_age", "min_doc_count", "min_size", "min_rollover_age", "cron"],
            )?;
            span(&transition["conditions"]["min_index_age"])?;
        }
    }
    for template in policy["ism_template"].as_array().ok_or("no ism_template")? {
        only(template, &["index_patterns", "priority"])?;
        template["index_patterns"].as_array().ok_or("no index_patterns")?;
    }
    Ok(())
}

fn privileges(state: &State, asked: &Asked) -> Reply {
    let body = match parsed(asked) {
        Ok(body) => body,
        Err(reply) => return reply,
    };
    let texts = |value: &Value| -> Vec<String> {
        let list = value.as_array().into_iter().flatten().filter_map(Value::as_str);
        list.map(str::to_owned).collect()
    };
    let wanted = &body["index"][0];
    let privileges: BTreeMap<String, bool> = texts(&wanted["privileges"])
        .into_iter()
        .map(|name| (name.clone(), !state.lacking.contains(&name)))
        .collect();
    let has_all = privileges.values().all(|has| *has);
    let index: BTreeMap<String, &BTreeMap<String, bool>> =
        texts(&wanted["names"]).into_iter().map(|name| (name, &privileges)).collect();
    let body = json!({"username": "penstock", "has_all_requested": has_all, "cluster": {}, "index": index, "application": {}});
    Reply::status(200, body.to_string())
}

fn api_key(state: &mut State, asked: &Asked) -> Reply {
    let body = match parsed(asked) {
        Ok(body) => body,
        Err(reply) => return reply,
    };
    match check_api_key(&body) {
        Ok(()) => {
            state.keys.push(body);
            // "id:key" and its encoded form.
            Reply::status(200, "{\"id\":\"id\",\"api_key\":\"key\",\"encoded\":\"aWQ6a2V5\"}")
        }
        Err(problem) => error(400, "action_request_validation_exception", &problem),
    }
}

fn check_api_key(body: &Value) -> Result<(), String> {
    only(body, &["name", "expiration", "role_descriptors", "metadata"])?;
    body["name"].as_str().filter(|name| !name.is_empty()).ok_or("api key name is required")?;
    for role in body["role_descriptors"].as_object().ok_or("no role_descriptors")?.values() {
        only(role, &["cluster", "indices", "applications", "run_as", "metadata"])?;
        for index in role["indices"].as_array().ok_or("no indices")? {
            only(index, &["names", "privileges", "field_security", "query"])?;
            for privilege in index["privileges"].as_array().ok_or("no privileges")? {
                let known = [
                    "all",
                    "auto_configure",
                    "create",
                    "create_doc",
                    "create_index",
                    "delete",
                    "index",
                    "manage",
                    "monitor",
                    "read",
                    "view_index_metadata",
                    "write",
                ];
                if !known.contains(&privilege.as_str().unwrap_or("")) {
                    return Err(format!("unknown index privilege [{privilege}]"));
                }
            }
        }
    }
    Ok(())
}

const JSON: &str = "application/json";
