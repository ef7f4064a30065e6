//! Counter-based random draws: in come a seed, an epoch, a subject and a purpose, out comes a generator of their own.
//!
//! Two draws never share a generator, so that no draw depends on which thread made which other draw before it. Every
//! random choice of the project comes from here.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

/// What a generator is for; part of its key, so that purposes never share numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    ShardOrder = 1,
    SampleOrder = 2,
    Crop = 3,
    Flip = 4,
    Masks = 5,
    Replacement = 6,
    Weights = 7,
    Saccade = 8,
    Embedding = 9,
    ImportOrder = 10,
    Reshard = 11,
}

/// A generator keyed on what it draws for (ChaCha with 8 rounds, the key being the subject itself).
pub struct Draws(ChaCha8Rng);

impl Draws {
    /// `subject` is the number of the sample, window, step or parameter that the numbers are for.
    pub fn new(seed: u64, epoch: u64, subject: u64, purpose: Purpose) -> Self {
        let mut key = [0; 32];
        for (part, value) in key.chunks_exact_mut(8).zip([seed, epoch, subject, purpose as u64]) {
            part.copy_from_slice(&value.to_le_bytes());
        }
        Self(ChaCha8Rng::from_seed(key))
    }

    /// Uniform in `[0, 1)`, with all 53 bits that a double can carry.
    pub fn unit(&mut self) -> f64 {
        (self.0.next_u64() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// Uniform in `[low, high)`.
    pub fn between(&mut self, low: f64, high: f64) -> f64 {
        low + (high - low) * self.unit()
    }

    /// Uniform in `0..n`; 0 when `n` is 0.
    ///
    /// Multiplies instead of dividing; the bias is below `n / 2^64`.
    pub fn below(&mut self, n: u64) -> u64 {
        ((u128::from(self.0.next_u64()) * u128::from(n)) >> 64) as u64
    }

    /// Normal with mean 0 and deviation 1 (Box and Muller, 1958).
    pub fn normal(&mut self) -> f64 {
        let radius = (-2.0 * (1.0 - self.unit()).ln()).sqrt();
        radius * (std::f64::consts::TAU * self.unit()).cos()
    }

    /// Puts the items into a uniformly drawn order (Fisher and Yates).
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            let other = self.below(last as u64 + 1) as usize;
            items.swap(last, other);
        }
    }
}
