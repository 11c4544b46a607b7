//! The command line of `penstock-high`.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use clap_complete::Shell;
use shared::clock::Nanos;
use shared::config::{ByteSize, Span};
use shared::record::Stream;

use crate::cmd::init::Listen;
use crate::cmd::mint::MintArgs;
use crate::cmd::setup::SetupArgs;
use crate::config::DEFAULT_PATH;
use crate::media::Shares;

/// Takes audit records in the secure zone and seals them into bundles that cross the gap.
#[derive(Debug, Parser)]
#[command(name = "penstock-high", version, max_term_width = 100)]
pub struct Cli {
    /// The configuration file.
    #[arg(long, global = true, default_value = DEFAULT_PATH, value_name = "FILE")]
    pub config: PathBuf,
    /// What to do.
    #[command(subcommand)]
    pub verb: Verb,
}

/// The verbs.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Make the signing key and, where there is none, a configuration; print the public half.
    Init {
        /// The name of this installation: 1 to 32 of a-z, 0-9 and '-'. Not needed where a
        /// configuration has it.
        #[arg(long)]
        origin: Option<String>,
        /// Keep everything under this folder: configuration, keys and state.
        #[arg(long, value_name = "FOLDER")]
        dir: Option<PathBuf>,
        /// Sockets for the new configuration.
        #[arg(
            long,
            value_name = "PROTOCOL://ADDRESS",
            help = "Listen there, in the new configuration: tcp://0.0.0.0:5514, or udp://, relp://, ..."
        )]
        listen: Vec<Listen>,
        /// How long a record may take to the SIEM, in both lanes, in the new configuration: "24h" where a courier
        /// goes once in twelve hours. Without this the flash lane has a second, which needs a diode.
        #[arg(long, value_name = "SPAN")]
        budget: Option<Span>,
        /// Pair at once, as `pair` does with this public half of the low side.
        #[arg(long, value_name = "FILE")]
        pair: Option<PathBuf>,
        /// Then enable and start the service.
        #[arg(long, conflicts_with = "dir")]
        start: bool,
    },
    /// Print this side's public half, for the low side.
    Public,
    /// Encrypt to a low side from now on; compare its fingerprint first.
    Pair {
        /// The low side's public half.
        file: PathBuf,
        /// Then enable and start the service, or have a running one take the key up.
        #[arg(long)]
        start: bool,
    },
    /// Check the configuration and the keys, and name every problem at once.
    CheckConfig,
    /// Look at everything that is easily got wrong, from permissions to the budget, and say what to do;
    /// or send a test record on its way to the SIEM. Ends with 0 (in order), 2 (warnings) or 1.
    Doctor(DoctorArgs),
    /// Make the certificates that a site without an authority of its own needs for mutual TLS.
    Mint(MintArgs),
    /// Make the key that both ends of a diode link share, mode 0600; carry the file to the low side.
    DiodeKey {
        /// The new file; one that exists is never replaced.
        file: PathBuf,
    },
    /// Print the exact settings of what is to send to a listener.
    Setup(SetupArgs),
    /// Listen, buffer and seal, until told to stop.
    Run,
    /// Seal now what waits in the buffer.
    Seal {
        /// Only this lane (flash or routine).
        #[arg(long)]
        lane: Option<String>,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Copy sealed bundles to mounted media, read them back, and keep a signed record of it.
    Export(ExportVerb),
    /// Ask every Portainer for records that syslog lost, and take them in, once.
    Reconcile {
        /// Look back so far (36h, 7d); else to a little before the end of the last run.
        #[arg(long, value_name = "TIME")]
        since: Option<String>,
        /// Only compare, and say what would be taken in.
        #[arg(long)]
        dry_run: bool,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Look after links over which nothing comes back.
    Diode {
        /// What to do.
        #[command(subcommand)]
        verb: DiodeVerb,
    },
    /// Officers, who look at bundles and let them leave.
    Officer {
        /// What to do.
        #[command(subcommand)]
        verb: OfficerVerb,
    },
    /// List the bundles that wait for officers; with an officer's keys, show what is inside.
    Review {
        /// Bundles, by name or as LANE/NUMBER.
        bundles: Vec<String>,
        /// Every bundle that waits.
        #[arg(long)]
        all: bool,
        /// The folder of the officer's keys.
        #[arg(long, value_name = "FOLDER")]
        key: Option<PathBuf>,
        /// A file whose first line is the passphrase of these keys.
        #[arg(long, value_name = "FILE")]
        passphrase_file: Option<PathBuf>,
        /// Show the summaries in this folder; needs no configuration.
        #[arg(long, value_name = "FOLDER", requires = "key")]
        from: Option<PathBuf>,
        /// Copy the encrypted summaries into this folder, for officers who work elsewhere.
        #[arg(long, value_name = "FOLDER", conflicts_with_all = ["from", "key"])]
        export: Option<PathBuf>,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Let bundles leave, as an officer who has read what is inside; or refuse them.
    Release(ReleaseVerb),
    /// Show what waits, how old it is, and sums that add up.
    Status {
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// List the bundles that this side knows.
    Bundles {
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Read the whole buffer and name every record that was damaged on the disk.
    CheckBuffer {
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Show what would happen to each line of a file: stream, category, lane, what would be redacted
    /// or suppressed. Nothing is stored.
    Try {
        /// The file; - for standard input.
        file: PathBuf,
        /// Take every line for one of this stream.
        #[arg(long)]
        stream: Option<Stream>,
        /// Print JSON, a line each.
        #[arg(long)]
        json: bool,
        /// Print only the sums.
        #[arg(long, conflicts_with = "json")]
        summary: bool,
    },
    /// Receipts of the low side, carried back by hand.
    Receipt {
        /// What to do with them.
        #[command(subcommand)]
        verb: ReceiptVerb,
    },
    /// The log of who did what to which bundle.
    Custody {
        /// What to do.
        #[command(subcommand)]
        verb: CustodyVerb,
    },
    /// Back up configuration, keys, buffer, custody log and what waits in the outbox; the agent may run.
    Backup(BackupVerb),
    /// Make a key that opens backups, mode 0600, and print its recipient. Keep it on neither side.
    BackupKey {
        /// The new file; one that exists is never replaced.
        file: PathBuf,
    },
    /// Put a backup back. A new epoch begins: numbers of the old one may have crossed already.
    Restore(RestoreVerb),
    /// Begin a new epoch after a restore by other means, or take in what a buffer that was set aside still holds.
    ///
    /// A state folder that was restored from a backup continues with numbers that may have crossed
    /// already with other content: the low side sees a fork. Run this before the agent starts again.
    Recover {
        /// A folder `set-aside-...` in the state folder: records in it that no bundle holds are taken in.
        #[arg(long, conflicts_with = "yes")]
        from: Option<PathBuf>,
        /// A receipt of the low side, written after the old life's last bundle came: what it says arrived
        /// is left out.
        #[arg(long, value_name = "FILE", requires = "from")]
        receipt: Option<PathBuf>,
        /// Begin the new epoch.
        #[arg(long)]
        yes: bool,
    },
    /// Mark what the operator must know as known.
    Acknowledge {
        /// The number of an alarm, as `status` shows it; without one, all.
        alarm: Option<u64>,
    },
    /// Print a completion script.
    Completions {
        /// For which shell.
        shell: Shell,
    },
    /// Write the manual pages into a folder, as packages install them.
    #[command(hide = true)]
    Manual {
        /// The folder; it must exist.
        folder: PathBuf,
    },
}

/// What to do with links over which nothing comes back.
#[derive(Debug, Subcommand)]
pub enum DiodeVerb {
    /// Look at address, kernel and interface of each link, and say what to change.
    Doctor {
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
}

/// What to do with receipts.
#[derive(Debug, Subcommand)]
pub enum ReceiptVerb {
    /// Take in a receipt: note what arrived, and send again what is missing.
    Import {
        /// The file.
        file: PathBuf,
        /// Take in a resend request that nobody signed, as a receiver writes it.
        #[arg(long)]
        unsigned: bool,
        /// Send again, too, what was handed over before the receipt was written and lies behind the last
        /// bundle that arrived.
        #[arg(long)]
        behind: bool,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// List the last receipt of each low side.
    List {
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
}

/// What to do with the custody log.
#[derive(Debug, Subcommand)]
pub enum CustodyVerb {
    /// Verify every entry, link and signature, and name what was removed, changed or reordered.
    Verify {
        /// Verify a copy of a log in this folder; where it ends nobody knows then.
        #[arg(long, value_name = "FOLDER")]
        folder: Option<PathBuf>,
        /// Believe these keys instead of our own: a list of signers as OpenSSH keeps it.
        #[arg(long, value_name = "FILE")]
        signers: Option<PathBuf>,
        /// A checkpoint that was kept elsewhere, with its signature in FILE.sig; the log must hold it.
        #[arg(long, value_name = "FILE")]
        against: Vec<PathBuf>,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Show one bundle's life.
    Show {
        /// LANE/NUMBER, ORIGIN/EPOCH/LANE/NUMBER, a file's name, or the beginning of a digest.
        bundle: String,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Write the entries of a period to a file, for the auditor.
    Export {
        /// From this time on, as 2026-11-23T00:00:00Z.
        #[arg(long, value_name = "TIME")]
        from: Nanos,
        /// Before this time; now, where it is left out.
        #[arg(long, value_name = "TIME")]
        to: Option<Nanos>,
        /// The file to write; it must not exist.
        #[arg(long, value_name = "FILE")]
        out: PathBuf,
    },
}

/// What to do with officers.
#[derive(Debug, Subcommand)]
pub enum OfficerVerb {
    /// Make an officer's own keys and print the public half; needs no configuration.
    Init {
        /// The officer's name: 1 to 32 of a-z, 0-9 and '-'.
        #[arg(long)]
        name: String,
        /// The folder for the keys, which only the officer can read.
        #[arg(long, value_name = "FOLDER")]
        dir: PathBuf,
        /// Protect them by a passphrase, which is asked for.
        #[arg(long)]
        passphrase: bool,
        /// Protect them by the passphrase in the first line of this file.
        #[arg(long, value_name = "FILE", conflicts_with = "passphrase")]
        passphrase_file: Option<PathBuf>,
    },
    /// Let an officer release from now on; compare the fingerprint first.
    Add {
        /// The officer's public half.
        file: PathBuf,
    },
    /// List the officers.
    List {
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Let an officer release no more.
    Remove {
        /// The officer's name.
        name: String,
    },
}

/// The arguments of `export`.
#[derive(Debug, Args)]
pub struct ExportVerb {
    /// A folder on the medium; with --parts, one on each.
    #[arg(required = true)]
    pub dest: Vec<PathBuf>,
    /// Bundles that were handed over already, too.
    #[arg(long)]
    pub all: bool,
    /// Only what this request, or receipt, of the low side says is missing there.
    #[arg(long, value_name = "FILE", conflicts_with = "all")]
    pub missing: Option<PathBuf>,
    /// Erasure-coded parts, one for each medium: K restore the set, R may be missing, as 3+2.
    #[arg(long, value_name = "K+R")]
    pub parts: Option<Shares>,
    /// The longest file on the medium, as 2GiB; longer bundles are cut into pieces.
    #[arg(long, value_name = "SIZE")]
    pub part_size: Option<ByteSize>,
    /// Begin another set although one is not complete.
    #[arg(long, requires = "parts")]
    pub new_set: bool,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
}

/// The arguments of `backup`.
#[derive(Debug, Args)]
pub struct BackupVerb {
    /// The file to write, which must not exist; or a folder, where it gets a name with the time.
    pub to: PathBuf,
    /// Encrypt to the age recipients in this file.
    #[arg(long, value_name = "FILE")]
    pub recipient: Vec<PathBuf>,
    /// Leave the secret keys out.
    #[arg(long)]
    pub without_keys: bool,
    /// Write the secret keys without encrypting them: whoever reads the file has them.
    #[arg(long, conflicts_with_all = ["recipient", "without_keys"])]
    pub keys_in_the_clear: bool,
    /// Which bundles of the outbox.
    #[arg(long, value_enum, default_value_t = OutboxPart::Waiting)]
    pub outbox: OutboxPart,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
}

/// Which bundles of the outbox go into a backup.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum OutboxPart {
    /// Those that wait to be handed over.
    Waiting,
    /// And those that are kept after that.
    All,
    /// None.
    None,
}

/// The arguments of `restore`.
#[derive(Clone, Debug, Args)]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag of the command line")]
pub struct RestoreVerb {
    /// The backup, or a folder: then the newest in it, by the time in its name.
    pub file: PathBuf,
    /// The key that opens it: an age identity, mode 0600.
    #[arg(long, value_name = "FILE")]
    pub identity: Vec<PathBuf>,
    /// Only read it to its end and say what is in it.
    #[arg(long)]
    pub check: bool,
    /// Set aside a buffer, and secret keys, that stand here.
    #[arg(long)]
    pub replace: bool,
    /// Take in what the backup's buffer held and no bundle did, but for what this receipt of the low side
    /// says arrived.
    #[arg(long, value_name = "FILE", conflicts_with = "take_in")]
    pub receipt: Option<PathBuf>,
    /// Take in all that the backup's buffer held and no bundle did: what crossed since arrives twice.
    #[arg(long)]
    pub take_in: bool,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
}

/// The arguments of `doctor`.
#[derive(Debug, Args)]
pub struct DoctorArgs {
    /// What `penstock-low public` or `penstock-low doctor --json` printed: are both sides paired?
    #[arg(long, value_name = "FILE")]
    pub peer: Option<PathBuf>,
    /// How often somebody carries bundles across, as 24h: can the budget be kept?
    #[arg(long, value_name = "SPAN")]
    pub courier_every: Option<Span>,
    /// The agent's user, where it is another than the one that is found.
    #[arg(long, value_name = "NAME")]
    pub user: Option<String>,
    /// Send a marked test record through a listener of the running agent, seal it, and print its marker
    /// for `penstock-low doctor --await-test`.
    #[arg(long, conflicts_with_all = ["peer", "courier_every", "user"])]
    pub send_test: bool,
    /// Through this listener; else the first that can be used.
    #[arg(long, value_name = "NAME", requires = "send_test")]
    pub listener: Option<String>,
    /// A client's certificate for it, in PEM; else one that `mint` made beside the listener's.
    #[arg(long, value_name = "FILE", requires = "send_test", requires = "client_key")]
    pub client_cert: Option<PathBuf>,
    /// Its key.
    #[arg(long, value_name = "FILE", requires = "client_cert")]
    pub client_key: Option<PathBuf>,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
}

/// The arguments of `release`.
#[derive(Debug, Args)]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag of the command line")]
pub struct ReleaseVerb {
    /// Bundles, by name or as LANE/NUMBER.
    pub bundles: Vec<String>,
    /// Every bundle that waits.
    #[arg(long)]
    pub all: bool,
    /// The folder of the officer's keys.
    #[arg(long, value_name = "FOLDER", required_unless_present = "signature")]
    pub key: Option<PathBuf>,
    /// A file whose first line is the passphrase of these keys.
    #[arg(long, value_name = "FILE")]
    pub passphrase_file: Option<PathBuf>,
    /// Sign for the summaries in this folder; needs no configuration.
    #[arg(long, value_name = "FOLDER")]
    pub from: Option<PathBuf>,
    /// Take in releases that officers signed elsewhere.
    #[arg(long, value_name = "FILE", num_args = 1.., conflicts_with_all = ["key", "from", "refuse"])]
    pub signature: Vec<PathBuf>,
    /// Refuse: the bundle never leaves, and the low side will miss it.
    #[arg(long, requires = "reason", conflicts_with = "all")]
    pub refuse: bool,
    /// Why it is refused.
    #[arg(long, value_name = "TEXT", requires = "refuse")]
    pub reason: Option<String>,
    /// Do it; without this, only show what it would be.
    #[arg(long)]
    pub yes: bool,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        super::Cli::command().debug_assert();
    }
}
