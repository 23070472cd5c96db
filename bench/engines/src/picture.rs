//! A timeline as an SVG picture: latency of gets and of puts over time on a logarithmic scale, and below it
//! when the engine worked in the background and when the device stood still.

use crate::timeline::{Point, Spread, Timeline, Work};
use std::fmt::Write as _;

const WIDTH: f64 = 1200.0;
const LEFT: f64 = 124.0;
const RIGHT: f64 = 1176.0;
const PANEL_HEIGHT: f64 = 250.0;
const GETS_TOP: f64 = 108.0;
const PUTS_TOP: f64 = GETS_TOP + PANEL_HEIGHT + 40.0;
/// Upper edge of the rows of work and stalls.
const ROWS_TOP: f64 = PUTS_TOP + PANEL_HEIGHT + 26.0;
const ROW_HEIGHT: f64 = 16.0;
const ROW_GAP: f64 = 5.0;
const ROWS: f64 = Work::ALL.len() as f64 + 1.0;
const AXIS_TOP: f64 = ROWS_TOP + ROWS * (ROW_HEIGHT + ROW_GAP);
const HEIGHT: f64 = AXIS_TOP + 48.0;

const MAX_COLOUR: &str = "#9aa5b1";
const P99_COLOUR: &str = "#c2410c";
const P50_COLOUR: &str = "#1d4ed8";
const IDLE_COLOUR: &str = "#15803d";
const BUSY_COLOUR: &str = "#6d28d9";
const STALL_COLOUR: &str = "#e11d48";
const INK: &str = "#1f2933";
const FAINT: &str = "#e4e7eb";

/// The decades of latency that a picture shows: 10 to these powers, in microseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Range {
    low: i32,
    high: i32,
}

/// The decades that hold every latency of some timelines.
pub(crate) fn range(timelines: &[&Timeline]) -> Range {
    let spreads = timelines.iter().flat_map(|timeline| {
        let points = timeline.points.iter();
        points.flat_map(|point| [point.gets, point.puts].into_iter().flatten())
    });
    let (mut low, mut high) = (f64::INFINITY, 0.0_f64);
    for spread in spreads {
        low = low.min(spread.p50_us);
        high = high.max(spread.max_us);
    }
    let decade = |value: f64, round: fn(f64) -> f64| -> i32 {
        let power = round(value.clamp(1.0, 1e9).log10());
        #[expect(clippy::cast_possible_truncation, reason = "a whole number of 0 to 9")]
        let power = power as i32;
        power
    };
    let low = decade(low, f64::floor);
    Range {
        low,
        high: decade(high, f64::ceil).max(low + 1),
    }
}

/// A panel: its name, upper edge, idle and busy latency, and what of a point it shows.
type Panel = (
    &'static str,
    f64,
    [Option<f64>; 2],
    fn(&Point) -> Option<Spread>,
);

/// A row below the panels: its name, its colour, and from when to when it has a bar, in milliseconds.
type Row = (&'static str, &'static str, Vec<(u64, u64)>);

/// A curve: its colour, width, and what of a window it shows.
type Curve = (&'static str, f64, fn(&Spread) -> f64);

/// Places of times and latencies.
#[derive(Clone, Copy)]
struct Scale {
    range: Range,
    end_ms: f64,
    /// Upper edge of the panel.
    top: f64,
}

impl Scale {
    fn x(&self, ms: f64) -> f64 {
        LEFT + (RIGHT - LEFT) * (ms / self.end_ms).clamp(0.0, 1.0)
    }

    fn y(&self, us: f64) -> f64 {
        let Range { low, high } = self.range;
        let share = (us.max(1e-3).log10() - f64::from(low)) / f64::from(high - low);
        self.top + PANEL_HEIGHT * (1.0 - share.clamp(0.0, 1.0))
    }
}

/// The picture.
pub(crate) fn svg(title: &str, timeline: &Timeline, range: Range) -> String {
    let last = timeline.points.last();
    let end_ms = last.map_or(1, |point| point.at_ms + timeline.window_ms);
    let scale = |top| Scale {
        range,
        end_ms: end_ms as f64,
        top,
    };
    let mut text = String::new();
    let _ = write!(
        text,
        r#"<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{HEIGHT}" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="Helvetica, Arial, sans-serif" font-size="13" fill="{INK}">
<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>
<text x="{LEFT}" y="32" font-size="18" font-weight="bold">{}</text>
"#,
        escaped(title)
    );
    legend(&mut text, timeline.window_ms);
    let gets = [timeline.get_idle_p99_us, timeline.get_busy_p99_us];
    let puts = [timeline.put_idle_p99_us, timeline.put_busy_p99_us];
    let panels: [Panel; 2] = [
        ("gets", GETS_TOP, gets, |p| p.gets),
        ("puts", PUTS_TOP, puts, |p| p.puts),
    ];
    let rows = rows(timeline);
    for (name, top, [idle, busy], of) in panels {
        let scale = scale(top);
        shades(&mut text, &rows, scale);
        grid(&mut text, name, scale);
        let points: Vec<_> = timeline
            .points
            .iter()
            .filter_map(|point| {
                let middle_ms = point.at_ms as f64 + timeline.window_ms as f64 / 2.0;
                Some((middle_ms, of(point)?))
            })
            .collect();
        series(&mut text, &points, scale);
        // Their labels stand at different ends, since the lines may be close to each other.
        if let Some(us) = busy {
            level(&mut text, us, BUSY_COLOUR, (LEFT + 6.0, "start"), scale);
        }
        if let Some(us) = idle {
            level(&mut text, us, IDLE_COLOUR, (RIGHT - 6.0, "end"), scale);
        }
    }
    draw_rows(&mut text, &rows, scale(ROWS_TOP));
    time_axis(&mut text, scale(ROWS_TOP));
    text.push_str("</svg>\n");
    text
}

fn colour(work: Work) -> &'static str {
    match work {
        Work::Flush => "#eab308",
        Work::Compaction => "#8b5cf6",
        Work::Collection => "#0891b2",
    }
}

fn name(work: Work) -> &'static str {
    match work {
        Work::Flush => "flush",
        Work::Compaction => "compaction",
        Work::Collection => "collection",
    }
}

fn legend(text: &mut String, window_ms: u64) {
    let mut x = LEFT;
    let lines = [
        ("max", MAX_COLOUR, 1.0, "none"),
        ("p99", P99_COLOUR, 1.6, "none"),
        ("p50", P50_COLOUR, 1.6, "none"),
        ("idle p99", IDLE_COLOUR, 1.6, "7 4"),
        ("busy p99", BUSY_COLOUR, 1.6, "7 4"),
    ];
    for (name, colour, width, dashes) in lines {
        let _ = writeln!(
            text,
            r#"<line x1="{x:.0}" y1="56" x2="{:.0}" y2="56" stroke="{colour}" stroke-width="{}" stroke-dasharray="{dashes}"/><text x="{:.0}" y="60">{name}</text>"#,
            x + 26.0,
            width + 0.8,
            x + 32.0
        );
        x += 58.0 + 7.0 * name.len() as f64;
    }
    let _ = writeln!(
        text,
        r##"<text x="{RIGHT}" y="60" text-anchor="end" fill="#616e7c">windows of {window_ms} ms; operations counted when they were due</text><text x="{LEFT}" y="82" fill="#616e7c">idle: without background work; busy: beside compaction or collection; both without what waited for a device that stood still</text>"##
    );
}

/// What the rows have, behind the curves, faintly.
fn shades(text: &mut String, rows: &[Row], scale: Scale) {
    for row in rows {
        bars(text, row, scale, PANEL_HEIGHT, 0.10);
    }
}

fn bars(text: &mut String, (_, colour, times): &Row, scale: Scale, height: f64, opacity: f64) {
    for (from_ms, to_ms) in times {
        let (from, to) = (scale.x(*from_ms as f64), scale.x(*to_ms as f64));
        let _ = writeln!(
            text,
            r#"<rect x="{from:.1}" y="{:.1}" width="{:.1}" height="{height:.1}" fill="{colour}" fill-opacity="{opacity}"/>"#,
            scale.top,
            (to - from).max(1.0)
        );
    }
}

/// The frame of a panel with its latency axis.
fn grid(text: &mut String, name: &str, scale: Scale) {
    let Range { low, high } = scale.range;
    for power in low..=high {
        let us = 10_f64.powi(power);
        if power < high {
            for step in 2..10 {
                let y = scale.y(us * f64::from(step));
                let _ = writeln!(
                    text,
                    r##"<line x1="{LEFT}" y1="{y:.1}" x2="{RIGHT}" y2="{y:.1}" stroke="#f1f3f5"/>"##
                );
            }
        }
        let y = scale.y(us);
        let _ = writeln!(
            text,
            r#"<line x1="{LEFT}" y1="{y:.1}" x2="{RIGHT}" y2="{y:.1}" stroke="{FAINT}" stroke-width="1.5"/><text x="{:.0}" y="{:.1}" text-anchor="end">{}</text>"#,
            LEFT - 8.0,
            y + 4.5,
            latency(us)
        );
    }
    let middle = scale.top + PANEL_HEIGHT / 2.0;
    let _ = writeln!(
        text,
        r##"<rect x="{LEFT}" y="{:.1}" width="{:.1}" height="{PANEL_HEIGHT}" fill="none" stroke="#7b8794"/><text transform="translate(20 {middle:.0}) rotate(-90)" text-anchor="middle" font-weight="bold">latency of {name}</text>"##,
        scale.top,
        RIGHT - LEFT
    );
}

fn series(text: &mut String, points: &[(f64, Spread)], scale: Scale) {
    let curves: [Curve; 3] = [
        (MAX_COLOUR, 0.9, |spread| spread.max_us),
        (P99_COLOUR, 1.3, |spread| spread.p99_us),
        (P50_COLOUR, 1.3, |spread| spread.p50_us),
    ];
    for (colour, width, of) in curves {
        let _ = write!(
            text,
            r#"<polyline fill="none" stroke="{colour}" stroke-width="{width}" stroke-linejoin="round" points=""#
        );
        for (ms, spread) in points {
            let _ = write!(text, "{:.1},{:.1} ", scale.x(*ms), scale.y(of(spread)));
        }
        text.push_str("\"/>\n");
    }
}

/// A line across a panel, with its latency at a place and anchored there.
fn level(text: &mut String, us: f64, colour: &str, (x, anchor): (f64, &str), scale: Scale) {
    let y = scale.y(us);
    let _ = writeln!(
        text,
        r#"<line x1="{LEFT}" y1="{y:.1}" x2="{RIGHT}" y2="{y:.1}" stroke="{colour}" stroke-width="1.6" stroke-dasharray="7 4"/><text x="{x:.0}" y="{:.1}" text-anchor="{anchor}" fill="{colour}" stroke="white" stroke-width="3" paint-order="stroke">{}</text>"#,
        y - 5.0,
        latency(us)
    );
}

/// A row for each kind of background work, and one for the device.
fn rows(timeline: &Timeline) -> Vec<Row> {
    let mut rows: Vec<Row> = Vec::new();
    for work in Work::ALL {
        let marks = timeline.marks.iter().filter(|mark| mark.work == work);
        let times = marks.map(|mark| (mark.from_ms, mark.to_ms)).collect();
        rows.push((name(work), colour(work), times));
    }
    let stalls = timeline.stalls.iter();
    let times = stalls.map(|stall| (stall.from_ms, stall.to_ms)).collect();
    rows.push(("device stood still", STALL_COLOUR, times));
    rows
}

fn draw_rows(text: &mut String, rows: &[Row], mut scale: Scale) {
    for row in rows {
        let _ = writeln!(
            text,
            r##"<text x="{:.0}" y="{:.1}" text-anchor="end" font-size="12">{}</text><rect x="{LEFT}" y="{:.1}" width="{:.1}" height="{ROW_HEIGHT}" fill="#f5f7fa"/>"##,
            LEFT - 8.0,
            scale.top + ROW_HEIGHT - 4.0,
            row.0,
            scale.top,
            RIGHT - LEFT
        );
        bars(text, row, scale, ROW_HEIGHT, 1.0);
        scale.top += ROW_HEIGHT + ROW_GAP;
    }
}

fn time_axis(text: &mut String, scale: Scale) {
    let seconds = scale.end_ms / 1e3;
    let steps = [
        0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 300.0,
    ];
    let step = steps.into_iter().find(|step| seconds / step <= 15.0);
    let step = step.unwrap_or(seconds / 10.0);
    let mut nth = 0.0;
    while nth * step <= seconds + 1e-9 {
        let at = nth * step;
        let x = scale.x(at * 1e3);
        let label = if step < 1.0 {
            format!("{at:.1}")
        } else {
            format!("{at:.0}")
        };
        let _ = writeln!(
            text,
            r##"<line x1="{x:.1}" y1="{AXIS_TOP}" x2="{x:.1}" y2="{:.1}" stroke="#7b8794"/><text x="{x:.1}" y="{:.1}" text-anchor="middle">{label}</text>"##,
            AXIS_TOP + 5.0,
            AXIS_TOP + 20.0
        );
        nth += 1.0;
    }
    let _ = writeln!(
        text,
        r##"<line x1="{LEFT}" y1="{AXIS_TOP}" x2="{RIGHT}" y2="{AXIS_TOP}" stroke="#7b8794"/><text x="{:.0}" y="{:.0}" text-anchor="middle" font-weight="bold">time, seconds</text>"##,
        f64::midpoint(LEFT, RIGHT),
        AXIS_TOP + 39.0
    );
}

/// A latency with its unit.
fn latency(us: f64) -> String {
    let (value, unit) = match us {
        us if us >= 1e6 => (us / 1e6, "s"),
        us if us >= 1e3 => (us / 1e3, "ms"),
        us => (us, "µs"),
    };
    match value {
        value if value >= 10.0 || value.fract() == 0.0 => format!("{value:.0} {unit}"),
        value => format!("{value:.1} {unit}"),
    }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stall::Stall;
    use crate::timeline::{Mark, Pace};

    fn timeline() -> Timeline {
        let spread = |us: f64| Spread {
            count: 10,
            p50_us: us,
            p99_us: 3.0 * us,
            max_us: 40.0 * us,
        };
        Timeline {
            window_ms: 100,
            points: (0..600)
                .map(|nth| Point {
                    at_ms: nth * 100,
                    pace: Pace::Idle,
                    gets: (nth % 50 != 7).then(|| spread(80.0 + (nth % 90) as f64)),
                    puts: Some(spread(200.0)),
                })
                .collect(),
            marks: vec![Mark {
                work: Work::Compaction,
                from_ms: 4000,
                to_ms: 9000,
            }],
            stalls: [(12_000, 12_300), (30_000, 30_020)]
                .map(|(from_ms, to_ms)| Stall { from_ms, to_ms })
                .to_vec(),
            get_idle_p99_us: Some(250.0),
            put_busy_p99_us: Some(4500.0),
            ..Timeline::default()
        }
    }

    /// Every tag is closed, in order, and attributes are quoted.
    fn check_well_formed(xml: &str) {
        let mut open = Vec::new();
        let mut rest = xml;
        while let Some(start) = rest.find('<') {
            assert!(!rest[..start].contains('>'), "a stray >");
            let end = rest[start..].find('>').expect("a tag ends") + start;
            let tag = &rest[start + 1..end];
            assert!(
                !tag.contains('<') && tag.matches('"').count().is_multiple_of(2),
                "{tag}"
            );
            let name = tag
                .split([' ', '\n', '/'])
                .find(|part| !part.is_empty())
                .unwrap();
            if tag.starts_with('/') {
                assert_eq!(open.pop(), Some(name));
            } else if !tag.ends_with('/') {
                open.push(name);
            }
            rest = &rest[end + 1..];
        }
        assert!(open.is_empty(), "{open:?} is not closed");
    }

    #[test]
    fn a_picture_is_well_formed_and_has_its_parts() {
        let timeline = timeline();
        let range = range(&[&timeline]);
        assert_eq!(range, Range { low: 1, high: 4 });
        let picture = svg("a < b & c", &timeline, range);
        check_well_formed(&picture);
        for part in [
            "a &lt; b &amp; c",
            "latency of gets",
            "time, seconds",
            "10 µs",
            "1 ms",
            "10 ms",
            "250 µs",
            "4.5 ms",
            "device stood still",
        ] {
            assert!(picture.contains(part), "{part} is missing");
        }
        assert_eq!(picture.matches("<polyline").count(), 6);
        let bars = |colour| {
            let fill = format!("fill=\"{colour}\" fill-opacity");
            picture.matches(&fill).count()
        };
        assert_eq!(bars(colour(Work::Compaction)), 3, "two shades and a row");
        assert_eq!(bars(STALL_COLOUR), 6, "two stalls in three places");
        assert_eq!(bars(colour(Work::Flush)), 0);
        let levels = |colour| {
            let label = format!("fill=\"{colour}\" stroke=\"white\"");
            picture.matches(&label).count()
        };
        assert_eq!((levels(IDLE_COLOUR), levels(BUSY_COLOUR)), (1, 1));
        assert!(!picture.contains("NaN"));
    }

    #[test]
    fn an_empty_timeline_gives_a_picture() {
        let timeline = Timeline::default();
        check_well_formed(&svg("nothing", &timeline, range(&[&timeline])));
    }

    #[test]
    fn latencies_have_units() {
        for (us, text) in [
            (10.0, "10 µs"),
            (1234.0, "1.2 ms"),
            (1e6, "1 s"),
            (45_000.0, "45 ms"),
        ] {
            assert_eq!(latency(us), text);
        }
    }
}
