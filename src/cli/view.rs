//! `view`: serves the attention view until it is told to stop.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, Result};
use clap::Args;
use tokio::runtime::Runtime;

use super::eval::{EncoderArgs, names};
use super::say;
use crate::web::{Address, Gallery, GalleryRequest, Limits, Port};

#[derive(Args)]
pub struct ViewArgs {
    #[command(flatten)]
    encoder: EncoderArgs,
    /// Where the page is served, HOST:PORT; another address than this machine's own lets others look too, by numbers or
    /// by the name that stands here
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:9500")]
    address: Address,
    /// A file with the labels' names, a line each, from label 0 on
    #[arg(long, value_name = "FILE")]
    names: Option<PathBuf>,
    /// Training samples that neighbours are looked for in, at most, evenly spread over all; 0 for none
    #[arg(long, value_name = "N", default_value_t = 5000)]
    neighbours_among: usize,
}

pub fn run(args: &ViewArgs) -> Result<()> {
    let runtime = Runtime::new().context("no threads for the runtime")?;
    let port = Port::take(&args.address)?;
    let request = GalleryRequest {
        among: args.neighbours_among,
        names: names(args.names.as_deref())?,
        run: args.encoder.run.display().to_string(),
    };
    let gallery = Arc::new(Gallery::new(args.encoder.open()?, request)?);
    say(&format!("look at http://{}/ (Ctrl-C ends it)", port.shown()))?;
    let (learner, handle) = (Arc::clone(&gallery), runtime.handle().clone());
    // A thread of its own: it is not waited for at the end.
    let learn = move || {
        if let Err(error) = learner.learn_neighbours(&handle) {
            tracing::warn!("no neighbours: {error:#}");
        }
    };
    std::thread::Builder::new().name("neighbours".into()).spawn(learn).context("no thread for the neighbours")?;
    let served = runtime.block_on(port.serve(gallery, Limits::default(), told_to_stop()));
    runtime.shutdown_background();
    served
}

/// Ready at Ctrl-C or SIGTERM.
async fn told_to_stop() {
    use tokio::signal::unix::{SignalKind, signal};
    let (Ok(mut interrupt), Ok(mut terminate)) = (signal(SignalKind::interrupt()), signal(SignalKind::terminate()))
    else {
        return std::future::pending().await;
    };
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
}
