//! Loops compiled once for each kind of processor, and sums in lanes, whose order no processor changes.

/// Numbers that are added up side by side: what the widest vectors hold.
pub const LANES: usize = 16;

/// Makes a function that runs in the form for this processor. The compiler turns the same loop into other instructions,
/// and keeps to the order of every sum; so all forms give the same bytes.
macro_rules! for_processors {
    ($(#[$doc:meta])* pub fn $name:ident($($argument:ident: $kind:ty),* $(,)?) $body:block) => {
        $(#[$doc])*
        pub fn $name($($argument: $kind),*) {
            #[inline(always)]
            fn plain($($argument: $kind),*) $body

            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2")]
            fn eight($($argument: $kind),*) {
                plain($($argument),*);
            }

            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx512f,avx512vl,avx512bw,avx512dq")]
            fn sixteen($($argument: $kind),*) {
                plain($($argument),*);
            }

            #[cfg(target_arch = "x86_64")]
            #[expect(unsafe_code, reason = "calls what was compiled for more than the least processor")]
            match $crate::model::fused::lanes::vectors() {
                // SAFETY: the processor has these instructions.
                $crate::model::fused::lanes::Vectors::Sixteen => return unsafe { sixteen($($argument),*) },
                // SAFETY: the processor has these instructions.
                $crate::model::fused::lanes::Vectors::Eight => return unsafe { eight($($argument),*) },
                $crate::model::fused::lanes::Vectors::Plain => {}
            }
            plain($($argument),*);
        }
    };
}
pub(super) use for_processors;

/// How many numbers a processor works on at once.
#[cfg(target_arch = "x86_64")]
pub enum Vectors {
    Plain,
    Eight,
    Sixteen,
}

/// What this processor can do.
#[cfg(target_arch = "x86_64")]
#[inline]
pub fn vectors() -> Vectors {
    let all_of_sixteen = is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512vl")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512dq");
    if all_of_sixteen {
        Vectors::Sixteen
    } else if is_x86_feature_detected!("avx2") {
        Vectors::Eight
    } else {
        Vectors::Plain
    }
}

/// The sum of what `term` makes of each number's place.
#[inline(always)]
pub fn sum(count: usize, term: impl Fn(usize) -> f32) -> f32 {
    let mut sums = [0.0; LANES];
    let whole = count - count % LANES;
    for first in (0..whole).step_by(LANES) {
        for (lane, sum) in sums.iter_mut().enumerate() {
            *sum += term(first + lane);
        }
    }
    for (place, sum) in (whole..count).zip(&mut sums) {
        *sum += term(place);
    }
    for half in [8, 4, 2, 1] {
        for lane in 0..half {
            sums[lane] += sums[lane + half];
        }
    }
    sums[0]
}
