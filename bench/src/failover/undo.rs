//! What a run leaves behind is taken away by a shell that waits for the end of this process, however it ends.

use std::io::{self, Write as _};
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, Stdio};

/// Reads commands, and executes them in reverse order when its input ends.
const SCRIPT: &str =
    "undo=; while IFS= read -r line; do undo=\"$line\n$undo\"; done; eval \"$undo\"";

/// The shell. Dropping it executes its commands.
#[derive(Debug)]
pub(crate) struct Undo {
    shell: Child,
}

impl Undo {
    /// Starts the shell, in a process group of its own, so that Ctrl-C does not reach it.
    ///
    /// # Errors
    /// There is no shell.
    pub(crate) fn start() -> io::Result<Self> {
        let shell = Command::new("sh")
            .args(["-c", SCRIPT])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()?;
        Ok(Self { shell })
    }

    /// Adds a command, one line.
    ///
    /// # Errors
    /// The shell is gone.
    pub(crate) fn later(&mut self, command: &str) -> io::Result<()> {
        assert!(!command.contains('\n'), "{command:?} is one line");
        match &mut self.shell.stdin {
            Some(stdin) => writeln!(stdin, "{command}"),
            None => Err(io::ErrorKind::BrokenPipe.into()),
        }
    }
}

impl Drop for Undo {
    fn drop(&mut self) {
        drop(self.shell.stdin.take());
        // It has nothing else to wait for.
        let _ = self.shell.wait();
    }
}

/// `text` as one word of a shell.
pub(crate) fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', "'\\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_executed_in_reverse_order_at_the_end() {
        let path = std::env::temp_dir().join(format!("undo's test {}", std::process::id()));
        let file = quoted(&path.display().to_string());
        let mut undo = Undo::start().unwrap();
        for word in ["one", "two"] {
            undo.later(&format!("echo {word} >> {file}")).unwrap();
        }
        assert!(!path.exists());
        drop(undo);
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "two\none\n");
        std::fs::remove_file(&path).unwrap();
    }
}
