//! A shard's bytes → its regular members, header by header, without reading their data.
//!
//! The `tar` crate reads a header's fields; where the next header stands, and whether it may stand there, is decided
//! here, because a shard must be refused with the place of the damage and before any memory is taken for it.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;

use ::tar::Header;
use sha2::{Digest, Sha256};

const BLOCK: usize = 512;

/// One read fetches a page: a header, a small member behind it and often the next header cost no second read.
const WINDOW: usize = 4096;

/// As much as a disk reads at its full rate; what reads a shard from end to end asks for so much at a time.
const CHUNK: usize = 1 << 20;

/// More than any path and its extended attributes need; a longer extension is damage.
const MOST_EXTENSION_BYTES: u64 = 1 << 20;

/// How other files begin that are often mistaken for a tar.
const FOREIGN: [(&[u8], &str); 6] = [
    (b"\x1f\x8b", "gzip"),
    (b"\x28\xb5\x2f\xfd", "zstd"),
    (b"BZh", "bzip2"),
    (b"\xfd7zXZ\0", "xz"),
    (b"\x04\x22\x4d\x18", "lz4"),
    (b"PK\x03\x04", "zip"),
];

/// What is wrong with a shard's bytes.
#[derive(Debug, thiserror::Error)]
pub enum TarError {
    #[error("empty file: not a tar")]
    Empty,
    #[error("not a tar: its first block is no header")]
    NotATar,
    #[error("{kind} data, not a tar: unpack it first, the tar itself must not be compressed")]
    Compressed { kind: &'static str },
    #[error("ends inside a header, at byte {size}")]
    EndsInsideHeader { size: u64 },
    #[error("ends inside a member: `{name}` claims {claimed} bytes at byte {offset}, {left} are left")]
    EndsInsideMember { name: String, claimed: u64, offset: u64, left: u64 },
    #[error("header checksum does not match, at byte {offset}")]
    Checksum { offset: u64 },
    #[error("unreadable member size in the header at byte {offset}")]
    Size { offset: u64 },
    #[error("header extension at byte {offset} is unreadable or claims too much: {claimed} bytes")]
    Extension { offset: u64, claimed: u64 },
    #[error("sparse member `{name}`: write the shard again without --sparse")]
    Sparse { name: String },
    #[error("members of one key are not together: `{key}`")]
    NotTogether { key: String },
    #[error("the same member twice: `{key}.{extension}`")]
    Duplicate { key: String, extension: String },
    #[error("cannot be read")]
    Io(#[from] io::Error),
}

/// A regular file inside a shard; its data lies wholly inside the shard.
pub struct Entry {
    pub name: String,
    pub offset: u64,
    pub length: u64,
}

/// What PAX and GNU headers say about the member that follows them.
#[derive(Default)]
struct Ahead {
    seen: bool,
    sparse: bool,
    long_name: Option<Vec<u8>>,
    path: Option<Vec<u8>>,
    size: Option<u64>,
}

/// Walks the regular members of one shard; directories, links and global headers are passed over.
pub struct Walk<'f> {
    window: Window<'f>,
    /// Where the tar begins inside its file.
    start: u64,
    position: u64,
    ahead: Ahead,
}

impl<'f> Walk<'f> {
    /// `size` is the file's size in bytes; nothing beyond it is read.
    pub fn new(file: &'f File, size: u64) -> Self {
        Self::within(file, 0..size, 0)
    }

    /// Walks a tar that is a part of a file, from the header at byte `position` on, which an earlier walk has told.
    pub fn within(file: &'f File, part: Range<u64>, position: u64) -> Self {
        let window = Window { file, size: part.end, start: 0, bytes: Vec::new(), through: None };
        Self { window, start: part.start, position, ahead: Ahead::default() }
    }

    /// Where the next header stands.
    pub fn position(&self) -> u64 {
        self.position
    }

    /// Walks a shard and reads every byte of it once, from its beginning to its end; with `sum` it makes its SHA-256.
    pub fn through(file: &'f File, size: u64, sum: bool) -> Self {
        let through = Some(Through { sum: sum.then(Sha256::new) });
        let window = Window { file, size, start: 0, bytes: Vec::new(), through };
        Self { window, start: 0, position: 0, ahead: Ahead::default() }
    }

    /// Reads what is left of a shard that is walked [`Walk::through`]; its SHA-256, if that was asked for.
    pub fn finish(mut self) -> io::Result<Option<String>> {
        let size = self.window.size;
        self.window.advance(size, 0)?;
        Ok(self.window.through.and_then(|through| through.sum).map(|sum| super::hex(&sum.finalize())))
    }

    /// `None` at the closing zero block, or at the end of the file where a shard lacks it.
    pub fn next_entry(&mut self) -> Result<Option<Entry>, TarError> {
        while let Some(block) = self.header()? {
            let header = Header::from_byte_slice(&block);
            let (at, kind) = (self.position, header.entry_type().as_byte());
            // Links, devices and directories have no data, whatever their size field says (POSIX pax, "size").
            let has_data = !matches!(kind, b'1'..=b'6');
            let is_extension = matches!(kind, b'x' | b'g' | b'L' | b'K');
            let claimed = if has_data { self.claimed(header, is_extension)? } else { 0 };
            let (offset, end) = self.place(header, claimed)?;
            self.position = end;

            if is_extension {
                self.read_ahead(kind, offset, claimed, at)?;
                continue;
            }
            let ahead = std::mem::take(&mut self.ahead);
            let name = ahead.name(header);
            if kind == b'S' || (ahead.sparse && has_data) {
                return Err(TarError::Sparse { name });
            }
            // Before ustar, a directory was a file whose name ends in a slash.
            if matches!(kind, b'0' | b'7' | 0) && !name.ends_with('/') {
                return Ok(Some(Entry { name, offset, length: claimed }));
            }
        }
        Ok(None)
    }

    /// All data of a small member that the walk has just returned.
    pub fn data(&mut self, entry: &Entry) -> io::Result<&[u8]> {
        self.window.read(entry.offset, entry.length as usize)
    }

    /// Whether something other than zeros follows the end of the walk, such as a second tar.
    pub fn has_more(&mut self) -> io::Result<bool> {
        let mut at = self.position;
        while at < self.window.size {
            let chunk = self.window.read(at, WINDOW.min((self.window.size - at) as usize))?;
            if !is_zero(chunk) {
                return Ok(true);
            }
            at += chunk.len() as u64;
        }
        Ok(false)
    }

    fn header(&mut self) -> Result<Option<[u8; BLOCK]>, TarError> {
        let (at, size) = (self.position, self.window.size);
        if size == self.start {
            return Err(TarError::Empty);
        }
        let length = (BLOCK as u64).min(size - at) as usize;
        let bytes = self.window.read(at, length)?;
        if is_zero(bytes) {
            return if self.ahead.seen { Err(TarError::EndsInsideHeader { size: at }) } else { Ok(None) };
        }
        match <[u8; BLOCK]>::try_from(bytes) {
            Ok(block) if sum_matches(&block) => Ok(Some(block)),
            Ok(block) if at > self.start || block.get(257..262) == Some(b"ustar") => {
                Err(TarError::Checksum { offset: at })
            }
            Err(_) if at > self.start => Err(TarError::EndsInsideHeader { size }),
            _ => Err(foreign(bytes)),
        }
    }

    /// The size that applies: a PAX record's before the header's own.
    fn claimed(&self, header: &Header, is_extension: bool) -> Result<u64, TarError> {
        if let (false, Some(size)) = (is_extension, self.ahead.size) {
            return Ok(size);
        }
        let unreadable = TarError::Size { offset: self.position };
        let field = header.as_old().size;
        let [marker, high @ .., _, _, _, _, _, _, _, _] = field;
        match marker {
            // The crate keeps the low 64 bits of a base-256 number alone, and takes a negative one for a large one.
            0x80.. if marker != 0x80 || !is_zero(&high) => Err(unreadable),
            _ if field.iter().all(|byte| matches!(byte, 0 | b' ')) => Ok(0),
            _ => header.entry_size().map_err(|_| unreadable),
        }
    }

    /// Where the data begins and where the next header stands.
    fn place(&self, header: &Header, claimed: u64) -> Result<(u64, u64), TarError> {
        let size = self.window.size;
        let offset = self.position + BLOCK as u64;
        let left = size - offset;
        if claimed > left {
            let name = self.ahead.name(header);
            return Err(TarError::EndsInsideMember { name, claimed, offset, left });
        }
        // The padding of the last member may be missing together with the closing blocks.
        let padded = claimed.div_ceil(BLOCK as u64).saturating_mul(BLOCK as u64);
        Ok((offset, offset.saturating_add(padded).min(size)))
    }

    fn read_ahead(&mut self, kind: u8, offset: u64, claimed: u64, at: u64) -> Result<(), TarError> {
        if kind == b'g' || kind == b'K' {
            return Ok(());
        }
        let damage = || TarError::Extension { offset: at, claimed };
        if claimed > MOST_EXTENSION_BYTES {
            return Err(damage());
        }
        let data = self.window.read(offset, claimed as usize)?;
        self.ahead.seen = true;
        if kind == b'L' {
            let name = data.split(|byte| *byte == 0).next().unwrap_or_default();
            self.ahead.long_name = Some(name.to_vec());
            return Ok(());
        }
        self.ahead.read_pax(data).ok_or_else(damage)
    }
}

impl Ahead {
    fn name(&self, header: &Header) -> String {
        match self.path.as_ref().or(self.long_name.as_ref()) {
            Some(name) => text(name),
            None => text(&header.path_bytes()),
        }
    }

    /// Reads `LENGTH KEY=VALUE\n` records by their lengths, since a value (an extended attribute) may hold newlines.
    fn read_pax(&mut self, mut data: &[u8]) -> Option<()> {
        while !is_zero(data) {
            let space = data.iter().position(|byte| *byte == b' ')?;
            let length: usize = str::from_utf8(data.get(..space)?).ok()?.parse().ok()?;
            let record = data.get(space + 1..length)?.strip_suffix(b"\n")?;
            let equals = record.iter().position(|byte| *byte == b'=')?;
            self.take_record(record.get(..equals)?, record.get(equals + 1..)?)?;
            data = data.get(length..)?;
        }
        Some(())
    }

    fn take_record(&mut self, key: &[u8], value: &[u8]) -> Option<()> {
        match key {
            b"path" if !value.is_empty() => self.path = Some(value.to_vec()),
            b"size" if !value.is_empty() => self.size = Some(str::from_utf8(value).ok()?.parse().ok()?),
            key if key.starts_with(b"GNU.sparse.") => self.sparse = true,
            _ => {}
        }
        Some(())
    }
}

/// Accepts the sum over signed bytes too, which some old writers left (GNU tar, "Basic Tar Format").
fn sum_matches(block: &[u8; BLOCK]) -> bool {
    let Ok(claimed) = Header::from_byte_slice(block).cksum() else {
        return false;
    };
    let counted = |at: usize, byte: u8| if (148..156).contains(&at) { b' ' } else { byte };
    let (mut unsigned, mut signed) = (0i64, 0i64);
    for (at, byte) in block.iter().enumerate() {
        let byte = counted(at, *byte);
        unsigned += i64::from(byte);
        signed += i64::from(byte.cast_signed());
    }
    i64::from(claimed) == unsigned || i64::from(claimed) == signed
}

fn foreign(bytes: &[u8]) -> TarError {
    match FOREIGN.iter().find(|(start, _)| bytes.starts_with(start)) {
        Some((_, kind)) => TarError::Compressed { kind },
        None => TarError::NotATar,
    }
}

/// Bytes that are not UTF-8 are written as `\xNN`, so that two names stay two names.
pub(super) fn text(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        text.push_str(chunk.valid());
        text.extend(chunk.invalid().iter().map(|byte| format!("\\x{byte:02x}")));
    }
    text
}

fn is_zero(bytes: &[u8]) -> bool {
    bytes.iter().all(|byte| *byte == 0)
}

/// The last bytes read, of which the next request is often a part.
struct Window<'f> {
    file: &'f File,
    size: u64,
    start: u64,
    bytes: Vec<u8>,
    /// Set where all of the file is read in order.
    through: Option<Through>,
}

struct Through {
    sum: Option<Sha256>,
}

impl Window<'_> {
    /// `length` bytes at `offset`; both must lie inside the file's size.
    fn read(&mut self, offset: u64, length: usize) -> io::Result<&[u8]> {
        if self.through.is_some() {
            self.advance(offset, length)?;
        }
        let from = offset.checked_sub(self.start).map_or(usize::MAX, |from| from as usize);
        let held = from.checked_add(length).is_some_and(|end| end <= self.bytes.len());
        if !held {
            let wanted = (WINDOW.max(length) as u64).min(self.size - offset) as usize;
            self.bytes.clear();
            self.bytes.resize(wanted, 0);
            self.start = offset;
            self.file.read_exact_at(&mut self.bytes, offset).inspect_err(|_| self.start = u64::MAX)?;
        }
        let from = if held { from } else { 0 };
        self.bytes.get(from..from + length).ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
    }

    /// Reads on until the window holds `length` bytes at `offset`, which lies no earlier than the last one asked for.
    fn advance(&mut self, offset: u64, length: usize) -> io::Result<()> {
        let end = offset.saturating_add(length as u64).min(self.size);
        while self.start + (self.bytes.len() as u64) < end {
            let passed = offset.saturating_sub(self.start).min(self.bytes.len() as u64);
            self.bytes.drain(..passed as usize);
            self.start += passed;
            let held = self.bytes.len();
            let at = self.start + held as u64;
            let wanted = (CHUNK as u64).min(self.size - at) as usize;
            self.bytes.resize(held + wanted, 0);
            let fresh = self.bytes.get_mut(held..).unwrap_or_default();
            self.file.read_exact_at(fresh, at)?;
            if let Some(sum) = self.through.as_mut().and_then(|through| through.sum.as_mut()) {
                sum.update(fresh);
            }
        }
        Ok(())
    }
}
