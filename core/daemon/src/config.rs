//! The configuration: one TOML file, sections whose keys are declared once.
//!
//! A section is declared with [`section!`](crate::section): from it come the struct, its defaults, what the
//! file may hold, `print-default-config` and the table in `docs/config.md`.

mod bytes;
mod file;
mod print;
mod problem;
mod sections;
mod setting;

use std::path::Path;

pub use bytes::Bytes;
pub use problem::{ConfigError, Problem};
pub use sections::{
    AdminAddress, AdminSection, Count, LimitsSection, LogFormat, LogLevel, LogSection, TopSection,
};
pub use setting::{Field, Section, Sections, Setting};
#[doc(hidden)]
pub use toml::de::DeValue;

pub(crate) use setting::quoted;

/// A daemon's whole configuration; `P` is what its plugin adds.
#[derive(Debug, Clone, PartialEq)]
pub struct Config<P> {
    /// The keys above all sections.
    pub top: TopSection,
    /// `[log]`
    pub log: LogSection,
    /// `[admin]`
    pub admin: AdminSection,
    /// `[limits]`
    pub limits: LimitsSection,
    /// The plugin's own sections.
    pub plugin: P,
}

impl<P: Sections + Default> Config<P> {
    /// The defaults of plugin `name`.
    pub fn new(name: &'static str) -> Self {
        Config {
            top: TopSection::of(name),
            log: LogSection::default(),
            admin: AdminSection::default(),
            limits: LimitsSection::default(),
            plugin: P::default(),
        }
    }

    /// The defaults of plugin `name` under what the file at `path` says.
    pub fn load(name: &'static str, path: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Read {
            path: path.to_owned(),
            source,
        })?;
        let mut config = Config::new(name);
        let problems = file::read(&text, &mut config.sections());
        if problems.is_empty() {
            return Ok(config);
        }
        Err(ConfigError::Invalid {
            path: path.to_owned(),
            problems,
        })
    }

    /// The defaults as a file, with a comment above every key.
    pub fn default_file(name: &'static str) -> String {
        print::file(name, &mut Config::<P>::new(name).sections())
    }

    /// Every key, its default and its meaning, as Markdown.
    pub fn reference(name: &'static str) -> String {
        print::reference(&mut Config::<P>::new(name).sections())
    }

    /// Every section by its name in the file; the keys above all sections have the name "".
    fn sections(&mut self) -> Named<'_> {
        let mut sections: Named<'_> = vec![
            ("", &mut self.top),
            ("log", &mut self.log),
            ("admin", &mut self.admin),
            ("limits", &mut self.limits),
        ];
        sections.extend(self.plugin.sections());
        sections
    }
}

/// Sections by their names.
type Named<'a> = Vec<(&'static str, &'a mut dyn Section)>;
