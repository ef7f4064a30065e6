//! WEIGHTS TO SCORES: what a frozen encoder has learnt, measured on images that it was not fitted on.

pub mod features;
pub mod knn;
pub mod probe;
pub mod dimension;
pub mod lidar;
pub mod maps;
pub mod npy;
pub mod scores;
pub mod umap;
