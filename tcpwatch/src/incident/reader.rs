//! Reads a recording, or says in one line where it is none.

use std::{
    io::{self, BufRead, Read},
    path::Path,
};

use serde::{Deserialize, de::DeserializeOwned};

use super::{FORMAT, Fact, Header, LINE_BYTES, VERSION};
use crate::plain;

/// Longer than any header. A file that is no recording at all is refused before more of it is in
/// memory; the lines that follow are as long as the host had sockets.
const HEADER_BYTES: u64 = 64 * 1024;

/// Why a recording cannot be read: one line, with the place.
#[derive(Debug, thiserror::Error)]
#[error("{file}:{line}: {cause}")]
pub struct IncidentError {
    /// The file, by a name that cannot break the line.
    file: String,
    /// Which line of it, from 1.
    line: usize,
    cause: Cause,
}

#[derive(Debug, thiserror::Error)]
enum Cause {
    #[error("cannot be read: {0}")]
    Unreadable(io::Error),
    #[error("not a recording; expected a file of `tcpwatch check --record FILE`")]
    NotARecording,
    #[error(
        "recorded in version {0} of the format, this tcpwatch reads version {VERSION}; replay it \
         with the tcpwatch that recorded it, or a later one"
    )]
    UnknownVersion(u64),
    #[error("longer than {LINE_BYTES} bytes, the limit of a line")]
    TooLong,
    #[error("column {column}: {reason}")]
    Malformed { column: usize, reason: String },
}

/// The part of the first line that every version has.
#[derive(Deserialize)]
struct Mark {
    format: String,
    version: u64,
}

/// The facts of a recording, in order.
#[derive(Debug)]
pub struct Recording<R> {
    from: R,
    file: String,
    /// Lines read so far.
    line: usize,
    header: Header,
}

impl<R: BufRead> Recording<R> {
    /// Reads the header. `path` is only named in errors.
    pub fn open(mut from: R, path: &Path) -> Result<Self, IncidentError> {
        let file = plain::path(path);
        let refuse = |cause| IncidentError { file: file.clone(), line: 1, cause };
        let mut first = Vec::new();
        Read::take(&mut from, HEADER_BYTES)
            .read_until(b'\n', &mut first)
            .map_err(|error| refuse(Cause::Unreadable(error)))?;
        let mark = serde_json::from_slice::<Mark>(&first).ok();
        let mark = mark.filter(|mark| mark.format == FORMAT);
        match mark.ok_or_else(|| refuse(Cause::NotARecording))?.version {
            version if version == u64::from(VERSION) => {}
            version => return Err(refuse(Cause::UnknownVersion(version))),
        }
        let header = parse(&first).map_err(refuse)?;
        Ok(Self { from, file, line: 1, header })
    }

    /// Where and when it was made.
    #[must_use]
    pub const fn header(&self) -> &Header {
        &self.header
    }
}

impl<R: BufRead> Iterator for Recording<R> {
    type Item = Result<Fact, IncidentError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.line += 1;
        let mut text = Vec::new();
        let fact = match Read::take(&mut self.from, LINE_BYTES + 1).read_until(b'\n', &mut text) {
            Ok(0) => return None,
            Ok(length) if length as u64 > LINE_BYTES => Err(Cause::TooLong),
            Ok(_) => parse(&text),
            Err(error) => Err(Cause::Unreadable(error)),
        };
        let refuse = |cause| IncidentError { file: self.file.clone(), line: self.line, cause };
        Some(fact.map_err(refuse))
    }
}

fn parse<T: DeserializeOwned>(text: &[u8]) -> Result<T, Cause> {
    serde_json::from_slice(text).map_err(|error| {
        // To the parser each line is a text of its own: its place is said in front, once.
        let place = format!(" at line {} column {}", error.line(), error.column());
        let reason = plain::said(&error.to_string().replace(&place, ""));
        Cause::Malformed { column: error.column(), reason }
    })
}
