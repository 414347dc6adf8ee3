//! Checks on the shape of the code itself: layers, sizes, banned words, and that the map of the
//! code is true.

#![allow(clippy::disallowed_methods)] // It waits and measures against the clock.

use std::fs;
use std::path::{Path, PathBuf};

/// A module may import only modules of a lower layer, never a sibling of its own layer.
const LAYERS: &[&[&str]] = &[
    &["base"],
    &["types"],
    &["proto", "log", "config"],
    &[
        "inject", "policy", "spool", "queue", "shape", "deliver", "hose", "practice",
    ],
    &["engine"],
    &["bridge"],
    &["shard", "control", "sim", "rig"],
    &["cli", "main", "lib"],
];
/// Last layer that must stay free of IO, clocks and runtimes.
const LAYER_PURE_MAX: usize = 4;
const BANNED_IN_PURE: &[&str] = &[
    "glommio",
    "tokio",
    "std::fs",
    "std::net",
    "std::thread",
    "Instant::now",
    "SystemTime::now",
    ".await",
];
const BANNED_EVERYWHERE: &[&str] = &[
    concat!("todo", "!("),
    concat!("unimple", "mented!("),
    "FIXME",
];
/// Names of modules that say nothing.
const BANNED_MODULES: &[&str] = &["utils", "helpers", "manager", "misc"];
const LINES_PER_FN_MAX: usize = 70;
const LINES_PER_FILE_MAX: usize = 1_000;
const COLUMNS_MAX: usize = 100;
const ARCHITECTURE_LINES_MAX: usize = 150;

#[test]
fn the_code_keeps_its_layers_and_sizes() {
    let mut errors = Vec::new();
    for root in ["src", "tools", "tests", "bench"] {
        for path in sources(Path::new(root)) {
            let text = fs::read_to_string(&path).expect("a source file is readable");
            if root == "src" {
                check_layers(&path, &text, &mut errors);
            }
            check_sizes(&path, &text, &mut errors);
            check_words(&path, &text, &mut errors);
        }
    }
    assert!(errors.is_empty(), "\n{}", errors.join("\n"));
}

#[test]
fn the_map_of_the_code_names_every_module_and_is_short() {
    let map = fs::read_to_string("ARCHITECTURE.md").expect("there is a map");
    let lines = map.lines().count();
    assert!(
        lines <= ARCHITECTURE_LINES_MAX,
        "ARCHITECTURE.md has {lines} lines"
    );
    for entry in fs::read_dir("src").expect("there is code") {
        let path = entry.expect("readable").path();
        if path.is_dir() {
            let name = format!("src/{}/", path.file_name().unwrap().to_string_lossy());
            assert!(
                map.contains(&name),
                "ARCHITECTURE.md does not mention {name}"
            );
        }
    }
    for word in map.split(|c: char| c.is_whitespace() || c == '`' || c == ',') {
        let word = word.trim_end_matches(['.', ':', ')', ';']);
        if word.starts_with("src/") || word.starts_with("tests/") || word.starts_with("tools/") {
            assert!(
                Path::new(word).exists(),
                "ARCHITECTURE.md mentions {word}, which is gone"
            );
        }
    }
}

fn layer_of(module: &str) -> Option<usize> {
    LAYERS.iter().position(|layer| layer.contains(&module))
}

fn module_of(path: &Path) -> String {
    let first = path.strip_prefix("src").unwrap().iter().next().unwrap();
    first.to_str().unwrap().trim_end_matches(".rs").to_string()
}

fn check_layers(path: &Path, text: &str, errors: &mut Vec<String>) {
    let module = module_of(path);
    let Some(layer) = layer_of(&module) else {
        return errors.push(format!("{}: `{module}` has no layer", path.display()));
    };
    let is_test_file = path.ends_with("tests.rs") || path.iter().any(|part| part == "tests");
    let mut in_tests = is_test_file;
    for (index, line) in text.lines().enumerate() {
        in_tests |= line.starts_with("#[cfg(test)]");
        if line.trim_start().starts_with("//") {
            continue;
        }
        let place = format!("{}:{}", path.display(), index + 1);
        if line.contains("crate::{") {
            errors.push(format!(
                "{place}: write one `use crate::module::..` per line"
            ));
        }
        // `super::queue` from `src/spool/mod.rs` is the same import in disguise.
        let imports = line.split("crate::").skip(1);
        let nested = path.iter().count() > 3;
        let parents = line
            .split("super::")
            .skip(1)
            .filter(|_| !nested && !is_test_file);
        for rest in imports.chain(parents) {
            let end = rest
                .find(|c: char| !c.is_alphanumeric() && c != '_')
                .unwrap_or(rest.len());
            let target = &rest[..end];
            let Some(target_layer) = layer_of(target) else {
                continue;
            };
            if target != module && target_layer >= layer && !(in_tests && target_layer == layer) {
                errors.push(format!("{place}: `{module}` may not import `{target}`"));
            }
        }
        for word in BANNED_IN_PURE
            .iter()
            .filter(|_| layer <= LAYER_PURE_MAX && !in_tests)
        {
            let ends = |at: usize| {
                let next = line[at + word.len()..].chars().next();
                next.is_none_or(|c| !c.is_alphanumeric())
            };
            if line.match_indices(word).any(|(at, _)| ends(at)) {
                errors.push(format!("{place}: `{word}` is banned in pure layers"));
            }
        }
    }
}

fn check_words(path: &Path, text: &str, errors: &mut Vec<String>) {
    if path.ends_with("tidy.rs") {
        return;
    }
    for (index, line) in text.lines().enumerate() {
        for word in BANNED_EVERYWHERE
            .iter()
            .filter(|word| line.contains(**word))
        {
            errors.push(format!("{}:{}: `{word}`", path.display(), index + 1));
        }
    }
    for part in path.iter().filter_map(|part| part.to_str()) {
        if BANNED_MODULES.contains(&part.trim_end_matches(".rs")) {
            errors.push(format!("{}: a name that says nothing", path.display()));
        }
    }
}

fn check_sizes(path: &Path, text: &str, errors: &mut Vec<String>) {
    let lines: Vec<&str> = text.lines().collect();
    if lines.len() > LINES_PER_FILE_MAX {
        errors.push(format!("{}: {} lines", path.display(), lines.len()));
    }
    for (start, line) in lines.iter().enumerate() {
        if line.chars().count() > COLUMNS_MAX && !line.contains("://") {
            errors.push(format!(
                "{}:{}: over {COLUMNS_MAX} columns",
                path.display(),
                start + 1
            ));
        }
        let indent = line.len() - line.trim_start().len();
        let is_fn = line.trim_start().split("fn ").next().is_some_and(|head| {
            line.contains("fn ")
                && head.split_whitespace().all(|word| {
                    word.starts_with("pub")
                        || ["async", "const", "unsafe", "extern"].contains(&word)
                })
        });
        if !is_fn || line.ends_with('}') || line.ends_with(';') {
            continue;
        }
        let close = format!("{}}}", " ".repeat(indent));
        let end = lines[start..]
            .iter()
            .position(|line| *line == close)
            .unwrap_or(0);
        if end + 1 > LINES_PER_FN_MAX {
            let place = format!("{}:{}", path.display(), start + 1);
            errors.push(format!("{place}: function of {} lines", end + 1));
        }
    }
}

fn sources(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let Ok(entries) = fs::read_dir(dir) else {
        return found;
    };
    for entry in entries {
        let path = entry.expect("a directory entry is readable").path();
        if path.is_dir() {
            found.extend(sources(&path));
        } else if path.extension().is_some_and(|it| it == "rs") {
            found.push(path);
        }
    }
    found.sort();
    found
}
