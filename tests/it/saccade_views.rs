//! Views of a field against torch's `affine_grid` and `grid_sample`, and as properties of every saccade.

use std::fs;

use proptest::prelude::*;
use saccade::draws::{Draws, Purpose};
use saccade::pipeline::saccade::{Filter, Moved, Saccade, SaccadeConfig, SaccadeError, Views, middle};
use saccade::pipeline::warp::{warp, warp_plain};
use safetensors::SafeTensors;

use crate::reference;

/// What 32-bit floats allow, of pixels in 0..=255.
const FLOAT: f64 = 1e-5 * 255.0;
/// Rounding to whole levels, and weights of 14 bits.
const LEVELS: f64 = 0.55;

const FILTERS: [Filter; 2] = [Filter::Nearest, Filter::Bilinear];

/// The seed's setting: 200 pixels to 128.
fn config() -> SaccadeConfig {
    SaccadeConfig {
        field: 200,
        size: 128,
        most_shift: 0.9,
        most_degrees: 2.0,
        filter: Filter::Bilinear,
        moved: Moved::Second,
    }
}

/// Where `affine_grid` puts the pixels of a view, in pixels of the field.
fn places(side: u32, saccade: &Saccade, size: u32) -> impl Iterator<Item = [f64; 2]> {
    let (side, view, matrix) = (f64::from(side), f64::from(size), saccade.matrix());
    (0..size).flat_map(move |row| (0..size).map(move |column| [column, row])).map(move |place| {
        let [right, down] = place.map(|place| (2.0 * f64::from(place) + 1.0 - view) / side);
        matrix.map(|[x, y, shift]| ((x * right + y * down + shift + 1.0) * side - 1.0) / 2.0)
    })
}

/// What `grid_sample` computes, in double precision: zeros outside, corners not aligned.
fn exact(field: &[u8], side: u32, saccade: &Saccade, size: u32, filter: Filter) -> Vec<f64> {
    let width = f64::from(side);
    let pixel = |x: f64, y: f64, channel: usize| {
        let inside = (0.0..width).contains(&x) && (0.0..width).contains(&y);
        if inside { f64::from(field[(y * width + x) as usize * 3 + channel]) } else { 0.0 }
    };
    let values = places(side, saccade, size).flat_map(|[x, y]| {
        let (left, above) = (x.floor(), y.floor());
        let (right, down) = (x - left, y - above);
        (0..3).map(move |channel| match filter {
            Filter::Nearest => pixel(x.round_ties_even(), y.round_ties_even(), channel),
            Filter::Bilinear => {
                let blend = |y| pixel(left, y, channel) * (1.0 - right) + pixel(left + 1.0, y, channel) * right;
                blend(above) * (1.0 - down) + blend(above + 1.0) * down
            }
        })
    });
    values.collect()
}

fn warped(field: &[u8], side: u32, saccade: &Saccade, size: u32, filter: Filter) -> Vec<u8> {
    // Neither black nor white, so that a pixel that is not written is seen.
    let mut view = vec![77; (size * size * 3) as usize];
    warp(field, side, saccade, size, filter, &mut view);
    view
}

fn noise(side: u32, seed: u64) -> Vec<u8> {
    let mut draws = Draws::new(seed, 0, 0, Purpose::Weights);
    (0..side * side * 3).map(|_| draws.below(256) as u8).collect()
}

struct Sample {
    /// `[side, side, 3]`.
    field: Vec<u8>,
    saccade: Saccade,
    nearest: Vec<f64>,
    bilinear: Vec<f64>,
}

/// torch's images, saccades and warps, and the pixels a side.
fn torchs() -> (u32, Vec<Sample>) {
    let bytes = fs::read(reference().join("saccade.safetensors")).expect("reference warps");
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let floats = |name: &str| -> Vec<f32> {
        let (values, _) = file.tensor(name).unwrap().data().as_chunks::<4>();
        values.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect()
    };
    let images = file.tensor("images").unwrap();
    let [count, 3, side, width] = *images.shape() else { panic!("images are {:?}", images.shape()) };
    assert!(count > 0 && side == width);
    let plane = side * side;
    let interleaved = |sample: usize, at: &dyn Fn(usize) -> f64| -> Vec<f64> {
        (0..plane * 3).map(|place| at((sample * 3 + place % 3) * plane + place / 3)).collect()
    };
    let (angles, shifts) = (floats("theta_radians"), floats("translation"));
    let (nearest, bilinear) = (floats("warped.nearest"), floats("warped.bilinear"));
    let sample = |number: usize| Sample {
        field: interleaved(number, &|place| images.data()[place].into()).iter().map(|value| *value as u8).collect(),
        saccade: Saccade { angle: angles[number], shift: [shifts[number * 2], shifts[number * 2 + 1]] },
        nearest: interleaved(number, &|place| nearest[place].into()),
        bilinear: interleaved(number, &|place| bilinear[place].into()),
    };
    (side as u32, (0..count).map(sample).collect())
}

/// The values of the middle `size` by `size` pixels.
fn middle_of(values: &[f64], side: u32, size: u32) -> Vec<f64> {
    let (side, size) = (side as usize, size as usize);
    let margin = (side - size) / 2;
    let rows = values.chunks_exact(side * 3).skip(margin).take(size);
    rows.flat_map(|row| &row[margin * 3..(margin + size) * 3]).copied().collect()
}

fn farthest(ours: impl IntoIterator<Item = f64>, theirs: &[f64]) -> f64 {
    ours.into_iter().zip(theirs).map(|(ours, theirs)| (ours - theirs).abs()).fold(0.0, f64::max)
}

#[test]
fn matrix_and_filters_are_those_of_torch() {
    let (side, samples) = torchs();
    for Sample { field, saccade, nearest, bilinear } in samples {
        let differs = farthest(exact(&field, side, &saccade, side, Filter::Bilinear), &bilinear);
        assert!(differs <= FLOAT, "{saccade:?}: differs by {differs}");
        assert_eq!(exact(&field, side, &saccade, side, Filter::Nearest), nearest, "{saccade:?}");
    }
}

#[test]
fn views_are_the_middle_of_what_torch_makes_of_the_whole_field() {
    let (side, samples) = torchs();
    for Sample { field, saccade, nearest, bilinear } in samples {
        for size in [side, side - 2, side - side % 2 - side / 4 * 2] {
            let of = |filter| warped(&field, side, &saccade, size, filter).into_iter().map(f64::from);
            let differs = farthest(of(Filter::Bilinear), &middle_of(&bilinear, side, size));
            assert!(differs <= LEVELS, "{saccade:?}, {size} pixels: differs by {differs}");
            let picked: Vec<_> = of(Filter::Nearest).collect();
            assert_eq!(picked, middle_of(&nearest, side, size), "{saccade:?}, {size} pixels");
        }
    }
}

#[test]
fn settings_of_the_seed_leave_nothing_of_a_view_outside() {
    assert_eq!(config().check(), Ok(()));
    let whole = SaccadeConfig { most_shift: 1.0, most_degrees: 0.0, ..config() };
    assert_eq!(whole.check(), Ok(()), "a view that only shifts may touch the edge");
    let same = SaccadeConfig { field: 128, ..whole };
    assert_eq!(same.check(), Ok(()));
    let any_way_up = SaccadeConfig { most_shift: 0.2, most_degrees: 180.0, ..config() };
    assert_eq!(any_way_up.check(), Ok(()));
}

#[test]
fn settings_that_cannot_be_met_are_refused_with_what_would_do() {
    let too_far = SaccadeConfig { most_shift: 1.0, ..config() };
    let Err(SaccadeError::Outside { field: 200, percent, fits: Some(fits) }) = too_far.check() else {
        panic!("{:?}", too_far.check())
    };
    assert!(percent > 0.0 && percent < 10.0, "{percent}");
    assert_eq!(SaccadeConfig { most_shift: fits, ..config() }.check(), Ok(()));
    assert!(SaccadeConfig { most_shift: fits + 0.01, ..config() }.check().is_err());
    let text = too_far.check().unwrap_err().to_string();
    assert!(text.contains(&format!("lower most_shift to {fits}, or take a larger field")), "{text}");

    let turned = SaccadeConfig { field: 140, most_degrees: 45.0, ..config() };
    assert!(matches!(turned.check(), Err(SaccadeError::Outside { fits: None, .. })), "{:?}", turned.check());
    let odd = SaccadeConfig { field: 201, ..config() };
    assert_eq!(odd.check(), Err(SaccadeError::NoMiddle { field: 201, size: 128 }));
    let key_of = |config: SaccadeConfig| match config.check() {
        Err(SaccadeError::Range { key, .. }) => key,
        other => panic!("{other:?}"),
    };
    assert_eq!(key_of(SaccadeConfig { field: 1 << 15, ..config() }), "field");
    assert_eq!(key_of(SaccadeConfig { field: 100, ..config() }), "size");
    assert_eq!(key_of(SaccadeConfig { size: 0, ..config() }), "size");
    assert_eq!(key_of(SaccadeConfig { most_shift: f64::NAN, ..config() }), "most_shift");
    assert_eq!(key_of(SaccadeConfig { most_degrees: -2.0, ..config() }), "most_degrees");
}

#[test]
fn a_configuration_refuses_unknown_keys() {
    let text = "field = 200\nmost_shift = 0.9\nmost_degrees = 2.0\nfilter = \"bilinear\"\n\
                moved = \"second\"\n";
    assert_eq!(toml::from_str(text), Ok(SaccadeConfig { size: 0, ..config() }));
    assert!(toml::from_str::<SaccadeConfig>(&format!("{text}scale = 1.1\n")).is_err());
    assert!(toml::from_str::<SaccadeConfig>(&text.replace("bilinear", "cubic")).is_err());
}

#[test]
fn either_view_is_moved_half_of_the_time_and_which_of_them_changes_nothing_else() {
    let views = |moved, sample| {
        let config = SaccadeConfig { moved, ..config() };
        config.draw(&mut Draws::new(3, 1, sample, Purpose::Saccade))
    };
    let mut first = 0;
    for sample in 0..1000 {
        let there = views(Moved::Second, sample);
        let back = views(Moved::First, sample);
        assert_eq!((there.first, there.second), (Saccade::NONE, there.way()));
        assert_eq!((back.first, back.second), (there.second, Saccade::NONE));
        assert_eq!(back.way(), there.way().inverse());
        let either = views(Moved::Either, sample);
        assert!([there, back].contains(&either));
        first += u32::from(either == back);
    }
    // Five deviations of a thousand fair draws.
    assert!((420..=580).contains(&first), "{first} of 1000");
}

#[test]
fn saccades_fill_the_range_that_is_set_and_stay_in_it() {
    let most = [2.0_f64.to_radians() as f32, 0.9 * 72.0 / 200.0, 0.9 * 72.0 / 200.0];
    let mut reached = [[0.0_f32; 2]; 3];
    for sample in 0..1000 {
        let saccade = config().draw(&mut Draws::new(3, 1, sample, Purpose::Saccade)).way();
        let [right, down] = saccade.shift;
        for ((part, most), [least, greatest]) in [saccade.angle, right, down].into_iter().zip(most).zip(&mut reached) {
            assert!(part.abs() <= most, "{part} of {most}");
            (*least, *greatest) = (least.min(part / most), greatest.max(part / most));
        }
    }
    assert!(reached.iter().all(|[least, greatest]| *least < -0.98 && *greatest > 0.98), "{reached:?}");
}

/// Any saccade, also far beyond the field.
fn saccades() -> impl Strategy<Value = Saccade> {
    (-3.2_f32..3.2, -1.5_f32..1.5, -1.5_f32..1.5).prop_map(|(angle, x, y)| Saccade { angle, shift: [x, y] })
}

/// Pixels a side of a field, and of a view in its middle.
fn sides() -> impl Strategy<Value = (u32, u32)> {
    (1..60_u32, 0..30_u32).prop_map(|(size, margin)| (size + 2 * margin, size))
}

fn configs() -> impl Strategy<Value = SaccadeConfig> {
    (sides(), 0.0..1.0_f64, prop_oneof![0.0..10.0_f64, 0.0..180.0_f64]).prop_map(
        |((field, size), most_shift, most_degrees)| SaccadeConfig { field, size, most_shift, most_degrees, ..config() },
    )
}

/// The same, or what its refusal says would do.
fn admitted(config: SaccadeConfig) -> SaccadeConfig {
    match config.check() {
        Ok(()) => config,
        Err(SaccadeError::Outside { fits: Some(most_shift), .. }) => SaccadeConfig { most_shift, ..config },
        Err(_) => SaccadeConfig { most_degrees: 0.0, ..config },
    }
}

proptest! {
    #[test]
    fn views_are_within_a_level_of_exact_ones((side, size) in sides(), saccade in saccades(), seed in 0..9_u64) {
        let field = noise(side, seed);
        let exact = exact(&field, side, &saccade, size, Filter::Bilinear);
        let view = warped(&field, side, &saccade, size, Filter::Bilinear);
        let differs = farthest(view.into_iter().map(f64::from), &exact);
        prop_assert!(differs <= LEVELS, "differs by {}", differs);
    }

    #[test]
    fn views_are_the_same_on_every_processor((side, size) in sides(), saccade in saccades(), seed in 0..9_u64) {
        let field = noise(side, seed);
        for filter in FILTERS {
            let mut plain = vec![0; (size * size * 3) as usize];
            warp_plain(&field, side, &saccade, size, filter, &mut plain);
            prop_assert_eq!(&warped(&field, side, &saccade, size, filter), &plain);
        }
    }

    #[test]
    fn black_is_only_what_lies_outside_of_a_field((side, size) in sides(), saccade in saccades()) {
        let white = vec![255; (side * side * 3) as usize];
        let [near, blended] = FILTERS.map(|filter| warped(&white, side, &saccade, size, filter));
        let levels = near.as_chunks::<3>().0.iter().zip(blended.as_chunks::<3>().0);
        for (place, (near, blended)) in places(side, &saccade, size).zip(levels) {
            // Pixels by which a place lies inside of the outermost pixels' centres.
            let inside = place.iter().map(|place| place.min(f64::from(side - 1) - place)).fold(f64::MAX, f64::min);
            // Places are 32-bit floats, so a thousandth of a pixel from an edge they may fall to either side of it.
            match inside {
                inside if inside > 0.001 => prop_assert_eq!((near, blended), (&[255; 3], &[255; 3])),
                inside if inside < -1.001 => prop_assert_eq!((near, blended), (&[0; 3], &[0; 3])),
                inside if inside > -0.499 => prop_assert_eq!(near, &[255; 3]),
                inside if inside < -0.501 => prop_assert_eq!(near, &[0; 3]),
                _ => prop_assert!(near == &[0; 3] || near == &[255; 3]),
            }
        }
    }

    #[test]
    fn no_saccade_gives_the_middle_untouched((side, size) in sides(), seed in 0..9_u64) {
        let field = noise(side, seed);
        let mut plain = vec![0; (size * size * 3) as usize];
        middle(&field, side, size, &mut plain);
        let levels: Vec<f64> = field.iter().map(|value| f64::from(*value)).collect();
        prop_assert_eq!(plain.iter().map(|value| f64::from(*value)).collect::<Vec<_>>(), middle_of(&levels, side, size));
        for filter in FILTERS {
            prop_assert_eq!(&warped(&field, side, &Saccade::NONE, size, filter), &plain);
        }
    }

    #[test]
    fn a_ramp_stays_a_ramp(config in configs(), sample in 0..100_u64) {
        let config = admitted(config);
        let side = config.field;
        let slope = 255.0 / f64::from(2 * side);
        let ramp: Vec<u8> = (0..side * side)
            .flat_map(|place| [(f64::from(place % side + place / side) * slope).round() as u8; 3])
            .collect();
        let Views { second, .. } = config.draw(&mut Draws::new(1, 0, sample, Purpose::Saccade));
        let view = warped(&ramp, side, &second, config.size, Filter::Bilinear);
        let (middle, first) = (f64::from(side - 1) / 2.0, f64::from(config.size - 1) / 2.0);
        for (place, pixel) in (0..).zip(view.as_chunks::<3>().0) {
            let (right, down) = (f64::from(place % config.size) - first, f64::from(place / config.size) - first);
            let way = second.matrix().map(|[x, y, shift]| x * right + y * down + shift * f64::from(side) / 2.0 + middle);
            // The ramp itself has been rounded to levels too.
            let differs = (f64::from(pixel[0]) - (way[0] + way[1]) * slope).abs();
            prop_assert!(differs <= 0.5 + LEVELS, "differs by {}", differs);
        }
    }

    #[test]
    fn way_back_undoes_the_way(saccade in saccades()) {
        for (there, back) in [(saccade, saccade.inverse()), (saccade.inverse(), saccade)] {
            let still = there.after(&back);
            prop_assert!(still.angle.abs() <= 1e-6 && still.shift.iter().all(|part| part.abs() <= 1e-6), "{:?}", still);
            let point = [0.3, -0.7, 1.0];
            let apply = |saccade: &Saccade, point: [f64; 3]| {
                let [x, y] = saccade.matrix().map(|row| row.iter().zip(point).map(|(a, b)| a * b).sum::<f64>());
                [x, y, 1.0]
            };
            let again = apply(&there, apply(&back, point));
            prop_assert!(again.iter().zip(point).all(|(ours, first)| (ours - first).abs() <= 1e-6), "{:?}", again);
        }
    }

    #[test]
    fn what_check_admits_is_never_black_and_what_it_refuses_can_be(config in configs(), sample in 0..100_u64) {
        match config.check() {
            Ok(()) => {
                let Views { second, .. } = config.draw(&mut Draws::new(2, 0, sample, Purpose::Saccade));
                prop_assert_eq!(config.share_outside(&second), 0.0);
                let white = vec![255; (config.field * config.field * 3) as usize];
                let mut view = vec![0; (config.size * config.size * 3) as usize];
                for filter in FILTERS {
                    SaccadeConfig { filter, ..config.clone() }.cut(&white, &second, &mut view);
                    prop_assert!(view.iter().all(|value| *value == 255));
                }
            }
            Err(SaccadeError::Outside { percent, fits, .. }) => {
                prop_assert!(percent > 0.0 && percent <= 100.0, "{} %", percent);
                if let Some(most_shift) = fits {
                    prop_assert_eq!(SaccadeConfig { most_shift, ..config }.check(), Ok(()));
                }
            }
            Err(other) => prop_assert!(false, "{}", other),
        }
    }
}
