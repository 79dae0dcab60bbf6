//! What one command may do: its profile, and the confinement that this and the settings come to.

use super::profile::Profile;
use super::settings::{Mode, Ports, Settings};
use super::system;
use crate::egress;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Where names are resolved.
const DNS_PORT: u16 = 53;

/// What a command needs beside its own program, folder and places of its attempt.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Access {
    /// Its kind.
    pub profile: Profile,
    /// Files and folders to read.
    pub read: Vec<PathBuf>,
    /// Files and folders to write, and to read.
    pub write: Vec<PathBuf>,
    /// Files and folders to execute, and to read.
    pub execute: Vec<PathBuf>,
    /// TCP ports, beside those of the settings.
    pub connect: Vec<u16>,
    /// It knows no proxy: where there is one, it connects to these ports past it.
    pub past_proxy: bool,
}

impl Access {
    /// Nothing but what the profile has.
    #[must_use]
    pub fn of(profile: Profile) -> Self {
        Self { profile, ..Self::default() }
    }
}

/// Limits of the kernel's for each process of a command. Never one of address space: Go programs reserve far more than
/// they use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Processes of the user.
    pub processes: u64,
    /// Bytes of the largest file.
    pub file_bytes: u64,
}

/// All that a command may do. What is not listed is refused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Confinement {
    /// What happens when the kernel cannot do all of it.
    pub mode: Mode,
    /// For people.
    pub profile: Profile,
    /// Files and folders to execute and to read. What a listed file needs to start, its loader or interpreter, is added.
    pub execute: Vec<PathBuf>,
    /// Files and folders to read.
    pub read: Vec<PathBuf>,
    /// Files and folders to read, write, make and remove.
    pub write: Vec<PathBuf>,
    /// TCP ports to connect to. None is listened on.
    pub connect: Ports,
    /// Whether UDP is allowed.
    pub udp: bool,
    /// The kernel's limits.
    pub limits: Limits,
    /// What it reaches through a proxy of its own; none where it has none. Its port is added to the others.
    pub egress: Option<egress::Rules>,
    /// Do as if Landlock were not newer than this, 0 being none: to see what an older kernel would give.
    pub landlock_at_most: Option<u32>,
}

/// Where a command runs, and its own places.
#[derive(Clone, Copy, Debug)]
pub struct Folders<'a> {
    /// Its program.
    pub program: &'a Path,
    /// Its working folder.
    pub cwd: &'a Path,
    /// HOME, TMPDIR and the like: to write.
    pub own: &'a [PathBuf],
}

impl Confinement {
    /// What the settings say of any command, without its paths: to learn how far this machine can confine it.
    #[must_use]
    pub fn of_settings(settings: &Settings) -> Self {
        let nowhere = Folders { program: Path::new("/"), cwd: Path::new("/"), own: &[] };
        Self::new(settings, &Access::default(), nowhere, &BTreeMap::new())
    }

    /// None at all: what the command may do is up to its user's rights.
    #[must_use]
    pub fn off() -> Self {
        let settings = Settings { mode: Mode::Off, ..Settings::default() };
        Self::of_settings(&settings)
    }

    /// What the settings and the command's needs come to. `env` is the command's: its proxies are let through.
    #[must_use]
    pub fn new(settings: &Settings, access: &Access, folders: Folders<'_>, env: &BTreeMap<String, String>) -> Self {
        let paths = |all: &[&str]| all.iter().map(PathBuf::from).collect::<Vec<_>>();
        let (execute, shared) = match access.profile {
            Profile::Terraform if settings.programs.is_empty() => (Vec::new(), Vec::new()),
            Profile::Terraform => (settings.programs.clone(), paths(&system::LIBRARIES)),
            Profile::Exec | Profile::Tool => {
                let listed = settings.exec_programs.clone().filter(|_| access.profile == Profile::Exec);
                let installed = [paths(&system::PROGRAMS), search_path(env)].concat();
                let shared = [installed.clone(), paths(&system::TOOL_SETTINGS)].concat();
                (listed.unwrap_or(installed), shared)
            }
        };
        let write = [folders.own.to_vec(), access.write.clone(), paths(&system::WRITE)].concat();
        // A folder that may be written is not one to execute from: its program is named by itself.
        let execute = [vec![folders.program.to_owned()], execute, access.execute.clone()].concat();
        let mut write = [write, settings.write.clone()].concat();
        write.push(folders.cwd.to_owned());
        Self {
            mode: settings.mode,
            profile: access.profile,
            execute,
            read: [paths(&system::READ), shared, access.read.clone(), settings.read.clone()].concat(),
            write,
            connect: ports(&settings.connect, &access.connect, env),
            udp: settings.udp,
            limits: Limits { processes: settings.max_processes, file_bytes: settings.max_file_bytes },
            egress: None,
            landlock_at_most: None,
        }
    }

    /// With a proxy: beside it only the ports that the settings name for that, and no UDP unless they say so. A command that
    /// knows no proxy goes past it to the ports that it needs, and resolves names.
    #[must_use]
    pub fn through(self, rules: egress::Rules, settings: &egress::Settings, access: &Access) -> Self {
        let mut direct = settings.direct_ports.clone();
        if access.past_proxy {
            direct.extend([&access.connect, &[DNS_PORT][..]].concat());
        }
        let udp = self.udp && (settings.udp || access.past_proxy);
        Self { connect: Ports::Only(direct), udp, egress: Some(rules), ..self }
    }
}

/// The folders of PATH, which the settings say.
fn search_path(env: &BTreeMap<String, String>) -> Vec<PathBuf> {
    let folders = env.get("PATH").into_iter().flat_map(|path| path.split(':'));
    folders.map(PathBuf::from).filter(|folder| folder.is_absolute()).collect()
}

fn ports(settings: &Ports, needed: &[u16], env: &BTreeMap<String, String>) -> Ports {
    let Ports::Only(ports) = settings else { return settings.clone() };
    let proxies = env.iter().filter(|(name, _)| name.to_ascii_lowercase().ends_with("_proxy"));
    let mut all: Vec<u16> = ports.iter().chain(needed).copied().collect();
    all.extend(proxies.filter(|(name, _)| !name.eq_ignore_ascii_case("no_proxy")).filter_map(|(_, url)| port_of(url)));
    all.sort_unstable();
    all.dedup();
    Ports::Only(all)
}

/// The port in `http://user:password@host:port/`, or its scheme's.
#[must_use]
pub fn port_of(url: &str) -> Option<u16> {
    let (scheme, rest) = url.split_once("://").unwrap_or(("http", url));
    let authority = rest.split(['/', '?', '#']).next()?;
    let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    // After the last bracket, if the host is an address in brackets.
    let after = host.rsplit_once(']').map_or(host, |(_, after)| after);
    match after.rsplit_once(':') {
        Some((_, port)) => port.parse().ok(),
        None if scheme.eq_ignore_ascii_case("http") => Some(80),
        None if scheme.eq_ignore_ascii_case("https") => Some(443),
        None if scheme.eq_ignore_ascii_case("ssh") => Some(22),
        None => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(profile: Profile, settings: &Settings, env: &[(&str, &str)]) -> Confinement {
        let own = ["/w/home".into(), "/w/tmp".into()];
        let folders = Folders { program: Path::new("/opt/tf"), cwd: Path::new("/w/tree"), own: &own };
        let env = env.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        Confinement::new(settings, &Access::of(profile), folders, &env)
    }

    #[test]
    fn terraform_executes_itself_and_what_the_settings_list_and_nothing_it_can_write() {
        let hardest = of(Profile::Terraform, &Settings::default(), &[]);
        assert_eq!(hardest.execute, [Path::new("/opt/tf")]);
        assert!(!hardest.read.iter().any(|path| path.starts_with("/usr/lib")), "it has no libraries");
        let listed = Settings { programs: vec!["/bin/sh".into()], ..Settings::default() };
        let listed = of(Profile::Terraform, &listed, &[]);
        assert_eq!(listed.execute, [Path::new("/opt/tf"), Path::new("/bin/sh")]);
        assert!(listed.read.contains(&"/usr/lib".into()));
        for one in [&hardest, &listed] {
            let writes = |path: &PathBuf| one.write.iter().any(|own| path.starts_with(own));
            assert!(!one.execute.iter().any(writes));
            assert!(!one.read.iter().any(|path| path.starts_with("/etc/tendril") || path == Path::new("/etc")));
        }
    }

    #[test]
    fn exec_has_the_programs_of_the_system_unless_the_settings_name_others() {
        assert!(of(Profile::Exec, &Settings::default(), &[]).execute.contains(&"/usr".into()));
        let named = Settings { exec_programs: Some(vec!["/bin/sh".into()]), ..Settings::default() };
        assert_eq!(of(Profile::Exec, &named, &[]).execute, [Path::new("/opt/tf"), Path::new("/bin/sh")]);
    }

    #[test]
    fn the_ports_of_proxies_are_open_and_those_of_other_variables_are_not() {
        let env = [
            ("HTTPS_PROXY", "http://u:p@proxy.example.com:3128"),
            ("http_proxy", "http://[::1]:3129/"),
            ("NO_PROXY", "example.com:99"),
            ("OTHER", "http://x:98"),
        ];
        let confined = of(Profile::Exec, &Settings::default(), &env);
        assert_eq!(confined.connect, Ports::Only(vec![53, 443, 3128, 3129]));
        let any = Settings { connect: Ports::ANY, ..Settings::default() };
        assert_eq!(of(Profile::Exec, &any, &env).connect, Ports::ANY);
    }

    #[test]
    fn a_port_is_found_in_any_address() {
        for (url, port) in [
            ("https://a", Some(443)),
            ("http://a/b:9", Some(80)),
            ("a:7", Some(7)),
            ("http://[::1]", Some(80)),
            ("https://u:1@[::1]:8", Some(8)),
            ("ssh://git@a/x", Some(22)),
            ("socks5://a", None),
            ("http://a:b", None),
        ] {
            assert_eq!(port_of(url), port, "{url}");
        }
    }
}
