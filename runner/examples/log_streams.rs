//! Drives the runner's own log pipeline with synthetic pipes, for measurements: as many streams as claims bring, each a
//! pipe that another process prints lines to. Everything from the read end on is the runner's own code.
//!
//! It claims `exec` jobs that wait in the cluster and runs none of them. `./dev bench log-streams` starts it, as do other rows; it reads
//! `TENDRIL_DATABASE_URL` and `TENDRIL_AGENT_TOKEN` and prints one line of JSON at its end.
#![expect(clippy::print_stdout, reason = "its result")]

use anyhow::{Context, ensure};
use clap::{Args, Parser};
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::sys::resource::{Resource, UsageWho, getrlimit, getrusage, setrlimit};
use nix::sys::time::TimeValLike;
use std::fs::File;
use std::io::{BufRead, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;
use tendril_broker::connect::Address;
use tendril_broker::runner::{Broker, Claimed, Registration};
use tendril_runner::clock::{self, BootTime};
use tendril_runner::command::Stdout;
use tendril_runner::config::Logs;
use tendril_runner::holdings::Holdings;
use tendril_runner::logs::{Secret, Secrets};
use tendril_runner::metrics::Metrics;
use tendril_runner::output::Output;
use tendril_runner::pipeline::Pipeline;
use tendril_runner::spool::Spool;
use tendril_runner::{chance, output};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::net::unix::pipe;
use tokio_util::sync::CancellationToken;

/// The most that one claim may ask for.
const CLAIM: i32 = 1000;
/// Streams of one printing process: descriptors are short, and both ends exist for a moment.
const PRINTER_STREAMS: usize = 2500;
/// Secrets that are looked for in all text.
const SECRETS: u32 = 10;
/// Where a line's number stands in it, behind the time of its print and its stream.
const NUMBER_AT: usize = 24;
/// Lines that a stream without a pace prints at one go.
const BURST: u64 = 20;

#[derive(Parser)]
struct Cli {
    #[command(flatten)]
    load: Load,
    /// Folder of the spool
    #[arg(long, default_value = "log-streams.spool")]
    spool: PathBuf,
    /// When all is claimed, print an empty line and wait for one on standard input
    #[arg(long)]
    wait: bool,
    /// Number of the first stream that is printed to
    #[arg(long, hide = true, default_value_t = 0)]
    first: usize,
    /// Print to the pipes whose descriptors stand on standard input, instead of reading them
    #[arg(long, hide = true)]
    print: bool,
    /// Read the pipes and keep nothing: what they take without a pipeline, and without a database
    #[arg(long)]
    bare: bool,
}

#[derive(Args, Clone)]
struct Load {
    /// Pipes at once
    #[arg(long, default_value_t = 100)]
    streams: u32,
    /// Lines that each prints
    #[arg(long, default_value_t = 60)]
    lines: u64,
    /// Lines that each prints in a second; 0 for as fast as they are taken
    #[arg(long, default_value_t = 1.0)]
    pace: f64,
    /// Length of a line, its line feed included
    #[arg(long, default_value_t = 200)]
    line_bytes: usize,
    /// File with lines of that length that stand behind a line's time and numbers, instead of dots
    #[arg(long)]
    text: Option<PathBuf>,
    /// `logs.flush_bytes`; the runner's own default when it is absent
    #[arg(long)]
    flush_bytes: Option<usize>,
}

fn main() -> anyhow::Result<()> {
    let cli = Cli::parse();
    if cli.print {
        return print(&cli.load, cli.first);
    }
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async { if cli.bare { bare(&cli.load).await } else { run(&cli).await } })
}

async fn bare(load: &Load) -> anyhow::Result<()> {
    let (readers, printers) = printers(load)?;
    let (begun, used) = (BootTime::now(), processor_ms()?);
    let mut streams = tokio::task::JoinSet::new();
    for reader in readers {
        streams.spawn(read(pipe::Receiver::from_owned_fd(reader)?));
    }
    let blocked = tokio::task::spawn_blocking(move || longest_write_us(printers));
    let mut took = Vec::new();
    while let Some(ended) = streams.join_next().await {
        took.extend(ended??);
    }
    let read_ms = begun.elapsed().as_millis();
    let (processor_ms, peak_kib) = (processor_ms()? - used, peak_kib()?);
    blocked.await??;
    took.sort_unstable();
    let at =
        |percent: usize| took.get((took.len() * percent).div_ceil(100).max(1) - 1).map_or(0.0, |us| *us as f64 / 1e3);
    println!(
        r#"{{"read_ms":{read_ms},"processor_ms":{processor_ms},"peak_kib":{peak_kib},"lines":{},"p50_ms":{},"p99_ms":{}}}"#,
        took.len(),
        at(50),
        at(99)
    );
    Ok(())
}

/// Microseconds from each line's print to its being read.
async fn read(pipe: pipe::Receiver) -> anyhow::Result<Vec<i64>> {
    let (mut lines, mut took) = (BufReader::new(pipe).lines(), Vec::new());
    while let Some(line) = lines.next_line().await? {
        let printed_us: i64 = line.get(..16).context("a line without its time")?.parse()?;
        took.push(i64::try_from(clock::wall().unix_timestamp_nanos() / 1000)? - printed_us);
    }
    Ok(took)
}

async fn run(cli: &Cli) -> anyhow::Result<()> {
    let variable = |name: &str| std::env::var(name).with_context(|| format!("{name} is not set"));
    let token = variable("TENDRIL_AGENT_TOKEN")?.parse()?;
    let connector = Address::parse(&variable("TENDRIL_DATABASE_URL")?)?.connector(&token)?;
    let flush_bytes = cli.load.flush_bytes.unwrap_or(Logs::default().flush_bytes);
    let settings = Logs { flush_bytes, spool_bytes: 4 << 30, cap_bytes: 1 << 40, ..Logs::default() };
    let (spool, _) = Spool::open_dir(&cli.spool, settings.limits(), chance::id(), clock::wall())?;
    let spool = Arc::new(spool);
    let broker = Broker::new(connector.clone(), chance::id(), 2)?;
    broker.register(&registration(&spool)).await?;
    let claimed = claim(&broker, cli.load.streams).await?;
    if cli.wait {
        println!();
        std::io::stdin().read_line(&mut String::new())?;
    }

    let metrics = Arc::new(Metrics::default());
    let pipeline = Pipeline::start(&settings, spool, metrics.clone(), connector);
    let collector = pipeline.collector();
    let secrets = Arc::new(secrets()?);
    let holdings = Arc::new(Holdings::default());
    let (readers, printers) = printers(&cli.load)?;
    let (begun, used) = (BootTime::now(), processor_ms()?);
    let mut streams = tokio::task::JoinSet::new();
    for (claimed, reader) in claimed.into_iter().zip(readers) {
        let log = collector.open(&claimed);
        log.redact(secrets.clone());
        let held = holdings.hold(&claimed).context("claimed twice")?;
        let reader = pipe::Receiver::from_owned_fd(reader)?;
        streams.spawn(async move {
            let over = CancellationToken::new();
            let output = output::Output { log: &log, held: &held, over: &over };
            Output::stdout(output, reader, Stdout::Log).await;
            log.finish();
        });
    }
    let blocked = tokio::task::spawn_blocking(move || longest_write_us(printers));
    while let Some(ended) = streams.join_next().await {
        ended?;
    }
    let printed_ms = begun.elapsed().as_millis();
    pipeline.end(Duration::from_secs(600)).await;
    let stored_ms = begun.elapsed().as_millis();
    let blocked_us = blocked.await??;
    let (processor_ms, peak_kib) = (processor_ms()? - used, peak_kib()?);
    collector.level();
    let paused_s = paused_s(&metrics)?;
    println!(
        r#"{{"printed_ms":{printed_ms},"stored_ms":{stored_ms},"processor_ms":{processor_ms},"peak_kib":{peak_kib},"blocked_us":{blocked_us},"paused_s":{paused_s}}}"#
    );
    Ok(())
}

/// As many as a job with a few providers has; none of them is printed.
fn secrets() -> anyhow::Result<Secrets> {
    let secret = |n| Secret::new(format!("inputs.password_{n}"), format!("correct horse battery staple no. {n}"));
    let (secrets, short) = Secrets::new(&(0..SECRETS).map(secret).collect::<Vec<_>>())?;
    ensure!(short.is_empty(), "{short:?} are too short to be looked for");
    Ok(secrets)
}

/// Seconds for which pipes were not read, for want of room.
fn paused_s(metrics: &Metrics) -> anyhow::Result<f64> {
    let text = metrics.text()?;
    let line = text.lines().find_map(|line| line.strip_prefix("tendril_runner_log_paused_seconds_total "));
    Ok(line.context("no figure of pauses")?.parse()?)
}

fn registration(spool: &Spool) -> Registration {
    Registration {
        name: "log-streams".into(),
        version: env!("CARGO_PKG_VERSION").into(),
        place: None,
        labels: vec!["kind=exec".into()],
        slots: CLAIM.unsigned_abs(),
        log_writer: spool.writer(),
    }
}

async fn claim(broker: &Broker, streams: u32) -> anyhow::Result<Vec<Claimed>> {
    let mut claimed = Vec::new();
    for number in 1.. {
        let missing = streams as usize - claimed.len();
        if missing == 0 {
            break;
        }
        let more = broker.claim(number, i32::try_from(missing)?.min(CLAIM)).await?;
        ensure!(!more.is_empty(), "only {} of {streams} jobs wait", claimed.len());
        claimed.extend(more);
    }
    Ok(claimed)
}

/// The read ends, and the processes that print to the others: what they take is not counted as the runner's.
fn printers(load: &Load) -> anyhow::Result<(Vec<OwnedFd>, Vec<Child>)> {
    let (mut readers, mut children) = (Vec::new(), Vec::new());
    while readers.len() < load.streams as usize {
        let count = PRINTER_STREAMS.min(load.streams as usize - readers.len());
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["--print", "--first", &readers.len().to_string()]);
        command.args(["--streams", &count.to_string(), "--lines", &load.lines.to_string()]);
        command.args(["--pace", &load.pace.to_string(), "--line-bytes", &load.line_bytes.to_string()]);
        command.args(load.text.iter().flat_map(|file| ["--text".as_ref(), file.as_os_str()]));
        let mut writers = Vec::new();
        for _ in 0..count {
            let (reader, writer) = std::io::pipe()?;
            fcntl(&writer, FcntlArg::F_SETFD(FdFlag::empty()))?;
            readers.push(OwnedFd::from(reader));
            writers.push(writer);
        }
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let mut descriptors = child.stdin.take().context("its standard input")?;
        for writer in &writers {
            writeln!(descriptors, "{}", writer.as_raw_fd())?;
        }
        children.push(child);
    }
    Ok((readers, children))
}

/// Waits for the printers; the longest that a write of one of them took, as they say themselves.
fn longest_write_us(printers: Vec<Child>) -> anyhow::Result<u128> {
    let mut longest = 0;
    for printer in printers {
        let done = printer.wait_with_output()?;
        ensure!(done.status.success(), "a printer failed");
        longest = longest.max(String::from_utf8(done.stdout)?.trim().parse()?);
    }
    Ok(longest)
}

/// Prints lines that say when they were printed, each stream at its own moment of a period.
fn print(load: &Load, first: usize) -> anyhow::Result<()> {
    // Opened anew by their names; what was handed over is closed with this process, when every stream has ended.
    let open = |line: std::io::Result<String>| File::options().write(true).open(format!("/proc/self/fd/{}", line?));
    let mut pipes: Vec<File> = std::io::stdin().lock().lines().map(open).collect::<Result<_, _>>()?;
    let stock = load.text.as_ref().map_or_else(|| Ok(vec![b'.'; load.line_bytes]), std::fs::read)?;
    let stocked = stock.len() / load.line_bytes;
    ensure!(stocked > 0, "the file of lines holds not one");
    let begun = BootTime::now();
    let burst = if load.pace > 0.0 { 1 } else { BURST };
    let (mut line, mut longest) = (0, Duration::ZERO);
    let mut text = Vec::with_capacity(load.line_bytes * burst as usize);
    while line < load.lines {
        for (stream, pipe) in pipes.iter_mut().enumerate() {
            if load.pace > 0.0 {
                let at = (line as f64 + stream as f64 / f64::from(load.streams)) / load.pace;
                wait_until(begun.after(Duration::from_secs_f64(at)));
            }
            text.clear();
            let printed_us = clock::wall().unix_timestamp_nanos() / 1000;
            let mut head = format!("{printed_us:016} {:06} {line:08} ", first + stream).into_bytes();
            for line in line..(line + burst).min(load.lines) {
                write!(&mut head[NUMBER_AT..], "{line:08}")?;
                text.extend_from_slice(&head);
                let missing = load.line_bytes - 1 - head.len();
                let other = ((first + stream) * 7919 + line as usize) % stocked * load.line_bytes;
                text.extend_from_slice(&stock[other..other + missing]);
                text.push(b'\n');
            }
            let begun = BootTime::now();
            pipe.write_all(&text)?;
            longest = longest.max(begun.elapsed());
        }
        line += burst;
    }
    println!("{}", longest.as_micros());
    Ok(())
}

fn wait_until(moment: BootTime) {
    let left = moment.left();
    // Many lines are due within one turn of the clock.
    if left > Duration::from_millis(1) {
        std::thread::park_timeout(left);
    }
}

fn processor_ms() -> anyhow::Result<i64> {
    let usage = getrusage(UsageWho::RUSAGE_SELF)?;
    Ok(usage.user_time().num_milliseconds() + usage.system_time().num_milliseconds())
}

/// The most memory that this process has had.
fn peak_kib() -> anyhow::Result<u64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).context("no VmHWM")?;
    Ok(line.trim().trim_end_matches(" kB").parse()?)
}
