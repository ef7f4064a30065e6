//! SHA-256 of two files side by side, against the crate `sha2`.

use proptest::prelude::*;
use saccade::shard::write::sha256::{BLOCK_BYTES, Sha256};
use sha2::Digest;

/// Pushes what both have together, by `step` blocks at most, and the rest of each alone.
fn both(data: [&[u8]; 2], step: usize) -> [[u8; 32]; 2] {
    let mut hashes = [Sha256::default(), Sha256::default()];
    let parts = data.map(|data| data.as_chunks::<BLOCK_BYTES>());
    let mut at = 0;
    loop {
        let blocks = parts.map(|(blocks, _)| &blocks[at.min(blocks.len())..blocks.len().min(at + step)]);
        let [first, second] = &mut hashes;
        let pushed = Sha256::push_both(first, second, blocks);
        assert_eq!(pushed, blocks[0].len().min(blocks[1].len()), "blocks pushed at {at} by {step}");
        if pushed == 0 {
            break;
        }
        at += pushed;
    }
    let mut hashes = hashes.into_iter().zip(parts).map(|(mut hash, (blocks, rest))| {
        hash.push(&blocks[at..]);
        hash.finish(rest)
    });
    [hashes.next().unwrap(), hashes.next().unwrap()]
}

fn reference(data: &[u8]) -> [u8; 32] {
    sha2::Sha256::digest(data).into()
}

proptest! {
    #[test]
    fn two_files_have_the_hashes_that_each_has_alone(
        first in prop::collection::vec(any::<u8>(), 0..1000),
        second in prop::collection::vec(any::<u8>(), 0..1000),
        step in 1..20_usize,
    ) {
        prop_assert_eq!(both([&first, &second], step), [reference(&first), reference(&second)]);
    }
}

/// As where the processor has no instructions for it.
#[test]
fn two_threads_come_to_the_same_hashes() {
    let data: Vec<u8> = (0..100_000_u32).map(|byte| (byte.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let (first, second) = data.split_at(64 * 500);
    let mut hashes = [Sha256::default(), Sha256::default()];
    let [one, other] = &mut hashes;
    Sha256::push_apart(one, other, [first.as_chunks().0, second.as_chunks().0]);
    let [one, other] = hashes;
    let found = [one.finish(&[]), other.finish(second.as_chunks::<BLOCK_BYTES>().1)];
    assert_eq!(found, [reference(first), reference(second)]);
}

/// FIPS 180-4, section 5.1.1: the length takes the end of the last block, or a block of its own.
#[test]
fn files_that_end_anywhere_in_a_block_are_padded_right() {
    let data: Vec<u8> = (0..200_u8).collect();
    for length in 0..data.len() {
        let (short, long) = (&data[..length], &data[..data.len() - length]);
        assert_eq!(both([short, long], 2), [reference(short), reference(long)], "{length} bytes of 200");
    }
}
