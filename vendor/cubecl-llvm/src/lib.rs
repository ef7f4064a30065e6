//! Stands in for the published `cubecl-llvm`: the names that `cubecl-cuda` imports from it, without a compiler.
//!
//! `cubecl-cuda` always builds both of its compilers and runs one. With its feature `cpp`, which saccade's feature
//! `cuda` turns on, it runs NVRTC and never calls this crate.

use std::convert::Infallible;
use std::ffi::c_char;
use std::fmt::{Display, Formatter, Result as FmtResult};

use cubecl_core::environment::backtrace::BackTrace;
use cubecl_core::ir::attributes::BufferIOAttr;
use cubecl_core::ir::nvidia::SmArch;
use cubecl_core::prelude::KernelDefinition;
use cubecl_core::{CompilationError, Compiler};

use crate::nvptx::ptx_version::PtxVersion;

/// The compiler that is not here: [`compile`](Compiler::compile) returns an error for every kernel.
#[derive(Clone, Debug)]
pub struct PlironCompiler {
    pub target: LlvmTarget,
}

/// What `cubecl-cuda` compiles for.
#[derive(Clone, Copy, Debug)]
pub enum LlvmTarget {
    Nvptx,
}

/// What `cubecl-cuda` tells the compiler.
#[derive(Clone, Debug, Default)]
pub struct PlironOptions {
    /// The architecture of an AMD GPU, which `cubecl-cuda` leaves out.
    pub arch: Option<Infallible>,
    pub sm_arch: Option<SmArch>,
    pub ptx_version: Option<PtxVersion>,
    pub grid_constants: bool,
}

/// What the compiler would return; nothing makes one.
pub enum PlironArtifact {
    NvptxCode(NvptxModule),
}

/// A kernel as PTX; nothing makes one.
#[derive(Clone, Debug)]
pub struct NvptxModule {
    pub ptx: Vec<c_char>,
    pub entrypoint: String,
    pub ir: String,
    /// In bytes.
    pub shared_memory_size: usize,
    pub io: Vec<BufferIOAttr>,
}

impl Display for PlironArtifact {
    fn fmt(&self, f: &mut Formatter<'_>) -> FmtResult {
        let PlironArtifact::NvptxCode(module) = self;
        f.write_str(&module.ir)
    }
}

impl Compiler for PlironCompiler {
    type Representation = PlironArtifact;
    type CompilationOptions = PlironOptions;

    fn compile(&mut self, _: KernelDefinition, _: &PlironOptions) -> Result<PlironArtifact, CompilationError> {
        Err(CompilationError::Generic {
            reason: "this build compiles kernels with NVRTC; LLVM is not in it: build with the feature cubecl/cuda-cpp"
                .to_string(),
            backtrace: BackTrace::capture(),
        })
    }

    fn extension(&self) -> &'static str {
        "ll"
    }

    fn lang_tag(&self) -> &'static str {
        "llvm"
    }
}

pub mod nvptx {
    pub mod ptx_version {
        use std::fmt::{Display, Formatter, Result as FmtResult};

        /// A version of PTX that LLVM would write; there is none.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum PtxVersion {}

        impl PtxVersion {
            /// `None` for every driver, which `cubecl-cuda` reads as "the compiler's own default".
            pub fn for_driver(_: i32) -> Option<Self> {
                None
            }
        }

        impl Display for PtxVersion {
            fn fmt(&self, _: &mut Formatter<'_>) -> FmtResult {
                match *self {}
            }
        }
    }
}

pub mod shared {
    pub mod lowered_features {
        use cubecl_core::ir::DeviceProperties;

        /// What the features of a device are narrowed for.
        pub enum GpuTarget {
            Nvptx,
        }

        /// Leaves `properties` as they are: `cubecl-cuda` narrows them only where LLVM compiles.
        pub fn restrict_features(_properties: &mut DeviceProperties, _: GpuTarget) {}
    }
}
