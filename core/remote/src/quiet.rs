//! What is done when nothing is fetched any more.

use std::sync::Arc;
use std::time::Duration;

use pontoon_lazyfs::Engine;
use tokio::sync::watch;

/// How often it is looked whether anything came. Nothing came for so long at least: then it is quiet.
const INTERVAL: Duration = Duration::from_millis(500);

/// Gives the memory through which bytes went back to the kernel, each time when no more come. The C library would keep as
/// much as was ever needed at once.
pub(crate) async fn give_memory_back(engine: Arc<Engine>, mut stopped: watch::Receiver<bool>) {
    let (mut last, mut given) = (0, 0);
    loop {
        tokio::select! {
            _ = stopped.wait_for(|stopped| *stopped) => return,
            () = tokio::time::sleep(INTERVAL) => {}
        }
        let now = engine.counted().fetched_bytes;
        if now == last && now != given {
            given = now;
            // A panic has been logged.
            let _ = tokio::task::spawn_blocking(pontoon_linux::process::give_memory_back).await;
        }
        last = now;
    }
}
