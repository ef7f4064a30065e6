//! Products in bfloat16: gradients that point the same way, losses that fall alike, weights that keep 32 bits.

use saccade::model::Precision;
use saccade::train::{HeadConfig, Trainer};

use super::{batch, config, gradients, kinds, number, trainer};
use crate::device;

/// A bfloat16 has 8 bits: gradients that went through a dozen of them point the same way up to a percent.
const LEAST_COSINE: f64 = 0.995;

#[test]
fn gradients_point_where_those_of_32_bits_do() {
    for (what, models, loss) in kinds() {
        for (padded, accumulate) in [(false, 1), (true, 2)] {
            let batch = batch(3, padded);
            let with = |precision: Precision| {
                let mut config = config(loss);
                (config.precision, config.accumulate) = (precision, accumulate);
                let trainer = trainer(&models, config);
                let backward = trainer.backward(&batch).unwrap();
                (number(&backward.loss), gradients(trainer.model(), &backward.gradients))
            };
            let ((there, theirs), (here, ours)) = (with(Precision::F32), with(Precision::Bf16));

            assert!(here != there, "{what}: computed in 32 bits after all");
            assert!((here - there).abs() < 0.02 * there, "{what}: loss {here}, in 32 bits {there}");
            assert!(theirs.len() > 10 && theirs.len() == ours.len(), "{what}: {} and {}", theirs.len(), ours.len());
            let (theirs, ours) = (theirs.concat(), ours.concat());
            let product =
                |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>();
            let lengths = [&theirs, &ours].map(|all| product(all, all).sqrt());
            let cosine = product(&theirs, &ours) / lengths[0] / lengths[1];
            assert!(cosine > LEAST_COSINE, "{what}, padded {padded}: cosine {cosine}, lengths {lengths:?}");
            assert!((lengths[0] / lengths[1] - 1.0).abs() < 0.03, "{what}: lengths {lengths:?}");
        }
    }
}

/// The losses of every kind over 240 steps, in windows of 40.
#[test]
fn losses_fall_as_in_32_bits() {
    const WINDOW: usize = 40;
    for (what, models, loss) in kinds() {
        let course = |precision: Precision| {
            let mut config = config(loss);
            config.precision = precision;
            let mut trainer = trainer(&models, config);
            (0..240).map(|step| number(&trainer.step(&batch(step, step % 2 == 1)).unwrap().loss)).collect::<Vec<f64>>()
        };
        let (theirs, ours) = (course(Precision::F32), course(Precision::Bf16));
        let means =
            |course: &[f64]| course.chunks(WINDOW).map(|some| some.iter().sum::<f64>() / WINDOW as f64).collect();
        let (theirs, ours): (Vec<f64>, Vec<f64>) = (means(&theirs), means(&ours));

        // What holds views together and features apart at once need not fall.
        let falls = matches!(models.predictor, HeadConfig::Patches(_));
        assert!(!falls || theirs[5] < 0.9 * theirs[0], "{what} learns nothing in 32 bits: {theirs:?}");
        for (ours, theirs) in ours.iter().zip(&theirs) {
            assert!((ours - theirs).abs() < 0.015 * theirs, "{what}: {ours:?}, in 32 bits {theirs:?}");
        }
    }
}

/// What is kept has 32 bits, and a trainer that was saved goes on to the bit.
#[test]
fn a_trainer_in_bfloat16_goes_on_to_the_bit() {
    for (what, models, loss) in kinds() {
        let mut config = config(loss);
        config.precision = Precision::Bf16;
        let mut first = trainer(&models, config.clone());
        (0..3).for_each(|step| drop(first.step(&batch(step, false)).unwrap()));
        let state = first.state().unwrap();
        let is_wide = |value: &f32| value.to_bits() & 0xFFFF != 0;
        let wide = state.weights.values().filter(|array| array.values.iter().any(is_wide)).count();
        assert!(wide * 10 > state.weights.len() * 9, "{what}: {wide} of {} arrays need 32 bits", state.weights.len());
        let mut second: Trainer = trainer(&models, config);
        second.restore(state, &device()).unwrap();

        for step in 3..5 {
            let losses =
                [&mut first, &mut second].map(|trainer| number(&trainer.step(&batch(step, false)).unwrap().loss));
            assert_eq!(losses[0], losses[1], "{what}, step {step}");
        }
        assert!(first.state().unwrap().weights == second.state().unwrap().weights, "{what}");
    }
}
