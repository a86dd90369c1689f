//! Reads every `.mil` text below a folder and says what became of it.
//!
//! ```text
//! cargo run -p anneal-mil --example parse_check -- FOLDER
//! ```
//!
//! Each text that reads is also written and read again; the two programs must be equal. The exit
//! status is 1 when a text fails.

use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use mil::text::{self, ParseOptions, WriteOptions};

fn main() -> ExitCode {
    let Some(folder) = std::env::args().nth(1) else {
        eprintln!("usage: parse_check FOLDER");
        return ExitCode::FAILURE;
    };
    let mut files = Vec::new();
    if let Err(error) = find(Path::new(&folder), &mut files) {
        eprintln!("{folder}: {error}");
        return ExitCode::FAILURE;
    }
    files.sort();
    let mut failed = 0;
    for file in &files {
        match check(file) {
            Ok(statements) => println!("ok    {} ({statements} statements)", file.display()),
            Err(error) => {
                failed += 1;
                println!("error {error}");
            }
        }
    }
    println!("{} of {} texts read", files.len() - failed, files.len());
    // A folder without texts is a wrong folder.
    if failed > 0 || files.is_empty() { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

fn find(folder: &Path, files: &mut Vec<PathBuf>) -> std::io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            find(&path, files)?;
        } else if path.extension().is_some_and(|extension| extension == "mil") {
            files.push(path);
        }
    }
    Ok(())
}

fn check(file: &Path) -> Result<usize, Box<dyn Error>> {
    let program = text::read_file(file)?;
    let written = text::write(&program, &WriteOptions::default())?;
    let options =
        ParseOptions { blobs: Some(&written), element: Some(program.element()), ..ParseOptions::default() };
    if text::parse(&written.text, &options)? != program.expand_all()? {
        return Err(format!("{}: our own text of it reads as another program", file.display()).into());
    }
    Ok(program.stmts().len())
}
