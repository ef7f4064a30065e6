//! The binary as users run it, on a run small enough for a test.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;
use tempfile::TempDir;

/// The quick start made small: 187 steps of a model that a step takes a few milliseconds for.
pub const SMALL: [&str; 12] = [
    "encoder.width=16",
    "encoder.depth=1",
    "encoder.heads=2",
    "predictor.width=16",
    "predictor.depth=1",
    "train.batch=32",
    "train.epochs=1",
    "train.warmup_epochs=0.05",
    "checkpoint.every_steps=5",
    "checkpoint.keep=3",
    "score.k=5",
    "telemetry.address=127.0.0.1:0",
];

/// A command of the binary, run in the repository's root.
pub fn saccade(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_saccade"));
    command.args(arguments).current_dir(root()).env_remove("RUST_LOG");
    command
}

pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Adds the settings of a small run, then `more`.
pub fn small<'a>(command: &'a mut Command, more: &[&str]) -> &'a mut Command {
    SMALL.iter().chain(more).fold(command, |command, change| command.args(["--set", change]))
}

/// Runs to the end; fails with all that was printed unless the exit code is `code`.
pub fn finish(command: &mut Command, code: i32) -> Said {
    let Output { status, stdout, stderr } = command.output().expect("the binary starts");
    let said = Said { out: text(stdout), err: text(stderr) };
    assert_eq!(status.code(), Some(code), "{command:?}\nstdout: {}\nstderr: {}", said.out, said.err);
    said
}

/// What the binary printed.
pub struct Said {
    pub out: String,
    pub err: String,
}

fn text(bytes: Vec<u8>) -> String {
    String::from_utf8(bytes).expect("output is text")
}

/// The values of one key in every line of a file of JSON lines.
pub fn column(path: &Path, key: &str) -> Vec<Value> {
    let text = std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    text.lines().map(|line| serde_json::from_str::<Value>(line).expect("a line of JSON")[key].clone()).collect()
}

/// The arrays of a run's newest checkpoint, bit for bit.
pub fn last_arrays(run: &Path) -> Vec<u8> {
    let newest = checkpoints(run).pop().expect("the run has a checkpoint");
    std::fs::read(newest.join("weights.safetensors")).expect("a checkpoint holds arrays")
}

/// Checkpoints, oldest first.
pub fn checkpoints(run: &Path) -> Vec<PathBuf> {
    let folder = std::fs::read_dir(run.join("checkpoints")).expect("the run has a folder of checkpoints");
    let mut found: Vec<PathBuf> = folder.flatten().map(|entry| entry.path()).collect();
    found.retain(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("step-")));
    found.sort();
    found
}

pub fn temporary() -> TempDir {
    tempfile::tempdir().expect("a temporary folder")
}

/// Paths as arguments.
pub fn at(path: &Path) -> &str {
    path.to_str().expect("test paths are text")
}
