//! The first half of the writer: takes batches, gives them sequence numbers, packs them into
//! blocks and blocks into groups. Packing the next group overlaps with committing the last.

use std::io;
use std::sync::mpsc::{RecvTimeoutError, SyncSender};
use std::time::{Duration, Instant};

use shared::record::Lane;
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use super::block::{Block, Packer};
use super::intake::{IntakeReceiver, LostBefore, Mark, Request, RequestKind, Sighting};

/// What one transaction makes durable.
#[derive(Default)]
pub(super) struct Group {
    /// One more than that of the group before.
    pub(super) number: u64,
    pub(super) blocks: Vec<Block>,
    pub(super) losses: Vec<LostBefore>,
    /// In the order in which they were submitted: the last one of a name counts.
    pub(super) marks: Vec<Mark>,
    pub(super) sightings: Vec<Sighting>,
    pub(super) records: u64,
    pub(super) raw_bytes: u64,
    /// When somebody began to submit the oldest of it.
    pub(super) since: Option<Instant>,
    pub(super) committed: Vec<oneshot::Sender<()>>,
    /// Given back by being dropped.
    pub(super) permits: Vec<OwnedSemaphorePermit>,
}

/// When a group is complete.
#[derive(Clone, Copy, Debug)]
pub(super) struct GroupLimits {
    pub(super) records_max: u64,
    pub(super) bytes_max: u64,
    pub(super) interval: Duration,
}

pub(super) struct Grouper {
    limits: GroupLimits,
    packers: [Packer; Lane::ALL.len()],
    group: Group,
    /// When the group's first request was taken.
    begun: Option<Instant>,
}

impl Grouper {
    /// `packers` in the order of [`Lane::ALL`]; `last_group` is the last durable one.
    pub(super) fn new(
        limits: GroupLimits,
        packers: [Packer; Lane::ALL.len()],
        last_group: u64,
    ) -> Self {
        let group = Group { number: last_group + 1, ..Group::default() };
        Self { limits, packers, group, begun: None }
    }

    /// Runs until every [`super::Intake`] is dropped or the committer is gone.
    pub(super) fn run(
        mut self,
        intake: &IntakeReceiver,
        groups: &SyncSender<Group>,
    ) -> io::Result<()> {
        loop {
            let left = self.begun.map(|begun| self.limits.interval.saturating_sub(begun.elapsed()));
            let full = self.group.records >= self.limits.records_max
                || self.group.raw_bytes >= self.limits.bytes_max
                || left == Some(Duration::ZERO);
            let ended = if full {
                false
            } else {
                match intake.recv(left) {
                    Ok(request) => {
                        self.add(request)?;
                        continue;
                    }
                    Err(RecvTimeoutError::Timeout) => false,
                    Err(RecvTimeoutError::Disconnected) => true,
                }
            };
            if self.begun.is_some() && groups.send(self.finish()?).is_err() {
                return Ok(());
            }
            if ended {
                return Ok(());
            }
        }
    }

    fn add(&mut self, request: Request) -> io::Result<()> {
        self.begun.get_or_insert_with(Instant::now);
        let since = self.group.since.get_or_insert(request.submitted);
        *since = request.submitted.min(*since);
        self.group.permits.push(request.permit);
        match request.kind {
            RequestKind::Batch(batch) => {
                let mut start = 0;
                for message in &batch.messages {
                    // Ends come from our own listeners; one that runs backwards makes an empty
                    // message.
                    let end = message.end.clamp(start, batch.data.len());
                    let raw = &batch.data[start..end];
                    let packer = &mut self.packers[message.lane as usize];
                    packer.add(&batch.source, message, raw, &mut self.group.blocks)?;
                    start = end;
                }
                self.group.raw_bytes += start as u64;
                self.group.records += batch.messages.len() as u64;
                self.group.marks.extend(batch.mark);
                self.group.sightings.extend(batch.sightings);
                self.group.committed.extend(batch.committed);
            }
            RequestKind::Loss(loss) => self.group.losses.push(loss),
        }
        Ok(())
    }

    fn finish(&mut self) -> io::Result<Group> {
        for packer in &mut self.packers {
            packer.close(&mut self.group.blocks)?;
        }
        self.begun = None;
        let next = Group { number: self.group.number + 1, ..Group::default() };
        Ok(std::mem::replace(&mut self.group, next))
    }
}
