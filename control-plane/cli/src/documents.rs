//! The documents that a person hands over: files, directories or standard input.

use std::io::Read;
use std::path::{Path, PathBuf};

use crate::failure::Stop;

/// The largest input that is read, all files together.
const INPUT_LIMIT_BYTES: u64 = 16 << 20;

/// The `-f` flag.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct FileArgs {
    /// YAML or JSON file, directory of such files, or - for standard input; may be given more than once.
    #[arg(short = 'f', long = "file", env = "OUTRIGGER_FILE", value_name = "FILE", required = true, value_delimiter = None)]
    pub(crate) files: Vec<PathBuf>,
}

impl FileArgs {
    /// Reads everything as one stream of YAML documents (JSON is YAML).
    ///
    /// # Errors
    /// What could not be read, and why; nothing is skipped in silence.
    pub(crate) fn read(&self) -> Result<String, Stop> {
        Ok(self.read_with_places()?.text)
    }

    /// The same, with what is needed to say in which file a line is.
    ///
    /// # Errors
    /// As [`FileArgs::read`].
    pub(crate) fn read_with_places(&self) -> Result<Input, Stop> {
        let mut all = Input::default();
        for path in &self.files {
            if path.as_os_str() == "-" {
                all.append(&read_from(std::io::stdin().lock(), "standard input")?, "standard input")?;
            } else if path.is_dir() {
                for file in documents_in(path)? {
                    all.append(&read_file(&file)?, &file.display().to_string())?;
                }
            } else {
                all.append(&read_file(path)?, &path.display().to_string())?;
            }
        }
        if all.text.trim().is_empty() {
            return Err(Stop::failed("there is no document in the input"));
        }
        Ok(all)
    }
}

/// Everything that was read, one after the other.
#[derive(Debug, Default)]
pub(crate) struct Input {
    pub(crate) text: String,
    /// The files, each with the number of lines before it.
    sources: Vec<(usize, String)>,
}

impl Input {
    fn append(&mut self, text: &str, source: &str) -> Result<(), Stop> {
        if (self.text.len() + text.len()) as u64 > INPUT_LIMIT_BYTES {
            return Err(Stop::failed(format!(
                "{source}: more than {} MiB of documents",
                INPUT_LIMIT_BYTES >> 20
            )));
        }
        if !self.text.is_empty() {
            self.text.push_str("\n---\n");
        }
        let lines_before = self.text.matches('\n').count();
        self.sources.push((lines_before, source.to_owned()));
        self.text.push_str(text);
        Ok(())
    }

    /// `FILE:LINE` of a line of the whole text, counted from 1.
    pub(crate) fn place(&self, line: usize) -> Option<String> {
        let (lines_before, source) = self.sources.iter().rfind(|(lines_before, _)| *lines_before < line)?;
        Some(format!("{source}:{}", line - lines_before))
    }
}

/// The documents in a directory, by name, so that two runs send the same.
fn documents_in(directory: &Path) -> Result<Vec<PathBuf>, Stop> {
    let failed = |error| Stop::failed(format!("cannot read the directory {}: {error}", directory.display()));
    let mut files = Vec::new();
    for entry in std::fs::read_dir(directory).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        let extension = path.extension().and_then(|extension| extension.to_str());
        if matches!(extension, Some("yaml" | "yml" | "json")) && path.is_file() {
            files.push(path);
        }
    }
    files.sort();
    if files.is_empty() {
        let text = format!("no .yaml, .yml or .json file in the directory {}", directory.display());
        return Err(Stop::failed(text));
    }
    Ok(files)
}

fn read_file(path: &Path) -> Result<String, Stop> {
    let file = std::fs::File::open(path)
        .map_err(|error| Stop::failed(format!("cannot read {}: {error}", path.display())))?;
    read_from(file, &path.display().to_string())
}

fn read_from(reader: impl Read, source: &str) -> Result<String, Stop> {
    let mut bytes = Vec::new();
    reader
        .take(INPUT_LIMIT_BYTES + 1)
        .read_to_end(&mut bytes)
        .map_err(|error| Stop::failed(format!("cannot read {source}: {error}")))?;
    String::from_utf8(bytes).map_err(|_| Stop::failed(format!("{source} is not UTF-8 text")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(files: &[&Path]) -> Result<String, String> {
        let args = FileArgs { files: files.iter().map(|path| path.to_path_buf()).collect() };
        args.read().map_err(|stop| match stop {
            Stop::Failed(error) => error.to_string(),
            _ => "another kind of end".to_owned(),
        })
    }

    #[test]
    fn a_directory_is_read_by_name_and_other_files_stay_out() {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in [("b.yaml", "b: 1\n"), ("a.json", "{}"), ("c.txt", "no")] {
            std::fs::write(dir.path().join(name), text).unwrap();
        }
        assert_eq!(read(&[dir.path()]).unwrap(), "{}\n---\nb: 1\n");
    }

    #[test]
    fn a_line_is_found_in_its_file() {
        let mut input = Input::default();
        input.append("a: 1\nb: 2\n", "one.yaml").unwrap();
        input.append("c: 3\nd: 4", "two.yaml").unwrap();
        for (line, text) in input.text.lines().enumerate() {
            let place = input.place(line + 1).unwrap();
            match text {
                "a: 1" => assert_eq!(place, "one.yaml:1"),
                "b: 2" => assert_eq!(place, "one.yaml:2"),
                "c: 3" => assert_eq!(place, "two.yaml:1"),
                "d: 4" => assert_eq!(place, "two.yaml:2"),
                _ => {}
            }
        }
        assert_eq!(input.place(0), None);
    }

    #[test]
    fn what_cannot_be_read_is_named() {
        let dir = tempfile::tempdir().unwrap();
        assert!(read(&[dir.path()]).unwrap_err().contains("no .yaml"));
        assert!(read(&[&dir.path().join("gone.yaml")]).unwrap_err().contains("gone.yaml"));
        let binary = dir.path().join("x.yaml");
        std::fs::write(&binary, [0xff, 0xfe]).unwrap();
        assert!(read(&[&binary]).unwrap_err().contains("not UTF-8"));
        std::fs::write(&binary, "  \n").unwrap();
        assert!(read(&[&binary]).unwrap_err().contains("no document"));
    }
}
