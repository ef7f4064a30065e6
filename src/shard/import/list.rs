//! A list of paths and labels, CSV or JSON lines → samples in its order.
//!
//! Labels that are all numbers are class numbers; those of which none is one are names, numbered in their sorted order.

use std::fs;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use serde_json::Value;

use super::classes::{Classes, read_text};
use super::item::{Item, is_image_name};
use super::{ImportError, OTHER_CLASS, PassedOver, csv};
use crate::shard::index::Stamp;

/// Names of the column or member that holds the path, in lower case; the first that is there holds it.
const PATHS: [&str; 13] = [
    "path",
    "file_name",
    "filename",
    "filepath",
    "file_path",
    "file",
    "image_path",
    "img_path",
    "image_name",
    "image",
    "img",
    "image_file",
    "image_id",
];
/// The same for the label.
const LABELS: [&str; 9] =
    ["label", "labels", "class", "cls", "target", "class_id", "class_name", "category", "label_id"];

/// A line: its number, the path, and the label as it is written.
struct Row {
    line: usize,
    path: String,
    label: Option<String>,
}

/// The images and the classes' names, which numbers have none of.
///
/// # Errors
/// When a line cannot be read, or has no label while another has.
pub fn read(
    source: &Path,
    given: Option<Classes>,
    passed_over: &mut PassedOver,
) -> Result<(Vec<Item>, Vec<String>), ImportError> {
    let text = read_text(source)?;
    let ending = source.extension().and_then(|ending| ending.to_str()).unwrap_or_default().to_lowercase();
    let rows = match ending.as_str() {
        "jsonl" | "ndjson" | "json" => json_rows(source, &text)?,
        "tsv" => csv_rows(source, &text, b'\t')?,
        _ => csv_rows(source, &text, b',')?,
    };
    refuse_missing_labels(source, &rows)?;
    let classes = match given {
        None if are_numbers(source, &rows)? => None,
        None => Some(Classes::sorted(rows.iter().filter_map(|row| row.label.clone()))),
        given => given,
    };
    let root: Arc<Path> = source.parent().unwrap_or(Path::new("")).into();
    let mut items = Vec::with_capacity(rows.len());
    for row in rows {
        let label = match (&classes, &row.label) {
            (Some(classes), Some(label)) => {
                let Some(number) = classes.number(label) else {
                    *passed_over.entry(OTHER_CLASS).or_default() += 1;
                    continue;
                };
                Some(number)
            }
            (None, Some(label)) => label.parse().ok(),
            (_, None) => None,
        };
        items.push(item(source, &root, &row, label)?);
    }
    Ok((items, classes.map_or_else(Vec::new, |classes| classes.names)))
}

fn item(source: &Path, root: &Arc<Path>, row: &Row, label: Option<u32>) -> Result<Item, ImportError> {
    let path = PathBuf::from(&row.path);
    if !path.components().any(|part| matches!(part, Component::Normal(_))) {
        return Err(ImportError::line(source, row.line, format!("`{}` names no file", row.path)));
    }
    let metadata = fs::metadata(root.join(&path)).ok().filter(fs::Metadata::is_file);
    Ok(Item::file(root, &path, label, metadata.as_ref().map(Stamp::of)))
}

/// Whether labels are class numbers; where some are and some are not, neither reading would be right.
fn are_numbers(source: &Path, rows: &[Row]) -> Result<bool, ImportError> {
    let labels = || rows.iter().filter_map(|row| Some((row.line, row.label.as_deref()?)));
    let is_class_number = |label: &str| label.parse::<u32>().is_ok();
    let first_number = labels().find(|(_, label)| is_class_number(label));
    for (line, label) in labels().filter(|(_, label)| !is_class_number(label)) {
        // Also what is too large for a class number, and `nan`.
        if label.parse::<f64>().is_ok() {
            let what = format!("the label `{label}` is neither a name nor a class number such as 0 or 17");
            return Err(ImportError::line(source, line, what));
        }
        if let Some((number_line, number)) = first_number {
            let what = format!("the label `{label}` is a name, and line {number_line} has the class number {number}");
            return Err(ImportError::line(source, line, what));
        }
    }
    Ok(first_number.is_some() || rows.iter().all(|row| row.label.is_none()))
}

fn refuse_missing_labels(source: &Path, rows: &[Row]) -> Result<(), ImportError> {
    let with = rows.iter().find(|row| row.label.is_some());
    let without = rows.iter().find(|row| row.label.is_none());
    match (with, without) {
        (Some(with), Some(without)) => {
            let what = format!("`{}` has no label, and line {} has one", without.path, with.line);
            Err(ImportError::line(source, without.line, what))
        }
        _ => Ok(()),
    }
}

/// The columns are those that the first row names; where it names none, the first holds paths and the second labels.
/// A row with the name of a picture names no columns, even if its class is `image`.
fn csv_rows(source: &Path, text: &str, comma: u8) -> Result<Vec<Row>, ImportError> {
    let mut columns = None;
    let mut rows = Vec::new();
    for row in csv::rows(source, text, comma) {
        let (line, fields) = row?;
        let Some((path, label)) = columns else {
            let names: Vec<String> = fields.iter().map(|field| field.trim().to_lowercase()).collect();
            let named = |known: &[&str]| known.iter().find_map(|known| names.iter().position(|name| name == known));
            let is_sample = fields.iter().any(|field| is_image_name(field.trim()));
            match (named(&PATHS), named(&LABELS)) {
                (Some(path), label) if !is_sample => columns = Some((path, label)),
                (None, Some(_)) if !is_sample => {
                    let what = format!("names columns, none of them for paths: name one {}", PATHS.join(", "));
                    return Err(ImportError::line(source, line, what));
                }
                _ => {
                    columns = Some((0, (fields.len() > 1).then_some(1)));
                    rows.push(csv_row(source, line, &fields, 0, (fields.len() > 1).then_some(1))?);
                }
            }
            continue;
        };
        rows.push(csv_row(source, line, &fields, path, label)?);
    }
    Ok(rows)
}

fn csv_row(
    source: &Path,
    line: usize,
    fields: &[String],
    path: usize,
    label: Option<usize>,
) -> Result<Row, ImportError> {
    let path = fields.get(path).filter(|path| !path.is_empty());
    let path = path.ok_or_else(|| ImportError::line(source, line, "has no path"))?.clone();
    let label = label.and_then(|label| fields.get(label)).map(|label| label.trim().to_owned());
    Ok(Row { line, path, label: label.filter(|label| !label.is_empty()) })
}

fn json_rows(source: &Path, text: &str) -> Result<Vec<Row>, ImportError> {
    let mut rows = Vec::new();
    for (number, text) in text.lines().enumerate().filter(|(_, text)| !text.trim().is_empty()) {
        let line = number + 1;
        let parsed: Value = serde_json::from_str(text)
            .map_err(|cause| ImportError::line(source, line, format!("is no JSON, each line must be: {cause}")))?;
        let member = |names: &[&str]| names.iter().find_map(|name| parsed.get(name)).filter(|value| !value.is_null());
        let path = member(&PATHS).and_then(Value::as_str).filter(|path| !path.is_empty()).ok_or_else(|| {
            ImportError::line(
                source,
                line,
                format!("has no path: an object with one of {} is wanted", PATHS.join(", ")),
            )
        })?;
        let label = match member(&LABELS) {
            None => None,
            Some(Value::String(name)) => Some(name.clone()),
            Some(Value::Number(number)) if number.as_u64().is_some_and(|number| number <= u64::from(u32::MAX)) => {
                Some(number.to_string())
            }
            Some(other) => {
                return Err(ImportError::line(
                    source,
                    line,
                    format!("the label {other} is neither a name nor a class number"),
                ));
            }
        };
        rows.push(Row { line, path: path.to_owned(), label });
    }
    Ok(rows)
}
