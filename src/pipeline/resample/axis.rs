//! Along one side: which pixels every pixel of the view is blended of, and their weights.

/// With more taps than this, products are rounded together and no longer each; up to here, that moves a value by less
/// than a sixteenth of a level.
const MOST_ROUNDED: usize = 32;

/// What the weights of a pixel sum to: 1, less what 16 bits with a sign cannot hold.
const WHOLE: f64 = i16::MAX as f64;

/// Weights kept from view to view; those of a larger image are given back after it.
const KEPT_WEIGHTS: usize = 1 << 20;

/// The triangle filter: as wide as two pixels of the crop or of the view, whichever are larger.
#[derive(Debug, Default)]
pub struct Axis {
    /// How many neighbours every pixel of the view is blended of; the weight of some of them may be 0.
    pub taps: usize,
    /// The first of them, for every pixel of the view.
    pub starts: Vec<u32>,
    /// `[taps, size]`, in parts of 32,768
    weights: Vec<i16>,
    /// From the middle of the first to the middle of the view's pixel, in pixels of the crop.
    distances: Vec<f64>,
    /// What is multiplied to make the weights sum to 1.
    scales: Vec<f64>,
    /// What rounding has left over for the next weight.
    rests: Vec<f64>,
}

impl Axis {
    /// For `length` pixels, of which the view covers `covered` from `start` on.
    #[inline(always)]
    pub fn weigh(&mut self, length: usize, start: f64, covered: f64, size: u32, mirrored: bool) {
        if self.weights.capacity() > KEPT_WEIGHTS {
            *self = Self::default();
        }
        let step = covered / f64::from(size);
        let support = step.max(1.0);
        self.taps = ((2.0 * support).ceil() as usize).min(length);
        let places = size as usize;
        self.starts.resize(places, 0);
        self.distances.resize(places, 0.0);
        self.scales.resize(places, 0.0);
        self.rests.resize(places, 0.0);
        self.weights.resize(self.taps * places, 0);
        self.scales.fill(0.0);
        self.rests.fill(0.0);

        let last = (length - self.taps) as f64;
        let (first, direction) = if mirrored { (f64::from(size - 1), -1.0) } else { (0.0, 1.0) };
        for (number, (tap_start, distance)) in (0..size as i32).zip(self.starts.iter_mut().zip(&mut self.distances)) {
            let middle = start + (first + direction * f64::from(number) + 0.5) * step;
            // Clamped, the window still holds every pixel in reach, so that no weight is cut off at the border.
            let tap = (middle - support + 0.5).floor().clamp(0.0, last);
            *tap_start = whole(tap) as u32;
            *distance = middle - tap - 0.5;
        }
        let height = |distance: f64, tap: usize| (1.0 - (distance - tap as f64).abs() / support).max(0.0);
        for tap in 0..self.taps {
            for (scale, distance) in self.scales.iter_mut().zip(&self.distances) {
                *scale += height(*distance, tap);
            }
        }
        self.scales.iter_mut().for_each(|scale| *scale = WHOLE / *scale);
        for (tap, weights) in self.weights.chunks_exact_mut(places).enumerate() {
            let (scales, rests) = (self.scales.iter(), self.rests.iter_mut());
            for (((weight, distance), scale), rest) in weights.iter_mut().zip(&self.distances).zip(scales).zip(rests) {
                let exact = height(*distance, tap) * scale + *rest;
                let rounded = (exact + 0.5).floor().clamp(0.0, WHOLE);
                *rest = exact - rounded;
                *weight = whole(rounded) as i16;
            }
        }
    }

    /// The weights of one tap, for every pixel of the view.
    pub fn weights(&self, tap: usize) -> &[i16] {
        &self.weights[tap * self.starts.len()..][..self.starts.len()]
    }

    /// Whether products are rounded together; otherwise each is rounded to the bits of a value.
    pub fn is_exact(&self) -> bool {
        self.taps > MOST_ROUNDED
    }
}

/// A whole number of less than 2^31 as an integer.
#[inline(always)]
fn whole(number: f64) -> i32 {
    /// A double of this size has no bits left for fractions. A cast would be done one by one, since it must give a
    /// number for everything that is none.
    const NO_FRACTIONS: f64 = (1u64 << 52) as f64;
    (number + NO_FRACTIONS).to_bits() as i32
}
