//! What the agent of the low side reaches, by its configuration.

use std::path::Path;

use shared::keys::{IDENTITY_FILE, RECEIPT_KEY_FILE};
use shared::reach::{Reach, Transport};

use crate::archive::config::{ArchiveConfig, ArchiveKind, AzureCredential, GcsCredential};
use crate::config::Config;
use crate::http::HttpConfig;
use crate::receiver::config::{After, ReceiverConfig, ReceiverKind, TcpPeer};
use crate::sink::config::{Endpoint, SinkConfig, SinkKind};
use crate::tls::TlsConfig;

/// Everything that a configuration names. What is missing here, the agent is kept from.
pub(crate) fn reach(config: &Config, file: &Path) -> Reach {
    let mut reach = Reach::new(file, &config.state_dir, &config.keys_dir);
    reach.secret(&config.keys_dir.join(IDENTITY_FILE));
    let receipt_key = config.keys_dir.join(RECEIPT_KEY_FILE);
    if !receipt_key.exists() {
        // The agent makes it where it is missing.
        reach.write_folder(&config.keys_dir);
    }
    reach.secret(&receipt_key);
    reach.write_folder(&config.inbox.path);
    config.receipt.iter().for_each(|receipt| reach.write_folder(&receipt.folder));
    config.receivers.iter().for_each(|receiver| receives(&mut reach, receiver));
    config.archives.iter().for_each(|archive| keeps(&mut reach, archive));
    config.sinks.iter().for_each(|sink| delivers(&mut reach, sink));
    config.page.add_to(&mut reach);
    reach.extend(&config.hardening);
    reach
}

fn receives(reach: &mut Reach, receiver: &ReceiverConfig) {
    let what = format!("receiver.{}", receiver.name);
    match &receiver.kind {
        ReceiverKind::Folder(folder) => {
            reach.write_folder(&folder.path);
            if let After::Move(path) = &folder.after {
                reach.write_folder(path);
            }
            reach.hook(folder.command.as_ref());
        }
        ReceiverKind::UdpDiode(diode) => {
            reach.secret(&diode.link_key_file);
            reach.listen(what, Transport::Udp, diode.bind);
        }
        ReceiverKind::Tcp(tcp) => {
            reach.secret(&tcp.key_file);
            match &tcp.peer {
                TcpPeer::Connect(address) => reach.speak_to(what, Transport::Tcp, address),
                TcpPeer::Datagrams(address) => reach.listen(what, Transport::Udp, *address),
                TcpPeer::Listen(address) => reach.listen(what, Transport::Tcp, *address),
            }
        }
    }
}

fn keeps(reach: &mut Reach, archive: &ArchiveConfig) {
    let what = format!("archive.{}", archive.name);
    match &archive.kind {
        ArchiveKind::Azure(azure) => {
            http(reach, &what, &azure.http);
            match &azure.credential {
                AzureCredential::Sas(path) | AzureCredential::SharedKey(path) => reach.secret(path),
            }
        }
        ArchiveKind::Directory(path) => {
            reach.write_folder(path);
            // `lsattr` tells whether a file can be changed.
            reach.tools();
        }
        ArchiveKind::Gcs(gcs) => {
            http(reach, &what, &gcs.http);
            match &gcs.credential {
                GcsCredential::ServiceAccount(path) => {
                    reach.secret(path);
                    reach.speak_to_unknown_ports("a service account's file names its token server");
                }
                GcsCredential::Token(path) => reach.secret(path),
            }
        }
        ArchiveKind::S3(s3) => {
            http(reach, &what, &s3.http);
            reach.secret(&s3.credentials_file);
        }
    }
}

fn delivers(reach: &mut Reach, sink: &SinkConfig) {
    let what = format!("sink.{}", sink.name);
    match &sink.kind {
        SinkKind::Elastic(elastic) => {
            http(reach, &what, &elastic.http);
            elastic.access.file().into_iter().for_each(|path| reach.secret(path));
        }
        SinkKind::File(file) => reach.write_folder(&file.dir),
        SinkKind::Forward(forward) => {
            endpoint(reach, &what, &forward.endpoint);
            forward.shared_key_file.iter().for_each(|path| reach.secret(path));
            forward.user.iter().for_each(|(_, password)| reach.secret(password));
        }
        SinkKind::Http(json) => {
            http(reach, &what, &json.http);
            json.authorization_file.iter().for_each(|path| reach.secret(path));
        }
        #[cfg(feature = "kafka")]
        SinkKind::Kafka(kafka) => {
            kafka.tls.iter().for_each(|config| tls(reach, config));
            kafka.login.iter().for_each(|login| reach.secret(&login.password_file));
            for broker in &kafka.brokers {
                reach.speak_to(&what, Transport::Tcp, broker);
            }
            reach.speak_to_unknown_ports("Kafka's brokers name each other");
        }
        SinkKind::Loki(loki) => {
            http(reach, &what, &loki.http);
            loki.authorization_file.iter().for_each(|path| reach.secret(path));
        }
        SinkKind::Sentinel(sentinel) => {
            http(reach, &what, &sentinel.http);
            http(reach, &what, &sentinel.authority);
            sentinel.arm.iter().for_each(|(arm, _)| http(reach, &what, arm));
            reach.secret(&sentinel.client_secret_file);
        }
        SinkKind::Splunk(splunk) => {
            http(reach, &what, &splunk.http);
            reach.secret(&splunk.token_file);
            if let Some(search) = &splunk.search {
                http(reach, &what, &search.http);
                reach.secret(&search.authorization_file);
            }
        }
        SinkKind::Syslog(syslog) => endpoint(reach, &what, &syslog.endpoint),
    }
}

fn http(reach: &mut Reach, what: &str, server: &HttpConfig) {
    reach.speak(what, Transport::Tcp, &server.url.host, server.url.port);
    tls(reach, &server.tls);
}

fn endpoint(reach: &mut Reach, what: &str, endpoint: &Endpoint) {
    reach.speak_to(what, Transport::Tcp, &endpoint.address);
    endpoint.tls.iter().for_each(|config| tls(reach, config));
}

fn tls(reach: &mut Reach, config: &TlsConfig) {
    config.ca_file.iter().for_each(|path| reach.read_file(path));
    if let Some((certificate, key)) = &config.client {
        reach.read_file(certificate);
        reach.secret(key);
    }
}
