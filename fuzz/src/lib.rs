//! The modules that read what others wrote, and what must hold of them whatever the bytes are.
//!
//! The modules are the program's own files, included here at the root so that their `crate::` paths hold; none of them
//! needs burn, which is why this builds fast.

#[path = "../../src/telemetry/mod.rs"]
pub mod telemetry;
#[path = "../../src/draws.rs"]
pub mod draws;
#[path = "../../src/shard/mod.rs"]
pub mod shard;
#[path = "../../src/pipeline/mod.rs"]
pub mod pipeline;

pub mod checks;
pub mod mend;
mod memory;

// Every crate here is instrumented, so whoever links this library needs what receives the coverage.
use libfuzzer_sys as _;
