//! Batches that are shared out among ranks: the gradients of one device, and one clear word when a rank is lost.

use std::ops::Range;

use saccade::model::{Choice, Lookup};
use saccade::objective::masked::MaskedWeights;
use saccade::train::model::Loss;
use saccade::train::replica::StepError;

use super::{BATCH, GRID, batch, config, gradients, kinds, number, trainer};
use crate::device;

/// What the order of a sum may change, against the largest gradient.
const REORDERED: f32 = 2e-5;

#[test]
fn ranks_give_to_the_bit_what_as_many_parts_give_one_after_the_other() {
    for (what, models, loss) in kinds() {
        for ranks in [2, 3] {
            let mut alone = config(loss);
            alone.accumulate = ranks;
            let mut shared = trainer(&models, config(loss)).spread(vec![device(); ranks]);
            let mut alone = trainer(&models, alone);
            for step in 0..3 {
                let batch = batch(step, step == 1);
                let [ours, theirs] = [&mut shared, &mut alone].map(|trainer| trainer.step(&batch).unwrap());
                assert_eq!(number(&ours.loss), number(&theirs.loss), "{what}, {ranks} ranks, step {step}");
                assert_eq!(ours.outputs.target.dims(), theirs.outputs.target.dims(), "{what}");
                assert_eq!((ours.ranks.len(), theirs.ranks.len()), (ranks, 0), "{what}");
                assert!(
                    ours.ranks.iter().all(|took| !took.is_zero() && *took <= ours.took),
                    "{what}: {:?}",
                    ours.ranks
                );
            }
            assert!(shared.state().unwrap().weights == alone.state().unwrap().weights, "{what}, {ranks} ranks");
        }
    }
}

/// Where no term looks at a whole batch, parts of it have the gradients of the whole.
#[test]
fn ranks_have_the_gradients_of_one_device_with_the_whole_batch() {
    let (_, models, _) = kinds().remove(0);
    let loss = Loss::Masked(MaskedWeights::default());
    for (padded, ranks, accumulate) in [(false, 4, 1), (true, 4, 1), (true, 2, 2)] {
        let batch = batch(2, padded);
        let mut parts = config(loss);
        parts.accumulate = accumulate;
        let whole = trainer(&models, config(loss));
        let shared = trainer(&models, parts).spread(vec![device(); ranks]);
        let [theirs, ours] = [&whole, &shared].map(|trainer| trainer.backward(&batch).unwrap());
        assert!((number(&ours.loss) - number(&theirs.loss)).abs() < 1e-6);
        let theirs = gradients(whole.model(), &theirs.gradients);
        let ours = gradients(shared.model(), &ours.gradients);
        assert!(theirs.len() > 10 && theirs.len() == ours.len(), "{} and {}", theirs.len(), ours.len());
        for (place, (ours, theirs)) in ours.iter().zip(&theirs).enumerate() {
            let largest = theirs.iter().fold(1e-6f32, |most, value| most.max(value.abs()));
            let apart = ours.iter().zip(theirs).fold(0f32, |most, (ours, theirs)| most.max((ours - theirs).abs()));
            assert!(apart <= REORDERED * largest, "{ranks} ranks: gradient {place} differs by {apart} of {largest}");
        }
    }
}

#[test]
fn a_lost_rank_is_named_and_nothing_is_changed() {
    for ranks in [0..1, 2..3, 1..4] {
        lose(ranks);
    }
}

/// These of four ranks ask for a patch that no image has.
fn lose(ranks: Range<usize>) {
    let (_, models, loss) = kinds().remove(0);
    let mut trainer = trainer(&models, config(loss)).spread(vec![device(); 4]);
    trainer.step(&batch(0, false)).unwrap();
    let before = trainer.state().unwrap();
    let mut wrong = batch(1, false);
    let masks = wrong.masks.as_mut().unwrap();
    let [_, width] = masks.context.dims();
    let (beyond, places) = ((BATCH * GRID * GRID) as u32, BATCH * width);
    let is_wrong = |place: usize| ranks.contains(&(place / width / (BATCH / 4)));
    let indices: Vec<u32> = (0..places).map(|place| if is_wrong(place) { beyond } else { place as u32 % 16 }).collect();
    masks.context = Choice::new(&indices, &vec![true; places], width, Lookup::Rows, &device());

    let error = trainer.step(&wrong).err().unwrap();

    let first = ranks.start;
    assert!(matches!(&error, StepError::RankLost { rank, .. } if *rank == first), "{error}");
    assert!(error.to_string().starts_with(&format!("rank {first} ended in the middle of a step: ")), "{error}");
    assert!(trainer.state().unwrap().weights == before.weights, "a lost rank changed the weights");
    trainer.step(&batch(1, false)).unwrap();
}
