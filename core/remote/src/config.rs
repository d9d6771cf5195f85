//! What the operator chooses.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use pontoon_layer::{Limits, OpaqueXattr};
use pontoon_lazyfs::Peers;
use pontoon_source::{Credential, KubernetesConfig};

use crate::FrontEnd;

/// What the operator chooses. The defaults suit a node on a network.
#[derive(Debug, Clone)]
pub struct Config {
    /// How registries are asked. `[registry]`
    pub registry: pontoon_source::Config,
    /// Where credentials come from. `[credentials]`
    pub credentials: CredentialsConfig,
    /// How much is kept. `[cache]`
    pub cache: pontoon_cache::Config,
    /// How layers are fetched, the background included.
    pub fetching: pontoon_lazyfs::Config,
    /// Other nodes that layers are exchanged with. `None`: all comes from registries. `[peer]`
    pub peers: Option<Arc<dyn Peers>>,
    /// How layers are served.
    pub serving: pontoon_fuse::Config,
    /// Who keeps what is served when this process ends. `None`: nobody, so it ends too. `[holder]`
    pub holder: Option<HolderConfig>,
    /// How long containerd waits, and how long an image is remembered. `[lazy]`
    pub lazy: LazyConfig,
    /// What is unpacked here. `[unpack]`
    pub unpack: UnpackConfig,
    /// Whether images in nydus' form are served. Else they are refused, since nobody can unpack them.
    pub nydus: bool,
    /// What a layer may ask of us at most.
    pub limits: Limits,
    /// By which attribute overlayfs is told of opaque directories.
    pub opaque: OpaqueXattr,
}

/// See [`Config::holder`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HolderConfig {
    /// The holder's program. `None`: the one beside this process's own.
    pub program: Option<PathBuf>,
    /// For how long connections are kept when no daemon serves them.
    pub patience: Duration,
    /// What the holder's log says when it gives up: what an operator has to do.
    pub advice: String,
}

/// See [`Config::lazy`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LazyConfig {
    /// How long a Prepare waits for registries. containerd holds a lock of all snapshots of ours meanwhile.
    pub deadline: Duration,
    /// Who serves trees.
    pub front_end: FrontEnd,
    /// The program that mounts them for this one, by calling [`at_mounts`](crate::at_mounts). `None`: this process
    /// does, which then must not be killed meanwhile.
    pub mounter: Option<PathBuf>,
    /// How long an image is remembered after its last layer was asked for: the proof that it may be read, and what was
    /// fetched for layers that nobody has asked for yet.
    pub image_lifetime: Duration,
}

/// See [`Config::unpack`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnpackConfig {
    /// Unpack all layers of ordinary images too, however long that takes. `self`
    pub everything: bool,
    /// How long a Prepare waits for an ordinary layer of a lazy image, at most as long as for anything.
    pub wait: Duration,
    /// An ordinary layer of a lazy image with a blob larger than this is left to containerd.
    pub layer_bytes_max: u64,
    /// Bytes of blobs of ordinary layers that are on the disk at the same time.
    pub temporary_bytes_max: u64,
}

/// See [`Config::credentials`]. What was of use is remembered over a restart, in a file that only its owner may read.
#[derive(Debug, Clone, Default)]
pub struct CredentialsConfig {
    /// A config.json of Docker's. `None`: that of `$DOCKER_CONFIG` or `~/.docker`.
    pub docker_config: Option<PathBuf>,
    /// Image pull secrets of a cluster.
    pub kubernetes: Option<KubernetesConfig>,
    /// Listen to what the kubelet tells the runtime.
    pub image_service: Option<ImageServiceConfig>,
    /// By host, or the beginning of a repository.
    pub fixed: Vec<(String, Credential)>,
}

/// Where the kubelet's image requests are passed on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageServiceConfig {
    /// The socket that the kubelet is told to use (`--image-service-endpoint`).
    pub listen: PathBuf,
    /// The runtime's own socket.
    pub runtime: PathBuf,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            registry: pontoon_source::Config::default(),
            credentials: CredentialsConfig::default(),
            cache: pontoon_cache::Config {
                max_bytes: 0,
                free_bytes_min: 0,
            },
            fetching: pontoon_lazyfs::Config::default(),
            peers: None,
            serving: pontoon_fuse::Config::default(),
            holder: None,
            lazy: LazyConfig {
                front_end: FrontEnd::Auto,
                mounter: None,
                deadline: Duration::from_secs(2),
                image_lifetime: Duration::from_secs(300),
            },
            unpack: UnpackConfig {
                everything: false,
                wait: Duration::from_secs(2),
                layer_bytes_max: 64 << 20,
                temporary_bytes_max: 512 << 20,
            },
            nydus: false,
            limits: Limits::default(),
            opaque: OpaqueXattr::Trusted,
        }
    }
}
