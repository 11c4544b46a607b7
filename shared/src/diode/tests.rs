//! From file to datagrams and back, by any K of each block.

use proptest::prelude::*;

use super::*;
use crate::record::Lane;

fn header(geometry: Geometry, block: u32, shard: u32) -> ShardHeader {
    ShardHeader {
        lane: Lane::Routine,
        object: ObjectId([3; 16]),
        epoch: 1,
        number: 7,
        geometry,
        block,
        shard,
        pass: 0,
    }
}

fn bytes(length: usize, seed: u64) -> Vec<u8> {
    let mut state = seed | 1;
    (0..length)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 24) as u8
        })
        .collect()
}

#[test]
fn a_datagram_says_what_it_was_given_and_any_flip_is_refused() {
    let link = LinkKey::new(&[1; 32]);
    let mut keys = RunKeys::new(link.clone());
    let geometry = Geometry::cut(5000, 500).unwrap();
    let stamp = LinkStamp { run: 5, sequence: 1 << 40 };
    let shard = header(geometry, 0, 9);
    let payload = vec![7; geometry.payload_bytes(0, 9).unwrap()];
    let mut datagram = Vec::new();
    write_shard(&mut datagram, (link.id(), &link.of_run(5)), stamp.sequence, &shard, &payload);
    assert_eq!(datagram.len(), payload.len() + OVERHEAD_BYTES);
    assert_eq!(receive(&mut keys, &datagram), Ok((stamp, Received::Shard(shard, &payload[..]))));
    for at in 0..datagram.len() {
        for bit in 0..8 {
            let mut bad = datagram.clone();
            bad[at] ^= 1 << bit;
            assert!(receive(&mut keys, &bad).is_err());
        }
        assert!(receive(&mut keys, &datagram[..at]).is_err());
    }
    let mut others = RunKeys::new(LinkKey::new(&[2; 32]));
    assert!(receive(&mut others, &datagram).is_err());
}

#[test]
fn claims_with_a_good_tag_are_held_against_the_geometry() {
    let link = LinkKey::new(&[1; 32]);
    let key = link.of_run(0);
    let mut keys = RunKeys::new(link.clone());
    let geometry = Geometry::cut(5000, 500).unwrap();
    let good = geometry.payload_bytes(0, 0).unwrap();
    for (block, shard, length, expected) in [
        (0, 0, good, true),
        (0, 0, good - 1, false),
        (0, 0, good + 1, false),
        (0, 10 + 256, good, false),
        (1, 0, good, false),
        (u32::MAX, u32::MAX, good, false),
    ] {
        let mut datagram = Vec::new();
        write_shard(
            &mut datagram,
            (link.id(), &key),
            0,
            &header(geometry, block, shard),
            &vec![0; length],
        );
        assert_eq!(receive(&mut keys, &datagram).is_ok(), expected, "{block} {shard} {length}");
    }
    // Fields that a sender of ours can't produce, with a tag that fits.
    let mut datagram = Vec::new();
    let payload = vec![0; good];
    write_shard(&mut datagram, (link.id(), &key), 0, &header(geometry, 0, 0), &payload);
    for (at, value) in [(4, 9), (5, 0), (6, 2), (7, 1), (48, 0), (55, 255), (80, 1), (83, 255)] {
        let mut bad = datagram[..datagram.len() - TAG_BYTES].to_vec();
        bad[at] = value;
        if at == 48 {
            bad[48..56].fill(0);
        }
        let tag = key.tag(0, &bad);
        bad.extend_from_slice(&tag);
        assert!(receive(&mut keys, &bad).is_err(), "{at} = {value}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn any_k_of_a_block_restore_it(
        length in 1_usize..60_000,
        payload in 64_u16..700,
        pass in 0_u32..5,
        seed: u64,
    ) {
        let file = bytes(length, seed);
        let geometry = Geometry::cut(length as u64, payload).unwrap();
        let wide = usize::from(geometry.shard_bytes());
        let redundancy = Redundancy { percent: 15 };
        let mut encoder = BlockEncoder::default();
        let mut decoder = BlockDecoder::default();
        let mut restored = Vec::new();
        for block in 0..geometry.blocks() {
            let count = geometry.source_shards(block);
            let begin = geometry.offset(block, 0) as usize;
            let source = &file[begin..begin + geometry.block_bytes(block)];
            let plan = PassPlan::new(count, geometry.recovery_shards(), redundancy, pass);
            let mut recovery = Vec::new();
            encoder.encode(&geometry, block, source, &plan, &mut recovery).unwrap();
            // As many shards of the pass as a block has, by chance.
            let mut places: Vec<u16> = (0..plan.count()).collect();
            let chance = bytes(places.len() * 2, seed ^ u64::from(block) ^ 0x63);
            places.sort_by_key(|at| chance[usize::from(*at) * 2]);
            places.truncate(usize::from(count));
            let mut have = vec![false; usize::from(count)];
            let mut block_bytes = vec![0; usize::from(count) * wide];
            let mut extra = Vec::new();
            for at in places {
                let shard = plan.shard_at(at);
                if shard < u32::from(count) {
                    let from = shard as usize * wide;
                    let payload = &source[from..source.len().min(from + wide)];
                    block_bytes[from..from + payload.len()].copy_from_slice(payload);
                    have[shard as usize] = true;
                } else {
                    let from = usize::from(at - plan.source_count()) * wide;
                    extra.push((shard - u32::from(count), &recovery[from..from + wide]));
                }
            }
            decoder
                .restore(&geometry, block, &mut block_bytes, |at| have[at as usize], extra.into_iter())
                .unwrap();
            restored.extend_from_slice(&block_bytes[..source.len()]);
        }
        prop_assert_eq!(restored, file);
    }

    #[test]
    fn noise_is_refused(noise in proptest::collection::vec(any::<u8>(), 0..2000)) {
        prop_assert!(receive(&mut RunKeys::new(LinkKey::new(&[1; 32])), &noise).is_err());
    }
}
