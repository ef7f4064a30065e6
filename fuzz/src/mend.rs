//! Mutations that keep checksums right, so that what stands behind them is reached; some are left wrong.

use libfuzzer_sys::fuzzer_mutate;
use sha2::{Digest, Sha256};

use crate::checks::index_of;

const BLOCK: usize = 512;
const DIGEST: usize = 32;

/// One mutation in so many keeps a checksum that does not match.
const LEFT_WRONG: u32 = 16;

/// Mutates a tar, and writes the sum of every block that looks like a header anew.
pub fn tar(data: &mut [u8], size: usize, most: usize, seed: u32) -> usize {
    let size = fuzzer_mutate(data, size, most);
    if !seed.is_multiple_of(LEFT_WRONG) {
        let blocks = data[..size].chunks_exact_mut(BLOCK);
        blocks.filter(|block| &block[257..262] == b"ustar").for_each(write_sum);
    }
    size
}

fn write_sum(block: &mut [u8]) {
    block[148..156].fill(b' ');
    let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
}

/// Mutates an index and signs it anew; a tar becomes its index first, which is how the seeds do.
pub fn index(data: &mut [u8], mut size: usize, most: usize, seed: u32) -> usize {
    if let Some(index) = index_of(&data[..size]).map(|index| index.encode()).filter(|index| index.len() <= most) {
        data[..index.len()].copy_from_slice(&index);
        size = index.len();
    }
    if size < DIGEST || most < DIGEST || seed.is_multiple_of(LEFT_WRONG) {
        return fuzzer_mutate(data, size, most);
    }
    let content = fuzzer_mutate(data, size - DIGEST, most - DIGEST);
    let digest = Sha256::digest(&data[..content]);
    data[content..content + DIGEST].copy_from_slice(&digest);
    content + DIGEST
}
