//! How keys of the configuration are declared, read and shown.

use std::path::PathBuf;

use toml::de::DeValue;

/// A type that a key of the file can have.
pub trait Setting: Sized {
    /// What may stand there, for messages and the reference: "true or false".
    fn allowed() -> String;

    /// Reads a value; `None` if it is not what is allowed.
    fn read(value: &DeValue<'_>) -> Option<Self>;

    /// The value as TOML.
    fn write(&self) -> String;
}

/// One declared key.
#[derive(Debug, Clone, Copy)]
pub struct Field {
    /// The key.
    pub key: &'static str,
    /// What it is for, one string a line.
    pub doc: &'static [&'static str],
    /// Says what may stand there.
    pub allowed: fn() -> String,
}

/// A table of the file. Declared with [`section!`](crate::section), not by hand.
pub trait Section {
    /// What the section is for, one string a line.
    fn about(&self) -> &'static [&'static str];

    /// Its keys, in the order of their declaration.
    fn fields(&self) -> &'static [Field];

    /// Takes over `value` for `key`; false if it is not what is allowed there.
    fn set(&mut self, key: &str, value: &DeValue<'_>) -> bool;

    /// The value of `key` as TOML.
    fn get(&self, key: &str) -> String;
}

/// The tables of a plugin.
pub trait Sections {
    /// Each with its name in the file.
    fn sections(&mut self) -> Vec<(&'static str, &mut dyn Section)>;
}

/// Declares a section of the configuration: a struct with a default for each field, and its [`Section`].
///
/// The doc comments are what users read, in the file that `print-default-config` prints and in the reference. A key that
/// is no name in Rust has another one: `pub everything as "self": bool = false`.
#[macro_export]
macro_rules! section {
    (
        $(#[doc = $about:literal])*
        pub struct $name:ident {
            $( $(#[doc = $doc:literal])+ pub $key:ident $(as $name_in_file:literal)?: $type:ty = $default:expr, )*
        }
    ) => {
        $(#[doc = $about])*
        #[derive(Debug, Clone, PartialEq)]
        pub struct $name {
            $( $(#[doc = $doc])+ pub $key: $type, )*
        }

        impl Default for $name {
            fn default() -> Self {
                $name { $( $key: $default, )* }
            }
        }

        impl $crate::config::Section for $name {
            fn about(&self) -> &'static [&'static str] {
                &[$( $about ),*]
            }

            fn fields(&self) -> &'static [$crate::config::Field] {
                &[$( $crate::config::Field {
                    key: $crate::key_in_file!($key $($name_in_file)?),
                    doc: &[$( $doc ),+],
                    allowed: <$type as $crate::config::Setting>::allowed,
                } ),*]
            }

            fn set(&mut self, key: &str, value: &$crate::config::DeValue<'_>) -> bool {
                match key {
                    $( $crate::key_in_file!($key $($name_in_file)?) => match <$type as $crate::config::Setting>::read(value) {
                        Some(read) => {
                            self.$key = read;
                            true
                        }
                        None => false,
                    }, )*
                    _ => false,
                }
            }

            fn get(&self, key: &str) -> String {
                match key {
                    $( $crate::key_in_file!($key $($name_in_file)?) => $crate::config::Setting::write(&self.$key), )*
                    _ => String::new(),
                }
            }
        }
    };
}

/// The name of a key of [`section!`](crate::section).
#[doc(hidden)]
#[macro_export]
macro_rules! key_in_file {
    ($key:ident) => {
        stringify!($key)
    };
    ($key:ident $name_in_file:literal) => {
        $name_in_file
    };
}

impl Setting for bool {
    fn allowed() -> String {
        "true or false".to_owned()
    }

    fn read(value: &DeValue<'_>) -> Option<Self> {
        value.as_bool()
    }

    fn write(&self) -> String {
        self.to_string()
    }
}

impl Setting for String {
    fn allowed() -> String {
        "a text".to_owned()
    }

    fn read(value: &DeValue<'_>) -> Option<Self> {
        value.as_str().map(str::to_owned)
    }

    fn write(&self) -> String {
        quoted(self)
    }
}

impl Setting for PathBuf {
    fn allowed() -> String {
        "an absolute path".to_owned()
    }

    fn read(value: &DeValue<'_>) -> Option<Self> {
        let path = PathBuf::from(value.as_str()?);
        path.is_absolute().then_some(path)
    }

    fn write(&self) -> String {
        quoted(&self.to_string_lossy())
    }
}

impl Setting for Vec<String> {
    fn allowed() -> String {
        "a list of texts that are not empty".to_owned()
    }

    fn read(value: &DeValue<'_>) -> Option<Self> {
        let text =
            |item: &DeValue<'_>| Some(item.as_str()?.to_owned()).filter(|text| !text.is_empty());
        let items = value.as_array()?.iter();
        items.map(|item| text(item.get_ref())).collect()
    }

    fn write(&self) -> String {
        let items: Vec<String> = self.iter().map(|item| quoted(item)).collect();
        format!("[{}]", items.join(", "))
    }
}

/// `text` as a TOML basic string.
pub(crate) fn quoted(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}
