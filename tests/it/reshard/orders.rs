//! Shuffled, filtered, merged and split sets: every sample once, each where the request says, the same bytes for any
//! number of workers and any memory.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use proptest::prelude::*;
use saccade::run::reshard::pick::{Classes, ClassesError, Duplicates, Pick};
use saccade::run::reshard::treat::Treatment;
use saccade::run::reshard::{Account, Layout, Reshard, reshard};
use saccade::shard::{ShardSet, hex};
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::{Members, Place, members, mixed, picture, png};
use crate::saccade::{at, finish, saccade};

fn make(wanted: &Reshard) -> Account {
    let account = reshard(wanted, &mut |_| {}).unwrap();
    let left: u64 = account.dropped.values().chain(account.filtered.values()).sum();
    assert_eq!(account.samples_in, account.samples_out + left, "{account:?}");
    account
}

/// Members of a set, shard by shard; every shard's checksum and place in the index is right.
pub fn set(folder: &Path, name: &str) -> Vec<Members> {
    let sums = fs::read_to_string(folder.join("SHA256SUMS")).unwrap();
    let index: Value = serde_json::from_slice(&fs::read(folder.join(format!("{name}.json"))).unwrap()).unwrap();
    assert_eq!((&index["__kind__"], &index["wids_version"]), (&"wids-shard-index-v1".into(), &1.into()));
    let read = |(number, line): (usize, &Value)| {
        let shard = line["url"].as_str().unwrap();
        assert_eq!(shard, format!("{name}-{number:06}.tar"));
        let bytes = fs::read(folder.join(shard)).unwrap();
        assert!(sums.contains(&format!("{}  {shard}\n", hex(&Sha256::digest(&bytes)))), "{shard} is not as {sums}");
        assert_eq!(line["filesize"], bytes.len());
        let members = members(&folder.join(shard));
        let keys: BTreeSet<&str> = members.iter().map(|(name, _)| key(name)).collect();
        assert_eq!(line["nsamples"], keys.len());
        members
    };
    index["shardlist"].as_array().unwrap().iter().enumerate().map(read).collect()
}

fn key(name: &str) -> &str {
    name.split('.').next().unwrap()
}

fn sorted(sets: &[Members]) -> Members {
    let mut all = sets.concat();
    all.sort();
    all
}

/// `count` samples over three shards, each with a label below 5.
fn three(place: &Place, count: u32) -> Vec<String> {
    let shard = |part: u32| {
        let of = (0..count).filter(|number| number % 3 == part);
        let sample = |number: u32| {
            let image = png(&picture(3 + number % 7, 4, number));
            [(format!("s{number}.png"), image), (format!("s{number}.cls"), (number % 5).to_string().into_bytes())]
        };
        place.write(&format!("in/t-{part}.tar"), &of.flat_map(sample).collect())
    };
    (0..3).map(shard).collect()
}

fn shuffled(place: &Place, shards: &[String], out: &str) -> Reshard {
    let layout = Layout { shuffle: Some(7), most_samples: Some(40), name: Some("s".into()), ..Layout::default() };
    Reshard { layout, ..place.copied(shards, out) }
}

#[test]
fn a_shuffle_is_the_same_for_any_number_of_workers_and_any_memory() {
    let place = Place::new();
    let shards = three(&place, 300);
    make(&shuffled(&place, &shards, "w1"));
    let expected = set(&place.path("w1"), "s");
    assert_eq!(expected.len(), 8);
    for (workers, memory, out) in [(1, None, "a"), (7, None, "b"), (2, Some(40_000), "c"), (7, Some(9_000), "d")] {
        make(&Reshard { workers, memory, ..shuffled(&place, &shards, out) });
        for name in ["SHA256SUMS", "s.json", "s-000003.tar"] {
            let read = |out: &str| fs::read(place.path(out).join(name)).unwrap();
            assert!(read(out) == read("w1"), "{name}: {workers} workers, {memory:?} bytes");
        }
        assert_eq!(place.names(out), place.names("w1"), "no bucket is left");
    }
    let before: Vec<Members> = shards.iter().map(|shard| members(Path::new(shard))).collect();
    assert_eq!(sorted(&expected), sorted(&before));
    let other = Layout { shuffle: Some(8), ..shuffled(&place, &shards, "").layout };
    make(&Reshard { layout: other, ..shuffled(&place, &shards, "other") });
    let other = set(&place.path("other"), "s");
    assert!(other != expected && sorted(&other) == sorted(&expected));
}

#[test]
fn a_shuffle_moves_samples_far() {
    let place = Place::new();
    make(&shuffled(&place, &three(&place, 600), "out"));
    let order: Vec<f64> =
        set(&place.path("out"), "s").concat().chunks(2).map(|sample| place_of(&sample[0].0)).collect();
    let moved = order.iter().enumerate().map(|(now, before)| (now as f64 - before).abs()).sum::<f64>() / 600.0;
    // A third of the length for a uniform order, with a deviation of about a hundredth for so many.
    assert!((moved / 600.0 - 1.0 / 3.0).abs() < 0.06, "{moved}");
}

fn place_of(name: &str) -> f64 {
    key(name).trim_start_matches('s').parse().unwrap()
}

#[test]
fn a_memory_that_is_too_small_is_named() {
    let place = Place::new();
    let shards = three(&place, 1200);
    let error = reshard(&Reshard { memory: Some(200), ..shuffled(&place, &shards, "out") }, &mut |_| {}).unwrap_err();
    assert!(error.to_string().contains("see --memory"), "{error}");
    assert!(place.names("out").is_empty());
}

#[test]
fn shards_hold_as_much_as_was_asked_for() {
    let place = Place::new();
    let shards = mixed(&place);
    for most in [1, 5_000, 30_000, u64::MAX] {
        let out = format!("out{most}");
        let layout = Layout { most_bytes: Some(most), name: Some("m".into()), ..Layout::default() };
        let account = make(&Reshard { layout, ..place.copied(&shards, &out) });
        for (number, members) in set(&place.path(&out), "m").iter().enumerate() {
            let size = fs::metadata(place.path(&out).join(format!("m-{number:06}.tar"))).unwrap().len();
            let keys: BTreeSet<&str> = members.iter().map(|(name, _)| key(name)).collect();
            assert!(size <= most || keys.len() == 1, "{size} bytes in {} samples", keys.len());
        }
        assert_eq!(
            account.shards_out,
            if most == 1 { account.samples_out } else { set(&place.path(&out), "m").len() as u64 }
        );
    }
}

#[test]
fn who_is_held_out_does_not_depend_on_who_else_is_there() {
    let place = Place::new();
    let shards = three(&place, 900);
    let split = |shards: &[String], out: &str, shuffle: Option<u64>| {
        let layout =
            Layout { held_out: Some("0.2".parse().unwrap()), shuffle, name: Some("h".into()), ..Layout::default() };
        let account = make(&Reshard { layout, ..place.copied(shards, out) });
        assert_eq!(account.sets.iter().map(|set| set.samples).sum::<u64>(), account.samples_out);
        let keys = |name: &str| -> BTreeSet<String> {
            set(&place.path(out), name).concat().iter().map(|(name, _)| key(name).to_owned()).collect()
        };
        (keys("h-train"), keys("h-held-out"))
    };
    let (train, held_out) = split(&shards, "all", None);
    assert!(train.is_disjoint(&held_out) && train.len() + held_out.len() == 900);
    // The share's deviation over 900 keys is 0.013.
    assert!((140..=220).contains(&held_out.len()), "{}", held_out.len());
    assert_eq!(split(&shards, "shuffled", Some(3)), (train, held_out.clone()));
    let (_, of_one) = split(&shards[1..2], "one", None);
    assert!(!of_one.is_empty() && of_one.is_subset(&held_out));
}

#[test]
fn two_sets_that_could_not_be_ended_are_taken_up_again() {
    let place = Place::new();
    let shards = three(&place, 90);
    let layout = Layout { held_out: Some("0.3".parse().unwrap()), name: Some("h".into()), ..Layout::default() };
    let wanted = |out: &str| Reshard { layout: layout.clone(), ..place.copied(&shards, out) };
    // A folder stands where the second set's index should be.
    let in_the_way = place.path("out").join("h-held-out.json");
    fs::create_dir_all(&in_the_way).unwrap();
    let error = format!("{:#}", reshard(&wanted("out"), &mut |_| {}).unwrap_err());
    assert!(error.contains("h-held-out.json"), "{error}");
    fs::remove_dir(&in_the_way).unwrap();
    make(&wanted("out"));
    make(&wanted("whole"));
    let sums = |out: &str| fs::read_to_string(place.path(out).join("SHA256SUMS")).unwrap();
    assert_eq!(sums("out"), sums("whole"));
}

/// A list may be a pipe, which can be read only once.
#[test]
fn a_list_of_keys_is_read_once_and_tells_requests_apart() {
    let place = Place::new();
    let shards = three(&place, 9);
    let list = place.path("keys");
    let wanted = || {
        let pick = Pick { keys: Some(list.clone()), ..Pick::default() };
        let layout = Layout { most_samples: Some(1), name: Some("k".into()), ..Layout::default() };
        Reshard { pick, layout, ..place.copied(&shards, "out") }
    };
    let all: Vec<String> = set_of(&shards);
    fs::write(&list, format!("{}\nnobody\nnobody either", all[0])).unwrap();
    let account = make(&Reshard { out: place.path("some"), ..wanted() });
    assert_eq!((account.samples_out, account.unknown_keys), (1, 2));
    fs::write(&list, all[..2].join("\n")).unwrap();
    fs::create_dir_all(place.path("out").join("k.json")).unwrap();
    reshard(&wanted(), &mut |_| {}).unwrap_err();
    fs::write(&list, all[2..4].join("\n")).unwrap();
    let error = format!("{:#}", reshard(&wanted(), &mut |_| {}).unwrap_err());
    assert!(error.contains("--force"), "{error}");
}

/// The keys in shards.
fn set_of(shards: &[String]) -> Vec<String> {
    let set = ShardSet::open(shards, false).unwrap();
    (0..set.len() as u32).map(|number| set.sample(number).key.to_owned()).collect()
}

#[test]
fn a_key_in_two_shards_is_refused_or_taken_once() {
    let place = Place::new();
    let sample = |key: &str, seed: u32| (format!("{key}.png"), png(&picture(4, 4, seed)));
    let one = place.write("one/a.tar", &vec![sample("x", 1), sample("y", 2)]);
    let two = place.write("two/b.tar", &vec![sample("z", 3), sample("y", 4)]);
    let layout = Layout { name: Some("both".into()), ..Layout::default() };
    let merged = Reshard { layout: layout.clone(), ..place.copied(&[one.clone(), two.clone()], "out") };
    let error = reshard(&merged, &mut |_| {}).unwrap_err().to_string();
    assert!(error.contains("key `y`") && error.contains(&one) && error.contains(&two), "{error}");
    assert!(error.contains("--duplicates first") && !place.path("out").exists(), "{error}");
    for (shuffle, out) in [(None, "first"), (Some(1), "shuffled")] {
        let layout = Layout { duplicates: Duplicates::First, shuffle, ..layout.clone() };
        let account = make(&Reshard { layout, ..place.copied(&[one.clone(), two.clone()], out) });
        assert_eq!(account.dropped, BTreeMap::from([("duplicate".to_owned(), 1)]));
        let mut all = set(&place.path(out), "both").concat();
        all.sort();
        assert_eq!(all, [sample("x", 1), sample("y", 2), sample("z", 3)]);
        let list = fs::read_to_string(place.path(out).join("both.dropped.jsonl")).unwrap();
        assert!(list.contains("\"key\":\"y\"") && list.contains(&one) && list.contains(&two), "{list}");
    }
}

#[test]
fn shards_of_the_same_names_have_no_key_twice_either() {
    let place = Place::new();
    let sample = |key: &str, seed: u32| (format!("{key}.png"), png(&picture(4, 4, seed)));
    let one = place.write("in/a.tar", &vec![sample("x", 1), sample("y", 2)]);
    let two = place.write("in/b.tar", &vec![sample("y", 3), sample("z", 4)]);
    let shards = [one, two];
    let error = reshard(&place.copied(&shards, "out"), &mut |_| {}).unwrap_err().to_string();
    assert!(error.contains("key `y`") && error.contains("--duplicates first"), "{error}");
    assert!(!place.path("out").exists());
    let layout = Layout { duplicates: Duplicates::First, ..Layout::default() };
    let account = make(&Reshard { layout, ..place.copied(&shards, "out") });
    assert_eq!(account.dropped, BTreeMap::from([("duplicate".to_owned(), 1)]));
    assert_eq!(members(&place.path("out/a.tar")), [sample("x", 1), sample("y", 2)]);
    assert_eq!(members(&place.path("out/b.tar")), [sample("z", 4)]);
}

#[test]
fn as_many_shards_are_made_as_are_asked_for() {
    let place = Place::new();
    let read = three(&place, 100);
    let sizes = |name: &str, out: &str| -> Vec<usize> {
        let keys = |members: &Members| members.iter().map(|(name, _)| key(name)).collect::<BTreeSet<_>>().len();
        set(&place.path(out), name).iter().map(keys).collect()
    };
    let layout =
        |shards: u64| Layout { shards: Some(shards), name: Some("s".into()), shuffle: Some(7), ..Layout::default() };
    for shards in [1, 3, 7, 40, 99, 100] {
        let out = format!("out-{shards}");
        make(&Reshard { layout: layout(shards), ..place.copied(&read, &out) });
        let sizes = sizes("s", &out);
        let (least, most) = (sizes.iter().min().unwrap(), sizes.iter().max().unwrap());
        assert_eq!((sizes.len() as u64, sizes.iter().sum::<usize>()), (shards, 100), "{sizes:?}");
        assert!(most - least <= 1, "{sizes:?}");
    }
    // As it is typed.
    let typed = place.path("typed");
    let mut command = saccade(&["shards", "reshard", "--shards", "7", "--shuffle", "7", "--name", "s"]);
    finish(command.args(&read).args(["--out", at(&typed)]), 0);
    assert_eq!(set(&typed, "s"), set(&place.path("out-7"), "s"));
    finish(saccade(&["shards", "reshard", "--shards", "7", "--samples", "7", "--out", at(&typed)]).args(&read), 2);
    let one = Reshard { workers: 1, layout: layout(7), ..place.copied(&read, "one") };
    make(&one);
    assert_eq!(set(&place.path("one"), "s"), set(&place.path("out-7"), "s"), "for any number of workers");
    let error = reshard(&Reshard { layout: layout(101), ..place.copied(&read, "none") }, &mut |_| {}).unwrap_err();
    assert!(error.to_string().contains("100 samples make no 101 shards"), "{error}");
    assert!(!place.path("none/s-000000.tar").exists());
    let split = Layout { held_out: Some("0.3".parse().unwrap()), ..layout(6) };
    let account = make(&Reshard { layout: split, ..place.copied(&read, "split") });
    let (train, held_out) = (sizes("s-train", "split"), sizes("s-held-out", "split"));
    assert_eq!((train.len(), train.iter().chain(&held_out).sum::<usize>()), (6, 100), "{account:?}");
    let most = train.iter().max().unwrap();
    assert!(held_out.len() > 1 && held_out.iter().all(|size| size <= most), "{train:?} and {held_out:?}");
}

#[test]
fn samples_that_another_shard_has_take_no_place_in_any() {
    let place = Place::new();
    let sample = |number: u32| (format!("k{number:02}.png"), png(&picture(4, 4, number)));
    let read = ["in/a.tar", "in/b.tar"].map(|name| place.write(name, &(0..20).map(sample).collect()));
    for (shuffle, out) in [(None, "plain"), (Some(3), "shuffled")] {
        let layout = Layout { shards: Some(4), name: Some("s".into()), shuffle, ..Layout::default() };
        let layout = Layout { duplicates: Duplicates::First, ..layout };
        make(&Reshard { layout: layout.clone(), ..place.copied(&read, out) });
        let sizes: Vec<usize> = set(&place.path(out), "s").iter().map(Vec::len).collect();
        assert_eq!(sizes, [5, 5, 5, 5], "{out}");
        let many = Layout { shards: Some(21), ..layout };
        let error = reshard(&Reshard { layout: many, ..place.copied(&read, "none") }, &mut |_| {}).unwrap_err();
        assert!(error.to_string().contains("20 samples make no 21 shards"), "{error}");
    }
}

#[test]
fn what_is_left_out_is_missing_from_its_own_shard_alone() {
    let place = Place::new();
    let sample = |number: u32| {
        let image = if number.is_multiple_of(3) { b"no picture".to_vec() } else { png(&picture(4, 4, number)) };
        (format!("k{number:02}.png"), image)
    };
    let read = [place.write("in/a.tar", &(0..24).map(sample).collect())];
    let layout = Layout { shards: Some(4), name: Some("s".into()), ..Layout::default() };
    let account = make(&Reshard { layout, ..place.copied(&read, "out") });
    assert_eq!((account.shards_out, account.samples_out), (4, 16));
    let sizes: Vec<usize> = set(&place.path("out"), "s").iter().map(Vec::len).collect();
    assert_eq!(sizes, [4, 4, 4, 4]);
}

#[test]
fn names_come_from_what_is_read_unless_given() {
    let place = Place::new();
    let sample = |key: &str| vec![(format!("{key}.png"), png(&picture(4, 4, 1)))];
    let shards =
        ["in/pets-train-0001.tar", "in/pets-train-0002.tar"].map(|name| place.write(name, &sample(&name[14..20])));
    let shuffled = Layout { shuffle: Some(1), ..Layout::default() };
    make(&Reshard { layout: shuffled.clone(), ..place.copied(&shards, "out") });
    assert_eq!(place.names("out"), ["SHA256SUMS", "pets-train-000000.tar", "pets-train-000001.tar", "pets-train.json"]);
    let same = [place.write("same/p-000000.tar", &sample("a")), place.write("same/p-000001.tar", &sample("b"))];
    let over = Reshard { layout: shuffled, force: true, ..place.copied(&same, "same") };
    let error = reshard(&over, &mut |_| {}).unwrap_err().to_string();
    assert!(error.contains("would be written over itself"), "{error}");
    let none = Pick { classes: Some("3".parse().unwrap()), ..Pick::default() };
    let error = reshard(&Reshard { pick: none, ..place.copied(&same, "none") }, &mut |_| {}).unwrap_err().to_string();
    assert!(error.contains("none of 2 samples is wanted: 2 class") && !place.path("none").exists(), "{error}");
}

#[test]
fn a_smaller_set_leaves_nothing_of_the_larger_one_in_its_place() {
    let place = Place::new();
    let shards = three(&place, 90);
    make(&Reshard {
        layout: Layout { most_samples: Some(10), ..shuffled(&place, &shards, "").layout },
        ..shuffled(&place, &shards, "out")
    });
    assert_eq!(set(&place.path("out"), "s").len(), 9);
    let error = reshard(&shuffled(&place, &shards, "out"), &mut |_| {}).unwrap_err().to_string();
    assert!(error.contains("s-000000.tar: exists already"), "{error}");
    // Lines of others stay as they are, those of this set's older shards go.
    let others = "0  gone.tar\n1 *other.tar\n2  ./sub/x.tar\n";
    fs::write(place.path("out/SHA256SUMS"), format!("{others}3  s-000009.tar\n4  s-000001.tar\n")).unwrap();
    make(&Reshard { force: true, ..shuffled(&place, &shards, "out") });
    assert_eq!(set(&place.path("out"), "s").len(), 3);
    assert_eq!(place.names("out"), ["SHA256SUMS", "s-000000.tar", "s-000001.tar", "s-000002.tar", "s.json"]);
    assert!(!place.path("out/s-000008.tar.index").exists());
    let sums = fs::read_to_string(place.path("out/SHA256SUMS")).unwrap();
    assert!(others.lines().all(|line| sums.lines().any(|kept| kept == line)), "{sums}");
    assert_eq!((sums.lines().count(), sums.contains("s-000009"), sums.contains("4  s-")), (6, false, false), "{sums}");
}

#[test]
fn classes_are_read_as_they_are_written() {
    let classes: Classes = "0,5-9, 12".parse().unwrap();
    let found: Vec<u32> = (0..20).filter(|class| classes.contains(*class)).collect();
    assert_eq!(found, [0, 5, 6, 7, 8, 9, 12]);
    for text in ["", "a", "3-", "-3", "9-3", "1,,2", "4294967296"] {
        assert_eq!(text.parse::<Classes>(), Err(ClassesError), "{text}");
    }
}

/// A sample of a made set: shard, label, side of its image, whether its key is on the list.
type Drawn = (usize, Option<u32>, u32, bool);

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]
    #[test]
    fn filters_take_exactly_what_they_say_and_change_nothing(
        samples in prop::collection::vec((0usize..3, prop::option::of(0u32..6), 1u32..6, any::<bool>()), 1..30),
        by_class: bool, by_key: bool, per_class in prop::option::of(1u64..4), least in prop::option::of(1u32..6),
        shuffle in prop::option::of(0u64..9),
    ) {
        let place = Place::new();
        let bytes = |number: usize, (_, label, side, _): Drawn| {
            let mut all = vec![(format!("k{number}.ppm"), format!("P6\n{side} 7\n255\n{:>1$}", "", side as usize * 21).into_bytes())];
            all.extend(label.map(|label| (format!("k{number}.cls"), label.to_string().into_bytes())));
            all.push((format!("k{number}.json"), b"{}".to_vec()));
            all
        };
        let shards: Vec<String> = (0..3).map(|shard| {
            let own = samples.iter().enumerate().filter(|(_, sample)| sample.0 == shard);
            place.write(&format!("in/p{shard}.tar"), &own.flat_map(|(number, sample)| bytes(number, *sample)).collect())
        }).collect();
        let keys = place.path("keys");
        let listed = samples.iter().enumerate().filter(|(_, sample)| sample.3).map(|(number, _)| format!("k{number}\n"));
        fs::write(&keys, listed.collect::<String>()).unwrap();
        let wanted = Reshard {
            layout: Layout { shuffle, name: Some("f".into()), ..Layout::default() },
            pick: Pick {
                classes: by_class.then(|| "1,3-4".parse().unwrap()), keys: by_key.then_some(keys), per_class,
            },
            treatment: Treatment { least_side: least, drop_json: true, ..Treatment::default() },
            ..place.copied(&shards, "out")
        };
        // What the indexes alone tell is filtered first, then what is left of each class is counted.
        let by_index = |sample: &Drawn| {
            (!by_class || sample.1.is_some_and(|label| [1, 3, 4].contains(&label)))
                && (!by_key || sample.3) && (per_class.is_none() || sample.1.is_some())
        };
        let candidates = samples.iter().filter(|sample| by_index(sample)).count();
        let found = match reshard(&wanted, &mut |_| {}) {
            Ok(account) => {
                let left: u64 = account.filtered.values().sum();
                prop_assert!(account.samples_in == account.samples_out + left && account.dropped.is_empty());
                set(&place.path("out"), "f").concat()
            }
            Err(error) => {
                let nothing = ["is wanted", "could be taken over", "no samples in"];
                prop_assert!(nothing.iter().any(|words| error.to_string().contains(words)), "{error}");
                Vec::new()
            }
        };
        let mut counts = BTreeMap::new();
        let taken: BTreeSet<usize> = found.iter().map(|(name, _)| key(name)[1..].parse().unwrap()).collect();
        for number in &taken {
            let sample = samples[*number];
            prop_assert!(by_index(&sample) && least.is_none_or(|least| sample.2 >= least));
            *counts.entry(sample.1).or_insert(0u64) += 1;
            let own: Members = found.iter().filter(|(name, _)| key(name) == format!("k{number}")).cloned().collect();
            let mut before = bytes(*number, sample);
            before.retain(|(name, _)| !name.ends_with("json"));
            prop_assert_eq!(own, before);
        }
        prop_assert!(per_class.is_none_or(|most| counts.values().all(|count| *count <= most)));
        if least.is_none() {
            let mut there = BTreeMap::new();
            samples.iter().filter(|sample| by_index(sample)).for_each(|sample| *there.entry(sample.1).or_insert(0) += 1);
            let expected: BTreeMap<_, u64> =
                there.into_iter().map(|(label, count): (_, u64)| (label, count.min(per_class.unwrap_or(count)))).collect();
            prop_assert_eq!(&counts, &expected, "as many of each class as there are, and no more than are asked for");
        }
        if per_class.is_none() && least.is_none() {
            prop_assert_eq!(taken.len(), candidates);
        }
        if shuffle.is_none() && per_class.is_none() {
            let expected = samples.iter().enumerate().filter(|(_, sample)| by_index(sample));
            let expected: BTreeSet<usize> =
                expected.filter(|(_, sample)| least.is_none_or(|least| sample.2 >= least)).map(|(number, _)| number).collect();
            prop_assert_eq!(taken, expected);
        }
        prop_assert!(at(&place.path("out")).ends_with("out"));
    }
}
