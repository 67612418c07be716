//! The cost of the hooks, as the kernel measures it.
//!
//! The kernel keeps time and number of the runs of each program only while statistics are switched
//! on (BPF_ENABLE_STATS, 5.8), which costs some 40 ns a run. So they are on for some seconds only.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    time::Duration,
};

use aya::{
    programs::{ProgramError, ProgramInfo, loaded_programs},
    sys::{Stats, SyscallError, enable_stats},
};

use super::Hook;

/// The kernel keeps so many bytes of a program's name (BPF_OBJ_NAME_LEN without the NUL).
const NAME_BYTES: usize = 15;

/// The runs of one hook while statistics were on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HookCost {
    /// Its name.
    pub hook: &'static str,
    /// How often it ran.
    pub runs: u64,
    /// How long it ran, on all CPUs.
    pub time: Duration,
}

/// Why the cost is not known.
#[derive(Debug, thiserror::Error)]
pub enum CostError {
    /// Another error of the kernel, or no privilege: it takes CAP_SYS_ADMIN.
    #[error("the kernel's statistics cannot be switched on: {0}")]
    Statistics(#[from] SyscallError),
    /// Programs cannot be listed.
    #[error("the kernel's programs cannot be read: {0}")]
    Programs(#[from] ProgramError),
}

impl CostError {
    /// Whether only root would get an answer.
    #[must_use]
    pub fn is_not_permitted(&self) -> bool {
        let error = match self {
            Self::Statistics(error) => &error.io_error,
            Self::Programs(ProgramError::SyscallError(error)) => &error.io_error,
            Self::Programs(_) => return false,
        };
        error.kind() == io::ErrorKind::PermissionDenied
    }
}

/// The programs that are measured, by their kernel id.
#[derive(Debug)]
pub struct Measured(BTreeMap<u32, &'static str>);

impl Measured {
    /// The hooks that are attached on this host by whichever tcpwatch, so those of the running
    /// agent. The indispensable one is known by its name, the others by name and by a map that they
    /// share with it: names such as `bind` are not rare.
    ///
    /// # Errors
    ///
    /// Without CAP_SYS_ADMIN.
    pub fn of_this_host() -> Result<Self, CostError> {
        let mut named = Vec::new();
        for program in loaded_programs() {
            let program = program?;
            if let Some(hook) = hook_of(program.name()) {
                let maps = program.map_ids()?.unwrap_or_default();
                named.push((program.id(), hook, maps));
            }
        }
        let indispensable = named.iter().filter(|(_, hook, _)| hook.is_indispensable());
        let shared: BTreeSet<u32> =
            indispensable.flat_map(|(_, _, maps)| maps.iter().copied()).collect();
        let is_ours = |maps: &[u32]| maps.iter().any(|map| shared.contains(map));
        let ours = named.iter().filter(|(_, _, maps)| is_ours(maps));
        Ok(Self(ours.map(|(id, hook, _)| (*id, hook.name)).collect()))
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Switches the kernel's statistics on for `time`; returns the runs within it, of each hook.
    ///
    /// # Errors
    ///
    /// Without CAP_SYS_ADMIN.
    pub fn measure(&self, time: Duration) -> Result<Vec<HookCost>, CostError> {
        let statistics = enable_stats(Stats::RunTime)?;
        let before = self.totals()?;
        std::thread::sleep(time);
        let after = self.totals()?;
        drop(statistics);
        let mut costs = BTreeMap::<&str, HookCost>::new();
        for (id, (runs, time)) in after {
            // One that was loaded meanwhile has no beginning.
            let (Some(hook), Some((runs_before, time_before))) = (self.0.get(&id), before.get(&id))
            else {
                continue;
            };
            let cost =
                costs.entry(hook).or_insert(HookCost { hook, runs: 0, time: Duration::ZERO });
            cost.runs += runs.saturating_sub(*runs_before);
            cost.time += time.saturating_sub(*time_before);
        }
        Ok(costs.into_values().collect())
    }

    fn totals(&self) -> Result<BTreeMap<u32, (u64, Duration)>, CostError> {
        let mut totals = BTreeMap::new();
        for program in loaded_programs() {
            let program: ProgramInfo = program?;
            if self.0.contains_key(&program.id()) {
                totals.insert(program.id(), (program.run_count(), program.run_time()));
            }
        }
        Ok(totals)
    }
}

/// The hook whose program has this name. Iterators are left out: they run when the agent walks, and
/// `tcpwatch_cpu_seconds_total` has their time.
fn hook_of(program: &[u8]) -> Option<&'static Hook> {
    static HOOKS: [Hook; Hook::ALL.len()] = Hook::ALL;
    HOOKS.iter().filter(|hook| hook.is_event_driven()).find(|hook| {
        let name = hook.name.as_bytes();
        program == &name[..name.len().min(NAME_BYTES)]
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hook_is_known_by_as_much_of_its_name_as_the_kernel_keeps() {
        let found = |name: &str| hook_of(name.as_bytes()).map(|hook| hook.name);
        assert_eq!(found("set_state"), Some("set_state"));
        assert_eq!(found("passive_reset_v"), Some("passive_reset_v4"));
        assert_eq!(found("inventory"), None);
        assert_eq!(found("set"), None);
    }
}
