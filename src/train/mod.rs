//! BATCHES TO WEIGHTS: the step, its optimizer and schedules; knows nothing of evaluation, checkpoints or files.

pub mod device;
pub mod schedule;
pub mod optimizer;
pub mod ema;
pub mod upload;
pub mod step;
pub mod collapse;

pub use device::DeviceChoice;
pub use optimizer::AdamW;
pub use schedule::Schedules;
pub use step::{Model, StepReport, Trainer};
pub use upload::{DeviceBatch, Normalisation, Uploader};
