//! Coefficients → samples: the inverse cosine transform at 8, 4, 2 and 1 samples a side.
//!
//! The same integers as libjpeg's accurate transforms (Loeffler, Ligtenberg and Moschytz, ICASSP 1989, with 11
//! multiplications, and its reductions), bit for bit. Lanes are arrays, which the compiler turns into vectors. Between the
//! passes numbers are kept in 16 bits, which is more than a sound picture's need.

use std::num::Wrapping;

use super::processor::Square;

/// Damaged coefficients may leave the range of a picture's; their sums wrap.
type Number = Wrapping<i32>;

/// One value of each column, or of each row.
type Lanes = [Number; 8];

const ZERO: Number = Wrapping(0);

/// Fractional bits of the constants, and those kept between the passes.
pub const CONST_BITS: usize = 13;
pub const PASS_BITS: usize = 2;

/// The sample that a block of zeros becomes.
pub const CENTRE: i32 = 128;

/// A number as fixed point.
pub const fn fix(number: f64) -> i32 {
    (number * (1 << CONST_BITS) as f64 + 0.5) as i32
}

/// Rounds what is shifted, and moves the result by `centre`.
const fn bias(shift: usize, centre: i32) -> Number {
    Wrapping((1 << (shift - 1)) + (centre << shift))
}

/// One pass over eight inputs of each lane.
#[inline(always)]
fn pass8(input: &[Lanes; 8], shift: usize, centre: i32) -> [Lanes; 8] {
    let fix = |number| Wrapping(fix(number));
    let bias = bias(shift, centre);
    let mut output = [[ZERO; 8]; 8];
    for lane in 0..8 {
        let at = |row: usize| input[row][lane];
        // Even part.
        let z1 = (at(2) + at(6)) * fix(0.541196100);
        let even2 = z1 - at(6) * fix(1.847759065);
        let even3 = z1 + at(2) * fix(0.765366865);
        let even0 = (at(0) + at(4)) << CONST_BITS;
        let even1 = (at(0) - at(4)) << CONST_BITS;
        let sums = [even0 + even3, even1 + even2, even1 - even2, even0 - even3];
        // Odd part.
        let z5 = (at(7) + at(3) + at(5) + at(1)) * fix(1.175875602);
        let z1 = (at(7) + at(1)) * fix(0.899976223);
        let z2 = (at(5) + at(3)) * fix(2.562915447);
        let z3 = z5 - (at(7) + at(3)) * fix(1.961570560);
        let z4 = z5 - (at(5) + at(1)) * fix(0.390180644);
        let odds = [
            at(1) * fix(1.501321110) - z1 + z4,
            at(3) * fix(3.072711026) - z2 + z3,
            at(5) * fix(2.053119869) - z2 + z4,
            at(7) * fix(0.298631336) - z1 + z3,
        ];
        for (row, (sum, odd)) in sums.into_iter().zip(odds).enumerate() {
            output[row][lane] = (sum + odd + bias) >> shift;
            output[7 - row][lane] = (sum - odd + bias) >> shift;
        }
    }
    output
}

#[inline(always)]
fn sample(value: Number) -> u8 {
    value.0.clamp(0, 255) as u8
}

#[inline(always)]
fn coefficients(block: &Square, factors: &Square) -> [Lanes; 8] {
    let mut rows = [[ZERO; 8]; 8];
    for (row, lanes) in rows.iter_mut().enumerate() {
        for (lane, value) in lanes.iter_mut().enumerate() {
            *value = Wrapping(block[row * 8 + lane].wrapping_mul(factors[row * 8 + lane]).into());
        }
    }
    rows
}

/// Writes 8 rows of 8 samples, `stride` apart.
#[inline(always)]
pub fn inverse8(block: &Square, factors: &Square, into: &mut [u8], stride: usize) {
    let rows = pass8(&coefficients(block, factors), CONST_BITS - PASS_BITS, 0);
    write_turned(&pass8(&turned(&rows), CONST_BITS + PASS_BITS + 3, CENTRE), into, stride);
}

/// Four outputs a lane of the eight inputs, the middle one of which does not matter.
#[inline(always)]
fn pass4(input: &[Lanes; 8], shift: usize, centre: i32) -> [Lanes; 4] {
    let bias = bias(shift, centre);
    let mut output = [[ZERO; 8]; 4];
    for lane in 0..8 {
        let at = |row: usize, factor: f64| input[row][lane] * Wrapping(fix(factor));
        let middle = input[0][lane] << (CONST_BITS + 1);
        let slope = at(2, 1.847759065) - at(6, 0.765366865);
        let inner = at(5, 1.451774981) - at(7, 0.211164243) - at(3, 2.172734803) + at(1, 1.061594337);
        let outer = at(3, 0.899976223) - at(7, 0.509795579) - at(5, 0.601344887) + at(1, 2.562915447);
        output[0][lane] = (middle + slope + outer + bias) >> shift;
        output[3][lane] = (middle + slope - outer + bias) >> shift;
        output[1][lane] = (middle - slope + inner + bias) >> shift;
        output[2][lane] = (middle - slope - inner + bias) >> shift;
    }
    output
}

#[inline(always)]
fn pass2(input: &[Lanes; 8], shift: usize, centre: i32) -> [Lanes; 2] {
    let bias = bias(shift, centre);
    let mut output = [[ZERO; 8]; 2];
    for lane in 0..8 {
        let at = |row: usize, factor: f64| input[row][lane] * Wrapping(fix(factor));
        let middle = input[0][lane] << (CONST_BITS + 2);
        let odd = at(5, 0.850430095) - at(7, 0.720959822) - at(3, 1.272758580) + at(1, 3.624509785);
        output[0][lane] = (middle + odd + bias) >> shift;
        output[1][lane] = (middle - odd + bias) >> shift;
    }
    output
}

/// Turns the first rows of a pass into the input of the next: as many lanes as it had rows, the rest zero.
#[inline(always)]
fn turned<const ROWS: usize>(rows: &[Lanes; ROWS]) -> [Lanes; 8] {
    let mut columns = [[ZERO; 8]; 8];
    for (column, lanes) in columns.iter_mut().enumerate() {
        for (row, values) in rows.iter().enumerate() {
            lanes[row] = Wrapping(values[column].0.clamp(i16::MIN.into(), i16::MAX.into()));
        }
    }
    columns
}

#[inline(always)]
fn write_turned<const SIDE: usize>(columns: &[Lanes; SIDE], into: &mut [u8], stride: usize) {
    for row in 0..SIDE {
        if let Some(into) = into.get_mut(row * stride..row * stride + SIDE) {
            for (into, column) in into.iter_mut().zip(columns) {
                *into = sample(column[row]);
            }
        }
    }
}

#[inline(always)]
pub fn inverse4(block: &Square, factors: &Square, into: &mut [u8], stride: usize) {
    let rows = pass4(&coefficients(block, factors), CONST_BITS - PASS_BITS + 1, 0);
    write_turned(&pass4(&turned(&rows), CONST_BITS + PASS_BITS + 3 + 1, CENTRE), into, stride);
}

#[inline(always)]
pub fn inverse2(block: &Square, factors: &Square, into: &mut [u8], stride: usize) {
    let rows = pass2(&coefficients(block, factors), CONST_BITS - PASS_BITS + 2, 0);
    write_turned(&pass2(&turned(&rows), CONST_BITS + PASS_BITS + 3 + 2, CENTRE), into, stride);
}

/// The one sample that the first coefficient is.
#[inline(always)]
pub fn flat(first: i16) -> u8 {
    sample(Wrapping(((i32::from(first) + 4) >> 3) + CENTRE))
}
