//! GELU, `x Φ(x)`, and what it does to a gradient. Numbers to numbers.

use super::lanes::for_processors;

/// Beyond so many deviations Φ is within 2e-8 of 0 or 1, less than 32 bits resolve beside 1, and is taken to be that.
const FAR: f32 = 5.6;

/// `Φ(x) - 1/2 = x P(x²) / Q(x²)` for `|x| <= FAR`: the rational function of this degree with the least relative error,
/// 2e-8, found by weighted least squares against the error function in 64 bits. In 32 bits Φ is within 2e-7.
const P: [f32; 6] = [3.989_422_6e-1, 3.392_674_4e-2, 4.677_204e-3, 1.689_057_7e-4, 6.289_588e-6, 2.229_889_5e-8];
const Q: [f32; 6] = [1.0, 2.517_080_6e-1, 2.867_623_2e-2, 1.885_357_2e-3, 7.333_659e-5, 1.179_687_2e-6];

/// `1 / sqrt(2π)`
const DENSITY: f32 = 0.398_942_3;

for_processors! {
    /// Writes `x Φ(x)` of every number.
    pub fn gelu(from: &[f32], into: &mut [f32]) {
        for (&x, into) in from.iter().zip(into) {
            *into = if x < -FAR { 0.0 } else { x * (0.5 + centred(x)) };
        }
    }
}

for_processors! {
    /// Multiplies gradients by the slope, `Φ(x) + x φ(x)`.
    pub fn slope(from: &[f32], gradient: &mut [f32]) {
        for (&x, gradient) in from.iter().zip(gradient) {
            let slope = 0.5 + centred(x) + x * DENSITY * exponential(-0.5 * x * x);
            *gradient *= if x < -FAR { 0.0 } else { slope };
        }
    }
}

for_processors! {
    /// Writes the exponential of every number.
    pub fn exponentials(from: &[f32], into: &mut [f32]) {
        for (&x, into) in from.iter().zip(into) {
            *into = exponential(x);
        }
    }
}

for_processors! {
    /// Multiplies numbers by others.
    pub fn multiply(factors: &[f32], numbers: &mut [f32]) {
        for (&factor, number) in factors.iter().zip(numbers) {
            *number *= factor;
        }
    }
}

/// `Φ(x) - 1/2`
#[inline(always)]
fn centred(x: f32) -> f32 {
    let x = x.clamp(-FAR, FAR);
    let square = x * x;
    x * polynomial(&P, square) / polynomial(&Q, square)
}

/// The exponential of a number, within 2e-7 of it; 0 where it would be below the least normal number.
#[inline(always)]
pub fn exponential(x: f32) -> f32 {
    /// The logarithm of the least normal number, rounded up.
    const LEAST: f32 = -87.3;
    /// Beyond it the nearest power of two has no float.
    const MOST: f32 = 88.3;
    /// Added and taken away again, it leaves the nearest whole number, and keeps it in its lowest bits.
    const ROUNDING: f32 = 12_582_912.0;
    /// ln 2 in two parts, the first of which times any whole number here is exact.
    const LN_2: [f32; 2] = [0.693_359_4, -2.121_944_4e-4];
    const FACTORIALS: [f32; 7] = [1.0, 1.0, 0.5, 1.0 / 6.0, 1.0 / 24.0, 1.0 / 120.0, 1.0 / 720.0];
    let shifted = x * std::f32::consts::LOG2_E + ROUNDING;
    let whole = shifted - ROUNDING;
    let rest = x - whole * LN_2[0] - whole * LN_2[1];
    // The exponent of 2 to the whole number, in the place where a float has it.
    let power = f32::from_bits((shifted.to_bits() << 23).wrapping_add(1.0f32.to_bits()));
    let near = polynomial(&FACTORIALS, rest) * power;
    if x < LEAST {
        0.0
    } else if x > MOST {
        f32::INFINITY
    } else {
        near
    }
}

#[inline(always)]
fn polynomial<const N: usize>(coefficients: &[f32; N], x: f32) -> f32 {
    coefficients.iter().rev().fold(0.0, |sum, coefficient| sum * x + coefficient)
}
