//! An inventory against the tools that list or count sockets.

use std::{
    fs,
    io::{Read, Write},
    net::{Ipv4Addr, TcpStream},
    path::Path,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use scenes::{CloseWaitLeak, Established, Namespace, TimeWaits, half_open};

use super::{document::Section, median, next_inventory};
use crate::{agent::Agent, interrupt::Interrupt, tools};

/// Sockets of the inventory.
const SOCKETS: [usize; 5] = [10_000, 100_000, 300_000, 600_000, 1_000_000];
/// Of them in other states than TIME_WAIT: pairs of ESTABLISHED, CLOSE_WAIT, SYN_RECV.
const PAIRS: usize = 1_500;
const CLOSE_WAIT: usize = 1_000;
const SYN_RECV: u16 = 100;
/// Looks of each at most; TIME_WAIT lasts 60 s, so not for longer than [`LENGTH`].
const LOOKS: usize = 15;
const LENGTH: Duration = Duration::from_secs(22);

pub(super) fn inventory(binary: &Path, interrupt: &Interrupt) -> Result<Section> {
    tools::ensure_programs(&[
        ("ss", "iproute2"),
        ("prometheus-node-exporter", "prometheus-node-exporter"),
    ])?;
    let mut times = Vec::new();
    let mut memory = Vec::new();
    for sockets in SOCKETS {
        let (row, kib) = inventory_of(sockets, binary, interrupt)?;
        times.push(row);
        memory.push(kib);
    }
    let mut section = Section::new(
        "Inventory",
        &format!(
            "Sockets in a namespace of their own: {} in ESTABLISHED, {CLOSE_WAIT} in CLOSE_WAIT and as many in\n\
             FIN_WAIT2, {SYN_RECV} in SYN_RECV, the others in TIME_WAIT. The tools list that namespace only; the\n\
             inventory is of the whole host. `ss` writes to /dev/null; nine tenths of its time pass in its own\n\
             process. Medians of up to {LOOKS} turns within {} s; beside each the ratio to `ss -tan`.",
            2 * PAIRS,
            LENGTH.as_secs()
        ),
    );
    section.table(
        ["sockets", "inventory", "`ss -tan`", "/proc/net/tcp", "node_exporter's tcpstat", "turns"],
        &times,
    );
    section.say("Memory of the agent:");
    section.table(
        ["sockets", "RSS", "of it its own", "peak, the start included", "maps in the kernel"],
        &memory,
    );
    Ok(section)
}

fn inventory_of(
    sockets: usize,
    binary: &Path,
    interrupt: &Interrupt,
) -> Result<([String; 6], [String; 5])> {
    const QUICK: &str = "[inventory]\ncpu_share = 0.1\ninterval = \"200ms\"\n";
    let ns = Namespace::new("bench")?;
    let agent = Agent::start(binary, QUICK, interrupt)?;
    println!("making {sockets} sockets …");
    let _pairs = Established::make(&ns, PAIRS)?;
    let leak = CloseWaitLeak::server(&ns, CLOSE_WAIT, 8_000, false)?;
    half_open(&ns, SYN_RECV, 1, 8_000)?;
    let others = 2 * PAIRS + 2 * leak.count() + usize::from(SYN_RECV);
    TimeWaits::make_many(&ns, sockets - others, 9_000)?;
    let exporter = NodeExporter::start(&ns)?;
    let mut rows = Vec::new();
    let began = Instant::now();
    while rows.is_empty() || rows.len() < LOOKS && began.elapsed() < LENGTH {
        interrupt.check()?;
        rows.push([
            next_inventory(&agent, interrupt)?,
            ss(&ns)?,
            proc_net_tcp(&ns)?,
            exporter.scrape(&ns)?,
        ]);
    }
    let cell = |index: usize| {
        let ms = median(rows.iter().map(|row: &[f64; 4]| row[index])) * 1e3;
        let ratio = median(rows.iter().map(|row| row[index] / row[1]));
        if index == 1 { format!("{ms:.0} ms") } else { format!("{ms:.0} ms, {ratio:.2}") }
    };
    let mib = |field: &str| -> Result<String> {
        Ok(format!("{:.0} MiB", agent.memory_kib(field)? as f64 / 1024.0))
    };
    let maps = format!("{:.1} MiB", agent.maps_kib()? as f64 / 1024.0);
    let memory = [sockets.to_string(), mib("VmRSS")?, mib("RssAnon")?, mib("VmHWM")?, maps];
    agent.stop()?;
    let turns = rows.len().to_string();
    Ok(([sockets.to_string(), cell(0), cell(1), cell(2), cell(3), turns], memory))
}

/// Seconds of `ss -tan` in the namespace, its output thrown away.
pub(super) fn ss(ns: &Namespace) -> Result<f64> {
    let mut command = Command::new("ss");
    command.arg("-tan").stdout(Stdio::null());
    let began = Instant::now();
    let status = ns.enter(|| command.status())?.context("running ss")?;
    ensure!(status.success(), "ss: {status}");
    Ok(began.elapsed().as_secs_f64())
}

/// Seconds of reading /proc/net/tcp of the namespace.
fn proc_net_tcp(ns: &Namespace) -> Result<f64> {
    let began = Instant::now();
    let read = || fs::read("/proc/thread-self/net/tcp");
    ns.enter(read)?.context("reading /proc/thread-self/net/tcp")?;
    Ok(began.elapsed().as_secs_f64())
}

/// Its only collector counts sockets by state.
struct NodeExporter(Child);

impl NodeExporter {
    const PORT: u16 = 9_100;

    fn start(ns: &Namespace) -> Result<Self> {
        let mut command = Command::new("prometheus-node-exporter");
        command
            .args(["--collector.disable-defaults", "--collector.tcpstat"])
            .arg(format!("--web.listen-address=127.0.0.1:{}", Self::PORT))
            .stderr(Stdio::null());
        let exporter = Self(ns.spawn_in(&mut command)?);
        for _ in 0..100 {
            let connect = || TcpStream::connect((Ipv4Addr::LOCALHOST, Self::PORT));
            if ns.enter(connect)?.is_ok() {
                return Ok(exporter);
            }
            thread::sleep(Duration::from_millis(100));
        }
        anyhow::bail!("prometheus-node-exporter does not answer")
    }

    /// Seconds of a scrape.
    fn scrape(&self, ns: &Namespace) -> Result<f64> {
        let began = Instant::now();
        let answer = ns.enter(|| -> Result<String> {
            let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, Self::PORT))?;
            write!(stream, "GET /metrics HTTP/1.0\r\n\r\n")?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer)?;
            Ok(answer)
        })??;
        ensure!(answer.contains("node_tcp_connection_states"), "no states in the answer");
        Ok(began.elapsed().as_secs_f64())
    }
}

impl Drop for NodeExporter {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
