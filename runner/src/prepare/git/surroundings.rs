//! What git sees when it fetches: a few settings of our own, and neither the system's nor anybody's.

use super::address::{Address, Transport};
use crate::config::{Git, read};
use crate::prepare::environment;
use crate::run::Run;
use crate::sandbox::{Access, Profile, port_of};
use crate::stop::Stop;
use crate::toolbox::Toolbox;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use std::collections::BTreeMap;
use std::path::Path;

/// Settings for every fetch, as git's file of settings says them.
const SETTINGS: &str = r#"# Written by tendril-runner for one fetch.
[core]
	hooksPath = /dev/null
	fsmonitor = false
	attributesFile = /dev/null
	excludesFile = /dev/null
	askPass = ""
	autocrlf = false
[credential]
	helper = ""
[protocol]
	version = 2
	allow = never
[transfer]
	fsckObjects = true
	bundleURI = false
[fetch]
	recurseSubmodules = false
	showForcedUpdates = false
[submodule]
	recurse = false
[http]
	followRedirects = false
	sslVerify = true
	lowSpeedLimit = 1000
	lowSpeedTime = 60
[gc]
	auto = 0
[maintenance]
	auto = false
[advice]
	detachedHead = false
[init]
	defaultBranch = main
"#;

const SETTINGS_FILE: &str = "gitconfig";

/// What git may do: use its own folder, read its settings and keys, connect to the repository's port.
pub fn access(run: &Run, address: &Address) -> Access {
    let git = &run.config().git;
    let keys = [&git.ssh_key_file, &git.ssh_known_hosts_file, &git.ca_file];
    let read = keys.into_iter().flatten().cloned().chain([run.work.file(SETTINGS_FILE)]).collect();
    let usual = match address.transport {
        Transport::Https => 443,
        Transport::Ssh => 22,
    };
    let connect = vec![port_of(&address.to_string()).unwrap_or(usual)];
    Access { read, connect, past_proxy: address.transport == Transport::Ssh, ..Access::of(Profile::Tool) }
}

/// Which transports a command may use.
pub fn allowed(env: &BTreeMap<String, String>, transport: Transport) -> BTreeMap<String, String> {
    let mut env = env.clone();
    // Overrules all of `protocol.*`, also what a repository sets for itself.
    env.insert("GIT_ALLOW_PROTOCOL".to_owned(), transport.name().to_owned());
    env
}

/// The environment of git for one repository; `sparse` when only a folder of it is to be checked out.
///
/// # Errors
/// A file of the settings that is missing, or ssh without known hosts.
pub fn environment(
    toolbox: &Toolbox,
    run: &Run,
    address: &Address,
    sparse: bool,
) -> Result<BTreeMap<String, String>, Stop> {
    let (work, git) = (&run.work, &run.config().git);
    let settings = work.write(SETTINGS_FILE, settings_text(git, sparse).as_bytes())?;
    let mut env: BTreeMap<String, String> = environment::proxies(&toolbox.env).collect();
    let mut set = |name: &str, value: &str| drop(env.insert(name.to_owned(), value.to_owned()));
    set("PATH", toolbox.env.get("PATH").map_or("", String::as_str));
    set("HOME", &work.home().display().to_string());
    set("TMPDIR", &work.tmp().display().to_string());
    set("LC_ALL", "C");
    set("GIT_CONFIG_NOSYSTEM", "1");
    set("GIT_CONFIG_GLOBAL", &settings.display().to_string());
    set("GIT_ATTR_NOSYSTEM", "1");
    set("GIT_TERMINAL_PROMPT", "0");
    set("GIT_CEILING_DIRECTORIES", &work.file("").display().to_string());
    match address.transport {
        Transport::Https => {
            if let Some((key, value)) = token_header(git, address)? {
                // In the environment of git alone: not in its arguments, which everybody sees, nor in any file.
                set("GIT_CONFIG_COUNT", "1");
                set("GIT_CONFIG_KEY_0", &key);
                set("GIT_CONFIG_VALUE_0", &value);
            }
        }
        Transport::Ssh => {
            set("GIT_SSH_COMMAND", &ssh_command(git)?);
            set("GIT_SSH_VARIANT", "ssh");
        }
    }
    Ok(env)
}

fn settings_text(git: &Git, sparse: bool) -> String {
    let mut text = format!("{SETTINGS}[core]\n\tsparseCheckout = {sparse}\n");
    if let Some(path) = &git.ca_file {
        text += &format!("[http]\n\tsslCAInfo = {}\n", quoted(path));
    }
    text
}

/// A value in git's file of settings.
fn quoted(path: &Path) -> String {
    format!("\"{}\"", path.display().to_string().replace('\\', "\\\\").replace('"', "\\\""))
}

/// The header with the token, which git sends to this host only; none for hosts that are not to see it.
fn token_header(git: &Git, address: &Address) -> Result<Option<(String, String)>, Stop> {
    let Some(path) = &git.token_file else { return Ok(None) };
    if !git.token_hosts.iter().any(|host| host.eq_ignore_ascii_case(&address.host)) {
        return Ok(None);
    }
    let token = read("git.token_file", path).map_err(|e| Stop::refused(e.to_string()))?;
    // Hosts look at the password only, or want a user name: then the file says it.
    let pair = match token.trim() {
        token if token.contains(':') => token.to_owned(),
        token => format!("x-access-token:{token}"),
    };
    let key = format!("http.https://{}/.extraHeader", address.host);
    Ok(Some((key, format!("Authorization: Basic {}", STANDARD.encode(pair)))))
}

/// Built of settings alone: nothing that was submitted is in it.
fn ssh_command(git: &Git) -> Result<String, Stop> {
    let need = |key: &str| Stop::refused(format!("template.git: ssh sources need {key} in this runner's settings"));
    let hosts = git.ssh_known_hosts_file.as_deref().ok_or_else(|| need("git.ssh_known_hosts_file"))?;
    let key = git.ssh_key_file.as_deref().ok_or_else(|| need("git.ssh_key_file"))?;
    let options = [
        "BatchMode=yes".to_owned(),
        "StrictHostKeyChecking=yes".to_owned(),
        format!("UserKnownHostsFile=\"{}\"", hosts.display()),
        "GlobalKnownHostsFile=/dev/null".to_owned(),
        "UpdateHostKeys=no".to_owned(),
        format!("IdentityFile=\"{}\"", key.display()),
        "IdentitiesOnly=yes".to_owned(),
        "IdentityAgent=none".to_owned(),
        "PreferredAuthentications=publickey".to_owned(),
        "ClearAllForwardings=yes".to_owned(),
        "ProxyCommand=none".to_owned(),
        "PermitLocalCommand=no".to_owned(),
        "ConnectTimeout=30".to_owned(),
        "ServerAliveInterval=30".to_owned(),
    ];
    let options = options.iter().map(|option| format!(" -o {}", for_shell(option)));
    Ok(format!("ssh -F /dev/null{}", options.collect::<String>()))
}

/// Git hands that command to a shell.
fn for_shell(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_goes_to_the_hosts_it_is_for_and_to_no_other() {
        let dir = tempfile::tempdir().unwrap();
        let token_file = dir.path().join("token");
        std::fs::write(&token_file, "s3cret\n").unwrap();
        let git = Git { token_file: Some(token_file), token_hosts: vec!["Git.example.com".into()], ..Git::default() };
        let header = |url: &str| token_header(&git, &Address::parse(url).unwrap()).unwrap();
        let (key, value) = header("https://git.example.com:443/x").unwrap();
        assert_eq!(key, "http.https://git.example.com/.extraHeader");
        assert_eq!(value, format!("Authorization: Basic {}", STANDARD.encode("x-access-token:s3cret")));
        for other in ["https://evil.example.com/x", "https://git.example.com:8443/x", "https://git.example.com.evil/x"]
        {
            assert_eq!(header(other), None, "{other}");
        }
    }

    #[test]
    fn ssh_is_strict_and_refused_without_known_hosts() {
        let said = ssh_command(&Git::default()).unwrap_err().reason().to_owned();
        assert!(said.contains("git.ssh_known_hosts_file"), "{said}");
        let git = Git {
            ssh_known_hosts_file: Some("/etc/t/known hosts".into()),
            ssh_key_file: Some("/etc/t/it's".into()),
            ..Git::default()
        };
        let command = ssh_command(&git).unwrap();
        assert!(command.contains("'StrictHostKeyChecking=yes'"), "{command}");
        assert!(command.contains(r#"'UserKnownHostsFile="/etc/t/known hosts"'"#), "{command}");
        assert!(command.contains(r#"'IdentityFile="/etc/t/it'\''s"'"#), "{command}");
    }
}
