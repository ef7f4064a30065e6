//! What is computed for a report: scores, the features in the plane, pictures.

use std::path::Path;

use anyhow::Result;
use tokio::runtime::Handle;

use crate::eval::umap::UmapConfig;
use crate::run::eval::{Evaluation, Frozen, Pooling, Request, Split};
use crate::run::exchange::Which;
use crate::run::{heat, plane, retrieval, show};

/// Neighbours that vote, as `eval` has them.
const KS: [usize; 4] = [1, 5, 20, 200];
/// Training samples that kNN and the probe are given at most: as many as fit any machine's patience.
const MOST_TRAIN: usize = 50_000;
/// Held-out samples in the drawing of the features.
const PLANE: usize = 3000;
/// Held-out images in the pictures, and neighbours of each.
const IMAGES: usize = 8;
const NEIGHBOURS: usize = 8;

pub struct Picture {
    pub title: String,
    pub caption: String,
    pub png: Vec<u8>,
}

/// What is computed from the run's newest checkpoint.
pub struct Shown {
    pub evaluation: Evaluation,
    /// SVG.
    pub plane: Option<String>,
    pub pictures: Vec<Picture>,
}

impl Shown {
    /// Scores the target encoder, and draws.
    ///
    /// # Errors
    /// When the run has no checkpoint yet, or its data cannot be read.
    pub fn of(run: &Path, changes: &[String], names: &[String], runtime: &Handle) -> Result<Self> {
        let frozen = Frozen::open(run, changes, Which::Target, Pooling::Mean)?;
        let request = Request { train_samples: Some(MOST_TRAIN), ks: KS.to_vec() };
        let (evaluation, splits) = frozen.scores(&request, runtime)?;
        evaluation.save(run)?;
        let umap = UmapConfig::new(0);
        let laid_out = plane::Request { split: Split::Validation, samples: PLANE, umap };
        let title = "";
        // Fewer samples than neighbours are no reason to go without all the rest.
        let plane = plane::plane(&frozen, &laid_out, runtime).ok().map(|drawn| plane::svg(&drawn, title, names, true));
        let mut pictures = vec![Picture {
            title: "The first batch".into(),
            caption: "A row a sample: what the encoder is given and what is to be predicted, or the two views.".into(),
            png: show::first_batch(&frozen.plan, runtime)?,
        }];
        pictures.push(Picture {
            title: "Nearest training images".into(),
            caption:
                "Held-out images, and the training images whose features are nearest; a green frame is the same label."
                    .into(),
            png: show::png(&retrieval::picture(&frozen, &splits, [IMAGES, NEIGHBOURS])?)?,
        });
        let heat::Drawn { png, caption } = heat::draw(&frozen, IMAGES)?;
        let has_attention = frozen.plan.models.encoder.attention().0 > 0;
        let title = if has_attention { "Attention" } else { "Likeness of places" };
        pictures.push(Picture { title: title.into(), caption, png });
        Ok(Self { evaluation, plane, pictures })
    }
}
