//! The sections `[[listener]]`: sockets.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;
use shared::bundle::RECORD_BYTES_MAX;
use shared::config::{ByteSize, Problems, Span};
use shared::record::{Lane, Stream};

use crate::ingest::{
    ClientAuth, ForwardSettings, HttpSender, Limits, ListenerSettings, Protocol, TlsSettings,
};

use super::http::RawHttp;

/// Whether clients show certificates, as written in the file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum RawClientAuth {
    #[default]
    None,
    Optional,
    Required,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(super) struct RawListener {
    name: String,
    protocol: String,
    bind: String,
    #[serde(default)]
    lane: Option<String>,
    #[serde(default)]
    stream: Option<String>,
    message_bytes_max: Option<ByteSize>,
    connections_max: Option<usize>,
    connections_per_peer_max: Option<usize>,
    idle_timeout: Option<Span>,
    message_timeout: Option<Span>,
    handshake_timeout: Option<Span>,
    receive_buffer: Option<ByteSize>,
    certificate: Option<PathBuf>,
    key: Option<PathBuf>,
    #[serde(default)]
    client_auth: RawClientAuth,
    client_ca: Option<PathBuf>,
    path: Option<String>,
    body_bytes_max: Option<ByteSize>,
    answer_timeout: Option<Span>,
    unwrap: Option<String>,
    shared_key_file: Option<PathBuf>,
    users_file: Option<PathBuf>,
    chunk_bytes_max: Option<ByteSize>,
}

/// Checks every listener, and that they do not get in each other's way.
pub(super) fn check_all(raw: &[RawListener], problems: &mut Problems) -> Vec<ListenerSettings> {
    let mut listeners: Vec<ListenerSettings> = Vec::new();
    for (at, raw) in raw.iter().enumerate() {
        if let Some(listener) = check_listener(raw, at, problems) {
            problems.check(
                listeners.iter().all(|other| other.name != listener.name),
                &format!("listener.{}", listener.name),
                "the name is taken by another listener",
            );
            listeners.push(listener);
        }
    }
    check_addresses(&listeners, problems);
    listeners
}

fn check_listener(
    raw: &RawListener,
    at: usize,
    problems: &mut Problems,
) -> Option<ListenerSettings> {
    let key = |field: &str| {
        let name = if raw.name.is_empty() { format!("#{}", at + 1) } else { raw.name.clone() };
        format!("listener.{name}.{field}")
    };
    let plain = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_' || b == b'.';
    problems.check(
        (1..=32).contains(&raw.name.len()) && raw.name.bytes().all(plain),
        &key("name"),
        "is 1 to 32 letters, digits, '-', '_' or '.'",
    );
    let bind = raw.bind.parse::<SocketAddr>().map_err(|_| {
        problems.add(&key("bind"), "is an address and a port, as 0.0.0.0:6514 or [::]:6514");
    });
    let lane = raw.lane.as_deref().unwrap_or("routine").parse::<Lane>().map_err(|_| {
        problems.add(&key("lane"), "is routine or flash");
    });
    let stream = match raw.stream.as_deref().unwrap_or("auto") {
        "auto" => Ok(None),
        name => name.parse::<Stream>().map(Some).map_err(|_| {
            problems.add(
                &key("stream"),
                "is auto, portainer-auth, portainer-activity, kube-audit, falco or other",
            );
        }),
    };
    let sender = HttpSender::ALL.into_iter().find(|sender| sender.protocol() == raw.protocol);
    // Protocols that speak TLS where there is a certificate, and none where there is not.
    let wants_tls = raw.has_tls_keys() || raw.client_auth != RawClientAuth::None;
    let optional_tls = |problems: &mut Problems| {
        if wants_tls { check_tls(raw, &key, problems).map(Some) } else { Some(None) }
    };
    let protocol = match raw.protocol.as_str() {
        "fluent-forward" => {
            let settings = check_forward(raw, &key, problems);
            optional_tls(problems)
                .map(|tls| Protocol::FluentForward(ForwardSettings { tls, ..settings }))
        }
        "relp" => optional_tls(problems).map(Protocol::Relp),
        "tcp" => Some(Protocol::Tcp),
        "udp" => Some(Protocol::Udp),
        "tls" => check_tls(raw, &key, problems).map(Protocol::Tls),
        _ if sender.is_some() => check_http(raw, sender, &key, problems),
        _ => {
            problems.add(
                &key("protocol"),
                "is udp, tcp, tls, relp, fluent-forward, kube-webhook, falco-http or fluent-http",
            );
            None
        }
    };
    if sender.is_none() {
        raw.http().check(None, &key, problems);
    }
    let wants_clients = raw.client_auth != RawClientAuth::None;
    if matches!(raw.protocol.as_str(), "tcp" | "udp") && wants_clients {
        problems.add(
            &key("client-auth"),
            "protocols \"tcp\" and \"udp\" ask for no certificate: use \"tls\"",
        );
    }
    if matches!(raw.protocol.as_str(), "tcp" | "udp") && raw.has_tls_keys() {
        problems.add(&key("certificate"), "protocols \"tcp\" and \"udp\" use no certificates");
    }
    let forward_keys = [
        ("shared-key-file", raw.shared_key_file.is_some()),
        ("users-file", raw.users_file.is_some()),
        ("chunk-bytes-max", raw.chunk_bytes_max.is_some()),
    ];
    for (field, given) in forward_keys {
        problems.check(
            !given || raw.protocol == "fluent-forward",
            &key(field),
            "is for protocol \"fluent-forward\" only",
        );
    }
    Some(ListenerSettings {
        name: raw.name.clone(),
        limits: check_limits(raw, &key, problems),
        bind: bind.ok()?,
        protocol: protocol?,
        lane: lane.ok()?,
        stream: stream.ok()?,
    })
}

impl RawListener {
    fn has_tls_keys(&self) -> bool {
        self.certificate.is_some() || self.key.is_some() || self.client_ca.is_some()
    }

    fn http(&self) -> RawHttp {
        RawHttp {
            path: self.path.clone(),
            body_bytes_max: self.body_bytes_max,
            answer_timeout: self.answer_timeout,
            unwrap: self.unwrap.clone(),
        }
    }
}

/// HTTP speaks TLS where it has a certificate.
fn check_http(
    raw: &RawListener,
    sender: Option<HttpSender>,
    key: &impl Fn(&str) -> String,
    problems: &mut Problems,
) -> Option<Protocol> {
    let mut settings = raw.http().check(sender, key, problems)?;
    if raw.has_tls_keys() || raw.client_auth != RawClientAuth::None {
        settings.tls = Some(check_tls(raw, key, problems)?);
    }
    Some(Protocol::Http(settings))
}

fn check_limits(
    raw: &RawListener,
    key: &impl Fn(&str) -> String,
    problems: &mut Problems,
) -> Limits {
    let mut limits = Limits::default();
    if let Some(ByteSize(bytes)) = raw.message_bytes_max {
        limits.message_bytes_max = bytes as usize;
        problems.check(
            (480..=RECORD_BYTES_MAX).contains(&bytes),
            &key("message-bytes-max"),
            "is from 480B (RFC 5424 section 6.1) to 16MiB",
        );
    }
    if let Some(count) = raw.connections_max {
        limits.connections_max = count;
        problems.check(count > 0, &key("connections-max"), "must not be 0");
    }
    if let Some(count) = raw.connections_per_peer_max {
        limits.connections_per_peer_max = count;
        problems.check(count > 0, &key("connections-per-peer-max"), "must not be 0");
    }
    if let Some(ByteSize(bytes)) = raw.receive_buffer {
        limits.receive_buffer_bytes = bytes as usize;
        problems.check(bytes <= 1 << 30, &key("receive-buffer"), "is at most 1GiB");
    }
    let mut time = |field: &str, value: Option<Span>, limit: &mut Duration| {
        if let Some(Span(value)) = value {
            *limit = value;
            problems.check(!value.is_zero(), &key(field), "must not be 0");
        }
    };
    time("idle-timeout", raw.idle_timeout, &mut limits.idle_timeout);
    time("message-timeout", raw.message_timeout, &mut limits.message_timeout);
    time("handshake-timeout", raw.handshake_timeout, &mut limits.handshake_timeout);
    limits
}

fn check_tls(
    raw: &RawListener,
    key: &impl Fn(&str) -> String,
    problems: &mut Problems,
) -> Option<TlsSettings> {
    let mut file = |field: &str, path: &Option<PathBuf>| {
        match path {
            None => problems.add(&key(field), "is needed for TLS"),
            Some(path) if !path.is_file() => {
                problems
                    .add(&key(field), format!("{} is no file that can be read", path.display()));
            }
            Some(_) => {}
        }
        path.clone()
    };
    let certificate = file("certificate", &raw.certificate);
    let key_file = file("key", &raw.key);
    let client_auth = match raw.client_auth {
        RawClientAuth::None => Some(ClientAuth::None),
        RawClientAuth::Optional => file("client-ca", &raw.client_ca).map(ClientAuth::Optional),
        RawClientAuth::Required => file("client-ca", &raw.client_ca).map(ClientAuth::Required),
    };
    if raw.client_auth == RawClientAuth::None && raw.client_ca.is_some() {
        problems
            .add(&key("client-auth"), "is none, but client-ca is given: say optional or required");
    }
    Some(TlsSettings { certificate: certificate?, key: key_file?, client_auth: client_auth? })
}

fn check_forward(
    raw: &RawListener,
    key: &impl Fn(&str) -> String,
    problems: &mut Problems,
) -> ForwardSettings {
    for (field, path) in
        [("shared-key-file", &raw.shared_key_file), ("users-file", &raw.users_file)]
    {
        if let Some(path) = path.as_ref().filter(|path| !path.is_file()) {
            problems.add(&key(field), format!("{} is no file that can be read", path.display()));
        }
    }
    problems.check(
        raw.users_file.is_none() || raw.shared_key_file.is_some(),
        &key("users-file"),
        "needs shared-key-file: only clients that share a key are asked for a password",
    );
    let chunk_bytes_max =
        raw.chunk_bytes_max.map_or(ForwardSettings::CHUNK_BYTES_MAX, |ByteSize(bytes)| bytes);
    problems.check(
        (CHUNK_BYTES_LEAST..=CHUNK_BYTES_MOST).contains(&chunk_bytes_max),
        &key("chunk-bytes-max"),
        "is from 64KiB to 1GiB",
    );
    ForwardSettings {
        tls: None,
        shared_key: raw.shared_key_file.clone(),
        users: raw.users_file.clone(),
        chunk_bytes_max,
    }
}

/// Below it clients with their defaults would never get a chunk through.
const CHUNK_BYTES_LEAST: u64 = 64 << 10;
/// Chunks are not held in memory; this bounds how much is sent again when one fails.
const CHUNK_BYTES_MOST: u64 = 1 << 30;

/// UDP listeners and those of TCP and TLS share one space of ports each.
fn check_addresses(listeners: &[ListenerSettings], problems: &mut Problems) {
    let is_udp = |listener: &ListenerSettings| matches!(listener.protocol, Protocol::Udp);
    for (at, listener) in listeners.iter().enumerate() {
        let clash = listeners[..at].iter().find(|other| {
            let (ours, theirs) = (listener.bind.ip(), other.bind.ip());
            // An address that stands for all of them leaves the port to nobody else.
            let same = ours == theirs || ours.is_unspecified() || theirs.is_unspecified();
            same && other.bind.port() == listener.bind.port()
                && listener.bind.port() != 0
                && is_udp(other) == is_udp(listener)
        });
        if let Some(other) = clash {
            problems.add(
                &format!("listener.{}.bind", listener.name),
                format!("{} is taken by listener {}", listener.bind, other.name),
            );
        }
    }
}
