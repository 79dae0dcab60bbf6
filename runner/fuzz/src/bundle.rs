//! The artifact of a plan, which another runner has made.

use crate::feed::Feed;
use flate2::Compression;
use flate2::write::GzEncoder;
use semver::Version;
use serde_json::Value;
use std::io::Write;
use tar::{Builder, EntryType, Header};
use tendril_runner::kinds::terraform::{Bundle, Manifest};
use tendril_templates::{File, Tree, TreePath};
use uuid::Uuid;

const KINDS: [EntryType; 10] = [
    EntryType::Regular,
    EntryType::Symlink,
    EntryType::Link,
    EntryType::Directory,
    EntryType::Fifo,
    EntryType::GNULongName,
    EntryType::XHeader,
    EntryType::XGlobalHeader,
    EntryType::GNUSparse,
    EntryType::Continuous,
];

/// A bundle is unpacked as it was packed; with anything more in it, it is refused, or has the same files and manifest.
pub fn bundle(data: &[u8]) {
    drop(Bundle::unpack(data));
    let mut feed = Feed(data);
    let tree = tree(&mut feed);
    let manifest = Manifest {
        format: Manifest::FORMAT,
        engine: "tofu".into(),
        engine_version: Version::new(1, 6, 2),
        deployment_id: Uuid::from_u128(feed.byte().into()),
        destroy: false,
        state: Value::Null,
        tree_digest: tree.digest().to_string(),
        needs_init: true,
        egress: None,
    };
    let bundle = Bundle { manifest, plan: feed.bytes().to_vec(), tree };
    let packed = bundle.pack().expect("a small bundle");
    assert_eq!(Bundle::unpack(&packed).expect("a bundle"), bundle);
    if let Ok(other) = Bundle::unpack(&with_more(&bundle, &mut feed)) {
        // An entry that swallows the next one may stand for the plan file, which the seal is for; files and manifest are held by the digest.
        assert_eq!((other.manifest, other.tree), (bundle.manifest, bundle.tree), "an entry more changed what it is");
    }
}

fn tree(feed: &mut Feed<'_>) -> Tree {
    let mut tree = Tree::new();
    for _ in 0..feed.byte() % 4 {
        let Ok(path) = TreePath::new(&feed.text()) else { continue };
        // A name that is taken is refused, and the tree is as before.
        drop(tree.insert(path, File { bytes: feed.bytes().to_vec(), executable: feed.byte() % 2 == 1 }));
    }
    tree
}

/// The same files, with entries of any kind, name and size before, between and behind them.
fn with_more(bundle: &Bundle, feed: &mut Feed<'_>) -> Vec<u8> {
    let manifest = serde_json::to_vec(&bundle.manifest).expect("a manifest");
    let files = bundle.tree.iter().map(|(path, file)| (format!("tree/{path}"), file.bytes.as_slice(), file.executable));
    let own =
        [("manifest.json".to_owned(), manifest.as_slice(), false), ("plan".to_owned(), bundle.plan.as_slice(), false)];
    let mut archive = Builder::new(GzEncoder::new(Vec::new(), Compression::none()));
    for (path, bytes, executable) in own.into_iter().chain(files) {
        more(&mut archive, feed);
        let mut header = Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(if executable { 0o700 } else { 0o600 });
        archive.append_data(&mut header, &path, bytes).expect("a file");
    }
    more(&mut archive, feed);
    archive.into_inner().and_then(GzEncoder::finish).expect("in memory")
}

fn more(archive: &mut Builder<GzEncoder<Vec<u8>>>, feed: &mut Feed<'_>) {
    if feed.byte().is_multiple_of(2) {
        return;
    }
    let mut header = Header::new_gnu();
    header.set_entry_type(KINDS[usize::from(feed.byte()) % KINDS.len()]);
    let (name, bytes) = (feed.take(60), feed.bytes());
    // By hand: the crate itself refuses to write most of them.
    header.as_mut_bytes()[..name.len()].copy_from_slice(name);
    header.set_size(if feed.byte() == 7 { feed.number().unsigned_abs() } else { bytes.len() as u64 });
    header.set_mode(0o600);
    header.set_cksum();
    let written = archive.get_mut().write_all(header.as_bytes()).and_then(|()| archive.get_mut().write_all(bytes));
    written
        .and_then(|()| archive.get_mut().write_all(&[0; 512][..(512 - bytes.len() % 512) % 512]))
        .expect("in memory");
}
