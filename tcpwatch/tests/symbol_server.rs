//! The symbol server against files that are made to harm their reader: the reader of one
//! request fails, the server answers the next.

mod support;

use std::{
    fs::{self, File},
    io::{IoSlice, Write},
    mem::MaybeUninit,
    os::fd::{AsFd, OwnedFd},
    process::{Child, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use rustix::net::{
    AddressFamily, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags,
    SocketType, recv, sendmsg, socketpair,
    sockopt::{Timeout, set_socket_timeout},
};
use serde_json::{Value, json};
use support::{Folder, poll, tcpwatch, within};

const MIB: usize = 1 << 20;

struct Server {
    socket: OwnedFd,
    child: Child,
}

impl Server {
    fn start() -> Result<Self> {
        let (socket, other) =
            socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
        set_socket_timeout(&socket, Timeout::Recv, Some(within(Duration::from_secs(10))))?;
        let child = tcpwatch().arg("symbols").stdin(Stdio::from(other)).spawn()?;
        Ok(Self { socket, child })
    }

    /// The names that it answers for these places in these files.
    fn query(&self, id: u64, places: &[Value], files: &[&File]) -> Result<Value> {
        let request = serde_json::to_vec(&json!({ "id": id, "places": places }))?;
        let files: Vec<_> = files.iter().map(|file| file.as_fd()).collect();
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(4))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        control.push(SendAncillaryMessage::ScmRights(&files));
        sendmsg(&self.socket, &[IoSlice::new(&request)], &mut control, SendFlags::NOSIGNAL)?;
        let mut bytes = vec![0; 64 * 1024];
        let (length, _) = recv(&self.socket, &mut bytes[..], RecvFlags::empty())?;
        let mut answer: Value = serde_json::from_slice(&bytes[..length])?;
        ensure!(answer["id"] == id, "{answer}");
        Ok(answer["names"].take())
    }

    /// It still does what it is for.
    fn must_work(&self, folder: &Folder) -> Result<()> {
        let map = folder.write("good.map", "1000 20 Main.run\n")?;
        let map = File::open(map)?;
        let names = self.query(99, &[in_perf_map(0x1004), in_elf(0)], &[&map])?;
        assert_eq!(names, json!([["Main.run", 4], null]));
        Ok(())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Both fail only if it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn in_perf_map(address: u64) -> Value {
    json!({ "PerfMap": { "file": 0, "address": address } })
}

fn in_elf(offset: u64) -> Value {
    json!({ "Elf": { "file": 0, "offset": offset } })
}

#[test]
fn a_file_that_takes_too_much_memory_ends_its_reader_only() -> Result<()> {
    let folder = Folder::new()?;
    let server = Server::start()?;
    let path = folder.path.join("long.map");
    let mut file = File::create(&path)?;
    file.write_all(b"1000 20 ")?;
    file.write_all(&vec![b'a'; 64 * MIB])?;
    let names = server.query(1, &[in_perf_map(0x1000)], &[&File::open(&path)?])?;
    assert_eq!(names, Value::Null);
    server.must_work(&folder)
}

#[test]
fn a_file_that_takes_too_much_time_ends_its_reader_only() -> Result<()> {
    let folder = Folder::new()?;
    let server = Server::start()?;
    let path = folder.path.join("many.map");
    fs::write(&path, b"1 1 a\n".repeat(16 * MIB))?;
    let places = vec![in_perf_map(0x1000); 200];
    let began = Instant::now();
    let names = server.query(1, &places, &[&File::open(&path)?])?;
    assert_eq!(names, Value::Null);
    assert!(began.elapsed() < within(Duration::from_secs(5)), "{:?}", began.elapsed());
    server.must_work(&folder)
}

#[test]
fn files_that_cannot_be_mapped_name_nothing() -> Result<()> {
    let folder = Folder::new()?;
    let server = Server::start()?;
    let sparse = File::create_new(folder.path.join("sparse"))?;
    sparse.set_len(1 << 40)?;
    let strange = [
        File::open("/dev/null")?,
        File::open("/dev/zero")?,
        File::open(&folder.path)?,
        File::open(folder.write("empty", "")?)?,
        File::open(folder.write("garbage", "\u{7f}ELF\u{2}\u{1}\u{1}garbage")?)?,
        sparse,
    ];
    for (id, file) in (1..).zip(&strange) {
        let names = server.query(id, &[in_elf(64), in_perf_map(64)], &[file])?;
        assert_eq!(names, json!([null, null]), "{file:?}");
    }
    server.must_work(&folder)
}

#[test]
fn the_server_ends_when_the_agent_does_and_not_by_a_signal_to_its_group() -> Result<()> {
    let folder = Folder::new()?;
    let mut server = Server::start()?;
    server.must_work(&folder)?;
    let pid = libc::pid_t::try_from(server.child.id())?;
    for signal in [libc::SIGHUP, libc::SIGINT, libc::SIGTERM] {
        // SAFETY: takes no pointer; the child is ours and not reaped yet.
        ensure!(unsafe { libc::kill(pid, signal) } == 0, "cannot signal {pid}");
    }
    server.must_work(&folder)?;
    let (unused, _) =
        socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
    drop(std::mem::replace(&mut server.socket, unused));
    let status = poll("the server to end", || Ok(server.child.try_wait()?))?;
    assert!(status.success(), "{status}");
    Ok(())
}

#[test]
fn without_a_socket_it_ends_with_one_line() -> Result<()> {
    let output = tcpwatch().arg("symbols").stdin(Stdio::null()).output()?;
    let said = String::from_utf8(output.stderr).context("plain text")?;
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert_eq!(said.lines().count(), 1, "{said}");
    Ok(())
}
