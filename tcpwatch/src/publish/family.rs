//! A metric with its series: gauges, counters that never fall, and histograms.
//!
//! Not the vectors of the `prometheus` crate: they keep a series under a hash of its label values
//! without a separator, so process="" unit="nginx" and process="nginx" unit="" would be one. Here
//! a series is kept under its labels, in their order, which also makes the text deterministic. The
//! number of labels is part of the type.

use std::{collections::BTreeMap, time::Duration};

use prometheus::proto::{self, MetricFamily, MetricType};

use crate::{facts::CloseWaitDurations, plain};

/// A metric: a row of docs/METRICS.md.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MetricRow {
    /// The name.
    pub name: &'static str,
    /// How its value moves.
    pub kind: MetricKind,
    /// Names of the labels, in the order in which they are shown.
    pub labels: &'static [&'static str],
    /// The HELP line.
    pub help: &'static str,
}

/// How a metric's value moves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MetricKind {
    /// Up and down.
    Gauge,
    /// Only up.
    Counter,
    /// Time in seconds, only up.
    Seconds,
    /// Counts by size.
    Histogram,
}

impl MetricKind {
    /// As the TYPE line says it.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Gauge => "gauge",
            Self::Counter | Self::Seconds => "counter",
            Self::Histogram => "histogram",
        }
    }

    const fn metric_type(self) -> MetricType {
        match self {
            Self::Gauge => MetricType::GAUGE,
            Self::Counter | Self::Seconds => MetricType::COUNTER,
            Self::Histogram => MetricType::HISTOGRAM,
        }
    }
}

type Series<const N: usize, V> = BTreeMap<[String; N], V>;

/// Values that rise and fall.
#[derive(Debug)]
pub(super) struct Gauge<const N: usize> {
    row: MetricRow,
    series: Series<N, f64>,
}

impl<const N: usize> Gauge<N> {
    pub(super) const fn new(row: MetricRow) -> Self {
        Self { row, series: Series::new() }
    }

    /// Forgets every series: one that is not set again is absent.
    pub(super) fn clear(&mut self) {
        self.series.clear();
    }

    pub(super) fn set(&mut self, labels: [&str; N], value: f64) {
        self.series.insert(labels.map(str::to_owned), value);
    }

    /// Adds to the series, so that two things with the same labels are shown as their sum.
    pub(super) fn add(&mut self, labels: [&str; N], value: f64) {
        *self.series.entry(labels.map(str::to_owned)).or_default() += value;
    }

    /// Raises the series to `value` if it is below.
    pub(super) fn raise(&mut self, labels: [&str; N], value: f64) {
        let largest = self.series.entry(labels.map(str::to_owned)).or_insert(value);
        *largest = largest.max(value);
    }

    /// Lowers the series to `value` if it is above.
    pub(super) fn lower(&mut self, labels: [&str; N], value: f64) {
        let smallest = self.series.entry(labels.map(str::to_owned)).or_insert(value);
        *smallest = smallest.min(value);
    }

    pub(super) fn family(&self) -> MetricFamily {
        family(&self.row, &self.series, |value, metric| {
            let mut gauge = proto::Gauge::default();
            gauge.set_value(*value);
            metric.set_gauge(gauge);
        })
    }
}

/// A counter's value, and the total at its source from which the next difference is taken.
#[derive(Clone, Copy, Debug, Default)]
struct Count {
    value: u64,
    total: u64,
}

/// Values that only rise.
#[derive(Debug)]
pub(super) struct Counter<const N: usize> {
    row: MetricRow,
    series: Series<N, Count>,
}

impl<const N: usize> Counter<N> {
    pub(super) const fn new(row: MetricRow) -> Self {
        Self { row, series: Series::new() }
    }

    pub(super) fn clear(&mut self) {
        self.series.clear();
    }

    /// Raises each series by the rise of its total since the last time. A total that went back
    /// starts anew from there and takes nothing away; a series that is not mentioned keeps its
    /// value.
    pub(super) fn grow<'a>(&mut self, totals: impl IntoIterator<Item = ([&'a str; N], u64)>) {
        // Summed first: two totals with the same labels must not look like one that goes to and
        // fro.
        let mut sums = BTreeMap::<[&str; N], u64>::new();
        for (labels, total) in totals {
            let sum = sums.entry(labels).or_default();
            *sum = sum.saturating_add(total);
        }
        for (labels, total) in sums {
            let count = self.series.entry(labels.map(str::to_owned)).or_default();
            count.value = count.value.saturating_add(total.saturating_sub(count.total));
            count.total = total;
        }
    }

    /// Shows these totals and no others. For counters by owner: a series ends when its owner loses
    /// its name, and begins anew at 0 when that comes back, which Prometheus takes for a restart.
    pub(super) fn show<'a>(&mut self, totals: impl IntoIterator<Item = ([&'a str; N], u64)>) {
        self.clear();
        self.grow(totals);
    }

    pub(super) fn family(&self) -> MetricFamily {
        family(&self.row, &self.series, |count, metric| {
            let mut counter = proto::Counter::default();
            counter.set_value(count.value as f64);
            metric.set_counter(counter);
        })
    }
}

/// Counts by size, as the kernel side keeps them.
#[derive(Debug)]
pub(super) struct Histogram<const N: usize> {
    row: MetricRow,
    series: Series<N, CloseWaitDurations>,
}

impl<const N: usize> Histogram<N> {
    pub(super) const fn new(row: MetricRow) -> Self {
        Self { row, series: Series::new() }
    }

    pub(super) fn set(&mut self, labels: [&str; N], durations: CloseWaitDurations) {
        self.series.insert(labels.map(str::to_owned), durations);
    }

    pub(super) fn family(&self) -> MetricFamily {
        family(&self.row, &self.series, |durations, metric| {
            let mut below = 0;
            let buckets = durations.buckets.iter().map(|(bound, sockets)| {
                below += sockets;
                let mut bucket = proto::Bucket::default();
                bucket.set_upper_bound(bound.as_secs_f64());
                bucket.set_cumulative_count(below);
                bucket
            });
            let mut histogram = proto::Histogram::default();
            histogram.set_bucket(buckets.collect());
            histogram.set_sample_count(below + durations.beyond);
            histogram.set_sample_sum(durations.sum.as_secs_f64());
            metric.set_histogram(histogram);
        })
    }
}

/// Times that only rise.
#[derive(Debug)]
pub(super) struct Seconds<const N: usize> {
    row: MetricRow,
    series: Series<N, Duration>,
}

impl<const N: usize> Seconds<N> {
    pub(super) const fn new(row: MetricRow) -> Self {
        Self { row, series: Series::new() }
    }

    pub(super) fn add(&mut self, labels: [&str; N], time: Duration) {
        *self.series.entry(labels.map(str::to_owned)).or_default() += time;
    }

    /// Raises the series to a total that its source keeps.
    pub(super) fn raise(&mut self, labels: [&str; N], total: Duration) {
        let largest = self.series.entry(labels.map(str::to_owned)).or_default();
        *largest = total.max(*largest);
    }

    pub(super) fn family(&self) -> MetricFamily {
        family(&self.row, &self.series, |time, metric| {
            let mut counter = proto::Counter::default();
            counter.set_value(time.as_secs_f64());
            metric.set_counter(counter);
        })
    }
}

fn family<const N: usize, V>(
    row: &MetricRow,
    series: &Series<N, V>,
    fill: impl Fn(&V, &mut proto::Metric),
) -> MetricFamily {
    let metrics = series.iter().map(|(values, value)| {
        let labels = row.labels.iter().zip(values).map(|(name, value)| {
            let mut label = proto::LabelPair::default();
            label.set_name((*name).to_owned());
            label.set_value(plain::text(value).into_owned());
            label
        });
        let mut metric = proto::Metric::from_label(labels.collect());
        fill(value, &mut metric);
        metric
    });
    let mut family = MetricFamily::default();
    family.set_name(row.name.to_owned());
    family.set_help(row.help.to_owned());
    family.set_field_type(row.kind.metric_type());
    family.set_metric(metrics.collect());
    family
}
