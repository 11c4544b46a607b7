//! What receipts of the low side say of our bundles.

use rusqlite::{OptionalExtension, params};
use shared::clock::Nanos;
use shared::custody::{Action, CustodyEvent};
use shared::receipt::{ChainReceipt, Receipt};
use shared::record::Lane;

use super::alarms::{self, AlarmKind};
use super::bundles::{Bundle, SELECT};
use super::custody;
use super::error::BufferError;
use super::lane::LaneState;
use super::schema::key;
use super::store::{Store, begin};

/// What the last receipt of a low side was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KnownReceipt {
    /// The low side.
    pub name: String,
    /// The receipt's number.
    pub number: u64,
    /// When it was written, by the low side's clock.
    pub time: Nanos,
    /// When it was taken in.
    pub taken: Nanos,
}

/// What became of a receipt.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Taken {
    /// Bundles of which it was not known before that they arrived.
    pub confirmed: u64,
    /// What it says of our chains that can't be: an alarm was raised for each.
    pub forks: Vec<String>,
    /// Bundles that were handed over before it was written, lie behind the last that it names, and are
    /// still here: perhaps on their way, perhaps lost.
    pub behind: Vec<(Lane, u64)>,
    /// Chains of other epochs that it names and that this buffer knows nothing of.
    pub other_epochs: u64,
}

impl Store {
    /// The last receipts, by low side.
    pub fn receipts(&self) -> Result<Vec<KnownReceipt>, BufferError> {
        let mut statement = self
            .conn
            .prepare_cached("SELECT name, number, time_ns, taken_ns FROM receipt ORDER BY name")?;
        let rows = statement.query_map([], |row| {
            let number: i64 = row.get(1)?;
            Ok(KnownReceipt {
                name: row.get(0)?,
                number: number.cast_unsigned(),
                time: Nanos(row.get(2)?),
                taken: Nanos(row.get(3)?),
            })
        })?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    /// The number of the receipt that first said that a bundle arrived.
    pub fn confirmed_by(&self, lane: Lane, number: u64) -> Result<Option<u64>, BufferError> {
        let found: Option<i64> = self
            .conn
            .prepare_cached("SELECT receipt FROM confirmed WHERE bundle = ?1")?
            .query_row([key(lane, number)], |row| row.get(0))
            .optional()?;
        Ok(found.map(i64::cast_unsigned))
    }

    /// The numbers in a range of a lane that this buffer knows a bundle of.
    pub fn numbers_between(
        &self,
        lane: Lane,
        first: u64,
        last: u64,
    ) -> Result<Vec<u64>, BufferError> {
        // A number that does not fit a key is one that was never given.
        let next = LaneState::load(&self.conn, lane)?.next_bundle;
        let (first, last) = (first.min(next), last.min(next));
        let mut statement = self
            .conn
            .prepare_cached("SELECT id FROM bundle WHERE id BETWEEN ?1 AND ?2 ORDER BY id")?;
        let rows = statement.query_map([key(lane, first), key(lane, last)], |row| {
            Ok(super::schema::number_of_key(row.get(0)?))
        })?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    /// How many bundles of this epoch receipts have confirmed.
    pub fn confirmed_count(&self) -> Result<u64, BufferError> {
        let count: i64 =
            self.conn.query_row("SELECT count(*) FROM confirmed", [], |row| row.get(0))?;
        Ok(count.cast_unsigned())
    }

    /// Takes in a verified receipt that is not older than any of this low side, all in one transaction:
    /// notes which bundles arrived, and raises an alarm for what can't be. An older one is `None` and
    /// changes nothing.
    pub fn take_receipt(
        &mut self,
        receipt: &Receipt,
        now: Nanos,
    ) -> Result<Option<Taken>, BufferError> {
        let life = self.life.clone();
        let tx = begin(&mut self.conn)?;
        let known: Option<i64> = tx
            .query_row("SELECT number FROM receipt WHERE name = ?1", [&receipt.name], |row| {
                row.get(0)
            })
            .optional()?;
        // The same one again is taken: a first try may have ended before everything was queued.
        if known.is_some_and(|known| receipt.number < known.cast_unsigned()) {
            return Ok(None);
        }
        let number = receipt.number.cast_signed();
        tx.execute(
            "INSERT OR REPLACE INTO receipt VALUES (?1, ?2, ?3, ?4)",
            params![receipt.name, number, receipt.time.0, now.0],
        )?;
        let mut taken = Taken::default();
        let ours = |chain: &&ChainReceipt| chain.origin == life.origin;
        let (chains, others): (Vec<&ChainReceipt>, Vec<_>) =
            receipt.chains.iter().filter(ours).partition(|chain| chain.epoch == life.epoch);
        taken.other_epochs = others.len() as u64;
        for chain in &chains {
            let lane = chain.lane;
            let sealed = LaneState::load(&tx, lane)?.next_bundle.saturating_sub(1);
            for range in &chain.admitted {
                if range.last > sealed {
                    taken.forks.push(format!(
                        "bundle {} of lane {lane} arrived there, but the last that was sealed here is {sealed}: another high side seals under this name, or this one was restored from a backup",
                        range.last
                    ));
                }
                let sql = format!("{SELECT} WHERE id BETWEEN ?1 AND ?2 AND file_name IS NOT NULL
                     AND NOT EXISTS (SELECT 1 FROM confirmed c WHERE c.bundle = bundle.id) ORDER BY id");
                let last = range.last.min(sealed);
                let from = key(lane, range.first.min(last + 1));
                let mut arrived = Bundle::all(&tx, &sql, (from, key(lane, last)))?;
                if let Some(bundle) = Bundle::load(&tx, lane, range.last)?
                    && bundle.file.as_ref().is_some_and(|file| file.digest != range.digest)
                {
                    taken.forks.push(format!(
                        "bundle {} of lane {lane} arrived there with digest {}, which is not the one that was sealed here",
                        range.last, range.digest
                    ));
                    // What the low side has under this number is another bundle.
                    arrived.retain(|other| other.number != range.last);
                }
                for bundle in arrived {
                    tx.prepare_cached("INSERT INTO confirmed VALUES (?1, ?2, ?3)")?
                        .execute(params![key(lane, bundle.number), number, now.0])?;
                    let detail = format!("by receipt {} of {}", receipt.number, receipt.name);
                    let event = custody::event(&life, &bundle, Action::ReceiptConfirmed);
                    custody::note(&tx, event.detail(detail))?;
                    taken.confirmed += 1;
                }
            }
        }
        for lane in Lane::ALL {
            let of_lane = chains.iter().find(|chain| chain.lane == lane);
            let newest = of_lane.and_then(|chain| chain.admitted.last());
            let first = newest.map_or(1, |range| range.last.saturating_add(1));
            let mut statement = tx.prepare_cached(
                "SELECT id FROM bundle WHERE state = 'handed-over' AND handed_over_ns < ?3
                 AND id BETWEEN ?1 AND ?2 ORDER BY id",
            )?;
            let range = params![key(lane, first), key(lane, u64::MAX), receipt.time.0];
            let ids = statement.query_map(range, |row| row.get::<_, i64>(0))?;
            for id in ids {
                taken.behind.push((lane, super::schema::number_of_key(id?)));
            }
        }
        let detail = format!(
            "receipt {} of {}, written {}: {} bundles confirmed, {} missing ranges",
            receipt.number,
            receipt.name,
            receipt.time,
            taken.confirmed,
            receipt.missing.len()
        );
        custody::note(&tx, CustodyEvent::new(now, Action::ReceiptMade).detail(detail))?;
        for fork in &taken.forks {
            let message = format!("receipt {} of {}: {fork}", receipt.number, receipt.name);
            alarms::raise(&tx, AlarmKind::ReceiptFork, &message, now)?;
        }
        tx.commit()?;
        Ok(Some(taken))
    }
}
