//! Git sources, over real https and through a stand-in for ssh.

use crate::bed::{Bed, Outcome, job, plan, script};
use crate::terraform::terraform_bed;
use serde_json::{Value, json};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use tendril_runner::programs::lookup;
use tendril_runner::stop::Stop;

/// A server of repositories with a certificate of its own authority. Ends with its test.
struct Server {
    process: Child,
    port: u16,
    dir: PathBuf,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}

fn must(command: &mut Command) -> String {
    let output = command.stdin(Stdio::null()).output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

fn git(dir: &Path, args: &[&str]) -> String {
    must(
        Command::new("git")
            .args(["-c", "user.name=T", "-c", "user.email=t@example.com", "-c", "init.defaultBranch=main"])
            .args(["-c", "protocol.file.allow=always"])
            .args(args)
            .current_dir(dir)
            .env("GIT_CONFIG_NOSYSTEM", "1")
            .env("GIT_CONFIG_GLOBAL", "/dev/null"),
    )
}

/// What the tests need beside git; says so and returns false where it is missing.
fn has_tools() -> bool {
    let path = std::env::var("PATH").unwrap_or_default();
    let missing: Vec<_> =
        ["git", "python3", "openssl"].into_iter().filter(|name| lookup(name, &path).is_none()).collect();
    if !missing.is_empty() {
        eprintln!("skipped: {missing:?} not on PATH");
    }
    missing.is_empty()
}

impl Server {
    fn start(bed: &mut Bed) -> Self {
        let dir = bed.dir().join("server");
        let (cert, key) = (dir.join("cert.pem"), dir.join("key.pem"));
        std::fs::create_dir_all(dir.join("root")).unwrap();
        must(
            Command::new("openssl")
                .args([
                    "req",
                    "-x509",
                    "-newkey",
                    "ec",
                    "-pkeyopt",
                    "ec_paramgen_curve:prime256v1",
                    "-nodes",
                    "-days",
                    "2",
                ])
                .args(["-subj", "/CN=test", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"])
                .args(["-keyout".as_ref(), key.as_os_str(), "-out".as_ref(), cert.as_os_str()]),
        );
        std::fs::write(dir.join("requests"), "").unwrap();
        let mut process = Command::new("python3")
            .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/kinds/git_server.py"))
            .args([&dir.join("root"), &cert, &key, &dir.join("requests")])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut port = String::new();
        BufReader::new(process.stdout.take().unwrap()).read_line(&mut port).unwrap();
        bed.config.git.ca_file = Some(cert);
        Self { process, port: port.trim().parse().unwrap(), dir }
    }

    fn host(&self) -> String {
        format!("localhost:{}", self.port)
    }

    fn url(&self, path: &str) -> String {
        format!("https://{}/{path}", self.host())
    }

    /// A work tree for a repository that [`Server::publish`] puts on the server.
    fn work_tree(&self, name: &str) -> PathBuf {
        let dir = self.dir.join("trees").join(name);
        std::fs::create_dir_all(&dir).unwrap();
        git(&dir, &["init", "--quiet"]);
        dir
    }

    /// Commits what is in a work tree and puts it on the server; returns the commit.
    fn publish(&self, tree: &Path, name: &str) -> String {
        git(tree, &["add", "--all"]);
        git(tree, &["commit", "--quiet", "--allow-empty", "-m", "x"]);
        let bare = self.dir.join("root").join(name);
        if !bare.exists() {
            std::fs::create_dir_all(bare.parent().unwrap()).unwrap();
            git(tree, &["clone", "--quiet", "--bare", ".", bare.to_str().unwrap()]);
            git(&bare, &["config", "uploadpack.allowFilter", "true"]);
            git(&bare, &["config", "uploadpack.allowAnySHA1InWant", "true"]);
        }
        git(tree, &["push", "--quiet", "--all", bare.to_str().unwrap()]);
        git(tree, &["push", "--quiet", "--tags", bare.to_str().unwrap()]);
        git(tree, &["rev-parse", "HEAD"])
    }

    /// A repository of a few files.
    fn repository(&self, name: &str, files: &[(&str, &str)]) -> String {
        let tree = self.work_tree(name);
        for (path, text) in files {
            let path = tree.join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        self.publish(&tree, name)
    }

    fn requests(&self) -> String {
        std::fs::read_to_string(self.dir.join("requests")).unwrap()
    }
}

/// Lists what was fetched, with the first line of each file.
async fn listing(bed: &Bed, template: Value) -> Outcome {
    let argv = ["sh", "-c", "find . -type f | LC_ALL=C sort | while read f; do echo \"$f $(head -n 1 $f)\"; done"];
    bed.run(job("exec", json!({"template": template, "stateless": true}), json!({ "argv": argv }))).await
}

fn refused(outcome: &Outcome, words: &[&str]) {
    let Stop::Failed { reason, .. } = outcome.stop() else { panic!("{:?}", outcome.verdict) };
    assert!(words.iter().all(|word| reason.contains(word)), "{reason}\n{}", outcome.text());
}

#[tokio::test]
async fn branches_tags_commits_and_folders_are_fetched() {
    if !has_tools() {
        return;
    }
    let mut bed = Bed::new();
    let server = Server::start(&mut bed);
    let tree = server.work_tree("infra");
    let write = |path: &str, text: &str| {
        std::fs::create_dir_all(tree.join(path).parent().unwrap()).unwrap();
        std::fs::write(tree.join(path), text).unwrap();
    };
    write("a.txt", "one");
    write("envs/prod app/b.txt", "one");
    write("other/large.bin", "one");
    let first = server.publish(&tree, "infra");
    git(&tree, &["tag", "-a", "-m", "x", "v1.0"]);
    write("a.txt", "two");
    write("envs/prod app/b.txt", "two");
    let second = server.publish(&tree, "infra");
    git(&tree, &["checkout", "--quiet", "-b", "feature/x"]);
    write("a.txt", "three");
    let third = server.publish(&tree, "infra");

    let url = server.url("infra");
    for (template, commit, files) in [
        (json!({"git": url}), &second, "./a.txt two\n./envs/prod app/b.txt \n./other/large.bin one\n"),
        (json!({"git": url, "ref": "feature/x"}), &third, "./a.txt three"),
        (json!({"git": url, "ref": "v1.0"}), &first, "./a.txt one"),
        (json!({"git": url, "ref": first}), &first, "./a.txt one"),
        (json!({"git": url, "ref": "main", "path": "envs/prod app"}), &second, "./b.txt two\n"),
        (json!({"git": url, "ref": first, "path": "envs/prod app/"}), &first, "./b.txt one\n"),
    ] {
        let done = listing(&bed, template.clone()).await;
        assert_eq!(done.result()["source"], json!({"git": {"url": url, "commit": commit}}), "{template}");
        assert!(done.stream("stdout").starts_with(files), "{template}: {}", done.stream("stdout"));
        assert!(done.stream("system").contains(commit.as_str()));
        assert!(!done.work.join("git").exists(), "the repository itself is not kept");
    }
    refused(&listing(&bed, json!({"git": url, "ref": "nope"})).await, &["git fetch", "couldn't find remote ref nope"]);
    refused(&listing(&bed, json!({"git": url, "path": "nope"})).await, &["template.path", "nope"]);
    refused(&listing(&bed, json!({"git": server.url("absent")})).await, &["git fetch", "not found"]);
}

#[tokio::test]
async fn a_plan_runs_on_a_repository() {
    if !has_tools() {
        return;
    }
    let mut bed = terraform_bed();
    let server = Server::start(&mut bed);
    let files = [
        (
            "stack/main.tf",
            "variable \"a\" {}\nmodule \"m\" {\n  source = \"./m\"\n  a = var.a\n}\noutput \"o\" {\n  value = module.m.o\n}\n",
        ),
        ("stack/m/m.tf", "variable \"a\" {}\noutput \"o\" {\n  value = \"m${var.a}\"\n}\n"),
        // Whatever the repository says, what was submitted counts.
        ("stack/zz.auto.tfvars", "a = \"repository\"\n"),
    ];
    let commit = server.repository("tf", &files);
    let snapshot =
        json!({"template": {"git": server.url("tf"), "path": "stack"}, "inputs": {"a": "x"}, "stateless": true});
    let planned = bed.run(plan(&snapshot)).await;
    assert_eq!(planned.result()["source"]["git"]["commit"], json!(commit));
    let done = bed.run(crate::bed::apply(&snapshot, &planned)).await;
    assert_eq!(done.result()["outputs"], json!({"o": "mx"}));
}

#[tokio::test]
async fn a_token_goes_to_its_host_only_and_never_into_a_file_or_an_argument() {
    if !has_tools() {
        return;
    }
    let mut bed = Bed::new();
    let server = Server::start(&mut bed);
    server.repository("private/app", &[("a", "x")]);
    let token_file = bed.dir().join("token");
    std::fs::write(&token_file, "hunter2-token\n").unwrap();
    bed.config.git.token_file = Some(token_file);

    bed.config.git.token_hosts = vec!["elsewhere.example.com".into()];
    let template = json!({"git": server.url("private/app")});
    refused(&listing(&bed, template.clone()).await, &["git fetch"]);
    assert!(!server.requests().contains("Basic"), "another host was shown the token");

    bed.config.git.token_hosts = vec![server.host()];
    // Looks from aside, as any process of the machine could.
    let real = lookup("git", &std::env::var("PATH").unwrap()).unwrap();
    let seen = bed.dir().join("seen");
    let body = format!(
        "echo \"$@\" >> {seen}; [ -f .git/config ] && cat .git/config >> {seen}\n[ -f ../gitconfig ] && cat ../gitconfig >> {seen}\nexec {} \"$@\"",
        real.display(),
        seen = seen.display()
    );
    std::fs::create_dir(bed.dir().join("bin")).unwrap();
    script(&bed.dir().join("bin/git"), &body);
    bed.own_env.insert("PATH".into(), format!("{}:{}", bed.dir().join("bin").display(), bed.own_env["PATH"]));
    let done = listing(&bed, template).await;
    done.result();
    let seen = std::fs::read_to_string(seen).unwrap();
    assert!(seen.contains("--depth=1") && seen.contains("hooksPath"), "{seen}");
    assert!(server.requests().contains("Basic"));
    let encoded = server.requests().split("Basic ").nth(1).unwrap().split_whitespace().next().unwrap().to_owned();
    for text in [&seen, &done.text()] {
        assert!(!text.contains("hunter2") && !text.contains(&encoded), "{text}");
    }
}

#[tokio::test]
async fn a_hostile_repository_runs_nothing_and_reads_nothing() {
    if !has_tools() {
        return;
    }
    let mut bed = Bed::new();
    let server = Server::start(&mut bed);
    let marker = bed.dir().join("pwned");
    let touch = format!("touch {}", marker.display());

    // Filters, external diffs and merge drivers named by attributes, and hooks lying in the tree.
    let attributes = [
        (".gitattributes", "* filter=evil diff=evil merge=evil\n"),
        ("a.txt", "x"),
        (".gitconfig", "[filter \"evil\"]\n\tsmudge = touch /tmp/x\n"),
        ("hooks/post-checkout", &format!("#!/bin/sh\n{touch}\n")),
    ];
    server.repository("attributes", &attributes);
    listing(&bed, json!({"git": server.url("attributes")})).await.result();

    // Links out of the tree: as a file, as the folder that is asked for, and on the way to it.
    let tree = server.work_tree("links");
    std::os::unix::fs::symlink("/etc/passwd", tree.join("passwd")).unwrap();
    server.publish(&tree, "links");
    refused(&listing(&bed, json!({"git": server.url("links")})).await, &["passwd", "symbolic link"]);
    let tree = server.work_tree("links2");
    std::os::unix::fs::symlink("/etc", tree.join("etc")).unwrap();
    server.publish(&tree, "links2");
    for path in ["etc", "etc/ssl"] {
        refused(&listing(&bed, json!({"git": server.url("links2"), "path": path})).await, &["template.path"]);
    }

    // Submodules that run commands, or read this machine's disk.
    for (name, address) in [
        ("ext", format!("ext::sh -c {touch}")),
        ("file", format!("file://{}", server.dir.join("root/attributes").display())),
        ("path", server.dir.join("root/attributes").display().to_string()),
        ("http", "http://127.0.0.1:1/x".to_owned()),
    ] {
        let tree = server.work_tree(name);
        git(&tree, &["submodule", "--quiet", "add", server.dir.join("root/attributes").to_str().unwrap(), "sub"]);
        git(&tree, &["config", "--file", ".gitmodules", "submodule.sub.url", &address]);
        server.publish(&tree, name);
        let done = listing(&bed, json!({"git": server.url(name), "submodules": true})).await;
        assert!(done.verdict.is_err(), "{address}: {}", done.text());
        // Not asked for, it is left out.
        let left_out = listing(&bed, json!({"git": server.url(name)})).await;
        left_out.result();
        assert!(!left_out.stream("stdout").contains("./sub/"), "{}", left_out.text());
    }
    assert!(!marker.exists(), "a command of the repository was run");
}

#[tokio::test]
async fn a_submodule_is_fetched_over_https_when_asked_for() {
    if !has_tools() {
        return;
    }
    let mut bed = Bed::new();
    let server = Server::start(&mut bed);
    server.repository("private/part", &[("p.txt", "part")]);
    let tree = server.work_tree("whole");
    git(&tree, &["submodule", "--quiet", "add", server.dir.join("root/private/part").to_str().unwrap(), "mods/part"]);
    git(&tree, &["config", "--file", ".gitmodules", "submodule.mods/part.url", "../private/part"]);
    std::fs::write(tree.join("mods/m.txt"), "m").unwrap();
    server.publish(&tree, "whole");
    let token_file = bed.dir().join("token");
    std::fs::write(&token_file, "user:token").unwrap();
    bed.config.git.token_file = Some(token_file);
    bed.config.git.token_hosts = vec![server.host()];
    for template in [
        json!({"git": server.url("whole"), "submodules": true}),
        json!({"git": server.url("whole"), "submodules": true, "path": "mods"}),
    ] {
        let done = listing(&bed, template).await;
        done.result();
        assert!(done.stream("stdout").contains("part/p.txt part"), "{}", done.text());
    }
}

#[tokio::test]
async fn redirects_are_not_followed_and_strange_certificates_not_trusted() {
    if !has_tools() {
        return;
    }
    let mut bed = Bed::new();
    let server = Server::start(&mut bed);
    server.repository("app", &[("a", "x")]);
    refused(&listing(&bed, json!({"git": server.url("moved/app")})).await, &["git fetch"]);
    assert_eq!(server.requests().lines().count(), 1, "{}", server.requests());
    bed.config.git.ca_file = None;
    refused(&listing(&bed, json!({"git": server.url("app")})).await, &["git fetch", "certificate"]);
}

#[tokio::test]
async fn addresses_and_names_that_are_none_never_reach_git() {
    let bed = Bed::new();
    for template in [
        json!({"git": "file:///etc"}),
        json!({"git": "--upload-pack=touch /tmp/x"}),
        json!({"git": "ext::sh -c id"}),
        json!({"git": "https://user:secret@host/x"}),
        json!({"git": "https://host/x", "ref": "--upload-pack=id"}),
        json!({"git": "https://host/x", "path": "../x"}),
        json!({"git": "git@host:x"}),
    ] {
        let done = listing(&bed, template.clone()).await;
        let Stop::Failed { permanent: true, .. } = done.stop() else { panic!("{template}: {:?}", done.verdict) };
        assert!(done.records.is_empty(), "{template}");
    }
}

#[tokio::test]
async fn ssh_is_asked_with_the_settings_keys_and_hosts_only() {
    if !has_tools() {
        return;
    }
    let mut bed = Bed::new();
    let server = Server::start(&mut bed);
    server.repository("app", &[("a.txt", "by ssh")]);
    let bin = bed.dir().join("bin");
    std::fs::create_dir(&bin).unwrap();
    // Notes its arguments, and does what the other side would.
    let body = format!(
        "for a in \"$@\"; do echo \"$a\" >> {}/ssh-args; done\nfor last; do :; done\ncd {}\nPATH=/usr/local/bin:/usr/bin:/bin\neval \"$last\"",
        bed.dir().display(),
        server.dir.join("root").display()
    );
    script(&bin.join("ssh"), &body);
    bed.config.tools.path = format!("{}:/usr/bin:/bin", bin.display());
    bed.config.git.ssh_known_hosts_file = Some("/etc/known".into());
    bed.config.git.ssh_key_file = Some("/etc/the key".into());
    let done = listing(&bed, json!({"git": "git@forge.example.com:app"})).await;
    done.result();
    assert_eq!(done.stream("stdout"), "./a.txt by ssh\n");
    let args = std::fs::read_to_string(bed.dir().join("ssh-args")).unwrap();
    let args: Vec<&str> = args.lines().collect();
    for expected in [
        "StrictHostKeyChecking=yes",
        "UserKnownHostsFile=\"/etc/known\"",
        "IdentityFile=\"/etc/the key\"",
        "git@forge.example.com",
    ] {
        assert!(args.contains(&expected), "{expected}: {args:?}");
    }
}
