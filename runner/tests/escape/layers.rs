//! Single layers: what outlives a command, and what is missing.

use crate::attacks::{ALL, Outcome};
use crate::bed::Bed;
use nix::errno::Errno;
use tendril_runner::sandbox::{Mode, Profile};
use tendril_runner::supervise::Exit;

#[tokio::test]
async fn a_daemon_and_its_children_do_not_outlive_the_command() {
    let bed = Bed::new().await;
    let script = "for (1..20) { my $p = fork; if (!defined $p) { last } if (!$p) { POSIX::setsid(); fork and POSIX::_exit(0); \
                  sleep 600; POSIX::_exit(0) } } print \"done\\n\";";
    let (said, record) = bed.run(bed.step(script, Profile::Exec, 7)).await;
    assert_eq!((said.trim(), record.exit), ("done", Exit::Success));
    assert!(record.killed_descendants > 0 && record.child_dead, "{}", record.killed_descendants);
}

#[tokio::test]
async fn a_command_is_not_started_where_a_layer_is_missing_that_is_required() {
    let bed = Bed::new().await;
    for (abi, layer) in [(5, "scopes"), (3, "tcp"), (2, "truncate"), (0, "files")] {
        let mut step = bed.step("print \"ran\\n\";", Profile::Terraform, abi);
        step.sandbox.mode = Mode::Require;
        let (said, record) = bed.run(step).await;
        let Exit::NotStarted { reason } = record.exit else { panic!("ABI {abi}: {:?}", record.exit) };
        let reason = reason.to_string();
        assert!(reason.contains(layer) && reason.contains("sandbox.mode") && reason.contains("kernel"), "{reason}");
        assert_eq!((said.as_str(), record.sandbox), ("", None));
    }
    let (said, record) = bed.run(bed.step("print \"ran\\n\";", Profile::Terraform, 3)).await;
    let missing: Vec<_> = record.sandbox.expect("a level").missing.into_iter().map(|one| one.layer.name()).collect();
    assert_eq!(said, "ran\n");
    assert!(["tcp", "devices", "scopes"].iter().all(|layer| missing.contains(layer)), "{missing:?}");
}

#[tokio::test]
async fn udp_is_refused_where_the_settings_say_so() {
    let bed = Bed::new().await;
    let attack = ALL.iter().find(|attack| attack.name.contains("UDP")).expect("it is listed");
    let mut step = bed.step(attack.script, Profile::Exec, 7);
    step.sandbox.udp = false;
    assert_eq!(Outcome::read(&bed.run(step).await.0), Outcome::Refused(Errno::EPERM));
}

#[tokio::test]
async fn who_may_read_proc_reads_its_own_part_and_no_secrets_of_others() {
    let bed = Bed::new().await;
    for (what, expected) in [
        ("/proc/self/maps", Outcome::Done),
        ("/proc/$ENV{VICTIM}/cmdline", Outcome::Done),
        ("/proc/$ENV{VICTIM}/environ", Outcome::Refused(Errno::EACCES)),
        ("/proc/$ENV{VICTIM}/maps", Outcome::Refused(Errno::EACCES)),
        ("/proc/$ENV{VICTIM}/root/etc/hostname", Outcome::Refused(Errno::EACCES)),
    ] {
        let mut step = bed.step(&format!("opened('<', \"{what}\");"), Profile::Exec, 7);
        step.sandbox.read.push("/proc".into());
        assert_eq!(Outcome::read(&bed.run(step).await.0), expected, "{what}");
    }
}
