//! Paths as runtimes and service managers write them.

use super::*;

const ID: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
const SHORT: &str = "0123456789ab";
const POD: &str = "1a2b3c4d-5e6f-7a8b-9c0d-1e2f3a4b5c6d";
const POD_IN_SLICE: &str = "1a2b3c4d_5e6f_7a8b_9c0d_1e2f3a4b5c6d";

/// Result for a path.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Is<'a> {
    Unit(&'a str),
    Container(&'a str),
    Unnamed,
}

#[track_caller]
fn assert_is(text: &str, expected: Is<'_>) {
    assert_seen_by(&Roots::default(), text, expected);
}

#[track_caller]
fn assert_seen_by(roots: &Roots, text: &str, expected: Is<'_>) {
    let found = roots.parse(text);
    let found = match (found.0.as_deref(), found.1.as_deref()) {
        (Some(unit), None) => Is::Unit(unit),
        (None, Some(container)) => Is::Container(container),
        (None, None) => Is::Unnamed,
        both => panic!("{both:?} of {text}"),
    };
    assert_eq!(found, expected, "{text}");
}

#[test]
fn a_unit_is_the_first_part_below_the_slices() {
    for (path, expected) in [
        ("/system.slice/nginx.service", Is::Unit("nginx.service")),
        ("/system.slice/system-getty.slice/getty@tty1.service", Is::Unit("getty@tty1.service")),
        ("/system.slice/app.service/worker.slice/w1", Is::Unit("app.service")),
        ("/system.slice/app.service/inner.service", Is::Unit("app.service")),
        (r"/system.slice/a\x2db.service", Is::Unit(r"a\x2db.service")),
        ("/system.slice/_cpu.service", Is::Unit("cpu.service")),
        ("/system.slice/gone.service (deleted)", Is::Unit("gone.service")),
        ("/init.scope", Is::Unit("init.scope")),
        ("/user.slice/user-1000.slice/session-3.scope", Is::Unit("session-3.scope")),
        ("/nomad.slice/share.slice/8b2f7d0c.web.scope", Is::Unit("8b2f7d0c.web.scope")),
        (
            r"/machine.slice/machine-qemu\x2d1\x2dvm.scope/libvirt/emulator",
            Is::Unit(r"machine-qemu\x2d1\x2dvm.scope"),
        ),
        (
            "/machine.slice/systemd-nspawn@web.service/supervisor",
            Is::Unit("systemd-nspawn@web.service"),
        ),
        ("/lxc.monitor.web01", Is::Unnamed),
        ("/", Is::Unnamed),
        ("", Is::Unnamed),
        ("/system.slice", Is::Unnamed),
        ("/1", Is::Unnamed),
        ("/system.slice/-H.service", Is::Unnamed),
        ("/system.slice/*.service", Is::Unnamed),
        ("/a b/nginx.service", Is::Unnamed),
    ] {
        assert_is(&format!("0::{path}\n"), expected);
        assert_is(&format!("5:cpu:/\n1:name=systemd:{path}\n0::/\n"), expected);
    }
    assert_is("", Is::Unnamed);
    assert_is("garbage", Is::Unnamed);
}

#[test]
fn a_unit_of_a_users_manager_is_that_managers() {
    let user = "/user.slice/user-1000.slice/user@1000.service";
    for below in ["app.slice/nginx.service", "init.scope", "app.slice/app-ssh.scope", "x/y.service"]
    {
        assert_is(&format!("0::{user}/{below}"), Is::Unit("user@1000.service"));
    }
    let container = format!("0::{user}/user.slice/libpod-{ID}.scope/container");
    assert_is(&container, Is::Container(SHORT));
}

#[test]
fn a_unit_within_a_system_container_is_never_the_hosts() {
    for (path, name) in [
        ("/lxc.payload.web01/system.slice/nginx.service", "web01"),
        ("/lxc.payload/web01/system.slice/nginx.service", "web01"),
        ("/lxc/web01/system.slice/nginx.service", "web01"),
        ("/lxc/101/ns/system.slice/nginx.service", "101"),
        ("/lxc/101/ns/init.scope", "101"),
        ("/lxc.payload.project_web-1/init.scope", "project_web-1"),
        ("/machine.slice/machine-web.scope/payload/system.slice/nginx.service", "web"),
        (r"/machine.slice/machine-web\x2d01.scope/payload/init.scope", "web-01"),
        (r"/machine.slice/machine-lxc\x2d4711\x2dweb\x2d1.scope/system.slice/x.service", "web-1"),
        ("/machine.slice/systemd-nspawn@web.service/payload/system.slice/nginx.service", "web"),
        ("/machine.slice/systemd-nspawn@web.service", "web"),
        ("/user.slice/user-1000.slice/session-1.scope/lxc.payload.mine/init.scope", "mine"),
    ] {
        assert_is(&format!("0::{path}"), Is::Container(name));
        assert_is(&format!("1:name=systemd:{path}\n0::/"), Is::Container(name));
    }
    // A name that could be taken for a unit of the host is none.
    assert_is("0::/lxc.payload.nginx.service/init.scope", Is::Unnamed);
    assert_is("0::/lxc.payload.\u{1b}[2J/system.slice/x.service", Is::Unnamed);
    assert_is("0::/lxc.payload/system.slice/x.service", Is::Unnamed);
}

#[test]
fn containers_and_pods_have_their_short_id() {
    let slice = format!("kubepods-burstable-pod{POD_IN_SLICE}.slice");
    for path in [
        format!("/system.slice/docker-{ID}.scope"),
        format!("/system.slice/docker-{ID}.scope/system.slice/nginx.service"),
        format!("/docker/{ID}"),
        format!("/docker/{ID}/system.slice/nginx.service"),
        format!("/kubepods.slice/kubepods-burstable.slice/{slice}/cri-containerd-{ID}.scope"),
        format!("/kubepods.slice/{slice}/crio-{ID}.scope/container"),
        format!("/kubepods/burstable/pod{POD}/{ID}"),
        format!("/system.slice/containerd.service/{slice}:cri-containerd:{ID}"),
        format!("/machine.slice/libpod-{ID}.scope/container"),
        format!("/ecs/0123456789abcdef0123456789abcdef/{ID}"),
        "/ecs/0123456789abcdef0123456789abcdef/0123456789abcdef0123456789abcdef-1234567890".into(),
        // kind: a node that is a container itself.
        format!(
            "/docker/{}/kubelet.slice/kubelet-{slice}/cri-containerd-{ID}.scope",
            "f".repeat(64)
        ),
        format!("/lxc.payload.web01/system.slice/docker-{ID}.scope"),
    ] {
        assert_is(&format!("0::{path}"), Is::Container(SHORT));
        assert_is(&format!("1:name=systemd:{path}\n0::/"), Is::Container(SHORT));
    }
    assert_is(&format!("0::/kubepods.slice/{slice}"), Is::Container("1a2b3c4d_5e6"));
    assert_is(&format!("0::/kubepods/besteffort/pod{POD}"), Is::Container("1a2b3c4d-5e6"));
    assert_is(&format!("0::/kubelet.slice/kubelet-{slice}/x"), Is::Container("1a2b3c4d_5e6"));
}

#[test]
fn a_container_counts_in_whichever_hierarchy_it_is() {
    // Hybrid: the unified one still has the unit of the runtime's shim.
    let text = format!("1:name=systemd:/docker/{ID}\n0::/system.slice/containerd.service\n");
    assert_is(&text, Is::Container(SHORT));
    // Without systemd, OpenRC say, only the controllers' have it.
    assert_is(&format!("12:pids:/docker/{ID}\n2:cpu,cpuacct:/docker/{ID}\n"), Is::Container(SHORT));
    assert_is("3:cpuset:/system.slice/x.service\n", Is::Unnamed);
    let text =
        "1:name=systemd:/lxc/101/ns/system.slice/nginx.service\n0::/system.slice/lxc.service";
    assert_is(text, Is::Container("101"));
}

#[test]
fn from_within_a_container_paths_are_those_of_pid_1() {
    let own = format!("/system.slice/docker-{ID}.scope");
    let roots = Roots::between("0::/\n", &format!("0::{own}\n"));
    assert_seen_by(&roots, "0::/../nginx.service", Is::Unit("nginx.service"));
    assert_seen_by(&roots, "0::/../../init.scope", Is::Unit("init.scope"));
    assert_seen_by(&roots, "0::/", Is::Container(SHORT));
    assert_seen_by(&roots, "0::/system.slice/nginx.service", Is::Container(SHORT));
    let lxc = "0::/../../lxc.payload.web01/system.slice/nginx.service";
    assert_seen_by(&roots, lxc, Is::Container("web01"));

    // A sibling below a user's manager is not the host's, whatever it is called.
    let user = "/user.slice/user-1000.slice/user@1000.service";
    let seen = format!("0::{user}/app.slice/box.scope/deep\n");
    let roots = Roots::between("0::/deep\n", &seen);
    assert_seen_by(&roots, "0::/../nginx.service", Is::Unit("user@1000.service"));
    assert_seen_by(&roots, "0::/../../../../../system.slice/a.service", Is::Unit("a.service"));

    // Nothing is guessed where the place of this process is not known.
    for path in ["/../nginx.service", "/../../nginx.service", "/../../system.slice/nginx.service"] {
        assert_is(&format!("0::{path}"), Is::Unnamed);
    }
    assert_is(&format!("0::/../docker-{ID}.scope"), Is::Container(SHORT));
}
