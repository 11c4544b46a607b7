//! How a file is cut: blocks of shards, any K of which restore a block.

/// Source shards in a block of a large file. Longer blocks stand long outages better, shorter ones
/// are quicker to restore: at 1,024 a core restores about 1 GB a second.
pub const BLOCK_SHARDS: u16 = 1024;

/// Where everything of one file lies. All of it follows from four numbers, which each datagram carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Geometry {
    length: u64,
    shard_bytes: u16,
    block_shards: u16,
    recovery_shards: u16,
}

/// Numbers that no sender of ours uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a datagram claims a geometry that is out of limits")]
pub struct GeometryError;

impl Geometry {
    /// Takes four numbers, if they are in limits (DIODE.md section 4).
    pub fn new(
        length: u64,
        shard_bytes: u16,
        block_shards: u16,
        recovery_shards: u16,
    ) -> Result<Self, GeometryError> {
        let geometry = Self { length, shard_bytes, block_shards, recovery_shards };
        let even = shard_bytes >= 2 && shard_bytes.is_multiple_of(2);
        let counts = (1..=BLOCK_SHARDS_MAX).contains(&block_shards)
            && (1..=RECOVERY_SHARDS_MAX).contains(&recovery_shards);
        if length == 0 || !even || !counts || geometry.shards() > SHARDS_MAX {
            return Err(GeometryError);
        }
        if geometry.shards().div_ceil(u64::from(block_shards)) > BLOCKS_MAX {
            return Err(GeometryError);
        }
        Ok(geometry)
    }

    /// Cuts a file of this length for datagrams with so many bytes of payload at most.
    pub fn cut(length: u64, payload_bytes_max: u16) -> Result<Self, GeometryError> {
        let widest = u64::from(payload_bytes_max & !1).max(2);
        let shards = length.div_ceil(widest).max(1);
        let blocks = shards.div_ceil(u64::from(BLOCK_SHARDS));
        // Equal blocks, and shards no wider than they have to be: a small file costs what it weighs.
        let in_block = shards.div_ceil(blocks);
        let wide = length.div_ceil(shards).next_multiple_of(2).clamp(2, widest);
        let recovery = (in_block.next_power_of_two() / 2).max(RECOVERY_SHARDS_MIN);
        let small = |number: u64| u16::try_from(number).map_err(|_| GeometryError);
        Self::new(length, small(wide)?, small(in_block)?, small(recovery)?)
    }

    /// The file's length, in bytes.
    pub fn length(&self) -> u64 {
        self.length
    }

    /// The width of a shard, in bytes. Only the last source shard of a file is shorter.
    pub fn shard_bytes(&self) -> u16 {
        self.shard_bytes
    }

    /// The most source shards that a block has.
    pub fn block_shards(&self) -> u16 {
        self.block_shards
    }

    /// The recovery shards that each block has.
    pub fn recovery_shards(&self) -> u16 {
        self.recovery_shards
    }

    /// The source shards of the file.
    pub fn shards(&self) -> u64 {
        self.length.div_ceil(u64::from(self.shard_bytes.max(1)))
    }

    /// The blocks of the file.
    pub fn blocks(&self) -> u32 {
        self.shards().div_ceil(u64::from(self.block_shards)) as u32
    }

    /// The source shards of a block: equal for all blocks, or one more for the first ones.
    pub fn source_shards(&self, block: u32) -> u16 {
        let blocks = u64::from(self.blocks());
        let longer = u64::from(block) < self.shards() % blocks;
        (self.shards() / blocks) as u16 + u16::from(longer)
    }

    /// Where a block begins, in shards of the file.
    fn first_shard(&self, block: u32) -> u64 {
        let (blocks, block) = (u64::from(self.blocks()), u64::from(block));
        block * (self.shards() / blocks) + block.min(self.shards() % blocks)
    }

    /// Where a source shard begins in the file.
    pub fn offset(&self, block: u32, shard: u32) -> u64 {
        (self.first_shard(block) + u64::from(shard)) * u64::from(self.shard_bytes)
    }

    /// The length of a block, in bytes of the file.
    pub fn block_bytes(&self, block: u32) -> usize {
        let begin = self.offset(block, 0);
        let end = self.offset(block, u32::from(self.source_shards(block))).min(self.length);
        (end - begin) as usize
    }

    /// The payload of a shard's datagram, in bytes; `None` where there is no such shard.
    pub fn payload_bytes(&self, block: u32, shard: u32) -> Option<usize> {
        if block >= self.blocks() {
            return None;
        }
        let source = u32::from(self.source_shards(block));
        let wide = u64::from(self.shard_bytes);
        if shard < source {
            Some(wide.min(self.length - self.offset(block, shard)) as usize)
        } else {
            (shard < source + u32::from(self.recovery_shards)).then_some(wide as usize)
        }
    }
}

/// The largest block a reader takes: what it takes to restore one is memory.
const BLOCK_SHARDS_MAX: u16 = 2048;
/// The most recovery shards of a block a reader takes.
const RECOVERY_SHARDS_MAX: u16 = 2048;
/// The fewest recovery shards of a block: a small file then has fresh ones for several passes.
const RECOVERY_SHARDS_MIN: u64 = 256;
/// The most source shards of a file: a file of 4 GiB with shards of 512 bytes. A reader keeps a bit for each.
const SHARDS_MAX: u64 = 1 << 23;
/// The most blocks of a file; a file of 4 GiB is cut into 3,072.
const BLOCKS_MAX: u64 = 1 << 16;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn blocks_cover_the_file_without_holes(length in 1_u64..200_000_000, payload in 500_u16..9000) {
            let geometry = Geometry::cut(length, payload).unwrap();
            let mut end = 0;
            for block in 0..geometry.blocks() {
                prop_assert_eq!(geometry.offset(block, 0), end);
                prop_assert!(geometry.source_shards(block) <= geometry.block_shards());
                prop_assert!(geometry.source_shards(block) > 0);
                end += geometry.block_bytes(block) as u64;
            }
            prop_assert_eq!(end, length);
            let last = geometry.blocks() - 1;
            let tail = u32::from(geometry.source_shards(last)) - 1;
            let short = geometry.payload_bytes(last, tail).unwrap();
            prop_assert_eq!(geometry.offset(last, tail) + short as u64, length);
            prop_assert_eq!(geometry.payload_bytes(geometry.blocks(), 0), None);
        }

        #[test]
        fn claims_never_overflow(length: u64, shard: u16, block: u16, recovery: u16, at: u32, of: u32) {
            if let Ok(geometry) = Geometry::new(length, shard, block, recovery) {
                let _ = geometry.payload_bytes(at, of);
                prop_assert!(geometry.shards() <= SHARDS_MAX);
            }
        }
    }

    #[test]
    fn a_small_file_is_cut_to_its_weight() {
        let geometry = Geometry::cut(20_480, 1368).unwrap();
        assert_eq!(
            (geometry.blocks(), geometry.source_shards(0), geometry.shard_bytes()),
            (1, 15, 1366)
        );
        let large = Geometry::cut(1 << 30, 1368).unwrap();
        assert!(large.source_shards(0) > 1000 && large.recovery_shards() == 512);
    }
}
