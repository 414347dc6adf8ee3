//! Text that is kept by the million and mostly short: up to 22 bytes take no memory of their own.

const INLINE_BYTES: usize = 22;

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ShortText(Kept);

#[derive(Clone, PartialEq, Eq, Debug)]
enum Kept {
    Inline {
        length: u8,
        bytes: [u8; INLINE_BYTES],
    },
    Apart(Box<str>),
}

const _: () = assert!(size_of::<ShortText>() <= 24, "a text is short");

impl ShortText {
    pub fn as_str(&self) -> &str {
        match &self.0 {
            Kept::Inline { length, bytes } => core::str::from_utf8(&bytes[..usize::from(*length)])
                .expect("it was made of a whole text"),
            Kept::Apart(text) => text,
        }
    }
}

impl From<&str> for ShortText {
    fn from(text: &str) -> ShortText {
        let mut bytes = [0; INLINE_BYTES];
        match bytes.get_mut(..text.len()) {
            Some(inline) => {
                inline.copy_from_slice(text.as_bytes());
                let length = text.len() as u8;
                ShortText(Kept::Inline { length, bytes })
            }
            None => ShortText(Kept::Apart(text.into())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_of_any_length_comes_back() {
        for length in [0, 1, INLINE_BYTES - 1, INLINE_BYTES, INLINE_BYTES + 1, 300] {
            let text = "x".repeat(length);
            assert_eq!(ShortText::from(&*text).as_str(), text);
        }
        let wide = "\u{fc}".repeat(11);
        assert_eq!(ShortText::from(&*wide).as_str(), wide);
    }
}
