//! One operation as a drawing: a lane for each thread, bars while it runs, marks for what it asks of the kernel.

use super::parse::{TraceEvent, Traced};
use super::table::{ThreadLanes, WayFigures, runs};
use super::{OperationSpan, ThreadLane};
use std::fmt::Write as _;

const LEFT: f64 = 210.0;
const WIDTH: f64 = 1400.0;
const TOP: f64 = 70.0;
const LANE: f64 = 46.0;
/// Time that is shown before the operation, and after it, in microseconds.
const BEFORE: f64 = 15.0;
const AFTER: f64 = 120.0;

/// Where a time lies.
struct TimeScale {
    from: f64,
    to: f64,
}

impl TimeScale {
    fn x(&self, at: f64) -> f64 {
        LEFT + (at - self.from) / (self.to - self.from) * (WIDTH - LEFT - 20.0)
    }

    fn has(&self, at: f64) -> bool {
        self.from <= at && at <= self.to
    }
}

/// Draws the operation in `span`.
pub(super) fn svg(
    figures: &WayFigures,
    events: &[TraceEvent],
    span: OperationSpan,
    lanes: &ThreadLanes,
) -> String {
    let scale = TimeScale {
        from: span.begin - BEFORE,
        to: span.end + AFTER,
    };
    let takes_part = |lane: &&ThreadLane| {
        let mut runs = runs(events, lane.thread).into_iter();
        runs.any(|(begin, end)| begin < scale.to && end > scale.from)
    };
    let lanes: Vec<_> = lanes.iter().filter(takes_part).collect();
    let height = TOP + LANE * lanes.len() as f64 + 40.0;
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{height}\" viewBox=\"0 0 {WIDTH} {height}\" font-family=\"Helvetica, Arial, sans-serif\" font-size=\"11\" fill=\"#1f2933\">\n<rect width=\"{WIDTH}\" height=\"{height}\" fill=\"white\"/>\n"
    );
    let _ = writeln!(
        out,
        "<text x=\"20\" y=\"26\" font-size=\"16\" font-weight=\"bold\">One {}: {:.0} us, traced (median {:.0} us)</text>",
        figures.name(),
        span.took(),
        figures.median_us(),
    );
    let _ = writeln!(
        out,
        "<text x=\"20\" y=\"46\">bar: the thread runs; below it: system calls (grey), ring entries (blue), completions (green); red: it wakes another thread</text>"
    );
    ruler(&mut out, &scale, span, height);
    for (row, lane) in lanes.iter().enumerate() {
        let y = TOP + LANE * row as f64;
        let name = lane.name.replace('&', "&amp;").replace('<', "&lt;");
        let _ = writeln!(out, "<text x=\"20\" y=\"{:.0}\">{name}</text>", y + 16.0);
        for (begin, end) in runs(events, lane.thread) {
            if begin < scale.to && end > scale.from {
                let (from, to) = (scale.x(begin.max(scale.from)), scale.x(end.min(scale.to)));
                let _ = writeln!(
                    out,
                    "<rect x=\"{from:.1}\" y=\"{:.0}\" width=\"{:.1}\" height=\"10\" fill=\"#f0b429\"/>",
                    y + 6.0,
                    (to - from).max(0.8),
                );
            }
        }
        let within = events.iter().filter(|event| scale.has(event.at));
        for event in within.filter(|event| event.thread == lane.thread) {
            mark(&mut out, scale.x(event.at), y, &event.what);
        }
    }
    out.push_str("</svg>\n");
    out
}

/// Lines at the begin and the end, and a scale.
fn ruler(out: &mut String, scale: &TimeScale, span: OperationSpan, height: f64) {
    for at in [span.begin, span.end] {
        let x = scale.x(at);
        let _ = writeln!(
            out,
            "<line x1=\"{x:.1}\" y1=\"56\" x2=\"{x:.1}\" y2=\"{:.0}\" stroke=\"#1f2933\" stroke-dasharray=\"4 3\"/>",
            height - 30.0,
        );
    }
    let step = if scale.to - scale.from > 500.0 {
        100.0
    } else {
        20.0
    };
    let mut at = 0.0;
    while span.begin + at <= scale.to {
        let x = scale.x(span.begin + at);
        let _ = writeln!(
            out,
            "<text x=\"{x:.1}\" y=\"{:.0}\" text-anchor=\"middle\">{at:.0}</text>",
            height - 14.0,
        );
        at += step;
    }
}

fn mark(out: &mut String, x: f64, y: f64, what: &Traced) {
    let (colour, from, to, title) = match what {
        Traced::Call(name) => ("#9aa5b1", 17.0, 24.0, name.as_str()),
        Traced::Submit(opcode) => ("#2563eb", 24.0, 32.0, opcode.as_str()),
        Traced::Worker => ("#7c3aed", 24.0, 32.0, "worker"),
        Traced::Complete => ("#15803d", 32.0, 40.0, "completion"),
        Traced::Wake(_) => ("#dc2626", 0.0, 6.0, "wake"),
        Traced::Switch { .. } | Traced::Return | Traced::Mark(_) => return,
    };
    let _ = writeln!(
        out,
        "<line x1=\"{x:.1}\" y1=\"{:.0}\" x2=\"{x:.1}\" y2=\"{:.0}\" stroke=\"{colour}\"><title>{title}</title></line>",
        y + from,
        y + to,
    );
}
