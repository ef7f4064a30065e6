//! Blocks that are gone through again on the way back: the same numbers, and less memory.

use saccade::model::{EncoderConfig, Precision};

use super::{batch, batch_of, config, gradients, kinds, number, trainer};
use crate::allocations::Account;
use crate::slack;

/// What the order of a sum may change, against the largest gradient: an Energy Transformer's iterations share their
/// weights, whose gradients are then summed in another order.
const REORDERED: f32 = 2e-5;

#[test]
fn gradients_are_those_of_blocks_that_are_kept() {
    for (what, models, loss) in kinds() {
        for (padded, precision) in [(false, Precision::F32), (true, Precision::F32), (true, Precision::Bf16)] {
            let batch = batch(3, padded);
            let with = |recompute: bool| {
                let mut config = config(loss);
                (config.precision, config.recompute) = (precision, recompute);
                trainer(&models, config)
            };
            let [kept, again] = [false, true].map(with);
            let (there, here) = (kept.backward(&batch).unwrap(), again.backward(&batch).unwrap());

            let (theirs, ours) = (number(&there.loss), number(&here.loss));
            // Elsewhere the second way forward may be made of other kernels.
            let is_exact = !what.starts_with("energy") && slack() == 1.0;
            assert!(
                theirs == ours || (!is_exact && (theirs - ours).abs() < 1e-6 * f64::from(slack())),
                "{what}: {ours}, not {theirs}"
            );
            let theirs = gradients(kept.model(), &there.gradients);
            let ours = gradients(again.model(), &here.gradients);
            assert!(theirs.len() > 10 && theirs.len() == ours.len(), "{what}: {} and {}", theirs.len(), ours.len());
            for (place, (ours, theirs)) in ours.iter().zip(&theirs).enumerate() {
                if is_exact {
                    assert_eq!(ours, theirs, "{what}, padded {padded}: gradient {place}");
                    continue;
                }
                let largest = theirs.iter().fold(1e-6f32, |most, value| most.max(value.abs()));
                let apart = ours.iter().zip(theirs).fold(0f32, |most, (ours, theirs)| most.max((ours - theirs).abs()));
                assert!(
                    apart <= REORDERED * slack() * largest,
                    "{what}: gradient {place} differs by {apart} of {largest}"
                );
            }
        }
    }
}

#[test]
fn so_much_less_is_kept_between_the_ways() {
    let (_, mut models, loss) = kinds().remove(0);
    let EncoderConfig::Vit(vit) = &mut models.encoder else { panic!("the first kind is a ViT") };
    vit.depth = 12;
    // Gradients are held either way: many samples have more of what need not be.
    let batch = batch_of(128, 3, false);
    let most = |recompute: bool| {
        let mut config = config(loss);
        config.recompute = recompute;
        let trainer = trainer(&models, config);
        let account = Account::open();
        account.join();
        let before = account.bytes();
        trainer.backward(&batch).unwrap();
        account.most_bytes() - before
    };
    let (again, kept) = (most(true), most(false));

    assert!(again * 3 < kept, "at most {again} bytes where blocks are gone through again, {kept} where they are kept");
}
