//! Attention on the record, forward and backward, by the number of tokens: with its weights kept, as the tensor library
//! does it; with weights that are computed again; and, on the CPU up to 512 tokens, in one pass. Milliseconds, the least
//! of several rounds by turns. Then LayerNorm of as many tokens in the same three ways.
//!
//!   cargo bench --bench attention                 # on the CPU, or on the first GPU of a build with the feature cuda
//!   cargo bench --bench attention -- cuda:0

use std::io::{self, Write};
use std::time::Instant;

use burn::tensor::module::{attention, layer_norm};
use burn::tensor::ops::AttentionModuleOptions;
use burn::tensor::{DType, Device, Distribution, Tensor};
use saccade::model::fused::elsewhere::{self, WEIGHT_BYTES};
use saccade::model::fused::{self, LayerNorm};
use saccade::train::DeviceChoice;

const HEADS: usize = 6;
const HEAD_WIDTH: usize = 64;
const ROUNDS: usize = 7;
const EPSILON: f64 = 1e-6;

/// From queries, keys and values side by side to what they attend to.
type Way = fn(&Tensor<3>) -> Option<Tensor<3>>;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let asked = std::env::args().skip(1).find(|argument| !argument.starts_with('-'));
    let place = asked.as_deref().unwrap_or("auto").parse::<DeviceChoice>()?.open()?;
    let is_cpu = place.is_cpu();
    let precisions: &[DType] = if is_cpu { &[DType::F32] } else { &[DType::F32, DType::BF16] };
    let mut out = io::stdout().lock();
    writeln!(out, "{}: {HEADS} heads of {HEAD_WIDTH}", place.name)?;
    for &precision in precisions {
        for tokens in [64, 196, 256, 576, 1024] {
            // As many tokens each time.
            let batch = (if is_cpu { 4096 } else { 1 << 17 } / tokens).max(1);
            let shape = [batch, tokens, 3 * HEADS * HEAD_WIDTH];
            let given: Tensor<3> = Tensor::random(shape, Distribution::Normal(0.0, 1.0), &place.device);
            let given = given.cast(precision);
            let ways: [(&str, Way); 3] = [
                ("kept", |qkv| Some(joined(kept(apart(qkv))))),
                ("again", |qkv| Some(joined(elsewhere::attention(apart(qkv), None, WEIGHT_BYTES)))),
                ("one pass", |qkv| fused::attention(qkv, HEADS, None)),
            ];
            writeln!(out, "{precision:?}, {batch} x {tokens} tokens: {}", by_turns(&given, &ways)?)?;
        }
    }
    let tokens = if is_cpu { 4096 } else { 1 << 17 };
    let given: Tensor<3> =
        Tensor::random([1, tokens, HEADS * HEAD_WIDTH], Distribution::Normal(0.0, 1.0), &place.device);
    let ways: [(&str, Way); 3] = [
        ("kept", |rows| Some(by(rows, |rows, scale, shift| layer_norm(rows, scale, Some(shift), EPSILON)))),
        ("again", |rows| Some(by(rows, |rows, scale, shift| elsewhere::norm(rows, scale, shift, EPSILON)))),
        ("one pass", |rows| {
            let [_, _, width] = rows.dims();
            let is_cpu = rows.device() == Device::flex().autodiff();
            is_cpu.then(|| LayerNorm::new(width, EPSILON, &rows.device()).forward(rows.clone()))
        }),
    ];
    writeln!(out, "F32, LayerNorm of {tokens} tokens: {}", by_turns(&given, &ways)?)?;
    Ok(())
}

/// The least milliseconds of each way.
fn by_turns(given: &Tensor<3>, ways: &[(&str, Way); 3]) -> Result<String, Box<dyn std::error::Error>> {
    let mut least = [f64::INFINITY; 3];
    for _ in 0..ROUNDS {
        for (least, (_, way)) in least.iter_mut().zip(ways) {
            if let Some(seconds) = seconds(given, *way)? {
                *least = least.min(seconds);
            }
        }
    }
    let figures = ways.iter().zip(least).filter(|(_, least)| least.is_finite());
    let figures: Vec<String> = figures.map(|((what, _), least)| format!("{what} {:.2}", 1e3 * least)).collect();
    Ok(figures.join(", "))
}

/// With scale and shift on the record, too.
fn by(rows: &Tensor<3>, norm: impl Fn(Tensor<3>, Tensor<1>, Tensor<1>) -> Tensor<3>) -> Tensor<3> {
    let [_, _, width] = rows.dims();
    let [scale, shift] = [1.0, 0.0].map(|value| Tensor::full([width], value, &rows.device()).require_grad());
    norm(rows.clone(), scale, shift)
}

fn seconds(given: &Tensor<3>, way: Way) -> Result<Option<f64>, Box<dyn std::error::Error>> {
    let device: Device = given.device();
    device.sync()?;
    let start = Instant::now();
    let qkv = given.clone().autodiff().require_grad();
    let Some(output) = way(&qkv) else { return Ok(None) };
    let gradients = output.cast(DType::F32).square().sum().backward();
    let slope = qkv.grad(&gradients).ok_or("no gradient")?;
    slope.cast(DType::F32).sum().try_into_data()?;
    Ok(Some(start.elapsed().as_secs_f64()))
}

fn kept([queries, keys, values]: [Tensor<4>; 3]) -> Tensor<4> {
    attention(queries, keys, values, None, None, AttentionModuleOptions::default())
}

fn apart(all: &Tensor<3>) -> [Tensor<4>; 3] {
    let [batch, count, _] = all.dims();
    let all = all.clone().reshape([batch, count, 3, HEADS, HEAD_WIDTH]).permute([2, 0, 3, 1, 4]);
    [0, 1, 2].map(|part| all.clone().narrow(0, part, 1).squeeze_dim::<4>(0))
}

fn joined(heads: Tensor<4>) -> Tensor<3> {
    let [batch, _, count, _] = heads.dims();
    heads.swap_dims(1, 2).reshape([batch, count, HEADS * HEAD_WIDTH])
}
