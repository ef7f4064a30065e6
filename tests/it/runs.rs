//! Runs from beginning to end: killed, stopped, damaged and taken up again.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Lines, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::AtomicBool;

use saccade::checkpoint::{self, Checkpoint};
use saccade::config::{Plan, RunConfig};
use saccade::draws::{Draws, Purpose};
use saccade::run;
use saccade::run::score::{Extraction, Interrupted, scores};
use saccade::shard::Cache;
use saccade::shard::write::ShardWriter;
use serde_json::Value;
use tempfile::TempDir;

use crate::saccade::{Said, at, checkpoints, column, finish, last_arrays, root, saccade, small, temporary};

const QUICKSTART: &str = "pipelines/quickstart.toml";
const STEPS: u64 = 187;

/// What resuming must give back to the bit; times and rates differ.
const EXACT: [&str; 8] =
    ["step", "loss", "gradient_norm", "target_deviation", "learning_rate", "weight_decay", "ema_decay", "probe"];

/// A run that nobody disturbed; made once for all tests.
fn undisturbed() -> &'static Path {
    static RUN: OnceLock<TempDir> = OnceLock::new();
    RUN.get_or_init(|| {
        let folder = temporary();
        train(&folder.path().join("run"));
        folder
    })
    .path()
}

fn undisturbed_run() -> PathBuf {
    undisturbed().join("run")
}

fn train(out: &Path) {
    finish(small(&mut saccade(&["train", QUICKSTART, "--out", at(out)]), &[]), 0);
}

fn resume(run: &Path) -> Said {
    finish(&mut saccade(&["train", "--resume", at(run)]), 0)
}

fn assert_same_course(run: &Path) {
    for key in EXACT {
        let (ours, expected) =
            (column(&run.join("steps.jsonl"), key), column(&undisturbed_run().join("steps.jsonl"), key));
        assert_eq!(ours, expected, "{key} differs from the undisturbed run's");
    }
    assert!(last_arrays(run) == last_arrays(&undisturbed_run()), "final weights differ from the undisturbed run's");
}

#[test]
fn run_leaves_its_plan_steps_checkpoints_and_scores() {
    let run = undisturbed_run();
    let steps = column(&run.join("steps.jsonl"), "step");
    assert_eq!(steps, (0..STEPS).map(Value::from).collect::<Vec<_>>());
    assert_eq!(checkpoints(&run).len(), 3, "keep = 3");
    let scores: Value = serde_json::from_slice(&fs::read(run.join("scores.json")).unwrap()).unwrap();
    for score in ["knn", "knn_before_training", "knn_raw_pixels"] {
        let share = scores[0][score].as_f64().unwrap();
        assert!((0.1..1.0).contains(&share), "{score} = {share}: ten classes give a tenth by chance");
    }
    assert_eq!(scores[0]["train_samples"], 6000);
    let given = fs::read(crate::saccade::root().join(QUICKSTART)).unwrap();
    assert!(fs::read(run.join("pipeline.toml")).unwrap() == given, "the pipeline file is kept as given");
    let plan: Value = serde_json::from_slice(&fs::read(run.join("plan.json")).unwrap()).unwrap();
    assert_eq!(plan["derived"]["steps"], STEPS);
    assert_eq!(plan["config"]["encoder"]["width"], 16);
}

#[test]
fn run_says_where_its_time_went_and_on_which_machine() {
    let run = undisturbed_run();
    let steps = column(&run.join("stages.jsonl"), "step");
    // At each checkpoint, and after the score.
    let saves = (1..=STEPS / 5).map(|number| 5 * number).chain([STEPS, STEPS]);
    assert_eq!(steps, saves.map(Value::from).collect::<Vec<_>>());
    let seconds = column(&run.join("stages.jsonl"), "seconds").pop().unwrap().as_f64().unwrap();
    let stages = column(&run.join("stages.jsonl"), "stages").pop().unwrap();
    let spent = |stage: &str| -> f64 {
        ["busy", "starved", "blocked"].iter().map(|kind| stages[stage][kind].as_f64().unwrap()).sum()
    };
    // One thread trains, saves and scores.
    let main = spent("train") + spent("checkpoint") + spent("eval");
    assert!(main > 0.5 * seconds && main < 1.02 * seconds, "{main} of {seconds} s: {stages}");
    assert_eq!(stages["train"]["samples"], STEPS * 32);
    let sessions = fs::read_to_string(run.join("sessions.jsonl")).unwrap();
    let session: Value = serde_json::from_str(sessions.trim()).unwrap();
    assert_eq!(
        (&session["step"], &session["device"], &session["version"]),
        (&0.into(), &"cpu".into(), &env!("CARGO_PKG_VERSION").into())
    );
    assert!(session["threads"].as_u64() > Some(0) && session["memory_bytes"].as_u64() > Some(1 << 28), "{session}");
}

/// What the package reads of them, `scripts/check-scores` checks.
#[test]
fn run_leaves_event_files_where_they_are_asked_for() {
    let folder = temporary();
    let out = folder.path().join("run");
    let few = ["telemetry.tensorboard=true", "train.epochs=0.1"];
    finish(small(&mut saccade(&["train", QUICKSTART, "--out", at(&out)]), &few), 0);
    let files: Vec<PathBuf> = fs::read_dir(out.join("tensorboard")).unwrap().map(|file| file.unwrap().path()).collect();
    assert_eq!(files.len(), 1, "{files:?}");
    let bytes = fs::read(&files[0]).unwrap();
    let holds = |text: &[u8]| bytes.windows(text.len()).any(|window| window == text);
    for name in
        ["loss/total", "loss/prediction", "schedule/ema_decay", "scores/knn", "scores/online_probe", "attention"]
    {
        assert!(holds(name.as_bytes()), "no {name} in {}", files[0].display());
    }
    assert!(!undisturbed_run().join("tensorboard").exists(), "nobody asked");
}

/// The six pictures are of every other image, all of which are cut short; scores are taken of the rest.
#[test]
fn picture_that_cannot_be_drawn_ends_no_run() {
    let folder = temporary();
    let shard = held_out_of_12(folder.path(), |number| number % 2 == 0);
    let out = folder.path().join("run");
    let held_out = format!("data.validation=\"{}\"", shard.display());
    let few = ["telemetry.tensorboard=true", "train.epochs=0.1", &held_out];
    let said = finish(small(&mut saccade(&["train", QUICKSTART, "--out", at(&out)]), &few), 0);
    assert!(said.err.contains("no picture `attention` for TensorBoard: none of 6 held-out images"), "{}", said.err);
    let scores: Value = serde_json::from_slice(&fs::read(out.join("scores.json")).unwrap()).unwrap();
    assert_eq!(scores[0]["validation_samples"], 6);
}

/// Training is worth more than a score; resuming tries again.
#[test]
fn score_that_cannot_be_taken_ends_no_run() {
    let folder = temporary();
    let shard = held_out_of_12(folder.path(), |_| true);
    let out = folder.path().join("run");
    let held_out = format!("data.validation=\"{}\"", shard.display());
    let said =
        finish(small(&mut saccade(&["train", QUICKSTART, "--out", at(&out)]), &["train.epochs=0.1", &held_out]), 0);
    let why = "no scores after step 18: ";
    assert!(said.err.contains(why) && said.err.contains("no sample that can be used has a label"), "{}", said.err);
    assert!(!out.join("scores.json").exists() && checkpoints(&out).len() == 3);
    assert!(resume(&out).err.contains(why));
}

/// A shard of twelve held-out samples, of which some images are cut short.
fn held_out_of_12(folder: &Path, is_cut: impl Fn(usize) -> bool) -> PathBuf {
    let shard = folder.join("held-out.tar");
    let mut writer = ShardWriter::create(&shard, false).unwrap();
    let mut whole = tar::Archive::new(File::open(root().join("shards/fashion-validation-000000.tar")).unwrap());
    for (number, member) in whole.entries().unwrap().take(24).enumerate() {
        let mut member = member.unwrap();
        let name = member.path().unwrap().display().to_string();
        let (key, extension) = name.split_once('.').unwrap();
        let mut bytes = Vec::new();
        member.read_to_end(&mut bytes).unwrap();
        if extension == "jpg" && is_cut(number / 2) {
            bytes.truncate(40);
        }
        writer.add(key, extension, &bytes).unwrap();
    }
    writer.finish(&Cache::from_env()).unwrap();
    shard
}

/// Builds of before there was one have left such checkpoints. What is there in part is damage.
#[test]
fn run_without_an_online_probe_in_its_checkpoint_goes_on_with_a_new_one() {
    let folder = temporary();
    let run = folder.path().join("run");
    copy(&undisturbed_run(), &run);
    fs::remove_dir_all(checkpoints(&run).pop().unwrap()).unwrap();
    let strip = |name: &str| {
        let Checkpoint { mut position, mut weights, .. } = checkpoint::read(&checkpoints(&run).pop().unwrap()).unwrap();
        weights.retain(|key, _| !key.starts_with(name));
        position.updates.remove(name);
        checkpoint::save(&run.join("checkpoints"), &position, &weights, 3).unwrap();
    };
    strip("probe.moment1");
    let said = finish(&mut saccade(&["train", "--resume", at(&run)]), 1);
    assert!(said.err.contains("probe.moment1"), "{}", said.err);
    strip("probe.");
    let said = resume(&run);
    assert!(said.err.contains("holds no online probe of these labels, which begins afresh"), "{}", said.err);
    let ours = |run: &Path| {
        let mut weights = checkpoint::read(&checkpoints(run).pop().unwrap()).unwrap().weights;
        weights.retain(|key, _| !key.starts_with("probe."));
        weights
    };
    assert!(ours(&run) == ours(&undisturbed_run()), "the probe has no part in what is trained");
}

/// The stop comes from a signal, which would have to hit the moment.
#[test]
fn scores_end_when_the_run_is_to_stop() {
    let config = RunConfig::read(&root().join(QUICKSTART), &["train.batch=32".into()]).unwrap();
    let plan = Plan::new(config).unwrap();
    let place = plan.config.device.open().unwrap();
    let trainer = run::trainer(&plan, &place, None).unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let stop = AtomicBool::new(true);
    let from = Extraction { plan: &plan, place: &place, runtime: runtime.handle(), stop: &stop };
    let error = scores(from, 0, trainer.target(), None, None).unwrap_err();
    assert!(error.is::<Interrupted>(), "{error:#}");
}

#[test]
fn run_killed_ten_times_ends_like_one_left_alone() {
    let folder = temporary();
    let run = folder.path().join("run");
    let mut draws = Draws::new(2026, 0, 0, Purpose::SampleOrder);
    let mut running = Running::start(small(&mut saccade(&["train", QUICKSTART, "--out", at(&run)]), &[]));
    for _ in 0..10 {
        // Moments in the run's own time, some of them before its first line: a line comes after every ninth step.
        running.wait_for_lines(draws.below(3));
        assert!(running.child.try_wait().unwrap().is_none(), "the run must not end before it is killed");
        running.child.kill().unwrap();
        running.child.wait().unwrap();
        running = Running::start(&mut saccade(&["train", "--resume", at(&run)]));
    }
    assert!(running.end(), "the last resumed run ends well");
    assert_same_course(&run);
}

#[test]
fn sigterm_saves_where_the_run_stands_and_resuming_goes_on() {
    let folder = temporary();
    let run = folder.path().join("run");
    let rarely = ["checkpoint.every_steps=1000"];
    let mut running = Running::start(small(&mut saccade(&["train", QUICKSTART, "--out", at(&run)]), &rarely));
    running.wait_for_lines(3);
    terminate(&running.child);
    assert!(running.end(), "SIGTERM is an orderly end");
    let done = lines_of(&run);
    assert!((27..STEPS as usize).contains(&done), "stopped after {done} steps");
    assert_eq!(checkpoints(&run).len(), 1);
    resume(&run);
    assert_same_course(&run);
}

#[test]
fn damaged_checkpoints_are_refused_and_the_one_before_is_used() {
    type Damage = (&'static str, fn(&Path));
    let damages: [Damage; 5] = [
        ("arrays cut short", |newest| cut(&newest.join("weights.safetensors"))),
        ("state cut short", |newest| cut(&newest.join("state.json"))),
        ("a byte of the arrays flipped", |newest| flip(&newest.join("weights.safetensors"))),
        ("a byte of the state flipped", |newest| flip(&newest.join("state.json"))),
        ("a byte of the sums flipped", |newest| flip(&newest.join("SHA256SUMS"))),
    ];
    for (what, damage) in damages {
        let folder = temporary();
        let run = folder.path().join("run");
        copy(&undisturbed_run(), &run);
        let newest = checkpoints(&run).pop().unwrap();
        damage(&newest);
        let said = resume(&run);
        assert!(said.err.contains("checkpoint refused"), "{what}: {}", said.err);
        assert!(said.err.contains("going on after step 185"), "{what}: {}", said.err);
        assert_same_course(&run);
    }
}

#[test]
fn run_without_a_whole_checkpoint_is_not_begun_again_by_itself() {
    let folder = temporary();
    let run = folder.path().join("run");
    copy(&undisturbed_run(), &run);
    checkpoints(&run).iter().for_each(|path| flip(&path.join("weights.safetensors")));
    let before = fs::read(run.join("steps.jsonl")).unwrap();
    let said = finish(&mut saccade(&["train", "--resume", at(&run)]), 1);
    assert!(said.err.contains("no other checkpoint is whole"), "{}", said.err);
    assert!(fs::read(run.join("steps.jsonl")).unwrap() == before, "the records stay as they are");
}

#[test]
fn going_back_keeps_the_checkpoints_that_are_written_next() {
    let folder = temporary();
    let run = folder.path().join("run");
    copy(&undisturbed_run(), &run);
    let all = checkpoints(&run);
    all[1..].iter().for_each(|path| flip(&path.join("state.json")));
    resume(&run);
    assert_same_course(&run);
    assert_eq!(checkpoints(&run), all, "the damaged ones are written again, and the last of them is there");
}

#[test]
fn line_that_was_being_written_at_the_kill_is_made_again() {
    let folder = temporary();
    let run = folder.path().join("run");
    copy(&undisturbed_run(), &run);
    fs::remove_dir_all(checkpoints(&run).pop().unwrap()).unwrap();
    for torn in [&b"{\"step\":187,\"lo"[..], b"{\"step\":3}", b"\xff\xfe"] {
        let mut bytes = fs::read(run.join("steps.jsonl")).unwrap();
        bytes.extend_from_slice(torn);
        fs::write(run.join("steps.jsonl"), bytes).unwrap();
        resume(&run);
        assert_same_course(&run);
    }
}

#[test]
fn score_that_a_killed_run_owes_is_taken_when_it_is_resumed() {
    let folder = temporary();
    let run = folder.path().join("run");
    copy(&undisturbed_run(), &run);
    fs::remove_file(run.join("scores.json")).unwrap();
    resume(&run);
    let scores = |run: &Path| fs::read(run.join("scores.json")).unwrap();
    assert!(scores(&run) == scores(&undisturbed_run()), "the same score as that of the undisturbed run");
}

#[test]
fn settings_that_take_many_digits_do_not_keep_a_run_from_being_resumed() {
    let folder = temporary();
    let run = folder.path().join("run");
    let digits = ["augment.crop_ratio=[0.8660254037844387, 1.1547005383792515]", "train.epochs=0.1"];
    finish(small(&mut saccade(&["train", QUICKSTART, "--out", at(&run)]), &digits), 0);
    resume(&run);
}

#[test]
fn run_that_cannot_begin_leaves_no_folder() {
    for change in ["device=\"cuda:0\"", "encoder.weights=\"nowhere\"", "train.batch=0"] {
        let folder = temporary();
        let run = folder.path().join("run");
        finish(small(&mut saccade(&["train", QUICKSTART, "--out", at(&run)]), &[change]), 1);
        assert!(!run.exists(), "{change} left {}", run.display());
    }
}

#[test]
fn resuming_under_other_settings_is_refused() {
    let folder = temporary();
    let run = folder.path().join("run");
    copy(&undisturbed_run(), &run);
    let other_seed = finish(&mut saccade(&["train", "--resume", at(&run), "--set", "seed=1"]), 1);
    assert!(other_seed.err.contains("other settings"), "{}", other_seed.err);
    let other_shards = ["--set", "data.train=shards/fashion-validation-{000000..000001}.tar"];
    let other_data = finish(saccade(&["train", "--resume", at(&run)]).args(other_shards), 1);
    assert!(other_data.err.contains("other"), "{}", other_data.err);
}

#[test]
fn number_of_workers_and_what_is_kept_of_blocks_may_change_when_resuming() {
    let folder = temporary();
    let run = folder.path().join("run");
    copy(&undisturbed_run(), &run);
    fs::remove_dir_all(checkpoints(&run).pop().unwrap()).unwrap();
    let changes = ["--set", "stream.workers=5", "--set", "train.recompute=true"];
    finish(saccade(&["train", "--resume", at(&run)]).args(changes), 0);
    assert_same_course(&run);
}

/// One checkpoint, one set of records; a run of ranks goes on as one without, and the other way round.
#[test]
fn two_ranks_take_the_course_of_two_parts_of_each_batch() {
    let folder = temporary();
    let few = ["train.epochs=0.2", "checkpoint.every_steps=1000"];
    let train = |name: &str, change: &str| {
        let run = folder.path().join(name);
        finish(small(&mut saccade(&["train", QUICKSTART, "--out", at(&run)]), &[few[0], few[1], change]), 0);
        run
    };
    let (ranks, parts) = (train("ranks", "device=\"cpu:2\""), train("parts", "train.accumulate=2"));
    for key in EXACT {
        let [ours, theirs] = [&ranks, &parts].map(|run| column(&run.join("steps.jsonl"), key));
        assert!(ours.len() == 37 && ours == theirs, "{key} of two ranks: {ours:?}\nof two parts: {theirs:?}");
    }
    assert!(last_arrays(&ranks) == last_arrays(&parts), "the ranks' weights differ");
    assert_eq!(checkpoints(&ranks).len(), 1);
    let changes = ["device=\"cpu\"", "train.accumulate=2"].map(|change| ["--set", change]);
    fs::remove_dir_all(checkpoints(&ranks).pop().unwrap()).unwrap();
    finish(saccade(&["train", "--resume", at(&ranks)]).args(changes.concat()), 0);
    assert!(last_arrays(&ranks) == last_arrays(&parts), "the weights differ after going on without ranks");
    let four = finish(&mut saccade(&["train", "--resume", at(&ranks), "--set", "device=\"cpu:4\""]), 1);
    assert!(four.err.contains("other settings"), "{}", four.err);
    let session = fs::read_to_string(ranks.join("sessions.jsonl")).unwrap();
    assert!(session.contains("cpu:2"), "{session}");
}

#[test]
fn loss_that_is_not_a_number_stops_the_run_with_step_and_keys() {
    let folder = temporary();
    let run = folder.path().join("run");
    let absurd = ["train.learning_rate=[1e30, 1e30, 1e30]", "train.warmup_epochs=0"];
    let said = finish(small(&mut saccade(&["train", QUICKSTART, "--out", at(&run)]), &absurd), 1);
    assert!(said.err.contains("is not a number") && said.err.contains("train-0"), "{}", said.err);
    let bad: Value = serde_json::from_slice(&fs::read(run.join("bad-step.json")).unwrap()).unwrap();
    assert_eq!(bad["keys"].as_array().unwrap().len(), 32, "all keys of the batch");
}

#[test]
fn gradients_of_micro_batches_and_clipping_are_part_of_the_course() {
    let folder = temporary();
    let run = |name: &str, more: &[&str]| {
        let out = folder.path().join(name);
        let short = [&["train.epochs=0.0321", "train.warmup_epochs=0.01"], more].concat();
        finish(small(&mut saccade(&["train", QUICKSTART, "--out", at(&out)]), &short), 0);
        column(&out.join("steps.jsonl"), "loss").iter().map(|loss| loss.as_f64().unwrap()).collect::<Vec<f64>>()
    };
    let (whole, parts) = (run("whole", &[]), run("parts", &["train.accumulate=3"]));
    let clipped = run("clipped", &["train.clip_norm=0.001"]);
    for (step, (whole, parts)) in whole.iter().zip(&parts).enumerate() {
        // Sums in another order: float32 rounding over the steps of the run.
        assert!((whole - parts).abs() < 1e-4 * whole, "step {step}: {whole} in one batch, {parts} in three");
    }
    assert_ne!(whole, clipped, "clipping to a thousandth must change the course");
}

/// A run in the making, and the lines that it prints about its steps.
struct Running {
    child: Child,
    lines: Lines<BufReader<ChildStderr>>,
}

impl Running {
    fn start(command: &mut Command) -> Self {
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(child.stderr.take().unwrap()).lines();
        Self { child, lines }
    }

    /// Reads until the run has printed so many more step lines, or has ended.
    fn wait_for_lines(&mut self, count: u64) {
        let is_step = |line: &String| line.starts_with("step ");
        self.lines.by_ref().map(Result::unwrap).filter(is_step).take(count as usize).for_each(drop);
    }

    fn end(mut self) -> bool {
        self.lines.by_ref().for_each(drop);
        self.child.wait().unwrap().success()
    }
}

fn lines_of(run: &Path) -> usize {
    column(&run.join("steps.jsonl"), "step").len()
}

fn terminate(child: &Child) {
    let killed = Command::new("kill").args(["-TERM", &child.id().to_string()]).status().unwrap();
    assert!(killed.success());
}

fn cut(path: &Path) {
    let bytes = fs::read(path).unwrap();
    fs::write(path, &bytes[..bytes.len() / 2]).unwrap();
}

fn flip(path: &Path) {
    let mut bytes = fs::read(path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(path, bytes).unwrap();
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap().flatten() {
        let (source, place) = (entry.path(), to.join(entry.file_name()));
        if source.is_dir() { copy(&source, &place) } else { assert!(fs::copy(source, place).is_ok()) }
    }
}
