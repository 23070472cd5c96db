//! How files are described: lines of "what: how much".

use std::fmt::{Display, Write};

/// Lines of "what: how much".
#[derive(Default)]
pub(crate) struct Text {
    text: String,
}

impl Text {
    pub(crate) fn line(&mut self, what: &str, content: impl Display) {
        // Writing to a string cannot fail.
        let _ = writeln!(self.text, "{what}: {content}");
    }

    pub(crate) fn into_string(self) -> String {
        self.text
    }
}
