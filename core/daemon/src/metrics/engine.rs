//! What the engine holds, asked at each scrape.

use std::sync::Arc;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;

use crate::plugin::{self, Number};
use crate::status::Chain;

/// Asks an engine for its census.
pub(super) struct Engine(pub(super) Arc<dyn plugin::Engine>);

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Engine")
    }
}

impl Collector for Engine {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let census = match self.0.census() {
            Ok(census) => census,
            Err(error) => {
                tracing::error!(error = %Chain(&error), "the snapshots cannot be counted");
                return Ok(());
            }
        };
        let snapshots = ConstGauge::new(0_u64);
        let mut family = encoder.encode_descriptor(
            "snapshots",
            "Snapshots, by snapshotter name",
            None,
            snapshots.metric_type(),
        )?;
        for (name, count) in &census.snapshots {
            let labels = [("snapshotter", name.as_str())];
            ConstGauge::new(*count).encode(family.encode_family(&labels)?)?;
        }
        let removed = ConstGauge::new(census.removed);
        removed.encode(encoder.encode_descriptor(
            "removed_directories",
            "Directories of removed snapshots that are still to be deleted",
            None,
            removed.metric_type(),
        )?)?;
        let transactions = ConstCounter::new(census.transactions);
        transactions.encode(encoder.encode_descriptor(
            "metadata_transactions",
            "Transactions written to disk, one fsync each",
            None,
            transactions.metric_type(),
        )?)?;
        let operations = ConstCounter::new(census.operations);
        operations.encode(encoder.encode_descriptor(
            "metadata_operations",
            "Operations in those transactions; several in one when several callers come together",
            None,
            operations.metric_type(),
        )?)?;
        let declined = ConstCounter::new(0_u64);
        let mut family = encoder.encode_descriptor(
            "layers_declined",
            "Layers left to containerd to unpack, by reason",
            None,
            declined.metric_type(),
        )?;
        for (reason, count) in &census.declined {
            let labels = [("reason", reason.as_str())];
            ConstCounter::new(*count).encode(family.encode_family(&labels)?)?;
        }
        self.0
            .numbers()
            .iter()
            .try_for_each(|number| encode(number, &mut encoder))
    }
}

/// Writes what a plugin counts.
fn encode(number: &Number, encoder: &mut DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
    let kind = match number.grows {
        true => ConstCounter::new(0_u64).metric_type(),
        false => ConstGauge::new(0_u64).metric_type(),
    };
    let mut family = encoder.encode_descriptor(number.name, number.help, None, kind)?;
    for (value, count) in &number.samples {
        let labels = number.label.map(|label| (label, value.as_str()));
        let labels = labels.as_slice();
        match number.grows {
            true => ConstCounter::new(*count).encode(family.encode_family(&labels)?)?,
            false => ConstGauge::new(*count).encode(family.encode_family(&labels)?)?,
        }
    }
    Ok(())
}
