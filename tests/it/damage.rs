//! Shards of several hundred samples, some of them damaged in ways that occur: each bad one is counted once where it
//! stands in the stream, with its reason and true place, and changes nothing for the others.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use saccade::draws::{Draws, Purpose};
use saccade::pipeline::augment::Crop;
use saccade::pipeline::decode::{Decoder, header};
use saccade::pipeline::{
    AugmentConfig, Counts, DecodeConfig, JpegDecoder, OnLostShard, Order, Pipeline, PipelineError, Probe, Quarantined,
    Reason, StreamConfig, StreamSpec,
};
use saccade::shard::{EpochOrder, ShardSet, Table};
use saccade::telemetry::{Stage, Telemetry};
use serde_json::Value;
use tempfile::TempDir;

use crate::saccade::{at, column, finish, saccade, small, temporary};

const SHARDS: usize = 3;
const SAMPLES: usize = 600;
const BATCH: usize = 8;
const SIZE: u32 = 28;
const SEED: u64 = 7;
const QUICKSTART: &str = "pipelines/quickstart.toml";

/// Longer than any of these streams takes on any machine.
const HANGS: Duration = Duration::from_secs(300);

/// Crops that are the whole picture but for a column or a row at most, so that all of the damage is met.
const WHOLE: [f64; 2] = [1.0, 1.0];
/// Crops that pass most of a picture by.
const SMALL: [f64; 2] = [0.05, 0.2];

/// A way to damage a JPEG, and the reasons that may be given for it; none where it stays good.
struct Way {
    name: &'static str,
    damage: fn(&[u8], u64) -> Vec<u8>,
    reasons: &'static [Reason],
}

/// Where a file ends inside a code, the end may read as damage.
const CUT: &[Reason] = &[Reason::Truncated, Reason::Damaged];
const UNKNOWN: &[Reason] = &[Reason::UnknownFormat];

const WAYS: [Way; 12] = [
    Way { name: "cut", damage: |jpeg, _| jpeg[..jpeg.len() * 2 / 3].to_vec(), reasons: CUT },
    Way { name: "emptied", damage: |_, _| Vec::new(), reasons: &[Reason::Empty] },
    Way { name: "bits flipped", damage: flipped, reasons: &[Reason::Damaged, Reason::Truncated, Reason::Unsupported] },
    Way { name: "another type", damage: |_, _| b"%PDF-1.7\n1 0 obj\n<<>>\n".repeat(9), reasons: UNKNOWN },
    Way { name: "huge JPEG", damage: |jpeg, _| claiming_most(jpeg), reasons: &[Reason::TooLarge] },
    Way { name: "huge PNG", damage: |_, _| image("bomb_60000x60000.png"), reasons: &[Reason::TooLarge] },
    Way { name: "end marker missing", damage: |jpeg, _| jpeg[..jpeg.len() - 2].to_vec(), reasons: &[] },
    Way { name: "tail missing", damage: |jpeg, _| jpeg[..jpeg.len() - 40].to_vec(), reasons: CUT },
    Way { name: "text", damage: |_, _| image("text.jpg"), reasons: UNKNOWN },
    Way { name: "zeros", damage: |jpeg, _| vec![0; jpeg.len()], reasons: UNKNOWN },
    Way { name: "nested tar", damage: |jpeg, _| tar_of(&[("inner.jpg".into(), jpeg.to_vec())]).0, reasons: UNKNOWN },
    Way { name: "PNG by name of a JPEG", damage: |_, _| image("really_png_named.jpg"), reasons: &[] },
];

/// Eight flipped bits, drawn again until what they leave is no whole picture: most do no harm that can be told.
fn flipped(jpeg: &[u8], number: u64) -> Vec<u8> {
    let mut draws = Draws::new(number, 0, 0, Purpose::Crop);
    let size = |bytes: &[u8]| header(bytes).map(|header| (header.width, header.height)).ok();
    loop {
        let mut bytes = jpeg.to_vec();
        for _ in 0..8 {
            // Behind the first marker, by which a JPEG is known.
            let place = 3 + draws.below(bytes.len() as u64 - 3) as usize;
            bytes[place] ^= 1 << draws.below(8);
        }
        // A size that became another one is another kind of damage, and has other crops.
        if size(&bytes) == size(jpeg) && whole(&bytes).is_err() {
            return bytes;
        }
    }
}

/// 65,535 pixels a side.
fn claiming_most(jpeg: &[u8]) -> Vec<u8> {
    let mut bytes = jpeg.to_vec();
    let frame = jpeg.windows(2).position(|pair| pair[0] == 0xFF && matches!(pair[1], 0xC0..=0xC2)).expect("a frame");
    bytes[frame + 5..frame + 9].fill(0xFF);
    bytes
}

/// `[height, width, 3]`
#[derive(Clone, Debug, PartialEq)]
struct Picture {
    width: u32,
    height: u32,
    pixels: Vec<u8>,
}

fn whole(bytes: &[u8]) -> Result<Picture, Reason> {
    cropped(bytes, Crop::whole)
}

const OWN: DecodeConfig = DecodeConfig { jpeg: JpegDecoder::Own, smooth_chroma: true };

/// The pixels of a crop alone.
fn cropped(bytes: &[u8], crop: impl Fn(u32, u32) -> Crop) -> Result<Picture, Reason> {
    let mut bytes = bytes.to_vec();
    let header = header(&bytes).map_err(|error| error.reason)?;
    let mut decoder = Decoder::new(OWN);
    let crop = crop(header.width, header.height);
    let region = decoder.decode(&mut bytes, &header, crop, u32::MAX).map_err(|error| error.reason)?;
    let (left, top) = (region.left as u32, region.top as u32);
    let row = |row: u32| {
        let start = (row * region.width + left) as usize * 3;
        region.pixels[start..start + crop.width as usize * 3].iter().copied()
    };
    let pixels = (top..top + crop.height).flat_map(row).collect();
    Ok(Picture { width: crop.width, height: crop.height, pixels })
}

fn image(name: &str) -> Vec<u8> {
    fs::read(crate::reference().join("images").join(name)).unwrap()
}

/// A tar, and where the data of each member begins.
pub fn tar_of(members: &[(String, Vec<u8>)]) -> (Vec<u8>, Vec<u64>) {
    let (mut builder, mut offsets) = (tar::Builder::new(Vec::new()), Vec::new());
    for (name, data) in members {
        let mut header = tar::Header::new_ustar();
        header.set_size(data.len() as u64);
        header.set_mode(0o644);
        // Short names need one block before the data.
        offsets.push(builder.get_ref().len() as u64 + 512);
        builder.append_data(&mut header, name, data.as_slice()).unwrap();
    }
    (builder.into_inner().unwrap(), offsets)
}

/// Sound JPEGs: the sample shards' and, every fifth, one of the references.
fn sound() -> Vec<Vec<u8>> {
    let shard = crate::saccade::root().join("shards/fashion-train-000000.tar");
    let (file, bytes) = (fs::File::open(&shard).unwrap(), fs::read(&shard).unwrap());
    let table = Table::of(&file, bytes.len() as u64).unwrap();
    let images = table.samples().map(|sample| sample.image().unwrap());
    let samples = images.map(|image| bytes[image.offset as usize..][..image.length as usize].to_vec());
    let names = ["baseline_420", "baseline_422", "baseline_444", "progressive", "grey", "cmyk", "odd_17x9", "restart"];
    let references: Vec<_> = names.iter().map(|name| image(&format!("{name}.jpg"))).collect();
    let chosen = samples.take(SAMPLES).enumerate();
    chosen.map(|(number, jpeg)| if number % 5 == 0 { references[number / 5 % 8].clone() } else { jpeg }).collect()
}

/// What a stream must say of one bad sample.
#[derive(Clone, Debug, PartialEq)]
struct Expected {
    key: String,
    shard: PathBuf,
    offset: u64,
}

/// Shards on disk, and which of their samples were damaged.
struct Shards {
    folder: TempDir,
    set: Arc<ShardSet>,
    /// By number: where the sample truly lies, and how it was damaged.
    places: Vec<(Expected, Option<&'static Way>)>,
}

impl Shards {
    /// `way` says how the sample of a number is damaged.
    fn new(way: impl Fn(usize) -> Option<&'static Way>) -> Self {
        let (folder, sound) = (temporary(), sound());
        let mut places = Vec::new();
        for shard in 0..SHARDS {
            let path = folder.path().join(format!("s-{shard}.tar"));
            let numbers = shard * SAMPLES / SHARDS..(shard + 1) * SAMPLES / SHARDS;
            let members: Vec<(String, Vec<u8>)> = numbers
                .clone()
                .flat_map(|number| {
                    let jpeg = &sound[number];
                    let bytes = way(number).map_or(jpeg.clone(), |way| (way.damage)(jpeg, number as u64));
                    [(format!("k{number:03}.jpg"), bytes), (format!("k{number:03}.cls"), b"3".to_vec())]
                })
                .collect();
            let (bytes, offsets) = tar_of(&members);
            fs::write(&path, bytes).unwrap();
            places.extend(numbers.zip(offsets.into_iter().step_by(2)).map(|(number, offset)| {
                (Expected { key: format!("k{number:03}"), shard: path.clone(), offset }, way(number))
            }));
        }
        let set = ShardSet::open(&[format!("{}/*.tar", folder.path().display())], true).unwrap();
        assert_eq!(set.len(), SAMPLES);
        Self { folder, set: Arc::new(set), places }
    }

    fn reasons(&self, number: u32) -> &'static [Reason] {
        self.places[number as usize].1.map_or(&[], |way| way.reasons)
    }

    /// The bad samples that must be met at a place of the stream: the one planned, and each drawn in its place until one
    /// is good.
    fn met(&self, seed: u64, epoch: u64, planned: u32) -> Vec<u32> {
        let mut draws = Draws::new(seed, epoch, planned.into(), Purpose::Replacement);
        let (mut met, mut next) = (Vec::new(), planned);
        while !self.reasons(next).is_empty() {
            met.push(next);
            while met.contains(&next) {
                next = draws.below(SAMPLES as u64) as u32;
            }
        }
        met
    }

    /// The bad samples of one epoch in their order.
    fn expected(&self, seed: u64, epoch: u64, window: usize) -> Vec<u32> {
        let order = EpochOrder::new(&self.set, seed, epoch, window);
        (0..SAMPLES).flat_map(|place| self.met(seed, epoch, order.sample(place))).collect()
    }

    fn assert_account(&self, found: &[Expected], reasons: &[Reason], expected: &[u32]) {
        let wanted: Vec<_> = expected.iter().map(|number| self.places[*number as usize].0.clone()).collect();
        assert_eq!(found, wanted);
        for (number, reason) in expected.iter().zip(reasons) {
            let way = self.places[*number as usize].1.expect("a damaged sample");
            assert!(way.reasons.contains(reason), "{}: {reason}", way.name);
        }
    }

    fn stream(&self, crop_scale: [f64; 2], max_bad_share: f64, epochs: u64) -> Streamed {
        let set = Arc::clone(&self.set);
        in_time(move || streamed(&set, crop_scale, max_bad_share, epochs))
    }

    fn pattern(&self, key: &str) -> String {
        format!("data.{key}={}/*.tar", self.folder.path().display())
    }
}

/// Fails where `work` does not end.
fn in_time<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    let (sender, receiver) = mpsc::channel();
    let worker = thread::spawn(move || drop(sender.send(work())));
    let done = receiver.recv_timeout(HANGS);
    if let Err(mpsc::RecvTimeoutError::Disconnected) = done {
        worker.join().unwrap();
    }
    done.expect("the stream hangs")
}

/// All that came out of a pipeline.
struct Streamed {
    /// Number and pixels of each place of the stream.
    places: Vec<(u32, Vec<u8>)>,
    quarantined: Vec<Quarantined>,
    counts: Counts,
    /// As telemetry counted them.
    skipped: u64,
    error: Option<PipelineError>,
}

fn streamed(set: &Arc<ShardSet>, crop_scale: [f64; 2], max_bad_share: f64, epochs: u64) -> Streamed {
    let spec = StreamSpec {
        order: Order::Shuffled { seed: SEED, window: SHARDS },
        batch: BATCH,
        saccade: None,
        on_lost_shard: OnLostShard::Stop,
        decode: OWN,
        augment: AugmentConfig { size: SIZE, crop_scale, crop_ratio: [0.5, 2.0], flip: true },
        mask: None,
    };
    let config = StreamConfig { workers: 3, batches_ahead: 3, reads: 2, max_bad_share, probe: Probe::default() };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).build().unwrap();
    let (telemetry, steps) = (Telemetry::new("test"), 0..epochs * (SAMPLES / BATCH) as u64);
    let (set, counts) = (Arc::clone(set), Counts::default());
    let mut pipeline = Pipeline::start(runtime.handle(), set, spec, config, steps, counts, &telemetry).unwrap();
    let mut all = Streamed { places: Vec::new(), quarantined: Vec::new(), counts, skipped: 0, error: None };
    while let Some(batch) = pipeline.next() {
        match batch {
            Ok(batch) => {
                let views = batch.pixels.chunks_exact((SIZE * SIZE * 3) as usize);
                all.places.extend(batch.samples.iter().copied().zip(views.map(<[u8]>::to_vec)));
                all.quarantined.extend(batch.quarantined);
                all.counts = batch.counts;
            }
            Err(error) => all.error = Some(error),
        }
    }
    all.skipped = telemetry.stage(Stage::Decode).totals().skipped;
    all
}

impl Streamed {
    fn found(&self) -> (Vec<Expected>, Vec<Reason>) {
        let place = |bad: &Quarantined| Expected { key: bad.key.clone(), shard: bad.shard.clone(), offset: bad.offset };
        (self.quarantined.iter().map(place).collect(), self.quarantined.iter().map(|bad| bad.reason).collect())
    }
}

/// Six samples, the ways in turn.
fn one_in_a_hundred(number: usize) -> Option<&'static Way> {
    (number % 100 == 42).then(|| &WAYS[number / 100 * 2 % WAYS.len()])
}

/// Every way twice, on a JPEG of the sample shards and on one of the references; more of them in the second shard.
fn every_way(number: usize) -> Option<&'static Way> {
    let turn = match number {
        0..200 if number.is_multiple_of(25) => number / 25,
        200..400 if number % 12 == 1 => 8 + (number - 205) / 12,
        _ => return None,
    };
    WAYS.get(turn % WAYS.len()).filter(|_| turn < 2 * WAYS.len())
}

fn check_account(damaged: &Shards, epochs: u64) {
    let all = damaged.stream(WHOLE, 1.0, epochs);
    assert!(all.error.is_none(), "{:?}", all.error);
    let expected: Vec<u32> = (0..epochs).flat_map(|epoch| damaged.expected(SEED, epoch, SHARDS)).collect();
    let (found, reasons) = all.found();
    damaged.assert_account(&found, &reasons, &expected);
    let quarantined = expected.len() as u64;
    assert_eq!(all.counts, Counts { read: epochs * SAMPLES as u64 + quarantined, quarantined });
    assert_eq!(all.skipped, quarantined);
}

#[test]
fn each_bad_sample_is_counted_once_wherever_it_is_drawn() {
    check_account(&Shards::new(one_in_a_hundred), 3);
    let damaged = Shards::new(every_way);
    let mut used: BTreeMap<&str, usize> = BTreeMap::new();
    damaged.places.iter().filter_map(|(_, way)| *way).for_each(|way| *used.entry(way.name).or_default() += 1);
    assert!(used.len() == WAYS.len() && used.values().all(|count| *count == 2), "{used:?}");
    check_account(&damaged, 2);
}

#[test]
fn sound_samples_keep_their_pixels_whatever_lies_beside_them() {
    let (healthy, damaged) = (Shards::new(|_| None), Shards::new(every_way));
    for crop_scale in [WHOLE, SMALL] {
        let (expected, all) = (healthy.stream(crop_scale, 0.0, 1), damaged.stream(crop_scale, 1.0, 1));
        assert!(expected.quarantined.is_empty() && expected.error.is_none() && all.error.is_none());
        let mut compared = 0;
        for ((number, pixels), (found, found_pixels)) in expected.places.iter().zip(&all.places) {
            let way = damaged.places[*number as usize].1;
            // A JPEG without its end marker is the same picture; one whose damage lies outside of the crop may be.
            if way.is_none_or(|way| way.name == "end marker missing") {
                assert!(
                    number == found && pixels == found_pixels,
                    "sample {number}, {}",
                    way.map_or("", |way| way.name)
                );
                compared += 1;
            }
        }
        assert_eq!(compared, SAMPLES - 2 * WAYS.len() + 2);
        assert!(all.quarantined.iter().all(|bad| {
            let (place, way) = &damaged.places[bad.key[1..].parse::<usize>().unwrap()];
            way.is_some_and(|way| way.reasons.contains(&bad.reason)) && place.offset == bad.offset
        }));
    }
}

#[test]
fn over_the_budget_the_stream_ends_and_names_the_worst_shard() {
    let damaged = Shards::new(every_way);
    let all = damaged.stream(WHOLE, 0.01, 9);
    let Some(PipelineError::TooManyBad { read, quarantined, worst, .. }) = all.error else { panic!("{:?}", all.error) };
    assert!(read >= 100 && quarantined as f64 > 0.01 * read as f64, "{quarantined} of {read}");
    assert_eq!(worst[0].0, damaged.folder.path().join("s-1.tar"));
}

/// Adds the damaged shards and what their streams need to a small run.
fn on<'a>(command: &'a mut Command, shards: &Shards, more: &[&str]) -> &'a mut Command {
    let (train, validation) = (shards.pattern("train"), shards.pattern("validation"));
    let whole = ["augment.crop_scale=[1.0, 1.0]", "augment.crop_ratio=[0.5, 2.0]"];
    small(command, &[&[train.as_str(), validation.as_str()], &whole[..], more].concat())
}

fn accounted(records: &[Value]) -> (Vec<Expected>, Vec<Reason>) {
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let place = |bad: &Value| Expected {
        key: text(&bad["key"]),
        shard: text(&bad["shard"]).into(),
        offset: bad["offset"].as_u64().unwrap(),
    };
    let reason = |bad: &Value| {
        let known = WAYS.iter().flat_map(|way| way.reasons).find(|reason| bad["reason"] == reason.name());
        *known.unwrap_or_else(|| panic!("{bad}"))
    };
    (records.iter().map(place).collect(), records.iter().map(reason).collect())
}

#[test]
fn stream_verb_lists_each_bad_sample_with_its_true_place() {
    let damaged = Shards::new(every_way);
    // Batches of 25 end with the epoch.
    let mut stream = saccade(&["stream", QUICKSTART, "--batches", "24", "--json"]);
    let said = finish(on(&mut stream, &damaged, &["train.batch=25", "stream.max_bad_share=1"]), 0);
    let lines: Vec<Value> = said.out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let records: Vec<Value> = lines.iter().flat_map(|line| line["quarantined"].as_array().unwrap().clone()).collect();
    let (found, reasons) = accounted(&records);
    damaged.assert_account(&found, &reasons, &damaged.expected(0, 0, 4));
    assert_eq!(lines.iter().map(|line| line["keys"].as_array().unwrap().len()).sum::<usize>(), SAMPLES);
    assert!(!said.err.contains("panicked"), "{}", said.err);
}

#[test]
fn run_trains_through_damage_and_keeps_the_account_of_it() {
    let (damaged, folder) = (Shards::new(one_in_a_hundred), temporary());
    let run = folder.path().join("run");
    let mut train = saccade(&["train", QUICKSTART, "--out", at(&run)]);
    let said = finish(on(&mut train, &damaged, &["train.batch=25", "stream.max_bad_share=0.02"]), 0);
    let text = fs::read_to_string(run.join("quarantine.jsonl")).unwrap();
    let records: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let (found, reasons) = accounted(&records);
    damaged.assert_account(&found, &reasons, &damaged.expected(0, 0, 4));
    assert_eq!(column(&run.join("steps.jsonl"), "step").len(), 24);
    assert!(!said.err.contains("panicked"), "{}", said.err);
}

#[test]
fn verbs_over_the_budget_exit_with_1_and_name_the_worst_shard() {
    let (damaged, folder) = (Shards::new(every_way), temporary());
    let (run, picture) = (folder.path().join("run"), folder.path().join("batch.png"));
    let verbs: [&[&str]; 3] = [
        &["stream", QUICKSTART, "--batches", "24", "--json"],
        &["train", QUICKSTART, "--out", at(&run)],
        &["show", QUICKSTART, "--out", at(&picture), "--step", "23"],
    ];
    for verb in &verbs[..2] {
        let said = finish(on(&mut saccade(verb), &damaged, &["train.batch=25"]), 1);
        let error = said.err.trim_end().lines().next_back().unwrap();
        let worst = format!("most of them in {}", damaged.folder.path().join("s-1.tar").display());
        assert!(error.contains(&worst) && error.contains("stream.max_bad_share = 0.01"), "{verb:?}: {}", said.err);
        assert!(!said.err.contains("panicked"), "{verb:?}: {}", said.err);
    }
    // One batch is too little to judge.
    finish(on(&mut saccade(verbs[2]), &damaged, &["train.batch=25"]), 0);
    // What stopped the run is kept with it.
    let kept = fs::read_to_string(run.join("quarantine.jsonl")).unwrap();
    assert!(kept.lines().count() >= 2, "{kept}");
}

/// The reference writes sizes as powers of two.
fn phrase(expected: &str) -> String {
    let power = expected.strip_prefix("claims 2^").and_then(|rest| rest.strip_suffix(" bytes"));
    power.map_or(expected.to_owned(), |power| format!("claims {} bytes", 1u64 << power.parse::<u32>().unwrap()))
}

#[test]
fn each_reference_tar_through_the_verbs_gives_its_samples_or_one_line() {
    let (tars, copies) = (crate::reference().join("tars"), temporary());
    let text = fs::read_to_string(tars.join("expected.json")).unwrap();
    let all: BTreeMap<String, Value> = serde_json::from_str(&text).unwrap();
    assert!(all.len() > 15);
    for (name, expected) in &all {
        let path = copies.path().join(name);
        fs::copy(tars.join(name), &path).unwrap();
        let error = expected.get("error").and_then(Value::as_str).map(phrase);
        let check = |command: &mut Command, code: i32| {
            let said = finish(command, code);
            assert_eq!(said.err.trim_end().lines().count(), usize::from(code != 0), "{name}: {}", said.err);
            assert!(!said.err.contains("panicked"), "{name}: {}", said.err);
            if let Some(error) = &error {
                let all = said.out + &said.err;
                assert!(all.contains(error.as_str()) && all.contains(name), "{name}: no `{error}` in: {all}");
                return String::new();
            }
            said.out
        };
        let code = i32::from(error.is_some());
        let listed = check(&mut saccade(&["shards", "list", at(&path), "--json"]), code);
        check(&mut saccade(&["shards", "index", at(&path)]), code);
        if error.is_some() {
            check(&mut saccade(&["shards", "verify", at(&path)]), 1);
        } else {
            let listed: Value = serde_json::from_str(&listed).unwrap();
            assert_eq!(
                listed[0]["samples"].as_u64(),
                Some(expected["samples"].as_array().unwrap().len() as u64),
                "{name}"
            );
        }
        // The members of these tars are no pictures, so a stream of any of them must stop, and say so in one line.
        let (train, validation) = (format!("data.train={}", at(&path)), format!("data.validation={}", at(&path)));
        let mut stream = saccade(&["stream", QUICKSTART, "--batches", "1", "--json"]);
        check(small(&mut stream, &[&train, &validation, "train.batch=1"]), 1);
    }
}

fn corners(width: u32, height: u32) -> [Crop; 5] {
    let (across, down) = (width / 3, height / 3);
    [
        Crop::whole(width, height),
        Crop { left: 0, top: 0, width: across, height: down },
        Crop { left: across, top: down, width: across, height: down },
        Crop { left: width - across, top: height - down, width: across, height: down },
        Crop { left: 5, top: 1, width: 1, height: 1 },
    ]
}

#[test]
fn cut_jpeg_gives_the_full_pictures_pixels_or_none_at_every_length_and_crop() {
    for name in ["baseline_420.jpg", "progressive.jpg", "restart.jpg"] {
        let bytes = image(name);
        let full = whole(&bytes).unwrap();
        for (number, crop) in corners(full.width, full.height).into_iter().enumerate() {
            let expected = cropped(&bytes, |_, _| crop).unwrap();
            let mut given = 0;
            for length in 0..bytes.len() {
                let Ok(found) = cropped(&bytes[..length], |_, _| crop) else { continue };
                assert!(
                    found == expected,
                    "{name}, crop {number}: other pixels from {length} of {} bytes",
                    bytes.len()
                );
                assert!(number > 0 || length + 2 >= bytes.len(), "{name}: whole from {length} of {}", bytes.len());
                given += 1;
            }
            assert!(given >= 2, "{name}, crop {number}: without its end marker it is the same picture");
            assert_eq!(expected, part(&full, crop), "{name}, crop {number}");
        }
    }
}

fn part(full: &Picture, crop: Crop) -> Picture {
    let row = |row: u32| {
        let start = (row * full.width + crop.left) as usize * 3;
        full.pixels[start..start + crop.width as usize * 3].iter().copied()
    };
    let pixels = (crop.top..crop.top + crop.height).flat_map(row).collect();
    Picture { width: crop.width, height: crop.height, pixels }
}
