//! A grid of patches → the context and target blocks of a sample (I-JEPA, section 3 and appendix A.1).
//!
//! Nothing here depends on an image: a mask follows from the configuration, the grid and the draws. Context and targets
//! of a sample never share a patch.

use serde::{Deserialize, Serialize};

use super::batch::{Indices, Masks};
use crate::draws::{Draws, Purpose};

/// What the samples of a batch have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum MaskMode {
    /// One block size per batch, and each sample cut to the fewest patches in it: what the authors' code does.
    SharedSize,
    /// Every sample has its own sizes and keeps all of its patches; shorter ones are padded.
    PerSample,
}

/// How blocks are drawn. Scales are shares of the grid's patches, ratios are height divided by width.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct MaskConfig {
    pub mode: MaskMode,
    pub context_scale: [f64; 2],
    pub target_scale: [f64; 2],
    pub target_ratio: [f64; 2],
    pub target_blocks: usize,
    /// Context and targets have more patches than this.
    pub min_keep: usize,
}

/// Why masks cannot be drawn with a configuration.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum MaskError {
    #[error("mask.{key} = [{low}, {high}] is no range, write the lower number first, both greater than 0{}", if *.share { " and at most 1" } else { "" })]
    Range { key: &'static str, low: f64, high: f64, share: bool },
    #[error("mask.target_blocks = {blocks}: write a number from 1 to {most}")]
    Blocks { blocks: usize, most: usize },
    #[error("a grid of {grid}x{grid} patches has no room for blocks, use smaller patches or larger images")]
    Grid { grid: usize },
    #[error(
        "mask.target_scale gives blocks of {height}x{width} patches on a grid of {grid}x{grid}, which is not more than \
         mask.min_keep = {min_keep}: raise the scale, lower min_keep, or use smaller patches"
    )]
    TargetTooSmall { grid: usize, height: usize, width: usize, min_keep: usize },
    #[error(
        "mask: {percent} % of the masks on a grid of {grid}x{grid} leave no more than min_keep = {min_keep} patches of \
         context: lower target_scale, target_blocks or min_keep, or use smaller patches"
    )]
    NoContext { grid: usize, percent: u64, min_keep: usize },
}

/// More target blocks than this are surely a slip; the authors use four.
const MOST_BLOCKS: usize = 64;

/// Tries to place the context, as many as the authors make before they give way.
const CONTEXT_TRIES: usize = 20;

/// Layouts of the targets to place a context beside.
const LAYOUTS: usize = 20;

/// Sizes in patches.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct BlockSize {
    pub height: usize,
    pub width: usize,
}

/// The sizes of a sample's blocks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sizes {
    pub context: BlockSize,
    pub targets: Vec<BlockSize>,
}

/// The patches of one sample's blocks, numbered row by row and sorted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SampleMasks {
    pub context: Vec<u32>,
    pub targets: Vec<Vec<u32>>,
}

/// Where blocks lie while a sample's masks are drawn; kept from sample to sample.
#[derive(Debug, Default)]
pub struct MaskScratch {
    sizes: Sizes,
    targets: Vec<Block>,
}

#[derive(Clone, Copy, Debug)]
struct Block {
    top: usize,
    left: usize,
    size: BlockSize,
}

impl Block {
    fn holds(&self, row: usize, column: usize) -> bool {
        let rows = self.top..self.top + self.size.height;
        rows.contains(&row) && (self.left..self.left + self.size.width).contains(&column)
    }

    /// Rows and columns, in the order of the patches' numbers.
    fn places(self) -> impl Iterator<Item = (usize, usize)> {
        let columns = move || self.left..self.left + self.size.width;
        (self.top..self.top + self.size.height).flat_map(move |row| columns().map(move |column| (row, column)))
    }
}

impl MaskConfig {
    /// Whether masks can be drawn on a grid of so many patches a side, nearly always at the first try.
    ///
    /// # Errors
    /// When a range makes no sense, when targets are too small to keep, and when more than a tenth of all masks leave no
    /// more than `min_keep` patches of context: then drawing again would decide what masks look like.
    pub fn check(&self, grid: usize) -> Result<(), MaskError> {
        const MOST_PERCENT: u64 = 10;
        self.check_ranges()?;
        if grid < 2 {
            return Err(MaskError::Grid { grid });
        }
        let min_keep = self.min_keep;
        let too_small = |size: &BlockSize| size.height * size.width <= min_keep;
        if let Some(BlockSize { height, width }) = self.target_sizes(grid).into_iter().find(too_small) {
            return Err(MaskError::TargetTooSmall { grid, height, width, min_keep });
        }
        let percent = self.percent_without_context(grid);
        if percent > MOST_PERCENT {
            return Err(MaskError::NoContext { grid, percent, min_keep });
        }
        if self.least_left_over(grid) <= min_keep {
            let percent = percent.max(1);
            return Err(MaskError::NoContext { grid, percent, min_keep });
        }
        Ok(())
    }

    /// How many of a hundred masks leave too little context when they are drawn once.
    fn percent_without_context(&self, grid: usize) -> u64 {
        const MASKS: u64 = 1000;
        let (mut scratch, mut context) = (MaskScratch::default(), Vec::new());
        let mut fails = |mask: &u64| {
            let draws = &mut Draws::new(0, 0, *mask, Purpose::Masks);
            self.draw_sizes(grid, draws, &mut scratch.sizes);
            let MaskScratch { sizes, targets } = &mut scratch;
            targets.clear();
            targets.extend(sizes.targets.iter().map(|size| self.place(grid, *size, draws)));
            left_over(grid, self.place(grid, sizes.context, draws), targets, &mut context);
            context.len() <= self.min_keep
        };
        (0..MASKS).filter(|mask| fails(mask)).count() as u64 * 100 / MASKS
    }

    /// Patches that the smallest context keeps in the last resort of [`MaskConfig::draw`], whatever the targets' size.
    fn least_left_over(&self, grid: usize) -> usize {
        let context = self.size(grid, self.context_scale, [1.0, 1.0], 0.0, 0.0);
        let left = |target: BlockSize| {
            let mut patches = Vec::new();
            let [context, target] = in_opposite_corners(grid, context, target);
            left_over(grid, context, &[target], &mut patches);
            patches.len()
        };
        self.target_sizes(grid).into_iter().map(left).min().unwrap_or(0)
    }

    /// The sizes of the blocks of a whole batch, which it has in shared-size mode.
    pub fn shared_sizes(&self, grid: usize, draws: &mut Draws) -> Option<Sizes> {
        (self.mode == MaskMode::SharedSize).then(|| {
            let mut sizes = Sizes::default();
            self.draw_sizes(grid, draws, &mut sizes);
            sizes
        })
    }

    /// Patches of a context and of a target block, padding included: the most in eight batches of so many samples.
    pub fn widths(&self, grid: usize, samples: usize, seed: u64) -> [usize; 2] {
        const BATCHES: u64 = 8;
        /// Whose sizes all samples of a batch share, which no sample is drawn in.
        const NO_EPOCH: u64 = u64::MAX;
        // Where all are padded to the widest, more samples hardly have a wider one.
        let samples = if self.mode == MaskMode::PerSample { samples.min(256) } else { samples } as u64;
        let widths = (0..BATCHES).map(|step| {
            let shared = self.shared_sizes(grid, &mut Draws::new(seed, NO_EPOCH, step, Purpose::Masks));
            let mut scratch = MaskScratch::default();
            let drawn = (0..samples).map(|sample| {
                let (mut draws, mut masks) = (Draws::new(seed, step, sample, Purpose::Masks), SampleMasks::default());
                self.draw(grid, shared.as_ref(), &mut draws, &mut scratch, &mut masks);
                masks
            });
            let drawn: Vec<SampleMasks> = drawn.collect();
            let Masks { context, targets } = collate(self.mode, drawn.iter());
            [context.width, targets.iter().map(|target| target.width).max().unwrap_or(0)]
        });
        widths.fold([0; 2], |[context, target], found| [context.max(found[0]), target.max(found[1])])
    }

    /// Draws the sizes of the blocks; once per batch in shared-size mode, once per sample otherwise.
    fn draw_sizes(&self, grid: usize, draws: &mut Draws, into: &mut Sizes) {
        into.targets.clear();
        match self.mode {
            MaskMode::SharedSize => {
                // The authors draw one number for a block and use it for its scale and its ratio.
                let (target, context) = (draws.unit(), draws.unit());
                let target = self.size(grid, self.target_scale, self.target_ratio, target, target);
                into.context = self.size(grid, self.context_scale, [1.0, 1.0], context, context);
                into.targets.resize(self.target_blocks, target);
            }
            MaskMode::PerSample => {
                into.targets.extend((0..self.target_blocks).map(|_| {
                    let (scale, ratio) = (draws.unit(), draws.unit());
                    self.size(grid, self.target_scale, self.target_ratio, scale, ratio)
                }));
                into.context = self.size(grid, self.context_scale, [1.0, 1.0], draws.unit(), 0.0);
            }
        }
    }

    /// Draws the places of a sample's blocks, and their sizes too where the batch has none in common: targets anywhere,
    /// then a context that loses their patches. What `masks` held is replaced.
    ///
    /// A context that is left with too few patches is drawn again, at times with the targets. The authors give up a
    /// target's claim to its patches in the end, so that context and target overlap; here the targets come to lie on
    /// top of each other instead, which a configuration that passes [`MaskConfig::check`] all but never needs.
    pub fn draw(
        &self,
        grid: usize,
        shared: Option<&Sizes>,
        draws: &mut Draws,
        scratch: &mut MaskScratch,
        masks: &mut SampleMasks,
    ) {
        let MaskScratch { sizes, targets } = scratch;
        let sizes = match shared {
            Some(shared) => shared,
            None => {
                self.draw_sizes(grid, draws, sizes);
                sizes
            }
        };
        masks.reserve(self.most_patches(grid), self.target_blocks);
        for _ in 0..LAYOUTS {
            targets.clear();
            targets.extend(sizes.targets.iter().map(|size| self.place(grid, *size, draws)));
            for _ in 0..CONTEXT_TRIES {
                left_over(grid, self.place(grid, sizes.context, draws), targets, &mut masks.context);
                if masks.context.len() > self.min_keep {
                    return masks.set_targets(grid, targets);
                }
            }
        }
        let size = sizes.targets.first().copied().unwrap_or(sizes.context);
        let [context, target] = in_opposite_corners(grid, sizes.context, size);
        targets.fill(target);
        left_over(grid, context, targets, &mut masks.context);
        masks.set_targets(grid, targets);
    }

    /// The most patches that a context and a target block can have.
    pub(super) fn most_patches(&self, grid: usize) -> [usize; 2] {
        let most = |scale: f64, ratio: [f64; 2]| {
            let keep = (grid * grid) as f64 * scale;
            // Rounding adds half a patch to a side at most, and the longer the block the more patches that makes.
            let patches = |ratio: f64| ((keep * ratio).sqrt() + 0.5) * ((keep / ratio).sqrt() + 0.5);
            (ratio.map(patches).into_iter().fold(0.0, f64::max) as usize).min(grid * grid)
        };
        [most(self.context_scale[1], [1.0, 1.0]), most(self.target_scale[1], self.target_ratio)]
    }

    fn check_ranges(&self) -> Result<(), MaskError> {
        let ranges = [
            ("context_scale", self.context_scale, true),
            ("target_scale", self.target_scale, true),
            ("target_ratio", self.target_ratio, false),
        ];
        for (key, [low, high], share) in ranges {
            let most = if share { 1.0 } else { f64::MAX };
            if !(low > 0.0 && low <= high && high <= most) {
                return Err(MaskError::Range { key, low, high, share });
            }
        }
        if !(1..=MOST_BLOCKS).contains(&self.target_blocks) {
            return Err(MaskError::Blocks { blocks: self.target_blocks, most: MOST_BLOCKS });
        }
        Ok(())
    }

    /// The size of a block, where `scale_draw` and `ratio_draw` lie in `0..=1`.
    fn size(&self, grid: usize, scale: [f64; 2], ratio: [f64; 2], scale_draw: f64, ratio_draw: f64) -> BlockSize {
        let between = |[low, high]: [f64; 2], share: f64| low + share * (high - low);
        let keep = ((grid * grid) as f64 * between(scale, scale_draw)).floor();
        let ratio = between(ratio, ratio_draw);
        // The authors' blocks never span the grid, so that each can be placed in at least one way below its upper bound.
        let most = match self.mode {
            MaskMode::SharedSize => grid.saturating_sub(1),
            MaskMode::PerSample => grid,
        };
        let rounded = |side: f64| (side.sqrt().round_ties_even() as usize).min(most);
        BlockSize { height: rounded(keep * ratio), width: rounded(keep / ratio) }
    }

    fn place(&self, grid: usize, size: BlockSize, draws: &mut Draws) -> Block {
        // The authors leave the last place out (`randint(0, H - h)`), so that the last row and column are never used.
        let last = usize::from(self.mode == MaskMode::PerSample);
        let mut corner = |side: usize| draws.below((grid.saturating_sub(side) + last) as u64) as usize;
        Block { top: corner(size.height), left: corner(size.width), size }
    }

    /// All sizes of targets, but for such as come of less than a thousandth of the draws.
    fn target_sizes(&self, grid: usize) -> Vec<BlockSize> {
        let size = |scale, ratio| self.size(grid, self.target_scale, self.target_ratio, scale, ratio);
        let mut sizes: Vec<_> = match self.mode {
            MaskMode::SharedSize => drawn().map(|draw| size(draw, draw)).collect(),
            MaskMode::PerSample => {
                drawn().step_by(8).flat_map(|scale| drawn().map(move |ratio| size(scale, ratio))).collect()
            }
        };
        sizes.sort_unstable();
        sizes.dedup();
        sizes
    }
}

/// Numbers from 0 to 1 that stand for all that can be drawn.
fn drawn() -> impl Iterator<Item = f64> + Clone {
    const STEPS: u32 = 1024;
    (0..=STEPS).map(|step| f64::from(step) / f64::from(STEPS))
}

/// A context and a target block as far apart as can be.
fn in_opposite_corners(grid: usize, context: BlockSize, target: BlockSize) -> [Block; 2] {
    let (top, left) = (grid.saturating_sub(context.height), grid.saturating_sub(context.width));
    [Block { top, left, size: context }, Block { top: 0, left: 0, size: target }]
}

/// Puts the numbers of the patches of `context` that no target holds into `into`.
fn left_over(grid: usize, context: Block, targets: &[Block], into: &mut Vec<u32>) {
    let free = |(row, column): &(usize, usize)| !targets.iter().any(|target| target.holds(*row, *column));
    into.clear();
    into.extend(context.places().filter(free).map(|place| number(grid, place)));
}

fn number(grid: usize, (row, column): (usize, usize)) -> u32 {
    (row * grid + column) as u32
}

impl SampleMasks {
    /// Takes the memory for the largest blocks there can be at once, so that it never grows.
    fn reserve(&mut self, [context, target]: [usize; 2], blocks: usize) {
        self.context.clear();
        self.context.reserve_exact(context);
        self.targets.resize_with(blocks, Vec::new);
        for patches in &mut self.targets {
            patches.clear();
            patches.reserve_exact(target);
        }
    }

    fn set_targets(&mut self, grid: usize, targets: &[Block]) {
        for (patches, target) in self.targets.iter_mut().zip(targets) {
            patches.extend(target.places().map(|place| number(grid, place)));
        }
    }
}

/// Brings the masks of a batch into rows of one width: cut to the shortest in shared-size mode, padded otherwise.
///
/// Cutting takes the patches with the highest numbers, which lie at the bottom, as in the authors' code.
pub fn collate<'a>(mode: MaskMode, samples: impl Iterator<Item = &'a SampleMasks> + Clone) -> Masks {
    let blocks = samples.clone().map(|sample| sample.targets.len()).min().unwrap_or(0);
    let width = |rows: &mut dyn Iterator<Item = &'a [u32]>| match mode {
        MaskMode::SharedSize => rows.map(<[u32]>::len).min().unwrap_or(0),
        MaskMode::PerSample => rows.map(<[u32]>::len).max().unwrap_or(0),
    };
    let context = samples.clone().map(|sample| sample.context.as_slice());
    let all = || samples.clone().flat_map(|sample| sample.targets[..blocks].iter().map(Vec::as_slice));
    let target = |block: usize| {
        let rows = samples.clone().map(move |sample| sample.targets[block].as_slice());
        // The authors cut the targets to the shortest of all blocks.
        let width = if mode == MaskMode::SharedSize { width(&mut all()) } else { width(&mut rows.clone()) };
        Indices::new(rows, width)
    };
    Masks {
        context: Indices::new(context.clone(), width(&mut context.clone())),
        targets: (0..blocks).map(target).collect(),
    }
}
