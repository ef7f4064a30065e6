//! Blocks whose way forward is gone again for the way back: what a block computes is not kept, only what came into it.

use std::fmt::Debug;

use burn::backend::DispatchTensor;
use burn::module::{Module, ModuleMapper, ModuleVisitor, Param};
use burn::tensor::Tensor;

use super::recorded::{WayBack, recorded};

/// A part of a model that can be gone through once more, of `N - 1` parameters.
pub trait Piece<const D: usize, const N: usize>: Module + Debug + 'static {
    /// What it is told beside its tokens.
    type Beside: Clone + Debug + Send + 'static;

    /// The same off the record, which the way back must not refer to.
    fn off_record(beside: Self::Beside) -> Self::Beside;

    /// # Shapes
    /// - `tokens`, output: the same
    fn through(&self, tokens: Tensor<D>, beside: &Self::Beside) -> Tensor<D>;
}

/// Goes through a piece; `again` keeps no more of it than what comes in, and goes through it a second time on the way
/// back. The gradients are the same to the bit where the way forward is.
pub fn pass<P: Piece<D, N>, const D: usize, const N: usize>(
    piece: &P,
    tokens: Tensor<D>,
    beside: &P::Beside,
    again: bool,
) -> Tensor<D> {
    if !(again && tokens.is_autodiff()) {
        return piece.through(tokens, beside);
    }
    let mut parents = Parameters(vec![tokens.clone().into_dispatch()]);
    piece.visit(&mut parents);
    let beside = P::off_record(beside.clone());
    let way = Again { piece: piece.clone().map(&mut OffRecord), tokens: tokens.inner(), beside };
    // On a record of its own that is thrown away: what is computed otherwise without one must be the same the second time.
    let output = way.piece.clone().map(&mut Constants).through(way.tokens.clone().autodiff(), &way.beside).inner();
    match parents.0.try_into() {
        Ok(parents) => recorded::<_, N, D>(way, parents, output),
        Err(found) => unreachable!("{} parameters and tokens, not {N}", Vec::len(&found)),
    }
}

#[derive(Clone, Debug)]
struct Again<P: Piece<D, N>, const D: usize, const N: usize> {
    piece: P,
    tokens: Tensor<D>,
    beside: P::Beside,
}

impl<P: Piece<D, N>, const D: usize, const N: usize> WayBack<N> for Again<P, D, N> {
    fn gradients(self, of_output: DispatchTensor) -> [DispatchTensor; N] {
        let Self { piece, tokens, beside } = self;
        let (piece, tokens) = (piece.map(&mut Leaves), tokens.autodiff().require_grad());
        let output = piece.through(tokens.clone(), &beside);
        let along = output * Tensor::from_dispatch(of_output).autodiff();
        let mut found = along.sum().backward();
        let of_tokens = tokens.grad_remove(&mut found).unwrap_or_else(|| tokens.clone().inner().zeros_like());
        let mut slopes = Slopes { all: found, slopes: vec![of_tokens.into_dispatch()] };
        piece.visit(&mut slopes);
        match slopes.slopes.try_into() {
            Ok(slopes) => slopes,
            Err(found) => unreachable!("{} gradients, not {N}", Vec::len(&found)),
        }
    }
}

struct Parameters(Vec<DispatchTensor>);

impl ModuleVisitor for Parameters {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        self.0.push(param.val().into_dispatch());
    }
}

struct OffRecord;

impl ModuleMapper for OffRecord {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        Param::initialized(param.id, param.val().inner())
    }
}

struct Constants;

impl ModuleMapper for Constants {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        Param::initialized(param.id, param.val().autodiff())
    }
}

struct Leaves;

impl ModuleMapper for Leaves {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        Param::initialized(param.id, param.val().autodiff().require_grad())
    }
}

struct Slopes {
    all: burn::tensor::Gradients,
    slopes: Vec<DispatchTensor>,
}

impl ModuleVisitor for Slopes {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let parameter = param.val();
        let slope = parameter.grad_remove(&mut self.all);
        self.slopes.push(slope.unwrap_or_else(|| parameter.inner().zeros_like()).into_dispatch());
    }
}
