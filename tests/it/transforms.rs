//! Transforms and colours of our JPEG decoder: against their definition, and each processor's form against the plain one.

use std::f64::consts::{FRAC_1_SQRT_2, PI};

use saccade::draws::{Draws, Purpose};
use saccade::pipeline::jpeg::own::processor::{Plain, Processor, Square};

const SIDES: [usize; 3] = [8, 4, 2];

fn draws(subject: u64) -> Draws {
    Draws::new(5, 0, subject, Purpose::Weights)
}

/// A whole number from `-most` to `most`.
fn number(draws: &mut Draws, most: i32) -> i16 {
    (draws.below(most as u64 * 2 + 1) as i32 - most) as i16
}

/// Samples of a block as a plane holds them, what is not written being 99.
fn inverse(processor: impl Processor, side: usize, block: &Square, factors: &Square, length: usize) -> Vec<u8> {
    let stride = side + 3;
    let mut samples = vec![99; length];
    match side {
        8 => processor.inverse8(block, factors, &mut samples, stride),
        4 => processor.inverse4(block, factors, &mut samples, stride),
        _ => processor.inverse2(block, factors, &mut samples, stride),
    }
    samples
}

/// Rows of `side` samples of the cosines that a block's first coefficients stand for (ITU T.81, A.3.3).
fn cosines(side: usize, block: &Square) -> Vec<f64> {
    let scale = |frequency| if frequency == 0 { FRAC_1_SQRT_2 } else { 1.0 };
    let wave =
        |at: usize, frequency: usize| ((2 * at + 1) as f64 * frequency as f64 * PI / (2 * side) as f64).cos() / 2.0;
    let mut samples = Vec::new();
    for (y, x) in (0..side).flat_map(|y| (0..side).map(move |x| (y, x))) {
        let mut sum = 128.0;
        for (v, u) in (0..side).flat_map(|v| (0..side).map(move |u| (v, u))) {
            sum += scale(v) * scale(u) * f64::from(block[v * 8 + u]) * wave(y, v) * wave(x, u);
        }
        samples.push(sum.clamp(0.0, 255.0));
    }
    samples
}

#[test]
fn plain_transform_is_within_a_level_of_the_cosines() {
    let mut draws = draws(0);
    for round in 0..500 {
        let mut block = [0; 64];
        for value in &mut block {
            *value = number(&mut draws, [5, 60, 300][round % 3]);
        }
        let samples = inverse(Plain, 8, &block, &[1; 64], 8 * 11);
        let expected = cosines(8, &block);
        for (at, expected) in expected.iter().enumerate() {
            let found = f64::from(samples[at / 8 * 11 + at % 8]);
            // Half a level of rounding, and what 13 bits of fraction lose.
            assert!((found - expected).abs() < 0.6, "round {round}, sample {at}: {found}, expected {expected}");
        }
    }
}

/// Blocks of pictures, of few coefficients, of extremes, and of anything that fits into 16 bits.
fn blocks() -> Vec<(Square, Square)> {
    let mut draws = draws(1);
    let mut blocks = vec![([i16::MIN; 64], [1; 64]), ([i16::MAX; 64], [1; 64]), ([1023; 64], [255; 64])];
    for round in 0..6000 {
        let (most, most_factor, last) = [
            (1023, 1, 64),
            (40, 25, 64),
            (40, 25, 1),
            (200, 5, 10),
            (i32::from(i16::MAX), 1, 64),
            (i32::from(i16::MAX), i32::from(i16::MAX), 64),
        ][round % 6];
        let (mut block, mut factors) = ([0; 64], [0; 64]);
        for (at, (value, factor)) in block.iter_mut().zip(&mut factors).enumerate() {
            *factor = number(&mut draws, most_factor - 1).abs() + 1;
            let kept = at < last || draws.below(20) == 0 && last > 1;
            *value = if kept { number(&mut draws, most) } else { 0 };
        }
        blocks.push((block, factors));
        blocks.push((block.map(|value| if value < 0 { -(most as i16) } else { most as i16 }), factors));
    }
    blocks
}

#[cfg(target_arch = "x86_64")]
#[test]
fn vectors_transform_every_block_as_the_plain_form_does() {
    use saccade::pipeline::jpeg::own::processor::Avx2;

    let Some(avx2) = Avx2::found() else { return };
    for (block, factors) in blocks() {
        for side in SIDES {
            let length = side * (side + 3);
            let found = inverse(avx2, side, &block, &factors, length);
            assert_eq!(found, inverse(Plain, side, &block, &factors, length), "{side}: {block:?} times {factors:?}");
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[test]
fn vectors_write_only_rows_that_fit() {
    use saccade::pipeline::jpeg::own::processor::Avx2;

    let Some(avx2) = Avx2::found() else { return };
    for side in SIDES {
        for length in 0..side * (side + 3) {
            let found = inverse(avx2, side, &[3; 64], &[7; 64], length);
            assert_eq!(found, inverse(Plain, side, &[3; 64], &[7; 64], length), "{side}: {length}");
        }
    }
}

/// A row of `width` pixels whose chroma has a sample for every pixel, and one whose has a sample for every two.
fn row(processor: impl Processor, width: usize, luma: &[u8], cb: &[u8], cr: &[u8]) -> [Vec<u8>; 2] {
    let (mut each, mut pairs) = (vec![0; width * 3], vec![0; width / 2 * 6]);
    processor.ycbcr(&luma[..width], &cb[..width], &cr[..width], &mut each);
    let count = width / 2;
    processor.ycbcr_pairs(&luma[..count * 2], &cb[..count], &cr[..count], &mut pairs);
    [each, pairs]
}

#[test]
fn pairs_are_pixels_with_the_same_chroma() {
    let mut draws = draws(2);
    let [luma, cb, cr] = [(); 3].map(|()| (0..99).map(|_| draws.below(256) as u8).collect::<Vec<_>>());
    let twice = |row: &[u8]| row.iter().flat_map(|sample| [*sample; 2]).collect::<Vec<_>>();
    for width in (0..99).step_by(2) {
        let [_, pairs] = row(Plain, width, &luma, &cb, &cr);
        let [each, _] = row(Plain, width, &luma, &twice(&cb), &twice(&cr));
        assert_eq!(pairs, each, "{width}");
    }
}

#[test]
fn plain_colours_are_those_of_jfif_to_a_level() {
    for (luma, cb, cr) in [(0, 128, 128), (255, 128, 128), (76, 85, 255), (150, 44, 21), (29, 255, 107), (99, 3, 250)] {
        let (y, b, r) = (f64::from(luma), f64::from(cb) - 128.0, f64::from(cr) - 128.0);
        let expected = [y + 1.402 * r, y - 0.344136 * b - 0.714136 * r, y + 1.772 * b];
        let [found, _] = row(Plain, 1, &[luma], &[cb], &[cr]);
        for (found, expected) in found.iter().zip(expected) {
            assert!((f64::from(*found) - expected.clamp(0.0, 255.0)).abs() < 0.51, "{luma} {cb} {cr}: {found:?}");
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[test]
fn vectors_convert_every_colour_as_the_plain_form_does() {
    use saccade::pipeline::jpeg::own::processor::Avx2;

    let Some(avx2) = Avx2::found() else { return };
    let cb: Vec<u8> = (0..=255).collect();
    for cr in 0..=255 {
        for luma in [0, 1, 64, 127, 128, 200, 254, 255] {
            let (luma, cr) = ([luma; 256], [cr; 256]);
            assert_eq!(row(avx2, 256, &luma, &cb, &cr), row(Plain, 256, &luma, &cb, &cr), "{} {}", luma[0], cr[0]);
        }
    }
    let luma: Vec<u8> = cb.iter().map(|value| value.wrapping_mul(89)).collect();
    for width in 0..=256 {
        assert_eq!(row(avx2, width, &luma, &cb, &luma), row(Plain, width, &luma, &cb, &luma), "{width} pixels");
    }
}
