//! The configuration as text: the file with all defaults, and the reference.

use std::fmt::Write;

use super::{Field, Named, Section};

/// The file that says what the defaults say.
pub(super) fn file(plugin: &str, sections: &mut Named<'_>) -> String {
    let mut text = format!(
        "# The configuration of pontoon-{plugin}: every key with its default. A file need not name them all.\n"
    );
    for (name, section) in sections {
        text.push('\n');
        if !name.is_empty() {
            comment(&mut text, section.about());
            let _ = writeln!(text, "[{name}]");
        }
        for field in section.fields() {
            comment(&mut text, field.doc);
            let _ = writeln!(text, "# Allowed: {}.", (field.allowed)());
            let _ = writeln!(text, "{} = {}", field.key, section.get(field.key));
        }
    }
    text
}

fn comment(text: &mut String, lines: &[&str]) {
    for line in lines {
        let _ = writeln!(text, "#{}", line.trim_end());
    }
}

/// A table for each section.
pub(super) fn reference(sections: &mut Named<'_>) -> String {
    let mut text = String::new();
    for (name, section) in sections {
        if name.is_empty() {
            text.push_str("## Above the sections\n\n");
        } else {
            let _ = writeln!(text, "\n## [{name}]\n{}\n", joined(section.about()));
        }
        text.push_str("| key | default | allowed | meaning |\n|---|---|---|---|\n");
        for field in section.fields() {
            row(&mut text, field, &**section);
        }
    }
    text
}

fn row(text: &mut String, field: &Field, section: &dyn Section) {
    let default = section.get(field.key);
    let allowed = (field.allowed)();
    let doc = joined(field.doc);
    let _ = writeln!(
        text,
        "| `{}` | `{default}` | {allowed} | {doc} |",
        field.key
    );
}

fn joined(lines: &[&str]) -> String {
    let lines: Vec<&str> = lines.iter().map(|line| line.trim()).collect();
    lines.join(" ")
}
