//! Random bytes of the system, for keys, secrets and names that nobody can guess.

use ring::rand::{SecureRandom, SystemRandom};

/// The system gives no random bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the system gives no random bytes")]
pub struct NoRandom;

/// So many random bytes.
///
/// # Errors
///
/// There are none.
pub fn random<const N: usize>() -> Result<[u8; N], NoRandom> {
    let mut bytes = [0; N];
    SystemRandom::new().fill(&mut bytes).map_err(|_| NoRandom)?;
    Ok(bytes)
}

/// So many random bytes in hex digits, two for each.
///
/// # Errors
///
/// There are none.
pub fn random_hex<const N: usize>() -> Result<String, NoRandom> {
    Ok(random::<N>()?.iter().map(|byte| format!("{byte:02x}")).collect())
}
