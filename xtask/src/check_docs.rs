//! `cargo xtask check-docs`: what README.md, ARCHITECTURE.md and docs/ say is there, is there.
//!
//! - Every code span that begins with a folder or a file of the repository's top level must be a path that
//!   exists; with `#name` behind it, that file must define `name`.
//! - Every relative link must lead to a file.
//! - Every block that is marked as runnable (a fence of `sh run`) is run with bash from the repository's root,
//!   with the built binaries on the PATH, and must succeed.

use std::collections::BTreeSet;
use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Checks all documents and reports all that is wrong.
pub(crate) fn run(root: &Path) -> Result<(), Box<dyn Error>> {
    let top = top_level(root)?;
    let mut findings = Vec::new();
    let (mut paths, mut blocks) = (0, 0);
    for document in documents(root)? {
        let text = fs::read_to_string(root.join(&document))?;
        let parts = parse(&text);
        for span in parts.spans.iter().filter(|span| names_a_path(span, &top)) {
            paths += 1;
            if let Err(reason) = resolve(root, span) {
                findings.push(format!("{}: `{span}`: {reason}", document.display()));
            }
        }
        for link in parts.links {
            paths += 1;
            let target = document.parent().unwrap_or(Path::new("")).join(&link);
            if !root.join(target).exists() {
                findings.push(format!(
                    "{}: link to {link}: no such file",
                    document.display()
                ));
            }
        }
        for block in parts.blocks {
            blocks += 1;
            println!(
                "check-docs: {}: {}",
                document.display(),
                block.trim().replace('\n', "; ")
            );
            if let Err(reason) = run_block(root, &block) {
                findings.push(format!("{}: block {block:?}: {reason}", document.display()));
            }
        }
    }
    if findings.is_empty() {
        println!("check-docs: {paths} paths resolve, {blocks} command blocks ran");
        return Ok(());
    }
    Err(format!("check-docs found:\n  {}", findings.join("\n  ")).into())
}

fn documents(root: &Path) -> Result<Vec<PathBuf>, Box<dyn Error>> {
    let mut documents: Vec<PathBuf> = [
        "README.md",
        "ARCHITECTURE.md",
        "CONTRIBUTING.md",
        "CHANGELOG.md",
    ]
    .map(Into::into)
    .into();
    let mut folders = vec![PathBuf::from("docs")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(root.join(&folder))? {
            let path = folder.join(entry?.file_name());
            if root.join(&path).is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "md") {
                documents.push(path);
            }
        }
    }
    documents.sort();
    Ok(documents)
}

/// The files and folders of the root that git keeps.
fn top_level(root: &Path) -> Result<BTreeSet<String>, Box<dyn Error>> {
    let output = Command::new("git")
        .args(["ls-files"])
        .current_dir(root)
        .output()?;
    let files = String::from_utf8(output.stdout)?;
    Ok(files
        .lines()
        .filter_map(|file| file.split('/').next())
        .map(str::to_owned)
        .collect())
}

#[derive(Debug, Default)]
struct Parts {
    spans: Vec<String>,
    links: Vec<String>,
    blocks: Vec<String>,
}

/// The code spans, relative links and runnable blocks of a Markdown text.
fn parse(text: &str) -> Parts {
    let mut parts = Parts::default();
    // Within a fence: whether it is to be run.
    let mut fence: Option<bool> = None;
    let mut block = String::new();
    for line in text.lines() {
        if let Some(info) = line.trim_start().strip_prefix("```") {
            match fence.take() {
                None => fence = Some(info.trim() == "sh run"),
                Some(true) => parts.blocks.push(std::mem::take(&mut block)),
                Some(false) => {}
            }
            continue;
        }
        match fence {
            Some(true) => block.extend([line, "\n"]),
            Some(false) => {}
            None => prose(line, &mut parts),
        }
    }
    parts
}

fn prose(line: &str, parts: &mut Parts) {
    parts
        .spans
        .extend(line.split('`').skip(1).step_by(2).map(str::to_owned));
    for piece in line.split("](").skip(1) {
        let target = piece.split([')', '#', ' ']).next().unwrap_or_default();
        if !target.is_empty() && !target.contains("://") {
            parts.links.push(target.to_owned());
        }
    }
}

fn names_a_path(span: &str, top: &BTreeSet<String>) -> bool {
    let first = span.split(['/', '#']).next().unwrap_or_default();
    top.contains(first) && !span.contains(' ') && (span.contains('/') || span.contains('.'))
}

fn resolve(root: &Path, span: &str) -> Result<(), String> {
    let (path, symbol) = span
        .split_once('#')
        .map_or((span, None), |(path, name)| (path, Some(name)));
    let path = root.join(path);
    if !path.exists() {
        return Err("no such file or folder".into());
    }
    let Some(symbol) = symbol else { return Ok(()) };
    let text = fs::read_to_string(&path).map_err(|error| error.to_string())?;
    let keywords = [
        "fn", "struct", "enum", "trait", "const", "static", "type", "mod",
    ];
    let defined = keywords.iter().any(|keyword| {
        text.match_indices(&format!("{keyword} {symbol}"))
            .any(|(at, found)| {
                let next = text[at + found.len()..].chars().next();
                !next.is_some_and(|next| next.is_alphanumeric() || next == '_')
            })
    });
    if defined {
        Ok(())
    } else {
        Err(format!("it defines no {symbol}"))
    }
}

fn run_block(root: &Path, block: &str) -> Result<(), Box<dyn Error>> {
    let binaries = std::env::current_exe()?;
    let binaries = binaries.parent().ok_or("xtask has no folder")?;
    let path = std::env::var("PATH").unwrap_or_default();
    let output = Command::new("bash")
        .args(["-euo", "pipefail", "-c", block])
        .env("PATH", format!("{}:{path}", binaries.display()))
        .current_dir(root)
        .output()?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!(
        "{}: {}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    )
    .into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_links_and_runnable_blocks_are_found() {
        let text = "See `core/x` and [y](docs/y.md#z).\n```sh run\ntrue\n```\n```sh\nfalse `no`\n```\n`end`\n";
        let parts = parse(text);
        assert_eq!(parts.spans, ["core/x", "end"]);
        assert_eq!(parts.links, ["docs/y.md"]);
        assert_eq!(parts.blocks, ["true\n"]);
    }

    #[test]
    fn a_symbol_must_be_defined_in_its_file() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        assert!(resolve(root, "src/check_docs.rs#resolve").is_ok());
        assert!(resolve(root, "src/check_docs.rs#resol").is_err());
        assert!(resolve(root, "src/nowhere.rs").is_err());
    }
}
