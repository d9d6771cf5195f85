//! `cargo xtask tidy`: the rules of the code that no compiler checks.
//!
//! - the dependencies between our crates are exactly those that ARCHITECTURE.md lists;
//! - the overlayfs daemon links no registry client, no FUSE and no libp2p;
//! - every crate takes the workspace's lints; `unsafe` stands only in `core/linux`;
//! - files stay short, and nothing names this or that machine.

use std::collections::{BTreeMap, BTreeSet};
use std::error::Error;
use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

/// The longest source file, tests and generated code aside, in lines.
const FILE_LINES_MAX: usize = 500;

/// What the overlayfs daemon must not link.
const FOREIGN_TO_OVERLAYFS: &[&str] = &["reqwest", "fuser", "libp2p", "openssl"];

/// Checks every rule and reports all that is broken.
pub(crate) fn run(root: &Path) -> Result<(), Box<dyn Error>> {
    let mut findings = Vec::new();
    edges(root, &mut findings)?;
    links(root, &mut findings)?;
    sources(root, &mut findings)?;
    if findings.is_empty() {
        println!("tidy: crate edges, links, lints and sources are as they should be");
        return Ok(());
    }
    Err(format!("tidy found:\n  {}", findings.join("\n  ")).into())
}

/// Our crates' dependencies on each other (tests aside), against the block `edges` of ARCHITECTURE.md.
fn edges(root: &Path, findings: &mut Vec<String>) -> Result<(), Box<dyn Error>> {
    let listed = listed_edges(&fs::read_to_string(root.join("ARCHITECTURE.md"))?)?;
    let actual = actual_edges(root)?;
    for name in listed.keys().chain(actual.keys()).collect::<BTreeSet<_>>() {
        let (listed, actual) = (listed.get(name), actual.get(name));
        if listed != actual {
            findings.push(format!(
                "{name} depends on {actual:?}, ARCHITECTURE.md lists {listed:?}: change whichever is wrong"
            ));
        }
    }
    Ok(())
}

type Edges = BTreeMap<String, BTreeSet<String>>;

fn listed_edges(text: &str) -> Result<Edges, Box<dyn Error>> {
    let block = text
        .split_once("```edges\n")
        .and_then(|(_, rest)| rest.split_once("```"))
        .ok_or("ARCHITECTURE.md has no block ```edges")?
        .0;
    let mut edges = Edges::new();
    for line in block.lines().filter(|line| !line.trim().is_empty()) {
        let (from, to) = line
            .split_once("->")
            .ok_or_else(|| format!("ARCHITECTURE.md: no -> in {line:?}"))?;
        let to = to
            .split(',')
            .map(|to| to.trim().to_owned())
            .filter(|to| !to.is_empty());
        edges.insert(from.trim().to_owned(), to.collect());
    }
    Ok(edges)
}

fn actual_edges(root: &Path) -> Result<Edges, Box<dyn Error>> {
    let output = Command::new(env!("CARGO"))
        .args([
            "metadata",
            "--no-deps",
            "--format-version",
            "1",
            "--offline",
        ])
        .current_dir(root)
        .output()?;
    let metadata: Value = serde_json::from_slice(&output.stdout)?;
    let packages = metadata["packages"]
        .as_array()
        .ok_or("cargo metadata names no packages")?;
    let name = |package: &Value| package["name"].as_str().unwrap_or_default().to_owned();
    let ours: BTreeSet<String> = packages.iter().map(name).collect();
    let mut edges = Edges::new();
    for package in packages {
        let dependencies = package["dependencies"].as_array().into_iter().flatten();
        let normal = dependencies.filter(|dependency| dependency["kind"].is_null());
        let internal = normal
            .map(name)
            .filter(|dependency| ours.contains(dependency));
        edges.insert(name(package), internal.collect());
    }
    Ok(edges)
}

fn links(root: &Path, findings: &mut Vec<String>) -> Result<(), Box<dyn Error>> {
    let output = Command::new(env!("CARGO"))
        .args([
            "tree",
            "--package",
            "pontoon-overlayfs",
            "--edges",
            "normal",
            "--prefix",
            "none",
        ])
        .current_dir(root)
        .output()?;
    let tree = String::from_utf8(output.stdout)?;
    for line in tree.lines() {
        let name = line.split(' ').next().unwrap_or_default();
        if FOREIGN_TO_OVERLAYFS
            .iter()
            .any(|foreign| name.starts_with(foreign))
        {
            findings.push(format!(
                "pontoon-overlayfs links {name}, which it has no use for"
            ));
        }
    }
    Ok(())
}

fn sources(root: &Path, findings: &mut Vec<String>) -> Result<(), Box<dyn Error>> {
    let output = Command::new("git")
        .args(["ls-files"])
        .current_dir(root)
        .output()?;
    for path in String::from_utf8(output.stdout)?.lines() {
        let Ok(text) = fs::read_to_string(root.join(path)) else {
            continue;
        };
        if path.ends_with("Cargo.toml") && path != "Cargo.toml" {
            if !text.contains("[lints]\nworkspace = true") {
                findings.push(format!("{path}: add [lints] workspace = true"));
            }
        } else if path.ends_with(".rs") && !path.contains("/generated/") {
            source(path, &text, findings);
        }
        for (number, line) in text.lines().enumerate() {
            if FOREIGN_TEXT
                .iter()
                .any(|text| line.contains(&text.concat()))
            {
                let number = number + 1;
                findings.push(format!(
                    "{path}:{number}: names a machine's path or a registry host"
                ));
            }
        }
    }
    Ok(())
}

/// Text that belongs to one machine or one registry, in two parts so that this file does not hold it.
const FOREIGN_TEXT: &[[&str; 2]] = &[
    ["/work", "/main"],
    ["deb.debian", ".org"],
    ["index.crates", ".io"],
    ["proxy.golang", ".org"],
];

fn source(path: &str, text: &str, findings: &mut Vec<String>) {
    let code = text
        .split("#[cfg(test)]\nmod tests {")
        .next()
        .unwrap_or_default();
    let lines = code.lines().count();
    if lines > FILE_LINES_MAX && !path.contains("/tests/") && !path.ends_with("/tests.rs") {
        findings.push(format!(
            "{path}: {lines} lines, more than {FILE_LINES_MAX}: split it"
        ));
    }
    let is_code = |line: &&str| !line.trim_start().starts_with("//");
    let has_unsafe = code.lines().filter(is_code).any(|line| {
        ["unsafe {", "unsafe fn", "unsafe impl"]
            .iter()
            .any(|word| line.contains(word))
    });
    if has_unsafe && !path.starts_with("core/linux/") && path != "xtask/src/tidy.rs" {
        findings.push(format!("{path}: unsafe code belongs in core/linux"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_edges_block_is_read_line_by_line() {
        let text = "x\n```edges\na -> b, c\nb ->\n```\ny";
        let edges = listed_edges(text).unwrap();
        assert_eq!(edges["a"], BTreeSet::from(["b".to_owned(), "c".to_owned()]));
        assert!(edges["b"].is_empty());
        assert!(listed_edges("none").is_err());
    }

    #[test]
    fn unsafe_outside_the_kernel_crate_is_found() {
        let mut findings = Vec::new();
        source(
            "core/overlay/src/x.rs",
            "fn a() { unsafe { b() } }",
            &mut findings,
        );
        assert_eq!(findings.len(), 1);
        source(
            "core/linux/src/x.rs",
            "fn a() { unsafe { b() } }",
            &mut findings,
        );
        assert_eq!(findings.len(), 1);
    }
}
