//! What has to stand on a medium for one bundle: its file, or some of its parts.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

use shared::bundle::BundleDigest;
use shared::parts::{Geometry, PART_HEADER_BYTES, SplitError, Splitting};

use super::copy::{Content, Whole, WriteError};
use super::export::Shares;
use crate::outbox::{Waiting, open_regular};
use crate::sealer::SealerError;

/// The files of one bundle.
#[derive(Clone, Debug)]
pub struct Lot {
    path: PathBuf,
    bytes: u64,
    sha256: BundleDigest,
    splitting: Option<Splitting>,
    name: String,
}

impl Lot {
    /// How a bundle goes onto media: whole, in coded parts, or in pieces where it is longer than a
    /// file may be.
    pub fn new(
        outbox: &Path,
        waiting: &Waiting,
        shares: Option<Shares>,
        file_bytes_max: Option<u64>,
    ) -> Result<Self, String> {
        let geometry = match (shares, file_bytes_max) {
            (Some(Shares { data, recovery }), max) => {
                let geometry = Geometry::coded(waiting.bytes, data, recovery);
                let geometry = geometry.map_err(|err| err.to_string())?;
                if let Some(max) = max.filter(|max| geometry.file_bytes(data) > *max) {
                    return Err(format!(
                        "{}: each of {data}+{recovery} parts would have {} bytes, and a file here may have {max}\n  try: more parts",
                        waiting.name,
                        geometry.file_bytes(data),
                    ));
                }
                Some(geometry)
            }
            (None, Some(max)) if waiting.bytes > max => {
                Some(Geometry::pieces(waiting.bytes, max).map_err(|err| err.to_string())?)
            }
            _ => None,
        };
        let splitting = match geometry {
            Some(geometry) => {
                let name = waiting.name.parse().map_err(|err| format!("{err}"))?;
                Some(Splitting::new(name, waiting.sha256, geometry))
            }
            None => None,
        };
        Ok(Self {
            path: outbox.join(&waiting.name),
            bytes: waiting.bytes,
            sha256: waiting.sha256,
            splitting,
            name: waiting.name.clone(),
        })
    }

    /// How it is divided, if it is.
    pub fn geometry(&self) -> Option<&Geometry> {
        self.splitting.as_ref().map(Splitting::geometry)
    }

    /// Which files go onto a medium that is to hold this part of each coded bundle; `None` stands for
    /// the whole bundle.
    pub(super) fn indexes(&self, share: Option<u16>) -> Vec<Option<u16>> {
        match (&self.splitting, share) {
            (None, _) => vec![None],
            (Some(_), Some(index)) => vec![Some(index)],
            (Some(splitting), None) => (0..splitting.geometry().parts()).map(Some).collect(),
        }
    }

    /// The name of a file.
    pub(super) fn file_name(&self, index: Option<u16>) -> String {
        match (&self.splitting, index) {
            (Some(splitting), Some(index)) => splitting.file_name(index),
            _ => self.name.clone(),
        }
    }

    /// The length of a file.
    pub(super) fn file_bytes(&self, index: Option<u16>) -> u64 {
        match (self.geometry(), index) {
            (Some(geometry), Some(index)) => geometry.file_bytes(index),
            _ => self.bytes,
        }
    }

    /// What a file holds.
    pub(super) fn content(&self, index: Option<u16>) -> Box<dyn Content + '_> {
        match (&self.splitting, index) {
            (Some(splitting), Some(index)) => Box::new(Part { path: &self.path, splitting, index }),
            _ => Box::new(Whole { path: &self.path, bytes: self.bytes, sha256: self.sha256 }),
        }
    }

    /// Our own copy, once it is known to be what was sealed. A whole bundle is looked at while it is
    /// copied; of one in parts, no part would show what is wrong with another.
    pub(super) fn verify(&self) -> Result<(), SealerError> {
        if self.splitting.is_none() {
            return Ok(());
        }
        let file = open_regular(&self.path).map_err(SealerError::io(&self.path))?;
        let sha256 = crate::outbox::sha256_of(file, &mut |_| {});
        if sha256.map_err(SealerError::io(&self.path))? == self.sha256 {
            return Ok(());
        }
        Err(SealerError::Damaged { path: self.path.clone() })
    }
}

struct Part<'a> {
    path: &'a Path,
    splitting: &'a Splitting,
    index: u16,
}

impl Content for Part<'_> {
    fn write(&self, out: &mut dyn Write) -> Result<Vec<u8>, WriteError> {
        let failed = |err| WriteError::Source(SealerError::io(self.path)(err));
        let source: File = open_regular(self.path).map_err(failed)?;
        let headers = self.splitting.fill(&source, &mut [(self.index, out)], &mut |_| {});
        match headers {
            Ok(headers) => Ok(headers[0].encode().to_vec()),
            Err(SplitError::Write { source, .. }) => Err(WriteError::Target(source)),
            Err(SplitError::Read(source)) => Err(failed(source)),
            Err(err @ SplitError::Code(_)) => Err(failed(std::io::Error::other(err))),
        }
    }

    fn head_bytes(&self) -> u64 {
        PART_HEADER_BYTES as u64
    }

    fn bytes(&self) -> u64 {
        self.splitting.geometry().file_bytes(self.index)
    }

    fn sha256(&self) -> Option<BundleDigest> {
        None
    }
}
