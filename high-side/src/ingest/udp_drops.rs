//! Datagrams that the kernel dropped, since the receive queue of a socket was full.
//!
//! The kernel counts them for each socket. The count comes with each datagram (`SO_RXQ_OVFL`), as it
//! was when that datagram was queued; and from `/proc` at any time, so that drops after which nothing
//! more comes are seen as well. What is counted is declared as lost, and crosses the gap as such.

use std::net::UdpSocket;
use std::os::unix::fs::MetadataExt;
use std::sync::atomic::Ordering;

use shared::clock::Nanos;

use super::Listener;
use crate::buffer::{IntakeClosed, LossReason, LostBefore};

pub(super) struct Drops<'a> {
    listener: &'a Listener,
    inode: Option<u64>,
    table: &'static str,
    seen: u32,
    undeclared: u64,
    /// Everything up to this time is accounted for.
    since: Nanos,
}

impl<'a> Drops<'a> {
    pub(super) fn new(listener: &'a Listener, socket: &UdpSocket) -> Self {
        let ipv4 = socket.local_addr().is_ok_and(|address| address.is_ipv4());
        Self {
            listener,
            inode: inode(socket),
            table: if ipv4 { "/proc/self/net/udp" } else { "/proc/self/net/udp6" },
            seen: 0,
            undeclared: 0,
            since: listener.gate.clock.now(),
        }
    }

    /// Takes in the kernel's count, which wraps.
    pub(super) fn observe(&mut self, count: u32) {
        let more = count.wrapping_sub(self.seen);
        // The count with a datagram is older than one read from /proc in between.
        if more <= u32::MAX / 2 {
            self.seen = count;
            self.undeclared += u64::from(more);
        }
    }

    /// Reads the kernel's count now.
    pub(super) fn poll(&mut self) {
        let Some(inode) = self.inode else { return };
        let Ok(table) = std::fs::read_to_string(self.table) else {
            return;
        };
        if let Some(count) = drops_of(&table, inode) {
            self.observe(count);
        }
    }

    /// Declares what was dropped since the last time.
    pub(super) fn declare(&mut self) -> Result<(), IntakeClosed> {
        let now = self.listener.gate.clock.now();
        let from = std::mem::replace(&mut self.since, now);
        let count = std::mem::take(&mut self.undeclared);
        if count == 0 {
            return Ok(());
        }
        let listener = self.listener.settings.name.clone();
        tracing::error!(listener, count, "the kernel dropped datagrams; declared as lost");
        self.listener.gate.counters.datagrams_lost.fetch_add(count, Ordering::Relaxed);
        self.listener.gate.intake.loss_sink().declare_blocking(LostBefore {
            lane: self.listener.settings.lane,
            reason: LossReason::UdpReceiveQueue,
            listener,
            count,
            from,
            to: now,
        })
    }
}

fn inode(socket: &UdpSocket) -> Option<u64> {
    use std::os::fd::AsFd;
    let file = std::fs::File::from(socket.as_fd().try_clone_to_owned().ok()?);
    Some(file.metadata().ok()?.ino())
}

/// The last column of the row whose inode is ours.
fn drops_of(table: &str, inode: u64) -> Option<u32> {
    let columns = |row: &str| {
        let mut words = row.split_ascii_whitespace().skip(INODE_COLUMN);
        (words.next().and_then(|word| word.parse().ok()), words.last().map(str::to_owned))
    };
    table
        .lines()
        .skip(1)
        .map(columns)
        .find_map(|(found, drops)| if found == Some(inode) { drops?.parse().ok() } else { None })
}

const INODE_COLUMN: usize = 9;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_row_of_a_socket_is_found_by_its_inode() {
        let table = "   sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode ref pointer drops\n\
            77: 0100007F:0202 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 3141 2 000000003141aaaa 0\n\
            91: 00000000:0203 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 2718 2 0000000027182718 42\n";
        assert_eq!(drops_of(table, 2718), Some(42));
        assert_eq!(drops_of(table, 3141), Some(0));
        assert_eq!(drops_of(table, 1), None);
    }
}
