//! A block from any K of its shards.

use reed_solomon_simd::ReedSolomonDecoder;

use super::Geometry;

/// Restores blocks; keeps its working space from block to block.
#[derive(Default)]
pub struct BlockDecoder {
    coder: Option<ReedSolomonDecoder>,
}

/// A block can't be restored.
#[derive(Debug, thiserror::Error)]
#[error("a block can't be restored: {0}")]
pub struct DecodeError(#[from] reed_solomon_simd::Error);

impl std::fmt::Debug for BlockDecoder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BlockDecoder").finish_non_exhaustive()
    }
}

impl BlockDecoder {
    /// Fills the source shards that are missing in `source`, which is the block with every shard at
    /// its full width. `have` says which source shards are there; `recovery` gives as many recovery
    /// shards, by number, as source shards are missing. Returns how many were restored.
    pub fn restore<'a>(
        &mut self,
        geometry: &Geometry,
        block: u32,
        source: &mut [u8],
        have: impl Fn(u32) -> bool,
        recovery: impl Iterator<Item = (u32, &'a [u8])>,
    ) -> Result<usize, DecodeError> {
        let count = usize::from(geometry.source_shards(block));
        let wide = usize::from(geometry.shard_bytes());
        let recovery_count = usize::from(geometry.recovery_shards());
        let coder = match &mut self.coder {
            Some(coder) => {
                coder.reset(count, recovery_count, wide)?;
                coder
            }
            none => none.insert(ReedSolomonDecoder::new(count, recovery_count, wide)?),
        };
        for (at, shard) in source.chunks_exact(wide).enumerate().take(count) {
            if have(at as u32) {
                coder.add_original_shard(at, shard)?;
            }
        }
        for (number, shard) in recovery {
            coder.add_recovery_shard(number as usize, shard)?;
        }
        let restored = coder.decode()?;
        let mut filled = 0;
        for (at, shard) in restored.restored_original_iter() {
            if let Some(place) = source.get_mut(at * wide..(at + 1) * wide) {
                place.copy_from_slice(shard);
                filled += 1;
            }
        }
        Ok(filled)
    }
}
