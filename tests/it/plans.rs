//! From a pipeline file to a Plan: parameters counted, pauses placed, weights to begin with.

use std::fs;

use burn::module::Module;
use burn::tensor::Device;
use proptest::prelude::*;
use saccade::config::{Plan, RunConfig, Stop};
use saccade::model::{FirstWeights, PredictorConfig, VitConfig, WeightInit};

use crate::saccade::{at, finish, root, saccade, small, temporary};

const QUICKSTART: &str = "pipelines/quickstart.toml";

fn plan(changes: &[&str]) -> Plan {
    let patterns = ["data.train", "data.validation"].map(|key| {
        let name = key.trim_start_matches("data.");
        format!("{key}={}", root().join(format!("shards/fashion-{name}-*.tar")).display())
    });
    let changes: Vec<String> = changes.iter().map(|change| change.to_string()).chain(patterns).collect();
    Plan::new(RunConfig::read(&root().join(QUICKSTART), &changes).unwrap()).unwrap()
}

#[test]
fn parameters_are_counted_as_the_models_have_them() {
    let device = Device::flex();
    for (image, patch, width, depth, heads) in [(28, 4, 64, 3, 2), (32, 8, 48, 1, 4), (16, 16, 8, 2, 1)] {
        let (encoder, mut init) =
            (VitConfig::free(image, patch, width, depth, heads), WeightInit::new(0, FirstWeights::Published));
        let predictor = PredictorConfig::new(16, depth, 4);
        let grid = encoder.grid();
        assert_eq!(encoder.parameters(), encoder.init(&mut init, &device).num_params() as u64);
        let built = predictor.init(grid, width, &mut init, &device).num_params() as u64;
        assert_eq!(predictor.parameters(width, grid * grid), built);
    }
}

#[test]
fn run_pauses_to_save_to_score_and_at_its_end() {
    // 6,000 samples in batches of 1,000: six steps an epoch.
    let plan = plan(&[
        "train.batch=1000",
        "train.epochs=3",
        "train.warmup_epochs=0",
        "checkpoint.every_steps=5",
        "score.every_epochs=1",
    ]);
    let stop = |step, save, score| Stop { step, save, score };
    let mut stops = Vec::new();
    while let Some(next) = plan.stops.after(stops.last().map_or(0, |last: &Stop| last.step)) {
        stops.push(next);
    }
    let expected = [
        stop(5, true, false),
        stop(6, true, true),
        stop(10, true, false),
        stop(12, true, true),
        stop(15, true, false),
        stop(18, true, true),
    ];
    assert_eq!(stops, expected);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]
    #[test]
    fn pauses_rise_to_the_end_whatever_their_distances(batch in 1usize..900, save in 1u64..40, score in 0.05f64..2.0) {
        let settings = [
            format!("train.batch={batch}"),
            "train.epochs=2.5".into(),
            format!("checkpoint.every_steps={save}"),
            format!("score.every_epochs={score}"),
        ];
        let plan = plan(&settings.iter().map(String::as_str).collect::<Vec<_>>());
        let (mut step, mut saves, mut scores) = (0, 0, 0);
        while let Some(stop) = plan.stops.after(step) {
            prop_assert!(stop.step > step && (stop.save || stop.score), "{stop:?} after {step}");
            step = stop.step;
            saves += u64::from(stop.save);
            scores += u64::from(stop.score);
        }
        prop_assert_eq!(step, plan.steps);
        let regular = plan.steps / save + u64::from(!plan.steps.is_multiple_of(save));
        prop_assert!((regular..=regular + scores).contains(&saves), "{} saves", saves);
        let each = (score * 6000.0 / batch as f64).max(1.0);
        // The end is scored too, unless a score falls on it.
        let on_the_way = (plan.steps as f64 / each).floor() as u64;
        prop_assert!((on_the_way..=on_the_way + 1).contains(&scores), "{} scores, {} on the way", scores, on_the_way);
    }
}

/// Settings that fit the shapes of `tests/data/authors.pth.tar`.
const AUTHORS: [&str; 7] = [
    "augment.size=32",
    "encoder.width=32",
    "encoder.depth=2",
    "encoder.heads=4",
    "predictor.depth=2",
    "train.epochs=0.02",
    "train.warmup_epochs=0.01",
];

#[test]
fn run_begins_with_imported_weights() {
    let folder = temporary();
    let path = |name: &str| folder.path().join(name);
    let authors = root().join("tests/data/authors.pth.tar");
    finish(&mut saccade(&["import", at(&authors), "--out", at(&path("weights")), "--heads", "4"]), 0);
    let weights = format!("encoder.weights={}", path("weights").display());
    let first_loss = |name: &str, more: &[&str]| {
        let changes = [&AUTHORS[..], more].concat();
        finish(small(&mut saccade(&["train", QUICKSTART, "--out", at(&path(name))]), &changes), 0);
        crate::saccade::column(&path(name).join("steps.jsonl"), "loss")[0].clone()
    };
    assert_ne!(first_loss("imported", &[&weights]), first_loss("drawn", &[]), "imported weights give another loss");

    let other = [&AUTHORS[..], &["encoder.depth=3", &weights]].concat();
    let said = finish(small(&mut saccade(&["check", QUICKSTART]), &other), 1);
    assert!(said.err.contains("another encoder") && said.err.contains("3 blocks"), "{}", said.err);
}

#[test]
fn absurd_shapes_are_refused_before_they_take_memory() {
    let folder = temporary();
    let theirs = crate::reference().join("hf_ijepa");
    for (key, number) in [
        ("patch_size", "0"),
        ("patch_size", "5"),
        ("num_hidden_layers", "1000000000000"),
        ("intermediate_size", "4000000000"),
        ("hidden_size", "9000000"),
        ("num_attention_heads", "1000003"),
        ("image_size", "1024"),
    ] {
        let copy = folder.path().join("theirs");
        fs::create_dir_all(&copy).unwrap();
        fs::copy(theirs.join("model.safetensors"), copy.join("model.safetensors")).unwrap();
        let mut config: serde_json::Value =
            serde_json::from_slice(&fs::read(theirs.join("config.json")).unwrap()).unwrap();
        config[key] = number.parse().unwrap();
        fs::write(copy.join("config.json"), config.to_string()).unwrap();
        let said = finish(&mut saccade(&["import", at(&copy), "--out", at(&folder.path().join("ours"))]), 1);
        assert_eq!(said.err.trim_end().lines().count(), 1, "{key} = {number}: {}", said.err);
    }
    let said =
        finish(small(&mut saccade(&["check", QUICKSTART]), &["stream.batches_ahead=1000000", "train.batch=6000"]), 1);
    assert!(said.err.contains("this machine has"), "{}", said.err);
}

/// A run of I-JEPA that knew no such terms goes on as it was begun: what is left out is not written either.
#[test]
fn terms_beside_the_prediction_are_optional_and_within_range() {
    let folder = temporary();
    let planned = |name: &str, more: &[&str]| -> serde_json::Value {
        let out = folder.path().join(name);
        let changes = [&["train.epochs=0.06"], more].concat();
        finish(small(&mut saccade(&["train", QUICKSTART, "--out", at(&out)]), &changes), 0);
        serde_json::from_slice(&fs::read(out.join("plan.json")).unwrap()).unwrap()
    };
    assert_eq!(planned("plain", &[])["config"]["objective"], serde_json::json!({ "kind": "ijepa" }));
    let objective = &planned("apart", &["objective.variance=0.5"])["config"]["objective"];
    assert_eq!(*objective, serde_json::json!({ "kind": "ijepa", "variance": 0.5 }));
    let steps = crate::saccade::column(&folder.path().join("apart/steps.jsonl"), "terms");
    assert!(steps[0]["variance"].as_f64() > Some(0.0) && steps[0]["covariance"].is_null(), "{}", steps[0]);
    for (changes, word) in [
        (&["objective.variance=-1"][..], "variance"),
        (&["objective.covariance=nan"], "covariance"),
        (&["objective.cycle=1"], "cycle"),
        (&["objective.variance=1", "train.batch=32", "train.accumulate=32"], "two samples"),
    ] {
        let said = finish(small(&mut saccade(&["check", QUICKSTART]), changes), 1);
        assert!(said.err.contains(word) && said.err.trim_end().lines().count() == 1, "{changes:?}: {}", said.err);
    }
}
