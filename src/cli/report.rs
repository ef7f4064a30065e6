//! `report`: a run on one page.

use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::Args;
use tokio::runtime::Runtime;

use super::eval::names;
use super::{Changes, say};
use crate::run::report;

#[derive(Args)]
pub struct ReportArgs {
    /// A run folder, of a run that is done or goes on
    run: PathBuf,
    #[command(flatten)]
    changes: Changes,
    /// The page to write, in place of one that is there
    #[arg(long, value_name = "X.html")]
    out: PathBuf,
    /// A file with the labels' names, a line each, from label 0 on
    #[arg(long, value_name = "FILE")]
    names: Option<PathBuf>,
}

pub fn run(args: &ReportArgs) -> Result<()> {
    let runtime = Runtime::new().context("no threads for the runtime")?;
    let names = names(args.names.as_deref())?;
    let missing = report::write(&args.run, &args.changes.set, &names, &args.out, runtime.handle())?;
    missing.iter().try_for_each(|what| say(&format!("without {what}")))?;
    say(&format!("{}: open it in a browser", args.out.display()))
}
