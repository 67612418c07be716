//! The standard `process_*` metrics of tcpwatch itself, names and units as Prometheus' own client
//! library for Go has them.
//!
//! The collector of the `prometheus` crate cuts processor time to whole seconds. A rate over a
//! minute of an agent that takes a thousandth of a core was 0 or 0.017 there.

use std::sync::LazyLock;

use procfs::{
    ProcResult,
    process::{LimitValue, Process},
};
use prometheus::proto::{self, MetricFamily, MetricType};

/// When this process started. Read once: the kernel moves its time of boot when the clock is set,
/// and that must not look like a restart.
static STARTED: LazyLock<Option<f64>> = LazyLock::new(|| {
    let stat = Process::myself().and_then(|process| process.stat()).ok()?;
    let boot = procfs::boot_time_secs().ok()?;
    Some(boot as f64 + stat.starttime as f64 / procfs::ticks_per_second() as f64)
});

/// The metrics of this process; values that /proc does not have are absent.
pub(super) fn collect() -> Vec<MetricFamily> {
    let Ok(process) = Process::myself() else { return Vec::new() };
    let mut families = Vec::new();
    let mut add = |name: &str, help: &str, kind, value: f64| {
        families.push(family(name, help, kind, value));
    };
    if let Ok(stat) = process.stat() {
        let ticks_per_second = procfs::ticks_per_second() as f64;
        add(
            "process_cpu_seconds_total",
            "Total user and system CPU time spent in seconds.",
            MetricType::COUNTER,
            (stat.utime + stat.stime) as f64 / ticks_per_second,
        );
        add(
            "process_resident_memory_bytes",
            "Resident memory size in bytes.",
            MetricType::GAUGE,
            stat.rss.saturating_mul(procfs::page_size()) as f64,
        );
        add(
            "process_virtual_memory_bytes",
            "Virtual memory size in bytes.",
            MetricType::GAUGE,
            stat.vsize as f64,
        );
        add(
            "process_threads",
            "Number of OS threads in the process.",
            MetricType::GAUGE,
            stat.num_threads as f64,
        );
    }
    if let Some(started) = *STARTED {
        add(
            "process_start_time_seconds",
            "Start time of the process since unix epoch in seconds.",
            MetricType::GAUGE,
            started,
        );
    }
    if let Ok(open) = open_files(&process) {
        add("process_open_fds", "Number of open file descriptors.", MetricType::GAUGE, open as f64);
    }
    if let Ok(limits) = process.limits() {
        add(
            "process_max_fds",
            "Maximum number of open file descriptors.",
            MetricType::GAUGE,
            bytes(limits.max_open_files.soft_limit),
        );
        add(
            "process_virtual_memory_max_bytes",
            "Maximum amount of virtual memory available in bytes.",
            MetricType::GAUGE,
            bytes(limits.max_address_space.soft_limit),
        );
    }
    families
}

/// Without the descriptor that counts them.
fn open_files(process: &Process) -> ProcResult<usize> {
    Ok(process.fd_count()?.saturating_sub(1))
}

/// The client for Go shows RLIM_INFINITY for a limit that is none.
fn bytes(limit: LimitValue) -> f64 {
    match limit {
        LimitValue::Value(limit) => limit as f64,
        LimitValue::Unlimited => u64::MAX as f64,
    }
}

fn family(name: &str, help: &str, kind: MetricType, value: f64) -> MetricFamily {
    let mut metric = proto::Metric::default();
    if kind == MetricType::COUNTER {
        let mut counter = proto::Counter::default();
        counter.set_value(value);
        metric.set_counter(counter);
    } else {
        let mut gauge = proto::Gauge::default();
        gauge.set_value(value);
        metric.set_gauge(gauge);
    }
    let mut family = MetricFamily::default();
    family.set_name(name.to_owned());
    family.set_help(help.to_owned());
    family.set_field_type(kind);
    family.set_metric(vec![metric]);
    family
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, time::Duration};

    use rustix::time::{ClockId, clock_gettime};

    use super::collect;

    fn values() -> BTreeMap<String, f64> {
        let value = |metric: &prometheus::proto::Metric| {
            metric.get_counter().get_value() + metric.get_gauge().get_value()
        };
        let families = collect();
        families.iter().map(|f| (f.name().to_owned(), value(&f.get_metric()[0]))).collect()
    }

    fn processor_time() -> f64 {
        let time = clock_gettime(ClockId::ProcessCPUTime);
        Duration::new(time.tv_sec.unsigned_abs(), time.tv_nsec.unsigned_abs() as u32).as_secs_f64()
    }

    #[test]
    fn every_standard_metric_is_there() {
        // The time is in whole hundredths.
        while processor_time() < 0.02 {
            std::hint::black_box(vec![0_u8; 4_096]);
        }
        let values = values();
        let names: Vec<&str> = values.keys().map(String::as_str).collect();
        let expected = [
            "process_cpu_seconds_total",
            "process_max_fds",
            "process_open_fds",
            "process_resident_memory_bytes",
            "process_start_time_seconds",
            "process_threads",
            "process_virtual_memory_bytes",
            "process_virtual_memory_max_bytes",
        ];
        assert_eq!(names, expected);
        assert!(values.values().all(|value| *value > 0.0), "{values:?}");
    }

    /// The kernel's own clock of this process lies between two readings.
    #[test]
    fn processor_time_is_that_of_the_kernel_to_a_hundredth() {
        // Work, until a part of a second is used that is no whole one.
        while processor_time().fract() < 0.2 || processor_time().fract() > 0.8 {
            std::hint::black_box(vec![0_u8; 4_096]);
        }
        // Ticks are whole hundredths, and one may be under way in each of utime and stime.
        const TICKS: f64 = 0.02;
        let before = processor_time();
        let read = values()["process_cpu_seconds_total"];
        let after = processor_time();
        assert!(read >= before - TICKS && read <= after + TICKS, "{before} {read} {after}");
    }
}
