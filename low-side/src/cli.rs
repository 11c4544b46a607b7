//! The command line of `penstock-low`.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use clap_complete::Shell;
use shared::clock::Nanos;
use shared::config::Span;
use shared::record::Stream;

use crate::cmd::init::Place;
use crate::cmd::systemd::UnitArgs;
use crate::config::DEFAULT_PATH;
use crate::report::Framework;

/// Opens the bundles that cross the gap, admits each once, and delivers their records to the SIEM.
#[derive(Debug, Parser)]
#[command(name = "penstock-low", version, max_term_width = 100)]
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
    /// Make the decryption key and, where there is none, a configuration; print the public half.
    Init {
        /// A name for this installation, for people; the one that it has, or low.
        #[arg(long)]
        name: Option<String>,
        /// Keep everything under this folder: configuration, keys, state and inbox.
        #[arg(long, value_name = "FOLDER")]
        dir: Option<PathBuf>,
        /// Make a key that resists quantum computers (X25519 with ML-KEM-768); without it, one of the kind of the
        /// keys that are there already.
        #[arg(long)]
        post_quantum: bool,
        /// Destinations for the new configuration.
        #[arg(
            long,
            value_name = "PLACE",
            help = "Deliver there, in the new configuration: file:/FOLDER, tcp://HOST:PORT or relp://HOST:PORT"
        )]
        sink: Vec<Place>,
        /// Pair at once, as `pair` does with this public half of the high side.
        #[arg(long, value_name = "FILE")]
        pair: Option<PathBuf>,
        /// Then enable and start the service.
        #[arg(long, conflicts_with = "dir")]
        start: bool,
    },
    /// Print this side's public half, for the high side.
    Public,
    /// Trust a high side from now on; compare its fingerprint first.
    Pair {
        /// The high side's public half.
        file: PathBuf,
        /// Then enable and start the service, or have a running one take the key up.
        #[arg(long)]
        start: bool,
    },
    /// Check the configuration and the keys, and name every problem at once.
    CheckConfig,
    /// Look at everything that is easily got wrong, from permissions to the SIEM, and say what to do; or
    /// wait for a test record. Ends with 0 (in order), 2 (warnings) or 1.
    Doctor(DoctorArgs),
    /// Watch the inbox and deliver to the sinks, until told to stop.
    Run,
    /// Show what came in, where it went, and sums that add up.
    Status {
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Account for a period: generated = arrived + suppressed + lost + missing.
    Account {
        /// The last so long, as 24h or 7days.
        #[arg(long, value_name = "SPAN", default_value = "24h", conflicts_with_all = ["from", "to"])]
        last: Span,
        /// Received from this time on, as 2026-11-23T00:00:00Z.
        #[arg(long, value_name = "TIME")]
        from: Option<Nanos>,
        /// Received before this time; now, where it is left out.
        #[arg(long, value_name = "TIME")]
        to: Option<Nanos>,
        /// Only of this high side.
        #[arg(long)]
        origin: Option<String>,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Take in bundles, or parts of them, from files or folders, of mounted media say. The medium is
    /// compared with its transfer record first, and the record countersigned; nothing else there is
    /// changed.
    Import {
        /// Bundles or parts, or folders that hold some.
        #[arg(required = true)]
        paths: Vec<PathBuf>,
        /// After everything that the medium's record names was taken in: overwrite and remove it.
        #[arg(long)]
        wipe: bool,
        /// Wipe; without this, only say what would be wiped.
        #[arg(long, requires = "wipe")]
        yes: bool,
        /// Take in everything that stands in these folders, wait for what is still being copied, and
        /// remove what was taken in: the inbox's work done once, for a folder that the agent never reads.
        #[arg(long, conflicts_with_all = ["wipe", "yes", "admitted_before"])]
        drain: bool,
        /// These bundles were admitted once, by a low side whose ledger and custody log are lost: a signer's time is
        /// judged when a bundle was sealed, as it says itself, and nothing counts as having come late. Who
        /// stole a key whose time is over can write any time: say this only of files that were kept where
        /// nobody changes them. Revoked keys stay refused. The reason is kept in the custody log.
        #[arg(long, value_name = "REASON", value_parser = clap::builder::NonEmptyStringValueParser::new())]
        admitted_before: Option<String>,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Verify a bundle down to its last record, without importing it.
    Verify {
        /// The bundle.
        file: PathBuf,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Show a bundle's header, and what is inside where our key opens it.
    Inspect {
        /// The bundle.
        file: PathBuf,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Show what came over diode links: complete, partial, never seen, expired; or look after them.
    #[command(args_conflicts_with_subcommands = true)]
    Diode {
        /// What else to do.
        #[command(subcommand)]
        verb: Option<DiodeVerb>,
        /// Print JSON.
        #[arg(long)]
        json: bool,
        /// Write a request for what the sender will not send again by itself, to be carried to it.
        #[arg(long, value_name = "FILE", conflicts_with = "json")]
        resend: Option<PathBuf>,
    },
    /// Install what a sink's destination needs: templates, policies, tables, or say how. For `systemd`: print a
    /// drop-in that lets our unit reach what this configuration names, and nothing else.
    Setup {
        /// The sink's name, or systemd.
        sink: String,
        /// Only print what would be installed.
        #[arg(long)]
        print: bool,
        /// The drop-in of our unit.
        #[command(flatten)]
        unit: UnitArgs,
    },
    /// Send a marked record to a sink's destination, and see whether it can be found there.
    Check {
        /// The sink's name.
        sink: String,
        /// The stream that the marked record says it is of.
        #[arg(long, default_value = "other")]
        stream: Stream,
        /// How long to look for it there.
        #[arg(long, value_name = "SPAN", default_value = "2m")]
        within: Span,
    },
    /// Send records of the store to a sink once more.
    Replay {
        /// The sink's name.
        #[arg(long)]
        sink: String,
        /// Of bundles that hold records received from this time on, as 2026-11-23T00:00:00Z.
        #[arg(long, value_name = "TIME")]
        from: Nanos,
        /// And before this time; now, where it is left out.
        #[arg(long, value_name = "TIME")]
        to: Option<Nanos>,
    },
    /// List the records that a sink's receiver refused for good, or send them once more.
    DeadLetters {
        /// The sink's name.
        sink: String,
        /// Send them once more.
        #[arg(long)]
        retry: bool,
        /// Print JSON, a line for each.
        #[arg(long, conflicts_with = "retry")]
        json: bool,
    },
    /// List the bundles that are missing.
    Gaps {
        /// Deliver what waits behind this gap without what is missing.
        #[arg(long, value_name = "ID")]
        pass: Option<i64>,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Write a signed receipt of what arrived and what is missing, for the high side.
    Receipt {
        /// The file to write; an older receipt there is replaced.
        #[arg(long, value_name = "FILE")]
        out: PathBuf,
    },
    /// Show how long records took to arrive, against the budget.
    Latency {
        /// In the last so long, as 24h; at most 7days are kept.
        #[arg(long, value_name = "SPAN", default_value = "24h")]
        last: Span,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Write the evidence of a period for an auditor: a page, its data, and their signatures.
    Report {
        /// Received from this time on, as 2026-11-01T00:00:00Z.
        #[arg(long, value_name = "TIME")]
        from: Nanos,
        /// Received before this time.
        #[arg(long, value_name = "TIME")]
        to: Nanos,
        /// Whose controls the sections are mapped to.
        #[arg(long, value_enum)]
        framework: Framework,
        /// The page, whose name ends with .html, beside which the data are written; or a folder, where
        /// the report makes its own name. Nothing that stands there is replaced. [default: this folder,
        /// or with --json nothing]
        #[arg(long, value_name = "FILE|FOLDER")]
        output: Option<PathBuf>,
        /// Print the data, too.
        #[arg(long)]
        json: bool,
    },
    /// The log of who did what to which bundle.
    Custody {
        /// What to do.
        #[command(subcommand)]
        verb: CustodyVerb,
    },
    /// What keeps the bundles themselves, unchangeable for a time.
    Archive {
        /// What to do.
        #[command(subcommand)]
        verb: ArchiveVerb,
    },
    /// Officers of the high side, whose releases let a bundle in.
    Officer {
        /// What to do.
        #[command(subcommand)]
        verb: OfficerVerb,
    },
    /// Look at refused files.
    Quarantine {
        /// What to do with them.
        #[command(subcommand)]
        verb: QuarantineVerb,
    },
    /// List what an operator must know.
    Alarms {
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Mark what the operator must know as known.
    Acknowledge {
        /// The number of an alarm, as `status` shows it; without one, all.
        alarm: Option<i64>,
    },
    /// Back up configuration, keys, ledger, custody log, quarantine and dead letters; the agent may run.
    Backup(BackupVerb),
    /// Make a key that opens backups, mode 0600, and print its recipient. Keep it on neither side.
    BackupKey {
        /// The new file; one that exists is never replaced.
        file: PathBuf,
    },
    /// Put a backup back. What stands here and is newer stays, but for the ledger.
    Restore(RestoreVerb),
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

/// The arguments of `backup`.
#[derive(Debug, Args)]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag of the command line")]
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
    /// With the bundles in the store.
    #[arg(long)]
    pub with_store: bool,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
}

/// The arguments of `restore`.
#[derive(Clone, Debug, Args)]
pub struct RestoreVerb {
    /// The backup, or a folder: then the newest in it, by the time in its name.
    pub file: PathBuf,
    /// The key that opens it: an age identity, mode 0600.
    #[arg(long, value_name = "FILE")]
    pub identity: Vec<PathBuf>,
    /// Only read it to its end and say what is in it.
    #[arg(long)]
    pub check: bool,
    /// Set aside a ledger, and secret keys, that stand here.
    #[arg(long)]
    pub replace: bool,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
}

/// The arguments of `doctor`.
#[derive(Debug, Args)]
pub struct DoctorArgs {
    /// What `penstock-high public` or `penstock-high doctor --json` printed: are both sides paired?
    #[arg(long, value_name = "FILE")]
    pub peer: Option<PathBuf>,
    /// The agent's user, where it is another than the one that is found.
    #[arg(long, value_name = "NAME")]
    pub user: Option<String>,
    /// Try to break the locks of the archives, too, on canaries that stay for a day.
    #[arg(long)]
    pub archive: bool,
    /// Wait until the test record with this marker arrived, as penstock-high doctor --send-test printed
    /// it: in which bundle, when at which sink, and whether it can be found there.
    #[arg(long, value_name = "MARKER", conflicts_with_all = ["peer", "user", "archive"])]
    pub await_test: Option<String>,
    /// How long to wait for it.
    #[arg(long, value_name = "SPAN", default_value = "10m", requires = "await_test")]
    pub timeout: Span,
    /// How far back bundles are looked through.
    #[arg(long, value_name = "SPAN", default_value = "2days", requires = "await_test")]
    pub since: Span,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
}

/// What to do with links over which nothing goes back.
#[derive(Debug, Subcommand)]
pub enum DiodeVerb {
    /// Look at sockets, kernel, interfaces and losses of each link, and say what to change.
    Doctor {
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

/// What to do with archives.
#[derive(Debug, Subcommand)]
pub enum ArchiveVerb {
    /// List what an archive holds: bundle, when it was archived, bytes, SHA-256, locked until.
    List {
        /// Which archive; the only one, where there is one.
        #[arg(long, value_name = "NAME")]
        archive: Option<String>,
        /// Ask the archive itself, by its names and versions: for a machine that has lost its ledger.
        #[arg(long)]
        without_ledger: bool,
        /// Print JSON, an object a line.
        #[arg(long)]
        json: bool,
    },
    /// Compare an archive with the ledger, and try to break its lock on a canary made for that. The
    /// canary stays for a day.
    Verify {
        /// Which archive; the only one, where there is one.
        #[arg(long, value_name = "NAME")]
        archive: Option<String>,
        /// Read every object back; without this, some 100 are looked at.
        #[arg(long)]
        full: bool,
        /// Do not try the lock.
        #[arg(long)]
        no_probe: bool,
        /// Use these credentials instead of the agent's: only those of somebody who may remove things
        /// prove that the lock keeps him from it.
        #[arg(long, value_name = "FILE")]
        credentials: Option<PathBuf>,
        /// Write FILE (JSON), FILE.txt and FILE.sig, for the auditor.
        #[arg(long, value_name = "FILE")]
        report: Option<PathBuf>,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Fetch bundles from an archive by their versions, verify them, and write them as files that can be
    /// imported. Without a period or a bundle: everything.
    #[command(allow_missing_positional = true)]
    Restore {
        /// Which archive; the only one, where there is one.
        #[arg(long, value_name = "NAME")]
        archive: Option<String>,
        /// Ask the archive itself, by its names and versions: for a machine that has lost its ledger. Times
        /// are inside of bundles, so no period can be asked for.
        #[arg(long, conflicts_with_all = ["from", "to"])]
        without_ledger: bool,
        /// What was received from this time on, as 2026-11-23T00:00:00Z.
        #[arg(long, value_name = "TIME", conflicts_with = "bundle")]
        from: Option<Nanos>,
        /// What was received before this time.
        #[arg(long, value_name = "TIME", conflicts_with = "bundle")]
        to: Option<Nanos>,
        /// One bundle: LANE/NUMBER, ORIGIN/EPOCH/LANE/NUMBER, a file's name, or the beginning of a digest.
        bundle: Option<String>,
        /// The folder to write to.
        #[arg(required = true)]
        dir: PathBuf,
    },
}

/// What to do with officers.
#[derive(Debug, Subcommand)]
pub enum OfficerVerb {
    /// Let an officer's releases count from now on; compare the fingerprint first.
    Add {
        /// The officer's public half.
        file: PathBuf,
    },
    /// List the officers, and whether their releases count now.
    List {
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Let an officer's releases count no more.
    Revoke {
        /// The officer's name.
        name: String,
    },
}

/// What to do with refused files.
#[derive(Debug, Subcommand)]
pub enum QuarantineVerb {
    /// List them with their reasons.
    List {
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Show one.
    Show {
        /// The beginning of its SHA-256.
        sha256: String,
    },
    /// Try again, by the same path as any import.
    Retry {
        /// The beginning of its SHA-256.
        #[arg(required_unless_present = "all")]
        sha256: Option<String>,
        /// Every file in the quarantine.
        #[arg(long, conflicts_with = "sha256")]
        all: bool,
        /// Take a bundle although its number lies further ahead than admission.number-jump-max.
        #[arg(long)]
        accept_jump: bool,
        /// These bundles were admitted once, as of `import --admitted-before`.
        #[arg(long, value_name = "REASON", value_parser = clap::builder::NonEmptyStringValueParser::new())]
        admitted_before: Option<String>,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        super::Cli::command().debug_assert();
    }
}
