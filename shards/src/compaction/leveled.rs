use super::picker::{Debt, Options, Task};
use super::shape::Shape;

pub(super) fn pick(_shape: &Shape, _options: &Options) -> Option<Task> {
    None
}

pub(super) fn debt(_shape: &Shape, _options: &Options) -> Debt {
    Debt::default()
}
