//! Reading the file: everything that is wrong with it, each with its line.

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::{Named, Problem, Section};

/// The least likeness (0 to 1, Jaro-Winkler) of a key that is suggested instead of an unknown one.
const LIKENESS_MIN: f64 = 0.8;

/// The most of a wrong value that a message repeats, in characters.
const SHOWN_CHARS_MAX: usize = 40;

/// Takes what `text` says over into `sections` and answers what is wrong with it.
pub(super) fn read(text: &str, sections: &mut Named<'_>) -> Vec<Problem> {
    let table = match DeTable::parse(text) {
        Ok(table) => table.into_inner(),
        Err(error) => {
            let start = error.span().map_or(0, |span| span.start);
            return vec![Problem {
                line: line(text, start),
                text: format!("this is not TOML: {}", error.message()),
            }];
        }
    };
    let mut reader = Reader {
        text,
        problems: Vec::new(),
    };
    for (key, value) in &table {
        reader.entry(key, value, sections);
    }
    reader.problems.sort_by_key(|problem| problem.line);
    reader.problems
}

type Text<'i> = Spanned<std::borrow::Cow<'i, str>>;

struct Reader<'a> {
    text: &'a str,
    problems: Vec<Problem>,
}

impl Reader<'_> {
    /// An entry above all sections: a key, or a section.
    fn entry(&mut self, key: &Text<'_>, value: &Spanned<DeValue<'_>>, sections: &mut Named<'_>) {
        let name = key.get_ref().as_ref();
        let section = sections.iter().position(|(section, _)| *section == name);
        match (section, value.get_ref()) {
            (Some(found), DeValue::Table(table)) if !name.is_empty() => {
                for (key, value) in table {
                    self.setting(key, value, found, sections);
                }
            }
            (Some(_), _) if !name.is_empty() => {
                self.problem(
                    key,
                    format!("{name} is a section; write [{name}] and its keys below"),
                );
            }
            (_, DeValue::Table(_)) => {
                let names = sections.iter().map(|(name, _)| *name);
                let hint = suggestion(name, names.filter(|name| !name.is_empty()), "[", "]");
                self.problem(key, format!("there is no section [{name}]{hint}"));
            }
            _ => self.setting(key, value, 0, sections),
        }
    }

    /// A key of section number `at`.
    fn setting(
        &mut self,
        key: &Text<'_>,
        value: &Spanned<DeValue<'_>>,
        at: usize,
        sections: &mut Named<'_>,
    ) {
        let name = key.get_ref().as_ref();
        let (section_name, section) = &mut sections[at];
        let place = place(section_name);
        let Some(field) = section.fields().iter().find(|field| field.key == name) else {
            let hint = unknown_key_hint(name, at, sections);
            self.problem(key, format!("there is no key {name} {place}{hint}"));
            return;
        };
        if !section.set(name, value.get_ref()) {
            let shown = self.shown(value);
            let allowed = (field.allowed)();
            self.problem(
                key,
                format!("{name} {place} must be {allowed}, not {shown}"),
            );
        }
    }

    fn problem(&mut self, at: &Text<'_>, text: String) {
        let line = line(self.text, at.span().start);
        self.problems.push(Problem { line, text });
    }

    fn shown(&self, value: &Spanned<DeValue<'_>>) -> String {
        let written = self.text.get(value.span()).unwrap_or_default();
        let first = written.lines().next().unwrap_or_default();
        let mut shown: String = first.chars().take(SHOWN_CHARS_MAX).collect();
        if shown.len() < written.len() {
            shown.push('…');
        }
        shown
    }
}

fn place(section: &str) -> String {
    if section.is_empty() {
        "above the sections".to_owned()
    } else {
        format!("in [{section}]")
    }
}

/// A key of the same section that is nearly this one, or the section that does have this key.
fn unknown_key_hint(key: &str, at: usize, sections: &Named<'_>) -> String {
    let has = |section: &dyn Section| section.fields().iter().any(|field| field.key == key);
    if let Some((section, _)) = sections.iter().find(|(_, section)| has(&**section)) {
        return format!("; it belongs {}", place(section));
    }
    let keys = sections[at].1.fields().iter().map(|field| field.key);
    suggestion(key, keys, "", "")
}

/// "; did you mean …?", or what there is.
fn suggestion(
    word: &str,
    known: impl Iterator<Item = &'static str> + Clone,
    open: &str,
    close: &str,
) -> String {
    let likeness = |name: &&str| strsim::jaro_winkler(word, name);
    let best = known
        .clone()
        .max_by(|a, b| likeness(a).total_cmp(&likeness(b)));
    match best {
        Some(best) if likeness(&best) >= LIKENESS_MIN => {
            format!("; did you mean {open}{best}{close}?")
        }
        _ => {
            let all: Vec<String> = known.map(|name| format!("{open}{name}{close}")).collect();
            format!("; there are {}", all.join(", "))
        }
    }
}

/// The line, from 1, of byte `offset`.
fn line(text: &str, offset: usize) -> usize {
    let before = text.as_bytes().iter().take(offset);
    1 + before.filter(|byte| **byte == b'\n').count()
}
