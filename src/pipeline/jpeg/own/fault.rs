//! What our own decoder may say of a file.

use super::super::super::decode::{Reason, Unusable};

/// Why a picture is not decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Sound as far as can be seen, but of a kind that is left to other decoders.
    Unusual,
    Tables,
    Code,
    Run,
    Restart,
    Short,
}

impl From<Fault> for Unusable {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::Unusual => {
                Self { reason: Reason::Unsupported, detail: "of a kind that our own decoder does not take".into() }
            }
            Fault::Tables => Self::damaged("a table that makes no sense"),
            Fault::Code => Self::damaged("a code that no table has"),
            Fault::Run => Self::damaged("more than 64 coefficients in a block"),
            Fault::Restart => Self::damaged("restart markers out of sequence"),
            Fault::Short => Self::truncated("the coded data end before the picture does"),
        }
    }
}
