//! `/profiles`: the learned orders of a plugin that has some.

use std::io;
use std::sync::Arc;

use http_body_util::{BodyExt, Full, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::{Response, StatusCode};

use super::{text, with_type};
use crate::plugin::{Engine, Profiles};

/// The largest profile that is taken, in bytes; the plugin may take less.
const BYTES_MAX: usize = 4 << 20;

type Answer = Response<Full<Bytes>>;

/// `GET /profiles`
pub(super) async fn list(engine: &Arc<dyn Engine>) -> Answer {
    with(engine, |profiles| {
        let list = profiles.list()?;
        Ok(with_type(format!("{list}\n"), "application/json"))
    })
    .await
}

/// `GET /profiles/NAME`
pub(super) async fn export(engine: &Arc<dyn Engine>, name: &str) -> Answer {
    let name = name.to_owned();
    with(engine, move |profiles| {
        Ok(match profiles.export(&name)? {
            Some(profile) => with_type(format!("{profile}\n"), "application/json"),
            None => text(StatusCode::NOT_FOUND, "there is no such profile"),
        })
    })
    .await
}

/// `PUT /profiles`
pub(super) async fn import(engine: &Arc<dyn Engine>, body: Incoming) -> Answer {
    let Ok(body) = Limited::new(body, BYTES_MAX).collect().await else {
        let reason =
            format!("the body did not come, or is no profile: it has more than {BYTES_MAX} bytes");
        return text(StatusCode::BAD_REQUEST, &reason);
    };
    let body = body.to_bytes();
    with(engine, move |profiles| match profiles.import(&body) {
        Err(error) if error.kind() == io::ErrorKind::InvalidData => Ok(text(
            StatusCode::BAD_REQUEST,
            &format!("this is no profile: {error}"),
        )),
        imported => Ok(text(StatusCode::OK, &imported?)),
    })
    .await
}

/// On a blocking thread, because they are files.
async fn with(
    engine: &Arc<dyn Engine>,
    work: impl FnOnce(&dyn Profiles) -> io::Result<Answer> + Send + 'static,
) -> Answer {
    let Some(profiles) = engine.profiles() else {
        return text(
            StatusCode::NOT_FOUND,
            "this plugin has no lazy layers, so it learns nothing of starts",
        );
    };
    match tokio::task::spawn_blocking(move || work(&*profiles)).await {
        Ok(Ok(answer)) => answer,
        Ok(Err(error)) => {
            let reason = format!("the profiles cannot be read or written: {error}");
            text(StatusCode::INTERNAL_SERVER_ERROR, &reason)
        }
        Err(_) => text(
            StatusCode::INTERNAL_SERVER_ERROR,
            "the profiles cannot be told",
        ),
    }
}
