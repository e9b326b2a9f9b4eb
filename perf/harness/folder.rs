//! The directory that keeps what was measured: raw results as CSV, table and picture, the machine as
//! text.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::record::Record;
use super::refresh::{Cost, Refreshes};
use super::svg;
use super::usage::Usage;

/// Writes `raw.csv`, `facts.csv`, `refresh.csv`, `machine.txt`, `table.txt` and `picture.svg`.
pub fn write(record: &Record, directory: &Path, table: &str, machine: &str) {
    create_dir(directory);
    write_file(&directory.join("raw.csv"), &raw_csv(record));
    write_file(&directory.join("facts.csv"), &facts_csv(record));
    write_file(
        &directory.join("refresh.csv"),
        &refresh_csv(&record.refreshes),
    );
    write_file(&directory.join("machine.txt"), machine);
    write_file(&directory.join("table.txt"), table);
    write_file(&directory.join("picture.svg"), &svg::comparison(record));
}

fn raw_csv(record: &Record) -> String {
    let mut out = String::from(
        "repository,contestant,round,client,first_byte_us,total_us,bytes,\
         run_us,run_cpu_s,run_rss_anon_bytes,run_written_bytes\n",
    );
    for run in &record.runs {
        for (number, client) in run.clients.iter().enumerate() {
            let first = client.first.map(|first| first.as_micros().to_string());
            let cost = run.usage.filter(|_| number == 0).map(|usage| {
                let Usage {
                    cpu_s,
                    rss_anon_bytes,
                    written_bytes,
                } = usage;
                format!("{cpu_s:.2},{rss_anon_bytes},{written_bytes}")
            });
            // Writing to a String cannot fail.
            let _ = writeln!(
                out,
                "{},\"{}\",{},{number},{},{},{},{},{}",
                run.repository,
                run.contestant,
                run.round,
                first.unwrap_or_default(),
                client.total.as_micros(),
                client.bytes,
                run.wall.as_micros(),
                cost.unwrap_or_else(|| ",,".to_owned()),
            );
        }
    }
    out
}

fn facts_csv(record: &Record) -> String {
    let mut out = String::from("repository,what,value\n");
    for fact in &record.facts {
        // Writing to a String cannot fail.
        let _ = writeln!(out, "{},{},{}", fact.repository, fact.what, fact.value);
    }
    out
}

/// Every refresh of every repository.
pub fn refresh_csv(all: &[Refreshes]) -> String {
    let mut out = String::from(
        "repository,frames_bytes,case,round,cpu_s,written_bytes,pack_bytes,published_us,\
         encoded,reused\n",
    );
    for refreshes in all {
        let mut line = |case: &str, round: usize, cost: &Cost| {
            // Writing to a String cannot fail.
            let _ = writeln!(
                out,
                "{},{},\"{case}\",{round},{:.2},{},{},{},{},{}",
                refreshes.repository,
                refreshes.frames_bytes,
                cost.cpu_s,
                cost.written_bytes,
                cost.pack_bytes,
                cost.published.as_micros(),
                cost.encoded,
                cost.reused,
            );
        };
        line("first build", 0, &refreshes.first);
        for series in &refreshes.series {
            for (round, cost) in series.costs.iter().enumerate() {
                line(&series.name, round, cost);
            }
        }
    }
    out
}

/// What the machine and the programs on it are: no host name, no path.
pub fn machine_text(crate_root: &Path, work: &Path, nginx: Option<&str>) -> String {
    let mut out = String::new();
    let mut line = |what: &str, said: &str| out.push_str(&format!("{what}: {}\n", said.trim()));
    let tarpon = [
        "-C",
        &crate_root.to_string_lossy(),
        "describe",
        "--always",
        "--dirty",
    ]
    .map(str::to_owned);
    line("tarpon", &said("git", &tarpon));
    line("date", &said("date", &["-u", "+%F %H:%M UTC"]));
    line("kernel", &said("uname", &["-srm"]));
    // Decides, on loopback, about much of what sending costs.
    let congestion = std::fs::read_to_string("/proc/sys/net/ipv4/tcp_congestion_control");
    line(
        "congestion control of the system",
        congestion.unwrap_or_default().trim(),
    );
    line("rustc", &said("rustc", &["-V"]));
    line("git", &said("git", &["--version"]));
    line("zstd", &said("zstd", &["-V"]));
    line("nginx", nginx.unwrap_or("absent"));
    let work = work.to_string_lossy();
    line("file system", &said("stat", &["-f", "-c", "%T", &work]));
    let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    line("load average at start", &load);
    let memory = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    for wanted in memory.lines().take(3) {
        out.push_str(&format!("{wanted}\n"));
    }
    out.push('\n');
    out.push_str(&said("lscpu", &["--"; 0]));
    out
}

/// What a program prints; a word of excuse if it does not run.
fn said(program: &str, arguments: &[impl AsRef<std::ffi::OsStr>]) -> String {
    match Command::new(program).args(arguments).output() {
        Ok(output) => String::from_utf8_lossy(&output.stdout).into_owned(),
        Err(_) => format!("{program} does not run"),
    }
}

/// Today, as in the name of a record.
pub fn today() -> String {
    said("date", &["-u", "+%F"]).trim().to_owned()
}

/// Where records are kept.
pub fn directory(crate_root: &Path, name: &str) -> PathBuf {
    let records = crate_root.join("perf/record");
    records.join(format!("{}-{name}", today()))
}

/// Writes a file of a record.
pub fn write_file(path: &Path, text: &str) {
    fs::write(path, text).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
}

/// Makes the directory of a record.
pub fn create_dir(path: &Path) {
    fs::create_dir_all(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
}
