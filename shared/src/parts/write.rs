//! The writing half: one file becomes its parts, any of them at a time.

use std::fs::File;
use std::io::{self, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;

use reed_solomon_simd::ReedSolomonEncoder;
use sha2::{Digest, Sha256};

use super::header::{PART_HEADER_BYTES, PartHeader, PartName, part_file_name};
use super::{COPY_BYTES, Geometry};
use crate::bundle::BundleDigest;

/// A file that is to be divided: its name, its digest, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Splitting {
    name: PartName,
    sha256: BundleDigest,
    geometry: Geometry,
}

/// Why a part could not be written.
#[derive(Debug, thiserror::Error)]
pub enum SplitError {
    /// The file to be divided could not be read, or has another length than was said.
    #[error("the file could not be read")]
    Read(#[source] io::Error),
    /// A part could not be written.
    #[error("part {} could not be written", index + 1)]
    Write {
        /// Which, from 0.
        index: u16,
        /// What the system said.
        source: io::Error,
    },
    /// The erasure code refused its input.
    #[error("the erasure code failed")]
    Code(#[from] reed_solomon_simd::Error),
}

impl Splitting {
    /// Whoever gives the digest has read the file and knows that it is right.
    pub fn new(name: PartName, sha256: BundleDigest, geometry: Geometry) -> Self {
        Self { name, sha256, geometry }
    }

    /// How the file is divided.
    pub fn geometry(&self) -> &Geometry {
        &self.geometry
    }

    /// The name of a part's file; `index` counts from 0.
    pub fn file_name(&self, index: u16) -> String {
        part_file_name(&self.name, index, self.geometry.parts())
    }

    /// Writes one part as a file, content first and header last: until it is finished, it is no
    /// part. Nothing is synced. `progress` is told the bytes of content that were written.
    pub fn write(
        &self,
        source: &File,
        index: u16,
        out: &mut (impl Write + Seek),
        progress: &mut dyn FnMut(u64),
    ) -> Result<PartHeader, SplitError> {
        let failed = |source| SplitError::Write { index, source };
        out.seek(SeekFrom::Start(PART_HEADER_BYTES as u64)).map_err(failed)?;
        let mut outs = [(index, &mut *out)];
        let header = self.fill(source, &mut outs, progress)?.remove(0);
        out.seek(SeekFrom::Start(0)).map_err(failed)?;
        out.write_all(&header.encode()).map_err(failed)?;
        Ok(header)
    }

    /// Writes the contents of several parts; gives their headers in the same order. All recovery
    /// parts are made in one pass over the file, in stripes.
    pub fn fill<W: Write>(
        &self,
        source: &File,
        outs: &mut [(u16, W)],
        progress: &mut dyn FnMut(u64),
    ) -> Result<Vec<PartHeader>, SplitError> {
        let mut hashes = vec![Sha256::new(); outs.len()];
        for ((index, out), hash) in outs.iter_mut().zip(&mut hashes) {
            if *index < self.geometry.data {
                self.copy(source, *index, out, hash, progress)?;
            }
        }
        self.code(source, outs, &mut hashes, progress)?;
        let headers = outs.iter().zip(hashes).map(|((index, _), hash)| PartHeader {
            name: self.name.clone(),
            whole_sha256: self.sha256,
            geometry: self.geometry,
            index: *index,
            content_sha256: BundleDigest::from_bytes(hash.finalize().into()),
        });
        Ok(headers.collect())
    }

    /// A data part is a piece of the file.
    fn copy(
        &self,
        source: &File,
        index: u16,
        out: &mut impl Write,
        hash: &mut Sha256,
        progress: &mut dyn FnMut(u64),
    ) -> Result<(), SplitError> {
        let mut buffer = vec![0; COPY_BYTES];
        let (mut at, mut left) = (self.geometry.offset(index), self.geometry.content_bytes(index));
        while left > 0 {
            let chunk = &mut buffer[..left.min(COPY_BYTES as u64) as usize];
            source.read_exact_at(chunk, at).map_err(SplitError::Read)?;
            hash.update(&*chunk);
            out.write_all(chunk).map_err(|source| SplitError::Write { index, source })?;
            at += chunk.len() as u64;
            left -= chunk.len() as u64;
            progress(chunk.len() as u64);
        }
        Ok(())
    }

    /// The recovery parts among `outs` (PARTS.md section 3).
    fn code<W: Write>(
        &self,
        source: &File,
        outs: &mut [(u16, W)],
        hashes: &mut [Sha256],
        progress: &mut dyn FnMut(u64),
    ) -> Result<(), SplitError> {
        let geometry = &self.geometry;
        if outs.iter().all(|(index, _)| *index < geometry.data) {
            return Ok(());
        }
        let (data, recovery) = (usize::from(geometry.data), usize::from(geometry.recovery));
        let stripe_bytes = geometry.stripe_bytes();
        let mut encoder = ReedSolomonEncoder::new(data, recovery, stripe_bytes)?;
        let mut shard = vec![0; stripe_bytes];
        let mut at = 0;
        while at < geometry.part_bytes {
            let length = (geometry.part_bytes - at).min(stripe_bytes as u64) as usize;
            encoder.reset(data, recovery, length)?;
            for index in 0..geometry.data {
                let shard = &mut shard[..length];
                geometry.read_stripe(source, index, at, shard).map_err(SplitError::Read)?;
                encoder.add_original_shard(&*shard)?;
            }
            let coded = encoder.encode()?;
            for ((index, out), hash) in outs.iter_mut().zip(&mut *hashes) {
                let number = index.checked_sub(geometry.data).map(usize::from);
                let Some(shard) = number.and_then(|number| coded.recovery(number)) else {
                    continue;
                };
                hash.update(shard);
                let index = *index;
                out.write_all(shard).map_err(|source| SplitError::Write { index, source })?;
                progress(length as u64);
            }
            at += length as u64;
        }
        Ok(())
    }
}

impl Geometry {
    /// Reads a stripe of data part `index` where it stands in the whole file. What the file is too
    /// short for counts as zeros.
    pub(super) fn read_stripe(
        &self,
        whole: &File,
        index: u16,
        at: u64,
        shard: &mut [u8],
    ) -> io::Result<()> {
        let there = self.content_bytes(index).saturating_sub(at).min(shard.len() as u64) as usize;
        let (content, padding) = shard.split_at_mut(there);
        whole.read_exact_at(content, self.offset(index) + at)?;
        padding.fill(0);
        Ok(())
    }
}
