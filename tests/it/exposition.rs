//! Reads what `/metrics` says.

use std::collections::BTreeMap;

/// One metric with its series: name, labels, value.
#[derive(Default)]
pub struct Family {
    pub help: String,
    pub kind: String,
    pub series: Vec<(String, BTreeMap<String, String>, f64)>,
}

/// Reads the text format strictly: a series belongs to the family whose TYPE was told last before it.
pub fn parse(text: &str) -> BTreeMap<String, Family> {
    let mut families = BTreeMap::<String, Family>::new();
    let mut current = String::new();
    for line in text.lines().filter(|line| !line.is_empty()) {
        if let Some((name, help)) = line.strip_prefix("# HELP ").and_then(|rest| rest.split_once(' ')) {
            assert!(families.insert(name.to_owned(), Family::default()).is_none(), "{name}: described twice");
            families.get_mut(name).unwrap().help = help.to_owned();
        } else if let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|rest| rest.split_once(' ')) {
            families.entry(name.to_owned()).or_default().kind = kind.to_owned();
            current = name.to_owned();
        } else {
            let (name, labels, value) = parse_series(line);
            let suffix = name.strip_prefix(&current).unwrap_or_else(|| panic!("{line}: under {current}"));
            let family = families.get_mut(&current).unwrap();
            let suffixes = if family.kind == "histogram" { &["_bucket", "_sum", "_count"][..] } else { &[""] };
            assert!(suffixes.contains(&suffix), "{line}: under {current}");
            family.series.push((name, labels, value));
        }
    }
    families
}

fn parse_series(line: &str) -> (String, BTreeMap<String, String>, f64) {
    let (series, value) = line.rsplit_once(' ').unwrap_or_else(|| panic!("no value: {line}"));
    let value = value.parse().unwrap_or_else(|_| panic!("not a number: {line}"));
    let (name, mut rest) = match series.split_once('{') {
        Some((name, labels)) => (name, labels.strip_suffix('}').unwrap_or_else(|| panic!("no end: {line}"))),
        None => (series, ""),
    };
    let mut labels = BTreeMap::new();
    while let Some((label, quoted)) = rest.split_once("=\"") {
        let (text, after) = unescape(quoted).unwrap_or_else(|| panic!("no closing quote: {line}"));
        labels.insert(label.to_owned(), text);
        rest = after.strip_prefix(',').unwrap_or(after);
    }
    assert_eq!(rest, "", "{line}");
    (name.to_owned(), labels, value)
}

/// The text up to the closing quote, and what follows it.
fn unescape(quoted: &str) -> Option<(String, &str)> {
    let mut text = String::new();
    let mut characters = quoted.char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            '"' => return Some((text, &quoted[at + 1..])),
            '\\' => match characters.next()?.1 {
                'n' => text.push('\n'),
                escaped @ ('"' | '\\') => text.push(escaped),
                _ => return None,
            },
            other => text.push(other),
        }
    }
    None
}

/// The value of the series with exactly these labels.
pub fn value(families: &BTreeMap<String, Family>, name: &str, labels: &[(&str, &str)]) -> f64 {
    let labels = labels.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    let mut series = families.values().flat_map(|family| &family.series);
    let found = series.find(|(series, found, _)| series == name && *found == labels);
    found.unwrap_or_else(|| panic!("{name}{labels:?}: not there")).2
}
