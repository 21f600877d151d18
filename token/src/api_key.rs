//! API keys of services: random texts, of which a gateway is configured with the hash only.
//!
//! A plain hash is enough: keys are long and random, so they cannot be guessed as passwords can.

use ring::digest::{SHA256, digest};

use crate::random::{NoRandom, random};

/// The shortest key that a gateway accepts, in bytes. [`new`] makes keys of 43.
pub const MIN_BYTES: usize = 24;

/// Characters of a new key: 43 of 6 random bits each, 258 bits.
const NEW: usize = 43;
/// 64 characters that need no escaping in a header, a shell or a URL. There is no `-`, so no key
/// looks like a command-line option.
const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_.";

/// SHA-256 of a key, which is all that a gateway knows of it.
pub type Hash = [u8; 32];

/// Makes a random key.
///
/// # Errors
///
/// The system provides no random bytes.
pub fn new() -> Result<String, NoRandom> {
    let bytes: [u8; NEW] = random()?;
    // 256 is a multiple of 64, so all characters are equally likely.
    Ok(bytes.iter().map(|byte| char::from(ALPHABET[usize::from(byte % 64)])).collect())
}

/// Hashes a key.
pub fn hash(key: &str) -> Hash {
    let mut hash = [0; 32];
    hash.copy_from_slice(digest(&SHA256, key.as_bytes()).as_ref());
    hash
}

/// Hashes a key into the form that the configuration takes: 64 hex digits.
pub fn hash_in_hex(key: &str) -> String {
    hash(key).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Parses what [`hash_in_hex`] wrote; none if it is not 64 hex digits.
pub fn hash_from_hex(text: &str) -> Option<Hash> {
    if text.len() != 64 || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    let mut hash = [0; 32];
    for (n, byte) in hash.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&text[2 * n..2 * n + 2], 16).ok()?;
    }
    Some(hash)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hash_is_the_sha_256_of_the_key_in_64_digits() {
        // From FIPS 180-2, appendix B.1.
        let abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(hash_in_hex("abc"), abc);
        assert_eq!(hash_from_hex(abc), Some(hash("abc")));
        assert_eq!(hash_from_hex(&abc.to_uppercase()), Some(hash("abc")));
        for odd in [&abc[1..], &format!("+{}", &abc[1..]), "", &"ü".repeat(32)] {
            assert_eq!(hash_from_hex(odd), None, "{odd}");
        }
    }

    #[test]
    fn a_new_key_is_new_and_long_enough() {
        let (one, other) = (new().unwrap(), new().unwrap());
        assert!(one != other && one.len() == NEW && one.len() >= MIN_BYTES);
        assert!(one.bytes().all(|byte| ALPHABET.contains(&byte)), "{one}");
    }
}
