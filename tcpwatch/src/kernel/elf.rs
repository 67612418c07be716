//! The name of the function at a place in a file: by the symbols of an ELF file, or by a perf map.
//!
//! The bytes are a stranger's, so this runs only in a process that can do nothing else.

use std::cmp::Reverse;

use object::{Object, ObjectSegment, ObjectSymbol, SegmentFlags, SymbolKind, elf::PF_X};

/// A function, and how far behind its start the place is.
pub(super) type Named = (String, u64);

/// The function of an ELF file whose code is at this offset in the file.
pub(super) fn name_in_elf(file: &[u8], offset: u64) -> Option<Named> {
    let elf = object::File::parse(file).ok()?;
    let address = elf.segments().find_map(|segment| {
        let SegmentFlags::Elf { p_flags } = segment.flags() else { return None };
        let (start, size) = segment.file_range();
        let within = offset.checked_sub(start).filter(|within| *within < size)?;
        (p_flags & PF_X != 0).then(|| segment.address().wrapping_add(within))
    })?;
    // The full table has what the dynamic one has, if it is there.
    let covers = |symbol: &object::Symbol<'_, '_>| {
        let within = address.checked_sub(symbol.address());
        symbol.is_definition()
            && symbol.kind() == SymbolKind::Text
            && within.is_some_and(|within| within < symbol.size())
    };
    // Of several, the innermost; of its names, `connect` before `__connect`.
    let order = |symbol: &object::Symbol<'_, '_>| {
        let name = symbol.name_bytes().unwrap_or_default();
        let underscores = name.iter().take_while(|byte| **byte == b'_').count();
        (Reverse(symbol.address()), !symbol.is_global(), underscores, name.len())
    };
    let symbols = elf.symbols().chain(elf.dynamic_symbols());
    let symbol = symbols.filter(covers).min_by_key(order)?;
    Some((demangled(symbol.name().ok()?), address - symbol.address()))
}

/// The function at this address in a perf map: lines of `START SIZE NAME`, numbers in hexadecimal
/// (tools/perf/Documentation/jit-interface.txt). The last line holds where code was replaced.
pub(super) fn name_in_perf_map(map: &[u8], address: u64) -> Option<Named> {
    map.split(|byte| *byte == b'\n').rev().find_map(|line| {
        let line = std::str::from_utf8(line).ok()?;
        let mut fields = line.splitn(3, ' ');
        let start = hexadecimal(fields.next()?)?;
        let size = hexadecimal(fields.next()?)?;
        let within = address.checked_sub(start).filter(|within| *within < size)?;
        Some((fields.next()?.to_owned(), within))
    })
}

fn hexadecimal(text: &str) -> Option<u64> {
    u64::from_str_radix(text.strip_prefix("0x").unwrap_or(text), 16).ok()
}

fn demangled(name: &str) -> String {
    if let Ok(rust) = rustc_demangle::try_demangle(name) {
        return format!("{rust:#}");
    }
    let cpp = cpp_demangle::Symbol::new(name).ok().and_then(|symbol| symbol.demangle().ok());
    cpp.unwrap_or_else(|| name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_function_of_this_program_is_named() -> std::io::Result<()> {
        let file = std::fs::read("/proc/self/exe")?;
        let elf = object::File::parse(&*file).expect("an ELF file");
        let symbol = elf
            .symbols()
            .find(|it| it.name().is_ok_and(|it| demangled(it).ends_with("::name_in_perf_map")))
            .expect("a test binary has its symbols");
        let segment = elf
            .segments()
            .find(|it| (it.address()..it.address() + it.size()).contains(&symbol.address()))
            .expect("code is in a segment");
        let offset = symbol.address() - segment.address() + segment.file_range().0 + 1;
        let (name, within) = name_in_elf(&file, offset).expect("a covered place");
        assert!(name.ends_with("::elf::name_in_perf_map"), "{name}");
        assert_eq!(within, 1);
        assert_eq!(name_in_elf(&file, u64::MAX), None);
        Ok(())
    }

    #[test]
    fn damaged_files_name_nothing() -> std::io::Result<()> {
        let file = std::fs::read("/proc/self/exe")?;
        for length in [0, 1, 63, 64, 4_096, file.len() / 2] {
            assert_eq!(name_in_elf(&file[..length], 0x1000), None, "{length} bytes");
        }
        Ok(())
    }

    #[test]
    fn the_last_line_of_a_perf_map_holds() {
        let map = b"1000 20 old\n0x2000 10 Main.run (x)\n\xff\nbad\n1000 20 new one\n";
        assert_eq!(name_in_perf_map(map, 0x1008), Some(("new one".to_owned(), 8)));
        assert_eq!(name_in_perf_map(map, 0x2000), Some(("Main.run (x)".to_owned(), 0)));
        assert_eq!(name_in_perf_map(map, 0x1020), None);
    }

    #[test]
    fn names_of_rust_and_cpp_are_demangled() {
        assert_eq!(demangled("_ZN4core3fmt5write17h0123456789abcdefE"), "core::fmt::write");
        assert_eq!(demangled("_ZN3foo3barEv"), "foo::bar()");
        assert_eq!(demangled("connect"), "connect");
    }
}
