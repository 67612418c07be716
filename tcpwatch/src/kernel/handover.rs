//! The kernel side that outlives its agent, in the descriptor store of systemd.
//!
//! With `FileDescriptorStoreMax=` in the unit systemd keeps descriptors that a service gives it over a
//! crash, a kill and a restart, and passes them to the next process (sd_listen_fds(3)); when the unit
//! stops it closes them. So the hooks count on while no agent runs, and the next one goes on with the
//! same maps: no transition and no age is lost. Nothing is pinned.
//!
//! A kernel side fits only if everything agrees that the programs were loaded with: the object, the
//! offsets of the kernel's fields, the sizes of the maps, the boot. An agent for which it does not fit
//! loads its own while the old one is attached still, and then lets that one go.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File},
    io::{self, Write},
    os::{
        fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd},
        unix::fs::FileExt,
    },
};

use ring::digest::{Context, SHA256};
use rustix::fs::{MemfdFlags, memfd_create};
use sd_notify::NotifyState;
use serde::{Deserialize, Serialize};

use super::{kernel_side::KernelSide, refusal::Refusal};

/// Name of the descriptor with a [`Card`].
const CARD: &str = "card";
/// A card has some kilobytes; a longer one is not ours.
const CARD_BYTES: usize = 64 * 1024;

/// How the kernel side of this process came about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Handover {
    /// It goes on from the process before: nothing was missed.
    Adopted,
    /// It is new, and was attached before that of the process before was let go: nothing happened
    /// unseen, but counts begin at 0, and ages are at least so much.
    HandedOver,
    /// There was none.
    Fresh,
}

impl Handover {
    /// A label of `tcpwatch_handover_total`.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Adopted => "adopted",
            Self::HandedOver => "handed_over",
            Self::Fresh => "fresh",
        }
    }
}

/// Facts about a kernel side beside its descriptors.
#[derive(Debug, Deserialize, Serialize)]
pub(super) struct Card {
    /// A digest of everything that must agree.
    key: String,
    /// Why programs are missing, by their names.
    pub(super) refusals: BTreeMap<String, Refusal>,
}

impl Card {
    pub(super) fn new(key: String, refusals: BTreeMap<String, Refusal>) -> Self {
        Self { key, refusals }
    }

    fn read(file: &File) -> Option<Self> {
        let mut bytes = vec![0; CARD_BYTES];
        // At a position: the other process has written to the same open file.
        let length = file.read_at(&mut bytes, 0).ok()?;
        serde_json::from_slice(&bytes[..length]).ok()
    }

    fn write(&self) -> io::Result<File> {
        let mut file = File::from(memfd_create("tcpwatch-card", MemfdFlags::CLOEXEC)?);
        file.write_all(&serde_json::to_vec(self)?)?;
        Ok(file)
    }
}

/// The digest of the parts; those of different lengths never look alike.
pub(super) fn key_of(parts: &[&[u8]]) -> io::Result<String> {
    let mut digest = Context::new(&SHA256);
    // Descriptors do not outlive a boot, but what holds them might one day.
    let boot = fs::read("/proc/sys/kernel/random/boot_id")?;
    for part in parts.iter().chain([&boot.as_slice()]) {
        digest.update(&part.len().to_le_bytes());
        digest.update(part);
    }
    Ok(digest.finish().as_ref().iter().map(|byte| format!("{byte:02x}")).collect())
}

/// The kernel side of the process before, as the service manager has passed it.
#[derive(Debug, Default)]
pub struct Predecessor {
    side: KernelSide,
    card: Option<Card>,
    /// Of its descriptors, in the store.
    names: BTreeSet<String>,
}

impl Predecessor {
    /// Takes the descriptors that the service manager has passed to this process. Call it once, before
    /// the process opens any of its own.
    #[must_use]
    pub fn from_service_manager() -> Self {
        let mut predecessor = Self::default();
        let passed = match sd_notify::listen_fds_with_names() {
            Ok(passed) => passed,
            Err(error) => {
                tracing::warn!(%error, "descriptors of the service manager not understood");
                return predecessor;
            }
        };
        for (descriptor, name) in passed {
            // SAFETY: passed to this process, and nothing else here owns it.
            let descriptor = unsafe { OwnedFd::from_raw_fd(descriptor) };
            predecessor.names.insert(name.clone());
            if name == CARD {
                predecessor.card = Card::read(&File::from(descriptor));
            } else {
                predecessor.side.take(&name, descriptor);
            }
        }
        predecessor
    }

    /// Whether the kernel has run its hooks until now, and runs them until
    /// [`forget`] whatever becomes of this value.
    pub(super) fn is_attached(&self) -> bool {
        self.side.is_attached()
    }

    /// Names of what the service manager holds.
    pub(super) fn names(&self) -> BTreeSet<String> {
        self.names.clone()
    }

    /// The kernel side, if it fits. Else it is closed here, and the service manager holds it still.
    pub(super) fn fitting(self, key: &str) -> Option<(KernelSide, Card)> {
        let card = self.card.filter(|card| card.key == key)?;
        Some((self.side, card))
    }
}

/// Has the service manager close the descriptors that it holds under these names.
pub(super) fn forget(names: &BTreeSet<String>) {
    for name in names {
        if let Err(error) =
            sd_notify::notify(&[NotifyState::FdStoreRemove, NotifyState::FdName(name)])
        {
            tracing::debug!(%error, "a stored descriptor not removed");
        }
    }
}

/// Gives the descriptors of a kernel side to the service manager, for the next process. Without one
/// nothing happens.
///
/// # Errors
///
/// The service manager does not take them.
pub(super) fn store(side: &KernelSide, card: &Card) -> io::Result<()> {
    let file = card.write()?;
    let keep = |name: &str, descriptor: BorrowedFd<'_>| {
        // Without polling (systemd 246): of a map it yields EPOLLERR (`bpf_map_poll`), and systemd
        // would close it at once.
        let state =
            [NotifyState::FdStore, NotifyState::FdName(name), NotifyState::Custom("FDPOLL=0")];
        sd_notify::notify_with_fds(&state, &[descriptor])
    };
    // The card last: without it the others do not fit.
    side.named().try_for_each(|(name, descriptor)| keep(&name, descriptor))?;
    keep(CARD, file.as_fd())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_depends_on_each_part_and_on_where_it_ends() {
        let key = |parts: &[&[u8]]| key_of(parts).expect("procfs is mounted");
        assert_eq!(key(&[b"ab", b"c"]), key(&[b"ab", b"c"]));
        assert_ne!(key(&[b"ab", b"c"]), key(&[b"a", b"bc"]));
        assert_ne!(key(&[b"ab", b"c"]), key(&[b"ab", b"d"]));
    }

    #[test]
    fn a_card_is_read_as_it_was_written_and_another_text_is_none() {
        let refusals = BTreeMap::from([("bind".to_owned(), Refusal::other("no \"trampoline\""))]);
        let file = Card::new("abc".to_owned(), refusals).write().expect("memory for a file");
        let card = Card::read(&file).expect("a card");
        assert_eq!(card.key, "abc");
        assert_eq!(card.refusals["bind"].to_string(), "no \"trampoline\"");
        let mut other = File::from(memfd_create("other", MemfdFlags::CLOEXEC).expect("a file"));
        other.write_all(b"{\"key\": 1").expect("space");
        assert!(Card::read(&other).is_none());
    }
}
