//! The telemetry's port beside a verb's work.

use std::net::SocketAddr;

use anyhow::Result;
use tokio::runtime::Runtime;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::config::RunConfig;
use crate::telemetry::Telemetry;
use crate::telemetry::server::{self, End};

/// The port, served until told to stop.
pub struct Serving {
    address: Option<SocketAddr>,
    stop: Option<(oneshot::Sender<End>, JoinHandle<()>)>,
}

impl Serving {
    pub fn start(config: &RunConfig, telemetry: &Telemetry, runtime: &Runtime) -> Result<Self> {
        let Some(address) = config.telemetry.address else {
            return Ok(Self { address: None, stop: None });
        };
        let listener = server::bind(address)?;
        let address = listener.address();
        #[cfg(feature = "nvml")]
        if let Err(error) = telemetry.watch_gpus(None) {
            tracing::warn!("no metrics of GPUs: {error}");
        }
        let (stop, stopped) = oneshot::channel();
        let telemetry = telemetry.clone();
        let task = runtime.spawn(async move {
            let end = async { stopped.await.unwrap_or(End::Now) };
            if let Err(error) = server::serve(listener, telemetry, end).await {
                tracing::warn!("{error}");
            }
        });
        Ok(Self { address: Some(address), stop: Some((stop, task)) })
    }

    pub fn address(&self) -> Option<SocketAddr> {
        self.address
    }

    /// Ends serving; Ctrl-C and SIGTERM end what is yet waited for.
    pub fn stop(self, runtime: &Runtime, end: End) {
        let Some((stop, task)) = self.stop else { return };
        let _ = stop.send(end);
        runtime.block_on(async {
            let (Ok(mut interrupt), Ok(mut terminate)) =
                (signal(SignalKind::interrupt()), signal(SignalKind::terminate()))
            else {
                return;
            };
            tokio::select! {
                _ = task => {}
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
        });
    }
}
