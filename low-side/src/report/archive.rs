//! What an archive proves. Until one is configured, the report says that there is none.

use serde::Serialize;

/// What is known of an archive that keeps bundles where they can't be changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct ArchiveProof {
    /// Where it is, without secrets.
    pub target: String,
    /// What keeps its objects from being changed, as the storage itself says: `COMPLIANCE`, say.
    pub lock: String,
    /// Until when the objects of the period are locked at least, RFC 3339.
    pub locked_until: Option<String>,
    /// Bundles of the period that stand in it.
    pub bundles: u64,
    /// Bundles of the period that do not.
    pub waiting: u64,
    /// When the lock was last asked for and found, RFC 3339.
    pub verified: Option<String>,
    /// What is wrong.
    pub problems: Vec<String>,
}
