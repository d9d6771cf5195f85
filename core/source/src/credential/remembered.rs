//! Credentials that were of use once, kept over a restart: after one, containers start again without anybody pulling,
//! so nobody gives credentials.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use super::{Credential, Credentials, Secret, pattern};
use crate::blob::BoxFuture;
use crate::error::{Error, Result};
use crate::reference::Reference;

/// Repositories; the one that was not used for longest goes first.
const ENTRIES_MAX: usize = 4096;

/// Bytes of the file, and of one secret.
const FILE_BYTES_MAX: u64 = 32 << 20;
const SECRET_BYTES_MAX: usize = 64 << 10;

/// Of the form of the file.
const VERSION: u32 = 1;

/// What this source calls itself in [`Credential::origin`].
const ORIGIN: &str = "an earlier pull";

/// Remembers what opened which repository, in a file that only its owner can read. Clones share it.
///
/// It learns in two ways: from whatever else a registry accepted ([`Credentials::accepted`]), and from pulls that it
/// is told of ([`Remembered::offer`]).
#[derive(Debug, Clone)]
pub struct Remembered(Arc<Store>);

#[derive(Debug)]
struct Store {
    path: PathBuf,
    state: Mutex<State>,
    /// Held while the file is written, so that the last state is the one that stays.
    writing: Mutex<()>,
}

#[derive(Debug, Default)]
struct State {
    /// Proven ones; these are in the file.
    entries: Vec<Entry>,
    /// Told of, not yet proven.
    offered: Vec<Entry>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Entry {
    host: String,
    repository: String,
    secret: Secret,
    /// Seconds since 1970.
    used: u64,
}

#[derive(Serialize, Deserialize)]
struct Document {
    version: u32,
    entries: Vec<Entry>,
}

impl Entry {
    fn is_for(&self, host: &str, repository: &str) -> bool {
        self.repository == repository && pattern::same_host(&self.host, host)
    }
}

impl Remembered {
    /// What the file `path` holds; it need not exist, its directory must.
    ///
    /// A file that cannot be understood is nothing that a daemon should fail to start for: it is forgotten, and the
    /// log says so. One that cannot be read at all is an error.
    pub fn open(path: &Path) -> Result<Self> {
        let wrong = |error: io::Error| Error::Configuration {
            path: path.display().to_string(),
            reason: format!("it cannot be read: {error}"),
        };
        let entries = match File::open(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(error) => return Err(wrong(error)),
            Ok(file) => {
                restrict(path, &file).map_err(wrong)?;
                let mut bytes = Vec::new();
                let read = (&file).take(FILE_BYTES_MAX).read_to_end(&mut bytes);
                read.map_err(wrong)?;
                parse(path, &bytes)
            }
        };
        Ok(Remembered(Arc::new(Store {
            path: path.to_owned(),
            state: Mutex::new(State {
                entries,
                offered: Vec::new(),
            }),
            writing: Mutex::default(),
        })))
    }

    /// Somebody is about to pull from `reference` with `secret`: it is tried from now on, before what is known, and
    /// kept once it was of use.
    pub fn offer(&self, reference: &Reference, secret: Secret) {
        if is_too_large(&secret) {
            return;
        }
        let entry = Entry {
            host: reference.host().to_owned(),
            repository: reference.repository().to_owned(),
            secret,
            used: now(),
        };
        let mut state = self.0.state();
        state.offered.retain(|old| {
            !old.is_for(&entry.host, &entry.repository) || old.secret != entry.secret
        });
        state.offered.push(entry);
        trim(&mut state.offered);
    }

    /// The pull with `secret` failed: it is not tried any more, unless it was of use before.
    pub fn withdraw(&self, reference: &Reference, secret: &Secret) {
        let is_meant = |entry: &Entry| {
            entry.is_for(reference.host(), reference.repository()) && entry.secret == *secret
        };
        self.0.state().offered.retain(|entry| !is_meant(entry));
    }

    /// `secret` opened `reference`: it is kept over a restart.
    pub fn keep(&self, reference: &Reference, secret: &Secret) {
        self.note(reference.host(), reference.repository(), secret);
    }

    /// Writes the file now. It is also written, in the background, whenever something was learned.
    pub fn flush(&self) -> Result<()> {
        self.0.save()
    }

    fn note(&self, host: &str, repository: &str, secret: &Secret) {
        if is_too_large(secret) {
            return;
        }
        {
            let mut state = self.0.state();
            state
                .offered
                .retain(|entry| !entry.is_for(host, repository) || entry.secret != *secret);
            let known = state
                .entries
                .iter_mut()
                .find(|entry| entry.is_for(host, repository));
            match known {
                Some(known) if known.secret == *secret => {
                    known.used = now();
                    return;
                }
                Some(known) => {
                    known.secret = secret.clone();
                    known.used = now();
                }
                None => state.entries.push(Entry {
                    host: host.to_owned(),
                    repository: repository.to_owned(),
                    secret: secret.clone(),
                    used: now(),
                }),
            }
            trim(&mut state.entries);
        }
        let store = Arc::clone(&self.0);
        let save = move || {
            if let Err(error) = store.save() {
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    "credentials are not kept over a restart"
                );
            }
        };
        // Writing waits for the disk, which requests must not.
        match tokio::runtime::Handle::try_current() {
            Ok(runtime) => drop(runtime.spawn_blocking(save)),
            Err(_) => save(),
        }
    }
}

impl Credentials for Remembered {
    fn lookup<'a>(
        &'a self,
        host: &'a str,
        reference: &'a Reference,
    ) -> BoxFuture<'a, Result<Vec<Credential>>> {
        let state = self.0.state();
        let all = state.offered.iter().rev().chain(&state.entries);
        let found = all.filter(|entry| entry.is_for(host, reference.repository()));
        let found = found.map(|entry| Credential {
            secret: entry.secret.clone(),
            origin: ORIGIN.to_owned(),
        });
        let found = found.collect();
        Box::pin(async { Ok(found) })
    }

    fn accepted(&self, host: &str, reference: &Reference, credential: &Credential) {
        self.note(host, reference.repository(), &credential.secret);
    }
}

impl Store {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The old file or the new one is there, whatever happens.
    fn save(&self) -> Result<()> {
        let _one_at_a_time = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let document = Document {
            version: VERSION,
            entries: self.state().entries.clone(),
        };
        let written = serde_json::to_vec(&document)
            .map_err(io::Error::other)
            .and_then(|bytes| self.replace(&bytes));
        written.map_err(|error| Error::Configuration {
            path: self.path.display().to_string(),
            reason: format!("it cannot be written: {error}"),
        })
    }

    fn replace(&self, bytes: &[u8]) -> io::Result<()> {
        let mut name = self.path.file_name().unwrap_or_default().to_owned();
        name.push(".new");
        let new = self.path.with_file_name(name);
        // What a crash left may have any mode.
        match fs::remove_file(&new) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&new)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&new, &self.path)?;
        match self.path.parent() {
            Some(directory) => File::open(directory)?.sync_all(),
            None => Ok(()),
        }
    }
}

fn parse(path: &Path, bytes: &[u8]) -> Vec<Entry> {
    match serde_json::from_slice::<Document>(bytes) {
        Ok(document) if document.version == VERSION => document.entries,
        Ok(_) | Err(_) => {
            tracing::warn!(
                file = %path.display(),
                "remembered credentials cannot be read and are forgotten; pull once more what needs them"
            );
            Vec::new()
        }
    }
}

/// Secrets that others can read are not left as they are.
fn restrict(path: &Path, file: &File) -> io::Result<()> {
    if file.metadata()?.permissions().mode() & 0o077 != 0 {
        tracing::warn!(file = %path.display(), "others could read remembered credentials; no more");
        file.set_permissions(fs::Permissions::from_mode(0o600))?;
    }
    Ok(())
}

fn is_too_large(secret: &Secret) -> bool {
    let length = match secret {
        Secret::Password { username, password } => username.len() + password.len(),
        Secret::IdentityToken(token) | Secret::RegistryToken(token) => token.len(),
    };
    length > SECRET_BYTES_MAX
}

fn trim(entries: &mut Vec<Entry>) {
    if entries.len() > ENTRIES_MAX {
        let oldest = entries
            .iter()
            .enumerate()
            .min_by_key(|(_, entry)| entry.used);
        if let Some((oldest, _)) = oldest {
            entries.remove(oldest);
        }
    }
}

fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.unwrap_or_default().as_secs()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secrets(remembered: &Remembered, host: &str, image: &str) -> Vec<Secret> {
        let reference = Reference::parse(image).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .build()
            .unwrap();
        let found = runtime
            .block_on(remembered.lookup(host, &reference))
            .unwrap();
        found.into_iter().map(|one| one.secret).collect()
    }

    fn token(text: &str) -> Secret {
        Secret::RegistryToken(text.to_owned())
    }

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn what_was_of_use_survives_a_restart_and_nobody_else_reads_it() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("credentials");
        let app = Reference::parse("r.example/app").unwrap();
        let remembered = Remembered::open(&path).unwrap();
        remembered.offer(&app, token("offered"));
        assert!(!path.exists(), "what was never of use is not written");
        let credential = Credential::password("u", "p", "x");
        remembered.accepted("r.example", &app, &credential);
        assert_eq!(mode(&path), 0o600);
        let expected = [token("offered"), credential.secret.clone()];
        assert_eq!(secrets(&remembered, "r.example", "r.example/app"), expected);
        let again = Remembered::open(&path).unwrap();
        assert_eq!(
            secrets(&again, "r.example", "r.example/app"),
            [credential.secret]
        );
        assert_eq!(secrets(&again, "r.example", "r.example/other"), []);
        assert_eq!(secrets(&again, "mirror.example", "r.example/app"), []);
    }

    #[test]
    fn a_failed_pull_leaves_nothing_and_a_good_one_replaces() {
        let root = tempfile::tempdir().unwrap();
        let remembered = Remembered::open(&root.path().join("credentials")).unwrap();
        let app = Reference::parse("nginx").unwrap();
        remembered.keep(&app, &token("good"));
        remembered.offer(&app, token("bad"));
        remembered.withdraw(&app, &token("bad"));
        assert_eq!(
            secrets(&remembered, "registry-1.docker.io", "nginx"),
            [token("good")]
        );
        remembered.offer(&app, token("better"));
        remembered.keep(&app, &token("better"));
        assert_eq!(
            secrets(&remembered, "docker.io", "nginx"),
            [token("better")]
        );
    }

    #[test]
    fn a_damaged_file_is_forgotten_and_an_open_one_closed() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("credentials");
        fs::write(&path, "{\"version\":1,\"entries\":[{").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        let remembered = Remembered::open(&path).unwrap();
        assert_eq!(mode(&path), 0o600);
        fs::write(root.path().join("credentials.new"), "left by a crash").unwrap();
        remembered.keep(&Reference::parse("a").unwrap(), &token("t"));
        let again = Remembered::open(&path).unwrap();
        assert_eq!(secrets(&again, "docker.io", "a"), [token("t")]);
        assert!(!format!("{again:?}").contains("\"t\""));
    }
}
