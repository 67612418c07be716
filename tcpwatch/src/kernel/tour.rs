//! The way through all namespaces, by either walk; the other parts of the walker do not know which.
//!
//! The one pass, where it loads, sees every namespace at once. Else the calling thread
//! enters each namespace that is found, and the iterator shows the sockets there. Both count and copy
//! up the same, for the kernel side judges by the same code.

use std::{
    collections::HashMap,
    os::fd::AsFd,
    sync::{Arc, atomic::Ordering},
};

use tcpwatch_common::{
    BUSY_DESTINATIONS, Destination, Found, NamespaceRecord, NamespaceWalk, SocketRecord, Walk,
};

use super::{
    Scope, Walker, bpf,
    clock::now,
    error::InventoryError,
    limits,
    namespaces::{self, FoundNamespace},
    one_pass::{self, OnePass, Purpose},
    process::container_of,
    reach::{LeftOut, Step},
    records::{CloseWaitLimits, Copied},
    settings::{self, Settings},
    walk::read_records,
};
use crate::facts::{Namespace, NetnsId, NotSeen, PortUse, TimeWaitUse, Unseen};

/// Described sockets of the requested ports, in each namespace: enough to see every kind of
/// holder, for listeners come first.
const PORT_HOLDERS: u32 = 256;

/// Described sockets that take ports of busy destinations, in each namespace: as many as eight
/// destinations give (`DESTINATION_USERS`).
const PORT_USERS: u32 = 1_024;
/// Sockets with pinned ports that are described where these are many, in each namespace: a share is
/// known within 6 %.
const PINNED_USERS: u32 = 256;

impl Walker {
    /// Walks every namespace, and lists those that could not be walked.
    pub(super) fn tour(&mut self) -> Result<(Vec<Copied>, Vec<NotSeen>), InventoryError> {
        self.come_home()?;
        match self.one_pass.take() {
            None => self.tour_one_by_one(),
            Some(mut pass) => {
                let toured = self.tour_at_once(&mut pass);
                // One that ended in an error has had its cost too.
                pass.add_cost(&mut self.passes);
                self.one_pass = Some(pass);
                toured
            }
        }
    }

    fn tour_at_once(
        &mut self,
        pass: &mut OnePass,
    ) -> Result<(Vec<Copied>, Vec<NotSeen>), InventoryError> {
        let home = Arc::clone(&self.home);
        let (found, mut hidden) = namespaces::list(&home, self.scope);
        if !hidden.is_empty() {
            let known = found.iter().filter_map(FoundNamespace::identity);
            for identity in known.chain(namespaces::identity("thread-self")) {
                hidden.remove(&identity);
            }
        }
        let mut left_out = LeftOut::default();
        for (pid, error) in hidden.values() {
            left_out.add(Step::Name, Some(error), &container_of(*pid).unwrap_or_default());
        }
        let found: HashMap<u32, &FoundNamespace> =
            found.iter().chain([&*home]).map(|it| (it.inode, it)).collect();
        let mut records = pass.list(&self.stop)?;
        // The kernel's list begins with the initial namespace: each is added at its end, and that one is
        // never removed (`setup_net`, net/core/net_namespace.c, 6.1 to 7.3).
        self.reach.host_netns_is(records.first().map(|it| it.inode));
        if self.scope == Scope::Host {
            records.retain(|it| it.inode == home.inode);
        }
        // The agent's own comes first, as everywhere.
        records.sort_by_key(|it| (it.inode != home.inode, it.cookie));
        if records.first().is_none_or(|it| it.inode != home.inode) {
            return Err(InventoryError::TornList);
        }
        let limit = one_pass::entries() as usize;
        let beyond = records.len().saturating_sub(limit);
        records.truncate(limit);

        let mut settings = Vec::with_capacity(records.len());
        for record in &records {
            let reserved = pass.reserved_ports(&self.walk, record)?;
            settings.push(Settings::of(record, reserved));
        }
        self.begin_walk();
        self.walk.set(0, *self.scratch, 0)?;
        let entries = records.iter().zip(&settings).enumerate();
        pass.look_at(entries.map(|(slot, (record, settings))| {
            (record.net, self.for_the_one_pass(slot, record, settings))
        }))?;

        let named = |record: &NamespaceRecord| found.get(&record.inode).copied();
        let mut copied: Vec<Copied> = Vec::with_capacity(records.len());
        for (record, settings) in records.iter().zip(&settings) {
            let id = self.ids.of_event(record.cookie, record.inode);
            let name = named(record).map(|it| Arc::clone(&it.name)).unwrap_or_default();
            copied.push(Copied::of(namespace_of(id, name, settings)));
        }
        let mut busy: HashMap<u32, Vec<Destination>> = HashMap::new();
        let mut left = self.close_wait_limit;
        let (all, ports) = (self.close_wait_limit, &self.focus.ports);
        pass.walk_tables(Purpose::Inventory, &records, &self.stop, |found| {
            let Some(copied) = copied.get_mut(found.slot as usize) else { return };
            if found.kind == Found::BUSY {
                let busy = busy.entry(found.slot).or_default();
                if busy.len() < BUSY_DESTINATIONS {
                    busy.push(destination_of(found));
                }
                return;
            }
            let before = copied.close_wait.len();
            copied.take(&found.socket, CloseWaitLimits::of(all, left + before), ports);
            left -= copied.close_wait.len() - before;
        })?;
        for (slot, copied) in copied.iter_mut().enumerate() {
            let slot = slot as u16;
            let busy = busy.remove(&slot.into()).unwrap_or_default();
            self.take_counted(copied, &pass.counted(slot)?, &busy, &settings[usize::from(slot)]);
        }
        let mut inodes = Vec::with_capacity(records.len());
        let mut of_namespaces = Vec::with_capacity(records.len());
        for record in &records {
            inodes.push(record.inode);
            of_namespaces.push(named(record));
        }
        self.read_counters(&mut copied, &of_namespaces, &mut left_out)?;
        let mut not_seen = self.reach.not_seen(&inodes);
        not_seen.extend(left_out.not_seen());
        if beyond > 0 {
            let why = format!("the table of namespaces is full ({limit})");
            let lost = format!("{beyond} network namespaces");
            not_seen.push(NotSeen::new(Unseen::Namespaces, lost, why).counted(beyond as u64));
        }
        Ok((copied, not_seen))
    }

    /// One namespace as the kernel side needs it.
    fn for_the_one_pass(
        &self,
        slot: usize,
        record: &NamespaceRecord,
        settings: &Settings,
    ) -> NamespaceWalk {
        NamespaceWalk {
            reserved_at: record.reserved_at,
            hash_mix: record.hash_mix,
            slot: u16::try_from(slot).expect("the list was cut at the limit of the table"),
            ..self.with_samples(settings.to_wire())
        }
    }

    fn with_samples(&self, namespace: NamespaceWalk) -> NamespaceWalk {
        NamespaceWalk {
            requested_left: if self.focus.ports.is_empty() { 0 } else { PORT_HOLDERS },
            users_left: PORT_USERS,
            pinned_left: PINNED_USERS,
            ..namespace
        }
    }

    fn tour_one_by_one(&mut self) -> Result<(Vec<Copied>, Vec<NotSeen>), InventoryError> {
        let host = Arc::clone(&self.home);
        let mut left = self.close_wait_limit;
        let mut copied = vec![self.walk_namespace(&host, &mut left)?];
        let (others, mut hidden) = namespaces::list(&host, self.scope);
        let mut left_out = LeftOut::default();
        let mut inodes = vec![host.inode];
        let forget_if_hidden = |hidden: &mut namespaces::Hidden| {
            // Hardly any host has one, and then it costs nothing.
            if !hidden.is_empty()
                && let Some(identity) = namespaces::identity("thread-self")
            {
                hidden.remove(&identity);
            }
        };
        forget_if_hidden(&mut hidden);
        for namespace in &others {
            if self.stop.load(Ordering::Relaxed) {
                return Err(InventoryError::Stopped);
            }
            let entered = namespace.enter().map_err(InventoryError::Namespace);
            self.away |= matches!(entered, Ok(true));
            let walked = match entered {
                Ok(true) => self.walk_namespace(namespace, &mut left).map(Some),
                Ok(false) => Ok(None),
                Err(error) => Err(error),
            };
            match walked {
                Ok(Some(walked)) => {
                    copied.push(walked);
                    inodes.push(namespace.inode);
                    forget_if_hidden(&mut hidden);
                }
                Ok(None) => {}
                Err(error) => {
                    tracing::debug!(netns = %crate::plain::text(&namespace.name), %error, "namespace left out");
                    match &error {
                        InventoryError::Namespace(error) => {
                            left_out.add(Step::Enter, Some(error), &namespace.name);
                            if let Some(identity) = namespace.identity() {
                                hidden.remove(&identity);
                            }
                        }
                        _ => left_out.add(Step::Walk, None, &namespace.name),
                    }
                }
            }
        }
        self.come_home()?;
        for (pid, error) in hidden.values() {
            left_out.add(Step::Find, Some(error), &container_of(*pid).unwrap_or_default());
        }
        let mut not_seen = self.reach.not_seen(&inodes);
        not_seen.extend(left_out.not_seen());
        Ok((copied, not_seen))
    }

    /// Walks the namespace that the calling thread is in. `left` is the number of sockets in
    /// CLOSE_WAIT that may still be described.
    fn walk_namespace(
        &mut self,
        handle: &FoundNamespace,
        left: &mut usize,
    ) -> Result<Copied, InventoryError> {
        let settings = Settings::read();
        let (conntrack, conntrack_invalid) = limits::read_conntrack("thread-self").unzip();
        let id = self.ids.of_thread(handle.inode);
        let mut copied = Copied::of(Namespace {
            netstat: settings::read_netstat("thread-self"),
            conntrack_invalid: conntrack_invalid.flatten(),
            conntrack,
            ..namespace_of(id, Arc::clone(&handle.name), &settings)
        });
        if !settings::has_tcp_sockets() {
            return Ok(copied);
        }
        self.begin_walk();
        self.scratch.namespace = self.with_samples(settings.to_wire());
        if let Some(reserved) = &settings.reserved_ports {
            self.scratch.reserved_ports = **reserved;
        }
        self.walk.set(0, *self.scratch, 0)?;
        let requested_ports = self.focus.ports.clone();
        let limits = CloseWaitLimits::of(self.close_wait_limit, *left);
        self.run(|record| copied.take(record, limits, &requested_ports))?;
        *left -= copied.close_wait.len();
        *self.scratch = self.walk.get(&0, 0)?;
        let counted = self.scratch.namespace;
        let busy_count = (counted.busy_count as usize).min(BUSY_DESTINATIONS);
        let busy = self.scratch.busy;
        self.take_counted(&mut copied, &counted, &busy[..busy_count], &settings);
        Ok(copied)
    }

    /// Makes the parameters of a walk that do not hang on a namespace, in `scratch`.
    fn begin_walk(&mut self) {
        self.generation = self.generation.wrapping_add(1).max(1);
        let walk = &mut *self.scratch;
        *walk = Walk::ZERO;
        walk.generation = self.generation;
        walk.now_ns = now().as_ns();
        for port in &self.focus.ports {
            walk.requested_ports[usize::from(port / 64)] |= 1 << (port % 64);
        }
    }

    /// Runs the walk to its end and hands on what it copies up.
    fn run(&mut self, each: impl FnMut(&SocketRecord)) -> Result<(), InventoryError> {
        // Opening it binds it to the calling thread's namespace, so each walk opens its own.
        let program = self.program.as_ref().ok_or(InventoryError::NoWalk)?;
        let mut file = bpf::open_walk(program.as_fd()).map_err(InventoryError::Open)?;
        read_records(&mut file, each)
    }
}

/// A namespace whose settings are known.
fn namespace_of(id: NetnsId, name: Arc<str>, settings: &Settings) -> Namespace {
    Namespace {
        id,
        name,
        time_wait: TimeWaitUse { used: 0, limit: settings.time_wait_limit },
        ports: PortUse {
            range: settings.port_range,
            available: settings.available_ports(),
            reserved: settings.reserved.clone(),
            tw_reuse: settings.tw_reuse,
            timestamps: settings.timestamps,
            ..PortUse::default()
        },
        syncookies: settings.syncookies,
        somaxconn: settings.somaxconn,
        abort_on_overflow: settings.abort_on_overflow,
        retries2: settings.retries2,
        orphan_retries: settings.orphan_retries,
        ..Namespace::default()
    }
}

/// A busy destination that was copied up.
fn destination_of(found: &Found) -> Destination {
    let tuple = &found.socket.tuple;
    Destination {
        local: tuple.local,
        peer: tuple.peer,
        peer_port: tuple.peer_port,
        slot: found.slot as u16,
    }
}
