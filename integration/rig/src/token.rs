//! The tokens of a registry with bearer authentication (distribution's specification,
//! `auth/token` and `auth/oauth`), signed with a key of the run's own.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair};
use serde_json::{Value, json};

use crate::authority::Identity;
use crate::error::{Error, Result};

/// The name under which the registry asks for tokens.
pub(crate) const SERVICE: &str = "pontoon-rig";

/// Who signs the tokens.
pub(crate) const ISSUER: &str = "pontoon-rig";

/// The user who may pull and push everything.
pub const USER: &str = "pilot";

/// That user's password.
pub const PASSWORD: &str = "ferry";

/// Repositories whose names begin so can be pulled without a user.
pub const PUBLIC: &str = "public/";

/// How long after its end the registry still takes a token, in seconds (`Leeway` of
/// distribution 2.8's token verification): it is taken off, so that tokens end when they
/// say so to clients.
const LEEWAY: u64 = 60;

/// Gives out tokens.
#[derive(Debug)]
pub struct Tokens {
    identity: Identity,
    lifetime: Mutex<Duration>,
    password: Mutex<String>,
    issued: AtomicUsize,
}

impl Tokens {
    /// A giver of tokens with a new key; they are good for a minute.
    pub fn new() -> Result<Self> {
        Ok(Self {
            identity: Identity::self_signed("tokens.invalid")?,
            lifetime: Mutex::new(Duration::from_mins(1)),
            password: Mutex::new(PASSWORD.into()),
            issued: AtomicUsize::new(0),
        })
    }

    /// The certificate by which the registry verifies the tokens, as PEM.
    pub fn certificate_pem(&self) -> &str {
        self.identity.certificate_pem()
    }

    /// How long the tokens from now on are good for, in whole seconds.
    pub fn set_lifetime(&self, lifetime: Duration) {
        *self.lifetime.lock().unwrap_or_else(PoisonError::into_inner) = lifetime;
    }

    /// Changes the user's password.
    pub fn set_password(&self, password: &str) {
        *self.password.lock().unwrap_or_else(PoisonError::into_inner) = password.into();
    }

    /// How many tokens were given out.
    pub fn issued(&self) -> usize {
        self.issued.load(Ordering::Relaxed)
    }

    /// Answers a request: `GET` with basic authentication or none, or OAuth 2's `POST`
    /// with a password. Returns the status and the body.
    pub(crate) fn answer(
        &self,
        method: &str,
        query: &str,
        authorization: Option<&str>,
        body: &str,
    ) -> (u16, String) {
        let form = fields(if method == "POST" { body } else { query });
        let first = |name: &str| form.get(name).and_then(|values| values.first());
        let given = if method == "POST" {
            match (first("username"), first("password"), first("refresh_token")) {
                (Some(user), Some(password), _) => Some(format!("{user}:{password}")),
                (_, _, Some(token)) => Some(token.clone()),
                _ => return (400, "{}".into()),
            }
        } else {
            authorization.and_then(basic)
        };
        let password = self.password.lock().unwrap_or_else(PoisonError::into_inner);
        let wanted = format!("{USER}:{password}");
        drop(password);
        if given.as_ref().is_some_and(|given| *given != wanted) {
            let why = json!({"errors": [{"code": "UNAUTHORIZED", "message": "no such user"}]});
            return (401, why.to_string());
        }
        let scopes = form.get("scope").into_iter().flatten();
        let access = scopes
            .flat_map(|scope| scope.split(' '))
            .filter_map(|scope| grant(scope, given.is_some()));
        match self.sign(access.collect()) {
            Ok((token, lifetime)) => {
                self.issued.fetch_add(1, Ordering::Relaxed);
                let mut answer =
                    json!({"token": token, "access_token": token, "expires_in": lifetime});
                if given.is_some() && method == "POST" {
                    answer["refresh_token"] = wanted.into();
                }
                (200, answer.to_string())
            }
            Err(error) => (500, error.to_string()),
        }
    }

    fn sign(&self, access: Vec<Value>) -> Result<(String, u64)> {
        let failed = || Error::unexpected("signing a token", "the key is not usable");
        let lifetime = *self.lifetime.lock().unwrap_or_else(PoisonError::into_inner);
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let now = now.unwrap_or_default().as_secs();
        let certificate = STANDARD.encode(self.identity.certificate());
        let header = json!({"typ": "JWT", "alg": "ES256", "x5c": [certificate]});
        let claims = json!({
            "iss": ISSUER,
            "sub": USER,
            "aud": SERVICE,
            "iat": now,
            "nbf": now - LEEWAY,
            "exp": now + lifetime.as_secs() - LEEWAY,
            "jti": self.issued().to_string(),
            "access": access,
        });
        let encode = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let text = format!("{}.{}", encode(&header), encode(&claims));
        let random = SystemRandom::new();
        let algorithm = &ECDSA_P256_SHA256_FIXED_SIGNING;
        let key = EcdsaKeyPair::from_pkcs8(algorithm, &self.identity.key(), &random);
        let signature = key
            .map_err(|_| failed())?
            .sign(&random, text.as_bytes())
            .map_err(|_| failed())?;
        let token = format!("{text}.{}", URL_SAFE_NO_PAD.encode(signature));
        Ok((token, lifetime.as_secs()))
    }
}

/// What a scope (`repository:NAME:ACTION,...`) is granted.
fn grant(scope: &str, known: bool) -> Option<Value> {
    let (kind, rest) = scope.split_once(':')?;
    let (name, actions) = rest.rsplit_once(':')?;
    let public = kind == "repository" && name.starts_with(PUBLIC);
    let actions = actions.split(',');
    let granted: Vec<&str> = actions
        .filter(|action| known || (public && *action == "pull"))
        .collect();
    let granted = (!granted.is_empty()).then_some(granted)?;
    Some(json!({"type": kind, "name": name, "actions": granted}))
}

/// `user:password` of a header for basic authentication (RFC 7617).
fn basic(header: &str) -> Option<String> {
    let encoded = header.strip_prefix("Basic ")?;
    String::from_utf8(STANDARD.decode(encoded).ok()?).ok()
}

/// The fields of a query or a form, decoded.
fn fields(text: &str) -> BTreeMap<String, Vec<String>> {
    let mut fields: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for pair in text.split('&') {
        if let Some((name, value)) = pair.split_once('=') {
            fields.entry(decode(name)).or_default().push(decode(value));
        }
    }
    fields
}

fn decode(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(byte) = bytes.get(at) {
        let escaped = bytes.get(at + 1..at + 3).filter(|_| *byte == b'%');
        let escaped = escaped.and_then(|hex| std::str::from_utf8(hex).ok());
        let escaped = escaped.and_then(|hex| u8::from_str_radix(hex, 16).ok());
        at += if escaped.is_some() { 3 } else { 1 };
        decoded.push(match byte {
            b'+' => b' ',
            other => escaped.unwrap_or(*other),
        });
    }
    String::from_utf8_lossy(&decoded).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scopes_are_granted_to_who_may_have_them() {
        let tokens = Tokens::new().unwrap();
        let claims = |authorization: Option<&str>| {
            let query = "service=pontoon-rig&scope=repository%3Apublic%2Fa%3Apull%2Cpush\
                         &scope=repository:secret:pull";
            let (status, body) = tokens.answer("GET", query, authorization, "");
            assert_eq!(status, 200, "{body}");
            let body: Value = serde_json::from_str(&body).unwrap();
            let token = body["token"].as_str().unwrap();
            let claims = token.split('.').nth(1).unwrap();
            let claims = URL_SAFE_NO_PAD.decode(claims).unwrap();
            serde_json::from_slice::<Value>(&claims).unwrap()["access"].clone()
        };
        let public = json!([{"type": "repository", "name": "public/a", "actions": ["pull"]}]);
        assert_eq!(claims(None), public);
        let pilot = format!("Basic {}", STANDARD.encode("pilot:ferry"));
        assert_eq!(claims(Some(&pilot)).as_array().unwrap().len(), 2);
        let wrong = format!("Basic {}", STANDARD.encode("pilot:barge"));
        assert_eq!(tokens.answer("GET", "", Some(&wrong), "").0, 401);
        let form = "grant_type=password&service=pontoon-rig&username=pilot&password=ferry";
        assert_eq!(tokens.answer("POST", "", None, form).0, 200);
        assert_eq!(tokens.issued(), 3);
    }
}
