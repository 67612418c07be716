//! The loaded kernel side as descriptors: its maps, programs and links, by name.
//!
//! aya loads it and is gone. From then on these descriptors keep it: when the last one is closed,
//! nothing stays attached. They may come from another process that has loaded the same object.

use std::{
    any::Any,
    collections::BTreeMap,
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use aya::{
    Ebpf, Pod,
    maps::{Array, HashMap, Map, MapData, MapError},
    programs::{Program, ProgramError},
    sys::SyscallError,
};
use tcpwatch_common::{Answering, Closer, CloserUse, Focus, OpeningStack, maps, programs};

use super::{Hook, LoadError, bpf, error::one_line};

/// Descriptors by name.
type Descriptors = BTreeMap<String, OwnedFd>;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct KernelSide {
    pub(super) maps: Descriptors,
    pub(super) programs: Descriptors,
    pub(super) links: Descriptors,
}

/// Keeps the hooks attached while it lives.
pub struct Link(#[expect(dead_code, reason = "it is dropped, no more")] Box<dyn Any + Send>);

impl Link {
    /// Of whatever ends with the hooks.
    pub(super) fn new(kept: impl Any + Send) -> Self {
        Self(Box::new(kept))
    }
}

impl KernelSide {
    /// Keeps the maps of an object.
    ///
    /// # Errors
    ///
    /// Without descriptors to spare.
    pub(super) fn keep_maps(&mut self, ebpf: &Ebpf) -> Result<(), LoadError> {
        for (name, map) in ebpf.maps() {
            let Some(map) = data_of(map) else { continue };
            let map = map.fd().as_fd().try_clone_to_owned();
            let map = map.map_err(|error| LoadError::Object(one_line(&error)))?;
            self.maps.insert(name.to_owned(), map);
        }
        Ok(())
    }

    /// Keeps a loaded program, and attaches it to what it was loaded for.
    ///
    /// # Errors
    ///
    /// Without descriptors to spare, or where the kernel does not attach it.
    pub(super) fn keep_program(
        &mut self,
        name: &str,
        program: &Program,
        is_attached: bool,
    ) -> Result<(), ProgramError> {
        let of_call = |call| move |io_error| SyscallError { call, io_error };
        let program = program.fd()?.as_fd().try_clone_to_owned().map_err(of_call("dup"))?;
        if is_attached {
            let link = bpf::attach(program.as_fd()).map_err(of_call("BPF_RAW_TRACEPOINT_OPEN"))?;
            self.links.insert(name.to_owned(), link);
        }
        self.programs.insert(name.to_owned(), program);
        Ok(())
    }

    /// Whether the program is there.
    pub(super) fn has_program(&self, name: &str) -> bool {
        self.programs.contains_key(name)
    }

    /// Whether the hook's program is there, and attached where it always is.
    pub(super) fn has(&self, hook: &Hook) -> bool {
        self.has_program(hook.name)
            && (!hook.is_always_attached() || self.links.contains_key(hook.name))
    }

    /// Takes away what the process before had requested, as after a load.
    ///
    /// # Errors
    ///
    /// Where a map is missing or refuses it.
    pub(super) fn begin_again(&self) -> Result<(), LoadError> {
        let other = |error: MapError| LoadError::Object(one_line(&error));
        let mut focus: Array<MapData, Focus> = self.map(maps::FOCUS)?;
        focus.set(0, Focus::default(), 0).map_err(other)?;
        let mut armed: Array<MapData, u32> = self.map(maps::STREAMING)?;
        armed.set(0, 0, 0).map_err(other)?;
        self.clear::<u64, u8>(maps::CLOSERS_IN)?;
        self.clear::<Closer, CloserUse>(maps::CLOSERS)?;
        self.clear::<Closer, CloserUse>(maps::CLOSERS_ELSEWHERE)?;
        self.clear::<Answering, u64>(maps::ANSWERS)?;
        self.clear::<u64, OpeningStack>(maps::STACKS)?;
        self.clear::<u64, u8>(maps::WANTED)?;
        self.clear::<u64, u32>(maps::SLOTS)
    }

    fn clear<K: Pod, V: Pod>(&self, name: &str) -> Result<(), LoadError> {
        let mut map: HashMap<MapData, K, V> = self.map(name)?;
        let keys: Vec<K> = map.keys().filter_map(Result::ok).collect();
        for key in keys {
            // One that has just gone is gone.
            let _ = map.remove(&key);
        }
        Ok(())
    }

    /// A descriptor of the program.
    ///
    /// # Errors
    ///
    /// Where it is not there, or without descriptors to spare.
    pub(super) fn program(&self, name: &str) -> Result<OwnedFd, LoadError> {
        copy_of(&self.programs, name)
    }

    /// A descriptor of each program.
    pub(super) fn all_programs(&self) -> Vec<OwnedFd> {
        self.programs.values().filter_map(|program| program.try_clone().ok()).collect()
    }

    /// A map, with the types of its keys and values.
    ///
    /// # Errors
    ///
    /// Where it is not there or has other sizes.
    pub(super) fn map<T>(&self, name: &str) -> Result<T, LoadError>
    where
        T: TryFrom<Map, Error = MapError>,
    {
        let data = MapData::from_fd(copy_of(&self.maps, name)?);
        let typed = data.and_then(Map::from_map_data).and_then(T::try_from);
        typed.map_err(|error| LoadError::Object(format!("map {name}: {}", one_line(&error))))
    }

    /// A descriptor of a map, for what aya does not do.
    pub(super) fn map_descriptor(&self, name: &str) -> Result<OwnedFd, LoadError> {
        copy_of(&self.maps, name)
    }

    /// All descriptors with a name for each, of which no two are equal.
    pub(super) fn named(&self) -> impl Iterator<Item = (String, BorrowedFd<'_>)> {
        let groups = [(MAP, &self.maps), (PROGRAM, &self.programs), (LINK, &self.links)];
        groups.into_iter().flat_map(|(kind, group)| {
            group.iter().map(move |(name, it)| (format!("{kind}{name}"), it.as_fd()))
        })
    }

    /// Takes a descriptor with a name of [`named`](Self::named); closes it with any other.
    pub(super) fn take(&mut self, name: &str, descriptor: OwnedFd) {
        let groups =
            [(MAP, &mut self.maps), (PROGRAM, &mut self.programs), (LINK, &mut self.links)];
        for (kind, group) in groups {
            if let Some(name) = name.strip_prefix(kind) {
                group.insert(name.to_owned(), descriptor);
                return;
            }
        }
    }

    /// Whether the kernel runs the hook that no agent is without.
    pub(super) fn is_attached(&self) -> bool {
        self.links.get(programs::SET_STATE).is_some_and(|link| bpf::is_link(link.as_fd()))
    }
}

/// Beginnings of the names of descriptors.
const MAP: &str = "map ";
const PROGRAM: &str = "program ";
const LINK: &str = "link ";

fn copy_of(descriptors: &Descriptors, name: &str) -> Result<OwnedFd, LoadError> {
    let descriptor = descriptors
        .get(name)
        .ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "the object does not have it"));
    let copy = descriptor.and_then(OwnedFd::try_clone);
    copy.map_err(|error| LoadError::Object(format!("{name}: {error}")))
}

/// The kinds of maps that the object has.
fn data_of(map: &Map) -> Option<&MapData> {
    match map {
        Map::Array(data)
        | Map::HashMap(data)
        | Map::LruHashMap(data)
        | Map::PerCpuArray(data)
        | Map::PerCpuHashMap(data)
        | Map::RingBuf(data) => Some(data),
        _ => None,
    }
}
