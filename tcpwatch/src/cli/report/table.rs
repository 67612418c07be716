//! The findings of a look in a table: a line for each.

use super::sheet::{GAP, Sheet, Side, beside, style_of, widths};
use crate::{
    plain,
    publish::{Incident, WallClock, overview},
};

const HEADER: [&str; 5] = ["SEVERITY", "SINCE", "WHO", "WHERE", "WHAT"];
/// Most columns of WHO.
const MOST: usize = 30;
/// Columns that WHERE has in any case, of a terminal that is wide enough.
const LEAST: usize = 24;

pub(super) fn write(sheet: &mut Sheet, incidents: &[Incident<'_>], wall: WallClock) {
    let overview = overview(incidents, wall);
    let rows: Vec<[String; 5]> = overview
        .iter()
        .map(|row| {
            let severity = row.severity.label().to_uppercase();
            let below = if row.is_led { "└ " } else { "" };
            let what = format!("{below}{}", row.what);
            [&severity, &row.since, &row.who, &row.place, &what]
                .map(|cell| plain::text(cell).into_owned())
        })
        .collect();
    let mut widths = widths(&rows);
    for (width, name) in widths.iter_mut().zip(HEADER) {
        *width = (*width).max(name.len());
    }
    if let Some(columns) = sheet.width() {
        fit(&mut widths, columns);
    }
    let header = line(HEADER, &widths);
    let header = sheet.styled(anstyle::Style::new().bold(), header.trim_end());
    sheet.line(&header);
    for (row, severity) in rows.iter().zip(overview.iter().map(|row| row.severity)) {
        let line = line(row.iter().map(String::as_str), &widths);
        let (first, others) = line.split_at(row[0].len());
        let first = sheet.styled(style_of(severity), first);
        sheet.line(&format!("{first}{others}"));
    }
}

/// Cuts the last columns down to what a terminal has.
fn fit(widths: &mut [usize; 5], columns: usize) {
    let [severity, since, who, place, what] = widths;
    let left = columns.saturating_sub(*severity + *since + 4 * GAP);
    *who = (*who).min(left / 2).min(MOST);
    let left = left - *who;
    // The kind comes first: the place is in the text below the table too.
    *what = (*what).min((left / 2).max(left.saturating_sub(LEAST)));
    *place = (*place).min(left - *what);
}

fn line<'a>(cells: impl IntoIterator<Item = &'a str>, widths: &[usize; 5]) -> String {
    beside(cells.into_iter().zip(widths).map(|(cell, width)| (cell, *width, Side::Left)))
}
