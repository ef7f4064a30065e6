//! Batches on their way to the device: as bytes, normalised view by view, in memory that is used again; the account of it.

use std::ops::Range;

use burn::tensor::{Device, Tensor};
use saccade::pipeline::saccade::{Filter, Moved, SaccadeConfig};
use saccade::pipeline::{MaskMode, StreamSpec};
use saccade::telemetry::Stage;
use saccade::train::upload::Images;
use saccade::train::{DeviceChoice, Normalisation, Uploader};

use super::{Bench, Counts, config, picture, spec};
use crate::exposition::{parse, value};

const SIDE: usize = 16;
const STEPS: Range<u64> = 0..12;
const PIXELS: Normalisation = Normalisation { mean: [0.485, 0.456, 0.406], deviation: [0.229, 0.224, 0.225] };

/// `[samples, 3, side, side]` of a view, by the definition.
fn expected(bytes: &[u8], views: usize, view: usize, samples: Range<usize>) -> Vec<f32> {
    let each = SIDE * SIDE * 3;
    let number = |sample: usize, channel: usize, place: usize| {
        let byte = bytes[(sample * views + view) * each + place * 3 + channel];
        ((f64::from(byte) / 255.0 - PIXELS.mean[channel]) / PIXELS.deviation[channel]) as f32
    };
    let places = |sample, channel| (0..SIDE * SIDE).map(move |place| number(sample, channel, place));
    samples.flat_map(|sample| (0..3).flat_map(move |channel| places(sample, channel))).collect()
}

fn check(what: &str, found: Option<Tensor<4>>, expected: &[f32]) {
    let found = found.unwrap_or_else(|| panic!("{what}: not there"));
    assert_eq!(found.dims()[1..], [3, SIDE, SIDE], "{what}");
    let found = found.into_data().try_to_vec::<f32>().unwrap();
    assert_eq!(found.len(), expected.len(), "{what}");
    for (place, (found, expected)) in found.iter().zip(expected).enumerate() {
        assert!((found - expected).abs() < 1e-5, "{what}: {found} at {place}, should be {expected}");
    }
}

fn uploads(spec: &StreamSpec, views: usize) {
    let bench = Bench::new(&[30, 30], picture);
    let mut plain = bench.start(spec, config(2), STEPS, Counts::default());
    let (pixels, place) = (PIXELS, DeviceChoice::Cpu { ranks: 1 }.open().unwrap());
    let pipeline = bench.start(spec, config(2), STEPS, Counts::default());
    let mut uploader = Uploader::start(pipeline, SIDE, pixels, &place, &bench.telemetry).unwrap();
    let device = Device::flex();
    let mut bytes = 0;
    while let Some((batch, _)) = uploader.next_batch() {
        let (ours, theirs) = (batch.unwrap(), plain.next().unwrap().unwrap());
        assert_eq!((ours.step, &ours.samples, &ours.saccades), (theirs.step, &theirs.samples, &theirs.saccades));
        bytes += theirs.pixels.len() as u64;
        let count = ours.samples.len();
        for (view, samples) in [(0, 0..count), (0, 2..5), (views - 1, 1..2)] {
            let what = format!("step {}, view {view}, samples {samples:?}", ours.step);
            let expected = expected(&theirs.pixels, views, view, samples.clone());
            check(&what, ours.images.view(view, samples, &device), &expected);
        }
        for (view, samples) in [(views, 0..1), (0, 0..count + 1), (0, count..count)] {
            assert!(ours.images.view(view, samples.clone(), &device).is_none(), "view {view}, samples {samples:?}");
        }
    }
    assert!(plain.next().is_none(), "{bytes} bytes were uploaded");

    let upload = bench.totals(Stage::Upload);
    assert_eq!((upload.bytes, upload.samples), (bytes, STEPS.end * 6));
    let exposed = value(&parse(&bench.telemetry.render()), "saccade_upload_exposed_seconds_total", &[]);
    assert!(exposed <= upload.busy.as_secs_f64(), "{exposed} of {:?}", upload.busy);
}

#[test]
fn one_view_comes_as_it_was_made() {
    uploads(&spec(6, MaskMode::PerSample), 1);
}

#[test]
fn two_views_come_as_they_were_made() {
    let saccade = SaccadeConfig {
        field: 24,
        size: SIDE as u32,
        most_shift: 0.5,
        most_degrees: 10.0,
        filter: Filter::Bilinear,
        moved: Moved::Second,
    };
    uploads(&StreamSpec { saccade: Some(saccade), mask: None, ..spec(6, MaskMode::PerSample) }, 2);
}

#[test]
fn values_from_elsewhere_are_given_view_by_view() {
    let device = Device::flex();
    let values: Vec<f32> = (0..4 * 2 * 3 * 2 * 2).map(|number| number as f32).collect();
    let values = Tensor::<1>::from_floats(values.as_slice(), &device).reshape([4, 2, 3, 2, 2]);
    let images = Images::Values(values);
    let some = images.view(1, 2..4, &device).unwrap().into_data().try_to_vec::<f32>().unwrap();
    let expected: Vec<f32> = (60..72).chain(84..96).map(|number| number as f32).collect();
    assert_eq!(some, expected);
    assert!(images.view(2, 0..1, &device).is_none() && images.view(0, 3..5, &device).is_none());
}
