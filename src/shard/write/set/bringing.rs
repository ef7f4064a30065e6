//! A shard that was ended, and the thread that brings it to the disk while the next is written.

use std::io;
use std::thread::{self, JoinHandle};

use super::super::{Making, Sealed, ShardWriter, WriteError};

/// Waits for the thread when it is dropped, so that nothing is left beside the shard's place.
pub struct Bringing {
    making: Making,
    thread: Option<JoinHandle<Result<Sealed, WriteError>>>,
}

impl Bringing {
    /// # Errors
    /// When the thread cannot be started.
    pub fn begin(shard: ShardWriter, making: &Making) -> io::Result<Self> {
        let thread = thread::Builder::new().name("saccade-sync".into()).spawn(|| shard.seal())?;
        Ok(Self { making: making.clone(), thread: Some(thread) })
    }

    /// Whether nothing need be waited for.
    pub fn is_done(&self) -> bool {
        self.thread.as_ref().is_none_or(JoinHandle::is_finished)
    }

    /// `None` when the thread panicked.
    pub fn wait(mut self) -> Option<Result<Sealed, WriteError>> {
        self.join()
    }

    fn join(&mut self) -> Option<Result<Sealed, WriteError>> {
        let thread = self.thread.take()?;
        let _hurry = self.making.hurry();
        thread.join().ok()
    }
}

impl Drop for Bringing {
    fn drop(&mut self) {
        self.join();
    }
}
