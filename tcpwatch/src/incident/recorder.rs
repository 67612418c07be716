//! Writes a recording.

use std::{
    collections::HashMap,
    io::{self, Write},
};

use serde::Serialize;

use super::{FORMAT, Fact, Header, LINE_BYTES, VERSION};

/// The header as it is written.
#[derive(Serialize)]
struct FirstLine<'a> {
    format: &'static str,
    version: u32,
    #[serde(flatten)]
    header: &'a Header,
}

/// Writes facts, a line for each.
#[derive(Debug)]
pub struct Recorder<W> {
    to: W,
    /// The number that stands for each socket's address; as many as the recording has sockets.
    numbers: HashMap<u64, u64>,
}

impl<W: Write> Recorder<W> {
    /// Writes the header.
    pub fn begin(to: W, header: &Header) -> io::Result<Self> {
        let mut recorder = Self { to, numbers: HashMap::new() };
        recorder.write_line(&FirstLine { format: FORMAT, version: VERSION, header })?;
        Ok(recorder)
    }

    /// Replaces the kernel addresses in the fact by numbers and writes it. The engine then
    /// judges the fact as it was written.
    pub fn record(&mut self, fact: &mut Fact) -> io::Result<()> {
        if let Fact::Inventory { found, .. } = fact {
            for namespace in &mut found.namespaces {
                let close_wait = namespace.close_wait.iter_mut().map(|socket| &mut socket.id);
                let to_itself = namespace.self_connected.iter_mut().map(|socket| &mut socket.id);
                let waiting = namespace.waiting.iter_mut().map(|socket| &mut socket.id);
                let stalled = namespace.stalled.iter_mut().map(|socket| &mut socket.id);
                let listeners = namespace
                    .listeners
                    .iter_mut()
                    .flat_map(|listener| [Some(&mut listener.id), listener.first_waiting.as_mut()]);
                let sockets = close_wait.chain(to_itself).chain(waiting).chain(stalled);
                for id in sockets.chain(listeners.flatten()) {
                    // The same socket has the same number in each inventory.
                    let next = self.numbers.len() as u64 + 1;
                    *id = *self.numbers.entry(*id).or_insert(next);
                }
            }
        }
        self.write_line(fact)
    }

    /// In one piece, so that all lines before an interruption are whole.
    fn write_line(&mut self, line: &impl Serialize) -> io::Result<()> {
        let mut bytes = serde_json::to_vec(line)?;
        bytes.push(b'\n');
        if bytes.len() as u64 > LINE_BYTES {
            let reason = format!("an inventory of more than {LINE_BYTES} bytes is not recorded");
            return Err(io::Error::other(reason));
        }
        self.to.write_all(&bytes)
    }
}
