//! Reads the text of the configuration: of a regular file, bounded.

use std::io::{self, Read as _};
use std::path::Path;

use crate::error::Error;

/// Most bytes of a configuration: as many as of a file of rules.
const MAX_BYTES: u64 = 16 << 20;

/// The text of a regular file: a pipe would keep whoever reads it waiting.
pub(super) fn text_of(path: &Path) -> Result<String, Error> {
    let failed = |cause| Error::Read {
        path: path.to_owned(),
        cause,
    };
    regular(path).map_err(failed)?;
    let mut bytes = Vec::new();
    let mut file = std::fs::File::open(path)
        .map_err(failed)?
        .take(MAX_BYTES + 1);
    file.read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > MAX_BYTES {
        let problem = format!("larger than {MAX_BYTES} bytes; say it in fewer rules");
        return Err(failed(io::Error::other(problem)));
    }
    String::from_utf8(bytes).map_err(|error| {
        let good = error.utf8_error().valid_up_to();
        let before = error.as_bytes().iter().take(good);
        Error::Syntax {
            path: path.to_owned(),
            line: before.filter(|&&byte| byte == b'\n').count() + 1,
            message: "this is not UTF-8; save the file as UTF-8 text".to_owned(),
        }
    })
}

/// Whether this is a file that can be read to its end, more than once.
pub(crate) fn regular(path: &Path) -> io::Result<()> {
    match std::fs::metadata(path)? {
        there if there.is_file() => Ok(()),
        there if there.is_dir() => Err(io::ErrorKind::IsADirectory.into()),
        _ => Err(io::Error::other("not a regular file")),
    }
}
