//! What nobody can guess.

use std::io::{Error, Result};

/// So many random bytes, in hexadecimal digits.
pub(crate) fn digits<const BYTES: usize>() -> Result<String> {
    let mut bytes = [0; BYTES];
    getrandom::fill(&mut bytes).map_err(|error| Error::other(error.to_string()))?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}
