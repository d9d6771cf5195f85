//! nerdctl's converter of nydus images, which works on the content of a containerd of its own and calls nydus-image.

use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use pontoon_rig::containerd::{Containerd, Setup, Version};
use pontoon_rig::image::Layout;
use pontoon_rig::sandbox::Sandbox;
use serde_json::Value;

/// What the image is called before and after.
const FROM: &str = "localhost/convert/from:1";
const TO: &str = "localhost/convert/to:1";

/// A containerd, and the programs.
#[derive(Debug)]
pub(super) struct Nerdctl {
    containerd: Containerd,
    sandbox: Sandbox,
    programs: PathBuf,
    /// The image that is there.
    image: Option<PathBuf>,
}

impl Nerdctl {
    /// With the programs in the folder `programs`. Nothing, if they are not there.
    pub(super) fn start(programs: &Path) -> Result<Option<Nerdctl>, Box<dyn Error>> {
        let needed = ["nerdctl", "nydus-image"];
        if !needed.iter().all(|name| programs.join(name).is_file()) {
            return Ok(None);
        }
        let sandbox = Sandbox::new()?;
        let setup = Setup {
            version: Version::V2_3,
            proxies: Vec::new(),
            concurrent_unpacks: 1,
            cri: None,
            namespace: None,
        };
        Ok(Some(Nerdctl {
            containerd: Containerd::start(&sandbox, &setup)?,
            sandbox,
            programs: programs.to_owned(),
            image: None,
        }))
    }

    /// The command that converts `image`.
    pub(super) fn command(&mut self, image: &Layout) -> Result<Command, Box<dyn Error>> {
        self.forget(TO)?;
        if self.image.as_deref() != Some(image.dir()) {
            self.forget(FROM)?;
            let archive = self.sandbox.path("image.tar");
            image.archive(FROM, &archive)?;
            let import = ["images", "import", "--no-unpack", "--local"];
            let mut import = import.map(std::ffi::OsStr::new).to_vec();
            import.push(archive.as_os_str());
            self.containerd.ctr(import)?;
            self.image = Some(image.dir().to_owned());
        }
        let home = self.sandbox.subdir("home")?;
        let mut command = Command::new(self.programs.join("nerdctl"));
        command.args(["image", "convert", "--nydus", "--oci"]);
        command.args(["--nydus-compressor", "zstd"]);
        command.arg("--nydus-builder-path");
        command.arg(self.programs.join("nydus-image"));
        command.args([FROM, TO]);
        command.env("CONTAINERD_ADDRESS", self.containerd.socket());
        command.env("CONTAINERD_NAMESPACE", self.containerd.namespace());
        command.env("TMPDIR", &home).env("HOME", &home);
        command.stdout(Stdio::null());
        Ok(command)
    }

    /// Bytes of the layers that came out.
    pub(super) fn bytes(&self) -> Result<u64, Box<dyn Error>> {
        let digest = self.digest()?;
        let manifest = self.containerd.ctr(["content", "get", &digest])?;
        let manifest: Value = serde_json::from_str(&manifest.stdout)?;
        let layers = manifest["layers"]
            .as_array()
            .ok_or("an image without layers")?;
        let sizes = layers.iter().map(|layer| layer["size"].as_u64());
        let sizes: Option<u64> = sizes.sum();
        Ok(sizes.ok_or("a layer without a size")?)
    }

    fn digest(&self) -> Result<String, Box<dyn Error>> {
        let listed = self
            .containerd
            .ctr(["images", "ls", &format!("name=={TO}")])?;
        let mut words = listed.stdout.split_whitespace();
        let digest = words.find(|word| word.starts_with("sha256:"));
        Ok(digest.ok_or("no image came out")?.to_owned())
    }

    fn forget(&self, name: &str) -> Result<(), Box<dyn Error>> {
        self.containerd.try_ctr(["images", "rm", "--sync", name])?;
        Ok(())
    }
}
