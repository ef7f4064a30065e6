//! How a failure is told: its chain of causes, in one line.

use std::io::{self, Write};
use std::process::ExitCode;

/// A failure that was told already, by whoever had yet to wait for something.
#[derive(Debug, thiserror::Error)]
#[error("failed")]
pub(super) struct Told;

/// Prints the error and its causes in one line to the standard error, and returns the exit code.
pub fn complain(error: &anyhow::Error) -> ExitCode {
    // Whoever read our output has read enough.
    if error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe) {
        return ExitCode::SUCCESS;
    }
    if !error.is::<Told>() {
        let _ = writeln!(io::stderr(), "error: {}", one_line(error));
    }
    ExitCode::FAILURE
}

/// The error and its causes; a cause that its effect quotes already is not said twice.
fn one_line(error: &anyhow::Error) -> String {
    let mut text = String::new();
    for cause in error.chain().map(|cause| cause.to_string().replace('\n', " ")) {
        if !text.contains(&cause) {
            let gap = if text.is_empty() { "" } else { ": " };
            text = format!("{text}{gap}{cause}");
        }
    }
    text
}
