//! Memory that is free goes back to the kernel: glibc keeps it for later, and other C libraries are left
//! as they are.

/// Large memory is a mapping of its own from now on, which goes back when it is freed and grows without a
/// copy. glibc would keep the next such memory in its heap once one was freed. Its bounds for both, this
/// one and that of free memory at the end of the heap, no longer grow with what is freed.
pub(super) fn keep_large_apart() {
    #[cfg(target_env = "gnu")]
    {
        use std::sync::Once;

        /// glibc's default, which is fixed once it is set (mallopt(3)).
        const LARGE_BYTES: libc::c_int = 128 * 1024;
        static SET: Once = Once::new();
        // SAFETY: takes no pointer. It writes words of the allocator that other threads read as they
        // allocate: each sees the former bound or this one, and both are right.
        SET.call_once(|| unsafe {
            libc::mallopt(libc::M_MMAP_THRESHOLD, LARGE_BYTES);
        });
    }
}

/// Gives back what is free now.
pub(super) fn return_free() {
    #[cfg(target_env = "gnu")]
    // SAFETY: takes no pointer and may be called at any time.
    unsafe {
        libc::malloc_trim(0);
    }
}
