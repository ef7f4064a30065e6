//! What is said of a step's memory, beside what the thread that makes the step allocates; what threads that it hands
//! products to take for themselves is not counted.

use burn::tensor::Tensor;
use saccade::model::kept::Form;
use saccade::model::{EncoderConfig, FirstWeights, PatchPredictorConfig, Precision, ShiftPredictorConfig, WeightInit};
use saccade::train::memory::{Masked, StepMemory};
use saccade::train::model::Loss;
use saccade::train::{HeadConfig, ModelConfig};

use super::{CONTEXT, TARGET, batch_of, config, kinds, trainer};
use crate::allocations::Account;
use crate::device;

const SAMPLES: usize = 192;

/// The same kinds, so large that what a step keeps outweighs the record's own bookkeeping.
fn larger() -> impl Iterator<Item = (&'static str, ModelConfig, Loss)> {
    kinds().into_iter().map(|(what, mut models, loss)| {
        match &mut models.encoder {
            EncoderConfig::Vit(vit) => (vit.width, vit.hidden, vit.depth) = (64, 256, 6),
            EncoderConfig::Energy(energy) => (energy.width, energy.memories, energy.iterations) = (64, 256, 6),
            EncoderConfig::ConvNext(convnext) => {
                (convnext.depths, convnext.widths) = ([2, 6, 0, 0], [32, 64, 0, 0]);
            }
        }
        match &mut models.predictor {
            HeadConfig::Patches(PatchPredictorConfig::Vit(vit)) => (vit.width, vit.hidden, vit.depth) = (32, 128, 4),
            HeadConfig::Patches(PatchPredictorConfig::Energy(energy)) => {
                (energy.width, energy.memories, energy.iterations) = (32, 128, 4);
            }
            HeadConfig::Told(ShiftPredictorConfig::Transformer { width, depth, .. }) => (*width, *depth) = (32, 4),
            HeadConfig::Told(ShiftPredictorConfig::Mlp { .. }) | HeadConfig::Read(_) => {}
        }
        (what, models, loss)
    })
}

#[test]
fn a_pass_over_more_tokens_than_one_operation_takes_keeps_what_was_said() {
    let (side, patch, samples) = (100, 4, 4);
    let tokens = (side / patch) * (side / patch);
    let mut wrong = Vec::new();
    for (what, models, _) in larger().take(3) {
        let mut config = models.encoder;
        match &mut config {
            EncoderConfig::Vit(vit) => (vit.image, vit.patch) = (side, patch),
            EncoderConfig::Energy(energy) => (energy.image, energy.patch) = (side, patch),
            EncoderConfig::ConvNext(_) => unreachable!("the first three encode patches"),
        }
        let device = device().autodiff();
        let encoder = config.init(&mut WeightInit::new(5, FirstWeights::Published), &device);
        let images = Tensor::<4>::ones([samples, 3, side, side], &device);
        let form = Form { precision: Precision::F32, recompute: false, on_cpu: true };
        let said = form.encoder(&config, samples, tokens).most;

        let account = Account::open();
        account.join();
        let before = account.bytes();
        drop(encoder.forward(images, None).square().sum().backward());
        let found = account.most_bytes() - before;
        let ratio = said as f64 / found as f64;
        if !(1.0 / 1.15..=1.15).contains(&ratio) {
            wrong.push(format!("{what}: {ratio:.2} of {found} bytes"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn batches_wait_as_bytes_and_each_of_several_ranks_has_its_share() {
    for (what, models, loss) in kinds() {
        let masked = matches!(models.predictor, HeadConfig::Patches(_));
        let (views, masked) =
            (if masked { 1 } else { 2 }, masked.then_some(Masked { context: CONTEXT, target: TARGET, blocks: 2 }));
        let of = |sizes| StepMemory::new(&models, &config(loss), masked, sizes, false);
        assert_eq!(of([8, 3, 1]).batches, 8 * 3 * views * 3 * (models.encoder.image() as u64).pow(2), "{what}");
        // On a device of its own each has what its share needs; the first, the gradients of the others too.
        let gradients = 4 * (models.encoder.parameters() + models.predictor_parameters());
        let (alone, shared) = (of([8, 3, 1]), of([24, 3, 3]));
        assert_eq!(shared.pass, alone.pass + 2 * gradients, "{what}");
        assert_eq!(shared.update, alone.update + 2 * gradients, "{what}");
        assert_eq!(shared.models, alone.models, "{what}");
    }
}

#[test]
fn a_step_takes_the_memory_that_was_said_within_fifteen_hundredths() {
    let mut wrong = Vec::new();
    for (what, models, loss) in larger() {
        for (precision, recompute, accumulate) in [
            (Precision::F32, false, 1),
            (Precision::F32, true, 1),
            (Precision::F32, false, 3),
            (Precision::Bf16, false, 1),
        ] {
            let mut config = config(loss);
            (config.precision, config.recompute, config.accumulate) = (precision, recompute, accumulate);
            let masked = matches!(models.predictor, HeadConfig::Patches(_));
            let masked = masked.then_some(Masked { context: CONTEXT, target: TARGET, blocks: 2 });
            let said = StepMemory::new(&models, &config, masked, [SAMPLES, 1, 1], true);

            let account = Account::open();
            account.join();
            let before = account.bytes();
            let mut trainer = trainer(&models, config);
            let batch = batch_of(SAMPLES, 3, false);
            // The optimizer's moments are there from the second on.
            for _ in 0..2 {
                trainer.step(&batch).unwrap();
            }
            let found = account.most_bytes() - before;

            let ratio = said.most() as f64 / found as f64;
            let line = format!(
                "{what}, {precision:?}, recompute {recompute}, accumulate {accumulate}: {ratio:.2} of {found} bytes \
                 ({said:?})"
            );
            if !(1.0 / 1.15..=1.15).contains(&ratio) {
                wrong.push(line);
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
