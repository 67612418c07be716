//! Observations made only while the engine requests them: the user stacks that open sockets, and
//! the processes that close connections first.
//!
//! The kernel side reads the requests from a map. A stack is put into words once, while its process
//! lives, and kept as long as its socket stays.

use std::{collections::HashMap, sync::Arc};

use aya::maps::{Array, HashMap as BpfHashMap, MapData};
use tcpwatch_common::{Focus as WireFocus, OpeningStack};

use super::{
    code::Code,
    lru::LruTable,
    records::{Copied, Seen},
    symbols::Symbols,
};
use crate::facts::{Focus, Role, TableUse};

/// Stacks put into words in one inventory: each takes a process, and seconds where the symbols are
/// out of the ordinary. A leak has one, or a few; the others wait for a later inventory.
const NEW_STACKS: usize = 4;
/// Stacks remembered. Beyond that they are put into words again.
const KNOWN_STACKS: usize = 256;

pub(super) struct CloseLook {
    focus: Array<MapData, WireFocus>,
    /// Namespaces whose closers are counted.
    closers_in: BpfHashMap<MapData, u64, u8>,
    stacks: LruTable<u64, OpeningStack>,
    symbols: Option<Symbols>,
    requested: Focus,
    /// Of the sockets that the last inventory saw, by address and inode number.
    of_socket: HashMap<(u64, u64), Words>,
    /// By process and return addresses.
    known: HashMap<(u32, Vec<u64>), Words>,
}

type Words = Arc<[String]>;

impl CloseLook {
    pub(super) fn new(
        (focus, closers_in): (Array<MapData, WireFocus>, BpfHashMap<MapData, u64, u8>),
        stacks: LruTable<u64, OpeningStack>,
        symbols: Option<Symbols>,
    ) -> Self {
        Self {
            focus,
            closers_in,
            stacks,
            symbols,
            requested: Focus::default(),
            of_socket: HashMap::new(),
            known: HashMap::new(),
        }
    }

    /// How full the table of stacks was when it was read last.
    pub(super) fn table_use(&self) -> TableUse {
        self.stacks.table_use()
    }

    /// Gives the kernel side the requests that apply from now on.
    pub(super) fn request(&mut self, focus: &Focus) {
        let before = std::mem::replace(&mut self.requested, focus.clone());
        let answers = !focus.answers.is_empty();
        if before.stacks_of == focus.stacks_of
            && before.closers_in == focus.closers_in
            && before.answers.is_empty() != answers
        {
            return;
        }
        for gone in before.closers_in.difference(&focus.closers_in) {
            // One that is not there need not go.
            let _ = self.closers_in.remove(gone);
        }
        for new in focus.closers_in.difference(&before.closers_in) {
            if let Err(error) = self.closers_in.insert(new, 0, 0) {
                tracing::debug!(%error, "cannot request closers");
            }
        }
        let mut wire = WireFocus {
            closers: u32::from(!focus.closers_in.is_empty()),
            answers: u32::from(answers),
            ..WireFocus::default()
        };
        for (place, &pid) in wire.stacks_of.iter_mut().zip(&focus.stacks_of) {
            *place = pid;
        }
        if let Err(error) = self.focus.set(0, wire, 0) {
            tracing::debug!(%error, "cannot request stacks");
        }
        if focus.stacks_of.is_empty() {
            self.stacks.clear();
            self.known.clear();
        }
    }

    /// Gives the sockets of the inventory their stacks.
    pub(super) fn name_stacks(&mut self, copied: &mut [Copied]) {
        if self.requested.stacks_of.is_empty() && self.of_socket.is_empty() {
            return;
        }
        let recorded = self.stacks.read();
        let mut of_socket = HashMap::new();
        let mut codes = HashMap::new();
        let mut new_stacks = 0;
        for copied in copied {
            for Seen { fact: socket, inode, .. } in &mut copied.close_wait {
                let key = (socket.id, *inode);
                let words = self.of_socket.get(&key).cloned().or_else(|| {
                    let stack = recorded.get(&socket.id)?;
                    let owner = socket.owner.as_ref()?.process.pid;
                    let is_client = socket.role == Role::Client;
                    // The address may have been another socket's before.
                    if stack.tgid != owner || (stack.is_client == 1) != is_client {
                        return None;
                    }
                    let code = codes.entry(owner).or_insert_with(|| Code::of(owner)).as_ref()?;
                    self.words_of(owner, code, stack, &mut new_stacks)
                });
                if let Some(words) = words {
                    socket.stack = Some(Arc::clone(&words));
                    of_socket.insert(key, words);
                }
            }
        }
        self.of_socket = of_socket;
    }

    fn words_of(
        &mut self,
        pid: u32,
        code: &Code,
        stack: &OpeningStack,
        new_stacks: &mut usize,
    ) -> Option<Words> {
        let key = (pid, code.return_addresses(stack));
        if let Some(words) = self.known.get(&key) {
            return Some(Arc::clone(words));
        }
        if key.1.is_empty() || *new_stacks >= NEW_STACKS {
            return None;
        }
        *new_stacks += 1;
        let words: Words = self.symbols.as_mut()?.describe(pid, code, &key.1)?.into();
        if self.known.len() >= KNOWN_STACKS {
            self.known.clear();
        }
        self.known.insert(key, Arc::clone(&words));
        Some(words)
    }
}
