//! Where tensors live: chosen once, refused clearly where it cannot be had.

use burn::tensor::Device;
use serde::{Deserialize, Serialize};

use crate::model::Lookup;

/// The `device` key of a pipeline file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeviceChoice {
    /// The first GPU if this build can use one and there is one, otherwise the CPU.
    Auto,
    /// So many ranks, which share its cores.
    Cpu { ranks: usize },
    /// GPUs from the first to the last of these numbers, a rank on each.
    Cuda { first: usize, last: usize },
}

#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    #[error(
        "device \"{0}\" is not known; say \"auto\", \"cpu\", \"cuda:0\", \"cuda:0-3\" for several GPUs, or \"cpu:2\" for two \
         ranks on the CPU"
    )]
    Unknown(String),
    #[error("device \"cuda:{0}\" needs a build with `--features cuda`; this one is for the CPU: say device = \"cpu\"")]
    NotBuilt(usize),
    #[error(
        "device \"cuda:{wanted}\" is not there: {found} CUDA device(s) found; say device = \"cpu\" to train without"
    )]
    Absent { wanted: usize, found: usize },
}

/// A device and how it likes to be used.
#[derive(Clone, Debug)]
pub struct Placement {
    pub device: Device,
    /// Where all ranks of data-parallel training are: the first on `device`, the others there or on devices of their own.
    pub ranks: Vec<Device>,
    pub name: String,
    pub lookup: Lookup,
    /// How many steps pass before losses are read back: reading waits for the device, which costs nothing on the CPU.
    pub read_every: usize,
}

impl Placement {
    pub fn is_cpu(&self) -> bool {
        self.lookup == Lookup::Rows
    }
}

impl DeviceChoice {
    /// Ranks that share a batch out among them.
    pub fn ranks(self) -> usize {
        match self {
            Self::Auto => 1,
            Self::Cpu { ranks } => ranks,
            Self::Cuda { first, last } => last - first + 1,
        }
    }

    /// Choosing the CPU has the process keep memory that it frees.
    ///
    /// # Errors
    /// When the device asked for cannot be used by this build on this machine.
    pub fn open(self) -> Result<Placement, DeviceError> {
        let found = cuda_devices();
        match self {
            Self::Cuda { last: wanted, .. } if !cfg!(feature = "cuda") => Err(DeviceError::NotBuilt(wanted)),
            Self::Cuda { last: wanted, .. } if wanted >= found => Err(DeviceError::Absent { wanted, found }),
            Self::Cuda { first, last } => Ok(cuda(first, last)),
            Self::Auto if found > 0 => Ok(cuda(0, 0)),
            Self::Auto => Ok(cpu(1)),
            Self::Cpu { ranks } => Ok(cpu(ranks)),
        }
    }
}

fn cpu(ranks: usize) -> Placement {
    keep_memory();
    let name = DeviceChoice::Cpu { ranks }.to_string();
    Placement { device: Device::flex(), ranks: vec![Device::flex(); ranks], name, lookup: Lookup::Rows, read_every: 1 }
}

/// Has freed memory kept for the next step. A step on the CPU takes and frees every tensor anew, and what the system
/// takes back it hands out again page by page, cleared: a fifth to a quarter of a small model's step.
fn keep_memory() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        /// Larger pieces are the system's business; no tensor of a model that trains on a CPU is.
        const MOST: libc::c_int = 1 << 30;
        /// What C libraries before 2.35 allow at most.
        const MOST_BEFORE: libc::c_int = 32 << 20;
        #[expect(unsafe_code, reason = "the C library's allocator has no other door")]
        // SAFETY: may be called at any time; whoever takes memory meanwhile sees the old numbers or the new ones.
        unsafe {
            if libc::mallopt(libc::M_MMAP_THRESHOLD, MOST) == 0 {
                libc::mallopt(libc::M_MMAP_THRESHOLD, MOST_BEFORE);
            }
            libc::mallopt(libc::M_TRIM_THRESHOLD, libc::c_int::MAX);
        }
    }
}

#[cfg(feature = "cuda")]
fn cuda_devices() -> usize {
    // Listing devices is safe without a driver; opening one is not.
    Device::enumerate(burn::tensor::DeviceType::Cuda).into_vec().len()
}

#[cfg(not(feature = "cuda"))]
fn cuda_devices() -> usize {
    0
}

#[cfg(feature = "cuda")]
fn cuda(first: usize, last: usize) -> Placement {
    /// Steps between two looks at the loss on a GPU; the device works on meanwhile.
    const READ_EVERY: usize = 16;
    keep_kernels();
    Placement {
        device: Device::cuda(first),
        ranks: (first..=last).map(Device::cuda).collect(),
        name: DeviceChoice::Cuda { first, last }.to_string(),
        lookup: Lookup::Gather,
        read_every: READ_EVERY,
    }
}

/// Has compiled kernels kept on the disk beside what autotuning found, so that a run that is taken up begins at full speed.
/// Only the first device that is opened can say so; a `cubecl.toml` above the current folder says where.
#[cfg(feature = "cuda")]
fn keep_kernels() {
    use cubecl::config::{CubeClRuntimeConfig, RuntimeConfig};
    let mut config = CubeClRuntimeConfig::from_current_dir().override_from_env();
    config.compilation.cache = true;
    CubeClRuntimeConfig::try_set(config);
}

#[cfg(not(feature = "cuda"))]
fn cuda(first: usize, _: usize) -> Placement {
    unreachable!("cuda:{first} is refused before it is opened")
}

impl std::str::FromStr for DeviceChoice {
    type Err = DeviceError;

    fn from_str(text: &str) -> Result<Self, DeviceError> {
        let unknown = || DeviceError::Unknown(text.into());
        match text {
            "auto" => Ok(Self::Auto),
            "cpu" => Ok(Self::Cpu { ranks: 1 }),
            "cuda" => Ok(Self::Cuda { first: 0, last: 0 }),
            _ => several(text).ok_or_else(unknown),
        }
    }
}

/// `cpu:RANKS`, `cuda:NUMBER` or `cuda:FIRST-LAST`.
fn several(text: &str) -> Option<DeviceChoice> {
    /// More than any box has GPUs, and more threads of one model than any box has cores for.
    const MOST_RANKS: usize = 64;
    let (kind, numbers) = text.split_once(':')?;
    let number = |text: &str| text.bytes().all(|digit| digit.is_ascii_digit()).then(|| text.parse::<usize>().ok())?;
    match kind {
        "cpu" => {
            number(numbers).filter(|ranks| (1..=MOST_RANKS).contains(ranks)).map(|ranks| DeviceChoice::Cpu { ranks })
        }
        "cuda" => {
            let (first, last) = numbers.split_once('-').unwrap_or((numbers, numbers));
            let (first, last) = (number(first)?, number(last)?);
            (first <= last && last - first < MOST_RANKS).then_some(DeviceChoice::Cuda { first, last })
        }
        _ => None,
    }
}

impl std::fmt::Display for DeviceChoice {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Cpu { ranks: 1 } => f.write_str("cpu"),
            Self::Cpu { ranks } => write!(f, "cpu:{ranks}"),
            Self::Cuda { first, last } if first == last => write!(f, "cuda:{first}"),
            Self::Cuda { first, last } => write!(f, "cuda:{first}-{last}"),
        }
    }
}

impl Serialize for DeviceChoice {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for DeviceChoice {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}
