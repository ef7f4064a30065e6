//! Each objective as the binary trains it: taken up again to the bit, and refused where it cannot go together.

use std::fs;
use std::path::{Path, PathBuf};

use saccade::checkpoint::read_arrays;
use serde_json::Value;

use crate::saccade::{at, column, finish, saccade, temporary};

/// A dozen steps, with a checkpoint after every fourth.
const SHORT: [&str; 6] = [
    "train.epochs=0.07",
    "train.warmup_epochs=0.01",
    "train.batch=32",
    "checkpoint.every_steps=4",
    "checkpoint.keep=9",
    "telemetry.address=127.0.0.1:0",
];

/// A pipeline and what is changed in it.
type Run = (&'static str, &'static [&'static str]);

const RUNS: [Run; 4] = [
    ("pipelines/fashion-energy.toml", &["encoder.memory=softmax"]),
    ("pipelines/fashion-energy.toml", &["mask.mode=shared-size", "train.accumulate=2"]),
    ("pipelines/fashion-saccade.toml", &[]),
    (
        "pipelines/fashion-saccade.toml",
        &[
            "objective={ kind = 'saccade-read', direction = 1.0, magnitude = 1.0, rotation = 1.0, variance = 25.0, \
             covariance = 1.0 }",
            "train.accumulate=2",
        ],
    ),
];

#[test]
fn each_objective_is_taken_up_again_to_the_bit() {
    for (pipeline, changes) in RUNS {
        let folder = temporary();
        let run = folder.path().join("run");
        let arguments = SHORT.iter().chain(changes).flat_map(|change| ["--set", change]);
        finish(saccade(&["train", pipeline, "--out", at(&run)]).args(arguments), 0);
        let (losses, terms) = (column(&steps(&run), "loss"), column(&steps(&run), "terms"));
        let weights = read_arrays(&newest(&run).join("weights.safetensors")).unwrap();
        assert!(
            losses.len() > 8 && terms[0].as_object().is_some_and(|terms| !terms.is_empty()),
            "{pipeline}: {terms:?}"
        );
        let sum = |terms: &Value| terms.as_object().unwrap().values().filter_map(Value::as_f64).sum::<f64>();
        for (loss, terms) in losses.iter().zip(&terms) {
            let loss = loss.as_f64().unwrap();
            assert!((loss - sum(terms)).abs() <= 1e-5 * loss.abs().max(1.0), "{pipeline}: {loss} is not {terms}");
        }

        while newest(&run).file_name().unwrap() != "step-00000004" {
            fs::remove_dir_all(newest(&run)).unwrap();
        }
        let said = finish(&mut saccade(&["train", "--resume", at(&run)]), 0);

        assert!(said.err.contains("going on after step 4"), "{pipeline}: {}", said.err);
        assert_eq!(column(&steps(&run), "loss"), losses, "{pipeline} {changes:?}: losses after resuming");
        let again = read_arrays(&newest(&run).join("weights.safetensors")).unwrap();
        assert!(again == weights, "{pipeline} {changes:?}: final weights after resuming");
    }
}

#[test]
fn what_cannot_go_together_is_refused_with_the_reason() {
    let (quickstart, views) = ("pipelines/quickstart.toml", "pipelines/fashion-saccade.toml");
    let convnext = "encoder={ kind = 'convnext', size = 'tiny' }";
    for (pipeline, change, said) in [
        (quickstart, convnext, "convolutions reach across"),
        (quickstart, "predictor={ kind = 'mlp', hidden = 8, layers = 2 }", "predicts patches"),
        (
            quickstart,
            "saccade={ field = 40, most_shift = 0.5, most_degrees = 2, filter = 'nearest', moved = 'first' }",
            "no use for [saccade]",
        ),
        (quickstart, "projector={ hidden = 8, layers = 2, width = 8 }", "no use for [projector]"),
        (
            quickstart,
            "objective={ kind = 'saccade', prediction = 1.0, cycle = 0.0, variance = 1.0, covariance = 1.0 }",
            "needs a table [saccade]",
        ),
        (views, "objective={ kind = 'ijepa' }", "needs a table [mask]"),
        (views, "predictor={ kind = 'vit', width = 16, depth = 1 }", "predicts a view"),
        ("pipelines/fashion-energy.toml", "predictor.iteration=3", "iteration"),
        (views, "projector.widht=3", "widht"),
        (views, "objective.prediction=0", "prediction"),
        (views, "objective.variance=-1", "variance"),
        (views, "encoder.widths=[48]", "do not name the same stages"),
        (views, "encoder.depths=[1, 1, 1, 1, 1]", "at most four stages"),
        (views, "encoder.layer_scale=inf", "layer_scale"),
        (views, "saccade.most_degrees=90", "most_degrees"),
        (views, "train.accumulate=64", "two samples"),
    ] {
        let refused = finish(&mut saccade(&["check", pipeline, "--set", change]), 1);
        assert_eq!(refused.err.trim_end().lines().count(), 1, "{change}: {}", refused.err);
        assert!(refused.err.contains(said), "{change}: {}", refused.err);
    }
}

fn steps(run: &Path) -> PathBuf {
    run.join("steps.jsonl")
}

fn newest(run: &Path) -> PathBuf {
    let found = fs::read_dir(run.join("checkpoints")).unwrap().map(|entry| entry.unwrap().path());
    found.max().expect("a checkpoint")
}
