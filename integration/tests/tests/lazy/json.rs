//! JSON that is as it should be, or the test fails.

use serde_json::Value;

pub(crate) fn parse(bytes: &[u8]) -> Value {
    serde_json::from_slice(bytes).unwrap()
}
