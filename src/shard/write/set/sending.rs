//! Of a set that belongs to a store: how its shards leave the folder in which they are made.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use super::super::{WriteError, lists};
use super::{SetSpec, SetWriter, is_shard_of, names_here, remove, shard_name};
use crate::shard::remote::Outbox;

impl SetWriter {
    /// Sends what an earlier call made and did not send; `sent` are the shards that the store has.
    pub(super) fn take_up(&mut self, sent: &BTreeMap<String, String>) -> Result<(), WriteError> {
        if self.spec.to.away().is_none() {
            return Ok(());
        }
        let made = self.written.iter().map(|shard| shard.shard.clone());
        let unsent: Vec<String> = made.filter(|shard| !sent.contains_key(shard)).collect();
        // That call may have ended just before it removed what it had sent; and what another request left is not wanted.
        let stale = names_here(&self.spec).into_iter().filter(|shard| !unsent.contains(shard));
        stale.for_each(|shard| remove(&self.spec.to.folder().join(shard)));
        unsent.into_iter().try_for_each(|shard| self.send(shard))
    }

    /// Gives a shard that is in its place here to be sent to the store, if the set belongs to one.
    pub(super) fn send(&mut self, shard: String) -> Result<(), WriteError> {
        let Some(away) = self.spec.to.away() else { return Ok(()) };
        away.send(&shard).map_err(|(name, source)| self.spec.to.lost(&name, source))?;
        self.on_their_way.push(shard);
        self.note_sent()
    }

    /// Notes which shards came to the store; they are not needed here any more.
    pub(super) fn note_sent(&mut self) -> Result<(), WriteError> {
        let Some(away) = self.spec.to.away() else { return Ok(()) };
        for shard in std::mem::take(&mut self.on_their_way) {
            match away.sent(&shard) {
                Some(version) => {
                    self.state.note_sent(&shard, &version)?;
                    remove(&self.spec.to.folder().join(shard));
                }
                None => self.on_their_way.push(shard),
            }
        }
        Ok(())
    }

    /// Removes shards from the store that the set had before it was made again, smaller.
    pub(super) fn remove_stale_there(&self, away: &Outbox) -> Result<(), WriteError> {
        let SetSpec { to, name, .. } = &self.spec;
        // The old list names them until it is replaced; beyond it the store is asked.
        let sums = to.text(lists::CHECKSUMS)?.unwrap_or_default();
        let own: BTreeSet<&str> = self.written.iter().map(|shard| shard.shard.as_str()).collect();
        let listed = sums.lines().map(lists::summed).filter(|shard| is_shard_of(name, Path::new(shard)));
        let mut stale: BTreeSet<String> = listed.filter(|shard| !own.contains(shard)).map(str::to_owned).collect();
        for shard in (self.written.len()..).map(|number| shard_name(name, number)) {
            if !stale.contains(&shard) && !to.has(&shard)? {
                break;
            }
            stale.insert(shard);
        }
        // From the end, so that a call that follows finds the rest where this one is killed.
        for shard in stale.into_iter().rev() {
            for name in [format!("{shard}.index"), shard] {
                away.remove(&name).map_err(|source| to.lost(&name, source))?;
            }
        }
        Ok(())
    }
}
