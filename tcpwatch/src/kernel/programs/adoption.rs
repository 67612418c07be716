//! Going on with the kernel side of the process before.

use std::collections::BTreeMap;

use tcpwatch_common::programs;

use super::{
    super::{
        Hook, HookStatus, Refusal,
        btf::KernelTypes,
        handover::{self, Card, Handover, Predecessor},
        heap,
        kernel_side::KernelSide,
        lru, placeholders,
        reach::Reach,
    },
    LoadError, LoadOptions, OBJECT, Programs, WalkStatus, check_capabilities, needed_hooks,
    one_pass_of, raise_limits, walk_of,
};

impl Programs {
    /// Goes on with the kernel side of the process before, if it fits, or loads one. When the one
    /// before does not fit it is let go after the new one is attached; when nothing can be loaded it
    /// stays with the service manager. The kernel side is given to the service manager for the next
    /// process.
    ///
    /// # Errors
    ///
    /// As of [`load`](Self::load); and an indispensable hook is missing.
    pub fn take_over(options: &LoadOptions, from: Predecessor) -> Result<Self, LoadError> {
        check_capabilities()?;
        raise_limits();
        heap::keep_large_apart();
        let types = KernelTypes::read()?;
        // With its log on a kernel side writes into a ring that only the process that loaded it reads.
        let key = if options.kernel_log { None } else { Some(key_of(options, &types)?) };
        let (names, was_attached) = (from.names(), from.is_attached());
        if let Some((side, card)) = key.as_deref().and_then(|key| from.fitting(key)) {
            match Self::adopt(options, &types, side, &card) {
                Ok(programs) => return Ok(programs),
                Err(error) => {
                    tracing::warn!(%error, "kernel side of the process before not adopted")
                }
            }
        }
        let handover = if was_attached { Handover::HandedOver } else { Handover::Fresh };
        let programs = Self::load_anew(options, types, handover)?;
        programs.require_indispensable()?;
        handover::forget(&names);
        if let Some(key) = key
            && let Err(error) = handover::store(&programs.side, &programs.card(key))
        {
            tracing::warn!(%error, "the service manager does not keep the kernel side");
        }
        Ok(programs)
    }

    /// Facts for the next process.
    fn card(&self, key: String) -> Card {
        let refusal_of = |status: &HookStatus| {
            let refusal = status.outcome.as_ref().err()?.clone();
            Some((status.hook.name.to_owned(), refusal))
        };
        let mut refusals: BTreeMap<String, Refusal> =
            self.statuses.iter().filter_map(refusal_of).collect();
        if let WalkStatus::Iterator(refusal) = &self.walk {
            refusals.insert(programs::ONE_PASS.to_owned(), refusal.clone());
        }
        Card::new(key, refusals)
    }

    /// Goes on with a kernel side that is loaded and attached.
    fn adopt(
        options: &LoadOptions,
        types: &KernelTypes,
        side: KernelSide,
        card: &Card,
    ) -> Result<Self, LoadError> {
        let refusal_of = |name: &str| {
            let known = card.refusals.get(name).cloned();
            known.unwrap_or_else(|| Refusal::other("the process before did not hand it on"))
        };
        let status_of = |hook: Hook| {
            let outcome = if side.has(&hook) { Ok(()) } else { Err(refusal_of(hook.name)) };
            HookStatus { hook, outcome }
        };
        if !side.is_attached() {
            return Err(LoadError::Object("its hooks are not attached".to_owned()));
        }
        side.begin_again()?;
        let one_pass = if side.has_program(programs::ONE_PASS) {
            one_pass_of(&side)
        } else {
            Err(refusal_of(programs::ONE_PASS))
        };
        let (one_pass, walk) = walk_of(one_pass);
        let needed = needed_hooks(types, options.on_request, &walk);
        let statuses = needed.map(status_of).collect();
        let adopted = Self {
            side,
            types: types.clone(),
            log: None,
            symbols_by: options.symbols_by,
            statuses,
            one_pass,
            walk,
            reach: Reach::detect(),
            handover: Handover::Adopted,
        };
        adopted.require_indispensable()?;
        Ok(adopted)
    }
}

/// A digest of all that a kernel side was loaded with.
fn key_of(options: &LoadOptions, types: &KernelTypes) -> Result<String, LoadError> {
    let LoadOptions { ring_buffer_bytes, one_pass, on_request, work_per_second, .. } = options;
    let offsets = format!("{:?}", types.offsets);
    let entries = lru::entries(0);
    let sizes =
        format!("{ring_buffer_bytes} {one_pass} {on_request:?} {work_per_second} {entries}");
    let object = placeholders::replaced(OBJECT, &types.offsets).map_err(LoadError::Object)?;
    let key = handover::key_of(&[&object, offsets.as_bytes(), sizes.as_bytes()]);
    key.map_err(|error| LoadError::Object(format!("reading the boot's number: {error}")))
}
