//! Parses, calls, and sets the exit code: 0 done, 1 failed, 2 wrong usage.

use std::process::ExitCode;

use clap::Parser;
use saccade::cli::{Cli, complain, run};

fn main() -> ExitCode {
    let cli = Cli::parse();
    if let Err(error) = saccade::telemetry::log::start() {
        complain(&error.into());
        return ExitCode::from(2);
    }
    match run(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => complain(&error),
    }
}
