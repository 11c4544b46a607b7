//! The harness of the tests that meet Penstock as its users do: whole agents in their own
//! processes, real peers beside them, and an oracle of what was sent.
//!
//! - [`sandbox`]: a temporary folder, free ports
//! - [`process`]: child processes with a log file, killed when dropped; what they cost
//! - [`wait`]: polling with a deadline, the only way a test waits
//! - [`agents`]: both agents and their command lines, paired and carried between
//! - [`oracle`]: which records were issued, and what came out: lost, repeated, foreign
//! - [`logs`]: no unlisted ERROR line
//! - [`peers`]: rsyslog, logger, curl, openssl, age, ssh-keygen, zstd, tar, sha256sum, strace
//! - [`forge`]: a second writer of bundles, which can break exactly one rule
//! - [`load`]: the load generator and the counting sink
//! - [`chain`]: bundles made without an agent
//! - [`crossing`]: both agents, set up for speed, and what must hold at the end of the way
//! - [`examined`]: what a doctor said
//! - [`opened`]: bundles read by the library, as strictly as by a low side
//! - [`samples`]: odd syslog messages, where there are some
//! - [`seed`]: random choices that can be repeated
//! - [`diode`]: both agents with a UDP diode between them
//! - [`impair`], [`relay`]: a bad one-way link, as a model and between two sockets
//! - [`oneway`]: a link between two network namespaces on which nothing comes back
//! - [`campaign`]: seeded runs of the diode's two ends, in memory
//! - [`bench`]: what `make bench` measures
//!
//! A harness that can't do its work panics with a sentence that says what to do: a test that was
//! not run must never look like one that passed.

pub mod agents;
pub mod bench;
pub mod campaign;
pub mod chain;
pub mod crossing;
pub mod diode;
pub mod examined;
pub mod forge;
pub mod impair;
pub mod load;
pub mod logs;
pub mod oneway;
pub mod opened;
pub mod oracle;
pub mod peers;
pub mod process;
pub mod relay;
pub mod samples;
pub mod sandbox;
pub mod seccomp;
pub mod seed;
pub mod wait;
