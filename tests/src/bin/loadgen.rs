//! `penstock-loadgen`: sends known messages over TCP, TLS or UDP, or receives and counts them.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use tests::load::{CountingSink, Framing, OnBreak, Plan, Target, TlsFiles, send};

#[derive(Debug, Parser)]
#[command(name = "penstock-loadgen", about = "Sends and counts syslog messages with unique ids.")]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Send messages; print what was sent as JSON.
    Send(Box<SendArgs>),
    /// Receive and count messages by their ids; print the counts as JSON.
    Sink(SinkArgs),
}

#[derive(Debug, Args)]
struct SendArgs {
    /// Send over plain TCP to this address.
    #[arg(long, value_name = "ADDRESS", required_unless_present_any = ["tls", "udp"])]
    tcp: Option<SocketAddr>,
    /// Send over TLS to this address.
    #[arg(long, value_name = "ADDRESS", conflicts_with = "tcp", requires = "ca")]
    tls: Option<SocketAddr>,
    /// Send datagrams to this address.
    #[arg(long, value_name = "ADDRESS", conflicts_with_all = ["tcp", "tls"])]
    udp: Option<SocketAddr>,
    /// How many messages.
    #[arg(short = 'n', long)]
    count: u64,
    /// How many connections.
    #[arg(short = 'k', long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=1024))]
    connections: u64,
    /// How messages are kept apart.
    #[arg(long, value_enum, default_value = "octet")]
    framing: FramingName,
    /// Messages a second, over all connections.
    #[arg(long)]
    rate: Option<u64>,
    /// All messages of one size, in bytes; otherwise 600 to 900, 750 on average.
    #[arg(long, value_parser = clap::value_parser!(u64).range(tests::load::payload::SIZE_MIN as u64..))]
    size: Option<u64>,
    /// The first id.
    #[arg(long, default_value_t = 1)]
    start_id: u64,
    /// After a break, try for so many seconds to connect again and go on.
    #[arg(long, value_name = "SECONDS")]
    reconnect: Option<u64>,
    /// A write that waits for so many seconds breaks the connection.
    #[arg(long, value_name = "SECONDS")]
    stall: Option<u64>,
    /// The authority of the receiver's certificate.
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
    /// Our certificate.
    #[arg(long, value_name = "FILE", requires = "key")]
    cert: Option<PathBuf>,
    /// The key of our certificate.
    #[arg(long, value_name = "FILE", requires = "cert")]
    key: Option<PathBuf>,
    /// The name in the receiver's certificate.
    #[arg(long, default_value = "localhost")]
    server_name: String,
}

#[derive(Debug, Args)]
struct SinkArgs {
    /// Listen here.
    #[arg(long, value_name = "ADDRESS")]
    tcp: SocketAddr,
    /// End when nothing has come for so many seconds after the first message.
    #[arg(long, value_name = "SECONDS", default_value_t = 5)]
    idle: u64,
    /// End when so many different messages have come.
    #[arg(long, value_name = "COUNT")]
    unique: Option<u64>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum FramingName {
    Lf,
    Octet,
}

fn main() -> ExitCode {
    let result = match Cli::parse().verb {
        Verb::Send(args) => run_send(*args),
        Verb::Sink(args) => run_sink(&args),
    };
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(err) => {
            eprintln!("penstock-loadgen: {err}");
            ExitCode::from(shared::exit::IO)
        }
    }
}

/// Succeeds when every message was written whole and no connection ended broken.
fn run_send(args: SendArgs) -> std::io::Result<bool> {
    let target = match (args.tcp, args.tls, args.udp, args.ca) {
        (_, Some(address), _, Some(ca)) => {
            let client = args.cert.zip(args.key);
            Target::Tls(address, TlsFiles { ca, client, server_name: args.server_name })
        }
        (_, _, Some(address), _) => Target::Udp(address),
        (Some(address), ..) => Target::Tcp(address),
        _ => {
            return Err(std::io::Error::other("give --tcp, --tls with --ca, or --udp"));
        }
    };
    let mut plan = Plan::new(target, args.count);
    if let (Target::Tcp(_) | Target::Tls(..), FramingName::Lf) = (&plan.target, args.framing) {
        plan.framing = Framing::Lf;
    }
    plan.connections = args.connections;
    plan.rate = args.rate;
    plan.size = args.size.map(|size| size as usize);
    plan.first_id = args.start_id;
    plan.stall = args.stall.map(Duration::from_secs);
    if let Some(seconds) = args.reconnect {
        plan.on_break = OnBreak::Reconnect(Duration::from_secs(seconds));
    }
    let report = send(&plan)?;
    println!("{}", report.to_json());
    let whole = report.segments.last().is_none_or(|segment| segment.broken.is_none());
    Ok(whole && report.sent == args.count)
}

fn run_sink(args: &SinkArgs) -> std::io::Result<bool> {
    let sink = CountingSink::listen(args.tcp)?;
    let idle = Duration::from_secs(args.idle);
    let done = |sink: &CountingSink| {
        args.unique.is_some_and(|unique| sink.counts().unique >= unique)
            || sink.last_arrival().is_some_and(|last| last.elapsed() >= idle)
    };
    while !done(&sink) {
        thread::sleep(Duration::from_millis(20)); // ok: the pause between two looks
    }
    println!("{}", sink.counts().to_json());
    Ok(true)
}
