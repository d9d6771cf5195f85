//! The sections of the configuration, and what they mean for the provider.

use std::marker::PhantomData;
use std::path::PathBuf;
use std::time::Duration;

use pontoon_daemon::config::{Bytes, Count, DeValue, Section, Sections, Setting};
use pontoon_daemon::section;
use pontoon_layer::OpaqueXattr;
use pontoon_remote::{
    Config, CredentialsConfig, FrontEnd, ImageServiceConfig, LazyConfig, UnpackConfig,
};
use pontoon_source::{Credential, KubernetesConfig};

use crate::{Flavor, PeerSection};

section! {
    /// As for every overlay snapshotter.
    pub struct OverlaySection {
        /// Answer each snapshot's upper directory as label `containerd.io/snapshot/overlay.upperdir`.
        pub upperdir_label: bool = false,
        /// Options of every overlay mount, not of bind mounts. `index=off`, and in a user namespace `userxattr`, are
        /// added unless they are named here.
        pub mount_options: Vec<String> = Vec::new(),
        /// Delete a snapshot's directory before Remove returns, not soon after.
        pub sync_remove: bool = false,
    }
}

section! {
    /// How registries are asked. A registry on loopback is plain http unless its hosts.toml says otherwise.
    pub struct RegistrySection {
        /// Directories with a `hosts.toml` for each registry, separated by colons, as containerd's `config_path`: mirrors,
        /// CAs, client certificates, headers. The first one that knows a registry wins; what does not exist is skipped.
        pub config_path: String = "/etc/containerd/certs.d:/etc/docker/certs.d".to_owned(),
        /// Seconds that a program waits for bytes of a registry that does not answer, before its read fails.
        pub patience_seconds: Count<1, 3600> = Count(60),
        /// Seconds that connecting may take, TLS included.
        pub connect_seconds: Count<1, 300> = Count(10),
        /// Seconds without progress after which a transfer is resumed, elsewhere if there is an elsewhere.
        pub stall_seconds: Count<1, 300> = Count(10),
    }
}

section! {
    /// Where credentials come from, in this order; what was of use is remembered over a restart. Without any, images that
    /// everybody may read are lazy.
    pub struct CredentialsSection {
        /// For registries that are named here: `HOST USER PASSWORD` or `HOST/REPOSITORY USER PASSWORD`, in one text each.
        pub fixed: FixedCredentials = FixedCredentials(Vec::new()),
        /// Docker's `config.json`, with its helpers. Empty: that of `$DOCKER_CONFIG`, or of the home directory.
        pub docker_config: String = String::new(),
        /// Ask the cluster for image pull secrets.
        pub kubernetes: bool = false,
        /// A kubeconfig to reach the cluster with. Empty: as a pod is told.
        pub kubeconfig: String = String::new(),
        /// Only secrets of this namespace. Empty: all that may be listed.
        pub namespace: String = String::new(),
        /// A socket to give to the kubelet as `--image-service-endpoint`: its pulls are passed on to `image_service`, and
        /// their credentials taken note of. Empty: none.
        pub image_service_listen: String = String::new(),
        /// The runtime's own socket.
        pub image_service: PathBuf = PathBuf::from("/run/containerd/containerd.sock"),
    }
}

section! {
    /// What was fetched is kept in `root`, decompressed and verified, over restarts and for all images that may read it.
    pub struct CacheSection {
        /// The most space it takes; what was not used for longest goes first, layers that are mounted never. 0: as much
        /// as there is.
        pub max_bytes: Bytes = Bytes(0),
        /// The free space that it leaves on the filesystem.
        pub free_bytes_min: Bytes = Bytes(1 << 30),
    }
}

section! {
    /// What is fetched before anybody asks for it: from the pull on, what an earlier start has read, what the image tells,
    /// then the rest. It gives way to programs that wait for bytes.
    pub struct BackgroundSection {
        /// Fetch it. What a layer itself names as needed at the start always is.
        pub enabled: bool = true,
        /// The most requests at the same time. There are fewer as a rule: no more is asked for than the way to the registry
        /// holds.
        pub requests: Count<1, 64> = Count(16),
        /// At most so much a second. 0: as fast as it comes.
        pub bytes_per_second: Bytes = Bytes(0),
    }
}

section! {
    /// What keeps containers on lazy layers going while this daemon is restarted, upgraded or dead: a process of its own,
    /// `pontoon-holder`. Needs Linux 6.9.
    pub struct HolderSection {
        /// Whether there is one. Without it those containers read errors as soon as the daemon ends.
        pub enabled: bool = true,
        /// Seconds that it waits for the next daemon, while programs that read what is not in memory wait too. Then they
        /// get errors, for good.
        pub patience_seconds: Count<1, 43200> = Count(300),
        /// Its program, started where its systemd unit does not run it. Empty: `pontoon-holder` beside the daemon's own.
        pub program: String = String::new(),
    }
}

section! {
    /// How layers become lazy.
    pub struct LazySection {
        /// Who serves the trees of layers: `erofs`, the kernel from its own EROFS (Linux 6.12), with bytes from the daemon;
        /// `fuse`, the daemon alone; `auto`, the kernel if it can.
        pub front_end: FrontEndSetting = FrontEndSetting(FrontEnd::Auto),
        /// Milliseconds that a Prepare waits for registries before the layer is left to containerd, which holds all
        /// snapshots of this plugin up meanwhile.
        pub deadline_ms: Count<100, 30000> = Count(2000),
        /// Seconds for which an image is remembered after its last layer was asked for.
        pub image_seconds: Count<10, 3600> = Count(300),
        /// Compressed data in memory, fetched and not yet inflated, of all layers. The daemon stays below twice this and 40 MiB.
        pub memory_bytes_max: Bytes = Bytes(24 << 20),
    }
}

section! {
    /// Ordinary layers. Those of an image that is wholly ordinary are containerd's, unless `self` is set.
    pub struct UnpackSection {
        /// Unpack wholly ordinary images here too, with parallel requests for all layers. Every other call for a snapshot
        /// of this plugin, a container's start included, may wait in containerd until a layer is done.
        pub everything as "self": bool = false,
        /// Milliseconds that a Prepare waits for an ordinary layer of a lazy image, within its deadline. A layer that is
        /// not done by then makes containerd download it, and all layers above it.
        pub wait_ms: Count<0, 30000> = Count(2000),
        /// The largest blob of an ordinary layer of a lazy image that is tried.
        pub layer_bytes_max: Bytes = Bytes(64 << 20),
        /// Space for ordinary layers that are on their way.
        pub temporary_bytes_max: Bytes = Bytes(512 << 20),
    }
}

/// Who serves trees.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct FrontEndSetting(FrontEnd);

impl FrontEndSetting {
    const WORDS: [(&'static str, FrontEnd); 3] = [
        ("auto", FrontEnd::Auto),
        ("erofs", FrontEnd::Erofs),
        ("fuse", FrontEnd::Fuse),
    ];
}

impl Setting for FrontEndSetting {
    fn allowed() -> String {
        "\"auto\", \"erofs\" or \"fuse\"".to_owned()
    }

    fn read(value: &DeValue<'_>) -> Option<Self> {
        let word = value.as_str()?;
        let found = Self::WORDS.iter().find(|(known, _)| *known == word)?;
        Some(FrontEndSetting(found.1))
    }

    fn write(&self) -> String {
        let word = Self::WORDS.iter().find(|(_, known)| *known == self.0);
        word.map_or_else(String::new, |(word, _)| format!("{word:?}"))
    }
}

/// Credentials in the configuration.
#[derive(Debug, Clone, PartialEq)]
pub struct FixedCredentials(Vec<String>);

impl Setting for FixedCredentials {
    fn allowed() -> String {
        "a list of texts of the form HOST USER PASSWORD".to_owned()
    }

    fn read(value: &DeValue<'_>) -> Option<Self> {
        let entries = Vec::<String>::read(value)?;
        let whole =
            |entry: &String| entry.splitn(3, ' ').filter(|part| !part.is_empty()).count() == 3;
        entries
            .iter()
            .all(whole)
            .then_some(FixedCredentials(entries))
    }

    fn write(&self) -> String {
        self.0.write()
    }
}

/// All sections of a daemon with lazy layers.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct LazySections<F> {
    /// `[NAME]`
    pub overlay: OverlaySection,
    /// `[registry]`
    pub registry: RegistrySection,
    /// `[credentials]`
    pub credentials: CredentialsSection,
    /// `[cache]`
    pub cache: CacheSection,
    /// `[background]`
    pub background: BackgroundSection,
    /// `[holder]`
    pub holder: HolderSection,
    /// `[lazy]`
    pub lazy: LazySection,
    /// `[unpack]`
    pub unpack: UnpackSection,
    /// `[peer]`
    pub peer: PeerSection,
    flavor: PhantomData<F>,
}

impl<F: Flavor> Sections for LazySections<F> {
    fn sections(&mut self) -> Vec<(&'static str, &mut dyn Section)> {
        vec![
            (F::NAME, &mut self.overlay),
            ("registry", &mut self.registry),
            ("credentials", &mut self.credentials),
            ("cache", &mut self.cache),
            ("background", &mut self.background),
            ("holder", &mut self.holder),
            ("lazy", &mut self.lazy),
            ("unpack", &mut self.unpack),
            ("peer", &mut self.peer),
        ]
    }
}

impl<F: Flavor> LazySections<F> {
    /// What they mean for the provider, but for the holder; `user_namespace` is whether this process is in one.
    pub fn provider(&self, user_namespace: bool) -> Config {
        let defaults = Config::default();
        let patience = seconds(self.registry.patience_seconds.0);
        let named = |name: &str| {
            self.overlay
                .mount_options
                .iter()
                .any(|option| option == name)
        };
        Config {
            registry: pontoon_source::Config {
                hosts_directories: std::env::split_paths(&self.registry.config_path)
                    .filter(|path| path.is_absolute())
                    .collect(),
                connect_timeout: seconds(self.registry.connect_seconds.0),
                stall_timeout: seconds(self.registry.stall_seconds.0),
                patience,
                ..defaults.registry
            },
            credentials: self.credentials.provider(),
            cache: pontoon_cache::Config {
                max_bytes: self.cache.max_bytes.0,
                free_bytes_min: self.cache.free_bytes_min.0,
            },
            fetching: pontoon_lazyfs::Config {
                patience,
                memory_bytes_max: self.lazy.memory_bytes_max.0,
                background: pontoon_lazyfs::BackgroundConfig {
                    enabled: self.background.enabled,
                    requests: usize::from(self.background.requests.0),
                    bytes_per_second: self.background.bytes_per_second.0,
                    ..defaults.fetching.background
                },
                ..defaults.fetching
            },
            lazy: LazyConfig {
                front_end: self.lazy.front_end.0,
                // This program, whatever is in its place by now.
                mounter: Some(PathBuf::from("/proc/self/exe")),
                deadline: Duration::from_millis(self.lazy.deadline_ms.0.into()),
                image_lifetime: seconds(self.lazy.image_seconds.0),
            },
            unpack: UnpackConfig {
                everything: self.unpack.everything,
                wait: Duration::from_millis(self.unpack.wait_ms.0.into()),
                layer_bytes_max: self.unpack.layer_bytes_max.0,
                temporary_bytes_max: self.unpack.temporary_bytes_max.0,
            },
            nydus: F::NYDUS,
            opaque: match user_namespace || named("userxattr") {
                true => OpaqueXattr::User,
                false => OpaqueXattr::Trusted,
            },
            ..defaults
        }
    }
}

impl CredentialsSection {
    fn provider(&self) -> CredentialsConfig {
        let given = |text: &str| Some(text.to_owned()).filter(|text| !text.is_empty());
        let fixed = self.fixed.0.iter().filter_map(|entry| {
            let mut parts = entry.splitn(3, ' ');
            let (host, user, password) = (parts.next()?, parts.next()?, parts.next()?);
            let credential = Credential::password(user, password, "configuration");
            Some((host.to_owned(), credential))
        });
        CredentialsConfig {
            docker_config: given(&self.docker_config).map(PathBuf::from),
            kubernetes: self.kubernetes.then(|| KubernetesConfig {
                kubeconfig: given(&self.kubeconfig).map(PathBuf::from),
                namespace: given(&self.namespace),
                ..KubernetesConfig::default()
            }),
            image_service: given(&self.image_service_listen).map(|listen| ImageServiceConfig {
                listen: listen.into(),
                runtime: self.image_service.clone(),
            }),
            fixed: fixed.collect(),
        }
    }
}

fn seconds(count: u16) -> Duration {
    Duration::from_secs(count.into())
}
