//! Dependencies between the library's modules point one way: stores know the contract alone, and the core is
//! one ladder.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// The modules of the library, each above those that it may use.
///
/// First what everything stands on, then the contract, then the core, then what users see.
const LADDER: &[&str] = &[
    "sync",
    "duration",
    "owner",
    "eviction",
    "loss",
    "error",
    "name",
    "queue",
    "kind",
    "deadline", // what everything stands on
    "backend",  // the contract
    "waits",
    "observe",
    "counting",
    "metrics",
    "opentelemetry",
    "health",
    "noticed",
    "hold",
    "renewer",
    "turns",
    "release",
    "options",
    "context", // the core
    "around",
    "onlooking",
    "long_waits",
    "guard",
    "guard_set",
    "acquire",
    "locks",
    "once",
    "stores",
    "manager",
    "blocking",
    "docs", // what users see
];

/// What stores may use of the modules above, besides their own wing.
const CONTRACT: &[&str] = &["sync", "duration", "error", "name", "queue", "owner", "deadline", "backend"];

/// What stores share with each other.
const SHARED: &[&str] = &[
    "address",
    "evictions",
    "examination",
    "notices",
    "pushed",
    "record",
    "supervised",
    "transport",
    "watched",
];

fn sources(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    let (directories, mut files): (Vec<_>, Vec<_>) = entries.partition(|path| path.is_dir());
    files.retain(|path| path.extension().is_some_and(|extension| extension == "rs"));
    files.extend(directories.iter().flat_map(|directory| sources(directory)));
    files
}

/// The product's code of a file: without its comments, and without its tests, which stand at its end.
fn code(text: &str) -> String {
    let product = text.split("\n#[cfg(test)]").next().unwrap();
    product.lines().filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n")
}

/// The paths that a text names below `crate::`, two segments of each, groups in braces taken apart.
fn imports(code: &str) -> Vec<(String, Option<String>)> {
    let mut found = Vec::new();
    for part in code.split("crate::").skip(1) {
        let word =
            |text: &str| text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect::<String>();
        let first = word(part);
        let rest = part[first.len()..].strip_prefix("::").unwrap_or("");
        let seconds = match rest.strip_prefix('{') {
            Some(group) => {
                group.split('}').next().unwrap().split(',').map(|item| word(item.trim())).collect()
            }
            None => vec![word(rest)],
        };
        found.extend(
            seconds.into_iter().map(|second| (first.clone(), Some(second).filter(|text| !text.is_empty()))),
        );
    }
    found
}

/// What is imported against the arrows, as `file: module`.
fn against_the_arrows(files: &BTreeMap<String, String>) -> Vec<String> {
    let rank = |module: &str| LADDER.iter().position(|other| *other == module);
    let mut wrong = Vec::new();
    for (file, text) in files {
        let path: Vec<&str> = file.trim_end_matches(".rs").split('/').collect();
        for (module, second) in imports(&code(text)) {
            // The names in the root of the library are those that users see.
            let module = if module.starts_with(char::is_uppercase) { "manager".to_owned() } else { module };
            let second = second.as_deref().unwrap_or_default();
            let is_right = match path[..] {
                // The root re-exports all; tests of the core and schedules may look everywhere.
                ["lib" | "trials" | "schedules", ..]
                | [.., "typos" | "scripted" | "driven" | "tests"]
                | [_, _, "scripted" | "tests", ..] => true,
                ["stores", "mod"] => module == "stores" || CONTRACT.contains(&module.as_str()),
                ["stores", own, ..] if module == "stores" => own == second || SHARED.contains(&second),
                ["stores", ..] => CONTRACT.contains(&module.as_str()),
                [own, ..] if own == module => true,
                [own, ..] => rank(own) > rank(&module) && rank(&module).is_some(),
                [] => false,
            };
            if !is_right {
                wrong.push(format!("{file}: crate::{module}::{second}"));
            }
        }
    }
    wrong
}

/// The library's files, by their paths.
fn library() -> BTreeMap<String, String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let named = |path: PathBuf| {
        let text = fs::read_to_string(&path).unwrap();
        (path.strip_prefix(&root).unwrap().to_str().unwrap().to_owned(), text)
    };
    sources(&root).into_iter().map(named).collect()
}

#[test]
fn dependencies_point_one_way() {
    let files = library();
    assert!(files.len() > 60, "{} files are read", files.len());
    for file in files.keys().filter(|file| !file.contains('/') && *file != "lib.rs") {
        assert!(LADDER.contains(&file.trim_end_matches(".rs")), "{file} has no place on the ladder");
    }
    assert_eq!(against_the_arrows(&files), Vec::<String>::new());
}

/// The core tells observers, of which `tracing` is one; stores tell the core.
#[test]
fn only_the_first_observer_logs() {
    let logs = |text: &str| {
        let code = code(text);
        ["tracing::", "println!", "print!", "dbg!"].iter().any(|call| code.contains(call))
    };
    assert!(logs("fn a() {\n    tracing::warn!(1);\n}") && logs("use tracing::warn;"));
    assert!(!logs("/// [`tracing::warn`]\nfn a() {}\n#[cfg(test)]\nmod tests {\n    println!();"));
    let files = library();
    let is_test = |file: &str| file.starts_with("schedules/") || file.ends_with("/tests.rs");
    let product = files.iter().filter(|(file, _)| !is_test(file));
    let logging: Vec<&str> = product.filter(|(_, text)| logs(text)).map(|(file, _)| &**file).collect();
    assert_eq!(logging, ["observe/logging.rs"]);
}

/// What reads a clock, or waits by one, that stands still while the host is suspended.
fn stands_still(text: &str) -> bool {
    let code = code(text);
    let found = |path: &str, name: &str| {
        let named = |part: &str| match part.strip_prefix('{') {
            Some(group) => group.split('}').next().unwrap().split(',').any(|item| item.trim() == name),
            None => part.strip_prefix(name).is_some_and(|rest| !rest.starts_with(char::is_alphanumeric)),
        };
        code.split(path).skip(1).any(named)
    };
    found("time::", "Instant")
        || ["sleep_until", "timeout_at", "interval", "interval_at"]
            .iter()
            .any(|name| found("tokio::time::", name))
}

#[test]
fn deadlines_are_moments_of_the_clock_that_goes_on_while_the_host_is_suspended() {
    for text in [
        "use std::time::{Duration, Instant};",
        "use std::time::Instant;",
        "fn a() {\n    let a = std::time::Instant::now();",
        "use std::{fmt, time::Instant};",
        "use tokio::time::{Instant, sleep};",
        "fn a() {\n    tokio::time::sleep_until(end.into()).await",
        "use tokio::time::{self, timeout_at};",
    ] {
        assert!(stands_still(text), "{text}");
    }
    for text in [
        "use std::time::Duration;\nuse crate::sync::Instant;\nlet a = Instant::now();",
        "use tokio::time::sleep;",
        "/// [`std::time::Instant`]",
        "fn a() {}\n#[cfg(test)]\nmod tests {\nuse std::time::Instant;",
    ] {
        assert!(!stands_still(text), "{text}");
    }
    let files = library();
    let sync = |file: &str| ["sync", "schedules"].contains(&file.split(['.', '/']).next().unwrap());
    assert!(files.iter().any(|(file, text)| sync(file) && stands_still(text)), "sync.rs is read");
    let product = files.iter().filter(|(file, _)| !sync(file));
    let others: Vec<&str> = product.filter(|(_, text)| stands_still(text)).map(|(file, _)| &**file).collect();
    assert_eq!(others, [""; 0], "use `crate::sync`");
}

#[test]
fn an_import_against_the_arrows_is_found() {
    let wrong =
        |file: &str, text: &str| against_the_arrows(&BTreeMap::from([(file.to_owned(), text.to_owned())]));
    assert_eq!(
        wrong("guard.rs", "use crate::manager::LockManager;"),
        ["guard.rs: crate::manager::LockManager"]
    );
    assert_eq!(wrong("manager.rs", "use crate::guard::Guard;"), [""; 0]);
    assert_eq!(wrong("stores/etcd/lease.rs", "use crate::options::Options;").len(), 1);
    assert_eq!(wrong("stores/etcd/lease.rs", "use crate::stores::redis::Redis;").len(), 1);
    assert_eq!(
        wrong("stores/etcd/lease.rs", "use crate::stores::{address::Address, zookeeper::X};").len(),
        1
    );
    assert_eq!(
        wrong("stores/etcd/lease.rs", "use crate::stores::etcd::keys::Key;\nuse crate::backend::Claim;"),
        [""; 0]
    );
    assert_eq!(
        wrong("hold.rs", "// crate::manager::LockManager\n#[cfg(test)]\nmod tests {\ncrate::manager::X"),
        [""; 0]
    );
}

#[test]
fn the_pages_of_the_documentation_are_in_the_librarys_own() {
    let library = Path::new(env!("CARGO_MANIFEST_DIR"));
    let included = fs::read_to_string(library.join("src/docs.rs")).unwrap();
    let pages = fs::read_dir(library.join("../../docs")).unwrap();
    let pages: Vec<String> = pages.map(|page| page.unwrap().file_name().into_string().unwrap()).collect();
    assert!(pages.len() >= 7, "{pages:?}");
    // The command line is another crate, and the page of the Python package leads to its others.
    let others = ["doctor.md", "operations.md", "recipes.md", "run.md", "serve.md", "top.md"];
    let python = [
        "celery.md",
        "django.md",
        "fastapi.md",
        "peers.md",
        "python-configuration.md",
        "python-testing.md",
        "recipes-python.md",
    ];
    let of_python = fs::read_to_string(library.join("../../python/README.md")).unwrap();
    for page in pages.iter().map(String::as_str).filter(|page| page.ends_with(".md")) {
        let is_of_both = page == "metrics.md";
        if python.contains(&page) || is_of_both {
            assert!(of_python.contains(&format!("docs/{page}")), "python/README.md lacks {page}");
        }
        if !python.contains(&page) && !others.contains(&page) {
            assert!(included.contains(&format!("../docs/{page}")), "src/docs.rs lacks {page}");
        }
    }
}

#[test]
fn every_link_of_the_documentation_leads_to_a_file() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().unwrap();
    let below =
        |directory: &str| fs::read_dir(root.join(directory)).unwrap().map(|file| file.unwrap().path());
    let all = ["", "docs", "python", "faults"].into_iter().flat_map(below);
    let pages: Vec<PathBuf> =
        all.filter(|file| file.extension().is_some_and(|extension| extension == "md")).collect();
    let mut links = 0;
    for page in &pages {
        for link in fs::read_to_string(page).unwrap().split("](").skip(1) {
            let target = link.split([')', '#']).next().unwrap_or_default();
            if !target.is_empty() && !target.contains("://") {
                links += 1;
                let file = page.parent().unwrap().join(target);
                assert!(file.exists(), "{} has a link to {target}", page.display());
            }
        }
    }
    assert!(pages.len() > 15 && links > 30, "{} pages, {links} links", pages.len());
}

#[test]
fn every_file_has_its_place_among_the_mutants() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let groups = fs::read_to_string(root.join("../../scripts/mutants/groups.toml")).unwrap();
    let listed: Vec<&str> = groups
        .lines()
        .filter(|line| !line.starts_with('#'))
        .flat_map(|line| line.split('"').skip(1).step_by(2))
        .collect();
    let names = |file: &str, listed: &str| match (listed.strip_suffix('*'), listed.strip_prefix('*')) {
        (Some(directory), _) => file.starts_with(directory),
        (_, Some(end)) => file.ends_with(end),
        _ => file == listed,
    };
    let has_a_place = |file: &str| listed.iter().any(|listed| names(file, listed));
    assert!(!has_a_place("stores/nowhere"), "a file that is not there has none");
    for file in library().keys() {
        let file = file.strip_suffix(".rs").unwrap();
        assert!(has_a_place(file), "scripts/mutants/groups.toml lacks {file}");
    }
}
