//! Names of samples → keys of which no two are alike, whatever becomes of the samples.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};

use sha2::{Digest, Sha256};

use super::item::Item;

/// The first half of a SHA-256: two of a set of a billion are alike by chance once in 10^20 sets.
type Half = [u8; 16];

/// The keys so far, about 50 bytes each.
#[derive(Debug, Default)]
pub struct Keys {
    /// Which sample has a key.
    owners: HashMap<Half, Half>,
    /// Samples that have another key than their own.
    moved: HashSet<Half>,
    /// The number to try next for a key that several want.
    numbers: HashMap<Half, u64>,
}

impl Keys {
    /// The key of the next sample, and whether it is a new one: it is not where the same file or member came before.
    ///
    /// A key that is taken gets the ending of the file's name, then a number: `1.jpg` and `1.png` become `1` and `1_png`.
    pub fn of(&mut self, item: &Item) -> (String, bool) {
        let (own, identity) = (item.key(), half(&item.identity()));
        match self.owners.entry(half(&own)) {
            Entry::Vacant(free) => {
                free.insert(identity);
                return (own, true);
            }
            Entry::Occupied(owner) if *owner.get() == identity => return (own, false),
            Entry::Occupied(_) => {}
        }
        if !self.moved.insert(identity) {
            return (own, false);
        }
        let key = match item.ending() {
            None => own,
            Some(ending) => {
                let key = format!("{own}_{ending}");
                if let Entry::Vacant(free) = self.owners.entry(half(&key)) {
                    free.insert(identity);
                    return (key, true);
                }
                key
            }
        };
        let number = self.numbers.entry(half(&key)).or_insert(1);
        loop {
            *number += 1;
            let numbered = format!("{key}_{number}");
            if let Entry::Vacant(free) = self.owners.entry(half(&numbered)) {
                free.insert(identity);
                return (numbered, true);
            }
        }
    }
}

fn half(text: &str) -> Half {
    let mut half = Half::default();
    half.iter_mut().zip(Sha256::digest(text)).for_each(|(to, from)| *to = from);
    half
}
