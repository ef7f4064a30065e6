#![no_main]

use libfuzzer_sys::{fuzz_mutator, fuzz_target};
use saccade_fuzz::{checks, mend};

fuzz_target!(|data: &[u8]| checks::index(data));

fuzz_mutator!(|data: &mut [u8], size: usize, max_size: usize, seed: u32| { mend::index(data, size, max_size, seed) });
