//! What can be looked at: a run's held-out samples, what was uploaded, and the training samples that are their
//! neighbours.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::str::FromStr;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result, anyhow, bail};
use image::RgbImage;
use tokio::runtime::Handle;
use tokio::sync::SetOnce;

use crate::eval::features::{Features, Rows};
use crate::eval::knn::{Nearness, Standard, nearest};
use crate::eval::maps;
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
    looks: Arc<tokio::sync::Mutex<Looks>>,
    /// The training samples, or why there are none to compare with.
    known: SetOnce<Result<Known, String>>,
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

/// What the encoder makes of an image, and what is said of it.
pub struct Seen {
    pub look: Look,
    /// Of attention, in nats: `[layers][heads]`.
    pub entropies: Vec<Vec<f64>>,
}

/// What the encoder made of the latest images, the latest last.
#[derive(Default)]
struct Looks(VecDeque<(ImageId, Arc<Seen>)>);

/// Training samples, standardised, and what standardised them.
struct Known {
    features: Features,
    standard: Standard,
}

/// A neighbour in the training split, by its sample's number there.
#[derive(Clone, Debug, PartialEq)]
pub struct Near {
    pub sample: u32,
    pub label: Option<u32>,
    pub cosine: f32,
}

/// Why there are no neighbours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Lack {
    /// So many training samples are encoded, of so many.
    Early { done: usize, of: usize },
    /// The training samples cannot be encoded.
    Failed(String),
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
            looks: Arc::default(),
            known: SetOnce::new(),
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
    /// When the data fail, or the encoder does; who asks for neighbours is told, too.
    pub fn learn_neighbours(&self, runtime: &Handle) -> Result<()> {
        if self.request.among == 0 {
            return Ok(());
        }
        // Who waits for neighbours must hear of a device that fails, too.
        let known = catch_unwind(AssertUnwindSafe(|| self.learn(runtime)));
        let known = known.unwrap_or_else(|_| Err(anyhow!("the encoder failed"))).map_err(|error| format!("{error:#}"));
        let failed = known.as_ref().err().cloned();
        let is_first = self.known.set(known).is_ok();
        match failed.filter(|_| is_first) {
            Some(why) => Err(anyhow!(why)),
            None => Ok(()),
        }
    }

    fn learn(&self, runtime: &Handle) -> Result<Known> {
        let mut features = Features::default();
        self.frozen.for_each(Split::Train, Some(self.request.among), runtime, |rows: &Rows| {
            // Neighbours need no label, so that none is asked for: what is said of them is the shard's.
            features.width = rows.width;
            features.values.extend_from_slice(rows.values);
            features.samples.extend_from_slice(rows.samples);
            features.labels.resize(features.samples.len(), 0);
            self.done.fetch_add(rows.samples.len(), Relaxed);
            Ok(())
        })?;
        if features.is_empty() {
            bail!("none of them can be used");
        }
        if let Some(place) = features.values.iter().position(|value| !value.is_finite()) {
            let key = self.train().sample(features.samples[place / features.width]).key;
            bail!("the encoder gives {} for sample `{key}`: its weights are spoilt", features.values[place]);
        }
        let standard = Standard::of(&features);
        standard.apply(&mut features);
        Ok(Known { features, standard })
    }

    /// Ready when there are neighbours, or there will be none.
    pub async fn learnt(&self) {
        self.known.wait().await;
    }

    fn early(&self) -> Lack {
        let every = self.train().len().div_ceil(self.request.among.max(1)).max(1);
        Lack::Early { done: self.done.load(Relaxed), of: self.train().len().div_ceil(every) }
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

    /// What the encoder makes of an image; one image is computed at a time, whoever still waits for it.
    ///
    /// # Errors
    /// When it cannot be read.
    pub async fn look(self: &Arc<Self>, id: ImageId) -> Result<Arc<Seen>> {
        let mut looks = Arc::clone(&self.looks).lock_owned().await;
        if let Some(seen) = looks.take(id) {
            looks.keep(id, Arc::clone(&seen));
            return Ok(seen);
        }
        let gallery = Arc::clone(self);
        // The lock goes with the work, which goes on when the one who asked has gone.
        let made = tokio::task::spawn_blocking(move || {
            let seen = Arc::new(Seen::of(gallery.frozen.look(&gallery.view(id)?)?));
            looks.keep(id, Arc::clone(&seen));
            Ok(seen)
        });
        made.await.context("the encoder failed")?
    }

    /// The nearest training samples, the nearest first.
    ///
    /// # Errors
    /// While they are being encoded, or when that failed.
    pub fn neighbours(&self, look: &Look, count: usize, not: Option<u32>) -> Result<Vec<Near>, Lack> {
        let known = self.known.get().ok_or_else(|| self.early())?;
        let Known { features, standard } = known.as_ref().map_err(|why| Lack::Failed(why.clone()))?;
        let mut asked =
            Features { values: look.pooled.clone(), width: look.pooled.len(), labels: vec![0], samples: vec![0] };
        standard.apply(&mut asked);
        let found = nearest(features, &asked, count + 1, Nearness::Cosine, self.frozen.device());
        let found = found.map_err(|failure| Lack::Failed(failure.to_string()))?;
        let near = found.into_iter().flatten().map(|near| {
            let sample = features.samples[near.number];
            Near { sample, label: self.train().sample(sample).label, cosine: near.nearness }
        });
        Ok(near.filter(|near| Some(near.sample) != not).take(count).collect())
    }

    // A request that panicked has left nothing half done in these: all of them are replaced whole.
    fn views(&self) -> std::sync::MutexGuard<'_, Views> {
        self.views.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn uploads(&self) -> std::sync::MutexGuard<'_, Uploads> {
        self.uploads.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Seen {
    fn of(look: Look) -> Self {
        let map = (look.patches * look.patches).max(1);
        let of_layer = |layer: &Vec<f32>| layer.chunks(map).map(|head| maps::entropy(head, look.patches)).collect();
        Self { entropies: look.attention.iter().map(of_layer).collect(), look }
    }
}

impl Looks {
    fn take(&mut self, id: ImageId) -> Option<Arc<Seen>> {
        let place = self.0.iter().position(|(held, _)| *held == id)?;
        self.0.remove(place).map(|(_, seen)| seen)
    }

    fn keep(&mut self, id: ImageId, seen: Arc<Seen>) {
        self.0.push_back((id, seen));
        while self.0.len() > 1 && self.0.iter().map(|(_, seen)| seen.look.bytes()).sum::<usize>() > KEPT_BYTES {
            self.0.pop_front();
        }
    }
}
