//! Project automation. `cargo xtask` without a verb lists the verbs.

mod bench;
mod check_docs;
mod demo;
mod fresh;
mod gen_proto;
mod test;
mod tidy;

use std::error::Error;
use std::path::Path;
use std::process::ExitCode;

const USAGE: &str = "\
usage: cargo xtask VERB
  demo          run a container on Pontoon under a private containerd, and pull lazily; --image REF names another image,
                --plugin nydus has a nydus image pulled lazily, --nodes N starts one image on several nodes
  test          run everything that proves the product; --full adds the long forms, --rivals DIR what needs programs
                that only their makers build
  bench NAME    measure Pontoon against its rivals; NAME: snapshots, lazy, convert, fleet (simulated), peers
  check-docs    resolve the paths that the documents name, run their runnable blocks
  tidy          check the rules of the code that no compiler checks
  fresh [VERB]  run another verb on a fresh Debian 12 (test, if none is named)
  gen-proto     write the generated code of the wire contract again";

fn main() -> ExitCode {
    match dispatch() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error}");
            ExitCode::FAILURE
        }
    }
}

fn dispatch() -> Result<(), Box<dyn Error>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .ok_or("xtask has no parent folder")?;
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let rest = arguments.get(1..).unwrap_or_default();
    match arguments.first().map(String::as_str) {
        Some("demo") => demo::run(root, rest),
        Some("test") => test::run(root, rest),
        Some("bench") => bench::run(root, rest),
        Some("check-docs") => check_docs::run(root),
        Some("fresh") => fresh::run(root, rest),
        Some("tidy") => tidy::run(root),
        Some("gen-proto") => gen_proto::run(root),
        _ => Err(USAGE.into()),
    }
}
