//! The configuration: what is refused, and how; what the daemon prints about it.

use std::fs;
use std::process::Command;

use crate::process::{BINARY, Place, refusal, repository};

/// Each file, the line that is named, and what is said about it.
const WRONG: &[(&str, usize, &str)] = &[
    (
        "[overlayfs]\nsync_remov = true",
        2,
        "there is no key sync_remov in [overlayfs]; did you mean sync_remove?",
    ),
    (
        "\n[overlayfs]\nzzz = true",
        3,
        "there is no key zzz in [overlayfs]; there are upperdir_label, mount_options, sync_remove, slow_chown",
    ),
    (
        "rot = \"/x\"",
        1,
        "there is no key rot above the sections; did you mean root?",
    ),
    (
        "[log]\nroot = \"/x\"",
        2,
        "there is no key root in [log]; it belongs above the sections",
    ),
    (
        "[overlayfs]\nformat = \"json\"",
        2,
        "there is no key format in [overlayfs]; it belongs in [log]",
    ),
    (
        "[overlay]\n",
        1,
        "there is no section [overlay]; did you mean [overlayfs]?",
    ),
    (
        "[stargz]\n",
        1,
        "there is no section [stargz]; there are [log], [admin], [limits], [overlayfs]",
    ),
    (
        "log = \"debug\"",
        1,
        "log is a section; write [log] and its keys below",
    ),
    (
        "[overlayfs]\n# a comment\nsync_remove = \"yes\"",
        3,
        "sync_remove in [overlayfs] must be true or false, not \"yes\"",
    ),
    (
        "root = \"var/lib\"",
        1,
        "root above the sections must be an absolute path, not \"var/lib\"",
    ),
    (
        "[log]\nlevel = \"loud\"",
        2,
        "level in [log] must be \"off\", \"error\", \"warn\", \"info\", \"debug\" or \"trace\", not \"loud\"",
    ),
    (
        "[limits]\nrequests = 0",
        2,
        "requests in [limits] must be a number from 1 to 512, not 0",
    ),
    (
        "[limits]\nrequests = 1e3",
        2,
        "requests in [limits] must be a number from 1 to 512, not 1e3",
    ),
    (
        "[overlayfs]\nmount_options = [\"volatile\", 1]",
        2,
        "mount_options in [overlayfs] must be a list of texts that are not empty, not [\"volatile\", 1]",
    ),
    (
        "[admin]\naddress = \"0.0.0.0:80\"",
        2,
        "with a loopback address like 127.0.0.1, not \"0.0.0.0:80\"",
    ),
    ("[admin]\naddress = \"[::]:80\"", 2, "not \"[::]:80\""),
    (
        "[log]\nlevel = \"info\"\nlevel = \"info\"",
        3,
        "this is not TOML: duplicate key",
    ),
    ("[log\n", 1, "this is not TOML: "),
];

#[test]
fn what_is_wrong_is_refused_with_its_line_and_what_would_be_right() {
    let place = Place::new();
    for (text, line, said) in WRONG {
        let file = place.config(text);
        let (code, stderr) = refusal(
            Command::new(BINARY)
                .arg("check-config")
                .arg("--config")
                .arg(&file),
        );
        assert_eq!(code, Some(64), "{text}\n{stderr}");
        let place = format!("{}:{line}: ", file.display());
        assert!(stderr.contains(&place), "{text}\n{stderr}");
        assert!(stderr.contains(said), "{text}\n{stderr}");
    }
}

#[test]
fn everything_that_is_wrong_is_said_at_once_and_nothing_is_started() {
    let place = Place::new();
    let file = place.config("rot = 1\n[log]\nlevl = 1\nformat = 2\n");
    let (code, stderr) = refusal(place.command().arg("--config").arg(&file));
    assert_eq!(code, Some(64));
    let lines: Vec<&str> = stderr.lines().collect();
    assert_eq!(lines.len(), 3, "{stderr}");
    assert!(!place.root().exists());
}

#[test]
fn a_wrong_command_line_exits_with_64_and_help_with_0() {
    for arguments in [
        &["--rooot", "/x"][..],
        &["--log-level", "loud"],
        &["serve"],
        &["print-containerd-config", "--containerd-version", "1.6"],
        &["check-config", "--config", "/does/not/exist"],
    ] {
        let (code, stderr) = refusal(Command::new(BINARY).args(arguments));
        assert_eq!(code, Some(64), "{arguments:?}\n{stderr}");
        assert!(!stderr.is_empty());
    }
    for arguments in ["--help", "--version"] {
        assert_eq!(refusal(Command::new(BINARY).arg(arguments)).0, Some(0));
    }
}

#[test]
fn the_printed_default_is_good_and_names_every_key() {
    let place = Place::new();
    let printed = stdout(Command::new(BINARY).arg("print-default-config"));
    let file = place.config(&printed);
    let said = stdout(
        Command::new(BINARY)
            .arg("check-config")
            .arg("--config")
            .arg(file),
    );
    assert_eq!(said, "the configuration is good\n");
    for key in [
        "root",
        "address",
        "level",
        "format",
        "requests",
        "sync_remove",
        "mount_options",
    ] {
        assert!(printed.contains(&format!("\n{key} = ")), "{key}");
    }
}

#[test]
fn flags_win_over_the_file() {
    let place = Place::new();
    let file = place.config(
        "root = \"/file/root\"\naddress = \"/file/s.sock\"\n[overlayfs]\nslow_chown = true\n",
    );
    let print = |arguments: &[&str]| {
        let mut command = Command::new(BINARY);
        command
            .arg("print-containerd-config")
            .arg("--config")
            .arg(&file)
            .args(arguments);
        stdout(&mut command)
    };
    let by_file = print(&[]);
    assert!(by_file.contains("address = \"/file/s.sock\""), "{by_file}");
    assert!(by_file.contains("root = \"/file/root\""), "{by_file}");
    assert!(!by_file.contains("only-remap-ids"), "{by_file}");
    let by_flags = print(&["--address", "/flag/s.sock", "--root", "/flag/root"]);
    assert!(
        by_flags.contains("address = \"/flag/s.sock\""),
        "{by_flags}"
    );
    assert!(by_flags.contains("root = \"/flag/root\""), "{by_flags}");
}

#[test]
fn the_reference_is_in_the_documentation() {
    let reference = pontoon_daemon::Config::<section::OverlayfsSection>::reference("overlayfs");
    let path = repository("docs/config.md");
    let page = fs::read_to_string(&path).unwrap_or_default();
    if std::env::var_os("PONTOON_WRITE_DOCS").is_some() {
        let head = page
            .split("## Above the sections")
            .next()
            .unwrap_or_default();
        fs::write(&path, format!("{head}{reference}")).unwrap();
        return;
    }
    assert!(
        page.ends_with(&reference),
        "docs/config.md is not what the daemon reads; run this test with PONTOON_WRITE_DOCS=1"
    );
}

/// The section as the daemon declares it.
#[path = "../../src/config.rs"]
mod section;

fn stdout(command: &mut Command) -> String {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}
