//! What is said in one line where a device fails, or where a state does not fit.

use saccade::model::{DeviceFailure, numbers};

use super::{batch, config, images, kinds, trainer};
use crate::device;

/// The texts are those of cubecl 0.11.3, inside what burn 0.22.1 makes of them, printed as text and as a value.
#[test]
fn memory_that_is_not_there_is_told_with_its_bytes_and_what_to_change() {
    for story in [
        "The bytes were never written (failure #3)\nCaused by: an IO error: out of device memory allocating 3221225472 bytes\n  0: std",
        "WithContext { reason: \"Caused by: out of device memory allocating 3221225472 bytes\\n  at 12\" }",
        "WithContext { reason: \"can't allocate buffer of size: 3221225472\\n\\nBacktrace: 0: 0x55\" }",
        "can't allocate buffer of size: 3221225472\n",
    ] {
        let failure = DeviceFailure::told(story);
        assert_eq!(failure, DeviceFailure::OutOfMemory(3_221_225_472), "{story}");
        let line = failure.to_string();
        assert!(line.contains("3221225472 bytes") && line.contains("train.recompute=true"), "{line}");
        assert!(!line.contains('\n'), "{line}");
    }
}

#[test]
fn any_other_failure_is_one_line_of_what_was_said() {
    let failure = DeviceFailure::told(&format!("the device\n  is gone{}", " 0x55".repeat(1000))).to_string();
    assert!(failure.starts_with("the device failed: the device is gone 0x55") && failure.len() < 400, "{failure}");
}

#[test]
fn numbers_come_back_in_their_order() {
    let images = images(1, 7, &device());
    let expected = images.clone().into_data().try_to_vec::<f32>().unwrap();
    assert_eq!(numbers(images.clone()).unwrap(), expected);
    assert_eq!(numbers(images.swap_dims(2, 3).swap_dims(2, 3)).unwrap(), expected);
}

#[test]
fn moments_of_another_length_are_refused_by_name() {
    for (what, models, loss) in kinds() {
        let mut first = trainer(&models, config(loss));
        first.step(&batch(0, false)).unwrap();
        let mut state = first.state().unwrap();
        let name = state.weights.keys().find(|name| name.starts_with("moment2.")).unwrap().clone();
        let moment = state.weights.get_mut(&name).unwrap();
        moment.values.push(0.0);
        moment.shape = vec![moment.values.len()];
        let error = first.restore(state, &device()).unwrap_err().to_string();
        assert!(error.starts_with(&format!("{name}: shape [")) && !error.contains('\n'), "{what}: {error}");
    }
}
