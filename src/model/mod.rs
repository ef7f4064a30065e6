//! TENSORS TO TENSORS: encoders and predictors; knows nothing of files, channels or time.
//!
//! Images come in as `[batch, 3, height, width]`, normalised; encoders give one vector per patch. The [`Choice`] says
//! which patches of each sample take part, and which of its places are only padding.

pub mod init;
pub mod patch;
pub mod numbers;
pub mod recorded;
pub mod fused;
pub mod precision;
pub mod again;
pub mod attention;
pub mod vit;
pub mod convnext;
pub mod predictor;
pub mod energy;
pub mod shift;
pub mod kinds;
pub mod kept;
pub mod weights;
pub mod torchvision;

pub use convnext::{ConvNext, ConvNextConfig, ConvNextSize};
pub use energy::{EnergyConfig, EnergyPredictor, EnergyPredictorConfig, EnergyTransformer, Memory};
pub use init::{FirstWeights, WeightInit};
pub use kinds::{Encoder, EncoderConfig, PatchPredictor, PatchPredictorConfig, Seen};
pub use numbers::{DeviceFailure, numbers};
pub use patch::{Choice, Lookup};
pub use precision::Precision;
pub use predictor::{Predictor, PredictorConfig};
pub use shift::{Projector, ProjectorConfig, ShiftPredictorConfig, ShiftReaderConfig};
pub use vit::{Vit, VitConfig, VitSize};
