//! What the agent of the high side reaches, by its configuration.

use shared::keys::{RECIPIENTS_DIR, SIGNING_KEY_FILE};
use shared::reach::{Reach, Transport};

use crate::config::{CarrierKind, CarrierSettings, Config, Temporary};
use crate::ingest::{ClientAuth, Protocol, TlsSettings};

/// Everything that a configuration names. What is missing here, the agent is kept from.
pub(crate) fn reach(config: &Config) -> Reach {
    let mut reach = Reach::new(&config.path, &config.state_dir, &config.keys_dir);
    reach.secret(&config.keys_dir.join(SIGNING_KEY_FILE));
    reach.read_folder(&config.keys_dir.join(RECIPIENTS_DIR));
    reach.write_folder(&config.outbox.path);
    if let Some(path) = &config.guard.hmac_key_file {
        reach.secret(path);
    }
    for listener in &config.listeners {
        let transport = match &listener.protocol {
            Protocol::Udp => Transport::Udp,
            Protocol::Http(_)
            | Protocol::FluentForward(_)
            | Protocol::Relp(_)
            | Protocol::Tcp
            | Protocol::Tls(_) => Transport::Tcp,
        };
        reach.listen(format!("listener.{}", listener.name), transport, listener.bind);
        if let Some(files) = listener.protocol.tls() {
            tls(&mut reach, files);
        }
        if let Protocol::FluentForward(forward) = &listener.protocol {
            forward.shared_key.iter().chain(&forward.users).for_each(|path| reach.secret(path));
        }
    }
    for api in &config.portainer_apis {
        let what = format!("portainer-api.{}", api.name);
        reach.speak(what, Transport::Tcp, &api.url.host, api.url.port);
        reach.secret(&api.api_key_file);
        api.ca.iter().for_each(|path| reach.read_file(path));
    }
    for pattern in config.files.iter().flat_map(|set| &set.paths) {
        reach.read_folder(&pattern.base());
        // The links of a node's containers lead to the folders of its pods, and from there to the runtime's.
        if pattern.base().starts_with("/var/log") {
            for folder in ["/var/log", "/var/lib/docker/containers"] {
                reach.read_folder(folder.as_ref());
            }
        }
    }
    config.carriers.iter().for_each(|carrier| carries(&mut reach, carrier));
    config.page.add_to(&mut reach);
    reach.extend(&config.hardening);
    reach
}

fn tls(reach: &mut Reach, files: &TlsSettings) {
    reach.read_file(&files.certificate);
    reach.secret(&files.key);
    match &files.client_auth {
        ClientAuth::None => {}
        ClientAuth::Optional(path) | ClientAuth::Required(path) => reach.read_file(path),
    }
}

fn carries(reach: &mut Reach, carrier: &CarrierSettings) {
    let what = format!("carrier.{}", carrier.name);
    match &carrier.kind {
        CarrierKind::Folder(folder) => {
            reach.write_folder(&folder.path);
            if let Temporary::Directory(path) = &folder.temporary {
                reach.write_folder(path);
            }
            reach.hook(folder.command.as_ref());
        }
        CarrierKind::Tcp(tcp) => {
            reach.secret(&tcp.key_file);
            let transport = if tcp.is_udp() { Transport::Udp } else { Transport::Tcp };
            reach.speak_to(what, transport, &tcp.address);
        }
        CarrierKind::UdpDiode(diode) => {
            reach.secret(&diode.link_key_file);
            reach.speak(what, Transport::Udp, diode.to.ip().to_string(), diode.to.port());
        }
    }
}
