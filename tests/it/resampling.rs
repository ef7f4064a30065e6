//! Views against the filter computed in doubles, and against another implementation of it.

use std::ops::RangeInclusive;

use fast_image_resize::images::{TypedCroppedImage, TypedImage, TypedImageRef};
use fast_image_resize::pixels::U8x3;
use fast_image_resize::{FilterType, ResizeAlg, ResizeOptions, Resizer};
use proptest::prelude::*;
use saccade::draws::{Draws, Purpose};
use saccade::pipeline::Reason;
use saccade::pipeline::augment::Crop;
use saccade::pipeline::decode::Region;
use saccade::pipeline::resample::{Form, Resampler};

/// A picture at 1/`scale`, of which a crop becomes a view.
#[derive(Clone, Debug)]
struct Case {
    /// Without its pixels.
    region: Region<'static>,
    size: u32,
    mirrored: bool,
    pixels: Vec<u8>,
}

fn with<'p>(region: Region<'static>, pixels: &'p [u8]) -> Region<'p> {
    Region { pixels, ..region }
}

impl Case {
    fn new(width: u32, height: u32, crop: Crop, scale: u32, size: u32) -> Self {
        let [whole_width, whole_height] = [width, height].map(|side| side.div_ceil(scale));
        let region = Region::of(&[], Crop::whole(whole_width, whole_height), crop, scale);
        let mut draws = Draws::new(u64::from(size), 0, 0, Purpose::Crop);
        let bytes = u64::from(whole_width) * u64::from(whole_height) * 3;
        let pixels = (0..bytes).map(|_| draws.below(256) as u8).collect();
        Self { region, size, mirrored: false, pixels }
    }

    fn view(&self) -> Vec<u8> {
        let Self { region, size, mirrored, pixels } = self;
        let region = with(*region, pixels);
        by_every_form(&region, [*size; 2], *mirrored)
    }

    /// The whole pixels that hold the crop: the first column and row, columns and rows.
    fn cut(&self) -> [usize; 4] {
        let Region { left, top, crop_width, crop_height, .. } = self.region;
        let past = |start: f64, length: f64| (start + length).ceil() as usize - start as usize;
        [left as usize, top as usize, past(left, crop_width), past(top, crop_height)]
    }

    fn exact(&self) -> Vec<f64> {
        let Region { left, top, crop_width, crop_height, width, .. } = self.region;
        let [first_column, first_row, columns, rows] = self.cut();
        let mut across = weights(columns, left.fract(), crop_width, self.size);
        if self.mirrored {
            across.reverse();
        }
        let down = weights(rows, top.fract(), crop_height, self.size);
        let row = |row: usize| {
            let pixels = &self.pixels[((first_row + row) * width as usize + first_column) * 3..][..columns * 3];
            let blended = across.iter().map(|taps| {
                [0, 1, 2].map(|channel| {
                    taps.iter().map(|(tap, weight)| weight * f64::from(pixels[tap * 3 + channel])).sum::<f64>()
                })
            });
            blended.flatten().collect::<Vec<_>>()
        };
        let rows: Vec<_> = (0..rows).map(row).collect();
        let blended = down.iter().map(|taps| {
            let place = |place: usize| taps.iter().map(|(tap, weight)| weight * rows[*tap][place]).sum::<f64>();
            (0..self.size as usize * 3).map(place).collect::<Vec<_>>()
        });
        blended.flatten().collect()
    }

    fn by_fast_image_resize(&self) -> Vec<u8> {
        let Region { left, top, crop_width, crop_height, width, height, .. } = self.region;
        let image = TypedImageRef::<U8x3>::from_buffer(width, height, &self.pixels).unwrap();
        let [column, row, columns, rows] = self.cut().map(|number| number as u32);
        let crop = TypedCroppedImage::from_ref(&image, column, row, columns, rows).unwrap();
        let mut view = vec![0; (self.size * self.size * 3) as usize];
        let mut target = TypedImage::<U8x3>::from_buffer(self.size, self.size, &mut view).unwrap();
        let options = ResizeOptions::new().resize_alg(ResizeAlg::Convolution(FilterType::Bilinear));
        let options = options.crop(left.fract(), top.fract(), crop_width, crop_height);
        Resizer::new().resize_typed(&crop, &mut target, &options).unwrap();
        view
    }

    fn check(&self) {
        let (view, exact) = (self.view(), self.exact());
        // Half a level for the rounding at the end, and for each side up to a sixteenth for the products' and weights'.
        let most = 0.5 + 2.0 / 16.0;
        for (place, (value, exact)) in view.iter().zip(exact).enumerate() {
            let error = (f64::from(*value) - exact).abs();
            assert!(error <= most, "value {place} of {:?} at {}: {value}, not {exact}", self.region, self.size);
        }
    }
}

/// The view, which is the same whatever instructions this processor has.
fn by_every_form(region: &Region<'_>, size: [u32; 2], mirrored: bool) -> Vec<u8> {
    let [plain, avx2, avx512] = [Form::Plain, Form::Avx2, Form::Avx512].map(|form| {
        let mut view = vec![0; (size[0] * size[1] * 3) as usize];
        Resampler::default().resample_by(form, region, size, mirrored, &mut view).expect("sizes that fit");
        view
    });
    // Whatever the place in memory, and past the cache.
    let mut long = vec![0; plain.len() + 21];
    let view = &mut long[21..];
    Resampler::past_the_cache().resample_by(Form::Avx2, region, size, mirrored, view).expect("sizes that fit");
    assert!(view == plain, "AVX2 past the cache changes the view of {region:?} at {size:?}");
    assert!(avx2 == plain, "AVX2 changes the view of {region:?} at {size:?}");
    assert!(avx512 == plain, "AVX-512 changes the view of {region:?} at {size:?}");
    plain
}

/// For each pixel of the view, the crop's pixels in reach of a triangle, and their weights.
fn weights(length: usize, start: f64, covered: f64, size: u32) -> Vec<Vec<(usize, f64)>> {
    let step = covered / f64::from(size);
    let of_pixel = |number: u32| {
        let middle = start + (f64::from(number) + 0.5) * step;
        let height = |tap: usize| 1.0 - (tap as f64 + 0.5 - middle).abs() / step.max(1.0);
        let taps: Vec<_> = (0..length).map(|tap| (tap, height(tap))).filter(|(_, height)| *height > 0.0).collect();
        let sum: f64 = taps.iter().map(|(_, height)| height).sum();
        taps.into_iter().map(|(tap, height)| (tap, height / sum)).collect()
    };
    (0..size).map(of_pixel).collect()
}

fn case(sides: RangeInclusive<u32>, sizes: RangeInclusive<u32>) -> impl Strategy<Value = Case> {
    let picture = (sides.clone(), sides, prop::sample::select(vec![1, 2, 4, 8]));
    let crop = picture.prop_flat_map(|(width, height, scale)| {
        let (left, top) = (0..width, 0..height);
        (left, top).prop_flat_map(move |(left, top)| {
            (1..=width - left, 1..=height - top).prop_map(move |(crop_width, crop_height)| {
                (width, height, Crop { left, top, width: crop_width, height: crop_height }, scale)
            })
        })
    });
    (crop, sizes, any::<bool>(), any::<bool>()).prop_map(|((width, height, crop, scale), size, mirrored, harsh)| {
        let mut case = Case { mirrored, ..Case::new(width, height, crop, scale, size) };
        if harsh {
            case.pixels.iter_mut().for_each(|value| *value = if *value < 128 { 0 } else { 255 });
        }
        case
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn view_is_what_the_filter_gives_in_doubles(case in case(1..=600, 1..=300)) {
        case.check();
    }

    #[test]
    fn small_crop_is_what_the_filter_gives_in_doubles(case in case(1..=20, 1..=60)) {
        case.check();
    }

    /// Which keeps 8 bits between its passes, and so is up to a level from the filter itself.
    #[test]
    fn view_is_within_a_level_of_what_fast_image_resize_gives(case in case(1..=600, 1..=300)) {
        let case = Case { mirrored: false, ..case };
        let (view, other) = (case.view(), case.by_fast_image_resize());
        let most = view.iter().zip(&other).map(|(one, other)| one.abs_diff(*other)).max();
        prop_assert!(most <= Some(1), "{most:?} levels, {:?} at {}", case.region, case.size);
    }
}

#[test]
fn image_that_is_much_wider_or_higher_than_its_view_is_resized_in_parts() {
    for (width, height) in [(3000, 3), (3, 3000), (2500, 40)] {
        for size in [1, 7, 16, 40] {
            Case::new(width, height, Crop::whole(width, height), 1, size).check();
        }
    }
}

#[test]
fn crop_of_its_views_size_is_copied() {
    for size in [1, 15, 16, 224] {
        let case = Case::new(300, 280, Crop { left: 20, top: 30, width: size, height: size }, 1, size);
        let rows = (30..30 + size as usize).map(|row| &case.pixels[(row * 300 + 20) * 3..][..size as usize * 3]);
        assert!(case.view() == rows.flatten().copied().collect::<Vec<_>>(), "size {size}");
    }
}

#[test]
fn crop_is_resized_without_what_lies_around_it() {
    let crop = Crop { left: 20, top: 10, width: 20, height: 20 };
    for value in [0, 10, 255] {
        for size in [5, 16, 20, 33] {
            let mut case = Case::new(60, 40, crop, 1, size);
            case.pixels.fill(255 - value);
            for row in 10..30 {
                case.pixels[(row * 60 + 20) * 3..(row * 60 + 40) * 3].fill(value);
            }
            assert!(case.view().iter().all(|found| *found == value), "level {value} at {size}");
        }
    }
}

#[test]
fn mirrored_view_is_the_view_with_each_row_turned_round() {
    for size in [9, 16, 50, 224] {
        let case = Case::new(300, 200, Crop { left: 3, top: 7, width: 271, height: 190 }, 2, size);
        let mut view = case.view();
        for row in view.chunks_exact_mut(size as usize * 3) {
            row.as_chunks_mut::<3>().0.reverse();
        }
        assert!(Case { mirrored: true, ..case }.view() == view, "size {size}");
    }
}

#[test]
fn sizes_that_do_not_fit_together_are_refused() {
    let fine = Case::new(30, 20, Crop { left: 5, top: 5, width: 25, height: 15 }, 1, 16);
    fine.check();
    let regions = [
        Region { width: 31, ..fine.region },
        Region { left: 5.5, ..fine.region },
        Region { top: -0.5, ..fine.region },
        Region { crop_width: 0.0, ..fine.region },
        Region { crop_height: f64::NAN, ..fine.region },
        Region { width: u32::MAX, height: u32::MAX, ..fine.region },
    ];
    let mut view = vec![0; 16 * 16 * 3];
    let mut refused = |region: &Region<'static>, size: u32| {
        let error =
            Resampler::default().resample(&with(*region, &fine.pixels), [size; 2], false, &mut view).unwrap_err();
        assert_eq!(error.reason, Reason::Damaged, "{region:?} at {size}: {error}");
    };
    regions.iter().for_each(|region| refused(region, 16));
    [0, 15, 17, u32::MAX].into_iter().for_each(|size| refused(&fine.region, size));
}

#[test]
fn resampler_gives_the_same_view_whatever_it_made_before() {
    let cases = [
        Case::new(300, 200, Crop { left: 3, top: 7, width: 271, height: 190 }, 2, 64),
        Case::new(20, 20, Crop::whole(20, 20), 1, 224),
        Case::new(500, 400, Crop::whole(500, 400), 1, 10),
        Case::new(500, 400, Crop::whole(500, 400), 1, 96),
    ];
    let mut resampler = Resampler::default();
    for case in cases.iter().chain(cases.iter().rev()) {
        let mut view = vec![0; (case.size * case.size * 3) as usize];
        resampler.resample(&with(case.region, &case.pixels), [case.size; 2], case.mirrored, &mut view).unwrap();
        assert!(view == case.view(), "{:?} at {}", case.region, case.size);
    }
}

#[test]
fn a_view_that_is_not_square_is_the_same_by_all_ways() {
    let case = Case::new(90, 70, Crop { left: 2, top: 3, width: 80, height: 60 }, 1, 16);
    for size in [[40, 20], [20, 40], [16, 97], [7, 30], [32, 70], [97, 33]] {
        by_every_form(&with(case.region, &case.pixels), size, false);
    }
}
