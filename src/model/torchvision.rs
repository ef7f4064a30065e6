//! A ConvNeXt's weights by torchvision's names, and back.
//!
//! The classifier's last layer is left behind: it tells classes apart, and an encoder knows none.

use super::convnext::{ConvNextConfig, ConvNextSize, EXPANSION, REDUCTION};
use super::fused::KERNEL;
use super::weights::{Array, Weights, WeightsError};

/// The classifier's last layer, which has no counterpart here.
const HEAD: [&str; 2] = ["classifier.2.weight", "classifier.2.bias"];

/// What the first convolution's weights are called.
const STEM: &str = "features.0.0.weight";

/// Pixels a side of the images that the published weights were trained on; a ConvNeXt itself takes any.
const PUBLISHED_IMAGE: usize = 224;

/// Whether these are named as torchvision names a ConvNeXt's.
pub fn is_convnext(weights: &Weights) -> bool {
    weights.contains_key(STEM)
}

/// The shape of a ConvNeXt, read off its tensors; `None` where they do not look like one. Image and layer scale leave
/// no trace in them: they are the published ones.
pub fn convnext_shape(weights: &Weights) -> Option<ConvNextConfig> {
    let [_, _, stem, _] = weights.get(STEM)?.shape[..] else { return None };
    let (mut depths, mut widths) = ([0; 4], [0; 4]);
    for (stage, (depth, width)) in depths.iter_mut().zip(&mut widths).enumerate() {
        let block = |number: usize| weights.get(&format!("features.{}.{number}.block.0.weight", 2 * stage + 1));
        *depth = (0..).take_while(|&number| block(number).is_some()).count();
        *width = block(0).map_or(0, |kernels| kernels.shape.first().copied().unwrap_or(0));
    }
    let published = ConvNextConfig::sized(ConvNextSize::Tiny, PUBLISHED_IMAGE);
    Some(ConvNextConfig { stem, depths, widths, ..published })
}

/// A ConvNeXt as torchvision saves it, by our names; without the classifier's last layer, whether it is there or not.
///
/// # Errors
/// When a tensor is missing, left over or of a shape that does not fit `config`.
pub fn convnext_from_torchvision(mut weights: Weights, config: &ConvNextConfig) -> Result<Weights, WeightsError> {
    for name in HEAD {
        weights.remove(name);
    }
    let mut ours = Weights::new();
    for entry in entries(config) {
        let array = take(&mut weights, &entry.theirs, &entry.their_shape)?;
        ours.insert(entry.ours, Array { shape: entry.our_shape, values: reversed(&array.values, &entry.axes) });
    }
    all_taken(weights, ours)
}

/// Our encoder's weights as torchvision names them; the exact inverse of [`convnext_from_torchvision`] but for the
/// classifier's last layer, which is not made up.
///
/// # Errors
/// When a tensor is missing, left over or of a shape that does not fit `config`.
pub fn convnext_to_torchvision(mut weights: Weights, config: &ConvNextConfig) -> Result<Weights, WeightsError> {
    let mut theirs = Weights::new();
    for mut entry in entries(config) {
        let array = take(&mut weights, &entry.ours, &entry.our_shape)?;
        entry.axes.reverse();
        theirs.insert(entry.theirs, Array { shape: entry.their_shape, values: reversed(&array.values, &entry.axes) });
    }
    all_taken(weights, theirs)
}

fn take(weights: &mut Weights, name: &str, needed: &[usize]) -> Result<Array, WeightsError> {
    let array = weights.remove(name).ok_or_else(|| WeightsError::Missing(name.into()))?;
    if array.shape != needed {
        return Err(WeightsError::Shape { name: name.into(), found: array.shape, needed: needed.to_vec() });
    }
    Ok(array)
}

fn all_taken(rest: Weights, taken: Weights) -> Result<Weights, WeightsError> {
    match rest.into_keys().next() {
        Some(name) => Err(WeightsError::Unknown(name)),
        None => Ok(taken),
    }
}

/// One tensor under both names.
struct Entry {
    ours: String,
    theirs: String,
    our_shape: Vec<usize>,
    their_shape: Vec<usize>,
    /// Their axes, some taken together; ours are the same ones in the opposite order.
    axes: Vec<usize>,
}

/// Every tensor of an encoder.
fn entries(config: &ConvNextConfig) -> Vec<Entry> {
    let mut list = List(Vec::new());
    let [first, ..] = config.widths;
    list.convolution("stem", "features.0.0", first, 3, config.stem);
    list.norm("stem_norm", "features.0.1", first);
    let mut before = first;
    for (stage, (depth, width)) in config.stages().enumerate() {
        if stage > 0 {
            let (ours, theirs) = (format!("stages.{stage}.reduction"), format!("features.{}", 2 * stage));
            list.norm(&format!("{ours}.norm"), &format!("{theirs}.0"), before);
            list.reduction(&format!("{ours}.projection"), &format!("{theirs}.1"), width, before);
        }
        for block in 0..depth {
            let theirs = format!("features.{}.{block}", 2 * stage + 1);
            list.block(&format!("stages.{stage}.blocks.{block}"), &theirs, width);
        }
        before = width;
    }
    list.norm("norm", "classifier.0", before);
    list.0
}

/// Entries, kind by kind of layer.
struct List(Vec<Entry>);

impl List {
    fn add(&mut self, names: [String; 2], our_shape: &[usize], their_shape: &[usize], axes: &[usize]) {
        let [ours, theirs] = names;
        let [our_shape, their_shape, axes] = [our_shape, their_shape, axes].map(<[usize]>::to_vec);
        self.0.push(Entry { ours, theirs, our_shape, their_shape, axes });
    }

    fn vector(&mut self, ours: String, theirs: String, width: usize) {
        self.add([ours, theirs], &[width], &[width], &[width]);
    }

    fn norm(&mut self, ours: &str, theirs: &str, width: usize) {
        self.vector(format!("{ours}.gamma"), format!("{theirs}.weight"), width);
        self.vector(format!("{ours}.beta"), format!("{theirs}.bias"), width);
    }

    fn linear(&mut self, ours: &str, theirs: &str, outputs: usize, inputs: usize) {
        let names = [ours, theirs].map(|name| format!("{name}.weight"));
        self.add(names, &[inputs, outputs], &[outputs, inputs], &[outputs, inputs]);
        self.vector(format!("{ours}.bias"), format!("{theirs}.bias"), outputs);
    }

    /// A convolution whose kernels do not overlap: a layer whose inputs are ordered by channel, row, column.
    fn convolution(&mut self, ours: &str, theirs: &str, outputs: usize, channels: usize, side: usize) {
        let names = [ours, theirs].map(|name| format!("{name}.weight"));
        let inputs = channels * side * side;
        self.add(names, &[inputs, outputs], &[outputs, channels, side, side], &[outputs, inputs]);
        self.vector(format!("{ours}.bias"), format!("{theirs}.bias"), outputs);
    }

    /// The same, but the layer's inputs are ordered by row, column, channel.
    fn reduction(&mut self, ours: &str, theirs: &str, outputs: usize, channels: usize) {
        let names = [ours, theirs].map(|name| format!("{name}.weight"));
        let places = REDUCTION * REDUCTION;
        let their_shape = [outputs, channels, REDUCTION, REDUCTION];
        self.add(names, &[places * channels, outputs], &their_shape, &[outputs, channels, places]);
        self.vector(format!("{ours}.bias"), format!("{theirs}.bias"), outputs);
    }

    fn block(&mut self, ours: &str, theirs: &str, width: usize) {
        let names = [format!("{ours}.depthwise.weight"), format!("{theirs}.block.0.weight")];
        let kernels = [width, 1, KERNEL, KERNEL];
        self.add(names, &kernels, &kernels, &[kernels.iter().product()]);
        self.vector(format!("{ours}.depthwise.bias"), format!("{theirs}.block.0.bias"), width);
        self.norm(&format!("{ours}.norm"), &format!("{theirs}.block.2"), width);
        self.linear(&format!("{ours}.mlp.fc1"), &format!("{theirs}.block.3"), EXPANSION * width, width);
        self.linear(&format!("{ours}.mlp.fc2"), &format!("{theirs}.block.5"), width, EXPANSION * width);
        let names = [ours, theirs].map(|name| format!("{name}.layer_scale"));
        self.add(names, &[width], &[width, 1, 1], &[width]);
    }
}

/// The values of an array of such axes when the axes are put in the opposite order.
fn reversed(values: &[f32], axes: &[usize]) -> Vec<f32> {
    let [first, rest @ ..] = axes else { return values.to_vec() };
    let each: usize = rest.iter().product();
    // Reversing what follows the first axis makes rows; the first axis then becomes their columns.
    let rows: Vec<Vec<f32>> = values.chunks(each.max(1)).take(*first).map(|row| reversed(row, rest)).collect();
    (0..each).flat_map(|column| rows.iter().map(move |row| row[column])).collect()
}
