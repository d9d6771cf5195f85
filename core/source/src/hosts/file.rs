//! One hosts.toml.

use std::path::{Path, PathBuf};
use std::time::Duration;

use reqwest::Url;
use reqwest::header::{HeaderName, HeaderValue};
use toml::{Table, Value};

use super::{Pem, Settings, TlsSettings, authority, registry_itself};
use crate::error::{Error, Result};

/// Places of one file; more is a mistake.
const PLACES_MAX: usize = 32;

/// Reads the contents of the file `path`, which is about `host`.
pub(super) fn parse(path: &Path, bytes: &[u8], host: &str) -> Result<Vec<Settings>> {
    let file = File { path, host };
    let text = std::str::from_utf8(bytes).map_err(|_| file.wrong("it is not UTF-8"))?;
    let mut root: Table = text
        .parse()
        .map_err(|error: toml::de::Error| file.wrong(error.message()))?;
    let places = match root.remove("host") {
        None => Table::new(),
        Some(Value::Table(places)) => places,
        Some(_) => return Err(file.wrong("`host` is no table")),
    };
    if places.len() > PLACES_MAX {
        return Err(file.wrong("it names more than 32 hosts"));
    }
    let mut all = Vec::new();
    for (url, place) in places {
        let Value::Table(place) = place else {
            return Err(file.wrong(&format!("host.{url:?} is no table")));
        };
        all.push(file.place(&url, place)?);
    }
    all.push(match root.remove("server") {
        None => file.registry(root)?,
        Some(Value::String(url)) if url.is_empty() => file.registry(root)?,
        Some(Value::String(url)) => file.place(&url, root)?,
        Some(_) => return Err(file.wrong("`server` is no string")),
    });
    Ok(all)
}

struct File<'a> {
    path: &'a Path,
    host: &'a str,
}

impl File<'_> {
    fn wrong(&self, reason: &str) -> Error {
        Error::Configuration {
            path: self.path.display().to_string(),
            reason: reason.to_owned(),
        }
    }

    /// What stands on top is about the registry itself.
    fn registry(&self, fields: Table) -> Result<Settings> {
        let fields = self.fields(fields)?;
        let mut settings = registry_itself(self.host, fields.tls.clone())?;
        fields.apply(&mut settings);
        Ok(settings)
    }

    fn place(&self, url: &str, fields: Table) -> Result<Settings> {
        let fields = self.fields(fields)?;
        let with_scheme = match url.contains("://") {
            true => url.to_owned(),
            false => format!("https://{url}"),
        };
        let mut base = Url::parse(&with_scheme)
            .ok()
            .filter(|base| matches!(base.scheme(), "http" | "https") && base.has_host())
            .ok_or_else(|| self.wrong(&format!("{url:?} is no http or https URL")))?;
        if !base.username().is_empty() || base.password().is_some() {
            return Err(self.wrong("a URL has a password in it; credentials belong elsewhere"));
        }
        base.set_query(None);
        base.set_fragment(None);
        let path = base.path().trim_end_matches('/').to_owned();
        base.set_path(&match fields.override_path || path.ends_with("/v2") {
            true => path,
            false => format!("{path}/v2"),
        });
        let host = authority(&base);
        let is_hub = self.host == "docker.io" && host == "registry-1.docker.io";
        let mut settings = Settings {
            is_mirror: host != self.host && !is_hub,
            host,
            base,
            can_pull: true,
            can_resolve: true,
            can_push: true,
            headers: Vec::new(),
            tls: TlsSettings::default(),
            dial_timeout: None,
        };
        fields.apply(&mut settings);
        Ok(settings)
    }

    fn fields(&self, table: Table) -> Result<Fields> {
        let mut fields = Fields::default();
        for (key, value) in table {
            match (key.as_str(), value) {
                ("capabilities", Value::Array(words)) => self.capabilities(&words, &mut fields),
                ("ca", value) => fields.tls.ca = self.pems(&key, value)?,
                ("client", value) => fields.tls.client = self.client(value)?,
                ("skip_verify", Value::Boolean(skip)) => fields.tls.skip_verify = skip,
                ("header", Value::Table(headers)) => fields.headers = self.headers(headers)?,
                ("override_path", Value::Boolean(is_whole)) => fields.override_path = is_whole,
                ("dial_timeout", Value::String(text)) => {
                    let timeout = duration(&text)
                        .ok_or_else(|| self.wrong("`dial_timeout` is no duration like \"5s\""))?;
                    // Zero is Go's word for the default.
                    fields.dial_timeout = Some(timeout).filter(|timeout| !timeout.is_zero());
                }
                (
                    "capabilities" | "skip_verify" | "header" | "override_path" | "dial_timeout",
                    _,
                ) => return Err(self.wrong(&format!("`{key}` is of the wrong type"))),
                _ => tracing::warn!(
                    file = %self.path.display(), key,
                    "this key of hosts.toml is not known to us and has no effect"
                ),
            }
        }
        Ok(fields)
    }

    fn capabilities(&self, words: &[Value], fields: &mut Fields) {
        let has = |word: &str| words.iter().any(|value| value.as_str() == Some(word));
        let is_known = |value: &&Value| matches!(value.as_str(), Some("pull" | "resolve" | "push"));
        if let Some(unknown) = words.iter().find(|value| !is_known(value)) {
            tracing::warn!(
                file = %self.path.display(), capability = %unknown,
                "this capability of hosts.toml is not known to us and has no effect"
            );
        }
        if !words.is_empty() {
            fields.can_pull = has("pull");
            fields.can_resolve = has("resolve");
            fields.can_push = has("push");
        }
    }

    /// A file, or several.
    fn pems(&self, key: &str, value: Value) -> Result<Vec<Pem>> {
        let wrong = || {
            self.wrong(&format!(
                "`{key}` is neither a file name nor a list of them"
            ))
        };
        let one = |value: Value| match value {
            Value::String(name) => Pem::read(self.relative(&name)),
            _ => Err(wrong()),
        };
        match value {
            Value::Array(values) => values.into_iter().map(one).collect(),
            value => Ok(vec![one(value)?]),
        }
    }

    /// A file with certificate and key in it, several of them, or pairs of files.
    fn client(&self, value: Value) -> Result<Vec<(Pem, Pem)>> {
        let values = match value {
            Value::Array(values) => values,
            value => vec![value],
        };
        let pair = |value| {
            let mut files = self.pems("client", value)?.into_iter();
            match (files.next(), files.next(), files.next()) {
                (Some(both), None, None) => Ok((both.clone(), both)),
                (Some(certificate), Some(key), None) => Ok((certificate, key)),
                _ => Err(self.wrong("an entry of `client` is no pair of certificate and key")),
            }
        };
        values.into_iter().map(pair).collect()
    }

    fn headers(&self, headers: Table) -> Result<Vec<(String, String)>> {
        let mut all = Vec::new();
        for (name, value) in headers {
            let values = match value {
                Value::Array(values) => values,
                value => vec![value],
            };
            for value in values {
                let valid = value.as_str().filter(|value| {
                    HeaderName::from_bytes(name.as_bytes()).is_ok()
                        && HeaderValue::from_str(value).is_ok()
                });
                let value =
                    valid.ok_or_else(|| self.wrong(&format!("header {name:?} is no header")))?;
                all.push((name.clone(), value.to_owned()));
            }
        }
        Ok(all)
    }

    fn relative(&self, name: &str) -> PathBuf {
        self.path.parent().unwrap_or(Path::new("/")).join(name)
    }
}

struct Fields {
    can_pull: bool,
    can_resolve: bool,
    can_push: bool,
    headers: Vec<(String, String)>,
    tls: TlsSettings,
    dial_timeout: Option<Duration>,
    override_path: bool,
}

impl Default for Fields {
    fn default() -> Self {
        Fields {
            can_pull: true,
            can_resolve: true,
            can_push: true,
            headers: Vec::new(),
            tls: TlsSettings::default(),
            dial_timeout: None,
            override_path: false,
        }
    }
}

impl Fields {
    fn apply(self, settings: &mut Settings) {
        settings.can_pull = self.can_pull;
        settings.can_resolve = self.can_resolve;
        settings.can_push = self.can_push;
        settings.headers = self.headers;
        settings.tls = self.tls;
        settings.dial_timeout = self.dial_timeout;
    }
}

/// Go's notation, <https://pkg.go.dev/time#ParseDuration>: `1m30s`, `500ms`, `1.5h`.
fn duration(text: &str) -> Option<Duration> {
    if text == "0" {
        return Some(Duration::ZERO);
    }
    let mut rest = text;
    let mut seconds = 0.0;
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, after) = rest.split_at(end);
        let end = after
            .find(|c: char| c.is_ascii_digit() || c == '.')
            .unwrap_or(after.len());
        let (unit, after) = after.split_at(end);
        let unit = match unit {
            "ns" => 1e-9,
            "us" | "µs" => 1e-6,
            "ms" => 1e-3,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            _ => return None,
        };
        seconds += number.parse::<f64>().ok()? * unit;
        rest = after;
    }
    match text.is_empty() {
        true => None,
        false => Duration::try_from_secs_f64(seconds).ok(),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn read(text: &str) -> Result<Vec<Settings>> {
        parse(Path::new("/hosts.toml"), text.as_bytes(), "docker.io")
    }

    #[test]
    fn mirrors_come_in_the_order_of_the_file_and_the_registry_last() {
        let settings = read(
            r#"
            server = "https://registry-1.docker.io"
            future = 1
            [host."http://z.example:5000"]
              capabilities = ["pull"]
              dial_timeout = "1m1.5s"
              [host."http://z.example:5000".header]
                x-one = "1"
                x-many = ["2", "3"]
            [host."a.example/docker/"]
              capabilities = ["pull", "resolve", "fly"]
              unknown = true
            [host."https://whole.example/api/hub"]
              override_path = true
            [host."https://plain.example/v2/"]
            "#,
        )
        .unwrap();
        let bases: Vec<&str> = settings.iter().map(|one| one.base.as_str()).collect();
        assert_eq!(
            bases,
            [
                "http://z.example:5000/v2",
                "https://a.example/docker/v2",
                "https://whole.example/api/hub",
                "https://plain.example/v2",
                "https://registry-1.docker.io/v2",
            ]
        );
        assert_eq!(settings[0].host, "z.example:5000");
        assert!(settings[0].can_pull && !settings[0].can_resolve && !settings[0].can_push);
        assert!(settings[1].can_resolve && !settings[1].can_push);
        assert!(settings[2].can_pull && settings[2].can_push);
        assert_eq!(
            settings[0].dial_timeout,
            Some(Duration::from_millis(61_500))
        );
        let header = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let expected = [
            header("x-one", "1"),
            header("x-many", "2"),
            header("x-many", "3"),
        ];
        assert_eq!(settings[0].headers, expected);
        assert!(settings[0].is_mirror && !settings[4].is_mirror);
    }

    #[test]
    fn what_stands_on_top_is_about_the_registry() {
        let settings = read("skip_verify = true\ncapabilities = ['resolve']").unwrap();
        assert_eq!(settings.len(), 1);
        assert!(settings[0].tls.skip_verify && !settings[0].can_pull);
        let local = parse(
            Path::new("/hosts.toml"),
            b"skip_verify = true",
            "localhost:5000",
        );
        assert_eq!(local.unwrap()[0].base.as_str(), "https://localhost:5000/v2");
    }

    #[test]
    fn certificates_are_named_in_every_form() {
        let root = tempfile::tempdir().unwrap();
        for name in ["a.pem", "b.pem"] {
            fs::write(root.path().join(name), name).unwrap();
        }
        let path = root.path().join("hosts.toml");
        let read =
            |text: &str| Ok::<_, Error>(parse(&path, text.as_bytes(), "r.example")?.remove(0).tls);
        assert_eq!(read("ca = 'a.pem'").unwrap().ca[0].bytes, b"a.pem");
        assert_eq!(read("ca = ['a.pem', 'b.pem']").unwrap().ca.len(), 2);
        let pairs = |text: &str| {
            let client = read(text)?.client;
            let text = |pem: &Pem| String::from_utf8(pem.bytes.clone()).unwrap();
            Ok::<_, Error>(
                client
                    .iter()
                    .map(|(a, b)| text(a) + &text(b))
                    .collect::<Vec<_>>(),
            )
        };
        assert_eq!(pairs("client = 'a.pem'").unwrap(), ["a.pema.pem"]);
        assert_eq!(
            pairs("client = ['a.pem', 'b.pem']").unwrap(),
            ["a.pema.pem", "b.pemb.pem"]
        );
        assert_eq!(
            pairs("client = [['a.pem', 'b.pem']]").unwrap(),
            ["a.pemb.pem"]
        );
        assert!(pairs("client = [['a.pem', 'b.pem', 'a.pem']]").is_err());
        let error = pairs("client = 'c.pem'").unwrap_err().to_string();
        assert!(error.contains("c.pem"), "{error}");
    }

    #[test]
    fn what_cannot_be_meant_is_refused() {
        for text in [
            "x",
            "host = 1",
            "server = 1",
            "server = 'ftp://r.example'",
            "server = 'https://user:secret@r.example'",
            "[host]\na = 1",
            "[host.'https://']",
            "skip_verify = 'yes'",
            "dial_timeout = '5'",
            "dial_timeout = 'soon'",
            "ca = 5",
            "[header]\n'a b' = 'c'",
            "[header]\na = 5",
        ] {
            assert!(
                matches!(read(text), Err(Error::Configuration { .. })),
                "{text}"
            );
        }
        assert_eq!(duration("0"), Some(Duration::ZERO));
        assert_eq!(duration("-1s"), None);
        assert_eq!(duration(""), None);
    }

    proptest::proptest! {
        #[test]
        fn whatever_is_written_is_survived(
            key in "(server|ca|client|capabilities|skip_verify|dial_timeout|header|host|x)",
            value in "(true|1|''|'https://a:1/b'|'5s'|\\['pull'\\]|\\[\\[1\\]\\]|\\{a = 'b'\\}|.{0,20})",
            place in "(|\\[host.'.{0,20}'\\])",
        ) {
            let _ = read(&format!("{key} = {value}\n{place}\n{key} = {value}\n"));
            let _ = read(&format!("{key} = {value}\n{place}\n"));
            let _ = duration(&value);
        }
    }
}
