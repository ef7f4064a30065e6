//! About how many bytes will be written, and whether there is room for them.

use anyhow::{Result, bail};

use super::feed::{Opened, read};
use super::pick::{Choice, Chosen};
use super::treat::{ImageForm, Outcome};
use super::{Plan, Reshard};
use crate::pipeline::shrink::Shrinker;
use crate::shard::Cache;
use crate::shard::write::{SetSpec, free_bytes, replaced_bytes};

/// A tar's header and, on average, half a block of padding.
const MEMBER_BYTES: u64 = 512 + 256;
/// An image and a label.
const USUAL_MEMBERS: u64 = 2;
/// The mean of so many images differs from that of all by a tenth.
const LOOKED_AT: usize = 64;

/// Refuses to begin what would fill the disk before it is done.
pub fn refuse_without_room(
    wanted: &Reshard,
    plan: &Plan,
    choice: &Choice,
    from: usize,
    is_scattered: bool,
    cache: &Cache,
) -> Result<()> {
    let rest = choice.order.get(from..).unwrap_or_default();
    let as_is: u64 = rest.iter().filter(|chosen| chosen.is_read()).map(|chosen| chosen.bytes).sum();
    let written = match wanted.treatment.image {
        ImageForm::AsIs => as_is + rest.len() as u64 * USUAL_MEMBERS * MEMBER_BYTES,
        ImageForm::Decoded(_) | ImageForm::Jpeg(..) => estimate(wanted, choice, rest, cache)?,
    };
    let replaced: u64 = if wanted.force { plan.specs.iter().map(replaced_bytes).sum() } else { 0 };
    // A shard is whole before the one that it replaces goes; what goes to a store leaves soon.
    let order = choice.order.len() as u64;
    let whole = u128::from(written) * u128::from(order) / (rest.len() as u128).max(1);
    let whole = u64::try_from(whole).unwrap_or(u64::MAX);
    let at_a_time = |spec: &SetSpec| spec.to.most_here(&spec.split, whole, order);
    let at_a_time: u64 = plan.specs.iter().map(at_a_time).sum();
    let all = if plan.to.away().is_some() { 0 } else { written.saturating_sub(replaced) };
    let needed = all.max(at_a_time.min(written));
    let needed = needed + if is_scattered { as_is } else { 0 };
    // A file system that does not tell is found full, if it is, by writing to it.
    let folder = plan.to.folder();
    let free = free_bytes(folder).unwrap_or(u64::MAX);
    if free < needed {
        let (needed, free) = (needed.div_ceil(1_000_000), free / 1_000_000);
        bail!("{}: about {needed} MB are needed, {free} MB are free; make room or take fewer", folder.display());
    }
    Ok(())
}

/// Bytes of all samples, from what a few that lie evenly over them become.
fn estimate(wanted: &Reshard, choice: &Choice, order: &[Chosen], cache: &Cache) -> Result<u64> {
    let stride = order.len().div_ceil(LOOKED_AT).max(1);
    let mut looked_at: Vec<&Chosen> = order.iter().step_by(stride).filter(|chosen| chosen.is_read()).collect();
    looked_at.sort_unstable_by_key(|chosen| (chosen.shard, chosen.place));
    let mut opened = Opened::new(&choice.origins, cache, 1);
    let mut shrinker = Shrinker::default();
    let mut bytes = 0;
    for chosen in &looked_at {
        let source = opened.get(chosen.shard)?;
        if let Outcome::Taken(taken) = wanted.treatment.treat(read(&source, chosen)?, &mut shrinker) {
            bytes += taken.members.iter().map(|(_, data)| data.len() as u64 + MEMBER_BYTES).sum::<u64>();
        }
    }
    let mean = bytes as f64 / looked_at.len().max(1) as f64;
    Ok((mean * order.len() as f64) as u64)
}
