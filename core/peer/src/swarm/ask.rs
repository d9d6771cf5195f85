//! One request to another node: made, its answer verified chunk by chunk.

use std::sync::{Arc, Weak};
use std::time::Duration;

use pontoon_cache::CachedLayer;
use pontoon_layer::Verified;
use tokio::time::Instant;

use super::Joined;
use crate::PeerId;
use crate::node::Shared;
use crate::policy::{Ask, Failure, Layout};
use crate::wire::{self, Order};

/// A request is given up after so long, however much has come. The policy gives up much sooner what nothing comes of.
const DEADLINE: Duration = Duration::from_secs(60);

/// Makes the request `ask`, and tells what comes of it.
pub(super) async fn run(
    joined: Weak<Joined>,
    node: Arc<Shared>,
    layer: Arc<CachedLayer>,
    layout: Arc<dyn Layout>,
    ask: Ask<PeerId>,
) {
    let (id, peer) = (ask.id, ask.peer);
    let result = receive(&joined, &node, &layer, layout, ask).await;
    if let Some(joined) = joined.upgrade() {
        joined.ended(id, peer, result);
    }
}

async fn receive(
    joined: &Weak<Joined>,
    node: &Shared,
    layer: &Arc<CachedLayer>,
    layout: Arc<dyn Layout>,
    ask: Ask<PeerId>,
) -> Result<(), (Failure, String)> {
    let failed = |error: wire::Error| (error.failure(), error.to_string());
    let peer = node.peer(ask.peer).ok_or_else(|| {
        let reason = "nobody knows where it is any more";
        (Failure::Broken, reason.to_owned())
    })?;
    let order = Order {
        key: layer.key().clone(),
        layout,
        chunks: ask.chunks.clone(),
        class: ask.class,
        deadline: Instant::now() + DEADLINE,
        packed: false,
    };
    let answer = node.client.chunks(&peer, &order).await;
    let mut answer = answer.map_err(failed)?;
    for index in ask.chunks {
        let Some(bytes) = answer.next().await else {
            return Err((Failure::Cut, "its answer ended too soon".to_owned()));
        };
        let bytes = bytes.map_err(failed)?;
        node.count_received(ask.peer, bytes.len() as u64);
        let checked = Arc::clone(layer);
        let verified = tokio::task::spawn_blocking(move || {
            let chunk = checked.chunks().get(index)?;
            Some(Verified::check(bytes, &chunk.digest()))
        });
        let verified = match verified.await {
            Ok(Some(Ok(verified))) => verified,
            Ok(Some(Err(error))) => {
                return Err((Failure::Wrong, format!("chunk {index}: {error}")));
            }
            // It was never wanted, or the check has panicked: nobody else's fault.
            Ok(None) | Err(_) => {
                return Err((Failure::Broken, format!("chunk {index} cannot be checked")));
            }
        };
        let Some(joined) = joined.upgrade() else {
            return Ok(());
        };
        joined.came(ask.id, index, &verified);
    }
    // Nothing may follow.
    match answer.next().await {
        Some(Err(error)) => Err(failed(error)),
        Some(Ok(_)) | None => Ok(()),
    }
}
