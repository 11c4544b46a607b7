//! What the buffer knows of bundles that wait for officers: `sealed -> awaiting-release -> released
//! -> ready`, or `-> refused`.
//!
//! Of a summary only a commitment is kept: who reads it here can't sign for the summary.

use rusqlite::types::Value;
use rusqlite::{Connection, OptionalExtension, Row, params, params_from_iter};
use shared::bundle::{BundleDigest, ReleaseSignature, ReleaseStatement};
use shared::clock::Nanos;
use shared::custody::Action;
use shared::record::Lane;

use super::block::Hash;
use super::bundles::{Bundle, BundleState, SealedFile};
use super::checked::{hash, open_row, optional, seal_row, text, time};
use super::custody;
use super::error::BufferError;
use super::plan::PlannedBundle;
use super::schema::{key, lane_of_key, number_of_key};
use super::store::{Store, begin, expect_state};

/// What is known of a bundle's review.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Review {
    /// The commitment to its summary.
    pub commitment: Hash,
    /// Who refused it, if somebody did.
    pub refused: Option<RefusedBy>,
}

/// An officer's refusal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RefusedBy {
    /// When.
    pub at: Nanos,
    /// Who.
    pub officer: String,
    /// Why.
    pub reason: String,
}

/// An officer's release, as it was taken in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredRelease {
    /// Its place among all releases.
    pub id: i64,
    /// The bundle's lane.
    pub lane: Lane,
    /// The bundle's number.
    pub number: u64,
    /// The officer, as the site named them then.
    pub officer: String,
    /// The fingerprint of the officer's key.
    pub key: String,
    /// The SHA-256 of the summary that was signed.
    pub summary: BundleDigest,
    /// The signature.
    pub signature: String,
    /// When it was taken in.
    pub released: Nanos,
}

impl Review {
    pub(super) fn load(
        conn: &Connection,
        lane: Lane,
        number: u64,
    ) -> Result<Option<Self>, BufferError> {
        let sql = "SELECT id, summary, refused_ns, refused_by, reason, \"check\" FROM review WHERE id = ?1";
        conn.prepare_cached(sql)?
            .query_row([key(lane, number)], |row| Ok(Self::from_row(row)))
            .optional()?
            .transpose()
    }

    fn store(&self, conn: &Connection, lane: Lane, number: u64) -> Result<(), BufferError> {
        let refused = self.refused.as_ref();
        let values = seal_row(
            REVIEW,
            vec![
                Value::Integer(key(lane, number)),
                hash(&self.commitment),
                optional(refused, |by| time(by.at)),
                optional(refused, |by| text(by.officer.as_str())),
                optional(refused, |by| text(by.reason.as_str())),
            ],
        );
        conn.prepare_cached("INSERT OR REPLACE INTO review VALUES (?1, ?2, ?3, ?4, ?5, ?6)")?
            .execute(params_from_iter(values))?;
        Ok(())
    }

    fn from_row(row: &Row<'_>) -> Result<Self, BufferError> {
        let mut fields = open_row(REVIEW, row)?;
        fields.number()?;
        let commitment = fields.hash()?;
        let refused = (fields.optional_time()?, fields.optional_text()?, fields.optional_text()?);
        let refused = match refused {
            (Some(at), Some(officer), Some(reason)) => Some(RefusedBy { at, officer, reason }),
            _ => None,
        };
        Ok(Self { commitment, refused })
    }
}

impl StoredRelease {
    fn from_row(row: &Row<'_>) -> Result<Self, BufferError> {
        let broken = || BufferError::Broken("a release is of an unknown lane".to_owned());
        let (id, bundle): (i64, i64) = (row.get(0)?, row.get(1)?);
        let mut fields = open_row(RELEASE, row)?;
        fields.number()?;
        fields.number()?;
        Ok(Self {
            id,
            lane: lane_of_key(bundle).ok_or_else(broken)?,
            number: number_of_key(bundle),
            officer: fields.text()?,
            key: fields.text()?,
            summary: BundleDigest::from_bytes(fields.hash()?),
            signature: fields.text()?,
            released: fields.time()?,
        })
    }

    fn list(conn: &Connection, condition: &str, value: i64) -> Result<Vec<Self>, BufferError> {
        let mut statement = conn.prepare_cached(&format!(
            "SELECT id, bundle, officer, key, summary, signature, released_ns, \"check\"
             FROM \"release\" WHERE {condition} ORDER BY id"
        ))?;
        let mut rows = statement.query([value])?;
        let mut releases = Vec::new();
        while let Some(row) = rows.next()? {
            releases.push(Self::from_row(row)?);
        }
        Ok(releases)
    }
}

impl Store {
    /// Does what [`Store::mark_sealed`] does for a bundle that has to wait for officers: in the same
    /// transaction its summary is bound to it.
    pub fn mark_sealed_for_review(
        &mut self,
        planned: PlannedBundle,
        file: SealedFile,
        commitment: Hash,
    ) -> Result<Bundle, BufferError> {
        self.seal_with(planned, file, |tx, bundle| {
            Review { commitment, refused: None }.store(tx, bundle.lane, bundle.number)
        })
    }

    /// What is known of a bundle's review; `None` if it needs none.
    pub fn review(&self, lane: Lane, number: u64) -> Result<Option<Review>, BufferError> {
        Review::load(&self.conn, lane, number)
    }

    /// The releases of a bundle, in the order in which they were taken in.
    pub fn releases(&self, lane: Lane, number: u64) -> Result<Vec<StoredRelease>, BufferError> {
        StoredRelease::list(&self.conn, "bundle = ?1", key(lane, number))
    }

    /// The releases behind this one, of any bundle.
    pub fn releases_after(&self, id: i64) -> Result<Vec<StoredRelease>, BufferError> {
        StoredRelease::list(&self.conn, "id > ?1", id)
    }

    /// The place of the last release; 0 before the first.
    pub fn last_release(&self) -> Result<i64, BufferError> {
        let sql = "SELECT coalesce(max(id), 0) FROM \"release\"";
        Ok(self.conn.prepare_cached(sql)?.query_row([], |row| row.get(0))?)
    }

    /// A sealed bundle's file stands where it waits for officers.
    pub fn mark_awaiting_release(&mut self, bundle: &Bundle) -> Result<Bundle, BufferError> {
        let action = Action::AwaitingRelease;
        self.advance(bundle, BundleState::Sealed, action, "", |bundle| {
            bundle.state = BundleState::AwaitingRelease;
        })
    }

    /// Takes in an officer's release of a waiting bundle; false if this key released it before.
    pub fn add_release(
        &mut self,
        bundle: &Bundle,
        officer: &str,
        statement: &ReleaseStatement,
        signature: &ReleaseSignature,
        now: Nanos,
    ) -> Result<bool, BufferError> {
        let tx = begin(&mut self.conn)?;
        expect_state(&tx, bundle, BundleState::AwaitingRelease)?;
        let of_bundle = key(bundle.lane, bundle.number);
        let known = StoredRelease::list(&tx, "bundle = ?1", of_bundle)?;
        if known.iter().any(|release| release.key == signature.fingerprint()) {
            return Ok(false);
        }
        let id: i64 =
            tx.query_row("SELECT coalesce(max(id), 0) + 1 FROM \"release\"", [], |row| row.get(0))?;
        let values = seal_row(
            RELEASE,
            vec![
                Value::Integer(id),
                Value::Integer(of_bundle),
                text(officer),
                text(signature.fingerprint()),
                hash(statement.summary.as_bytes()),
                text(signature.armored()),
                time(now),
            ],
        );
        tx.prepare_cached("INSERT INTO \"release\" VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)")?
            .execute(params_from_iter(values))?;
        let detail = format!("by officer {officer}, key {}", signature.fingerprint());
        custody::note(&tx, custody::event(&self.life, bundle, Action::Released).detail(detail))?;
        tx.commit()?;
        Ok(true)
    }

    /// A bundle's file stands complete and synced under its temporary name, with its release in it.
    pub fn mark_released(
        &mut self,
        bundle: &Bundle,
        file_bytes: u64,
        file_sha256: Hash,
    ) -> Result<Bundle, BufferError> {
        let officers = self.releases(bundle.lane, bundle.number)?;
        let officers: Vec<&str> = officers.iter().map(|release| release.officer.as_str()).collect();
        let detail = format!("by {}; their signatures are in the file", officers.join(", "));
        let action = Action::Released;
        self.advance(bundle, BundleState::AwaitingRelease, action, &detail, |bundle| {
            bundle.state = BundleState::Released;
            if let Some(file) = &mut bundle.file {
                (file.bytes, file.sha256) = (file_bytes, file_sha256);
            }
        })
    }

    /// An officer refused a waiting bundle: it never leaves.
    pub fn mark_refused(
        &mut self,
        bundle: &Bundle,
        refused: RefusedBy,
    ) -> Result<Bundle, BufferError> {
        let tx = begin(&mut self.conn)?;
        let mut bundle = expect_state(&tx, bundle, BundleState::AwaitingRelease)?;
        let review = Review::load(&tx, bundle.lane, bundle.number)?;
        let missing = || BufferError::Broken("a waiting bundle has no review".to_owned());
        let mut review = review.ok_or_else(missing)?;
        let detail = format!("by officer {}: {}", refused.officer, refused.reason);
        review.refused = Some(refused);
        review.store(&tx, bundle.lane, bundle.number)?;
        bundle.state = BundleState::Refused;
        bundle.store(&tx)?;
        custody::note(&tx, custody::event(&self.life, &bundle, Action::Refused).detail(detail))?;
        tx.commit()?;
        Ok(bundle)
    }

    /// Forgets the reviews of bundles that are forgotten.
    pub(super) fn prune_reviews(&self) -> Result<(), BufferError> {
        self.conn.execute(
            "DELETE FROM \"release\" WHERE bundle NOT IN (SELECT id FROM bundle)",
            params![],
        )?;
        self.conn
            .execute("DELETE FROM review WHERE id NOT IN (SELECT id FROM bundle)", params![])?;
        Ok(())
    }
}

const REVIEW: &str = "review";
const RELEASE: &str = "release";
