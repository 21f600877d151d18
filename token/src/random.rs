//! Random bytes from the system, for keys, secrets and names that must not be guessable.

use ring::rand::{SecureRandom, SystemRandom};

/// The system provides no random bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the system gives no random bytes")]
pub struct NoRandom;

/// `N` random bytes.
///
/// # Errors
///
/// The system provides no random bytes.
pub fn random<const N: usize>() -> Result<[u8; N], NoRandom> {
    let mut bytes = [0; N];
    SystemRandom::new().fill(&mut bytes).map_err(|_| NoRandom)?;
    Ok(bytes)
}

/// `N` random bytes as `2 * N` hex digits.
///
/// # Errors
///
/// The system provides no random bytes.
pub fn random_hex<const N: usize>() -> Result<String, NoRandom> {
    Ok(random::<N>()?.iter().map(|byte| format!("{byte:02x}")).collect())
}
