//! Builds without the feature `remote`: there is no depot, and whoever wants one is told how to get it.

use std::convert::Infallible;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use super::{Id, Listed, Patience, RemoteError, Room};
use crate::shard::index::Stamp;
use crate::telemetry::Telemetry;

/// Nobody has one.
#[derive(Debug)]
pub struct Depot(Infallible);

/// Nobody has one.
#[derive(Debug)]
pub struct Ahead(Infallible);

/// Nobody has one.
#[derive(Debug)]
pub struct Lease(Infallible);

/// Nobody has one.
#[derive(Debug)]
pub struct Outbox(Infallible);

impl Outbox {
    /// # Errors
    /// Always.
    pub fn open(_: &str, _: &Path, _: Patience) -> Result<Self, RemoteError> {
        Err(RemoteError::NotBuilt)
    }

    pub fn url(&self, _: &str) -> String {
        match self.0 {}
    }

    pub fn version(&self, _: &str) -> Result<Option<String>, RemoteError> {
        match self.0 {}
    }

    pub fn send(&self, _: &str) -> Result<(), (String, RemoteError)> {
        match self.0 {}
    }

    pub fn sent(&self, _: &str) -> Option<String> {
        match self.0 {}
    }

    pub fn finish(&self) -> Result<(), (String, RemoteError)> {
        match self.0 {}
    }

    pub fn text(&self, _: &str) -> Result<Option<String>, RemoteError> {
        match self.0 {}
    }

    pub fn replace(&self, _: &str, _: impl Fn(&str) -> String) -> Result<(), RemoteError> {
        match self.0 {}
    }

    pub fn write(&self, _: &str, _: String) -> Result<(), RemoteError> {
        match self.0 {}
    }

    pub fn remove(&self, _: &str) -> Result<(), RemoteError> {
        match self.0 {}
    }
}

impl Depot {
    /// # Errors
    /// Always.
    pub fn open(_: &Room, _: Patience, _: Option<&Telemetry>) -> Result<Arc<Self>, RemoteError> {
        Err(RemoteError::NotBuilt)
    }

    pub fn list(&self, _: &str, _: impl Fn(&str) -> bool) -> Result<Vec<String>, RemoteError> {
        match self.0 {}
    }

    pub fn find(&self, _: &str) -> Result<Id, RemoteError> {
        match self.0 {}
    }

    pub fn stamp(&self, _: Id) -> Stamp {
        match self.0 {}
    }

    pub fn expect(&self, _: Id, _: u64, _: Option<[u8; 32]>) {
        match self.0 {}
    }

    pub fn small(&self, _: &str, _: u64) -> Result<Option<Vec<u8>>, RemoteError> {
        match self.0 {}
    }

    pub fn sums(&self, _: &str) -> Result<Option<Arc<Listed>>, RemoteError> {
        match self.0 {}
    }

    pub fn most(&self) -> u64 {
        match self.0 {}
    }

    pub fn lease(self: &Arc<Self>, _: Id) -> Result<Lease, RemoteError> {
        match self.0 {}
    }

    pub fn ahead(self: &Arc<Self>) -> Ahead {
        match self.0 {}
    }

    pub fn is_awaited(&self, _: Id) -> bool {
        match self.0 {}
    }

    pub fn is_wanted(&self, _: Id) -> bool {
        match self.0 {}
    }

    pub fn arrive(&self, _: Id, _: &AtomicBool) -> Result<(), RemoteError> {
        match self.0 {}
    }

    pub fn file(&self, _: Id) -> Option<PathBuf> {
        match self.0 {}
    }

    pub fn read(self: &Arc<Self>, _: Id, _: u64, _: &mut [u8], _: &AtomicBool) -> Result<(), RemoteError> {
        match self.0 {}
    }

    pub fn lost(&self, _: Id) {
        match self.0 {}
    }
}

impl Ahead {
    pub fn read_next(&self, _: Vec<Id>) {
        match self.0 {}
    }
}

impl Lease {
    pub fn open(&self) -> Result<File, RemoteError> {
        match self.0 {}
    }
}
