//! SHA-256 of two files side by side, in little more than the time of one.
//!
//! A round waits for the one before it, and a processor with instructions for rounds (Intel SHA Extensions) could begin
//! another in the meantime: that of another file. The function is that of FIPS 180-4, section 6.2.2; alone, a file goes
//! through the crate `sha2`.

use std::thread;

use sha2::block_api::compress256;

/// What is hashed at a time.
pub const BLOCK_BYTES: usize = 64;

pub type Block = [u8; BLOCK_BYTES];

/// FIPS 180-4, section 5.3.3.
const BEGIN: [u32; 8] =
    [0x6A09E667, 0xBB67AE85, 0x3C6EF372, 0xA54FF53A, 0x510E527F, 0x9B05688C, 0x1F83D9AB, 0x5BE0CD19];

/// The hash of what was pushed so far.
#[derive(Clone, Debug)]
pub struct Sha256 {
    state: [u32; 8],
    blocks: u64,
}

impl Default for Sha256 {
    fn default() -> Self {
        Self { state: BEGIN, blocks: 0 }
    }
}

impl Sha256 {
    pub fn push(&mut self, blocks: &[Block]) {
        compress256(&mut self.state, blocks);
        self.blocks += blocks.len() as u64;
    }

    /// Pushes as many blocks to both as both have; how many those were.
    pub fn push_both(first: &mut Self, second: &mut Self, blocks: [&[Block]; 2]) -> usize {
        let both = blocks[0].len().min(blocks[1].len());
        let blocks = blocks.map(|blocks| blocks.get(..both).unwrap_or(blocks));
        if let Some(together) = Together::found() {
            together.compress([&mut first.state, &mut second.state], blocks);
            first.blocks += both as u64;
            second.blocks += both as u64;
        } else {
            Self::push_apart(first, second, blocks);
        }
        both
    }

    /// What processors without these instructions do: each file has a thread of its own.
    pub fn push_apart(first: &mut Self, second: &mut Self, blocks: [&[Block]; 2]) {
        let mut pushed = second.clone();
        thread::scope(|scope| {
            let other = thread::Builder::new().spawn_scoped(scope, move || {
                pushed.push(blocks[1]);
                pushed
            });
            first.push(blocks[0]);
            match other.ok().and_then(|other| other.join().ok()) {
                Some(pushed) => *second = pushed,
                None => second.push(blocks[1]),
            }
        });
    }

    /// The hash of all, with `rest` at the end.
    pub fn finish(mut self, rest: &[u8]) -> [u8; 32] {
        let (whole, rest) = rest.as_chunks();
        self.push(whole);
        let bits = (self.blocks * BLOCK_BYTES as u64 + rest.len() as u64).wrapping_mul(8);
        let mut end = [0; 2 * BLOCK_BYTES];
        let bytes = rest.iter().chain(&[0x80]);
        end.iter_mut().zip(bytes).for_each(|(to, from)| *to = *from);
        let (end, _) = end.as_chunks_mut::<BLOCK_BYTES>();
        // The length takes the last eight bytes.
        let blocks = if rest.len() + 1 + 8 <= BLOCK_BYTES { 1 } else { 2 };
        let Some((last, _)) = end.get_mut(..blocks).and_then(<[_]>::split_last_mut) else { return [0; 32] };
        last.iter_mut().rev().zip(bits.to_le_bytes()).for_each(|(to, from)| *to = from);
        self.push(end.get(..blocks).unwrap_or_default());
        bytemuck::cast(self.state.map(u32::to_be_bytes))
    }
}

/// That the processor has the instructions.
#[derive(Clone, Copy)]
struct Together(());

#[cfg(not(target_arch = "x86_64"))]
impl Together {
    fn found() -> Option<Self> {
        None
    }

    fn compress(self, states: [&mut [u32; 8]; 2], blocks: [&[Block]; 2]) {
        states.into_iter().zip(blocks).for_each(|(state, blocks)| compress256(state, blocks));
    }
}

#[cfg(target_arch = "x86_64")]
impl Together {
    fn found() -> Option<Self> {
        (is_x86_feature_detected!("sha") && is_x86_feature_detected!("sse4.1")).then_some(Self(()))
    }

    /// Of as many blocks each.
    #[expect(unsafe_code, reason = "calls what was compiled for more than the least processor")]
    fn compress(self, states: [&mut [u32; 8]; 2], blocks: [&[Block]; 2]) {
        // SAFETY: `self` exists, so the processor has these instructions.
        unsafe { extensions::compress(states, blocks) }
    }
}

#[cfg(target_arch = "x86_64")]
mod extensions {
    use std::arch::x86_64::*;

    use bytemuck::cast;

    use super::Block;

    /// FIPS 180-4, section 4.2.2: the first 32 bits of the fractions of the cube roots of the first 64 primes.
    const ROUNDS: [[u32; 4]; 16] = [
        [0x428A2F98, 0x71374491, 0xB5C0FBCF, 0xE9B5DBA5],
        [0x3956C25B, 0x59F111F1, 0x923F82A4, 0xAB1C5ED5],
        [0xD807AA98, 0x12835B01, 0x243185BE, 0x550C7DC3],
        [0x72BE5D74, 0x80DEB1FE, 0x9BDC06A7, 0xC19BF174],
        [0xE49B69C1, 0xEFBE4786, 0x0FC19DC6, 0x240CA1CC],
        [0x2DE92C6F, 0x4A7484AA, 0x5CB0A9DC, 0x76F988DA],
        [0x983E5152, 0xA831C66D, 0xB00327C8, 0xBF597FC7],
        [0xC6E00BF3, 0xD5A79147, 0x06CA6351, 0x14292967],
        [0x27B70A85, 0x2E1B2138, 0x4D2C6DFC, 0x53380D13],
        [0x650A7354, 0x766A0ABB, 0x81C2C92E, 0x92722C85],
        [0xA2BFE8A1, 0xA81A664B, 0xC24B8B70, 0xC76C51A3],
        [0xD192E819, 0xD6990624, 0xF40E3585, 0x106AA070],
        [0x19A4C116, 0x1E376C08, 0x2748774C, 0x34B0BCB5],
        [0x391C0CB3, 0x4ED8AA4A, 0x5B9CCA4F, 0x682E6FF3],
        [0x748F82EE, 0x78A5636F, 0x84C87814, 0x8CC70208],
        [0x90BEFFFA, 0xA4506CEB, 0xBEF9A3F7, 0xC67178F2],
    ];

    /// The eight words of a hash as the instructions take them: a b e f and c d g h, the first named uppermost.
    #[derive(Clone, Copy)]
    struct Words {
        abef: __m128i,
        cdgh: __m128i,
    }

    impl Words {
        #[inline]
        #[target_feature(enable = "sha,sse4.1")]
        fn of([a, b, c, d, e, f, g, h]: [u32; 8]) -> Self {
            Self { abef: cast([f, e, b, a]), cdgh: cast([h, g, d, c]) }
        }

        #[inline]
        #[target_feature(enable = "sha,sse4.1")]
        fn words(self) -> [u32; 8] {
            let ([f, e, b, a], [h, g, d, c]): ([u32; 4], [u32; 4]) = (cast(self.abef), cast(self.cdgh));
            [a, b, c, d, e, f, g, h]
        }

        #[inline]
        #[target_feature(enable = "sha,sse4.1")]
        fn add(&mut self, before: Self) {
            self.abef = _mm_add_epi32(self.abef, before.abef);
            self.cdgh = _mm_add_epi32(self.cdgh, before.cdgh);
        }
    }

    /// The words of a block, which are big-endian, four by four.
    #[inline]
    #[target_feature(enable = "sha,sse4.1")]
    fn message(block: &Block) -> [__m128i; 4] {
        let turned: __m128i = cast([3_u8, 2, 1, 0, 7, 6, 5, 4, 11, 10, 9, 8, 15, 14, 13, 12]);
        let mut message: [__m128i; 4] = cast(*block);
        for words in &mut message {
            *words = _mm_shuffle_epi8(*words, turned);
        }
        message
    }

    /// Puts the four words that come after all sixteen in the place of the first four, which `at` says.
    #[inline]
    #[target_feature(enable = "sha,sse4.1")]
    fn schedule(message: &mut [__m128i; 4], at: usize) {
        let [second, third, fourth] = [message[(at + 1) % 4], message[(at + 2) % 4], message[(at + 3) % 4]];
        let sum = _mm_add_epi32(_mm_sha256msg1_epu32(message[at], second), _mm_alignr_epi8::<4>(fourth, third));
        message[at] = _mm_sha256msg2_epu32(sum, fourth);
    }

    #[inline]
    #[target_feature(enable = "sha,sse4.1")]
    fn four_rounds(words: &mut Words, message: __m128i, constants: [u32; 4]) {
        let sum = _mm_add_epi32(message, cast(constants));
        words.cdgh = _mm_sha256rnds2_epu32(words.cdgh, words.abef, sum);
        words.abef = _mm_sha256rnds2_epu32(words.abef, words.cdgh, _mm_shuffle_epi32::<0x0E>(sum));
    }

    /// Both files' rounds by turns, so that neither waits for its own.
    #[target_feature(enable = "sha,sse4.1")]
    pub fn compress(states: [&mut [u32; 8]; 2], blocks: [&[Block]; 2]) {
        let mut one = Words::of(*states[0]);
        let mut other = Words::of(*states[1]);
        for (first, second) in blocks[0].iter().zip(blocks[1]) {
            let before = (one, other);
            let (mut first, mut second) = (message(first), message(second));
            for at in 0..4 {
                four_rounds(&mut one, first[at], ROUNDS[at]);
                four_rounds(&mut other, second[at], ROUNDS[at]);
            }
            for constants in ROUNDS[4..].as_chunks::<4>().0 {
                for at in 0..4 {
                    schedule(&mut first, at);
                    schedule(&mut second, at);
                    four_rounds(&mut one, first[at], constants[at]);
                    four_rounds(&mut other, second[at], constants[at]);
                }
            }
            one.add(before.0);
            other.add(before.1);
        }
        let [first, second] = states;
        *first = one.words();
        *second = other.words();
    }
}
