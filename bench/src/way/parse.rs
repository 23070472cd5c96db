//! The text of a trace.

/// One line of a trace.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct TraceEvent {
    /// Microseconds of the trace's clock.
    pub(super) at: f64,
    /// The thread in whose name it happened.
    pub(super) thread: u32,
    pub(super) cpu: u32,
    pub(super) what: Traced,
}

/// What happened.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Traced {
    /// The processor goes from one thread to another.
    Switch { from: u32, to: u32 },
    /// That thread is to run.
    Wake(u32),
    /// A system call begins.
    Call(String),
    /// It ends.
    Return,
    /// The kernel took an entry of a ring.
    Submit(String),
    /// A worker of the kernel does it.
    Worker,
    /// An entry is complete.
    Complete,
    /// What the program wrote into its trace.
    Mark(String),
}

/// The events of a trace, in order of time. Lines that say something else are left out.
pub(super) fn events(text: &str) -> Vec<TraceEvent> {
    let mut events: Vec<_> = text.lines().filter_map(event).collect();
    events.sort_by(|one, other| one.at.total_cmp(&other.at));
    events
}

/// `  core-0-4711    [001] d..2.  1234.567890: sched_waking: comm=...`
fn event(line: &str) -> Option<TraceEvent> {
    let (head, rest) = line.split_once(" [")?;
    let thread = head.rsplit_once('-')?.1.trim().parse().ok()?;
    let (cpu, rest) = rest.split_once(']')?;
    let (flags_and_time, rest) = rest.split_once(": ")?;
    let seconds: f64 = flags_and_time.split_whitespace().last()?.parse().ok()?;
    Some(TraceEvent {
        at: seconds * 1e6,
        thread,
        cpu: cpu.parse().ok()?,
        what: what(rest)?,
    })
}

fn what(text: &str) -> Option<Traced> {
    if let Some(call) = text.strip_prefix("sys_") {
        return match (call.split_once(" -> "), call.split_once('(')) {
            (Some(_), _) => Some(Traced::Return),
            (None, Some((name, _))) => Some(Traced::Call(name.to_owned())),
            (None, None) => None,
        };
    }
    let (kind, rest) = text.split_once(": ")?;
    match kind {
        "sched_switch" => Some(Traced::Switch {
            from: field(rest, "prev_pid=")?.parse().ok()?,
            to: field(rest, "next_pid=")?.parse().ok()?,
        }),
        "sched_waking" => Some(Traced::Wake(field(rest, " pid=")?.parse().ok()?)),
        "io_uring_submit_req" => {
            let opcode = field(rest, "opcode ")?.trim_end_matches(',');
            Some(Traced::Submit(opcode.to_owned()))
        }
        "io_uring_queue_async_work" => Some(Traced::Worker),
        "io_uring_complete" => Some(Traced::Complete),
        "tracing_mark_write" => Some(Traced::Mark(rest.trim().to_owned())),
        _ => None,
    }
}

/// The word behind `name`.
fn field<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    let (_, rest) = text.split_once(name)?;
    rest.split_whitespace().next()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_a_trace_are_read() {
        let table = [
            (
                " core-0-4711  [001] d..2.  12.000001: sched_waking: comm=a b pid=99 prio=120 target_cpu=000",
                Some(Traced::Wake(99)),
            ),
            (
                "<idle>-0  [000] d..2.  12.5: sched_switch: prev_comm=swapper/0 prev_pid=0 prev_prio=120 prev_state=R ==> next_comm=c next_pid=5 next_prio=1",
                Some(Traced::Switch { from: 0, to: 5 }),
            ),
            (
                "x-1  [000] .....  1.0: io_uring_submit_req: ring 0, req 1, user_data 0x2, opcode WRITE, flags 0x0, sq_thread 0",
                Some(Traced::Submit("WRITE".to_owned())),
            ),
            (
                "x-1  [000] .....  1.0: sys_io_uring_enter(fd: 5, to_submit: 1)",
                Some(Traced::Call("io_uring_enter".to_owned())),
            ),
            (
                "x-1  [000] .....  1.0: sys_io_uring_enter -> 0x1",
                Some(Traced::Return),
            ),
            (
                "x-1  [000] .....  1.0: tracing_mark_write: begin",
                Some(Traced::Mark("begin".to_owned())),
            ),
            ("# tracer: nop", None),
            ("x-1  [000] .....  1.0: something_else: of=1", None),
        ];
        for (line, expected) in &table {
            let what = event(line).map(|event| event.what);
            assert_eq!(&what, expected, "{line}");
        }
        let first = event(table[0].0).unwrap();
        assert_eq!((first.thread, first.cpu), (4711, 1));
        assert!((first.at - 12_000_001.0).abs() < 1e-3);
    }
}
