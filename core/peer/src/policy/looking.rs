//! When others are looked for and asked what they have: for nodes, and for simulators of many.

use std::time::Duration;

/// When it is looked who has a layer, each time so long after the last; then again and again after the last one. Those who
/// begin together find each other with the first ones.
pub const LOOKS: [Duration; 8] = [
    Duration::ZERO,
    Duration::from_millis(100),
    Duration::from_millis(300),
    Duration::from_secs(1),
    Duration::from_secs(2),
    Duration::from_secs(5),
    Duration::from_secs(15),
    Duration::from_secs(30),
];

/// How often it is considered whose chunks to know.
pub const WATCH: Duration = Duration::from_millis(250);

/// How soon a node is asked again that has nothing new, if it answers at once.
const REFRESH: Duration = Duration::from_millis(250);

/// And one that has: it gathers what is new for about as long, but whether it does is its own affair.
const AFTER_NEWS: Duration = Duration::from_millis(25);

/// And one that has everything.
const COMPLETE: Duration = Duration::from_secs(30);

/// When a node is asked again that has answered after `time`.
pub fn pause(is_complete: bool, is_new: bool, time: Duration) -> Duration {
    match (is_complete, is_new) {
        (true, _) => COMPLETE,
        (false, true) => AFTER_NEWS.saturating_sub(time),
        (false, false) => REFRESH.saturating_sub(time),
    }
}
