//! The last hour as plots, drawn by the server as SVG.
//!
//! The lines have coordinates of a fixed size and stretch with their element. Their width does not:
//! the style keeps it. Words and numbers stand beside the SVG, where they do not stretch.

use std::fmt::{self, Write as _};

use super::View;
use crate::{
    engine::text,
    publish::{Line, Ring, SLOT, Trend},
};

/// Size of a plot in its own coordinates, and how many points it has at most.
const PLOT: Size = Size { width: 240.0, height: 44.0, points: 120 };
/// The same of the line in a row of the table.
const SPARKLINE: Size = Size { width: 96.0, height: 18.0, points: 60 };

struct Size {
    width: f32,
    height: f32,
    points: usize,
}

impl Size {
    /// Each line, and the area below it.
    fn write_lines(&self, html: &mut String, lines: &[Line], top: f32) -> fmt::Result {
        for line in lines {
            let path = self.path(line, top);
            if let [first, .., last] = line[..] {
                let [first, last] = [first, last].map(|point| self.place(point, top).0);
                let bottom = self.height;
                write!(
                    html,
                    "<path class=\"area\" d=\"{path}L{last:.1} {bottom}L{first:.1} {bottom}Z\"/>"
                )?;
            }
            write!(html, "<path class=\"line\" d=\"{path}\"/>")?;
        }
        Ok(())
    }

    /// The points as a path; `top` is the value at the upper edge, less half a line.
    fn path(&self, line: &Line, top: f32) -> String {
        let mut path = String::new();
        for (place, point) in line.iter().enumerate() {
            let (x, y) = self.place(*point, top);
            let command = if place == 0 { 'M' } else { 'L' };
            // Writing to a String cannot fail.
            let _ = write!(path, "{command}{x:.1} {y:.1}");
        }
        // A single point would not be drawn.
        if let [point] = line[..] {
            let (x, y) = self.place(point, top);
            let _ = write!(path, "L{:.1} {y:.1}", (x - 1.0).max(0.0));
        }
        path
    }

    fn place(&self, (x, value): (f32, f32), top: f32) -> (f32, f32) {
        let part = if top > 0.0 { value / top } else { 0.0 };
        (x * self.width, self.height - 1.0 - part * (self.height - 2.0))
    }
}

/// The window of all plots: `5 min`, `60 min`.
pub(super) fn window(view: &View<'_>) -> String {
    format!("{} min", view.trends.window(view.wall.now()).as_secs() / 60)
}

/// How many slots the window has.
fn slots(view: &View<'_>) -> usize {
    (view.trends.window(view.wall.now()).as_secs() / SLOT.as_secs()) as usize
}

pub(super) fn write_plots(html: &mut String, view: &View<'_>) -> fmt::Result {
    write!(
        html,
        "<section class=\"plots\"><h2>Last {} <small>now, and the largest value</small></h2>\n<div>\n",
        window(view)
    )?;
    for trend in Trend::ALL {
        write_plot(html, trend, view)?;
    }
    html.write_str("</div></section>\n")
}

fn write_plot(html: &mut String, trend: Trend, view: &View<'_>) -> fmt::Result {
    let ring = view.trends.ring(trend);
    let now = view.wall.now();
    let lines = ring.lines(now, slots(view), PLOT.points);
    let unit = if trend.is_rate() { "/s" } else { "" };
    let title = trend.title();
    write!(html, "<figure><figcaption>{title}")?;
    let Some(largest) = largest(&lines) else {
        return html.write_str("<span>no data</span></figcaption></figure>\n");
    };
    let last = ring
        .last(now)
        .map_or_else(|| "unknown".to_owned(), |last| text::amount(last.into()) + unit);
    let most = text::amount(largest.into()) + unit;
    write!(
        html,
        "<span><b>{last}</b> max {most}</span></figcaption>\
         <svg viewBox=\"0 0 {width} {height}\" preserveAspectRatio=\"none\" role=\"img\" \
         aria-label=\"{title}: {last} now, {most} at most\">",
        width = PLOT.width,
        height = PLOT.height,
    )?;
    PLOT.write_lines(html, &lines, largest)?;
    html.write_str("</svg></figure>\n")
}

/// The line of a finding's main number, in its row.
pub(super) fn write_sparkline(html: &mut String, ring: &Ring, view: &View<'_>) -> fmt::Result {
    let lines = ring.lines(view.wall.now(), slots(view), SPARKLINE.points);
    let Some(largest) = largest(&lines) else { return Ok(()) };
    write!(
        html,
        "<svg class=\"spark\" viewBox=\"0 0 {} {}\" preserveAspectRatio=\"none\" role=\"img\" \
         aria-label=\"at most {}\">",
        SPARKLINE.width,
        SPARKLINE.height,
        text::amount(largest.into()),
    )?;
    SPARKLINE.write_lines(html, &lines, largest)?;
    html.write_str("</svg>")
}

fn largest(lines: &[Line]) -> Option<f32> {
    lines.iter().flatten().map(|point| point.1).max_by(f32::total_cmp)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_goes_from_the_bottom_for_zero_to_the_top_for_the_largest() {
        let line = vec![(0.0, 0.0), (0.5, 10.0), (1.0, 5.0)];
        assert_eq!(PLOT.path(&line, 10.0), "M0.0 43.0L120.0 1.0L240.0 22.0");
        assert_eq!(PLOT.path(&vec![(1.0, 0.0)], 0.0), "M240.0 43.0L239.0 43.0");
    }
}
