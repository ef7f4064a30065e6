//! BATCHES TO WEIGHTS: the step, its optimizer and schedules; knows nothing of evaluation, checkpoints or files.

pub mod device;
pub mod schedule;
pub mod optimizer;
pub mod ema;
pub mod upload;
pub mod model;
pub mod collapse;
pub mod part;
pub mod probe;
pub mod masked;
pub mod saccade;
pub mod replica;
pub mod step;
pub mod memory;

pub use collapse::Watch;
pub use device::DeviceChoice;
pub use model::{HeadConfig, Model, ModelConfig};
pub use optimizer::AdamW;
pub use part::Outputs;
pub use schedule::Schedules;
pub use step::{StepReport, Trainer};
pub use upload::{DeviceBatch, Normalisation, Uploader};
