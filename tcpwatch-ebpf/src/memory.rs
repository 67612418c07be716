//! How kernel memory is read, at the offsets of the running kernel.
//!
//! A structure is an address and a [`Memory`]: [`Typed`] is one load instruction through a pointer that
//! the verifier knows the type of, at an offset that the agent puts into the instruction; a load through a
//! stale pointer yields 0 (the kernel's exception table), never a fault. [`Copied`] and [`Probed`] go
//! through `bpf_probe_read_kernel`.

use core::{
    arch::asm,
    ffi::c_void,
    hint::assert_unchecked,
    mem::transmute_copy,
    ptr::{read_volatile, write_volatile},
};

use aya_ebpf::helpers::generated;
use tcpwatch_common::{Offsets, placeholder};

/// Bytes of a socket that are copied at once. They have every field of `struct sock_common` and the state of
/// a minisocket, and the processor fetches them at the same time.
pub(crate) const SOCKET_BYTES: usize = 192;

/// Set by the agent before the load, frozen since.
#[unsafe(no_mangle)]
pub(crate) static OFFSETS: Offsets = Offsets::ABSENT;

/// The value of a frozen offset.
macro_rules! offset {
    ($field:ident) => {
        // SAFETY: a static of this program; volatile, so that the compiler does not fold the
        // placeholder value into the code.
        unsafe { core::ptr::read_volatile(&raw const $crate::memory::OFFSETS.$field) }
    };
}
pub(crate) use offset;

/// Whether the running kernel has the field.
macro_rules! has {
    ($field:ident) => {
        $crate::memory::offset!($field) != tcpwatch_common::ABSENT
    };
}
pub(crate) use has;

/// How the fields of a structure are read.
pub(crate) trait Memory: Copy {
    /// How those of other structures are read, to which it points.
    type Beyond: Memory<Beyond = Self::Beyond>;

    /// Loads a `T` at this offset.
    ///
    /// # Safety
    /// `base` must be an address that this memory can read from, and `offset` that of a field of `T`'s
    /// size in the structure there.
    unsafe fn load<T: Copy>(self, base: *const c_void, offset: u32) -> T;

    /// Loads a `T` from a byte on of the field with this number, which is its place in [`OFFSETS`].
    ///
    /// # Safety
    /// As of [`load`](Self::load).
    #[inline(always)]
    unsafe fn load_field<T: Copy, const FIELD: usize, const BYTE: usize>(
        self,
        base: *const c_void,
    ) -> T {
        // SAFETY: a static of this program, made of so many words; volatile as in `offset`.
        let offset = unsafe { read_volatile((&raw const OFFSETS).cast::<u32>().add(FIELD)) };
        // SAFETY: as the caller says.
        unsafe { self.load(base, offset + BYTE as u32) }
    }

    /// For the structures to which it points.
    fn beyond(self) -> Self::Beyond;
}

/// Through a pointer whose type the verifier knows.
#[derive(Clone, Copy)]
pub(crate) struct Typed;

impl Memory for Typed {
    type Beyond = Self;

    #[inline(always)]
    unsafe fn load<T: Copy>(self, base: *const c_void, offset: u32) -> T {
        // SAFETY: the verifier has checked the bounds; a stale pointer reads as 0.
        unsafe { read_volatile(base.byte_add(offset as usize).cast::<T>()) }
    }

    /// One instruction, with a placeholder that the agent replaces.
    #[inline(always)]
    unsafe fn load_field<T: Copy, const FIELD: usize, const BYTE: usize>(
        self,
        base: *const c_void,
    ) -> T {
        // A number of one member: the verifier of 6.1 lets no load reach into the next one.
        const { assert!(size_of::<T>() <= 8 && size_of::<T>() == align_of::<T>()) };
        /// Loads so many bytes, and tells the compiler that there are no others.
        macro_rules! load {
            ($instruction:literal, $most:expr) => {{
                let value: u64;
                // SAFETY: the verifier has checked the bounds; a stale pointer reads as 0.
                unsafe {
                    asm!(
                        $instruction,
                        lateout(reg) value,
                        in(reg) base,
                        const -placeholder(FIELD, BYTE),
                        options(pure, readonly, nostack, preserves_flags)
                    );
                    // SAFETY: a load of fewer than eight bytes clears the others.
                    assert_unchecked(value <= $most);
                }
                value
            }};
        }
        let value = match size_of::<T>() {
            1 => load!("{0} = *(u8 *)({1} - {2})", 0xff),
            2 => load!("{0} = *(u16 *)({1} - {2})", 0xffff),
            4 => load!("{0} = *(u32 *)({1} - {2})", 0xffff_ffff),
            _ => load!("{0} = *(u64 *)({1} - {2})", u64::MAX),
        };
        // SAFETY: the lower bytes of a little-endian word, for a type that any bytes are valid for.
        unsafe { transmute_copy::<u64, T>(&value) }
    }

    #[inline(always)]
    fn beyond(self) -> Self {
        self
    }
}

/// Through `bpf_probe_read_kernel`, with a copy of the structure's beginning, which was read at once.
#[derive(Clone, Copy)]
pub(crate) struct Copied<const BYTES: usize = SOCKET_BYTES> {
    /// The first `BYTES` of the structure.
    pub(crate) head: *const u8,
    /// Where a field is read to that lies behind them: a word of a map, so that no field takes
    /// space on the program's own stack.
    pub(crate) word: *mut u64,
}

impl<const BYTES: usize> Memory for Copied<BYTES> {
    type Beyond = Probed;

    #[inline(always)]
    unsafe fn load<T: Copy>(self, base: *const c_void, offset: u32) -> T {
        // The offset is a constant for the verifier: it sees one of the two branches.
        if offset as usize + size_of::<T>() <= BYTES {
            // SAFETY: within the copy, as just tested.
            return unsafe { read_volatile(self.head.add(offset as usize).cast::<T>()) };
        }
        // SAFETY: as the caller says.
        unsafe { self.beyond().load(base, offset) }
    }

    #[inline(always)]
    fn beyond(self) -> Probed {
        Probed { word: self.word }
    }
}

/// Through `bpf_probe_read_kernel`, a field at a time.
#[derive(Clone, Copy)]
pub(crate) struct Probed {
    /// See [`Copied::word`].
    pub(crate) word: *mut u64,
}

impl Memory for Probed {
    type Beyond = Self;

    #[inline(always)]
    unsafe fn load<T: Copy>(self, base: *const c_void, offset: u32) -> T {
        const { assert!(size_of::<T>() <= 8) };
        let field = (base as u64 + u64::from(offset)) as *const c_void;
        // SAFETY: `word` is writable for its eight bytes, which the helper clears where it cannot read.
        unsafe {
            generated::bpf_probe_read_kernel(self.word.cast(), size_of::<T>() as u32, field);
            read_volatile(self.word.cast::<T>())
        }
    }

    #[inline(always)]
    fn beyond(self) -> Self {
        self
    }
}

/// Loads a field, or what lies at a byte of it, as a type that a macro names.
macro_rules! field {
    ($self:expr, $field:ident: $ty:ty) => {
        $crate::memory::field!($self, $field + 0: $ty)
    };
    ($self:expr, $field:ident + $byte:literal: $ty:ty) => {{
        const FIELD: usize = core::mem::offset_of!(tcpwatch_common::Offsets, $field) / 4;
        let (base, memory) = ($self.0, $self.1);
        // SAFETY: the number is that of this field, and the address is of the type that has it.
        unsafe { $crate::memory::Memory::load_field::<$ty, FIELD, $byte>(memory, base) }
    }};
}
pub(crate) use field;

/// The address that a pointer holds. The verifier allows no arithmetic on a pointer, but forgets that it
/// is one on the way through a map: `scratch` lies in one, a word for each CPU.
///
/// Also for a pointer that may be NULL. From 6.5 on the verifier takes each argument of a BTF tracepoint
/// for valid and removes the branch of a comparison with NULL. This ended when arguments that may be
/// NULL were marked (6.13 and stable kernels: "bpf: Augment raw_tp arguments with PTR_MAYBE_NULL").
#[inline(always)]
pub(crate) fn address_of(pointer: *const c_void, scratch: &mut u64) -> u64 {
    // SAFETY: a valid reference; volatile, so that the compiler keeps the detour.
    unsafe {
        write_volatile(scratch, pointer as u64);
        read_volatile(scratch)
    }
}

/// A structure that is only passed through on the way to a field.
#[derive(Clone, Copy)]
pub(crate) struct Object<M = Typed>(pub(crate) *const c_void, pub(crate) M);

impl Object {
    /// By a pointer that the verifier knows.
    #[inline(always)]
    pub(crate) fn typed(pointer: *const c_void) -> Self {
        Self(pointer, Typed)
    }
}
