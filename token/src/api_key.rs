//! API keys of services: random text of which a gateway is told the hash alone.
//!
//! A key is random and long, so a plain hash is enough: there is nothing to guess (unlike a password).

use ring::digest::{SHA256, digest};

use crate::random::{NoRandom, random};

/// The shortest key that a gateway looks at, in bytes: [`new`] makes one of 43.
pub const MIN_BYTES: usize = 24;

/// Characters of a new key, of 6 random bits each: 258 bits.
const NEW: usize = 43;
/// 64 characters that need no escaping in a header, a shell or a URL, and of which none begins an option.
const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_.";

/// What a gateway knows of a key.
pub type Hash = [u8; 32];

/// A new key.
///
/// # Errors
///
/// The system gives no random bytes.
pub fn new() -> Result<String, NoRandom> {
    let bytes: [u8; NEW] = random()?;
    // 256 is a multiple of 64, so each character is as likely as any other.
    Ok(bytes.iter().map(|byte| char::from(ALPHABET[usize::from(byte % 64)])).collect())
}

/// A key's hash.
pub fn hash(key: &str) -> Hash {
    let mut hash = [0; 32];
    hash.copy_from_slice(digest(&SHA256, key.as_bytes()).as_ref());
    hash
}

/// A key's hash as it stands in a configuration: 64 hex digits.
pub fn hash_in_hex(key: &str) -> String {
    hash(key).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// What [`hash_in_hex`] wrote.
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
        // Of FIPS 180-2, appendix B.1.
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
