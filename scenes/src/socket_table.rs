//! `/proc/net/tcp` and `tcp6` as values: the second witness, besides `ss`,
//! of what a situation has made.
//!
//! It shows full sockets, minisockets (with their substate, so an orphaned
//! FIN_WAIT2 as FIN_WAIT2) and half-open requests.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use anyhow::{Context, Result};

/// A state as /proc/net/tcp numbers it (include/net/tcp_states.h).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum State {
    /// Open on both sides.
    Established = 1,
    /// connect() was called.
    SynSent,
    /// Half-open, or a simultaneous open under way.
    SynRecv,
    /// Closed here, not acknowledged.
    FinWait1,
    /// Closed here, the peer's end still open.
    FinWait2,
    /// The active closer's minute.
    TimeWait,
    /// Nothing.
    Close,
    /// The peer closed, this side has not.
    CloseWait,
    /// Closed after the peer, not acknowledged.
    LastAck,
    /// A listener.
    Listen,
    /// Both closed at once.
    Closing,
}

impl State {
    const ALL: [Self; 11] = [
        Self::Established,
        Self::SynSent,
        Self::SynRecv,
        Self::FinWait1,
        Self::FinWait2,
        Self::TimeWait,
        Self::Close,
        Self::CloseWait,
        Self::LastAck,
        Self::Listen,
        Self::Closing,
    ];

    /// As `ss` spells it.
    #[must_use]
    pub const fn ss_name(self) -> &'static str {
        match self {
            Self::Established => "ESTAB",
            Self::SynSent => "SYN-SENT",
            Self::SynRecv => "SYN-RECV",
            Self::FinWait1 => "FIN-WAIT-1",
            Self::FinWait2 => "FIN-WAIT-2",
            Self::TimeWait => "TIME-WAIT",
            Self::Close => "UNCONN",
            Self::CloseWait => "CLOSE-WAIT",
            Self::LastAck => "LAST-ACK",
            Self::Listen => "LISTEN",
            Self::Closing => "CLOSING",
        }
    }

    fn from_number(number: u8) -> Self {
        match number {
            // TCP_NEW_SYN_RECV is what `ss` shows as SYN-RECV too.
            12 => Self::SynRecv,
            n => Self::ALL.into_iter().find(|s| *s as u8 == n).unwrap_or(Self::Close),
        }
    }
}

/// One socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SocketLine {
    /// This end.
    pub local: SocketAddr,
    /// The other end.
    pub peer: SocketAddr,
    /// Its state.
    pub state: State,
    /// Unread bytes (the FIN counts one), or of a listener the connections
    /// that wait for accept().
    pub recv_queue: u32,
}

/// Reads the whole table, heading included.
pub(crate) fn parse(text: &str) -> Result<Vec<SocketLine>> {
    text.lines()
        .skip(1)
        .map(|line| parse_line(line).with_context(|| format!("socket table line {line:?}")))
        .collect()
}

fn parse_line(line: &str) -> Option<SocketLine> {
    let mut words = line.split_whitespace().skip(1);
    let local = parse_address(words.next()?)?;
    let peer = parse_address(words.next()?)?;
    let state = State::from_number(u8::from_str_radix(words.next()?, 16).ok()?);
    let (_, recv_queue) = words.next()?.split_once(':')?;
    Some(SocketLine { local, peer, state, recv_queue: u32::from_str_radix(recv_queue, 16).ok()? })
}

/// Addresses are printed as 32-bit words in the machine's own byte order,
/// ports as numbers.
fn parse_address(text: &str) -> Option<SocketAddr> {
    let (address, port) = text.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    let mut bytes = [0_u8; 16];
    let words = address.len() / 8;
    for (index, chunk) in bytes.chunks_exact_mut(4).take(words).enumerate() {
        let word = u32::from_str_radix(address.get(index * 8..index * 8 + 8)?, 16).ok()?;
        chunk.copy_from_slice(&word.to_ne_bytes());
    }
    let ip = match words {
        1 => IpAddr::V4(Ipv4Addr::new(bytes[0], bytes[1], bytes[2], bytes[3])),
        4 => IpAddr::V6(Ipv6Addr::from(bytes)),
        _ => return None,
    };
    Some(SocketAddr::new(ip, port))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]
mod tests {
    use super::{State, parse};

    #[test]
    fn both_families_are_read() {
        let text = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when\n   \
            0: 0100007F:9C40 0900007F:0CEA 08 00000000:00000001 00:00000000 00000000 0 0 1\n   \
            1: 00000000000000000000000001000000:0CEA \
            00000000000000000000000000000000:0000 0A 00000000:00000000 00:00000000 0 0 1\n";
        let sockets = parse(text).unwrap();
        assert_eq!(sockets.len(), 2);
        assert_eq!(sockets[0].local.to_string(), "127.0.0.1:40000");
        assert_eq!(sockets[0].peer.to_string(), "127.0.0.9:3306");
        assert_eq!(sockets[0].state, State::CloseWait);
        assert_eq!(sockets[0].recv_queue, 1);
        assert_eq!(sockets[1].local.to_string(), "[::1]:3306");
        assert_eq!(sockets[1].state, State::Listen);
    }
}
