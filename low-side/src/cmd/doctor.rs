//! `doctor`: everything that is easily got wrong, and a test record; `diode doctor`: the receiving end of
//! each link, from what the kernel and the running agent tell.

use std::net::SocketAddr;
use std::path::Path;

use serde_json::Value;
use shared::doctor::kernel::{Machine, interface_of};
use shared::doctor::{Examined, Level};
use shared::exit;

use super::{Failure, put, put_json};
use crate::cli::DoctorArgs;
use crate::config::Config;
use crate::doctor::diode::{Facts, Traffic, examine};
use crate::doctor::{self, Asked, await_test};
use crate::folders::Folders;
use crate::receiver::config::{DiodeConfig, ReceiverConfig, ReceiverKind};
use crate::status::live;

pub(super) fn doctor(path: &Path, args: &DoctorArgs) -> Result<(), Failure> {
    if let Some(marker) = &args.await_test {
        return await_test(&Config::load(path)?, marker, args);
    }
    let asked = Asked { peer: args.peer.clone(), user: args.user.clone(), archive: args.archive };
    let report = doctor::run(path, asked);
    if args.json {
        put_json(&report)?;
    } else {
        put(&report.to_string())?;
    }
    match report.exit_code() {
        exit::DONE => Ok(()),
        code => Err(Failure::new(code, "")),
    }
}

fn await_test(config: &Config, marker: &str, args: &DoctorArgs) -> Result<(), Failure> {
    let asked = await_test::Asked { marker, within: args.timeout.0, since: args.since.0 };
    let arrived = await_test::wait(config, &asked, &|step| tell!("{step}"))
        .map_err(|why| Failure::new(exit::FAILED, why))?;
    if args.json {
        put_json(&arrived)?;
    } else {
        put(&arrived.to_string())?;
    }
    if arrived.is_everywhere() {
        Ok(())
    } else {
        Err(Failure::new(exit::FAILED, "the test record is not at every sink; see above"))
    }
}

pub(super) fn diode(config: &Config, as_json: bool) -> Result<(), Failure> {
    let links = links(config);
    if links.is_empty() {
        let text = "no [[receiver]] is of type \"udp-diode\"\n  try: the page diode.md";
        return Err(Failure::new(exit::CONFIG, text));
    }
    if as_json {
        put_json(&links)?;
    } else {
        put(&links.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))?;
    }
    if links.iter().any(|link| link.worst() == Level::Fault) {
        return Err(Failure::new(exit::FAILED, "at least one link has a fault; see above"));
    }
    Ok(())
}

/// Every link over which nothing goes back.
pub(crate) fn links(config: &Config) -> Vec<Examined> {
    let machine = Machine::here();
    let live = live(&Folders::of(&config.state_dir));
    let of = |receiver: &ReceiverConfig| {
        let ReceiverKind::UdpDiode(diode) = &receiver.kind else { return None };
        Some(examine(&facts(&machine, live.as_ref(), &receiver.name, diode)))
    };
    config.receivers.iter().filter_map(of).collect()
}

fn facts(machine: &Machine, live: Option<&Value>, name: &str, diode: &DiodeConfig) -> Facts {
    Facts {
        name: name.to_owned(),
        bind: diode.bind,
        receive_buffer_bytes: diode.receive_buffer,
        state_bytes_max: diode.state_bytes_max,
        rmem_max: machine.sysctl("net/core/rmem_max"),
        backlog_max: machine.sysctl("net/core/netdev_max_backlog"),
        socket: machine.udp_socket(diode.bind),
        interface: interface(machine, diode.bind),
        udp: machine.udp_counts(),
        backlog: machine.backlog(),
        traffic: live.and_then(|agent| traffic(agent, name)),
    }
}

fn interface(machine: &Machine, bind: SocketAddr) -> Option<shared::doctor::kernel::Interface> {
    let (name, _) = interface_of(bind.ip(), None)?;
    machine.interface(&name)
}

/// What the running agent's receiver of this name says of itself.
fn traffic(agent: &Value, name: &str) -> Option<Traffic> {
    let receivers = agent["receivers"].as_array()?;
    let receiver = receivers.iter().find(|receiver| receiver["name"] == name)?;
    let details = &receiver["counters"]["details"];
    let counters = details["counters"].as_object()?;
    let count = |field: &str| counters.get(field).and_then(Value::as_u64).unwrap_or(0);
    let lanes = details["lanes"].as_array();
    let bundles = |state: &str| {
        let lanes = lanes.into_iter().flatten();
        lanes.filter_map(|lane| lane["counts"][state].as_u64()).sum()
    };
    Some(Traffic {
        // The kernel doubles what it is asked for, to account for its own structures.
        receive_buffer_bytes: count("socket-buffer-bytes") / 2,
        datagrams: count("datagrams"),
        lost: count("datagrams-lost"),
        socket_drops: count("socket-drops"),
        longest_burst: count("longest-burst"),
        foreign: count("datagrams-foreign"),
        forged: count("datagrams-forged"),
        bytes_per_sec: count("bytes-per-sec"),
        // On average; the longest are not much longer while bundles come.
        datagram_bytes: count("datagram-bytes").checked_div(count("datagrams")).unwrap_or(0),
        silent_secs: details["catalogue"]["age-ms"].as_u64().map(|millis| millis / 1000),
        redundancy_percent: count("redundancy-percent"),
        state_bytes: count("state-bytes"),
        partial: bundles("partial"),
        never_seen: bundles("never-seen"),
        expired: bundles("expired"),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_agents_numbers_are_found() {
        let agent = json!({"receivers": [
            {"name": "folder", "counters": {"details": null}},
            {"name": "diode", "counters": {"details": {
                "catalogue": {"age-ms": 4200},
                "counters": {"datagrams": 7, "datagrams-lost": 2, "socket-buffer-bytes": 2048},
                "lanes": [{"counts": {"partial": 1, "expired": 2}}, {"counts": {"partial": 3}}],
            }}},
        ]});
        let found = traffic(&agent, "diode").unwrap();
        let expected = Traffic {
            receive_buffer_bytes: 1024,
            datagrams: 7,
            lost: 2,
            silent_secs: Some(4),
            partial: 4,
            expired: 2,
            ..Traffic::default()
        };
        assert_eq!(found, expected);
        assert_eq!(traffic(&agent, "folder"), None);
        assert_eq!(traffic(&agent, "absent"), None);
    }
}
