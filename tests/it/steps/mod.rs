//! One training step, computed in other ways: in bfloat16, with blocks gone through again, by several ranks, and on a device that fails.

mod failures;
mod memory;
mod precision;
mod ranks;
mod recompute;

use burn::module::{Module, ModuleVisitor, Param};
use burn::tensor::{Device, Tensor, TensorData};
use saccade::draws::{Draws, Purpose};
use saccade::model::shift::SaccadeUnit;
use saccade::model::{
    Choice, ConvNextConfig, EncoderConfig, EnergyConfig, EnergyPredictorConfig, FirstWeights, Lookup, Memory,
    PatchPredictorConfig, Precision, PredictorConfig, ProjectorConfig, ShiftPredictorConfig, ShiftReaderConfig,
    VitConfig,
};
use saccade::objective::masked::MaskedWeights;
use saccade::objective::saccade::{ReadWeights, SaccadeWeights};
use saccade::pipeline::saccade::Saccade;
use saccade::train::model::{Loss, Model};
use saccade::train::optimizer::Gradients;
use saccade::train::step::StepConfig;
use saccade::train::upload::{DeviceBatch, DeviceMasks, Images, PixelBytes};
use saccade::train::{HeadConfig, ModelConfig, Normalisation, Schedules, Trainer};

use crate::device;

const BATCH: usize = 8;
const SIDE: usize = 16;
/// Patches a side, and of a sample: those of its context, and of each of two target blocks.
const GRID: usize = 4;
const CONTEXT: usize = 8;
const TARGET: usize = 3;

/// Every kind of model that can be trained, with an objective that it is trained by.
fn kinds() -> Vec<(&'static str, ModelConfig, Loss)> {
    let vit = EncoderConfig::Vit(VitConfig::free(SIDE, SIDE / GRID, 32, 2, 2));
    let convnext = EncoderConfig::ConvNext(ConvNextConfig {
        image: SIDE,
        stem: 4,
        depths: [1, 2, 0, 0],
        widths: [16, 32, 0, 0],
        layer_scale: 0.1,
    });
    let told = Loss::Told(SaccadeWeights { prediction: 1.0, cycle: 0.5, variance: 0.5, covariance: 0.1 });
    let weights = ReadWeights { direction: 1.0, magnitude: 1.0, rotation: 1.0, variance: 0.5, covariance: 0.1 };
    let read = Loss::Read { weights, unit: SaccadeUnit::new(0.3, 0.2) };
    let transformer = HeadConfig::Told(ShiftPredictorConfig::Transformer { tokens: 4, width: 16, depth: 1, heads: 2 });
    let mlp = HeadConfig::Told(ShiftPredictorConfig::Mlp { hidden: 32, layers: 2 });
    let reader = HeadConfig::Read(ShiftReaderConfig { hidden: 32, layers: 2 });
    vec![
        kind("vit", vit, HeadConfig::Patches(PatchPredictorConfig::Vit(PredictorConfig::new(16, 2, 2)))),
        energy("energy with softmax memory", Memory::Softmax),
        energy("energy with relu memory", Memory::Relu),
        of_views("vit told the saccade", vit, transformer, told),
        of_views("convnext told the saccade", convnext, mlp, told),
        of_views("convnext that reads the saccade", convnext, reader, read),
    ]
}

fn kind(what: &'static str, encoder: EncoderConfig, predictor: HeadConfig) -> (&'static str, ModelConfig, Loss) {
    let loss = Loss::Masked(MaskedWeights { variance: 0.1, covariance: 0.1 });
    (what, ModelConfig { encoder, projector: None, predictor }, loss)
}

fn energy(what: &'static str, memory: Memory) -> (&'static str, ModelConfig, Loss) {
    let encoder = EnergyConfig {
        image: SIDE,
        patch: SIDE / GRID,
        width: 32,
        heads: 2,
        head_width: 12,
        memories: 64,
        memory,
        iterations: 3,
        step_size: 0.5,
    };
    let predictor = EnergyPredictorConfig {
        width: 16,
        heads: 2,
        head_width: 8,
        memories: 32,
        memory,
        iterations: 2,
        step_size: 0.5,
    };
    kind(what, EncoderConfig::Energy(encoder), HeadConfig::Patches(PatchPredictorConfig::Energy(predictor)))
}

fn of_views(
    what: &'static str,
    encoder: EncoderConfig,
    predictor: HeadConfig,
    loss: Loss,
) -> (&'static str, ModelConfig, Loss) {
    (
        what,
        ModelConfig { encoder, projector: Some(ProjectorConfig { hidden: 32, layers: 2, width: 24 }), predictor },
        loss,
    )
}

/// How a step of these tests is made, but for what each of them is about.
fn config(loss: Loss) -> StepConfig {
    let schedules = Schedules {
        start_learning_rate: 0.0005,
        peak_learning_rate: 0.002,
        final_learning_rate: 0.0005,
        warmup_steps: 20,
        steps: 240,
        weight_decay: [0.04; 2],
        ema_decay: [0.99, 1.0],
    };
    StepConfig {
        accumulate: 1,
        precision: Precision::F32,
        recompute: false,
        clip_norm: None,
        loss,
        schedules,
        probe: None,
    }
}

fn trainer(models: &ModelConfig, config: StepConfig) -> Trainer {
    Trainer::new(models.init(5, FirstWeights::Published, &device().autodiff()), config)
}

/// A batch for any objective. With `padded` some of the places of its masks are padding.
fn batch(step: u64, padded: bool) -> DeviceBatch {
    batch_of(BATCH, step, padded)
}

fn batch_of(samples: usize, step: u64, padded: bool) -> DeviceBatch {
    let device = device();
    let (mut context, mut targets) = (Vec::new(), Vec::new());
    let (mut is_context, mut is_target) = (Vec::new(), Vec::new());
    for sample in 0..samples as u64 {
        let mut patches: Vec<u32> = (0..(GRID * GRID) as u32).collect();
        Draws::new(9, step, sample, Purpose::Masks).shuffle(&mut patches);
        context.extend_from_slice(&patches[..CONTEXT]);
        targets.extend_from_slice(&patches[CONTEXT..CONTEXT + 2 * TARGET]);
        let real = |place: usize| !padded || place < 1 + sample as usize;
        is_context.extend((0..CONTEXT).map(real));
        is_target.extend((0..2 * TARGET).map(|place| real(place % TARGET)));
    }
    let choice =
        |indices: &[u32], real: &[bool]| Choice::new(indices, real, indices.len() / samples, Lookup::Rows, &device);
    let target_patches = is_target.iter().filter(|real| **real).count();
    let masks = DeviceMasks {
        context: choice(&context, &is_context),
        targets: choice(&targets, &is_target),
        blocks: 2,
        target_patches,
    };
    let saccade = |sample: u64| {
        let mut draws = Draws::new(10, step, sample, Purpose::Crop);
        let mut number = || draws.between(-0.2, 0.2) as f32;
        Saccade { angle: number(), shift: [number(), number()] }
    };
    DeviceBatch {
        step,
        epoch: 0,
        samples: (0..samples as u32).collect(),
        labels: vec![None; samples],
        images: bytes(samples, step, &device),
        masks: Some(masks),
        saccades: Some((0..samples as u64).map(saccade).collect()),
        quarantined: Vec::new(),
        counts: Default::default(),
    }
}

/// Two views of each sample, as a run uploads them; normalised they are the numbers of [`pixels`], nearly.
fn bytes(samples: usize, step: u64, device: &Device) -> Images {
    let views = [0, 1].map(|view| pixels(samples, 2 * step + view));
    let (image, area) = (3 * SIDE * SIDE, SIDE * SIDE);
    let places = (0..samples).flat_map(|sample| [0, 1].map(|view| (sample, view)));
    let bytes = places.flat_map(|(sample, view)| {
        let pixels = &views[view][sample * image..][..image];
        (0..image).map(|place| (127.5 + 31.875 * pixels[place % 3 * area + place / 3]) as u8)
    });
    let pixels = Normalisation { mean: [0.5; 3], deviation: [0.125; 3] };
    Images::Bytes(PixelBytes::new(bytes.collect::<Vec<u8>>().into(), 2, SIDE, pixels, device))
}

fn images(samples: usize, number: u64, device: &Device) -> Tensor<4> {
    Tensor::from_data(TensorData::new(pixels(samples, number), [samples, 3, SIDE, SIDE]), device)
}

/// Images of a colour and a wave each: `[samples, 3, side, side]`.
fn pixels(samples: usize, number: u64) -> Vec<f32> {
    let image = |sample: u64| {
        let mut draws = Draws::new(11, number, sample, Purpose::Crop);
        let colour = [draws.normal(), draws.normal(), draws.normal()];
        let (across, down, start) = (draws.between(-1.0, 1.0), draws.between(-1.0, 1.0), draws.between(0.0, 6.3));
        let pixel = move |place: usize| {
            let (row, column) = (place / SIDE % SIDE, place % SIDE);
            let wave = (start + across * column as f64 + down * row as f64).sin();
            (colour[place / SIDE / SIDE] * (0.3 + wave)) as f32
        };
        (0..3 * SIDE * SIDE).map(pixel)
    };
    (0..samples as u64).flat_map(image).collect()
}

fn number(tensor: &Tensor<1>) -> f64 {
    f64::from(tensor.clone().into_scalar::<f32>())
}

/// The gradient of each trained parameter, in the module's order, as 32-bit numbers: it must be that.
fn gradients(model: &Model, found: &Gradients) -> Vec<Vec<f32>> {
    struct Each<'a>(&'a Gradients, Vec<Vec<f32>>);

    impl ModuleVisitor for Each<'_> {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            if let Some(gradient) = self.0.get(param.id) {
                self.1.push(gradient.into_data().try_to_vec::<f32>().unwrap());
            }
        }
    }

    let mut each = Each(found, Vec::new());
    model.visit(&mut each);
    each.1
}
