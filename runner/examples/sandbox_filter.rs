//! The filter of system calls as it is installed, and what is to become of calls under it, for a machine on which this program does not
//! run: lines `program HEX` and `case NAME NUMBER ERRNO ARGUMENT...`. `sandbox_filter aarch64|x86_64 udp|no-udp`

use anyhow::bail;
use tendril_runner::sandbox::{Case, Processor, cases, programs_for};

fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let (processor, udp) = match words.as_slice() {
        ["aarch64", udp @ ("udp" | "no-udp")] => (Processor::Aarch64, *udp == "udp"),
        ["x86_64", udp @ ("udp" | "no-udp")] => (Processor::X86_64, *udp == "udp"),
        _ => bail!("sandbox_filter aarch64|x86_64 udp|no-udp"),
    };
    for program in programs_for(processor, udp)? {
        let hex: String = program.iter().map(|byte| format!("{byte:02x}")).collect();
        println!("program {hex}");
    }
    for Case { name, number, arguments, errno } in cases(processor, udp) {
        let Some(number) = number else { continue };
        let arguments: String = arguments.iter().map(|argument| format!(" {argument}")).collect();
        println!("case {name} {number} {errno}{arguments}");
    }
    Ok(())
}
