//! Checks histories in files: `cargo run -p corelith-history -- FILE...`.

use corelith_history::{check, lines};
use std::path::Path;
use std::process::ExitCode;

fn main() -> ExitCode {
    let files: Vec<String> = std::env::args().skip(1).collect();
    if files.is_empty() {
        eprintln!("usage: corelith-history FILE...");
        return ExitCode::from(2);
    }
    let mut code = ExitCode::SUCCESS;
    for file in files {
        match lines::load(Path::new(&file)) {
            Ok((origin, history)) => match check(&history) {
                Ok(accepted) => println!(
                    "{file} ({origin}): linearizable, {} observations; the search agrees on {} keys and gave up on {}",
                    accepted.observations, accepted.searched, accepted.undecided
                ),
                Err(refusal) => {
                    println!("{file} ({origin}): {refusal}");
                    code = ExitCode::FAILURE;
                }
            },
            Err(error) => {
                let cause = std::error::Error::source(&error).map(|cause| format!(": {cause}"));
                eprintln!("{file}: {error}{}", cause.unwrap_or_default());
                code = ExitCode::from(2);
            }
        }
    }
    code
}
