//! The house rules that a compiler does not check.

use std::fs;
use std::path::{Path, PathBuf};

/// The modules in the order in which data flows, as `lib.rs` lists them.
fn modules() -> Vec<String> {
    let lib = fs::read_to_string(source().join("lib.rs")).unwrap();
    lib.lines().filter_map(|line| line.strip_prefix("pub mod ")?.strip_suffix(';').map(String::from)).collect()
}

fn source() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap().flatten().map(|entry| entry.path());
    entries.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect()
}

/// The files of a module: its own, and those of its folder.
fn files_of(module: &str) -> Vec<PathBuf> {
    let (file, folder) = (source().join(module).with_extension("rs"), source().join(module));
    let own = file.exists().then_some(file).into_iter();
    own.chain(if folder.is_dir() { files(&folder) } else { Vec::new() }).collect()
}

#[test]
fn module_uses_only_modules_listed_above_it() {
    let modules = modules();
    assert!(modules.len() > 8, "lib.rs lists {modules:?}");
    for (place, module) in modules.iter().enumerate() {
        let found = files_of(module);
        assert!(!found.is_empty(), "{module} has no file");
        for path in found {
            let text = fs::read_to_string(&path).unwrap();
            for below in &modules[place + 1..] {
                let used = text.contains(&format!("crate::{below}::")) || text.contains(&format!("crate::{below};"));
                assert!(!used, "{} uses {below}, which lib.rs lists below {module}", path.display());
            }
        }
    }
}

#[test]
fn data_path_knows_nothing_of_burn_and_models_nothing_of_files_or_channels() {
    let absences: [(&[&str], &[&str]); 2] = [
        (&["telemetry", "draws", "shard", "pipeline"], &["burn::"]),
        (
            &["model", "objective"],
            &["std::fs", "std::io", "std::time", "tokio", "async_channel", "crossbeam", "std::sync::mpsc"],
        ),
    ];
    for (modules, strangers) in absences {
        for path in modules.iter().flat_map(|module| files_of(module)) {
            let text = fs::read_to_string(&path).unwrap();
            for stranger in strangers {
                assert!(!text.contains(stranger), "{} must not use {stranger}", path.display());
            }
        }
    }
}

/// A device that failed is found when its numbers are read; these calls of the tensor library then panic.
#[test]
fn numbers_are_read_from_a_device_by_the_one_function_that_tells_of_its_failure() {
    for path in modules().iter().filter(|module| *module != "model").flat_map(|module| files_of(module)) {
        let text = fs::read_to_string(&path).unwrap();
        for call in [".into_data(", ".to_data(", ".into_scalar"] {
            assert!(!text.contains(call), "{} reads by {call} what model::numbers reads", path.display());
        }
    }
}

#[test]
fn only_the_outermost_modules_use_untyped_errors() {
    let inner = modules().into_iter().filter(|module| !["run", "web", "cli"].contains(&module.as_str()));
    for path in inner.flat_map(|module| files_of(&module)) {
        assert!(!fs::read_to_string(&path).unwrap().contains("anyhow"), "{} must name its errors", path.display());
    }
}

#[test]
fn modules_are_used_one_by_one_so_that_their_direction_can_be_read() {
    for path in files(&source()) {
        assert!(!fs::read_to_string(&path).unwrap().contains("use crate::{"), "{}", path.display());
    }
}

#[test]
fn every_file_begins_with_what_it_is_for() {
    for path in files(&source()) {
        let text = fs::read_to_string(&path).unwrap();
        let head = match path.extension().and_then(|ending| ending.to_str()) {
            Some("rs") => "//! ",
            Some("js") => "// ",
            Some("css") => "/* ",
            _ => "<!",
        };
        assert!(text.starts_with(head), "{} has no head that says what it is for", path.display());
    }
}

#[test]
fn files_stay_near_five_hundred_lines() {
    let folders = [source(), source().join("../tests/it")];
    for path in folders.iter().flat_map(|folder| files(folder)) {
        let lines = fs::read_to_string(&path).unwrap().lines().count();
        assert!(lines <= 550, "{} has {lines} lines: let it become a folder with the same door", path.display());
    }
}
