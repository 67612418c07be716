//! Turns times of CLOCK_MONOTONIC into times of day.
//!
//! The distance between the two clocks is measured once for each text that shows times, so all
//! times of one text agree with each other and follow a clock that was set. CLOCK_MONOTONIC stands
//! still while the host is suspended: an event before a suspension is shown too late by as
//! much.

use rustix::time::{ClockId, Timespec, clock_gettime};

use crate::{facts::Timestamp, incident::Header};

/// Both clocks at one moment.
#[derive(Clone, Copy, Debug)]
pub struct WallClock {
    /// CLOCK_MONOTONIC of the host.
    now: Timestamp,
    /// CLOCK_REALTIME less CLOCK_MONOTONIC.
    offset_ns: i128,
}

impl WallClock {
    /// Reads CLOCK_REALTIME; `now` is the same moment on the clock of the facts.
    #[must_use]
    pub fn at(now: Timestamp) -> Self {
        Self::new(now, nanoseconds(clock_gettime(ClockId::Realtime)))
    }

    /// With CLOCK_REALTIME in nanoseconds at `now`.
    #[must_use]
    pub fn new(now: Timestamp, real_ns: i128) -> Self {
        Self { now, offset_ns: real_ns - i128::from(now.as_ns()) }
    }

    /// The clock of the host where a recording was made; `None` if its header has no time of day.
    #[must_use]
    pub fn of_recording(header: &Header) -> Option<Self> {
        let real: jiff::Timestamp = header.recorded_at.parse().ok()?;
        Some(Self::new(header.monotonic_ns, real.as_nanosecond()))
    }

    /// A clock whose present is this time of day in RFC 3339. [`Self::timestamp`] gives the times of
    /// the same document.
    #[must_use]
    pub fn of_text(now: &str) -> Option<Self> {
        let real: jiff::Timestamp = now.parse().ok()?;
        // Far from both ends of the clock.
        Some(Self::new(Timestamp::from_ns(u64::MAX / 2), real.as_nanosecond()))
    }

    /// The moment of a time of day in RFC 3339; `None` where it is none, or lies centuries away.
    #[must_use]
    pub fn timestamp(&self, text: &str) -> Option<Timestamp> {
        let real: jiff::Timestamp = text.parse().ok()?;
        u64::try_from(real.as_nanosecond() - self.offset_ns).ok().map(Timestamp::from_ns)
    }

    /// When the clocks were read.
    #[must_use]
    pub const fn now(&self) -> Timestamp {
        self.now
    }

    /// RFC 3339 in UTC with milliseconds: `2026-11-20T08:30:00.000Z`.
    #[must_use]
    pub fn rfc3339(&self, at: Timestamp) -> String {
        let ns = self.offset_ns + i128::from(at.as_ns());
        // Out of range is a clock beyond the year 9999.
        let time = jiff::Timestamp::from_nanosecond(ns).unwrap_or(jiff::Timestamp::MAX);
        format!("{time:.3}")
    }

    /// The day in UTC when the clocks were read.
    #[must_use]
    pub fn today(&self) -> jiff::civil::Date {
        let ns = self.offset_ns + i128::from(self.now.as_ns());
        let time = jiff::Timestamp::from_nanosecond(ns).unwrap_or(jiff::Timestamp::MAX);
        time.to_zoned(jiff::tz::TimeZone::UTC).date()
    }

    /// Seconds since the epoch, as in Prometheus.
    #[must_use]
    pub fn unix_seconds(&self, at: Timestamp) -> f64 {
        (self.offset_ns + i128::from(at.as_ns())) as f64 / 1e9
    }
}

fn nanoseconds(time: Timespec) -> i128 {
    i128::from(time.tv_sec) * 1_000_000_000 + i128::from(time.tv_nsec)
}
