//! Forward and backward passes over a share of a batch, by a copy of the models on one device; and over a whole batch, by
//! one copy or by several at once, whose gradients are added up.

use std::any::Any;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::thread::{self, ScopedJoinHandle};
use std::time::{Duration, Instant};

use burn::module::Module;
use burn::tensor::{Device, Tensor};

use super::masked;
use super::model::{Head, Loss, Model};
use super::optimizer::Gradients;
use super::part::{Outputs, Part};
use super::saccade::{self, Target, Views};
use super::step::StepConfig;
use super::upload::DeviceBatch;
use crate::model::{Encoder, Projector, numbers};

/// Why a step was not made.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum StepError {
    #[error("the batch is empty, or has not what the objective needs")]
    Unfit,
    #[error("rank {rank} ended in the middle of a step: {why}")]
    RankLost { rank: usize, why: String },
}

/// What the backward passes of a batch give.
pub struct Backward {
    pub loss: Tensor<1>,
    pub terms: Vec<(&'static str, Tensor<1>)>,
    pub gradients: Gradients,
    pub outputs: Outputs,
    /// How long each rank worked, where there are several.
    pub ranks: Vec<Duration>,
}

/// The models as one rank has them.
pub struct Replica {
    model: Model,
    target: Encoder,
    target_projector: Option<Projector>,
    config: StepConfig,
    /// None where the batch is.
    device: Option<Device>,
}

/// Adds up what all ranks make of a batch: each has some of its samples, those of one rank after those of another, and a
/// replica. What is added to what does not depend on which rank is done first.
///
/// # Errors
/// When the batch has not what the objective needs, or a rank of several is lost; the others end their share first.
pub fn backward(first: &Replica, ranks: &[Device], batch: &DeviceBatch) -> Result<Backward, StepError> {
    let samples = batch.samples.len();
    let accumulate = first.config.accumulate;
    let each = samples.div_ceil(accumulate.saturating_mul(ranks.len().max(1))).max(1);
    let parts: Vec<Range<usize>> = (0..samples).step_by(each).map(|first| first..samples.min(first + each)).collect();
    if ranks.len() < 2 {
        return first.share(batch, &parts).ok_or(StepError::Unfit);
    }
    let mut shares = parts.chunks(accumulate);
    let own = shares.next().ok_or(StepError::Unfit)?;
    let home = batch.images.device();
    let found: Vec<Result<Backward, StepError>> = thread::scope(|scope| {
        let begin = |(rank, (share, device)): (usize, (&[Range<usize>], &Device))| {
            let (replica, batch, share, home) = (first.on(device), batch.clone(), share.to_vec(), home.clone());
            let thread = thread::Builder::new().name(format!("saccade-rank-{rank}"));
            thread.spawn_scoped(scope, move || replica.share_for(&home, &batch, &share, rank))
        };
        let others: Vec<_> = (1..).zip(shares.zip(ranks.iter().skip(1))).map(begin).collect();
        let own = catch_unwind(AssertUnwindSafe(|| first.share_for(&home, batch, own, 0)));
        let own = own.unwrap_or_else(|panic| Err(lost(0, &*panic)));
        // All are waited for before any is judged.
        let joined = (1..).zip(others).map(|(rank, other)| match other.map(ScopedJoinHandle::join) {
            Ok(Ok(found)) => found,
            Ok(Err(panic)) => Err(lost(rank, &*panic)),
            Err(why) => Err(StepError::RankLost { rank, why: why.to_string() }),
        });
        std::iter::once(own).chain(joined).collect()
    });
    let mut found = found.into_iter();
    let mut total = found.next().ok_or(StepError::Unfit)??;
    for other in found {
        total.add(other?);
    }
    Ok(total)
}

/// A rank that panicked, with what the panic says.
fn lost(rank: usize, panic: &(dyn Any + Send)) -> StepError {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    let text = text.or_else(|| panic.downcast_ref::<String>().cloned());
    StepError::RankLost { rank, why: text.unwrap_or_else(|| "it panicked".into()) }
}

impl Replica {
    pub fn new(model: &Model, target: &Encoder, target_projector: Option<&Projector>, config: &StepConfig) -> Self {
        let target = target.in_precision(config.precision);
        Self {
            model: model.clone(),
            target,
            target_projector: target_projector.cloned(),
            config: config.clone(),
            device: None,
        }
    }

    /// The same on another device, with a record of its own.
    fn on(&self, device: &Device) -> Self {
        Self {
            model: self.model.clone().fork(device),
            target: self.target.clone().to_device(device),
            target_projector: self.target_projector.clone().map(|projector| projector.to_device(device)),
            config: self.config.clone(),
            device: Some(device.clone()),
        }
    }

    /// What [`Self::share`] gives, where the batch is. Waits until this device has it: one that failed must not be waited
    /// for by another that it sends to.
    fn share_for(
        &self,
        home: &Device,
        batch: &DeviceBatch,
        parts: &[Range<usize>],
        rank: usize,
    ) -> Result<Backward, StepError> {
        let start = Instant::now();
        let mut share = self.share(batch, parts).ok_or(StepError::Unfit)?;
        numbers(share.loss.clone()).map_err(|why| StepError::RankLost { rank, why: why.to_string() })?;
        share.ranks.push(start.elapsed());
        Ok(share.on(home))
    }

    /// Loss and gradients of some parts of a batch, one after the other.
    fn share(&self, batch: &DeviceBatch, parts: &[Range<usize>]) -> Option<Backward> {
        let mut total: Option<Backward> = None;
        for samples in parts {
            let Part { loss, terms, outputs } = self.part(batch, samples.clone())?;
            let gradients = Gradients::of(&loss, &self.model);
            let part = Backward { loss: loss.inner(), terms, gradients, outputs, ranks: Vec::new() };
            match &mut total {
                None => total = Some(part),
                Some(total) => total.add(part),
            }
        }
        total
    }

    /// What the objective makes of some of a batch's samples.
    fn part(&self, batch: &DeviceBatch, samples: Range<usize>) -> Option<Part> {
        let model = self.model.in_precision(self.config.precision);
        let here = self.device.clone().unwrap_or_else(|| batch.images.device());
        let images = batch.images.of(samples.clone(), &here)?;
        let first = images.first();
        let share = samples.len() as f64 / batch.samples.len() as f64;
        let target = Target { encoder: &self.target, projector: self.target_projector.as_ref() };
        let views = |first| {
            let saccades = batch.saccades.as_ref()?.get(samples.clone())?;
            Some(Views { first, second: images.second()?, saccades, share })
        };
        match (&model.predictor, &self.config.loss) {
            (Head::Patches(predictor), Loss::Masked(weights)) => {
                let masks = batch.masks.as_ref()?;
                Some(masked::part(&model.encoder, predictor, target.encoder, first, masks, &samples, weights))
            }
            (Head::Told(predictor), Loss::Told(weights)) => {
                saccade::told(&model, predictor, target, views(first)?, weights)
            }
            (Head::Read(reader), Loss::Read { weights, unit }) => {
                saccade::read(&model, reader, target, views(first)?, weights, *unit)
            }
            _ => None,
        }
    }
}

impl Backward {
    fn add(&mut self, other: Self) {
        self.gradients.add(other.gradients);
        self.outputs.add(other.outputs);
        self.ranks.extend(other.ranks);
        self.loss.inplace(|loss| loss + other.loss);
        for ((_, sum), (_, term)) in self.terms.iter_mut().zip(other.terms) {
            sum.inplace(|sum| sum + term);
        }
    }

    fn on(self, device: &Device) -> Self {
        let Self { loss, terms, gradients, outputs, ranks } = self;
        Self {
            loss: loss.to_device(device),
            terms: terms.into_iter().map(|(name, term)| (name, term.to_device(device))).collect(),
            gradients: gradients.on(device),
            outputs: outputs.on(device),
            ranks,
        }
    }
}
