//! Recovery shards of a block.

use reed_solomon_simd::ReedSolomonEncoder;

use super::{Geometry, PassPlan};

/// Makes recovery shards; keeps its working space from block to block.
#[derive(Default)]
pub struct BlockEncoder {
    coder: Option<ReedSolomonEncoder>,
    padded: Vec<u8>,
}

/// The coder refused: a defect of ours, since geometries are in its limits.
#[derive(Debug, thiserror::Error)]
#[error("recovery shards can't be made: {0}")]
pub struct EncodeError(#[from] reed_solomon_simd::Error);

impl std::fmt::Debug for BlockEncoder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BlockEncoder").finish_non_exhaustive()
    }
}

impl BlockEncoder {
    /// Appends the recovery shards of a plan to `out`, in its order. `source` is the block as it
    /// stands in the file.
    pub fn encode(
        &mut self,
        geometry: &Geometry,
        block: u32,
        source: &[u8],
        plan: &PassPlan,
        out: &mut Vec<u8>,
    ) -> Result<(), EncodeError> {
        if plan.recovery_count() == 0 {
            return Ok(());
        }
        let count = usize::from(geometry.source_shards(block));
        let recovery = usize::from(geometry.recovery_shards());
        let wide = usize::from(geometry.shard_bytes());
        let coder = match &mut self.coder {
            Some(coder) => {
                coder.reset(count, recovery, wide)?;
                coder
            }
            none => none.insert(ReedSolomonEncoder::new(count, recovery, wide)?),
        };
        for shard in source.chunks(wide) {
            if shard.len() == wide {
                coder.add_original_shard(shard)?;
            } else {
                // The last shard of the file: it counts as if zeros followed.
                self.padded.clear();
                self.padded.extend_from_slice(shard);
                self.padded.resize(wide, 0);
                coder.add_original_shard(&self.padded)?;
            }
        }
        let made = coder.encode()?;
        for at in 0..plan.recovery_count() {
            if let Some(shard) = made.recovery(usize::from(plan.recovery_at(at))) {
                out.extend_from_slice(shard);
            }
        }
        Ok(())
    }
}
