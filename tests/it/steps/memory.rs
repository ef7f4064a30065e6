//! What is said of a step's memory, beside what the step allocates.

use saccade::model::{EncoderConfig, PatchPredictorConfig, Precision, ShiftPredictorConfig};
use saccade::train::memory::{Masked, StepMemory};
use saccade::train::model::Loss;
use saccade::train::{HeadConfig, ModelConfig};

use super::{CONTEXT, TARGET, batch_of, config, kinds, trainer};
use crate::allocations::Account;

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
