//! The samples of a choice → the sets, through workers that take them in order and one writer that puts them in order.

use std::iter;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::thread;

use anyhow::{Context, Result};
use sha2::{Digest, Sha256};

use super::super::belt::{Belt, GROUP_SAMPLES};
use super::super::tune::available_memory;
use super::feed::{Feed, From, Opened, Ticket};
use super::pick::{Choice, Chosen};
use super::scatter::{self, Scatter};
use super::treat::{ImageForm, Outcome, Treatment};
use super::{Done, Event, Plan, Reshard, room};
use crate::pipeline::shrink::Shrinker;
use crate::shard::write::{DUPLICATE, Destination, SetAccount, SetWriter, Written};
use crate::shard::{Cache, hex};

/// Samples read and waiting to be written. More of them are not faster, and leave the processor's cache.
const MOST_WAITING_BYTES: u64 = 32 << 20;
/// And so many for each worker, whose turn may be a large picture's.
const WORKER_BYTES: u64 = 16 << 20;
/// Pictures that are made anew may be larger than they come.
const MADE_BYTES: u64 = 256 << 20;
/// A quarter of the descriptors that a process usually has.
const MOST_OPEN: usize = 256;
/// Where the system does not tell how much memory there is.
const USUAL_MEMORY: u64 = 2 << 30;

/// What is being written.
pub struct Work<'a> {
    wanted: &'a Reshard,
    cache: &'a Cache,
    choice: &'a Choice,
    plan: &'a Plan,
    sets: Vec<SetWriter>,
    /// Samples that were dropped up to the last finished shard of each set.
    dropped: Vec<u64>,
}

impl<'a> Work<'a> {
    /// Begins the sets, or takes them up.
    pub fn new(wanted: &'a Reshard, choice: &'a Choice, plan: &'a Plan, cache: &'a Cache) -> Result<Self> {
        let sets = SetWriter::create_all(&plan.specs, cache)?;
        let dropped = sets.iter().map(|set| set.account().dropped.values().sum()).collect();
        Ok(Self { wanted, cache, choice, plan, sets, dropped })
    }

    /// Shards that an interrupted call had finished.
    pub fn kept(&self) -> usize {
        self.sets.iter().map(SetWriter::kept).sum()
    }

    /// The place of the order from which on there is work to do.
    pub fn settled(&self) -> usize {
        self.sets.iter().map(SetWriter::settled).min().unwrap_or_default() as usize
    }

    /// Settles all that is not settled yet.
    pub fn write(&mut self, request: &str, tell: &mut dyn FnMut(&Event)) -> Result<()> {
        let from = self.settled();
        let (wanted, choice, cache) = (self.wanted, self.choice, self.cache);
        let memory = wanted.memory.unwrap_or_else(|| available_memory().unwrap_or(USUAL_MEMORY) / 2);
        let rest = choice.order.get(from..).unwrap_or_default();
        let bytes: u64 = rest.iter().map(|chosen| chosen.bytes).sum();
        let fits = bytes <= memory
            && choice.origins.len() <= MOST_OPEN
            && cache.holds(choice.origins.iter().map(|origin| (origin.path.as_path(), origin.stamp.size)))?;
        let is_scattered = wanted.layout.shuffle.is_some() && !fits && !rest.is_empty();
        room::refuse_without_room(wanted, self.plan, choice, from, is_scattered, cache)?;
        let mut opened =
            Opened::new(&choice.origins, cache, if wanted.layout.shuffle.is_some() { MOST_OPEN } else { 1 });
        let from_where = if is_scattered {
            let folder = self.bucket_folder();
            let scatter = Scatter { folder, choice, from, memory, request: hex(&Sha256::digest(request)) };
            let samples = rest.len() as u64;
            From::Buckets(scatter.buckets(cache, &mut |scattered| tell(&Event::Scattered { samples, scattered }))?)
        } else {
            if wanted.layout.shuffle.is_some() && !rest.is_empty() {
                opened.read_ahead()?;
            }
            From::Shards(opened)
        };
        let feed = Mutex::new(Feed::new(choice, from_where, from));
        let is_made = wanted.treatment.image != ImageForm::AsIs;
        let made = if is_made { MADE_BYTES } else { 0 };
        let belt = Belt::new(MOST_WAITING_BYTES + made + WORKER_BYTES * wanted.workers as u64);
        thread::scope(|scope| {
            let spawn = |number: usize| {
                let thread = thread::Builder::new().name(format!("saccade-reshard-{number}"));
                thread.spawn_scoped(scope, || work(&belt, &feed, choice, wanted.treatment)).map(drop)
            };
            let started = (0..wanted.workers).try_for_each(spawn).context("threads of --workers cannot be started");
            let written = started.and_then(|()| self.take_all(from, &belt, tell));
            if written.is_err() {
                self.sets.iter_mut().for_each(SetWriter::save_ended);
            }
            // The scope waits for the workers, which end with the belt.
            belt.close();
            written
        })
    }

    /// Settles what the workers made, in order.
    fn take_all(&mut self, from: usize, belt: &Belt<Vec<Result<Outcome>>>, tell: &mut dyn FnMut(&Event)) -> Result<()> {
        self.end_shards(from, tell)?;
        let mut outcomes = iter::from_fn(|| belt.take()).flatten();
        for (place, chosen) in (from..).zip(self.choice.order.get(from..).unwrap_or_default()) {
            let outcome = outcomes.next().context("a worker ended before its work was done")??;
            self.settle(place, chosen, &outcome, tell)?;
            self.end_shards(place + 1, tell)?;
            tell(&Event::Settled(place as u64 + 1));
        }
        for number in 0..self.sets.len() {
            let before = self.sets.get_mut(number).map(SetWriter::end_shard).transpose()?.flatten();
            self.tell(number, before, tell);
            while let Some(placed) = self.sets.get_mut(number).map(SetWriter::place).transpose()?.flatten() {
                self.tell(number, Some(placed), tell);
            }
        }
        Ok(())
    }

    fn settle(&mut self, place: usize, chosen: &Chosen, outcome: &Outcome, tell: &mut dyn FnMut(&Event)) -> Result<()> {
        let is_split = self.sets.len() > 1;
        for number in 0..self.sets.len() {
            let Some(set) = self.sets.get_mut(number).filter(|set| set.settled() <= place as u64) else { continue };
            if is_split && (number == 1) != chosen.held_out {
                set.pass(1);
                let finished = set.place_ready()?;
                self.tell(number, finished, tell);
                continue;
            }
            let finished = match outcome {
                Outcome::Taken(taken) => {
                    let members: Vec<(&str, &[u8])> =
                        taken.members.iter().map(|(extension, data)| (extension.as_str(), data.as_slice())).collect();
                    let finished = set.add(&taken.key, &members)?;
                    if taken.changed {
                        set.note_changed();
                    }
                    finished
                }
                Outcome::Dropped(dropped) => {
                    set.drop_sample(dropped.clone())?;
                    set.place_ready()?
                }
                Outcome::Filtered(reason) => {
                    set.filter(reason);
                    set.place_ready()?
                }
            };
            self.tell(number, finished, tell);
        }
        Ok(())
    }

    /// Ends the shards that keep their names and end at this place of the order.
    fn end_shards(&mut self, place: usize, tell: &mut dyn FnMut(&Event)) -> Result<()> {
        while let Some(set) = self.sets.first_mut()
            && self.plan.ends.get(set.ended()).is_some_and(|end| *end <= place)
        {
            let finished = set.next_shard()?;
            self.tell(0, finished, tell);
        }
        Ok(())
    }

    fn tell(&mut self, number: usize, finished: Option<Written>, tell: &mut dyn FnMut(&Event)) {
        let (Some(written), Some(set)) = (finished, self.sets.get(number)) else { return };
        let dropped: u64 = set.placed().dropped.values().sum();
        let before = self.dropped.get_mut(number).map_or(0, |before| std::mem::replace(before, dropped));
        let Written { samples, bytes, shard, .. } = written;
        let shard = self.to().path(&shard);
        tell(&Event::Shard(Done { shard: &shard, samples, bytes, dropped: dropped - before }));
        let safe = self.sets.iter().map(|set| set.placed().settled).min().unwrap_or_default();
        scatter::remove_before(&self.bucket_folder(), safe as usize);
    }

    fn bucket_folder(&self) -> PathBuf {
        let name = self.plan.specs.first().map_or("", |spec| spec.name.as_str());
        self.to().folder().join(format!("{name}.shuffling"))
    }

    fn to(&self) -> &'a Destination {
        &self.plan.to
    }

    /// The account of each set, and the list of its dropped samples.
    pub fn finish(mut self) -> Result<Vec<(SetAccount, PathBuf)>> {
        for set in &mut self.sets {
            set.complete()?;
        }
        let buckets = self.bucket_folder();
        let mut found = Vec::with_capacity(self.sets.len());
        for set in self.sets {
            let list = set.dropped_path();
            found.push((set.end()?, list));
        }
        scatter::remove(&buckets)?;
        Ok(found)
    }
}

/// The writer would wait for ever for what a worker that panicked has not made.
struct CloseOnPanic<'b>(&'b Belt<Vec<Result<Outcome>>>);

impl Drop for CloseOnPanic<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            self.0.close();
        }
    }
}

/// A worker's life: the next samples, until there are none.
fn work(belt: &Belt<Vec<Result<Outcome>>>, feed: &Mutex<Feed>, choice: &Choice, treatment: Treatment) {
    let _guard = CloseOnPanic(belt);
    let mut shrinker = Shrinker::default();
    loop {
        // Locked while it waits for room, as all others would have to wait too; then turns are in the samples' order.
        let mut next = feed.lock().unwrap_or_else(PoisonError::into_inner);
        if !belt.wait() {
            return;
        }
        // Begun before, so that a panic within closes the belt while nobody else can begin one.
        let mut turn = belt.begin(0);
        let group = next.group(if treatment.image == ImageForm::AsIs { GROUP_SAMPLES } else { 1 });
        if group.is_empty() {
            return turn.finish(Vec::new(), 0);
        }
        turn.expect(group.iter().flatten().map(Ticket::bytes).sum());
        drop(next);
        let outcome = |ticket: Result<Ticket>| take_over(&ticket?, choice, treatment, &mut shrinker);
        let outcomes: Vec<Result<Outcome>> = group.into_iter().map(outcome).collect();
        let bytes = outcomes.iter().flatten().map(Outcome::bytes).sum();
        turn.finish(outcomes, bytes);
    }
}

fn take_over(ticket: &Ticket, choice: &Choice, treatment: Treatment, shrinker: &mut Shrinker) -> Result<Outcome> {
    let raw = ticket.read(choice)?;
    if let Some(first) = ticket.chosen.duplicate_of {
        let first = choice.origins.get(first as usize).map_or(Path::new(""), |origin| &origin.path);
        return Ok(Outcome::dropped(&raw, DUPLICATE, format!("the key stands in {} already", first.display())));
    }
    if !ticket.chosen.is_read() {
        return Ok(Outcome::too_large(&raw, ticket.chosen.bytes));
    }
    Ok(treatment.treat(raw, shrinker))
}
