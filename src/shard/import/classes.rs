//! Class names → class numbers: the order of the sorted names, or that of a given file.

use std::collections::{BTreeSet, HashMap};
use std::fs;
use std::path::Path;

use super::ImportError;

/// Ten times as large as a list of 1,000,000 long names.
const MOST_BYTES: u64 = 1 << 30;

/// Names in label order.
#[derive(Debug, Default)]
pub struct Classes {
    pub names: Vec<String>,
    numbers: HashMap<String, u32>,
}

impl Classes {
    /// Numbers the names in their sorted order, as ImageFolder does.
    pub fn sorted(names: impl IntoIterator<Item = String>) -> Self {
        let names: BTreeSet<String> = names.into_iter().collect();
        Self::in_order(names.into_iter().collect())
    }

    fn in_order(names: Vec<String>) -> Self {
        let numbers = names.iter().zip(0..).map(|(name, number)| (name.clone(), number)).collect();
        Self { names, numbers }
    }

    /// # Errors
    /// When the file cannot be read, or names a class twice or none.
    pub fn read(path: &Path) -> Result<Self, ImportError> {
        let mut names = Vec::new();
        let mut seen = BTreeSet::new();
        for (line, name) in lines(path)? {
            if !seen.insert(name.clone()) {
                return Err(ImportError::line(path, line, format!("names the class `{name}` again")));
            }
            names.push(name);
        }
        if names.is_empty() {
            return Err(ImportError::source(path, "names no class, write one a line, in label order"));
        }
        Ok(Self::in_order(names))
    }

    pub fn number(&self, name: &str) -> Option<u32> {
        self.numbers.get(name).copied()
    }
}

/// The lines of a text that hold something, with their numbers from 1, trimmed; those that begin with `#` are left out.
pub fn lines(path: &Path) -> Result<Vec<(usize, String)>, ImportError> {
    let text = read_text(path)?;
    Ok(content(&text).map(|(number, line)| (number, line.to_owned())).collect())
}

pub fn content(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let numbered = text.lines().enumerate().map(|(number, line)| (number + 1, line.trim()));
    numbered.filter(|(_, line)| !line.is_empty() && !line.starts_with('#'))
}

/// A text file of a size that fits into memory, without the mark that some editors put before it.
pub fn read_text(path: &Path) -> Result<String, ImportError> {
    let metadata = fs::metadata(path).map_err(ImportError::io(path))?;
    if !metadata.is_file() {
        return Err(ImportError::source(path, "is no file, a text is wanted here"));
    }
    if metadata.len() > MOST_BYTES {
        return Err(ImportError::source(path, format!("{} bytes are too many for a list", metadata.len())));
    }
    let text = String::from_utf8(fs::read(path).map_err(ImportError::io(path))?);
    let text = text.map_err(|_| ImportError::source(path, "is no text in UTF-8"))?;
    Ok(match text.strip_prefix('\u{feff}') {
        Some(rest) => rest.to_owned(),
        None => text,
    })
}
