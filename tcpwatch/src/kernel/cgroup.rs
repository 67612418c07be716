//! Systemd unit, container or pod of a process, read from its cgroups.
//!
//! A unit counts only where the host's own service manager has made it. As in systemd's
//! `cg_path_get_unit`, that is the first part of the path after the slices: whatever lies below
//! belongs to the unit, or to a manager of its own (LXC, nspawn, a user's). Several hierarchies are
//! read, because a runtime may use any of them: below cgroup v1 and on hybrid hosts a container is
//! often in one and not in the other.

use std::{
    borrow::Cow,
    fs,
    path::{Path, PathBuf},
    thread,
};

use rustix::{
    fd::AsFd,
    thread::{LinkNameSpaceType, move_into_link_name_space},
};

use crate::facts::{is_container_name, is_unit, short_id};

/// Length of a container's id: 32 random bytes in hexadecimal.
const ID: usize = 64;

/// Length of a task's id of ECS on Fargate, which names its containers too.
const TASK_ID: usize = 32;

/// The first cgroup namespace, which has the same number on every kernel (`PROC_CGROUP_INIT_INO`,
/// include/linux/proc_ns.h).
const FIRST: &str = "cgroup:[4026531835]";

/// The hierarchies in which systemd keeps its units: its own, then that of cgroup v1.
const OF_SYSTEMD: [&str; 2] = ["", "name=systemd"];

/// The unit, else the container (else pod) that `/proc/PID/cgroup` names.
#[must_use]
pub fn parse_cgroup(text: &str) -> (Option<String>, Option<String>) {
    Roots::default().parse(text)
}

/// Where the agent's cgroup namespace begins in that of pid 1, for each hierarchy. Empty where both
/// are the same. Else the agent is in a container and sees `/../nginx.service` where pid 1 sees
/// `/system.slice/nginx.service`.
#[derive(Clone, Debug, Default)]
pub(super) struct Roots(Vec<(String, String)>);

impl Roots {
    /// Looks once. Where a root cannot be read, a path with `..` gets no unit.
    pub(super) fn read() -> Self {
        let Some(outer) = outer_namespace() else { return Self::default() };
        let Ok(own) = fs::read_to_string("/proc/self/cgroup") else { return Self::default() };
        // A thread of its own: it changes its namespace for good.
        let seen = thread::spawn(move || {
            let namespace = fs::File::open(outer)?;
            move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::ControlGroup))?;
            fs::read_to_string("/proc/thread-self/cgroup")
        });
        match seen.join() {
            Ok(Ok(seen)) => Self::between(&own, &seen),
            _ => Self::default(),
        }
    }

    /// `own` is what a process sees of itself, `seen` what pid 1 sees of it.
    fn between(own: &str, seen: &str) -> Self {
        let root = |(controllers, inner): (&str, &str)| {
            let (_, outer) = hierarchies(seen).find(|(other, _)| *other == controllers)?;
            let root = outer.strip_suffix(inner.trim_end_matches('/'))?;
            Some((controllers.to_owned(), root.trim_end_matches('/').to_owned()))
        };
        Self(hierarchies(own).filter_map(root).collect())
    }

    /// The path as pid 1 sees it.
    fn resolve<'a>(&self, controllers: &str, path: &'a str) -> Cow<'a, str> {
        let root = self.0.iter().find(|(other, _)| other == controllers);
        let Some((_, root)) = root.filter(|(_, root)| !root.is_empty()) else { return path.into() };
        let mut parts: Vec<&str> = root.split('/').collect();
        let mut below = path;
        while let Some(above) = below.strip_prefix("/..") {
            parts.pop();
            below = above;
        }
        format!("{}{below}", parts.join("/")).into()
    }

    /// See [`parse_cgroup`].
    pub(super) fn parse(&self, text: &str) -> (Option<String>, Option<String>) {
        let mut paths: Vec<(&str, Cow<'_, str>)> = hierarchies(text)
            .map(|(controllers, path)| (controllers, self.resolve(controllers, path)))
            .collect();
        let is_of_systemd = |controllers: &str| OF_SYSTEMD.iter().position(|it| *it == controllers);
        paths.sort_by_key(|(controllers, _)| is_of_systemd(controllers).unwrap_or(usize::MAX));
        let container = paths.iter().find_map(|(_, path)| container_in(path));
        let container = container.or_else(|| paths.iter().find_map(|(_, path)| pod_in(path)));
        // One whose name is refused is a container still.
        let is_within = container.is_some()
            || paths.iter().any(|(_, path)| system_containers(path).next().is_some());
        if is_within {
            return (None, container);
        }
        let of_systemd = paths.iter().filter(|(it, _)| is_of_systemd(it).is_some());
        (of_systemd.filter_map(|(_, path)| unit_in(path)).next(), None)
    }
}

/// The cgroup namespace of pid 1, or the first one where pid 1 cannot be read; `None` where this
/// process is in it.
fn outer_namespace() -> Option<PathBuf> {
    let link = |path: &Path| fs::read_link(path).ok();
    let own = link(Path::new("/proc/self/ns/cgroup"))?;
    let of_pid_1 = PathBuf::from("/proc/1/ns/cgroup");
    if let Some(outer) = link(&of_pid_1) {
        return (outer != own).then_some(of_pid_1);
    }
    if own == Path::new(FIRST) {
        return None;
    }
    let processes = fs::read_dir("/proc").ok()?.flatten();
    let mut paths = processes.map(|process| process.path().join("ns/cgroup"));
    paths.find(|path| link(path).is_some_and(|outer| outer == Path::new(FIRST)))
}

/// Controllers and path of each line. The path of a cgroup that was removed ends in ` (deleted)`
/// (cgroup_proc_show of kernel/cgroup/cgroup.c).
fn hierarchies(text: &str) -> impl Iterator<Item = (&str, &str)> {
    text.lines().filter_map(|line| {
        let (_, fields) = line.split_once(':')?;
        let (controllers, path) = fields.split_once(':')?;
        Some((controllers, path.strip_suffix(" (deleted)").unwrap_or(path)))
    })
}

/// The unit of the host's service manager.
fn unit_in(path: &str) -> Option<String> {
    let mut parts = path.strip_prefix('/')?.split('/').skip_while(|part| part.ends_with(".slice"));
    let part = parts.next()?;
    // systemd escapes a unit that is named like a file of the cgroup (cg_escape).
    let unit = part.strip_prefix('_').unwrap_or(part);
    is_unit(unit).then(|| unit.to_owned())
}

/// The innermost container.
fn container_in(path: &str) -> Option<String> {
    let with_id =
        path.split('/').enumerate().filter_map(|(at, part)| Some((at, container_id(part)?)));
    let with_name = system_containers(path).filter(|(_, name)| is_container_name(name));
    with_id.chain(with_name).max_by_key(|(at, _)| *at).map(|(_, name)| name)
}

/// Containers with a service manager of their own, and which part of the path names each.
fn system_containers(path: &str) -> impl Iterator<Item = (usize, String)> {
    let parts: Vec<&str> = path.split('/').collect();
    (0..parts.len()).filter_map(move |at| {
        let before = at.checked_sub(1).and_then(|at| parts.get(at)).copied();
        Some((at, system_container(before, parts[at], parts.get(at + 1).copied())?))
    })
}

/// The name of a system container, by the part of the path that has it, with the parts before and
/// after it.
fn system_container(before: Option<&str>, part: &str, after: Option<&str>) -> Option<String> {
    // LXC: `lxc.payload.NAME`, before 4.0 `lxc.payload/NAME`, before 3.1 and in Proxmox `lxc/NAME`.
    // The processes below `lxc.monitor` are the host's.
    if let Some(name) = part.strip_prefix("lxc.payload.") {
        return Some(name.to_owned());
    }
    if matches!(before, Some("lxc" | "lxc.payload")) {
        return Some(part.to_owned());
    }
    // nspawn itself runs in the same unit, and is the host's.
    if after == Some("supervisor") {
        return None;
    }
    let nspawn = part.strip_prefix("systemd-nspawn@").and_then(|it| it.strip_suffix(".service"));
    if let Some(name) = nspawn {
        return Some(unescape(name));
    }
    // systemd-machined: nspawn and libvirt's LXC. A virtual machine is a process of the host.
    let machine = part.strip_prefix("machine-").and_then(|it| it.strip_suffix(".scope"))?;
    let machine = unescape(machine);
    if before != Some("machine.slice") || machine.starts_with("qemu-") {
        return None;
    }
    let of_libvirt = machine.strip_prefix("lxc-").and_then(|it| it.split_once('-'));
    Some(of_libvirt.map_or(machine.clone(), |(_, name)| name.to_owned()))
}

/// systemd writes `-` in a name as `\x2d`.
fn unescape(name: &str) -> String {
    name.replace(r"\x2d", "-")
}

/// `docker-<64 hex>.scope`, `cri-containerd-<64 hex>.scope`, `crio-…`, `libpod-…`,
/// `kubepods-….slice:cri-containerd:<64 hex>`, the bare 64 digits of cgroup v1, and on Fargate
/// `<32 hex>-<digits>`.
fn container_id(part: &str) -> Option<String> {
    let is_hex =
        |id: &str, length| id.len() == length && id.bytes().all(|byte| byte.is_ascii_hexdigit());
    let name = part.strip_suffix(".scope").unwrap_or(part);
    let last = name.rsplit(['-', ':']).next().unwrap_or(name);
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let id = match part.split_once('-') {
        _ if is_hex(last, ID) => last,
        Some((task, number)) if is_hex(task, TASK_ID) && is_number(number) => task,
        _ => return None,
    };
    short_id(id).map(str::to_owned)
}

/// `kubepods-burstable-pod1a2b….slice` or `pod1a2b-…`: the innermost pod.
fn pod_in(path: &str) -> Option<String> {
    path.rsplit('/').find_map(|part| {
        let name = part.strip_suffix(".slice").unwrap_or(part);
        let id = match name.rsplit_once("-pod") {
            Some((slices, id)) if slices.contains("kubepods") => id,
            _ => name.strip_prefix("pod")?,
        };
        let is_id = id.len() >= TASK_ID
            && id.bytes().all(|byte| byte.is_ascii_hexdigit() || matches!(byte, b'-' | b'_'));
        short_id(id).filter(|_| is_id).map(str::to_owned)
    })
}

#[cfg(test)]
mod tests;
