//! What is computed for a report: scores, the features in the plane, pictures.

use std::path::Path;

use anyhow::{Error, Result};
use tokio::runtime::Handle;

use crate::eval::umap::UmapConfig;
use crate::run::eval::{Evaluation, Frozen, Pooling, Request, Split, Splits};
use crate::run::exchange::Which;
use crate::run::heat::{self, Drawn};
use crate::run::{plane, retrieval, show};

/// Neighbours that vote, as `eval` has them.
const KS: [usize; 4] = [1, 5, 20, 200];
/// Training samples that kNN and the probe are given at most: as many as fit any machine's patience.
const MOST_TRAIN: usize = 50_000;
/// Held-out samples in the drawing of the features.
const PLANE_SAMPLES: usize = 3000;
/// Held-out images in the pictures, and neighbours of each.
const IMAGES: usize = 8;
const NEIGHBOURS: usize = 8;

/// What the drawing of the features is called.
pub const PLANE: &str = "The held-out features in the plane (UMAP)";

/// A picture, or why there is none.
pub struct Picture {
    pub title: &'static str,
    pub drawn: Result<Drawn, String>,
}

/// What is computed from the run's newest checkpoint; each part of it, or why it could not be.
pub struct Shown {
    pub scores: Result<Evaluation, String>,
    /// HTML.
    pub plane: Result<String, String>,
    pub pictures: Vec<Picture>,
}

impl Shown {
    /// Scores the target encoder, and draws. Nothing is written: the run's `eval.json` is what `eval` was asked for.
    ///
    /// # Errors
    /// When the run has no checkpoint yet, or its shards cannot be opened.
    pub fn of(run: &Path, changes: &[String], names: &[String], runtime: &Handle) -> Result<Self> {
        let frozen = Frozen::open(run, changes, Which::Target, Pooling::Mean)?;
        let request = Request { train_samples: Some(MOST_TRAIN), ks: KS.to_vec() };
        let (scores, splits) = match frozen.scores(&request, runtime) {
            Ok((scores, splits)) => (Ok(scores), Ok(splits)),
            Err(error) => (Err(said(&error)), Err(error.context("the neighbours are of samples that are scored"))),
        };
        let umap = UmapConfig::new(0);
        let laid_out = plane::Request { split: Split::Validation, samples: PLANE_SAMPLES, umap };
        let plane = plane::plane(&frozen, &laid_out, runtime).map(|drawn| plane::figure(&drawn, names));
        let neighbours = splits.and_then(|splits| neighbours(&frozen, &splits));
        let has_attention = frozen.plan.models.encoder.attention().0 > 0;
        let pictures = [
            ("The first batch", first_batch(&frozen, runtime)),
            (if has_attention { "Attention" } else { "Likeness of places" }, heat::draw(&frozen, IMAGES)),
            ("Nearest training images", neighbours),
        ];
        let or_why = |(title, drawn): (_, Result<Drawn>)| Picture { title, drawn: drawn.map_err(|error| said(&error)) };
        Ok(Self { scores, plane: plane.map_err(|error| said(&error)), pictures: pictures.map(or_why).into() })
    }

    /// What is missing and why, a line each.
    pub fn missing(&self) -> Vec<String> {
        let parts = [("scores", self.scores.as_ref().err()), (PLANE, self.plane.as_ref().err())];
        let pictures = self.pictures.iter().map(|picture| (picture.title, picture.drawn.as_ref().err()));
        parts.into_iter().chain(pictures).filter_map(|(part, why)| Some(format!("{part}: {}", why?))).collect()
    }
}

fn first_batch(frozen: &Frozen, runtime: &Handle) -> Result<Drawn> {
    let caption = "A row a sample: what the encoder is given and what is to be predicted, or the two views.".into();
    Ok(Drawn { png: show::first_batch(&frozen.plan, runtime)?, caption })
}

fn neighbours(frozen: &Frozen, splits: &Splits) -> Result<Drawn> {
    let caption =
        "Held-out images, and the training images whose features are nearest; a green frame is the same label.".into();
    Ok(Drawn { png: show::png(&retrieval::picture(frozen, splits, [IMAGES, NEIGHBOURS])?)?, caption })
}

/// In one line.
fn said(error: &Error) -> String {
    format!("{error:#}")
}
