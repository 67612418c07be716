//! Reads what a program of the kernel's iterators writes.

use std::io::{self, Read};

use super::error::InventoryError;

/// Reads a walk to its end. The kernel writes whole records, so a read returns whole records.
pub(super) fn read_records<T: aya::Pod>(
    file: &mut dyn Read,
    mut each: impl FnMut(&T),
) -> Result<(), InventoryError> {
    let mut buffer = vec![0; 32 * 1024 / size_of::<T>() * size_of::<T>()];
    loop {
        let length = match file.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(length) => length,
            // EAGAIN: a million objects without a record (`MAX_ITER_OBJECTS`); it goes on.
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock
                ) =>
            {
                continue;
            }
            Err(error) => return Err(InventoryError::Read(error)),
        };
        for bytes in buffer[..length].chunks_exact(size_of::<T>()) {
            // SAFETY: the chunk has the size of `T`, the read is unaligned, and `Pod` says that
            // every bit pattern is a `T`.
            each(&unsafe { std::ptr::read_unaligned(bytes.as_ptr().cast::<T>()) });
        }
    }
}
