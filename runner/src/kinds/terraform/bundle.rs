//! The artifact of a plan: plan file, files and lock file, and what they were made with.

use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;
use semver::Version;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::io::{self, Read};
use tar::{Archive, Builder, EntryType, Header};
use tendril_templates::{File, MAX_FILES, MAX_TREE_BYTES, Tree, TreePath};
use uuid::Uuid;

/// Type of the artifact before it is sealed.
pub const MEDIA_TYPE: &str = "application/vnd.tendril.plan+tar+gzip";
/// Largest plan file, in bytes. (The broker's own limit of an artifact is smaller, unless its operator has raised it.)
pub const MAX_PLAN_BYTES: usize = 192 * 1024 * 1024;

const MAX_MANIFEST_BYTES: u64 = 1024 * 1024;
/// What a tar file takes beside its content: two blocks for each file, and long paths.
const MAX_BUNDLE_BYTES: u64 = (MAX_PLAN_BYTES + MAX_TREE_BYTES + 4096 * MAX_FILES) as u64 + MAX_MANIFEST_BYTES;
const FORMAT: u32 = 1;
const MANIFEST: &str = "manifest.json";
const PLAN: &str = "plan";
const TREE: &str = "tree/";

/// A plan with everything that its apply needs.
#[derive(Clone, Debug, PartialEq)]
pub struct Bundle {
    /// What it was made with, and for what.
    pub manifest: Manifest,
    /// The engine's plan file.
    pub plan: Vec<u8>,
    /// The files as the plan has left them, the lock file among them.
    pub tree: Tree,
}

/// What a plan was made with, and for what.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// Version of this format.
    pub format: u32,
    /// `terraform` or `tofu`.
    pub engine: String,
    /// Its version.
    pub engine_version: Version,
    /// The deployment that it belongs to.
    pub deployment_id: Uuid,
    /// Whether it plans the destruction.
    pub destroy: bool,
    /// Backend and workspace, as in the snapshot.
    pub state: Value,
    /// Digest of the tree.
    pub tree_digest: String,
    /// Whether providers or modules must be installed again for the apply.
    pub needs_init: bool,
    /// The hosts that the template says it reaches.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub egress: Option<Vec<String>>,
}

/// Why bytes are no plan that can be applied.
#[derive(Debug, thiserror::Error)]
pub enum BundleError {
    /// The archive is damaged, or larger than a plan can be.
    #[error("the plan cannot be unpacked: {0}; make a new plan")]
    Archive(#[from] io::Error),
    /// It holds something that a plan does not, or lacks something.
    #[error("the plan cannot be used: {0}; make a new plan")]
    Content(String),
}

impl Bundle {
    /// The bytes to keep.
    ///
    /// # Errors
    /// A plan file above `MAX_PLAN_BYTES`.
    pub fn pack(&self) -> Result<Vec<u8>, BundleError> {
        if self.plan.len() > MAX_PLAN_BYTES {
            return Err(BundleError::Content(format!("its file has more than {MAX_PLAN_BYTES} bytes")));
        }
        // The plan file is compressed already; the rest is small.
        let mut archive = Builder::new(GzEncoder::new(Vec::new(), Compression::fast()));
        let manifest = serde_json::to_vec(&self.manifest).map_err(io::Error::other)?;
        append(&mut archive, MANIFEST, &manifest, false)?;
        append(&mut archive, PLAN, &self.plan, false)?;
        for (path, file) in self.tree.iter() {
            append(&mut archive, &format!("{TREE}{path}"), &file.bytes, file.executable)?;
        }
        Ok(archive.into_inner()?.finish()?)
    }

    /// Reads what [`Bundle::pack`] made, and checks the files against the manifest.
    ///
    /// # Errors
    /// [`BundleError`] for anything else.
    pub fn unpack(bytes: &[u8]) -> Result<Self, BundleError> {
        let mut archive = Archive::new(GzDecoder::new(bytes).take(MAX_BUNDLE_BYTES));
        let (mut manifest, mut plan, mut tree) = (None, None, Tree::new());
        for entry in archive.entries()? {
            let mut entry = entry?;
            let path = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
            if entry.header().entry_type() != EntryType::Regular {
                return Err(BundleError::Content(format!("{path} is no plain file")));
            }
            let executable = entry.header().mode()? & 0o100 != 0;
            let mut bytes = Vec::new();
            entry.read_to_end(&mut bytes)?;
            match path.strip_prefix(TREE) {
                Some(path) => TreePath::new(path)
                    .map_err(|e| e.to_string())
                    .and_then(|path| tree.insert(path, File { bytes, executable }).map_err(|e| e.to_string()))
                    .map_err(BundleError::Content)?,
                None if path == MANIFEST && manifest.is_none() => manifest = Some(read_manifest(&bytes)?),
                None if path == PLAN && plan.is_none() => plan = Some(bytes),
                None => return Err(BundleError::Content(format!("{path} does not belong in it"))),
            }
        }
        let (Some(manifest), Some(plan)) = (manifest, plan) else {
            return Err(BundleError::Content("plan file or manifest is missing".to_owned()));
        };
        if tree.digest().to_string() != manifest.tree_digest {
            return Err(BundleError::Content("its files have been changed".to_owned()));
        }
        Ok(Self { manifest, plan, tree })
    }
}

impl Manifest {
    /// The number of the present format.
    pub const FORMAT: u32 = FORMAT;
}

fn read_manifest(bytes: &[u8]) -> Result<Manifest, BundleError> {
    #[derive(Deserialize)]
    struct Format {
        format: u32,
    }
    let bad = |e: serde_json::Error| BundleError::Content(format!("its manifest cannot be read ({e})"));
    let Format { format } = serde_json::from_slice(bytes).map_err(bad)?;
    if format != FORMAT {
        return Err(BundleError::Content(format!("it has format {format}, and this runner knows {FORMAT} only")));
    }
    serde_json::from_slice(bytes).map_err(bad)
}

fn append<W: io::Write>(archive: &mut Builder<W>, path: &str, bytes: &[u8], executable: bool) -> io::Result<()> {
    let mut header = Header::new_gnu();
    header.set_size(bytes.len() as u64);
    header.set_mode(if executable { 0o700 } else { 0o600 });
    archive.append_data(&mut header, path, bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn bundle() -> Bundle {
        let mut tree = Tree::new();
        let deep = format!("{}/{}.tf", "d".repeat(100), "f".repeat(100));
        for (path, executable) in [("main.tf", false), ("scripts/run.sh", true), (deep.as_str(), false)] {
            tree.insert(TreePath::new(path).unwrap(), File { bytes: path.into(), executable }).unwrap();
        }
        let manifest = Manifest {
            format: FORMAT,
            engine: "terraform".into(),
            engine_version: Version::new(1, 11, 4),
            deployment_id: Uuid::from_u128(1),
            destroy: false,
            state: Value::Null,
            tree_digest: tree.digest().to_string(),
            needs_init: true,
            egress: None,
        };
        Bundle { manifest, plan: vec![0, 1, 2], tree }
    }

    fn gzip(archive: Vec<u8>) -> Vec<u8> {
        let mut gzip = GzEncoder::new(Vec::new(), Compression::fast());
        gzip.write_all(&archive).unwrap();
        gzip.finish().unwrap()
    }

    /// The files of a good bundle, and one entry more.
    fn with(kind: EntryType, path: &[u8], bytes: &[u8]) -> Vec<u8> {
        let mut archive = Builder::new(Vec::new());
        let good = bundle();
        append(&mut archive, MANIFEST, &serde_json::to_vec(&good.manifest).unwrap(), false).unwrap();
        append(&mut archive, PLAN, &good.plan, false).unwrap();
        for (path, file) in good.tree.iter() {
            append(&mut archive, &format!("{TREE}{path}"), &file.bytes, file.executable).unwrap();
        }
        let mut header = Header::new_gnu();
        header.set_entry_type(kind);
        header.set_size(bytes.len() as u64);
        header.set_mode(0o600);
        // By hand: the crate itself refuses to write such paths.
        header.as_mut_bytes()[..path.len()].copy_from_slice(path);
        if kind == EntryType::Symlink {
            header.set_link_name("/etc").unwrap();
        }
        header.set_cksum();
        archive.append(&header, bytes).unwrap();
        gzip(archive.into_inner().unwrap())
    }

    fn refusal(bytes: &[u8]) -> String {
        Bundle::unpack(bytes).unwrap_err().to_string()
    }

    #[test]
    fn a_bundle_comes_back_as_it_was() {
        let bundle = bundle();
        assert_eq!(Bundle::unpack(&bundle.pack().unwrap()).unwrap(), bundle);
    }

    #[test]
    fn nothing_is_unpacked_out_of_its_folder_or_over_another() {
        for path in
            ["tree/../../etc/x", "tree//etc/x", "/etc/x", "../x", "tree/.git/hooks/x", "other", "tree/.terraform/x"]
        {
            let said = refusal(&with(EntryType::Regular, path.as_bytes(), b"x"));
            assert!(said.contains("the plan cannot be used"), "{path}: {said}");
        }
        assert!(refusal(&with(EntryType::Symlink, b"tree/link", b"")).contains("no plain file"));
        assert!(refusal(&with(EntryType::Regular, b"tree/main.tf", b"again")).contains("cannot stand in one tree"));
        assert!(refusal(&with(EntryType::Regular, b"plan", b"again")).contains("does not belong"));
    }

    #[test]
    fn a_changed_tree_a_strange_format_and_noise_are_refused() {
        assert!(refusal(&with(EntryType::Regular, b"tree/more.tf", b"x")).contains("have been changed"));
        let mut strange = bundle();
        strange.manifest.format = 2;
        assert!(refusal(&strange.pack().unwrap()).contains("format 2"));
        assert!(refusal(b"noise").contains("cannot be unpacked"));
        assert!(refusal(&gzip(Vec::new())).contains("missing"));
    }

    #[test]
    fn a_bomb_ends_at_the_bound() {
        let mut archive = Builder::new(GzEncoder::new(Vec::new(), Compression::best()));
        let mut header = Header::new_gnu();
        header.set_size(MAX_BUNDLE_BYTES * 2);
        header.set_mode(0o600);
        archive.append_data(&mut header, "plan", io::repeat(0).take(MAX_BUNDLE_BYTES * 2)).unwrap();
        let bomb = archive.into_inner().unwrap().finish().unwrap();
        assert!(bomb.len() < 4 * 1024 * 1024 && Bundle::unpack(&bomb).is_err());
    }
}
