//! `doctor`: everything that is easily got wrong, and a test record; `diode doctor`: the sending end of
//! each link, from what the kernel and the running agent tell.

use std::net::UdpSocket;
use std::path::Path;

use nix::sys::socket::{setsockopt, sockopt};
use serde_json::Value;
use shared::clock::{Clock, SystemClock};
use shared::doctor::kernel::{Machine, interface_of, source_for};
use shared::doctor::{Examined, Level};
use shared::exit;

use super::Failure;
use crate::agent::read_live;
use crate::cli::DoctorArgs;
use crate::config::{CarrierKind, CarrierSettings, Config, DiodeSettings};
use crate::doctor::diode::{Facts, examine};
use crate::doctor::{self, Asked, test_record};

pub(super) fn doctor(path: &Path, args: &DoctorArgs) -> Result<(), Failure> {
    if args.send_test {
        return send_test(&Config::load(path)?, args);
    }
    let asked = Asked {
        peer: args.peer.clone(),
        courier_every: args.courier_every.map(|every| every.0),
        user: args.user.clone(),
    };
    let report = doctor::run(path, asked);
    if args.json {
        say!("{}", serde_json::to_string(&report).map_err(Failure::new)?);
    } else {
        say!("{}", report.to_string().trim_end());
    }
    match report.exit_code() {
        exit::DONE => Ok(()),
        code => Err(Failure { message: String::new(), code }),
    }
}

fn send_test(config: &Config, args: &DoctorArgs) -> Result<(), Failure> {
    let client = args.client_cert.clone().zip(args.client_key.clone());
    let asked = test_record::Asked { listener: args.listener.clone(), client };
    let sent = test_record::send(config, &asked, &|step| tell!("{step}"))?;
    if args.json {
        say!("{}", sent.to_json());
    } else {
        say!("{}", sent.marker);
    }
    tell!("on the low side: penstock-low doctor --await-test {}", sent.marker);
    Ok(())
}

pub(super) fn diode(config: &Config, as_json: bool) -> Result<(), Failure> {
    let links = links(config);
    if links.is_empty() {
        let text = "no [[carrier]] is of type \"udp-diode\"\n  try: the page diode.md";
        return Err(Failure::config(text));
    }
    if as_json {
        say!("{}", serde_json::to_string(&links).map_err(Failure::new)?);
    } else {
        say!("{}", links.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n").trim_end());
    }
    if links.iter().any(|link| link.worst() == Level::Fault) {
        return Err(Failure::new("at least one link has a fault; see above"));
    }
    Ok(())
}

/// Every link over which nothing comes back.
pub(crate) fn links(config: &Config) -> Vec<Examined> {
    let machine = Machine::here();
    let live = read_live(&config.state_dir, SystemClock.now()).map(|live| live.0);
    let of = |carrier: &CarrierSettings| {
        let CarrierKind::UdpDiode(diode) = &carrier.kind else { return None };
        Some(examine(&facts(&machine, live.as_ref(), &carrier.name, diode)))
    };
    config.carriers.iter().filter_map(of).collect()
}

fn facts(machine: &Machine, live: Option<&Value>, name: &str, diode: &DiodeSettings) -> Facts {
    let source = source_for(diode.to, diode.bind).map_err(|err| err.to_string());
    let interface = source.as_ref().ok().and_then(|source| {
        let (name, direct) = interface_of(*source, Some(diode.to.ip()))?;
        Some((machine.interface(&name)?, direct))
    });
    let carrier = live.and_then(|agent| {
        let carriers = agent["carriers"].as_array()?;
        carriers.iter().find(|carrier| carrier["name"] == name).map(|carrier| &carrier["counters"])
    });
    let trouble = carrier.and_then(|counters| counters["trouble"].as_str());
    Facts {
        name: name.to_owned(),
        to: diode.to,
        bit_rate: diode.bit_rate.0,
        mtu: u64::from(diode.mtu),
        redundancy_percent: u64::from(diode.redundancy),
        passes: diode.passes_in_all(),
        source,
        interface,
        neighbour: machine.neighbour(diode.to.ip()),
        trains: takes_trains(diode),
        wmem_max: machine.sysctl("net/core/wmem_max"),
        udp: machine.udp_counts(),
        waiting_bytes: None,
        trouble: trouble.filter(|text| !text.is_empty()).map(ToOwned::to_owned),
    }
}

/// Whether the kernel cuts trains of datagrams. Nothing is sent.
fn takes_trains(diode: &DiodeSettings) -> bool {
    let any = if diode.to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let Ok(socket) = UdpSocket::bind(any) else { return false };
    setsockopt(&socket, sockopt::UdpGsoSegment, &i32::from(diode.mtu)).is_ok()
}
