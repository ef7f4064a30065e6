//! `saccade` trains image encoders without labels, by Joint Embedding Predictive Architectures, at the full speed at
//! which one machine can load data.
//!
//! ```text
//! shard ─▶ read ─▶ decode ─▶ augment ─▶ mask ─▶ batch ─▶ upload ─▶ train ─▶ checkpoint ─▶ eval
//!         async I/O  └──── one pool of CPU workers ────┘            device
//! ```
//!
//! The modules stand in the order in which data flows; each uses only those above it.

pub mod telemetry;
pub mod draws;
pub mod shard;
pub mod pipeline;
pub mod model;
pub mod objective;
pub mod train;
pub mod checkpoint;
pub mod eval;
pub mod config;
pub mod run;
pub mod web;
pub mod cli;
