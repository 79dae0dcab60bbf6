//! From what a command may do and what the kernel can, to an ordered list: a function without any effect.

use super::access::Confinement;
use super::calls::Processor;
use super::kernel::Kernel;
use super::level::{Layer, Level, Missing};
use super::settings::{Mode, Ports};
use std::path::{Path, PathBuf};

/// The newest ABI of Landlock that is made use of.
pub const NEWEST_ABI: u32 = 7;

/// One thing that the new process does to itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Measure {
    /// Nobody of the same user reads its memory, which is still its supervisor's, until its program begins.
    Undumpable,
    /// A limit of the kernel's, for good.
    Limit(Limit, u64),
    /// No capability, now or by any program to come.
    NoCapabilities,
    /// No program gives rights that it does not have now: what lets anybody use the next two.
    NoNewPrivileges,
    /// Files, ports and scopes.
    Landlock(Rules),
    /// A filter of system calls.
    Filter {
        /// For which processor.
        processor: Processor,
        /// Whether UDP is allowed.
        udp: bool,
    },
}

/// What is limited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit {
    /// Bytes of a core dump.
    Core,
    /// Bytes of a file.
    FileSize,
    /// Bytes of POSIX message queues, which outlive who makes them.
    Queues,
    /// Processes of the user.
    Processes,
}

/// Landlock's rules.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rules {
    /// By which ABI.
    pub abi: u32,
    /// What may be done with which files; all else may not.
    pub files: Vec<FileRule>,
    /// Ports to connect to, and none to listen on; none when TCP is not ruled.
    pub tcp: Option<Vec<u16>>,
    /// Listening is ruled although connecting is not.
    pub no_listening: bool,
    /// No signals and abstract sockets to others.
    pub scopes: bool,
}

/// What may be done with a file, or everything below a folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FileRule {
    /// Read it.
    Read(PathBuf),
    /// Read and execute it.
    Execute(PathBuf),
    /// Read it, write it, and make and remove what is below it.
    Write(PathBuf),
}

impl FileRule {
    /// Where.
    #[must_use]
    pub fn path(&self) -> &Path {
        match self {
            Self::Read(path) | Self::Execute(path) | Self::Write(path) => path,
        }
    }
}

/// What is done, and what it comes to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// In this order.
    pub measures: Vec<Measure>,
    /// How far that confines.
    pub level: Level,
}

/// What to do to a command that may do this, on that kernel.
#[must_use]
pub fn plan(wanted: &Confinement, kernel: &Kernel) -> Plan {
    let abi = kernel.landlock.min(NEWEST_ABI).min(wanted.landlock_at_most.unwrap_or(NEWEST_ABI));
    let level = Level {
        mode: wanted.mode,
        profile: wanted.profile,
        kernel: kernel.release.clone(),
        landlock_abi: abi,
        held: Vec::new(),
        missing: Vec::new(),
    };
    if wanted.mode == Mode::Off {
        return Plan { measures: Vec::new(), level: Level { landlock_abi: 0, ..level } };
    }
    let mut planning = Planning { plan: Plan { measures: Vec::new(), level } };
    planning.limits(wanted, kernel);
    planning.add(Measure::NoCapabilities, &[Layer::Capabilities]);
    planning.add(Measure::NoNewPrivileges, &[Layer::NoNewPrivileges]);
    planning.landlock(wanted, abi);
    planning.calls(wanted, kernel);
    planning.plan
}

struct Planning {
    plan: Plan,
}

impl Planning {
    fn add(&mut self, measure: Measure, layers: &[Layer]) {
        self.plan.measures.push(measure);
        self.plan.level.held.extend(layers);
    }

    fn miss(&mut self, layer: Layer, why: impl Into<String>) {
        self.plan.level.missing.push(Missing { layer, why: why.into() });
    }

    fn limits(&mut self, wanted: &Confinement, kernel: &Kernel) {
        self.add(Measure::Undumpable, &[]);
        self.add(Measure::Limit(Limit::Core, 0), &[]);
        self.add(Measure::Limit(Limit::Queues, 0), &[]);
        self.add(Measure::Limit(Limit::FileSize, wanted.limits.file_bytes), &[Layer::Limits]);
        match kernel.root {
            true => {
                self.miss(Layer::Processes, "the kernel does not count those of root; run the runner as another user")
            }
            false => self.add(Measure::Limit(Limit::Processes, wanted.limits.processes), &[Layer::Processes]),
        }
    }

    fn landlock(&mut self, wanted: &Confinement, abi: u32) {
        let mut held = Vec::new();
        for (layer, since, linux) in [
            (Layer::Files, 1, "5.13"),
            (Layer::Truncate, 3, "6.2"),
            (Layer::Tcp, 4, "6.7"),
            (Layer::Devices, 5, "6.10"),
            (Layer::Scopes, 6, "6.12"),
        ] {
            match (abi >= since, abi) {
                (true, _) => held.push(layer),
                (false, 0) => self.miss(layer, format!("needs Landlock ABI {since}, Linux {linux}; it is not enabled")),
                (false, abi) => {
                    self.miss(layer, format!("needs Landlock ABI {since}, Linux {linux}; this is ABI {abi}"))
                }
            }
        }
        if abi == 0 {
            return;
        }
        let files = (wanted.read.iter().cloned().map(FileRule::Read))
            .chain(wanted.execute.iter().cloned().map(FileRule::Execute))
            .chain(wanted.write.iter().cloned().map(FileRule::Write));
        let rules = Rules {
            abi,
            files: files.collect(),
            tcp: match &wanted.connect {
                Ports::Only(ports) if abi >= 4 => Some(ports.clone()),
                _ => None,
            },
            no_listening: abi >= 4,
            scopes: abi >= 6,
        };
        self.add(Measure::Landlock(rules), &held);
    }

    fn calls(&mut self, wanted: &Confinement, kernel: &Kernel) {
        match (kernel.seccomp, kernel.processor) {
            (true, Some(processor)) => {
                self.add(Measure::Filter { processor, udp: wanted.udp }, &[Layer::Calls]);
            }
            (false, _) => self.miss(Layer::Calls, "it takes no seccomp filters; see CONFIG_SECCOMP_FILTER"),
            (true, None) => self.miss(Layer::Calls, "there is a filter for x86-64 and aarch64 only"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::access::{Access, Folders};
    use super::super::settings::Settings;
    use super::*;
    use std::collections::BTreeMap;

    fn wanted(mode: Mode) -> Confinement {
        let folders = Folders { program: Path::new("/opt/tf"), cwd: Path::new("/w/tree"), own: &[] };
        let settings = Settings { mode, ..Settings::default() };
        Confinement::new(&settings, &Access::default(), folders, &BTreeMap::new())
    }

    fn kernel(landlock: u32) -> Kernel {
        let processor = Some(Processor::X86_64);
        Kernel { release: "6.1.0".into(), landlock, seccomp: true, processor, root: false }
    }

    fn missing(plan: &Plan) -> Vec<Layer> {
        plan.level.missing.iter().map(|missing| missing.layer).collect()
    }

    fn rules(plan: &Plan) -> Option<&Rules> {
        plan.measures.iter().find_map(|measure| match measure {
            Measure::Landlock(rules) => Some(rules),
            _ => None,
        })
    }

    #[test]
    fn measures_stand_in_an_order_in_which_each_is_still_allowed() {
        let plan = plan(&wanted(Mode::Require), &kernel(7));
        let order: Vec<u8> = plan
            .measures
            .iter()
            .map(|measure| match measure {
                Measure::Undumpable => 0,
                Measure::Limit(..) => 1,
                Measure::NoCapabilities => 2,
                Measure::NoNewPrivileges => 3,
                Measure::Landlock(_) => 4,
                Measure::Filter { .. } => 5,
            })
            .collect();
        assert_eq!(order, [0, 1, 1, 1, 1, 2, 3, 4, 5]);
        assert_eq!(missing(&plan), []);
        assert_eq!(plan.level.held, Layer::ALL);
        assert_eq!(plan.level.refusal(), None);
    }

    #[test]
    fn an_older_kernel_gives_what_it_has_and_says_what_it_lacks() {
        use Layer::{Devices, Files, Scopes, Tcp, Truncate};
        for (abi, lacks) in [
            (0, &[Files, Truncate, Tcp, Devices, Scopes][..]),
            (1, &[Truncate, Tcp, Devices, Scopes]),
            (2, &[Truncate, Tcp, Devices, Scopes]),
            (3, &[Tcp, Devices, Scopes]),
            (4, &[Devices, Scopes]),
            (5, &[Scopes]),
            (6, &[]),
            (7, &[]),
            (9, &[]),
        ] {
            let kernel = kernel(abi);
            let plan = plan(&wanted(Mode::Require), &kernel);
            assert_eq!(missing(&plan), lacks, "ABI {abi}");
            assert_eq!(rules(&plan).map(|rules| rules.abi), (abi > 0).then_some(abi.min(NEWEST_ABI)));
            assert_eq!(rules(&plan).is_some_and(|rules| rules.tcp.is_some()), abi >= 4, "ABI {abi}");
            assert_eq!(rules(&plan).is_some_and(|rules| rules.scopes), abi >= 6, "ABI {abi}");
            let refusal = plan.level.refusal();
            assert_eq!(refusal.is_some(), abi < 6, "ABI {abi}");
            if let Some(said) = refusal {
                assert!(said.contains("6.1.0") && said.contains("best-effort"), "{said}");
                assert!(lacks.iter().filter(|one| one.is_needed()).all(|one| said.contains(one.name())), "{said}");
            }
            let lenient = super::plan(&wanted(Mode::BestEffort), &kernel);
            assert_eq!((lenient.level.refusal(), &lenient.measures), (None, &plan.measures));
            // To be told what an older kernel would give.
            let simulated = Confinement { landlock_at_most: Some(abi), ..wanted(Mode::Require) };
            let newest = Kernel { landlock: 9, ..kernel.clone() };
            assert_eq!(super::plan(&simulated, &newest).level.missing.len(), lacks.len());
        }
    }

    #[test]
    fn without_a_filter_of_system_calls_nothing_is_started_where_all_is_required() {
        let bare = Kernel { seccomp: false, ..kernel(7) };
        let other = Kernel { processor: None, ..kernel(7) };
        for (kernel, word) in [(bare, "CONFIG_SECCOMP_FILTER"), (other, "aarch64")] {
            let plan = plan(&wanted(Mode::Require), &kernel);
            assert_eq!(missing(&plan), [Layer::Calls]);
            assert!(plan.level.refusal().unwrap().contains(word));
        }
    }

    #[test]
    fn a_root_runner_is_told_that_processes_are_not_counted_and_may_start() {
        let plan = plan(&wanted(Mode::Require), &Kernel { root: true, ..kernel(7) });
        assert_eq!((missing(&plan), plan.level.refusal()), (vec![Layer::Processes], None));
    }

    #[test]
    fn off_does_nothing_and_says_so() {
        let plan = plan(&wanted(Mode::Off), &kernel(7));
        assert_eq!((plan.measures.len(), plan.level.held.len(), plan.level.refusal()), (0, 0, None));
        assert_eq!(plan.level.to_string(), "off, by the settings of this runner");
    }
}
