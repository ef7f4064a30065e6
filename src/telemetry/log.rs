//! Log lines, to standard error.
//!
//! Comes in: `tracing` events of the whole process. Goes out: plain lines at the level that `RUST_LOG` asks for.

use std::io::{self, IsTerminal};

use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;

use super::TelemetryError;

/// Starts the log of the process: `info` and above unless `RUST_LOG` says otherwise, colours on a terminal only.
///
/// # Errors
/// [`TelemetryError::LogFilter`] if `RUST_LOG` cannot be read, [`TelemetryError::LogStarted`] on a second call.
pub fn start() -> Result<(), TelemetryError> {
    let filter = EnvFilter::builder().with_default_directive(LevelFilter::INFO.into()).from_env()?;
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal())
        .with_target(false)
        .try_init()
        .map_err(|_| TelemetryError::LogStarted)
}
