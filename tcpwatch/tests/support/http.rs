//! Plain HTTP, and single values of an answer with metrics.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use anyhow::{Context, Result};

use super::within;

pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) body: String,
}

/// Connections that [`http_get`] made so far in this process.
pub(crate) fn http_connections() -> u32 {
    HTTP_CONNECTIONS.load(Ordering::Relaxed)
}

static HTTP_CONNECTIONS: AtomicU32 = AtomicU32::new(0);

/// HTTP/1.0, so that the answer comes in one piece and ends with the connection.
pub(crate) fn http_get(address: SocketAddr, path: &str) -> Result<Answer> {
    HTTP_CONNECTIONS.fetch_add(1, Ordering::Relaxed);
    let timeout = within(Duration::from_secs(10));
    let mut stream = TcpStream::connect_timeout(&address, timeout)?;
    stream.set_read_timeout(Some(timeout))?;
    write!(stream, "GET {path} HTTP/1.0\r\nHost: {address}\r\n\r\n")?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    let (head, body) = text.split_once("\r\n\r\n").context("an answer without a body")?;
    let status = head.split(' ').nth(1).and_then(|word| word.parse().ok());
    let status = status.with_context(|| format!("not an HTTP status: {head}"))?;
    Ok(Answer { status, body: body.to_owned() })
}

/// The sum of all series that begin with `name` and whose labels contain each of `labels`.
pub(crate) fn sum_in(metrics: &str, name: &str, labels: &[&str]) -> f64 {
    let matches = |line: &&str| {
        line.strip_prefix(name).is_some_and(|line| line.starts_with(['{', ' ']))
            && labels.iter().all(|label| line.contains(label))
    };
    let values = metrics.lines().filter(matches);
    values.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
}

pub(crate) fn value_in(metrics: &str, series: &str) -> Option<f64> {
    let line = metrics.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '))?;
    line.parse().ok()
}
