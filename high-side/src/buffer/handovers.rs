//! What each carrier has done with each bundle: it was handed over for the first time, and since then
//! sent so many times in all.
//!
//! A bundle is ready until every carrier of its lane has a row for it; then it is handed over. A
//! carrier's queue is what is ready and has no row of its own, so nothing has to be kept in step.

use std::time::Duration;

use rusqlite::types::Value;
use rusqlite::{Connection, OptionalExtension, Row, params, params_from_iter};
use shared::clock::Nanos;
use shared::custody::Action;
use shared::record::Lane;

use super::bundles::{Bundle, BundleState, SELECT};
use super::checked::{number, open_row, seal_row, text, time};
use super::custody;
use super::error::BufferError;
use super::schema::{key, number_of_key};
use super::store::{Store, begin};

/// One carrier's account of one bundle.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Handover {
    /// The carrier's name.
    pub carrier: String,
    /// When it was handed over for the first time.
    pub first: Nanos,
    /// How many times it was sent.
    pub passes: u64,
    /// When it was sent last.
    pub last: Nanos,
}

/// What became of the wish to send a bundle again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Requeued {
    /// Every carrier of its lane sends it again.
    Again,
    /// It was on its way already, and waits for its first hand-over.
    Waiting,
    /// It can't be sent again: it was deleted or refused, or is not known.
    Gone,
}

impl Handover {
    fn load(conn: &Connection, bundle: i64, carrier: &str) -> Result<Option<Self>, BufferError> {
        let sql = format!("{SELECT_HANDOVER} WHERE bundle = ?1 AND carrier = ?2");
        conn.prepare_cached(&sql)?
            .query_row(params![bundle, carrier], |row| Ok(Self::from_row(row)))
            .optional()?
            .transpose()
    }

    fn store(&self, conn: &Connection, bundle: i64) -> Result<(), BufferError> {
        let values = seal_row(
            TABLE,
            vec![
                Value::Integer(bundle),
                text(self.carrier.as_str()),
                time(self.first),
                number(self.passes),
                time(self.last),
            ],
        );
        conn.prepare_cached("INSERT OR REPLACE INTO handover VALUES (?1, ?2, ?3, ?4, ?5, ?6)")?
            .execute(params_from_iter(values))?;
        Ok(())
    }

    fn from_row(row: &Row<'_>) -> Result<Self, BufferError> {
        let mut fields = open_row(TABLE, row)?;
        fields.number()?;
        Ok(Self {
            carrier: fields.text()?,
            first: fields.time()?,
            passes: fields.number()?,
            last: fields.time()?,
        })
    }
}

impl Store {
    /// The first bundles of these lanes that a carrier has yet to hand over: urgent lanes first, each
    /// lane in order. What is ready and has no row of its own, and what was exported before its turn.
    pub fn carrier_queue(
        &self,
        carrier: &str,
        lanes: &[Lane],
        count: u32,
    ) -> Result<Vec<Bundle>, BufferError> {
        let ready = format!(
            "{SELECT} WHERE state = 'ready' AND id BETWEEN ?1 AND ?2 AND NOT EXISTS
             (SELECT 1 FROM handover h WHERE h.bundle = bundle.id AND h.carrier = ?3)
             ORDER BY id LIMIT ?4"
        );
        let owed = format!(
            "{SELECT} WHERE id IN (SELECT h.bundle FROM handover h WHERE h.carrier = ?3
             AND h.passes = {OWED} AND h.bundle BETWEEN ?1 AND ?2 ORDER BY h.bundle LIMIT ?4)"
        );
        let mut bundles = Vec::new();
        for lane in Lane::ALL.into_iter().filter(|lane| lanes.contains(lane)) {
            let left = u64::from(count).saturating_sub(bundles.len() as u64);
            let range = (key(lane, 0), key(lane, u64::MAX), carrier, left.cast_signed());
            let mut of_lane = Bundle::all(&self.conn, &ready, range)?;
            of_lane.extend(Bundle::all(&self.conn, &owed, range)?);
            of_lane.sort_by_key(|bundle| bundle.number);
            of_lane.truncate(usize::try_from(left).unwrap_or(usize::MAX));
            bundles.extend(of_lane);
        }
        Ok(bundles)
    }

    /// The bundle was exported: it is handed over. A medium may get lost, and a carrier's own promise is
    /// another one: those of `carriers` that have yet to send it still do.
    pub fn mark_exported(
        &mut self,
        bundle: &Bundle,
        by: &str,
        carriers: &[String],
        now: Nanos,
    ) -> Result<Bundle, BufferError> {
        let id = key(bundle.lane, bundle.number);
        let owed = |conn: &Connection| {
            for carrier in carriers {
                if Handover::load(conn, id, carrier)?.is_none() {
                    let carrier = carrier.clone();
                    Handover { carrier, first: now, passes: OWED, last: now }.store(conn, id)?;
                }
            }
            Ok(())
        };
        self.mark_handed_over_with(bundle, by, now, owed)
    }

    /// A carrier has handed a bundle over. Once all `carriers` of its lane have, it counts as handed
    /// over. May be repeated.
    pub fn hand_over(
        &mut self,
        bundle: &Bundle,
        carrier: &str,
        carriers: &[String],
        now: Nanos,
    ) -> Result<(), BufferError> {
        let tx = begin(&mut self.conn)?;
        let id = key(bundle.lane, bundle.number);
        let found = Bundle::load(&tx, bundle.lane, bundle.number)?;
        // Something else handed it over meanwhile, and retention may have deleted its file.
        let state = found.as_ref().map(|found| found.state);
        let is_kept = matches!(state, Some(BundleState::Ready | BundleState::HandedOver));
        let done = Handover::load(&tx, id, carrier)?;
        if is_kept && done.is_none_or(|done| done.passes == OWED) {
            let carrier = carrier.to_owned();
            let detail = format!("by carrier {carrier}");
            Handover { carrier, first: now, passes: 1, last: now }.store(&tx, id)?;
            let event = custody::event(&self.life, bundle, Action::HandedOver).detail(detail);
            custody::note(&tx, event)?;
        }
        if let Some(mut bundle) = found.filter(|found| found.state == BundleState::Ready) {
            let mut all = true;
            for name in carriers {
                all &= Handover::load(&tx, id, name)?.is_some();
            }
            if all {
                bundle.state = BundleState::HandedOver;
                bundle.handed_over = Some((now, carriers.join(", ")));
                bundle.store(&tx)?;
            }
        }
        tx.commit()?;
        Ok(())
    }

    /// A carrier has sent a bundle so many times in all.
    pub fn note_passes(
        &mut self,
        bundle: &Bundle,
        carrier: &str,
        passes: u64,
        now: Nanos,
    ) -> Result<(), BufferError> {
        let tx = begin(&mut self.conn)?;
        let id = key(bundle.lane, bundle.number);
        if let Some(handover) = Handover::load(&tx, id, carrier)? {
            // A carousel turns for as long as it is told to: of its passes the 2nd, 4th, 8th ... are
            // noted, so that the log grows with bundles and hardly with time.
            if passes > handover.passes && passes.is_power_of_two() {
                let detail = format!("by carrier {carrier}, pass {passes}");
                let event = custody::event(&self.life, bundle, Action::SentAgain).detail(detail);
                custody::note(&tx, event)?;
            }
            Handover { passes, last: now, ..handover }.store(&tx, id)?;
        }
        tx.commit()?;
        Ok(())
    }

    /// What is due to be sent once more, and how it was sent: `waits` says, from the second pass on,
    /// how long after one pass the next is due. Urgent lanes come first; then, of each pass so many, what
    /// was due first.
    pub fn on_carousel(
        &self,
        carrier: &str,
        waits: &[Duration],
        now: Nanos,
        count: u32,
    ) -> Result<Vec<(Bundle, Handover)>, BufferError> {
        let sql = format!(
            "{SELECT_HANDOVER} WHERE carrier = ?1 AND passes = ?2 AND last_ns <= ?3
             AND bundle BETWEEN ?5 AND ?6 ORDER BY last_ns LIMIT ?4"
        );
        let mut statement = self.conn.prepare_cached(&sql)?;
        let mut found = Vec::new();
        for lane in Lane::ALL {
            for (passes, wait) in (1_i64..).zip(waits) {
                let wait = i64::try_from(wait.as_nanos()).unwrap_or(i64::MAX);
                let due = now.0.saturating_sub(wait);
                let (from, to) = (key(lane, 0), key(lane, u64::MAX));
                let mut rows = statement.query(params![carrier, passes, due, count, from, to])?;
                while let Some(row) = rows.next()? {
                    let number = number_of_key(row.get(0)?);
                    let handover = Handover::from_row(row)?;
                    let bundle = Bundle::load(&self.conn, lane, number)?;
                    found.extend(bundle.map(|bundle| (bundle, handover)));
                }
            }
        }
        Ok(found)
    }

    /// A bundle's file is gone: the carrier has no more to do with it, and what it has done stays as it is.
    pub fn end_carousel(&mut self, bundle: &Bundle, carrier: &str) -> Result<(), BufferError> {
        let tx = begin(&mut self.conn)?;
        let id = key(bundle.lane, bundle.number);
        // A bundle that was deleted meanwhile has no rows any more.
        if let Some(done) = Handover::load(&tx, id, carrier)? {
            Handover { passes: ENDED, ..done }.store(&tx, id)?;
        }
        tx.commit()?;
        Ok(())
    }

    /// What each carrier has done with a bundle.
    pub fn handovers(&self, lane: Lane, number: u64) -> Result<Vec<Handover>, BufferError> {
        let sql = format!("{SELECT_HANDOVER} WHERE bundle = ?1 ORDER BY first_ns, carrier");
        let mut statement = self.conn.prepare_cached(&sql)?;
        let mut rows = statement.query([key(lane, number)])?;
        let mut found = Vec::new();
        while let Some(row) = rows.next()? {
            found.push(Handover::from_row(row)?);
        }
        Ok(found)
    }

    /// Has a bundle that was handed over sent again by every carrier of its lane, as if for the first
    /// time. Passes begin anew as well; a carrier that codes says itself what was sent before.
    pub fn requeue(&mut self, lane: Lane, number: u64) -> Result<Requeued, BufferError> {
        let tx = begin(&mut self.conn)?;
        let Some(mut bundle) = Bundle::load(&tx, lane, number)? else {
            return Ok(Requeued::Gone);
        };
        let requeued = match bundle.state {
            BundleState::HandedOver | BundleState::Ready => Requeued::Again,
            BundleState::Refused | BundleState::Deleted => Requeued::Gone,
            _ => Requeued::Waiting,
        };
        if requeued == Requeued::Again {
            tx.execute("DELETE FROM handover WHERE bundle = ?1", [key(lane, number)])?;
            if bundle.state == BundleState::HandedOver {
                bundle.state = BundleState::Ready;
                bundle.handed_over = None;
                bundle.store(&tx)?;
            }
            let event = custody::event(&self.life, &bundle, Action::Requeued);
            custody::note(&tx, event.detail("every carrier of its lane sends it again"))?;
        }
        tx.commit()?;
        Ok(requeued)
    }

    /// The bundles of a lane that have waited longer than `patience` to be handed over for the first time.
    /// A bundle waits since its oldest record was received; an empty one, since it was sealed.
    pub fn late(
        &self,
        lane: Lane,
        patience: Duration,
        now: Nanos,
    ) -> Result<Option<Late>, BufferError> {
        let before = now.0.saturating_sub(i64::try_from(patience.as_nanos()).unwrap_or(i64::MAX));
        let sql = "SELECT id, since, count(*) OVER (), max(since) OVER () FROM
                       (SELECT id, coalesce(oldest_ns, planned_ns) AS since FROM bundle
                        WHERE state = 'ready' AND id BETWEEN ?1 AND ?2)
                   WHERE since < ?3 ORDER BY since, id LIMIT 1";
        let range = params![key(lane, 0), key(lane, u64::MAX), before];
        let found = self.conn.prepare_cached(sql)?.query_row(range, |row| {
            let bundles: i64 = row.get(2)?;
            Ok(Late {
                number: number_of_key(row.get(0)?),
                since: Nanos(row.get(1)?),
                bundles: bundles.cast_unsigned(),
                newest: Nanos(row.get(3)?),
            })
        });
        Ok(found.optional()?)
    }
}

/// Bundles that wait to be handed over, too long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Late {
    /// The number of the one that has waited longest.
    pub number: u64,
    /// Since when it has.
    pub since: Nanos,
    /// How many there are.
    pub bundles: u64,
    /// Since when the one waits that came last.
    pub newest: Nanos,
}

/// A bundle whose file is gone is on no carousel any more.
pub(super) fn forget(conn: &Connection, lane: Lane, number: u64) -> Result<(), BufferError> {
    conn.prepare_cached("DELETE FROM handover WHERE bundle = ?1")?.execute([key(lane, number)])?;
    Ok(())
}

/// More passes than any carrier makes: there is nothing more to be done.
const ENDED: u64 = u32::MAX as u64;

/// No pass yet, of a bundle that counts as handed over already: it was exported.
const OWED: u64 = 0;

const TABLE: &str = "handover";

const SELECT_HANDOVER: &str =
    "SELECT bundle, carrier, first_ns, passes, last_ns, \"check\" FROM handover";
