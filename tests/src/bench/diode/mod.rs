//! The UDP diode: how fast, at which cost, how soon, and what an idle link takes.
//!
//! - `goodput`: one large bundle over a virtual cable on which each datagram travels by itself, without
//!   loss and with 5 %; beside lidi where `LIDI_DIR` names the folder of its programs
//! - `flash`: from record to sink, while a backlog takes the link
//! - `costs`: an idle link, and a bundle of 20 KB

mod backlog;
mod costs;
mod flash;
mod goodput;
mod lidi;

use super::Options;
use super::table::Table;

/// All measurements of the diode, one after the other.
pub(super) fn run(options: &Options, table: &mut Table) {
    goodput::run(options, table);
    costs::run(table);
    flash::run(options, table);
}

/// A folder in memory, or an ordinary one where there is none: what is measured is the link.
fn fast_dir() -> Option<std::path::PathBuf> {
    let dir = std::path::PathBuf::from("/dev/shm");
    dir.is_dir().then_some(dir)
}
