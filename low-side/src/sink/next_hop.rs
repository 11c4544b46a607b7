//! What `setup` prints for sinks of syslog and Forward: the receiving side's configuration. Nothing can be
//! set up there from here.
//!
//! The texts are the files of `packaging/siem/next-hops`, with the sink's port.

use std::fmt::Write as _;

use super::config::{Body, Confirm, Endpoint, ForwardConfig, Framing, SyslogConfig, Wire};

/// For a syslog sink.
pub(super) fn syslog(config: &SyslogConfig) -> String {
    let mut out = String::new();
    let port = port(&config.endpoint);
    let with_tls = config.endpoint.tls.is_some();
    say(&mut out, "nothing can be set up over syslog from here; this is for the receiver's side");
    match config.body {
        Body::Cef => say(
            &mut out,
            "CEF: ArcSight (SmartConnector \"Syslog Daemon\") and FortiSIEM read it as it comes; the steps are in sinks/syslog.md",
        ),
        Body::Leef => say(
            &mut out,
            "LEEF: a log source of the type \"Universal LEEF\" in QRadar; the steps are in sinks/syslog.md",
        ),
        Body::Json | Body::Original => {}
    }
    match config.wire {
        Wire::Relp { .. } if with_tls => text(&mut out, RSYSLOG_RELP_TLS, "2515", port),
        Wire::Relp { .. } => text(&mut out, RSYSLOG_RELP, "2514", port),
        Wire::Stream { framing, confirm } => {
            if confirm == Confirm::Close {
                say(
                    &mut out,
                    "the receiver must close a connection once we have; one that never does needs confirm = \"write\"",
                );
            }
            if framing == Framing::Lf {
                say(&mut out, "each message ends with a line feed: for Wazuh see sinks/wazuh.md");
            } else if with_tls {
                text(&mut out, RSYSLOG_TLS, "6514", port);
                text(&mut out, SYSLOG_NG, "6514", port);
            } else {
                say(
                    &mut out,
                    "rsyslog: module(load=\"imtcp\") and an input(type=\"imtcp\"); syslog-ng: the driver syslog(), not network()",
                );
            }
        }
    }
    out
}

/// For a sink of the Forward protocol.
pub(super) fn forward(config: &ForwardConfig) -> String {
    let mut out = String::new();
    let port = port(&config.endpoint);
    say(&mut out, "nothing can be set up over Forward from here; this is for the receiver's side");
    if config.endpoint.tls.is_none() {
        say(&mut out, "the sink has no TLS: leave it out there, too");
    }
    if config.shared_key_file.is_none() {
        say(&mut out, "the sink has no shared key: leave it out there, too");
    }
    text(&mut out, FLUENT_BIT, "24224", port);
    text(&mut out, FLUENTD, "24224", port);
    out
}

fn say(out: &mut String, line: &str) {
    // Writing to memory can't fail.
    let _ = writeln!(out, "# {line}");
}

fn text(out: &mut String, text: &str, its_port: &str, port: &str) {
    out.push('\n');
    out.push_str(&text.replace(its_port, port));
}

fn port(endpoint: &Endpoint) -> &str {
    endpoint.address.rsplit_once(':').map_or("", |(_, port)| port)
}

const FLUENT_BIT: &str = include_str!("../../../packaging/siem/next-hops/fluent-bit.conf");
const FLUENTD: &str = include_str!("../../../packaging/siem/next-hops/fluentd.conf");
const RSYSLOG_RELP: &str = include_str!("../../../packaging/siem/next-hops/rsyslog-relp.conf");
const RSYSLOG_RELP_TLS: &str =
    include_str!("../../../packaging/siem/next-hops/rsyslog-relp-tls.conf");
const RSYSLOG_TLS: &str = include_str!("../../../packaging/siem/next-hops/rsyslog-tls.conf");
const SYSLOG_NG: &str = include_str!("../../../packaging/siem/next-hops/syslog-ng.conf");
