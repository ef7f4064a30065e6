//! Coefficients → samples: the inverse cosine transform at 8, 4, 2 and 1 samples a side.
//!
//! The same integers as libjpeg's accurate transforms (Loeffler, Ligtenberg and Moschytz, ICASSP 1989, with 11
//! multiplications, and its reductions), bit for bit. Lanes are arrays, which the compiler turns into vectors.

use std::num::Wrapping;

/// Damaged coefficients may leave the range of a picture's; their sums wrap.
type Number = Wrapping<i32>;

/// One value of each column, or of each row.
type Lanes = [Number; 8];

const ZERO: Number = Wrapping(0);

/// Fractional bits of the constants, and those kept between the passes.
const CONST_BITS: usize = 13;
const PASS_BITS: usize = 2;

/// A number as fixed point.
const fn fix(number: f64) -> Number {
    Wrapping((number * (1 << CONST_BITS) as f64 + 0.5) as i32)
}

#[inline(always)]
fn transposed(rows: [Lanes; 8]) -> [Lanes; 8] {
    let mut columns = [[ZERO; 8]; 8];
    for (row, lanes) in rows.iter().enumerate() {
        for (column, value) in lanes.iter().enumerate() {
            columns[column][row] = *value;
        }
    }
    columns
}

/// One pass over eight inputs of each lane.
#[inline(always)]
fn pass8(input: &[Lanes; 8], shift: usize) -> [Lanes; 8] {
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
        let round = Wrapping(1 << (shift - 1));
        for (row, (sum, odd)) in sums.into_iter().zip(odds).enumerate() {
            output[row][lane] = (sum + odd + round) >> shift;
            output[7 - row][lane] = (sum - odd + round) >> shift;
        }
    }
    output
}

#[inline(always)]
fn sample(value: Number) -> u8 {
    (value + Wrapping(128)).0.clamp(0, 255) as u8
}

#[inline(always)]
fn widened(block: &[i16; 64]) -> [Lanes; 8] {
    let mut rows = [[ZERO; 8]; 8];
    for (row, lanes) in rows.iter_mut().enumerate() {
        for (lane, value) in lanes.iter_mut().enumerate() {
            *value = Wrapping(block[row * 8 + lane].into());
        }
    }
    rows
}

/// Writes 8 rows of 8 samples, `stride` apart.
#[inline(always)]
pub fn inverse8(block: &[i16; 64], into: &mut [u8], stride: usize) {
    let columns = pass8(&widened(block), CONST_BITS - PASS_BITS);
    let rows = pass8(&transposed(columns), CONST_BITS + PASS_BITS + 3);
    for (row, lanes) in transposed(rows).iter().enumerate() {
        if let Some(into) = into.get_mut(row * stride..row * stride + 8) {
            for (into, value) in into.iter_mut().zip(lanes) {
                *into = sample(*value);
            }
        }
    }
}

/// Four outputs a lane of the eight inputs, the middle one of which does not matter.
#[inline(always)]
fn pass4(input: &[Lanes; 8], shift: usize) -> [Lanes; 4] {
    let mut output = [[ZERO; 8]; 4];
    for lane in 0..8 {
        let at = |row: usize, factor: f64| input[row][lane] * fix(factor);
        let middle = input[0][lane] << (CONST_BITS + 1);
        let slope = at(2, 1.847759065) - at(6, 0.765366865);
        let inner = at(5, 1.451774981) - at(7, 0.211164243) - at(3, 2.172734803) + at(1, 1.061594337);
        let outer = at(3, 0.899976223) - at(7, 0.509795579) - at(5, 0.601344887) + at(1, 2.562915447);
        let round = Wrapping(1 << (shift - 1));
        output[0][lane] = (middle + slope + outer + round) >> shift;
        output[3][lane] = (middle + slope - outer + round) >> shift;
        output[1][lane] = (middle - slope + inner + round) >> shift;
        output[2][lane] = (middle - slope - inner + round) >> shift;
    }
    output
}

#[inline(always)]
fn pass2(input: &[Lanes; 8], shift: usize) -> [Lanes; 2] {
    let mut output = [[ZERO; 8]; 2];
    for lane in 0..8 {
        let at = |row: usize, factor: f64| input[row][lane] * fix(factor);
        let middle = input[0][lane] << (CONST_BITS + 2);
        let odd = at(5, 0.850430095) - at(7, 0.720959822) - at(3, 1.272758580) + at(1, 3.624509785);
        let round = Wrapping(1 << (shift - 1));
        output[0][lane] = (middle + odd + round) >> shift;
        output[1][lane] = (middle - odd + round) >> shift;
    }
    output
}

/// Turns the first rows of a pass into the input of the next: as many lanes as it had rows, the rest zero.
#[inline(always)]
fn turned<const ROWS: usize>(rows: &[Lanes; ROWS]) -> [Lanes; 8] {
    let mut columns = [[ZERO; 8]; 8];
    for (column, lanes) in columns.iter_mut().enumerate() {
        for (row, values) in rows.iter().enumerate() {
            lanes[row] = values[column];
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
pub fn inverse4(block: &[i16; 64], into: &mut [u8], stride: usize) {
    let rows = pass4(&widened(block), CONST_BITS - PASS_BITS + 1);
    write_turned(&pass4(&turned(&rows), CONST_BITS + PASS_BITS + 3 + 1), into, stride);
}

#[inline(always)]
pub fn inverse2(block: &[i16; 64], into: &mut [u8], stride: usize) {
    let rows = pass2(&widened(block), CONST_BITS - PASS_BITS + 2);
    write_turned(&pass2(&turned(&rows), CONST_BITS + PASS_BITS + 3 + 2), into, stride);
}

/// The one sample that the first coefficient is.
#[inline(always)]
pub fn flat(first: i16) -> u8 {
    sample(Wrapping((i32::from(first) + 4) >> 3))
}
