//! The curves of a report as one SVG: a panel for each chart, what grows on a logarithmic axis.

use crate::report::{Curve, Report};
use plotters::coord::Shift;
use plotters::prelude::*;
use std::collections::BTreeSet;

const PANEL: (u32, u32) = (620, 380);
const COLUMNS: usize = 2;
const FONT: &str = "sans-serif";
const COLOURS: [RGBColor; 4] =
    [RGBColor(0, 98, 155), RGBColor(200, 80, 0), RGBColor(0, 130, 90), RGBColor(120, 60, 150)];

/// Draws them; `None` when there are none.
///
/// # Errors
/// They cannot be drawn.
pub fn svg(report: &Report) -> anyhow::Result<Option<String>> {
    let curves: Vec<&Curve> = report.tables.iter().flat_map(|table| &table.curves).collect();
    let charts = in_order(curves.iter().map(|curve| curve.chart));
    if charts.is_empty() {
        return Ok(None);
    }
    let columns = COLUMNS.min(charts.len());
    let rows = charts.len().div_ceil(columns);
    let size = (PANEL.0 * columns as u32, PANEL.1 * rows as u32);
    let mut drawn = String::new();
    {
        let area = SVGBackend::with_string(&mut drawn, size).into_drawing_area();
        area.fill(&WHITE).map_err(undrawable)?;
        for (panel, chart) in area.split_evenly((rows, columns)).iter().zip(charts) {
            let curves: Vec<&Curve> = curves.iter().copied().filter(|curve| curve.chart == chart).collect();
            draw(panel, &curves).map_err(undrawable)?;
        }
        area.present().map_err(undrawable)?;
    }
    Ok(Some(drawn))
}

fn undrawable(error: impl std::fmt::Display) -> anyhow::Error {
    anyhow::anyhow!("the plot cannot be drawn: {error}")
}

/// Each once, where it came first.
fn in_order<'a>(names: impl Iterator<Item = &'a str>) -> Vec<&'a str> {
    let mut seen = BTreeSet::new();
    names.filter(|name| seen.insert(*name)).collect()
}

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;
type Undrawable<'a> = DrawingAreaErrorKind<<SVGBackend<'a> as DrawingBackend>::ErrorType>;

fn draw<'a>(area: &Area<'a>, curves: &[&Curve]) -> Result<(), Undrawable<'a>> {
    let points = || curves.iter().flat_map(|curve| &curve.points);
    let left = points().map(|point| point.0).fold(f64::INFINITY, f64::min).max(1e-3);
    let right = points().map(|point| point.0).fold(left * 1.5, f64::max);
    let goals = curves.iter().filter_map(|curve| curve.goal);
    let top = points().map(|point| point.1.max).chain(goals).fold(0.0, f64::max) * 1.4;
    let (Some(first), top) = (curves.first(), if top > 0.0 { top } else { 1.0 }) else { return Ok(()) };
    let mut chart = ChartBuilder::on(area)
        .caption(first.chart, (FONT, 16))
        .margin(14)
        .x_label_area_size(40)
        .y_label_area_size(56)
        .build_cartesian_2d((left * 0.8..right * 1.25).log_scale(), 0.0..top)?;
    let mesh = &mut chart.configure_mesh();
    mesh.x_desc(first.over)
        .x_label_formatter(&|x| short(*x))
        .y_label_formatter(&|y| short(*y))
        .light_line_style(WHITE)
        .draw()?;
    for (name, colour) in in_order(curves.iter().map(|curve| curve.name)).into_iter().zip(COLOURS.iter().cycle()) {
        let of_name = || curves.iter().filter(|curve| curve.name == name);
        let mut points: Vec<_> = of_name().flat_map(|curve| curve.points.iter().copied()).collect();
        points.sort_by(|a, b| a.0.total_cmp(&b.0));
        let line = LineSeries::new(points.iter().map(|(x, y)| (*x, y.median)), colour.stroke_width(2));
        let sample = |(x, y)| PathElement::new(vec![(x, y), (x + 18, y)], colour.stroke_width(2));
        chart.draw_series(line)?.label(name).legend(sample);
        let bar = |(x, y): &(f64, crate::statistics::Spread)| {
            ErrorBar::new_vertical(*x, y.min, y.median, y.max, colour.filled(), 8)
        };
        chart.draw_series(points.iter().map(bar))?;
        if let Some(goal) = of_name().find_map(|curve| curve.goal) {
            let ends = [(left * 0.8, goal), (right * 1.25, goal)];
            let line = DashedLineSeries::new(ends, 4, 4, colour.stroke_width(1));
            let sample = |(x, y)| PathElement::new(vec![(x, y), (x + 6, y)], colour.stroke_width(1));
            chart.draw_series(line)?.label(format!("{name}: goal")).legend(sample);
        }
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperLeft)
        .background_style(WHITE.mix(0.8))
        .border_style(BLACK.mix(0.3))
        .label_font((FONT, 12))
        .draw()
}

/// A figure for an axis: 1500 as 1.5k.
fn short(figure: f64) -> String {
    let (scaled, unit) = match figure {
        figure if figure >= 1e6 => (figure / 1e6, "M"),
        figure if figure >= 1e3 => (figure / 1e3, "k"),
        figure => (figure, ""),
    };
    let text = format!("{scaled:.2}");
    format!("{}{unit}", text.trim_end_matches('0').trim_end_matches('.'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::Machine;
    use crate::report::Table;
    use crate::statistics::Spread;
    use tendril_broker::baseline::ServerFacts;

    fn report(curves: Vec<Curve>) -> Report {
        let postgres = ServerFacts {
            version: "15".into(),
            fsync: "on".into(),
            synchronous_commit: "on".into(),
            wal_sync_method: "a".into(),
        };
        let machine = Machine { cores: 2, processor: "P".into(), memory_gib: 24, kernel: "L".into(), postgres };
        let (setting, baseline) = (String::new(), String::new());
        let table = Table { row: "a", setting, baseline, rounds: 1, lines: Vec::new(), curves };
        Report { command: "a".into(), measured_at: "now".into(), machine, tables: vec![table] }
    }

    fn curve(chart: &'static str, name: &'static str, x: f64, y: f64) -> Curve {
        let spread = Spread { median: y, min: y, max: y };
        Curve { chart, over: "streams", name, points: vec![(x, spread)], goal: Some(800.0) }
    }

    #[test]
    fn curves_of_one_chart_share_a_panel_and_points_of_one_curve_a_line() {
        let curves = vec![
            curve("latency, ms", "p50", 1.0, 100.0),
            curve("latency, ms", "p50", 1000.0, 200.0),
            curve("latency, ms", "p99", 1.0, 300.0),
            curve("cost, us", "loud", 0.0, 0.0),
        ];
        let drawn = svg(&report(curves)).unwrap().unwrap();
        assert!(drawn.starts_with("<svg") && drawn.trim_end().ends_with("</svg>"));
        for text in ["latency, ms", "cost, us", "p50", "p99", "p99: goal", "streams"] {
            assert!(drawn.contains(text), "{text}");
        }
        assert!(drawn.contains("width=\"1240\" height=\"380\""));
        assert_eq!(drawn.matches("latency, ms").count(), 1);
    }

    #[test]
    fn without_curves_nothing_is_drawn() {
        assert_eq!(svg(&report(Vec::new())).unwrap(), None);
    }

    #[test]
    fn figures_on_axes_are_short() {
        assert_eq!([0.0, 0.5, 20.0, 1500.0, 1e8].map(short), ["0", "0.5", "20", "1.5k", "100M"]);
    }
}
