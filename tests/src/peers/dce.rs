//! A stand-in of ours for the services behind Microsoft Sentinel, written from the vendor's documents
//! and as strict as they are: "Logs Ingestion API in Azure Monitor" (2026-08-13), "Azure Monitor
//! service limits", "Microsoft identity platform and the OAuth 2.0 client credentials flow", and "Data
//! Collection Rules - Get". Endpoint, authority and resource manager answer at one address.
//!
//! What it keeps of the real ones' traps:
//! - a column that the rule does not declare is dropped, and a value of another type than the column's
//!   becomes nothing, with 204;
//! - a body that is an object and no array is answered with 204, and nothing is kept;
//! - more than 1 MB, compressed or not, is 413; a field of more than 64 KB is cut.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde_json::{Map, Value, json};

use super::{Asked, Certificate, HttpServer, Reply};

/// What happens to one body before the service is itself again.
#[derive(Clone, Copy, Debug)]
pub enum Fault {
    /// None: it is taken.
    Good,
    /// Nothing is taken, and this status is the answer; 429 and 503 with `Retry-After: 0`.
    Status(u16),
    /// Nothing is taken, the connection is reset.
    Reset,
    /// It is taken, and the connection is reset.
    TakenThenReset,
    /// It is taken, and nothing is ever answered.
    TakenThenSilence,
    /// It is taken, and answered with an error.
    TakenThenError,
    /// Nothing is taken: all tokens are revoked.
    Revoked,
}

/// The services.
#[derive(Debug)]
pub struct Dce {
    server: HttpServer,
    state: Arc<Mutex<State>>,
}

/// How they are set, and what they have.
#[derive(Debug)]
pub struct State {
    /// The application's secret.
    pub secret: String,
    /// Whether the application may send to the rule.
    pub may_send: bool,
    /// How long tokens are good.
    pub token_life: Duration,
    /// What the rule declares: name and type of each column, by stream.
    pub declared: BTreeMap<String, BTreeMap<String, String>>,
    /// What happens to the next bodies.
    pub faults: VecDeque<Fault>,
    /// A body that holds this text is refused whole.
    pub poison: Option<String>,
    /// The rows that were kept, by stream.
    pub rows: BTreeMap<String, Vec<Value>>,
    /// Bodies that came, whatever became of them.
    pub bodies: u64,
    /// Tokens that were given, and what for.
    pub tokens: Vec<(String, Instant)>,
    /// Tokens with a lower number are not good any more.
    revoked: usize,
}

impl State {
    fn answer(&mut self, asked: &Asked) -> Reply {
        let (path, query) = asked.path.split_once('?').unwrap_or((&asked.path, ""));
        let parts: Vec<&str> = path.trim_start_matches('/').split('/').collect();
        match (asked.method.as_str(), &parts[..]) {
            ("POST", [TENANT, "oauth2", "v2.0", "token"]) => self.token(asked),
            ("GET", ["subscriptions", ..]) if path == RULE_PATH => self.rule(asked, query),
            ("POST", ["dataCollectionRules", rule, "streams", stream]) => {
                self.ingest(asked, rule, stream, query)
            }
            _ => failure(404, "NotFound"),
        }
    }

    fn token(&mut self, asked: &Asked) -> Reply {
        let form: BTreeMap<String, String> = String::from_utf8_lossy(&asked.body)
            .split('&')
            .filter_map(|pair| pair.split_once('='))
            .map(|(name, value)| (name.to_owned(), decoded(value)))
            .collect();
        let field = |name: &str| form.get(name).map_or("", String::as_str);
        let refused = |status, error: &str, why: &str| {
            let body = json!({ "error": error, "error_description": why });
            Reply::status(status, body.to_string())
        };
        let kind = asked.headers.get("content-type").map_or("", String::as_str);
        if kind != "application/x-www-form-urlencoded"
            || field("grant_type") != "client_credentials"
        {
            return refused(
                400,
                "invalid_request",
                "AADSTS900144: The request body must contain the following parameter: 'grant_type'.",
            );
        }
        if field("client_id") != CLIENT || field("client_secret") != self.secret {
            return refused(
                401,
                "invalid_client",
                "AADSTS7000215: Invalid client secret provided.\r\nTrace ID: 1",
            );
        }
        if ![SCOPE, ARM_SCOPE].contains(&field("scope")) {
            return refused(
                400,
                "invalid_scope",
                "AADSTS70011: The provided value for 'scope' is not valid.",
            );
        }
        self.tokens.push((field("scope").to_owned(), Instant::now()));
        let given = json!({
            "token_type": "Bearer",
            "expires_in": self.token_life.as_secs(),
            "access_token": format!("token-{}", self.tokens.len() - 1),
        });
        Reply::status(200, given.to_string())
    }

    /// Whether the request has a token for this, which is good.
    fn is_authorized(&self, asked: &Asked, scope: &str) -> bool {
        let token = asked.headers.get("authorization");
        let number = token.and_then(|token| token.strip_prefix("Bearer token-"));
        let number: Option<usize> = number.and_then(|number| number.parse().ok());
        number.is_some_and(|number| {
            number >= self.revoked
                && self
                    .tokens
                    .get(number)
                    .is_some_and(|(of, given)| of == scope && given.elapsed() < self.token_life)
        })
    }

    fn rule(&self, asked: &Asked, query: &str) -> Reply {
        if !self.is_authorized(asked, ARM_SCOPE) {
            return failure(401, "InvalidAuthenticationToken");
        }
        if query != "api-version=2023-03-11" {
            return failure(400, "InvalidApiVersionParameter");
        }
        let declarations: Map<String, Value> = self
            .declared
            .iter()
            .map(|(stream, columns)| {
                let columns: Vec<Value> = columns
                    .iter()
                    .map(|(name, kind)| json!({ "name": name, "type": kind }))
                    .collect();
                (stream.clone(), json!({ "columns": columns }))
            })
            .collect();
        let rule =
            json!({ "properties": { "immutableId": RULE, "streamDeclarations": declarations } });
        Reply::status(200, rule.to_string())
    }

    fn ingest(&mut self, asked: &Asked, rule: &str, stream: &str, query: &str) -> Reply {
        self.bodies += 1;
        let fault = self.faults.pop_front();
        match fault {
            Some(Fault::Status(status @ (429 | 503))) => {
                return Reply::Status(status, vec![("retry-after", "0".to_owned())], Vec::new());
            }
            Some(Fault::Status(status)) => return failure(status, "Told"),
            Some(Fault::Reset) => return Reply::Reset,
            Some(Fault::Revoked) => self.revoked = self.tokens.len(),
            _ => {}
        }
        if !self.is_authorized(asked, SCOPE) {
            return failure(401, "InvalidToken");
        }
        if !self.may_send {
            return failure(403, "OperationFailed");
        }
        if query != "api-version=2023-01-01" {
            return failure(400, "InvalidApiVersion");
        }
        if rule != RULE {
            return failure(404, "NotFound");
        }
        let Some(columns) = self.declared.get(stream) else {
            return failure(400, "InvalidStream");
        };
        let header = |name: &str| asked.headers.get(name).map_or("", String::as_str);
        if header("content-type") != "application/json" {
            return failure(415, "UnsupportedMediaType");
        }
        let sent = header("content-length").parse().unwrap_or(usize::MAX);
        if sent.max(asked.body.len()) > CALL_BYTES_MAX {
            return failure(413, "ContentLengthLimitExceeded");
        }
        let text = String::from_utf8_lossy(&asked.body);
        if self.poison.as_ref().is_some_and(|poison| text.contains(poison)) {
            return failure(400, "InvalidRequest");
        }
        let rows = match serde_json::from_slice(&asked.body) {
            Ok(Value::Array(rows)) => rows,
            Ok(_) => return Reply::status(204, ""),
            Err(_) => return failure(400, "InvalidRequest"),
        };
        let rows = rows.into_iter().filter_map(|row| kept(row, columns));
        self.rows.entry(stream.to_owned()).or_default().extend(rows);
        match fault {
            Some(Fault::TakenThenReset) => Reply::Reset,
            Some(Fault::TakenThenSilence) => Reply::Silence,
            Some(Fault::TakenThenError) => failure(500, "InternalServerError"),
            _ => Reply::status(204, ""),
        }
    }
}

/// What the table has of a row.
fn kept(row: Value, columns: &BTreeMap<String, String>) -> Option<Value> {
    let Value::Object(row) = row else { return None };
    let mut kept = Map::new();
    for (name, value) in row {
        let good = match columns.get(&name).map(String::as_str) {
            Some("string") => value.is_string(),
            Some("long" | "int") => value.is_i64(),
            Some("boolean") => value.is_boolean(),
            Some("datetime") => value.as_str().is_some_and(is_datetime),
            Some("dynamic") => true,
            _ => false,
        };
        if !good {
            continue;
        }
        let value = match value {
            Value::String(text) => {
                let cut = text.floor_char_boundary(FIELD_BYTES_MAX);
                text[..cut].into()
            }
            other => other,
        };
        kept.insert(name, value);
    }
    Some(Value::Object(kept))
}

/// ISO 8601 in UTC with at most the seven digits behind the second that a `datetime` has.
fn is_datetime(text: &str) -> bool {
    let digits = text.strip_suffix('Z').and_then(|text| text.split_once('.'));
    text.parse::<jiff::Timestamp>().is_ok() && digits.is_none_or(|(_, digits)| digits.len() <= 7)
}

fn failure(status: u16, code: &str) -> Reply {
    let body =
        json!({ "error": { "code": code, "message": format!("The request failed: {code}.") } });
    Reply::status(status, body.to_string())
}

fn decoded(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let hex: String = rest.by_ref().take(2).map(char::from).collect();
        bytes.extend(u8::from_str_radix(&hex, 16));
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

impl Dce {
    /// Services on a free port, with a rule that declares what a template says.
    ///
    /// # Panics
    /// When the template has no rule.
    pub fn start(certificate: &Certificate, template: &str, secret: &str) -> Self {
        let state = State {
            secret: secret.to_owned(),
            may_send: true,
            token_life: Duration::from_hours(1),
            declared: declared(template),
            faults: VecDeque::new(),
            poison: None,
            rows: BTreeMap::new(),
            bodies: 0,
            tokens: Vec::new(),
            revoked: 0,
        };
        let state = Arc::new(Mutex::new(state));
        let shared = Arc::clone(&state);
        let any = ([127, 0, 0, 1], 0).into();
        let server =
            HttpServer::start_at(any, Some(certificate), move |asked| lock(&shared).answer(asked));
        Self { server, state }
    }

    /// The base URL of endpoint and authority.
    pub fn url(&self) -> String {
        self.server.url()
    }

    /// Where the rule can be read.
    pub fn rule_url(&self) -> String {
        format!("{}{RULE_PATH}", self.server.url())
    }

    /// How they are set and what they have.
    pub fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The streams that the rule in a template declares.
fn declared(template: &str) -> BTreeMap<String, BTreeMap<String, String>> {
    let template: Value = serde_json::from_str(template).expect("a template is JSON");
    let resources = template["resources"].as_array().expect("resources");
    let rule = resources.iter().find(|one| one["type"] == "Microsoft.Insights/dataCollectionRules");
    let streams = &rule.expect("a rule")["properties"]["streamDeclarations"];
    let text = |value: &Value| value.as_str().expect("a text").to_owned();
    let columns = |stream: &Value| {
        let columns = stream["columns"].as_array().expect("columns");
        columns.iter().map(|column| (text(&column["name"]), text(&column["type"]))).collect()
    };
    let streams = streams.as_object().expect("declarations");
    streams.iter().map(|(name, stream)| (name.clone(), columns(stream))).collect()
}

/// The tenant.
pub const TENANT: &str = "contoso.example";
/// The application.
pub const CLIENT: &str = "11111111-0000-0000-0000-000000000000";
/// The rule's immutable id.
pub const RULE: &str = "dcr-00000000000000000000000000000001";
const RULE_PATH: &str =
    "/subscriptions/s/resourceGroups/soc/providers/Microsoft.Insights/dataCollectionRules/penstock";
const SCOPE: &str = "https://monitor.azure.com/.default";
const ARM_SCOPE: &str = "https://management.azure.com/.default";
const CALL_BYTES_MAX: usize = 1_000_000;
const FIELD_BYTES_MAX: usize = 64 << 10;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_declared_is_dropped_unseen() {
        let columns = [("A", "string"), ("N", "long"), ("T", "datetime")];
        let columns = columns.map(|(name, kind)| (name.to_owned(), kind.to_owned())).into();
        let row = json!({ "A": "x".repeat(70_000), "N": "1", "B": 2, "T": "2026-11-23T21:10:19.123456789Z" });
        let kept = kept(row, &columns).unwrap();
        assert_eq!(kept.as_object().unwrap().len(), 1);
        assert_eq!(kept["A"].as_str().unwrap().len(), FIELD_BYTES_MAX);
        assert!(is_datetime("2026-11-23T21:10:19.1234567Z") && !is_datetime("yesterday"));
    }

    #[test]
    fn a_form_is_read() {
        assert_eq!(decoded("s%2B%2F%20x"), "s+/ x");
    }
}
