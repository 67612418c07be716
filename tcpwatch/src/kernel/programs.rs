//! Loads the kernel side and attaches its hooks.
//!
//! The object is compiled ahead and embedded; what differs between kernels is set in its
//! `.rodata` before the load. Only `set_state` and a walk are indispensable: each other of the
//! [`hooks`](super::hooks) that this kernel refuses takes away its metrics, says so once, and the
//! others go on.

mod adoption;
mod options;

use std::os::fd::OwnedFd;

use aya::{
    Ebpf, EbpfLoader,
    maps::{MapData, PerCpuArray, PerCpuHashMap, RingBuf},
    programs::{Program, ProgramError},
};
use rustix::thread::CapabilitySet as Capability;
use tcpwatch_common::{ABSENT, TallyKey, maps, programs};

use super::{
    CounterReader, EventRing, Hook, HookStatus, Refusal, Scope, Walker,
    answers::Answers,
    attribution::Attribution,
    btf::KernelTypes,
    close_look::CloseLook,
    closers::ClosersTable,
    counters::CounterMaps,
    error::one_line,
    handover::Handover,
    heap,
    inventory::WalkerParts,
    kernel_log::KernelLog,
    kernel_side::{KernelSide, Link},
    lru::{self, LruTable},
    namespaces::{FoundNamespace, NetnsIds},
    notes::NoteTables,
    one_pass::{self, OnePass},
    owners::OwnerBook,
    placeholders,
    reach::{Reach, missing_hooks},
    seccomp,
    stream::{EventStream, StreamMaps},
    symbols::Symbols,
    tally::TallyTable,
};
use crate::facts::{NotSeen, ResetCause};

pub use options::{LoadError, LoadOptions, OnRequest, WalkStatus};

/// The kernel side, built by `cargo xtask ebpf`.
pub(super) static OBJECT: &[u8] = aya::include_bytes_aligned!("../../bpf/tcpwatch.bpf.o");

/// aya-log's map, as that crate names it.
const LOG_RING: &str = "AYA_LOGS";
/// Its size where it is read: a power of two. 64 KiB hold some 300 messages.
const LOG_BYTES: u32 = 64 * 1024;
/// A level below all of aya-log's.
const LOG_OFF: u8 = 0;

/// The loaded kernel side. Dropping it, or what it was split into, detaches everything, unless the
/// service manager keeps it too: no link and no map is pinned.
pub struct Programs {
    side: KernelSide,
    types: KernelTypes,
    log: Option<Link>,
    symbols_by: Option<&'static str>,
    statuses: Vec<HookStatus>,
    one_pass: Option<OnePass>,
    walk: WalkStatus,
    reach: Reach,
    handover: Handover,
}

impl Programs {
    /// Loads the programs and attaches the hooks. A hook that the kernel refuses is in
    /// [`statuses`](Self::statuses); call [`require_indispensable`](Self::require_indispensable).
    ///
    /// # Errors
    ///
    /// Without permission, type information, memory or a valid object.
    pub fn load(options: &LoadOptions) -> Result<Self, LoadError> {
        check_capabilities()?;
        raise_limits();
        heap::keep_large_apart();
        Self::load_anew(options, KernelTypes::read()?, Handover::Fresh)
    }

    /// How the kernel side came about.
    #[must_use]
    pub fn handover(&self) -> Handover {
        self.handover
    }

    fn load_anew(
        options: &LoadOptions,
        types: KernelTypes,
        handover: Handover,
    ) -> Result<Self, LoadError> {
        let log_level = if options.kernel_log { aya_log::Level::Debug as u8 } else { LOG_OFF };
        let log_bytes = if options.kernel_log { LOG_BYTES } else { page_bytes() };
        let has_way = types.has_loop && one_pass::has_fields(&types.offsets);
        let may_pass = options.one_pass && has_way;
        // The tables that only the one pass uses take no memory without it.
        let (slots, found_bytes) =
            if may_pass { (one_pass::entries(), maps::FOUND_BYTES) } else { (1, page_bytes()) };
        let object = placeholders::replaced(OBJECT, &types.offsets).map_err(LoadError::Object)?;
        // A new loader reads the kernel's types for relocations, of which this object has none, and
        // makes objects of 22 MB of them. It does without where it cannot read them.
        let mut loader = seccomp::without_files(EbpfLoader::new);
        let mut ebpf = loader
            .btf(None)
            .override_global(maps::OFFSETS, &types.offsets, true)
            .override_global(maps::WORK, &options.work_per_second, true)
            .override_global(aya_log::LEVEL, &log_level, true)
            .map_max_entries(LOG_RING, log_bytes)
            .map_max_entries(maps::NAMESPACES, slots)
            .map_max_entries(maps::SLOTS, slots)
            .map_max_entries(maps::FOUND, found_bytes)
            .map_max_entries(maps::EVENTS, options.ring_buffer_bytes)
            .map_max_entries(maps::STACKS, lru::entries(maps::STACKS_LIMIT))
            .load(&object)
            .map_err(|error| LoadError::Object(one_line(&error)))?;

        // Parsing the object has left 4 MB, and the targets take 10 MB while they are made.
        drop(object);
        heap::return_free();
        let btf = types.to_attach().map_err(|error| LoadError::Object(one_line(&error)))?;

        let mut log = None;
        if options.kernel_log {
            match KernelLog::start(&mut ebpf) {
                Ok(reader) => log = Some(Link::new(reader)),
                Err(error) => tracing::warn!(error, "log of the kernel side not read"),
            }
        }
        let mut side = KernelSide::default();
        side.keep_maps(&ebpf)?;
        let one_pass = match (options.one_pass, may_pass) {
            (false, _) => Err(Refusal::other("inventory.one_pass is false")),
            (_, false) => {
                Err(Refusal::other("this kernel lacks bpf_loop or a field on the way (before 6.1)"))
            }
            _ => load_one_pass(&mut ebpf, &mut side),
        };
        let (one_pass, walk) = walk_of(one_pass);
        let mut statuses = Vec::new();
        for hook in needed_hooks(&types, options.on_request, &walk) {
            let outcome = hook.load(&mut ebpf, &btf, &mut side);
            statuses.push(HookStatus { hook, outcome });
        }
        drop(btf);
        heap::return_free();
        let reach = Reach::detect();
        let symbols_by = options.symbols_by;
        Ok(Self { side, types, log, symbols_by, statuses, one_pass, walk, reach, handover })
    }

    /// Which walk inventories use.
    #[must_use]
    pub fn walk(&self) -> &WalkStatus {
        &self.walk
    }

    /// How each hook that this kernel needs fared, in the order of [`Hook::ALL`].
    #[must_use]
    pub fn statuses(&self) -> &[HookStatus] {
        &self.statuses
    }

    /// Fails if an indispensable hook is missing.
    pub fn require_indispensable(&self) -> Result<(), LoadError> {
        for HookStatus { hook, outcome } in &self.statuses {
            if let Err(why) = outcome
                && hook.is_indispensable()
            {
                return Err(LoadError::Hook { hook: hook.name, why: why.to_string() });
            }
        }
        Ok(())
    }

    /// Where this process stands.
    #[must_use]
    pub fn reach(&self) -> Reach {
        self.reach
    }

    /// Things that no inventory will see, as far as known before the first.
    #[must_use]
    pub fn not_seen(&self) -> Vec<NotSeen> {
        let mut not_seen = missing_hooks(&self.statuses);
        not_seen.extend(self.reach.not_seen(&[]));
        not_seen
    }

    fn has(&self, name: &str) -> bool {
        self.side.has_program(name)
    }

    fn program_if_loaded(&self, name: &str) -> Result<Option<OwnedFd>, LoadError> {
        self.has(name).then(|| self.side.program(name)).transpose()
    }

    /// The reader of the stream of events, which is not armed; once.
    ///
    /// # Errors
    ///
    /// The hook is refused, with the kernel's reason.
    pub fn event_stream(&self) -> Result<EventStream, Refusal> {
        let of_stream = |status: &&HookStatus| status.hook.name == programs::STREAM;
        if let Some(status) = self.statuses.iter().find(of_stream) {
            status.outcome.clone()?;
        }
        let other = |error: LoadError| Refusal::other(error.to_string());
        let program = self.side.program(programs::STREAM).map_err(other)?;
        let maps = StreamMaps {
            ring: self.side.map(maps::STREAM).map_err(other)?,
            filter: self.side.map(maps::STREAM_FILTER).map_err(other)?,
            armed: self.side.map(maps::STREAMING).map_err(other)?,
            counts: self.side.map(maps::STREAM_COUNTS).map_err(other)?,
        };
        Ok(EventStream::new(maps, program, self.types.reset_reasons.clone()))
    }

    /// Splits into the readers. The hooks count from now on, what `scope` covers, and stay attached
    /// as long as the returned links live.
    pub fn split(
        mut self,
        scope: Scope,
        close_wait_limit: usize,
    ) -> Result<(EventRing, CounterReader, Walker, Vec<Link>), LoadError> {
        let ids = NetnsIds::new(self.types.offsets.net_cookie != ABSENT);
        let reset_reasons = std::mem::take(&mut self.types.reset_reasons);
        let sees_resets_sent = self.has(programs::SEND_RESET);
        let sees_resets_received = self.has(programs::RECEIVE_RESET);

        let events: RingBuf<MapData> = self.side.map(maps::EVENTS)?;
        let counters: PerCpuArray<MapData, _> = self.side.map(maps::COUNTERS)?;
        let resets: PerCpuHashMap<MapData, _, _> = self.side.map(maps::RESETS)?;
        let counter_maps = CounterMaps {
            counters,
            resets_sent: sees_resets_sent.then_some(resets),
            sees_resets_received,
            hooks: programs::COUNTED
                .into_iter()
                .zip(0..)
                .filter(|(hook, _)| self.has(hook))
                .collect(),
        };
        let finds_owners = self.has(programs::OWNERS);
        let lister = self.program_if_loaded(programs::LISTING_PASS)?;
        if let Some(one_pass) = &mut self.one_pass {
            one_pass.list_by(lister);
        }
        let parts = WalkerParts {
            program: self.program_if_loaded(programs::INVENTORY)?,
            walk: self.side.map(maps::WALK)?,
            one_pass: self.one_pass.take(),
            listing: self.side.map(maps::LISTING)?,
            lister: self.program_if_loaded(programs::LISTING)?,
            destinations: self.side.map(maps::DESTINATIONS)?,
            requests: self.side.map(maps::REQUESTS)?,
            answers: Answers::new(self.side.map(maps::ANSWERS)?),
            owners: if finds_owners {
                let selected = self.side.map(maps::WANTED)?;
                Some(OwnerBook::new(selected, self.side.program(programs::OWNERS)?))
            } else {
                None
            },
            counted_netns: self.side.map(maps::SCOPE)?,
            notes: NoteTables::new(
                self.side.map(maps::CONNECT_NOTES)?,
                self.side.map(maps::CLOSE_WAIT_NOTES)?,
            ),
        };
        let origins = [
            self.tally(maps::RESET_ORIGINS, "reset_origins", maps::RESET_ORIGINS_SETS)?,
            self.tally(maps::STRAY_RESETS, "stray_resets", maps::STRAY_RESETS_SETS)?,
        ];
        let sees_resets = sees_resets_sent || sees_resets_received;
        let mut attribution = Attribution::new(
            sees_resets.then_some(origins),
            ClosersTable::new(
                self.side.map(maps::CLOSERS)?,
                self.side.map(maps::CLOSERS_ELSEWHERE)?,
                ids,
            ),
            self.tally(maps::SERVICES, "services", maps::SERVICES_SETS)?,
            reset_reasons.clone(),
            ids,
        );
        if self.handover == Handover::Adopted {
            // They are from before this process.
            attribution.read_services();
        }
        let close_look = CloseLook::new(
            (self.side.map(maps::FOCUS)?, self.side.map(maps::CLOSERS_IN)?),
            LruTable::new(self.side.map(maps::STACKS)?, "stacks", maps::STACKS_LIMIT),
            self.symbols_by.and_then(|program| {
                Symbols::start(program)
                    .inspect_err(|error| {
                        tracing::warn!(%error, program, "names of functions unavailable");
                    })
                    .ok()
            }),
        );

        let hook_fds = self.side.all_programs();
        let unseen = self.unseen_causes();
        let counters = CounterReader::new(counter_maps, reset_reasons, unseen, hook_fds);
        let home = FoundNamespace::host().map_err(LoadError::Namespace)?;
        let sight = (self.reach, missing_hooks(&self.statuses));
        let walker = Walker::new(
            parts,
            (attribution, close_look),
            sight,
            (ids, home),
            scope,
            close_wait_limit,
        )
        .map_err(|error| LoadError::Object(one_line(&error)))?;
        let links = [Link::new(self.side)].into_iter().chain(self.log).collect();
        Ok((EventRing::new(events, ids), counters, walker, links))
    }

    /// Causes of resets that no hook on this kernel shows.
    fn unseen_causes(&self) -> &'static [ResetCause] {
        let passive = [programs::PASSIVE_RESET_V4, programs::PASSIVE_RESET_V6];
        let is_refused =
            |status: &HookStatus| status.outcome.is_err() && passive.contains(&status.hook.name);
        if self.statuses.iter().any(is_refused) {
            &[ResetCause::NoListener, ResetCause::HalfOpen, ResetCause::LateData]
        } else {
            &[]
        }
    }

    fn tally<K, V>(
        &self,
        map: &str,
        label: &'static str,
        sets: u32,
    ) -> Result<TallyTable<K, V>, LoadError>
    where
        K: TallyKey + Eq + std::hash::Hash,
        V: aya::Pod + Default,
    {
        Ok(TallyTable::new(self.side.map_descriptor(map)?, label, sets))
    }
}

/// The hooks that this kernel needs beside this walk.
fn needed_hooks(
    types: &KernelTypes,
    on_request: OnRequest,
    walk: &WalkStatus,
) -> impl Iterator<Item = Hook> {
    let iterates = matches!(walk, WalkStatus::Iterator(_));
    Hook::ALL.into_iter().filter(move |it| it.is_needed(&types.offsets, on_request, iterates))
}

fn walk_of(one_pass: Result<OnePass, Refusal>) -> (Option<OnePass>, WalkStatus) {
    match one_pass {
        Ok(one_pass) => (Some(one_pass), WalkStatus::OnePass),
        Err(refusal) => (None, WalkStatus::Iterator(refusal)),
    }
}

/// Loads the one pass and has it find its tables: the walk is chosen because it works, not by the
/// kernel's version.
fn load_one_pass(ebpf: &mut Ebpf, side: &mut KernelSide) -> Result<OnePass, Refusal> {
    let program = ebpf.program_mut(programs::ONE_PASS);
    let program = program.ok_or_else(|| Refusal::other("the object does not have it"))?;
    let loaded = match &mut *program {
        Program::RawTracePoint(program) => program.load(),
        _ => Err(ProgramError::UnexpectedProgramType),
    };
    loaded.map_err(|error| {
        if let ProgramError::LoadError { verifier_log, .. } = &error {
            tracing::debug!(%verifier_log, "the verifier's log of the one pass");
        }
        Refusal::of(&error)
    })?;
    let kept = side.keep_program(programs::ONE_PASS, program, false);
    kept.map_err(|error| Refusal::of(&error))?;
    // A walk that finds no table is of no use to a successor either.
    one_pass_of(side).inspect_err(|_| drop(side.programs.remove(programs::ONE_PASS)))
}

/// The one pass that is loaded, with its tables found.
fn one_pass_of(side: &KernelSide) -> Result<OnePass, Refusal> {
    let other = |error: LoadError| Refusal::other(error.to_string());
    let mut one_pass = OnePass::new(
        side.program(programs::ONE_PASS).map_err(other)?,
        side.map(maps::PASS).map_err(other)?,
        side.map(maps::NAMESPACES).map_err(other)?,
        side.map(maps::SLOTS).map_err(other)?,
        side.map(maps::FOUND).map_err(other)?,
    );
    let found = one_pass.find_tables();
    found.map_err(|error| Refusal::other(error.to_string()))?;
    Ok(one_pass)
}

/// Checked before the first system call, because the kernel's EPERM names no capability.
fn check_capabilities() -> Result<(), LoadError> {
    let needed = [(Capability::BPF, "CAP_BPF"), (Capability::PERFMON, "CAP_PERFMON")];
    let missing: Vec<_> =
        needed.into_iter().filter(|(it, _)| !holds(*it)).map(|(_, name)| name).collect();
    if missing.is_empty() {
        Ok(())
    } else {
        Err(LoadError::NotPermitted { missing: missing.join(" and ") })
    }
}

/// Whether this process may do what the capability stands for. CAP_SYS_ADMIN implies CAP_BPF and
/// CAP_PERFMON (capabilities(7)). Where it cannot be read it is assumed, and the kernel decides.
#[must_use]
pub fn holds(capability: Capability) -> bool {
    let Ok(sets) = rustix::thread::capabilities(None) else { return true };
    let implied = Capability::BPF | Capability::PERFMON;
    sets.effective.contains(capability)
        || (implied.contains(capability) && sets.effective.contains(Capability::SYS_ADMIN))
}

/// Before 5.11 maps count against RLIMIT_MEMLOCK; raising it may be refused. A refusal is fatal
/// only where it is needed: then the creation of the map fails. Descriptors are raised to what is
/// allowed, because the customary soft limit of 1,024 is meant for programs that use select().
fn raise_limits() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let files = getrlimit(Resource::Nofile);
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: files.maximum, ..files }) {
        tracing::debug!(%error, "cannot raise RLIMIT_NOFILE");
    }
    let unlimited = Rlimit { current: None, maximum: None };
    if let Err(error) = setrlimit(Resource::Memlock, unlimited) {
        tracing::debug!(%error, "cannot raise RLIMIT_MEMLOCK; kernels before 5.11 need it");
    }
}

/// The least size of a ring buffer.
fn page_bytes() -> u32 {
    u32::try_from(rustix::param::page_size()).unwrap_or(LOG_BYTES)
}

#[cfg(test)]
mod tests;
