use super::picker::{Debt, Input, Options, Output, Task};
use super::shape::{Shape, Span};
pub(super) fn pick(shape: &Shape, _options: &Options) -> Option<Task> {
    if shape.runs(0).len() < 3 {
        return None;
    }
    let inputs: Vec<Input> = shape
        .ordered_runs()
        .map(|(level, run)| Input {
            level,
            run: run.id,
            tables: run.tables.iter().map(|t| t.id).collect(),
        })
        .collect();
    Some(Task {
        inputs,
        output: Output {
            level: 6,
            run: None,
        },
        span: Span::of(shape.tables())?,
        bottom: true,
        moves: false,
        cuts: vec![],
        bytes: 0,
    })
}
pub(super) fn debt(_shape: &Shape, _options: &Options) -> Debt {
    Debt::default()
}
