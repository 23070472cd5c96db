//! What the clients of a simulated cluster saw.

use corelith_history::{Observation, lines};

/// The history of one run.
#[derive(Debug, Default)]
pub(super) struct History {
    /// Answered, or of unknown outcome.
    pub(super) operations: Vec<Observation>,
}

impl History {
    /// Checks everything. `name` is that of the run: a history that is refused is kept in a file.
    ///
    /// # Errors
    /// Says what is wrong.
    pub(super) fn check(&self, name: &str) -> Result<(), String> {
        let checked = corelith_history::check(&self.operations);
        let otherwise = checked.is_err().then(std::env::temp_dir);
        let saved = lines::save(name, name, &self.operations, otherwise.as_deref());
        match checked {
            Ok(_) => Ok(()),
            Err(refusal) => Err(format!("{refusal} ({saved:?})")),
        }
    }
}
