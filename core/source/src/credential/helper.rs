//! Docker's credential helpers: <https://github.com/docker/docker-credential-helpers>.

use std::collections::HashMap;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde::Deserialize;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::Command;
use tokio::sync::Mutex as AsyncMutex;

use super::{Credential, Secret};
use crate::error::{Error, Result};

/// A helper that takes longer hangs, on a keyring that waits for somebody's password say.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Bytes that a helper may print.
const OUTPUT_BYTES_MAX: u64 = 64 << 10;

/// For how long an answer is used again: cloud helpers take a second, and an image has many repositories' neighbours.
const LIFETIME: Duration = Duration::from_secs(60);

/// Answers that are kept.
const ANSWERS_MAX: usize = 1024;

/// Stands for the name of a user when the secret is an identity token.
const TOKEN_USER: &str = "<token>";

/// Programs that know secrets. Each is asked once at a time for the same host.
#[derive(Debug, Default)]
pub(super) struct Helpers {
    /// By helper and server.
    answers: Mutex<HashMap<(String, String), Slot>>,
    /// Where programs are, for tests; else they are in the path.
    files: HashMap<String, PathBuf>,
}

/// Held while the helper runs.
type Slot = Arc<AsyncMutex<Option<Answer>>>;

#[derive(Debug)]
struct Answer {
    at: Instant,
    credential: Option<Credential>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Output {
    #[serde(default)]
    username: String,
    secret: String,
}

impl Helpers {
    #[cfg(test)]
    pub(super) fn in_files<const N: usize>(files: [(&str, PathBuf); N]) -> Self {
        let owned = files.map(|(name, file)| (name.to_owned(), file));
        Helpers {
            files: HashMap::from(owned),
            ..Helpers::default()
        }
    }

    /// What `docker-credential-HELPER` has for `server`.
    pub(super) async fn get(&self, helper: &str, server: &str) -> Result<Option<Credential>> {
        let slot = {
            let mut answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
            if answers.len() >= ANSWERS_MAX {
                answers.clear();
            }
            let key = (helper.to_owned(), server.to_owned());
            Arc::clone(answers.entry(key).or_default())
        };
        let mut answer = slot.lock().await;
        if let Some(answer) = answer
            .as_ref()
            .filter(|answer| answer.at.elapsed() < LIFETIME)
        {
            return Ok(answer.credential.clone());
        }
        let program = self.program(helper)?;
        let wrong = |reason: String, transient| Error::Credentials {
            from: program.display().to_string(),
            reason,
            transient,
        };
        let credential = match tokio::time::timeout(TIMEOUT, run(&program, server)).await {
            Err(_) => {
                let reason = "it did not answer within 10 s; try it by hand, as this user";
                return Err(wrong(reason.to_owned(), true));
            }
            Ok(Err(error)) if error.kind() == std::io::ErrorKind::NotFound => {
                let reason = "there is no such program in the path of this daemon; install it";
                return Err(wrong(reason.to_owned(), false));
            }
            Ok(Err(error)) => return Err(wrong(format!("it cannot be run: {error}"), true)),
            Ok(Ok((true, output))) => {
                let parsed: Output = serde_json::from_slice(&output)
                    .map_err(|_| wrong("it does not answer as helpers do".to_owned(), false))?;
                credential(parsed, helper)
            }
            Ok(Ok((false, output))) => {
                let said = String::from_utf8_lossy(&output);
                if !said.contains("credentials not found") {
                    let said: String = said.trim().chars().take(200).collect();
                    return Err(wrong(format!("it failed: {said}"), true));
                }
                None
            }
        };
        *answer = Some(Answer {
            at: Instant::now(),
            credential: credential.clone(),
        });
        Ok(credential)
    }

    fn program(&self, helper: &str) -> Result<PathBuf> {
        if let Some(file) = self.files.get(helper) {
            return Ok(file.clone());
        }
        let is_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        match !helper.is_empty() && helper.chars().all(is_name) {
            true => Ok(PathBuf::from(format!("docker-credential-{helper}"))),
            false => Err(Error::Credentials {
                from: format!("the credential helper {helper:.80?}"),
                reason: "that is no name of one; correct the docker config".to_owned(),
                transient: false,
            }),
        }
    }
}

fn credential(output: Output, helper: &str) -> Option<Credential> {
    let secret = match output.username.as_str() {
        _ if output.secret.is_empty() => return None,
        TOKEN_USER => Secret::IdentityToken(output.secret),
        _ => Secret::Password {
            username: output.username,
            password: output.secret,
        },
    };
    Some(Credential {
        secret,
        origin: format!("docker-credential-{helper}"),
    })
}

/// Whether it succeeded, and what it printed. It is killed if nobody waits for it any more.
async fn run(program: &PathBuf, server: &str) -> std::io::Result<(bool, Vec<u8>)> {
    let mut child = Command::new(program)
        .arg("get")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()?;
    if let Some(mut input) = child.stdin.take() {
        // One that knows without reading may be gone already.
        let _ = input.write_all(format!("{server}\n").as_bytes()).await;
    }
    let mut output = Vec::new();
    if let Some(stdout) = child.stdout.take() {
        stdout
            .take(OUTPUT_BYTES_MAX)
            .read_to_end(&mut output)
            .await?;
    }
    Ok((child.wait().await?.success(), output))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;
    use std::path::Path;

    use super::*;

    fn script(directory: &Path, text: &str) -> PathBuf {
        let path = directory.join("helper");
        fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        path
    }

    async fn ask(text: &str) -> Result<Option<Credential>> {
        let root = tempfile::tempdir().unwrap();
        let helpers = Helpers::in_files([("x", script(root.path(), text))]);
        helpers.get("x", "r.example").await
    }

    #[tokio::test]
    async fn answers_are_read() {
        let token = ask(r#"echo '{"Username":"<token>","Secret":"t"}'"#)
            .await
            .unwrap();
        assert_eq!(token.unwrap().secret, Secret::IdentityToken("t".to_owned()));
        let none = ask("echo credentials not found in native keychain; exit 1").await;
        assert_eq!(none.unwrap(), None);
        let empty = ask(r#"echo '{"Username":"","Secret":""}'"#).await.unwrap();
        assert_eq!(empty, None);
    }

    #[tokio::test]
    async fn failures_say_which_program() {
        let failed = ask("echo no network; exit 1").await.unwrap_err();
        assert!(
            failed.to_string().contains("no network") && failed.is_transient(),
            "{failed}"
        );
        let nonsense = ask("echo hello").await.unwrap_err();
        assert!(!nonsense.is_transient());
        let helpers = Helpers::default();
        let absent = helpers.get("surely-not-installed", "x").await.unwrap_err();
        assert!(
            absent
                .to_string()
                .contains("docker-credential-surely-not-installed"),
            "{absent}"
        );
        assert!(helpers.get("../x", "x").await.is_err());
    }

    #[tokio::test]
    async fn an_answer_is_used_again() {
        let root = tempfile::tempdir().unwrap();
        let count = root.path().join("count");
        let text = format!(
            "echo x >> {}; echo '{{\"Username\":\"u\",\"Secret\":\"s\"}}'",
            count.display()
        );
        let helpers = Helpers::in_files([("x", script(root.path(), &text))]);
        let (one, other) = tokio::join!(helpers.get("x", "a"), helpers.get("x", "a"));
        assert_eq!(one.unwrap(), other.unwrap());
        assert_eq!(fs::read_to_string(count).unwrap(), "x\n");
    }
}
