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
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct BlockSize {
    pub height: usize,
    pub width: usize,
}

/// The sizes of a sample's blocks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sizes {
    pub context: BlockSize,
    pub targets: Vec<BlockSize>,
}

/// The patches of one sample's blocks, numbered row by row and sorted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SampleMasks {
    pub context: Vec<u32>,
    pub targets: Vec<Vec<u32>>,
}

#[derive(Clone, Copy)]
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
        let fails = |mask: &u64| {
            let draws = &mut Draws::new(0, 0, *mask, Purpose::Masks);
            let sizes = self.sizes(grid, draws);
            let targets: Vec<_> = sizes.targets.iter().map(|size| self.place(grid, *size, draws)).collect();
            left_over(grid, self.place(grid, sizes.context, draws), &targets).len() <= self.min_keep
        };
        (0..MASKS).filter(fails).count() as u64 * 100 / MASKS
    }

    /// Patches that the smallest context keeps in the last resort of [`MaskConfig::draw`], whatever the targets' size.
    fn least_left_over(&self, grid: usize) -> usize {
        let context = self.size(grid, self.context_scale, [1.0, 1.0], 0.0, 0.0);
        let left = |target: BlockSize| stacked(grid, context, target, 1).0.len();
        self.target_sizes(grid).into_iter().map(left).min().unwrap_or(0)
    }

    /// Draws the sizes of the blocks; once per batch in shared-size mode, once per sample otherwise.
    pub fn sizes(&self, grid: usize, draws: &mut Draws) -> Sizes {
        match self.mode {
            MaskMode::SharedSize => {
                // The authors draw one number for a block and use it for its scale and its ratio.
                let (target, context) = (draws.unit(), draws.unit());
                let target = self.size(grid, self.target_scale, self.target_ratio, target, target);
                let context = self.size(grid, self.context_scale, [1.0, 1.0], context, context);
                Sizes { context, targets: vec![target; self.target_blocks] }
            }
            MaskMode::PerSample => {
                let target = |draws: &mut Draws| {
                    let (scale, ratio) = (draws.unit(), draws.unit());
                    self.size(grid, self.target_scale, self.target_ratio, scale, ratio)
                };
                let targets = (0..self.target_blocks).map(|_| target(draws)).collect();
                Sizes { context: self.size(grid, self.context_scale, [1.0, 1.0], draws.unit(), 0.0), targets }
            }
        }
    }

    /// Draws the places of a sample's blocks: targets anywhere, then a context that loses their patches.
    ///
    /// A context that is left with too few patches is drawn again, at times with the targets. The authors give up a
    /// target's claim to its patches in the end, so that context and target overlap; here the targets come to lie on
    /// top of each other instead, which a configuration that passes [`MaskConfig::check`] all but never needs.
    pub fn draw(&self, grid: usize, sizes: &Sizes, draws: &mut Draws) -> SampleMasks {
        for _ in 0..LAYOUTS {
            let targets: Vec<_> = sizes.targets.iter().map(|size| self.place(grid, *size, draws)).collect();
            for _ in 0..CONTEXT_TRIES {
                let context = left_over(grid, self.place(grid, sizes.context, draws), &targets);
                if context.len() > self.min_keep {
                    return SampleMasks::new(grid, context, &targets);
                }
            }
        }
        let size = sizes.targets.first().copied().unwrap_or(sizes.context);
        let (context, targets) = stacked(grid, sizes.context, size, sizes.targets.len());
        SampleMasks::new(grid, context, &targets)
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

/// Context and target blocks in opposite corners, the targets on top of each other.
fn stacked(grid: usize, context: BlockSize, target: BlockSize, blocks: usize) -> (Vec<u32>, Vec<Block>) {
    let targets = vec![Block { top: 0, left: 0, size: target }; blocks];
    let (top, left) = (grid.saturating_sub(context.height), grid.saturating_sub(context.width));
    let context = Block { top, left, size: context };
    (left_over(grid, context, &targets), targets)
}

/// The numbers of the patches of `context` that no target holds.
fn left_over(grid: usize, context: Block, targets: &[Block]) -> Vec<u32> {
    let free = |(row, column): &(usize, usize)| !targets.iter().any(|target| target.holds(*row, *column));
    context.places().filter(free).map(|place| number(grid, place)).collect()
}

fn number(grid: usize, (row, column): (usize, usize)) -> u32 {
    (row * grid + column) as u32
}

impl SampleMasks {
    fn new(grid: usize, context: Vec<u32>, targets: &[Block]) -> Self {
        let patches = |target: &Block| target.places().map(|place| number(grid, place)).collect();
        Self { context, targets: targets.iter().map(patches).collect() }
    }
}

/// Brings the masks of a batch into rows of one width: cut to the shortest in shared-size mode, padded otherwise.
///
/// Cutting takes the patches with the highest numbers, which lie at the bottom, as in the authors' code.
pub fn collate(mode: MaskMode, samples: &[SampleMasks]) -> Masks {
    let blocks = samples.iter().map(|sample| sample.targets.len()).min().unwrap_or(0);
    let context: Vec<_> = samples.iter().map(|sample| sample.context.as_slice()).collect();
    let targets: Vec<Vec<_>> =
        (0..blocks).map(|block| samples.iter().map(|sample| sample.targets[block].as_slice()).collect()).collect();
    let width = |rows: &mut dyn Iterator<Item = &[u32]>| match mode {
        MaskMode::SharedSize => rows.map(<[u32]>::len).min(),
        MaskMode::PerSample => rows.map(<[u32]>::len).max(),
    };
    // The authors cut the targets to the shortest of all blocks.
    let shared = width(&mut targets.iter().flatten().copied());
    let target = |rows: &Vec<&[u32]>| match mode {
        MaskMode::SharedSize => Indices::new(rows, shared.unwrap_or(0)),
        MaskMode::PerSample => Indices::new(rows, width(&mut rows.iter().copied()).unwrap_or(0)),
    };
    let context_width = width(&mut context.iter().copied()).unwrap_or(0);
    Masks { context: Indices::new(&context, context_width), targets: targets.iter().map(target).collect() }
}
