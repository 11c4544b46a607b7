//! `penstock-demo`: two agents, a folder between them, real senders and a real receiver; every record
//! is accounted for, or the exit code says that it is not.

mod samples;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Parser;
use nix::sys::signal::{SigSet, Signal};
use serde_json::Value;
use tests::agents::{Pair, bundles_in};
use tests::load::{Framing, Target, TlsFiles, send_messages};
use tests::logs::unlisted_errors;
use tests::oracle::{events_of, lines_of};
use tests::peers::{Authority, Certificate, Rsyslog, logger};
use tests::process::Process;
use tests::samples::raw_of;
use tests::sandbox::{Sandbox, free_address};
use tests::wait::{PATIENCE, wait_until};

use crate::samples::{Samples, samples};

#[derive(Debug, Parser)]
#[command(name = "penstock-demo", about = "Shows records crossing the gap, and accounts for each.")]
struct Cli {
    /// Stay up after the account, until interrupted.
    #[arg(long)]
    live: bool,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let ends = SigSet::from_iter([Signal::SIGINT, Signal::SIGTERM]);
    let demo = Demo::start();
    if cli.live {
        // Taken by `wait` below, so that the agents are stopped with us. Not before they were started:
        // a child inherits what is blocked.
        ends.thread_block().expect("signals can be blocked");
    }
    let sent = demo.send();
    let complete = demo.account(&sent);
    if cli.live {
        demo.explain();
        let _ = ends.wait();
    }
    demo.stop();
    if complete { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Everything that runs.
struct Demo {
    pair: Pair,
    authority: Authority,
    client: Certificate,
    tls: std::net::SocketAddr,
    tcp: std::net::SocketAddr,
    udp: std::net::SocketAddr,
    archive: PathBuf,
    received: PathBuf,
    high: Process,
    low: Process,
    rsyslog: Process,
    sandbox: Sandbox,
}

impl Demo {
    fn start() -> Self {
        let sandbox = Sandbox::new("demo");
        say(&format!("everything lies in {}", sandbox.path().display()));
        let authority = Authority::new(&sandbox.dir("certificates"));
        let server = authority.server("penstock-high");
        let client = authority.client("portainer");

        let pair = Pair::new(&sandbox, "plant-7");
        say("both sides have made their keys and taken each other's public half");
        let (tls, tcp, udp, siem) =
            (free_address(), free_address(), free_address(), free_address());
        let shown = |path: &Path| format!("{:?}", path.display().to_string());
        pair.high.configure(&format!(
            "[[listener]]\nname = \"portainer\"\nprotocol = \"tls\"\nbind = \"{tls}\"\n\
             certificate = {}\nkey = {}\nclient-auth = \"required\"\nclient-ca = {}\n\
             [[listener]]\nname = \"cluster\"\nprotocol = \"tcp\"\nbind = \"{tcp}\"\n\
             [[listener]]\nname = \"devices\"\nprotocol = \"udp\"\nbind = \"{udp}\"\n\
             [seal]\nlatency-budget = \"4s\"\nflash-budget = \"1s\"\n\
             [[carrier]]\nname = \"folder\"\ntype = \"folder\"\npath = {}\n",
            shown(&server.cert),
            shown(&server.key),
            shown(authority.ca()),
            shown(&pair.low.inbox()),
        ));
        let archive = pair.low.dir().join("archive");
        let low_client = authority.client("penstock-low");
        pair.low.configure(&format!(
            "[[sink]]\nname = \"archive\"\ntype = \"file\"\npath = {}\n\
             [[sink]]\nname = \"siem\"\ntype = \"syslog\"\naddress = \"localhost:{}\"\ntransport = \"tls\"\n\
             ca-file = {}\ncert-file = {}\nkey-file = {}\n",
            shown(&archive),
            siem.port(),
            shown(authority.ca()),
            shown(&low_client.cert),
            shown(&low_client.key),
        ));
        for site in [&pair.high, &pair.low] {
            site.run(["check-config"]).success();
        }

        let dir = sandbox.dir("rsyslog");
        let received = dir.join("received.ndjson");
        let rsyslog = Rsyslog::new(&dir)
            .messages_up_to("1m")
            .tls(authority.ca(), &authority.server("rsyslog"))
            .listen_tls(siem, true)
            .write_message(&received)
            .start();
        let low = pair.low.start();
        let high = pair.high.start();
        say(
            "running: penstock-high, penstock-low, and rsyslog as the SIEM, over TLS with client certificates",
        );
        Self {
            pair,
            authority,
            client,
            tls,
            tcp,
            udp,
            archive,
            received,
            high,
            low,
            rsyslog,
            sandbox,
        }
    }

    /// Sends everything by each way and gives every message that must arrive.
    fn send(&self) -> Vec<Vec<u8>> {
        let files = TlsFiles {
            ca: self.authority.ca().to_owned(),
            client: Some((self.client.cert.clone(), self.client.key.clone())),
            server_name: "localhost".to_owned(),
        };
        let ways = [
            (
                "TLS, client certificate, octet-counted",
                Target::Tls(self.tls, files),
                Framing::Octet,
            ),
            ("TCP, octet-counted", Target::Tcp(self.tcp), Framing::Octet),
            ("UDP", Target::Udp(self.udp), Framing::None),
        ];
        let mut sent = Vec::new();
        for Samples { name, messages } in samples() {
            for (way, target, framing) in &ways {
                let mut messages = messages.clone();
                if *framing == Framing::None {
                    messages.retain(|message| message.len() <= DATAGRAM_BYTES_MAX);
                }
                send_messages(target, *framing, &messages).expect("the agent takes messages");
                say(&format!("sent {:>5} {name} over {way}", messages.len()));
                sent.extend(messages);
            }
        }
        logger(self.tcp, &["--tcp", "--octet-count", "--rfc5424", "--tag", "sshd"], LOGGER_WORDS)
            .success();
        say("sent     1 message with logger");
        sent
    }

    /// Waits for the last record, compares everything, and prints the account.
    fn account(&self, sent: &[Vec<u8>]) -> bool {
        let count = sent.len() + 1;
        let started = Instant::now();
        let lines = |path: &Path| {
            if path.exists() { events_of(path) } else { Vec::new() }
        };
        let high_sum = |key: &str| {
            let status = self.pair.high.status();
            status["lanes"]
                .as_array()
                .into_iter()
                .flatten()
                .filter_map(|lane| lane[key].as_u64())
                .sum::<u64>()
        };
        // The first look at a record ends its way; looks come often enough to measure it.
        let mut first_seen = Vec::new();
        let complete = || high_sum("received") as usize >= count;
        wait_until(PATIENCE, "every record in the buffer", complete);
        wait_until(PATIENCE, "every record in the archive", || {
            let now = jiff::Timestamp::now();
            let seen = lines_of(&self.archive).len();
            first_seen.resize(seen.max(first_seen.len()), now);
            seen >= count
        });
        wait_until(PATIENCE, "every record in rsyslog's file", || {
            lines(&self.received).len() >= count
        });
        say(&format!(
            "all across {:.1} s after the last one was sent",
            started.elapsed().as_secs_f64()
        ));

        let archive = lines(&self.archive);
        let siem = lines(&self.received);
        let mut missing = difference(sent, &archive);
        missing.retain(|_, copies| *copies != 0);
        // What logger made has a header of its own: one message that was not in the list.
        missing.retain(|raw, copies| *copies != -1 || !raw.ends_with(LOGGER_WORDS.as_bytes()));
        let redacted = pair_redacted(&mut missing, &archive);
        let foreign: i64 = missing.values().filter(|copies| **copies < 0).sum();
        let lost: i64 = missing.values().filter(|copies| **copies > 0).sum();
        let ids = |events: &[Value]| {
            events.iter().map(|event| event["id"].to_string()).collect::<Vec<_>>()
        };
        let (mut archive_ids, mut siem_ids) = (ids(&archive), ids(&siem));
        archive_ids.sort();
        siem_ids.sort();
        let low = self.pair.low.status();
        let adds_up = self.pair.high.status()["adds-up"] == true && low["adds-up"] == true;

        println!();
        println!("  sent                       {count:>7}");
        println!("  received, high side        {:>7}", high_sum("received"));
        println!(
            "  sealed into {:>2} bundles     {:>7}",
            bundles_in(&self.pair.high.outbox()).len(),
            high_sum("sealed")
        );
        println!("  admitted, low side         {:>7}", low["records"].to_string());
        println!("  in the archive file        {:>7}", archive.len());
        println!("  in rsyslog's file          {:>7}", siem.len());
        println!("  of these, redacted         {redacted:>7}");
        println!("  lost, or changed by a byte {lost:>7}");
        println!("  never sent                 {:>7}", -foreign);
        println!("  sums add up                {:>7}", if adds_up { "yes" } else { "NO" });
        print_latency(&archive, &first_seen);
        println!();
        let mut errors = Vec::new();
        for site in [&self.pair.high, &self.pair.low] {
            let log = fs::read_to_string(site.log_path()).unwrap_or_default();
            errors.extend(unlisted_errors(&log, &[]).into_iter().map(ToOwned::to_owned));
        }
        for error in &errors {
            println!("  {error}");
        }
        let exact = missing.is_empty() && archive.len() == count;
        let same = archive_ids == siem_ids;
        let complete = exact && same && adds_up && errors.is_empty();
        say(if complete {
            "every record is accounted for"
        } else {
            "NOT every record is accounted for"
        });
        complete
    }

    fn explain(&self) {
        let show = |what: &str, value: String| println!("  {what:<22} {value}");
        show(
            "send something",
            format!(
                "logger --server 127.0.0.1 --port {} --tcp --octet-count hello",
                self.tcp.port()
            ),
        );
        show("", format!("logger --server 127.0.0.1 --port {} --udp hello", self.udp.port()));
        for (what, site) in [("high side", &self.pair.high), ("low side", &self.pair.low)] {
            let command = site.command(["status"]);
            let words: Vec<_> =
                command.get_args().map(|word| word.to_string_lossy().into_owned()).collect();
            show(what, format!("{} {}", command.get_program().to_string_lossy(), words.join(" ")));
            show("its log", site.log_path().display().to_string());
        }
        show("sealed bundles", self.pair.high.outbox().display().to_string());
        show("the archive file", self.archive.display().to_string());
        show("what rsyslog received", self.received.display().to_string());
        say("all this goes away when you press Ctrl-C");
    }

    fn stop(self) {
        self.high.stop(PATIENCE);
        self.low.stop(PATIENCE);
        self.rsyslog.stop(PATIENCE);
        drop(self.sandbox);
    }
}

/// How often each message was sent, less how often it arrived.
fn difference(sent: &[Vec<u8>], events: &[Value]) -> BTreeMap<Vec<u8>, i64> {
    let mut copies: BTreeMap<Vec<u8>, i64> = BTreeMap::new();
    for message in sent {
        *copies.entry(message.clone()).or_default() += 1;
    }
    for event in events {
        *copies.entry(raw_of(event)).or_default() -= 1;
    }
    copies
}

/// Takes out the pairs of a message and of what redaction left of it: the record says that it was
/// redacted, and is what was sent up to its first mark and from its last one on. Gives how many.
fn pair_redacted(missing: &mut BTreeMap<Vec<u8>, i64>, events: &[Value]) -> u64 {
    let mut pairs = 0;
    for event in events.iter().filter(|event| !event["redacted"].is_null()) {
        let raw = raw_of(event);
        let marks = || memchr::memmem::find_iter(&raw, MARK);
        let (Some(first), Some(last)) = (marks().next(), marks().last()) else { continue };
        let begin = &raw[..first];
        let behind = memchr::memchr(b']', &raw[last..]).map_or(raw.len(), |at| last + at + 1);
        let twin = missing.iter().find(|(sent, copies)| {
            **copies > 0 && sent.starts_with(begin) && sent.ends_with(&raw[behind..])
        });
        if let Some(sent) = twin.map(|(sent, _)| sent.clone()) {
            *missing.entry(sent).or_default() -= 1;
            *missing.entry(raw.clone()).or_default() += 1;
            pairs += 1;
        }
    }
    missing.retain(|_, copies| *copies != 0);
    pairs
}

/// What redaction writes in place of what it takes.
const MARK: &[u8] = b"[redacted:";

/// From reception to the archive file.
fn print_latency(archive: &[Value], first_seen: &[jiff::Timestamp]) {
    let mut latencies: Vec<Duration> = archive
        .iter()
        .zip(first_seen)
        .filter_map(|(event, seen)| {
            let received: jiff::Timestamp = event["received"].as_str()?.parse().ok()?;
            Duration::try_from(seen.duration_since(received)).ok()
        })
        .collect();
    latencies.sort();
    if let (Some(median), Some(most)) = (latencies.get(latencies.len() / 2), latencies.last()) {
        let (median, most) = (median.as_secs_f64(), most.as_secs_f64());
        println!(
            "  latency, end to end        {median:>5.2} s median, {most:.2} s most, for a budget of 4 s"
        );
    }
}

fn say(what: &str) {
    println!("demo: {what}");
}

/// What `logger` says, behind a header of its own.
const LOGGER_WORDS: &str = "session opened for user root by alice";

/// Larger messages do not fit a datagram.
const DATAGRAM_BYTES_MAX: usize = 60_000;
