//! Somebody kills the supervisor itself. A binary of its own, because it makes its process a subreaper.

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Write;
    use std::time::Duration;

    use nix::sys::signal::{Signal, kill};
    use nix::unistd::Pid;
    use tempfile::TempDir;
    use tendril_runner::sandbox::Confinement;
    use tendril_runner::supervise::{
        Class, Exit, Launched, Launcher, Left, Running, Step, StopReason, SuperviseError, adopt_orphans,
    };
    use tokio::io::AsyncReadExt;

    struct Bed(TempDir);

    impl Bed {
        fn new() -> Self {
            Self(tempfile::tempdir().expect("a folder"))
        }

        fn step(&self, class: Class, script: &str) -> Step {
            Step {
                name: "victim".to_owned(),
                argv: ["/usr/bin/perl", "-e", script].map(str::to_owned).into(),
                env: [("PATH".to_owned(), "/usr/bin:/bin".to_owned())].into(),
                cwd: self.0.path().to_owned(),
                class,
                timeout_ms: 120_000,
                kill_grace_ms: 60_000,
                record_dir: self.0.path().join("record"),
                secrets: Default::default(),
                umask: 0o077,
                orphan_limit_bytes: 1 << 20,
                sandbox: Confinement::off(),
            }
        }
    }

    async fn start(step: Step) -> Running {
        let launcher = Launcher::of(env!("CARGO_BIN_EXE_tendril-runner"));
        let launched = Launched::by(&launcher).expect("a supervisor");
        within(launched.start(step)).await.expect("a command")
    }

    async fn within<T>(future: impl Future<Output = T>) -> T {
        let limited = tokio::time::timeout(Duration::from_secs(60), future);
        limited.await.expect("it happens in time")
    }

    /// Reads until the command has said this.
    async fn hear(running: &mut Running, word: &str) -> String {
        let mut said = Vec::new();
        while !String::from_utf8_lossy(&said).contains(word) {
            let count = within(running.stdout.read_buf(&mut said)).await.expect("output");
            assert!(count > 0, "it ended with {:?}", String::from_utf8_lossy(&said));
        }
        String::from_utf8(said).expect("text")
    }

    fn kill_supervisor(running: &Running) {
        let supervisor = Pid::from_raw(running.control.supervisor_pid());
        kill(supervisor, Signal::SIGKILL).expect("it lives");
    }

    /// What the runner is told, and what the command said after the loss.
    async fn loss(running: Running) -> (Left, String) {
        let Running { mut stdout, mut control, .. } = running;
        let mut rest = Vec::new();
        let both = async { tokio::join!(control.wait(), stdout.read_to_end(&mut rest)) };
        let (ended, read) = within(both).await;
        read.expect("the pipe can be read");
        let Err(SuperviseError::Lost { name, left }) = ended else {
            panic!("not noticed: {ended:?}");
        };
        assert_eq!(name, "victim");
        (left, String::from_utf8(rest).expect("text"))
    }

    fn gone(pid: &str) -> bool {
        !fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z "))
    }

    #[tokio::test]
    async fn a_reading_command_dies_with_its_supervisor_and_the_loss_is_an_error() {
        adopt_orphans().expect("a subreaper");
        let bed = Bed::new();
        let script = r#"$SIG{$_} = "IGNORE" for qw(INT TERM HUP); syswrite STDOUT, "$$ up\n"; while (1) { sleep 100 }"#;
        let mut running = start(bed.step(Class::Reading, script)).await;
        let pid = hear(&mut running, "up").await.replace(" up\n", "");
        kill_supervisor(&running);
        assert_eq!(loss(running).await.0, Left::NothingFound);
        assert!(gone(&pid));
        assert!(!bed.0.path().join("record/exit.json").exists(), "nobody claims to know");
    }

    #[tokio::test]
    async fn a_mutating_command_gets_one_interrupt_and_time_to_save() {
        adopt_orphans().expect("a subreaper");
        let bed = Bed::new();
        let script = r#"my $n = 0; $SIG{INT} = sub { $n++ }; syswrite STDOUT, "up\n";
            sleep 1 while !$n; syswrite STDOUT, "saved after $n\n"; exit 1"#;
        let mut running = start(bed.step(Class::Mutating, script)).await;
        hear(&mut running, "up").await;
        kill_supervisor(&running);
        let (left, said) = loss(running).await;
        assert_eq!((left, said.as_str()), (Left::NothingFound, "saved after 1\n"));
    }

    #[tokio::test]
    async fn a_mutating_command_that_was_interrupted_before_gets_no_second_one() {
        adopt_orphans().expect("a subreaper");
        let bed = Bed::new();
        let script =
            r#"$SIG{INT} = sub { syswrite STDOUT, "INT\n" }; syswrite STDOUT, "up\n"; while (1) { sleep 100 }"#;
        let mut step = bed.step(Class::Mutating, script);
        step.kill_grace_ms = 1_000;
        let mut running = start(step).await;
        hear(&mut running, "up").await;
        running.control.interrupt(StopReason::Cancelled).await.expect("asked");
        hear(&mut running, "INT").await;
        kill_supervisor(&running);
        let (left, said) = loss(running).await;
        assert_eq!((left, said.as_str()), (Left::NothingFound, ""));
    }

    #[tokio::test]
    async fn a_daemon_that_left_the_session_is_found_and_other_steps_are_left_alone() {
        adopt_orphans().expect("a subreaper");
        let other = Bed::new();
        let quiet = r#"open my $gate, "+<", "gate"; syswrite STDOUT, "up\n"; <$gate>; exit 6"#;
        nix::unistd::mkfifo(&other.0.path().join("gate"), nix::sys::stat::Mode::S_IRWXU).expect("a named pipe");
        let mut bystander = start(other.step(Class::Mutating, quiet)).await;
        hear(&mut bystander, "up").await;

        let bed = Bed::new();
        let script = r#"use POSIX; pipe(my $r, my $w);
            if (!fork) {
                POSIX::setsid(); fork and POSIX::_exit(0);
                $SIG{$_} = "IGNORE" for qw(INT TERM HUP);
                syswrite $w, "$$\n"; POSIX::close($_) for 0..9; while (1) { sleep 100 }
            }
            my $pid = <$r>; chomp $pid; syswrite STDOUT, "$pid up\n"; while (1) { sleep 100 }"#;
        let mut running = start(bed.step(Class::Reading, script)).await;
        let daemon = hear(&mut running, "up").await.replace(" up\n", "");
        kill_supervisor(&running);
        assert_eq!(loss(running).await.0, Left::NothingFound);
        assert!(gone(&daemon), "the daemon lives");

        let gate = other.0.path().join("gate");
        fs::File::options()
            .read(true)
            .write(true)
            .open(gate)
            .and_then(|mut gate| gate.write_all(b"go\n"))
            .expect("a gate");
        let record = within(bystander.control.wait()).await.expect("its supervisor lives");
        assert_eq!(record.exit, Exit::Failure { code: 6 });
    }
}
