//! What a run tells of itself, by step → a file of events that TensorBoard shows: scalars, images and texts.
//!
//! It is written by hand because no crate for it is kept up, and it is little: records framed as TFRecord frames them,
//! with a masked CRC-32C, and a handful of fields of protocol buffers in each (tensorboard/compat/proto: event.proto,
//! summary.proto, tensor.proto). The form is the one that PyTorch's `SummaryWriter` writes.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};

/// What TensorBoard knows a file of events by.
const PREFIX: &str = "events.out.tfevents.";
/// Below 2, TensorBoard takes no notice of where a run was taken up again.
const VERSION: &str = "brain.Event:2";
/// `SessionLog.START`: a run is begun, or taken up again.
const START: u64 = 1;
/// `DT_STRING`, the kind of a tensor's numbers.
const STRING: u64 = 7;
/// `DATA_CLASS_TENSOR`, what the text plugin takes.
const TENSOR: u64 = 2;

/// Fields of `Event`.
const WALL_TIME: u64 = 1;
const STEP: u64 = 2;
const FILE_VERSION: u64 = 3;
const SUMMARY: u64 = 5;
const SESSION_LOG: u64 = 7;
/// Fields of `Summary.Value`; a summary's only field, and those of a value's kinds, are numbered where they are put.
const TAG: u64 = 1;
const SIMPLE_VALUE: u64 = 2;
const IMAGE: u64 = 4;
const TENSOR_VALUE: u64 = 8;
const METADATA: u64 = 9;

/// A file of events that is being written.
pub struct EventFile {
    file: BufWriter<File>,
    path: PathBuf,
}

impl EventFile {
    /// Begins a file in `folder`, which is made if it is missing, for the steps from `from_step` on: what the folder's
    /// earlier files say of these steps, TensorBoard drops.
    ///
    /// # Errors
    /// When the folder or the file cannot be made or written.
    pub fn begin(folder: &Path, from_step: u64) -> Result<Self> {
        fs::create_dir_all(folder).with_context(|| format!("{}: cannot be made", folder.display()))?;
        let path = folder.join(free_name(folder).with_context(|| format!("{}: cannot be read", folder.display()))?);
        let file = File::create_new(&path).with_context(|| format!("{}: cannot be made", path.display()))?;
        let mut events = Self { file: BufWriter::new(file), path };
        let mut version = Message::event(None);
        version.bytes(FILE_VERSION, VERSION.as_bytes());
        events.write(&version)?;
        // Even where there is nothing to drop: TensorBoard takes the first of these for the beginning, whatever its step.
        let mut session = Message::default();
        session.number(1, START);
        let mut start = Message::event(Some(from_step));
        start.message(SESSION_LOG, &session);
        events.write(&start)?;
        events.flush()?;
        Ok(events)
    }

    /// Adds values by name, as one record. A `/` in a name puts it into a group; they are kept with the digits of `f32`.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn scalars<'a>(&mut self, step: u64, values: impl Iterator<Item = (&'a str, f64)>) -> Result<()> {
        let mut summary = Message::default();
        for (name, value) in values {
            let mut scalar = Message::named(name);
            scalar.float(SIMPLE_VALUE, value as f32);
            summary.message(1, &scalar);
        }
        self.summary(step, &summary)
    }

    /// Adds a PNG.
    ///
    /// # Errors
    /// When the bytes are no PNG, or the file cannot be written.
    pub fn image(&mut self, step: u64, name: &str, png: &[u8]) -> Result<()> {
        let header = PngHeader::read(png).with_context(|| format!("image {name}: is no PNG"))?;
        let mut image = Message::default();
        image.number(1, header.height.into());
        image.number(2, header.width.into());
        image.number(3, header.channels);
        image.bytes(4, png);
        let mut value = Message::named(name);
        value.message(IMAGE, &image);
        self.value(step, &value)
    }

    /// Adds a text, which is shown as Markdown.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn text(&mut self, step: u64, name: &str, text: &str) -> Result<()> {
        let mut plugin = Message::default();
        plugin.bytes(1, b"text");
        let mut metadata = Message::default();
        metadata.message(1, &plugin);
        metadata.number(4, TENSOR);
        let mut tensor = Message::default();
        tensor.number(1, STRING);
        // A shape without dimensions: one with some would be shown as a table.
        tensor.message(2, &Message::default());
        tensor.bytes(8, text.as_bytes());
        let mut value = Message::named(name);
        value.message(TENSOR_VALUE, &tensor);
        value.message(METADATA, &metadata);
        self.value(step, &value)
    }

    /// Hands what was added to the system, so that TensorBoard sees it.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn flush(&mut self) -> Result<()> {
        self.file.flush().with_context(|| self.failed())
    }

    fn value(&mut self, step: u64, value: &Message) -> Result<()> {
        let mut summary = Message::default();
        summary.message(1, value);
        self.summary(step, &summary)
    }

    fn summary(&mut self, step: u64, summary: &Message) -> Result<()> {
        let mut event = Message::event(Some(step));
        event.message(SUMMARY, summary);
        self.write(&event)
    }

    /// Adds a record: its length, the length's sum, the bytes, the bytes' sum.
    fn write(&mut self, event: &Message) -> Result<()> {
        let Message(bytes) = event;
        let length = (bytes.len() as u64).to_le_bytes();
        let sums = [&length[..], bytes].map(|part| masked(crc32c(part)).to_le_bytes());
        let mut parts = [&length[..], &sums[0], bytes, &sums[1]].into_iter();
        parts.try_for_each(|part| self.file.write_all(part)).with_context(|| self.failed())
    }

    fn failed(&self) -> String {
        format!("{}: cannot be written", self.path.display())
    }
}

/// A name that comes after those of the folder's other files, since TensorBoard reads them in this order: later than they
/// by a second at least, even if the clock was set back.
fn free_name(folder: &Path) -> io::Result<String> {
    let mut seconds = now().as_secs();
    for entry in fs::read_dir(folder)? {
        let name = entry?.file_name();
        let other = name.to_str().and_then(|name| name.strip_prefix(PREFIX)?.split('.').next()?.parse::<u64>().ok());
        seconds = seconds.max(other.map_or(0, |other| other.saturating_add(1)));
    }
    let host = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let host = if host.trim().is_empty() { "localhost" } else { host.trim() };
    Ok(format!("{PREFIX}{seconds:010}.{host}.{}.0", std::process::id()))
}

fn now() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// What TensorBoard wants to know of a PNG (PNG specification, section 11.2.1).
struct PngHeader {
    width: u32,
    height: u32,
    channels: u64,
}

impl PngHeader {
    /// `None` where the bytes do not begin as a PNG does.
    fn read(png: &[u8]) -> Option<Self> {
        let header = png.strip_prefix(b"\x89PNG\r\n\x1a\n\0\0\0\x0dIHDR")?;
        let (width, rest) = header.split_first_chunk()?;
        let (height, rest) = rest.split_first_chunk()?;
        let channels = match rest.get(1)? {
            0 => 1,
            4 => 2,
            // Colours, or a palette of them.
            2 | 3 => 3,
            6 => 4,
            _ => return None,
        };
        Some(Self { width: u32::from_be_bytes(*width), height: u32::from_be_bytes(*height), channels })
    }
}

/// A protocol buffer, field by field (protobuf.dev, Encoding).
#[derive(Default)]
struct Message(Vec<u8>);

impl Message {
    /// An `Event` that happens now, at a step if at any.
    fn event(step: Option<u64>) -> Self {
        let mut event = Self::default();
        event.key(WALL_TIME, 1);
        event.0.extend_from_slice(&now().as_secs_f64().to_le_bytes());
        if let Some(step) = step {
            event.number(STEP, step);
        }
        event
    }

    /// A `Summary.Value`, but for its value.
    fn named(name: &str) -> Self {
        let mut value = Self::default();
        value.bytes(TAG, name.as_bytes());
        value
    }

    fn number(&mut self, field: u64, value: u64) {
        self.key(field, 0);
        self.varint(value);
    }

    fn float(&mut self, field: u64, value: f32) {
        self.key(field, 5);
        self.0.extend_from_slice(&value.to_le_bytes());
    }

    fn message(&mut self, field: u64, Message(bytes): &Message) {
        self.bytes(field, bytes);
    }

    fn bytes(&mut self, field: u64, bytes: &[u8]) {
        self.key(field, 2);
        self.varint(bytes.len() as u64);
        self.0.extend_from_slice(bytes);
    }

    /// A field's number, and how long its value is: 0 a varint, 1 eight bytes, 2 a length and so many bytes, 5 four bytes.
    fn key(&mut self, field: u64, kind: u64) {
        self.varint(field << 3 | kind);
    }

    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
    }
}

/// As TFRecord keeps a sum, so that a sum of bytes that hold sums is no trivial one.
fn masked(crc: u32) -> u32 {
    crc.rotate_right(15).wrapping_add(0xa282_ead8)
}

/// What is left of each byte when it is divided by Castagnoli's polynomial, bits reversed.
const REMAINDERS: [u32; 256] = {
    let mut remainders = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        let mut remainder = byte as u32;
        let mut bit = 0;
        while bit < 8 {
            remainder = (remainder >> 1) ^ (0x82f6_3b78 * (remainder & 1));
            bit += 1;
        }
        remainders[byte] = remainder;
        byte += 1;
    }
    remainders
};

/// CRC-32C (RFC 3720, appendix B.4).
pub fn crc32c(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |crc, byte| crc >> 8 ^ REMAINDERS[usize::from(crc as u8 ^ byte)])
}
