//! Trees: names, limits, reading and writing.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::{Component, Path};

use proptest::prelude::*;
use serde_json::json;
use tendril_templates::{
    File, MAX_FILE_BYTES, MAX_FILES, MAX_PATH_SEGMENTS, MAX_TREE_BYTES, PathFault, Tree, TreeError, TreePath,
};

fn file(text: &str) -> File {
    File { bytes: text.as_bytes().to_vec(), executable: false }
}

fn path(text: &str) -> TreePath {
    TreePath::new(text).unwrap_or_else(|error| panic!("{error}"))
}

fn tree(files: &[&str]) -> Result<Tree, TreeError> {
    let mut tree = Tree::new();
    for name in files {
        tree.insert(path(name), file(name))?;
    }
    Ok(tree)
}

#[test]
fn ordinary_paths_are_taken() {
    for text in ["main.tf", "a/b/c.tf", ".terraform.lock.hcl", ".gitignore", "...a", "größe 1.md", "a:b", "-x", "~"] {
        assert_eq!(path(text).as_str(), text);
    }
}

#[test]
fn paths_that_escape_hide_or_mislead_are_refused() {
    let long = "a".repeat(129);
    let deep = vec!["a"; MAX_PATH_SEGMENTS + 1].join("/");
    for (text, fault) in [
        ("", PathFault::Empty),
        ("a//b", PathFault::Empty),
        ("a/", PathFault::Empty),
        ("/etc/passwd", PathFault::Absolute),
        ("..", PathFault::Dots),
        ("a/../b", PathFault::Dots),
        ("./a", PathFault::Dots),
        ("a\\..\\b", PathFault::Character),
        ("a\0", PathFault::Character),
        ("a\nb", PathFault::Character),
        ("a\u{202e}fdp.tf", PathFault::Character),
        (".g\u{200c}it/config", PathFault::Character),
        (".git/config", PathFault::Reserved),
        ("a/.GIT/hooks/x", PathFault::Reserved),
        ("GIT~1/config", PathFault::Reserved),
        (".terraform/providers/x", PathFault::Reserved),
        ("a/.Terraform", PathFault::Reserved),
        (".g\u{131}t", PathFault::Reserved),
        (".git.", PathFault::Ending),
        (".git ", PathFault::Ending),
        ("e\u{301}.tf", PathFault::NotComposed),
        (long.as_str(), PathFault::TooLong),
        (deep.as_str(), PathFault::TooLong),
    ] {
        let error = TreePath::new(text).expect_err(text);
        assert_eq!(error.fault, fault, "{text:?}");
    }
}

proptest! {
    /// Whatever is taken, joined to a folder, stays strictly below it.
    #[test]
    fn a_path_never_escapes(text in "([a-z.~/\\\\ \u{0}\u{301}é_]|\\.\\./|\\.git|\\.terraform|//){0,12}") {
        if let Ok(taken) = TreePath::new(&text) {
            let joined = Path::new("/root/of/tree").join(taken.as_str());
            prop_assert!(joined.starts_with("/root/of/tree"));
            prop_assert!(Path::new(taken.as_str()).components().all(|c| matches!(c, Component::Normal(_))));
            prop_assert_eq!(Path::new(taken.as_str()).components().count(), text.split('/').count());
            let reserved = |name: &str| [".git", ".terraform"].contains(&name.to_lowercase().as_str());
            prop_assert!(!taken.as_str().split('/').any(reserved));
            prop_assert!(!text.contains(['\0', '\\']));
        }
    }

    /// A tree survives the way to the disk and back, and its digest with it.
    #[test]
    fn a_tree_reads_back_as_it_was_written(
        files in proptest::collection::btree_map("[a-c]/[a-c]{1,2}|[d-f]{1,2}\\.tf", (any::<Vec<u8>>(), any::<bool>()), 0..8)
    ) {
        let mut tree = Tree::new();
        for (name, (bytes, executable)) in files {
            tree.insert(path(&name), File { bytes, executable }).expect("names that do not clash");
        }
        let parent = tempfile::tempdir().expect("a folder");
        let dir = parent.path().join("work");
        tree.write_to(&dir).expect("written");
        let back = Tree::read_dir(&dir).expect("read");
        prop_assert_eq!(&back, &tree);
        prop_assert_eq!(back.digest(), tree.digest());
    }
}

#[test]
fn names_that_a_file_system_could_merge_do_not_stand_together() {
    for files in [
        &["a.tf", "a.tf"][..],
        &["a.tf", "A.tf"],
        &["a", "a/b"],
        &["a/b", "a"],
        &["A/b", "a"],
        &["dir/x", "Dir/y"],
        &["straße", "STRASSE"],
        &["k", "\u{212a}"],
    ] {
        let refused = TreePath::new(files[1]).is_err() || matches!(tree(files), Err(TreeError::Clash { .. }));
        assert!(refused, "{files:?}");
    }
    assert_eq!(tree(&["dir/x", "dir/y", "dir/sub/x"]).expect("no clash").len(), 3);
}

#[test]
fn a_refused_file_leaves_the_tree_as_it_was() {
    let mut kept = tree(&["a/b"]).expect("a tree");
    let before = kept.clone();
    kept.insert(path("new/x/a"), File { bytes: vec![0; MAX_FILE_BYTES + 1], executable: false })
        .expect_err("too large");
    kept.insert(path("A/c"), file("")).expect_err("clash");
    assert_eq!(kept, before);
}

#[test]
fn the_number_and_size_of_files_are_limited() {
    let mut many = Tree::new();
    for i in 0..MAX_FILES {
        many.insert(path(&format!("f{i}")), file("")).expect("within the limit");
    }
    assert!(matches!(many.insert(path("more"), file("")), Err(TreeError::TooManyFiles)));
    let mut big = Tree::new();
    for i in 0..MAX_TREE_BYTES / MAX_FILE_BYTES {
        let full = File { bytes: vec![0; MAX_FILE_BYTES], executable: false };
        big.insert(path(&format!("f{i}")), full).expect("within the limit");
    }
    assert_eq!(big.total_bytes(), MAX_TREE_BYTES);
    assert!(matches!(big.insert(path("more"), file("x")), Err(TreeError::TooLarge)));
}

#[test]
fn links_pipes_and_sockets_are_refused_by_name() {
    let parent = tempfile::tempdir().expect("a folder");
    let make = |name: &str| {
        let dir = parent.path().join(name);
        fs::create_dir_all(dir.join("sub")).expect("made");
        fs::write(dir.join("main.tf"), "").expect("written");
        dir
    };
    let (out, within, dangling, folder) = (make("out"), make("within"), make("dangling"), make("folder"));
    symlink("/etc/passwd", out.join("sub/x")).expect("linked");
    symlink("main.tf", within.join("sub/x")).expect("linked");
    symlink("nowhere", dangling.join("sub/x")).expect("linked");
    symlink("..", folder.join("sub/x")).expect("linked");
    let (pipe, socket) = (make("pipe"), make("socket"));
    nix::unistd::mkfifo(&pipe.join("sub/x"), nix::sys::stat::Mode::S_IRWXU).expect("made");
    let _listener = UnixListener::bind(socket.join("sub/x")).expect("bound");
    for (dir, wanted) in [
        (out, "symbolic link"),
        (within, "symbolic link"),
        (dangling, "symbolic link"),
        (folder, "symbolic link"),
        (pipe, "pipe"),
        (socket, "socket"),
    ] {
        match Tree::read_dir(&dir) {
            Err(TreeError::NotAFile { path, kind }) => {
                assert_eq!((path.as_str(), kind), ("sub/x", wanted))
            }
            other => panic!("{dir:?}: {other:?}"),
        }
    }
}

#[test]
fn what_tools_keep_is_left_out_and_the_rest_is_read() {
    let dir = tempfile::tempdir().expect("a folder");
    for folder in [".git/hooks", "modules/a/.terraform", "empty"] {
        fs::create_dir_all(dir.path().join(folder)).expect("made");
    }
    for name in [".git/config", "modules/a/.terraform/x", "modules/a/main.tf", "run.sh", "modules/.git"] {
        fs::write(dir.path().join(name), name).expect("written");
    }
    fs::set_permissions(dir.path().join("run.sh"), fs::Permissions::from_mode(0o4711)).expect("made executable");
    let tree = Tree::read_dir(dir.path()).expect("read");
    let names: BTreeSet<&str> = tree.iter().map(|(path, _)| path.as_str()).collect();
    assert_eq!(names, BTreeSet::from(["modules/a/main.tf", "run.sh"]));
    assert!(tree.get("run.sh").expect("a file").executable);
}

#[test]
fn oversized_folders_are_refused_without_reading_them_whole() {
    let dir = tempfile::tempdir().expect("a folder");
    let sparse = fs::File::create(dir.path().join("big")).expect("made");
    sparse.set_len(1 << 40).expect("a sparse terabyte");
    assert!(matches!(Tree::read_dir(dir.path()), Err(TreeError::FileTooLarge { path }) if path == "big"));

    let dir = tempfile::tempdir().expect("a folder");
    let deep = vec!["d"; MAX_PATH_SEGMENTS + 5].join("/");
    fs::create_dir_all(dir.path().join(deep)).expect("made");
    assert!(matches!(Tree::read_dir(dir.path()), Err(TreeError::Path(error)) if error.fault == PathFault::TooLong));

    let dir = tempfile::tempdir().expect("a folder");
    for i in 0..=2 * MAX_FILES {
        fs::create_dir(dir.path().join(format!("d{i}"))).expect("made");
    }
    assert!(matches!(Tree::read_dir(dir.path()), Err(TreeError::TooManyFiles)));
}

#[test]
fn only_folders_are_read() {
    let dir = tempfile::tempdir().expect("a folder");
    fs::write(dir.path().join("f"), "").expect("written");
    assert!(Tree::read_dir(&dir.path().join("f")).is_err());
    assert!(Tree::read_dir(&dir.path().join("absent")).is_err());
    symlink(dir.path(), dir.path().with_extension("link")).expect("linked");
    let through = Tree::read_dir(&dir.path().with_extension("link")).expect("the folder may be named by a link");
    assert_eq!(through.len(), 1);
    fs::remove_file(dir.path().with_extension("link")).expect("removed");
}

#[test]
fn writing_makes_a_new_private_folder_or_nothing() {
    let parent = tempfile::tempdir().expect("a folder");
    let mut tree = tree(&["a/b/main.tf"]).expect("a tree");
    tree.insert(path("run.sh"), File { bytes: Vec::new(), executable: true }).expect("added");
    let dir = parent.path().join("work");
    tree.write_to(&dir).expect("written");
    let mode = |name: &str| fs::metadata(dir.join(name)).expect("there").permissions().mode() & 0o7777;
    assert_eq!([mode(""), mode("a/b"), mode("a/b/main.tf"), mode("run.sh")], [0o700, 0o700, 0o600, 0o700]);
    assert!(matches!(tree.write_to(&dir), Err(TreeError::Io { .. })), "the folder exists");
    let link = parent.path().join("link");
    symlink(parent.path().join("elsewhere"), &link).expect("linked");
    assert!(tree.write_to(&link).is_err(), "a dangling link is not followed");
    assert!(!parent.path().join("elsewhere").exists());
}

#[test]
fn inline_trees_are_objects_of_texts() {
    let tree = Tree::from_inline(&json!({"main.tf": "a", "m/x.tf": "é"}), "tree").expect("a tree");
    assert_eq!(tree.get("m/x.tf").expect("a file").bytes, "é".as_bytes());
    for (files, wanted) in [
        (json!([]), "tree must be an object"),
        (json!({"a": 1}), "tree[\"a\"] must be a string"),
        (json!({"../a": "x"}), "`.` or `..`"),
        (json!({"a": "x", "A": "y"}), "cannot stand in one tree"),
        (json!({"a": "x".repeat(MAX_FILE_BYTES + 1)}), "is larger than"),
    ] {
        let error = Tree::from_inline(&files, "tree").expect_err(wanted).to_string();
        assert!(error.contains(wanted), "{error}");
    }
}

#[test]
fn the_digest_sees_names_modes_contents_and_their_borders() {
    let build = |files: &[(&str, &str, bool)]| {
        let mut tree = Tree::new();
        for (name, text, executable) in files {
            let file = File { bytes: text.as_bytes().to_vec(), executable: *executable };
            tree.insert(path(name), file).expect("added");
        }
        tree.digest()
    };
    let trees = [
        build(&[]),
        build(&[("a", "", false)]),
        build(&[("a", "", true)]),
        build(&[("a", "b", false)]),
        build(&[("b", "", false)]),
        build(&[("a", "", false), ("b", "", false)]),
        build(&[("ab", "", false)]),
        build(&[("a", "bc", false), ("d", "e", false)]),
        build(&[("a", "b", false), ("cd", "e", false)]),
    ];
    let distinct: BTreeSet<String> = trees.iter().map(ToString::to_string).collect();
    assert_eq!(distinct.len(), trees.len());
    let order = build(&[("b", "2", false), ("a", "1", false)]);
    assert_eq!(order, build(&[("a", "1", false), ("b", "2", false)]));
    // Plans carry digests to applies by other versions: this one must never change.
    assert_eq!(
        build(&[("main.tf", "x", false), ("run.sh", "", true)]).to_string(),
        "sha256:21eecb96a14fc3492f166c69527bf8660e75aaf314fdbf129d3a22f3b6e4f009"
    );
}
