#![no_main]

use libfuzzer_sys::fuzz_target;
use saccade_fuzz::checks;

fuzz_target!(|data: &[u8]| checks::decode(data));
