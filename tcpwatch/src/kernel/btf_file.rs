//! Reads the BPF Type Format, as far as offsets and names need it.
//!
//! The format is stable and small (Documentation/bpf/btf.rst of the kernel): a header, type
//! records of 12 bytes each followed by what their kind adds, and strings. This reader keeps the
//! bytes as they are and one position for each type: 6 MB for a moment. Parsing all of it into
//! objects takes 40 to 60 MB. The names that will be looked up are known before, so one pass over the
//! 100,000 types finds them all. Damaged input is an error, never a panic.

use std::collections::BTreeSet;

use memchr::memmem;

/// Why a file is no BTF.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum FormatError {
    /// The first bytes.
    #[error("it does not begin with a BTF header of this machine's byte order")]
    Header,
    /// A record reaches beyond its section.
    #[error("type {0} is cut off")]
    CutOff(usize),
    /// A kind of type that this version does not know the size of.
    #[error("type {0} is of kind {1}: this kernel's BTF is newer than this tcpwatch knows")]
    UnknownKind(usize, u32),
}

/// Kinds of types (`BTF_KIND_*`, include/uapi/linux/btf.h).
mod kind {
    pub(super) const INT: u32 = 1;
    pub(super) const PTR: u32 = 2;
    pub(super) const ARRAY: u32 = 3;
    pub(super) const STRUCT: u32 = 4;
    pub(super) const UNION: u32 = 5;
    pub(super) const ENUM: u32 = 6;
    pub(super) const FWD: u32 = 7;
    pub(super) const TYPEDEF: u32 = 8;
    pub(super) const VOLATILE: u32 = 9;
    pub(super) const CONST: u32 = 10;
    pub(super) const RESTRICT: u32 = 11;
    pub(super) const FUNC: u32 = 12;
    pub(super) const FUNC_PROTO: u32 = 13;
    pub(super) const VAR: u32 = 14;
    pub(super) const DATASEC: u32 = 15;
    pub(super) const FLOAT: u32 = 16;
    pub(super) const DECL_TAG: u32 = 17;
    pub(super) const TYPE_TAG: u32 = 18;
    pub(super) const ENUM64: u32 = 19;
}

/// The file's first bytes: `BTF_MAGIC` of a little-endian machine, the only version, no flags.
const START: [u8; 4] = [0x9f, 0xeb, 1, 0];
/// `struct btf_type`.
const RECORD: usize = 12;
/// Nested anonymous members and chained typedefs that are followed; the kernel has a handful.
const DEPTH: u32 = 32;

/// A BTF file in memory.
pub(super) struct BtfFile {
    bytes: Vec<u8>,
    /// Position of each type's record; type ids start at 1.
    types: Vec<u32>,
    /// Numbers and records of the names that are looked up, in the order of the file.
    named: Vec<(usize, Record)>,
    strings: usize,
}

/// A type's record.
#[derive(Clone, Copy)]
struct Record {
    position: usize,
    name: u32,
    info: u32,
    /// A size or a type, as the kind says.
    size_or_type: u32,
}

/// A structure of the file.
#[derive(Clone, Copy)]
pub(super) struct Structure(Record);

/// Types to which programs can be attached.
#[derive(Clone, Debug)]
pub(super) struct Targets(Vec<Target>);

#[derive(Clone, Debug)]
struct Target {
    id: usize,
    name: String,
    info: u32,
    /// The type behind it.
    behind: u32,
}

impl Targets {
    /// A BTF file with these types under their numbers. Every other type is a forward declaration
    /// without a name, and those behind are not there: attaching a program takes the number of its
    /// target, and nothing else.
    pub(super) fn to_file(&self) -> Vec<u8> {
        const HEADER: u32 = 24;
        const OTHER: [u32; 3] = [0, kind::FWD << 24, 0];
        let count = self.0.iter().map(|target| target.id).max().unwrap_or(0);
        let mut records = vec![OTHER; count];
        let mut strings = vec![0];
        for Target { id, name, info, behind } in &self.0 {
            // They are a few names of a file whose positions are of 32 bits.
            records[id - 1] = [strings.len() as u32, *info, *behind];
            strings.extend_from_slice(name.as_bytes());
            strings.push(0);
        }
        let length = (count * RECORD) as u32;
        let header = [u32::from_ne_bytes(START), HEADER, 0, length, length, strings.len() as u32];
        let mut bytes = Vec::with_capacity(HEADER as usize + count * RECORD + strings.len());
        for word in header.iter().chain(records.as_flattened()) {
            bytes.extend_from_slice(&word.to_ne_bytes());
        }
        bytes.extend_from_slice(&strings);
        bytes
    }
}

impl Record {
    const fn kind(self) -> u32 {
        (self.info >> 24) & 0x1f
    }

    /// How many members, parameters or enumerators follow.
    const fn length(self) -> usize {
        (self.info & 0xffff) as usize
    }

    /// Of a structure: member offsets hold a bit-field size in their upper byte.
    const fn has_bit_fields(self) -> bool {
        self.info >> 31 != 0
    }

    /// Bytes that follow the record.
    const fn trailer(self) -> Option<usize> {
        match self.kind() {
            kind::INT | kind::VAR | kind::DECL_TAG => Some(4),
            kind::ARRAY => Some(12),
            kind::STRUCT | kind::UNION | kind::DATASEC | kind::ENUM64 => Some(self.length() * 12),
            kind::ENUM | kind::FUNC_PROTO => Some(self.length() * 8),
            kind::PTR
            | kind::FWD
            | kind::TYPEDEF
            | kind::VOLATILE
            | kind::CONST
            | kind::RESTRICT
            | kind::FUNC
            | kind::FLOAT
            | kind::TYPE_TAG => Some(0),
            _ => None,
        }
    }
}

impl BtfFile {
    /// Of named types only those with one of these names can be found.
    pub(super) fn parse<N: AsRef<str>>(bytes: Vec<u8>, names: &[N]) -> Result<Self, FormatError> {
        let word = |position| word_at(&bytes, position).ok_or(FormatError::Header);
        if cfg!(target_endian = "big") || !bytes.starts_with(&START[..3]) {
            return Err(FormatError::Header);
        }
        let header = word(4)? as usize;
        let types_at = header.saturating_add(word(8)? as usize);
        let types_end = types_at.saturating_add(word(12)? as usize);
        let strings = header.saturating_add(word(16)? as usize);
        let strings_end = strings.saturating_add(word(20)? as usize);
        if types_end > bytes.len() || strings_end > bytes.len() {
            return Err(FormatError::Header);
        }
        let section = &bytes[strings..strings_end];
        // Structures come once for each of their fields.
        let names: BTreeSet<&str> = names.iter().map(N::as_ref).collect();
        let names: BTreeSet<u32> =
            names.into_iter().filter_map(|name| offset_of_string(section, name)).collect();
        let mut file = Self { bytes, types: Vec::new(), named: Vec::new(), strings };
        let mut position = types_at;
        while position < types_end {
            let id = file.types.len() + 1;
            let record = file.record_at(position).ok_or(FormatError::CutOff(id))?;
            let trailer = record.trailer().ok_or(FormatError::UnknownKind(id, record.kind()))?;
            file.types.push(u32::try_from(position).map_err(|_| FormatError::Header)?);
            if names.contains(&record.name) {
                file.named.push((id, record));
            }
            position += RECORD + trailer;
            if position > types_end {
                return Err(FormatError::CutOff(id));
            }
        }
        Ok(file)
    }

    /// A structure whose members are looked up.
    pub(super) fn structure(&self, name: &str) -> Option<Structure> {
        self.find(name, &[kind::STRUCT]).map(Structure)
    }

    /// Byte offset of a member of a structure; a dot leads into a nested one. `None` also for a
    /// bit-field, which has no address.
    pub(super) fn offset_of(&self, container: Structure, path: &str) -> Option<u32> {
        let Structure(mut record) = container;
        let mut bits = 0;
        for name in path.split('.') {
            let (member_bits, member) = self.member(record, name, DEPTH)?;
            bits += member_bits;
            record = self.behind_aliases(member)?;
        }
        bits.is_multiple_of(8).then_some(bits / 8)
    }

    /// Bit offset of a member of a structure, which may be a bit-field.
    pub(super) fn bit_offset_of(&self, container: Structure, member: &str) -> Option<u32> {
        self.member(container.0, member, DEPTH).map(|(bits, _)| bits)
    }

    /// Parameters of the function that a typedef of a function pointer names.
    pub(super) fn parameters_of(&self, typedef: &str) -> Option<usize> {
        let typedef = self.find(typedef, &[kind::TYPEDEF])?;
        let pointer = self.behind_aliases(typedef.size_or_type)?;
        let function = self.behind_aliases(pointer.size_or_type)?;
        (pointer.kind() == kind::PTR && function.kind() == kind::FUNC_PROTO)
            .then(|| function.length())
    }

    /// Parameters of a function of the kernel.
    pub(super) fn parameters_of_function(&self, name: &str) -> Option<usize> {
        let function = self.find(name, &[kind::FUNC])?;
        let prototype = self.behind_aliases(function.size_or_type)?;
        (prototype.kind() == kind::FUNC_PROTO).then(|| prototype.length())
    }

    /// Names and values of an enum.
    pub(super) fn enumerators(&self, name: &str) -> Vec<(&str, u32)> {
        let Some(record) = self.find(name, &[kind::ENUM]) else { return Vec::new() };
        let first = record.position + RECORD;
        let enumerator = |index: usize| {
            let position = first + index * 8;
            let name = self.string(word_at(&self.bytes, position)?)?;
            Some((name, word_at(&self.bytes, position + 4)?))
        };
        (0..record.length()).filter_map(enumerator).collect()
    }

    /// The functions and typedefs of these names, which are among those that are looked up.
    pub(super) fn targets(&self, names: &[String]) -> Targets {
        let targets = self.named.iter().filter_map(|(id, record)| {
            let name = self.string(record.name)?;
            let is_target = matches!(record.kind(), kind::FUNC | kind::TYPEDEF);
            (is_target && names.iter().any(|it| it == name)).then(|| Target {
                id: *id,
                name: name.to_owned(),
                info: record.info,
                behind: record.size_or_type,
            })
        });
        Targets(targets.collect())
    }

    fn find(&self, name: &str, kinds: &[u32]) -> Option<Record> {
        let is_it = |it: &&Record| kinds.contains(&it.kind()) && self.is_called(**it, name);
        self.named.iter().map(|(_, record)| record).find(is_it).copied()
    }

    fn is_called(&self, record: Record, name: &str) -> bool {
        let from_there = self.bytes.get(self.strings + record.name as usize..);
        let after = from_there.and_then(|bytes| bytes.strip_prefix(name.as_bytes()));
        after.is_some_and(|after| after.first() == Some(&0))
    }

    /// Bit offset and type id of a member, also one inside an anonymous structure or union.
    fn member(&self, container: Record, name: &str, depth: u32) -> Option<(u32, u32)> {
        if !matches!(container.kind(), kind::STRUCT | kind::UNION) || depth == 0 {
            return None;
        }
        for index in 0..container.length() {
            let position = container.position + RECORD + index * 12;
            let member_name = self.string(word_at(&self.bytes, position)?)?;
            let member_type = word_at(&self.bytes, position + 4)?;
            let offset = word_at(&self.bytes, position + 8)?;
            let bits = if container.has_bit_fields() { offset & 0x00ff_ffff } else { offset };
            if member_name == name {
                return Some((bits, member_type));
            }
            if member_name.is_empty()
                && let Some(inner) = self.behind_aliases(member_type)
                && let Some((inner_bits, found)) = self.member(inner, name, depth - 1)
            {
                return Some((bits + inner_bits, found));
            }
        }
        None
    }

    /// A type behind typedefs, qualifiers and tags.
    fn behind_aliases(&self, mut id: u32) -> Option<Record> {
        for _ in 0..DEPTH {
            let index = (id as usize).checked_sub(1)?;
            let record = self.record_at(*self.types.get(index)? as usize)?;
            match record.kind() {
                kind::TYPEDEF | kind::VOLATILE | kind::CONST | kind::RESTRICT | kind::TYPE_TAG => {
                    id = record.size_or_type
                }
                _ => return Some(record),
            }
        }
        None
    }

    fn record_at(&self, position: usize) -> Option<Record> {
        Some(Record {
            position,
            name: word_at(&self.bytes, position)?,
            info: word_at(&self.bytes, position + 4)?,
            size_or_type: word_at(&self.bytes, position + 8)?,
        })
    }

    fn string(&self, offset: u32) -> Option<&str> {
        let bytes = self.bytes.get(self.strings + offset as usize..)?;
        let end = bytes.iter().position(|&byte| byte == 0)?;
        std::str::from_utf8(&bytes[..end]).ok()
    }
}

/// Where a string begins in the section of strings: each ends with a zero byte and is there once.
fn offset_of_string(section: &[u8], name: &str) -> Option<u32> {
    // The section begins with the empty string, so a zero byte stands before each.
    let whole = [b"\0", name.as_bytes(), b"\0"].concat();
    memmem::find(section, &whole).and_then(|before| u32::try_from(before + 1).ok())
}

fn word_at(bytes: &[u8], position: usize) -> Option<u32> {
    let word = bytes.get(position..)?.first_chunk()?;
    Some(u32::from_ne_bytes(*word))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `struct outer { int a; struct { int b; alias c; }; }` with `typedef struct inner alias` and
    /// `struct inner { int x; int y; }`, an enum and a function pointer.
    fn sample() -> Vec<u8> {
        let strings = b"\0int\0inner\0x\0y\0alias\0outer\0a\0b\0c\0color\0RED\0BLUE\0call\0";
        let name = |expected: &str| {
            let text = std::str::from_utf8(strings).expect("the strings are ASCII");
            u32::try_from(text.find(&format!("\0{expected}\0")).expect("it is there") + 1)
                .expect("it is short")
        };
        let info = |kind: u32, length: u32| kind << 24 | length;
        let types: Vec<u32> = [
            &[name("int"), info(kind::INT, 0), 4, 32][..],
            &[name("inner"), info(kind::STRUCT, 2), 8, name("x"), 1, 0, name("y"), 1, 32],
            &[name("alias"), info(kind::TYPEDEF, 0), 2],
            &[0, info(kind::STRUCT, 2), 12, name("b"), 1, 0, name("c"), 3, 32],
            &[name("outer"), info(kind::STRUCT, 2), 16, name("a"), 1, 0, 0, 4, 32],
            &[name("color"), info(kind::ENUM, 2), 4, name("RED"), 0, name("BLUE"), 7],
            &[0, info(kind::FUNC_PROTO, 3), 0, 0, 1, 0, 1, 0, 1],
            &[0, info(kind::PTR, 0), 7],
            &[name("call"), info(kind::TYPEDEF, 0), 8],
        ]
        .concat();
        let words = |numbers: &[u32]| -> Vec<u8> {
            numbers.iter().flat_map(|number| number.to_ne_bytes()).collect()
        };
        let length = u32::try_from(types.len() * 4).expect("it is short");
        let mut file = vec![0x9f, 0xeb, 1, 0];
        let string_length = u32::try_from(strings.len()).expect("it is short");
        file.extend(words(&[24, 0, length, length, string_length]));
        file.extend(words(&types));
        file.extend(strings);
        file
    }

    const NAMES: &[&str] = &["outer", "color", "call", "alias"];

    fn offset_of(file: &BtfFile, container: &str, path: &str) -> Option<u32> {
        file.offset_of(file.structure(container)?, path)
    }

    #[test]
    fn members_are_found_through_anonymous_structures_and_typedefs() {
        let file = BtfFile::parse(sample(), NAMES).expect("the sample is BTF");
        assert_eq!(offset_of(&file, "outer", "a"), Some(0));
        assert_eq!(offset_of(&file, "outer", "b"), Some(4));
        assert_eq!(offset_of(&file, "outer", "c.y"), Some(12));
        assert_eq!(offset_of(&file, "outer", "nothing"), None);
        assert_eq!(offset_of(&file, "color", "a"), None);
    }

    #[test]
    fn enumerators_and_parameters_are_read() {
        let file = BtfFile::parse(sample(), NAMES).expect("the sample is BTF");
        assert_eq!(file.enumerators("color"), [("RED", 0), ("BLUE", 7)]);
        assert_eq!(file.parameters_of("call"), Some(3));
        assert_eq!(file.parameters_of("alias"), None);
    }

    #[test]
    fn a_file_of_targets_has_them_under_their_numbers_and_nothing_else() {
        let names = ["call", "alias", "color"].map(str::to_owned);
        let whole = BtfFile::parse(sample(), &names).expect("the sample is BTF");
        let file = whole.targets(&["call".to_owned(), "color".to_owned()]).to_file();
        let file = BtfFile::parse(file, &names).expect("it is BTF");
        let [(id, call)] = file.named[..] else { panic!("{} are named", file.named.len()) };
        assert_eq!((id, call.kind(), call.size_or_type), (9, kind::TYPEDEF, 8));
        assert_eq!(file.types.len(), 9);
        let nothing = BtfFile::parse(whole.targets(&[]).to_file(), &names);
        assert_eq!(nothing.map(|file| file.types.len()), Ok(0));
    }

    #[test]
    fn damaged_files_are_errors_and_never_a_panic() {
        let good = sample();
        for length in 0..good.len() {
            let _ =
                BtfFile::parse(good[..length].to_vec(), NAMES).map(|file| ask_everything(&file));
        }
        for position in 0..good.len() {
            for value in [0, 1, 0x7f, 0xff] {
                let mut bad = good.clone();
                bad[position] = value;
                let _ = BtfFile::parse(bad, NAMES).map(|file| ask_everything(&file));
            }
        }
        assert_eq!(BtfFile::parse(Vec::new(), NAMES).err(), Some(FormatError::Header));
    }

    fn ask_everything(file: &BtfFile) {
        let _ = offset_of(file, "outer", "c.y");
        let _ = file.parameters_of("call");
        let _ = file.enumerators("color");
        let _ = file.targets(&["call".to_owned()]).to_file();
    }
}
