//! `setup`: the exact settings of the other side, made from a listener of this configuration; and those of our own
//! unit, made from all of it.

mod systemd;

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};

use super::Failure;
use crate::config::Config;
use crate::ingest::{ClientAuth, HttpSender, ListenerSettings, Protocol};

/// Which other side.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Peer {
    /// Falco's `http_output` and falcosidekick.
    Falco,
    /// Fluent Bit and Fluentd, output `http`.
    FluentBit,
    /// The audit webhook of an API server: kubeconfig, flags and an audit policy.
    Kubernetes,
    /// Portainer Business Edition's `--syslog-*` flags.
    Portainer,
    /// Our own unit: a drop-in that lets it reach what this configuration names, and nothing else.
    Systemd,
}

/// The part of the settings that is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Part {
    /// Only the kubeconfig.
    Kubeconfig,
    /// Only the audit policy.
    Policy,
    /// Only the flags of the API server.
    Flags,
}

/// The arguments of `setup`.
#[derive(Debug, Args)]
pub struct SetupArgs {
    /// Whose settings.
    pub peer: Peer,
    /// The listener that it is to send to.
    #[arg(long, value_name = "NAME", required_if_eq_any(OTHER_SIDES))]
    pub listener: Option<String>,
    /// The name or address under which the other side reaches this machine.
    #[arg(long, required_if_eq_any(OTHER_SIDES))]
    pub host: Option<String>,
    /// The port there, if it is not the listener's own.
    #[arg(long)]
    pub port: Option<u16>,
    /// Where the certificate authority lies on the other side.
    #[arg(long, value_name = "FILE", default_value = "/etc/penstock-client/ca.pem")]
    pub ca: PathBuf,
    /// Where the client's certificate lies on the other side.
    #[arg(long, value_name = "FILE", default_value = "/etc/penstock-client/client.pem")]
    pub client_cert: PathBuf,
    /// Where the client's key lies on the other side.
    #[arg(long, value_name = "FILE", default_value = "/etc/penstock-client/client.key")]
    pub client_key: PathBuf,
    /// Print only one part, to write it into its file (kubernetes).
    #[arg(long)]
    pub part: Option<Part>,
    /// The drop-in of our unit.
    #[command(flatten)]
    pub unit: systemd::UnitArgs,
}

/// The peers that speak to a listener.
const OTHER_SIDES: [(&str, &str); 4] =
    [("peer", "falco"), ("peer", "fluent-bit"), ("peer", "kubernetes"), ("peer", "portainer")];

pub(super) fn setup(config: &Config, args: &SetupArgs) -> Result<(), Failure> {
    let text = match args.peer {
        Peer::Systemd => systemd::text(config, &args.unit)?,
        Peer::Falco | Peer::FluentBit | Peer::Kubernetes | Peer::Portainer => {
            text(&config.listeners, args)?
        }
    };
    say!("{}", text.trim_end());
    Ok(())
}

/// What the other side has to know of the listener.
struct Way<'a> {
    host: &'a str,
    port: u16,
    path: String,
    is_tls: bool,
    asks_for_client: bool,
    ca: &'a Path,
    cert: &'a Path,
    key: &'a Path,
}

impl Way<'_> {
    fn url(&self) -> String {
        let scheme = if self.is_tls { "https" } else { "http" };
        format!("{scheme}://{}:{}{}", self.bracketed(), self.port, self.path)
    }

    /// An IPv6 address stands in brackets in a URL.
    fn bracketed(&self) -> String {
        match self.host.parse::<std::net::Ipv6Addr>() {
            Ok(address) => format!("[{address}]"),
            Err(_) => self.host.to_owned(),
        }
    }
}

fn text(listeners: &[ListenerSettings], args: &SetupArgs) -> Result<String, Failure> {
    let (name, host) = (args.listener.as_deref(), args.host.as_deref());
    let (name, host) = (name.unwrap_or_default(), host.unwrap_or_default());
    let listener = listeners.iter().find(|l| l.name == name).ok_or_else(|| {
        let names: Vec<_> = listeners.iter().map(|l| l.name.as_str()).collect();
        Failure::usage(&format!(
            "there is no listener {name:?}\n  try: --listener with one of: {}",
            names.join(", ")
        ))
    })?;
    let fits = match (&listener.protocol, args.peer) {
        (Protocol::Http(http), Peer::Falco) => http.sender == HttpSender::Falco,
        (Protocol::Http(http), Peer::FluentBit) => http.sender == HttpSender::Fluent,
        (Protocol::Http(http), Peer::Kubernetes) => http.sender == HttpSender::KubeApiserver,
        (Protocol::Tcp | Protocol::Tls(_) | Protocol::Udp, Peer::Portainer) => true,
        _ => false,
    };
    if !fits {
        let wanted = match args.peer {
            Peer::Falco => HttpSender::Falco.protocol(),
            Peer::FluentBit => HttpSender::Fluent.protocol(),
            Peer::Kubernetes => HttpSender::KubeApiserver.protocol(),
            Peer::Portainer | Peer::Systemd => "tls, tcp or udp",
        };
        return Err(Failure::usage(&format!(
            "listener {:?} speaks {}\n  try: a listener with protocol {wanted}",
            listener.name, listener.protocol
        )));
    }
    let tls = listener.protocol.tls();
    let path = match &listener.protocol {
        Protocol::Http(http) => http.path.clone(),
        _ => None,
    };
    let way = Way {
        host,
        port: args.port.unwrap_or(listener.bind.port()),
        path: path.unwrap_or_else(|| "/".to_owned()),
        is_tls: tls.is_some(),
        asks_for_client: tls.is_some_and(|tls| !matches!(tls.client_auth, ClientAuth::None)),
        ca: &args.ca,
        cert: &args.client_cert,
        key: &args.client_key,
    };
    Ok(match args.peer {
        Peer::Falco => falco(&way),
        Peer::FluentBit => fluent(&way),
        Peer::Kubernetes => kubernetes(&way, args.part),
        Peer::Portainer | Peer::Systemd => portainer(&way, &listener.protocol),
    })
}

fn kubernetes(way: &Way<'_>, part: Option<Part>) -> String {
    match part {
        Some(Part::Kubeconfig) => kubeconfig(way),
        Some(Part::Policy) => AUDIT_POLICY.to_owned(),
        Some(Part::Flags) => KUBE_FLAGS.to_owned(),
        None => format!(
            "# ---- {KUBECONFIG_FILE} (alone: --part kubeconfig)\n{}\n\
             # ---- {POLICY_FILE} (alone: --part policy)\n{AUDIT_POLICY}\n\
             # ---- flags of kube-apiserver (alone: --part flags)\n{KUBE_FLAGS}",
            kubeconfig(way)
        ),
    }
}

fn kubeconfig(way: &Way<'_>) -> String {
    let mut text = format!(
        "apiVersion: v1\nkind: Config\nclusters:\n  - name: penstock\n    cluster:\n      server: {}\n",
        way.url()
    );
    if way.is_tls {
        let _ = writeln!(text, "      certificate-authority: {}", way.ca.display());
    }
    text.push_str("users:\n  - name: kube-apiserver\n");
    if way.asks_for_client {
        let _ = writeln!(
            text,
            "    user:\n      client-certificate: {}\n      client-key: {}",
            way.cert.display(),
            way.key.display()
        );
    } else {
        text.push_str("    user: {}\n");
    }
    text.push_str(
        "contexts:\n  - name: penstock\n    context:\n      cluster: penstock\n      user: kube-apiserver\n\
         current-context: penstock\n",
    );
    text
}

fn falco(way: &Way<'_>) -> String {
    let mut text = format!(
        "# ---- falco.yaml\njson_output: true\njson_include_output_property: true\nhttp_output:\n  \
         enabled: true\n  url: {}\n  insecure: false\n  keep_alive: true\n  echo: false\n  compress_uploads: false\n",
        way.url()
    );
    if way.is_tls {
        let _ = writeln!(text, "  ca_cert: {}", way.ca.display());
    }
    let _ = writeln!(text, "  mutual_tls: {}", way.asks_for_client);
    if way.asks_for_client {
        let _ = writeln!(
            text,
            "  client_cert: {}\n  client_key: {}",
            way.cert.display(),
            way.key.display()
        );
    }
    let _ = writeln!(
        text,
        "\n# ---- or falcosidekick's config.yaml, if Falco sends to falcosidekick\nwebhook:\n  address: {}\n  \
         method: POST\n  checkcert: true\n  mutualtls: {}",
        way.url(),
        way.asks_for_client
    );
    if way.asks_for_client {
        let _ = writeln!(
            text,
            "mutualtlsclient:\n  certfile: {}\n  keyfile: {}\n  cacertfile: {}",
            way.cert.display(),
            way.key.display(),
            way.ca.display()
        );
    } else if way.is_tls {
        let _ = writeln!(text, "tlsclient:\n  cacertfile: {}", way.ca.display());
    }
    text
}

fn fluent(way: &Way<'_>) -> String {
    let mut text = format!(
        "# ---- fluent-bit.conf\n[OUTPUT]\n    Name            http\n    Match           *\n    Host            {}\n    \
         Port            {}\n    URI             {}\n    Format          json_lines\n    Json_date_key   false\n    \
         Header_tag      FLUENT-TAG\n    Compress        gzip\n    Retry_Limit     no_limits\n",
        way.host, way.port, way.path
    );
    if way.is_tls {
        let _ = writeln!(
            text,
            "    tls             On\n    tls.verify      On\n    tls.ca_file     {}",
            way.ca.display()
        );
    }
    if way.asks_for_client {
        let _ = writeln!(
            text,
            "    tls.crt_file    {}\n    tls.key_file    {}",
            way.cert.display(),
            way.key.display()
        );
    }
    // A fixed path leaves no room for a tag.
    let tagged = if way.path == "/" { "${tag}" } else { "" };
    let _ = writeln!(
        text,
        "\n# ---- or Fluentd's fluent.conf\n<match **>\n  @type http\n  endpoint {}{tagged}\n  json_array true\n  \
         open_timeout 5\n  read_timeout 60\n  retryable_response_codes 429,503\n  \
         error_response_as_unrecoverable false",
        way.url()
    );
    if way.is_tls {
        let _ = writeln!(text, "  tls_ca_cert_path {}", way.ca.display());
    }
    if way.asks_for_client {
        let _ = writeln!(
            text,
            "  tls_client_cert_path {}\n  tls_private_key_path {}",
            way.cert.display(),
            way.key.display()
        );
    }
    text.push_str(
        "  <format>\n    @type json\n  </format>\n  <buffer tag>\n    @type file\n    path /var/lib/fluentd/penstock\n    \
         flush_interval 1s\n    retry_forever true\n    overflow_action block\n  </buffer>\n</match>\n",
    );
    text
}

fn portainer(way: &Way<'_>, protocol: &Protocol) -> String {
    let transport = match protocol {
        Protocol::Udp => "udp",
        _ if way.is_tls => "tcp+tls",
        _ => "tcp",
    };
    let mut flags = vec![
        format!("--syslog-address={}", way.host),
        format!("--syslog-port={}", way.port),
        format!("--syslog-protocol={transport}"),
        "--syslog-format=rfc5424".to_owned(),
        "--syslog-source-hostname=portainer".to_owned(),
    ];
    if way.is_tls {
        flags.push(format!("--syslog-ca-cert={}", way.ca.display()));
    }
    if way.asks_for_client {
        flags.push(format!("--syslog-cert={}", way.cert.display()));
        flags.push(format!("--syslog-key={}", way.key.display()));
    }
    flags.join("\n") + "\n"
}

/// What to tell. Tried by the tests for its form only: an API server is the judge.
const AUDIT_POLICY: &str = include_str!("audit-policy.yaml");

const KUBECONFIG_FILE: &str = "/etc/kubernetes/penstock/audit-webhook.kubeconfig";
const POLICY_FILE: &str = "/etc/kubernetes/penstock/audit-policy.yaml";

/// Batches are cut early, since urgent events wait in them; the queue holds ten times the default, since
/// what does not fit is dropped there; an event is told whole up to the length that is kept whole here.
const KUBE_FLAGS: &str = "\
--audit-policy-file=/etc/kubernetes/penstock/audit-policy.yaml
--audit-webhook-config-file=/etc/kubernetes/penstock/audit-webhook.kubeconfig
--audit-webhook-mode=batch
--audit-webhook-batch-buffer-size=100000
--audit-webhook-batch-max-size=400
--audit-webhook-batch-max-wait=2s
--audit-webhook-batch-throttle-qps=50
--audit-webhook-batch-throttle-burst=100
--audit-webhook-initial-backoff=10s
--audit-webhook-truncate-enabled=true
--audit-webhook-truncate-max-event-size=1048576
--audit-webhook-truncate-max-batch-size=10485760
";

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn config(protocol: &str, keys: &str) -> Vec<ListenerSettings> {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("x");
        std::fs::write(&file, "").unwrap();
        let keys = keys.replace("FILE", &file.display().to_string());
        let text = format!(
            "origin = \"a\"\n[[listener]]\nname = \"l\"\nprotocol = \"{protocol}\"\nbind = \"0.0.0.0:8443\"\n{keys}"
        );
        let path = dir.path().join("high.toml");
        std::fs::write(&path, text).unwrap();
        Config::load(&path).unwrap().listeners
    }

    fn printed(listeners: &[ListenerSettings], peer: Peer, part: Option<Part>) -> String {
        let args = SetupArgs {
            peer,
            listener: Some("l".to_owned()),
            host: Some("10.0.0.5".to_owned()),
            port: None,
            ca: Path::new("/c/ca.pem").to_owned(),
            client_cert: Path::new("/c/k.pem").to_owned(),
            client_key: Path::new("/c/k.key").to_owned(),
            part,
            unit: systemd::UnitArgs::default(),
        };
        match text(listeners, &args) {
            Ok(text) => text,
            Err(failure) => failure.to_string(),
        }
    }

    const MUTUAL: &str = "certificate = \"FILE\"\nkey = \"FILE\"\nclient-auth = \"required\"\nclient-ca = \"FILE\"\n";

    #[test]
    fn the_settings_follow_the_listener() {
        let mutual = config("kube-webhook", &format!("{MUTUAL}path = \"/audit\"\n"));
        let text = printed(&mutual, Peer::Kubernetes, Some(Part::Kubeconfig));
        for part in [
            "server: https://10.0.0.5:8443/audit",
            "certificate-authority: /c/ca.pem",
            "client-key: /c/k.key",
        ] {
            assert!(text.contains(part), "{part} is missing from {text}");
        }
        let all = printed(&mutual, Peer::Kubernetes, None);
        assert!(all.contains("kind: Policy") && all.contains("--audit-webhook-mode=batch"));

        let plain = config("falco-http", "");
        let text = printed(&plain, Peer::Falco, None);
        assert!(text.contains("url: http://10.0.0.5:8443/\n") && !text.contains("/c/"), "{text}");
        let text = printed(&config("fluent-http", MUTUAL), Peer::FluentBit, None);
        assert!(
            text.contains("tls.crt_file    /c/k.pem")
                && text.contains("endpoint https://10.0.0.5:8443/${tag}")
        );
        let text = printed(&config("tls", MUTUAL), Peer::Portainer, None);
        assert!(
            text.contains("--syslog-protocol=tcp+tls\n") && text.contains("--syslog-key=/c/k.key")
        );
        assert!(
            printed(&config("udp", ""), Peer::Portainer, None).contains("--syslog-protocol=udp")
        );
    }

    #[test]
    fn a_listener_that_does_not_fit_is_named() {
        let text = printed(&config("udp", ""), Peer::Kubernetes, None);
        assert!(text.contains("speaks udp") && text.contains("kube-webhook"), "{text}");
        let text = printed(&[], Peer::Falco, None);
        assert!(text.contains("there is no listener \"l\""), "{text}");
    }
}
