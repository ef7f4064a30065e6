//! Vectors to points of a plane, in which what was near stays near: UMAP (McInnes, Healy and Melville 2018, sections 3 and
//! 4), with exact neighbours and the constants of the authors' implementation, umap-learn.
//!
//! It is written here because the crate `umap-rs` 0.4.5 scored worse than PCA when it was tried. All cores look for the
//! neighbours, one thread moves the points: so a seed gives the same plane whatever the number of threads.

mod graph;
mod layout;
mod nearest;
mod start;

pub use self::layout::Curve;
pub use self::nearest::{Neighbours, neighbours, trustworthiness};

/// How far apart the points of a cluster lie: the unit of the plane, and of the least distance.
const SPREAD: f64 = 1.0;
/// Points up to which the layout takes [`MANY_EPOCHS`] (umap-learn's choice, as are the next two).
const FEW_POINTS: usize = 10_000;
const MANY_EPOCHS: usize = 500;
const FEW_EPOCHS: usize = 200;

/// What becomes of the points (section 4.3).
#[derive(Clone, Debug, PartialEq)]
pub struct UmapConfig {
    /// Points that a point is thought to touch, itself included: few show what is small, many what is large.
    pub neighbours: usize,
    /// How closely points may lie in the plane, in 0..=1.
    pub least_distance: f64,
    /// Rounds of the layout; by the number of points where it is `None`.
    pub epochs: Option<usize>,
    pub seed: u64,
}

impl UmapConfig {
    /// What umap-learn takes when it is not told otherwise.
    pub fn new(seed: u64) -> Self {
        Self { neighbours: 15, least_distance: 0.1, epochs: None, seed }
    }
}

/// Why vectors have no embedding.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum UmapError {
    #[error("{values} values are no whole rows of {width}")]
    Shape { values: usize, width: usize },
    #[error("row {row}: feature {feature} is {value}, needs a finite number")]
    NotFinite { row: usize, feature: usize, value: f32 },
    #[error("{neighbours} neighbours: needs at least 2, since a point is the first of its own")]
    Neighbours { neighbours: usize },
    #[error("least distance {least_distance}: must lie in 0..={SPREAD}")]
    LeastDistance { least_distance: f64 },
}

/// Lays vectors out in a plane.
///
/// The same seed gives the same points, bit by bit, for any number of threads; another processor's or system's mathematical
/// functions may round otherwise. Equal vectors become points close to one another. Fewer rows than neighbours are all each other's neighbours; a single
/// row lies at the origin.
///
/// # Shapes
/// - `values`: `[rows, width]`, row by row
/// - output: `[rows, 2]`
///
/// # Errors
/// When the values are no whole rows or not finite, or a setting is out of its range.
pub fn umap(values: &[f32], width: usize, config: &UmapConfig) -> Result<Vec<[f32; 2]>, UmapError> {
    check(values, width, config)?;
    let rows = values.len().checked_div(width).unwrap_or(0);
    let graph = graph::graph(&neighbours(values, width, config.neighbours - 1));
    let mut points = start::start(values, width, config.seed);
    let epochs = config.epochs.unwrap_or(if rows <= FEW_POINTS { MANY_EPOCHS } else { FEW_EPOCHS });
    layout::settle(&mut points, &graph, Curve::fit(config.least_distance, SPREAD), epochs, config.seed);
    Ok(points)
}

fn check(values: &[f32], width: usize, config: &UmapConfig) -> Result<(), UmapError> {
    let &UmapConfig { neighbours, least_distance, .. } = config;
    if neighbours < 2 {
        return Err(UmapError::Neighbours { neighbours });
    }
    if !(0.0..=SPREAD).contains(&least_distance) {
        return Err(UmapError::LeastDistance { least_distance });
    }
    if !values.is_empty() && values.len().checked_rem(width) != Some(0) {
        return Err(UmapError::Shape { values: values.len(), width });
    }
    match values.iter().position(|value| !value.is_finite()) {
        Some(place) => Err(UmapError::NotFinite { row: place / width, feature: place % width, value: values[place] }),
        None => Ok(()),
    }
}
