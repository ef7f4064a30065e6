//! Batches on their way to the device: as bytes, normalised view by view; the account of it.

use std::ops::Range;

use burn::tensor::Tensor;
use saccade::pipeline::saccade::{Filter, Moved, SaccadeConfig};
use saccade::pipeline::{MaskMode, StreamSpec, bytes_in_flight};
use saccade::telemetry::Stage;
use saccade::train::upload::{Images, in_flight};
use saccade::train::{Normalisation, Uploader};

use super::{Bench, Counts, config, picture, spec};
use crate::exposition::{parse, value};
use crate::{device, placement};

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

fn check(what: &str, found: Tensor<4>, expected: &[f32]) {
    assert_eq!(found.dims()[1..], [3, SIDE, SIDE], "{what}");
    let found = found.into_data().try_to_vec::<f32>().unwrap();
    assert_eq!(found.len(), expected.len(), "{what}");
    for (place, (found, expected)) in found.iter().zip(expected).enumerate() {
        assert!((found - expected).abs() < 1e-5, "{what}: {found} at {place}, should be {expected}");
    }
}

fn saccade() -> SaccadeConfig {
    SaccadeConfig {
        field: 24,
        size: SIDE as u32,
        most_shift: 0.5,
        most_degrees: 10.0,
        filter: Filter::Bilinear,
        moved: Moved::Second,
    }
}

fn uploader(bench: &Bench, spec: &StreamSpec) -> Uploader {
    let pipeline = bench.start(spec, config(2), STEPS, Counts::default());
    Uploader::start(pipeline, SIDE, PIXELS, &placement(), &bench.telemetry).unwrap()
}

fn uploads(spec: &StreamSpec, views: usize) {
    let bench = Bench::new(&[30, 30], picture);
    let mut plain = bench.start(spec, config(2), STEPS, Counts::default());
    let (mut uploader, device) = (uploader(&bench, spec), device());
    let mut bytes = 0;
    while let Some((batch, _)) = uploader.next_batch() {
        let (ours, theirs) = (batch.unwrap(), plain.next().unwrap().unwrap());
        assert_eq!((ours.step, &ours.samples, &ours.saccades), (theirs.step, &theirs.samples, &theirs.saccades));
        bytes += theirs.pixels.len() as u64;
        let count = ours.samples.len();
        for samples in [0..count, 2..5, count - 1..count] {
            let images = ours.images.of(samples.clone(), &device).unwrap();
            let what = format!("step {}, samples {samples:?}", ours.step);
            check(&what, images.first(), &expected(&theirs.pixels, views, 0, samples.clone()));
            match images.second() {
                Some(second) => check(&what, second, &expected(&theirs.pixels, views, 1, samples)),
                None => assert_eq!(views, 1, "{what}"),
            }
        }
        for samples in [0..count + 1, count..count, count + 1..count + 2] {
            assert!(ours.images.of(samples.clone(), &device).is_none(), "{samples:?} of {count}");
        }
    }
    assert!(plain.next().is_none(), "{bytes} bytes were uploaded");
    let upload = bench.totals(Stage::Upload);
    assert_eq!((upload.bytes, upload.samples), (bytes, STEPS.end * 6));
}

#[test]
fn one_view_comes_as_it_was_made() {
    uploads(&spec(6, MaskMode::PerSample), 1);
}

#[test]
fn two_views_come_as_they_were_made() {
    uploads(&StreamSpec { saccade: Some(saccade()), mask: None, ..spec(6, MaskMode::PerSample) }, 2);
}

/// Whoever takes batches and does nothing else waits for uploads.
#[test]
fn uploads_that_are_waited_for_are_counted() {
    let bench = Bench::new(&[30, 30], picture);
    let mut uploader = uploader(&bench, &spec(6, MaskMode::PerSample));
    while let Some((batch, _)) = uploader.next_batch() {
        batch.unwrap();
    }
    let exposed = value(&parse(&bench.telemetry.render()), "saccade_upload_exposed_seconds_total", &[]);
    let busy = bench.totals(Stage::Upload).busy.as_secs_f64();
    assert!(0.0 < exposed && exposed <= busy, "{exposed} of {busy} s");
}

#[test]
fn what_is_uploaded_is_counted_among_the_bytes_in_flight() {
    let two = StreamSpec { saccade: Some(saccade()), mask: None, ..spec(6, MaskMode::PerSample) };
    for (spec, views) in [(spec(6, MaskMode::PerSample), 1), (two, 2)] {
        let uploaded = in_flight(&spec, &config(2), 1000) - bytes_in_flight(&spec, &config(2), 1000);
        assert_eq!(uploaded, 4 * 6 * views * 3 * 16 * 16, "{views} views");
    }
}

#[test]
fn values_from_elsewhere_are_given_view_by_view() {
    let device = device();
    let values: Vec<f32> = (0..4 * 2 * 3 * 2 * 2).map(|number| number as f32).collect();
    let values = Tensor::<1>::from_floats(values.as_slice(), &device).reshape([4, 2, 3, 2, 2]);
    let images = Images::Values(values);
    let some = images.of(2..4, &device).unwrap();
    let numbers = |tensor: Tensor<4>| tensor.into_data().try_to_vec::<f32>().unwrap();
    let expected = |first: u16| [first..first + 12, first + 24..first + 36].into_iter().flatten().map(f32::from);
    assert_eq!(numbers(some.first()), expected(48).collect::<Vec<_>>());
    assert_eq!(numbers(some.second().unwrap()), expected(60).collect::<Vec<_>>());
    assert!(images.of(3..5, &device).is_none() && images.of(4..4, &device).is_none());
}
