//! OUTPUTS TO A LOSS: what is minimised; every summand has a name.

pub mod vicreg;
pub mod saccade;
pub mod masked;
pub mod spectrum;
