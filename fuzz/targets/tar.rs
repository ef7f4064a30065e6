#![no_main]

use libfuzzer_sys::{fuzz_mutator, fuzz_target};
use saccade_fuzz::{checks, mend};

fuzz_target!(|data: &[u8]| checks::tar(data));

fuzz_mutator!(|data: &mut [u8], size: usize, max_size: usize, seed: u32| { mend::tar(data, size, max_size, seed) });
