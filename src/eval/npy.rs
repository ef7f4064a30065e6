//! Rows of numbers → a `.npy` file, row by row, so that it may hold more than memory does.
//!
//! Version 1.0 of NumPy's format (numpy.lib.format): magic, length of the header, the header as a Python literal padded
//! to 64 bytes, then the numbers. How many rows there are is known last, so the header is written again at the end.

use std::fs::File;
use std::io::{self, BufWriter, Seek, SeekFrom, Write};
use std::path::Path;

/// Bytes of magic, version, length and header together; enough for any two numbers.
const START: usize = 128;

/// A file that is being written.
pub struct NpyWriter {
    file: BufWriter<File>,
    /// As NumPy names it.
    kind: &'static str,
    /// Columns; `None` of a list.
    width: Option<usize>,
    rows: u64,
}

impl NpyWriter {
    /// Begins a file of `f32`, `[rows, width]`.
    ///
    /// # Errors
    /// When it cannot be made or written.
    pub fn matrix(path: &Path, width: usize) -> io::Result<Self> {
        Self::begin(path, "<f4", Some(width))
    }

    /// Begins a file of `i64`, `[rows]`.
    ///
    /// # Errors
    /// When it cannot be made or written.
    pub fn list(path: &Path) -> io::Result<Self> {
        Self::begin(path, "<i8", None)
    }

    fn begin(path: &Path, kind: &'static str, width: Option<usize>) -> io::Result<Self> {
        let mut writer = Self { file: BufWriter::new(File::create(path)?), kind, width, rows: 0 };
        writer.file.write_all(&[0; START])?;
        Ok(writer)
    }

    /// # Shapes
    /// - `values`: `[rows, width]`
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn rows(&mut self, values: &[f32]) -> io::Result<()> {
        values.iter().try_for_each(|value| self.file.write_all(&value.to_le_bytes()))?;
        self.rows += (values.len() / self.width.unwrap_or(1).max(1)) as u64;
        Ok(())
    }

    /// # Errors
    /// When the file cannot be written.
    pub fn numbers(&mut self, values: impl Iterator<Item = i64>) -> io::Result<()> {
        for value in values {
            self.file.write_all(&value.to_le_bytes())?;
            self.rows += 1;
        }
        Ok(())
    }

    /// Ends the file, and brings it to the disk.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn end(mut self) -> io::Result<()> {
        let shape = self.width.map_or(format!("({},)", self.rows), |width| format!("({}, {width})", self.rows));
        let header = format!("{{'descr': '{}', 'fortran_order': False, 'shape': {shape}, }}", self.kind);
        let room = START - 10;
        let mut start = b"\x93NUMPY\x01\x00".to_vec();
        start.extend_from_slice(&(room as u16).to_le_bytes());
        start.extend_from_slice(format!("{header:<0$}\n", room - 1).as_bytes());
        self.file.seek(SeekFrom::Start(0))?;
        self.file.write_all(&start)?;
        self.file.into_inner().map_err(io::IntoInnerError::into_error)?.sync_data()
    }
}
