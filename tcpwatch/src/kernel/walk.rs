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

#[cfg(test)]
mod tests {
    use super::*;

    /// Answers as the kernel does, in turn.
    struct Answers(Vec<io::Result<Vec<u32>>>);

    impl Read for Answers {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            if self.0.is_empty() {
                return Ok(0);
            }
            let records = self.0.remove(0)?;
            let bytes: Vec<u8> = records.iter().flat_map(|record| record.to_ne_bytes()).collect();
            buffer[..bytes.len()].copy_from_slice(&bytes);
            Ok(bytes.len())
        }
    }

    fn read(answers: Vec<io::Result<Vec<u32>>>) -> (Vec<u32>, Result<(), InventoryError>) {
        let mut seen = Vec::new();
        let result = read_records(&mut Answers(answers), |record| seen.push(*record));
        (seen, result)
    }

    #[test]
    fn a_million_objects_without_a_record_and_a_signal_end_no_walk() {
        let again = || Err(io::Error::from_raw_os_error(libc::EAGAIN));
        let interrupted = || Err(io::Error::from_raw_os_error(libc::EINTR));
        let (seen, result) =
            read(vec![again(), Ok(vec![1, 2]), interrupted(), again(), again(), Ok(vec![3])]);
        assert!(result.is_ok(), "{result:?}");
        assert_eq!(seen, [1, 2, 3]);
    }

    #[test]
    fn another_error_ends_the_walk_after_what_was_read() {
        let broken = Err(io::Error::from_raw_os_error(libc::ENOMEM));
        let (seen, result) = read(vec![Ok(vec![1]), broken, Ok(vec![2])]);
        assert!(matches!(result, Err(InventoryError::Read(_))), "{result:?}");
        assert_eq!(seen, [1]);
    }
}
