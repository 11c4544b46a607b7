//! The sections `[[portainer-api]]`: Portainers that are asked what syslog lost.

use std::path::PathBuf;

use serde::Deserialize;
use shared::config::{Problems, Span};
use shared::record::Lane;

use crate::ingest::ListenerSettings;
use crate::reconcile::{ApiUrl, PORTAINER_KEEPS, PortainerApi};

#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(super) struct RawPortainerApi {
    name: String,
    url: String,
    api_key_file: PathBuf,
    ca: Option<PathBuf>,
    #[serde(default = "routine")]
    lane: String,
    #[serde(default = "interval")]
    interval: Span,
    #[serde(default = "overlap")]
    overlap: Span,
    #[serde(default = "settle")]
    settle: Span,
    #[serde(default = "tolerance")]
    tolerance: Span,
    #[serde(default = "timeout")]
    timeout: Span,
    #[serde(default = "page_size")]
    page_size: u32,
    #[serde(default = "alarm_after")]
    alarm_after: Span,
    #[serde(default)]
    send_api_key_unencrypted_over_the_network: bool,
}

fn routine() -> String {
    "routine".to_owned()
}

/// A day's worth of chances before anything is lost, at the price of one request in a quiet hour.
fn interval() -> Span {
    Span::secs(3600)
}

/// Longer than any clock is set back by hand, and cheap.
fn overlap() -> Span {
    Span::secs(600)
}

/// Longer than syslog takes; a relay with a buffer needs more.
fn settle() -> Span {
    Span::secs(60)
}

/// Whole seconds, and a sender that is a little slow to stamp them.
fn tolerance() -> Span {
    Span::secs(5)
}

fn timeout() -> Span {
    Span::secs(30)
}

/// Half a megabyte, unless payloads are large.
fn page_size() -> u32 {
    500
}

/// Six more days are left then to mend it.
fn alarm_after() -> Span {
    Span::secs(24 * 3600)
}

/// Checks every section. Names stand with records as those of listeners do, and must differ from them.
pub(super) fn check_all(
    raw: &[RawPortainerApi],
    listeners: &[ListenerSettings],
    problems: &mut Problems,
) -> Vec<PortainerApi> {
    let mut apis: Vec<PortainerApi> = Vec::new();
    for (at, raw) in raw.iter().enumerate() {
        let name = if raw.name.is_empty() { format!("#{}", at + 1) } else { raw.name.clone() };
        let key = |field: &str| format!("portainer-api.{name}.{field}");
        let taken = apis.iter().any(|other| other.name == raw.name)
            || listeners.iter().any(|listener| listener.name == raw.name);
        problems.check(!taken, &key("name"), "is taken by another section or listener");
        apis.extend(check(raw, &key, problems));
    }
    apis
}

fn check(
    raw: &RawPortainerApi,
    key: &impl Fn(&str) -> String,
    problems: &mut Problems,
) -> Option<PortainerApi> {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_' || b == b'.';
    problems.check(
        (1..=32).contains(&raw.name.len()) && raw.name.bytes().all(plain),
        &key("name"),
        "is 1 to 32 letters, digits, '-', '_' or '.'",
    );
    let url = ApiUrl::parse(&raw.url).map_err(|problem| problems.add(&key("url"), problem)).ok();
    if let Some(url) = &url {
        check_trust(raw, url, key, problems);
    }
    let mut file = |field: &str, path: &PathBuf| {
        problems.check(
            path.is_file(),
            &key(field),
            format!("{} is no file that can be read", path.display()),
        );
    };
    file("api-key-file", &raw.api_key_file);
    if let Some(ca) = &raw.ca {
        file("ca", ca);
    }
    let lane = raw
        .lane
        .parse::<Lane>()
        .map_err(|_| problems.add(&key("lane"), "is routine or flash"))
        .ok();
    let (second, day) = (Span::secs(1), Span::secs(24 * 3600));
    for (field, value, least, most, problem) in [
        ("interval", raw.interval, second, day, "is 1s to 1d: Portainer forgets after 7 days"),
        ("overlap", raw.overlap, Span::secs(0), day, "is at most 1d"),
        ("settle", raw.settle, Span::secs(0), day, "is at most 1d: Portainer forgets after 7 days"),
        ("tolerance", raw.tolerance, Span::secs(0), Span::secs(60), "is at most 60s"),
        ("timeout", raw.timeout, second, Span::secs(600), "is 1s to 10m"),
        ("alarm-after", raw.alarm_after, second, Span(PORTAINER_KEEPS), "is 1s to 7d"),
    ] {
        problems.check((least..=most).contains(&value), &key(field), problem);
    }
    problems.check(
        (1..=10_000).contains(&raw.page_size),
        &key("page-size"),
        "is 1 to 10000: an answer of more than 32 MiB is not read",
    );
    Some(PortainerApi {
        name: raw.name.clone(),
        url: url?,
        api_key_file: raw.api_key_file.clone(),
        ca: raw.ca.clone(),
        lane: lane?,
        interval: raw.interval.0,
        overlap: raw.overlap.0,
        settle: raw.settle.0,
        tolerance: raw.tolerance.0,
        timeout: raw.timeout.0,
        page_size: raw.page_size,
        alarm_after: raw.alarm_after.0,
    })
}

/// The API key of an administrator must reach Portainer and nobody else.
fn check_trust(
    raw: &RawPortainerApi,
    url: &ApiUrl,
    key: &impl Fn(&str) -> String,
    problems: &mut Problems,
) {
    if url.tls {
        problems.check(
            raw.ca.is_some(),
            &key("ca"),
            "is needed: the authority that issued Portainer's certificate, or the certificate itself if it signed itself",
        );
    } else {
        problems.check(
            url.is_loopback() || raw.send_api_key_unencrypted_over_the_network,
            &key("url"),
            "is plain http to another machine: everybody between could take the API key of an administrator; use https",
        );
        problems.check(raw.ca.is_none(), &key("ca"), "is of no use with plain http");
    }
}
