//! The drop-in for containerd's own configuration.

use std::path::Path;

use crate::arguments::ContainerdVersion;
use crate::config::quoted;

/// The file that makes containerd load `pontoon-<plugin>` from `address`.
pub(crate) fn drop_in(
    plugin: &str,
    root: &Path,
    address: &Path,
    capabilities: &[&str],
    exports: &[(&str, &str, &str)],
    release: ContainerdVersion,
) -> String {
    let version = match release {
        ContainerdVersion::V1_7 => 2,
        ContainerdVersion::V2 => 3,
    };
    let text = |path: &Path| quoted(&path.to_string_lossy());
    let capabilities: Vec<String> = capabilities.iter().map(|name| quoted(name)).collect();
    let exports: String = exports
        .iter()
        .map(|(key, value, why)| format!("    # {why}\n    {key} = {}\n", quoted(value)))
        .collect();
    format!(
        "# containerd loads pontoon-{plugin} with this. Printed by `pontoon-{plugin} print-containerd-config`.\n\
         version = {version}\n\
         \n\
         [proxy_plugins.pontoon-{plugin}]\n\
         \x20 type = \"snapshot\"\n\
         \x20 address = {address}\n\
         \x20 capabilities = [{capabilities}]\n\
         \n\
         \x20 # The kubelet measures the image filesystem here.\n\
         \x20 [proxy_plugins.pontoon-{plugin}.exports]\n\
         \x20   root = {root}\n\
         {exports}",
        address = text(address),
        root = text(root),
        capabilities = capabilities.join(", "),
    )
}
