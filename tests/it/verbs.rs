//! Every verb but `train`, with good input and with bad: one clear line, the right exit code.

use std::fs;
use std::net::TcpListener;

use saccade::checkpoint::{read_arrays, write_arrays};
use serde_json::Value;

use crate::reference;
use crate::saccade::{at, finish, saccade, small, temporary};

const QUICKSTART: &str = "pipelines/quickstart.toml";
const TRAIN: &str = "data.train=shards/fashion-train-{000000..000003}.tar";
const VALIDATION: &str = "data.validation=shards/fashion-validation-{000000..000001}.tar";

#[test]
fn check_accepts_every_pipeline() {
    let pipelines = fs::read_dir(crate::saccade::root().join("pipelines")).unwrap();
    let mut checked = 0;
    for entry in pipelines.flatten() {
        // The ImageNet pipelines are checked on the shards that ship; their own are elsewhere.
        let free_port = "telemetry.address=127.0.0.1:0";
        let mut check = saccade(&["check", at(&entry.path()), "--json"]);
        let said = finish(check.args(["--set", TRAIN, "--set", VALIDATION, "--set", free_port]), 0);
        let plan: Value = serde_json::from_str(&said.out).unwrap();
        assert!(plan["steps"].as_u64().unwrap() > 0, "{}", said.out);
        checked += 1;
    }
    assert!(checked >= 3);
}

#[test]
fn check_knows_the_parameters_of_the_authors_huge_encoder() {
    let mut check = saccade(&["check", "pipelines/ijepa-vit-h14-in1k.toml", "--json"]);
    let said = finish(check.args(["--set", TRAIN, "--set", VALIDATION, "--set", "telemetry.address=127.0.0.1:0"]), 0);
    let plan: Value = serde_json::from_str(&said.out).unwrap();
    // ViT-H/14 without class token and head: 632 million less these (Dosovitskiy et al. 2021, table 1).
    let millions = plan["encoder_parameters"].as_f64().unwrap() / 1e6;
    assert!((629.0..633.0).contains(&millions), "{millions}");
    assert_eq!(plan["grid"], 16);

    let changes = ["--set", TRAIN, "--set", VALIDATION, "--set", "telemetry.address=127.0.0.1:0"];
    let mut check = saccade(&["check", "pipelines/ijepa-vit-h14-in1k.toml", "--set", "train.recompute=true"]);
    let said = finish(check.args(changes), 0);
    // Weights, moments and the target encoder's weights: four numbers a parameter, and one predictor's less.
    assert!(said.out.contains("10.4 GB models and moments"), "{}", said.out);
    assert!(said.out.contains("blocks computed again") && said.out.contains("32 parts of a batch"), "{}", said.out);
    let again = finish(check.arg("--json"), 0);
    let again: Value = serde_json::from_str(&again.out).unwrap();
    let [kept, again] = [&plan, &again].map(|plan| plan["step_memory_bytes"].as_f64().unwrap());
    assert!(again < 0.6 * kept, "{again} bytes where blocks are computed again, {kept} where they are kept");
}

#[test]
fn wrong_input_gets_one_line_that_names_it() {
    let cases: [(&[&str], &[&str]); 25] = [
        (&["train.warmup_epochs=2"], &["train.warmup_epochs"]),
        (&["train.learning_rate=[0, 0.1, 0.2]"], &["train.learning_rate", "peak"]),
        (&["pixels.mean=[nan, 0, 0]"], &["pixels.mean"]),
        (&["encoder.colour=3"], &["colour"]),
        (&["train.batch=0"], &["train.batch"]),
        (&["train.batch=7000"], &["train.epochs", "7000"]),
        (&["train.learning_rate=[0.1]"], &["learning_rate", "3"]),
        (&["encoder.patch=5"], &["encoder.patch", "28"]),
        (&["encoder.width=97"], &["encoder.width"]),
        (&["encoder.size=\"tiny\""], &["encoder.size"]),
        (&["encoder.size=\"enormous\""], &["enormous"]),
        (&["augment.crop_scale=[0.9, 0.3]"], &["augment.crop_scale"]),
        (&["mask.target_scale=[0.9, 0.95]"], &["mask"]),
        (&["mask.min_keep=60"], &["mask"]),
        (&["device=\"cuda:0\""], &["cuda"]),
        (&["device=\"abacus\""], &["abacus"]),
        (&["device=\"cuda:3-1\""], &["cuda:3-1", "cuda:0-3"]),
        (&["device=\"cuda:0-\""], &["cuda:0-"]),
        (&["device=\"cpu:0\""], &["cpu:0"]),
        (&["device=\"cpu:40\""], &["train.batch", "40 ranks"]),
        (&["train.precision=f16"], &["f16", "bf16"]),
        (&["data.train=shards/nothing-{0..3}.tar"], &["shards/nothing-0.tar"]),
        (&["data.train=shards/README.md"], &["shards/README.md"]),
        (&["stream.workers=0"], &["stream.workers"]),
        (&["encoder.weights=\"nowhere\""], &["nowhere"]),
    ];
    for (changes, words) in cases {
        let said = finish(small(&mut saccade(&["check", QUICKSTART]), changes), 1);
        assert_eq!(said.err.trim_end().lines().count(), 1, "{changes:?}: {}", said.err);
        for word in words {
            assert!(said.err.contains(word), "{changes:?}: no \"{word}\" in: {}", said.err);
        }
    }
}

#[test]
fn unknown_key_is_named_with_its_line() {
    let folder = temporary();
    let path = folder.path().join("mine.toml");
    let text = fs::read_to_string(crate::saccade::root().join(QUICKSTART)).unwrap();
    fs::write(&path, text.replace("window = 4", "window = 4\nwindows = 5")).unwrap();
    let said = finish(&mut saccade(&["check", at(&path)]), 1);
    assert!(said.err.contains("mine.toml: line ") && said.err.contains("windows"), "{}", said.err);
}

#[test]
fn masks_that_leave_no_context_on_a_small_grid_are_refused() {
    let authors = ["augment.size=32", "encoder.patch=8", "mask.min_keep=10", "mask.mode=shared-size"];
    let said = finish(small(&mut saccade(&["check", QUICKSTART]), &authors), 1);
    assert!(said.err.contains("mask"), "{}", said.err);
}

#[test]
fn port_in_use_is_said_at_once() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("telemetry.address={}", taken.local_addr().unwrap());
    for verb in ["check", "train"] {
        let folder = temporary();
        let out = folder.path().join("run");
        let said = finish(small(&mut saccade(&[verb, QUICKSTART, "--out", at(&out)]), &[&address]), 1);
        assert!(said.err.contains("in use"), "{verb}: {}", said.err);
        assert!(!out.exists(), "{verb} must leave nothing behind");
    }
}

#[test]
fn folder_that_cannot_be_written_is_said_at_once() {
    for verb in ["check", "train"] {
        let said = finish(small(&mut saccade(&[verb, QUICKSTART, "--out", "/proc/run"]), &[]), 1);
        assert!(said.err.contains("/proc/run"), "{verb}: {}", said.err);
    }
}

#[test]
fn wrong_usage_exits_with_2() {
    let cases: [&[&str]; 6] = [
        &["check", QUICKSTART, "--set", "seed"],
        &["train"],
        &["fly"],
        &["bench", "data", QUICKSTART, "--seconds", "-1"],
        &["stream", QUICKSTART],
        &["show", QUICKSTART],
    ];
    for arguments in cases {
        finish(&mut saccade(arguments), 2);
    }
}

#[test]
fn every_verb_has_help_with_an_example() {
    for verb in ["train", "check", "stream", "show", "bench", "tune", "export", "import", "shards"] {
        let said = finish(&mut saccade(&[verb, "--help"]), 0);
        assert!(said.out.contains(&format!("saccade {verb}")) && said.out.contains("Example"), "{verb}: {}", said.out);
    }
}

/// The lines of a stream.
fn stream(more: &[&str]) -> Vec<String> {
    let said = finish(small(saccade(&["stream", QUICKSTART, "--json"]).args(more), &[]), 0);
    said.out.lines().map(String::from).collect()
}

#[test]
fn stream_is_the_same_for_any_number_of_workers() {
    let expected = stream(&["--batches", "12", "--workers", "1"]);
    assert_eq!(expected.len(), 12);
    let first: Value = serde_json::from_str(&expected[0]).unwrap();
    assert_eq!(first["keys"].as_array().unwrap().len(), 32);
    assert_ne!(first["pixels"], serde_json::from_str::<Value>(&expected[1]).unwrap()["pixels"]);
    for workers in ["2", "4", "7"] {
        assert_eq!(stream(&["--batches", "12", "--workers", workers]), expected, "{workers} workers");
    }
}

#[test]
fn stream_from_a_later_step_is_the_tail_of_the_whole() {
    // 6,000 samples and batches of 32: step 187 goes over the end of the first epoch.
    let whole = stream(&["--batches", "192"]);
    assert_eq!(stream(&["--batches", "9", "--start-step", "183"]), whole[183..]);
}

#[test]
fn show_draws_a_row_per_sample_and_a_column_per_block() {
    let folder = temporary();
    let path = folder.path().join("batch.png");
    finish(small(&mut saccade(&["show", QUICKSTART, "--out", at(&path)]), &["mask.target_blocks=2"]), 0);
    let picture = image::open(&path).unwrap().to_rgb8();
    // Image, context and two blocks of 112 pixels with gaps of 6; eight rows.
    assert_eq!(picture.dimensions(), (4 * 118 + 6, 8 * 118 + 6));
    let coloured = |pixel: &&image::Rgb<u8>| pixel[0].abs_diff(pixel[2]) > 60;
    assert!(picture.pixels().filter(coloured).count() > 500, "grey images: colour comes from the frames of the blocks");
}

#[test]
fn benchmarks_report_their_figures_as_json() {
    for what in ["data", "step", "train"] {
        let said = finish(small(&mut saccade(&["bench", what, QUICKSTART, "--seconds", "0.2", "--json"]), &[]), 0);
        let figures: Value = serde_json::from_str(&said.out).unwrap();
        assert!(figures["samples_per_second"].as_f64().unwrap() > 0.0, "{}", said.out);
        assert!(figures["cpu_milliseconds_per_sample"].as_f64().unwrap() > 0.0, "{}", said.out);
        assert!(!figures["stages"].as_array().unwrap().is_empty(), "{}", said.out);
    }
}

#[test]
fn shards_are_listed_indexed_and_verified() {
    let patterns = "shards/fashion-train-{000000..000003}.tar";
    let listed = finish(&mut saccade(&["shards", "list", patterns, "--json"]), 0);
    let listed: Value = serde_json::from_str(&listed.out).unwrap();
    let samples: u64 = listed.as_array().unwrap().iter().map(|shard| shard["samples"].as_u64().unwrap()).sum();
    assert_eq!(samples, 6000);
    finish(&mut saccade(&["shards", "index", patterns]), 0);
    finish(&mut saccade(&["shards", "verify", patterns]), 0);
    let damaged = crate::reference().join("tars/truncated_in_data.tar");
    let said = finish(&mut saccade(&["shards", "verify", at(&damaged)]), 1);
    assert!(said.out.contains("truncated_in_data.tar"), "{}", said.out);
}

#[test]
fn weights_go_out_and_come_back_unchanged() {
    let folder = temporary();
    let path = |name: &str| folder.path().join(name);
    let theirs = crate::reference().join("hf_ijepa");
    finish(&mut saccade(&["import", at(&theirs), "--out", at(&path("ours"))]), 0);
    finish(&mut saccade(&["export", at(&path("ours")), "--out", at(&path("exported"))]), 0);
    let arrays =
        |folder: &std::path::Path| saccade::checkpoint::read_arrays(&folder.join("model.safetensors")).unwrap();
    assert!(arrays(&path("exported")) == arrays(&theirs), "a tensor changed on its way");
    let again = finish(&mut saccade(&["export", at(&path("ours")), "--out", at(&path("exported"))]), 1);
    assert!(again.err.contains("another --out"), "{}", again.err);
}

#[test]
fn authors_checkpoint_is_imported_by_name() {
    let folder = temporary();
    let ours = folder.path().join("ours");
    let theirs = crate::saccade::root().join("tests/data/authors.pth.tar");
    let without_heads = finish(&mut saccade(&["import", at(&theirs), "--out", at(&ours)]), 1);
    assert!(without_heads.err.contains("--heads"), "{}", without_heads.err);
    finish(&mut saccade(&["import", at(&theirs), "--out", at(&ours), "--heads", "4"]), 0);
    let weights = saccade::checkpoint::read_arrays(&ours.join("weights.safetensors")).unwrap();
    assert!(weights.contains_key("predictor.mask_token"), "{:?}", weights.keys());
    // The fixture's target encoder is half of its encoder, number by number.
    let encoder: Vec<_> = weights.iter().filter(|(name, _)| name.starts_with("encoder.")).collect();
    assert!(encoder.len() > 20, "{:?}", weights.keys());
    for (name, array) in encoder {
        let target = &weights[&name.replacen("encoder.", "target.", 1)];
        assert_eq!(target.shape, array.shape, "{name}");
        assert!(array.values.iter().zip(&target.values).all(|(one, half)| one * 0.5 == *half), "{name}");
    }
    // PyTorch's [outputs, inputs] has become [inputs, outputs], here of a layer that is not square.
    assert_eq!(weights["encoder.blocks.0.mlp.fc1.weight"].shape, [32, 128]);
}

#[test]
fn convnext_of_torchvision_is_imported_by_name_trained_on_and_exported_again() {
    let folder = temporary();
    let path = |name: &str| folder.path().join(name);
    let mut theirs = read_arrays(&reference().join("convnext/small.safetensors")).unwrap();
    theirs.retain(|name, _| !name.starts_with("io.") && !name.starts_with("grad."));
    write_arrays(&path("theirs.safetensors"), &theirs).unwrap();

    finish(&mut saccade(&["import", at(&path("theirs.safetensors")), "--out", at(&path("ours"))]), 0);
    finish(&mut saccade(&["export", at(&path("ours")), "--out", at(&path("again"))]), 0);

    theirs.retain(|name, _| !name.starts_with("classifier.2."));
    assert_eq!(read_arrays(&path("again/convnext.safetensors")).unwrap(), theirs);

    let config: serde_json::Value =
        serde_json::from_slice(&std::fs::read(reference().join("convnext/config.json")).unwrap()).unwrap();
    let weights = format!("encoder.weights={}", path("ours").display());
    let set = |key: &str, value: &serde_json::Value| format!("encoder.{key}={value}");
    let (depths, widths) = (set("depths", &config["depths"]), set("widths", &config["dims"]));
    let check = |widths: &str, code| {
        let pipeline =
            ["check", "pipelines/fashion-saccade.toml", "--set", "augment.size=64", "--set", "saccade.field=96"];
        let encoder = ["--set", &weights, "--set", &depths, "--set", widths, "--set", "telemetry.address=127.0.0.1:0"];
        finish(&mut saccade(&[&pipeline[..], &encoder[..]].concat()), code)
    };
    check(&widths, 0);
    let said = check("encoder.widths=[16, 16, 16, 16]", 1);
    assert!(said.err.contains("another encoder") && said.err.trim_end().lines().count() == 1, "{}", said.err);

    let names = finish(&mut saccade(&["import", at(&path("ours/weights.safetensors")), "--out", at(&path("x"))]), 1);
    assert!(names.err.contains("features.0.0.weight"), "{}", names.err);
}

#[test]
fn energy_falls_in_the_picture_that_is_drawn_of_it() {
    let folder = temporary();
    let (run, picture) = (folder.path().join("run"), folder.path().join("energy.png"));
    let pipeline = "pipelines/fashion-energy.toml";
    // Just past the step at which features are judged first.
    let settings = [
        "train.epochs=0.07",
        "train.warmup_epochs=0.01",
        "train.batch=8",
        "score.train_samples=60",
        "telemetry.address=127.0.0.1:0",
    ];
    let small: Vec<&str> = settings.iter().flat_map(|&setting| ["--set", setting]).collect();
    finish(&mut saccade(&[&["train", pipeline, "--out", at(&run)], &small[..]].concat()), 0);

    let said = finish(&mut saccade(&["show", pipeline, "--energy", at(&run), "--out", at(&picture)]), 0);

    let energy = |line: &str| line.strip_prefix("energy per token after ")?.rsplit(' ').next()?.parse::<f64>().ok();
    let energies: Vec<f64> = said.out.lines().filter_map(energy).collect();
    assert_eq!(energies.len(), 7, "{}", said.out);
    assert!(energies.windows(2).all(|pair| pair[1] < pair[0]), "{energies:?}");
    assert!(image::open(&picture).unwrap().width() > 500);

    // The same is told at the steps at which features are judged.
    let steps = std::fs::read_to_string(run.join("steps.jsonl")).unwrap();
    let steps: Vec<serde_json::Value> = steps.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let told: Vec<&serde_json::Value> = steps.iter().filter(|line| line["energies"].is_array()).collect();
    assert!(!told.is_empty() && told.iter().all(|line| line["features"].is_object()), "{steps:?}");

    let other =
        finish(&mut saccade(&["show", "pipelines/quickstart.toml", "--energy", at(&run), "--out", at(&picture)]), 1);
    assert!(other.err.contains("another encoder"), "{}", other.err);
}

#[test]
fn files_that_are_no_weights_are_refused() {
    let folder = temporary();
    let out = folder.path().join("ours");
    let text = crate::saccade::root().join("README.md");
    let said = finish(&mut saccade(&["import", at(&text), "--out", at(&out)]), 1);
    assert!(said.err.contains("README.md") && said.err.trim_end().lines().count() == 1, "{}", said.err);
}

#[test]
fn two_views_are_streamed_and_drawn() {
    let folder = tempfile::tempdir().unwrap();
    let picture = folder.path().join("views.png");
    let pipeline = "pipelines/fashion-saccade.toml";
    let streamed = finish(&mut saccade(&["stream", pipeline, "--batches", "2", "--json"]), 0);
    for line in streamed.out.lines() {
        let line: serde_json::Value = serde_json::from_str(line).unwrap();
        assert!(line["shifts"].as_str().is_some_and(|digest| digest.len() == 64) && line["masks"].is_null(), "{line}");
    }
    finish(&mut saccade(&["show", pipeline, "--out", picture.to_str().unwrap()]), 0);
    // Two columns of views of 28 pixels, four times as large.
    assert_eq!(image::open(&picture).unwrap().width(), 2 * (28 * 4 + 6) + 6);
    let narrow = ["stream", pipeline, "--batches", "1", "--set", "saccade.field=30"];
    let out_of_view = finish(&mut saccade(&narrow), 1);
    assert_eq!(out_of_view.err.lines().count(), 1, "{}", out_of_view.err);
}

#[cfg(not(feature = "remote"))]
#[test]
fn builds_that_read_no_addresses_say_which_do() {
    for far in ["s3://bucket/s-*.tar", "gs://bucket/s.tar", "https://host/s.tar", "http://host/s.tar"] {
        let said = finish(&mut saccade(&["shards", "list", far]), 1);
        assert!(said.err.contains(far) && said.err.contains("--features remote"), "{}", said.err);
    }
}
