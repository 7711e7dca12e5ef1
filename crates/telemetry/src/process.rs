//! What the process itself uses, under the names that every Prometheus client library has for it.
//!
//! Linux tells it in /proc; what cannot be read there is left out.

use crate::exposition::Family;

/// Clock ticks a second in /proc, fixed by the kernel's interface to programs.
const TICKS: f64 = 100.0;
/// Bytes of a page on the machines that there are; `statm` counts in them.
const PAGE: f64 = 4096.0;

/// The process's metrics as of now.
#[must_use]
pub fn families() -> Vec<Family> {
    let read = |file: &str| std::fs::read_to_string(format!("/proc/self/{file}")).unwrap_or_default();
    let mut all = of(&read("stat"), &read("statm"), boot_time());
    if let Ok(open) = std::fs::read_dir("/proc/self/fd") {
        // The one that reads them is among them.
        let count = open.count().saturating_sub(1);
        all.push(Family::gauge("process_open_fds", "Number of open file descriptors.").with(count as f64));
    }
    if let Some(limit) = max_fds(&read("limits")) {
        all.push(Family::gauge("process_max_fds", "Maximum number of open file descriptors.").with(limit));
    }
    all
}

fn boot_time() -> Option<f64> {
    let stat = std::fs::read_to_string("/proc/stat").ok()?;
    stat.lines().find_map(|line| line.strip_prefix("btime ")?.trim().parse().ok())
}

fn of(stat: &str, statm: &str, boot: Option<f64>) -> Vec<Family> {
    // The program's name may hold anything, so what follows its last bracket is counted: state is field 3 (proc(5)).
    let fields: Vec<&str> = stat.rsplit_once(')').map_or(Vec::new(), |(_, rest)| rest.split_whitespace().collect());
    let field = |number: usize| fields.get(number - 3).and_then(|text| text.parse::<f64>().ok());
    let mut all = Vec::new();
    let mut add = |family: Family, value: Option<f64>| all.extend(value.map(|value| family.with(value)));
    let cpu = field(14).zip(field(15)).map(|(user, system)| (user + system) / TICKS);
    add(Family::counter("process_cpu_seconds", "Total user and system CPU time spent in seconds."), cpu);
    let resident = statm.split_whitespace().nth(1).and_then(|pages| pages.parse::<f64>().ok());
    let resident = resident.map(|pages| pages * PAGE);
    add(Family::gauge("process_resident_memory_bytes", "Resident memory size in bytes."), resident);
    add(Family::gauge("process_virtual_memory_bytes", "Virtual memory size in bytes."), field(23));
    add(Family::gauge("process_threads", "Number of threads."), field(20));
    let started = boot.zip(field(22)).map(|(boot, ticks)| boot + ticks / TICKS);
    let help = "Start time of the process since unix epoch in seconds.";
    add(Family::gauge("process_start_time_seconds", help), started);
    all
}

fn max_fds(limits: &str) -> Option<f64> {
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    line.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exposition::{Format, render};

    #[test]
    fn the_fields_are_the_right_ones_whatever_the_program_is_called() {
        let stat =
            "42 (a) b (c)) S 1 42 42 0 -1 4194304 9 8 7 6 150 50 0 0 20 0 5 0 1000 4096000 77 18446744073709551615";
        let text = render(&of(stat, "1000 10 5 1 0 3 0", Some(1_700_000_000.0)), Format::Prometheus);
        for line in [
            "process_cpu_seconds_total 2\n",
            "process_resident_memory_bytes 40960\n",
            "process_virtual_memory_bytes 4096000\n",
            "process_threads 5\n",
            "process_start_time_seconds 1700000010\n",
        ] {
            assert!(text.contains(line), "{text}\nlacks {line}");
        }
        assert_eq!(max_fds("Max cpu time unlimited\nMax open files            1024   4096 files\n"), Some(1024.0));
    }

    #[test]
    fn this_process_uses_something() {
        let text = render(&families(), Format::Prometheus);
        assert!(text.contains("process_resident_memory_bytes ") && text.contains("process_open_fds "), "{text}");
    }
}
