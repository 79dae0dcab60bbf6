//! What a command costs with and without the sandbox: starts `/bin/true` so many times under a supervisor, and prints the
//! milliseconds from the word to start to its end, as JSON. `sandbox_exec RUNNER COUNT terraform|exec|off`

use anyhow::bail;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use tendril_runner::clock::BootTime;
use tendril_runner::sandbox::{Access, Confinement, Folders, Mode, Profile, Settings};
use tendril_runner::supervise::{Class, DEFAULT_UMASK, Exit, Launched, Launcher, Step};

const PROGRAM: &str = "/bin/true";

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [runner, count, how] = arguments.as_slice() else { bail!("sandbox_exec RUNNER COUNT terraform|exec|off") };
    let folder = std::env::temp_dir().join(format!("tendril-sandbox-exec-{}", std::process::id()));
    std::fs::create_dir(&folder)?;
    let measured = measure(Path::new(runner), count.parse()?, how, &folder).await;
    std::fs::remove_dir_all(&folder)?;
    println!("{}", serde_json::to_string(&measured?)?);
    Ok(())
}

async fn measure(runner: &Path, count: usize, how: &str, folder: &Path) -> anyhow::Result<Vec<f64>> {
    let sandbox = confinement(how, folder)?;
    let launcher = Launcher::of(runner);
    let mut all = Vec::with_capacity(count);
    for number in 0..count {
        let step = step(folder, number, sandbox.clone());
        // One that stands by, as a runner's does: how long it takes to come is another matter.
        let launched = Launched::by(&launcher)?;
        let begun = BootTime::now();
        let mut running = launched.start(step).await?;
        let record = running.control.wait().await?;
        all.push(begun.elapsed().as_secs_f64() * 1e3);
        if record.exit != Exit::Success {
            bail!("{PROGRAM} ended with {:?}", record.exit);
        }
    }
    Ok(all)
}

fn confinement(how: &str, folder: &Path) -> anyhow::Result<Confinement> {
    let (mode, profile) = match how {
        "terraform" => (Mode::BestEffort, Profile::Terraform),
        "exec" => (Mode::BestEffort, Profile::Exec),
        "off" => (Mode::Off, Profile::Exec),
        other => bail!("there is no {other}"),
    };
    let settings = Settings { mode, ..Settings::default() };
    let libraries = ["/lib", "/usr/lib", "/lib64"].map(PathBuf::from).to_vec();
    let access = Access { read: libraries, ..Access::of(profile) };
    let folders = Folders { program: Path::new(PROGRAM), cwd: folder, own: &[] };
    Ok(Confinement::new(&settings, &access, folders, &BTreeMap::new()))
}

fn step(folder: &Path, number: usize, sandbox: Confinement) -> Step {
    Step {
        name: "true".to_owned(),
        argv: vec![PROGRAM.to_owned()],
        env: BTreeMap::new(),
        cwd: folder.to_owned(),
        class: Class::Reading,
        timeout_ms: 60_000,
        kill_grace_ms: 1_000,
        record_dir: folder.join(number.to_string()),
        secrets: Default::default(),
        umask: DEFAULT_UMASK,
        orphan_limit_bytes: 1 << 20,
        sandbox,
    }
}
