//! What can be looked at: a run's held-out samples, what was uploaded, and the training samples that are their
//! neighbours.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::str::FromStr;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use anyhow::{Context, Result};
use image::RgbImage;
use tokio::runtime::Handle;

use crate::eval::features::{Features, Rows};
use crate::eval::knn::{Nearness, Standard, nearest};
use crate::run::eval::{Frozen, Split};
use crate::run::look::{Look, Views};
use crate::shard::ShardSet;

/// Bytes of an uploaded file: more than any camera's photograph.
pub const MOST_UPLOAD: usize = 16 << 20;
/// Uploaded images that are kept.
const MOST_UPLOADED: usize = 32;
/// What the encoder made of the latest images is kept, up to so many bytes, so that turning a knob computes nothing.
const KEPT_BYTES: usize = 256 << 20;

/// What is asked of a gallery.
pub struct Request {
    /// Training samples that neighbours are looked for in, at most, evenly spread over all; 0 for none.
    pub among: usize,
    /// Of labels, from label 0 on.
    pub names: Vec<String>,
    /// The run, as its user calls it.
    pub run: String,
}

/// The images and the encoder. Shared by all requests.
pub struct Gallery {
    pub frozen: Frozen,
    pub request: Request,
    /// Held-out samples of each label.
    pub labels: BTreeMap<u32, usize>,
    held_out: Arc<ShardSet>,
    views: Mutex<Views>,
    uploads: Mutex<Uploads>,
    looks: tokio::sync::Mutex<Looks>,
    known: OnceLock<Known>,
    done: AtomicUsize,
}

/// One image, by the name that the page has for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ImageId {
    HeldOut(u32),
    Train(u32),
    Uploaded(u64),
}

impl FromStr for ImageId {
    type Err = std::num::ParseIntError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if let Some(number) = text.strip_prefix('t') {
            return number.parse().map(Self::Train);
        }
        match text.strip_prefix('u') {
            Some(number) => number.parse().map(Self::Uploaded),
            None => text.parse().map(Self::HeldOut),
        }
    }
}

impl fmt::Display for ImageId {
    fn fmt(&self, text: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::HeldOut(number) => write!(text, "{number}"),
            Self::Train(number) => write!(text, "t{number}"),
            Self::Uploaded(number) => write!(text, "u{number}"),
        }
    }
}

#[derive(Default)]
struct Uploads {
    count: u64,
    latest: VecDeque<(u64, String, RgbImage)>,
}

/// What the encoder made of the latest images, the latest last.
#[derive(Default)]
struct Looks(VecDeque<(ImageId, Arc<Look>)>);

/// Training samples, standardised, and what standardised them.
struct Known {
    features: Features,
    standard: Standard,
}

/// A neighbour in the training split, by its sample's number there.
pub struct Near {
    pub sample: u32,
    pub label: u32,
    pub cosine: f32,
}

impl Gallery {
    /// # Errors
    /// When the run has no validation shards, or its maps would not fit in memory.
    pub fn new(frozen: Frozen, request: Request) -> Result<Self> {
        frozen.check_look()?;
        let held_out = Arc::clone(frozen.set(Split::Validation)?);
        let mut labels = BTreeMap::new();
        for label in (0..held_out.len() as u32).filter_map(|number| held_out.sample(number).label) {
            *labels.entry(label).or_default() += 1;
        }
        let views = Mutex::new(Views::new(&frozen.plan));
        Ok(Self {
            frozen,
            request,
            labels,
            held_out,
            views,
            uploads: Mutex::default(),
            looks: tokio::sync::Mutex::default(),
            known: OnceLock::new(),
            done: AtomicUsize::new(0),
        })
    }

    pub fn held_out(&self) -> &ShardSet {
        &self.held_out
    }

    pub fn train(&self) -> &ShardSet {
        &self.frozen.plan.train
    }

    /// Encodes the training samples among which neighbours are looked for; takes as long as that takes.
    ///
    /// # Errors
    /// When the data fail.
    pub fn learn_neighbours(&self, runtime: &Handle) -> Result<()> {
        if self.request.among == 0 {
            return Ok(());
        }
        let mut features = Features::default();
        self.frozen.for_each(Split::Train, Some(self.request.among), runtime, |rows: &Rows| {
            features.extend(rows);
            self.done.fetch_add(rows.samples.len(), Relaxed);
            Ok(())
        })?;
        let standard = Standard::of(&features);
        standard.apply(&mut features);
        let _ = self.known.set(Known { features, standard });
        Ok(())
    }

    /// Training samples encoded, of those to be.
    pub fn learning(&self) -> (usize, usize) {
        let every = self.train().len().div_ceil(self.request.among.max(1)).max(1);
        (self.done.load(Relaxed), self.train().len().div_ceil(every))
    }

    /// Whether there is such an image.
    pub fn has(&self, id: ImageId) -> bool {
        match id {
            ImageId::HeldOut(number) => (number as usize) < self.held_out.len(),
            ImageId::Train(number) => (number as usize) < self.train().len(),
            ImageId::Uploaded(number) => self.uploads().latest.iter().any(|(held, ..)| *held == number),
        }
    }

    /// Key and label of an image that there is.
    pub fn named(&self, id: ImageId) -> (String, Option<u32>) {
        let of = |set: &ShardSet, number| (set.sample(number).key.to_owned(), set.sample(number).label);
        match id {
            ImageId::HeldOut(number) => of(&self.held_out, number),
            ImageId::Train(number) => of(self.train(), number),
            ImageId::Uploaded(number) => {
                let uploads = self.uploads();
                let found = uploads.latest.iter().find(|(held, ..)| *held == number);
                (found.map_or_else(String::new, |(_, name, _)| name.clone()), None)
            }
        }
    }

    /// The image as the encoder sees it.
    ///
    /// # Errors
    /// When there is none, or it cannot be read.
    pub fn view(&self, id: ImageId) -> Result<RgbImage> {
        let side = self.frozen.plan.config.augment.size;
        let of = |set: &ShardSet, number| self.views().of_sample(set, number, side);
        match id {
            ImageId::HeldOut(number) => of(&self.held_out, number),
            ImageId::Train(number) => of(self.train(), number),
            ImageId::Uploaded(number) => {
                let uploads = self.uploads();
                let found = uploads.latest.iter().find(|(held, ..)| *held == number);
                found.map(|(.., view)| view.clone()).context("it was uploaded too long ago")
            }
        }
    }

    /// Keeps an uploaded file's image.
    ///
    /// # Errors
    /// When it is no image that can be used.
    pub fn upload(&self, name: Option<String>, mut bytes: Vec<u8>) -> Result<ImageId> {
        let view = self.views().of_bytes(&mut bytes, self.frozen.plan.config.augment.size)?;
        let mut uploads = self.uploads();
        uploads.count += 1;
        let number = uploads.count;
        if uploads.latest.len() == MOST_UPLOADED {
            uploads.latest.pop_front();
        }
        let name = name.unwrap_or_else(|| format!("uploaded {number}"));
        uploads.latest.push_back((number, name, view));
        Ok(ImageId::Uploaded(number))
    }

    /// What the encoder makes of an image; one image is computed at a time.
    ///
    /// # Errors
    /// When it cannot be read.
    pub async fn look(self: &Arc<Self>, id: ImageId) -> Result<Arc<Look>> {
        let mut looks = self.looks.lock().await;
        if let Some(look) = looks.take(id) {
            looks.keep(id, Arc::clone(&look));
            return Ok(look);
        }
        let gallery = Arc::clone(self);
        let made = tokio::task::spawn_blocking(move || gallery.frozen.look(&gallery.view(id)?)).await;
        let look = Arc::new(made.context("the encoder failed")??);
        looks.keep(id, Arc::clone(&look));
        Ok(look)
    }

    /// The nearest training samples, the nearest first; `None` while they are being encoded.
    pub fn neighbours(&self, look: &Look, count: usize, not: Option<u32>) -> Option<Vec<Near>> {
        let Known { features, standard } = self.known.get()?;
        let mut asked =
            Features { values: look.pooled.clone(), width: look.pooled.len(), labels: vec![0], samples: vec![0] };
        standard.apply(&mut asked);
        let found = nearest(features, &asked, count + 1, Nearness::Cosine, self.frozen.device());
        let near = found.into_iter().flatten().map(|near| Near {
            sample: features.samples[near.number],
            label: features.labels[near.number],
            cosine: near.nearness,
        });
        Some(near.filter(|near| Some(near.sample) != not).take(count).collect())
    }

    // A request that panicked has left nothing half done in these: all of them are replaced whole.
    fn views(&self) -> std::sync::MutexGuard<'_, Views> {
        self.views.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn uploads(&self) -> std::sync::MutexGuard<'_, Uploads> {
        self.uploads.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Looks {
    fn take(&mut self, id: ImageId) -> Option<Arc<Look>> {
        let place = self.0.iter().position(|(held, _)| *held == id)?;
        self.0.remove(place).map(|(_, look)| look)
    }

    fn keep(&mut self, id: ImageId, look: Arc<Look>) {
        self.0.push_back((id, look));
        while self.0.len() > 1 && self.0.iter().map(|(_, look)| look.bytes()).sum::<usize>() > KEPT_BYTES {
            self.0.pop_front();
        }
    }
}
