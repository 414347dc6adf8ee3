//! Base64 (RFC 4648 section 4, with padding), as the capture file of the sink uses it.

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// Marks a byte that is not in the alphabet in the table of [`decode`].
const INVALID: u8 = 0xff;

const DECODE: [u8; 256] = {
    let mut table = [INVALID; 256];
    let mut index = 0;
    while index < 64 {
        table[ALPHABET[index] as usize] = index as u8;
        index += 1;
    }
    table
};

/// Appends the base64 text of `bytes` to `out`.
pub fn encode_into(bytes: &[u8], out: &mut Vec<u8>) {
    out.reserve(bytes.len().div_ceil(3) * 4);
    let mut chunks = bytes.chunks_exact(3);
    let digit = |group: u32, shift: u32| ALPHABET[(group >> shift) as usize & 63];
    for chunk in &mut chunks {
        let group = u32::from(chunk[0]) << 16 | u32::from(chunk[1]) << 8 | u32::from(chunk[2]);
        out.extend_from_slice(&[
            digit(group, 18),
            digit(group, 12),
            digit(group, 6),
            digit(group, 0),
        ]);
    }
    match *chunks.remainder() {
        [a] => {
            let group = u32::from(a) << 16;
            out.extend_from_slice(&[digit(group, 18), digit(group, 12), b'=', b'=']);
        }
        [a, b] => {
            let group = u32::from(a) << 16 | u32::from(b) << 8;
            out.extend_from_slice(&[digit(group, 18), digit(group, 12), digit(group, 6), b'=']);
        }
        _ => {}
    }
}

/// The bytes that `text` stands for; `None` if it is not exactly what [`encode_into`] writes.
pub fn decode(text: &[u8]) -> Option<Vec<u8>> {
    if !text.len().is_multiple_of(4) {
        return None;
    }
    let padding = text
        .iter()
        .rev()
        .take(2)
        .take_while(|byte| **byte == b'=')
        .count();
    let mut out = Vec::with_capacity(text.len() / 4 * 3);
    for (index, quad) in text.chunks_exact(4).enumerate() {
        let last = (index + 1) * 4 == text.len();
        let used = if last { 4 - padding } else { 4 };
        let mut group = 0_u32;
        for (place, byte) in quad.iter().enumerate() {
            let value = if place < used {
                DECODE[*byte as usize]
            } else {
                0
            };
            if value == INVALID {
                return None;
            }
            group = group << 6 | u32::from(value);
        }
        let bytes = [(group >> 16) as u8, (group >> 8) as u8, group as u8];
        if bytes[used - 1..].iter().any(|byte| *byte != 0) && used < 4 {
            return None;
        }
        out.extend_from_slice(&bytes[..used - 1]);
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encode(bytes: &[u8]) -> String {
        let mut out = Vec::new();
        encode_into(bytes, &mut out);
        String::from_utf8(out).expect("the alphabet is ASCII")
    }

    #[test]
    fn the_vectors_of_the_rfc_hold_both_ways() {
        let vectors = [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foob", "Zm9vYg=="),
            ("fooba", "Zm9vYmE="),
            ("foobar", "Zm9vYmFy"),
        ];
        for (plain, text) in vectors {
            assert_eq!(encode(plain.as_bytes()), text);
            assert_eq!(
                decode(text.as_bytes()).as_deref(),
                Some(plain.as_bytes()),
                "{text}"
            );
        }
    }

    #[test]
    fn every_byte_value_and_length_survives_the_round_trip() {
        let bytes: Vec<u8> = (0..=255).collect();
        for length in 0..bytes.len() {
            let text = encode(&bytes[..length]);
            assert_eq!(decode(text.as_bytes()).as_deref(), Some(&bytes[..length]));
        }
    }

    #[test]
    fn text_that_the_encoder_never_writes_is_refused() {
        for text in [
            "Z", "Zg", "Zg=", "Zg=a", "Z===", "====", "Zm9v Zm9", "Zh==", "Zm9=", "Zg==Zg==",
        ] {
            assert_eq!(decode(text.as_bytes()), None, "{text}");
        }
    }
}
