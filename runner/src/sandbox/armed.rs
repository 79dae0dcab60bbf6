//! What is made ready before the fork, and done by the new process.

use super::access::Confinement;
use super::filter;
use super::kernel::Kernel;
use super::level::Level;
use super::loader::companions;
use super::plan::{FileRule, Limit, Measure, Plan, Rules, plan};
use landlock::{
    ABI, Access as _, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible, NetPort, PathBeneath, PathFd, Ruleset,
    RulesetAttr, RulesetCreated, RulesetCreatedAttr, RulesetError, Scope,
};
use nix::errno::Errno;
use nix::libc;
use nix::sys::prctl;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use seccompiler::BpfProgram;
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

/// Why a command cannot be confined as it should be.
#[derive(Debug, thiserror::Error)]
pub enum SandboxError {
    /// This machine lacks what the mode requires.
    #[error("{0}")]
    Lacking(String),
    /// The kernel did not take the rules.
    #[error("the kernel refused the rules for files and ports: {0}")]
    Rules(#[from] RulesetError),
    /// The filter could not be made.
    #[error("the filter of system calls could not be made: {0}")]
    Filter(#[from] seccompiler::Error),
}

/// One measure, with all that it needs.
enum Ready {
    Undumpable,
    Limit(Limit, u64),
    NoCapabilities,
    NoNewPrivileges,
    Landlock(RulesetCreated),
    Filter([BpfProgram; 2]),
}

/// All measures for one command, and what they come to.
pub struct Armed {
    measures: Vec<Ready>,
    level: Level,
}

impl Armed {
    /// Plans and makes ready. What is listed and is not there is passed over: it gives no right.
    ///
    /// # Errors
    /// [`SandboxError`]; the command is not to be started.
    pub fn new(wanted: &Confinement, kernel: &Kernel) -> Result<Self, SandboxError> {
        let Plan { measures, level } = plan(wanted, kernel);
        if let Some(refusal) = level.refusal() {
            return Err(SandboxError::Lacking(refusal));
        }
        let measures = measures.into_iter().map(Ready::new).collect::<Result<_, _>>()?;
        Ok(Self { measures, level })
    }

    /// How far it confines.
    #[must_use]
    pub fn level(&self) -> &Level {
        &self.level
    }

    /// Does it to this thread, for good, and to all that it starts from now on.
    ///
    /// # Errors
    /// The system's error; some of the measures may have been taken.
    pub fn apply(&self) -> Result<(), Errno> {
        self.measures.iter().try_for_each(Ready::apply)
    }
}

impl Ready {
    fn new(measure: Measure) -> Result<Self, SandboxError> {
        Ok(match measure {
            Measure::Undumpable => Self::Undumpable,
            Measure::Limit(limit, most) => Self::Limit(limit, most),
            Measure::NoCapabilities => Self::NoCapabilities,
            Measure::NoNewPrivileges => Self::NoNewPrivileges,
            Measure::Landlock(rules) => Self::Landlock(ruleset(&rules)?),
            Measure::Filter { processor, udp } => Self::Filter(filter::programs(processor, udp)?),
        })
    }

    fn apply(&self) -> Result<(), Errno> {
        match self {
            Self::Undumpable => prctl::set_dumpable(false),
            Self::Limit(limit, most) => lower(*limit, *most),
            Self::NoCapabilities => drop_capabilities(),
            Self::NoNewPrivileges => prctl::set_no_new_privs(),
            Self::Landlock(rules) => {
                let rules = rules.try_clone().map_err(|e| errno(&e))?;
                rules.restrict_self().map(drop).map_err(|_| Errno::last())
            }
            Self::Filter(programs) => {
                programs.iter().try_for_each(|program| seccompiler::apply_filter(program).map_err(|_| Errno::last()))
            }
        }
    }
}

fn errno(error: &std::io::Error) -> Errno {
    error.raw_os_error().map_or(Errno::EINVAL, Errno::from_raw)
}

/// Both limits: what is lowered for good cannot be raised again.
fn lower(limit: Limit, most: u64) -> Result<(), Errno> {
    let resource = match limit {
        Limit::Core => Resource::RLIMIT_CORE,
        Limit::FileSize => Resource::RLIMIT_FSIZE,
        Limit::Queues => Resource::RLIMIT_MSGQUEUE,
        Limit::Processes => Resource::RLIMIT_NPROC,
    };
    let (_, hard) = getrlimit(resource)?;
    let most = most.min(hard);
    setrlimit(resource, most, most)
}

/// Of all sets: of what it has, what it may pass on, and what any program could ever give it.
#[expect(unsafe_code, reason = "nix has no wrapper for capabilities")]
fn drop_capabilities() -> Result<(), Errno> {
    const VERSION_3: u32 = 0x2008_0522;
    const MOST: libc::c_ulong = 63;
    const NONE: libc::c_ulong = 0;
    // SAFETY: all arguments are numbers. Without the right to it, there is nothing in the set that a program could give:
    // no_new_privs comes next. Beyond the last capability of this kernel it answers EINVAL.
    unsafe {
        for one in 0..=MOST {
            libc::prctl(libc::PR_CAPBSET_DROP, one, NONE, NONE, NONE);
        }
        libc::prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_CLEAR_ALL, NONE, NONE, NONE);
    }
    let header = [VERSION_3, 0];
    let none = [0u32; 6];
    // SAFETY: the kernel reads a header of two words and, for this version, two times three words, and keeps neither.
    Errno::result(unsafe { libc::syscall(libc::SYS_capset, header.as_ptr(), none.as_ptr()) }).map(drop)
}

fn ruleset(rules: &Rules) -> Result<RulesetCreated, RulesetError> {
    let abi = ABI::from(i32::try_from(rules.abi).unwrap_or(0));
    let mut ruleset =
        Ruleset::default().set_compatibility(CompatLevel::HardRequirement).handle_access(AccessFs::from_all(abi))?;
    if rules.no_listening {
        ruleset = ruleset.handle_access(AccessNet::BindTcp)?;
    }
    if rules.tcp.is_some() {
        ruleset = ruleset.handle_access(AccessNet::ConnectTcp)?;
    }
    if rules.scopes {
        ruleset = ruleset.scope(Scope::from_all(abi))?;
    }
    let mut created = ruleset.create()?.no_new_privs(false);
    for rule in &rules.files {
        created = allow(created, rule, abi)?;
    }
    for port in rules.tcp.iter().flatten() {
        created = created.add_rule(NetPort::new(*port, AccessNet::ConnectTcp))?;
    }
    Ok(created)
}

fn allow(mut created: RulesetCreated, rule: &FileRule, abi: ABI) -> Result<RulesetCreated, RulesetError> {
    let read: BitFlags<AccessFs> = AccessFs::ReadFile | AccessFs::ReadDir;
    let rights = match rule {
        FileRule::Read(_) => read,
        FileRule::Execute(_) => read | AccessFs::Execute,
        FileRule::Write(_) => {
            let never = AccessFs::Execute | AccessFs::MakeChar | AccessFs::MakeBlock | AccessFs::IoctlDev;
            AccessFs::from_all(abi) & !never
        }
    };
    created = allow_path(created, rule.path(), rights, abi)?;
    if let FileRule::Execute(path) = rule {
        for path in companions(path) {
            created = allow_path(created, &path, rights, abi)?;
        }
    }
    Ok(created)
}

fn allow_path(
    created: RulesetCreated,
    path: &Path,
    rights: BitFlags<AccessFs>,
    abi: ABI,
) -> Result<RulesetCreated, RulesetError> {
    let Ok(opened) = PathFd::new(path) else { return Ok(created) };
    let rights = match is_folder(&opened) {
        true => rights,
        false => rights & AccessFs::from_file(abi),
    };
    created.add_rule(PathBeneath::new(opened, rights))
}

fn is_folder(opened: &PathFd) -> bool {
    let copy: Option<OwnedFd> = opened.as_fd().try_clone_to_owned().ok();
    copy.and_then(|fd| File::from(fd).metadata().ok()).is_some_and(|metadata| metadata.is_dir())
}
