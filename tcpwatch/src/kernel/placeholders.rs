//! Puts the offsets of the running kernel into the object, before it is loaded.
//!
//! A load of a kernel field has a placeholder for its offset (`offsets.rs` of `tcpwatch-common`).
//! The object of a C compiler has CO-RE relocations for this; rustc emits none.

use object::{Object, ObjectSection, SectionFlags, elf};
use tcpwatch_common::{ABSENT, FIELDS, Offsets, of_placeholder};

/// An instruction (RFC 9669 section 3): opcode, registers, a signed offset, four bytes more.
const INSTRUCTION: usize = 8;
/// `BPF_LD | BPF_IMM | BPF_DW`, the one that is two long (section 5.4).
const WIDE: u8 = 0x18;
/// `BPF_LDX | BPF_MEM` (section 5.1), without the two bits of the size.
const LOAD: u8 = 0x61;
const SIZE: u8 = 0x18;

/// The object with its placeholders replaced. A field that the kernel lacks keeps its own: no load of
/// it is reached, and the verifier would refuse one.
///
/// # Errors
///
/// If it is no object, or an instruction cannot hold an offset.
pub(super) fn replaced(object: &[u8], offsets: &Offsets) -> Result<Vec<u8>, String> {
    // The loader parses a copy too: an allocator aligns it to 16 bytes, and less would be an error.
    let file = object::File::parse(object).map_err(|error| error.to_string())?;
    let offsets = offsets.offsets();
    let mut bytes = object.to_vec();
    for section in file.sections() {
        let SectionFlags::Elf { sh_flags } = section.flags() else { continue };
        if sh_flags & u64::from(elf::SHF_EXECINSTR) == 0 {
            continue;
        }
        let Some((begin, length)) = section.file_range() else { continue };
        let code = usize::try_from(begin).ok().zip(usize::try_from(length).ok());
        let code = code.and_then(|(begin, length)| bytes.get_mut(begin..)?.get_mut(..length));
        replace(code.ok_or("a section lies outside of the object")?, &offsets)?;
    }
    Ok(bytes)
}

fn replace(code: &mut [u8], offsets: &[u32]) -> Result<(), String> {
    let mut instructions = code.chunks_exact_mut(INSTRUCTION);
    while let Some(instruction) = instructions.next() {
        let [opcode, _, low, high, ..] = *instruction else { continue };
        if opcode == WIDE {
            instructions.next();
            continue;
        }
        let placeholder = of_placeholder(i16::from_le_bytes([low, high]));
        let Some((field, byte)) = placeholder.filter(|_| opcode & !SIZE == LOAD) else { continue };
        if offsets[field] == ABSENT {
            continue;
        }
        let offset = i16::try_from(offsets[field] as usize + byte);
        let offset = offset.map_err(|_| {
            let name = &FIELDS[field];
            format!("{}.{} lies beyond 32 KiB", name.container, name.member)
        })?;
        instruction[2..4].copy_from_slice(&offset.to_le_bytes());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use tcpwatch_common::{ABSENT, FIELDS, Offsets, placeholder};

    use super::{replace, replaced};
    use crate::kernel::programs::OBJECT;

    fn load(opcode: u8, offset: i16) -> [u8; 8] {
        let [low, high] = offset.to_le_bytes();
        [opcode, 0x21, low, high, 1, 2, 3, 4]
    }

    #[test]
    fn only_loads_of_fields_change() {
        let mut offsets = [ABSENT; FIELDS.len()];
        (offsets[0], offsets[3]) = (16, 500);
        let at = placeholder(3, 4);
        let mut code = [
            load(0x71, placeholder(0, 0)),
            load(0x61, at),
            // Of a field that is absent.
            load(0x79, placeholder(1, 0)),
            // Another offset.
            load(0x69, 504),
            // A store.
            load(0x7b, at),
            // The second half of a wide one.
            load(0x18, 0),
            load(0x79, at),
        ];
        replace(code.as_flattened_mut(), &offsets).expect("small offsets");
        let expected = [load(0x71, 16), load(0x61, 504), load(0x79, placeholder(1, 0))];
        assert_eq!(code[..3], expected);
        assert_eq!(code[3..], [load(0x69, 504), load(0x7b, at), load(0x18, 0), load(0x79, at)]);
        offsets[3] = 40_000;
        let error = replace(load(0x61, at).as_mut_slice(), &offsets).expect_err("it is too far");
        assert!(error.ends_with("lies beyond 32 KiB"), "{error}");
    }

    #[test]
    fn the_shipped_object_has_placeholders_and_keeps_its_length() {
        let mut offsets = Offsets::ABSENT;
        assert!(offsets.set_offsets(&[8; FIELDS.len()]));
        let with = replaced(OBJECT, &offsets).expect("the object");
        let without = replaced(OBJECT, &Offsets::ABSENT).expect("the object");
        assert_eq!(without, OBJECT);
        assert_eq!(with.len(), OBJECT.len());
        let changed = with.iter().zip(OBJECT).filter(|(a, b)| a != b).count();
        assert!(changed > 200, "{changed} bytes");
    }
}
