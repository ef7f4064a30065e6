//! Several operations as one on the record for the backward pass, on every device: what happens within leaves nothing
//! there but what its way back needs.

use std::fmt::Debug;
use std::marker::PhantomData;

use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::NoCheckpointing;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, NodeGuard, Ops, OpsKind};
use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, BackendTensor, DispatchAutodiffContext, DispatchTensor, DispatchTensorKind, Flex};
use burn::tensor::{GradientCheckpointingStrategy, Tensor};

/// The way back through what was recorded as one operation of `N` parents. What it holds is off the record.
pub trait WayBack<const N: usize>: Clone + Debug + Send + 'static {
    /// The gradients of the parents in their order, given that of the output; all off the record.
    fn gradients(self, of_output: DispatchTensor) -> [DispatchTensor; N];
}

/// Records an operation.
///
/// # Shapes
/// - `parents`: tensors on the record, of any ranks
/// - `output`: what the operation gave, off the record
pub fn recorded<W: WayBack<N>, const N: usize, const D: usize>(
    way: W,
    parents: [DispatchTensor; N],
    output: Tensor<D>,
) -> Tensor<D> {
    let output = output.into_dispatch();
    Tensor::from_dispatch(match output.kind {
        #[cfg(feature = "cuda")]
        DispatchTensorKind::Cube(_) => recorded_by::<burn::backend::Cube, W, N>(way, parents, output),
        _ => recorded_by::<Flex, W, N>(way, parents, output),
    })
}

/// A backend whose tensors can be taken out of those of all backends, and put back among them.
trait Known: Backend {
    fn wrapped(tensor: BackendTensor<Self>) -> DispatchTensorKind;
    fn unwrapped(kind: DispatchTensorKind) -> BackendTensor<Self>;
}

impl Known for Flex {
    fn wrapped(tensor: BackendTensor<Self>) -> DispatchTensorKind {
        DispatchTensorKind::Flex(tensor)
    }

    fn unwrapped(kind: DispatchTensorKind) -> BackendTensor<Self> {
        match kind {
            DispatchTensorKind::Flex(tensor) => tensor,
            _ => unreachable!("tensors of one operation are on one device"),
        }
    }
}

#[cfg(feature = "cuda")]
impl Known for burn::backend::Cube {
    fn wrapped(tensor: BackendTensor<Self>) -> DispatchTensorKind {
        DispatchTensorKind::Cube(tensor)
    }

    fn unwrapped(kind: DispatchTensorKind) -> BackendTensor<Self> {
        match kind {
            DispatchTensorKind::Cube(tensor) => tensor,
            _ => unreachable!("tensors of one operation are on one device"),
        }
    }
}

#[derive(Debug)]
struct Node<W>(PhantomData<fn() -> W>);

impl<B: Known, W: WayBack<N>, const N: usize> Backward<B, N> for Node<W> {
    type State = W;

    fn backward(self, ops: Ops<W, N>, gradients: &mut Gradients, _: &mut Checkpointer) {
        let found = ops.state.gradients(off_record::<B>(gradients.consume::<B>(&ops.node)));
        for (parent, found) in ops.parents.into_iter().zip(found) {
            if let Some(parent) = parent {
                gradients.register::<B>(parent.id, plain::<B>(found));
            }
        }
    }
}

fn recorded_by<B: Known, W: WayBack<N>, const N: usize>(
    way: W,
    parents: [DispatchTensor; N],
    output: DispatchTensor,
) -> DispatchTensor {
    let nodes = parents.map(node::<B>);
    let output = plain::<B>(output);
    let prepared = Backward::<B, N>::prepare::<NoCheckpointing>(Node::<W>(PhantomData), nodes);
    let output = match prepared.compute_bound().stateful() {
        OpsKind::Tracked(prepared) => prepared.finish(way, output),
        OpsKind::UnTracked(prepared) => prepared.finish(output),
    };
    DispatchTensor {
        kind: DispatchTensorKind::Autodiff(Box::new(B::wrapped(BackendTensor::Autodiff(output)))),
        autodiff: DispatchAutodiffContext::Enabled(GradientCheckpointingStrategy::Disabled),
    }
}

fn node<B: Known>(tensor: DispatchTensor) -> NodeGuard {
    match tensor.kind {
        DispatchTensorKind::Autodiff(inner) => B::unwrapped(*inner).autodiff().into_parts().1,
        _ => unreachable!("a parent is on the record"),
    }
}

fn off_record<B: Known>(tensor: FloatTensor<B>) -> DispatchTensor {
    DispatchTensor { kind: B::wrapped(BackendTensor::Float(tensor)), autodiff: DispatchAutodiffContext::Disabled }
}

fn plain<B: Known>(tensor: DispatchTensor) -> FloatTensor<B> {
    B::unwrapped(tensor.kind).float()
}
